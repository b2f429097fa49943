"""From an expression to a target column: the cast to the column's own type, and what cannot be kept.

A cast here never rounds, truncates or guesses: it raises inside DuckDB (and the unit is held with reason
`cast`) or a check names why the target could not store the value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from resettle.batch import Column, Kind


class NoCastError(ValueError):
    """The expression's type can never become the column's; the message says what to write instead."""


@dataclass(frozen=True)
class Check:
    """``sql`` is true for values that must be held, for ``reason``."""

    sql: str
    reason: str


@dataclass(frozen=True)
class Cast:
    """SQL for the value, and the checks on it (over the quoted column name).

    ``text``, for a uuid out of text, is the text itself: the engine turns a whole column of them faster.
    """

    sql: str
    checks: tuple[Check, ...]
    text: str | None = None


def quote(name: str) -> str:
    """A DuckDB identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A DuckDB string constant."""
    return "'" + text.replace("'", "''") + "'"


def cast(expression: str, sql_type: str, column: Column) -> Cast:
    """Cast an expression of DuckDB type ``sql_type`` to a target column. Raises NoCastError."""
    base = sql_type.partition("(")[0].upper()
    if base == '"NULL"':
        expression, base = f"CAST({expression} AS VARCHAR)", "VARCHAR"
    sql = _CASTS[column.kind](expression, base, column)
    text = expression if column.kind is Kind.UUID and base == "VARCHAR" else None
    return Cast(sql, tuple(_checks(column)), text)


def refuse(value: str, sql_type: str) -> str:
    """SQL that fails for any value that is not null. (DuckDB's error() is volatile, which TRY does not take.)"""
    inner = "BIGINT" if sql_type == "VARCHAR" else sql_type
    failing = f"CAST('!' || CAST({value} AS VARCHAR) AS {inner})"
    return f"CAST({failing} AS VARCHAR)" if sql_type == "VARCHAR" else failing


def _text(e: str, base: str, column: Column) -> str:
    return e if base == "VARCHAR" else f"CAST({e} AS VARCHAR)"


def _whole(sql_type: str) -> Callable[[str, str, Column], str]:
    def whole(e: str, base: str, column: Column) -> str:
        bad = refuse(e, sql_type)
        if base == "VARCHAR":
            fits = rf"regexp_full_match(trim({e}), '[+-]?\d+(\.0*)?')"
            plain = f"CAST(regexp_replace(trim({e}), '\\.0*$', '') AS {sql_type})"
            return f"CASE WHEN {e} IS NULL THEN NULL WHEN {fits} THEN {plain} ELSE {bad} END"
        if base in {"DOUBLE", "FLOAT", "DECIMAL"}:
            return f"CASE WHEN {e} = trunc({e}) THEN CAST({e} AS {sql_type}) WHEN {e} IS NULL THEN NULL ELSE {bad} END"
        return f"CAST({e} AS {sql_type})"

    return whole


def _float(sql_type: str) -> Callable[[str, str, Column], str]:
    """Binary floating point is the target's choice: decimals are rounded to it, whole numbers are not."""

    def floating(e: str, base: str, column: Column) -> str:
        value = f"CAST({e} AS {sql_type})"
        nonzero = f"{e} <> 0" if base != "VARCHAR" else f"regexp_matches({e}, '^[^eE]*[1-9]')"
        lost = f"isinf({value}) OR ({value} = 0 AND {nonzero})"
        if base.endswith("INT") or base == "INTEGER":
            lost = f"CAST({value} AS HUGEINT) <> {e}"
        elif base == "VARCHAR":
            whole = rf"regexp_full_match(trim({e}), '[+-]?\d{{1,37}}')"
            exact = f"CAST({value} AS DECIMAL(38, 0)) = TRY_CAST(trim({e}) AS DECIMAL(38, 0))"
            lost += f" OR ({whole} AND NOT coalesce({exact}, false))"
        return f"CASE WHEN {lost} THEN {refuse(e, sql_type)} ELSE {value} END"

    return floating


def _boolean(e: str, base: str, column: Column) -> str:
    if base in {"BOOLEAN", "VARCHAR"}:
        return f"CAST({e} AS BOOLEAN)"
    bad = refuse(e, "BOOLEAN")
    return f"CASE WHEN {e} IN (0, 1) THEN CAST({e} AS BOOLEAN) WHEN {e} IS NULL THEN NULL ELSE {bad} END"


def _numeric(e: str, base: str, column: Column) -> str:
    value = f"numeric_text(trim(CAST({e} AS VARCHAR)))"
    if column.precision is None:
        return value
    scale = column.scale or 0
    whole = column.precision - scale
    fraction = rf"(\.\d{{1,{scale}}})?" if scale > 0 else ""
    digits = rf"\d{{1,{max(whole, 1)}}}" if scale >= 0 else rf"\d{{1,{column.precision}}}0{{{-scale}}}|0"
    fits = rf"regexp_full_match({value}, '-?({digits}){fraction}')"
    return f"CASE WHEN {e} IS NULL THEN NULL WHEN {fits} THEN {value} ELSE {refuse(e, 'VARCHAR')} END"


def _uuid(e: str, base: str, column: Column) -> str:
    if base not in {"UUID", "VARCHAR"}:
        raise NoCastError(f"{base} does not become a uuid; write text or uuid5(...)")
    return f"CAST({e} AS UUID)"


def _instant(e: str, base: str, column: Column) -> str:
    if base == "VARCHAR":
        return f"CASE WHEN {e} IS NULL THEN NULL ELSE _iso(trim({e})) END"
    if base in {"TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ", "TIMESTAMP", "DATE"}:
        return f"CAST({e} AS TIMESTAMPTZ)"
    raise NoCastError(f"{base} does not become an instant; write instant(x, 's'), instant(x, 'ms')")


def _datetime(e: str, base: str, column: Column) -> str:
    if base == "TIMESTAMP":
        return e
    return f"({_instant(e, base, column)}) AT TIME ZONE 'UTC'"


def _date(e: str, base: str, column: Column) -> str:
    if base == "VARCHAR":
        fits = rf"regexp_full_match(trim({e}), '\d{{4}}-\d\d-\d\d')"
        bad = refuse(e, "DATE")
        return f"CASE WHEN {e} IS NULL THEN NULL WHEN {fits} THEN CAST({e} AS DATE) ELSE {bad} END"
    if base != "DATE":
        raise NoCastError(f"{base} does not become a date; write CAST(x AS DATE) if the time may go")
    return e


def _time(e: str, base: str, column: Column) -> str:
    if base == "VARCHAR":
        fits = rf"regexp_full_match(trim({e}), '\d\d:\d\d(:\d\d(\.\d{{1,6}})?)?')"
        return f"CASE WHEN {e} IS NULL THEN NULL WHEN {fits} THEN CAST({e} AS TIME) ELSE {refuse(e, 'TIME')} END"
    if base != "TIME":
        raise NoCastError(f"{base} does not become a time; write CAST(x AS TIME) if the date may go")
    return e


def _json(e: str, base: str, column: Column) -> str:
    if base not in {"VARCHAR", "JSON"}:
        return f"CAST(to_json({e}) AS VARCHAR)"
    text = f"CAST({e} AS VARCHAR)" if base == "JSON" else e
    bad = refuse(text, "VARCHAR")
    return f"CASE WHEN {text} IS NULL THEN NULL WHEN json_valid({text}) THEN {text} ELSE {bad} END"


def _binary(e: str, base: str, column: Column) -> str:
    if base != "BLOB":
        raise NoCastError(f"{base} does not become binary; write from_base64(x), unhex(x) or encode(x)")
    return e


_CASTS: dict[Kind, Callable[[str, str, Column], str]] = {
    Kind.BOOLEAN: _boolean,
    Kind.INT16: _whole("SMALLINT"),
    Kind.INT32: _whole("INTEGER"),
    Kind.INT64: _whole("BIGINT"),
    Kind.FLOAT32: _float("FLOAT"),
    Kind.FLOAT64: _float("DOUBLE"),
    Kind.NUMERIC: _numeric,
    Kind.TEXT: _text,
    Kind.UUID: _uuid,
    Kind.INSTANT: _instant,
    Kind.DATETIME: _datetime,
    Kind.DATE: _date,
    Kind.TIME: _time,
    Kind.JSON: _json,
    Kind.BINARY: _binary,
    Kind.OTHER: _text,
}

DUCKDB: dict[Kind, str] = {
    Kind.BOOLEAN: "BOOLEAN",
    Kind.INT16: "SMALLINT",
    Kind.INT32: "INTEGER",
    Kind.INT64: "BIGINT",
    Kind.FLOAT32: "FLOAT",
    Kind.FLOAT64: "DOUBLE",
    Kind.NUMERIC: "VARCHAR",
    Kind.TEXT: "VARCHAR",
    Kind.UUID: "UUID",
    Kind.INSTANT: "TIMESTAMPTZ",
    Kind.DATETIME: "TIMESTAMP",
    Kind.DATE: "DATE",
    Kind.TIME: "TIME",
    Kind.JSON: "VARCHAR",
    Kind.BINARY: "BLOB",
    Kind.OTHER: "VARCHAR",
}
"""The DuckDB type of each kind's cast value."""


_TIMES = {Kind.INSTANT, Kind.DATETIME, Kind.TIME}


def _checks(column: Column) -> list[Check]:
    name, checks = quote(column.name), []
    if not column.nullable:
        checks.append(Check(f"{name} IS NULL", "null"))
    if column.kind in {Kind.TEXT, Kind.OTHER}:
        checks.append(Check(f"contains({name}, chr(0))", "unstorable"))
    if column.kind is Kind.JSON:
        escaped = r"(^|[^\\])(\\\\)*\\u0000"
        checks.append(
            Check(f"contains({name}, '\\u0000') AND regexp_matches({name}, {literal(escaped)})", "unstorable")
        )
    if column.length is not None and column.kind is Kind.TEXT:
        checks.append(Check(f"length({name}) > {column.length}", "too_long"))
    if column.kind in _TIMES and column.precision is not None and column.precision < 6:
        checks.append(Check(f"epoch_us({name}) % {10 ** (6 - column.precision)} <> 0", "inexact"))
    if column.choices:
        listed = ", ".join(literal(choice) for choice in column.choices)
        checks.append(Check(f"{name} NOT IN ({listed})", "choice"))
    return checks


def canonical(column: Column) -> str:
    """SQL for the text that a fingerprint is made of: injective within the kind, null gives null."""
    name = quote(column.name)
    if column.kind in {Kind.TEXT, Kind.OTHER}:
        return name
    if column.kind is Kind.JSON:
        return f"_canonical_json({name})"
    if column.kind in {Kind.INSTANT, Kind.DATETIME}:
        return f"CAST(epoch_us({name}) AS VARCHAR)"
    if column.kind is Kind.BINARY:
        return f"hex({name})"
    if column.kind is Kind.NUMERIC:
        return f"_canonical_number({name})"
    if column.kind in {Kind.FLOAT32, Kind.FLOAT64}:
        return f"CAST({name} + CAST(0 AS {DUCKDB[column.kind]}) AS VARCHAR)"  # no minus before 0, which SQLite drops
    return f"CAST({name} AS VARCHAR)"
