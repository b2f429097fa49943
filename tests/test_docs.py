"""The documents say what the program does, all of it, and what they name exists.

`python -m tests.test_docs` writes the parts that are made by the program: the commands' tables and the JSON Schema.
"""

from __future__ import annotations

import ast
import inspect
import io
import json
import re
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
import typer
from pydantic import BaseModel

from resettle import errors
from resettle.calls import Caller
from resettle.cli import EXIT_CODES, app, main
from resettle.connections import CONNECTORS
from resettle.connectors import appsync, google_drive, s3, sqlite
from resettle.engine import bodies, decision
from resettle.engine.undoing import undo, verdict
from resettle.ledger import postgres as ledger_tables
from resettle.mapping import functions, model
from resettle.mapping.load import load
from resettle.mapping.schema import json_schema
from resettle.sandbox.s3 import start_s3
from tests.contract import test_source
from tests.contract.cases import SourceCase

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src" / "resettle"
GUIDE = ROOT / "docs" / "writing-a-migration.md"
CONNECTOR_GUIDE = ROOT / "docs" / "writing-a-connector.md"
GUARANTEES = ROOT / "docs" / "guarantees.md"
SCHEMA = ROOT / "docs" / "migration.schema.json"
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "migrations").glob("*/*.md")]
)
VARIABLES = {"SUPABASE_DB_URL": "postgresql://localhost/none", "SHOP_DB": "shop.sqlite"}
"""What a migration in the documents needs to load."""


# -- what is made by the program --------------------------------------------------------------------------


def _commands(group: Any, name: str = "resettle") -> Iterator[tuple[str, Any]]:
    """Every command with its full name, by walking the program itself."""
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command


def all_commands() -> list[tuple[str, Any]]:
    return list(_commands(typer.main.get_command(app)))


def _kind(option: Any) -> str:
    if option.is_flag:
        return ""
    return {int: " N", Path: " PATH"}.get(option.type_descriptor.annotation, " TEXT")


def commands_text() -> str:
    """The commands and their options as tables, made from the program."""
    lines: list[str] = []
    for name, command in all_commands():
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        words = [p.name.upper() + (" ..." if p.nargs == -1 else "") for p in arguments]
        shown = [word if p.required else f"[{word}]" for word, p in zip(words, arguments, strict=True)]
        lines += [f"### {' '.join([name, *shown])}", "", (command.help or "").strip(), ""]
        rows = [(f"`{word}`", p.help or "") for word, p in zip(words, arguments, strict=True)]
        for option in command.params:
            if option.param_type_name != "option" or option.name == "help":
                continue
            default = option.default
            note = f" Default: {default}." if isinstance(default, int) and not isinstance(default, bool) else ""
            names = ", ".join(f"`{one}{_kind(option) if one.startswith('--') else ''}`" for one in option.opts)
            rows.append((names, (option.help or "") + note))
        if rows:
            lines += ["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows), ""]
    return "\n".join(lines).strip() + "\n"


def schema_text() -> str:
    return json.dumps(json_schema(), indent=2) + "\n"


def between(text: str, name: str) -> str:
    """What stands between two comments of a page."""
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.DOTALL)
    assert found, f"the page has no part called {name}"
    return found[1]


def write() -> None:
    """Write the made parts anew."""
    text = GUIDE.read_text("utf-8")
    made = f"<!-- commands -->\n{commands_text()}<!-- /commands -->"
    GUIDE.write_text(
        re.sub(r"<!-- commands -->\n.*?<!-- /commands -->", lambda _: made, text, flags=re.DOTALL), "utf-8"
    )
    SCHEMA.write_text(schema_text(), "utf-8")


def test_every_command_and_option_is_in_the_guide_as_it_is() -> None:
    assert between(GUIDE.read_text("utf-8"), "commands") == commands_text(), "run: python -m tests.test_docs"


def test_every_command_is_in_the_readmes_table() -> None:
    table = (ROOT / "README.md").read_text("utf-8").partition("## Commands")[2].partition("## Exit codes")[0]
    for name, _ in all_commands():
        first, _, second = name.removeprefix("resettle ").partition(" ")
        assert f"`resettle {first}" in table, name
        assert not second or f" {second}`" in table or f"`{second}`" in table, name


def test_the_json_schema_is_current() -> None:
    assert SCHEMA.read_text("utf-8") == schema_text(), "run: python -m tests.test_docs"


# -- what the guide must hold ------------------------------------------------------------------------------


def _models() -> list[type[BaseModel]]:
    return [one for one in vars(model).values() if isinstance(one, type) and issubclass(one, model.Part)][1:]


@pytest.mark.parametrize("part", _models(), ids=lambda part: part.__name__)
def test_every_key_of_the_declaration_is_in_the_guide(part: type[BaseModel]) -> None:
    guide = GUIDE.read_text("utf-8")
    for name, field in part.model_fields.items():
        key = field.alias or name
        assert re.search(rf"`(?:[a-z_.]+\.)?{key}[`:]|\b{key}:", guide), f"{part.__name__}: {key}"


def test_every_form_of_a_column_is_in_the_guide() -> None:
    forms = GUIDE.read_text("utf-8").partition("## Columns")[2].partition("### How values")[0]
    for part in (model.Value, model.Lookup, model.Ref, model.Mint, model.Moment, model.Edit):
        for name, field in part.model_fields.items():
            assert f"{field.alias or name}:" in forms


@pytest.mark.parametrize("kind", CONNECTORS)
def test_every_connector_and_its_settings_are_in_the_guide(kind: str) -> None:
    row = re.search(rf"^\| `{kind}` \|.*$", GUIDE.read_text("utf-8"), re.MULTILINE)
    assert row, kind
    module, _, settings = CONNECTORS[kind]
    fields = getattr(__import__(module, fromlist=[settings]), settings).model_fields
    for name, field in fields.items():
        assert f"`{field.alias or name}`" in row[0], name


def test_every_function_of_ours_is_in_the_guide() -> None:
    table = GUIDE.read_text("utf-8").partition("## Our functions")[2].partition("## Your own functions")[0]
    installed = functions.connect().execute("SELECT DISTINCT function_name FROM duckdb_functions() WHERE NOT internal")
    ours = {name for (name,) in installed.fetchall() if not name.startswith("_")}
    assert "instant" in ours
    for name in ours:
        assert f"`{name}(" in table, name


def test_every_public_error_is_in_the_connector_guide() -> None:
    guide = CONNECTOR_GUIDE.read_text("utf-8")
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, errors.ResettleError):
            assert f"`{name}`" in guide, name


def _exit_codes() -> set[int]:
    """0, those of the errors, and the numbers that the program's own `exit_code` properties give."""
    codes = {0} | {value.exit_code for value in vars(errors).values() if hasattr(value, "exit_code")}
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name == "exit_code":
                codes |= {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, int)}
    return codes


def test_every_exit_code_is_in_the_readme_and_in_the_help() -> None:
    table = (ROOT / "README.md").read_text("utf-8").partition("## Exit codes")[2].partition("## The ledger")[0]
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    assert listed == _exit_codes()
    assert {
        int(code) for code in re.findall(r"(?:^|· )\s*(\d+) ", EXIT_CODES.partition(":")[2], re.MULTILINE)
    } == listed


# -- hold reasons ------------------------------------------------------------------------------------------

_REASON = re.compile(r"[a-z][a-z_]+")


def hold_reasons() -> set[str]:
    """Every word that the engine or a connector gives as a reason, found where they are written."""
    found = {*decision._CONFLICTS, *bodies.COPY_FAILED}
    found |= {*sqlite.REFUSALS.values(), *s3.REFUSALS.values(), *google_drive.REFUSED.values()}
    found |= {word for _, kind, word in appsync.ERRORS if kind is errors.RejectedError}
    for path in SOURCES.rglob("*.py"):
        if path.name == "rollback.py":  # it keeps units, and holds none
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            found |= set(_reasons_of(node))
    return found


def _reasons_of(node: ast.AST) -> Iterator[str]:
    texts = [n.value for n in ast.iter_child_nodes(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        at = {"RejectedError": 0, "_refused": 0, "Check": 1, "_holds": 1}.get(name)
        if at is not None and len(node.args) > at and isinstance(node.args[at], ast.Constant):
            yield str(node.args[at].value)
        if name in {"if_else", "binary_join_element_wise"}:  # "no_key|the unit key is null", "undecodable", broken, "|"
            yield from (
                text.partition("|")[0] for text in texts if _REASON.match(text) and ("|" in text or "|" in texts)
            )
            yield from (text for text in texts if text == "rule_failed")
    if isinstance(node, ast.Dict):  # {"unit": ..., "reason": ["rows_failed"], ...}
        for key, value in zip(node.keys, node.values, strict=True):
            value = value.left if isinstance(value, ast.BinOp) else value
            if isinstance(key, ast.Constant) and key.value == "reason" and isinstance(value, ast.List):
                yield from (str(word.value) for word in value.elts if isinstance(word, ast.Constant))
    if isinstance(node, ast.FunctionDef) and node.name == "_explain":
        for inner in ast.walk(node):
            if isinstance(inner, ast.Dict):
                yield from (key.value for key in inner.keys if isinstance(key, ast.Constant))
    if isinstance(node, ast.Tuple) and len(node.elts) == 2 and getattr(node.elts[0], "id", "") == "RejectedError":
        yield from texts  # a row of a connector's errors table
    if isinstance(node, ast.FunctionDef) and node.name == "_words":  # what Postgres refused, in our words
        for inner in ast.walk(node):
            if isinstance(inner, ast.Return) and isinstance(inner.value, ast.Tuple):
                word = inner.value.elts[0]
                yield from [str(word.value)] if isinstance(word, ast.Constant) else []


def _documented_reasons() -> set[str]:
    table = between(GUIDE.read_text("utf-8"), "reasons")
    return set(re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE))


def test_every_hold_reason_is_in_the_guide_and_no_other() -> None:
    assert {"cast", "foreign_key", "row_security", "no_key", "undecodable", "rule_failed"} <= hold_reasons()
    assert {"unreachable", "archived", "download_quota"} <= hold_reasons()
    assert _documented_reasons() == hold_reasons()


def test_every_reason_to_keep_a_unit_in_a_rollback_is_in_the_guide_and_no_other() -> None:
    table = between(GUIDE.read_text("utf-8"), "kept")
    said = set(re.findall(r"^\| `([a-z_]+)`", table, re.MULTILINE))
    assert said == {*undo._KEPT.values(), *verdict.WAITS, "changed_by_run"}
    assert "changed_by_run {run}" in Path(undo.__file__).read_text("utf-8")


# -- what pages name exists --------------------------------------------------------------------------------


def _test_names() -> set[str]:
    names: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        names |= {n.name for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.FunctionDef)}
    return names


def _page(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=_page)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    known = _test_names()
    for name in re.findall(r"`(test_\w+)`", page.read_text("utf-8")):
        assert name in known, name


@pytest.mark.parametrize("page", PAGES, ids=_page)
def test_every_file_and_heading_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not heading or heading in _anchors(file.read_text("utf-8")), target
    for name in re.findall(
        r"`((?:src|tests|docs|migrations|benchmarks|engine|mapping|ledger|middleware)/[\w./-]+)`", text
    ):
        assert (ROOT / name).exists() or (SOURCES / name).exists() or (page.parent / name).exists(), name


def _anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=_page)
def test_no_page_names_a_path_of_somebodys_machine(page: Path) -> None:
    assert not re.search(r"(?<![\w.])/(?:home|root|work|tmp|Users|var)/", page.read_text("utf-8"))


def test_every_table_and_column_of_the_ledger_is_in_the_guarantees() -> None:
    text = GUARANTEES.read_text("utf-8").partition("## The ledger's tables")[2]
    for table, body in re.findall(
        r"CREATE TABLE IF NOT EXISTS \{p\}(\w+) \((.*?)\);?\n(?=CREATE|REVOKE)", ledger_tables.TABLES, re.DOTALL
    ):
        part = text.partition(f"### `{table}`")[2].partition("\n### ")[0]
        assert part, table
        for column in re.findall(
            r"(?:^|, |,\n\s+|\n\s+)([a-z_]+) (?:text|bigint|integer|smallint|boolean|uuid|timestamptz)", body
        ):
            assert f"| `{column}`" in part or f"`{column}`" in part, f"{table}.{column}"


# -- examples that run -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A fenced part of a page; ``name`` is the file's, where its first line gives one."""

    language: str
    name: str
    text: str


def blocks(page: Path) -> list[Block]:
    found = re.findall(r"^```(\w+)[ ]?(\S*)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [Block(*one) for one in found]


def _declarations() -> list[tuple[Path, Block]]:
    return [
        (page, b) for page in PAGES for b in blocks(page) if b.language == "yaml" and b.text.startswith("migration:")
    ]


def _write_all(page: Path, folder: Path) -> None:
    for block in blocks(page):
        if block.name:
            path = folder / block.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, "utf-8")


@pytest.mark.parametrize(
    ("page", "block"), _declarations(), ids=lambda one: _page(one) if isinstance(one, Path) else ""
)
def test_every_migration_in_the_documents_loads_in_every_environment(page: Path, block: Block, tmp_path: Path) -> None:
    _write_all(page, tmp_path)
    (tmp_path / "migration.yaml").write_text(block.text, "utf-8")
    plain = load(tmp_path, variables=VARIABLES)
    for name in plain.file.environments:
        load(tmp_path, name, VARIABLES)


def _run(*arguments: str) -> tuple[int, str]:
    """A command's exit code and what it printed (the console wraps at 80 columns)."""
    said = io.StringIO()
    with redirect_stdout(said), pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0), said.getvalue()


def test_the_worked_example_does_what_the_guide_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _write_all(GUIDE, tmp_path)
    database = sqlite3.connect("shop.sqlite")
    database.executescript((tmp_path / "schema.sql").read_text())
    assert _run("check")[0] == 0
    assert _run("plan", "--out", "library.plan")[0] == 0
    assert _run("apply", "library.plan")[0] == 3
    guide = GUIDE.read_text("utf-8")
    _, said = _run("held", "list", "--json")
    held = {(one["flow"], one["unit"], one["reason"], one["detail"]) for one in json.loads(said)["held"]}
    for flow, unit, reason, detail in held:
        assert f"! {flow} {unit} {reason}: {detail or 'held by this rule of the mapping'}" in guide
    assert len(held) == 4
    assert _run("verify")[0] == 0
    books = database.execute("SELECT id, slug, language, price_cents, origin FROM books ORDER BY id").fetchall()
    assert books == [("978-1", "der-see", "de", 1250, "old-shop"), ("978-2", "la-mer", "fr", 900, "old-shop")]
    assert database.execute("SELECT * FROM languages ORDER BY id").fetchall() == [(1, "de"), (2, "fr")]
    assert database.execute("SELECT position, tag FROM book_tags").fetchall() == [(0, "novel"), (1, "lake")]
    source = tmp_path / "source" / "books.jsonl"
    source.write_text(source.read_text().replace('"a-9"', '"a-2"').replace('"free"', '"3.00"'))
    _, said = _run("held", "replay", "--json")
    flows = {one["flow"]: one for one in json.loads(said)["flows"]}
    assert (flows["books"]["done"], flows["books"]["held"], flows["authors"]["held"]) == (2, 1, 1)
    assert _run("held", "waive", "978-4", "--why", "...")[0] == 0
    assert _run("verify")[0] == 0


def test_the_second_example_does_what_the_guide_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_all(GUIDE, tmp_path)
    monkeypatch.chdir(tmp_path / "lessons")
    database = sqlite3.connect("school.sqlite")
    database.executescript((tmp_path / "lessons" / "schema.sql").read_text())
    before = [database.execute(f"SELECT * FROM {name}").fetchall() for name in ("files", "links", "uses", "lessons")]
    assert _run("check")[0] == 0
    assert _run("plan")[0] == 0
    assert _run("rehearse")[0] == 3
    assert database.execute("SELECT count(*) FROM uses").fetchall() == [(0,)]
    code, said = _run("apply", "--json")
    guide = GUIDE.read_text("utf-8")
    (flow,) = json.loads(said)["flows"]
    assert (code, [flow[word] for word in ("read", "done", "skipped", "held")]) == (3, [5, 2, 2, 1])
    for name, figure in flow["summary"].items():
        assert f"  {name:<16}  {figure:>12}\n" in guide
    shared, items = database.execute(
        "SELECT f.id, l.items FROM files f, lessons l WHERE f.path = 'new.pdf' AND l.id = 'l-1'"
    ).fetchone()
    assert items.replace(shared, "...") in guide.splitlines()
    assert database.execute("SELECT count(*) FROM uses WHERE resource_id = ?", (shared,)).fetchall() == [(2,)]
    (again,) = json.loads(_run("apply", "--json")[1])["flows"]
    assert (again["done"], again["unchanged"], again["summary"]["itemsPatched"]) == (0, 2, 0)
    assert (_run("verify")[0], _run("status", "--drift")[0]) == (0, 0)
    assert _run("rollback", "1", "--execute")[0] == 0
    assert before == [database.execute(f"SELECT * FROM {n}").fetchall() for n in ("files", "links", "uses", "lessons")]


def test_the_third_example_does_what_the_guide_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_all(GUIDE, tmp_path)
    monkeypatch.chdir(tmp_path / "audio")
    database = sqlite3.connect("audio.sqlite")
    database.executescript((tmp_path / "audio" / "schema.sql").read_text())
    guide = GUIDE.read_text("utf-8")
    with start_s3() as s3:
        for name in ("OLD_ENDPOINT", "NEW_ENDPOINT"):
            monkeypatch.setenv(name, s3.endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
        s3.load("old-audio", {"2019/lake.mp3": b"lake", "2019/sea.mp3": b"the sea"})
        s3.load("new-audio")
        assert (_run("check")[0], _run("plan")[0]) == (0, 0)
        code, said = _run("apply")
        assert code == 3
        for line in said.splitlines():
            if line.startswith(("flow ", "recordings ", "  recordings: ")):
                assert line in guide
        assert "rows copied" in said
        assert "missing_file 1" in said
        links = database.execute("SELECT id, bytes FROM recordings ORDER BY id").fetchall()
        assert links == [("r-1/c-1", 4), ("r-1/c-2", 4), ("r-2/c-2", 7)]
        s3.load("old-audio", {"2019/fog.mp3": b"fog"})
        database.execute("INSERT INTO chapters VALUES ('c-9')")
        database.commit()
        (flow,) = json.loads(_run("apply", "--json")[1])["flows"]
        assert (flow["done"], flow["unchanged"]) == (2, 1)
        assert (flow["rows"]["object"]["copy"], flow["rows"]["recording"]["create"]) == (1, 2)
        (flow,) = json.loads(_run("apply", "--json")[1])["flows"]
        assert (flow["done"], flow["unchanged"]) == (0, 3)
        assert {action for counted in flow["rows"].values() for action in counted} <= {"unchanged"}
        assert (_run("verify")[0], _run("status", "--drift")[0], _run("rehearse")[0]) == (0, 0, 2)
        there = s3.client().head_object(Bucket="new-audio", Key="audio/r-3.mp3")
        assert there["ContentType"] == "audio/mpeg"


class _Service(BaseHTTPRequestHandler):
    """What the connector guide's connector reads: pages, every second one empty; some calls fail at first."""

    rows: ClassVar[list[Mapping[str, Any]]] = []
    calls: ClassVar[Iterator[int]] = count(1)
    token: ClassVar[str] = ""

    def do_GET(self) -> None:
        if next(self.calls) % 3 == 0:
            self._answer(503, {}, {"Retry-After": "0"})
        elif self.token and self.headers["Authorization"] != f"Bearer {self.token}":
            self._answer(401, {})
        elif self.path == "/":
            self._answer(200, ["people", "pets"])
        else:
            asked = parse_qs(urlsplit(self.path).query)
            limit, after = int(asked["limit"][0]), asked.get("after", ["0"])[0]
            start = int(after.removeprefix("empty-"))
            if not after.startswith("empty-") and start < len(self.rows):
                self._answer(200, {"items": [], "next": f"empty-{start}"})
            else:
                more = {"next": str(start + limit)} if start + limit < len(self.rows) else {}
                self._answer(200, {"items": self.rows[start : start + limit], **more})

    def _answer(self, status: int, body: Any, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: Any) -> None:
        """Not on the tests' screen."""


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """``pages(rows)``: the connector guide's connector over a service with these rows."""
    (block,) = [one for one in blocks(CONNECTOR_GUIDE) if one.name == "resettle_pages.py"]
    module = ModuleType("resettle_pages")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(Caller, "_delay", lambda self, state: 0.0)
    exec(compile(block.text, str(CONNECTOR_GUIDE), "exec"), module.__dict__)
    servers: list[ThreadingHTTPServer] = []

    def make(rows: Sequence[Mapping[str, Any]], *, token: str = "", given: str = "") -> Any:
        service = type("Service", (_Service,), {"rows": list(rows), "calls": count(1), "token": token})
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), service))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        settings = {"url": f"http://127.0.0.1:{servers[-1].server_port}", "token": given or None}
        return module.Pages("pages", module.PagesSettings.model_validate(settings))

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


def _contract() -> Iterator[Any]:
    """Every test of the source's contract, with each of its own parameters."""
    for name, test in vars(test_source).items():
        if name.startswith("test_"):
            marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
            for values in marks[0].args[1] if marks else [None]:
                given = {marks[0].args[0]: values} if marks else {}
                yield pytest.param(test, given, id=f"{name}-{values}" if marks else name)


@pytest.mark.parametrize(("test", "given"), list(_contract()))
def test_the_guides_connector_keeps_the_contract(
    test: Callable[..., None], given: dict[str, Any], pages: Callable[..., Any]
) -> None:
    known = {"make_source": pages, "source_case": SourceCase("pages", lambda place, rows: pages(rows), parallel=False)}
    wanted = inspect.signature(test).parameters
    test(**{name: value for name, value in known.items() if name in wanted}, **given)


def test_the_guides_connector_is_not_let_in_without_its_token(pages: Callable[..., Any]) -> None:
    assert pages([], token="open", given="open").datasets() == ["people", "pets"]
    with pytest.raises(errors.AccessError) as refused:
        pages([], token="open", given="shut").datasets()
    assert "shut" not in str(refused.value)


if __name__ == "__main__":
    write()
