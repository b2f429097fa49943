"""The connections of one Postgres: found again after a loss, each transaction with the settings it needs."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TypeVar

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from resettle.calls import Caller, Translate, on_this_machine
from resettle.connectors._postgres_catalogue import Connection
from resettle.errors import RejectedError, TransientError

T = TypeVar("T")
_STATUS = pq.TransactionStatus

# Set in every transaction, because a pooler may give the next one another session. A slow COPY is no reason
# for the server to give up; a lock held for a minute is one for us.
_SETTINGS = (
    "set local timezone = 'UTC'; set local datestyle = 'ISO, YMD'; set local intervalstyle = 'iso_8601'; "
    "set local extra_float_digits = 1; set local bytea_output = 'hex'; set local statement_timeout = 0; "
    "set local idle_in_transaction_session_timeout = 0; set local lock_timeout = '60s'"
)

# A read-only transaction of Postgres makes no temporary tables either, but what is read-only from a savepoint
# on may be released, staged into, and set up again.
_FROM_HERE_READ_ONLY = "; savepoint resettle_readonly; set transaction read only"

# Afterwards every constraint is as a new transaction finds it. Deferring one by name fails where another table
# has one of that name that cannot be; so all are, and those that are immediate by default are made so by name.
_CHECK_DEFERRED = """
set constraints all immediate;
do $resettle$
declare
    resettle_name text;
begin
    if exists (select from pg_catalog.pg_constraint where condeferred) then
        set constraints all deferred;
        for resettle_name in
            select format('%I.%I', n.nspname, c.conname)
            from pg_catalog.pg_constraint c join pg_catalog.pg_namespace n on n.oid = c.connamespace
            where c.condeferrable and has_schema_privilege(n.oid, 'usage') and not pg_is_other_temp_schema(n.oid)
            group by 1 having not bool_or(c.condeferred)
        loop
            execute 'set constraints ' || resettle_name || ' immediate';
        end loop;
    end if;
end $resettle$
"""

# Trouble before the server can give a sqlstate, or when it is gone, is known by libpq's text alone, which is never
# passed on: a password with an unescaped "@" would be in it as a part of the host.
TEXTS: Mapping[str, re.Pattern[str]] = {
    "3D": re.compile(r"database .* does not exist|no such database", re.IGNORECASE),
    "28": re.compile(
        r"password authentication failed|no password supplied|pg_hba\.conf|authentication|certificate|"
        r"role .* does not exist|not permitted to log in|tenant or user not found|no such user|permission denied",
        re.IGNORECASE,
    ),
    "53": re.compile(r"too many (connections|clients)|connection slots|max_?client|no more connections", re.IGNORECASE),
    "57": re.compile(r"is (starting up|shutting down)|in recovery mode|not yet accepting", re.IGNORECASE),
    "08": re.compile(r"closed the connection|connection .*(lost|closed|reset|aborted)", re.IGNORECASE),
}
"""What a text means, by the sqlstate that says the same."""
NO_TLS = re.compile(r"server does not support SSL", re.IGNORECASE)


def tls_by_default(url: str) -> str:
    """A libpq URL, encrypted unless it says otherwise or leads to this machine.

    ``require`` asks for no certificate that is known here; ``sslmode=verify-full`` in the URL does.
    """
    given = conninfo_to_dict(url)
    hosts = str(given.get("hostaddr") or given.get("host") or os.environ.get("PGHOST") or "").split(",")
    here = all(not host or host.startswith(("/", "@")) or on_this_machine(host) for host in hosts)
    said = "sslmode" in given or "service" in given or "PGSSLMODE" in os.environ or "PGSERVICE" in os.environ
    return url if here or said else make_conninfo(url, sslmode="require")


@contextmanager
def undone(connection: Connection) -> Iterator[None]:
    """Whatever happens inside, also an error, leaves no trace in the open transaction."""
    connection.execute("savepoint resettle_undone")
    try:
        yield
    finally:
        if connection.info.transaction_status in {_STATUS.INTRANS, _STATUS.INERROR}:
            connection.execute("rollback to savepoint resettle_undone; release savepoint resettle_undone")


class Sessions:
    """Transactions on as many connections as are in use at once; idle ones are used again.

    A transaction belongs to the thread that entered it. Begin, and work that only reads, are retried by the
    caller; a statement inside a transaction never is, because the transaction is lost with it.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], Connection],
        call: Caller,
        translate: Translate,
        *,
        begin: str = "",
        readonly: bool = False,
    ) -> None:
        """``begin`` is SQL that every transaction which may write starts with; ``readonly``: none may."""
        self.name, self._readonly = name, readonly
        self._connect, self._call, self._translate, self._extra = connect, call, translate, begin
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._mine = threading.local()

    @property
    def held(self) -> Connection | None:
        """The connection of this thread's open transaction."""
        held: Connection | None = getattr(self._mine, "connection", None)
        return held

    @contextmanager
    def transaction(self, *, readonly: bool) -> Iterator[None]:
        held = self.held
        if held is not None:
            with self._nested(held, check=not readonly):
                yield
            return
        with self.begun(readonly=readonly) as connection:
            self._mine.connection, self._mine.readonly = connection, readonly
            try:
                yield
            finally:
                self._mine.connection = None

    @contextmanager
    def _nested(self, connection: Connection, *, check: bool) -> Iterator[None]:
        """A savepoint; ``check``: what is deferred is checked at its end, as a commit would."""
        if self._mine.readonly and not self._readonly:
            yield  # there is nothing to undo, and `staging` needs to end the one savepoint that there is
            return
        with self.translating():
            connection.execute("savepoint resettle_nested")
        try:
            yield
            with self.translating():
                if check:
                    connection.execute(_CHECK_DEFERRED)
                connection.execute("release savepoint resettle_nested")
        except BaseException:
            if connection.info.transaction_status in {_STATUS.INTRANS, _STATUS.INERROR}:
                with suppress(psycopg.Error):  # lost meanwhile: whatever comes next on this connection says so
                    connection.execute("rollback to savepoint resettle_nested; release savepoint resettle_nested")
            raise

    def run(self, work: Callable[[Connection], T], *, readonly: bool) -> T:
        """In this thread's open transaction, or in one of its own, retried as a whole if it only reads."""
        held = self.held
        if held is not None:
            with self.translating():
                return work(held)
        if not readonly:
            with self.begun(readonly=False) as connection, self.translating():
                return work(connection)
        return self._alone(work)

    def _alone(self, work: Callable[[Connection], T]) -> T:
        """In a read-only transaction of its own, retried as a whole."""

        def attempt() -> T:
            begun = self._begin(readonly=True)
            with self._ending(begun) as connection, self.translating():
                return work(connection)

        return self._call(attempt)

    @contextmanager
    def begun(self, *, readonly: bool) -> Iterator[Connection]:
        """A connection of one's own in a transaction, committed at the end, rolled back on any exception."""
        with self._ending(self._call(self._begin, readonly=readonly)) as connection:
            yield connection

    @contextmanager
    def translating(self) -> Iterator[None]:
        """Every psycopg error as one of ours, under the connection's name."""
        try:
            yield
        except RejectedError as error:
            if error.connection:
                raise
            raise RejectedError(error.reason, error.detail, connection=self.name) from None
        except psycopg.Error as error:
            # Not "from error": its text, which a traceback would show, holds values.
            raise self._translate(error) or error from None

    @contextmanager
    def staging(self) -> Iterator[Connection]:
        """This thread's transaction, where it may make temporary tables although it is read-only."""
        connection = self.held
        if connection is None:
            raise RuntimeError(f"{self.name}: stage() needs an open transaction")
        with self.translating():
            if not self._mine.readonly or self._readonly:
                yield connection
                return
            connection.execute("release savepoint resettle_readonly")
            yield connection
            connection.execute(_FROM_HERE_READ_ONLY.removeprefix("; ").encode())

    def close(self) -> None:
        with self._lock:
            connections, self._all, self._idle = self._all, set(), []
        for connection in connections:
            connection.close()

    @contextmanager
    def _ending(self, connection: Connection) -> Iterator[Connection]:
        try:
            yield connection
            with self.translating():
                ended = connection.execute("commit").statusmessage
            if ended != "COMMIT":
                # What the server answers to a COMMIT after an error that was passed over.
                raise TransientError("the transaction was rolled back", connection=self.name)
        except BaseException:
            self._roll_back(connection)
            raise
        self._give_back(connection)

    def _begin(self, *, readonly: bool) -> Connection:
        statement = f"begin; {_SETTINGS}"
        if self._readonly:
            statement = f"begin read only; {_SETTINGS}"
        elif readonly:
            statement += _FROM_HERE_READ_ONLY
        else:
            statement += self._extra
        while (connection := self._take_idle()) is not None:
            try:
                connection.execute(statement.encode())
            except psycopg.Error:
                self._discard(connection)  # lost while it was idle: try the next, or a new one
            else:
                return connection
        with self.translating():
            connection = self._connect()
            with self._lock:
                self._all.add(connection)
            try:
                connection.execute(statement.encode())
            except BaseException:
                self._discard(connection)
                raise
        return connection

    def _take_idle(self) -> Connection | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _give_back(self, connection: Connection) -> None:
        with self._lock:
            if connection in self._all:
                self._idle.append(connection)

    def _discard(self, connection: Connection) -> None:
        with self._lock:
            self._all.discard(connection)
        connection.close()

    def _roll_back(self, connection: Connection) -> None:
        try:
            if connection.info.transaction_status in {_STATUS.INTRANS, _STATUS.INERROR}:
                connection.execute("rollback")
        except psycopg.Error:
            pass
        if connection.info.transaction_status == _STATUS.IDLE:
            self._give_back(connection)
        else:
            self._discard(connection)
