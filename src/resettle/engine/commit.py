"""Commit: one transaction over data and ledger, and the signs of life of the run that holds the lock."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from resettle.connector import Sql, Target
from resettle.errors import FenceError, ResettleError
from resettle.ledger.ledger import Ledger
from resettle.ledger.records import Run

HEARTBEAT = 15.0


class _RollbackError(Exception):
    """Leaves a transaction without a trace."""


@contextmanager
def transactions(targets: Mapping[str, Target], ledger: Ledger, *, rollback: bool = False) -> Iterator[None]:
    """One transaction per store; the ledger's is the target's own where it lives beside the data."""
    shared: list[Sql] = [sql for target in targets.values() if (sql := target.sql()) is not None]
    try:
        with ExitStack() as stack:
            if not any(ledger.lives_in(sql) for sql in shared):
                stack.enter_context(ledger.transaction())
            for target in targets.values():
                stack.enter_context(target.transaction())
            yield
            if rollback:
                raise _RollbackError
    except _RollbackError:
        return


@contextmanager
def alive(ledger: Ledger, run: Run) -> Iterator[None]:
    """Show signs of life from a thread while the run reads or waits."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT):
            try:
                ledger.heartbeat(run)
            except FenceError:
                return  # the next commit says so, where it can be handled
            except ResettleError:
                continue  # a missed beat is harmless; a lasting trouble shows in the writes

    thread = threading.Thread(target=beat, name="resettle-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
