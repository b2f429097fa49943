"""Drift: what changed or vanished in the target since we wrote it, without a look at the source."""

from __future__ import annotations

import json

import pytest

from resettle.engine import drift as drifting
from tests.engine.conftest import PEOPLE, MakeProject, Project, people, person
from tests.engine.test_units import item, lessons, payload

Found = list[tuple[str, str, str, str]]


def drift(p: Project, **options: object) -> tuple[int, Found]:
    """Rows compared, and (flow, output, unit, kind) of each that drifted."""
    with p.opened() as opened:
        found = drifting.drift(*opened, p.options(options)[0])
    listed = sorted((one.flow, one.output, one.unit, one.kind) for flow in found for one in flow.listed)
    assert len(listed) == sum(flow.counts.total() for flow in found)
    return sum(flow.rows for flow in found), listed


@pytest.mark.parametrize("size", [2, 100])
def test_rows_that_changed_or_vanished_are_found(project: MakeProject, database: str, size: int) -> None:
    p = project(target=database, people=people(5))
    assert drift(p) == (0, [])
    p.apply()
    p.sql("INSERT INTO people VALUES ('theirs', 'T', 1, 'n')", "UPDATE people SET note = 'theirs'")
    assert drift(p, batch_size=size) == (5, [])
    p.sql("UPDATE people SET name = 'edited' WHERE id = 'p1'", "DELETE FROM people WHERE id = 'p3'")
    expected = [("people", "row", "p1", "changed"), ("people", "row", "p3", "vanished")]
    assert drift(p, batch_size=size) == (5, expected)
    (p.root / "source" / "people.jsonl").unlink()
    assert drift(p) == (5, expected), "the source is not read"


def test_what_we_changed_ourselves_has_not_drifted(project: MakeProject, database: str) -> None:
    p = project(target=database, people=people(3))
    p.apply()
    p.put(people=[person(0, "Changed"), *people(3)[1:]])
    p.apply()
    assert drift(p) == (3, [])


def test_a_patched_place_that_was_overwritten_has_drifted_and_the_rest_of_the_document_has_not(
    project: MakeProject, database: str
) -> None:
    p = lessons(project, database, a=[item("upload", "k1"), item("link", "u1")], b=[item("link", "u2")])
    p.apply()
    edited = payload(p, "a")
    edited[0]["title"] = "new"
    p.sql(f"UPDATE lessons SET items = '{json.dumps(edited)}' WHERE id = 'a'")
    assert drift(p) == (9, [])
    edited[1]["assetId"] = "mine"
    p.sql(f"UPDATE lessons SET items = '{json.dumps(edited)}' WHERE id = 'a'", "DELETE FROM lessons WHERE id = 'b'")
    assert drift(p) == (9, [("lessons", "payload", "a", "changed"), ("lessons", "payload", "b", "vanished")])


def test_rows_that_were_there_before_us_are_their_owners(project: MakeProject, database: str) -> None:
    flows = PEOPLE.replace("into: app.people", "into: app.people\n  on_conflict: target")
    p = project(flows, target=database, people=people(2))
    p.sql("INSERT INTO people VALUES ('p0', 'theirs', 1, 'n')")
    p.apply()
    p.sql("UPDATE people SET name = 'x' WHERE id = 'p0'")
    assert drift(p) == (1, [])


def test_a_value_that_its_column_should_not_hold_is_a_change(project: MakeProject) -> None:
    p = project(people=people(4))
    p.apply()
    p.sql("UPDATE people SET age = 'old' WHERE id = 'p2'")
    assert drift(p) == (4, [("people", "row", "p2", "changed")])


def test_a_table_that_lost_a_column_of_ours_has_drifted(project: MakeProject, database: str) -> None:
    p = project(target=database, people=people(1))
    p.apply()
    p.sql("ALTER TABLE people DROP COLUMN age")
    p.flows(PEOPLE.replace(", age: age", ""))
    assert drift(p) == (1, [("people", "row", "p0", "changed")])


def test_only_the_selected_flows_are_compared(project: MakeProject) -> None:
    both = PEOPLE + PEOPLE.replace("people:", "others:", 1).replace("id: id", "id: \"'o' || id\"")
    p = project(both, people=people(2))
    p.apply()
    p.sql("DELETE FROM people")
    compared, found = drift(p, select=("others",))
    assert (compared, {one[0] for one in found}) == (2, {"others"})
