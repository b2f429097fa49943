"""SQLite database files, a local D1 among them: source, target and a home for the ledger."""

from __future__ import annotations

import itertools
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from resettle import private
from resettle.batch import Action, Batch, Partition, Schema
from resettle.calls import Caller
from resettle.connector import Sql
from resettle.connectors._sqlite import Gathered, Rows, answer, decoded, marked, quote, read_schema, tuples, typed
from resettle.connectors._sqlite_statements import (
    connect,
    declared_types,
    delete,
    file_of,
    fill,
    insert,
    nested,
    next_page,
    page,
    refused_units,
    select,
    unknown,
    without_tables,
    write,
)
from resettle.errors import (
    AccessError,
    ConfigError,
    ConnectorError,
    CorruptError,
    RejectedError,
    TransientError,
)

MOST_PARAMETERS = 32_000  # in one statement; SQLite's own default limit is 32,766


class SQLiteSettings(BaseModel):
    """Settings of a connection of type `sqlite`."""

    model_config = ConfigDict(extra="forbid")

    path: Path = Field(description="the database's file")
    readonly: bool = Field(default=False, description="refuse to write")
    create: bool = Field(default=False, description="make a missing file at the first write, as a ledger needs it")
    busy_timeout: float = Field(default=30, ge=0, description="seconds to wait for another writer")


ERRORS: Mapping[int, type[ConnectorError]] = {
    sqlite3.SQLITE_BUSY: TransientError,
    sqlite3.SQLITE_LOCKED: TransientError,
    sqlite3.SQLITE_PERM: AccessError,
    sqlite3.SQLITE_READONLY: AccessError,
    sqlite3.SQLITE_CANTOPEN: AccessError,
    sqlite3.SQLITE_AUTH: AccessError,
    sqlite3.SQLITE_FULL: AccessError,
    sqlite3.SQLITE_IOERR: AccessError,
    sqlite3.SQLITE_CORRUPT: CorruptError,
    sqlite3.SQLITE_NOTADB: CorruptError,
}
"""By primary result code, as https://sqlite.org/rescode.html lists them."""

REFUSALS: Mapping[str, str] = {
    "SQLITE_CONSTRAINT_PRIMARYKEY": "unique",
    "SQLITE_CONSTRAINT_UNIQUE": "unique",
    "SQLITE_CONSTRAINT_ROWID": "unique",
    "SQLITE_CONSTRAINT_NOTNULL": "null",
    "SQLITE_CONSTRAINT_CHECK": "check",
    "SQLITE_CONSTRAINT_FOREIGNKEY": "foreign_key",
    "SQLITE_CONSTRAINT_TRIGGER": "trigger",
    "SQLITE_CONSTRAINT_DATATYPE": "type",
    "SQLITE_MISMATCH": "type",
    "SQLITE_TOOBIG": "too_large",
}
"""The reason of a RejectedError, by extended result code."""


def errors(error: BaseException, connection: str = "") -> ConnectorError | None:
    """What a sqlite3 error means; None for a mistake in a statement, which is raised as it is."""
    if not isinstance(error, sqlite3.Error) or not hasattr(error, "sqlite_errorcode"):
        return None
    if error.sqlite_errorname in REFUSALS:
        # "UNIQUE constraint failed: people.id": columns and constraints; what a trigger says may hold values.
        detail = "" if error.sqlite_errorname.endswith("_TRIGGER") else str(error).partition(": ")[2]
        return RejectedError(REFUSALS[error.sqlite_errorname], detail, connection=connection)
    known = ERRORS.get(error.sqlite_errorcode & 0xFF)
    return known(str(error), connection=connection) if known else None


class SQLite:
    """Source, Target and Sql over one database file.

    A value may disobey its column's declared type, so a source column is always read as text (a real in its
    shortest exact form), or as binary where it is declared BLOB; a record whose text is not UTF-8 gets
    `_trouble`. `fetch` gives the declared types, or RejectedError("nonconforming") where a value has another.
    `write` refuses as "inexact" what the column would not keep to the last digit.

    Reading takes one short statement a batch, in order of rowid, on read-only connections of its own: no
    lock outlives a batch, so that a source may be the very file that is being written. One connection writes.
    """

    transactional = True
    dialect = "sqlite"
    batch_size = 50_000  # a commit writes every page that it touched, of an index nearly all: few, large ones

    def __init__(self, name: str, settings: SQLiteSettings, *, caller: Caller | None = None) -> None:
        self.name = name
        self._settings = settings
        self._path = file_of(name, settings.path, create=settings.create and not settings.readonly)
        self._call = caller or Caller(errors, connection=name)
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._schemas: dict[str, Schema] = {}
        self._writer: sqlite3.Connection | None = None
        self._writing = threading.Lock()
        self._paging = threading.Lock()

    def datasets(self) -> Sequence[str]:
        rows = self._rows(
            "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'virtual')"
            r" AND name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY name"
        )
        return [name for (name,) in rows]

    def schema(self, dataset: str) -> Schema:
        known = self.datasets()
        if dataset not in known:
            raise unknown(f"{self.name} has no dataset {dataset!r}", dataset, known)
        may = {"select"} if self._settings.readonly else {"select", "insert", "update"}
        self._schemas[dataset] = read_schema(self._rows, dataset, frozenset(may))
        return self._schemas[dataset]

    def count(self, dataset: str) -> int | None:
        return int(self._rows(f"SELECT count(*) FROM {self._table(dataset)}")[0][0])

    def partitions(self, dataset: str, wanted: int) -> Sequence[Partition]:
        """Ranges of rowid, open at both ends; a WITHOUT ROWID table is one. The file is checked first."""
        table = self._table(dataset)
        report = self._rows(f"PRAGMA main.quick_check({quote(dataset)})")
        # Only damaged pages matter here; it also lists values that disobey a CHECK or NOT NULL.
        if any(str(line).startswith("***") for (line,) in report):
            raise CorruptError(f"{dataset}: the file fails SQLite's own check", connection=self.name)
        order = self._order(self._seen(dataset))
        if order == self._seen(dataset).key:
            return [Partition(dataset, "0")]
        low, high = self._rows(f"SELECT min({order[0]}), max({order[0]}) FROM {table}")[0]
        size = 0 if low is None else high - low + 1
        parts = max(1, min(wanted, size))
        cuts = [low + size * part // parts - 1 for part in range(1, parts)]
        ranges = itertools.pairwise([None, *cuts, None])
        return [
            Partition(dataset, str(part), {"after": after, "until": until})
            for part, (after, until) in enumerate(ranges)
        ]

    def read(self, partition: Partition, rows: int) -> Iterator[Batch]:
        schema = self._seen(partition.dataset)
        order = self._order(schema)
        first = partition.detail.get("after")
        after = () if first is None else (first,)
        until = [partition.detail["until"]] if partition.detail.get("until") is not None else []
        connection, held = self._connect("ro"), Gathered(rows)
        try:
            while True:
                sql = next_page(self._table(schema.dataset), schema.names, order, bool(after), bool(until))
                with self._paging:  # two at once are slower than one after the other: both need Python's lock
                    found = self._call(page, connection, sql, (*after, *until, held.room))
                    full = held.add(decoded(schema, found)) if found else True
                if full and held.count:
                    yield Batch(partition.dataset, held.taken())
                if not found:
                    return
                after = found[-1][len(schema.columns) :]
        finally:
            connection.close()

    def close(self) -> None:
        while self._opened:
            self._opened.pop().close()

    def sql(self) -> Sql | None:
        return self

    @contextmanager
    def transaction(self, *, readonly: bool = False) -> Iterator[None]:
        if self._open:
            with nullcontext() if readonly else nested(self._open, self.name):
                yield
            return
        with nullcontext() if readonly else self._writing:
            connection = self._reader() if readonly else self._writable()
            self._call(connection.execute, "BEGIN" if readonly else "BEGIN IMMEDIATE")
            self._local.open, self._local.staged = connection, set()
            try:
                yield
                for name in self._local.staged:
                    connection.execute(f"DROP TABLE IF EXISTS temp.{quote(name)}")
                self._call(connection.execute, "COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            finally:
                self._local.open = None

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        if self._open or self._settings.readonly or sql.lstrip()[:6].upper() == "SELECT":
            return self._rows(marked(sql), parameters)
        with self._writing:
            return self._call(page, self._writable(), marked(sql), parameters)

    def demand(self, sql: str, parameters: Sequence[Any], error: Exception) -> None:
        if not self.execute(sql, parameters):
            raise error

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        names, rows = self._call(select, self._current(), marked(sql), parameters)
        columns = list(zip(*rows, strict=True)) or [()] * len(names)
        undecided = any(cells.count(None) == len(cells) for cells in columns)
        declared = self._call(declared_types, self._current(), marked(sql)) if undecided else [""] * len(names)
        return pa.Table.from_arrays([*map(answer, declared, columns)], names=names)

    def insert(self, table: str, rows: pa.Table) -> None:
        """Unsigned 64-bit integers are stored as the signed ones of the same bits."""
        target = ".".join(quote(part) for part in table.split("."))
        with self._within() as connection:
            self._call(insert, connection, target, rows)

    def stage(self, name: str, rows: pa.Table) -> None:
        if not self._open:
            raise RuntimeError(f"{self.name}: staging needs a transaction")
        self._call(fill, self._current(), name, rows)
        self._local.staged.add(name)

    def empty(self, dataset: str) -> bool:
        return not self._rows(f"SELECT EXISTS (SELECT 1 FROM {self._table(dataset)})")[0][0]

    def fetch(self, dataset: str, keys: pa.Table, columns: Sequence[str], *, lock: bool = False) -> pa.Table:
        schema = self._seen(dataset)
        names = list(dict.fromkeys([*keys.column_names, *columns]))
        for name in names:
            if name not in schema.names:
                raise unknown(f"{self.name}.{dataset} has no column {name!r}", name, schema.names)
        wanted = list(dict.fromkeys(tuples(keys)))
        step = MOST_PARAMETERS // keys.num_columns
        found: Rows = []
        for start in range(0, len(wanted), step):
            found += self._matching(dataset, keys.column_names, wanted[start : start + step], names)
        cells = list(zip(*found, strict=True)) or [()] * len(names)
        return pa.table([self._typed(schema, name, cells[at]) for at, name in enumerate(names)], names=names)

    def write(self, dataset: str, rows: pa.Table, key: Sequence[str], action: Action) -> None:
        schema = self._seen(dataset)
        with self._within() as connection:
            self._call(write, connection, schema, rows, key, action)

    def refusals(
        self, writes: Sequence[tuple[str, pa.Table, Sequence[str], Action]], units: Sequence[pa.Array]
    ) -> pa.Table | None:
        seen = [(self._seen(dataset), rows, key, action) for dataset, rows, key, action in writes]
        with self._within() as connection:
            refused = self._call(refused_units, connection, seen, units, errors)
        return pa.table(
            {
                "unit": pa.array(list(refused), units[0].type if units else pa.string()),
                "reason": pa.array([error.reason for error in refused.values()], pa.string()),
                "detail": pa.array([error.detail for error in refused.values()], pa.string()),
            }
        )

    def delete(self, dataset: str, keys: pa.Table) -> int:
        schema = self._seen(dataset)
        with self._within() as connection:
            return self._call(delete, connection, schema, keys)

    def orphans(self, dataset: str) -> pa.Table:
        # foreign_key_check numbers the constraints as foreign_key_list does, whose order the schema keeps.
        names = [fk.name for fk in self._seen(dataset).foreign_keys]
        counted = self._rows("SELECT fkid, count(*) FROM pragma_foreign_key_check(?) GROUP BY fkid", [dataset])
        return pa.table(
            {
                "constraint": pa.array([names[number] for number, _ in counted], pa.string()),
                "count": pa.array([count for _, count in counted], pa.int64()),
            }
        )

    def ask(self, sql: str, *, role: str | None = None, claims: str | None = None) -> list[tuple[Any, ...]]:
        if role is not None:
            raise ConfigError(f"{self.name}: SQLite has no roles")
        self._rows("PRAGMA query_only = ON")
        try:
            return self._rows(sql)
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise ConfigError(f"{self.name}: {error}") from error
        finally:
            self._rows("PRAGMA query_only = OFF")

    @property
    def _open(self) -> sqlite3.Connection | None:
        """The connection of this thread's transaction."""
        connection: sqlite3.Connection | None = getattr(self._local, "open", None)
        if connection is not None and not connection.in_transaction:
            # By a trigger's RAISE(ROLLBACK) or a full disk: what follows must not commit by itself.
            raise ConnectorError("the transaction was rolled back", connection=self.name)
        return connection

    @contextmanager
    def _within(self) -> Iterator[sqlite3.Connection]:
        """The open transaction, or one of its own."""
        with nullcontext() if self._open else self.transaction():
            yield self._current()

    def _current(self) -> sqlite3.Connection:
        return self._open or self._reader()

    def _reader(self) -> sqlite3.Connection:
        there = not self._settings.create or self._path.exists()
        if getattr(self._local, "reader", None) is None or self._local.there != there:
            self._local.reader = self._connect("ro") if there else connect("file:nothing", "memory", 0, True)
            self._local.there = there
            self._opened.append(self._local.reader)
        reader: sqlite3.Connection = self._local.reader
        return reader

    def _writable(self) -> sqlite3.Connection:
        if self._settings.readonly:
            raise AccessError("the connection is read-only", connection=self.name)
        if self._writer is None:
            if self._settings.create:
                private.keep(self._path, without_tables())
            self._writer = self._connect("rw")
            self._opened.append(self._writer)
        return self._writer

    def _connect(self, mode: str) -> sqlite3.Connection:
        return self._call(connect, self._path.as_uri(), mode, self._settings.busy_timeout, self._settings.readonly)

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        return self._call(page, self._current(), sql, parameters)

    def _seen(self, dataset: str) -> Schema:
        return self._schemas.get(dataset) or self.schema(dataset)

    def _table(self, dataset: str) -> str:
        return f"main.{quote(self._seen(dataset).dataset)}"

    def _order(self, schema: Schema) -> tuple[str, ...]:
        """What reading goes by: rowid under a name that no column took, or the key of a table without."""
        without = self._rows("SELECT wr FROM pragma_table_list(?) WHERE schema = 'main'", [schema.dataset])[0][0]
        taken = {name.lower() for name in schema.names}
        free = [name for name in ("rowid", "_rowid_", "oid") if name not in taken]
        return schema.key if without or not free else (free[0],)

    def _matching(self, dataset: str, key: Sequence[str], wanted: Rows, names: Sequence[str]) -> Rows:
        row = f"({', '.join('?' * len(key))})"
        same = " AND ".join(f"t.{quote(name)} = k.column{at}" for at, name in enumerate(key, 1))
        return self._rows(
            f"SELECT {', '.join(f't.{quote(name)}' for name in names)}"
            f" FROM (VALUES {', '.join([row] * len(wanted))}) AS k"
            f" CROSS JOIN {self._table(dataset)} AS t ON {same}",  # CROSS keeps the keys as the outer loop
            list(itertools.chain.from_iterable(wanted)),
        )

    def _typed(self, schema: Schema, name: str, cells: Sequence[Any]) -> pa.Array:
        column = schema.column(name)
        assert column is not None
        try:
            return typed(column.kind, cells)
        except ValueError:
            # `from None`: Arrow's message shows the value.
            raise RejectedError("nonconforming", name, connection=self.name) from None
