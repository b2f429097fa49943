"""verify: the source again, shaped again, against what the target holds now. It never believes our own counts.

Beyond reading and shaping it shares no code with the writing path. Each flow's every row is compared by
fingerprint, then by column where it differs; then orphans, counts, the declaration's own assertions and
row-level-security probes.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import Column, Kind
from resettle.engine import bodies
from resettle.engine import patch as patching
from resettle.engine.alternate import rekeyed
from resettle.engine.assertions import assertions, orphans, probes
from resettle.engine.count import show
from resettle.engine.decision import Foreseen
from resettle.engine.feed import Prepared
from resettle.engine.fingerprint import as_duckdb, as_wire, fingerprints
from resettle.engine.flow import Connections, FlowRun, Options, open_flow, referenced, selected
from resettle.engine.present import keyed
from resettle.engine.settle import looking, renumbered
from resettle.engine.shape import Shaped
from resettle.engine.statements import OutputShape
from resettle.ledger.ledger import Ledger
from resettle.mapping.columns import canonical, literal, quote
from resettle.mapping.functions import connect, query
from resettle.mapping.load import Migration

KEPT = 100
"""Findings of one kind that are listed; all are counted."""
_FILE = {"missing": "no such file", "differs": "another size or checksum"}


@dataclass(frozen=True)
class Finding:
    """One difference: kind is missing, differs, vanished, orphan, count, assertion or probe."""

    flow: str
    kind: str
    detail: str
    unit: str | None = None
    key: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Spot:
    """One record field by field: column -> (what it should be, what the target holds, whether they agree)."""

    flow: str
    unit: str
    key: str
    fields: Mapping[str, tuple[Any, Any, bool]]


@dataclass
class FlowChecked:
    """What was compared in one flow."""

    flow: str
    read: int = 0
    held: int = 0
    skipped: int = 0
    not_applied: int = 0
    rows: int = 0
    cells: int = 0
    instants: int = 0
    documents: int = 0
    in_target: dict[str, int] = field(default_factory=dict)
    """Rows in each target dataset, ours or not."""

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass
class Verified:
    """The outcome: what was compared, what was found, and the named checks (name, passed, detail)."""

    flows: list[FlowChecked] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    checks: list[tuple[str, bool, str]] = field(default_factory=list)
    spots: list[Spot] = field(default_factory=list)

    def add(self, finding: Finding, count: int = 1) -> None:
        self.counts[finding.kind] += count
        if sum(one.kind == finding.kind for one in self.findings) < KEPT:
            self.findings.append(finding)

    @property
    def exit_code(self) -> int:
        return 4 if self.counts else 0

    def as_json(self) -> dict[str, Any]:
        return {
            "verified": not self.counts,
            "flows": [flow.as_json() for flow in self.flows],
            "findings": dict(self.counts),
            "listed": [finding.as_json() for finding in self.findings],
            "checks": [{"name": n, "passed": p, "detail": d} for n, p, d in self.checks],
            "spot_checks": [
                {"flow": s.flow, "unit": s.unit, "key": s.key, "fields": {k: v[2] for k, v in s.fields.items()}}
                for s in self.spots
            ],
        }


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
    everything = Options(
        select=options.select,
        where=options.where,
        limit=options.limit,
        batch_size=options.batch_size,
        workers=options.workers,
        fresh=True,
        show_values=options.show_values,
        progress=options.progress,
        stop=options.stop,
    )
    spots = migration.file.verify.spot_checks
    for name in selected(migration, options):
        run = open_flow(migration, name, connections, ledger, foreseen, now, everything)
        checker = _FlowChecker(run, ledger, verified, sample=sample, spots=spots, seed=seed)
        checker.run_all(whole=options.where is None and options.limit is None)
    for said in (
        orphans(migration, connections, selected(migration, options)),
        assertions(migration, connections),
        probes(migration, connections),
    ):
        for one in said:
            verified.checks.append((one.name, one.passed, one.detail))
            if not one.passed:
                verified.add(Finding(one.flow, one.kind, one.finding), one.count)
    return verified


class _FlowChecker:
    """Compares one flow, batch by batch."""

    def __init__(
        self, run: FlowRun, ledger: Ledger, verified: Verified, *, sample: int | None, spots: int, seed: int
    ) -> None:
        self._run, self._ledger, self._verified = run, ledger, verified
        self._checked = FlowChecked(run.name)
        self._db = connect()
        self._spots, self._rng = spots, random.Random(seed)
        total = ledger.count_rows().get(run.name, {}).get("units", 0)
        self._share = min(1.0, sample / total) if sample and total else 1.0
        self._seed = seed
        self._numbers = ledger.numbers(run.name, [output.name for output in run.shape.outputs])
        self._applied = 0

    def run_all(self, *, whole: bool) -> None:
        """``whole``: the source was read to its end, so that what is missing from it can be told."""
        self._verified.flows.append(self._checked)
        with self._run.prepared() as batches:
            for prepared in batches:
                self._batch(prepared)
                if self._run.options.stop.is_set():
                    raise KeyboardInterrupt
        for output in self._run.shape.outputs:
            count = self._run.targets[output.connection].count(output.dataset)
            if count is not None:
                self._checked.in_target[output.dataset] = count
        if whole and self._share == 1.0:
            self._vanished()

    def _batch(self, prepared: Prepared) -> None:
        self._checked.read += prepared.read
        if not len(prepared):
            return
        shaped = prepared.shaped_with(looking(self._db, self._run.targets, prepared.known, self._numbers))
        units = self._expected(prepared, shaped)
        for number, output, wanted in zip(self._numbers, self._run.shape.outputs, shaped.outputs, strict=True):
            known = prepared.known.rows
            known = known.filter(pc.equal(known["output"], number))
            rows = rekeyed(self._db, output, wanted.filter(pc.is_in(wanted["_unit"], units)), known)
            rows = renumbered(self._db, rows, known) if output.settles else rows
            self._rows(output, rows, known)

    def _expected(self, prepared: Prepared, shaped: Shaped) -> pa.Array:
        """The units whose rows must be in the target: what the rules and the ledger neither hold nor skip."""
        units = shaped.units
        known = prepared.known
        status = pc.index_in(units["_unit"], known.units["unit"].combine_chunks())
        remembered = known.units["status"].combine_chunks().take(status)
        word = pc.coalesce(units["status"], remembered)
        held, skipped = pc.equal(word, "held"), pc.equal(word, "skipped")
        self._checked.held += pc.sum(held).as_py() or 0
        self._checked.skipped += (pc.sum(skipped).as_py() or 0) + prepared.settled["skipped"]
        out = pc.fill_null(pc.or_kleene(held, skipped), False)
        applied = pc.is_valid(status)
        missing = units.filter(pc.and_(pc.invert(out), pc.invert(applied)))
        migrated = pc.is_in(units["_unit"], known.rows["unit"].combine_chunks())
        self._applied += int(pc.sum(migrated).as_py() or 0)
        if missing.num_rows:
            self._checked.not_applied += missing.num_rows
            for unit in missing["_unit"].slice(0, 3).to_pylist():
                self._verified.add(Finding(self._run.name, "not_applied", "the record was never applied", unit))
            self._verified.counts["not_applied"] += missing.num_rows - min(3, missing.num_rows)
        mask = pc.and_(pc.invert(out), applied)
        if self._share < 1.0:
            mask = pc.and_(mask, self._chosen(units))
        return units.filter(mask)["_unit"].combine_chunks()

    def _chosen(self, units: pa.Table) -> pa.Array:
        self._db.register("_u", units.select(["_unit"]))
        sql = f"SELECT hash(_unit, {literal(str(self._seed))}) / 18446744073709551615.0 < {self._share} AS c FROM _u"
        found = query(self._db, sql)["c"].combine_chunks()
        self._db.unregister("_u")
        return found

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
            return
        if output.body:
            self._files(output, rows)
            return
        target = self._run.targets[output.connection]
        present = as_wire(
            target.fetch(output.dataset, rows.select(list(output.key_names)), output.names), output.columns
        )
        present = keyed(self._db, output, present)
        at = pc.index_in(rows["_key"], present["_key"].combine_chunks())
        for unit, key in _pairs(rows.filter(pc.is_null(at))):
            self._verified.add(Finding(self._run.name, "missing", f"{output.dataset}: the row is not there", unit, key))
        there = rows.filter(pc.is_valid(at))
        found = present.take(pc.drop_null(at))
        theirs, same = self._remembered(there, known)
        if output.match or self._run.shape.flow.on_conflict == "target":
            there, found, same = (part.filter(pc.invert(theirs)) for part in (there, found, same))
        self._differences(output, there, found, same)
        self._spot(output, there, found)

    def _remembered(self, rows: pa.Table, known: pa.Table) -> tuple[pa.Array, pa.Array]:
        """Which rows are their owners' (they were there before us, or left to them), and which are wanted as we
        wrote them: if these differ, somebody changed them since."""
        self._db.register("_w", rows.select(["_unit", "_n", "_fp"]).append_column("at", pa.array(range(rows.num_rows))))
        self._db.register("_k", known)
        found = query(
            self._db,
            "SELECT coalesce(k.reused = 1, false) AS theirs, coalesce(k.fp = w._fp, false) AS same FROM _w w"
            " LEFT JOIN _k k ON k.unit = w._unit AND k.n = w._n ORDER BY w.at",
        )
        self._db.unregister("_w")
        self._db.unregister("_k")
        return found["theirs"].combine_chunks(), found["same"].combine_chunks()

    def _patches(self, output: OutputShape, rows: pa.Table) -> None:
        """Every place that was patched holds what it should."""
        columns = [c for name in (*output.names, *output.edits) if (c := output.schema.column(name))]
        keys = as_wire(rows.select(list(output.key_names)).group_by(list(output.key_names)).aggregate([]), output.key)
        there = self._run.targets[output.connection].fetch(output.dataset, keys, [column.name for column in columns])
        present = keyed(self._db, output, as_wire(there, columns))
        actions, _ = patching.states(self._db, output, rows, present)
        wrong = rows.filter(pc.not_equal(actions, "unchanged"))
        for unit, key in _pairs(wrong):
            detail = f"{output.dataset}: {', '.join((*output.names[len(output.key) :], *output.edits))}"
            self._verified.add(Finding(self._run.name, "differs", f"{detail}: the patch is not there", unit, key))

    def _files(self, output: OutputShape, rows: pa.Table) -> None:
        """Every file is there, with the size and the checksum that are known of it."""
        columns = [c for name in (*output.key_names, *bodies.COMPARED) if (c := output.schema.column(name))]
        keys = as_wire(rows.select(list(output.key_names)), output.key)
        there = self._run.targets[output.connection].fetch(output.dataset, keys, [column.name for column in columns])
        present = keyed(self._db, output, as_wire(there, columns))
        rows = rows.append_column("_at", pa.array(range(rows.num_rows)))
        found = bodies.states(self._db, rows, bodies.NONE_KNOWN, present, policy="hold")["_action"].to_pylist()
        for (unit, key), action in zip(_pairs(rows), found, strict=True):
            if action != "reuse":
                kind = "missing" if action == "copy" else "differs"
                self._verified.add(Finding(self._run.name, kind, f"{output.dataset}: {_FILE[kind]}", unit, key))

    def _differences(self, output: OutputShape, wanted: pa.Table, found: pa.Table, same: pa.Array) -> None:
        mine = wanted["_fp"].cast(pa.binary()).combine_chunks()
        theirs = fingerprints(self._db, found, output.columns).cast(pa.binary())
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

    def _spot(self, output: OutputShape, wanted: pa.Table, found: pa.Table) -> None:
        """Choose records to show: each batch may replace earlier choices, so that the whole flow has its chance."""
        mine = [spot for spot in self._verified.spots if spot.flow == self._run.name]
        room = self._spots - len(mine)
        places = self._rng.sample(range(wanted.num_rows), min(max(room, 2 if self._spots else 0), wanted.num_rows))
        for place in places:
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


def differing(
    connection: duckdb.DuckDBPyConnection, columns: Sequence[Column], wanted: pa.Table, found: pa.Table
) -> list[list[str]]:
    """For each pair of rows the columns whose canonical values differ."""
    names = [column.name for column in columns]
    connection.register("_a", as_duckdb(wanted.select(names), columns))
    connection.register("_b", as_duckdb(found.select(names), columns))
    select = ", ".join(f"{canonical(column)} AS {quote(column.name)}" for column in columns)
    a, b = (query(connection, f"SELECT {select} FROM {table}") for table in ("_a", "_b"))
    connection.unregister("_a")
    connection.unregister("_b")
    flags = np.array(
        [[x != y for x, y in zip(a[name].to_pylist(), b[name].to_pylist(), strict=True)] for name in names]
    )
    return [[name for name, flag in zip(names, row, strict=True) if flag] for row in flags.T]


def _pairs(rows: pa.Table) -> Iterator[tuple[str, str]]:
    return zip(rows["_unit"].to_pylist(), rows["_key"].to_pylist(), strict=True)
