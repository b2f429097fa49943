"""A run that dies at any point (here by os._exit) is simply run again: data and memory end as if it had not died."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from tests.engine.conftest import MakeProject, Project, counts, person

FLOWS = """
people:
  from: src.people
  unit: id
  outputs:
    person: {into: app.people, columns: {id: id, name: name, age: age}}
    card: {into: app.cards, columns: {id: "'card of ' || id", owner: person.id}}
"""
TABLES = [
    "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT NOT NULL CHECK (name <> 'bad'), age INTEGER)",
    "CREATE TABLE cards (id TEXT PRIMARY KEY, owner TEXT NOT NULL REFERENCES people (id))",
]
BEFORE = [person(n, f"Name {n}") for n in range(12)]
AFTER = [
    *(person(n, "Changed" if n % 3 == 0 else f"Name {n}") for n in range(9)),
    {**person(9), "age": "old"},
    person(10, "bad"),
    *(person(n) for n in range(11, 25)),
]

DYING = """
import os, sys
from pathlib import Path
from tests.engine import conftest
from resettle.ledger.ledger import Ledger
from resettle.connectors.{kind} import {connector}
from contextlib import contextmanager

point, nth = sys.argv[1], int(sys.argv[2])
passed = 0

def die():
    global passed
    passed += 1
    if passed == nth:
        os._exit(9)

def around(owner, name):
    real = getattr(owner, name)
    def wrapped(*args, **kwargs):
        if point == f"before {{name}}":
            die()
        found = real(*args, **kwargs)
        if point == f"after {{name}}":
            die()
        return found
    setattr(owner, name, wrapped)

around({connector}, "write")
around(Ledger, "record")
around(Ledger, "prepare")
around(Ledger, "finish")
around(Ledger, "_close")

real = {connector}.transaction

@contextmanager
def transaction(self, **options):
    with real(self, **options):
        yield
        if point == "before commit":
            die()
    if point == "after commit":
        die()

{connector}.transaction = transaction
conftest.Project(Path({root!r}), {kind!r}, {url!r}, runs={runs}).apply(batch_size=7)
"""
POINTS = [
    ("after prepare", 1),
    ("before write", 1),
    ("after write", 3),
    ("before record", 1),
    ("after record", 2),
    ("before commit", 6),
    ("after commit", 7),
    ("before finish", 1),
]


def kill(p: Project, point: str, nth: int) -> None:
    """Run an apply in a process of its own that dies at the nth passing of a point."""
    connector = {"sqlite": "SQLite", "postgres": "Postgres"}[p.kind]
    script = dedent(DYING).format(kind=p.kind, connector=connector, root=str(p.root), url=p.url, runs=p.runs)
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script, point, str(nth)], cwd=root, capture_output=True, text=True)
    assert done.returncode == 9, f"it was to die {point} ({nth}): {done.stderr[-2000:]}"
    p.runs += 1


def state(p: Project) -> object:
    return p.rows("people"), p.rows("cards"), p.remembered()


def revised(project: MakeProject, database: str) -> Project:
    """Applied once, then changed: creates, updates, a record that does not cast and one that is refused."""
    p = project(FLOWS, TABLES, target=database, people=BEFORE)
    p.defaults = {"batch_size": 7}
    p.apply()
    p.put(people=AFTER)
    return p


_undisturbed: dict[str, object] = {}


@pytest.fixture
def undisturbed(project: MakeProject, database: str) -> object:
    """How data and memory end when nothing happens; the same every time."""
    if database not in _undisturbed:
        p = revised(project, database)
        p.apply()
        _undisturbed[database] = state(p)
    return _undisturbed[database]


@pytest.mark.parametrize(("point", "nth"), POINTS)
def test_a_run_that_died_is_made_good_by_the_next_one(
    project: MakeProject, database: str, undisturbed: object, point: str, nth: int
) -> None:
    p = revised(project, database)
    kill(p, point, nth)
    p.apply()
    assert state(p) == undisturbed
    with p.ledger() as ledger:
        assert [run["status"] for run in ledger.runs() if run["status"] == "running"] == []
    assert counts(p.apply())[0] == {
        "flow": "people",
        "read": 25,
        "unchanged": 23,
        "held": 2,
        "reasons": {"cast": 1, "check": 1},
    }


def test_a_run_may_die_again_and_again(project: MakeProject, database: str, undisturbed: object) -> None:
    p = revised(project, database)
    for point, nth in (("after write", 1), ("before commit", 3), ("after record", 2)):
        kill(p, point, nth)
    p.apply()
    assert state(p) == undisturbed


def test_a_first_run_may_die_before_anything_is_there(project: MakeProject, database: str) -> None:
    p = project(FLOWS, TABLES, target=database, people=BEFORE)
    kill(p, "before write", 1)
    assert p.rows("people") == []
    p.apply()
    assert len(p.rows("people")) == len(p.rows("cards")) == 12
