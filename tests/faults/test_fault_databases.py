"""Databases that are locked, full, out of connections or going down, at each statement; and full disks of our files."""

from __future__ import annotations

import functools
import itertools
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from resettle.connectors import _sqlite_statements
from resettle.connectors.d1 import D1, D1Settings
from resettle.connectors.sqlite import SQLite, SQLiteSettings
from resettle.errors import AccessError, ResettleError, TransientError
from resettle.sandbox.d1 import Fault, start_d1
from tests.faults.services import PLANTED
from tests.faults.stores import CLEAR, InPostgres, assert_right, fill, read_and_write
from tests.faults.virtual import Time, virtual
from tests.faults.wire import CONNECT, Wire, wired


@pytest.fixture
def time() -> Iterator[Time]:
    with virtual() as passing:
        yield passing


def looked(path: Path, statement: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as base:
        return base.execute(statement).fetchall()


def assert_untouched(ask: Callable[[str], list[tuple[Any, ...]]]) -> None:
    assert sorted(ask("SELECT id, age FROM people")) == [("p1", 1), ("p2", 2), ("p3", 3)]
    assert ask("SELECT what FROM journal") == ask("SELECT step FROM notes") == []


def said(error: ResettleError, connection: str, *words: str) -> None:
    assert error.message.startswith(f"{connection}: "), error.message
    assert PLANTED not in error.message
    assert any(word in error.message for word in words), error.message


# -- SQLite


BALLAST = """
CREATE TABLE ballast (what BLOB);
CREATE TRIGGER heavy AFTER INSERT ON journal BEGIN INSERT INTO ballast VALUES (zeroblob(600)); END;
"""
"""Every effect takes some pages."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "people.sqlite"
    with closing(sqlite3.connect(path)) as base:
        base.execute("PRAGMA page_size = 512")  # so that every few rows need another
        base.execute("VACUUM")
    fill(path)
    with closing(sqlite3.connect(path)) as base, base:
        base.executescript(BALLAST + "; ".join(CLEAR))
    return path


def opened(path: Path) -> Any:
    return closing(SQLite("sqlite", SQLiteSettings(path=path, busy_timeout=0)))


@contextmanager
def no_larger_than(pages: int) -> Iterator[None]:
    """Every SQLite file that is opened meanwhile is full when it has so many pages more than at first."""
    connected, limits = _sqlite_statements._connected, dict[str, int]()

    def limited(uri: str, timeout: float) -> sqlite3.Connection:
        connection = connected(uri, timeout)
        name = uri.partition("?")[0]
        limits.setdefault(name, connection.execute("PRAGMA page_count").fetchone()[0] + pages)
        connection.execute(f"PRAGMA max_page_count = {limits[name]}")
        return connection

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_sqlite_statements, "_connected", limited)
        yield


def test_a_sqlite_file_on_a_full_disk_stays_as_it_was_and_the_next_run_completes(file: Path, time: Time) -> None:
    for room in itertools.count():
        try:
            with no_larger_than(room), opened(file) as target:
                read_and_write(target)
            break
        except AccessError as error:
            said(error, "sqlite", "full")
            assert_untouched(functools.partial(looked, file))
    assert room > 1, "it was to be full at several statements"
    assert_right(functools.partial(looked, file))


@pytest.mark.parametrize("lock", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE", "BEGIN; SELECT * FROM old"])
@pytest.mark.parametrize("sleeps", [1, 4, None])
def test_a_locked_sqlite_file_is_waited_for_but_not_for_ever(
    file: Path, time: Time, lock: str, sleeps: int | None
) -> None:
    """Locked by a writer, by one who lets nobody read, and by a reader who keeps a commit from ending."""
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    begun = [other.execute(statement) for statement in lock.split("; ")]
    begun[-1].fetchone()
    slept = itertools.count(1)

    def meanwhile() -> None:
        if next(slept) == sleeps:
            begun[-1].close()
            other.rollback()

    time.meanwhile = meanwhile
    if sleeps:
        with opened(file) as target:
            read_and_write(target)
    else:
        with opened(file) as target, pytest.raises(TransientError) as caught:
            read_and_write(target)
        said(caught.value, "sqlite", "locked")
        begun[-1].close()
        other.rollback()
        assert_untouched(functools.partial(looked, file))
        with opened(file) as target:
            read_and_write(target)
    other.close()
    assert next(slept) > 1
    assert_right(functools.partial(looked, file))


# -- D1


def test_a_d1_that_has_reached_its_largest_size_is_said_to_be_full(tmp_path: Path, time: Time) -> None:
    with start_d1(fill(tmp_path / "d1.sqlite")) as local:
        local.sql(*CLEAR)
        full = Fault(400, "Exceeded maximum DB size: SQLITE_FULL")
        local.faults = lambda asked: full if any("INSERT" in one for one in asked) else None
        with closing(D1("d1", D1Settings(**local.settings()))) as target, pytest.raises(AccessError) as caught:
            read_and_write(target)
        said(caught.value, "d1", "size")
        assert_untouched(local.sql)
        local.faults = lambda asked: None
        with closing(D1("d1", D1Settings(**local.settings()))) as target:
            read_and_write(target)
        assert_right(local.sql)


# -- Postgres


@pytest.fixture(scope="module")
def behind(postgres_url: str) -> Iterator[tuple[InPostgres, Wire]]:
    """A database behind a wire."""
    name = "faults_of_databases"
    url = f"{postgres_url.rpartition('/')[0]}/{name}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        with wired(url) as wire, closing(InPostgres(url, wire)) as service:
            yield service, wire
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def ended_or_told(service: InPostgres) -> ResettleError | None:
    try:
        service.job()
    except ResettleError as error:
        said(error, "postgres", "server", "connection")
        return error
    return None


@pytest.mark.parametrize("kind", ["unsent", "lost", "cut", "restart"])
def test_a_postgres_that_is_lost_at_any_message_leaves_all_or_nothing(
    behind: tuple[InPostgres, Wire], time: Time, kind: str
) -> None:
    """Once, at each message in turn; `restart` is the server's own end of all sessions, for good a moment long."""
    service, wire = behind
    for position in itertools.count(1):
        service.reset()
        asked, met = itertools.count(1), [False]

        def schedule(words: str, position: int = position, asked: Any = asked, met: list[bool] = met) -> str | None:
            if next(asked) != position:
                return "starting" if kind == "restart" and met[0] and words == CONNECT and next(asked) % 2 else None
            met[0] = True
            if kind == "restart":
                service.terminate()
                return None
            return kind

        wire.schedule = schedule
        error = ended_or_told(service)
        wire.schedule = lambda words: None
        if error is not None:
            service.job()
        service.check()
        if not met[0]:
            break
    assert position > 20


def test_a_postgres_without_a_free_connection_is_said_to_be_full(
    behind: tuple[InPostgres, Wire], time: Time, postgres_url: str
) -> None:
    service, wire = behind
    service.reset()
    wire.schedule = lambda words: None
    service.limit(1)
    try:
        with service.crowd() as crowd:
            with pytest.raises(TransientError) as caught:
                service.job()
            said(caught.value, "postgres", "out of connections")
            left = itertools.count(1)
            time.meanwhile = lambda: crowd.close() if next(left) == 3 else None
            service.job()
        assert next(left) > 3
    finally:
        service.limit(-1)
    service.check()


@pytest.mark.parametrize("nth", range(1, 8))
def test_a_postgres_on_a_full_disk_stays_as_it_was(behind: tuple[InPostgres, Wire], time: Time, nth: int) -> None:
    """As the server says it (SQLSTATE 53100), at the n-th row that is written."""
    service, wire = behind
    service.reset()
    wire.schedule = lambda words: None
    with service.full_at(nth) as ask:
        error = ended_or_told(service)
        if nth <= 6:
            assert isinstance(error, TransientError)
            said(error, "postgres", "disk")
            assert_untouched(ask)
    if error is not None:
        service.job()
    service.check()
