"""Names and keys may hold anything: they arrive as they are, are shown harmless, and lead nowhere."""

from __future__ import annotations

import gzip
import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from psycopg import sql
from rich.console import Console

from resettle.batch import Action
from resettle.connectors._dynamodb_export import Bucket
from resettle.connectors._dynamodb_export import Folder as ExportFolder
from resettle.connectors.appsync import AppSync, AppSyncSettings
from resettle.engine.export import export
from resettle.engine.flow import Options
from resettle.report.terminal import Terminal, escape, visible
from resettle.sandbox.appsync import start_appsync
from tests.security.conftest import Folder

Make = Callable[..., Folder]
HOSTILE = (
    "'quote\";--",
    "Robert'); DROP TABLE people;--",
    "\x1b[2J\x1b[31mred",
    "\x1b]0;title\x07\x1b]8;;http://evil.example\x1b\\link",
    "\x9b31m\x85c1",
    "line\nVerified: everything arrived.\r\ttab",
    "\u202eright to left\u2066\u200b\ufeff",
    "${HOME}{{x}}%(name)s%s{0}",
    "<script>alert(1)</script>&amp;",
    "[bold red]markup[/] [link=http://evil.example]x[/link] :warning:",
    "../../etc/x",
    "/etc/passwd",
    "C:\\windows\\*?|<>",
    "\ud83d\ude00 \u0130\u0131 \U000e0041",
    "a\x00b",
    "-rf --execute",
    "=cmd|' /C calc'!A0",
    "\\\\x1b\\ [/]",
)
ODD = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"
)
"""What no terminal may get from us, written down a second time."""


def plain(text: str) -> str:
    """As a JSON line gives it back: pairs of surrogates become one character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16")


NAMES = [plain(text) for text in HOSTILE]
STORABLE = [text for text in NAMES if "\x00" not in text]


@pytest.mark.parametrize("text", NAMES)
def test_a_terminal_gets_no_control_character_of_a_name(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    console = Terminal()
    console.print(f"[bold]{escape(text)}[/] after", highlight=False)
    console.print(Console().render_str(text, markup=False), markup=False)
    shown = capsys.readouterr().out
    assert not ODD.search(shown)
    first = shown.splitlines()[0]
    assert first.endswith(" after")
    assert first.removesuffix(" after") == visible(text).replace("\n", "\\n").replace("\t", "\\t")


@pytest.fixture(params=["sqlite", "postgres"])
def app(request: pytest.FixtureRequest, make: Make, monkeypatch: pytest.MonkeyPatch) -> tuple[Folder, Any]:
    """A migration whose keys, columns and tables all have hostile names; and how to look into its target."""
    table, column, name = "peo\"ple'; --", 'na"me %s ${HOME}', "src \x1b[31m \"col'; --"
    declared = {
        "migration": "shut",
        "connections": {"src": {"type": "files", "path": "data"}, "app": {"type": "sqlite", "path": "app.sqlite"}},
        "flows": {
            "people": {
                "from": "src.peo'ple; --",
                "unit": "id",
                "into": f"app.{table}",
                "columns": {"id": "id", column: '"' + name.replace('"', '""') + '"'},
            }
        },
    }
    text = json.dumps(declared)
    quoted = [one.replace('"', '""') for one in (table, column)]
    create = f'CREATE TABLE "{quoted[0]}" (id text PRIMARY KEY, "{quoted[1]}" text NOT NULL)'
    records = [{"id": one, name: one} for one in NAMES] + [{"id": f"held {one}", name: None} for one in NAMES]
    if request.param == "postgres":
        url = request.getfixturevalue("new_database")()
        monkeypatch.setenv("URL", url)
        text = text.replace('"type": "sqlite", "path": "app.sqlite"', '"type": "postgres", "url": "${URL}"')
        with psycopg.connect(url) as connection:
            connection.execute(create.encode())
        folder = make(text, "")

        def rows() -> list[tuple[Any, ...]]:
            with psycopg.connect(url) as connection:
                return connection.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(table))).fetchall()
    else:
        folder = make(text, create)

        def rows() -> list[tuple[Any, ...]]:
            return folder.rows(f'SELECT * FROM "{quoted[0]}"')

    folder.records(records, "peo'ple; --")
    return folder, rows


def test_hostile_keys_columns_and_tables_arrive_as_they_are_and_are_shown_harmless(
    app: tuple[Folder, Callable[[], list[tuple[Any, ...]]]],
) -> None:
    folder, rows = app
    folder.run("check")
    folder.run("profile")
    folder.run("plan", "--samples", "100", "--show-values")
    assert folder.run("apply").code == 3
    assert set(rows()) >= {(one, one) for one in STORABLE}
    listed = json.loads(folder.run("held", "list", "--json").out)["held"]
    keys = {one["unit"] for one in listed}
    assert {f"held {one}" for one in STORABLE} <= keys
    folder.run("held", "list")
    for one in STORABLE:
        assert folder.run("held", "show", f"held {one}", "--show-values").code == 0
        found = json.loads(folder.run("trace", "--json", "--", one).out)["found"]
        assert found
    folder.run("trace", "--", STORABLE[2])
    folder.run("trace", "--", "\x1b[31mnothing")
    folder.run("held", "show", "\x1b[31mnothing")
    folder.run("verify", "--show-values", "--spots", "50")
    folder.run("status", "--drift")
    folder.run("rollback", "1")
    folder.run("rollback", "1", "--execute")
    assert rows() == []
    for said in folder.said:
        assert not ODD.search(said.text), ascii(said.text)
        assert "Verified: everything arrived." not in said.out.splitlines()


def test_the_next_command_that_is_proposed_is_safe_to_paste(make: Make) -> None:
    unit = "x; rm -rf $HOME `id`"
    folder = make(records=[{"id": unit, "name": None, "age": 1}])
    folder.run("apply")
    assert "resettle held replay 'x; rm -rf $HOME `id`'" in folder.run("held", "show", unit).out


def test_a_held_export_keeps_keys_and_a_terminal_sees_them_harmless(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = "\x1b[31mred"
    folder = make(records=[{"id": unit, "name": None, "age": 1}])
    folder.run("apply")
    assert unit in folder.run("held", "export", "-").out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    said = folder.run("held", "export", "-").out
    assert (ODD.search(said), "\\x1b[31mred" in said) == (None, True)


@pytest.mark.parametrize("name", [*STORABLE, "a\x00b", ".", "..", "", "x" * 300, "\u00fc" * 200])
def test_an_export_stays_in_its_folder_whatever_a_dataset_is_called(name: str, tmp_path: Path, make: Make) -> None:
    from resettle.connectors.memory import Memory, MemorySettings

    tables = {name: {"columns": [{"name": "id", "kind": "text"}], "key": ["id"], "rows": [{"id": "1"}]}}
    source = Memory("src", MemorySettings.model_validate({"datasets": tables}))
    made = export(source, name, tmp_path / "kept", Options())
    assert [*(tmp_path / "kept").iterdir()] == [made.path]
    assert not ODD.search(made.path.name)
    assert json.loads(gzip.decompress(made.path.read_bytes())) == {"id": "1"}


def test_two_datasets_whose_names_fit_no_file_have_files_of_their_own(tmp_path: Path) -> None:
    from resettle.engine.export import _stem

    assert len({_stem(name) for name in ("a/b", "a_b", "a\nb", "a\x1bb")}) == 4


@pytest.mark.parametrize("key", ["../secret", "data/../../secret", "/etc/passwd", "data/../../../etc/passwd"])
def test_a_manifest_leads_to_no_file_outside_its_export(key: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "export" / "data").mkdir(parents=True)
    assert ExportFolder(tmp_path / "export").path(key) is None
    asked: list[str] = []

    class S3:
        def get_object(self, **given: Any) -> Any:
            asked.append(given["Key"])
            raise AssertionError

    bucket = Bucket(S3(), lambda call, *given, **named: call(*given, **named), "b", "p")
    assert bucket.path(key) is None
    assert asked == []
    bucket.close()


def test_a_link_inside_of_an_export_leads_out_of_it_nowhere(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "data").symlink_to(tmp_path / "secret")
    assert ExportFolder(tmp_path / "export").path("data") is None


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "people/../../secret", "\x1b[31m"])
@pytest.mark.parametrize("command", ["profile", "plan"])
def test_a_dataset_of_files_is_never_a_path(name: str, command: str, make: Make, tmp_path: Path) -> None:
    (tmp_path / "secret.jsonl").write_text('{"id": "zq"}\n')
    folder = make(records=[])
    if command == "profile":
        said = folder.run("profile", f"src.{name}")
    else:
        folder.declare(json.dumps(name).join((folder.root / "migration.yaml").read_text().split("src.people")))
        said = folder.run("plan")
    assert (said.code, ODD.search(said.text)) == (2, None)


@pytest.mark.parametrize("text", ["../outside.sql", "/etc/passwd.sql", "link.sql"])
def test_a_file_of_sql_lies_in_the_migrations_folder(text: str, make: Make, tmp_path: Path) -> None:
    (tmp_path / "outside.sql").write_text("select * from source")
    folder = make(records=[])
    (folder.root / "link.sql").symlink_to(tmp_path / "outside.sql")
    folder.declare((folder.root / "migration.yaml").read_text() + f"    rows: {text}\n")
    assert folder.run("plan").code == 2


SCHEMA = "type Thing @model { id: ID! name: String payload: AWSJSON }"


def test_a_text_is_a_value_to_graphql_and_never_a_part_of_a_request() -> None:
    texts = [*STORABLE, '"} } mutation { deleteThing(input: {id: "a"}) { id } } #', "$a0: \\u0022"]
    documents = [json.dumps({text: text}) for text in texts]
    with start_appsync(SCHEMA) as api:
        target = AppSync("api", AppSyncSettings(**api.settings()))
        rows = pa.table({"id": texts, "name": texts, "payload": documents})
        target.write("Thing", rows, ["id"], Action.CREATE)
        found = target.fetch("Thing", rows.select(["id"]), ["name", "payload"]).to_pylist()
        there = {one["id"]: (one["name"], json.loads(one["payload"])) for one in found}
        assert there == {text: (text, {text: text}) for text in texts}
        target.close()


def test_a_hostile_database_file_runs_nothing(tmp_path: Path, make: Make) -> None:
    """Its views and triggers are SQL of others: they too reach no file."""
    folder = make(records=[{"id": "a", "name": "Ann", "age": 1}])
    with closing(sqlite3.connect(folder.root / "app.sqlite")) as database, database:
        database.execute("CREATE VIEW evil AS SELECT load_extension('/tmp/x') AS a")
    assert folder.run("apply").code == 0
    assert folder.run("verify").code == 0


@pytest.mark.parametrize("what", ["unit", "reference", "match", "column", "lookup"])
def test_a_zero_character_holds_its_own_record_alone(
    what: str, make: Make, monkeypatch: pytest.MonkeyPatch, new_database: Callable[[], str]
) -> None:
    """Postgres stores none, so none may reach it: not as a key that is asked for, not in the ledger."""
    url = new_database()
    monkeypatch.setenv("URL", url)
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE people (id text PRIMARY KEY, name text NOT NULL UNIQUE, friend text)")
    mode = "match: name\n" if what == "match" else ""
    column = {"reference": "{ref: friends, on: friend}", "lookup": "{lookup: known, on: friend}"}.get(what, "friend")
    folder = make(
        f"""
migration: shut
connections:
  src: {{type: files, path: data}}
  app: {{type: postgres, url: "${{URL}}"}}
lookups: {{known: {{from: app.people, key: name, value: id}}}}
flows:
  friends: {{from: src.friends, unit: id, into: app.people, columns: {{id: id, name: name}}}}
  people:
    from: src.people
    unit: {"id" if what == "unit" else "number"}
    into: app.people
    {mode}
    columns: {{id: number, name: name, friend: {column}}}
"""
    )
    zero = "f\x00"
    bad = {"number": "2", "id": "2", "name": "Ben", "friend": "f"}
    bad |= {"unit": {"id": zero}, "match": {"name": zero}}.get(what, {"friend": zero})
    folder.records([{"id": "f", "name": "f"}], "friends")
    folder.records([{"number": "1", "id": "1", "name": "Ann", "friend": "f"}, bad])
    for command in ("plan", "apply"):
        said = folder.run(command)
        assert said.code == (3 if command == "apply" else 0), said.text
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT id FROM people ORDER BY id").fetchall() == [("1",), ("f",)]
    assert folder.run("verify").code == 0
