"""explain: a held record's rows, as they are and as they should be."""

from __future__ import annotations

from resettle.engine.explain import Side, explain
from tests.engine.conftest import MakeProject, Project, people, person
from tests.engine.test_units import item, lessons, write


def explained(p: Project, flow: str, unit: str) -> list[Side]:
    with p.opened() as (migration, connections, ledger):
        options, now = p.options({})
        return explain(migration, connections, ledger, options, now, flow, unit)


def test_a_conflict_is_told_with_what_is_there_and_what_we_would_write(project: MakeProject, database: str) -> None:
    p = project(target=database, people=people(3))
    p.apply()
    p.sql("UPDATE people SET age = 99 WHERE id = 'p1'", "DELETE FROM people WHERE id = 'p2'")
    p.put(people=[person(0), person(1, "New"), person(2, "New")])
    p.apply()
    assert p.held == {"p1": "edited_in_target", "p2": "deleted_in_target"}
    (edited,), (gone,) = explained(p, "people", "p1"), explained(p, "people", "p2")
    assert edited == Side("row", "p1", 1, False, {"name": ("Name 1", "New"), "age": (99, 31)})
    assert (gone.wrote, gone.left, gone.fields["name"]) == (1, None, (None, "New"))


def test_a_row_that_we_never_wrote_is_told_as_such(project: MakeProject, database: str) -> None:
    p = project(target=database, people=people(1))
    p.sql("INSERT INTO people VALUES ('p0', 'Theirs', 1, NULL)")
    p.apply()
    assert explained(p, "people", "p0") == [
        Side("row", "p0", None, None, {"name": ("Theirs", "Name 0"), "age": (1, 30)})
    ]


def test_every_row_of_a_unit_is_told_and_one_that_is_as_we_left_it_says_so(project: MakeProject, database: str) -> None:
    p = lessons(project, database, a=[item("upload", "k1", title="T")])
    p.apply()
    write(p, "a", [item("upload", "k1", title="New")])
    asset, usage = explained(p, "lessons", "a")
    assert (asset.output, asset.wrote, asset.left, asset.fields) == ("uploads", 1, True, {"title": ("T", "New")})
    assert (usage.output, usage.fields) == ("usages", {})
    assert explained(p, "lessons", "nobody") == []
