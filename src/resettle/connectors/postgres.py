"""Postgres, as source, target and home of the ledger: binary COPY in, COPY out, one transaction for all.

Works on Postgres 15 to 18 and through a pooler in transaction mode: every statement runs inside an explicit
transaction that sets what it needs (SET LOCAL), nothing is prepared, temporary tables go with the commit.

An infinite timestamp or date travels as the greatest integer of its Arrow type (its negative for the past),
as in DuckDB, and is written back as infinity. A uuid is text where a source reads it and 16 bytes elsewhere.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
import pyarrow as pa
from psycopg import pq, sql
from psycopg.conninfo import conninfo_to_dict
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from resettle.batch import Action, Batch, ForeignKey, Kind, Partition, Schema
from resettle.calls import Caller
from resettle.connector import Sql
from resettle.connectors import _postgres_catalogue as catalogue
from resettle.connectors._postgres_catalogue import KINDS, Connection, Relation
from resettle.connectors._postgres_copy import Taken, column_in, copy_out, infer, keys_as_rows, take
from resettle.connectors._postgres_write import Refusal, Write, equal, refused_units, stage, write
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

    url: SecretStr
    """A libpq URL: ``postgresql://user:password@host:port/database?sslmode=require``."""
    namespace: str = Field("public", alias="schema")
    """The schema of datasets that are named without one."""
    readonly: bool = False
    """Every transaction is READ ONLY: the server itself refuses to write."""
    replica_role: bool = False
    """Write with ``session_replication_role = replica``: no trigger fires, and NO FOREIGN KEY is checked."""
    connect_timeout: int = 10
    """Seconds."""


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

# Trouble before the server can give a sqlstate is known by libpq's text alone, which is never passed on: a
# password with an unescaped "@" would be in it as a part of the host.
_REFUSED = re.compile(
    r"password authentication failed|no password supplied|pg_hba\.conf|authentication|certificate|"
    r"role .* does not exist|not permitted to log in|tenant or user not found|no such user|permission denied",
    re.IGNORECASE,
)
_NO_DATABASE = re.compile(r"database .* does not exist|no such database", re.IGNORECASE)
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
    """The name of the column, constraint or function at fault; `insufficient` names stay out."""
    diag = error.diag
    if reason == "trigger":
        function = _FUNCTION.search(diag.context or "")
        return function[1] if function else ""
    if reason == "null":
        return diag.column_name or ""
    return diag.constraint_name or diag.column_name or column_in(diag.context) or type(error).__name__


def _without_state(error: psycopg.Error, connection: str) -> ConnectorError:
    text = str(error)
    if _NO_DATABASE.search(text):
        return AccessError(ERRORS["3D"][1], connection=connection, hint=HINTS["3D"])
    if _REFUSED.search(text):
        return AccessError(ERRORS["28"][1], connection=connection, hint=HINTS["28"])
    if isinstance(error, psycopg.OperationalError):
        hint = "is the server running, and do host and port in the URL lead to it?"
        return TransientError("the server cannot be reached", connection=connection, hint=hint)
    return ConnectorError(f"psycopg failed: {type(error).__name__}", connection=connection)


# Set in every transaction, because a pooler may give the next one another session. A slow COPY is no reason
# for the server to give up; a lock held for a minute is one for us.
_SETTINGS = (
    "set local timezone = 'UTC'; set local datestyle = 'ISO, YMD'; set local intervalstyle = 'iso_8601'; "
    "set local extra_float_digits = 1; set local bytea_output = 'hex'; set local statement_timeout = 0; "
    "set local idle_in_transaction_session_timeout = 0; set local lock_timeout = '60s'"
)
_SMALL = 256
"""Pages (8 kB) below which a table is read in one part."""
_SAMPLE = 32
"""Pages looked at for each cut between two parts."""


class Postgres:
    """Source, Target and Sql over one database.

    A transaction belongs to the thread that entered it; other threads, and reading, use connections of their
    own. Begin and whole read-only calls are retried; a statement inside a transaction never is, because the
    transaction is lost with it.
    """

    transactional = True
    dialect = "postgres"

    def __init__(self, name: str, settings: PostgresSettings, *, caller: Caller | None = None) -> None:
        self.name = name
        self._settings = settings
        self._call = caller or Caller(errors)
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._connections: set[Connection] = set()
        self._relations: dict[str, Relation] = {}
        self._mine = threading.local()
        try:
            conninfo_to_dict(settings.url.get_secret_value())
        except psycopg.ProgrammingError:
            hint = "postgresql://user:password@host:port/database, with %-escapes for @ : / in the password"
            raise ConfigError(f"{name}: the url is not a Postgres URL", hint=hint) from None

    # Source

    def datasets(self) -> Sequence[str]:
        return self._run(lambda c: catalogue.datasets(c, self._settings.namespace), readonly=True)

    def schema(self, dataset: str) -> Schema:
        with self._lock:
            self._relations.pop(dataset, None)  # asked for by name: look again, it may have changed
        return self._run(lambda c: self._relation(c, dataset).schema, readonly=True)

    def count(self, dataset: str) -> int | None:
        return int(self._one("select count(*) from {}", dataset))

    def partitions(self, dataset: str, wanted: int) -> Sequence[Partition]:
        """Ranges of the first key column, cut by a sample.

        Not ranges of blocks: on a live source an update moves a row to another block, and a part read
        earlier or later would miss it or read it twice. A row's key stays in its range.
        """
        cuts = self._run(lambda c: self._cuts(c, dataset, wanted), readonly=True) if wanted > 1 else []
        ends = [None, *cuts, None]
        return [
            Partition(dataset, str(part), {"low": low, "high": high})
            for part, (low, high) in enumerate(itertools.pairwise(ends))
        ]

    def read(self, partition: Partition, rows: int) -> Iterator[Batch]:
        """One COPY in one snapshot, on a connection of its own; a uuid comes as text."""
        with self._session(readonly=True) as connection:
            relation = self._relation(connection, partition.dataset)
            columns = [Taken(c.name, c.kind, uuid_as_text=True) for c in relation.schema.columns]
            query = sql.SQL("select {} from {} t where {}").format(
                _expressions(columns), relation.name, _range(relation, partition.detail)
            )
            tables = copy_out(connection, query, columns, rows)
            while (table := self._next(tables)) is not None:
                yield Batch(partition.dataset, table)

    def close(self) -> None:
        with self._lock:
            connections, self._connections, self._idle = self._connections, set(), []
        for connection in connections:
            connection.close()

    # Target

    def sql(self) -> Sql | None:
        return self

    @contextmanager
    def transaction(self, *, readonly: bool = False) -> Iterator[None]:
        """A deferred constraint is checked at the end: RejectedError may then come from leaving."""
        if self._held is not None:
            raise RuntimeError(f"{self.name}: a transaction is already open")
        with self._session(readonly=readonly) as connection:
            self._mine.connection = connection
            try:
                yield
            finally:
                self._mine.connection = None

    def empty(self, dataset: str) -> bool:
        return bool(self._one("select not exists (select from {})", dataset))

    def fetch(self, dataset: str, keys: pa.Table, columns: Sequence[str], *, lock: bool = False) -> pa.Table:
        def work(connection: Connection) -> pa.Table:
            relation = self._relation(connection, dataset)
            names = dict.fromkeys([*keys.column_names, *columns])
            taken = [Taken(name, relation.field(name).column.kind) for name in names]
            query = sql.SQL("select {} from {} t join {} on {}{}").format(
                _expressions(taken),
                relation.name,
                keys_as_rows(keys, relation, "k"),
                equal(keys.column_names, lambda name: sql.Identifier("k", name)),
                sql.SQL(" for no key update of t" if lock else ""),
            )
            return take(connection, query, taken)

        return self._run(work, readonly=not lock)

    def write(self, dataset: str, rows: pa.Table, key: Sequence[str], action: Action) -> None:
        def work(connection: Connection) -> None:
            relation = self._relation(connection, dataset)
            try:
                write(connection, Write(relation, rows, key, action))
            except psycopg.errors.UniqueViolation as error:
                if set(relation.uniques.get(error.diag.constraint_name or "", ())) == set(key):
                    raise RejectedError("exists", ", ".join(key), connection=self.name) from None
                raise

        if rows.num_rows:
            self._run(work)

    def refusals(
        self, writes: Sequence[tuple[str, pa.Table, Sequence[str], Action]], units: Sequence[pa.Array]
    ) -> pa.Table | None:
        """Each unit is tried on the server, in a subtransaction of its own; what it needs may follow it."""

        def work(connection: Connection) -> pa.Table:
            jobs = [
                Write(self._relation(connection, dataset), rows, key, action)
                for dataset, rows, key, action in writes
            ]
            return _refusals(jobs, refused_units(connection, jobs, units))

        return self._run(work)

    def delete(self, dataset: str, keys: pa.Table) -> int:
        def work(connection: Connection) -> int:
            relation = self._relation(connection, dataset)
            statement = sql.SQL("delete from {} t using {} where {}").format(
                relation.name,
                keys_as_rows(keys, relation, "k"),
                equal(keys.column_names, lambda name: sql.Identifier("k", name)),
            )
            return connection.execute(statement).rowcount

        return self._run(work)

    def orphans(self, dataset: str) -> pa.Table:
        """Only foreign keys that have some."""

        def work(connection: Connection) -> dict[str, int]:
            relation = self._relation(connection, dataset)
            found = {
                key.name: _count_orphans(connection, relation, self._relation(connection, key.target), key)
                for key in relation.schema.foreign_keys
            }
            return {name: count for name, count in found.items() if count}

        lost = self._run(work, readonly=True)
        return pa.table(
            {
                "constraint": pa.array(list(lost), pa.string()),
                "count": pa.array(list(lost.values()), pa.int64()),
            }
        )

    def ask(self, sql: str, *, role: str | None = None, claims: str | None = None) -> list[tuple[Any, ...]]:
        """In a read-only transaction of its own, as PostgREST would run it. Raises AccessError if refused."""

        def work() -> list[tuple[Any, ...]]:
            with self._session(readonly=True, call=_directly, keep=False) as connection, self._translating():
                return _ask(connection, sql, role, claims)

        return self._call(work)

    # Sql

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        def work(connection: Connection) -> list[tuple[Any, ...]]:
            cursor = connection.execute(sql.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

        return self._run(work)

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """Bytes and uuids as binary, integers as int64, everything else as text."""
        return self._run(lambda connection: _query(connection, sql, parameters), readonly=True)

    def insert(self, table: str, rows: pa.Table) -> None:
        if rows.num_rows:
            self._run(lambda c: write(c, Write(self._relation(c, table), rows, (), Action.CREATE)))

    def stage(self, name: str, rows: pa.Table) -> None:
        connection = self._held
        if connection is None:
            raise RuntimeError(f"{self.name}: stage() needs an open transaction")
        with self._translating():
            stage(connection, name, infer(rows))

    # Connections and transactions

    @property
    def _held(self) -> Connection | None:
        held: Connection | None = getattr(self._mine, "connection", None)
        return held

    def _run(self, work: Callable[[Connection], T], *, readonly: bool = False) -> T:
        """In this thread's open transaction, or in one of its own, retried as a whole if it only reads."""
        held = self._held
        if held is not None:
            with self._translating():
                return work(held)

        def alone(call: Callable[..., Connection]) -> T:
            with self._session(readonly=readonly, call=call) as connection, self._translating():
                return work(connection)

        return self._call(alone, _directly) if readonly else alone(self._call)

    @contextmanager
    def _session(
        self, *, readonly: bool, call: Callable[..., Connection] | None = None, keep: bool = True
    ) -> Iterator[Connection]:
        """A connection in a transaction: committed at the end (unless not to ``keep``), else rolled back."""
        connection = (call or self._call)(self._begin, readonly or self._settings.readonly)
        try:
            yield connection
            with self._translating():
                ended = connection.execute("commit" if keep else "rollback").statusmessage
            if keep and ended != "COMMIT":
                # The server's answer to the COMMIT of a transaction in which an error was passed over.
                raise TransientError("the transaction was rolled back", connection=self.name)
        except BaseException:
            self._roll_back(connection)
            raise
        self._give_back(connection)

    def _begin(self, readonly: bool) -> Connection:
        statement = f"begin{' read only' if readonly else ''}; {_SETTINGS}"
        if self._settings.replica_role and not readonly:
            statement += "; set local session_replication_role = replica"
        while (connection := self._take_idle()) is not None:
            try:
                connection.execute(statement.encode())
            except psycopg.OperationalError:
                self._discard(connection)  # lost while it was idle: try the next, or a new one
            else:
                return connection
        with self._translating():
            connection = self._connect()
            try:
                connection.execute(statement.encode())
            except BaseException:
                self._discard(connection)
                raise
        return connection

    def _connect(self) -> Connection:
        connection = psycopg.connect(
            self._settings.url.get_secret_value(),
            autocommit=True,  # transactions are begun by us, together with their settings in one round trip
            prepare_threshold=None,
            connect_timeout=self._settings.connect_timeout,
            client_encoding="utf8",
            application_name="resettle",
            keepalives_idle=30,  # a peer that is gone is noticed within a minute
            keepalives_interval=10,
            keepalives_count=3,
        )
        with self._lock:
            self._connections.add(connection)
        return connection

    def _take_idle(self) -> Connection | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _give_back(self, connection: Connection) -> None:
        with self._lock:
            if connection in self._connections:
                self._idle.append(connection)

    def _discard(self, connection: Connection) -> None:
        with self._lock:
            self._connections.discard(connection)
        connection.close()

    def _roll_back(self, connection: Connection) -> None:
        with self._lock:
            self._relations.clear()  # what was looked up may have been made in this transaction
        waiting = {pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR}
        try:
            if connection.info.transaction_status in waiting:
                connection.execute("rollback")
        except psycopg.Error:
            self._discard(connection)
            return
        if connection.info.transaction_status == pq.TransactionStatus.IDLE:
            self._give_back(connection)
        else:
            self._discard(connection)

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except RejectedError as error:
            if error.connection:
                raise
            raise RejectedError(error.reason, error.detail, connection=self.name) from None
        except psycopg.Error as error:
            # Not "from error": its text, which a traceback would show, holds values.
            print("DBG", error); raise errors(error, self.name) or error from None

    def _next(self, tables: Iterator[pa.Table]) -> pa.Table | None:
        with self._translating():
            return next(tables, None)

    # Catalogue

    def _relation(self, connection: Connection, dataset: str) -> Relation:
        known = self._relations.get(dataset)
        if known is None:
            known = catalogue.relation(connection, self._settings.namespace, dataset)
            with self._lock:
                self._relations[dataset] = known
        return known

    def _one(self, statement: str, dataset: str) -> Any:
        def work(connection: Connection) -> Any:
            relation = self._relation(connection, dataset)
            row = connection.execute(sql.SQL(statement).format(relation.name)).fetchone()
            return row[0] if row else None

        return self._run(work, readonly=True)

    def _cuts(self, connection: Connection, dataset: str, wanted: int) -> list[str]:
        relation = self._relation(connection, dataset)
        if not relation.is_table or not relation.schema.key:
            return []
        name = sql.Literal(relation.name.as_string(connection))
        found = connection.execute(sql.SQL(_PAGES).format(name, name)).fetchone()
        pages = int(found[0]) if found else 0
        if pages < _SMALL:
            return []
        cuts = connection.execute(
            sql.SQL(_CUTS).format(
                sql.Literal([part / wanted for part in range(1, wanted)]),
                sql.Identifier(relation.schema.key[0]),
                relation.name,
                sql.Literal(min(100.0, 100.0 * _SAMPLE * wanted / pages)),
            )
        )
        return [cut for (cut,) in cuts]


# The first is null for a table without partitions.
_PAGES = """
select coalesce((select sum(pg_relation_size(relid)) from pg_partition_tree({})), pg_relation_size({}))
    / current_setting('block_size')::int
"""
_CUTS = """
select cut::text from (
    select distinct unnest(percentile_disc({}::float8[]) within group (order by {}))
    from {} tablesample system ({})) sample(cut)
where cut is not null order by cut
"""


def _directly(fn: Callable[..., Connection], /, *args: Any) -> Connection:
    return fn(*args)


def _expressions(columns: Sequence[Taken]) -> sql.Composable:
    return sql.SQL(", ").join(column.expression(sql.Identifier("t", column.name)) for column in columns)


def _range(relation: Relation, detail: Mapping[str, Any]) -> sql.Composable:
    bounds: list[sql.Composable] = [sql.SQL("true")]
    for comparison, cut in ((">=", detail["low"]), ("<", detail["high"])):
        if cut is not None:
            key = relation.field(relation.schema.key[0])
            text = f"{{}} {comparison} {{}}::{{}}"
            column = sql.Identifier("t", key.column.name)
            bounds.append(sql.SQL(text).format(column, sql.Literal(cut), key.cast))
    return sql.SQL(" and ").join(bounds)


def _count_orphans(connection: Connection, relation: Relation, target: Relation, key: ForeignKey) -> int:
    """Rows of which every foreign key column is set (MATCH SIMPLE) and points to no row."""
    pairs = zip(key.columns, key.target_columns, strict=True)
    statement = sql.SQL(
        "select count(*) from {} t where {} and not exists (select from {} p where {})"
    ).format(
        relation.name,
        sql.SQL(" and ").join(sql.SQL("t.{} is not null").format(sql.Identifier(c)) for c in key.columns),
        target.name,
        sql.SQL(" and ").join(
            sql.SQL("t.{} = p.{}").format(sql.Identifier(column), sql.Identifier(other))
            for column, other in pairs
        ),
    )
    found = connection.execute(statement).fetchone()
    return int(found[0]) if found else 0


def _ask(connection: Connection, text: str, role: str | None, claims: str | None) -> list[tuple[Any, ...]]:
    if claims is not None:
        connection.execute("select set_config('request.jwt.claims', %s, true)", [claims])
    if role is not None:
        try:
            connection.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
        except psycopg.errors.InvalidParameterValue:
            raise ConfigError(f"there is no role {role!r}") from None
    with connection.cursor() as cursor:
        # stream() sends the text as ONE statement: the server refuses "...; commit; delete ...".
        return list(cursor.stream(text.encode()))


_INTEGERS = {Kind.INT16, Kind.INT32, Kind.INT64}
_BYTES = {Kind.UUID, Kind.BINARY}


def _query(connection: Connection, text: str, parameters: Sequence[Any]) -> pa.Table:
    """COPY takes no parameters, so that psycopg puts them into the text as literals."""
    cursor = psycopg.ClientCursor(connection)
    text = cursor.mogrify(text.encode(), parameters or None).rstrip().rstrip(";")
    shape = cursor.execute(f"select * from ({text}) q limit 0".encode()).description or []
    columns = []
    for place, column in enumerate(shape):
        known = connection.adapters.types.get(column.type_code)
        kind = KINDS.get(known.name, Kind.OTHER) if known else Kind.OTHER
        keep = kind in _BYTES or kind in _INTEGERS
        columns.append(Taken(str(place), Kind.INT64 if kind in _INTEGERS else kind if keep else Kind.OTHER))
    query = sql.SQL("select {} from ({}) t({})").format(
        _expressions(columns),
        sql.SQL(text),
        sql.SQL(", ").join(sql.Identifier(column.name) for column in columns),
    )
    answer = take(connection, query, columns).rename_columns([column.name for column in shape])
    return answer.cast(
        pa.schema(
            [
                (f.name, pa.binary() if pa.types.is_fixed_size_binary(f.type) else f.type)
                for f in answer.schema
            ]
        )
    )


def _refusals(jobs: Sequence[Write], refused: Sequence[Refusal]) -> pa.Table:
    keys = {
        name: ", ".join(job.key)
        for job in jobs
        for name, columns in job.relation.uniques.items()
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
        return "row_security", ""
    _, reason = ERRORS.get(refusal.state) or ERRORS[refusal.state[:2]]
    if reason == "unique" and refusal.constraint in keys:
        return "exists", keys[refusal.constraint]
    if reason == "trigger":
        function = _FUNCTION.search(refusal.context)
        return reason, function[1] if function else ""
    return reason, refusal.constraint or refusal.column
