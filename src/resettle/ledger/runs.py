"""Runs: one number each, one writer at a time by a lock, and a fence for those thought dead."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from resettle.errors import FenceError, LockedError, RejectedError, ResettleError
from resettle.ledger.listing import Listing
from resettle.ledger.owner import STALE_AFTER, is_dead, me
from resettle.ledger.records import Run

COMPLETED = ("done", "held")
"""How a run ends that came to its end."""


class Runs(Listing):
    """What a run does to its own row and to the lock; `Ledger` adds what it remembers of records."""

    schema: str
    _version: str

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """A transaction in which nobody else numbers flows or runs, not even where nothing is there yet.

        A store that cannot keep others out refuses the second one's number. Raises LockedError then.
        """
        try:
            with self._sql.transaction():
                if self._store.ALONE:
                    self._sql.execute(self._store.ALONE.format(schema=self.schema))
                yield
        except RejectedError as error:
            if error.reason != "unique":
                raise
            message = f"another run took a number in the ledger `{self.schema}` at the same moment"
            raise LockedError(message, hint="try again") from error

    @contextmanager
    def run(self, phase: str, options: Mapping[str, Any], now: datetime, *, lock: bool) -> Iterator[Run]:
        """A run in the ledger; with ``lock`` nobody else writes meanwhile. Raises LockedError."""
        with self._alone():
            number = int(self._sql.execute(f"SELECT coalesce(max(run), 0) + 1 FROM {self._p}runs")[0][0])
            fence = self._take(number) if lock else 0
            self._sql.execute(
                f"INSERT INTO {self._p}runs (run, migration, environment, phase, status, started_at, host, pid,"
                " version, options) VALUES (%s, %s, %s, %s, 'running', %s, %s, %s, %s, %s)",
                (number, *self._mine, phase, now.isoformat(), *me(), self._version, json.dumps(options)),
            )
        try:
            yield Run(number, phase, now, fence)
        except BaseException as error:
            # What failed first is said, also where the ledger cannot be reached now: a dead run's lock is taken over.
            with suppress(ResettleError):
                self._close(number, fence, "interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise
        self._close(number, fence, None)

    def _take(self, run: int) -> int:
        found = self._sql.execute(
            f"SELECT fence, run, host, pid, {self._store.AGE} FROM {self._p}locks"
            f" WHERE migration = %s AND environment = %s {self._store.FOR_UPDATE}",
            self._mine,
        )
        seen = 0
        if found:
            seen, holder, host, pid, age = found[0]
            if holder is not None and not is_dead(host, pid, age):
                raise LockedError(
                    f"run {holder} (process {pid} on {host}, last sign of life {age:.0f} s ago) is writing",
                    hint=f"wait for it; a dead run is taken over after {STALE_AFTER:.0f} s",
                )
            self._sql.execute(
                f"UPDATE {self._p}runs SET status = 'died' WHERE status = 'running' AND run = %s", (holder,)
            )
        fence = int(seen) + 1
        self._sql.demand(
            f"INSERT INTO {self._p}locks VALUES (%s, %s, %s, %s, %s, %s, {self._store.NOW}, {self._store.NOW})"
            " ON CONFLICT (migration, environment) DO UPDATE SET fence = excluded.fence, run = excluded.run,"
            " host = excluded.host, pid = excluded.pid, since = excluded.since, heartbeat = excluded.heartbeat"
            f" WHERE {self._p}locks.fence = %s RETURNING fence",
            (*self._mine, fence, run, *me(), seen),
            LockedError("another run took the lock at the same moment", hint="wait for it"),
        )
        return fence

    def fence(self, run: Run) -> None:
        """Prove, inside a transaction, that this run still holds the lock, and show a sign of life."""
        self._sql.demand(
            f"UPDATE {self._p}locks SET heartbeat = {self._store.NOW}"
            " WHERE migration = %s AND environment = %s AND fence = %s AND run = %s RETURNING fence",
            (*self._mine, run.fence, run.number),
            FenceError(
                "this run was thought dead and another took over; nothing more is written",
                hint="look at `resettle runs`, then run `resettle apply` again",
            ),
        )

    def heartbeat(self, run: Run) -> None:
        """A sign of life between batches."""
        with self._sql.transaction():
            self.fence(run)

    def _close(self, number: int, fence: int, status: str | None) -> None:
        with self._sql.transaction():
            if status:
                # Where another run found it dead, that stays said.
                self._sql.execute(
                    f"UPDATE {self._p}runs SET status = %s WHERE run = %s AND status = 'running'", (status, number)
                )
            if fence:
                self._sql.execute(
                    f"UPDATE {self._p}locks SET run = NULL WHERE migration = %s AND environment = %s AND fence = %s",
                    (*self._mine, fence),
                )

    def finish(self, run: Run, status: str, summary: Mapping[str, Any]) -> None:
        """The run's last word: its status and its counts; when, if it came to its end."""
        completed = self._store.NOW if status in COMPLETED else "NULL"
        with self._sql.transaction():
            if run.fence:
                self.fence(run)
            self._sql.execute(
                f"UPDATE {self._p}runs SET status = %s, completed_at = {completed}, summary = %s WHERE run = %s",
                (status, json.dumps(summary), run.number),
            )
