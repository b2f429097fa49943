"""SQLite database files, a D1 export among them: source, target and a home for the ledger."""

from __future__ import annotations

import difflib
import functools
import itertools
import re
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from resettle.batch import ARROW, TROUBLE, Action, Batch, Column, ForeignKey, Kind, Partition, Schema
from resettle.calls import Caller
from resettle.connector import Sql
from resettle.errors import (
    AccessError,
    ConfigError,
    ConnectorError,
    CorruptError,
    RejectedError,
    TransientError,
)

Rows = list[tuple[Any, ...]]
Write = tuple[str, pa.Table, Sequence[str], Action]

STAGED = "resettle_rows"
UNIT = "resettle_unit"
MOST_PARAMETERS = 32_000  # of one statement; SQLite's own default limit is 32,766


class SQLiteSettings(BaseModel):
    """Settings of a connection of type `sqlite`. ``create`` makes a missing file, as a ledger wants."""

    model_config = ConfigDict(extra="forbid")

    path: Path
    readonly: bool = False
    create: bool = False
    busy_timeout: float = Field(default=30, ge=0, description="seconds to wait for another writer's lock")


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
"""By primary result code; see https://sqlite.org/rescode.html."""

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


def errors(error: BaseException) -> ConnectorError | None:
    """What a sqlite3 error means; None for a mistake in the statement, which is raised as it is."""
    if not isinstance(error, sqlite3.Error) or not hasattr(error, "sqlite_errorcode"):
        return None
    if error.sqlite_errorname in REFUSALS:
        # "UNIQUE constraint failed: people.id": SQLite names columns and constraints here, never values.
        return RejectedError(REFUSALS[error.sqlite_errorname], str(error).partition(": ")[2])
    known = ERRORS.get(error.sqlite_errorcode & 0xFF)
    return known(str(error)) if known else None


class SQLite:
    """Source, Target and Sql over one database file.

    SQLite lets a value disobey its column's declared type, so a source column is always read as text (reals in
    their shortest exact form), or as binary where it is declared BLOB; a record whose text is not UTF-8 gets
    `_trouble`. `fetch` gives the declared types and raises RejectedError("nonconforming") where a value has
    another. `write` refuses ("inexact") a number that the column's affinity would not keep to the last digit.

    Reading takes one short statement a batch, in order of rowid, on connections of its own that are opened
    read-only: no lock outlives a batch, so a source may be the very file that is written. One connection writes.
    """

    transactional = True
    dialect = "sqlite"

    def __init__(self, name: str, settings: SQLiteSettings, *, caller: Caller | None = None) -> None:
        self.name = name
        self._settings = settings
        self._path = _existing(name, settings)
        self._call = caller or Caller(errors)
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._writer: sqlite3.Connection | None = None
        self._writing = threading.Lock()

    def datasets(self) -> Sequence[str]:
        rows = self.execute(
            "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'virtual')"
            " AND name NOT LIKE 'sqlite\\_%%' ESCAPE '\\' ORDER BY name".replace("%%", "%")
        )
        return [name for (name,) in rows]

    def schema(self, dataset: str) -> Schema:
        known = self.datasets()
        if dataset not in known:
            raise _unknown(f"{self.name} has no dataset {dataset!r}", dataset, known)
        info = self._pragma("table_xinfo", dataset, "name, type, \"notnull\", dflt_value, pk, hidden")
        sql = self.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = %s", [dataset])[0][0]
        triggers = self.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = %s ORDER BY name", [dataset]
        )
        key = tuple(row[0] for row in sorted(info, key=lambda row: row[4]) if row[4])
        return Schema(
            dataset,
            tuple(_column(row, alone=len(key) == 1) for row in info if row[5] != 1),
            key,
            tuple(self._unique(dataset)),
            tuple(self._foreign_keys(dataset)),
            _checks(sql or ""),
            tuple(name for (name,) in triggers),
            privileges=frozenset({"select"} if self._settings.readonly else {"select", "insert", "update"}),
        )
