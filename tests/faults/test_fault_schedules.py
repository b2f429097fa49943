"""Thousands of bad days, each drawn from a seed: a job against a service ends right, or says what it could not do.

Each is repeated by `pytest tests/faults -k SERVICE --seed N`; `--schedules N` lives through so many for every service.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from resettle.connectors import s3 as connector
from resettle.sandbox.appsync import start_appsync
from resettle.sandbox.cognito import start_cognito
from resettle.sandbox.d1 import start_d1
from resettle.sandbox.drive import start_drive
from resettle.sandbox.dynamodb import start_dynamodb
from resettle.sandbox.s3 import start_s3
from tests.crash.stores import counted
from tests.faults.apis import SCHEMA, InAppSync, InAppSyncByCognito
from tests.faults.files import InDrive, InS3
from tests.faults.services import Service, Tally, live_through, repeatable
from tests.faults.stores import InD1, InPostgres, InSQLite, Moody, fill
from tests.faults.tables import InDynamoDB, InExport
from tests.faults.virtual import virtual
from tests.faults.wire import wired

Start = Callable[..., AbstractContextManager[Service]]


@contextmanager
def d1(folder: Path) -> Iterator[Service]:
    with start_d1(fill(folder / "d1.sqlite")) as local:
        yield InD1(local)


@contextmanager
def sqlite(folder: Path) -> Iterator[Service]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Moody))
        yield InSQLite(folder / "people.sqlite")


@contextmanager
def s3(folder: Path) -> Iterator[Service]:
    with start_s3() as local, counted(), pytest.MonkeyPatch.context() as patched:
        connect, made = connector.connect, {}

        def once(name: str, settings: Any) -> Any:
            return made.get(settings.bucket) or made.setdefault(settings.bucket, connect(name, settings))

        patched.setattr(connector, "connect", once)
        patched.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1 << 20)
        yield InS3(local)


@contextmanager
def google_drive(folder: Path) -> Iterator[Service]:
    with start_drive() as local:
        yield InDrive(local, folder / "token.json", folder / "account.json")


@contextmanager
def appsync(folder: Path) -> Iterator[Service]:
    with start_appsync(SCHEMA) as local:
        yield InAppSync(local)


@contextmanager
def cognito(folder: Path) -> Iterator[Service]:
    with start_cognito() as pool, start_appsync(SCHEMA, tokens=pool) as local:
        pool.add("mover", "Sandbox-1!")
        yield InAppSyncByCognito(local, pool)


@contextmanager
def dynamodb(folder: Path) -> Iterator[Service]:
    with start_dynamodb() as local:
        yield InDynamoDB(local, folder)


@contextmanager
def dynamodb_export(folder: Path) -> Iterator[Service]:
    with start_dynamodb() as local:
        yield InExport(local, folder)


@contextmanager
def postgres(folder: Path, url: str) -> Iterator[Service]:
    with wired(url) as wire, closing(InPostgres(url, wire)) as service:
        yield service


SERVICES: dict[str, tuple[Start, int]] = {
    "sqlite": (sqlite, 200),
    "d1": (d1, 900),
    "appsync": (appsync, 400),
    "cognito": (cognito, 30),
    "google_drive": (google_drive, 200),
    "s3": (s3, 60),
    "postgres": (postgres, 100),
    "dynamodb": (dynamodb, 60),
    "dynamodb_export": (dynamodb_export, 50),
}
"""Each with how many schedules `make test` lives through."""


@pytest.mark.parametrize("name", SERVICES)
def test_a_job_ends_right_or_says_what_it_could_not_do(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    start, usual = SERVICES[name]
    seed, asked = request.config.getoption("seed"), request.config.getoption("schedules")
    seeds = range(asked or usual) if seed is None else [seed]
    tally = Tally()
    given = [request.getfixturevalue("new_database")()] if name == "postgres" else []
    with start(tmp_path, *given) as service, virtual() as time:
        for one in seeds:
            with repeatable(service, one):
                live_through(service, one, time, tally)
    print(dict(tally))
    if len(seeds) >= usual:
        assert min(tally[word] for word in ("ended with faults", "told", *service.often)) > 0, tally
        assert sum(tally[word] for word in service.ends) > 0, tally
