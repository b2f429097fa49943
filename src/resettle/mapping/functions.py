"""The SQL functions of a migration: ours (instant, uuid5, json_at, ...) and those of its functions.py.

Every function here is exact: numbers keep their digits, instants their microseconds, and what cannot be
kept raises, so that the unit is held.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

import duckdb
import msgspec
import orjson
import pyarrow as pa

from resettle import private
from resettle.errors import ConfigError
from resettle.mapping.pointer import put

MACROS = r"""
CREATE MACRO _us(t, scale) AS CAST(CASE
    WHEN CAST(t AS DECIMAL(38, 12)) * scale = trunc(CAST(t AS DECIMAL(38, 12)) * scale)
    THEN CAST(t AS DECIMAL(38, 12)) * scale
    ELSE CAST('finer than a microsecond: ' || t AS DECIMAL(38, 12)) END AS BIGINT);
CREATE MACRO _epoch(t) AS make_timestamptz(CASE
    WHEN CAST(t AS DOUBLE) >= 1e8  AND CAST(t AS DOUBLE) < 4.2e9  THEN _us(t, 1000000)
    WHEN CAST(t AS DOUBLE) >= 1e11 AND CAST(t AS DOUBLE) < 4.2e12 THEN _us(t, 1000)
    WHEN CAST(t AS DOUBLE) >= 1e14 AND CAST(t AS DOUBLE) < 4.2e15 THEN _us(t, 1)
    ELSE CAST('no instant between 1973 and 2103 in s, ms or us: ' || t AS BIGINT) END);
CREATE MACRO _iso(t) AS CASE
    WHEN regexp_full_match(t, '\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6}0*)?)?)?\s*(Z|[+-]\d\d(:?\d\d)?)?')
    THEN CAST(CASE WHEN length(t) = 10 THEN t || ' 00:00:00+00'
        WHEN substr(t, 17, 1) <> ':' THEN substr(t, 1, 16) || ':00' || substr(t, 17) ELSE t END AS TIMESTAMPTZ)
    ELSE CAST('no ISO 8601 or SQL instant: ' || t AS TIMESTAMPTZ) END;
CREATE MACRO _instant(t) AS CASE
    WHEN t IS NULL OR t = '' OR t = '0' THEN NULL
    WHEN regexp_full_match(t, '-?\d+(\.\d+)?([eE][+-]?\d+)?') THEN _epoch(t)
    ELSE _iso(t) END;
CREATE MACRO _fast_instant(x) AS CASE
    WHEN regexp_full_match(CAST(x AS VARCHAR), '[1-9][0-9]{11}|[1-3][0-9]{12}')
    THEN make_timestamptz(CAST(x AS BIGINT) * 1000)
    ELSE _instant(trim(CAST(x AS VARCHAR))) END;
CREATE MACRO instant(x) AS _fast_instant(x), (x, unit) AS _fast_instant(x);
CREATE MACRO _uuid5(h) AS CAST(substr(h, 1, 12) || '5' || substr(h, 14, 3)
    || substr('89ab', 1 + CAST(('0x' || substr(h, 17, 1)) AS INTEGER) % 4, 1)
    || substr(h, 18, 15) AS UUID);
CREATE MACRO uuid5(namespace, name) AS _uuid5(sha1(
    unhex(replace(CAST(CAST(namespace AS UUID) AS VARCHAR), '-', '')) || encode(CAST(name AS VARCHAR))));
CREATE MACRO numeric_text(t) AS CASE
    WHEN t IS NULL THEN NULL
    WHEN regexp_full_match(t, '0|-?[1-9][0-9]*|-?(0|[1-9][0-9]*)\.[0-9]*[1-9]') THEN t
    ELSE _numeric(t) END;
CREATE MACRO _canonical_number(t) AS CASE
    WHEN t IS NULL OR regexp_full_match(t, '0|-?[1-9][0-9]*|-?(0|[1-9][0-9]*)\.[0-9]*[1-9]') THEN t
    ELSE _number_or_itself(t) END;
CREATE MACRO canonical_json(document) AS _canonical_json(CAST(document AS VARCHAR));
CREATE MACRO blank_null(x) AS nullif(trim(CAST(x AS VARCHAR)), '');
"""

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_STRING = msgspec.json.Decoder(str)
_TRYING = threading.Lock()
_STEP = re.compile(r"\.([^.\[\]]+)|\.\"([^\"]*)\"|\[(\d+)\]")
_DIGITS = Context(prec=2000, Emax=10**6, Emin=-(10**6), traps=[InvalidOperation, Inexact, Overflow])
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_INEXACT = re.compile(r"\d(?:\.?\d){15}|\d[eE]|\.0000|-0|\d\.\d*0(?!\d)")
"""What a number has that a double may not give back as it was: 16 digits, an exponent, zeros; a bit too much."""


CLOSED = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_persistent_secrets": "false",
}
"""DuckDB's own ways out, shut before anything runs."""


def connect(functions_file: Path | None = None, *, threads: int = 1) -> duckdb.DuckDBPyConnection:
    """A DuckDB with every function installed and no way to files, network or Python variables.

    One connection serves one thread at a time; it is cheap to make. Times are UTC. What does not fit into memory
    goes to files that only their owner may read.
    """
    connection = duckdb.connect(config={"threads": threads, "temp_directory": str(private.spill()), **CLOSED})
    connection.execute(
        "SET GLOBAL TimeZone = 'UTC'; SET old_implicit_casting = true; SET preserve_insertion_order = true"
    )
    connection.execute("SET arrow_large_buffer_size = false; SET python_enable_replacements = false")
    connection.execute("SET arrow_lossless_conversion = true")
    connection.execute("SET memory_limit = '1GB'")
    install(connection, functions_file)
    connection.execute("SET enable_external_access = false; SET allowed_configs = ['disabled_optimizers']")
    connection.execute("SET lock_configuration = true")
    return connection


@contextmanager
def relations(connection: duckdb.DuckDBPyConnection, /, **tables: pa.Table) -> Iterator[None]:
    """Tables that SQL can name while this lasts, whatever happens. A name may be in use once at a time."""
    with ExitStack() as registered:
        for name, table in tables.items():
            connection.register(name, table)
            registered.callback(connection.unregister, name)
        yield


def query(
    connection: duckdb.DuckDBPyConnection, sql: str, parameters: object = None, /, **tables: pa.Table
) -> pa.Table:
    """The rows of a SELECT, over ``tables`` too.

    Uuids come as arrow's, booleans plain (DuckDB gives arrow.bool8 beside lossless uuids).
    """
    with relations(connection, **tables):
        found = connection.execute(sql, parameters).to_arrow_table()
    for index, column in enumerate(found.columns):
        if isinstance(column.type, pa.Bool8Type):
            plain = pa.chunked_array([chunk.storage for chunk in column.chunks], pa.int8()).cast(pa.bool_())
            found = found.set_column(index, found.column_names[index], plain)
    return found


def run_tried(connection: duckdb.DuckDBPyConnection, sql: str, /, **tables: pa.Table) -> pa.Table:
    """Query with SQL that says TRY. DuckDB would move what two TRYs have in common out of both, where it can fail."""
    with _TRYING:  # the setting is the database's, not the cursor's
        connection.execute("SET disabled_optimizers = 'common_subexpressions'")
        try:
            return query(connection, sql, **tables)
        finally:
            connection.execute("RESET disabled_optimizers")


def install(connection: duckdb.DuckDBPyConnection, functions_file: Path | None = None) -> None:
    """Register our functions, then the migration's own."""
    text = "VARCHAR"
    register(connection, "json_at", json_at, [text, text], text)
    register(connection, "json_text", json_text, [text, text], text)
    register(connection, "json_kind", json_kind, [text], text)
    register(connection, "json_put", json_put, [text, text, text], text)
    register(connection, "_canonical_json", canonical_json, [text], text)
    register(connection, "_numeric", numeric, [text], text)
    register(connection, "_number_or_itself", number_or_itself, [text], text)
    connection.execute(MACROS)
    for name, function in own_functions(functions_file).items():
        hints = get_type_hints(function)
        types = [_sql_type(hints.get(parameter)) for parameter in inspect.signature(function).parameters]
        returns = _sql_type(hints.get("return"))
        function = _with_decimals(function, hints)
        register(connection, name, _lifted(function, returns), types, returns)


def register(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    function: Callable[..., pa.Array],
    types: Sequence[str],
    returns: str,
) -> None:
    """A function over Arrow columns.

    DuckDB 1.5 gives text that such a function returns without keeping its memory alive: behind coalesce() or
    CASE it turns to garbage. So text is copied at once, by `|| ''`, inside a macro of the function's name.
    """
    arrow = f"_arrow_{name}"
    create: Any = connection.create_function  # its stubs know no Arrow types
    create(arrow, function, list(types), returns, type="arrow", null_handling="special")
    names = [f"p{index}" for index in range(len(types))]
    copied = " || ''" if returns == "VARCHAR" else ""
    macro, inner = (f'"{one}"' for one in (name, arrow))  # a lookup's name may hold a dash
    connection.execute(f"CREATE MACRO {macro}({', '.join(names)}) AS {inner}({', '.join(names)}){copied}")


def _with_decimals(function: Callable[..., Any], hints: Mapping[str, Any]) -> Callable[..., Any]:
    """Decimals travel as text: made of it for the parameters that want one, turned to it for the result."""
    wants = [
        Decimal in (hints.get(name), *get_args(hints.get(name))) for name in inspect.signature(function).parameters
    ]
    if not any(wants) and Decimal not in (hints.get("return"), *get_args(hints.get("return"))):
        return function

    def decimals(*row: Any) -> Any:
        pairs = zip(row, wants, strict=True)
        found = function(*(Decimal(v) if wanted and v is not None else v for v, wanted in pairs))
        return format(found, "f") if isinstance(found, Decimal) else found

    decimals.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return decimals


def _lifted(function: Callable[..., Any], returns: str) -> Callable[..., pa.Array]:
    """A row function as one over columns (DuckDB's own row functions are 75 times slower)."""

    def lifted(*columns: pa.ChunkedArray) -> pa.Array:
        rows = zip(*(column.to_pylist() for column in columns), strict=True)
        return pa.array([function(*row) for row in rows], _ARROW_TYPES[returns])

    # DuckDB counts parameters, and takes `*columns` for one.
    lifted.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return lifted


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    values: list[str | None] = column.to_pylist()
    return values


def json_at(documents: pa.ChunkedArray, paths: pa.ChunkedArray) -> pa.Array:
    """The member at a path ('name', an index, or '$.a.b[0]') as exact JSON text; null if none or JSON null."""
    return pa.array([_at(d, p) for d, p in zip(_texts(documents), _texts(paths), strict=True)], pa.string())


def json_text(documents: pa.ChunkedArray, paths: pa.ChunkedArray) -> pa.Array:
    """Like json_at, but a JSON string gives its characters."""
    found = (_at(d, p) for d, p in zip(_texts(documents), _texts(paths), strict=True))
    return pa.array([_STRING.decode(f) if f and f[0] == '"' else f for f in found], pa.string())


def json_kind(documents: pa.ChunkedArray) -> pa.Array:
    """object, array, string, number, boolean or null; `text` for what is no JSON."""
    return pa.array([_kind(document) for document in _texts(documents)], pa.string())


def json_put(documents: pa.ChunkedArray, pointers: pa.ChunkedArray, values: pa.ChunkedArray) -> pa.Array:
    """The document with a JSON value at a JSON pointer and no other byte changed; null if there is no place for it."""
    rows = zip(_texts(documents), _texts(pointers), _texts(values), strict=True)
    return pa.array([None if d is None or p is None or v is None else put(d, p, v) for d, p, v in rows], pa.string())


def canonical_json(documents: pa.ChunkedArray) -> pa.Array:
    """Equal documents give equal text: keys sorted, no spaces, numbers in their shortest exact form.

    A document that has no such form (half a surrogate pair, nested a thousand deep) stands for itself.
    """
    return pa.array([None if d is None else canonical_text(d) for d in _texts(documents)], pa.string())


def numeric(numbers: pa.ChunkedArray) -> pa.Array:
    """A decimal number of any size in its shortest plain form. Raises for what is no finite number."""
    return pa.array([None if n is None else _plain(n) for n in _texts(numbers)], pa.string())


def number_or_itself(numbers: pa.ChunkedArray) -> pa.Array:
    """Like numeric, for what a target holds: NaN, Infinity and the like stand for themselves."""
    return pa.array([None if n is None else _plain_or_itself(n) for n in _texts(numbers)], pa.string())


def _plain_or_itself(number: str) -> str:
    try:
        return _plain(number)
    except (ValueError, ArithmeticError):
        return number


def _at(document: str | None, path: str | None) -> str | None:
    if document is None or path is None:
        return None
    current = document
    for step in _steps(path):
        try:
            found = _ITEMS.decode(current)[step] if isinstance(step, int) else _MEMBERS.decode(current).get(step)
        except (msgspec.DecodeError, IndexError):
            return None
        if found is None:
            return None
        current = bytes(found).decode()
    return None if current == "null" else current


@lru_cache(4096)
def _steps(path: str) -> tuple[str | int, ...]:
    if not path.startswith("$"):
        return (int(path),) if path.isdigit() else (path,)
    steps, at = [], 1
    while at < len(path):
        match = _STEP.match(path, at)
        if match is None:
            raise ValueError("a JSON path is like $.a.b[0]")
        steps.append(int(match[3]) if match[3] else match[1] or match[2])
        at = match.end()
    return tuple(steps)


def _kind(document: str | None) -> str | None:
    if document is None:
        return None
    try:
        msgspec.json.decode(document, type=msgspec.Raw)
        start = document.lstrip()[:1]
    except msgspec.DecodeError:
        return "text"
    kinds = {"{": "object", "[": "array", '"': "string", "t": "boolean", "f": "boolean", "n": "null"}
    return kinds.get(start, "number")


def canonical_text(document: str) -> str:
    """One document as `canonical_json` gives it."""
    try:
        return _canonical(document)
    except (ValueError, ArithmeticError, RecursionError):
        return document


def _canonical(document: str) -> str:
    if _INEXACT.search(document) is None:
        return orjson.dumps(orjson.loads(document), option=orjson.OPT_SORT_KEYS).decode()
    return _canonical_value(document.strip().encode())


def _canonical_value(text: bytes) -> str:
    start = text[:1]
    if start == b"{":
        members = sorted(_MEMBERS.decode(text).items())
        return "{" + ",".join(f"{_quote(k)}:{_canonical_value(bytes(v))}" for k, v in members) + "}"
    if start == b"[":
        return "[" + ",".join(_canonical_value(bytes(item)) for item in _ITEMS.decode(text)) + "]"
    if start == b'"':
        return _quote(_STRING.decode(text))
    return text.decode() if start in b"tfn" else _plain(text.decode())


def _quote(text: str) -> str:
    return orjson.dumps(text).decode()


@lru_cache(1024)
def _plain(number: str) -> str:
    if not _NUMBER.fullmatch(number.strip()):  # Decimal also takes NaN, 1_000 and digits of every script
        raise ValueError("not a finite decimal number")
    value = _DIGITS.create_decimal(number.strip())
    plain = format(value.normalize(_DIGITS), "f")
    return "0" if plain == "-0" else plain


def own_functions(path: Path | None) -> dict[str, Callable[..., Any]]:
    """The public functions that a migration's functions.py defines itself."""
    if path is None:
        return {}
    module = _module(path)
    return {
        name: function
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_") and function.__module__ == module.__name__
    }


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"resettle_functions_{path.parent.name}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{path}: {type(error).__name__}: {error}") from error
    return module


_ARROW_TYPES = {
    "VARCHAR": pa.string(),
    "BIGINT": pa.int64(),
    "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "BLOB": pa.binary(),
}
_SQL_TYPES = {
    str: "VARCHAR",
    int: "BIGINT",
    float: "DOUBLE",
    bool: "BOOLEAN",
    bytes: "BLOB",
    Decimal: "VARCHAR",
}


def _sql_type(hint: Any) -> str:
    plain = [arm for arm in getattr(hint, "__args__", (hint,)) if arm is not type(None)]
    return _SQL_TYPES.get(plain[0] if plain else str, "VARCHAR")
