"""Spelling: values of types that only the target knows, as it gives them back, so that fingerprints agree.

`2001:DB8::1` in a column of type inet is read back as `2001:db8::1`, and `1 day` in one of type interval as `P1D`.
"""

from __future__ import annotations

from collections.abc import Callable

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import Column, Kind, set_column
from resettle.engine.fingerprint import fingerprints
from resettle.engine.statements import OutputShape

Spelt = Callable[[OutputShape, str, pa.Array], pa.Array]
"""``spelt(output, column, texts)``: each text as the output's target gives it back; null where it refuses it."""


def as_they_are(output: OutputShape, column: str, texts: pa.Array) -> pa.Array:
    """Of a target without types of its own."""
    return texts


def as_stored(
    connection: duckdb.DuckDBPyConnection, output: OutputShape, rows: pa.Table, fine: pa.ChunkedArray, spelt: Spelt
) -> tuple[pa.Table, list[pa.Table]]:
    """The rows, those that are ``fine`` as their target spells them, and problems (unit, reason, detail) of those that
    it refuses. A key stays as it is."""
    before, problems = rows, list[pa.Table]()
    for column in output.columns:
        if column.kind is not Kind.OTHER or column.choices is not None or column.name in output.key_names:
            continue
        texts = rows[column.name].combine_chunks()
        asked = pc.if_else(fine, texts, pa.scalar(None, texts.type)).combine_chunks()
        if asked.null_count == len(asked):
            continue
        stored = spelt(output, column.name, asked)
        refused = pc.and_(pc.is_valid(asked), pc.is_null(stored))
        if pc.any(refused).as_py():
            problems.append(_refused(output, column, rows.filter(refused)))
        rows = set_column(rows, column.name, pc.coalesce(stored, texts))
    if rows is before:
        return rows, problems
    return set_column(rows, "_fp", fingerprints(connection, rows, output.columns)), problems


def _refused(output: OutputShape, column: Column, rows: pa.Table) -> pa.Table:
    lengths = pc.utf8_length(rows[column.name]).cast(pa.string())
    told = f" characters does not become {column.native}"
    detail = pc.binary_join_element_wise(f"{output.dataset}.{column.name}: a text of ", lengths, told, "")
    reason = pa.repeat(pa.scalar("cast"), rows.num_rows)
    return pa.table({"unit": rows["_unit"], "reason": reason, "detail": detail})
