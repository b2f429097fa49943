"""Shape: batches of source rows to batches of wanted target rows.

It never raises for a row's sake: a row that does not cast or cannot be stored holds its unit, with reason and
detail but without its value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import TROUBLE, Kind, set_column
from resettle.engine.fingerprint import as_duckdb, as_wire
from resettle.engine.problems import failed, hold, problems_of
from resettle.engine.spelling import Spelt, as_stored, as_they_are
from resettle.engine.statements import FlowShape, OutputShape, struct_sql
from resettle.engine.uuids import from_text
from resettle.errors import ConfigError
from resettle.mapping.columns import literal, quote
from resettle.mapping.functions import query, relations, run_tried

Ids = Callable[[int], pa.Array]
"""``ids(n)``: n fresh uuids as 16-byte values."""
Minted = Callable[[int], pa.Table]
"""``minted(place)``: _unit, _n, m (JSON object of column to value) of the batch's rows made earlier."""


@dataclass(frozen=True)
class Shaped:
    """What a batch should become.

    units:   _unit, _raw, status (null where it goes on), reason, detail, warnings; one row per source record
    outputs: per output: _unit, _n, its columns, _key, _fp (16 bytes), `_alt_*`; held units have no rows
    rows:    of a flow with `rows:`: _unit, skip and wait (the rules that leave the row out, or null), row (its key)
    """

    units: pa.Table
    outputs: tuple[pa.Table, ...]
    rows: pa.Table

    def of(self, units: pa.Array) -> Shaped:
        """What is of these units."""
        return Shaped(_of(self.units, units), tuple(_of(table, units) for table in self.outputs), _of(self.rows, units))


@dataclass(frozen=True)
class Started:
    """A batch as far as it can be shaped without a look at the target.

    units:    as in `Shaped`
    source:   the rows that outputs are made of: _unit, _n, the source's columns or those of `rows:`
    rows:     as in `Shaped`
    problems: unit, reason, detail
    outputs:  by output its rows before they are settled, where they depend on no earlier output
    """

    units: pa.Table
    source: pa.Table
    rows: pa.Table
    problems: tuple[pa.Table, ...]
    outputs: tuple[pa.Table | None, ...]

    def of(self, units: pa.Array) -> Started:
        """What is of these units."""
        problems = tuple(_of(one, units, "unit") for one in self.problems)
        outputs = tuple(None if rows is None else _of(rows, units) for rows in self.outputs)
        return Started(_of(self.units, units), _of(self.source, units), _of(self.rows, units), problems, outputs)


def _of(table: pa.Table, units: pa.Array, name: str = "_unit") -> pa.Table:
    return table.filter(pc.is_in(table[name], units))


def _none_minted(place: int) -> pa.Table:
    return pa.schema([("_unit", pa.string()), ("_n", pa.int64()), ("m", pa.string())]).empty_table()


NO_ROWS = pa.table({name: pa.array([], pa.string()) for name in ("_unit", "skip", "wait", "row")})
NOTHING_SHAPED = Shaped(NO_ROWS, (), NO_ROWS)

Settle = Callable[[int, OutputShape, pa.Table], tuple[pa.Table, pa.Table | None]]
"""``settle(place, output, rows)``: the rows of a `match:` output under the keys of the rows that they reuse, and
problems (unit, reason, detail) of those that must not be reused."""


def settled(place: int, output: OutputShape, rows: pa.Table) -> tuple[pa.Table, None]:
    """Nothing to reuse."""
    return rows, None


@dataclass(frozen=True)
class Resolver:
    """What shaping needs from the ledger, the target and the run: the id map, ids for minting, what `match:` outputs
    reuse, how the target spells values of its own types."""

    target_keys: Callable[[str, str | None, pa.Array], pa.Table]
    ids: Ids
    minted: Minted = _none_minted
    settle: Settle = settled
    spelt: Spelt = as_they_are


def unit_keys(connection: duckdb.DuckDBPyConnection, shape: FlowShape, rows: pa.Table) -> pa.Array:
    """The unit key of each source row; null where it has none."""
    plain, tried = (f"SELECT {sql} AS u FROM source" for sql in (shape.unit_sql, f"TRY({shape.unit_sql})"))
    return _tried(connection, plain, tried, source=rows)["u"].combine_chunks()


def start(connection: duckdb.DuckDBPyConnection, shape: FlowShape, rows: pa.Table, resolver: Resolver) -> Started:
    """Apply the rules and the `rows:` query, and shape the outputs that need nothing else.

    ``rows`` holds the needed columns, _unit (not null), _raw, migration_time, and `_trouble` ("reason|detail")
    if some rows could not be read. Of ``resolver`` what it remembers is not asked for.
    """
    if "_n" not in rows.column_names:
        rows = rows.append_column("_n", pa.repeat(pa.scalar(0, pa.int64()), rows.num_rows))
    units = _rules(connection, shape, rows)
    going = pc.is_null(units["status"])
    source = rows.filter(going).drop_columns([n for n in (TROUBLE,) if n in rows.column_names])
    problems: list[pa.Table] = []
    exploded = NO_ROWS
    if shape.rows_sql:
        source, problems = _explode(connection, shape.rows_sql, source)
        units, source, exploded, problem = _leave_out(connection, shape, units, source)
        problems += problem
    outputs: list[pa.Table | None] = []
    for number, output in enumerate(shape.outputs):
        shaped, bad = _output(connection, shape, number, source, (), resolver) if output.ahead else (None, [])
        outputs.append(shaped)
        problems += bad
    return Started(units, source, exploded, tuple(problems), tuple(outputs))


def finish(connection: duckdb.DuckDBPyConnection, shape: FlowShape, started: Started, resolver: Resolver) -> Shaped:
    """Shape the other outputs, one after the other, and settle them."""
    units, outputs, problems = started.units, list[pa.Table](), list(started.problems)
    for number, (output, shaped) in enumerate(zip(shape.outputs, started.outputs, strict=True)):
        if shaped is None:
            shaped, bad = _output(connection, shape, number, started.source, outputs, resolver)
            problems += bad
        if output.settles:
            shaped, refused = resolver.settle(number, output, shaped)
            problems += [refused] if refused is not None else []
        outputs.append(shaped)
    if problems:
        units, outputs = hold(units, outputs, pa.concat_tables(problems))
    if any(output.rows_sql or output.statements.when for output in shape.outputs) or shape.rows_sql:
        units = _skip_rowless(units, outputs, started.rows)
    return Shaped(units, tuple(outputs), started.rows)


def _leave_out(
    connection: duckdb.DuckDBPyConnection, shape: FlowShape, units: pa.Table, source: pa.Table
) -> tuple[pa.Table, pa.Table, pa.Table, list[pa.Table]]:
    """The units with what is said of their rows, the rows that no rule about rows leaves out, all of them with their
    rule, and problems of the rules."""
    if not shape.row_rules_sql:
        none = pa.nulls(source.num_rows, pa.string())
        return units, source, pa.table({"_unit": source["_unit"], "skip": none, "wait": none, "row": none}), []
    found = _tried(connection, shape.row_rules_sql, shape.row_rules_try_sql or "", source=source)
    wait = pc.if_else(pc.is_valid(found["skip"]), pa.scalar(None, pa.string()), found["hold"])
    named = found["row"] if "row" in found.column_names else source["_n"].cast(pa.string())
    exploded = pa.table({"_unit": source["_unit"], "skip": found["skip"], "wait": wait, "row": named})
    bad = source.filter(pc.is_valid(found["bad"]))
    problems = [failed(bad, "skip_rows")] if bad.num_rows else []
    units = _warned(connection, units, source["_unit"], found["warnings"])
    return units, source.filter(pc.and_(pc.is_null(found["skip"]), pc.is_null(wait))), exploded, problems


def _warned(
    connection: duckdb.DuckDBPyConnection, units: pa.Table, of: pa.ChunkedArray, warnings: pa.ChunkedArray
) -> pa.Table:
    """The units with the warnings of rows behind their own, each once; ``of``: the unit of each row."""
    said = pa.table({"unit": of, "w": warnings})
    said = said.filter(pc.is_valid(said["w"]))
    if not said.num_rows:
        return units
    each = query(
        connection,
        "SELECT unit, string_agg(DISTINCT w, ',' ORDER BY w) AS w"
        " FROM (SELECT unit, unnest(string_split(w, ',')) AS w FROM _w) GROUP BY unit",
        _w=said,
    )
    at = pc.index_in(units["_unit"].combine_chunks(), each["unit"].combine_chunks())
    own, theirs = units["warnings"].combine_chunks(), each["w"].combine_chunks().take(at)
    both = pc.binary_join_element_wise(pc.fill_null(own, ""), theirs, ",")
    return set_column(units, "warnings", pc.coalesce(pc.if_else(pc.is_null(own), theirs, both), own))


def _tried(connection: duckdb.DuckDBPyConnection, sql: str, tried: str, /, **rows: pa.Table) -> pa.Table:
    """The answer of a statement over ``rows``, or of its tried form where it fails on one of them."""
    try:
        return query(connection, sql, **rows)
    except duckdb.Error:
        return run_tried(connection, tried, **rows)


def _skip_rowless(units: pa.Table, outputs: Sequence[pa.Table], exploded: pa.Table) -> pa.Table:
    """A record that a `rows:` query leaves out is skipped, visibly; a row must belong to a record."""
    rows = pa.chunked_array([chunk for table in outputs for chunk in table["_unit"].chunks], pa.string())
    strange = pc.invert(pc.is_in(rows, units["_unit"].combine_chunks()))
    if len(rows) and pc.any(strange).as_py():
        raise ConfigError("a `rows:` query gives rows whose _unit is no source record", hint="pass _unit on as it is")
    going = pc.is_null(units["status"]).combine_chunks()
    rowless = pc.and_(going, pc.invert(pc.is_in(units["_unit"], rows.combine_chunks())).combine_chunks())
    waits = exploded.filter(pc.is_valid(exploded["wait"]))["_unit"].combine_chunks()
    rowless = pc.and_(rowless, pc.invert(pc.is_in(units["_unit"], waits)).combine_chunks())
    had_rows = pc.is_in(units["_unit"], exploded["_unit"].combine_chunks())
    why = pc.if_else(had_rows, "rows_skipped", "no_rows").combine_chunks()
    for name, word in (("status", "skipped"), ("reason", why)):
        changed = pc.if_else(rowless, word, units[name].combine_chunks())
        units = set_column(units, name, changed)
    return units


def _rules(connection: duckdb.DuckDBPyConnection, shape: FlowShape, rows: pa.Table) -> pa.Table:
    count = rows.num_rows
    none = pa.nulls(count, pa.string())
    status, reason, detail, warnings = none, none, none, none
    if shape.rules_sql:
        found = _tried(connection, shape.rules_sql, shape.rules_try_sql or "", source=rows)
        skip, hold, bad = (found[name].combine_chunks() for name in ("skip", "hold", "bad"))
        held = pc.or_(pc.is_valid(hold), pc.is_valid(bad))
        status = pc.if_else(pc.is_valid(skip), "skipped", pc.if_else(held, "held", none))
        reason = pc.coalesce(skip, hold, pc.if_else(pc.is_valid(bad), "rule_failed", none))
        detail = pc.if_else(pc.is_valid(skip), none, bad)
        warnings = pc.if_else(pc.is_valid(skip), none, found["warnings"].combine_chunks())
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
    found = query(connection, sql, source=source)
    found = found.drop_columns([name for name in ("_n", "_raw") if name in found.column_names])
    return found.append_column("_n", _ordinals(found["_unit"]))


def _ordinals(units: pa.ChunkedArray) -> pa.Array:
    """0, 1, 2, ... for the rows of each unit, in the order in which they stand."""
    codes = units.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.empty(0, np.int64)
    lengths = np.diff(np.r_[starts, len(ordered)])
    ordinals = np.empty(len(codes), np.int64)
    ordinals[order] = np.arange(len(codes)) - np.repeat(starts, lengths)
    return pa.array(ordinals)


def _output(
    connection: duckdb.DuckDBPyConnection,
    shape: FlowShape,
    number: int,
    source: pa.Table,
    done: Sequence[pa.Table],
    resolver: Resolver,
) -> tuple[pa.Table, list[pa.Table]]:
    """The rows of one output before they are settled, and the problems (unit, reason, detail) of some of them.

    ``done``: the rows of the outputs before it, where it names one.
    """
    output, problems = shape.outputs[number], list[pa.Table]()
    if output.rows_sql:
        source, problems = _explode(connection, output.rows_sql, source)
    base = _beside(connection, source, output, shape.outputs, done)
    if output.statements.when:
        kept = _tried(connection, output.statements.when, output.statements.when_tried or "", base=base)
        if pc.any(kept["_bad"]).as_py():
            problems.append(failed(base.filter(kept["_bad"]), "when"))
        base = base.filter(kept["_keep"])
    if output.minted:
        base = _mint(connection, output, number, base, resolver)
    with relations(connection, base=base, **_pointed_at(connection, output, base, resolver)):
        try:
            if (shaped := _with_uuids(connection, output)) is None:
                shaped = query(connection, output.statements.sql)
        except duckdb.Error:
            shaped = run_tried(connection, output.statements.tried)
        fine = pc.is_null(shaped["_problem"])
        if not pc.all(fine).as_py():
            problems.append(problems_of(connection, output, shaped.filter(pc.invert(fine))))
    shaped = as_wire(shaped.drop_columns(["_problem"]), output.written)
    shaped, bad = as_stored(connection, output, shaped, fine, resolver.spelt)
    problems += bad
    return shaped.filter(fine) if output.settles else shaped, problems


def _pointed_at(
    connection: duckdb.DuckDBPyConnection, output: OutputShape, base: pa.Table, resolver: Resolver
) -> dict[str, pa.Table]:
    """The target keys of what the output's rows refer to, by the name under which its statement joins them."""
    pointed = {}
    for index, (flow, ref_output, on) in enumerate(output.refs):
        distinct = f"SELECT DISTINCT TRY({on}) AS u FROM base AS source"
        storable = "NOT contains(CAST(u AS VARCHAR), chr(0))"  # no unit is called otherwise, and no ledger takes it
        asked = run_tried(connection, f"SELECT u FROM ({distinct}) WHERE {storable}", base=base)["u"]
        found = resolver.target_keys(flow, ref_output, asked.combine_chunks().drop_null())
        # Under names that no source column has, so that an expression's `unit` stays the source's.
        pointed[f"_ref{index}"] = found.rename_columns(["_unit_of", "_target_key"])
    return pointed


def _with_uuids(connection: duckdb.DuckDBPyConnection, output: OutputShape) -> pa.Table | None:
    """The output with its uuids turned from text in one go; None where one of them needs DuckDB's cast."""
    if output.statements.fast is None:
        return None
    shaped = query(connection, output.statements.fast)
    for column in output.written:
        if column.kind is Kind.UUID and pa.types.is_string(shaped[column.name].type):
            values = from_text(shaped[column.name])
            if values is None:
                return None
            shaped = set_column(shaped, column.name, values)
    return shaped


def _beside(
    connection: duckdb.DuckDBPyConnection,
    source: pa.Table,
    output: OutputShape,
    earlier: Sequence[OutputShape],
    done: Sequence[pa.Table],
) -> pa.Table:
    """Source rows with each earlier output's row, where one is named, of the same ordinal in the same unit as a struct.

    Where one of the two has rows of its own, so that ordinals mean little, the first row stands in for none.
    """
    named = [(other, table) for other, table in zip(earlier, done, strict=False) if other.name in output.beside]
    if not named:
        return source
    joins, columns, tables = [], [], {"_s": source}
    for index, (other, table) in enumerate(named):
        tables[f"_o{index}"] = as_duckdb(table, other.written)
        struct = f"SELECT _unit, _n, {struct_sql(other)} AS v FROM _o{index}"
        joins.append(f"LEFT JOIN ({struct}) e{index} ON e{index}._unit = _s._unit AND e{index}._n = _s._n")
        value = f"e{index}.v"
        if output.rows_sql or other.rows_sql:
            joins.append(f"LEFT JOIN ({struct}) f{index} ON f{index}._unit = _s._unit AND f{index}._n = 0")
            value = f"coalesce(e{index}.v, f{index}.v)"
        columns.append(f"{value} AS {quote(other.name)}")
    return query(connection, f"SELECT _s.*, {', '.join(columns)} FROM _s {' '.join(joins)}", **tables)


def _mint(
    connection: duckdb.DuckDBPyConnection,
    output: OutputShape,
    number: int,
    base: pa.Table,
    resolver: Resolver,
) -> pa.Table:
    """Add _mint_<column>: the remembered value of each row, or a fresh one."""
    known = (_none_minted if output.settles else resolver.minted)(number)  # a reused row is found, not remembered
    for name in output.minted:
        fresh = pa.ExtensionArray.from_storage(pa.uuid(), resolver.ids(base.num_rows))
        table = base.append_column(f"_mint_{name}", fresh)
        base = query(
            connection,
            f"SELECT b.* REPLACE (coalesce(CAST(json_text(m.m, {literal(name)}) AS UUID),"
            f" b.{quote('_mint_' + name)}) AS {quote('_mint_' + name)})"
            " FROM _b b LEFT JOIN _m m ON m._unit = b._unit AND m._n = b._n",
            _b=table,
            _m=known,
        )
    return base
