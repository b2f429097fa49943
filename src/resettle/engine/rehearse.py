"""rehearse: the real writes, against the real constraints and triggers, in one transaction that is rolled back.

Flow after flow runs through apply's own code; every batch is a savepoint. The ledger is read and not written. Only
what no transaction takes back stays: numbers drawn from sequences.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from resettle.batch import Status
from resettle.connector import Sql, Target
from resettle.engine.apply import Writer, run_after
from resettle.engine.balance import Counts
from resettle.engine.flow import Connections, Options, compile_flow, foresee, open_flow, selected
from resettle.errors import ConfigError
from resettle.ledger.ledger import Ledger, numbered
from resettle.ledger.records import Record, Run
from resettle.mapping.load import Migration

_ENDS_TRANSACTION = re.compile(r"\b(commit|rollback|begin|start\s+transaction|end\s+transaction)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Rehearsed:
    """What would have happened, and was taken back."""

    counts: tuple[Counts, ...]
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        if self.interrupted:
            return 130
        totals = {s: sum(c.units[s] for c in self.counts) for s in (Status.FAILED, Status.HELD)}
        return 1 if totals[Status.FAILED] else 3 if totals[Status.HELD] else 0


class _RolledBackError(Exception):
    """Leaves the transactions without a trace."""


class _ReadOnlyLedger(Ledger):
    """A ledger that is asked and told nothing."""

    def __init__(self, ledger: Ledger, outputs: Mapping[str, list[str]]) -> None:
        self.__dict__.update(ledger.__dict__)
        self._outputs = outputs

    def outputs(self, flow: str) -> dict[str, int]:
        return numbered(super().outputs(flow), self._outputs[flow])

    def lives_in(self, sql: Sql) -> bool:
        return True

    def shape(self, flow: str, output: int, into: str, key: Any, columns: Any) -> int:
        return 0

    def record(self, run: Run, flow: str, record: Record) -> None:
        return

    def loaded(self) -> None:
        return


def rehearse(
    migration: Migration, connections: Connections, ledger: Ledger, options: Options, now: datetime
) -> Rehearsed:
    """Run the selected flows and take everything back.

    Raises ConfigError where a target has no transactions that can hold a whole run.
    """
    names = selected(migration, options)
    _check_after(migration, names)
    compiled = {name: compile_flow(migration, name, connections) for name in names}
    outputs = {name: list(flow.all_outputs) for name, flow in migration.file.flows.items()}
    quiet = _ReadOnlyLedger(ledger, outputs)
    foreseen, run = foresee(migration, connections, names), Run(0, "rehearse", now)
    counted: list[Counts] = []
    try:
        with ExitStack() as stack:
            for target in _targets(migration, connections, names):
                stack.enter_context(target.transaction())
            for name in names:
                flow = open_flow(migration, name, connections, quiet, foreseen, now, options, compiled.pop(name))
                counts = Counts(name, unmapped=flow.shape.unmapped, unseen=flow.shape.unseen)
                counted.append(counts)
                Writer(flow, quiet, run, foreseen, counts, None).run_all(ahead=False)
                counts.check()
                if options.stop.is_set():
                    break
                run_after(migration.file.flows[name].after, flow.targets)
            raise _RolledBackError
    except _RolledBackError:
        return Rehearsed(tuple(counted), options.stop.is_set())


def _targets(migration: Migration, connections: Connections, names: list[str]) -> list[Target]:
    into = (output.into for name in names for output in migration.file.flows[name].all_outputs.values())
    targets = [connections.target(name) for name in dict.fromkeys(one.partition(".")[0] for one in into)]
    for target in targets:
        if not target.transactional:
            raise ConfigError(
                f"{target.name} has no transactions: nothing can be rehearsed in it",
                hint="rehearse against a copy of it in a store that has them; `resettle plan` writes nothing anywhere",
            )
    return targets


def _check_after(migration: Migration, names: list[str]) -> None:
    """SQL of the declaration that would end the transaction cannot be rehearsed."""
    for name in names:
        for statement in migration.file.flows[name].after:
            if _ENDS_TRANSACTION.search(statement):
                raise ConfigError(
                    f"flow `{name}`: a statement of its `after:` would end the transaction that a rehearsal rolls back",
                    hint="take it out of `after:`, or rehearse on a copy of the target and apply there",
                )
