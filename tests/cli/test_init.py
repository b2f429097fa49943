"""init begins a migration that check refuses where somebody must decide, and that runs once that is settled."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path

import psycopg
import pytest

from resettle.connections import PATHS, settings_of
from resettle.errors import ConfigError
from resettle.mapping.given import Given, given
from resettle.mapping.load import environments, load
from resettle.mapping.questions import questions
from resettle.mapping.sql import parse_expression
from resettle.mapping.templates import template, templates
from resettle.report.declaration import marks, scalar, write_files
from tests.cli.conftest import Run

OLD = """
CREATE TABLE Customers (
  customerId TEXT PRIMARY KEY, fullName TEXT, emailAddress TEXT, createdAt INTEGER, isActive INTEGER, legacyFlag TEXT);
CREATE TABLE Orders (
  id TEXT PRIMARY KEY, customerId TEXT NOT NULL REFERENCES Customers (customerId), totalCents INTEGER, placedAt TEXT,
  "order" TEXT, payload TEXT);
CREATE TABLE ScratchPad (line TEXT);
INSERT INTO Customers VALUES
  ('c-1', 'Ann', 'ann@example.org', 1735689600000, 1, 'x'), ('c-2', 'Ben', 'ben@example.org', 1735689600001, 0, NULL);
INSERT INTO Orders VALUES
  ('0b0e7c1e-0000-4000-8000-000000000001', 'c-1', 1250, '2025-01-02T03:04:05+01:00', 'first', '{"a": 1.50}'),
  ('0b0e7c1e-0000-4000-8000-000000000002', 'c-2', 900, '2025-01-03T00:00:00Z', NULL, '[]');
"""
NEW_SQLITE = """
CREATE TABLE clients (
  id TEXT PRIMARY KEY, full_name TEXT NOT NULL, email_address TEXT, created_at DATETIME NOT NULL, is_active BOOLEAN,
  tenant TEXT NOT NULL, nickname TEXT);
CREATE TABLE orders (
  id TEXT PRIMARY KEY, customer_id TEXT NOT NULL REFERENCES clients (id), total_cents INTEGER, placed_at TEXT,
  "order" TEXT, payload TEXT);
CREATE TABLE sessions (token TEXT PRIMARY KEY);
"""
NEW_POSTGRES = """
create table clients (
  id uuid primary key default gen_random_uuid(), full_name text not null, email_address text,
  created_at timestamptz not null, is_active boolean not null default true, tenant text not null);
create table orders (
  id uuid primary key, customer_id uuid not null references clients (id), total_cents int, placed_at timestamptz,
  "order" text, payload jsonb);
create table sessions (token text primary key);
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command is run: the old and the new database are there."""
    for name, text in (("old.db", OLD), ("new.db", NEW_SQLITE)):
        with sqlite3.connect(tmp_path / name) as database:
            database.executescript(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(run: Run) -> Run:
    """What the command says on one line each."""

    def on_a_line(*arguments: str) -> tuple[int, str, str]:
        code, out, err = run(*arguments)
        return code, " ".join(out.split()), " ".join(err.split())

    return on_a_line


def settle(folder: Path, **values: str) -> None:
    """Write an expression for each open column and take all marks out, as a person would."""
    path = folder / "migration.yaml"
    text = re.sub(r"\s*# TODO\(resettle\): .*", "", path.read_text("utf-8"))
    for column, value in values.items():
        text, found = re.subn(rf"^(\s+{column}): todo\(.*\)$", rf"\1: {value}", text, flags=re.MULTILINE)
        assert found == 1, column
    path.write_text(text, "utf-8")


def test_a_draft_between_two_sqlite_files_is_refused_at_its_marks_and_then_runs(run: Run, place: Path) -> None:
    code, out, _ = run("init", "moved", "--from", "sqlite:old.db", "--to", "sqlite:path=new.db", "--json")
    assert code == 0
    said = json.loads(out)
    assert [(flow["from"], flow["into"]) for flow in said["flows"]] == [("Customers", "clients"), ("Orders", "orders")]
    text = (place / "moved" / "migration.yaml").read_text("utf-8")
    assert "created_at: instant(createdAt, 'ms')    # TODO(resettle): a number meets a timestamp" in text
    assert "from: old.Customers    # TODO(resettle): paired by likeness" in text
    assert "# not carried over from Customers: legacyFlag" in text
    assert "# left to clients: nickname" in text
    assert "In old, without a partner, so not migrated here: ScratchPad" in text
    assert "In new, without a partner, so not migrated here: sessions" in text
    (opened,) = [mark for mark in said["marks"] if mark["open"]]
    code, out, _ = run("check", "-m", "moved")
    line = opened["place"].split(":")[1]
    column = text.splitlines()[int(line) - 1].index("todo(") + 1
    assert (code, f"moved/migration.yaml:{line}:{column}: " in out) == (2, True)
    assert run("apply", "-m", "moved")[0] == 2
    settle(place / "moved", tenant="{value: main}")
    assert run("check", "-m", "moved")[0] == 0
    assert run("plan", "-m", "moved")[0] == 0
    assert run("apply", "-m", "moved")[0] == 0
    with sqlite3.connect("new.db") as database:
        clients = database.execute("SELECT id, full_name, is_active, tenant FROM clients ORDER BY id").fetchall()
        orders = database.execute(
            'SELECT customer_id, total_cents, "order", payload FROM orders ORDER BY id'
        ).fetchall()
    assert clients == [("c-1", "Ann", 1, "main"), ("c-2", "Ben", 0, "main")]
    assert orders == [("c-1", 1250, "first", '{"a": 1.50}'), ("c-2", 900, None, "[]")]
    assert run("verify", "-m", "moved")[0] == 0


def test_a_draft_into_postgres_makes_new_ids_and_references_and_keeps_the_secret_out(
    run: Run, place: Path, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(NEW_POSTGRES)
    monkeypatch.setenv("SHOP_DB_URL", url)
    code, out, _ = run("init", "moved", "--from", "sqlite:old.db", "--to", "postgres:${SHOP_DB_URL}")
    assert (code, "Set, or put into .env: SHOP_DB_URL" in out) == (0, True)
    assert 'new: {type: postgres, url: "${SHOP_DB_URL}"}' in (place / "moved" / "migration.yaml").read_text()
    assert "SHOP_DB_URL=\n" in (place / "moved" / ".env.example").read_text()
    for file in (place / "moved").iterdir():
        assert url not in file.read_text()
    text = (place / "moved" / "migration.yaml").read_text("utf-8")
    assert "id: {mint: uuid}    # TODO(resettle): " in text
    assert "customer_id: {ref: clients, on: customerId}\n" in text
    code, out, _ = run("check", "-m", "moved")
    at = next(number for number, line in enumerate(text.splitlines(), 1) if "tenant: todo(" in line)
    assert (code, f"moved/migration.yaml:{at}:15: " in out) == (2, True)
    settle(place / "moved", tenant="{value: main}")
    for command in ("check", "plan", "apply", "verify"):
        assert run(command, "-m", "moved")[0] == 0, command
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "select c.full_name, c.is_active, c.created_at::text, o.id::text, o.placed_at::text, o.payload::text"
            " from orders o join clients c on c.id = o.customer_id order by o.id"
        ).fetchall()
    assert [row[:2] for row in rows] == [("Ann", True), ("Ben", False)]
    assert [row[3] for row in rows] == [f"0b0e7c1e-0000-4000-8000-00000000000{n}" for n in (1, 2)]
    assert rows[0][5] == '{"a": 1.50}'
    assert run("apply", "-m", "moved")[0] == 0


def test_looking_writes_to_neither_side(run: Run, place: Path) -> None:
    before = [(place / name).read_bytes() for name in ("old.db", "new.db")]
    assert run("init", "moved", "--from", "sqlite:old.db", "--to", "sqlite:new.db")[0] == 0
    assert [(place / name).read_bytes() for name in ("old.db", "new.db")] == before


@pytest.mark.parametrize(
    "beginning", [["--template", "sqlite-to-sqlite"], ["--from", "sqlite:old.db", "--to", "sqlite:new.db"]]
)
def test_a_migration_that_is_there_is_never_overwritten(run: Run, place: Path, beginning: list[str]) -> None:
    (place / "moved").mkdir()
    (place / "moved" / "migration.yaml").write_text("mine")
    code, _, err = run("init", "moved", *beginning)
    assert (code, "is there already, nothing was written" in err) == (2, True)
    assert [(file.name, file.read_text()) for file in (place / "moved").iterdir()] == [("migration.yaml", "mine")]


def test_a_declaration_that_appeared_meanwhile_stays_too(place: Path) -> None:
    (place / "migration.yaml").write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        write_files(place, {"migration.yaml": "ours", "README.md": "ours"})
    assert (place / "migration.yaml").read_text() == "mine"
    assert not (place / "README.md").exists()


def test_a_readme_that_is_there_stays(run: Run, place: Path) -> None:
    (place / "moved").mkdir()
    (place / "moved" / "README.md").write_text("mine")
    assert run("init", "moved", "--template", "sqlite-to-sqlite")[0] == 0
    assert (place / "moved" / "README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["moved"], "say where, and what to begin with"),
        (["--template", "sqlite-to-sqlite"], "say where, and what to begin with"),
        (["moved", "--from", "sqlite:old.db"], "say where, and what to begin with"),
        (["moved", "--template", "sqlite"], "json-lists-to-tables"),
        (["moved", "--from", "sqlit:old.db", "--to", "sqlite:new.db"], "did you mean `sqlite`?"),
        (["moved", "--from", "sqlite:none.db", "--to", "sqlite:new.db"], "none.db"),
        (["moved", "--from", "sqlite:pth=old.db", "--to", "sqlite:new.db"], "did you mean `path`?"),
        (["moved", "--from", "sqlite:old.db", "--to", "postgres:${NOT_SET_HERE}"], "`NOT_SET_HERE` is not set"),
        (["moved", "--from", "sqlite:old.db", "--to", "files:."], "can only be read, it cannot be a target"),
        (["moved", "--from", "sqlite:old.db", "--to", "sqlite:new.db", "--pair", "Orders"], "expected SOURCE=TARGET"),
        (
            ["moved", "--from", "sqlite:old.db", "--to", "sqlite:new.db", "--pair", "Orders=order"],
            "did you mean `orders`?",
        ),
    ],
)
def test_what_makes_no_sense_ends_with_2_and_writes_nothing(
    run: Run, place: Path, arguments: list[str], said: str
) -> None:
    code, _, err = run("init", *arguments)
    assert code == 2
    assert said in err
    assert "migration.yaml:1:1" not in err
    assert not (place / "moved").exists()


def test_list_names_the_templates_with_a_line_each(run: Run) -> None:
    code, out, _ = run("init", "--list")
    assert code == 0
    assert len(templates()) >= 3
    for name, line in templates().items():
        assert f"{name} {line}" in out
        assert len(line) > 20


@pytest.mark.parametrize("name", templates())
def test_a_template_loads_in_every_environment_and_its_expressions_parse(
    run: Run, place: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("init", "moved", "--template", name)[0] == 0
    example = (place / "moved" / ".env.example").read_text("utf-8")
    asked = {one: _asked(place / "moved", one) for one in environments(place / "moved") or [None]}
    for environment, names in asked.items():
        if environment != "local" or len(asked) == 1:
            assert names <= set(re.findall(r"^(\w+)=", example, re.MULTILINE))
    for environment, names in asked.items():
        given = dict.fromkeys(names, "filled") | ({"LANGUAGES": "migration.yaml"} if "LANGUAGES" in names else {})
        migration = load(place / "moved", environment, given)
        assert migration.name == "moved"
    for flow in migration.file.flows.values():
        for output in flow.all_outputs.values():
            assert isinstance(output.columns, dict)
            for form in output.columns.values():
                assert not isinstance(form, str) or parse_expression(form)
    assert (place / "moved" / "README.md").is_file()


def _asked(folder: Path, environment: str | None) -> set[str]:
    """What has no default."""
    found = questions(folder, environment, lambda kind: settings_of(kind, kind))
    return {one.name for one in found if one.default is None}


def test_the_template_of_lists_runs_with_the_tables_and_records_of_its_readme(run: Run, place: Path) -> None:
    assert run("init", "moved", "--template", "json-lists-to-tables")[0] == 0
    readme = (place / "moved" / "README.md").read_text("utf-8")
    tables, records = (re.search(rf"```{kind}\n(.*?)```", readme, re.DOTALL) for kind in ("sql", "json"))
    assert tables
    assert records
    (place / "moved" / ".env").write_text("DUMP=.\nAPP_DB=app.sqlite\n")
    (place / "moved" / "recipes.jsonl").write_text(records[1])
    with sqlite3.connect(place / "moved" / "app.sqlite") as database:
        database.executescript(tables[1])
    for command in ("check", "apply", "verify"):
        assert run(command, "-m", "moved")[0] == 0, command
    with sqlite3.connect(place / "moved" / "app.sqlite") as database:
        counts = [
            database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("authors", "recipes", "recipe_ingredients", "recipe_tags")
        ]
    assert counts == [1, 2, 3, 2]


def test_a_template_takes_the_migrations_name_and_nothing_else() -> None:
    text = template("sqlite-to-sqlite", "shop")["migration.yaml"]
    assert text.startswith("migration: shop\n")
    assert text.partition("\n")[2] == template("sqlite-to-sqlite", "other")["migration.yaml"].partition("\n")[2]


SECRET = "postgresql://me:hush@db.example.org:5432/shop?sslmode=require"


def read(text: str, environment: Mapping[str, str], root: Path = Path("/place/moved")) -> Given:
    return given("new", text, settings_of(text.partition(":")[0], "new"), root, PATHS, environment)


@pytest.mark.parametrize(
    ("text", "environment", "written"),
    [
        (f"postgres:{SECRET}", {}, "${NEW_URL}"),
        (f"postgres:url={SECRET},schema=app", {}, "${NEW_URL}"),
        (f"postgres:{SECRET}", {"SHOP_URL": SECRET, "OTHER": "x"}, "${SHOP_URL}"),
        ("postgres:host=db.example.org user=me password=hush", {}, "${NEW_URL}"),
    ],
)
def test_a_secret_is_written_as_a_variable(text: str, environment: Mapping[str, str], written: str) -> None:
    made = read(text, environment)
    assert made.written["url"] == written
    assert "hush" in made.values["url"]
    assert "hush" not in str(made.written)
    assert made.variables == (written[2:-1],)


def test_a_variable_is_kept_but_not_a_password_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "hush")
    made = read("postgres:postgresql://me:${DB_PASSWORD}@db/shop", {})
    assert made.written["url"] == "postgresql://me:${DB_PASSWORD}@db/shop"
    assert (made.values["url"], made.variables) == ("postgresql://me:hush@db/shop", ("DB_PASSWORD",))
    assert read("postgres:postgresql://me:hush@${DB_PASSWORD}/shop", {}).written["url"] == "${NEW_URL}"


def test_settings_are_pairs_or_the_main_one_alone() -> None:
    assert read("dynamodb:eu-central-1", {}).written == {"type": "dynamodb", "region": "eu-central-1"}
    assert read("dynamodb:s3://bucket/prefix", {}).written["export"] == "s3://bucket/prefix"
    assert read("dynamodb:", {}).written == {"type": "dynamodb"}
    assert read("dynamodb:region=eu-central-1,secret_access_key=abc", {}).written == {
        "type": "dynamodb",
        "region": "eu-central-1",
        "secret_access_key": "${NEW_SECRET_ACCESS_KEY}",
    }
    with pytest.raises(ConfigError, match="say which"):
        read("memory:x", {})


def test_a_relative_path_is_written_as_seen_from_the_migration(place: Path) -> None:
    made = read("sqlite:old.db", {}, place.resolve() / "deep" / "moved")
    assert made.written["path"] == "../../old.db"
    assert made.values["path"] == str(place.resolve() / "old.db")
    assert read("sqlite:/srv/old.db", {}).written["path"] == "/srv/old.db"


@pytest.mark.parametrize(
    "text", ["plain", "no", '"order"', 'it\'s "both"', "a: b", "x # y", "${X}", ".5", "", " x", "1", "ü"]
)
def test_a_text_in_a_draft_is_read_back_as_it_was(text: str) -> None:
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe")
    assert yaml.load(f"a: {scalar(text)}")["a"] == text
    assert yaml.load(f"a: {{b: {scalar(text + ', }', inside=True)}}}")["a"]["b"] == text + ", }"


def test_marks_are_found_where_they_are_written() -> None:
    text = "a: x\nb: todo('y')    # TODO(resettle): why not\nc: z    # TODO(resettle): look\n"
    assert [(mark.line, mark.column, mark.why, mark.open) for mark in marks(text)] == [
        (2, 17, "why not", True),
        (3, 9, "look", False),
    ]
