"""check: what can be known of both sides before anything runs is said."""

from __future__ import annotations

from typing import Any

import pytest

from resettle.batch import Column, ForeignKey, Kind, Schema
from resettle.connectors.memory import Memory
from resettle.engine.check import check
from resettle.engine.flow import Options
from tests.engine.conftest import MakeProject, Project, people

PEOPLE = "people: {from: src.people, unit: id, into: app.people, columns: {id: id, name: name}}\n"
PETS = "pets: {from: src.pets, unit: id, into: app.pets, columns: {id: id, owner: owner}}\n"
COLUMNS = (Column("id", Kind.TEXT, nullable=False), Column("name", Kind.TEXT))


def warnings(p: Project) -> list[str]:
    with p.opened() as opened:
        return [one.message for one in check(*opened, Options()) if one.level in ("warning", "error")]


def target(project: MakeProject, **more: Any) -> Project:
    memory = Memory("app").create("people", Schema("people", COLUMNS, key=("id",), **more))
    return project(PEOPLE, target="memory", memory=memory, people=people(2))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"triggers": ("stamp",)}, "app.people has triggers that migrated rows will fire: stamp"),
        ({"row_security": True}, "app.people: row-level security applies to this user"),
        ({"privileges": frozenset({"select"})}, "app.people: this user may not insert, update"),
    ],
)
def test_what_the_target_will_do_to_rows_is_told(project: MakeProject, more: dict[str, Any], said: str) -> None:
    assert [one for one in warnings(target(project, **more)) if said in one]
    assert not warnings(target(project))


def test_a_flow_that_points_at_a_later_one_is_told(project: MakeProject) -> None:
    key = ForeignKey("pets_owner", ("owner",), "people", ("id",))
    pets = Schema("pets", (COLUMNS[0], Column("owner", Kind.TEXT)), key=("id",), foreign_keys=(key,))
    memory = Memory("app").create("people", Schema("people", COLUMNS, key=("id",))).create("pets", pets)
    p = project(PETS + PEOPLE, target="memory", memory=memory, people=people(1), pets=[{"id": "a", "owner": "p0"}])
    assert warnings(p) == ["flow `pets` points at people, which a later flow fills"]
    p.flows(PEOPLE + PETS)
    assert not warnings(p)
