"""Cloudflare D1 over its HTTP API: source, target and a home for the ledger."""

from __future__ import annotations

import difflib
import itertools
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import urllib3
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from resettle.batch import Action, Batch, Partition, Schema
from resettle.calls import Caller
from resettle.connector import Sql
from resettle.connectors import _d1_sql as statements
from resettle.connectors._d1_http import Answer, ApiError, Http, Statement, body_of, never_ran, privileges
from resettle.connectors._d1_read import fetch, pages
from resettle.connectors._d1_values import cell, filled, repaired
from resettle.connectors._d1_write import Pending, Write, alarm_of, explained
from resettle.connectors._http import GarbledError, unreached
from resettle.connectors._sqlite import answer, decoded, marked, quote, read_schema, typed
from resettle.errors import AccessError, ConfigError, ConnectorError, RejectedError, TransientError


class D1Settings(BaseModel):
    """Settings of a connection of type `d1`. The token needs the permission D1 Edit, or D1 Read for a source."""

    model_config = ConfigDict(extra="forbid")

    account: str = Field(description="the id of the Cloudflare account")
    database: str = Field(description="its id, not its name")
    token: SecretStr = Field(description="an API token with the permission D1 Edit, or D1 Read for a source")
    url: str = Field(default="https://api.cloudflare.com/client/v4", description="where the API is")
    readonly: bool = Field(default=False, description="refuse to write")
    connect_timeout: float = Field(default=10, gt=0, description="seconds")
    timeout: float = Field(default=60, gt=0, description="seconds for an answer; D1 gives up after 30")


ERRORS: Sequence[tuple[str, type[ConnectorError], str]] = (
    (r"maximum DB size|SQLITE_FULL", AccessError, "the database has reached its largest size: it takes no more rows"),
    (r"UNIQUE constraint failed", RejectedError, "unique"),
    (r"NOT NULL constraint failed", RejectedError, "null"),
    (r"CHECK constraint failed", RejectedError, "check"),
    (r"FOREIGN KEY constraint failed", RejectedError, "foreign_key"),
    (r"datatype mismatch|cannot store \w+ value in", RejectedError, "type"),
    (r"string or blob too big|SQLITE_TOOBIG|^HTTP 413", RejectedError, "too_large"),
    (r"SQLITE_CONSTRAINT", RejectedError, "trigger"),
    (r"^HTTP 401|^HTTP 403", AccessError, "the service refuses the token, or it lacks the permission D1 Edit"),
    (r"^HTTP 404", AccessError, "there is no such account or database, or the token does not reach it"),
    (r"not authorized", AccessError, "D1 does not allow this statement"),
    (r"^HTTP 429", TransientError, "too many requests"),
    (r": SQLITE_ERROR", ConnectorError, "the service cannot run this SQL"),
    (r"is overloaded", TransientError, "the database is overloaded"),
    (r"exceeded timeout|CPU time limit|memory limit", TransientError, "a statement took too long or too much memory"),
    (r"connection lost|object to be reset|code was updated|internal error|transient", TransientError, "D1 was reset"),
    (r"^HTTP (408|5\d\d)", TransientError, "the service failed"),
    (r"SQLITE_|^HTTP 4\d\d", ConnectorError, "the service cannot run this SQL"),
)
"""By the HTTP status and the service's own words (https://developers.cloudflare.com/d1/observability/debug-d1/ and
SQLite's), the first that is found. A RejectedError's word is its reason, as in the connector `sqlite`."""

_SLOW = re.compile("^HTTP 429|is overloaded")


def errors(error: BaseException, connection: str = "") -> ConnectorError | None:
    """What an error of the service or of the connection to it means. No message holds the token or a value."""
    if isinstance(error, ApiError):
        return _answered(error, connection)
    return unreached(error, connection)


def _answered(error: ApiError, connection: str) -> ConnectorError:
    text = f"HTTP {error.status} {error.text}"
    for pattern, kind, words in ERRORS:
        if not re.search(pattern, text, re.IGNORECASE):
            continue
        if issubclass(kind, RejectedError):
            # "UNIQUE constraint failed: people.id: SQLITE_CONSTRAINT": columns and constraints, never values.
            named = error.text.partition(": SQLITE_")[0].partition("constraint failed: ")[2]
            return kind(words, named, connection=connection)
        if issubclass(kind, TransientError):
            slow = _SLOW.search(text) is not None
            return kind(words, connection=connection, retry_after=error.retry_after, throttled=slow)
        # The only words that are passed on: they speak of the SQL's names.
        told, sign, _ = error.text.partition(": SQLITE_")
        return kind(f"{words}: {told}" if kind is ConnectorError and sign else words, connection=connection)
    return ConnectorError(f"the service answered HTTP {error.status}", connection=connection)


class D1:
    """Source, Target and Sql over one database.

    D1 has no transaction but a batch of statements in one request. So `transaction` keeps the writes and sends
    them at its end: a refusal comes from leaving it, reads inside see what is committed, RETURNING gives nothing
    (see `demand`), and it does not nest. Nobody can be locked out, but an update of a row that was fetched with
    ``lock`` fails, as a whole and to be tried again, if somebody changed that row meanwhile.

    A read is tried again inside. A batch is only if it surely did not run; if its answer is lost, the
    TransientError goes to the caller, who has to look what is there. Answers are of a bounded size.
    """

    transactional = True
    dialect = "d1"
    privileges = staticmethod(privileges)

    def __init__(self, name: str, settings: D1Settings, *, caller: Caller | None = None) -> None:
        self.name = name
        self._settings = settings
        token = settings.token.get_secret_value()
        place = (settings.url, settings.account, settings.database, token)
        self._http = Http(*place, settings.connect_timeout, settings.timeout)
        self._call = caller or Caller(errors, connection=name)
        self._local = threading.local()
        self._schemas: dict[str, Schema] = {}
        self._columns: dict[tuple[Any, ...], list[str]] = {}
        self._types: dict[str, dict[str, str]] = {}

    def datasets(self) -> Sequence[str]:
        """All but SQLite's own tables and D1's (`_cf_...`)."""
        found = self._ask(
            Statement(
                "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'virtual')"
                r" AND name NOT LIKE 'sqlite\_%' ESCAPE '\' AND name NOT LIKE '\_cf\_%' ESCAPE '\' ORDER BY name"
            )
        )
        return [name for (name,) in found.rows]

    def schema(self, dataset: str) -> Schema:
        known = self.datasets()
        if dataset not in known:
            raise _unknown(f"{self.name} has no dataset {dataset!r}", dataset, known)
        may = {"select"} if self._settings.readonly else {"select", "insert", "update"}
        self._schemas[dataset] = read_schema(self._catalogue, dataset, frozenset(may))
        return self._schemas[dataset]

    def count(self, dataset: str) -> int | None:
        return int(self._rows(f"SELECT count(*) FROM {self._table(dataset)}")[0][0])

    def partitions(self, dataset: str, wanted: int) -> Sequence[Partition]:
        """Ranges of rowid, open at both ends; a WITHOUT ROWID table is one."""
        schema = self._seen(dataset)
        order = self._order(schema)
        if order == schema.key:
            return [Partition(dataset, "0")]
        low, high = self._rows(f"SELECT min({order[0]}), max({order[0]}) FROM {self._table(dataset)}")[0]
        size = 0 if low is None else high - low + 1
        parts = max(1, min(wanted, size))
        cuts = [low + size * part // parts - 1 for part in range(1, parts)]
        return [
            Partition(dataset, str(part), {"after": after, "until": until})
            for part, (after, until) in enumerate(itertools.pairwise([None, *cuts, None]))
        ]

    def read(self, partition: Partition, rows: int) -> Iterator[Batch]:
        """One short statement a page: a page with long values has fewer rows."""
        schema = self._seen(partition.dataset)
        after, until = partition.detail.get("after"), partition.detail.get("until")
        for found in pages(self._ask, schema, self._order(schema), after, until, rows):
            yield Batch(partition.dataset, decoded(schema, found))

    def close(self) -> None:
        self._http.close()

    def sql(self) -> Sql | None:
        return self

    @contextmanager
    def transaction(self, *, readonly: bool = False) -> Iterator[None]:
        if self._open:
            hint = "one batch is one transaction; a rehearsal needs a copy of the database in a SQLite file"
            raise ConfigError(f"{self.name}: D1 has no transaction within a transaction", hint=hint)
        self._local.open = pending = Pending(readonly)
        try:
            yield
        finally:
            self._local.open = None
        self._commit(pending)

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """What a statement gives by RETURNING comes only outside of a transaction, and large integers rounded."""
        text = marked(sql)
        if statements.reads(text):
            return self._rows(text, parameters)
        with self._within() as pending:
            pending.statements += self._staged.rendered(text, parameters)
            if self._open:
                return []
        rows = [row for answered in pending.answers for row in answered.rows]
        return [tuple(bytes(one) if isinstance(one, list) else one for one in row) for row in rows]

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        text = marked(sql)
        found = self._rows(text, parameters)
        names = self._names(statements.one_query(text), parameters)
        columns = list(zip(*found, strict=True)) or [()] * len(names)
        undecided = any(cells.count(None) == len(cells) for cells in columns)
        types = self._declared(text, len(names)) if undecided else [""] * len(names)
        return pa.Table.from_arrays([*map(answer, types, columns)], names=names)

    def demand(self, sql: str, parameters: Sequence[Any], error: Exception) -> None:
        with self._within() as pending:
            pending.statements += self._staged.rendered(marked(sql), parameters)
            pending.alarm("changes() = 0", (), error)

    def insert(self, table: str, rows: pa.Table) -> None:
        """Unsigned 64-bit integers are stored as the signed ones of the same bits."""
        if rows.num_rows:
            with self._within() as pending:
                pending.insert(".".join(quote(part) for part in table.split(".")), rows)

    def stage(self, name: str, rows: pa.Table) -> None:
        """Kept here: a statement that names them gets them as a part of it, several times if they are many."""
        if not self._open:
            raise RuntimeError(f"{self.name}: staging needs a transaction")
        self._open.staged.stage(name, rows)

    def empty(self, dataset: str) -> bool:
        return not self._rows(f"SELECT EXISTS (SELECT 1 FROM {self._table(dataset)})")[0][0]

    def fetch(self, dataset: str, keys: pa.Table, columns: Sequence[str], *, lock: bool = False) -> pa.Table:
        schema = self._seen(dataset)
        names = list(dict.fromkeys([*keys.column_names, *columns]))
        for name in names:
            if name not in schema.names:
                raise _unknown(f"{self.name}.{dataset} has no column {name!r}", name, schema.names)
        wanted = keys.drop_null().group_by(keys.column_names).aggregate([])
        found = fetch(self._ask, dataset, wanted, names)
        cells = list(zip(*found, strict=True)) or [()] * len(names)
        table = pa.table([self._typed(schema, name, cells[at]) for at, name in enumerate(names)], names=names)
        if lock and self._open:
            self._open.looked.append((schema, keys.column_names, table))
        return table

    def write(self, dataset: str, rows: pa.Table, key: Sequence[str], action: Action) -> None:
        with self._within() as pending:
            pending.write(Write(self._seen(dataset), rows, key, action))

    def refusals(
        self, writes: Sequence[tuple[str, pa.Table, Sequence[str], Action]], units: Sequence[pa.Array]
    ) -> pa.Table | None:
        """None: a batch names one refusal at a time, so cutting it in halves is as good."""
        return None

    def delete(self, dataset: str, keys: pa.Table) -> int:
        """In a transaction the number is what is there to delete now."""
        schema = self._seen(dataset)
        known = keys.drop_null().group_by(keys.column_names).aggregate([])
        with self._within() as pending:
            there = len(fetch(self._ask, dataset, known, keys.column_names)) if known.num_rows else 0
            pending.delete(schema, known)
        return there

    def orphans(self, dataset: str) -> pa.Table:
        # foreign_key_check numbers the constraints as foreign_key_list does, whose order the schema keeps.
        names = [fk.name for fk in self._seen(dataset).foreign_keys]
        sql = "SELECT fkid, count(*) FROM pragma_foreign_key_check(?) GROUP BY fkid"
        counted = self._catalogue(sql, [dataset])
        return pa.table(
            {
                "constraint": pa.array([names[number] for number, _ in counted], pa.string()),
                "count": pa.array([count for _, count in counted], pa.int64()),
            }
        )

    def ask(self, sql: str, *, role: str | None = None, claims: str | None = None) -> list[tuple[Any, ...]]:
        if role is not None:
            raise ConfigError(f"{self.name}: D1 has no roles")
        if not statements.wrappable(sql):
            raise ConfigError(f"{self.name}: expected a SELECT statement")
        try:
            return self._rows(sql)
        except (AccessError, TransientError):
            raise
        except ConnectorError as error:
            raise ConfigError(error.message) from error

    @property
    def _open(self) -> Pending | None:
        """This thread's transaction."""
        return getattr(self._local, "open", None)

    @contextmanager
    def _within(self) -> Iterator[Pending]:
        """The open transaction, or one of its own, for writing."""
        pending = self._open
        if self._settings.readonly or (pending and pending.readonly):
            raise AccessError("the connection or the transaction is read-only", connection=self.name)
        if pending:
            yield pending
            return
        pending = Pending(readonly=False)
        yield pending
        self._commit(pending)

    def _commit(self, pending: Pending) -> None:
        """Send the batch. A refusal is explained, by what it finds now."""
        if not pending.statements:
            return
        body = pending.request()

        def once() -> list[Answer] | Exception:
            try:
                return self._http.run(body)
            except (ApiError, GarbledError, urllib3.exceptions.HTTPError) as error:
                if never_ran(error):
                    raise  # to be tried again, by the Caller
                alarm = alarm_of(pending, error.text) if isinstance(error, ApiError) else None
                return alarm or errors(error, self.name) or error

        outcome = self._call(once)
        if isinstance(outcome, RejectedError):
            raise explained(outcome, pending.writes, self._ask) from None
        if isinstance(outcome, Exception):
            raise outcome
        pending.answers = outcome

    def _ask(self, statement: Statement) -> Answer:
        """Run a statement that changes nothing."""
        found: Answer = self._call(self._http.run, body_of([statement]))[0]
        return found

    def _catalogue(self, sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self._ask(filled(sql, parameters)).rows]

    @property
    def _staged(self) -> statements.Staged:
        return self._open.staged if self._open else statements.Staged()

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query, to the last digit; of staged rows piece by piece."""
        if not statements.wrappable(sql):
            return self._catalogue(sql, parameters)
        text = statements.one_query(sql)
        width = len(self._names(text, parameters))
        found: list[tuple[Any, ...]] = []
        for hexed in (False, True):
            found = []
            for statement in self._staged.rendered(statements.keeping(text, width, hexed=hexed), parameters):
                found += [tuple(map(cell, row)) for row in self._ask(statement).rows]
            if not repaired(found):
                break
        return found

    def _names(self, sql: str, parameters: Sequence[Any]) -> list[str]:
        """The columns of a query."""
        key = (sql, self._staged.shape(sql))
        if key not in self._columns:
            (statement,) = self._staged.rendered(statements.counting(sql), parameters, empty=True)
            self._columns[key] = self._ask(statement).columns
        return self._columns[key]

    def _declared(self, sql: str, width: int) -> list[str]:
        """The declared types of a query's columns, where they are plainly a table's."""
        if sql not in self._types:
            found = [
                row
                for table in statements.tables(sql)
                for row in self._catalogue("SELECT name, type FROM pragma_table_xinfo(?)", [table])
            ]
            self._types[sql] = dict(found)
        known = {**self._types[sql], **self._staged.types(sql)}
        names = statements.plain_columns(sql)
        return [known.get(name or "", "") for name in names] if len(names) == width else [""] * width

    def _seen(self, dataset: str) -> Schema:
        return self._schemas.get(dataset) or self.schema(dataset)

    def _table(self, dataset: str) -> str:
        return f"main.{quote(self._seen(dataset).dataset)}"

    def _order(self, schema: Schema) -> tuple[str, ...]:
        """What reading goes by: rowid under a name that no column took, or the key of a table without."""
        found = self._catalogue("SELECT wr FROM pragma_table_list(?) WHERE schema = 'main'", [schema.dataset])
        taken = {name.lower() for name in schema.names}
        free = [name for name in ("rowid", "_rowid_", "oid") if name not in taken]
        return schema.key if found[0][0] or not free else (free[0],)

    def _typed(self, schema: Schema, name: str, cells: Sequence[Any]) -> pa.Array:
        column = schema.column(name)
        assert column is not None
        try:
            return typed(column.kind, cells)
        except ValueError:
            # `from None`: Arrow's message shows the value.
            raise RejectedError("nonconforming", name, connection=self.name) from None


def _unknown(message: str, name: str, known: Iterable[str]) -> ConfigError:
    near = difflib.get_close_matches(name, list(known), n=1)
    return ConfigError(message, hint=f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}")
