"""What a reviewer found: ways in which a record could be lost, merged or overwritten unseen."""

from __future__ import annotations

import pytest

from resettle.errors import MappingError
from tests.engine.conftest import MakeProject, actions, counts, people, person, statuses

ALIASED = """
people:
  from: src.people
  unit: id
  into: app.people
  columns: {id: "coalesce(alias, id)", name: name}
"""


@pytest.mark.parametrize("size", [1, 10])
def test_two_records_with_one_key_are_never_merged_in_one_run(project: MakeProject, database: str, size: int) -> None:
    rows = [{"id": "a", "alias": "b", "name": "Anna"}, {"id": "b", "alias": None, "name": "Anna"}]
    p = project(ALIASED, target=database, people=rows)
    p.defaults = {"batch_size": size}
    assert counts(p.plan()) == counts(p.apply())
    assert p.held == {"b": "duplicate_key"}


def test_two_records_with_one_key_are_never_merged_across_runs(project: MakeProject, database: str) -> None:
    first, second = {"id": "a", "alias": "b", "name": "Anna"}, {"id": "b", "alias": None, "name": "Anna"}
    p = project(ALIASED, target=database, people=[first])
    p.apply()
    p.put(people=[first, second])
    assert counts(p.plan()) == counts(p.apply())
    assert p.held == {"b": "duplicate_key"}


TWO = """
people:
  from: src.people
  unit: id
  outputs:
    adults: {into: app.adults, rows: "SELECT * FROM source WHERE age = '30'", columns: {id: id}}
    everybody: {into: app.people, columns: {id: id, name: name}}
"""
TABLES = ["CREATE TABLE adults (id TEXT PRIMARY KEY)", "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT)"]


def test_a_record_that_changes_and_changes_back_changes_its_row_back(project: MakeProject, database: str) -> None:
    p = project(TWO, TABLES, target=database, people=[{"id": "a", "name": "One", "age": "30"}])
    p.apply()
    p.put(people=[{"id": "a", "name": "Two", "age": "31"}])
    p.apply()
    p.put(people=[{"id": "a", "name": "One", "age": "30"}])
    p.apply()
    assert p.rows("people", "name") == [("One",)]


def test_a_gained_column_does_not_overwrite_what_a_person_wrote_there(project: MakeProject, database: str) -> None:
    flow = "people: {from: src.people, unit: id, into: app.people, columns: {id: id, name: name}}"
    table = "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT, note TEXT)"
    p = project(flow, table, target=database, people=people(2))
    p.apply()
    p.sql("UPDATE people SET note = 'by a person' WHERE id = 'p0'")
    p.flows(flow.replace("name: name", "name: name, note: name"))
    p.apply()
    assert p.held == {"p0": "edited_in_target"}
    assert sorted(p.rows("people", "note")) == [("Name 1",), ("by a person",)]


def test_an_output_that_moves_to_another_table_is_refused(project: MakeProject, database: str) -> None:
    flow = "people: {from: src.people, unit: id, into: app.people, columns: {id: id, name: name}}"
    tables = [f"CREATE TABLE {name} (id TEXT PRIMARY KEY, name TEXT)" for name in ("people", "others")]
    p = project(flow, tables, target=database, people=people(1))
    p.apply()
    p.flows(flow.replace("app.people", "app.others"))
    for phase in (p.plan, p.apply):
        with pytest.raises(MappingError, match=r"made its rows in app\.people"):
            phase()


def test_a_record_that_the_rows_query_leaves_out_is_skipped_visibly(project: MakeProject, database: str) -> None:
    flow = """
people:
  from: src.people
  unit: id
  rows: "SELECT * FROM source WHERE name <> 'Name 1'"
  into: app.people
  columns: {id: id, name: name}
"""
    table = "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT)"
    p = project(flow, table, target=database, people=people(3))
    applied = p.apply()
    assert statuses(applied) == {"done": 2, "skipped": 1}
    assert applied.counts[0].reasons == {"no_rows": 1}
    assert not actions(p.apply())


def test_a_minted_value_that_a_reused_row_has_otherwise_cannot_be_pointed_at(project: MakeProject) -> None:
    flow = """
people:
  from: src.people
  unit: id
  outputs:
    who: {into: app.who, match: name, columns: {id: {mint: uuid}, token: {mint: uuid}, name: name}}
    book: {into: app.books, columns: {id: id, author: who.token}}
"""
    tables = [
        "CREATE TABLE who (id TEXT PRIMARY KEY, token TEXT, name TEXT)",
        "CREATE TABLE books (id TEXT PRIMARY KEY, author TEXT)",
    ]
    p = project(flow, tables, target="sqlite", people=[person(0)])
    with pytest.raises(MappingError, match="is minted"):
        p.plan()


def test_files_of_one_dataset_may_differ_in_the_order_of_their_columns(project: MakeProject, database: str) -> None:
    flow = "people: {from: src.people, unit: id, into: app.people, columns: {id: id, name: name}}"
    table = "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT)"
    p = project(flow, table, target=database)
    folder = p.root / "source" / "people"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "1.csv").write_text("id,name\na,b\n")
    (folder / "2.csv").write_text("name,id\nd,c\n")
    p.apply()
    assert p.rows("people", "id, name") == [("a", "b"), ("c", "d")]
    (folder / "1.csv").write_text("name,id\na,b\n")
    assert statuses(p.apply())["done"] == 1
