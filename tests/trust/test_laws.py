"""The laws as properties: whatever the source holds, whoever edits the target, in whatever order all of it happens."""

# ruff: noqa: F811  (fixtures are asked for by the names under which they are imported)

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from resettle.batch import Batch, Column, Kind, Partition, Schema
from resettle.calls import Caller
from resettle.connectors.memory import Memory
from resettle.engine import apply as applying
from resettle.errors import TransientError
from tests.engine.conftest import MakeProject, Project, actions, database, project, statuses  # noqa: F401
from tests.trust.history import History, in_folder
from tests.trust.owners import Owners
from tests.trust.worlds import WORLDS, Field, Table, World

CI = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=2,
    stateful_step_count=4,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
"""The same examples every time, and few."""
EXTENDED = settings(CI, derandomize=False, max_examples=25, stateful_step_count=10, print_blob=True)

CASES = [(kind, name) for name, world in WORLDS.items() for kind in world.kinds]


def emptied(kind: str, url: str) -> Project:
    """A project in a new folder and, where there is one, in its database without anything in it."""
    if url:
        with psycopg.connect(url) as connection:
            for statement in ("DROP SCHEMA public CASCADE", "DROP SCHEMA IF EXISTS resettle CASCADE"):
                connection.execute(statement)
            connection.execute("CREATE SCHEMA public")
    return in_folder(kind, url)


def said_seed() -> int:
    number = int(os.environ.get("RESETTLE_TEST_SEED") or random.randrange(2**32))
    print(f"seed: RESETTLE_TEST_SEED={number}")
    return number


def history(kind: str, world: str, new_database: Callable[[], str]) -> type[History]:
    """Histories of a world, each in a new folder and, where there is one, an emptied database."""
    url = new_database() if kind == "postgres" else ""

    given = {"world": WORLDS[world], "new_project": staticmethod(lambda: emptied(kind, url))}
    return type("History", (History,), given)


@pytest.mark.parametrize(("kind", "world"), [case for case in CASES if case[0] != "postgres"])
def test_the_laws_hold_in_any_history(kind: str, world: str, new_database: Callable[[], str]) -> None:
    run_state_machine_as_test(history(kind, world, new_database), settings=CI)


@pytest.mark.parametrize("world", WORLDS)
def test_the_laws_hold_in_any_history_on_postgres(world: str, new_database: Callable[[], str]) -> None:
    few = settings(CI, max_examples=1)
    run_state_machine_as_test(history("postgres", world, new_database), settings=few)


@pytest.mark.extended
@pytest.mark.parametrize(("kind", "world"), CASES)
def test_the_laws_hold_in_many_histories(kind: str, world: str, new_database: Callable[[], str]) -> None:
    machine = seed(said_seed())(history(kind, world, new_database))
    run_state_machine_as_test(machine, settings=settings(EXTENDED, max_examples=8) if kind == "postgres" else EXTENDED)


# -- any order of records, partitions and retries gives the same target ----------------------------------

ORDERED = World(
    "ordered",
    (
        """
towns:
  from: src.people
  unit: id
  outputs:
    place: {into: app.towns, match: name, columns: {id: {mint: uuid}, name: town}}
    home: {into: app.homes, columns: {id: id, town: place.id}}
people:
  from: src.people
  unit: id
  warn: {old: "try_cast(age as integer) > 90"}
  into: app.people
  columns: {id: id, name: name, age: age, boss: boss, home: {ref: towns.home, on: id}}
""",
    ),
    (
        Table("towns", (Field("id", Kind.UUID), Field("name", required=True))),
        Table("homes", (Field("id"), Field("town", Kind.UUID, required=True, points="towns"))),
        Table(
            "people",
            (
                Field("id"),
                Field("name", required=True, choices=("Anna", "Bert")),
                Field("age", Kind.INT32),
                Field("boss", points="people"),
                Field("home", points="homes"),
            ),
        ),
    ),
    {},
)
PEOPLE = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.sampled_from([f"p{n}" for n in range(9)]),
            "name": st.sampled_from(["Anna", "Bert", "bad", None]),
            "age": st.sampled_from(["1", "old", "99", None]),
            "boss": st.sampled_from(["p0", "p1", "p2", "p7", "nobody", None]),
            "town": st.sampled_from(["Ulm", "K\u00f6ln", None]),
        }
    ),
    min_size=3,
    max_size=9,
    unique_by=lambda row: row["id"],
).map(lambda rows: [{**row, "boss": row["boss"] if (row["boss"] or "") < row["id"] else None} for row in rows])
"""Each unit once: of two records of one unit the first counts, whichever that is. And no ring of bosses, which only
one batch can hold."""


class Shuffled(Memory):
    """A source that gives its records in some order, in parts of any size, with empty pages between."""

    def __init__(self, records: Sequence[dict[str, Any]], chance: random.Random) -> None:
        super().__init__("src")
        self.chance = chance
        columns = tuple(Column(name, Kind.TEXT) for name in ("id", "name", "age", "boss", "town"))
        self.create("people", Schema("people", columns, ("id",)), chance.sample(records, len(records)))

    def partitions(self, dataset: str, wanted: int) -> Sequence[Partition]:
        found = list(super().partitions(dataset, self.chance.randint(1, 4)))
        self.chance.shuffle(found)
        return found

    def read(self, partition: Partition, rows: int) -> Iterator[Batch]:
        for batch in super().read(partition, self.chance.randint(1, max(rows, 1))):
            yield Batch(batch.dataset, batch.table.slice(0, 0))
            yield batch


@contextmanager
def unsteady(chance: random.Random) -> Iterator[None]:
    """Now and then a batch's commit fails, or is done and its answer lost: the run is to try again."""
    real, delay, fine = applying.transactions, Caller._delay, [0]

    @contextmanager
    def transactions(*given: Any, rollback: bool = False) -> Iterator[None]:
        lot = 0.5 if rollback or fine[0] < 0 else chance.random()
        fine[0] = min(fine[0] + 1, 0)
        with real(*given, rollback=rollback):
            yield
            if lot < 0.25:
                fine[0] = -2
                raise TransientError("the commit failed")
        if lot > 0.75:
            fine[0] = -2
            raise TransientError("the answer is lost")

    applying.transactions, Caller._delay = transactions, lambda self, state: 0.0  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        applying.transactions, Caller._delay = real, delay  # type: ignore[method-assign]


def at_rest(kind: str, url: str, records: Sequence[dict[str, Any]], chance: random.Random) -> tuple[Any, Any]:
    """Where a target ends that is filled in some order, in whatever batches, with any trouble; minted ids aside."""
    p = emptied(kind, url)
    owners = Owners(p, ORDERED)
    owners.make_tables()
    p.flows(ORDERED.flows[0])
    try:
        for _ in range(2):
            p.opened_before = {"src": Shuffled(records, chance)}
            with unsteady(chance):
                done = p.apply(batch_size=chance.choice([1, 2, 3, 100]), workers=chance.choice([1, 3]))
        assert not actions(done).keys() & {"create", "update"}, "one run does all"
        rows = owners.rows()
        towns = {key: row["name"] for (table, key), row in rows.items() if table == "towns"}
        plain = sorted(
            (table, tuple(towns.get(str(value), value) for value in row.values() if table != "towns"), towns.get(key))
            for (table, key), row in rows.items()
        )
        # Of two faults a record is held for the one that is found first.
        twice = {row["id"] for row in records if row["name"] == "bad" and row["boss"]}
        known = [one[:4] for one in owners.unit_rows() if one[2] != "done"]
        return plain, [(*one, "" if one[1] in twice else reason) for *one, reason in known]
    finally:
        shutil.rmtree(p.root, ignore_errors=True)


def in_any_order(kind: str, url: str, records: list[dict[str, Any]], number: int) -> None:
    chance = random.Random(number)
    first, second = (at_rest(kind, url, records, chance) for _ in range(2))
    assert first[0] == second[0], "the same rows"
    assert first[1] == second[1], "the same reasons"


@settings(CI, max_examples=3)
@given(records=PEOPLE, number=st.integers(0, 2**32))
def test_any_order_of_records_batches_partitions_and_retries_gives_the_same_target(
    records: list[dict[str, Any]], number: int
) -> None:
    in_any_order("sqlite", "", records, number)


@pytest.mark.extended
@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres"])
def test_any_of_many_orders_gives_the_same_target(kind: str, new_database: Callable[[], str]) -> None:
    url = new_database() if kind == "postgres" else ""
    number = said_seed()

    @seed(number)
    @settings(EXTENDED, max_examples=60)
    @given(records=PEOPLE, number=st.integers(0, 2**32))
    def orders(records: list[dict[str, Any]], number: int) -> None:
        in_any_order(kind, url, records, number)

    orders()


# -- what was found this way ---------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["flow", "output"])
def test_a_record_that_cannot_be_kept_is_held_alone_where_columns_use_the_ordinal(
    project: MakeProject, database: str, where: str
) -> None:
    rows = 'rows: "select *, unnest(from_json(tags, \'[\\"VARCHAR\\"]\')) as tag from source"'
    flow = f"""
    tags:
      from: src.books
      unit: isbn
      {rows if where == "flow" else ""}
      outputs:
        tag:
          into: app.tags
          key: [book, n]
          {rows if where == "output" else ""}
          columns: {{book: isbn, n: _n, level: tag}}
    """
    table = "CREATE TABLE tags (book TEXT, n INTEGER, level INTEGER, PRIMARY KEY (book, n))"
    books = [{"isbn": "b0", "tags": ["1", "2"]}, {"isbn": "b1", "tags": ["3", "old"]}]
    p = project(flow, table, target=database, books=books)
    assert statuses(p.apply()) == {"done": 1, "held": 1}
    assert p.held == {"b1": "cast"}
    assert p.rows("tags") == [("b0", 0, 1), ("b0", 1, 2)]


@pytest.mark.parametrize("size", [1, 2])
def test_a_shared_row_is_made_once_though_the_answer_to_its_commit_was_lost(
    project: MakeProject, database: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first load does not look at an empty target; it must, for what a lost answer had committed."""
    flow = """
    visits:
      from: src.visits
      unit: id
      outputs:
        place: {into: app.places, match: town, columns: {id: {mint: uuid}, town: town}}
        visit: {into: app.visits, columns: {id: id, place: place.id}}
    """
    tables = (
        "CREATE TABLE places (id UUID PRIMARY KEY, town TEXT)",
        "CREATE TABLE visits (id TEXT PRIMARY KEY, place UUID)",
    )
    p = project(flow, tables, target=database, visits=[{"id": f"v{n}", "town": "Ulm"} for n in range(4)])
    real, lost = applying.transactions, [0]

    @contextmanager
    def transactions(*given: Any, **named: Any) -> Iterator[None]:
        with real(*given, **named):
            yield
        lost[0] += 1
        if lost[0] == 1:
            raise TransientError("the answer is lost")

    monkeypatch.setattr(applying, "transactions", transactions)
    monkeypatch.setattr(Caller, "_delay", lambda self, state: 0.0)
    p.apply(batch_size=size)
    assert p.rows("places", "town") == [("Ulm",)]
    assert len(p.rows("visits")) == 4


def test_a_second_record_does_not_take_the_place_of_a_held_one(project: MakeProject) -> None:
    """From nothing the second of these is held as `duplicate_unit`; so it is after a run that held the first alone."""
    flow = "people: {from: src.people, unit: id, into: app.people, columns: {id: id, age: age}}"
    table = "CREATE TABLE people (id TEXT PRIMARY KEY, age INTEGER)"
    first, second = {"id": "p0", "age": "old"}, {"id": "p0", "age": "7"}
    p = project(flow, table, people=[first])
    p.apply()
    p.put(people=[first, second])
    p.apply()
    before = p.remembered()
    p.apply()
    assert p.remembered() == before
    assert p.rows("people") == []
