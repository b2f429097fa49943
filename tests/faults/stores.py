"""Databases as services: the same job in D1, in a SQLite file and in a Postgres behind a wire that may be cut."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import psycopg
import pyarrow as pa

from resettle.batch import Action
from resettle.calls import Caller
from resettle.connector import Target
from resettle.connectors.d1 import D1, D1Settings
from resettle.connectors.postgres import Postgres, PostgresSettings
from resettle.connectors.sqlite import SQLite, SQLiteSettings
from resettle.errors import LedgerError
from resettle.sandbox.d1 import CUT, LOST, OVERLOADED, RESET, TOO_MANY, Fault, LocalD1
from tests.faults.schedule import Schedule
from tests.faults.services import PLANTED, Service
from tests.faults.wire import CONNECT, Wire

SCRIPT = """
CREATE TABLE old (id TEXT PRIMARY KEY, name TEXT);
CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT NOT NULL, age INTEGER);
CREATE TABLE notes (step INTEGER PRIMARY KEY, wrote INTEGER);
CREATE TABLE locks (owner INTEGER PRIMARY KEY, beats INTEGER NOT NULL);
CREATE TABLE journal (what TEXT);
INSERT INTO locks VALUES (1, 0);
"""
TRIGGERS = """
CREATE TRIGGER made AFTER INSERT ON people BEGIN INSERT INTO journal VALUES ('made ' || NEW.id); END;
CREATE TRIGGER changed AFTER UPDATE ON people BEGIN INSERT INTO journal VALUES ('changed ' || NEW.id); END;
CREATE TRIGGER gone AFTER DELETE ON people BEGIN INSERT INTO journal VALUES ('gone ' || OLD.id); END;
"""
CLEAR = ("DELETE FROM people", "DELETE FROM notes", "UPDATE locks SET beats = 0",
         f"INSERT INTO people VALUES ('p1', '{PLANTED}', 1), ('p2', '{PLANTED}', 2), ('p3', '{PLANTED}', 3)",
         "DELETE FROM journal")  # fmt: skip
OLD = [(f"o{number}", f"{PLANTED} {number}") for number in range(7)]


def people(**ages: int) -> pa.Table:
    names = pa.array([f"{PLANTED} {name}" for name in ages], pa.string())
    return pa.table({"id": pa.array(list(ages)), "name": names, "age": pa.array(ages.values(), pa.int64())})


def read_and_write(target: Target) -> None:
    """Read a table; then create, update and delete rows in one transaction with a note that it is done.

    As apply does it: tried again where the service says so, but not before a look whether it was done after all.
    """
    pages = [batch for part in target.partitions("old", 2) for batch in target.read(part, 3)]
    found = [tuple(row.values()) for batch in pages for row in batch.decode(batch.table, ["id", "name"]).to_pylist()]
    assert sorted(found) == OLD
    store = target.sql()
    assert store

    def once() -> None:
        if store.query("SELECT step FROM notes WHERE step = 1").num_rows:
            return
        with target.transaction():
            there = target.fetch("people", pa.table({"id": ["p1", "p2", "p9"]}), ["age"], lock=True)
            assert sorted(there["age"].to_pylist()) == [1, 2]
            target.write("people", people(p7=7, p8=8, p9=9), ["id"], Action.CREATE)
            target.write("people", people(p1=11, p2=12), ["id"], Action.UPDATE)
            assert target.delete("people", pa.table({"id": ["p3"]})) == 1
            store.insert("notes", pa.table({"step": pa.array([1], pa.int64()), "wrote": pa.array([6], pa.int64())}))
            error = LedgerError("the lock is gone")
            store.demand("UPDATE locks SET beats = beats + 1 WHERE owner = %s RETURNING owner", [1], error)

    Caller(lambda error: None, attempts=6)(once)


def assert_right(ask: Any) -> None:
    """Every effect happened once; ``ask`` gives the rows of a statement."""
    told = {f"p{n}": (f"{PLANTED} p{n}", age) for n, age in ((1, 11), (2, 12), (7, 7), (8, 8), (9, 9))}
    assert {one: (name, age) for one, name, age in ask("SELECT id, name, age FROM people")} == told
    effects = ["changed p1", "changed p2", "gone p3", "made p7", "made p8", "made p9"]
    assert sorted(what for (what,) in ask("SELECT what FROM journal")) == effects
    assert [*ask("SELECT step, wrote FROM notes"), *ask("SELECT owner, beats FROM locks")] == [(1, 6), (1, 1)]


def fill(path: Path) -> Path:
    with closing(sqlite3.connect(path)) as base, base:
        base.executescript(SCRIPT + TRIGGERS)
        base.executemany("INSERT INTO old VALUES (?, ?)", OLD)
    return path


class InD1(Service):
    """Its faults are those of the stand-in; every answer may be lost, also that of a commit."""

    name = "d1"
    often = ("throttled", "busy", "reset", "failed", "late", "unsent", "lost", "cut", "short", "page")
    ends = ("denied", "gone")
    _faults: ClassVar = {
        "throttled": TOO_MANY,
        "busy": OVERLOADED,
        "reset": RESET,
        "failed": Fault(503, ""),
        "late": Fault(504, "", after=True),
        "unsent": CUT,
        "lost": LOST,
        "cut": Fault(after=True, part="cut"),
        "short": Fault(after=True, part="short"),
        "page": Fault(after=True, part="page"),
        "denied": Fault(401, "Authentication error"),
        "gone": Fault(404, "The database was not found"),
    }

    def __init__(self, local: LocalD1) -> None:
        self._local = local

    def reset(self) -> None:
        self._local.sql(*CLEAR)

    def disturb(self, day: Schedule | None) -> None:
        self.spoil(self._local, day)

    @classmethod
    def spoil(cls, local: LocalD1, day: Schedule | None) -> None:
        """From now on things go wrong with this stand-in as the schedule has it."""

        def fault(statements: Any) -> Fault | None:
            asked = "; ".join(statements)
            kind = day(asked) if day else None
            if kind is None or day is None:
                return None
            found = cls._faults[kind]
            wait = day.waits(asked) if kind == "throttled" else None
            return found if wait is None else Fault(found.status, found.message, {"Retry-After": str(wait)})

        local.faults = fault

    def job(self) -> None:
        with closing(D1(self.name, D1Settings(**self._local.settings()))) as target:
            read_and_write(target)

    def check(self) -> None:
        assert_right(self._local.sql)


IN_POSTGRES = """
CREATE FUNCTION journal() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO journal VALUES (CASE TG_OP WHEN 'INSERT' THEN 'made ' WHEN 'UPDATE' THEN 'changed ' ELSE 'gone ' END
    || coalesce(NEW.id, OLD.id));
  RETURN coalesce(NEW, OLD);
END $$;
CREATE TRIGGER journal AFTER INSERT OR UPDATE OR DELETE ON people FOR EACH ROW EXECUTE FUNCTION journal();
"""


class InPostgres(Service):
    """Behind a wire that is cut, and a server that is full, starts, or goes down."""

    name = "postgres"
    often = ("unsent", "lost", "cut", "killed", "full", "starting")
    ends = ("denied",)
    milder = 0.15

    def __init__(self, url: str, wire: Wire) -> None:
        self._base, self._wire = psycopg.connect(url, autocommit=True), wire
        self._url = wire.url(url.rpartition("/")[2])
        self._base.execute(SCRIPT + IN_POSTGRES)
        self._base.cursor().executemany("INSERT INTO old VALUES (%s, %s)", OLD)

    def reset(self) -> None:
        self._base.execute("; ".join(CLEAR))

    def disturb(self, day: Schedule | None) -> None:
        self.spoil(self._wire, day)

    @classmethod
    def spoil(cls, local: Wire, day: Schedule | None) -> None:
        """From now on things go wrong with this stand-in as the schedule has it."""

        def fault(asked: str) -> str | None:
            kind = day(asked) if day else None
            if kind in ("full", "starting", "denied") and asked != CONNECT:
                return "killed"
            return kind

        local.schedule = fault

    def job(self) -> None:
        with closing(Postgres(self.name, PostgresSettings(url=self._url))) as target:
            read_and_write(target)

    def check(self) -> None:
        assert_right(lambda statement: self._base.execute(statement).fetchall())

    def close(self) -> None:
        self._base.close()

    def terminate(self) -> None:
        """End all other sessions, as a restart does."""
        self._base.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )

    def limit(self, connections: int) -> None:
        """From now on the job comes as one who may have so many connections; -1: as before."""
        user = "faults_limited"
        if connections == -1:
            self._url = self._free
            return
        self._base.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{user}' CONNECTION LIMIT {connections}")
        self._base.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {user}")
        self._free, self._url = self._url, re.sub("//[^@]*@", f"//{user}:{user}@", self._url)

    def crowd(self) -> psycopg.Connection[Any]:
        """A connection of somebody else's."""
        return psycopg.connect(self._url)

    @contextmanager
    def full_at(self, nth: int) -> Iterator[Callable[[str], Any]]:
        """The n-th effect of a job meets a full disk, whichever session it is in; gives how to look meanwhile."""
        self._base.execute(
            f"""CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
              IF (SELECT count(*) FROM journal) >= {nth} - 1 THEN RAISE 'full' USING ERRCODE = '53100'; END IF;
              RETURN NEW; END $$"""
        )
        self._base.execute(
            "CREATE TRIGGER full_disk BEFORE INSERT ON journal FOR EACH ROW EXECUTE FUNCTION full_disk()"
        )
        yield lambda statement: self._base.execute(statement).fetchall()
        self._base.execute("DROP FUNCTION full_disk CASCADE")


class Moody(sqlite3.Connection):
    """A connection whose statements may find the file locked, or the disk full or failing."""

    schedule: ClassVar[Callable[[str], str | None]] = lambda asked: None
    _says: ClassVar = {
        "locked": (sqlite3.SQLITE_BUSY, "database is locked"),
        "full": (sqlite3.SQLITE_FULL, "database or disk is full"),
        "failing": (sqlite3.SQLITE_IOERR, "disk I/O error"),
    }

    def __init__(self, *args: Any, **given: Any) -> None:
        super().__init__(*args, **given)
        super().execute("PRAGMA synchronous = OFF")  # no power fails here

    def execute(self, sql: str, *given: Any) -> sqlite3.Cursor:
        self._meet(sql)
        return super().execute(sql, *given)

    def executemany(self, sql: str, *given: Any) -> sqlite3.Cursor:
        self._meet(sql)
        return super().executemany(sql, *given)

    def _meet(self, sql: str) -> None:
        kind = None if sql.startswith(("ROLLBACK", "PRAGMA")) else type(self).schedule(sql)
        if kind == "locked" and self.in_transaction and sql != "COMMIT":
            return  # who has begun to write waits for nobody before the end
        if kind is not None:
            code, words = self._says[kind]
            error = sqlite3.OperationalError(words)
            error.sqlite_errorcode, error.sqlite_errorname = code, f"SQLITE_{kind}"
            raise error


class InSQLite(Service):
    """A file that others lock, on a disk that fails."""

    name = "sqlite"
    often = ("locked",)
    ends = ("full", "failing")
    milder = 0.4

    def __init__(self, path: Path) -> None:
        self._path, self._base = fill(path), sqlite3.connect(path, isolation_level=None, factory=sqlite3.Connection)
        self._base.execute("PRAGMA synchronous = OFF")

    def reset(self) -> None:
        self._base.executescript("; ".join(CLEAR))

    def disturb(self, day: Schedule | None) -> None:
        Moody.schedule = staticmethod(day or (lambda asked: None))  # type: ignore[assignment]

    def job(self) -> None:
        with closing(SQLite(self.name, SQLiteSettings(path=self._path))) as target:
            read_and_write(target)

    def check(self) -> None:
        assert_right(lambda statement: self._base.execute(statement).fetchall())
