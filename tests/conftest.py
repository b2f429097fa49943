"""What several folders of tests share: a Postgres server, started once and only when asked for; options."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql


def pytest_addoption(parser: pytest.Parser) -> None:
    faults = parser.getgroup("faults", "schedules of faults (tests/faults)")
    faults.addoption("--seed", type=int, help="only the schedule of this seed, for every service and migration")
    faults.addoption("--schedules", type=int, help="so many schedules for every service and migration")


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A superuser's URL of a server: that of RESETTLE_TEST_POSTGRES_URL, else one only for these tests.

    Under pytest-xdist every worker is a session, so each starts a server of its own.
    """
    if url := os.environ.get("RESETTLE_TEST_POSTGRES_URL"):
        yield url
        return
    from resettle.sandbox.postgres import start_postgres

    with start_postgres() as server:
        yield server.url


@pytest.fixture
def new_database(postgres_url: str) -> Iterator[Callable[[], str]]:
    """Makes an empty database and gives its URL; it is dropped after the test."""
    made: list[str] = []

    def create() -> str:
        made.append(f"resettle_test_{uuid.uuid4().hex}")
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(made[-1])))
        return f"{postgres_url.rpartition('/')[0]}/{quote(made[-1])}"

    yield create
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for name in made:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
