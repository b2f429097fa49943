"""What a target's owners see and do, whatever its technology: rows, edits, inserts, deletes; and our memory of it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from psycopg.types.json import Jsonb

from resettle.batch import Action, Kind
from resettle.connectors.memory import Memory
from resettle.errors import RejectedError
from tests.contract.cases import arrow
from tests.engine.conftest import Project
from tests.trust.worlds import Table, World

Row = dict[str, Any]
Rows = dict[tuple[str, str], Row]
"""Every row of a target: (table, key as the ledger writes it) -> column -> value."""


class Remembered(NamedTuple):
    """What the ledger knows of one row."""

    flow: str
    unit: str
    output: str
    n: int
    table: str
    key: str
    fingerprint: Any
    reused: bool


def key_text(values: list[Any]) -> str:
    parts = [str(value) for value in values]
    return parts[0] if len(parts) == 1 else "/".join(part.replace("%", "%25").replace("/", "%2F") for part in parts)


class Owners:
    """The people whose target it is: ``world``'s tables in a project's SQLite file, Postgres database or memory."""

    def __init__(self, project: Project, world: World) -> None:
        self.p, self.world = project, world
        self.tables: Mapping[str, Table] = {table.name: table for table in world.tables}

    # -- the tables -----------------------------------------------------------------------------------

    def make_tables(self) -> None:
        if self.p.kind == "memory":
            self.p.memory = Memory("app")
            for table in self.world.tables:
                self.p.memory.create(table.name, table.schema(self.tables))
        else:
            self.p.sql(*(table.ddl(self.p.kind) for table in self.world.tables))

    def rows(self) -> Rows:
        found: Rows = {}
        for table in self.tables.values():
            names = [one.name for one in table.fields]
            for row in self._read(table, names):
                found[table.name, key_text([row[name] for name in table.key])] = row
        return found

    def _read(self, table: Table, names: list[str]) -> Iterator[Row]:
        if self.p.kind == "memory":
            assert self.p.memory is not None
            for part in self.p.memory.partitions(table.name, 1):
                for batch in self.p.memory.read(part, 1000):
                    yield from batch.table.select(names).to_pylist()
            return
        for row in self.p.sql(f"SELECT {', '.join(names)} FROM {table.name}"):
            yield dict(zip(names, row, strict=True))

    def insert(self, table: Table, row: Row) -> bool:
        """Whether the target took it."""
        if self.p.kind == "memory":
            return self._write(table, row, Action.CREATE)
        marks = ", ".join(["%s"] * len(row))
        return self._try(f"INSERT INTO {table.name} ({', '.join(row)}) VALUES ({marks})", table, row)

    def edit(self, table: Table, key: Row, column: str, value: Any) -> bool:
        if self.p.kind == "memory":
            return self._write(table, {**key, column: value}, Action.UPDATE)
        where = " AND ".join(f"{name} = %s" for name in key)
        return self._try(f"UPDATE {table.name} SET {column} = %s WHERE {where}", table, {column: value}, key)

    def delete(self, table: Table, key: Row) -> bool:
        if self.p.kind == "memory":
            assert self.p.memory is not None
            try:
                with self.p.memory.transaction():
                    self.p.memory.delete(table.name, arrow(table.schema(self.tables), [key]))
            except RejectedError:
                return False
            return True
        where = " AND ".join(f"{name} = %s" for name in key)
        return self._try(f"DELETE FROM {table.name} WHERE {where}", table, {}, key)

    def _write(self, table: Table, row: Row, action: Action) -> bool:
        memory = self.p.memory
        assert memory is not None
        try:
            with memory.transaction():
                memory.write(table.name, arrow(table.schema(self.tables), [row]), list(table.key), action)
        except RejectedError:
            return False
        return True

    def _try(self, statement: str, table: Table, values: Row, key: Row | None = None) -> bool:
        kinds = {one.name: one.kind for one in table.fields}
        given = [self._value(kinds[name], value) for name, value in values.items()]
        given += [self._value(kinds[name], value) for name, value in (key or {}).items()]
        if self.p.kind == "postgres":
            try:
                with psycopg.connect(self.p.url) as connection:
                    connection.execute(statement, given)
            except psycopg.errors.IntegrityError:
                return False
            return True
        with closing(sqlite3.connect(self.p.root / "target.sqlite")) as base:
            base.execute("PRAGMA foreign_keys = ON")
            try:
                with base:
                    base.execute(statement.replace("%s", "?"), given)
            except sqlite3.IntegrityError:
                return False
        return True

    def _value(self, kind: Kind, value: Any) -> Any:
        if kind is not Kind.JSON or value is None:
            return value
        return Jsonb(value) if self.p.kind == "postgres" else value if isinstance(value, str) else json.dumps(value)

    # -- the ledger -----------------------------------------------------------------------------------

    def ledger(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the ledger; `{p}` is its prefix. Nothing where there is none yet."""
        prefix = "resettle." if self.p.kind == "postgres" else "resettle_"
        if self.p.kind == "memory":
            path = self.p.root / ".resettle" / "ledger.sqlite"
            if not path.exists():
                return []
            with closing(sqlite3.connect(path)) as base:
                return base.execute(query.format(p=prefix)).fetchall() if _has(base) else []
        if self.p.kind == "sqlite":
            with closing(sqlite3.connect(self.p.root / "target.sqlite")) as base:
                return base.execute(query.format(p=prefix)).fetchall() if _has(base) else []
        there = self.p.sql("SELECT to_regclass('resettle.runs') IS NOT NULL")[0][0]
        return self.p.sql(query.format(p=prefix)) if there else []

    def remembered(self) -> dict[tuple[str, str, str, int], Remembered]:
        """By flow, unit, output and ordinal."""
        migration = self.p.load()
        found = self.ledger(
            "SELECT f.name, f.outputs, r.unit, r.output, r.n, coalesce(r.target_key, r.unit), r.fingerprint, r.reused"
            " FROM {p}rows r JOIN {p}flows f ON f.flow = r.flow"
        )
        known = {}
        for flow, outputs, unit, output, n, key, fingerprint, reused in found:
            name = json.loads(outputs)[output]
            into = migration.file.flows[flow].all_outputs[name].into.partition(".")[2]
            known[flow, unit, name, n] = Remembered(flow, unit, name, n, into, key, fingerprint, bool(reused))
        return known

    def unit_rows(self) -> list[tuple[Any, ...]]:
        """What the ledger says of units, less the runs."""
        query = (
            "SELECT f.name, u.unit, u.status, u.reason, u.detail, u.warnings, u.raw"
            " FROM {p}units u JOIN {p}flows f ON f.flow = u.flow"
        )
        return sorted(self.ledger(query), key=repr)

    def whole(self) -> dict[str, Any]:
        """Everything that is there: each file under the folder, the rows, the ledger."""
        found: dict[str, Any] = {
            str(path): path.read_bytes()
            for path in sorted(Path(self.p.root).rglob("*"))
            if path.is_file() and path.stat().st_size
        }
        if self.p.kind != "sqlite":
            found["rows"] = self.rows()
        if self.p.kind == "postgres":
            found["ledger"] = {
                table: sorted(self.ledger(f"SELECT * FROM {{p}}{table}"), key=repr)
                for table in ("runs", "flows", "shapes", "rows", "units", "before_images", "locks")
            }
        return found


def _has(base: sqlite3.Connection) -> bool:
    found = base.execute("SELECT count(*) FROM sqlite_master WHERE name = 'resettle_runs'").fetchone()
    return bool(found[0])
