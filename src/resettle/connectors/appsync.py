"""A GraphQL API in Amplify's shape, as AWS AppSync serves it: source and target.

Rows are read by list and index queries and written by create, update and delete mutations, many in one request.
There are no transactions: what is written stays written.
"""

from __future__ import annotations

import difflib
import functools
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from resettle.batch import TROUBLE, Action, Batch, Partition, Schema
from resettle.calls import Caller
from resettle.connector import Needs, Sql
from resettle.connectors._appsync_auth import ApiKey, Iam, IamSettings
from resettle.connectors._appsync_find import Finder
from resettle.connectors._appsync_http import (
    MOST_READS,
    MOST_WRITES,
    ApiError,
    Auth,
    ExpiredError,
    Http,
)
from resettle.connectors._appsync_memory import Memory
from resettle.connectors._appsync_read import Item, Requests
from resettle.connectors._appsync_schema import INTROSPECTION, STAMP, Model, models, operations
from resettle.connectors._appsync_values import table_of
from resettle.connectors._appsync_write import Writer
from resettle.connectors._cognito import CognitoError, CognitoSettings, cognito_error, signed_in
from resettle.connectors._http import pool_of, unreached
from resettle.errors import AccessError, ConfigError, ConnectorError, CorruptError, RejectedError, TransientError


class AliasSettings(BaseModel):
    """Look-ups, and writes, in one request. AppSync gives a request 30 seconds."""

    model_config = ConfigDict(extra="forbid")

    read: int = Field(default=50, ge=1, le=MOST_READS, description="look-ups in one request")
    write: int = Field(default=25, ge=1, le=MOST_WRITES, description="writes in one request")


class AppSyncSettings(BaseModel):
    """Settings of a connection of type `appsync`. One of `api_key`, `cognito` and `iam` lets it in."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(description="the API's GraphQL endpoint")
    api_key: SecretStr | None = Field(default=None, description="an API key of the API")
    cognito: CognitoSettings | None = Field(default=None, description="the user of a user pool who calls the API")
    iam: IamSettings | None = Field(default=None, description="the AWS credentials that sign the requests")
    page_size: int = Field(default=1000, ge=1, le=1000, description="records that one request of a list scans")
    aliases: AliasSettings = Field(default_factory=AliasSettings, description="look-ups, and writes, in one request")
    workers: int = Field(default=4, ge=1, le=32, description="requests at a time")
    readonly: bool = Field(default=False, description="refuse to write")
    connect_timeout: float = Field(default=10, gt=0, description="seconds")
    timeout: float = Field(default=40, gt=0, description="seconds for an answer; AppSync gives up after 30")

    @model_validator(mode="after")
    def _one_way_in(self) -> AppSyncSettings:
        if sum(way is not None for way in (self.api_key, self.cognito, self.iam)) != 1:
            raise ValueError("give one of `api_key`, `cognito` and `iam`")
        return self


ERRORS: Sequence[tuple[str, type[ConnectorError], str]] = (
    # What begins with these words goes on with a value, so nothing after them may be looked at.
    (r"^[^:]*: (Variable '|The variables input|Validation error of type WrongType|Can't serialize)",
     RejectedError, "type"),
    (r"Cannot return null for non-nullable", CorruptError, "a record lacks a value that the schema requires"),
    (r"ConditionalCheckFailed", RejectedError, "exists"),
    (r"^HTTP 429|Throttl|Rate exceeded|TooManyRequests|LimitExceededException|ThroughputExceeded|Throughput exceeds",
     TransientError, "too many requests"),
    (r"^HTTP 401", AccessError, "the service refuses the key or the token: has it expired?"),
    (r"Unauthorized|Not Authorized", AccessError, "this user or key may not do that: is a group missing?"),
    (r"^HTTP 403|AccessDenied|UnrecognizedClient|Signature|ExpiredToken|MissingAuth", AccessError,
     "the service refuses the credentials, or they may not call this API"),
    (r"[Ii]ntrospection|'__schema'", AccessError, "the API does not show its schema: switch introspection on for it"),
    (r"^HTTP 413|RequestEntityTooLarge|ResolverExecutionLimit|size has exceeded|too large", RejectedError, "too_large"),
    (r"ConflictUnhandled|ConflictError", RejectedError, "changed"),
    (r"ExecutionTimeout|timed out|Internal|ServiceUnavailable|TransactionConflict|^HTTP (408|5\d\d)", TransientError,
     "the service failed or took too long"),
    (r"ValidationException", RejectedError, "type"),
    (r"Validation error|MalformedHttpRequest|BadRequest|^HTTP 4\d\d", ConnectorError,
     "the service does not understand the request"),
)  # fmt: skip
"""By HTTP status, the error's type and its text, the first that is found. A RejectedError's word is its reason."""

_SLOW = "too many requests"


def errors(error: BaseException, connection: str = "") -> ConnectorError | None:
    """What an error of the service, or of the way to it, means. No message holds a value or a secret."""
    if isinstance(error, ApiError):
        return explained(f"HTTP {error.status} {error.kind}: {error.text}", connection, error.retry_after)
    if isinstance(error, CognitoError):
        return cognito_error(error, connection)
    if isinstance(error, ExpiredError):
        return TransientError("the token had expired", connection=connection)
    return unreached(error, connection)


def explained(text: str, connection: str = "", retry_after: float | None = None) -> ConnectorError:
    """What an error's type and text, `<type>: <text>`, mean."""
    for pattern, kind, words in ERRORS:
        if not re.search(pattern, text):
            continue
        if issubclass(kind, RejectedError):
            return kind(words, connection=connection)
        if issubclass(kind, TransientError):
            return kind(words, connection=connection, retry_after=retry_after, throttled=words == _SLOW)
        return kind(words, connection=connection)
    name = text.partition(": ")[0]
    told = f" of the type {name}" if re.fullmatch(r"[\w:.# ]{1,80}", name) else ""
    return ConnectorError(f"the service answered with an unknown error{told}", connection=connection)


class AppSync:
    """Source and Target over one API.

    Datasets are its model types. A create that finds its own row there, because an answer was lost, has succeeded.
    A look-up of many keys first tries to be a list, if that may take fewer requests; one by columns that are neither
    the key nor an index has to read the whole list each time. Rows point at each other by columns that the API shows,
    but it does not enforce that.
    """

    transactional = False

    def __init__(self, name: str, settings: AppSyncSettings, *, caller: Caller | None = None) -> None:
        self.name = name
        self._settings = settings
        self._call = caller or Caller(errors, connection=name)
        self._http = Http(settings.url, _auth_of(settings), settings.connect_timeout, settings.timeout)
        explain = lambda one: explained(f"{one.kind}: {one.text}", name)  # noqa: E731
        self._requests = Requests(self._http, self._call, explain, settings.workers, settings.aliases.read)
        self._find = Finder(name, self._requests, self._models, settings.page_size, settings.aliases.read)
        self._known: dict[str, Model] | None = None
        self._writers: dict[str, Writer] = {}
        self._local = threading.local()
        self._memory = Memory()

    @property
    def concurrency(self) -> int:
        """Requests at a time: `workers`, unless a run says another number."""
        return self._requests.workers

    @concurrency.setter
    def concurrency(self, wanted: int) -> None:
        self._requests.workers = wanted

    def datasets(self) -> Sequence[str]:
        return sorted(self._models())

    def schema(self, dataset: str) -> Schema:
        """As it was when the connection was opened."""
        return self._model(dataset).schema

    def count(self, dataset: str) -> int | None:
        """None: only reading would tell."""
        return None

    def partitions(self, dataset: str, wanted: int) -> Sequence[Partition]:
        """One: a page is found by the one before it."""
        self._find.way(self._model(dataset))
        return [Partition(dataset, "all")]

    def read(self, partition: Partition, rows: int) -> Iterator[Batch]:
        """A page is at most ``rows`` and `page_size`, often less. A record that cannot be had whole has `_trouble`."""
        model = self._model(partition.dataset)
        for page in self._find.pages(model, list(model.select.values()), min(rows, self._settings.page_size)):
            yield Batch(partition.dataset, self._read_table(model, page))

    def close(self) -> None:
        self._http.close()

    def sql(self) -> Sql | None:
        return None

    @contextmanager
    def transaction(self, *, readonly: bool = False) -> Iterator[None]:
        """Only a scope: nothing is taken back."""
        if getattr(self._local, "open", None) is not None:
            raise ConfigError(f"{self.name}: an API has no transaction within a transaction")
        self._local.open, self._local.looked = readonly, {}
        try:
            yield
        finally:
            self._local.open = self._local.looked = None

    def empty(self, dataset: str) -> bool:
        model = self._model(dataset)
        return not any(page for page in self._find.pages(model, list(model.schema.key), 1))

    def fetch(self, dataset: str, keys: pa.Table, columns: Sequence[str], *, lock: bool = False) -> pa.Table:
        """Nobody can be locked out; but what was looked at with ``lock`` is not deleted once somebody changed it."""
        return self._fetched(dataset, keys, columns, self._memory, lock=lock)

    def remembering(self) -> AbstractContextManager[None]:
        """One listing of a dataset is kept, once look-ups would have taken more requests."""
        return self._memory.remembering()

    def _fetched(
        self, dataset: str, keys: pa.Table, columns: Sequence[str], memory: Memory, *, lock: bool = False
    ) -> pa.Table:
        model = self._model(dataset)
        names = list(dict.fromkeys([*keys.column_names, *columns]))
        for name in names:
            if name not in model.select:
                raise _unknown(f"{self.name}.{dataset} has no column {name!r}", name, model.select)
        wanted = keys.drop_null().group_by(keys.column_names, use_threads=False).aggregate([])
        table = memory.table(dataset, names)
        if table is None:
            table = self._looked_up(model, wanted, names, memory, lock=lock)
        kept = table.join(wanted, keys.column_names, join_type="left semi", use_threads=False)
        return kept.select(names).combine_chunks()

    def write(self, dataset: str, rows: pa.Table, key: Sequence[str], action: Action) -> None:
        """Row by row, many in a request. Where some are refused, their neighbours are written all the same."""
        writer = self._writer(dataset)
        try:
            (writer.create if action is Action.CREATE else writer.update)(rows, key)
        except RejectedError as error:
            raise RejectedError(error.reason, error.detail, connection=self.name) from None

    def refusals(
        self, writes: Sequence[tuple[str, pa.Table, Sequence[str], Action]], units: Sequence[pa.Array]
    ) -> pa.Table | None:
        """What is wrong in itself, what is there already, and what the service refused when it was written before."""
        found: dict[Any, tuple[str, str]] = {}
        for (dataset, rows, key, action), of in zip(writes, units, strict=True):
            bad = self._writer(dataset).refusals(rows, key, create=action is Action.CREATE)
            for at, refusal in sorted(bad.items()):
                found.setdefault(of[at].as_py(), refusal)
        kind = units[0].type if units else pa.string()
        return pa.table(
            {
                "unit": pa.array(list(found), kind),
                "reason": pa.array([reason for reason, _ in found.values()], pa.string()),
                "detail": pa.array([detail for _, detail in found.values()], pa.string()),
            }
        )

    def delete(self, dataset: str, keys: pa.Table) -> int:
        looked = getattr(self._local, "looked", None) or {}
        return self._writer(dataset).delete(keys, looked.get(dataset, {}))

    def orphans(self, dataset: str) -> pa.Table:
        """By relation; reads this list and those that it points at."""
        model = self._model(dataset)
        lost: dict[str, int] = {}
        for link in model.schema.foreign_keys:
            ours = self._column(model, link.columns[0])
            theirs = self._column(self._model(link.target), link.target_columns[0])
            alone = pc.sum(pc.invert(pc.is_in(ours, value_set=theirs))).as_py() or 0
            if alone:
                lost[link.name] = alone
        counts = pa.array(list(lost.values()), pa.int64())
        return pa.table({"constraint": pa.array(list(lost), pa.string()), "count": counts})

    def ask(self, sql: str, *, role: str | None = None, claims: str | None = None) -> list[tuple[Any, ...]]:
        raise ConfigError(f"{self.name}: a GraphQL API cannot be asked in SQL")

    def privileges(self, needs: Needs, *, rollback: bool = False) -> Sequence[str]:
        return operations({use.dataset: self._model(use.dataset) for use in needs.uses}, needs, rollback=rollback)

    def _models(self) -> dict[str, Model]:
        if self._known is None:
            answer = self._call(self._http.run, INTROSPECTION)
            if answer.data.get("__schema") is None:
                raise explained("; ".join(f"{one.kind}: {one.text}" for one in answer.troubles), self.name)
            self._known = models(answer.data, readonly=self._settings.readonly)
        return self._known

    def _model(self, dataset: str) -> Model:
        known = self._models()
        if dataset not in known:
            raise _unknown(f"{self.name} has no dataset {dataset!r}", dataset, known)
        return known[dataset]

    def _writer(self, dataset: str) -> Writer:
        if self._settings.readonly or getattr(self._local, "open", None):
            raise AccessError("the connection or the transaction is read-only", connection=self.name)
        if dataset not in self._writers:
            writer = Writer(
                self._requests,
                self._model(dataset),
                functools.partial(self._looked, dataset),
                self._settings.aliases.write,
                functools.partial(self._wrote, dataset),
            )
            self._writers.setdefault(dataset, writer)
        return self._writers[dataset]

    def _looked(self, dataset: str, keys: pa.Table, columns: Sequence[str]) -> pa.Table:
        """What is there at this moment; where only the whole list would tell, what is remembered of it."""
        model, names = self._model(dataset), keys.column_names
        return self._fetched(dataset, keys, columns, _NOTHING if self._find.singly(model, names) else self._memory)

    def _wrote(self, dataset: str, items: Sequence[Item] | None) -> None:
        """The records as the service gave them when they were written; None where it is not known what became."""
        model, names = self._model(dataset), self._memory.columns(dataset)
        if not names:
            return
        rows = table_of(model, names, items) if items is not None else None
        plain = rows is not None and TROUBLE not in rows.column_names
        self._memory.wrote(dataset, model.schema.key, rows if plain else None)

    def _looked_up(
        self, model: Model, wanted: pa.Table, names: Sequence[str], memory: Memory, *, lock: bool
    ) -> pa.Table:
        """Records that hold all the wanted ones, and maybe others. A whole list is remembered."""
        if not wanted.num_rows:
            return self._fetched_table(model, names, [])
        asked = memory.names(model.name, [*names, *model.schema.key])
        looked = getattr(self._local, "looked", None) if lock and STAMP in model.select else None
        selected = dict.fromkeys(asked if looked is None else [*asked, STAMP])
        items, whole = self._find.find(model, wanted, [model.select[name] for name in selected], memory)
        # A page that came twice, as a service in trouble may send it, makes no second record.
        once = {tuple(item.get(name) for name in model.schema.key): item for item in items}
        if looked is not None:
            looked[model.name] = {key: item.get(STAMP) for key, item in once.items()} | looked.get(model.name, {})
        table = self._fetched_table(model, asked, list(once.values()))
        if whole:
            memory.keep(model.name, table)
        return table

    def _read_table(self, model: Model, items: Sequence[Item]) -> pa.Table:
        table = table_of(model, list(model.select), items)
        told = [item.get(TROUBLE) for item in items]
        if not any(told):
            return table
        found = table[TROUBLE].to_pylist() if TROUBLE in table.column_names else [None] * len(items)
        both = pa.array([one or other for one, other in zip(told, found, strict=True)], pa.string())
        names = [name for name in table.column_names if name != TROUBLE]
        return table.select(names).append_column(TROUBLE, both)

    def _fetched_table(self, model: Model, names: Sequence[str], items: Sequence[Item]) -> pa.Table:
        table = table_of(model, names, items)
        bad = next((item[TROUBLE] for item in items if item.get(TROUBLE)), None)
        if bad is None and TROUBLE in table.column_names:
            bad = table[TROUBLE].drop_null()[0].as_py()
        if bad is not None:
            raise RejectedError("nonconforming", bad, connection=self.name)
        return table

    def _column(self, model: Model, name: str) -> pa.Array:
        pages = self._find.pages(model, [name], self._settings.page_size)
        found = [table_of(model, [name], page)[name].combine_chunks() for page in pages]
        return pa.concat_arrays([pa.array([], pa.string()), *found]).drop_null()


_NOTHING = Memory()
"""Nothing is ever remembered there: nobody opens it."""


def _auth_of(settings: AppSyncSettings) -> Auth:
    if settings.api_key:
        return ApiKey(settings.api_key.get_secret_value())
    if settings.cognito:
        return signed_in(settings.cognito, pool_of(settings.connect_timeout, settings.timeout))
    assert settings.iam is not None
    return Iam(settings.iam)


def _unknown(message: str, name: str, known: Iterable[str]) -> ConfigError:
    near = difflib.get_close_matches(name, list(known), n=1)
    return ConfigError(message, hint=f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}")
