"""Live targets: while a run goes on, others edit, delete and insert in the same tables; and two runs at once."""

# ruff: noqa: F811  (fixtures are asked for by the names under which they are imported)

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from resettle.engine.apply import Applied
from resettle.errors import FenceError
from resettle.ledger.owner import STALE_AFTER
from tests.engine.conftest import Project, actions, database, project, statuses  # noqa: F401
from tests.migrations.test_lesson_assets import Database, databases, messy  # noqa: F401

MakeProject = Callable[..., Project]
SEEDS = [1, *(pytest.param(seed, marks=pytest.mark.extended) for seed in range(2, 8))]
PATIENCE = 60.0
"""Seconds after which whatever still waits counts as locked for good."""
COUNT = 120
TABLE = "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT NOT NULL, age INTEGER, note TEXT)"
FLOW = """
people:
  from: src.people
  unit: id
  on_conflict: {policy}
  into: app.people
  columns: {{id: id, name: name, age: age}}
"""


def person(number: int, name: str) -> dict[str, Any]:
    return {"id": f"p{number}", "name": f"{name} {number}", "age": number}


@dataclass
class Log:
    """What another client did and saw committed, in its order."""

    cells: dict[tuple[str, str], str] = field(default_factory=dict)
    """(id, column) -> the last value it gave it."""
    made: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    given_up: int = 0
    """Transactions that the database ended because of a deadlock."""


@contextmanager
def connected(p: Project) -> Iterator[Callable[..., Any]]:
    """A connection of somebody else's; gives `run(statement with %s, values)`, which is within one transaction."""
    if p.kind == "postgres":
        with psycopg.connect(p.url) as base:
            base.execute(f"SET lock_timeout = '{PATIENCE:.0f}s'")
            base.commit()
            yield base.execute
        return
    with closing(sqlite3.connect(p.root / "target.sqlite", timeout=PATIENCE, isolation_level=None)) as base:
        base.execute("BEGIN IMMEDIATE")
        try:
            yield lambda statement, values=(): base.execute(statement.replace("%s", "?"), values)
            base.execute("COMMIT")
        except BaseException:
            base.execute("ROLLBACK")
            raise


class Client(threading.Thread):
    """Somebody who works in `people` until told to stop: several rows in one transaction, in any order."""

    def __init__(self, p: Project, seed: int, mine: list[str], new: list[str]) -> None:
        super().__init__(daemon=True)
        self.p, self.random, self.log = p, random.Random(seed), Log()
        self.mine, self.new, self.serial, self.seed = mine, new, 0, seed
        self.over = threading.Event()
        self.trouble: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.over.is_set():
                self.work()
                time.sleep(self.random.uniform(0, 0.05))
        except BaseException as error:
            self.trouble = error

    def work(self) -> None:
        said = Log()
        try:
            with connected(self.p) as run:
                for _ in range(self.random.randint(1, 3)):
                    self.one(run, said)
        except psycopg.errors.DeadlockDetected:
            self.log.given_up += 1
            return
        except (psycopg.errors.UniqueViolation, sqlite3.IntegrityError):
            return  # what it wanted to make is there
        self.log.cells.update(said.cells)
        self.log.made |= said.made
        self.log.gone |= said.gone

    def one(self, run: Callable[..., Any], said: Log) -> None:
        """Each value is one that nobody else ever writes."""
        self.serial += 1
        value, what = f"edit {self.seed}.{self.serial}", self.random.random()
        if what < 0.1 and self.new:
            key = self.new.pop()
            run("INSERT INTO people (id, name, age) VALUES (%s, %s, 0)", (key, value))
            said.made.add(key)
            said.cells[key, "name"] = value
            return
        key = self.random.choice(self.mine)
        if what < 0.2:
            if run("DELETE FROM people WHERE id = %s", (key,)).rowcount:
                said.gone.add(key)
            return
        column = "name" if what < 0.6 else "note"
        if run(f"UPDATE people SET {column} = %s WHERE id = %s", (value, key)).rowcount:
            said.cells[key, column] = value


@contextmanager
def at_work(*clients: Client) -> Iterator[None]:
    for client in clients:
        client.start()
    try:
        yield
    finally:
        for client in clients:
            client.over.set()
        for client in clients:
            client.join(PATIENCE)
            assert not client.is_alive(), "it waits for a lock for good"
    for client in clients:
        if client.trouble is not None:
            raise client.trouble


def within(seconds: float, call: Callable[[], Applied]) -> Applied:
    """The run, if it ends in time."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result(seconds)


def changed_by(p: Project, run: int) -> set[str]:
    prefix = "resettle." if p.kind == "postgres" else "resettle_"
    return {unit for (unit,) in p.sql(f"SELECT unit FROM {prefix}rows WHERE coalesce(changed_run, run) = {run}")}


def check_edits(p: Project, clients: tuple[Client, ...]) -> dict[str, dict[str, Any]]:
    """No edit is lost: what a client last gave a cell is there, unless it or the other deleted the row."""
    there = {key: {"name": name, "note": note} for key, name, note in p.rows("people", "id, name, note")}
    gone = set().union(*(client.log.gone for client in clients))
    for client in clients:
        for (key, column), value in client.log.cells.items():
            if key in gone:
                continue
            assert there[key][column] == value, f"{column} of {key} is {there[key][column]!r}, it was given {value!r}"
    assert not gone & there.keys(), "what was deleted stays deleted"
    return there


@pytest.mark.parametrize("seed", SEEDS)
def test_no_edit_is_lost_while_rows_are_updated(project: MakeProject, database: str, seed: int) -> None:
    p = project(FLOW.format(policy="hold"), TABLE, target=database, people=[person(n, "Old") for n in range(COUNT)])
    p.apply()
    p.put(people=[person(n, "New") for n in range(COUNT)])
    halves = [[f"p{n}" for n in range(COUNT) if n % 2 == half] for half in (0, 1)]
    clients = tuple(
        Client(p, seed * 10 + half, mine, [f"x{half}{n}" for n in range(20)]) for half, mine in enumerate(halves)
    )
    with at_work(*clients):
        applied = within(PATIENCE, lambda: p.apply(batch_size=6))
    assert sum(len(client.log.cells) for client in clients) > 5, "the clients did something"
    there = check_edits(p, clients)
    ours, held = changed_by(p, applied.run), p.held
    for number in range(COUNT):
        key = f"p{number}"
        assert (key in ours) != (key in held), f"{key} is either written or listed"
        if key in held:
            assert held[key] == ("edited_in_target" if key in there else "deleted_in_target") or key not in there
            assert there.get(key, {}).get("name") != f"New {number}"
    edited = {key for client in clients for key, column in client.log.cells if column == "name" and key in there}
    for key in set(there) & set(ours) - edited:
        assert there[key]["name"] == f"New {key[1:]}"
    assert sum(statuses(applied).values()) == COUNT
    again = p.apply(fresh=True)
    assert not {"create", "update"} & actions(again).keys(), "what follows has nothing to do"
    assert check_edits(p, clients) == there


@pytest.mark.parametrize("seed", SEEDS)
def test_no_row_is_lost_or_doubled_while_an_empty_table_is_filled(
    project: MakeProject,
    database: str,
    seed: int,
) -> None:
    """The others make rows that we are about to make too: theirs stay as they are, and are listed."""
    p = project(FLOW.format(policy="hold"), TABLE, target=database, people=[person(n, "New") for n in range(COUNT)])
    chance = random.Random(seed)
    ids = [f"p{n}" for n in range(COUNT)]
    chance.shuffle(ids)
    clients = tuple(Client(p, seed * 10 + half, ["nobody"], ids[half::2]) for half in (0, 1))
    for client in clients:
        client.one = inserting(client)  # type: ignore[method-assign]
    with at_work(*clients):
        applied = within(PATIENCE, lambda: p.apply(batch_size=4))
    made = set().union(*(client.log.made for client in clients))
    assert made, "the clients did something"
    there = check_edits(p, clients)
    came_while_we_wrote = p.units("failed")
    assert set(came_while_we_wrote.values()) <= {"exists"}
    assert p.held.keys() | came_while_we_wrote.keys() == made, "every conflict is listed"
    assert statuses(applied).get("done", 0) == COUNT - len(made)
    for key in set(ids) - made:
        assert there[key]["name"] == f"New {key[1:]}"
    assert not actions(p.apply(fresh=True)).keys() & {"create", "update"}
    assert p.held == dict.fromkeys(made, "exists_in_target")
    assert check_edits(p, clients) == there


def inserting(client: Client) -> Callable[..., None]:
    def one(run: Callable[..., Any], said: Log) -> None:
        if client.new:
            key = client.new.pop()
            run("INSERT INTO people (id, name, age) VALUES (%s, %s, 0)", (key, f"theirs {key}"))
            said.made.add(key)
            said.cells[key, "name"] = f"theirs {key}"

    return one


# -- two runs at once ---------------------------------------------------------------------------------------

GATED = """
people:
  from: src.people
  unit: id
  into: app.people
  columns: {id: id, name: gated(name), age: age}
"""
FUNCTIONS = '''
"""A function that waits until a file is there."""

import time
from pathlib import Path

HERE = Path(__file__).parent


def gated(name: str) -> str:
    if name == "gate":
        (HERE / "waiting").touch()
        while not (HERE / "go").exists():
            time.sleep(0.02)
    return name
'''


def gated(make: MakeProject, kind: str) -> Project:
    """A migration of 30 records whose run waits at the 20th until it is let go."""
    people = [{**person(n, "Name"), **({"name": "gate"} if n == 19 else {})} for n in range(30)]
    p = make(GATED, TABLE, target=kind, people=people)
    (p.root / "functions.py").write_text(FUNCTIONS)
    return p


def command(p: Project, *more: str) -> subprocess.Popen[str]:
    arguments = ["apply", "-m", str(p.root), "--batch-size", "4", "--workers", "1", *more]
    script = f"from resettle.cli import main; main({arguments!r})"
    return subprocess.Popen(
        [sys.executable, "-c", script], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=p.root
    )


def wait_for(path: Path) -> None:
    until = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not come"
        time.sleep(0.02)


@contextmanager
def running(p: Project) -> Iterator[subprocess.Popen[str]]:
    """A run in a process of its own, that waits at its gate."""
    run = command(p)
    try:
        wait_for(p.root / "waiting")
        until = time.monotonic() + PATIENCE
        while len(p.rows("people")) < 16:  # all before the gate is committed: it holds no lock of the database
            assert time.monotonic() < until, "what came before the gate was not written"
            time.sleep(0.02)
        yield run
    finally:
        if run.poll() is None:
            run.send_signal(signal.SIGCONT)
            run.kill()
        run.communicate()


def test_of_two_runs_at_once_one_works_and_the_other_says_who_holds_the_lock(
    project: MakeProject,
    database: str,
) -> None:
    p = gated(project, database)
    with running(p) as first:
        before = p.rows("people")
        second = command(p)
        said = "".join(second.communicate(timeout=PATIENCE))
        assert second.returncode == 7, said
        assert f"run 1 (process {first.pid} on {os.uname().nodename}" in " ".join(said.split())
        assert p.rows("people") == before, "it wrote nothing"
        (p.root / "go").touch()
        out = "".join(first.communicate(timeout=PATIENCE))
        assert first.returncode == 0, out
    assert len(p.rows("people")) == 30
    with p.ledger() as ledger:
        assert [(run["run"], run["status"]) for run in ledger.runs()] == [(1, "done")]


def silent(p: Project) -> None:
    """As if the run that holds the lock had given no sign of life for long."""
    if p.kind == "postgres":
        p.sql(f"UPDATE resettle.locks SET heartbeat = now() - interval '{STALE_AFTER + 10} seconds'")
    else:
        past = f"strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-{STALE_AFTER + 10} seconds')"
        p.sql(f"UPDATE resettle_locks SET heartbeat = {past}")


def test_a_run_whose_machine_slept_can_write_nothing_more(project: MakeProject, database: str) -> None:
    """Stopped as a sleeping machine's process is; another run takes over, with a source that says something else."""
    p = gated(project, database)
    with running(p) as first:
        first.send_signal(signal.SIGSTOP)
        silent(p)
        p.put(people=[person(n, "Later") for n in range(25, 40)])
        applied = p.apply()
        assert statuses(applied) == {"done": 15}
        after = p.rows("people"), p.remembered()
        (p.root / "go").touch()
        first.send_signal(signal.SIGCONT)
        said = "".join(first.communicate(timeout=PATIENCE))
        assert first.returncode == 7, said
        assert (p.rows("people"), p.remembered()) == after
    with p.ledger() as ledger:
        assert {run["run"]: run["status"] for run in ledger.runs()} == {1: "died", 2: "done"}


@pytest.mark.parametrize("nth", [1, 3])
def test_a_run_whose_lock_was_taken_over_can_commit_nothing(
    project: MakeProject,
    database: str,
    nth: int,
) -> None:
    """The first run stops before one of its batches, the second does all of the work, then the first goes on."""
    old, new = ([person(n, name) for n in range(12)] for name in ("Old", "New"))
    p = project(FLOW.format(policy="source"), TABLE, target=database, people=old)
    stopped, go, times = threading.Event(), threading.Event(), [0]

    def progress(flow: str, state: str, counts: Any) -> None:
        if state == "writing":
            times[0] += 1
            if times[0] == nth:
                stopped.set()
                assert go.wait(PATIENCE)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(p.apply, batch_size=4, workers=1, progress=progress)
        assert stopped.wait(PATIENCE)
        silent(p)
        p.put(people=new)
        assert statuses(p.apply()) == {"done": 12}
        after = p.rows("people"), p.remembered()
        go.set()
        with pytest.raises(FenceError):
            first.result(PATIENCE)
    assert (p.rows("people"), p.remembered()) == after
    assert {name for _, name, *_ in p.rows("people")} == {f"New {n}" for n in range(12)}
    assert not actions(p.apply())


# -- documents that are edited while they are patched -----------------------------------------------------------


class Editor(threading.Thread):
    """Edits the lists of lessons: elsewhere in an item, around a place, at the place itself."""

    def __init__(self, url: str, lessons: list[str], seed: int) -> None:
        super().__init__(daemon=True)
        self.url, self.lessons, self.random = url, lessons, random.Random(seed)
        self.tokens: dict[str, list[str]] = {}
        self.serial, self.seed = 0, seed
        self.over = threading.Event()
        self.trouble: BaseException | None = None

    def run(self) -> None:
        try:
            with psycopg.connect(self.url, autocommit=True) as base:
                base.execute(f"SET lock_timeout = '{PATIENCE:.0f}s'")
                while not self.over.wait(self.random.uniform(0, 0.1)) and self.serial < 60:
                    self.work(base)
        except BaseException as error:
            self.trouble = error

    def work(self, base: psycopg.Connection[Any]) -> None:
        self.serial += 1
        token, lesson = f"token {self.seed}.{self.serial}.", self.random.choice(self.lessons)
        item = {"type": "upload", "key": f"new/{self.seed}/{self.serial}.mp4", "note": token}
        statement, values = self.random.choice(
            [
                # elsewhere: another column, and another place
                ("UPDATE lesson SET title = title || %s WHERE id = %s", [token]),
                ("UPDATE lesson SET videos = videos || %s WHERE id = %s", [Jsonb([item])]),
                # around the place: an item that says something more, and all items moved by one
                ("UPDATE lesson SET videos = jsonb_set(videos, '{0,tag}', %s) WHERE id = %s", [Jsonb(token)]),
                ("UPDATE lesson SET videos = %s || videos WHERE id = %s", [Jsonb([item])]),
            ]
        )
        done = base.execute(statement, [*values, lesson]).rowcount
        if done and "'{0,tag}'" not in statement:  # the next such edit takes the place of this one
            self.tokens.setdefault(lesson, []).append(token)

    def check(self, documents: dict[str, str]) -> None:
        for lesson, tokens in self.tokens.items():
            lost = [token for token in tokens if token not in documents[lesson]]
            assert not lost, f"edits of {lesson} are lost"


def documents(base: Database) -> dict[str, str]:
    return {str(row["id"]): json.dumps([row["title"], row["videos"]]) for row in base.ask("SELECT * FROM lesson")}


@pytest.mark.parametrize("seed", SEEDS)
def test_no_edit_of_a_lesson_is_lost_while_its_document_is_patched(
    databases: Callable[..., str],
    seed: int,
) -> None:
    base = Database(databases(0))
    course = [
        base.add_lesson(7_000 + number, [messy.upload(f"k{number % 7}.mp4", at=at) for at in range(3)])
        for number in range(40)
    ]
    editors = [Editor(base.url, course[half::2], seed * 10 + half) for half in (0, 1)]
    for editor in editors:
        editor.start()
    applied = []
    try:
        applied = [within(PATIENCE, lambda: base.apply(batch_size=5)) for _ in range(3)]
    finally:
        for editor in editors:
            editor.over.set()
        for editor in editors:
            editor.join(PATIENCE)
    assert not any(editor.is_alive() for editor in editors), "it waits for a lock for good"
    assert [editor.trouble for editor in editors] == [None, None]
    assert all(editor.serial > 5 for editor in editors)
    for editor in editors:
        editor.check(documents(base))
    for one in applied:
        reasons = one.counts[0].reasons
        assert one.counts[0].units["failed"] == reasons["changed_meanwhile"], reasons
    last = base.apply()
    assert last.counts[0].units["failed"] == 0
    for editor in editors:
        editor.check(documents(base))
    known = {str(row["id"]) for row in base.ask("SELECT id FROM assets")}
    assert {id_ for lesson in course for id_ in base.asset_ids(lesson)} <= known, "every item has its asset"
    again = base.apply(fresh=True)
    assert actions(again).keys() <= {"unchanged", "reuse"}
    assert not base.verify().findings
