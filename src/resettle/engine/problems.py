"""Problems: why rows cannot be made, in words without their values, and their units held."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import Column, set_column
from resettle.engine.statements import OutputShape
from resettle.mapping.columns import literal
from resettle.mapping.functions import run_tried


def failed(rows: pa.Table, rule: str) -> pa.Table:
    """Problems of rows about which a condition of the mapping cannot be told."""
    detail = f"a condition in `{rule}:` fails on this record"
    count = rows.num_rows
    return pa.table({"unit": rows["_unit"], "reason": ["rule_failed"] * count, "detail": [detail] * count})


def problems_of(connection: duckdb.DuckDBPyConnection, output: OutputShape, bad: pa.Table) -> pa.Table:
    """unit, reason, detail of rows that cannot be written; the detail names column and class, never the value."""
    kinds = {column.name: column for column in output.schema.columns}
    # Under names that no source column has, so that an expression's `_n` stays the source's.
    bad = bad.select(["_unit", "_n", "_problem"]).rename_columns(["_unit_of", "_n_of", "_problem"])
    arms = " ".join(
        f"WHEN {literal('cast|' + name)} THEN {_value_class(f'TRY(CAST(({sql}) AS VARCHAR))')}"
        for name, sql in output.plain.items()
    )
    classes = f"CASE _problem {arms} END" if arms else "CAST(NULL AS VARCHAR)"
    rows = run_tried(
        connection,
        f"SELECT source._unit AS unit, _problem, {classes} AS class FROM _bad JOIN base AS source"
        " ON source._unit = _bad._unit_of AND source._n = _bad._n_of",
        _bad=bad,
    )
    split = [problem.partition("|") for problem in rows["_problem"].to_pylist()]
    details = [
        f"{output.dataset}.{_explain(reason, kinds[name], value_class)}"
        if name in kinds
        else f"{output.dataset}: the expression of `{name.removeprefix('_')}` fails on this record"
        for (reason, _, name), value_class in zip(split, rows["class"].to_pylist(), strict=True)
    ]
    return pa.table(
        {
            "unit": rows["unit"],
            "reason": pa.array([reason for reason, _, _ in split], pa.string()),
            "detail": pa.array(details, pa.string()),
        }
    )


def _value_class(text: str) -> str:
    """SQL for what kind of value a text is, without saying which."""
    return (
        f"CASE WHEN {text} IS NULL THEN 'a value that its expression refuses' WHEN {text} = '' THEN 'empty text'"
        f" WHEN regexp_full_match({text}, '[+-]?[0-9.eE+-]+') THEN 'a number of ' || length({text}) || ' characters'"
        f" ELSE 'a text of ' || length({text}) || ' characters' END"
    )


def _explain(reason: str, column: Column, value_class: str | None) -> str:
    native = column.native or column.kind
    return {
        "cast": f"{column.name}: {value_class or 'the value'} does not become {native}",
        "null": f"{column.name}: NOT NULL, and there is no value",
        "no_key": f"{column.name}: part of the key, and there is no value",
        "unstorable": f"{column.name}: holds the character U+0000, which {native} cannot store",
        "inexact": f"{column.name}: {native} would not keep the value to the last digit",
        "too_long": f"{column.name}: longer than {native} allows",
        "lookup_missing": f"{column.name}: the value is not in the lookup, or what it gives does not become {native}",
        "reference_missing": f"{column.name}: the unit it points at was not migrated",
        "choice": f"{column.name}: not one of {', '.join(column.choices or ())}",
    }[reason]


def hold(units: pa.Table, outputs: Sequence[pa.Table], problems: pa.Table) -> tuple[pa.Table, list[pa.Table]]:
    """Hold every unit that has a problem (its first) and drop its rows from every output."""
    first = problems.group_by("unit", use_threads=False).aggregate([("reason", "first"), ("detail", "first")])
    at = pc.index_in(units["_unit"], first["unit"].combine_chunks())
    hit = pc.is_valid(at)
    changed = {
        "status": pc.if_else(hit, "held", units["status"]),
        "reason": pc.if_else(hit, first["reason_first"].combine_chunks().take(at), units["reason"]),
        "detail": pc.if_else(hit, first["detail_first"].combine_chunks().take(at), units["detail"]),
    }
    for name, column in changed.items():
        units = set_column(units, name, column)
    keep = first["unit"].combine_chunks()
    return units, [table.filter(pc.invert(pc.is_in(table["_unit"], keep))) for table in outputs]
