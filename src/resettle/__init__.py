"""resettle moves an application's backend to its new home, and proves that everything arrived.

import resettle

migration = resettle.load("migrations/medzen", environment="local")
with resettle.connect(migration) as connections:
    print(resettle.plan(migration, connections).counts)
    resettle.apply(migration, connections)
    assert not resettle.verify(migration, connections).findings
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from resettle.connections import Connections
from resettle.engine import apply as _apply
from resettle.engine import outcomes as _outcomes
from resettle.engine import plan as _plan
from resettle.engine import rehearse as _rehearse
from resettle.engine import rollback as _rollback
from resettle.engine import verify as _verify
from resettle.engine.flow import Options
from resettle.mapping.load import Migration, load

__all__ = [
    "Connections",
    "Migration",
    "Options",
    "apply",
    "connect",
    "load",
    "outcomes",
    "plan",
    "rehearse",
    "rollback",
    "verify",
]


def connect(migration: Migration) -> Connections:
    """The migration's connections, opened as they are needed; a context manager."""
    return Connections(migration)


def plan(migration: Migration, connections: Connections, options: Options | None = None) -> _plan.Plan:
    """What `apply` would do, counted and sampled. Writes nothing."""
    return _plan.plan(migration, connections, connections.ledger(), options or Options(), _now())


def apply(
    migration: Migration,
    connections: Connections,
    options: Options | None = None,
    saved: _plan.Plan | None = None,
) -> _apply.Applied:
    """Write what is missing or changed; with ``saved`` exactly that plan, or StalePlanError."""
    return _apply.apply(migration, connections, connections.ledger(), options or Options(), _now(), saved=saved)


def rehearse(migration: Migration, connections: Connections, options: Options | None = None) -> _rehearse.Rehearsed:
    """Everything written to the real tables in one transaction, and rolled back."""
    return _rehearse.rehearse(migration, connections, connections.ledger(), options or Options(), _now())


def rollback(
    migration: Migration, connections: Connections, run: int, options: Options | None = None, *, execute: bool = False
) -> _rollback.RolledBack:
    """Undo a run where nobody changed since what it wrote; without ``execute`` only what that would do."""
    ledger, chosen = connections.ledger(), options or Options()
    if not execute:
        return _rollback.plan_rollback(migration, connections, ledger, chosen, run)
    return _rollback.rollback(migration, connections, ledger, chosen, _now(), run)


def outcomes(
    migration: Migration,
    connections: Connections,
    *statuses: str,
    reason: str | None = None,
    options: Options | None = None,
) -> Iterator[_outcomes.Outcome]:
    """Records that are pending, done, partial, skipped, held or failed; why, and what they became."""
    chosen = options or Options()
    return _outcomes.outcomes(migration, connections, connections.ledger(), chosen, statuses, reason=reason)


def verify(
    migration: Migration, connections: Connections, options: Options | None = None, *, sample: int | None = None
) -> _verify.Verified:
    """The source, shaped again, compared with the target: every row, or about ``sample`` of each flow."""
    return _verify.verify(migration, connections, connections.ledger(), options or Options(), _now(), sample=sample)


def _now() -> datetime:
    return datetime.now(UTC)
