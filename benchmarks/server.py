"""The server that everything is measured on: its settings, fresh databases, and what was written in them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from benchmarks.step import MIGRATIONS
from resettle.sandbox import postgres

MEDZEN = MIGRATIONS / "medzen"
TABLE = "video_call_sessions"

SETTINGS = {
    "shared_buffers": "512MB",
    # A checkpoint or an autovacuum of one step's rows must not fall into the time of the next.
    "max_wal_size": "16GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
}
"""On top of the sandbox's own (fsync off, wal_level logical)."""

WRITTEN = """
select relname, n_tup_ins, n_tup_upd, n_tup_del from pg_stat_user_tables where schemaname = 'public' order by relname
"""
XMINS = "select count(*), coalesce(max(xmin::text::bigint), 0), coalesce(sum(xmin::text::bigint), 0)::text from {}"


@dataclass(frozen=True)
class Fingerprint:
    """What any write to the data tables would change: the server's counts of tuples, and every row's xmin."""

    counts: tuple[Any, ...]
    xmins: tuple[Any, ...]


@contextmanager
def running() -> Iterator[postgres.Postgres]:
    """An embedded Postgres with the benchmark's settings."""
    postgres.SETTINGS.update(SETTINGS)
    with postgres.start_postgres() as server:
        yield server


def described(server: postgres.Postgres) -> str:
    """Version and settings, in one line."""
    with psycopg.connect(server.url) as connection:
        row = connection.execute("show server_version").fetchone()
    settings = {name: value for name, value in postgres.SETTINGS.items() if name not in ("unix_socket_directories",)}
    return f"Postgres {row[0] if row else '?'}, " + ", ".join(f"{name}={value}" for name, value in settings.items())


def sessions(url: str) -> None:
    """Make medzen's schema."""
    postgres.supabase_roles(url)
    with psycopg.connect(url) as connection:
        connection.execute((MEDZEN / "sandbox" / "schema.sql").read_bytes())


@contextmanager
def database(server: postgres.Postgres, name: str, prepare: Callable[[str], None] = sessions) -> Iterator[str]:
    """A fresh database, prepared; dropped afterwards. Gives its URL."""
    url = server.create_database(name)
    try:
        prepare(url)
        settle(url)
        yield url
    finally:
        _drop(server, name)


@contextmanager
def copied(server: postgres.Postgres, original: str, name: str) -> Iterator[str]:
    """A copy of a database, statistics included; dropped afterwards. Gives its URL."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        names = sql.Identifier(name), sql.Identifier(original)
        connection.execute(sql.SQL("create database {} template {}").format(*names))
    try:
        url = f"{server.url.rpartition('/')[0]}/{name}"
        settle(url)
        yield url
    finally:
        _drop(server, name)


def _drop(server: postgres.Postgres, name: str) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def settle(url: str) -> None:
    """Wait for other sessions to end and write out what is dirty, so that every step starts alike."""
    with psycopg.connect(url, autocommit=True) as connection:
        others = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        while (row := connection.execute(others).fetchone()) and row[0]:
            time.sleep(0.02)
        connection.execute("checkpoint")


def analyze(url: str) -> None:
    """Give the planner statistics; until somebody does, it guesses the tables' contents from their size."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("analyze")


def fingerprint(url: str) -> Fingerprint:
    """Taken before and after a step: equal means that no data table was written."""
    settle(url)
    with psycopg.connect(url) as connection:
        counts = connection.execute(WRITTEN).fetchall()
        tables = [name for name, *_ in counts]
        rows = [connection.execute(sql.SQL(XMINS).format(sql.Identifier(table))).fetchone() for table in tables]
    return Fingerprint(tuple(counts), tuple(rows))
