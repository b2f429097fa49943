"""Expressions of a migration: parsed by DuckDB, checked for what they may use, JSON access made exact.

DuckDB's own JSON operators read numbers as doubles and would round a 38-digit number inside a document, so
`->` and `->>` (and json_extract) are rewritten to `json_at` and `json_text` (functions.py), which pass text on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any

import duckdb

EXACT = {
    "->": "json_at",
    "->>": "json_text",
    "json_extract": "json_at",
    "json_extract_path": "json_at",
    "json_extract_string": "json_text",
    "json_extract_path_text": "json_text",
}
UNDECIDED = "todo"
"""What a draft says where a person must decide: it is refused at its place, so that it never passes unseen."""

UNREPEATABLE = frozenset(
    [
        "now",
        "current_timestamp",
        "current_date",
        "current_time",
        "today",
        "get_current_timestamp",
        "random",
        "uuid",
        "gen_random_uuid",
        "uuidv4",
        "uuidv7",
        "nextval",
        "currval",
        "transaction_timestamp",
        "localtime",
        "localtimestamp",
        "setseed",
    ]
)


NAMING = (duckdb.BinderException, duckdb.CatalogException, duckdb.ParserException, duckdb.PermissionException)
"""Errors that speak of the statement alone; all others may quote a value."""


class SqlError(ValueError):
    """DuckDB does not understand the text; ``position`` counts characters from 0 where it says so."""

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(message)
        self.position = position


def meant(name: str, names: Iterable[str]) -> str | None:
    """The column that SQL means: the one so spelt, else the first that is but for its case."""
    folded = None
    for one in names:
        if one == name:
            return one
        if folded is None and one.lower() == name.lower():
            folded = one
    return folded


def first_line(error: duckdb.Error) -> str:
    """What DuckDB says of names and types, without its picture of the statement; of values only the kind of trouble."""
    kind = type(error).__name__.removesuffix("Exception")
    if not isinstance(error, NAMING):
        return f"it fails on some record ({kind})"
    return str(error).splitlines()[0].removeprefix("Binder Error: ")


@dataclass(frozen=True)
class Parsed:
    """An expression or SELECT ready to run, with the columns it names (qualifier, name, position) and functions."""

    sql: str
    columns: tuple[tuple[str | None, str, int], ...]
    functions: frozenset[str] = frozenset()


_NOWHERE = 2**63
_lock = Lock()


@cache
def _parser() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"threads": 1, "enable_external_access": "false"})


@cache
def parse_expression(text: str) -> Parsed:
    """Parse one SQL expression. Raises SqlError for anything else."""
    prefix = "SELECT "
    tree = _serialize(f"{prefix}{text}\n", len(prefix))
    node = tree["statements"][0]["node"]
    if len(tree["statements"]) != 1 or node.get("type") != "SELECT_NODE" or len(node["select_list"]) != 1:
        raise SqlError("expected one SQL expression")
    if node["from_table"]["type"] != "EMPTY" or node["where_clause"]:
        raise SqlError("expected one SQL expression, not a query")
    _check(node, len(prefix))
    rewritten = _deserialize(tree)
    columns = tuple(_columns(node, len(prefix)))
    return Parsed(rewritten.strip().removeprefix("SELECT ").strip(), columns, _functions(node))


@cache
def parse_query(text: str) -> Parsed:
    """Parse one SELECT (the `rows:` of a flow or output). Raises SqlError for anything else."""
    tree = _serialize(text, 0)
    if len(tree["statements"]) != 1:
        raise SqlError("expected one SELECT")
    _check(tree, 0)
    return Parsed(_deserialize(tree), tuple(_columns(tree, 0)), _functions(tree))


def _serialize(text: str, offset: int) -> dict[str, Any]:
    with _lock:
        row = _parser().execute("SELECT json_serialize_sql(?::VARCHAR)", [text]).fetchone()
    tree: dict[str, Any] = json.loads(row[0] if row else "{}")
    if tree.get("error"):
        position = tree.get("position")
        message = str(tree.get("error_message", "not SQL")).splitlines()[0]
        raise SqlError(message, None if position is None else max(int(position) - offset, 0))
    return tree


def _deserialize(tree: dict[str, Any]) -> str:
    with _lock:
        row = _parser().execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(tree)]).fetchone()
    return str(row[0]) if row else ""


def _check(tree: Any, offset: int) -> None:
    for node in _nodes(tree):
        if node.get("class") == "LAMBDA" and not _is_lambda(node):
            _check_arrow("->", (node["lhs"], node["expr"]), offset)
            _arrow_to_call(node)
        name = node.get("function_name")
        if name == "->>":
            _check_arrow(name, node["children"], offset)
        if isinstance(name, str) and name in EXACT:
            node |= {"function_name": EXACT[name], "is_operator": False}
        if name == UNDECIDED:
            raise SqlError(
                f"{name}(...) marks what `resettle init` left open; write an expression in its place",
                max(int(node.get("query_location") or 0) - offset, 0),
            )
        if node.get("class") == "COLUMN_REF" and len(node["column_names"]) == 1:
            name = node["column_names"][0]  # `current_date` is a function unless some column has its name
            name = name if name.lower().startswith(("current_", "local")) else None
        if isinstance(name, str) and name.lower() in UNREPEATABLE:
            raise SqlError(
                f"{name}() gives another value each run; use migration_time or {{mint: uuid}}",
                max(int(node.get("query_location") or 0) - offset, 0),
            )


def _check_arrow(arrow: str, operands: Sequence[dict[str, Any]], offset: int) -> None:
    """DuckDB's arrows bind weaker than Postgres's: `x = 1 and a->>'b'` would ask (x = 1 and a) for the member."""
    for operand in operands:
        if operand.get("class") in ("COMPARISON", "CONJUNCTION", "OPERATOR", "BETWEEN"):
            raise SqlError(
                f"`{arrow}` binds weaker here than in Postgres: put the access in brackets, (a{arrow}'b')",
                max(int(operand.get("query_location") or 0) - offset, 0),
            )


def _is_lambda(node: dict[str, Any]) -> bool:
    """`lambda x: ...` has a parameter without a place of its own; `a -> 'b'` parses to the same node with one."""
    return int(node["lhs"].get("query_location") or 0) >= _NOWHERE


def _arrow_to_call(node: dict[str, Any]) -> None:
    document, path = node.pop("lhs"), node.pop("expr")
    node |= {"class": "FUNCTION", "type": "FUNCTION", "function_name": "json_at", "schema": "", "catalog": ""}
    node |= {"children": [document, path], "filter": None, "distinct": False, "is_operator": False}
    node |= {"order_bys": {"type": "ORDER_MODIFIER", "orders": []}, "export_state": False}


def _functions(tree: Any) -> frozenset[str]:
    return frozenset(str(node["function_name"]) for node in _nodes(tree) if node.get("function_name"))


def _columns(tree: Any, offset: int) -> Iterator[tuple[str | None, str, int]]:
    nodes = list(_nodes(tree))
    parameters = {tuple(node["lhs"]["column_names"]) for node in nodes if node.get("class") == "LAMBDA"}
    for node in nodes:
        if node.get("class") == "COLUMN_REF" and tuple(node["column_names"]) not in parameters:
            names = node["column_names"]
            at = max(int(node.get("query_location") or 0) - offset, 0)
            yield (names[0] if len(names) > 1 else None, names[-1 if len(names) < 3 else 1], at)


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
        for value in tree.values():
            yield from _nodes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _nodes(value)
