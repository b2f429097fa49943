"""Shape: batches of source rows to batches of wanted target rows.

It never raises for a row's sake: a row that does not cast or cannot be stored holds its unit, with reason and
detail but without its value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import TROUBLE, Column, Kind
from resettle.engine.fingerprint import as_duckdb, as_wire
from resettle.engine.statements import FlowShape, OutputShape, struct_sql
from resettle.engine.uuids import from_text
from resettle.errors import ConfigError
from resettle.mapping.columns import literal, quote
from resettle.mapping.functions import query, run_tried

Ids = Callable[[int], pa.Array]
"""``ids(n)``: n fresh uuids as 16-byte values."""
Minted = Callable[[pa.Array, int], pa.Table]
"""``minted(units, output)``: _unit, _n, m (JSON object of column to value) of rows made earlier."""


@dataclass(frozen=True)
class Shaped:
    """What a batch should become.

    units:   _unit, _raw, status (null where it goes on), reason, detail, warnings; one row per source record
    outputs: per output: _unit, _n, its columns, _key, _fp (16 bytes), `_alt_*`; held units have no rows
    """

    units: pa.Table
    outputs: tuple[pa.Table, ...]


def _none_minted(units: pa.Array, output: int) -> pa.Table:
    return pa.table(
        {"_unit": pa.array([], pa.string()), "_n": pa.array([], pa.int64()), "m": pa.array([], pa.string())}
    )


@dataclass(frozen=True)
class Resolver:
    """What shaping needs from the ledger and the run: the id map, ids for minting, lookups' rows."""

    target_keys: Callable[[str, str | None, pa.Array], pa.Table]
    ids: Ids
    load_lookup: Callable[[str], None]
    minted: Minted = _none_minted


def unit_keys(connection: duckdb.DuckDBPyConnection, shape: FlowShape, rows: pa.Table) -> pa.Array:
    """The unit key of each source row; null where it has none."""
    connection.register("source", rows)
    try:
        found = query(connection, f"SELECT {shape.unit_sql} AS u FROM source")
    except duckdb.Error:
        found = run_tried(connection, f"SELECT TRY({shape.unit_sql}) AS u FROM source")
    finally:
        connection.unregister("source")
    return found["u"].combine_chunks()


def run(connection: duckdb.DuckDBPyConnection, shape: FlowShape, rows: pa.Table, resolver: Resolver) -> Shaped:
    """Shape a batch.

    ``rows`` holds the needed columns, _unit (not null), _raw, migration_time, and `_trouble` ("reason|detail")
    if some rows could not be read.
    """
    units = _rules(connection, shape, rows)
    going = pc.is_null(units["status"])
    source = rows.filter(going).drop_columns([n for n in (TROUBLE,) if n in rows.column_names])
    outputs: list[pa.Table] = []
    problems: list[pa.Table] = []
    if shape.rows_sql:
        source, problem = _explode(connection, shape.rows_sql, source)
        problems += problem
    elif "_n" not in source.column_names:
        source = source.append_column("_n", pa.repeat(pa.scalar(0, pa.int64()), source.num_rows))
    for number, output in enumerate(shape.outputs):
        declared = list(shape.flow.all_outputs.values())[number]
        own = source
        if declared.rows:
            own, problem = _explode(connection, output.rows_sql, source)
            problems += problem
        shaped, bad = _output(connection, output, number, own, shape.outputs[:number], outputs, resolver)
        problems += [bad] if bad is not None else []
        outputs.append(shaped.drop_columns(["_problem"]))
    if problems:
        units, outputs = _hold(units, outputs, pa.concat_tables(problems))
    if shape.rows_sql or any(output.rows_sql for output in shape.outputs):
        units = _skip_rowless(units, outputs)
    return Shaped(units, tuple(as_wire(t, o.columns) for t, o in zip(outputs, shape.outputs, strict=True)))


def _skip_rowless(units: pa.Table, outputs: Sequence[pa.Table]) -> pa.Table:
    """A record that a `rows:` query leaves out is skipped, visibly; a row must belong to a record."""
    rows = pa.chunked_array([chunk for table in outputs for chunk in table["_unit"].chunks], pa.string())
    strange = pc.invert(pc.is_in(rows, units["_unit"].combine_chunks()))
    if len(rows) and pc.any(strange).as_py():
        raise ConfigError("a `rows:` query gives rows whose _unit is no source record", hint="pass _unit on as it is")
    going = pc.is_null(units["status"]).combine_chunks()
    rowless = pc.and_(going, pc.invert(pc.is_in(units["_unit"], rows.combine_chunks())).combine_chunks())
    for name, word in (("status", "skipped"), ("reason", "no_rows")):
        changed = pc.if_else(rowless, word, units[name].combine_chunks())
        units = units.set_column(units.column_names.index(name), name, changed)
    return units


def _rules(connection: duckdb.DuckDBPyConnection, shape: FlowShape, rows: pa.Table) -> pa.Table:
    count = rows.num_rows
    none = pa.nulls(count, pa.string())
    status, reason, detail, warnings = none, none, none, none
    if shape.rules_sql:
        connection.register("source", rows)
        try:
            found = query(connection, shape.rules_sql)
        except duckdb.Error:
            found = run_tried(connection, shape.rules_try_sql or "")
        finally:
            connection.unregister("source")
        skip, hold, bad = (found[name].combine_chunks() for name in ("skip", "hold", "bad"))
        held = pc.or_(pc.is_valid(hold), pc.is_valid(bad))
        status = pc.if_else(pc.is_valid(skip), "skipped", pc.if_else(held, "held", none))
        reason = pc.coalesce(skip, hold, pc.if_else(pc.is_valid(bad), "rule_failed", none))
        detail = pc.if_else(pc.is_valid(skip), none, bad)
        warnings = found["warnings"].combine_chunks()
    if TROUBLE in rows.column_names:
        trouble = rows[TROUBLE].combine_chunks()
        broken = pc.is_valid(trouble)
        status = pc.if_else(broken, "held", status)
        reason = pc.if_else(broken, pc.replace_substring_regex(trouble, r"\|.*", ""), reason)
        detail = pc.if_else(broken, pc.replace_substring_regex(trouble, r"^[^|]*\|", ""), detail)
    return pa.table(
        {
            "_unit": rows["_unit"],
            "_raw": rows["_raw"],
            "status": status,
            "reason": reason,
            "detail": detail,
            "warnings": warnings,
        }
    )


def _explode(connection: duckdb.DuckDBPyConnection, sql: str, source: pa.Table) -> tuple[pa.Table, list[pa.Table]]:
    """Run a `rows:` query, and problems (unit, reason, detail) of the records that make it fail."""
    try:
        return _exploded(connection, sql, source), []
    except duckdb.Error:
        if source.num_rows < 2:
            detail = "the query in `rows:` fails on this record"
            columns = {"unit": source["_unit"], "reason": ["rows_failed"], "detail": [detail]}
            return _exploded(connection, sql, source.slice(0, 0)), [pa.table(columns)] if source.num_rows else []
    middle = source.num_rows // 2
    halves = [_explode(connection, sql, half) for half in (source.slice(0, middle), source.slice(middle))]
    return pa.concat_tables([rows for rows, _ in halves]), [one for _, found in halves for one in found]


def _exploded(connection: duckdb.DuckDBPyConnection, sql: str, source: pa.Table) -> pa.Table:
    """The query's rows; those of one unit are numbered in the order the query gives them."""
    connection.register("source", source)
    try:
        found = query(connection, sql)
    finally:
        connection.unregister("source")
    found = found.drop_columns([name for name in ("_n", "_raw") if name in found.column_names])
    connection.register("_found", found)
    try:
        numbered: pa.Table = query(
            connection,
            "SELECT * EXCLUDE (_at), row_number() OVER (PARTITION BY _unit ORDER BY _at) - 1 AS _n"
            " FROM (SELECT *, row_number() OVER () AS _at FROM _found) ORDER BY _at",
        )
    finally:
        connection.unregister("_found")
    return numbered


def _output(
    connection: duckdb.DuckDBPyConnection,
    output: OutputShape,
    number: int,
    source: pa.Table,
    earlier: Sequence[OutputShape],
    done: Sequence[pa.Table],
    resolver: Resolver,
) -> tuple[pa.Table, pa.Table | None]:
    names = ["base"]
    base = _beside(connection, source, earlier, done)
    if output.minted:
        base = _mint(connection, output, number, base, resolver)
    connection.register("base", base)
    try:
        for lookup, on in output.lookups:
            if run_tried(connection, f"SELECT 1 FROM base AS source WHERE TRY({on}) IS NOT NULL LIMIT 1").num_rows:
                resolver.load_lookup(lookup)
        for index, (flow, ref_output, on) in enumerate(output.refs):
            asked = run_tried(connection, f"SELECT DISTINCT TRY({on}) AS u FROM base AS source")["u"]
            found = resolver.target_keys(flow, ref_output, asked.combine_chunks().drop_null())
            # Under names that no source column has, so that an expression's `unit` stays the source's.
            connection.register(f"_ref{index}", found.rename_columns(["_unit_of", "_target_key"]))
            names.append(f"_ref{index}")
        try:
            shaped = _with_uuids(connection, output) or query(connection, output.sql)
        except duckdb.Error:
            shaped = run_tried(connection, output.try_sql)
        bad = shaped.filter(pc.is_valid(shaped["_problem"]))
        return shaped, _problems(connection, output, bad) if bad.num_rows else None
    finally:
        for name in names:
            connection.unregister(name)


def _with_uuids(connection: duckdb.DuckDBPyConnection, output: OutputShape) -> pa.Table | None:
    """The output with its uuids turned from text in one go; None where one of them needs DuckDB's cast."""
    if output.fast_sql is None:
        return None
    shaped = query(connection, output.fast_sql)
    for column in output.columns:
        if column.kind is Kind.UUID and pa.types.is_string(shaped[column.name].type):
            values = from_text(shaped[column.name])
            if values is None:
                return None
            shaped = shaped.set_column(shaped.column_names.index(column.name), column.name, values)
    return shaped


def _beside(
    connection: duckdb.DuckDBPyConnection,
    source: pa.Table,
    earlier: Sequence[OutputShape],
    done: Sequence[pa.Table],
) -> pa.Table:
    """Source rows with each earlier output's row of the same unit (same ordinal, else its first) as a struct."""
    if not earlier:
        return source
    joins, columns, names = [], [], ["_s"]
    connection.register("_s", source)
    for index, (output, table) in enumerate(zip(earlier, done, strict=True)):
        connection.register(f"_o{index}", as_duckdb(table, output.columns))
        names.append(f"_o{index}")
        struct = f"SELECT _unit, _n, {struct_sql(output)} AS v FROM _o{index}"
        joins.append(
            f"LEFT JOIN ({struct}) e{index} ON e{index}._unit = _s._unit AND e{index}._n = _s._n"
            f" LEFT JOIN ({struct}) f{index} ON f{index}._unit = _s._unit AND f{index}._n = 0"
        )
        columns.append(f"coalesce(e{index}.v, f{index}.v) AS {quote(output.name)}")
    try:
        found: pa.Table = query(connection, f"SELECT _s.*, {', '.join(columns)} FROM _s {' '.join(joins)}")
    finally:
        for name in names:
            connection.unregister(name)
    return found


def _mint(
    connection: duckdb.DuckDBPyConnection,
    output: OutputShape,
    number: int,
    base: pa.Table,
    resolver: Resolver,
) -> pa.Table:
    """Add _mint_<column>: the remembered value of each row, or a fresh one."""
    known = resolver.minted(pc.unique(base["_unit"]), number)
    for name in output.minted:
        fresh = pa.ExtensionArray.from_storage(pa.uuid(), resolver.ids(base.num_rows))
        table = base.append_column(f"_mint_{name}", fresh)
        connection.register("_b", table)
        connection.register("_m", known)
        try:
            base = query(
                connection,
                f"SELECT b.* REPLACE (coalesce(CAST(json_text(m.m, {literal(name)}) AS UUID),"
                f" b.{quote('_mint_' + name)}) AS {quote('_mint_' + name)})"
                " FROM _b b LEFT JOIN _m m ON m._unit = b._unit AND m._n = b._n",
            )
        finally:
            connection.unregister("_b")
            connection.unregister("_m")
    return base


def _problems(connection: duckdb.DuckDBPyConnection, output: OutputShape, bad: pa.Table) -> pa.Table:
    """unit, reason, detail of rows that cannot be written; the detail names column and class, never the value."""
    kinds = {column.name: column for column in output.columns}
    connection.register("_bad", bad.select(["_unit", "_n", "_problem"]))
    arms = " ".join(
        f"WHEN {literal('cast|' + name)} THEN {_value_class(f'TRY(CAST(({sql}) AS VARCHAR))')}"
        for name, sql in output.plain.items()
    )
    classes = f"CASE _problem {arms} END" if arms else "CAST(NULL AS VARCHAR)"
    try:
        rows = run_tried(
            connection,
            f"SELECT source._unit AS unit, _problem, {classes} AS class FROM _bad JOIN base AS source"
            " ON source._unit = _bad._unit AND source._n = _bad._n",
        )
    finally:
        connection.unregister("_bad")
    split = [problem.partition("|") for problem in rows["_problem"].to_pylist()]
    details = [
        f"{output.dataset}.{_explain(reason, kinds[name], value_class)}"
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
        "too_long": f"{column.name}: longer than {native} allows",
        "lookup_missing": f"{column.name}: the value is not in the lookup, or what it gives does not become {native}",
        "reference_missing": f"{column.name}: the unit it points at was not migrated",
        "choice": f"{column.name}: not one of {', '.join(column.choices or ())}",
    }[reason]


def _hold(units: pa.Table, outputs: Sequence[pa.Table], problems: pa.Table) -> tuple[pa.Table, list[pa.Table]]:
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
        units = units.set_column(units.column_names.index(name), name, column)
    keep = first["unit"].combine_chunks()
    return units, [table.filter(pc.invert(pc.is_in(table["_unit"], keep))) for table in outputs]
