"""Datasets held in this process: a real source and target for tests, demos and small lookups."""

from __future__ import annotations

import difflib
import itertools
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import duckdb
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from resettle.batch import ARROW, Action, Batch, Column, ForeignKey, Kind, Partition, Schema
from resettle.calls import Caller
from resettle.connector import Sql
from resettle.connectors._memory_files import Shelf
from resettle.errors import AccessError, ConfigError, ConnectorError, RejectedError

P = ParamSpec("P")
T = TypeVar("T")
Row = Mapping[str, Any]
Key = tuple[Any, ...]


class DatasetSettings(BaseModel):
    """A dataset's schema and the rows it starts with."""

    model_config = ConfigDict(extra="forbid")

    columns: tuple[Column, ...] = Field(description="its columns, in order")
    key: tuple[str, ...] = Field(default=(), description="the columns of its primary key")
    unique: tuple[tuple[str, ...], ...] = Field(default=(), description="columns that are unique together")
    foreign_keys: tuple[ForeignKey, ...] = Field(default=(), description="what its rows point at")
    rows: list[dict[str, Any]] = Field(default_factory=list, description="the rows it starts with")


class MemorySettings(BaseModel):
    """Settings of a connection of type `memory`."""

    model_config = ConfigDict(extra="forbid")

    datasets: dict[str, DatasetSettings] = Field(default_factory=dict, description="what is there, by name")


def errors(error: BaseException) -> ConnectorError | None:
    """No service, so nothing to translate."""
    return None


@dataclass(frozen=True)
class _Table:
    """A dataset at one moment. Rows are never changed in place, so an old moment costs nothing to keep."""

    schema: Schema
    rows: Mapping[Key, Row]


class Memory:
    """Source and Target over Python dicts, Arrow at the edges.

    Writes obey key, unique, NOT NULL, choices and foreign keys. A transaction works on a copy that only its
    own thread sees; committing puts the copy in place. A default is not evaluated: the column is then null.
    Reading gives columns in the types of `batch.ARROW`, except that a UUID is text, as expressions want it. ``shelf``
    holds the bytes of datasets that are listings of files.
    """

    transactional = True

    def __init__(self, name: str, settings: MemorySettings | None = None, *, caller: Caller | None = None) -> None:
        self.name = name
        self._call = caller or Caller(errors, connection=name)
        self._committed: dict[str, _Table] = {}
        self._working: dict[str, _Table] | None = None
        self._owner: int | None = None
        self._readonly = False
        self._writer = threading.Lock()
        self._files = threading.Lock()
        self._serial = itertools.count()
        self.shelf = Shelf(self._list)
        self.open, self.put, self.abandon = self.shelf.open, self.shelf.put, self.shelf.abandon
        for dataset, given in (settings or MemorySettings()).datasets.items():
            schema = Schema(dataset, given.columns, given.key, given.unique, given.foreign_keys)
            self.create(dataset, schema, given.rows)

    def create(self, dataset: str, schema: Schema, rows: Iterable[Row] = ()) -> Memory:
        """Add or replace a dataset. Its rows are taken as they are: only writes must obey the constraints."""
        given = list(rows)
        values = {
            column.name: _typed(column.kind, [row.get(column.name) for row in given]) for column in schema.columns
        }
        held: dict[Key, Row] = {}
        for row in _rows(pa.table(values)) if values else []:
            identity = self._identity(schema, row)
            if identity in held:
                raise ConfigError(f"{self.name}.{dataset}: two rows have the same key")
            held[identity] = row
        self._committed[dataset] = _Table(schema, held)
        return self

    def _list(self, dataset: str, key: str, size: int, md5: str) -> None:
        table = self._table(dataset)
        row = {column.name: None for column in table.schema.columns} | {"key": key, "size": size, "md5": md5}
        with self._files:
            rows = {**self._committed[dataset].rows, self._identity(table.schema, row): row}
            self._committed[dataset] = _Table(table.schema, rows)

    def datasets(self) -> Sequence[str]:
        return sorted(self._tables)

    def schema(self, dataset: str) -> Schema:
        return self._table(dataset).schema

    def count(self, dataset: str) -> int | None:
        return len(self._table(dataset).rows)

    def partitions(self, dataset: str, wanted: int) -> Sequence[Partition]:
        total = len(self._table(dataset).rows)
        parts = max(1, min(wanted, total))
        cuts = [total * part // parts for part in range(parts + 1)]
        return [
            Partition(dataset, str(part), {"start": start, "stop": stop})
            for part, (start, stop) in enumerate(itertools.pairwise(cuts))
        ]

    def read(self, partition: Partition, rows: int) -> Iterator[Batch]:
        table = self._table(partition.dataset)
        mine = list(table.rows.values())[partition.detail["start"] : partition.detail["stop"]]
        for start in range(0, len(mine), rows):
            part = self._call(_arrow, table.schema.columns, mine[start : start + rows], reading=True)
            yield Batch(partition.dataset, part)

    def close(self) -> None:
        """There is nothing to give up; the rows stay for who asks next."""

    def sql(self) -> Sql | None:
        return None

    @contextmanager
    def transaction(self, *, readonly: bool = False) -> Iterator[None]:
        if self._owner == threading.get_ident():
            with self._savepoint():
                yield
            return
        with self._writer:
            self._owner, self._readonly = threading.get_ident(), readonly
            self._working = dict(self._committed)
            try:
                yield
                self._committed = self._working
            finally:
                self._working, self._owner, self._readonly = None, None, False

    @contextmanager
    def _savepoint(self) -> Iterator[None]:
        before = dict(self._tables)
        try:
            yield
        except BaseException:
            self._working = before
            raise

    def empty(self, dataset: str) -> bool:
        return not self._table(dataset).rows

    def fetch(self, dataset: str, keys: pa.Table, columns: Sequence[str], *, lock: bool = False) -> pa.Table:
        table = self._table(dataset)
        names = list(dict.fromkeys([*keys.column_names, *columns]))
        wanted = [self._column(table.schema, name) for name in names]
        index = _index(table.rows, keys.column_names)
        found = {identity: None for key in _keys(keys) for identity in index.get(key, ())}
        return self._call(_arrow, wanted, [table.rows[identity] for identity in found])

    def write(self, dataset: str, rows: pa.Table, key: Sequence[str], action: Action) -> None:
        for name in rows.column_names:
            self._column(self._table(dataset).schema, name)
        change = self._create_rows if action is Action.CREATE else self._update_rows
        self._changing(change, dataset, _rows(rows), tuple(key))

    def refusals(
        self, writes: Sequence[tuple[str, pa.Table, Sequence[str], Action]], units: Sequence[pa.Array]
    ) -> pa.Table | None:
        return None

    def delete(self, dataset: str, keys: pa.Table) -> int:
        return self._changing(self._delete_rows, dataset, keys)

    def orphans(self, dataset: str) -> pa.Table:
        table = self._table(dataset)
        counts = {fk.name: len(self._pointing_nowhere(fk, table.rows.values())) for fk in table.schema.foreign_keys}
        lost = {name: count for name, count in counts.items() if count}
        return pa.table(
            {
                "constraint": pa.array(list(lost), pa.string()),
                "count": pa.array(list(lost.values()), pa.int64()),
            }
        )

    def ask(self, sql: str, *, role: str | None = None, claims: str | None = None) -> list[tuple[Any, ...]]:
        """DuckDB's SQL over a copy of the datasets, so that nothing it does is kept."""
        if role is not None:
            raise ConfigError(f"{self.name}: a memory connection has no roles")
        with duckdb.connect(config={"enable_external_access": False}) as connection:
            for dataset, table in self._tables.items():
                connection.register(dataset, _arrow(table.schema.columns, table.rows.values(), reading=True))
            try:
                rows: list[tuple[Any, ...]] = self._call(connection.execute, sql).fetchall()
            except duckdb.Error as error:
                raise ConfigError(f"{self.name}: {error}") from error
        return rows

    @property
    def _tables(self) -> dict[str, _Table]:
        mine = self._owner == threading.get_ident()
        return self._working if mine and self._working is not None else self._committed

    def _table(self, dataset: str) -> _Table:
        tables = self._tables
        if dataset not in tables:
            raise _unknown(f"{self.name} has no dataset {dataset!r}", dataset, tables)
        return tables[dataset]

    def _column(self, schema: Schema, name: str) -> Column:
        column = schema.column(name)
        if column is None:
            raise _unknown(f"{self.name}.{schema.dataset} has no column {name!r}", name, schema.names)
        return column

    def _identity(self, schema: Schema, row: Row) -> Key:
        return _values(row, schema.key) if schema.key else (next(self._serial),)

    def _changing(self, change: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a change inside the open transaction, or in one of its own."""
        if self._owner != threading.get_ident():
            with self.transaction():
                return self._call(change, *args, **kwargs)
        if self._readonly:
            raise AccessError("the transaction is read-only", connection=self.name)
        return self._call(change, *args, **kwargs)

    def _create_rows(self, dataset: str, rows: Sequence[Row], key: Sequence[str]) -> None:
        table = self._table(dataset)
        taken = set(_index(table.rows, key))
        held, made = dict(table.rows), []
        for given in rows:
            row = {name: given.get(name) for name in table.schema.names}
            identity, values = self._identity(table.schema, row), _values(row, key)
            if values in taken:
                raise self._refused("exists", ", ".join(key))
            if identity in held:
                raise self._refused("unique", ", ".join(table.schema.key))
            taken.add(values)
            held[identity] = row
            made.append(row)
        self._put(table, held, made)

    def _update_rows(self, dataset: str, rows: Sequence[Row], key: Sequence[str]) -> None:
        table = self._table(dataset)
        index = _index(table.rows, key)
        held, changed = dict(table.rows), []
        for given in rows:
            for old in index.get(_values(given, key), ()):
                row = {**held[old], **given}
                identity = self._identity(table.schema, row) if table.schema.key else old
                if identity != old and identity in held:
                    raise self._refused("unique", ", ".join(table.schema.key))
                if identity != old:
                    del held[old]
                held[identity] = row
                changed.append(row)
        self._put(table, held, changed)

    def _delete_rows(self, dataset: str, keys: pa.Table) -> int:
        table = self._table(dataset)
        index = _index(table.rows, keys.column_names)
        gone = {identity for key in _keys(keys) for identity in index.get(key, ())}
        self._put(table, {identity: row for identity, row in table.rows.items() if identity not in gone}, [])
        return len(gone)

    def _put(self, table: _Table, held: Mapping[Key, Row], changed: Sequence[Row]) -> None:
        """Put new rows in place if every constraint that the change can break still holds."""
        schema = table.schema
        for column in schema.columns:
            self._check_column(schema, column, changed)
        for names in schema.unique if changed else ():
            if any(len(same) > 1 for same in _index(held, names).values()):
                raise self._refused("unique", ", ".join(names))
        # Put in place before the foreign keys are looked at, so that rows may point at rows of the same change;
        # a refusal takes the whole transaction back.
        assert self._working is not None
        self._working[schema.dataset] = _Table(schema, held)
        self._check_foreign_keys(table, held, changed)

    def _check_column(self, schema: Schema, column: Column, changed: Sequence[Row]) -> None:
        values = [row[column.name] for row in changed]
        required = not (column.nullable or column.has_default or column.generated)
        if (required or column.name in schema.key) and any(value is None for value in values):
            raise self._refused("null", column.name)
        if column.choices is not None and not {*values, None} <= {*column.choices, None}:
            raise self._refused("check", column.name)

    def _check_foreign_keys(self, before: _Table, held: Mapping[Key, Row], changed: Sequence[Row]) -> None:
        for fk in before.schema.foreign_keys:
            if self._pointing_nowhere(fk, changed):
                raise self._refused("foreign_key", fk.name)
        for table in self._tables.values():
            for fk in table.schema.foreign_keys:
                if fk.target != before.schema.dataset:
                    continue
                gone = set(_index(before.rows, fk.target_columns)) - set(_index(held, fk.target_columns))
                if gone and any(_values(row, fk.columns) in gone for row in table.rows.values()):
                    raise self._refused("foreign_key", fk.name)

    def _pointing_nowhere(self, fk: ForeignKey, rows: Iterable[Row]) -> list[Row]:
        target = self._tables.get(fk.target)
        there = set(_index(target.rows, fk.target_columns)) if target else set()
        pointing = [(row, _values(row, fk.columns)) for row in rows]
        return [row for row, values in pointing if None not in values and values not in there]

    def _refused(self, reason: str, detail: str) -> RejectedError:
        return RejectedError(reason, detail, connection=self.name)


def _values(row: Row, names: Iterable[str]) -> Key:
    return tuple(row[name] for name in names)


def _index(rows: Mapping[Key, Row], names: Sequence[str]) -> dict[Key, list[Key]]:
    """Identities by the values of some columns; as in SQL, a null equals nothing and is left out."""
    index: dict[Key, list[Key]] = {}
    for identity, row in rows.items():
        values = _values(row, names)
        if None not in values:
            index.setdefault(values, []).append(identity)
    return index


def _rows(table: pa.Table) -> list[Row]:
    rows: list[Row] = table.to_pylist()
    return rows


def _keys(table: pa.Table) -> Iterator[Key]:
    return (tuple(row.values()) for row in _rows(table))


def _arrow(columns: Sequence[Column], rows: Iterable[Row], *, reading: bool = False) -> pa.Table:
    held = list(rows)
    arrays = {column.name: pa.array([row[column.name] for row in held], ARROW[column.kind]) for column in columns}
    for column in columns:
        if reading and column.kind is Kind.UUID:
            texts = [value and str(uuid.UUID(bytes=value)) for value in arrays[column.name].to_pylist()]
            arrays[column.name] = pa.array(texts, pa.string())
    return pa.table(arrays)


def _typed(kind: Kind, values: Sequence[Any]) -> pa.Array:
    """Python values as a test or a YAML file writes them, in the kind's Arrow type."""
    if kind is Kind.UUID:
        return pa.array([_uuid(value) for value in values], ARROW[kind])
    if ARROW[kind] == pa.string():
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    if any(isinstance(value, str) for value in values) and kind is not Kind.BINARY:
        return pa.array([None if value is None else str(value) for value in values]).cast(ARROW[kind])
    return pa.array(values, ARROW[kind])


def _uuid(value: Any) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    return (value if isinstance(value, uuid.UUID) else uuid.UUID(value)).bytes


def _unknown(message: str, name: str, known: Iterable[str]) -> ConfigError:
    near = difflib.get_close_matches(name, list(known), n=1)
    return ConfigError(message, hint=f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(known))}")
