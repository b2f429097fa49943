"""What a target column keeps exactly, and what it holds rather than round, cut or guess."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest

from resettle.batch import Column, Kind
from resettle.mapping.columns import NoCastError, canonical, cast
from resettle.mapping.functions import run_tried

HELD = "held"


def kept(base: duckdb.DuckDBPyConnection, column: Column, text: Any, sql_type: str = "VARCHAR") -> Any:
    """What of a value arrives: its canonical text, None for null, HELD where it does not cast, or a check's reason."""
    made = cast("x", sql_type, column)
    source = f"SELECT CAST({'NULL' if text is None else '?'} AS {sql_type}) AS x"
    base.execute(f"CREATE OR REPLACE TEMP TABLE _one AS {source}", [] if text is None else [text])
    sql = f"TRY({made.sql})"
    asked = f'SELECT {sql} AS "{column.name}", TRY(({made.sql}) IS NULL) IS NULL AS bad FROM _one'
    (row,) = run_tried(base, asked).to_pylist()
    if row["bad"]:
        return HELD
    found = f'(SELECT {sql} AS "{column.name}" FROM _one)'
    for check in made.checks:
        if base.execute(f"SELECT {check.sql} FROM {found}").fetchall()[0][0]:
            return check.reason
    return base.execute(f"SELECT {canonical(column)} FROM {found}").fetchall()[0][0]


def c(kind: Kind, **more: Any) -> Column:
    return Column("c", kind, **more)


def name(value: Any) -> str:
    """A test's name of a parameter: short, and without characters that a terminal would not show."""
    return str(value.kind) if isinstance(value, Column) else ascii(value)[:25]


BIG = "12345678901234567890123456789012345678"

KEPT = [
    (c(Kind.INT16), "5", "5"),
    (c(Kind.INT32), " -5 ", "-5"),
    (c(Kind.INT32), "5.0", "5"),
    (c(Kind.INT64), "9223372036854775807", "9223372036854775807"),
    (c(Kind.NUMERIC), BIG, BIG),
    (c(Kind.NUMERIC), f"0.{BIG}", f"0.{BIG}"),
    (c(Kind.NUMERIC), "1.50", "1.5"),
    (c(Kind.NUMERIC, precision=10, scale=2), "99999999.99", "99999999.99"),
    (c(Kind.NUMERIC, precision=10, scale=2), "1.500", "1.5"),
    (c(Kind.NUMERIC, precision=4, scale=0), "1e3", "1000"),
    (c(Kind.NUMERIC, precision=6, scale=-2), "-12300", "-12300"),
    (c(Kind.NUMERIC, precision=6, scale=-2), "0", "0"),
    (c(Kind.FLOAT64), "0.1", "0.1"),
    (c(Kind.FLOAT64), "-0.0", "0.0"),
    (c(Kind.FLOAT64), "0e5", "0.0"),
    (c(Kind.FLOAT32), "-0.0", "0.0"),
    (c(Kind.FLOAT32), "0.1", "0.1"),
    (c(Kind.BOOLEAN), "true", "true"),
    (c(Kind.BOOLEAN), "false", "false"),
    (c(Kind.TEXT), "  e\u0301 👩🏾 ", "  e\u0301 👩🏾 "),
    (c(Kind.TEXT), "", ""),
    (c(Kind.TEXT, length=3), "👩👩👩", "👩👩👩"),
    (c(Kind.UUID), "3F0B7D3E-6A3C-4F5E-9D55-6F6B0C6F1A77", "3f0b7d3e-6a3c-4f5e-9d55-6f6b0c6f1a77"),
    (c(Kind.INSTANT), "1970-01-01T01:00:00.000001+01:00", "1"),
    (c(Kind.INSTANT, precision=3), "1969-12-31T23:59:59.999Z", "-1000"),
    (c(Kind.DATETIME, precision=6), "1970-01-01 00:00:00.000001", "1"),
    (c(Kind.TIME, precision=0), "12:34:56", "12:34:56"),
    (c(Kind.DATETIME), "1970-01-01 00:00:00", "0"),
    (c(Kind.DATE), "2024-02-29", "2024-02-29"),
    (c(Kind.TIME), "12:34:56.789", "12:34:56.789"),
    (c(Kind.JSON), '{"b": 1.50, "a": [null]}', '{"a":[null],"b":1.5}'),
    (c(Kind.JSON), '"\\\\u0000"', '"\\\\u0000"'),
    (c(Kind.TEXT, choices=("on", "off")), "on", "on"),
    (c(Kind.OTHER), "(1,2)", "(1,2)"),
]


@pytest.mark.parametrize(("column", "text", "expected"), KEPT, ids=name)
def test_what_fits_is_kept_exactly(base: duckdb.DuckDBPyConnection, column: Column, text: str, expected: str) -> None:
    assert kept(base, column, text) == expected


@pytest.mark.parametrize("kind", list(Kind))
def test_null_stays_null_in_every_kind(base: duckdb.DuckDBPyConnection, kind: Kind) -> None:
    assert kept(base, c(kind), None, "BLOB" if kind is Kind.BINARY else "VARCHAR") is None
    assert kept(base, c(kind, nullable=False), None, "BLOB" if kind is Kind.BINARY else "VARCHAR") == "null"


NOT_KEPT = [
    (c(Kind.INT32), "5.7", HELD),
    (c(Kind.INT32), "", HELD),
    (c(Kind.INT32), "five", HELD),
    (c(Kind.INT32), "2147483648", HELD),
    (c(Kind.INT16), "32768", HELD),
    (c(Kind.INT64), "9223372036854775808", HELD),
    (c(Kind.INT32), "1e3", HELD),
    (c(Kind.NUMERIC), "", HELD),
    (c(Kind.NUMERIC), "NaN", HELD),
    (c(Kind.NUMERIC), "1_000", HELD),
    (c(Kind.NUMERIC, precision=10, scale=2), "100000000", HELD),
    (c(Kind.NUMERIC, precision=10, scale=2), "0.005", HELD),
    (c(Kind.NUMERIC, precision=4, scale=0), "1.5", HELD),
    (c(Kind.NUMERIC, precision=6, scale=-2), "12345", HELD),
    (c(Kind.NUMERIC, precision=6, scale=-2), "100000000", HELD),
    (c(Kind.FLOAT64), "a", HELD),
    (c(Kind.FLOAT64), "1e-400", HELD),
    (c(Kind.FLOAT32), "1e-60", HELD),
    (c(Kind.BOOLEAN), "maybe", HELD),
    (c(Kind.UUID), "", HELD),
    (c(Kind.UUID), "appt-17", HELD),
    (c(Kind.INSTANT), "1766750400000", HELD),
    (c(Kind.INSTANT), "2025-12-26T12:00:00.1234567Z", HELD),
    (c(Kind.INSTANT, precision=3), "2025-12-26T12:00:00.1234Z", "inexact"),
    (c(Kind.DATETIME, precision=0), "1969-12-31T23:59:59.5Z", "inexact"),
    (c(Kind.TIME, precision=0), "12:34:56.7", "inexact"),
    (c(Kind.DATE), "2024-02-29T10:00:00", HELD),
    (c(Kind.DATE), "2023-02-29", HELD),
    (c(Kind.TIME), "noon", HELD),
    (c(Kind.JSON), "{not json", HELD),
    (c(Kind.JSON), "", HELD),
    (c(Kind.TEXT), "a\u0000b", "unstorable"),
    (c(Kind.JSON), '{"a": "\\u0000"}', "unstorable"),
    (c(Kind.JSON), '"\\\\\\u0000"', "unstorable"),
    (c(Kind.TEXT, length=3), "four", "too_long"),
    (c(Kind.TEXT, choices=("on", "off")), "ON", "choice"),
]


@pytest.mark.parametrize(("column", "text", "why"), NOT_KEPT, ids=name)
def test_what_does_not_fit_is_held(base: duckdb.DuckDBPyConnection, column: Column, text: str, why: Any) -> None:
    assert kept(base, column, text) == why


@pytest.mark.parametrize(
    ("column", "sql_type", "given", "expected"),
    [
        (c(Kind.INT32), "DOUBLE", 5.0, "5"),
        (c(Kind.INT32), "DOUBLE", 5.7, HELD),
        (c(Kind.INT32), "DECIMAL(10, 2)", "5.50", HELD),
        (c(Kind.INT16), "BIGINT", 70000, HELD),
        (c(Kind.BOOLEAN), "INTEGER", 1, "true"),
        (c(Kind.BOOLEAN), "INTEGER", 2, HELD),
        (c(Kind.NUMERIC), "DOUBLE", 1e23, "100000000000000000000000"),
        (c(Kind.TEXT), "BIGINT", 12, "12"),
        (c(Kind.JSON), "BIGINT", 12, "12"),
        (c(Kind.FLOAT32), "DOUBLE", 0.1, "0.1"),
        (c(Kind.FLOAT32), "DOUBLE", 1e-60, HELD),
        (c(Kind.FLOAT32), "DOUBLE", -0.0, "0.0"),
    ],
    ids=name,
)
def test_typed_values_are_kept_or_held_as_well(
    base: duckdb.DuckDBPyConnection, column: Column, sql_type: str, given: Any, expected: Any
) -> None:
    assert kept(base, column, given, sql_type) == expected


@pytest.mark.parametrize(
    ("kind", "sql_type", "message"),
    [
        (Kind.UUID, "INTEGER", "write text or uuid5"),
        (Kind.INSTANT, "BIGINT", "write instant"),
        (Kind.DATE, "TIMESTAMP", "if the time may go"),
        (Kind.BINARY, "VARCHAR", "write from_base64"),
    ],
)
def test_what_can_never_fit_says_what_to_write_instead(kind: Kind, sql_type: str, message: str) -> None:
    with pytest.raises(NoCastError, match=message):
        cast("x", sql_type, c(kind))
