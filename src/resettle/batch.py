"""The nouns that travel: a dataset's schema, a batch of its rows, and the words for what became of them.

Rows travel as Arrow tables. Columns whose name starts with `_` are ours:
`_record` an undecoded record, `_trouble` why a record could not be decoded, `_unit` the unit's key,
`_n` a row's ordinal within its unit and output, `_key` the target key as text, `_fp` its fingerprint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import pyarrow as pa

MOST_BYTES = 16 << 20
"""Of records that go through the engine together, about: it takes some twenty times as much memory. Small records are
bounded by their number before that; a record may also be larger than this, alone."""

RECORD = "_record"
TROUBLE = "_trouble"


class Kind(StrEnum):
    """What a column holds, independent of technology. OTHER travels as text and is cast by the target."""

    BOOLEAN = "boolean"
    INT16 = "int16"
    INT32 = "int32"
    INT64 = "int64"
    FLOAT32 = "float32"
    FLOAT64 = "float64"
    NUMERIC = "numeric"
    TEXT = "text"
    UUID = "uuid"
    INSTANT = "instant"
    DATETIME = "datetime"
    DATE = "date"
    TIME = "time"
    JSON = "json"
    BINARY = "binary"
    OTHER = "other"


ARROW: Mapping[Kind, pa.DataType] = {
    Kind.BOOLEAN: pa.bool_(),
    Kind.INT16: pa.int16(),
    Kind.INT32: pa.int32(),
    Kind.INT64: pa.int64(),
    Kind.FLOAT32: pa.float32(),
    Kind.FLOAT64: pa.float64(),
    Kind.NUMERIC: pa.string(),
    Kind.TEXT: pa.string(),
    Kind.UUID: pa.binary(16),
    Kind.INSTANT: pa.timestamp("us", tz="UTC"),
    Kind.DATETIME: pa.timestamp("us"),
    Kind.DATE: pa.date32(),
    Kind.TIME: pa.time64("us"),
    Kind.JSON: pa.string(),
    Kind.BINARY: pa.binary(),
    Kind.OTHER: pa.string(),
}
"""How each kind travels in a batch that is written or fetched: numbers of any size and JSON as text."""


class Action(StrEnum):
    """Plan's word for a row."""

    CREATE = "create"
    UPDATE = "update"
    UNCHANGED = "unchanged"
    REUSE = "reuse"
    PATCH = "patch"
    COPY = "copy"
    CONFLICT = "conflict"


class Status(StrEnum):
    """A unit's word. held needs a person; skipped is out of scope by a rule; failed is tried again."""

    DONE = "done"
    UNCHANGED = "unchanged"
    PARTIAL = "partial"
    SKIPPED = "skipped"
    HELD = "held"
    FAILED = "failed"


@dataclass(frozen=True)
class Column:
    """A column as its owner declares it; ``native`` is the technology's own name for the type."""

    name: str
    kind: Kind
    native: str = ""
    nullable: bool = True
    has_default: bool = False
    generated: bool = False
    length: int | None = None
    precision: int | None = None
    """Digits of a number in all; of an instant or a time, those of a second's fraction."""
    scale: int | None = None
    """Digits of a number's fraction; the zeros at its end where it is negative."""
    choices: tuple[str, ...] | None = None


@dataclass(frozen=True)
class ForeignKey:
    """``columns`` of a dataset point at ``target_columns`` of ``target``."""

    name: str
    columns: tuple[str, ...]
    target: str
    target_columns: tuple[str, ...]


@dataclass(frozen=True)
class Schema:
    """A dataset as it is. ``open`` schemas (no catalogue) list what a sample held, nothing more."""

    dataset: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    unique: tuple[tuple[str, ...], ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    checks: Mapping[str, str] = field(default_factory=dict)
    triggers: tuple[str, ...] = ()
    row_security: bool = False
    privileges: frozenset[str] = frozenset({"select", "insert", "update"})
    open: bool = False

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


def set_column(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """The table with other values in a column that it has."""
    return table.set_column(table.column_names.index(name), name, values)


Decode = Callable[[pa.Table, Sequence[str]], pa.Table]


def _select(table: pa.Table, names: Sequence[str]) -> pa.Table:
    held = set(table.column_names)
    nulls = pa.nulls(table.num_rows, pa.string())
    keep = [*names, TROUBLE] if TROUBLE in held else list(names)
    return pa.table({name: table[name] if name in held else nulls for name in keep})


@dataclass(frozen=True)
class Batch:
    """Rows of one dataset as read.

    ``table`` holds either the decoded columns, or a single `_record` column (UTF-8 text) when decoding is
    deferred so that unchanged records are never decoded. ``decode(table, names)`` turns such a table (or any
    subset of its rows, same order) into exactly the named columns, all-null where a record has none, plus
    `_trouble` (text, null when fine) if any record could not be decoded.
    """

    dataset: str
    table: pa.Table
    decode: Decode = _select

    def __len__(self) -> int:
        return int(self.table.num_rows)


@dataclass(frozen=True)
class Partition:
    """A part of a dataset that can be read on its own; ``detail`` is the connector's business."""

    dataset: str
    name: str
    detail: Mapping[str, Any] = field(default_factory=dict)
