"""apply: carry out what plan would say, batch by batch, data and ledger in one transaction.

A batch that the target refuses is narrowed to the refused units, which are held; their neighbours go on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import Action, Status
from resettle.calls import Caller
from resettle.connector import Target
from resettle.engine.balance import Counts
from resettle.engine.commit import alive, transactions
from resettle.engine.count import count_decision, count_prepared, summarise
from resettle.engine.decide import Decider
from resettle.engine.decision import WRITTEN, Decided, Decision, Foreseen
from resettle.engine.effects import carry_out, merged, of_units, outside
from resettle.engine.feed import Prepared
from resettle.engine.fingerprint import as_wire
from resettle.engine.flow import (
    Connections,
    FlowRun,
    Options,
    compile_flow,
    foresee,
    open_flow,
    remembering,
    selected,
)
from resettle.engine.patch import documents
from resettle.engine.plan import Plan, check_fresh, decision_hashes, plan
from resettle.engine.remember import record_of
from resettle.engine.rounds import Rounds
from resettle.engine.uniques import Hashes, contains
from resettle.errors import RejectedError, StalePlanError
from resettle.ledger.ledger import Ledger
from resettle.ledger.records import Run
from resettle.mapping.functions import connect, query
from resettle.mapping.load import Migration
from resettle.middleware.isolate import isolate

LARGE = 10_000
"""Rows created and units held by a flow after which the ledger's store makes statistics."""


@dataclass(frozen=True)
class Applied:
    """A finished run: its number, its balance per flow, and whether somebody stopped it."""

    run: int
    counts: tuple[Counts, ...]
    interrupted: bool = False

    @property
    def status(self) -> str:
        if self.interrupted:
            return "interrupted"
        totals = {s: sum(c.units[s] for c in self.counts) for s in (Status.FAILED, Status.HELD)}
        return "failed" if totals[Status.FAILED] else "held" if totals[Status.HELD] else "done"

    @property
    def exit_code(self) -> int:
        return {"interrupted": 130, "failed": 1, "held": 3, "done": 0}[self.status]


def apply(
    migration: Migration,
    connections: Connections,
    ledger: Ledger,
    options: Options,
    now: datetime,
    *,
    saved: Plan | None = None,
    phase: str = "apply",
) -> Applied:
    """Run the selected flows; with ``saved`` exactly that plan, or StalePlanError and nothing written."""
    names = selected(migration, options)
    if saved is not None:
        check_fresh(saved, plan(migration, connections, ledger, options, now))
    # every flow must compile before the first write
    compiled = {name: compile_flow(migration, name, connections) for name in names}
    foreseen = foresee(migration, connections, names)
    ledger.prepare({name: list(flow.all_outputs) for name, flow in migration.file.flows.items()})
    counted: list[Counts] = []
    with ExitStack() as stack, ledger.run(phase, options.as_json(), now, lock=True) as run, alive(ledger, run):
        for name in names:
            flow = open_flow(migration, name, connections, ledger, foreseen, now, options, compiled.pop(name))
            stack.enter_context(remembering(flow.targets))
            counts = Counts(name, unmapped=flow.shape.unmapped, unseen=flow.shape.unseen)
            counted.append(counts)
            writer = Writer(flow, ledger, run, foreseen, counts, saved.decisions[name] if saved else None)
            writer.run_all()
            counts.check()
            if counts.total(Action.CREATE) + counts.units[Status.HELD] >= LARGE:
                ledger.loaded()
            if options.stop.is_set():
                break
            ledger.heartbeat(run)  # who lost the lock meanwhile runs nothing more
            run_after(migration.file.flows[name].after, flow.targets)
        applied = Applied(run.number, tuple(counted), options.stop.is_set())
        if not applied.interrupted and migration.file.after:
            ledger.heartbeat(run)
            target = next(iter(migration.file.flows[names[-1]].all_outputs.values())).into.partition(".")[0]
            run_after(migration.file.after, {target: connections.target(target)})
        ledger.finish(run, applied.status, {"flows": [counts.as_json() for counts in counted]})
    return applied


class Writer:
    """Writes one flow's batches."""

    def __init__(
        self,
        flow: FlowRun,
        ledger: Ledger,
        run: Run,
        foreseen: Foreseen,
        counts: Counts,
        allowed: Hashes | None,
    ) -> None:
        self._flow, self._ledger, self._run = flow, ledger, run
        self._foreseen, self._counts, self._allowed = foreseen, counts, allowed
        self._db = connect()
        numbers = ledger.outputs(flow.name)
        self._shapes = {
            o.name: ledger.shape(flow.name, numbers[o.name], o.place, o.key_names, o.names) for o in flow.shape.outputs
        }
        self._decider = Decider(flow.shape, flow.targets, self._db, foreseen, ledger)
        self._outside = outside(flow.shape, flow.targets)
        self._optimistic = True
        self._retry = Caller(lambda error: None, attempts=6)

    def run_all(self, *, ahead: bool = True) -> None:
        """Read, decide and write every batch; ``ahead``: the next one is prepared meanwhile, in another thread."""
        options = self._flow.options
        options.progress(self._flow.name, "reading", self._counts)
        for copier in self._flow.copiers.values():
            copier.target.abandon(copier.into)
        with self._flow.prepared(ahead=ahead, rows=self._flow.rows) as batches:
            rounds = Rounds(batches, self._flow.rows, partial(self._ledger.known, self._flow.name))
            for prepared in rounds:
                options.progress(self._flow.name, "writing", self._counts)
                decisions = self._write(prepared)
                for decision in decisions:
                    self._foreseen.accept(self._flow.name, decision)
                    count_decision(self._counts, self._flow.shape, decision, self._db, show_values=options.show_values)
                count_prepared(self._counts, prepared)
                self._counts.read -= rounds.decided(prepared, decisions)
                if options.stop.is_set():
                    return
        summarise(self._counts, self._flow.shape, self._db)
        options.progress(self._flow.name, "done", self._counts)

    def _write(self, prepared: Prepared) -> list[Decision]:
        """Commit a batch; several decisions if it had to be cut in parts."""
        if not len(prepared):
            return []
        done = None
        if self._outside:
            done = self._first_outside(prepared)
            prepared = prepared.of(done.units["_unit"].combine_chunks())
            prepared = replace(prepared, known=self._ledger.known(self._flow.name, prepared.units))
        try:
            return [self._commit(prepared, None, done)]
        except RejectedError:
            refused = self._refusals(prepared)
        if refused is not None and refused.num_rows:
            try:
                return [self._commit(prepared, refused, done)]
            except RejectedError:
                pass  # something else is refused as well: find it the slow way
        return isolate(prepared, lambda part, held: self._commit(part, held, done))

    def _first_outside(self, prepared: Prepared) -> Decision:
        """What no transaction covers: meant, remembered as meant, and done. What failed is held."""
        decision = self._decider.decide(prepared, optimistic=False, lock=False)
        self._allow(decision)
        numbers = pa.array([decision.outputs[place].number for place in self._outside], pa.int16())
        meant = record_of(self._db, self._flow.shape, decision, prepared, self._shapes).created
        meant = meant.filter(pc.and_(pc.is_in(meant["output"], numbers), pc.invert(meant["reused"])))
        with self._ledger.transaction():
            self._ledger.intend(self._run, self._flow.name, meant)
        flow = self._flow
        return carry_out(
            decision, self._outside, flow.shape, flow.targets, flow.copiers, self._writes, self._decider.hold
        )

    def _commit(self, prepared: Prepared, refused: pa.Table | None, done: Decision | None = None) -> Decision:
        """One transaction: decide, write, remember. Tried again where the service says it may be.

        ``done``: what was done before to outputs that no transaction covers.
        """
        tries = 0
        last: Decision | None = None

        def once() -> Decision:
            nonlocal prepared, tries, last
            tries += 1
            if tries > 1:  # a lost answer may have been a commit: look at the ledger again
                prepared = replace(prepared, known=self._ledger.known(self._flow.name, prepared.units))
                if done is not None and last is not None and self._remembered(last, prepared.known.rows):
                    return last
                self._optimistic = False  # what it made is no creation of this decision: later batches must look for it
            with transactions(self._flow.targets, self._ledger):
                decision = self._decide(prepared, done, tries)
                if refused is not None:
                    decision = self._decider.hold(decision, refused)
                last = decision
                for made in decision.outputs:
                    for rows, action, _ in self._writes(made) if made.place not in self._outside else ():
                        self._target(made).write(made.dataset[1], rows, self._key(made), action)
                record = record_of(self._db, self._flow.shape, decision, prepared, self._shapes)
                self._ledger.record(self._run, self._flow.name, replace(record, intended=bool(self._outside)))
            return decision

        try:
            return self._retry(once)
        except RejectedError as error:
            if error.reason == "exists" and self._optimistic:
                self._optimistic = False  # the target is not ours alone: look before every write from now on
                return self._commit(prepared, refused, done)
            raise

    def _decide(self, prepared: Prepared, done: Decision | None, tries: int) -> Decision:
        if done is not None and len(self._outside) == len(self._flow.shape.outputs):
            return of_units(done, prepared.units)
        decision = self._decider.decide(prepared, optimistic=self._optimistic, lock=True)
        if done is not None:
            return merged(decision, of_units(done, prepared.units), self._outside, self._decider.hold)
        if tries == 1:  # what a lost answer had committed is unchanged now, as the plan would have it
            self._allow(decision)
        return decision

    def _remembered(self, decision: Decision, known: pa.Table) -> bool:
        """Whether the ledger has what a decision was to write."""
        meant = []
        for made in decision.outputs:
            rows = made.rows.filter(pc.or_(pc.invert(made.rows["_known"]), pc.is_in(made.rows["_action"], WRITTEN)))
            number = pa.repeat(pa.scalar(made.number, pa.int64()), rows.num_rows)
            meant.append(rows.select(["_unit", "_n", "_fp"]).append_column("output", number))
        wanted = pa.concat_tables(meant)
        sql = (
            "SELECT w._unit FROM _w w ANTI JOIN _k k"
            " ON k.unit = w._unit AND k.output = w.output AND k.n = w._n AND k.fp = w._fp"
        )
        return wanted.num_rows > 0 and not query(self._db, sql, _w=wanted, _k=known).num_rows

    def _refusals(self, prepared: Prepared) -> pa.Table | None:
        """Ask the target, without a trace, which units it refuses.

        A unit that would reuse what a refused one makes is asked about again, once it makes that itself.
        """
        if len(self._outside) == len(self._flow.shape.outputs):
            return None
        with transactions(self._flow.targets, self._ledger, rollback=True):
            decision = self._decider.decide(prepared, optimistic=False, lock=True)
            target = self._target(next(m for m in decision.outputs if m.place not in self._outside))
            refused: list[pa.Table] = []
            while True:
                writes, units = [], []
                for made in decision.outputs:
                    for rows, action, of in self._writes(made) if made.place not in self._outside else ():
                        writes.append((made.dataset[1], rows, self._key(made), action))
                        units.append(of)
                found = target.refusals(writes, units) if writes else None
                if found is None or not found.num_rows:
                    return pa.concat_tables(refused) if refused else found
                led = decision.led_by(found["unit"].combine_chunks())
                alone = found.filter(pc.invert(pc.is_in(found["unit"], led)))
                refused.append(alone if alone.num_rows else found)
                decision = self._decider.hold(decision, refused[-1])

    def _allow(self, decision: Decision) -> None:
        if self._allowed is None:
            return
        strange = ~contains(self._allowed, decision_hashes(self._db, decision))
        if strange.any():
            raise StalePlanError(
                f"flow `{self._flow.name}`: {int(strange.sum())} records changed while the plan was applied;"
                " this batch and what follows were not written",
                hint="make a new plan: what was written stays written, and is unchanged in it",
            )

    def _target(self, made: Decided) -> Target:
        return self._flow.targets[made.dataset[0]]

    def _key(self, made: Decided) -> tuple[str, ...]:
        return self._flow.shape.outputs[made.place].key_names

    def _writes(self, made: Decided) -> Iterator[tuple[pa.Table, Action, pa.Array]]:
        """What to write, with just the target's columns, and the unit of each row."""
        output = self._flow.shape.outputs[made.place]
        if output.patch:
            rows = made.having(Action.PATCH)
            for table, units in documents(output, rows, made.present) if rows.num_rows else ():
                yield table, Action.UPDATE, units
            return
        creates, updates = made.having(Action.CREATE), made.having(Action.UPDATE)
        if creates.num_rows:
            names = [column.name for column in output.written]
            yield creates.select(names), Action.CREATE, creates["_unit"].combine_chunks()
        if updates.num_rows:
            names = [*output.names, *(f"_upd_{name}" for name in output.updates)]
            rows = updates.select(names).rename_columns([*output.names, *output.updates])
            columns = [column for name in output.updates if (column := output.schema.column(name))]
            yield as_wire(rows, columns), Action.UPDATE, updates["_unit"].combine_chunks()


def run_after(statements: list[str], targets: Mapping[str, Target]) -> None:
    """SQL of the declaration, once a flow is done."""
    for target in targets.values():
        sql = target.sql()
        if statements and sql is not None:
            with sql.transaction():
                for statement in statements:
                    sql.execute(statement)


def summary(applied: Applied) -> dict[str, Any]:
    """For --json."""
    return {
        "run": applied.run,
        "status": applied.status,
        "flows": [counts.as_json() for counts in applied.counts],
    }
