"""Fingerprints: an md5 over the canonical text of a row's columns, equal for source-shaped and fetched rows.

The text is a digest of the columns' names, then their canonical forms (mapping/columns.py) joined by `|`, a null
being empty, then the length in bytes of every text (empty for null): no two different rows have one text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import duckdb
import numpy as np
import pyarrow as pa

from resettle.batch import ARROW, Column, Kind
from resettle.engine.uniques import Hashes
from resettle.mapping.columns import canonical, literal, quote
from resettle.mapping.functions import query

_BAR = ", '|', "


def fingerprint_sql(columns: Sequence[Column]) -> str:
    """SQL for the fingerprint (BLOB of 16 bytes) over columns that stand in scope by their names."""
    parts = [canonical(column) for column in columns]
    texts = [quote(column.name) for column in columns if column.kind in {Kind.TEXT, Kind.OTHER}]
    parts += [f"CAST(strlen({text}) AS VARCHAR)" for text in texts]
    names = literal(hashlib.md5(",".join(c.name for c in columns).encode(), usedforsecurity=False).hexdigest()[:8])
    # concat() takes a null for empty; concat_ws() would leave its separator out, or need a coalesce() for each.
    return f"unhex(md5(concat({_BAR.join([names, *parts])})))"


def key_sql(columns: Sequence[Column]) -> str:
    """SQL for a key as text: one column plainly, several joined by `/` with `%` and `/` escaped."""
    texts = []
    for column in columns:
        name = quote(column.name)
        text = f"CAST({name} AS VARCHAR)"
        if column.kind is Kind.INSTANT:
            text = f"strftime({name}, {literal('%Y-%m-%dT%H:%M:%S.%fZ')})"
        elif column.kind is Kind.BINARY:
            text = f"hex({name})"
        texts.append(text)
    return join_key(texts)


def join_key(texts: Sequence[str]) -> str:
    """SQL joining text expressions to one key."""
    if len(texts) == 1:
        return texts[0]
    return " || '/' || ".join(f"replace(replace({text}, '%', '%25'), '/', '%2F')" for text in texts)


def key_hashes(connection: duckdb.DuckDBPyConnection, keys: pa.ChunkedArray) -> Hashes:
    """A 64-bit hash of each key text."""
    found = query(connection, "SELECT hash(k) AS h FROM _h", _h=pa.table({"k": keys}))
    hashes: Hashes = found["h"].to_numpy().view(np.int64)
    return hashes


def as_duckdb(table: pa.Table, columns: Sequence[Column]) -> pa.Table:
    """The same rows with uuids as DuckDB knows them (in batches they travel as 16 bytes)."""
    kinds = {column.name: column.kind for column in columns}
    for index, name in enumerate(table.column_names):
        if kinds.get(name) is Kind.UUID and not isinstance(table.schema.field(name).type, pa.UuidType):
            chunks = [pa.ExtensionArray.from_storage(pa.uuid(), chunk) for chunk in table[name].chunks]
            table = table.set_column(index, name, pa.chunked_array(chunks, pa.uuid()))
    return table


def wire_schema(columns: Sequence[Column]) -> pa.Schema:
    """The arrow types in which a target gives these columns."""
    return pa.schema([(column.name, ARROW[column.kind]) for column in columns])


def as_wire(table: pa.Table, columns: Sequence[Column]) -> pa.Table:
    """The same rows in the arrow types that connectors take and give (`batch.ARROW`)."""
    kinds = {column.name: column.kind for column in columns}
    for index, name in enumerate(table.column_names):
        if name not in kinds:
            continue
        wanted, column = ARROW[kinds[name]], table[name]
        if isinstance(column.type, pa.ExtensionType):
            column = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
        if column.type != wanted:
            column = column.cast(wanted)
        if column.type != table[name].type:
            table = table.set_column(index, name, column)
    return table


def fingerprints(connection: duckdb.DuckDBPyConnection, rows: pa.Table, columns: Sequence[Column]) -> pa.Array:
    """The fingerprint of each fetched row over ``columns`` (in that order)."""
    sql = f"SELECT {fingerprint_sql(columns)} AS fp FROM _rows"
    return query(connection, sql, _rows=as_duckdb(rows, columns))["fp"].combine_chunks()


def differing(
    connection: duckdb.DuckDBPyConnection, columns: Sequence[Column], wanted: pa.Table, found: pa.Table
) -> list[list[str]]:
    """For each pair of rows the columns whose canonical values differ."""
    names = [column.name for column in columns]
    values = ", ".join(f"{canonical(column)} AS {quote(column.name)}" for column in columns)
    flags = ", ".join(f"a.{quote(name)} IS DISTINCT FROM b.{quote(name)}" for name in names)
    told = query(
        connection,
        f"SELECT {flags} FROM (SELECT {values} FROM _a) a POSITIONAL JOIN (SELECT {values} FROM _b) b",
        _a=as_duckdb(wanted.select(names), columns),
        _b=as_duckdb(found.select(names), columns),
    )
    rows = np.array([flag.to_numpy() for flag in told.columns]).T
    return [[name for name, flag in zip(names, row, strict=True) if flag] for row in rows]
