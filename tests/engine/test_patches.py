"""What patches of one run set: no two of them the same place to different things, and each in its own row."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resettle.engine.rollback import rollback
from resettle.errors import MappingError
from tests.engine.conftest import PEOPLE, MakeProject, Project, actions, counts, people, statuses

DOCS = "CREATE TABLE docs (id TEXT PRIMARY KEY, doc TEXT, note TEXT)"
EDITS = """
edits:
  from: src.edits
  unit: id
  outputs: {place: {into: app.docs, patch: id, columns: {id: doc, doc: {at: ptr, set: "value::json"}}}}
"""
NOTES = (
    "notes: {from: src.notes, unit: id, outputs: {row: {into: app.docs, patch: id, columns: {id: doc, note: text}}}}"
)


def edit(name: str, pointer: str, value: Any, doc: str = "d") -> dict[str, Any]:
    return {"id": name, "doc": doc, "ptr": pointer, "value": json.dumps(value)}


def docs(project: MakeProject, database: str, flows: str, text: str = '{"keep": 1}', **files: Any) -> Project:
    p = project(flows, DOCS, target=database, **files)
    p.sql(f"INSERT INTO docs VALUES ('d', '{text}', 'old'), ('e', '{{}}', 'old')")
    return p


@pytest.mark.parametrize("batch_size", [1, 100])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("/x", 1), ("/x", 2)),
        (("/a", {"c": 2}), ("/a/b", 5)),
        (("/a/b", 5), ("/a", {"c": 2})),
        (("/new", 1), ("/new", 2)),
    ],
    ids=["same", "inside", "around", "new"],
)
def test_of_two_that_set_one_place_differently_the_second_is_held(
    project: MakeProject, database: str, first: tuple[str, Any], second: tuple[str, Any], batch_size: int
) -> None:
    text = '{"x": 0, "a": {"b": {"c": 1}}, "keep": 1}'
    p = docs(project, database, EDITS, text, edits=[edit("1", *first), edit("2", *second)])
    p.defaults = {"batch_size": batch_size}
    planned = p.plan()
    assert counts(planned) == counts(p.apply(saved=planned))
    assert p.held == {"2": "place_taken"}
    after = dict(p.rows("docs", "id, doc"))["d"]
    for _ in range(2):
        assert json.loads(after)["keep"] == 1
        assert actions(p.apply()) == {"unchanged": 1, "conflict": 1}
        assert dict(p.rows("docs", "id, doc"))["d"] == after
    assert p.verify().exit_code == 0


def test_places_that_do_not_touch_and_equal_values_go_side_by_side(project: MakeProject, database: str) -> None:
    edits = [edit("1", "/x", 1), edit("2", "/y/z", 2), edit("3", "/x", 1), edit("4", "/xy", 3), edit("5", "/x", 9, "e")]
    p = docs(project, database, EDITS, '{"x": 0, "y": {}}', edits=edits)
    assert statuses(p.apply()) == {"done": 5}
    assert p.rows("docs", "doc") == [('{"x": 1, "y": {"z":2}, "xy": 3}',), ('{"x":9}',)]
    assert statuses(p.apply()) == {"unchanged": 5}


@pytest.mark.parametrize("batch_size", [1, 100])
def test_of_two_that_set_one_column_differently_the_second_is_held(
    project: MakeProject, database: str, batch_size: int
) -> None:
    notes = [{"id": str(n), "doc": doc, "text": text} for n, (doc, text) in enumerate(["dg", "ds", "dg", "es"])]
    p = docs(project, database, NOTES, notes=notes)
    p.defaults = {"batch_size": batch_size}
    planned = p.plan()
    assert statuses(planned) == statuses(p.apply(saved=planned)) == {"done": 3, "held": 1}
    assert p.held == {"1": "place_taken"}
    assert p.rows("docs", "id, note") == [("d", "g"), ("e", "s")]
    assert statuses(p.apply()) == {"unchanged": 3, "held": 1}


def test_a_patch_whose_record_names_another_row_is_held_and_undone_where_it_was(
    project: MakeProject, database: str
) -> None:
    p = docs(project, database, NOTES, notes=[{"id": "n", "doc": "d", "text": "gold"}])
    p.apply()
    p.put(notes=[{"id": "n", "doc": "e", "text": "gold"}])
    p.apply()
    assert p.held == {"n": "key_changed"}
    with p.opened() as opened:
        options, now = p.options({})
        assert rollback(*opened, options, now, 1).exit_code == 0
    assert p.rows("docs", "id, note") == [("d", "old"), ("e", "old")]


def test_two_outputs_of_a_flow_do_not_patch_one_column(project: MakeProject) -> None:
    output = "{into: app.docs, patch: id, columns: {id: doc, doc: {at: \"'/%s'\", set: value}}}"
    flows = f"edits: {{from: src.edits, unit: id, outputs: {{a: {output % 'a'}, b: {output % 'b'}}}}}"
    p = project(flows, DOCS, edits=[edit("1", "/x", 1)])
    with pytest.raises(MappingError, match="`a` and `b` both patch `doc`"):
        p.plan()


def test_a_plan_foresees_an_edit_in_a_document_that_an_earlier_flow_makes(project: MakeProject, database: str) -> None:
    edits = EDITS.replace("app.docs", "app.people").replace("doc: {at", "note: {at")
    flows = PEOPLE.replace("age: age", "age: age, note: note") + edits
    p = project(flows, target=database, people=[one | {"note": "{}"} for one in people(2)])
    p.put(edits=[edit("1", "/x", 1, "p1")])
    planned = p.plan()
    assert counts(planned) == counts(p.apply(saved=planned))
    assert p.rows("people", "id, note") == [("p0", "{}"), ("p1", '{"x":1}')]
