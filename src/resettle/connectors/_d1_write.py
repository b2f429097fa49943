"""Writing into D1: the statements of one commit, what makes it fail as a whole, and why it did."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import Action, Kind, Schema
from resettle.connectors._d1_http import LARGEST_REQUEST, Answer, Statement, body_of
from resettle.connectors._d1_read import fetch
from resettle.connectors._d1_sql import Staged
from resettle.connectors._d1_values import Chunk, chunks
from resettle.connectors._sqlite import in_key_order, kept, quote
from resettle.errors import RejectedError, TransientError

ALARM = re.compile(r"resettle_alarm_(\d+)")


@dataclass(frozen=True)
class Write:
    """The arguments of one `write`."""

    schema: Schema
    rows: pa.Table
    key: Sequence[str]
    action: Action

    @property
    def unique_key(self) -> bool:
        return set(self.key) in [set(names) for names in (self.schema.key, *self.schema.unique)]


@dataclass
class Pending:
    """A transaction: nothing of it has reached D1 yet, which has no transactions but a batch of statements."""

    readonly: bool
    staged: Staged = field(default_factory=Staged)
    statements: list[Statement] = field(default_factory=list)
    alarms: list[Exception] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    looked: list[tuple[Schema, Sequence[str], pa.Table]] = field(default_factory=list)
    largest: int = 0
    """Rows of the largest table written."""
    answers: list[Answer] = field(default_factory=list)
    """One for each statement, once it is committed."""

    def alarm(self, condition: str, parameters: tuple[str, ...], error: Exception) -> None:
        """Make the whole batch fail, with ``error``, if the condition holds when its turn comes."""
        name = f"resettle_alarm_{len(self.alarms)}"
        self.alarms.append(error)
        # A path that is none is the only error that SQLite raises in words of ours outside of a trigger.
        sql = f"SELECT CASE WHEN {condition} THEN json_extract('[]', '{name}') END"
        self.statements.append(Statement(sql, parameters))

    def insert(self, target: str, rows: pa.Table) -> None:
        """Into a table whose name is quoted already."""
        self.largest = max(self.largest, rows.num_rows)
        self._insert(target, rows.column_names, chunks(rows))

    def _insert(self, target: str, columns: Sequence[str], pieces: Iterable[Chunk]) -> None:
        names = ", ".join(map(quote, columns))
        for chunk in pieces:
            # OR ABORT, because a table's own ON CONFLICT clause may say REPLACE.
            sql = f"INSERT OR ABORT INTO {target} ({names}) {chunk.select}"
            self.statements.append(Statement(sql, chunk.parameters))

    def write(self, write: Write) -> None:
        if not write.rows.num_rows:
            return
        refuse_inexact(write.schema, write.rows)
        if write.action is Action.CREATE:
            write = replace(write, rows=in_key_order(write.schema, write.rows, write.key))
        schema, rows = write.schema, write.rows
        self.writes.append(write)
        self.largest = max(self.largest, rows.num_rows)
        target, pieces = f"main.{quote(schema.dataset)}", list(chunks(rows))
        if len(pieces) > 1 and any(fk.target == schema.dataset for fk in schema.foreign_keys):
            self.statements.append(Statement("PRAGMA defer_foreign_keys = on"))  # rows may point at later ones
        if write.action is Action.UPDATE:
            self._update(write, target, pieces)
            return
        if not write.unique_key:
            self._refuse_present(write, target, pieces)
        self._insert(target, rows.column_names, pieces)

    def _update(self, write: Write, target: str, pieces: Sequence[Chunk]) -> None:
        changed = [quote(name) for name in write.rows.column_names if name not in write.key]
        if not changed:
            return
        self._refuse_changed(write.schema, write.rows)
        values = ", ".join(f"{name} = s.{name}" for name in changed)
        for chunk in pieces:
            sql = (
                f"WITH s AS MATERIALIZED ({chunk.select}) UPDATE OR ABORT {target} AS t SET {values}"
                f" FROM s WHERE {_same(write.key)}"
            )
            self.statements.append(Statement(sql, chunk.parameters))

    def _refuse_present(self, write: Write, target: str, pieces: Sequence[Chunk]) -> None:
        """No index does it for this key."""
        error = RejectedError("exists", ", ".join(write.key))
        if doubled(write):
            raise error
        for chunk in pieces:
            there = f"EXISTS (SELECT 1 FROM ({chunk.select}) AS s CROSS JOIN {target} AS t ON {_same(write.key)})"
            self.alarm(there, chunk.parameters, error)

    def _refuse_changed(self, schema: Schema, rows: pa.Table) -> None:
        """What was looked at under a lock, which D1 has not, must still be so when it is overwritten or deleted."""
        for there, key, found in self.looked:
            if there.dataset != schema.dataset or not set(key) <= set(rows.column_names):
                continue
            wanted = rows.select(list(key)).group_by(list(key)).aggregate([])
            seen = found.join(wanted, list(key), join_type="left semi")
            tests = " AND ".join(_still(there, name) for name in found.column_names)
            source = f"main.{quote(schema.dataset)} AS t ON {tests}"
            error = TransientError("somebody else changed a row that was to be written; it is looked at again")
            for chunk in chunks(seen) if seen.num_rows else ():
                same = f"SELECT count(*) FROM ({chunk.select}) AS s CROSS JOIN {source}"
                self.alarm(f"({same}) <> {chunk.rows}", chunk.parameters, error)

    def delete(self, schema: Schema, keys: pa.Table) -> None:
        self._refuse_changed(schema, keys)
        names = ", ".join(map(quote, keys.column_names))
        for chunk in chunks(keys):
            sql = f"DELETE FROM main.{quote(schema.dataset)} WHERE ({names}) IN ({chunk.select})"
            self.statements.append(Statement(sql, chunk.parameters))

    def request(self) -> bytes:
        """The batch. Raises RejectedError("too_large") where it is more than one request should hold."""
        body = body_of(self.statements)
        if len(body) > LARGEST_REQUEST:
            fits = max(1, int(self.largest * LARGEST_REQUEST / len(body) * 0.9))
            detail = f"one commit is one request of at most {LARGEST_REQUEST:,} bytes, this one has {len(body):,}"
            raise RejectedError("too_large", f"{detail}; --batch-size {fits} would fit" if self.largest > 1 else detail)
        return body


def _same(key: Sequence[str]) -> str:
    return " AND ".join(f"t.{quote(name)} = s.{quote(name)}" for name in key)


def _still(schema: Schema, name: str) -> str:
    """Whether a cell is as it was. A decimal that SQLite made a real is not compared: its text may differ."""
    column = schema.column(name)
    same = f"t.{quote(name)} IS s.{quote(name)}"
    loose = column is not None and column.kind in (Kind.NUMERIC, Kind.OTHER)
    return f"({same} OR typeof(t.{quote(name)}) = 'real')" if loose else same


def refuse_inexact(schema: Schema, rows: pa.Table) -> None:
    """Refuse what a column would not keep to the last digit, as SQLite's affinities have it."""
    for name in rows.column_names:
        column = schema.column(name)
        if column is None or not column.native or column.kind not in (Kind.NUMERIC, Kind.OTHER):
            continue
        numeric = column.native.upper().startswith(("NUM", "DEC"))
        texts = rows[name].cast(pa.string())
        digits = texts.filter(pc.match_substring_regex(texts, r"^\s*[-+.]?[0-9.]"))
        if not all(kept(text, numeric) for text in digits.to_pylist()):
            raise RejectedError("inexact", name)


def doubled(write: Write) -> bool:
    """Whether a key that is known comes twice."""
    known = write.rows.select(list(write.key)).drop_null()
    return bool(known.group_by(list(write.key)).aggregate([]).num_rows < known.num_rows)


def explained(error: RejectedError, writes: Sequence[Write], ask: Callable[[Statement], Answer]) -> RejectedError:
    """A refusal in more detail: whose key exists, which foreign key finds nothing. SQLite does not tell."""
    if error.reason == "unique":
        for write in writes:
            if write.action is Action.CREATE and (doubled(write) or _present(write, ask)):
                return RejectedError("exists", ", ".join(write.key), connection=error.connection)
    if error.reason == "foreign_key":
        for name in _lost(writes, ask):
            return RejectedError("foreign_key", name, connection=error.connection)
    return error


def _present(write: Write, ask: Callable[[Statement], Answer]) -> bool:
    keys = write.rows.select(list(write.key)).drop_null()
    return bool(fetch(ask, write.schema.dataset, keys, list(write.key)))


def _lost(writes: Sequence[Write], ask: Callable[[Statement], Answer]) -> Iterator[str]:
    """The foreign keys whose target neither stands in D1 nor is written by the same commit."""
    for write in writes:
        for fk in write.schema.foreign_keys:
            if not set(fk.columns) <= set(write.rows.column_names):
                continue
            wanted = write.rows.select(list(fk.columns)).rename_columns(list(fk.target_columns)).drop_null()
            wanted = wanted.group_by(list(fk.target_columns)).aggregate([])
            found = {tuple(map(str, row)) for row in fetch(ask, fk.target, wanted, list(fk.target_columns))}
            for other in writes:
                if other.schema.dataset == fk.target and set(fk.target_columns) <= set(other.rows.column_names):
                    found |= {tuple(map(str, row)) for row in _tuples(other.rows.select(list(fk.target_columns)))}
            if any(tuple(map(str, row)) not in found for row in _tuples(wanted)):
                yield fk.name


def _tuples(rows: pa.Table) -> Iterator[tuple[object, ...]]:
    return zip(*(column.to_pylist() for column in rows.columns), strict=True)


def alarm_of(pending: Pending, text: str) -> Exception | None:
    """The error of the alarm that the service's words speak of."""
    found = ALARM.search(text)
    return pending.alarms[int(found[1])] if found else None
