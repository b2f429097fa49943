"""rollback: undo a run, unit by unit, where nobody changed since what it wrote; the rest is kept and listed.

What the run created is deleted, what it changed is put back from its before-images, and the ledger forgets it: as if
the run had never been. Flows and outputs go in the reverse of their order. A unit whose rows are still needed waits
for another pass, until a pass undoes nothing more. The target's own triggers fire as for any other writer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa

from resettle.batch import Action
from resettle.calls import Caller
from resettle.connector import Target
from resettle.engine.commit import alive, transactions
from resettle.engine.fingerprint import as_duckdb, key_sql
from resettle.engine.flow import Connections, Options
from resettle.engine.undoing.references import References, Undone
from resettle.engine.undoing.standing import place_of, see
from resettle.engine.undoing.undo import Undoer
from resettle.engine.undoing.verdict import WAITS, Asked, Kept, Verdict, column, unit_text
from resettle.errors import ConfigError, LockedError, RejectedError
from resettle.ledger.ledger import Ledger
from resettle.ledger.records import Run
from resettle.ledger.undo import MadeOf
from resettle.mapping.functions import connect, query
from resettle.mapping.load import Migration, suggest
from resettle.mapping.sql import Parsed, SqlError, parse_expression

PHASES = ("apply", "replay")
CHUNK = 5_000
"""Units in one transaction, at most."""
LISTED = 1_000
"""Kept units of a flow that are listed; all are counted."""
SAMPLES = 5


@dataclass
class FlowUndone:
    """What was undone of one flow, or would be.

    ``outputs`` counts rows by output: deleted, restored and forgotten (of which only the ledger knew, or that are
    gone or put back already). ``kept`` counts units by reason; ``listed`` has them, ``samples`` some of the undone.
    """

    flow: str
    units: int = 0
    outputs: dict[str, Counter[str]] = field(default_factory=dict)
    kept: Counter[str] = field(default_factory=Counter)
    listed: list[Kept] = field(default_factory=list)
    samples: list[str] = field(default_factory=list)

    def add(self, verdict: Verdict) -> None:
        self.units += len(verdict.undone)
        self.samples += verdict.undone[: SAMPLES - len(self.samples)]
        for output, counts in verdict.counts.items():
            self.outputs.setdefault(output, Counter()).update(counts)
        self.kept.update(one.reason for one in verdict.kept)
        self.listed += verdict.kept[: LISTED - len(self.listed)]

    def total(self, word: str) -> int:
        return sum(counts[word] for counts in self.outputs.values())

    def as_json(self) -> dict[str, Any]:
        words = ("deleted", "restored", "forgotten")
        return {
            "flow": self.flow,
            "units": self.units,
            **{word: self.total(word) for word in words},
            "kept": dict(self.kept),
            "outputs": {name: {word: counts[word] for word in words} for name, counts in self.outputs.items()},
        }


@dataclass(frozen=True)
class RolledBack:
    """A rollback of run ``of``: its own number (None for a plan), and what it did (or would do) to each flow."""

    of: int
    run: int | None
    flows: tuple[FlowUndone, ...]
    interrupted: bool = False

    @property
    def kept(self) -> int:
        return sum(flow.kept.total() for flow in self.flows)

    @property
    def status(self) -> str:
        return "interrupted" if self.interrupted else "held" if self.kept else "done"

    @property
    def exit_code(self) -> int:
        return {"interrupted": 130, "held": 3, "done": 0}[self.status]

    def as_json(self) -> dict[str, Any]:
        return {
            "rolled_back": self.of,
            "run": self.run,
            "status": self.status if self.run else "planned",
            "flows": [flow.as_json() for flow in self.flows],
            "listed": [vars(kept) for flow in self.flows for kept in flow.listed],
        }


def plan_rollback(
    migration: Migration, connections: Connections, ledger: Ledger, options: Options, of: int
) -> RolledBack:
    """What `rollback` would do. Writes nothing. Raises ConfigError for a run that cannot be undone."""
    work = _Rollback(migration, connections, ledger, options, of)
    work.run_all(lambda undoer, flow, units: [undoer.decide(work.asked(flow, units), lock=False)])
    return RolledBack(of, None, work.flows, options.stop.is_set())


def rollback(
    migration: Migration, connections: Connections, ledger: Ledger, options: Options, now: datetime, of: int
) -> RolledBack:
    """Undo the run ``of``. Safe to be killed anywhere and to be run again. Raises ConfigError and LockedError."""
    work = _Rollback(migration, connections, ledger, options, of)
    said = {"run": of, **options.as_json()}
    with ledger.run("rollback", said, now, lock=True) as run, alive(ledger, run):
        writer = _Writer(work, run)
        work.run_all(writer.commit)
        if options.where is None and not options.stop.is_set():
            for flow in work.flows:
                writer.forget_unwritten(flow.flow)
        done = RolledBack(of, run.number, work.flows, options.stop.is_set())
        ledger.finish(run, done.status, {"flows": [flow.as_json() for flow in done.flows]})
    return done


Commit = Callable[[Undoer, str, pa.Array], list[Verdict]]


class _Rollback:
    """The units of a run, pass after pass."""

    def __init__(
        self, migration: Migration, connections: Connections, ledger: Ledger, options: Options, of: int
    ) -> None:
        _check_run(ledger, of)
        self.ledger, self._migration, self._options, self.of = ledger, migration, options, of
        names = _flows(migration, ledger, options)
        self._made_of = ledger.made_of()
        mine = [made for made in self._made_of.values() if made.flow in names]
        self.targets = _targets(migration, connections, {made.connection for made in mine})
        self._db = connect()
        identities = {(made.connection, made.dataset): made.key for made in mine}
        self._references = References(self._db, self.targets, identities)
        self._reusing = ledger.reusing()
        self._undone = Undone()
        self._where = self._condition({(made.connection, made.dataset) for made in mine})
        self.flows = tuple(FlowUndone(name) for name in names)

    def run_all(self, commit: Commit) -> None:
        """Undo what can be undone, in as many passes as that takes."""
        while True:
            before = sum(flow.units for flow in self.flows)
            for flow in self.flows:
                flow.kept.clear()
                flow.listed.clear()
                if not self._flow(flow, commit):
                    return
            waiting = any(WAITS & flow.kept.keys() for flow in self.flows)
            if not waiting or sum(flow.units for flow in self.flows) == before:
                return

    def _flow(self, flow: FlowUndone, commit: Commit) -> bool:
        """One pass over a flow's units; false if somebody asked to stop."""
        undoer = self._undoer(flow.flow)
        for units in self._pages(flow.flow):
            for verdict in commit(undoer, flow.flow, units) if len(units) else ():
                hashes = self._references.hashes
                self._undone.units.add(hashes([unit_text(flow.flow, unit) for unit in verdict.undone]))
                self._undone.rows.add(hashes(verdict.rows))
                flow.add(verdict)
            if self._options.stop.is_set():
                return False
        return True

    def _pages(self, flow: str) -> Iterator[pa.Array]:
        """The units of the run that are not undone yet."""
        size, after = min(self._options.batch, CHUNK), None
        while True:
            units = self.ledger.written_units(flow, self.of, after, size)
            if not len(units):
                return
            after = units[-1].as_py()
            done = self._undone.units.seen(self._references.hashes([unit_text(flow, u) for u in units.to_pylist()]))
            yield units.filter(pa.array(~done))

    def _undoer(self, flow: str) -> Undoer:
        names = {number: name for name, number in self.ledger.outputs(flow).items()}
        declared = self._migration.file.flows.get(flow)
        patches = {name for name, output in declared.all_outputs.items() if output.patch} if declared else set()
        return Undoer(
            self._db,
            flow,
            self.of,
            self.targets,
            self._references,
            self._made_of,
            names,
            frozenset(number for number, name in names.items() if name in patches),
            self._undone,
            self._where,
        )

    def asked(self, flow: str, units: pa.Array) -> Asked:
        """What the ledger remembers of these units, and of who reuses their rows."""
        written = self.ledger.written(flow, self.of, units)
        mine: dict[MadeOf, set[str]] = {}
        for shape, key, reused in zip(
            *(column(written.rows, n) for n in ("shape", "target_key", "reused")), strict=True
        ):
            if not reused:
                mine.setdefault(self._made_of[shape], set()).add(key)
        reusers: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
        for one in self._reusing:
            for made, keys in mine.items():
                if (one.connection or made.connection, one.dataset) == (made.connection, made.dataset):
                    called = {key: key for key in keys} if one.key == made.key else self._called(made, keys, one.key)
                    found = self.ledger.reusers(one, sorted(called)) if called else []
                    place = reusers.setdefault((made.connection, made.dataset), [])
                    place += [(called[key], one.flow, unit) for key, unit in found]
        return Asked(units.to_pylist(), written, reusers)

    def _called(self, made: MadeOf, keys: set[str], names: Sequence[str]) -> dict[str, str]:
        """The keys of rows that are there by what they are called after other columns."""
        schema = self._references.schema(made.connection, made.dataset)
        place = place_of(made, self.targets[made.connection], schema)
        other = [found for name in names if (found := schema.column(name))]
        if place is None or len(other) < len(names):
            return {}
        asked = pa.table({"target_key": pa.array(sorted(keys), pa.string())})
        present = as_duckdb(see(self._db, place, asked, names, lock=False).present, schema.columns)
        found = query(self._db, f"SELECT {key_sql(other)} AS called, _key FROM _p", _p=present)
        return dict(zip(column(found, "called"), column(found, "_key"), strict=True))

    def _condition(self, places: set[tuple[str, str]]) -> Parsed | None:
        """--where, over the columns of some dataset that was written. Raises ConfigError where it makes no sense."""
        text = self._options.where
        if text is None:
            return None
        try:
            parsed = parse_expression(text)
        except SqlError as error:
            raise ConfigError(f"--where: bad SQL: {error}") from None
        schemas = [self._references.schema(*place) for place in sorted(places)]
        named = {name.lower(): name for _, name, _ in parsed.columns}
        if not any(named.keys() <= {name.lower() for name in schema.names} for schema in schemas):
            known = list(dict.fromkeys(name for schema in schemas for name in schema.names))
            missing = [name for low, name in named.items() if low not in {one.lower() for one in known}]
            if missing:
                hint = suggest(missing[0], known)
                raise ConfigError(f"--where: no dataset of these flows has a column `{missing[0]}`", hint=hint)
            raise ConfigError(f"--where: no dataset of these flows has all of {', '.join(named.values())}")
        return parsed


class _Writer:
    """Undoes chunks: data and ledger in one transaction."""

    def __init__(self, work: _Rollback, run: Run) -> None:
        self._work, self._run = work, run
        self._retry = Caller(lambda error: None, attempts=6)

    def commit(self, undoer: Undoer, flow: str, units: pa.Array) -> list[Verdict]:
        """Undo these units; those that the target refuses are found by halving, and kept."""
        try:
            return [self._once(undoer, flow, units)]
        except RejectedError as error:
            if len(units) == 1:
                return [undoer.refused(units[0].as_py(), f"{error.reason} {error.detail}".rstrip())]
        middle = len(units) // 2
        return [*self.commit(undoer, flow, units[:middle]), *self.commit(undoer, flow, units[middle:])]

    def _once(self, undoer: Undoer, flow: str, units: pa.Array) -> Verdict:
        """One transaction, tried again where the service says it may be."""
        ledger, last = self._work.ledger, list[Verdict]()

        def once() -> Verdict:
            asked = self._work.asked(flow, units)
            if last and not self._remains(asked, last[-1]):  # its answer was lost, not the commit
                return last[-1]
            with transactions(self._work.targets, ledger):
                verdict = undoer.decide(asked, lock=True)
                last.append(verdict)
                if verdict.undone:
                    _write(verdict)
                    ledger.fence(self._run)
                    ledger.forget(flow, self._work.of, verdict.forgotten)
            return verdict

        return self._retry(once)

    def forget_unwritten(self, flow: str) -> None:
        """What became of the units of which the run wrote nothing goes too."""

        def once() -> None:
            with self._work.ledger.transaction():
                self._work.ledger.fence(self._run)
                self._work.ledger.forget_unwritten(flow, self._work.of)

        self._retry(once)

    def _remains(self, asked: Asked, verdict: Verdict) -> bool:
        """Whether the ledger still knows what the run did to units that were undone."""
        undone, of = set(verdict.undone), self._work.of
        rows = zip(*(column(asked.written.rows, name) for name in ("unit", "run", "changed_run")), strict=True)
        touched = any(unit in undone and of in (run, changed) for unit, run, changed in rows)
        return touched or not undone or any(unit in undone for unit in column(asked.written.images, "unit"))


def _write(verdict: Verdict) -> None:
    for change in verdict.changes:
        place = change.place
        if not change.deletes:
            place.target.write(place.schema.dataset, change.rows, [c.name for c in place.key], Action.UPDATE)
        elif place.target.delete(place.schema.dataset, change.rows) != change.rows.num_rows:
            raise RejectedError("not_deleted", place.schema.dataset, connection=place.target.name)


def _flows(migration: Migration, ledger: Ledger, options: Options) -> list[str]:
    """The flows to undo, the last of the declaration first; those that are no longer declared before them."""
    declared = list(migration.file.flows)
    applied = ledger.flows()
    for name in options.select:
        if name not in applied:
            raise ConfigError(f"no flow `{name}` was ever applied", hint=suggest(name, applied))
    ordered = [name for name in declared if name in applied] + [name for name in applied if name not in declared]
    return [name for name in reversed(ordered) if not options.select or name in options.select]


def _targets(migration: Migration, connections: Connections, names: set[str]) -> Mapping[str, Target]:
    for name in names:
        if name not in migration.connections:
            raise ConfigError(f"the run wrote through connection `{name}`, which the migration no longer has")
    return {name: connections.target(name) for name in sorted(names)}


def _check_run(ledger: Ledger, of: int) -> None:
    """Raise ConfigError unless this is a run that wrote, and LockedError while it still writes."""
    run = ledger.run_of(of)
    if run is None or run["phase"] not in PHASES:
        there = [f"{one['run']} ({one['status']})" for one in ledger.runs(1000) if one["phase"] in PHASES]
        what = f"run {of} is a {run['phase']}" if run else f"there is no run {of}"
        hint = f"runs that can be rolled back: {', '.join(there)}" if there else "nothing was applied yet"
        raise ConfigError(f"{what}; only an apply or a replay can be rolled back", hint=hint)
    if run["status"] == "running" and ledger.writing() == of:
        raise LockedError(f"run {of} is still writing", hint="wait for it, or stop it")
