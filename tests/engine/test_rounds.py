"""Records that point at others of their own flow, in whatever order they come."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from resettle.batch import Column, ForeignKey, Kind, Schema
from resettle.connectors.memory import Memory
from resettle.engine import rounds
from resettle.engine.plan import load_plan, save
from tests.engine.conftest import MakeProject, Project, actions, counts, statuses

NODES = "nodes: {from: src.nodes, unit: id, into: app.nodes, columns: {id: id, parent: parent}}"
NODES_TABLE = "CREATE TABLE nodes (id TEXT PRIMARY KEY, parent TEXT REFERENCES nodes (id))"
MANY = 15

Words = Callable[[list[dict[str, Any]]], Project]


def chain(order: str) -> list[dict[str, Any]]:
    """Each points at the next one, by whose ids a batch is ordered."""
    ids = [f"n{n:02}" for n in range(MANY)]
    if order != "as they come":
        ids.reverse()
    if order == "mixed":
        random.Random(7).shuffle(ids)
    return [{"id": one, "parent": other} for one, other in zip(ids, [*ids[1:], None], strict=True)]


@pytest.mark.parametrize("order", ["as they come", "backwards", "mixed"])
@pytest.mark.parametrize("size", [1, 4])
def test_one_run_writes_all_in_whatever_order_they_come(
    project: MakeProject, database: str, size: int, order: str
) -> None:
    lost = [{"id": "lost", "parent": "nobody"}, {"id": "a child of it", "parent": "lost"}]
    p = project(NODES, NODES_TABLE, target=database, nodes=[*chain(order), *lost])
    planned, applied = p.plan(batch_size=size), p.apply(batch_size=size)
    assert counts(planned) == counts(applied)
    assert statuses(applied) == {"done": MANY, "held": 2}
    assert p.held == {"lost": "foreign_key", "a child of it": "foreign_key"}
    data, memory = p.rows("nodes"), p.remembered()
    assert data == sorted((one["id"], one["parent"]) for one in chain(order))
    assert not actions(p.apply(batch_size=size))
    assert (p.rows("nodes"), p.remembered()) == (data, memory)


def test_what_waits_may_be_more_than_memory_should_hold(project: MakeProject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "MOST_BYTES", 1)
    p = project(NODES, NODES_TABLE, nodes=chain("as they come"))
    assert statuses(p.apply(batch_size=1)) == {"done": MANY}


@pytest.mark.parametrize("size", [1, 4])
def test_a_circle_is_written_at_once_whatever_waits_beside_it(project: MakeProject, database: str, size: int) -> None:
    others = [{"id": f"n{n}", "parent": None} for n in (1, 2, 4, 5, 7, 8)]
    circle = [{"id": one, "parent": other} for one, other in (["n0", "n3"], ["n3", "n6"], ["n6", "n0"])]
    lost = [{"id": f"lost{n}", "parent": "nobody"} for n in range(3)]
    p = project(NODES, NODES_TABLE, target=database, nodes=[*others, *circle, *lost])
    assert counts(p.plan(batch_size=size)) == counts(p.apply(batch_size=size))
    assert p.held == {one["id"]: "foreign_key" for one in lost}
    assert len(p.rows("nodes")) == 9
    assert not actions(p.apply(batch_size=size))


def test_a_saved_plan_of_rows_that_wait_is_applied(project: MakeProject) -> None:
    p = project(NODES, NODES_TABLE, nodes=chain("mixed"))
    save(p.plan(batch_size=3), p.root / "plan.json")
    applied = p.apply(load_plan(p.root / "plan.json"), batch_size=3)
    assert statuses(applied) == {"done": MANY}


@pytest.fixture
def words(project: MakeProject, database: str) -> Words:
    """Nodes that share the rows of their words."""
    flow = """
    nodes:
      from: src.nodes
      unit: id
      outputs:
        words: {into: app.words, match: [word], columns: {id: {mint: uuid}, word: word}}
        nodes: {into: app.nodes, columns: {id: id, parent: parent, word: words.id}}
    """
    kind = "uuid" if database == "postgres" else "TEXT"
    tables = [
        f"CREATE TABLE words (id {kind} PRIMARY KEY, word TEXT UNIQUE)",
        "CREATE TABLE nodes (id TEXT PRIMARY KEY, parent TEXT REFERENCES nodes (id),"
        f" word {kind} REFERENCES words (id))",
    ]
    return lambda nodes: project(flow, tables, target=database, nodes=nodes)


def test_a_row_that_others_reuse_may_wait_too(words: Words) -> None:
    """The first to want a row waits: the next one makes it."""
    nodes = [{**one, "word": f"w{n % 3}"} for n, one in enumerate(chain("mixed"))]
    p = words(nodes)
    assert counts(p.plan(batch_size=3)) == counts(p.apply(batch_size=3))
    assert p.held == {}
    assert (len(p.rows("nodes")), len(p.rows("words"))) == (MANY, 3)
    assert not actions(p.apply(batch_size=3))


@pytest.mark.parametrize("size", [1, 3])
def test_whoever_reuses_or_points_at_what_a_held_one_would_have_made_is_written(words: Words, size: int) -> None:
    """In one batch with it as well as after it."""
    nodes = [("a", "nobody", "w"), ("b", None, "w"), ("c", "b", "w"), ("d", "c", "x")]
    p = words([dict(zip(("id", "parent", "word"), node, strict=True)) for node in nodes])
    assert counts(p.plan(batch_size=size)) == counts(p.apply(batch_size=size))
    assert p.held == {"a": "foreign_key"}
    assert (len(p.rows("nodes")), len(p.rows("words"))) == (3, 2)
    assert not actions(p.apply(batch_size=size))


@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_run_that_is_stopped_while_records_wait_balances(project: MakeProject, after: int) -> None:
    p = project(NODES, NODES_TABLE, nodes=chain("as they come"))
    stop, batches = threading.Event(), 0

    def progress(flow: str, state: str, counted: Any) -> None:
        nonlocal batches
        batches += state == "writing"
        if batches == after:
            stop.set()

    applied = p.apply(batch_size=5, stop=stop, progress=progress)
    done = statuses(applied).get("done", 0)
    assert (applied.status, len(p.rows("nodes"))) == ("interrupted" if done < MANY else "done", done)
    assert statuses(p.apply(batch_size=5)).get("done", 0) == MANY - done
    assert not actions(p.apply())


@pytest.mark.parametrize("transactional", [True, False])
def test_rows_wait_before_targets_without_transactions_too(project: MakeProject, transactional: bool) -> None:
    memory = Memory("app")
    memory.transactional = transactional
    columns = (Column("id", Kind.TEXT, nullable=False), Column("parent", Kind.TEXT))
    key = ForeignKey("nodes_parent_fkey", ("parent",), "nodes", ("id",))
    memory.create("nodes", Schema("nodes", columns, key=("id",), foreign_keys=(key,)))
    nodes = [*chain("mixed"), {"id": "lost", "parent": "nobody"}]
    p = project(NODES, target="memory", memory=memory, nodes=nodes)
    assert counts(p.plan(batch_size=3)) == counts(p.apply(batch_size=3))
    assert p.held == {"lost": "foreign_key"}
    assert memory.count("nodes") == MANY
    assert not actions(p.apply(batch_size=3))
