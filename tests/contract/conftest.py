"""Every test of the contract runs for every case: with calls that go well, and with some that fail once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from resettle.calls import Caller
from resettle.connector import Source, Sql, Target
from resettle.errors import TransientError
from tests.contract.cases import SOURCES, TARGETS, Place, Row, SourceCase, TargetCase

MakeSource = Callable[[Sequence[Row]], Source]


@pytest.fixture(autouse=True, params=["steady", "flaky"])
def calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under "flaky", every third call of every Caller fails once before it is made."""
    if request.param == "steady":
        return
    once, turn = Caller._once, itertools.count(1)

    def flaky(self: Caller, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if next(turn) % 3 == 0:
            raise TransientError("every third call fails")
        return once(self, fn, *args, **kwargs)

    monkeypatch.setattr(Caller, "_once", flaky)
    monkeypatch.setattr(Caller, "_delay", lambda self, state: 0.0)


@pytest.fixture
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    # Asked for late: only the cases on Postgres should wait for a server.
    return Place(tmp_path, lambda: request.getfixturevalue("new_database")())


@pytest.fixture(params=SOURCES, ids=lambda case: case.name)
def source_case(request: pytest.FixtureRequest) -> SourceCase:
    case: SourceCase = request.param
    return case


@pytest.fixture
def make_source(source_case: SourceCase, place: Place) -> Iterator[MakeSource]:
    """Makes the one source of a test, from its rows."""
    made: list[Source] = []

    def make(rows: Sequence[Row]) -> Source:
        made.append(source_case.make(place, rows))
        return made[-1]

    yield make
    for source in made:
        source.close()


@pytest.fixture(params=TARGETS, ids=lambda case: case.name)
def target_case(request: pytest.FixtureRequest) -> TargetCase:
    case: TargetCase = request.param
    return case


@pytest.fixture
def target(target_case: TargetCase, place: Place) -> Iterator[Target]:
    made = target_case.make(place)
    yield made
    made.close()


@pytest.fixture
def nests(target_case: TargetCase) -> None:
    """For tests of transactions within transactions."""
    if not target_case.nests:
        pytest.skip("its transactions do not nest")


@pytest.fixture
def sees_its_writes(target_case: TargetCase) -> None:
    """For tests of a transaction that reads what it wrote."""
    if not target_case.sees_its_writes:
        pytest.skip("its transactions are sent at their end")


@pytest.fixture
def rolls_back(target: Target) -> None:
    """For tests of transactions that are taken back."""
    if not target.transactional:
        pytest.skip("has no transactions")


@pytest.fixture
def links(target_case: TargetCase) -> None:
    """For tests of foreign keys."""
    if "foreign_key" not in target_case.enforces:
        pytest.skip("knows no foreign keys")


@pytest.fixture
def speaks_sql(target_case: TargetCase) -> None:
    """For tests of `ask`."""
    if not target_case.speaks_sql:
        pytest.skip("cannot be asked in SQL")


@pytest.fixture
def store(target: Target) -> Sql:
    """The SQL store of a target that has one."""
    found = target.sql()
    if found is None:
        pytest.skip("has no SQL store")
    return found
