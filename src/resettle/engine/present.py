"""Present: the rows that a target holds now, beside what we wrote into them and what we want there."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import Column
from resettle.engine.decision import in_conflict
from resettle.engine.fingerprint import as_duckdb, fingerprint_sql, fingerprints, key_sql
from resettle.engine.statements import OutputShape, struct_of
from resettle.mapping.columns import quote
from resettle.mapping.functions import query, run_tried


def keyed_rows(
    connection: duckdb.DuckDBPyConnection,
    output: OutputShape,
    present: pa.Table,
    matched: pa.Table,
    wanted: pa.Table,
    shapes: Mapping[int, tuple[str, ...]],
) -> pa.Table:
    """_at, _key, _fp and _left (still as we left it) of the fetched rows."""
    sql = f"SELECT {key_sql(output.key)} AS _key, {fingerprint_sql(output.columns)} AS _fp FROM _p"
    keys = query(connection, sql, _p=as_duckdb(present, output.schema.columns))
    keys = keys.append_column("_at", pa.array(np.arange(present.num_rows)))
    left = [
        _left(connection, output, present, keys, matched.filter(pc.field("shape") == shape), wanted, names)
        for shape, names in shapes.items()
    ]
    ats = pa.chunked_array(left, pa.int64()) if left else pa.chunked_array([[]], pa.int64())
    return keys.append_column("_left", pc.is_in(keys["_at"], ats.combine_chunks()))


def keyed(connection: duckdb.DuckDBPyConnection, rows: pa.Table, key: Sequence[Column]) -> pa.Table:
    """The rows with their key as text, _key."""
    keys = as_duckdb(rows.select([column.name for column in key]), key)
    return rows.append_column("_key", query(connection, f"SELECT {key_sql(key)} AS k FROM _p", _p=keys)["k"])


def with_updates(
    connection: duckdb.DuckDBPyConnection, output: OutputShape, rows: pa.Table, present: pa.Table
) -> pa.Table:
    """The rows with the values that come with an update: _upd_<column>, null where no row is updated.

    A row whose value cannot be made is in conflict.
    """
    if not output.updates:
        return rows
    update = pc.equal(rows["_action"], "update")
    at = pc.if_else(update, rows["_present"], pa.scalar(None, pa.int64())).combine_chunks()
    there = present.take(at) if present.num_rows else pa.nulls(rows.num_rows)
    columns = [column for column in output.schema.columns if column.name in present.column_names]
    target = struct_of(columns, null=not present.num_rows)
    # in a struct, because a value that is null is not one that cannot be made
    tried = ", ".join(
        f"TRY(struct_pack(v := {parsed.sql})) AS {quote('_upd_' + name)}" for name, parsed in output.updates.items()
    )
    found = run_tried(
        connection,
        f"SELECT {tried} FROM (SELECT r.*, p.target FROM _r r POSITIONAL JOIN (SELECT {target} AS target FROM _p) p)",
        _r=as_duckdb(rows.select(list(output.names)), output.columns),
        _p=as_duckdb(there, columns) if present.num_rows else pa.table({"nothing": there}),
    )
    for name in output.updates:
        value = found[f"_upd_{name}"]
        rows = rows.append_column(f"_upd_{name}", pc.struct_field(value, [0]))
        rows = in_conflict(rows, pc.and_(update, pc.is_null(value)), "update_failed")
    return rows


def _left(
    connection: duckdb.DuckDBPyConnection,
    output: OutputShape,
    present: pa.Table,
    keys: pa.Table,
    matched: pa.Table,
    wanted: pa.Table,
    names: tuple[str, ...],
) -> pa.Array:
    """_at of the fetched rows that still are what we wrote with the columns ``names``.

    A column that the mapping has gained since must be empty, or hold what is wanted: else it is somebody's.
    """
    columns = [c for name in names if (c := output.schema.column(name))]
    gained = [column for column in output.columns if column.name not in names]
    now = keys.append_column("now", fingerprints(connection, present, columns))
    theirs, ours = _extra(connection, present, gained), _extra(connection, wanted, gained)
    return query(
        connection,
        "SELECT p._at FROM _k k JOIN _w w ON w._at = k._at JOIN _p p ON p._key = w._key AND p.now = k.fp"
        " WHERE p.more IS NULL OR p.more = w.more",
        _p=now.append_column("more", theirs),
        _k=matched,
        _w=wanted.select(["_at", "_key"]).append_column("more", ours),
    )["_at"].combine_chunks()


def _extra(connection: duckdb.DuckDBPyConnection, rows: pa.Table, columns: Sequence[Column]) -> pa.Array:
    """A fingerprint of some columns of each row; null where all of them are."""
    if not columns:
        return pa.nulls(rows.num_rows, pa.binary())
    filled = [pc.is_valid(rows[column.name]).combine_chunks() for column in columns]
    some = functools.reduce(pc.or_, filled)
    return pc.if_else(some, fingerprints(connection, rows, columns), pa.scalar(None, pa.binary()))
