"""A SQLite database's file, and what is run on it: pages, queries, staged writes, and why one was refused."""

from __future__ import annotations

import difflib
import functools
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from resettle import private
from resettle.batch import Action, Kind, Schema
from resettle.calls import Translate
from resettle.connectors._sqlite import NUMBER, Rows, bare, cells, in_key_order, kept, quote, storage_of
from resettle.errors import AccessError, ConfigError, ConnectorError, CorruptError, RejectedError

STAGED = "resettle_rows"
UNIT = "resettle_unit"
SIZES = (30_000, 1_000, 1)
"""Parameters in one INSERT of many rows, the most first: SQLite takes 32,766."""


def file_of(name: str, path: Path, *, create: bool) -> Path:
    """The database's file. With ``create`` it need not be there yet: the first who writes makes it, and who only looks
    finds nothing in it. Raises ConfigError where there is none, CorruptError where one of ours has lost what it held.
    """
    path = path.expanduser().absolute()
    try:
        if create and not private.closed(path):
            return path
        if create and not path.stat().st_size:
            hint = "put a copy of it back; remove it only if nothing was ever written through it"
            raise CorruptError(f"{path} is empty: what it held is lost", connection=name, hint=hint)
        if path.is_file():
            return path
        near = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    except PermissionError as error:
        raise AccessError(f"{path}: {error.strerror}", connection=name) from error
    raise unknown(f"{name}: there is no file {path}", path.name, near)


def without_tables() -> bytes:
    """A new database, as a file. An empty file would be one too, but so looks one that was lost."""
    with closing(sqlite3.connect(":memory:")) as base:
        base.execute("PRAGMA user_version = 1")
        return bytes(base.serialize())


def unknown(message: str, name: str, known: Iterable[str]) -> ConfigError:
    near = difflib.get_close_matches(name, list(known), n=1)
    return ConfigError(message, hint=f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}")


def connect(uri: str, mode: str, timeout: float, readonly: bool) -> sqlite3.Connection:
    """A connection in this mode. What a killed process left half written is taken back first, unless ``readonly``."""
    try:
        return _connected(f"{uri}?mode={mode}", timeout)
    except sqlite3.OperationalError as error:
        if readonly or error.sqlite_errorname != "SQLITE_READONLY_ROLLBACK":
            raise
    _connected(f"{uri}?mode=rw", timeout).close()  # only who may write can take it back
    return _connected(f"{uri}?mode={mode}", timeout)


def _connected(uri: str, timeout: float) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)  # a migration's own SQL reaches no other file
    connection.execute("PRAGMA foreign_keys = ON")
    # A large transaction would else lock readers out before it commits, ourselves among them.
    connection.execute("PRAGMA cache_spill = OFF")
    connection.create_function("resettle_kept", 2, kept, deterministic=True)
    connection.execute("SELECT 1 FROM sqlite_master")  # the file is not looked at before
    return connection


@contextmanager
def savepoint(connection: sqlite3.Connection, *, keep: bool = True) -> Iterator[None]:
    """All or nothing; nothing at all unless ``keep``."""
    if keep and not connection.in_transaction:
        # A trigger may RAISE(ROLLBACK): a savepoint would then begin, and its release commit, a new transaction.
        raise ConnectorError("the transaction was rolled back")
    connection.execute("SAVEPOINT resettle")
    try:
        yield
    except BaseException:
        keep = False
        raise
    finally:
        if connection.in_transaction:  # a full disk has rolled back everything already
            if not keep:
                connection.execute("ROLLBACK TO resettle")
            connection.execute("RELEASE resettle")


@contextmanager
def nested(connection: sqlite3.Connection, name: str) -> Iterator[None]:
    """A transaction within one: deferred foreign keys are checked at its end too."""
    with savepoint(connection):
        yield
        if _violated(connection):
            raise RejectedError("foreign_key", connection=name)


def _violated(connection: sqlite3.Connection) -> bool:
    """Whether COMMIT would find a foreign key violated, at no cost that grows with the tables.

    SQLite counts violations, but has no statement that tells. Dropping a table with a deferred foreign key
    deletes its rows first, and leaves that out as long as the count is zero.
    """
    connection.execute("CREATE TEMP TABLE resettle_parent (id INTEGER PRIMARY KEY)")
    connection.execute("CREATE TEMP TABLE resettle_child (id REFERENCES resettle_parent DEFERRABLE INITIALLY DEFERRED)")
    connection.execute("INSERT INTO temp.resettle_child VALUES (NULL)")
    before = connection.total_changes
    connection.execute("DROP TABLE temp.resettle_child")
    connection.execute("DROP TABLE temp.resettle_parent")
    return connection.total_changes > before


def next_page(table: str, names: Sequence[str], order: Sequence[str], after: bool, until: bool) -> str:
    """The statement of a page in the ``order`` of a key: from ``after`` a place, ``until`` another; then a limit."""
    position = f"({', '.join(map(quote, order))})"
    tests = [f"{position} > ({', '.join('?' * len(order))})"] * after + [f"{position} <= (?)"] * until
    return (
        f"SELECT {', '.join(map(quote, (*names, *order)))} FROM {table}"
        f" WHERE {' AND '.join(tests) or '1'} ORDER BY {position[1:-1]} LIMIT ?"
    )


def page(connection: sqlite3.Connection, sql: str, parameters: Sequence[Any]) -> Rows:
    """All rows of a statement; text that is not UTF-8 comes with surrogates, for `decoded` to find."""
    try:
        return connection.execute(sql, parameters).fetchall()
    except sqlite3.OperationalError as error:
        if hasattr(error, "sqlite_errorcode") or "decode" not in str(error):
            raise
    connection.text_factory = functools.partial(str, encoding="utf-8", errors="surrogateescape")
    try:
        return connection.execute(sql, parameters).fetchall()
    finally:
        connection.text_factory = str


def select(connection: sqlite3.Connection, sql: str, parameters: Sequence[Any]) -> tuple[list[str], Rows]:
    cursor = connection.execute(sql, parameters)
    return [column[0] for column in cursor.description], cursor.fetchall()


def declared_types(connection: sqlite3.Connection, sql: str) -> list[str]:
    """The declared types of a statement's columns, where they are a table's; a view is how SQLite tells."""
    view = quote("resettle_query")
    with savepoint(connection, keep=False):
        connection.execute(f"CREATE TEMP VIEW {view} AS {bare(sql)}")
        return [row[0] for row in connection.execute(f"SELECT type FROM pragma_table_xinfo({view})")]


def insert(connection: sqlite3.Connection, target: str, rows: pa.Table) -> None:
    """Insert into a table whose name is quoted already.

    Many rows a statement: for each statement Python gives up its lock and, while another thread is at work, waits
    for it again.
    """
    names, row = ", ".join(map(quote, rows.column_names)), f"({', '.join('?' * rows.num_columns)})"
    columns = [cells(column) for column in rows.columns]
    done = 0
    with savepoint(connection):
        for size in SIZES:
            many = max(size // rows.num_columns, 1)
            until = rows.num_rows - (rows.num_rows - done) % many
            statement = f"INSERT OR ABORT INTO {target} ({names}) VALUES {', '.join([row] * many)}"
            connection.executemany(statement, _flat(columns, done, until, many))
            done = until


def _flat(columns: Sequence[list[Any]], begin: int, end: int, many: int) -> Iterator[list[Any]]:
    """The cells of ``many`` rows at a time, row after row."""
    width = len(columns)
    for start in range(begin, end, many):
        flat: list[Any] = [None] * (many * width)
        for place, column in enumerate(columns):
            flat[place::width] = column[start : start + many]
        yield flat


def fill(connection: sqlite3.Connection, name: str, rows: pa.Table) -> None:
    """Make a temporary table of the rows, in place of one of that name."""
    columns = ", ".join(f"{quote(field.name)} {storage_of(field.type)}" for field in rows.schema)
    connection.execute(f"DROP TABLE IF EXISTS temp.{quote(name)}")
    connection.execute(f"CREATE TEMP TABLE {quote(name)} ({columns})")
    insert(connection, f"temp.{quote(name)}", rows)


@dataclass(frozen=True)
class Change:
    """Staged rows (of one unit, or all) that become rows of a dataset.

    One statement writes them all, so that they may point at each other, whatever their order.
    """

    schema: Schema
    columns: Sequence[str]
    key: Sequence[str]
    action: Action
    staged: str = STAGED
    unit: int | None = None

    def apply(self, connection: sqlite3.Connection) -> None:
        self._refuse_inexact(connection)
        unique = set(self.key) in [set(names) for names in (self.schema.key, *self.schema.unique)]
        if self.action is Action.CREATE and not unique and self._exists(connection):
            raise RejectedError("exists", ", ".join(self.key))
        statement = self._insert() if self.action is Action.CREATE else self._update()
        try:
            if statement:
                connection.execute(statement)
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorname == "SQLITE_CONSTRAINT_FOREIGNKEY":
                raise RejectedError("foreign_key", self._lost(connection)) from error
            if "unique" in str(error).lower() and self.action is Action.CREATE and self._exists(connection):
                raise RejectedError("exists", ", ".join(self.key)) from error
            raise

    @property
    def _target(self) -> str:
        return f"main.{quote(self.schema.dataset)}"

    @property
    def _source(self) -> str:
        where = "" if self.unit is None else f" WHERE {quote(UNIT)} = {self.unit:d}"
        return f"(SELECT * FROM temp.{quote(self.staged)}{where}) AS s"

    def _insert(self) -> str:
        names = ", ".join(map(quote, self.columns))
        # OR ABORT, because a table's own ON CONFLICT clause may say REPLACE.
        return f"INSERT OR ABORT INTO {self._target} ({names}) SELECT {names} FROM {self._source}"

    def _update(self) -> str:
        changed = [quote(name) for name in self.columns if name not in self.key]
        if not changed:
            return ""
        values = ", ".join(f"{name} = s.{name}" for name in changed)
        return f"UPDATE OR ABORT {self._target} AS t SET {values} FROM {self._source} WHERE {self._same()}"

    def _same(self) -> str:
        return " AND ".join(f"t.{quote(name)} = s.{quote(name)}" for name in self.key)

    def _exists(self, connection: sqlite3.Connection) -> bool:
        """Whether a staged key is in the dataset, or staged twice."""
        names = ", ".join(f"s.{quote(name)}" for name in self.key)
        known = " AND ".join(f"s.{quote(name)} IS NOT NULL" for name in self.key)
        there = f"SELECT 1 FROM {self._source} CROSS JOIN {self._target} AS t ON {self._same()}"
        twice = f"SELECT 1 FROM {self._source} WHERE {known} GROUP BY {names} HAVING count(*) > 1"
        return bool(connection.execute(f"SELECT EXISTS ({there}) OR EXISTS ({twice})").fetchone()[0])

    def _lost(self, connection: sqlite3.Connection) -> str:
        """The first foreign key whose target a staged row does not find; SQLite does not say which."""
        for fk in self.schema.foreign_keys:
            if not set(fk.columns) <= set(self.columns):
                continue
            pairs = zip(fk.columns, fk.target_columns, strict=True)
            same = " AND ".join(f"t.{quote(there)} = s.{quote(here)}" for here, there in pairs)
            known = " AND ".join(f"s.{quote(name)} IS NOT NULL" for name in fk.columns)
            found = f"SELECT 1 FROM main.{quote(fk.target)} AS t WHERE {same}"
            sql = f"SELECT EXISTS (SELECT 1 FROM {self._source} WHERE {known} AND NOT EXISTS ({found}))"
            if connection.execute(sql).fetchone()[0]:
                return fk.name
        return ""

    def _refuse_inexact(self, connection: sqlite3.Connection) -> None:
        for name in self.columns:
            column = self.schema.column(name)
            if column is None or column.kind not in (Kind.FLOAT64, Kind.NUMERIC, Kind.OTHER) or not column.native:
                continue
            numeric = int(column.native.upper().startswith(("NUM", "DEC")))
            lost = f"NOT resettle_kept(s.{quote(name)}, {numeric})"
            if column.kind is Kind.FLOAT64:
                lost = f"typeof(s.{quote(name)}) = 'text'"  # a NaN, see `tuples`
            if connection.execute(f"SELECT EXISTS (SELECT 1 FROM {self._source} WHERE {lost})").fetchone()[0]:
                raise RejectedError("inexact", name)


def write(connection: sqlite3.Connection, schema: Schema, rows: pa.Table, key: Sequence[str], action: Action) -> None:
    """Write all rows or none.

    New rows go straight in where they can neither point at each other nor be kept inexactly. What is refused
    there is staged, to find out why.
    """
    if action is Action.CREATE and _unlinked(schema, key) and not _may_be_inexact(schema, rows):
        try:
            insert(connection, f"main.{quote(schema.dataset)}", in_key_order(schema, rows, key))
            return
        except sqlite3.IntegrityError:
            if not connection.in_transaction:  # a trigger rolled everything back
                raise
    with savepoint(connection):
        fill(connection, STAGED, rows)
        Change(schema, rows.column_names, key, action).apply(connection)
        connection.execute(f"DROP TABLE temp.{quote(STAGED)}")


def _unlinked(schema: Schema, key: Sequence[str]) -> bool:
    unique = set(key) in [set(names) for names in (schema.key, *schema.unique)]
    return unique and not any(fk.target == schema.dataset for fk in schema.foreign_keys)


def _may_be_inexact(schema: Schema, rows: pa.Table) -> bool:
    """A look at all cells at once: whether some could be one that `Change` refuses to write."""
    for name in rows.column_names:
        column = schema.column(name)
        if column is None or not column.native:
            continue
        if column.kind is Kind.FLOAT64 and pa.types.is_floating(rows[name].type):
            suspect = pc.is_nan(rows[name])
        elif column.kind in (Kind.FLOAT64, Kind.NUMERIC, Kind.OTHER):
            suspect = pc.match_substring_regex(rows[name].cast(pa.string()), NUMBER)
        else:
            continue
        if pc.any(suspect).as_py():
            return True
    return False


def delete(connection: sqlite3.Connection, schema: Schema, keys: pa.Table) -> int:
    """Delete the rows with these keys; how many there were."""
    names = ", ".join(map(quote, keys.column_names))
    with savepoint(connection):
        fill(connection, STAGED, keys)
        gone = connection.execute(
            f"DELETE FROM main.{quote(schema.dataset)} WHERE ({names}) IN (SELECT {names} FROM temp.{quote(STAGED)})"
        ).rowcount
        connection.execute(f"DROP TABLE temp.{quote(STAGED)}")
    return gone


def refused_units(
    connection: sqlite3.Connection,
    writes: Sequence[tuple[Schema, pa.Table, Sequence[str], Action]],
    units: Sequence[pa.Array],
    translate: Translate,
) -> Mapping[Any, RejectedError]:
    """Try every unit by itself after those that went well, and undo it all.

    What was refused is tried again as long as that helps: it may point at a unit that came later.
    """
    ordinals: dict[Any, int] = {}
    for array in units:
        for unit in array.to_pylist():
            ordinals.setdefault(unit, len(ordinals))
    with savepoint(connection, keep=False):
        changes = _staged(connection, writes, units, ordinals)
        pending: Mapping[Any, RejectedError | None] = dict.fromkeys(ordinals)
        while True:
            refused: dict[Any, RejectedError] = {}
            for unit in pending:
                error = _refusal(connection, changes[ordinals[unit]], translate)
                if error is not None:
                    refused[unit] = error
            if len(refused) == len(pending):
                return refused
            pending = refused


def _staged(
    connection: sqlite3.Connection,
    writes: Sequence[tuple[Schema, pa.Table, Sequence[str], Action]],
    units: Sequence[pa.Array],
    ordinals: Mapping[Any, int],
) -> list[list[Change]]:
    """Stage all writes; the changes of each unit, by its ordinal."""
    changes: list[list[Change]] = [[] for _ in ordinals]
    for number, ((schema, rows, key, action), array) in enumerate(zip(writes, units, strict=True)):
        mine = [ordinals[unit] for unit in array.to_pylist()]
        name = f"{STAGED}_{number}"
        fill(connection, name, rows.append_column(UNIT, pa.array(mine, pa.int64())))
        connection.execute(f"CREATE INDEX temp.{quote(f'{name}_unit')} ON {quote(name)} ({quote(UNIT)})")
        for unit in dict.fromkeys(mine):
            changes[unit].append(Change(schema, rows.column_names, key, action, name, unit))
    return changes


def _refusal(connection: sqlite3.Connection, changes: Sequence[Change], translate: Translate) -> RejectedError | None:
    try:
        with savepoint(connection):
            for change in changes:
                change.apply(connection)
    except RejectedError as error:
        return error
    except sqlite3.Error as error:
        known = translate(error)
        if isinstance(known, RejectedError):
            return known
        raise
    return None
