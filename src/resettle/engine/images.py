"""Before-images: what a run overwrote, as JSON of exact texts, and back into values.

Of an updated row it is {column: text or null}. Of a patched one {column: {"was": text, "set": canonical text}} for a
column that was set as a whole, {column: {"at": pointer, "was": JSON or null, "set": JSON}} for a place in a document.
Of a row that is left to its owner from then on it has no column. `_known` is what the ledger remembered of the row:
null if nothing, else {"fingerprint": hex, "shape", "reused"}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from resettle.batch import Column, Kind
from resettle.engine.fingerprint import as_duckdb
from resettle.mapping.columns import DUCKDB, canonical, literal, quote
from resettle.mapping.functions import query

KNOWN = "_known"

Image = Mapping[str, Any]


def text_sql(column: Column, alias: str = "") -> str:
    """SQL for a value's exact text."""
    name = f"{alias}.{quote(column.name)}" if alias else quote(column.name)
    return f"hex({name})" if column.kind is Kind.BINARY else f"CAST({name} AS VARCHAR)"


def value_sql(text: str, column: Column) -> str:
    """SQL for the value whose text is the expression ``text``; null where it is none."""
    if column.kind is Kind.BINARY:
        return f"TRY(unhex({text}))"
    return f"TRY_CAST({text} AS {DUCKDB[column.kind]})"


def image_sql(columns: Sequence[Column], alias: str) -> str:
    """SQL for a JSON object of columns as text: exact, whatever JSON makes of numbers."""
    fields = ", ".join(f"{literal(column.name)}, {text_sql(column, alias)}" for column in columns)
    return f"CAST(json_object({fields}) AS VARCHAR)"


def with_known(connection: duckdb.DuckDBPyConnection, images: pa.Table, known: pa.Table) -> pa.Table:
    """The images (unit, n, ..., image) with what the ledger remembers of their rows (unit, n, fp, shape, reused)."""
    remembered = (
        "CASE WHEN k.unit IS NULL THEN 'null' ELSE CAST(json_object('fingerprint', lower(hex(k.fp)),"
        " 'shape', k.shape, 'reused', k.reused = 1) AS VARCHAR) END"
    )
    comma = "CASE WHEN i.image = '{}' THEN '' ELSE ',' END"
    return query(
        connection,
        f"SELECT i.* REPLACE (left(i.image, -1) || {comma} || '{json.dumps(KNOWN)}:' || {remembered} || '}}'"
        " AS image) FROM _i i LEFT JOIN _k k ON k.unit = i.unit AND k.n = i.n",
        _i=images,
        _k=known,
    )


def texts(
    connection: duckdb.DuckDBPyConnection, rows: pa.Table, columns: Sequence[Column], *, exact: bool
) -> dict[str, list[str | None]]:
    """The values of each column as text: as they are, or (not ``exact``) as a fingerprint takes them."""
    if not columns:
        return {}
    form = text_sql if exact else canonical
    picked = ", ".join(f"{form(column)} AS {quote(column.name)}" for column in columns)
    rows = as_duckdb(rows.select([column.name for column in columns]), columns)
    found = query(connection, f"SELECT {picked} FROM _t", _t=rows)
    return {column.name: found[column.name].to_pylist() for column in columns}


def is_patch(image: Image) -> bool:
    """Whether the image is of a patch."""
    return any(isinstance(value, Mapping) for name, value in image.items() if name != KNOWN)
