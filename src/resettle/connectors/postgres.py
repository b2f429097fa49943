"""Postgres, as source, target and home of the ledger: binary COPY in, COPY out, one transaction for all.

Works on Postgres 15 to 18 and through a pooler in transaction mode: every statement runs inside an explicit
transaction that sets what it needs (SET LOCAL), nothing is prepared, temporary tables go with the commit.

An infinite timestamp or date travels as the greatest integer of its Arrow type (its negative for the past),
as in DuckDB, and is written back as infinity. A uuid is text where a source reads it and 16 bytes elsewhere.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, TypeVar

import psycopg
import pyarrow as pa
from psycopg.conninfo import conninfo_to_dict
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from resettle.batch import Action, Batch, Partition, Schema
from resettle.calls import Caller
from resettle.connector import Needs, Sql
from resettle.connectors import _postgres_catalogue as catalogue
from resettle.connectors import _postgres_digest as digesting
from resettle.connectors import _postgres_read as reading
from resettle.connectors import _postgres_write as writing
from resettle.connectors._postgres_catalogue import Connection, Relation
from resettle.connectors._postgres_copy import column_in, infer
from resettle.connectors._postgres_grants import statements
from resettle.connectors._postgres_session import NO_TLS, TEXTS, Sessions, tls_by_default, undone
from resettle.connectors._postgres_write import Refusal, Write
from resettle.errors import (
    AccessError,
    ConfigError,
    ConnectorError,
    CorruptError,
    RejectedError,
    TransientError,
)

T = TypeVar("T")


class PostgresSettings(BaseModel):
    """Settings of a connection of type `postgres`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: SecretStr = Field(
        description="postgresql://user:password@host:port/database; without an `sslmode` it is encrypted (`require`), "
        "but for this machine's own addresses"
    )
    namespace: str = Field(default="public", alias="schema", description="of datasets that are named without one")
    readonly: bool = Field(default=False, description="every transaction is READ ONLY: the server refuses to write")
    replica_role: bool = Field(
        default=False,
        description="write with `session_replication_role = replica`: no trigger fires, and NO FOREIGN KEY is checked",
    )
    connect_timeout: int = Field(default=10, description="seconds")


# sqlstate, or its first two characters -> what it means for the run, and our own words for it: a server's
# messages hold values. A RejectedError's word is its reason.
ERRORS: Mapping[str, tuple[type[ConnectorError], str]] = {
    "08": (TransientError, "the connection was lost"),
    "0A": (ConnectorError, "the server does not support this"),
    "22": (RejectedError, "cast"),
    "23": (RejectedError, "constraint"),
    "23001": (RejectedError, "foreign_key"),
    "23502": (RejectedError, "null"),
    "23503": (RejectedError, "foreign_key"),
    "23505": (RejectedError, "unique"),
    "23514": (RejectedError, "check"),
    "23P01": (RejectedError, "exclusion"),
    "25006": (AccessError, "the transaction is read-only"),
    "25": (ConnectorError, "the transaction cannot go on after an earlier error"),
    "26": (ConnectorError, "the server lost a prepared statement"),
    "28": (AccessError, "the server refuses the user or the password"),
    "3D": (AccessError, "the database does not exist"),
    "40": (TransientError, "the transaction collided with another one"),
    "42501": (AccessError, "permission denied"),
    "44": (RejectedError, "check"),
    "53": (TransientError, "the server is out of connections, memory or disk"),
    "54": (RejectedError, "limit"),
    "55": (ConnectorError, "the object is not in the state that this needs"),
    "55P03": (TransientError, "somebody else held a lock for too long"),
    "57": (TransientError, "the server cancelled the statement or is restarting"),
    "58": (TransientError, "the server had trouble outside of Postgres"),
    "P0": (RejectedError, "trigger"),
    "XX": (ConnectorError, "the server or its pooler failed"),
    "XX001": (CorruptError, "the server found corrupted data"),
    "XX002": (CorruptError, "the server found a corrupted index"),
}

HINTS: Mapping[str, str] = {
    "25006": "the connection is `readonly`, a source, or a standby",
    "28": "check user and password in the URL; a pooler may want the project in the user's name",
    "3D": "check the database's name at the end of the URL",
    "42501": "grant what is missing, for example: GRANT SELECT, INSERT, UPDATE ON <table> TO <user>; "
    "where row level security applies, the user needs a policy that permits the rows, or BYPASSRLS",
}

_FUNCTION = re.compile(r'PL/pgSQL function ("[^"]+"|[\w.]+)\(')


def errors(error: BaseException, connection: str = "") -> ConnectorError | None:
    """What a psycopg error means; None for what is not one. No message holds a value or a password."""
    if not isinstance(error, psycopg.Error):
        return None
    state = error.sqlstate or ""
    if not state:
        return _without_state(error, connection)
    known = state if state in ERRORS else state[:2]
    kind, words = ERRORS.get(known, (ConnectorError, "the server cannot run this SQL"))
    if issubclass(kind, RejectedError):
        return kind(words, _culprit(words, error), connection=connection)
    if state.startswith("42") and state != "42501":
        # The only messages that we pass on: they speak of the SQL's names and types.
        words = f"{words}: {error.diag.message_primary}"
    return kind(f"{words} ({state})", connection=connection, hint=HINTS.get(known))


def _culprit(reason: str, error: psycopg.Error) -> str:
    """The name of the column, constraint or function at fault, else of the kind of error."""
    diag = error.diag
    if reason == "trigger":
        function = _FUNCTION.search(diag.context or "")
        return function[1] if function else ""
    if reason == "null":
        return diag.column_name or column_in(diag.context)
    return diag.constraint_name or diag.column_name or column_in(diag.context) or type(error).__name__


def _without_state(error: psycopg.Error, connection: str) -> ConnectorError:
    text = str(error)
    if NO_TLS.search(text):
        hint = "give it a certificate; where nobody else can listen, say ?sslmode=disable in the URL"
        return AccessError("the server does not speak TLS", connection=connection, hint=hint)
    for state, known in TEXTS.items():
        if known.search(text):
            kind, words = ERRORS[state]
            return kind(words, connection=connection, hint=HINTS.get(state))
    if isinstance(error, psycopg.OperationalError):
        hint = "is the server running, and do host and port in the URL lead to it?"
        return TransientError("the server cannot be reached", connection=connection, hint=hint)
    return ConnectorError(f"psycopg failed: {type(error).__name__}", connection=connection)


class Postgres:
    """Source, Target and Sql over one database.

    A transaction belongs to the thread that entered it; other threads, and `read`, use connections of their
    own. Begin and whole read-only calls are retried; a statement inside a transaction never is, because the
    transaction is lost with it.
    """

    transactional = True
    dialect = "postgres"

    def __init__(self, name: str, settings: PostgresSettings, *, caller: Caller | None = None) -> None:
        self.name = name
        self._settings = settings
        self._relations: dict[str, Relation] = {}
        try:
            conninfo_to_dict(settings.url.get_secret_value())
        except psycopg.ProgrammingError:
            hint = "postgresql://user:password@host:port/database, with %-escapes for @ : / in the password"
            raise ConfigError(f"{name}: the url is not a Postgres URL", hint=hint) from None
        self._sessions = Sessions(
            name,
            self._connect,
            caller or Caller(errors, connection=name),
            lambda error: errors(error, name),
            begin="; set local session_replication_role = replica" if settings.replica_role else "",
            readonly=settings.readonly,
        )

    def _connect(self) -> Connection:
        return psycopg.connect(
            tls_by_default(self._settings.url.get_secret_value()),
            autocommit=True,  # transactions are begun by us, together with their settings in one round trip
            prepare_threshold=None,
            connect_timeout=self._settings.connect_timeout,
            client_encoding="utf8",
            application_name="resettle",
            keepalives_idle=30,  # a peer that is gone is noticed within a minute
            keepalives_interval=10,
            keepalives_count=3,
        )

    # Source

    def datasets(self) -> Sequence[str]:
        return self._reading(lambda connection: catalogue.datasets(connection, self._settings.namespace))

    def schema(self, dataset: str) -> Schema:
        self._relations.pop(dataset, None)  # whoever asks wants to know what is there now
        return self._reading(lambda connection: self._relation(connection, dataset).schema)

    def count(self, dataset: str) -> int | None:
        return self._reading(lambda connection: reading.count(connection, self._relation(connection, dataset)))

    def partitions(self, dataset: str, wanted: int) -> Sequence[Partition]:
        """Ranges of the first key column, cut by a sample.

        Not ranges of blocks: on a live source an update moves a row to another block, and a part read
        earlier or later would miss it or read it twice. A row's key stays in its range.
        """
        cuts = self._reading(lambda c: reading.cuts(c, self._relation(c, dataset), wanted))
        return [
            Partition(dataset, str(part), {"low": low, "high": high})
            for part, (low, high) in enumerate(itertools.pairwise([None, *cuts, None]))
        ]

    def read(self, partition: Partition, rows: int) -> Iterator[Batch]:
        """One COPY in one snapshot, on a connection of its own; a uuid comes as text."""
        with self._sessions.begun(readonly=True) as connection:
            with self._sessions.translating():
                relation = self._relation(connection, partition.dataset)
            with closing(reading.read(connection, relation, partition.detail, rows)) as tables:
                while True:
                    with self._sessions.translating():
                        table = next(tables, None)
                    if table is None:
                        break
                    yield Batch(partition.dataset, table)

    def close(self) -> None:
        self._sessions.close()

    # Target

    def sql(self) -> Sql | None:
        return self

    @contextmanager
    def transaction(self, *, readonly: bool = False) -> Iterator[None]:
        """A deferred constraint is checked at the end: RejectedError may then come from leaving."""
        try:
            with self._sessions.transaction(readonly=readonly):
                yield
        except BaseException:
            self._relations.clear()  # what was looked up may have been made in this transaction
            raise

    def empty(self, dataset: str) -> bool:
        return self._reading(lambda connection: reading.empty(connection, self._relation(connection, dataset)))

    def fetch(self, dataset: str, keys: pa.Table, columns: Sequence[str], *, lock: bool = False) -> pa.Table:
        def work(connection: Connection) -> pa.Table:
            return reading.fetch(connection, self._relation(connection, dataset), keys, columns, lock)

        return self._sessions.run(work, readonly=not lock)

    def as_stored(self, dataset: str, column: str, texts: pa.Array) -> pa.Array:
        def ask(some: Sequence[str]) -> list[str | None]:
            with self.transaction(readonly=True):
                return self._reading(lambda c: reading.read_back(c, self._relation(c, dataset).field(column), some))

        return reading.as_stored(ask, texts)

    def write(self, dataset: str, rows: pa.Table, key: Sequence[str], action: Action) -> None:
        def work(connection: Connection) -> None:
            relation = self._relation(connection, dataset)
            try:
                writing.write(connection, Write(relation, rows, key, action))
            except psycopg.errors.UniqueViolation as error:
                if set(relation.uniques.get(error.diag.constraint_name or "", ())) == set(key):
                    raise RejectedError("exists", ", ".join(key), connection=self.name) from None
                raise

        if rows.num_rows:
            self._sessions.run(work, readonly=False)

    def refusals(
        self, writes: Sequence[tuple[str, pa.Table, Sequence[str], Action]], units: Sequence[pa.Array]
    ) -> pa.Table | None:
        """Each unit is tried on the server, in a subtransaction of its own; what it needs may follow it."""

        def work(connection: Connection) -> pa.Table:
            jobs = [
                Write(self._relation(connection, dataset), rows, key, action) for dataset, rows, key, action in writes
            ]
            return _refusals(jobs, writing.refused_units(connection, jobs, units))

        return self._sessions.run(work, readonly=False)

    def delete(self, dataset: str, keys: pa.Table) -> int:
        def work(connection: Connection) -> int:
            return writing.delete(connection, self._relation(connection, dataset), keys)

        return self._sessions.run(work, readonly=False)

    def orphans(self, dataset: str) -> pa.Table:
        """Only foreign keys that have some."""

        def work(connection: Connection) -> pa.Table:
            relation = self._relation(connection, dataset)
            counts = {
                key.name: reading.count_orphans(connection, relation, self._relation(connection, key.target), key)
                for key in relation.schema.foreign_keys
            }
            lost = {name: count for name, count in counts.items() if count}
            names, numbers = pa.array(list(lost), pa.string()), pa.array(list(lost.values()), pa.int64())
            return pa.table({"constraint": names, "count": numbers})

        return self._reading(work)

    def ask(self, sql: str, *, role: str | None = None, claims: str | None = None) -> list[tuple[Any, ...]]:
        """As PostgREST would run it, but read-only. Raises AccessError if the role may not."""

        def work(connection: Connection) -> list[tuple[Any, ...]]:
            with undone(connection):
                return reading.ask(connection, sql, role, claims)

        return self._reading(work)

    def privileges(self, needs: Needs, *, rollback: bool = False) -> Sequence[str]:
        return self._reading(lambda c: statements(c, needs, lambda name: self._relation(c, name), rollback=rollback))

    def exact(self, dataset: str) -> frozenset[str]:
        return digesting.exact(self._reading(lambda c: self._relation(c, dataset)))

    def spelt(self, dataset: str, rows: pa.Table, whether: Sequence[str]) -> pa.Array:
        return digesting.spelt(self._reading(lambda c: self._relation(c, dataset)), rows, whether)

    def digests(self, dataset: str, columns: Sequence[str], whether: Sequence[str], bits: int) -> pa.Table:
        return self._reading(lambda c: digesting.digests(c, self._relation(c, dataset), columns, whether, bits))

    # Sql

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        def work(connection: Connection) -> list[tuple[Any, ...]]:
            cursor = connection.execute(reading.statement(sql, parameters), parameters or None)
            return cursor.fetchall() if cursor.description else []

        return self._sessions.run(work, readonly=False)

    def demand(self, sql: str, parameters: Sequence[Any], error: Exception) -> None:
        if not self.execute(sql, parameters):
            raise error

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """Bytes and uuids as binary, integers as int64, everything else as text."""
        return self._reading(lambda connection: reading.query(connection, sql, parameters))

    def insert(self, table: str, rows: pa.Table) -> None:
        def work(connection: Connection) -> None:
            writing.write(connection, Write(self._relation(connection, table), rows, (), Action.CREATE))

        if rows.num_rows:
            self._sessions.run(work, readonly=False)

    def stage(self, name: str, rows: pa.Table) -> None:
        with self._sessions.staging() as connection:
            writing.stage(connection, name, infer(rows))

    def _reading(self, work: Callable[[Connection], T]) -> T:
        return self._sessions.run(work, readonly=True)

    def _relation(self, connection: Connection, dataset: str) -> Relation:
        known = self._relations.get(dataset)
        if known is None:
            known = catalogue.relation(connection, self._settings.namespace, dataset)
            self._relations[dataset] = known
        return known


def _refusals(jobs: Sequence[Write], refused: Sequence[Refusal]) -> pa.Table:
    keys = {
        name: ", ".join(job.key)
        for number, job in enumerate(jobs)
        for name, columns in [(writing.proof(number), job.key), *job.relation.uniques.items()]
        if set(columns) == set(job.key)
    }
    words = [_words(refusal, keys) for refusal in refused]
    return pa.table(
        {
            "unit": pa.array([refusal.unit for refusal in refused], pa.string()),
            "reason": pa.array([reason for reason, _ in words], pa.string()),
            "detail": pa.array([detail for _, detail in words], pa.string()),
        }
    )


def _words(refusal: Refusal, keys: Mapping[str, str]) -> tuple[str, str]:
    if refusal.state == "42501":
        return "row_security", "no policy permits this row"
    _, reason = ERRORS.get(refusal.state) or ERRORS[refusal.state[:2]]
    if reason == "unique" and refusal.constraint in keys:
        return "exists", keys[refusal.constraint]
    if reason == "trigger":
        function = _FUNCTION.search(refusal.context)
        return reason, function[1] if function else ""
    return reason, refusal.constraint or refusal.column
