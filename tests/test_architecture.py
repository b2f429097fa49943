"""The tree keeps its shape: imports point down, modules stay small, rows stay in Arrow, only Caller waits."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[1] / "src" / "resettle"
CASES = Path(__file__).parent / "contract" / "cases.py"
MODULES = sorted(SOURCES.rglob("*.py"))

MAY_IMPORT = {
    "errors": set(),
    "memory": set(),
    "private": {"errors"},
    "batch": {"errors"},
    "connector": {"batch", "errors"},
    "calls": {"connector", "batch", "errors"},
    "mapping": {"private", "connector", "batch", "errors"},
    "ledger": {"connector", "batch", "errors"},
    "middleware": {"connector", "batch", "errors"},
    "connectors": {"private", "calls", "connector", "batch", "errors"},
    "engine": {"memory", "private", "middleware", "ledger", "mapping", "calls", "connector", "batch", "errors"},
    "connections": {
        "private",
        "connectors",
        "middleware",
        "ledger",
        "mapping",
        "calls",
        "connector",
        "batch",
        "errors",
    },
    "report": {"private", "engine", "batch", "errors"},
    "sandbox": {"errors"},
    "__init__": {"connections", "engine", "mapping", "errors"},
    "cli": {
        "memory",
        "private",
        "connections",
        "report",
        "sandbox",
        "engine",
        "ledger",
        "mapping",
        "connector",
        "batch",
        "errors",
    },
}
"""Each part and what it may import besides itself. memory sets the allocator, if the command
line asks for it; private makes files; report draws the engine's data classes; cli joins everything."""

SHARED_PIECES = {"_cognito", "_cognito_srp", "_dynamodb_json", "_http", "_lines", "_sqlite"}
"""Pieces that several connectors use; every other `_x` belongs to the connector whose name it begins with."""

OWNERS = {"_file_formats": "files"}

LONGEST = 400
LONG = {}
"""Modules that are longer than they should be: their ceiling, and why. Shorten one, then lower it here."""

PYTHON_ROWS = {
    "connectors/memory.py": "its rows are Python objects: it is for tests",
    "connectors/_file_formats.py": "JSON records one by one, for a number's exact digits; samples",
    "connectors/_dynamodb_json.py": "only records that the fast path could not decode; samples",
    "connectors/appsync.py": "records in trouble, to say why",
    "connectors/_appsync_values.py": "rows and keys become the JSON of a request",
    "connectors/_appsync_write.py": "rows that may be there already, to compare them; keys to delete",
    "connectors/_d1_values.py": "rows become JSON, with their cells' exact digits",
    "connectors/_d1_write.py": "decimals, to see that SQLite keeps them; keys that a commit lost",
    "connectors/s3.py": "keys, each looked at by a call of its own",
    "connectors/_s3_memory.py": "what a listing said of the objects that are asked for",
    "connectors/_sqlite.py": "the driver takes and gives rows of Python objects",
    "connectors/_sqlite_statements.py": "units of a refused batch",
    "connectors/_postgres_read.py": "texts of types that the server alone knows, to ask how it spells them",
    "connectors/_postgres_write.py": "units of a refused batch",
    "mapping/functions.py": "Python functions of a migration, exact JSON and exact numbers, by value",
    "engine/problems.py": "records in trouble, to explain them",
    "engine/lookups.py": "lookups as functions: a dictionary, asked by value",
    "engine/outcomes.py": "records with a status, to list them",
    "engine/patch.py": "JSON documents, edited as text one by one",
    "engine/bodies.py": "files, with a call or more for each",
    "engine/effects.py": "refused rows of targets without transactions, one by one",
    "engine/explain.py": "one record's rows, for a person",
    "engine/verifying/assertions.py": "constraints by name",
    "engine/decide.py": "the numbers of column sets",
    "engine/decision.py": "records in conflict, to explain them",
    "engine/images.py": "what a run overwrote, as JSON row by row",
    "engine/undoing/restore.py": "the same, put back; documents edited as text",
    "engine/undoing/standing.py": "rows that were overwritten, place by place",
    "engine/undoing/references.py": "rows that point at others, to say which",
    "engine/undoing/verdict.py": "units of a rollback, each with its reason",
    "engine/undoing/undo.py": "units of a rollback, each with its reason",
    "engine/rollback.py": "units of a rollback, to look them up",
    "engine/drift.py": "rows that drifted, to list them",
    "engine/count.py": "counts by word; a handful of samples",
    "engine/verifying/exclusive.py": "keys of rows that belong to no record, as many as are listed",
    "engine/verifying/landed.py": "patches and files, looked at one by one",
    "engine/verify.py": "rows that differ, to name their columns; a handful of spot checks",
    "engine/export.py": "lines to write, as text",
    "engine/profile.py": "counts by class",
}
"""Modules that may call to_pylist, and on what."""

WAITS = {
    "calls.py": "Caller and Pace",
    "sandbox/postgres.py": "waits for the server that it starts",
    "sandbox/_drive_http.py": "answers as slowly as it is told",
}


def _name(path: Path) -> str:
    return path.relative_to(SOURCES).as_posix()


def _part(path: Path) -> str:
    """The part of the tree that a module belongs to."""
    return _name(path).partition("/")[0].removesuffix(".py")


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def _imports(path: Path) -> Iterator[str]:
    """Every module of ours that a module imports, also inside functions."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "resettle":
            if node.module.count(".") < 2:
                for alias in node.names:
                    folder = SOURCES.joinpath(*node.module.split(".")[1:])
                    inner = (folder / alias.name).is_dir() or (folder / f"{alias.name}.py").is_file()
                    yield f"{node.module}.{alias.name}" if inner else node.module
            else:
                yield node.module
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "resettle")


def _calls(path: Path) -> Iterator[str]:
    """The last name of everything that is called."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Call):
            yield node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_imports_point_down(path: Path) -> None:
    part = _part(path)
    assert part in MAY_IMPORT, f"{part} is new: say in MAY_IMPORT what it may import"
    for module in _imports(path):
        other = module.split(".")[1] if "." in module else "__init__"
        assert other == part or other in MAY_IMPORT[part], f"{_name(path)} imports {module}"


def test_what_may_be_imported_has_no_circle() -> None:
    left = dict(MAY_IMPORT)
    while left:
        free = [part for part, below in left.items() if not below & left.keys()]
        assert free, f"a circle among {sorted(left)}"
        for part in free:
            del left[part]


@pytest.mark.parametrize("path", sorted((SOURCES / "connectors").glob("*.py")), ids=_name)
def test_a_connector_imports_no_other_connector(path: Path) -> None:
    for module in _imports(path):
        piece = module.removeprefix("resettle.connectors.")
        if not module.startswith("resettle.connectors.") or piece in SHARED_PIECES:
            continue
        assert piece.startswith("_"), f"{path.stem} imports the connector {piece}"
        assert _owner(piece) == _owner(path.stem), f"{path.stem} imports a piece of {_owner(piece)}"


def _owner(stem: str) -> str:
    return OWNERS.get(stem, stem.removeprefix("_").partition("_")[0])


def test_every_connector_is_in_the_contracts_tests() -> None:
    tested = {
        node.module.rpartition(".")[2]
        for node in ast.walk(ast.parse(CASES.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("resettle.connectors.")
    }
    connectors = {path.stem for path in (SOURCES / "connectors").glob("[!_]*.py")}
    assert connectors <= tested


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_module_is_not_too_long(path: Path) -> None:
    lines = len(path.read_text("utf-8").splitlines())
    ceiling = LONG.get(_name(path), (LONGEST, ""))[0]
    assert lines <= ceiling, f"{lines} lines, {ceiling} at most"


def test_modules_that_have_become_short_are_off_the_list() -> None:
    for name in LONG:
        assert len((SOURCES / name).read_text("utf-8").splitlines()) > LONGEST, f"take {name} off LONG"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_module_says_its_reason_in_its_first_line(path: Path) -> None:
    docstring = ast.get_docstring(_tree(path))
    assert docstring, "no docstring"
    assert path.read_text("utf-8").startswith('"""')


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_rows_become_python_objects_only_where_that_is_said(path: Path) -> None:
    used = {"to_pylist", "to_pydict", "iterrows", "itertuples", "to_pandas"} & set(_calls(path))
    assert not used or (used == {"to_pylist"} and _name(path) in PYTHON_ROWS), used


def test_the_list_of_those_places_holds_no_other() -> None:
    for name in PYTHON_ROWS:
        assert "to_pylist" in set(_calls(SOURCES / name)), f"take {name} off PYTHON_ROWS"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_the_engine_and_the_ledger_fetch_no_records_row_by_row(path: Path) -> None:
    """A cursor's rows come whole or as Arrow, never one by one in a loop."""
    if _part(path) in {"engine", "ledger", "mapping", "middleware"}:
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.For | ast.While):
                inner = {call.func.attr for call in ast.walk(node) if _is_method(call)}
                assert not inner & {"fetchone", "fetchmany"}, f"line {node.lineno}"


def _is_method(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_only_the_command_line_prints(path: Path) -> None:
    printing = {n.lineno for n in ast.walk(_tree(path)) if isinstance(n, ast.Call) and _called(n) == "print"}
    assert not printing or _part(path) in {"cli", "report"}, printing


def _called(node: ast.Call) -> str:
    return getattr(node.func, "id", "")


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_nothing_but_caller_sleeps_or_tries_again(path: Path) -> None:
    if _name(path) in WAITS:
        return
    assert "sleep" not in set(_calls(path))
    for node in ast.walk(_tree(path)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not {name.split(".")[0] for name in names} & {"tenacity", "stamina", "backoff"}


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_no_error_is_swallowed_unread(path: Path) -> None:
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: a bare except"
            broad = getattr(node.type, "id", "") in {"Exception", "BaseException"}
            empty = all(isinstance(one, ast.Pass | ast.Continue) for one in node.body)
            assert not (broad and empty), f"line {node.lineno}: everything is caught and nothing is done"
