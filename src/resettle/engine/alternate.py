"""Alternate keys: what a row is called where another unit already has its key (`on_duplicate_key`)."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import set_column
from resettle.engine.fingerprint import as_duckdb, as_wire, fingerprint_sql, key_sql
from resettle.engine.statements import OutputShape
from resettle.mapping.functions import query


def alternate(connection: duckdb.DuckDBPyConnection, output: OutputShape, rows: pa.Table) -> pa.Table:
    """The same rows under their alternate keys; key text and fingerprint are made again."""
    for name in output.alternates:
        column = next(c for c in output.columns if c.name == name)
        value = as_wire(rows.select(["_alt_" + name]).rename_columns([name]), [column])[name]
        rows = set_column(rows, name, value)
    return keyed_again(connection, output, rows)


def keyed_again(connection: duckdb.DuckDBPyConnection, output: OutputShape, rows: pa.Table) -> pa.Table:
    """The rows with the key text and the fingerprint of what they now hold."""
    sql = f"SELECT {key_sql(output.key)} AS _key, {fingerprint_sql(output.columns)} AS _fp FROM _p"
    again = query(connection, sql, _p=as_duckdb(rows.select(list(output.names)), output.columns))
    for name in ("_key", "_fp"):
        rows = set_column(rows, name, again[name])
    return rows


def rekeyed(connection: duckdb.DuckDBPyConnection, output: OutputShape, rows: pa.Table, known: pa.Table) -> pa.Table:
    """Rows that an earlier run gave their alternate key keep it. ``known``: the ledger's rows of this output."""
    if not output.alternates or not known.num_rows:
        return rows
    changed = alternate(connection, output, rows)
    hits = query(
        connection,
        "SELECT coalesce(k.target_key = w.alt, false) AS hit"
        " FROM (SELECT *, row_number() OVER () AS at FROM _w) w"
        " LEFT JOIN _k k ON k.unit = w._unit AND k.n = w._n ORDER BY w.at",
        _w=pa.table({"_unit": rows["_unit"], "_n": rows["_n"], "alt": changed["_key"]}),
        _k=known,
    )["hit"].combine_chunks()
    for name in (*output.alternates, "_key", "_fp"):
        merged = pc.if_else(hits, changed[name].combine_chunks(), rows[name].combine_chunks())
        rows = set_column(rows, name, merged)
    return rows
