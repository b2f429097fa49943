"""verify: the source again, shaped again, against what the target holds now. It never believes our own counts.

Beyond reading and shaping it shares no code with the writing path. Each flow's every row is compared: by digests that
the target computes itself where it can (engine/verifying/digest.py), which leaves suspects to be fetched; else all are
fetched and compared by fingerprint, then by column where they differ. Then come orphans, counts, the declaration's own
assertions and row-level-security probes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import Kind
from resettle.connector import Digesting
from resettle.engine.alternate import rekeyed
from resettle.engine.count import show
from resettle.engine.decision import Foreseen
from resettle.engine.feed import Prepared
from resettle.engine.fingerprint import as_wire, differing, fingerprints
from resettle.engine.flow import Connections, FlowRun, Options, fresh_uuids, open_flow, referenced, selected
from resettle.engine.present import keyed
from resettle.engine.settle import looking, renumbered
from resettle.engine.shape import Shaped
from resettle.engine.statements import OutputShape
from resettle.engine.verifying import landed
from resettle.engine.verifying.assertions import assertions, orphans, probes
from resettle.engine.verifying.digest import Digest
from resettle.engine.verifying.exclusive import Exclusive, declared
from resettle.engine.verifying.findings import Finding, FlowChecked, Spot, Verified
from resettle.ledger.ledger import Ledger
from resettle.mapping.columns import literal
from resettle.mapping.functions import connect, query
from resettle.mapping.load import Migration

__all__ = ["Finding", "FlowChecked", "Spot", "Verified", "verify"]

_ROW = ["unit", "n"], ["_unit", "_n"]
_NONE = pa.chunked_array([], pa.string())
_Standing = tuple[pa.Array, pa.Array, pa.Array]
"""Which units the rules or the ledger hold or skip (null: neither), and which the ledger knows."""
_FILE = {"missing": "no such file", "differs": "another size or checksum"}


def verify(
    migration: Migration,
    connections: Connections,
    ledger: Ledger,
    options: Options,
    now: datetime,
    *,
    sample: int | None = None,
    seed: int = 0,
) -> Verified:
    """Compare every row (or about ``sample`` of each flow, chosen by ``seed``), then everything else."""
    verified = Verified()
    foreseen = Foreseen(referenced=referenced(migration))
    everything = replace(options, fresh=True, only=None, concurrency=None, ids=fresh_uuids)
    spots = migration.file.verify.spot_checks
    flows, whole = selected(migration, options), options.where is None and options.limit is None
    exclusive = declared(migration, connections, flows if whole and sample is None else (), verified)
    for name in flows:
        run = open_flow(migration, name, connections, ledger, foreseen, now, everything)
        checker = _FlowChecker(run, ledger, verified, exclusive, sample=sample, spots=spots, seed=seed)
        suspects = checker.run_all(whole=whole)
        if suspects is None or len(suspects):
            some = everything if suspects is None else replace(everything, only={name: suspects.to_pylist()})
            checker.run_suspects(open_flow(migration, name, connections, ledger, foreseen, now, some))
    for dataset in exclusive.values():
        dataset.check(verified)
    for said in (
        orphans(migration, connections, flows),
        assertions(migration, connections, show_values=options.show_values),
        probes(migration, connections, show_values=options.show_values),
    ):
        for one in said:
            verified.checks.append((one.name, one.passed, one.detail))
            if not one.passed:
                verified.add(Finding(one.flow, one.kind, one.finding), one.count)
    return verified


class _FlowChecker:
    """Compares one flow, batch by batch."""

    def __init__(
        self,
        run: FlowRun,
        ledger: Ledger,
        verified: Verified,
        exclusive: Mapping[str, Exclusive],
        *,
        sample: int | None,
        spots: int,
        seed: int,
    ) -> None:
        self._run, self._ledger, self._verified, self._exclusive = run, ledger, verified, exclusive
        self._checked = FlowChecked(run.name)
        self._db = connect()
        self._spots, self._rng = spots, random.Random(seed)
        total = ledger.count_rows().get(run.name, {}).get("units", 0)
        self._share = min(1.0, sample / total) if sample and total else 1.0
        self._seed = seed
        self._numbers = ledger.numbers(run.name, [output.name for output in run.shape.outputs])
        self._applied = self._left_behind = 0
        self._digests: dict[str, Digest] = {}
        """Of the outputs whose rows are not fetched, but for suspects."""

    def run_all(self, *, whole: bool) -> pa.Array | None:
        """Look at every record. Gives units whose rows may differ and were not fetched; None: that may be all.

        ``whole``: the source is read to its end, so that what is missing from it can be told.
        """
        self._verified.flows.append(self._checked)
        with ExitStack() as stack:
            if whole and self._share == 1.0:
                for output in filter(self._digestible, self._run.shape.outputs):
                    digest = Digest(self._db, self._run.targets[output.connection], output)
                    self._digests[output.name] = stack.enter_context(digest)
            for output in self._run.shape.outputs:
                self._exclude(output, _NONE, _NONE)
            for prepared in self._batches():
                self._batch(prepared)
            suspects = self._suspects()
        for output in self._run.shape.outputs:
            count = self._run.targets[output.connection].count(output.dataset)
            if count is not None:
                self._checked.in_target[output.dataset] = count
        if whole and self._share == 1.0:
            self._vanished()
            said = f"{self._run.name}: rows that their records no longer make"
            self._verified.checks.append((said, True, str(self._left_behind)))  # nothing is deleted
        return suspects

    def run_suspects(self, run: FlowRun) -> None:
        """Fetch and compare the rows of the records that ``run`` reads again."""
        self._run = run
        for prepared in filter(len, self._batches()):
            shaped, wanted, _ = self._wanted(prepared)
            for output, rows, known in self._outputs(prepared, shaped, wanted):
                if output.name in self._digests and rows.num_rows:
                    self._checked.by_digest -= rows.num_rows - pc.sum(self._digests[output.name].filled(rows)).as_py()
                    self._compare(output, rows, known)

    def _digestible(self, output: OutputShape) -> bool:
        """Whether every row of the output must be as we want it, and its target can digest rows."""
        special = output.patch or output.body or output.match or self._run.shape.flow.on_conflict == "target"
        return not special and isinstance(self._run.targets[output.connection], Digesting)

    def _suspects(self) -> pa.Array | None:
        found = [digest.suspects() for digest in self._digests.values()]
        if any(units is None for units in found):
            return None
        return pa.chunked_array(found, pa.string()).unique()

    def _batches(self) -> Iterator[Prepared]:
        with self._run.prepared() as batches:
            for prepared in batches:
                yield prepared
                if self._run.options.stop.is_set():
                    raise KeyboardInterrupt

    def _batch(self, prepared: Prepared) -> None:
        self._checked.read += prepared.read
        if not len(prepared):
            return
        shaped, wanted, standing = self._wanted(prepared)
        self._count(prepared, shaped, standing)
        if self._share < 1.0:
            wanted = pc.and_(wanted, self._chosen(shaped.units))
        held = shaped.units["_unit"].filter(standing[0]).combine_chunks()
        for output, rows, known in self._outputs(prepared, shaped, wanted):
            self._rows(output, rows, known)
            self._left_behind += self._unwanted(rows, known.filter(pc.invert(pc.is_in(known["unit"], held))), output)
            if output.place in self._exclusive:
                self._exclude(output, rows["_key"], known.filter(pc.is_in(known["unit"], held))["target_key"])

    def _outputs(
        self, prepared: Prepared, shaped: Shaped, chosen: pa.Array
    ) -> Iterator[tuple[OutputShape, pa.Table, pa.Table]]:
        """Of each output the rows that its target must have, of these units, and what the ledger knows of it."""
        units = shaped.units.filter(chosen)["_unit"].combine_chunks()
        for number, output, wanted in zip(self._numbers, self._run.shape.outputs, shaped.outputs, strict=True):
            known = prepared.known.rows
            known = known.filter(pc.equal(known["output"], number))
            rows = rekeyed(self._db, output, wanted.filter(pc.is_in(wanted["_unit"], units)), known)
            rows = renumbered(self._db, rows, known) if output.settles else rows
            yield output, rows, known

    def _wanted(self, prepared: Prepared) -> tuple[Shaped, pa.Array, _Standing]:
        """The batch shaped, which of its units must be in the target, and how they stand."""
        shaped = prepared.shaped_with(looking(self._db, self._run.targets, prepared.known, self._numbers))
        standing = held, skipped, applied = self._standing(prepared, shaped)
        return shaped, pc.and_(pc.invert(pc.fill_null(pc.or_kleene(held, skipped), False)), applied), standing

    def _standing(self, prepared: Prepared, shaped: Shaped) -> _Standing:
        units, known = shaped.units, prepared.known
        status = pc.index_in(units["_unit"], known.units["unit"].combine_chunks())
        remembered = known.units["status"].combine_chunks().take(status)
        word = pc.coalesce(units["status"], remembered)
        return pc.equal(word, "held"), pc.equal(word, "skipped"), pc.is_valid(status)

    def _count(self, prepared: Prepared, shaped: Shaped, standing: _Standing) -> None:
        """Count the records by what became of them; one that was never applied is a finding."""
        held, skipped, applied = standing
        self._checked.held += pc.sum(held).as_py() or 0
        self._checked.skipped += (pc.sum(skipped).as_py() or 0) + prepared.settled["skipped"]
        out = pc.fill_null(pc.or_kleene(held, skipped), False)
        missing = shaped.units.filter(pc.and_(pc.invert(out), pc.invert(applied)))
        migrated = pc.is_in(shaped.units["_unit"], prepared.known.rows["unit"].combine_chunks())
        self._applied += int(pc.sum(migrated).as_py() or 0)
        if missing.num_rows:
            self._checked.not_applied += missing.num_rows
            for unit in missing["_unit"].slice(0, 3).to_pylist():
                self._verified.add(Finding(self._run.name, "not_applied", "the record was never applied", unit))
            self._verified.counts["not_applied"] += missing.num_rows - min(3, missing.num_rows)

    def _exclude(self, output: OutputShape, wanted: pa.ChunkedArray, old: pa.ChunkedArray) -> None:
        """Tell who looks for rows of others which keys are no others': of wanted rows, of old ones of held records."""
        if (exclusive := self._exclusive.get(output.place)) and not output.patch:
            exclusive.add(output.key, wanted, old)

    def _chosen(self, units: pa.Table) -> pa.Array:
        sql = f"SELECT hash(_unit, {literal(str(self._seed))}) / 18446744073709551615.0 < {self._share} AS c FROM _u"
        return query(self._db, sql, _u=units.select(["_unit"]))["c"].combine_chunks()

    def _rows(self, output: OutputShape, rows: pa.Table, known: pa.Table) -> None:
        checked = self._checked
        checked.rows += rows.num_rows
        checked.cells += rows.num_rows * len(output.columns)
        for column in output.columns:
            cells = rows.num_rows - rows[column.name].null_count
            checked.instants += cells if column.kind in {Kind.INSTANT, Kind.DATETIME} else 0
            checked.documents += cells if column.kind is Kind.JSON else 0
        if not rows.num_rows:
            return
        if output.patch:
            self._patches(output, rows)
        elif output.body:
            self._files(output, rows)
        elif output.name in self._digests:
            checked.by_digest += rows.num_rows - self._digests[output.name].add(rows)
            self._spot_some(output, rows)
        else:
            self._spot(output, *self._compare(output, rows, known))

    def _compare(self, output: OutputShape, rows: pa.Table, known: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Find what is missing or differs. Gives the rows that are there and ours, as wanted and as found."""
        present = self._fetched(output, rows)
        at = pc.index_in(rows["_key"], present["_key"].combine_chunks())
        for unit, key in _pairs(rows.filter(pc.is_null(at))):
            self._verified.add(Finding(self._run.name, "missing", f"{output.dataset}: the row is not there", unit, key))
        there = rows.filter(pc.is_valid(at))
        found = present.take(pc.drop_null(at))
        theirs, same = self._remembered(there, known)
        if output.match or self._run.shape.flow.on_conflict == "target":
            there, found, same = (part.filter(pc.invert(theirs)) for part in (there, found, same))
        self._differences(output, there, found, same)
        return there, found

    def _fetched(self, output: OutputShape, rows: pa.Table) -> pa.Table:
        """What the target holds under the keys of these rows."""
        keys = rows.select(list(output.key_names))
        there = self._run.targets[output.connection].fetch(output.dataset, keys, output.names)
        return keyed(self._db, as_wire(there, output.columns), output.key)

    def _remembered(self, rows: pa.Table, known: pa.Table) -> tuple[pa.Array, pa.Array]:
        """Which rows are their owners' (they were there before us, or left to them), and which are wanted as we
        wrote them: if these differ, somebody changed them since."""
        found = query(
            self._db,
            "SELECT coalesce(k.reused = 1, false) AS theirs, coalesce(k.fp = w._fp, false) AS same FROM _w w"
            " LEFT JOIN _k k ON k.unit = w._unit AND k.n = w._n ORDER BY w.at",
            _w=rows.select(["_unit", "_n", "_fp"]).append_column("at", pa.array(np.arange(rows.num_rows))),
            _k=known,
        )
        return found["theirs"].combine_chunks(), found["same"].combine_chunks()

    def _unwanted(self, rows: pa.Table, known: pa.Table, output: OutputShape) -> int:
        """How many rows that we made are not among those that are wanted."""
        mine = known.filter(pc.fill_null(pc.not_equal(known["reused"], 1), True)).select(["unit", "n"])
        return 0 if output.patch else int(mine.join(rows.select(["_unit", "_n"]), *_ROW, "left anti").num_rows)

    def _patches(self, output: OutputShape, rows: pa.Table) -> None:
        """Every place that was patched holds what it should."""
        there = landed.patched(self._db, self._run.targets[output.connection], output, rows)
        names = ", ".join((*output.names[len(output.key) :], *output.edits))
        for unit, key in _pairs(rows.filter(pc.invert(pa.array(there, pa.bool_())))):
            detail = f"{output.dataset}: {names}: the patch is not there"
            self._verified.add(Finding(self._run.name, "differs", detail, unit, key))

    def _files(self, output: OutputShape, rows: pa.Table) -> None:
        """Every file is there, with the size and the checksum that are known of it."""
        words = landed.stored(self._db, self._run.targets[output.connection], output, rows)
        for (unit, key), kind in zip(_pairs(rows), words, strict=True):
            if kind is not None:
                self._verified.add(Finding(self._run.name, kind, f"{output.dataset}: {_FILE[kind]}", unit, key))

    def _differences(self, output: OutputShape, wanted: pa.Table, found: pa.Table, same: pa.Array) -> None:
        mine = wanted["_fp"].combine_chunks()
        theirs = fingerprints(self._db, found, output.columns)
        differ = pc.fill_null(pc.not_equal(mine, theirs), True)
        if not pc.any(differ).as_py():
            return
        wanted, found = wanted.filter(differ), found.filter(differ)
        columns = differing(self._db, output.columns, wanted, found)
        drifted = same.filter(differ).to_pylist()
        for (unit, key), names, drift in zip(_pairs(wanted), columns, drifted, strict=True):
            since = " (changed in the target since we wrote it)" if drift else ""
            detail = f"{output.dataset}: {', '.join(names)}{since}"
            self._verified.add(Finding(self._run.name, "differs", detail, unit, key))

    def _spot_some(self, output: OutputShape, rows: pa.Table) -> None:
        """Spot checks of rows that are not fetched otherwise."""
        rows = rows.take(pa.array(self._places(rows), pa.int64()))
        if rows.num_rows:
            present = self._fetched(output, rows)
            at = pc.index_in(rows["_key"], present["_key"].combine_chunks())
            self._spot(output, rows.filter(pc.is_valid(at)), present.take(pc.drop_null(at)))

    def _places(self, rows: pa.Table) -> list[int]:
        """Which rows of a batch to show: each may replace earlier choices, so that the whole flow has its chance."""
        room = self._spots - sum(spot.flow == self._run.name for spot in self._verified.spots)
        return self._rng.sample(range(rows.num_rows), min(max(room, 2 if self._spots else 0), rows.num_rows))

    def _spot(self, output: OutputShape, wanted: pa.Table, found: pa.Table) -> None:
        """Choose records to show, of rows that are there."""
        mine = [spot for spot in self._verified.spots if spot.flow == self._run.name]
        for place in self._places(wanted):
            spot = self._spot_of(output, wanted.slice(place, 1), found.slice(place, 1))
            if len(mine) < self._spots:
                mine.append(spot)
                self._verified.spots.append(spot)
            else:
                old = self._rng.choice(mine)
                mine[mine.index(old)] = spot
                self._verified.spots[self._verified.spots.index(old)] = spot

    def _spot_of(self, output: OutputShape, wanted: pa.Table, found: pa.Table) -> Spot:
        names = differing(self._db, output.columns, wanted, found)[0]
        shown = self._run.options.show_values
        fields = {
            name: (
                show(wanted[name][0].as_py()) if shown else None,
                show(found[name][0].as_py()) if shown else None,
                name not in names,
            )
            for name in output.names
        }
        return Spot(self._run.name, wanted["_unit"][0].as_py(), wanted["_key"][0].as_py(), fields)

    def _vanished(self) -> None:
        """Units that we migrated and the source no longer has: their rows stay, and are told."""
        known = self._ledger.count_rows().get(self._run.name, {}).get("units", 0)
        gone = known - self._applied
        self._verified.checks.append(
            (
                f"{self._run.name}: migrated records that the source no longer has",
                True,  # that is the source's right; their rows stay in the target
                str(max(gone, 0)),
            )
        )


def _pairs(rows: pa.Table) -> Iterator[tuple[str, str]]:
    return zip(rows["_unit"].to_pylist(), rows["_key"].to_pylist(), strict=True)
