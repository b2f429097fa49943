"""rehearse: the real writes against the real constraints, and no trace of them."""

from __future__ import annotations

from typing import Any

import pytest

from resettle.connectors.memory import Memory
from resettle.engine.rehearse import Rehearsed
from resettle.engine.rehearse import rehearse as run_rehearsal
from resettle.errors import ConfigError
from tests.engine.conftest import PEOPLE, MakeProject, Project, actions, counts, people, person, statuses
from tests.engine.test_units import item, lessons

PETS = """
pets:
  from: src.pets
  unit: id
  into: app.pets
  columns: {id: id, owner: {ref: people, on: owner}, name: name}
"""
CHECKED = (
    "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT NOT NULL, age INTEGER CHECK (age % 10 <> 7), note TEXT)",
    "CREATE TABLE pets (id TEXT PRIMARY KEY, owner TEXT REFERENCES people (id), name TEXT UNIQUE)",
)


def rehearse(p: Project, **options: Any) -> Rehearsed:
    with p.opened() as opened:
        return run_rehearsal(*opened, *p.options(options))


def everything(p: Project) -> dict[str, list[tuple[Any, ...]]]:
    """Every table of the target, the ledger's among them."""
    if p.kind == "sqlite":
        names = [name for (name,) in p.sql("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")]
    else:
        names = [
            f"{schema}.{name}"
            for schema, name in p.sql(
                "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog',"
                " 'information_schema') ORDER BY 1, 2"
            )
        ]
    return {name: sorted(p.sql(f"SELECT * FROM {name}"), key=repr) for name in names}


@pytest.mark.parametrize("size", [3, 100])
def test_what_the_targets_constraints_refuse_is_told_and_nothing_stays(
    project: MakeProject, database: str, size: int
) -> None:
    pets = [{"id": f"t{n}", "owner": f"p{n}", "name": f"n{n // 2}"} for n in range(10)]
    p = project(PEOPLE + PETS, CHECKED, target=database, people=people(10), pets=pets)
    before = everything(p)
    rehearsed = rehearse(p, batch_size=size)
    assert everything(p) == before
    assert rehearsed.exit_code == 3
    assert statuses(rehearsed) == {"done": 9 + 5, "held": 1 + 5}  # type: ignore[arg-type]
    applied = p.apply(batch_size=size)
    assert counts(applied) == counts(rehearsed)  # type: ignore[arg-type]


def test_a_rehearsal_after_a_run_shows_what_is_new_and_leaves_the_ledger_alone(
    project: MakeProject, database: str
) -> None:
    p = project(PEOPLE, target=database, people=people(3))
    p.apply()
    before = everything(p)
    p.put(people=[person(0, "New name"), *people(5)[1:]])
    assert actions(rehearse(p)) == {"update": 1, "create": 2}  # type: ignore[arg-type]
    assert everything(p) == before
    assert actions(p.apply()) == {"update": 1, "create": 2}


def test_units_with_several_outputs_are_rehearsed_as_they_are_applied(project: MakeProject, database: str) -> None:
    shared = [item("upload", "k1"), item("link", "u1"), item("upload", "k2")]
    p = lessons(project, database, a=shared, b=shared[::-1])
    before = everything(p)
    rehearsed = rehearse(p, batch_size=1)
    assert everything(p) == before
    assert counts(rehearsed) == counts(p.apply(batch_size=1))  # type: ignore[arg-type]


def test_what_follows_a_flow_is_rehearsed_too(project: MakeProject, database: str) -> None:
    flows = PEOPLE + "  after: [\"UPDATE people SET note = 'after'\"]\n"
    p = project(flows, target=database, people=people(2))
    rehearse(p)
    assert p.rows("people") == []
    p.flows(PEOPLE + '  after: ["COMMIT"]\n')
    with pytest.raises(ConfigError, match="would end the transaction"):
        rehearse(p)


def test_a_target_without_transactions_cannot_be_rehearsed(project: MakeProject) -> None:
    memory = Memory("app")
    memory.transactional = False
    p = project(PEOPLE, target="memory", memory=memory, people=people(1))
    with pytest.raises(ConfigError):
        rehearse(p)
