"""Decision: what a batch becomes, and what a run remembers of its own would-be creations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import Action, Status, set_column
from resettle.engine.bodies import COPY_FAILED
from resettle.engine.feed import Prepared
from resettle.engine.patch import CHANGED, NO_ROW
from resettle.engine.statements import OutputShape
from resettle.engine.uniques import Hashes, Uniques
from resettle.mapping.functions import query

Dataset = tuple[str, str]
"""(connection, dataset)"""


@dataclass
class Foreseen:
    """What this run has created or would create: the same for a plan, which writes nothing, and an apply."""

    keys: dict[tuple[Dataset, tuple[str, ...]], Uniques] = field(default_factory=dict)
    """By dataset and columns: the key that an output goes by, and those at which others point."""
    natural: dict[tuple[Dataset, tuple[str, ...]], list[pa.Table]] = field(default_factory=dict)
    """By dataset and natural key: what `match:` outputs have created, as tables of _nk, key."""
    target_keys: dict[tuple[str, int], list[pa.Table]] = field(default_factory=dict)
    """(flow, output) -> tables of unit, target_key; kept only for flows that others reference."""
    referenced: frozenset[str] = frozenset()
    pointed: frozenset[tuple[Dataset, tuple[str, ...]]] = frozenset()
    """Datasets and columns (sorted) at which a foreign key of something that this run writes points."""

    def of(self, dataset: Dataset, columns: tuple[str, ...]) -> Uniques:
        return self.keys.setdefault((dataset, columns), Uniques())

    def accept(self, flow: str, decision: Decision) -> None:
        """The decision was carried out (or, in a plan, counted)."""
        for made in decision.outputs:
            for columns, hashes in made.new_keys.items():
                self.of(made.dataset, columns).add(hashes)
            if made.match:
                creates = made.having(Action.CREATE)
                table = pa.table({"_nk": creates["_nk"], "key": creates["_key"]})
                self.natural.setdefault((made.dataset, made.match), []).append(table)
            if flow in self.referenced and made.rows.num_rows:
                first = made.rows.filter(first_of_unit(made.rows))
                table = pa.table({"unit": first["_unit"], "target_key": first["_key"]})
                self.target_keys.setdefault((flow, made.number), []).append(table)


@dataclass(frozen=True)
class Decided:
    """One output's rows with their actions; held units' rows are gone.

    rows:    _unit, _n, the output's columns, _key, _fp, _action, _known
    present: the fetched rows behind updates, by _key, in wire types with the output's columns
    """

    number: int
    """The ledger's number of the output."""
    place: int
    """Its place among the flow's outputs."""
    dataset: Dataset
    rows: pa.Table
    present: pa.Table
    new_keys: Mapping[tuple[str, ...], Hashes]
    match: tuple[str, ...] = ()
    """The natural key, where rows go by another."""

    def having(self, action: Action) -> pa.Table:
        return self.rows.filter(pc.equal(self.rows["_action"], str(action)))


@dataclass(frozen=True)
class Decision:
    """What one batch becomes; of units that wait for others it does not speak.

    units:    _unit, _raw, status (never null), reason, detail, warnings
    exploded: of a flow with `rows:`: _unit, skip, wait, row, as shaped
    """

    units: pa.Table
    outputs: tuple[Decided, ...]
    exploded: pa.Table
    conflicts: Counter[str]
    """Rows in conflict per output: their units are held or failed, so they are in no table of ``outputs``."""

    def led_by(self, units: pa.Array) -> pa.Array:
        """Units that reuse a row which one of these units makes in this very batch."""
        led = [pa.array([], pa.string())]
        for made in self.outputs:
            rows = made.rows.filter(pc.invert(made.rows["_known"]))
            makes = pc.and_(pc.equal(rows["_action"], "create"), pc.is_in(rows["_unit"], units))
            reuses = pc.and_(pc.equal(rows["_action"], "reuse"), pc.is_null(rows["_present"]))
            keys = rows.filter(makes)["_key"].combine_chunks()
            led += rows.filter(pc.and_(reuses, pc.is_in(rows["_key"], keys)))["_unit"].chunks
        return pa.concat_arrays(led)


def holds(units: pa.ChunkedArray, reason: str, detail: str) -> pa.Table:
    count = len(units)
    return pa.table(
        {
            "unit": units,
            "reason": pa.repeat(pa.scalar(reason, pa.string()), count),
            "detail": pa.repeat(pa.scalar(detail, pa.string()), count),
        }
    )


_CONFLICTS = {
    "exists_in_target": "a row with this key is there already, and differs",
    "edited_in_target": "somebody changed the row since we wrote it",
    "deleted_in_target": "somebody deleted the row since we wrote it",
    "not_ours": "the row was there before us and is not overwritten",
    "key_changed": "the record would now get another key than the one we wrote",
    "duplicate_key": "another record has the same target key",
    "place_taken": "another record sets the same place, or one around it or inside it, to something else",
    "update_failed": "a value of `update:` cannot be made for the row as it is",
    CHANGED: "what is to be patched was changed since it was read; the next run reads it again",
    NO_ROW: "there is no such row to patch",
}
_FAILING = pa.array([CHANGED, *COPY_FAILED])
"""Reasons that time may mend: the unit is not held, the next run tries again."""
NEW = pa.array(["create", "copy"])
"""Actions that may make a row or file that was not there."""
TAKING = pa.array(["create", "copy", "reuse", "update"])
"""Actions by which a row that the ledger does not know takes its key; under `match:` several may share one."""
SETTING = pa.array(["patch", "unchanged"])
"""Actions of a patch after which what it sets stands there."""
WRITES = (Action.CREATE, Action.UPDATE, Action.PATCH, Action.COPY)
WRITTEN = pa.array(list(map(str, WRITES)))
"""Actions that write."""


def trouble_of(bad: pa.Table, output: OutputShape) -> pa.Table:
    details = [f"{output.dataset}: {_CONFLICTS[reason]}" for reason in bad["_reason"].to_pylist()]
    return pa.table({"unit": bad["_unit"], "reason": bad["_reason"], "detail": pa.array(details, pa.string())})


def hold(
    units: pa.Table, decided: Sequence[tuple[pa.Table, pa.Table]], trouble: Sequence[pa.Table]
) -> tuple[pa.Table, list[tuple[pa.Table, pa.Table]]]:
    """Hold whole units (or fail them, where time may mend it): none of their rows is written in any output."""
    if not trouble:
        return units, list(decided)
    first = (
        pa.concat_tables(trouble)
        .group_by("unit", use_threads=False)
        .aggregate([("reason", "first"), ("detail", "first")])
    )
    keys = first["unit"].combine_chunks()
    at = pc.index_in(units["_unit"], keys)
    hit = pc.is_valid(at)
    for name in ("reason", "detail"):
        units = set_column(units, name, pc.if_else(hit, first[f"{name}_first"].combine_chunks().take(at), units[name]))
    word = pc.if_else(pc.is_in(units["reason"], _FAILING), str(Status.FAILED), str(Status.HELD))
    units = set_column(units, "status", pc.if_else(hit, word, units["status"]))
    return units, [(rows.filter(pc.invert(pc.is_in(rows["_unit"], keys))), present) for rows, present in decided]


def decided_all(rows: pa.Table, action: Action, *, known: bool) -> pa.Table:
    """Rows that all have one action."""
    count = rows.num_rows
    rows = rows.append_column("_action", pa.repeat(pa.scalar(str(action), pa.string()), count))
    rows = rows.append_column("_reason", pa.nulls(count, pa.string()))
    rows = rows.append_column("_known", pa.repeat(pa.scalar(known), count))
    return rows.append_column("_present", pa.nulls(count, pa.int64()))


def settled(units: pa.Table, outputs: Sequence[pa.Table], prepared: Prepared, exploded: pa.Table) -> pa.Table:
    """Every unit's status: partial while rows of it wait; done if anything of it is new or changed, else unchanged."""
    units = _partial(units, exploded)
    if not prepared.known.units.num_rows:
        return set_column(units, "status", pc.coalesce(units["status"], str(Status.DONE)))
    active = [table.filter(pc.is_in(table["_action"], WRITTEN)) for table in outputs]
    reused = [
        table.filter(pc.and_(pc.equal(table["_action"], "reuse"), pc.invert(table["_known"]))) for table in outputs
    ]
    busy = pa.chunked_array([chunk for table in [*active, *reused] for chunk in table["_unit"].chunks], pa.string())
    known = prepared.known.units
    was_done = known.filter(pc.or_kleene(pc.is_null(known["status"]), pc.equal(known["status"], "done")))
    old = pc.is_in(units["_unit"], was_done["unit"].combine_chunks())
    done = pc.or_(pc.is_in(units["_unit"], busy.combine_chunks()), pc.invert(old))
    status = pc.if_else(done, str(Status.DONE), str(Status.UNCHANGED))
    return set_column(units, "status", pc.coalesce(units["status"], status))


def _partial(units: pa.Table, exploded: pa.Table) -> pa.Table:
    waiting = exploded.filter(pc.is_valid(exploded["wait"]))
    if not waiting.num_rows:
        return units
    word = pc.binary_join_element_wise(pc.fill_null(waiting["row"], "?"), " (", waiting["wait"], ")", "")
    waiting = waiting.append_column("word", word)
    first = waiting.group_by("_unit", use_threads=False).aggregate([("wait", "first"), ("word", "list")])
    at = pc.index_in(units["_unit"], first["_unit"].combine_chunks())
    hit = pc.and_(pc.is_valid(at), pc.is_null(units["status"]))
    reason = first["wait_first"].combine_chunks().take(at)
    units = set_column(units, "reason", pc.if_else(hit, reason, units["reason"]))
    detail = _waiting(first["word_list"].combine_chunks()).take(at)
    units = set_column(units, "detail", pc.if_else(hit, detail, units["detail"]))
    return set_column(units, "status", pc.if_else(hit, str(Status.PARTIAL), units["status"]))


MOST_WAITING = 100
"""Rows of a record that are named as waiting."""


def _waiting(rows: pa.Array) -> pa.Array:
    """What is said of the rows that each record waits for: `waiting: 6001 (observation_missing), ...`."""
    more = pc.subtract(pc.list_value_length(rows), MOST_WAITING).cast(pa.string())
    told = pc.binary_join(pc.list_slice(rows, 0, MOST_WAITING), ", ")
    cut = pc.greater(pc.list_value_length(rows), MOST_WAITING)
    told = pc.if_else(cut, pc.binary_join_element_wise(told, ", and ", more, " more", ""), told)
    return pc.binary_join_element_wise("waiting: ", told, "")


LEFT_BEHIND = "rows_left_behind"
"""The warning of a unit that no longer makes some row it once made: the row stays, for nothing is deleted."""


def left_behind(
    connection: duckdb.DuckDBPyConnection, units: pa.Table, known: pa.Table, wanted: Mapping[int, pa.Table]
) -> pa.Table:
    """Warn of units that go on, or are skipped now, without some row of theirs.

    ``wanted``: each output's rows, by the ledger's number.
    """
    rows = [
        pa.table({"unit": table["_unit"], "n": table["_n"].cast(pa.int64())}).append_column(
            "output", pa.repeat(pa.scalar(number, pa.int64()), table.num_rows)
        )
        for number, table in wanted.items()
    ]
    lost = query(
        connection,
        "SELECT DISTINCT k.unit FROM _k k ANTI JOIN _w w ON w.unit = k.unit AND w.output = k.output AND w.n = k.n",
        _k=known.filter(pc.is_in(known["output"], pa.array(list(wanted), pa.int64()))),
        _w=pa.concat_tables(rows),
    )["unit"].combine_chunks()
    said, status = units["warnings"].combine_chunks(), units["status"].combine_chunks()
    going = pc.is_in(status, pa.array([None, str(Status.SKIPPED)], pa.string()))
    hit = pc.and_(pc.is_in(units["_unit"].combine_chunks(), lost), going)
    also = pc.binary_join_element_wise(pc.fill_null(said, ""), LEFT_BEHIND, ",")
    word = pc.if_else(pc.is_null(said), LEFT_BEHIND, also)
    return set_column(units, "warnings", pc.if_else(hit, word, said))


def first_of_unit(rows: pa.Table) -> pa.Array:
    """Which rows are the first of their unit, in the table's order."""
    codes = rows["_unit"].combine_chunks().dictionary_encode().indices.to_numpy()
    first = np.zeros(rows.num_rows, np.bool_)
    first[np.unique(codes, return_index=True)[1]] = True
    return pa.array(first)


def in_conflict(rows: pa.Table, hit: pa.Array | pa.ChunkedArray, reason: str) -> pa.Table:
    """The rows, those that are ``hit`` in conflict for ``reason``."""
    rows = set_column(rows, "_action", pc.if_else(hit, str(Action.CONFLICT), rows["_action"]))
    return set_column(rows, "_reason", pc.if_else(hit, reason, rows["_reason"]))
