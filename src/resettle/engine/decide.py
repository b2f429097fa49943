"""Decide: what becomes of every row of a shaped batch. The one code path of plan and apply.

Nothing is written here, and deciding the same batch twice gives the same decision: what a run remembers of
its own would-be creations (`Foreseen`) changes only by `Foreseen.accept`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import Action, Column, set_column
from resettle.connector import Target
from resettle.engine import bodies
from resettle.engine import patch as patching
from resettle.engine.alternate import alternate, rekeyed
from resettle.engine.compare import compare
from resettle.engine.decision import (
    NEW,
    SETTING,
    TAKING,
    Decided,
    Decision,
    Foreseen,
    decided_all,
    hold,
    in_conflict,
    left_behind,
    settled,
    trouble_of,
)
from resettle.engine.feed import Prepared
from resettle.engine.fingerprint import as_wire, key_hashes, wire_schema
from resettle.engine.links import Links
from resettle.engine.places import PLACES, VALUE, disagree, foreseen, places_of
from resettle.engine.present import keyed, keyed_rows, with_updates
from resettle.engine.settle import NOTHING_MADE, renumbered, settler
from resettle.engine.shape import Settle
from resettle.engine.statements import FlowShape, OutputShape
from resettle.engine.undoing.standing import typed_keys
from resettle.errors import BalanceError
from resettle.ledger.ledger import Ledger
from resettle.ledger.records import Known, nothing_known
from resettle.mapping.functions import query


class Decider:
    """Decides the batches of one flow; used from one thread."""

    def __init__(
        self,
        shape: FlowShape,
        targets: Mapping[str, Target],
        connection: duckdb.DuckDBPyConnection,
        foreseen: Foreseen,
        ledger: Ledger,
    ) -> None:
        self._shape, self._targets, self._db, self._foreseen = shape, targets, connection, foreseen
        self._ledger, self._shapes = ledger, ledger.shapes(shape.name)
        self._numbers = ledger.numbers(shape.name, [output.name for output in shape.outputs])
        self._alone = len(shape.outputs) == 1 and not any(
            foreseen.of((o.connection, o.dataset), o.key_names) for o in shape.outputs
        )
        """Whether no other output or earlier flow of this run writes what this flow writes."""
        self._links = Links(shape, targets, connection, foreseen)
        self._empty = {(o.connection, o.dataset): targets[o.connection].empty(o.dataset) for o in shape.outputs}

    def decide(self, prepared: Prepared, *, optimistic: bool, lock: bool) -> Decision:
        """Decide a batch. Units whose rows are early, because what they point at may still come, are left out.

        ``optimistic`` trusts that a target which was empty when the flow began holds only what this run made: a
        first load asks it nothing. ``lock`` keeps the rows we looked at as they are until the transaction ends.
        """
        shaped = prepared.shaped_with(self._settle(prepared.known, optimistic=optimistic, lock=lock))
        units = shaped.units
        decided: list[tuple[pa.Table, pa.Table]] = []
        trouble: list[pa.Table] = []
        conflicts: Counter[str] = Counter()
        for number, output, wanted in zip(self._numbers, self._shape.outputs, shaped.outputs, strict=True):
            rows, present = self._actions(prepared.known, number, output, wanted, optimistic=optimistic, lock=lock)
            if rows.num_rows != wanted.num_rows:
                raise BalanceError(f"{output.name}: {wanted.num_rows} rows to decide, {rows.num_rows} decided")
            bad = rows.filter(pc.equal(rows["_action"], str(Action.CONFLICT)))
            if bad.num_rows:
                conflicts[output.name] += bad.num_rows
                trouble.append(trouble_of(bad, output))
            decided.append((rows, present))
        if prepared.known.rows.num_rows:
            wanted = {number: rows for number, (rows, _) in zip(self._numbers, decided, strict=True)}
            units = left_behind(self._db, units, prepared.known.rows, wanted)
        lost, early = self._links.lost([rows for rows, _ in decided], trouble)
        trouble += lost if prepared.may_wait else [*lost, *early]
        units, decided = hold(units, decided, trouble)
        exploded = shaped.rows
        if early and prepared.may_wait:
            units, exploded, decided = _without(pa.concat_tables(early)["unit"], units, exploded, decided)
        if trouble or early:
            decided = [
                (self._links.bereft(o, rows), p) for o, (rows, p) in zip(self._shape.outputs, decided, strict=True)
            ]
        return Decision(
            settled(units, [rows for rows, _ in decided], prepared, exploded),
            tuple(
                Decided(
                    number,
                    place,
                    (output.connection, output.dataset),
                    rows,
                    present,
                    self._links.new_keys(output, rows),
                    tuple(column.name for column in output.match) if output.settles else (),
                )
                for place, (number, output, (rows, present)) in enumerate(
                    zip(self._numbers, self._shape.outputs, decided, strict=True)
                )
            ),
            exploded,
            conflicts,
        )

    def _settle(self, known: Known, *, optimistic: bool, lock: bool) -> Settle:
        def made(output: OutputShape) -> pa.Table:
            names = tuple(column.name for column in output.match)
            tables = self._foreseen.natural.get(((output.connection, output.dataset), names), [])
            return pa.concat_tables(tables) if tables else NOTHING_MADE

        def looks(output: OutputShape) -> bool:
            return not (optimistic and self._empty[output.connection, output.dataset])

        return settler(self._db, self._targets, known, self._numbers, made, looks, lock=lock)

    def hold(self, decision: Decision, refusals: pa.Table) -> Decision:
        """The decision without the units that the target refuses (unit, reason, detail)."""
        units, kept = hold(decision.units, [(made.rows, made.present) for made in decision.outputs], [refusals])
        left = [self._links.bereft(output, rows) for output, (rows, _) in zip(self._shape.outputs, kept, strict=True)]
        outputs = tuple(
            replace(made, rows=rows, new_keys=self._links.new_keys(output, rows))
            for made, output, rows in zip(decision.outputs, self._shape.outputs, left, strict=True)
        )
        return Decision(units, outputs, decision.exploded, decision.conflicts)

    def _actions(
        self,
        remembered: Known,
        number: int,
        output: OutputShape,
        wanted: pa.Table,
        *,
        optimistic: bool,
        lock: bool,
    ) -> tuple[pa.Table, pa.Table]:
        """Wanted rows with _action, _reason, _known; and the present rows that were fetched."""
        known = remembered.rows
        known = known.filter(pc.equal(known["output"], number)) if known.num_rows else known
        if output.patch:
            return self._patched(output, wanted, known, optimistic=optimistic, lock=lock)
        if output.body:
            return self._copied(number, output, wanted, known)
        wanted = rekeyed(self._db, output, wanted, known)
        wanted = renumbered(self._db, wanted, known) if output.settles else wanted
        dataset = (output.connection, output.dataset)
        no_rows = wire_schema(output.columns).empty_table()
        if optimistic and self._empty[dataset] and not known.num_rows:
            rows = decided_all(wanted, Action.CREATE, known=False)
            present = no_rows
        else:
            rows, present = self._compared(number, output, wanted, known, lock=lock)
        rows = self._duplicates(output, rows)
        if output.alternates:
            rows, present = self._use_alternates(number, output, rows, present, lock=lock)
        return rows, present

    def _compared(
        self, number: int, output: OutputShape, wanted: pa.Table, known: pa.Table, *, lock: bool
    ) -> tuple[pa.Table, pa.Table]:
        wanted = wanted.append_column("_at", pa.array(np.arange(wanted.num_rows)))
        matched = self._made(output, wanted, self._match_known(wanted, known))
        same = matched.filter(pc.field("same"))["_at"].combine_chunks()
        asked = wanted.filter(pc.invert(pc.is_in(wanted["_at"], same))) if len(same) else wanted
        asked = asked.filter(asked["_there"]) if output.settles else asked
        shapes = [s for s in pc.unique(matched["shape"]).to_pylist() if s in self._shapes]
        present = self._fetch(output, asked, shapes, lock=lock)
        compared = keyed_rows(self._db, output, present, matched, wanted, {s: self._shapes[s] for s in shapes})
        found = compare(
            self._db,
            wanted.select(["_at", "_key", "_fp"]),
            matched.select(["_at", "same", "intended", "reused", "target_key"]),
            compared,
            match=bool(output.match),
            policy=self._shape.flow.on_conflict,
        )
        rows = wanted.drop_columns(["_at"])
        for name in ("_action", "_reason", "_known", "_present"):
            rows = rows.append_column(name, found[name])
        rows = self._taken(number, output, with_updates(self._db, output, rows, present))
        return rows, present.append_column("_key", compared["_key"])

    def _patched(
        self, output: OutputShape, wanted: pa.Table, known: pa.Table, *, optimistic: bool, lock: bool
    ) -> tuple[pa.Table, pa.Table]:
        """A patch always looks: the row is somebody else's, and what is missing or different is put right.

        Or an earlier flow's: a plan (``optimistic``, and nothing to ``lock``) foresees that it will be there.
        """
        columns = [c for name in (*output.names, *output.edits) if (c := output.schema.column(name))]
        present = keyed(self._db, self._fetch_columns(output, wanted, columns, lock=lock), output.key)
        wanted = wanted.append_column("_at", pa.array(np.arange(wanted.num_rows)))
        matched = self._match_known(wanted, known)
        remembered = pc.is_in(wanted["_at"], matched["_at"].combine_chunks())
        elsewhere = pc.is_in(wanted["_at"], matched.filter(moved(matched, wanted))["_at"].combine_chunks())
        rows = decided_all(wanted.drop_columns(["_at"]), Action.UNCHANGED, known=False)
        found = patching.states(self._db, output, rows, present).append_column("_known", remembered)
        if optimistic and not lock:
            made = self._foreseen.of((output.connection, output.dataset), output.key_names)
            coming = pc.and_(
                pc.equal(found["_reason"], patching.NO_ROW), pa.array(made.seen(key_hashes(self._db, rows["_key"])))
            )
            coming = pc.fill_null(coming, False)
            found = set_column(found, "_action", pc.if_else(coming, str(Action.PATCH), found["_action"]))
            found = set_column(found, "_reason", pc.if_else(coming, pa.scalar(None, pa.string()), found["_reason"]))
        for name, values in zip(found.column_names, found.columns, strict=True):
            rows = set_column(rows, name, values) if name in rows.column_names else rows.append_column(name, values)
        rows = in_conflict(rows, elsewhere, "key_changed")
        return self._agreed(output, rows, told=lock), present

    def _agreed(self, output: OutputShape, rows: pa.Table, *, told: bool) -> pa.Table:
        """Patches none of which sets a place otherwise than one before it. A target that was not told of those of the
        batches before (of a plan) would take them to be missing still."""
        sets = pc.is_in(rows["_action"], SETTING).to_numpy(zero_copy_only=False)
        dataset = (output.connection, output.dataset)
        seen = {kind: self._foreseen.of(dataset, kind) for kind in PLACES}
        places, count = places_of(self._db, output, rows.filter(pa.array(sets))), int(sets.sum())
        mask = np.zeros(rows.num_rows, np.bool_)
        if not told and seen[VALUE]:
            mask[sets] = foreseen(places, count, seen)
            rows = set_column(rows, "_action", pc.if_else(pa.array(mask), str(Action.UNCHANGED), rows["_action"]))
        mask[sets] = disagree(places, count, seen)
        return in_conflict(rows, pa.array(mask), "place_taken")

    def _copied(self, number: int, output: OutputShape, wanted: pa.Table, known: pa.Table) -> tuple[pa.Table, pa.Table]:
        """A file that is to be copied always is looked for: what is missing or different is copied."""
        columns = [c for name in (*output.key_names, *bodies.COMPARED) if (c := output.schema.column(name))]
        present = keyed(self._db, self._fetch_columns(output, wanted, columns, lock=False), output.key)
        wanted = wanted.append_column("_at", pa.array(np.arange(wanted.num_rows)))
        matched = self._made(output, wanted, self._match_known(wanted, known))
        rows = decided_all(wanted, Action.COPY, known=False)
        found = bodies.states(self._db, rows, matched, present, policy=self._shape.flow.on_conflict)
        for name in ("_action", "_reason", "_known"):
            rows = set_column(rows, name, found[name])
        rows = rows.drop_columns(["_at"]).append_column("_there", found["_there"])
        return self._duplicates(output, self._taken(number, output, rows)), present

    def _taken(self, number: int, output: OutputShape, rows: pa.Table) -> pa.Table:
        """A row that is there for another unit is not taken: two records would become one."""
        new = pc.and_(pc.is_in(rows["_action"], pa.array(["reuse", "update"])), pc.invert(rows["_known"]))
        if output.match or not pc.any(new).as_py():
            return rows
        owned = self._ledger.owned(self._shape.name, number, rows.filter(new)["_key"].to_pylist())
        hit = pc.and_(new, pc.is_in(rows["_key"], pa.array(owned, pa.string())))
        over = pc.and_(new, pc.equal(rows["_action"], str(Action.UPDATE)))  # whichever flow made it
        asked = rows.filter(over)["_key"].to_pylist()
        owned = self._ledger.owned_in(output.place, output.key_names, asked) if asked else []
        hit = pc.or_(hit, pc.and_(over, pc.is_in(rows["_key"], pa.array(owned, pa.string()))))
        return in_conflict(rows, hit, "duplicate_key")

    def _match_known(self, wanted: pa.Table, known: pa.Table) -> pa.Table:
        """Which wanted row each known row is, and whether what we wrote is what we want."""
        return query(
            self._db,
            "SELECT w._at, coalesce(k.fp = w._fp, false) AS same, k.fp IS NULL AS intended, k.reused,"
            " k.target_key, k.fp, k.shape FROM _w w JOIN _k k ON k.unit = w._unit AND k.n = w._n",
            _w=wanted.select(["_unit", "_n", "_fp", "_at"]),
            _k=known,
        )

    def _made(self, output: OutputShape, wanted: pa.Table, matched: pa.Table) -> pa.Table:
        """Without what was only meant to be written, under a key that the record no longer has, and never was."""
        stale = matched.filter(pc.and_(matched["intended"], moved(matched, wanted)))
        if not stale.num_rows:
            return matched
        asked = as_wire(typed_keys(self._db, stale["target_key"], output.key), output.key)
        there = keyed(self._db, self._fetch_columns(output, asked, output.key, lock=False), output.key)
        never = stale.filter(pc.invert(pc.is_in(stale["target_key"], there["_key"].combine_chunks())))
        return matched.filter(pc.invert(pc.is_in(matched["_at"], never["_at"].combine_chunks())))

    def _fetch(self, output: OutputShape, asked: pa.Table, shapes: Sequence[int], *, lock: bool) -> pa.Table:
        """Present rows for the asked keys: this output's columns, and those of earlier mappings of it."""
        also = [n for _, parsed in output.updates.items() for q, n, _ in parsed.columns if q == "target"]
        earlier = (n for s in shapes for n in self._shapes[s])
        names = list(dict.fromkeys([*output.names, *output.updates, *also, *earlier]))
        return self._fetch_columns(output, asked, [c for n in names if (c := output.schema.column(n))], lock=lock)

    def _fetch_columns(
        self, output: OutputShape, asked: pa.Table, columns: Sequence[Column], *, lock: bool
    ) -> pa.Table:
        if not asked.num_rows:
            return wire_schema(columns).empty_table()
        keys = asked.select(list(output.key_names)).group_by(list(output.key_names)).aggregate([])
        found = self._targets[output.connection].fetch(
            output.dataset, as_wire(keys, output.key), [column.name for column in columns], lock=lock
        )
        return as_wire(found.select([column.name for column in columns]), columns)

    # -- keys that come twice -----------------------------------------------------------------------------

    def _duplicates(self, output: OutputShape, rows: pa.Table) -> pa.Table:
        """A new row whose key another unit of this run has already is in conflict, or by `match` the same row.

        In a plan that other row is foreseen, in an apply a former batch's is there already: no difference.
        """
        fresh = pc.invert(rows["_known"])
        if not pc.any(fresh).as_py() or self._keys_are_units(output):
            return rows
        hashes = key_hashes(self._db, rows["_key"])
        made = self._foreseen.of((output.connection, output.dataset), output.key_names)
        takes = NEW if output.match else TAKING
        creates = pc.and_(pc.is_in(rows["_action"], takes), fresh).to_numpy(zero_copy_only=False)
        again = made.seen(hashes) & fresh.to_numpy(zero_copy_only=False)
        again[creates] |= made.repeated(hashes[creates])
        if not again.any():
            return rows
        hit = pa.array(again)
        if output.match:
            return set_column(rows, "_action", pc.if_else(hit, str(Action.REUSE), rows["_action"]))
        return in_conflict(rows, hit, "duplicate_key")

    def _keys_are_units(self, output: OutputShape) -> bool:
        """Units are unique already; a key that is the unit by the mapping's own words needs no second look."""
        if not self._alone or output.alternates or output.rows_sql or self._shape.rows_sql or len(output.key) > 1:
            return False
        return f"CAST({output.plain.get(output.key[0].name)} AS VARCHAR)" == self._shape.unit_sql

    def _use_alternates(
        self, number: int, output: OutputShape, rows: pa.Table, present: pa.Table, *, lock: bool
    ) -> tuple[pa.Table, pa.Table]:
        """Another key where another unit has it, by this run or the ledger; a stranger's row stays a conflict."""
        conflict, reason = pc.equal(rows["_action"], str(Action.CONFLICT)), pc.fill_null(rows["_reason"], "")
        there = pc.and_(conflict, pc.equal(reason, "exists_in_target"))
        owned = self._ledger.owned(self._shape.name, number, rows.filter(there)["_key"].to_pylist())
        taken = pc.or_(
            pc.and_(conflict, pc.equal(reason, "duplicate_key")),
            pc.and_(there, pc.is_in(rows["_key"], pa.array(owned, pa.string()))),
        )
        if not pc.any(taken).as_py():
            return rows, present
        wanted = [name for name in rows.column_names if name not in _DECIDED]
        second = alternate(self._db, output, rows.filter(taken).select(wanted))
        again, found = self._compared(number, output, second, nothing_known().rows, lock=lock)
        again = self._duplicates_among(output, again, rows.filter(pc.invert(taken)))
        rest = rows.filter(pc.invert(taken))
        rows = pa.concat_tables([rest, again.select(rest.column_names)])
        return rows, pa.concat_tables([present, found.select(present.column_names)])

    def _duplicates_among(self, output: OutputShape, rows: pa.Table, others: pa.Table) -> pa.Table:
        hashes, taken = key_hashes(self._db, rows["_key"]), key_hashes(self._db, others["_key"])
        made = self._foreseen.of((output.connection, output.dataset), output.key_names)
        again = made.repeated(hashes) | np.isin(hashes, taken)
        create = pc.equal(rows["_action"], str(Action.CREATE))
        hit = pc.and_(pa.array(again), create)
        return in_conflict(rows, hit, "duplicate_key")


def moved(matched: pa.Table, wanted: pa.Table) -> pa.Array:
    """Which known rows (_at, target_key) went by another key when they were written than is wanted now (_at, _key)."""
    now = wanted["_key"].combine_chunks().take(pc.index_in(matched["_at"], wanted["_at"].combine_chunks()))
    return pc.not_equal(now, matched["target_key"])


def _without(
    early: pa.ChunkedArray, units: pa.Table, exploded: pa.Table, decided: Sequence[tuple[pa.Table, pa.Table]]
) -> tuple[pa.Table, pa.Table, list[tuple[pa.Table, pa.Table]]]:
    """Nothing of these units, but of those that are held for another reason."""
    going = units.filter(pc.is_null(units["status"]))["_unit"].combine_chunks()
    waits = going.filter(pc.is_in(going, early.combine_chunks()))

    def rest(table: pa.Table) -> pa.Table:
        return table.filter(pc.invert(pc.is_in(table["_unit"], waits)))

    return rest(units), rest(exploded), [(rest(rows), present) for rows, present in decided]


_DECIDED = ("_action", "_reason", "_known", "_present")
