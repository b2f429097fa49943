"""Remember: from a decision to what the ledger records of it, in the same transaction."""

from __future__ import annotations

from collections.abc import Mapping

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import Action, Status
from resettle.engine import patch
from resettle.engine.decision import WRITTEN, Decided, Decision, first_of_unit
from resettle.engine.feed import Prepared
from resettle.engine.fingerprint import as_duckdb
from resettle.engine.images import image_sql, with_known
from resettle.engine.statements import FlowShape, OutputShape
from resettle.ledger.records import AWAITING, Record
from resettle.mapping.columns import literal, quote
from resettle.mapping.functions import query

_CREATED = pa.schema(
    [
        ("unit", pa.string()),
        ("output", pa.int16()),
        ("n", pa.int32()),
        ("target_key", pa.string()),
        ("fingerprint", pa.binary(16)),
        ("shape", pa.int32()),
        ("raw", pa.int64()),
        ("reused", pa.bool_()),
        ("minted", pa.string()),
    ]
)
_CHANGED = pa.schema([field for field in _CREATED if field.name not in {"target_key", "minted"}])
_UNITS = pa.schema(
    [(n, pa.string()) for n in ("unit", "status", "reason", "detail", "warnings")] + [("raw", pa.int64())]
)
_IMAGES = pa.schema(
    [
        ("unit", pa.string()),
        ("output", pa.int16()),
        ("n", pa.int32()),
        ("target_key", pa.string()),
        ("image", pa.string()),
    ]
)


_LEFT_BEHIND = pa.schema([("unit", pa.string()), ("output", pa.int16()), ("n", pa.int32()), ("behind", pa.int32())])

_NOTED = pa.array([str(status) for status in (Status.HELD, Status.SKIPPED, Status.FAILED, Status.PARTIAL)])
_LEFT = pa.array([str(Action.REUSE)])
_UNTOUCHED = pa.array([str(Action.REUSE), str(Action.UNCHANGED)])
_LOOKED_AT_AGAIN = pa.array([str(Status.FAILED), str(Status.PARTIAL)])
"""Statuses of units that the next run looks at, whether or not their record has changed."""


def record_of(
    connection: duckdb.DuckDBPyConnection,
    shape: FlowShape,
    decision: Decision,
    prepared: Prepared,
    shapes: Mapping[str, int],
) -> Record:
    """The ledger's share of a batch. The raw hash is kept on a unit's first row, or with the unit if it has none."""
    raws = _raw_owners(decision)
    created, changed, images = [], [], []
    for number, (output, made) in enumerate(zip(shape.outputs, decision.outputs, strict=True)):
        if not made.rows.num_rows:
            continue
        rows = _common(made, shapes[output.name], raws[number])
        created.append(_created(connection, output, made, rows))
        changed.append(_changed(made, rows))
        overwritten = made.having(Action.PATCH if output.patch else Action.UPDATE)
        untouched = _LEFT if output.patch or output.body else _UNTOUCHED
        left = made.rows.filter(pc.and_(made.rows["_known"], pc.is_in(made.rows["_action"], untouched)))
        if overwritten.num_rows or left.num_rows:
            known = prepared.known.rows.filter(pc.equal(prepared.known.rows["output"], made.number))
            found = [_images(connection, output, made, overwritten)] if overwritten.num_rows else []
            found += [_left(connection, left, known)] if left.num_rows else []
            images += [_with_known(connection, one, made, known) for one in found]
    return Record(
        _concat(created, _CREATED),
        _concat(changed, _CHANGED),
        _units(decision, prepared),
        _concat(images, _IMAGES),
        _touched(decision, prepared),
        _left_behind(connection, shape, decision, prepared),
    )


def _left_behind(
    connection: duckdb.DuckDBPyConnection, shape: FlowShape, decision: Decision, prepared: Prepared
) -> pa.Table:
    """Rows of natural keys that units no longer have, numbered before those that they make now: they go behind them."""
    found = [_LEFT_BEHIND.empty_table()]
    for output, made in zip(shape.outputs, decision.outputs, strict=True):
        known = prepared.known.rows
        if not output.settles or not known.num_rows or not made.rows.num_rows:
            continue
        left = query(
            connection,
            "WITH now AS (SELECT _unit AS unit, min(_n) AS low, max(_n) AS top FROM _m GROUP BY ALL),"
            " old AS (SELECT unit, output, n FROM _k WHERE output = $output), tops AS"
            " (SELECT unit, max(n) AS top FROM old GROUP BY ALL) SELECT o.unit, o.output, o.n,"
            " greatest(now.top, tops.top) + row_number() OVER (PARTITION BY o.unit ORDER BY o.n) AS behind"
            " FROM old o JOIN now USING (unit) JOIN tops USING (unit)"
            " ANTI JOIN _m m ON m._unit = o.unit AND m._n = o.n WHERE o.n < now.low",
            {"output": made.number},
            _m=made.rows.select(["_unit", "_n"]),
            _k=known.select(["unit", "output", "n"]),
        )
        found.append(left.cast(_LEFT_BEHIND))
    return pa.concat_tables(found)


def _touched(decision: Decision, prepared: Prepared) -> pa.Table:
    """Units whose raw hash may stand on another row than before: not where each has its one row."""
    if len(decision.outputs) == 1 and _one_row_each(decision):
        return pa.table({"unit": pa.array([], pa.string()), "raw": pa.array([], pa.int64())})
    units = decision.units.filter(pc.is_in(decision.units["_unit"], prepared.known.units["unit"].combine_chunks()))
    return pa.table({"unit": units["_unit"].cast(pa.string()), "raw": units["_raw"].cast(pa.int64())})


def _concat(tables: list[pa.Table], schema: pa.Schema) -> pa.Table:
    return pa.concat_tables(tables) if tables else schema.empty_table()


def _raw_owners(decision: Decision) -> list[pa.Array]:
    """For each output, the raw hash where the row is its unit's first, else null."""
    units = decision.units
    if len(decision.outputs) == 1 and _one_row_each(decision):
        return [units["_raw"].combine_chunks().take(_positions(decision.outputs[0].rows, units))]
    taken = pa.array([], pa.string())
    owners = []
    for made in decision.outputs:
        rows = made.rows
        first = pc.and_(first_of_unit(rows), pc.invert(pc.is_in(rows["_unit"], taken).combine_chunks()))
        raw = units["_raw"].combine_chunks().take(_positions(rows, units))
        owners.append(pc.if_else(first, raw, pa.scalar(None, pa.int64())))
        taken = pa.concat_arrays([taken, *rows["_unit"].chunks])
    return owners


def _one_row_each(decision: Decision) -> bool:
    return bool(pc.all(pc.equal(decision.outputs[0].rows["_n"], 0)).as_py())


def _positions(rows: pa.Table, units: pa.Table) -> pa.Array:
    """Where each row's unit stands among the units."""
    mine, theirs = rows["_unit"].combine_chunks(), units["_unit"].combine_chunks()
    if len(mine) == len(theirs) and mine.equals(theirs):
        return pa.array(np.arange(len(mine)), pa.int32())
    return pc.index_in(mine, theirs)


def _common(made: Decided, shape: int, raw: pa.Array) -> pa.Table:
    rows, count = made.rows, made.rows.num_rows
    unit, key = rows["_unit"].combine_chunks(), rows["_key"].combine_chunks()
    return pa.table(
        {
            "unit": unit,
            "output": pa.repeat(pa.scalar(made.number, pa.int16()), count),
            "n": rows["_n"].cast(pa.int32()),
            "target_key": pc.if_else(pc.equal(unit, key), pa.scalar(None, pa.string()), key),
            "fingerprint": rows["_fp"].cast(pa.binary(16)),
            "shape": pa.repeat(pa.scalar(shape, pa.int32()), count),
            "raw": raw,
        }
    )


def _created(connection: duckdb.DuckDBPyConnection, output: OutputShape, made: Decided, rows: pa.Table) -> pa.Table:
    """Rows that the ledger did not know: created, overwritten, patched, or reused as they were."""
    reused = pc.is_in(made.rows["_action"], pa.array(["reuse", "unchanged"]))
    mine = pc.invert(made.rows["_known"])
    rows = rows.append_column("reused", reused).append_column("minted", _minted(connection, output, made))
    return rows.filter(mine).select(_CREATED.names).cast(_CREATED)


def _minted(connection: duckdb.DuckDBPyConnection, output: OutputShape, made: Decided) -> pa.Array:
    if not output.minted:
        return pa.nulls(made.rows.num_rows, pa.string())
    minted = as_duckdb(made.rows.select(list(output.minted)), output.columns)
    fields = ", ".join(f"{literal(name)}, CAST({quote(name)} AS VARCHAR)" for name in output.minted)
    sql = f"SELECT CAST(json_object({fields}) AS VARCHAR) AS m FROM _m"
    return query(connection, sql, _m=minted)["m"].combine_chunks()


def _changed(made: Decided, rows: pa.Table) -> pa.Table:
    """Rows that the ledger knows: written again, left to their owners, or unchanged from another record than before.

    ``reused``: true for those left to their owners, false for those written, null for what it was.
    """
    action = made.rows["_action"]
    ours = pc.if_else(pc.is_in(action, WRITTEN), False, pa.scalar(None, pa.bool_()))
    rows = rows.append_column("reused", pc.if_else(pc.equal(action, str(Action.REUSE)), True, ours))
    return rows.filter(made.rows["_known"]).select(_CHANGED.names).cast(_CHANGED)


def _images(connection: duckdb.DuckDBPyConnection, output: OutputShape, made: Decided, rows: pa.Table) -> pa.Table:
    """What stood in the columns (or places of documents) that are overwritten, as JSON of texts, for rollback."""
    if output.patch:
        texts = pa.array(patch.images(connection, output, rows, made.present), pa.string())
        found = pa.table({"unit": rows["_unit"], "n": rows["_n"], "target_key": rows["_key"], "image": texts})
    else:
        names = [*output.names, *output.updates]
        columns = [column for name in names if (column := output.schema.column(name))]
        found = query(
            connection,
            f"SELECT u._unit AS unit, u._n AS n, u._key AS target_key, {image_sql(columns, 'p')} AS image"
            " FROM _u u JOIN _p p ON p._key = u._key",
            _p=as_duckdb(made.present, columns),
            _u=rows.select(["_unit", "_n", "_key"]),
        )
    return found


def _left(connection: duckdb.DuckDBPyConnection, rows: pa.Table, known: pa.Table) -> pa.Table:
    """Images of no column, where only what is remembered changes: of rows that are left to their owners from now on,
    and of those that somebody else had changed to what the record says now."""
    return query(
        connection,
        "SELECT u._unit AS unit, u._n AS n, u._key AS target_key, '{}' AS image FROM _u u JOIN _k k"
        " ON k.unit = u._unit AND k.n = u._n"
        " WHERE CASE u._action WHEN 'reuse' THEN k.reused = 0 OR k.fp IS DISTINCT FROM u._fp"
        " ELSE k.fp IS NOT NULL AND k.fp <> u._fp END",  # without a fingerprint it is an intent, confirmed now
        _u=rows.select(["_unit", "_n", "_key", "_fp", "_action"]),
        _k=known,
    )


def _with_known(connection: duckdb.DuckDBPyConnection, images: pa.Table, made: Decided, known: pa.Table) -> pa.Table:
    """The images with what the ledger knows of their rows until now, and the output that they are of."""
    found = with_known(connection, images, known)
    found = found.append_column("output", pa.repeat(pa.scalar(made.number, pa.int16()), found.num_rows))
    return found.select(_IMAGES.names).cast(_IMAGES)


def _without_still_awaiting(units: pa.Table, known: pa.Table) -> pa.Table:
    """A unit that waits for the same thing as before is no news."""
    before = known.filter(pc.is_in(known["reason"], pa.array(AWAITING)))
    if not before.num_rows:
        return units
    at = pc.index_in(units["_unit"], before["unit"].combine_chunks())
    same = pc.equal(before["reason"].combine_chunks().take(at.combine_chunks()), units["reason"].combine_chunks())
    return units.filter(pc.invert(pc.fill_null(same, False)))


def _all_plainly_done(decision: Decision, prepared: Prepared) -> bool:
    """A cheap look for the plain case: new units, none held or warned, each with its one row."""
    units = decision.units
    return (
        not prepared.known.units.num_rows
        and units["reason"].null_count == units["warnings"].null_count == units.num_rows
        and len(decision.outputs) == 1
        and decision.outputs[0].rows.num_rows == units.num_rows
        and _one_row_each(decision)
    )


def _units(decision: Decision, prepared: Prepared) -> pa.Table:
    """Units that are not plainly done, those that have no row, and those that no longer are held."""
    units = decision.units
    if _all_plainly_done(decision, prepared):
        return _UNITS.empty_table()
    with_rows = pa.concat_arrays(
        [
            pa.array([], pa.string()),
            *(chunk for made in decision.outputs for chunk in made.rows["_unit"].chunks),
        ]
    )
    rowless = pc.invert(pc.is_in(units["_unit"], with_rows))
    odd = pc.is_in(units["status"], _NOTED)
    known = prepared.known.units
    noted = known.filter(pc.is_valid(known["status"]))["unit"].combine_chunks()
    wanted = pc.or_(pc.or_(odd, rowless), pc.or_(pc.is_valid(units["warnings"]), pc.is_in(units["_unit"], noted)))
    kept = _without_still_awaiting(units.filter(wanted), known)
    settled = pc.if_else(
        pc.is_in(kept["status"], pa.array([str(Status.DONE), str(Status.UNCHANGED)])),
        str(Status.DONE),
        kept["status"],
    )
    raw = pc.if_else(
        pc.or_(
            pc.not_equal(settled, str(Status.DONE)),
            pc.is_in(kept["_unit"], units.filter(rowless)["_unit"].combine_chunks()),
        ),
        kept["_raw"],
        pa.scalar(None, pa.int64()),
    )
    return pa.table(
        {
            "unit": kept["_unit"],
            "status": settled,
            "reason": kept["reason"],
            "detail": kept["detail"],
            "warnings": kept["warnings"],
            "raw": pc.if_else(pc.is_in(settled, _LOOKED_AT_AGAIN), pa.scalar(None, pa.int64()), raw),
        }
    ).cast(_UNITS)
