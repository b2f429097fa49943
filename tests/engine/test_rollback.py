"""A rolled back run leaves the target byte for byte as it was before, or leaves a unit alone and says why."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from resettle.batch import Column, Kind, Schema
from resettle.connectors.memory import Memory
from resettle.engine import rollback as rolling
from resettle.errors import ConfigError, LockedError
from resettle.sandbox.d1 import LOST, start_d1
from tests.engine.conftest import PEOPLE, MakeProject, Project, actions, people, person, statuses
from tests.engine.test_units import item, lessons, payload

FAMILY = """
people:
  from: src.people
  unit: id
  outputs:
    person: {into: app.people, columns: {id: id, name: name, age: age}}
    card: {into: app.cards, columns: {id: "'card of ' || id", owner: person.id}}
pets:
  from: src.pets
  unit: id
  into: app.pets
  columns: {id: id, owner: owner}
"""
TABLES = (
    "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT NOT NULL, age INTEGER, note TEXT)",
    "CREATE TABLE cards (id TEXT PRIMARY KEY, owner TEXT NOT NULL REFERENCES people (id) ON DELETE CASCADE)",
    "CREATE TABLE pets (id TEXT PRIMARY KEY, owner TEXT REFERENCES people (id) ON DELETE SET NULL)",
)
SOURCE = """
people:
  from: src.people
  unit: id
  on_conflict: {policy}
  into: app.people
  columns: {{id: id, name: name, age: age}}
"""


def rollback(p: Project, of: int, **options: Any) -> rolling.RolledBack:
    with p.opened() as opened:
        given, now = p.options(options)
        return rolling.rollback(*opened, given, now, of)


def plan(p: Project, of: int, **options: Any) -> rolling.RolledBack:
    with p.opened() as opened:
        return rolling.plan_rollback(*opened, p.options(options)[0], of)


def rows(done: rolling.RolledBack) -> dict[str, int]:
    """Rows by what was done with them; empty words left out."""
    words = {word: sum(flow.total(word) for flow in done.flows) for word in ("deleted", "restored", "forgotten")}
    return {word: count for word, count in words.items() if count}


def kept(done: rolling.RolledBack) -> dict[str, str]:
    return {one.unit: one.reason for flow in done.flows for one in flow.listed}


def tables(p: Project, *names: str) -> list[list[tuple[Any, ...]]]:
    """Every cell of these tables, as text where the database keeps text."""
    cast = "CAST(t AS text)" if p.kind == "postgres" else "*"
    return [sorted(p.sql(f"SELECT {cast} FROM {name} t"), key=repr) for name in names]


def family(project: MakeProject, database: str, count: int = 6) -> Project:
    pets = [{"id": f"a{n}", "owner": f"p{n}"} for n in range(count)]
    p = project(FAMILY, TABLES, target=database, people=people(count), pets=pets)
    p.sql("INSERT INTO people VALUES ('x', 'Theirs', 1, 'n')", "INSERT INTO cards VALUES ('x', 'x')")
    return p


FAMILY_TABLES = ("people", "cards", "pets")


@pytest.mark.parametrize("size", [1, 4, 100])
def test_after_a_rollback_every_table_is_as_it_was(project: MakeProject, database: str, size: int) -> None:
    p = family(project, database)
    before = tables(p, *FAMILY_TABLES)
    p.apply()
    planned = plan(p, 1, batch_size=size)
    assert tables(p, *FAMILY_TABLES) != before, "a plan writes nothing"
    done = rollback(p, 1, batch_size=size)
    assert tables(p, *FAMILY_TABLES) == before
    assert [flow.as_json() for flow in planned.flows] == [flow.as_json() for flow in done.flows]
    assert (rows(done), done.kept, done.exit_code) == ({"deleted": 18}, 0, 0)
    assert p.remembered() == {"rows": [], "units": []}


def test_what_a_run_changed_is_put_back_and_can_be_applied_again(project: MakeProject, database: str) -> None:
    p = family(project, database)
    p.apply()
    first, memory = tables(p, *FAMILY_TABLES), p.remembered()["rows"]
    p.put(people=[*(person(n, "Changed") for n in range(3)), *people(8)[3:]])
    p.apply()
    second = tables(p, *FAMILY_TABLES)
    planned = plan(p, 2)
    done = rollback(p, 2)
    assert tables(p, *FAMILY_TABLES) == first
    assert rows(planned) == rows(done) == {"restored": 3, "deleted": 4}
    again = [(*row[:6], row[7]) for row in p.remembered()["rows"]]
    assert again == [(*row[:6], row[7]) for row in memory], "the ledger too, but for the hashes of records"
    assert statuses(p.apply())["done"] == 5
    assert tables(p, *FAMILY_TABLES) == second
    p.apply()
    assert p.verify().exit_code == 0


def test_that_a_record_caught_up_with_an_edit_is_forgotten_too(project: MakeProject, database: str) -> None:
    p = project(target=database, people=[person(1)])
    p.apply()
    p.sql("UPDATE people SET name = 'Edited'")
    memory = p.remembered()["rows"]
    p.put(people=[person(1, "Edited")])
    assert actions(p.apply()) == {"unchanged": 1}
    assert kept(rollback(p, 2)) == {}
    assert [row[:6] for row in p.remembered()["rows"]] == [row[:6] for row in memory]
    p.put(people=[person(1, "Changed")])
    p.apply()
    assert p.held == {"p1": "edited_in_target"}, "we know again that the edit is somebody else's"


def test_two_runs_are_undone_one_after_the_other(project: MakeProject, database: str) -> None:
    p = family(project, database)
    before = tables(p, *FAMILY_TABLES)
    p.apply()
    p.put(people=[person(n, "Changed") for n in range(9)])
    p.apply()
    first = rollback(p, 1)
    assert kept(first) == dict.fromkeys((f"p{n}" for n in range(6)), "changed_by_run 2")
    assert first.exit_code == 3
    assert rollback(p, 2).exit_code == 0
    assert rollback(p, 1).exit_code == 0
    assert tables(p, *FAMILY_TABLES) == before
    p.put(people=people(6))
    p.apply()
    assert len(p.rows("cards")) == 7


def test_a_unit_that_somebody_changed_is_kept_whole_and_listed(project: MakeProject, database: str) -> None:
    p = family(project, database)
    p.apply()
    p.sql("UPDATE cards SET owner = 'x' WHERE id = 'card of p1'", "UPDATE people SET name = 'edited' WHERE id = 'p2'")
    p.sql("DELETE FROM pets WHERE id = 'a3'")
    planned, done = plan(p, 1), rollback(p, 1)
    assert kept(planned) == kept(done) == {"p1": "changed_since", "p2": "changed_since"}
    assert [one.as_json() for one in planned.flows] == [one.as_json() for one in done.flows]
    assert [row[0] for row in p.rows("people")] == ["p1", "p2", "x"]
    assert [row[0] for row in p.rows("cards")] == ["card of p1", "card of p2", "x"]
    assert rows(done) == {"deleted": 5 + 8, "forgotten": 1}
    p.sql("UPDATE cards SET owner = 'p1' WHERE id = 'card of p1'")
    assert kept(rollback(p, 1)) == {"p2": "changed_since"}


def test_an_edit_of_a_column_that_is_not_ours_goes_with_the_row_we_made(project: MakeProject, database: str) -> None:
    p = family(project, database, 1)
    p.apply()
    p.sql("UPDATE people SET note = 'seen'")
    assert rows(rollback(p, 1)) == {"deleted": 3}


def test_a_row_that_others_point_at_is_kept_and_so_are_theirs(project: MakeProject, database: str) -> None:
    p = family(project, database)
    p.apply()
    p.sql("INSERT INTO cards VALUES ('theirs', 'p1')", "INSERT INTO pets VALUES ('theirs', 'p2')")
    planned, done = plan(p, 1), rollback(p, 1)
    assert kept(planned) == kept(done) == {"p1": "referenced", "p2": "referenced"}
    assert ("theirs", "p1") in p.rows("cards")
    assert ("theirs", "p2") in p.rows("pets")
    assert [row[0] for row in p.rows("people")] == ["p1", "p2", "x"]
    p.sql("DELETE FROM cards WHERE id = 'theirs'", "DELETE FROM pets WHERE id = 'theirs'")
    assert rollback(p, 1).exit_code == 0
    assert [row[0] for row in p.rows("people")] == ["x"]


@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_tree_is_undone_from_its_leaves_in_as_many_passes_as_that_takes(
    project: MakeProject, database: str, size: int
) -> None:
    flows = "nodes: {from: src.nodes, unit: id, into: app.nodes, columns: {id: id, parent: parent}}"
    table = "CREATE TABLE nodes (id TEXT PRIMARY KEY, parent TEXT REFERENCES nodes (id) ON DELETE CASCADE)"
    nodes = [{"id": f"n{n}", "parent": f"n{n - 1}" if n else None} for n in range(5)]
    p = project(flows, table, target=database, nodes=nodes)
    p.apply()
    planned, done = plan(p, 1, batch_size=size), rollback(p, 1, batch_size=size)
    assert (rows(planned), rows(done), p.rows("nodes")) == ({"deleted": 5}, {"deleted": 5}, [])
    p.apply()
    p.sql("INSERT INTO nodes VALUES ('z', 'n3')")
    done = rollback(p, p_run(p), batch_size=size)
    assert kept(done) == dict.fromkeys(("n0", "n1", "n2", "n3"), "referenced")
    assert [row[0] for row in p.rows("nodes")] == ["n0", "n1", "n2", "n3", "z"]


def p_run(p: Project) -> int:
    """The last apply."""
    with p.ledger() as ledger:
        return next(int(run["run"]) for run in ledger.runs() if run["phase"] == "apply")


def test_a_row_that_a_run_turned_to_what_it_made_does_not_keep_it(project: MakeProject, database: str) -> None:
    flows = """
    groups: {from: src.groups, unit: id, into: app.teams, columns: {id: id}}
    people: {from: src.people, unit: id, into: app.people, columns: {id: id, team: team}}
    """
    made = ("CREATE TABLE teams (id TEXT PRIMARY KEY)",
            "CREATE TABLE people (id TEXT PRIMARY KEY, team TEXT REFERENCES teams (id) ON DELETE CASCADE)")  # fmt: skip
    p = project(flows, made, target=database, groups=[{"id": "g1"}], people=[{"id": "p1", "team": "g1"}])
    p.apply()
    before = tables(p, "teams", "people")
    p.put(groups=[{"id": "g1"}, {"id": "g2"}], people=[{"id": "p1", "team": "g2"}])
    p.apply()
    planned, done = plan(p, 2), rollback(p, 2)
    assert rows(planned) == rows(done) == {"restored": 1, "deleted": 1}
    assert tables(p, "teams", "people") == before


@pytest.mark.parametrize("size", [1, 100])
def test_units_with_reuse_links_and_patches_are_undone_to_the_last_character(
    project: MakeProject, database: str, size: int
) -> None:
    text = (
        '[ {"type":"upload" , "key":"k1","n":1.50, "u":"\\u00e9"},\n'
        '  {"type":"link","url":"u1","assetId":"stale"} , 7 ]'
    )
    p = lessons(project, database, a=text, b=[item("upload", "k1"), item("upload", "k9")], c=[])
    there = "00000000-0000-4000-8000-000000000001"
    p.sql(f"INSERT INTO assets (id, org, provider, storage_key, title) VALUES ('{there}', 'o1', 'upload', 'k9', 'T')")
    before = tables(p, "assets", "usages", "lessons")
    p.apply(batch_size=size)
    applied = tables(p, "assets", "usages", "lessons")
    assert applied != before
    planned, done = plan(p, 1, batch_size=size), rollback(p, 1, batch_size=size)
    assert tables(p, "assets", "usages", "lessons") == before
    assert rows(planned) == rows(done) == {"deleted": 2 + 4, "restored": 4, "forgotten": 2}
    assert p.remembered() == {"rows": [], "units": []}
    p.apply(batch_size=size)
    assert len(p.rows("usages")) == 4
    assert p.verify().exit_code == 0


@pytest.mark.parametrize("size", [1, 100])
@pytest.mark.parametrize("text", ['{"m": { } , "n":{"z":1}}', '{"m":{},"n":{"z" : 1 , "y":2}}'])
def test_patches_that_touch_each_other_are_taken_back_to_the_last_character(
    project: MakeProject, text: str, size: int
) -> None:
    flows = """
    notes:
      from: src.notes
      unit: id
      outputs:
        put: {into: app.docs, patch: id, columns: {id: "'d'", doc: {at: place, set: value}}}
    """
    places = ["/m/a", "/m/b", "/n/c", "/n/d", "/m/c", "/n/z"]
    notes = [{"id": f"n{n}", "place": place, "value": f"v{n}"} for n, place in enumerate(places)]
    p = project(flows, "CREATE TABLE docs (id TEXT PRIMARY KEY, doc JSON)", notes=notes)
    p.sql(f"INSERT INTO docs VALUES ('d', '{text}')")
    assert actions(p.apply(batch_size=size)) == {"patch": 6}
    ((patched,),) = p.rows("docs", "doc")
    assert json.loads(patched)["m"] == {"a": "v0", "b": "v1", "c": "v4"}
    assert rows(rollback(p, 1, batch_size=size)) == {"restored": 6}
    assert p.rows("docs") == [("d", text)]


def test_a_patch_is_taken_back_though_the_rest_of_the_document_was_edited(project: MakeProject, database: str) -> None:
    p = lessons(project, database, a=[item("upload", "k1"), item("link", "u1")])
    p.apply()
    edited = payload(p, "a")
    edited[0]["title"] = "new"
    p.sql(f"UPDATE lessons SET items = '{json.dumps(edited)}'")
    assert rollback(p, 1).exit_code == 0
    assert payload(p, "a") == [item("upload", "k1", title="new"), item("link", "u1")]


def test_a_patch_that_somebody_overwrote_keeps_its_unit_whole(project: MakeProject, database: str) -> None:
    p = lessons(project, database, a=[item("upload", "k1"), item("link", "u1")], b=[item("link", "u2")])
    p.apply()
    edited = payload(p, "a")
    edited[1]["assetId"] = "mine"
    p.sql(f"UPDATE lessons SET items = '{json.dumps(edited)}' WHERE id = 'a'")
    planned, done = plan(p, 1), rollback(p, 1)
    assert kept(planned) == kept(done) == {"a": "changed_since"}
    assert (payload(p, "a"), payload(p, "b")) == (edited, [item("link", "u2")])
    assert p.sql("SELECT count(*) FROM usages") == [(2,)]


def test_a_row_that_a_kept_unit_reuses_is_kept(project: MakeProject) -> None:
    p = lessons(project, "sqlite", a=[item("upload", "k1")], b=[item("upload", "k1")], c=[item("upload", "k2")])
    p.apply()
    edited = payload(p, "b")
    edited[0]["assetId"] = "mine"
    p.sql(f"UPDATE lessons SET items = '{json.dumps(edited)}' WHERE id = 'b'")
    p.sql("DELETE FROM usages WHERE lesson = 'b'")
    planned, done = plan(p, 1), rollback(p, 1)
    assert kept(planned) == kept(done) == {"a": "reused", "b": "changed_since"}
    assert p.sql("SELECT storage_key FROM assets") == [("k1",)]


def test_a_row_that_a_unit_reuses_which_others_point_at_is_kept(project: MakeProject, database: str) -> None:
    p = lessons(project, database, a=[item("upload", "k1")], b=[item("upload", "k1"), item("upload", "k3")])
    p.apply()
    other = "00000000-0000-4000-8000-000000000007"
    p.sql(f"INSERT INTO usages SELECT '{other}', id, 'theirs', null, 1 FROM assets WHERE storage_key = 'k3'")
    assert kept(plan(p, 1)) == {"a": "referenced", "b": "referenced"}, "by the usages of b, which is kept"
    p.sql("DELETE FROM usages WHERE lesson = 'b' AND position = 0")
    planned, done = plan(p, 1), rollback(p, 1)
    assert kept(planned) == kept(done) == {"a": "reused", "b": "referenced"}
    assert p.sql("SELECT count(*) FROM assets") == [(2,)]


def test_whole_columns_of_every_type_that_a_patch_set_are_put_back(project: MakeProject, database: str) -> None:
    types = {
        "postgres": ("uuid", "numeric(20,5)", "timestamptz", "bytea", "jsonb", "double precision", "boolean"),
        "sqlite": ("UUID", "DECIMAL(20,5)", "TIMESTAMPTZ", "BLOB", "JSON", "REAL", "BOOLEAN"),
    }[database]
    names = ("u", "n", "t", "b", "j", "f", "o")
    columns = ", ".join(f"{name} {kind}" for name, kind in zip(names, types, strict=True))
    new = {"u": "'00000000-0000-4000-8000-000000000002'", "n": "'7.25'", "t": "'2026-01-02T03:04:05.678901Z'",
           "b": "unhex('00ff')", "j": "'{\"a\": [1.10]}'", "f": "0.1", "o": "true"}  # fmt: skip
    mapped = ", ".join(f"{name}: {json.dumps(value)}" for name, value in new.items())
    output = f"{{into: app.things, patch: id, columns: {{id: id, {mapped}}}}}"
    flows = f"things: {{from: src.things, unit: id, outputs: {{all: {output}}}}}"
    p = project(flows, f"CREATE TABLE things (id TEXT PRIMARY KEY, {columns}, other TEXT)", target=database,
                things=[{"id": "full"}, {"id": "empty"}])  # fmt: skip
    blob = "'\\xdeadbeef'" if database == "postgres" else "x'deadbeef'"
    p.sql(
        "INSERT INTO things VALUES ('full', '00000000-0000-4000-8000-000000000001', 12345678901234.50001,"
        f" '2001-02-03 04:05:06.000007+00:00', {blob}, '{{\"b\": 2, \"a\": 1.50}}', 0.30000000000000004, false, 'n')",
        "INSERT INTO things (id) VALUES ('empty')",
    )
    before = tables(p, "things")
    assert actions(p.apply()) == {"patch": 2}
    assert rows(rollback(p, 1)) == {"restored": 2}
    assert tables(p, "things") == before


def test_what_on_conflict_source_overwrote_is_theirs_again(project: MakeProject, database: str) -> None:
    p = project(SOURCE.format(policy="target"), TABLES[0], target=database, people=[person(1, "ours")])
    p.sql("INSERT INTO people VALUES ('p1', 'theirs', 3, 'n')")
    before = tables(p, "people")
    assert actions(p.apply()) == {"reuse": 1}
    p.flows(SOURCE.format(policy="source"))
    p.put(people=[person(1, "newer")])
    assert actions(p.apply()) == {"update": 1}
    assert rows(rollback(p, 2)) == {"restored": 1}
    assert tables(p, "people") == before
    assert rows(rollback(p, 1)) == {"forgotten": 1}
    assert tables(p, "people") == before, "a row that was there before us is never deleted"


def test_an_edit_that_a_run_overwrote_is_an_edit_again(project: MakeProject, database: str) -> None:
    p = project(SOURCE.format(policy="source"), TABLES[0], target=database, people=[person(1, "first")])
    p.apply()
    p.sql("UPDATE people SET name = 'edited'")
    p.put(people=[person(1, "second")])
    assert actions(p.apply()) == {"update": 1}
    rollback(p, 2)
    assert p.rows("people", "name") == [("edited",)]
    assert kept(rollback(p, 1)) == {"p1": "changed_since"}


def test_a_row_that_a_run_left_to_its_owner_is_ours_again(project: MakeProject, database: str) -> None:
    p = project(SOURCE.format(policy="target"), TABLES[0], target=database, people=[person(1, "first")])
    p.apply()
    p.sql("UPDATE people SET name = 'edited'")
    p.put(people=[person(1, "second")])

    def known() -> list[Any]:
        return [(fingerprint, bool(reused)) for *_, fingerprint, _, reused in p.remembered()["rows"]]

    before = known()
    assert actions(p.apply()) == {"reuse": 1}
    assert known() != before
    assert (rows(rollback(p, 2)), p.rows("people", "name")) == ({}, [("edited",)])
    assert known() == before
    assert kept(rollback(p, 1)) == {"p1": "changed_since"}


def test_a_row_first_seen_by_overwriting_it_is_forgotten_once_restored(project: MakeProject, database: str) -> None:
    p = project(SOURCE.format(policy="source"), TABLES[0], target=database, people=[person(1, "ours")])
    p.sql("INSERT INTO people VALUES ('p1', 'theirs', 3, 'n')")
    before = tables(p, "people")
    p.apply()
    rollback(p, 1)
    assert (tables(p, "people"), p.remembered()["rows"]) == (before, [])
    assert actions(p.apply()) == {"update": 1}
    assert p.rows("people", "name") == [("ours",)]


def test_a_column_that_counts_updates_is_put_back_too(project: MakeProject, database: str) -> None:
    flows = """
    people:
      from: src.people
      unit: id
      into: app.people
      columns: {id: id, name: name, version: {create: "1", update: target.version + 1}}
    """
    made = "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT, version INTEGER NOT NULL)"
    p = project(flows, made, target=database, people=[{"id": "p1", "name": "a"}])
    p.apply()
    p.put(people=[{"id": "p1", "name": "b"}])
    p.apply()
    rollback(p, 2)
    assert p.rows("people") == [("p1", "a", 1)]


def test_where_and_select_say_how_much_is_undone(project: MakeProject, database: str) -> None:
    p = family(project, database)
    p.apply()
    planned = plan(p, 1, select=("pets",), where="owner > 'p3'")
    done = rollback(p, 1, select=("pets",), where="owner > 'p3'")
    assert rows(planned) == rows(done) == {"deleted": 2}
    assert [row[0] for row in p.rows("pets")] == ["a0", "a1", "a2", "a3"]
    done = rollback(p, 1, where="name IN ('Name 4', 'Name 0')")
    assert (rows(done), kept(done)) == ({"deleted": 2}, {"p0": "referenced"})
    assert rows(rollback(p, 1, select=("people",), where="age = 35")) == {"deleted": 2}
    assert [row[0] for row in p.rows("people")] == ["p0", "p1", "p2", "p3", "x"]
    assert rows(rollback(p, 1)) == {"deleted": 4 + 8}


@pytest.mark.parametrize(
    ("where", "message"),
    [("nme = 'x'", "column `nme`"), ("id = = 1", "bad SQL"), ("owner = 'x' AND age = 1", "all of owner, age")],
)
def test_a_condition_that_makes_no_sense_is_refused(project: MakeProject, where: str, message: str) -> None:
    p = family(project, "sqlite")
    p.apply()
    with pytest.raises(ConfigError, match=message):
        plan(p, 1, where=where)


def test_only_a_run_that_wrote_can_be_rolled_back(project: MakeProject) -> None:
    p = family(project, "sqlite")
    with pytest.raises(ConfigError, match="no run 1"):
        plan(p, 1)
    p.apply()
    rollback(p, 1)
    with pytest.raises(ConfigError, match="run 2 is a rollback") as refused:
        rollback(p, 2)
    assert refused.value.hint == "runs that can be rolled back: 1 (done)"
    with pytest.raises(ConfigError, match="flow `person`"):
        plan(p, 1, select=("person",))


def test_a_rollback_is_a_run_and_waits_for_no_other(project: MakeProject, database: str) -> None:
    p = family(project, database)
    p.apply()
    with p.ledger() as ledger, ledger.run("apply", {}, datetime.now(UTC), lock=True):
        with pytest.raises(LockedError):
            rollback(p, 1)
        with pytest.raises(LockedError):
            plan(p, 2)
    rollback(p, 1, where="true", select=("pets",))
    with p.ledger() as ledger:
        run = ledger.runs(1)[0]
    assert (run["phase"], run["status"], run["options"]) == (
        "rollback", "done", {"run": 1, "select": ["pets"], "where": "true"},
    )  # fmt: skip
    assert run["summary"]["flows"][0]["deleted"] == 6
    assert run["completed_at"] is not None


def test_held_and_skipped_records_of_the_run_are_looked_at_again(project: MakeProject, database: str) -> None:
    p = project(target=database, people=[person(1), {**person(2), "age": "old"}])
    assert statuses(p.apply()) == {"done": 1, "held": 1}
    assert rollback(p, 1).exit_code == 0
    assert p.remembered() == {"rows": [], "units": []}
    assert statuses(p.apply()) == {"done": 1, "held": 1}
    p.put(people=[person(1), person(2)])
    p.apply()
    last = p_run(p)
    assert rollback(p, last).exit_code == 0
    assert [row[0] for row in p.rows("people")] == ["p1"]
    assert statuses(p.apply())["done"] == 1


def test_a_waiver_outlives_the_run_that_it_was_about(project: MakeProject, database: str) -> None:
    p = project(target=database, people=[person(1), {**person(2), "age": "old"}])
    p.apply()
    with p.ledger() as ledger:
        ledger.waive(None, None, ["p2"], "test data")
    rollback(p, 1)
    assert statuses(p.apply()) == {"done": 1, "skipped": 1}


def test_a_record_that_only_this_run_held_is_looked_at_as_if_it_had_not(project: MakeProject, database: str) -> None:
    p = project(target=database, people=[person(1, "first")])
    p.apply()
    p.sql("UPDATE people SET name = 'edited'")
    p.put(people=[person(1, "second")])
    p.apply()
    assert p.held == {"p1": "edited_in_target"}
    p.sql("UPDATE people SET name = 'first'")
    assert rows(rollback(p, 2)) == {}
    assert p.remembered()["units"] == []
    assert actions(p.apply()) == {"update": 1}


def test_composite_keys_of_any_characters_are_found_again(project: MakeProject, database: str) -> None:
    flows = """
    marks:
      from: src.marks
      unit: id
      into: app.marks
      key: [place, number]
      columns: {place: place, number: number, note: note}
    """
    made = "CREATE TABLE marks (place TEXT, number INTEGER, note TEXT, PRIMARY KEY (place, number))"
    marks = [
        {"id": str(n), "place": place, "number": n, "note": "a"} for n, place in enumerate(["a/b", "%2F", "a%25/", ""])
    ]
    p = project(flows, made, target=database, marks=marks)
    p.sql("INSERT INTO marks VALUES ('a', 0, 'theirs')")
    before = tables(p, "marks")
    p.apply()
    first = tables(p, "marks")
    p.put(marks=[{**mark, "note": "b"} for mark in marks])
    p.apply()
    assert rows(rollback(p, 2)) == {"restored": 4}
    assert tables(p, "marks") == first
    assert rows(rollback(p, 1)) == {"deleted": 4}
    assert tables(p, "marks") == before


def test_what_the_target_refuses_keeps_its_unit_and_no_other(project: MakeProject, database: str) -> None:
    p = family(project, database)
    p.apply()
    if database == "postgres":
        p.sql("CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE check_violation; END $$")
        p.sql("CREATE TRIGGER no BEFORE DELETE ON people FOR EACH ROW WHEN (old.id = 'p3') EXECUTE FUNCTION no()")
    else:
        p.sql("CREATE TRIGGER no BEFORE DELETE ON people WHEN old.id = 'p3' BEGIN SELECT RAISE(ABORT, 'no'); END")
    done = rollback(p, 1)
    assert kept(done) == {"p3": "refused"}
    assert [row[0] for row in p.rows("cards")] == ["card of p3", "x"]


def test_a_table_that_lost_a_column_of_ours_is_left_alone(project: MakeProject, database: str) -> None:
    p = family(project, database, 2)
    p.apply()
    p.sql("ALTER TABLE people DROP COLUMN age")
    assert set(kept(rollback(p, 1)).values()) == {"schema_changed"}
    assert len(p.rows("cards")) == 3


def test_a_flow_that_is_no_longer_declared_is_undone_too(project: MakeProject) -> None:
    p = family(project, "sqlite")
    before = tables(p, *FAMILY_TABLES)
    p.apply()
    p.flows(FAMILY.partition("pets:")[0])
    assert rollback(p, 1).exit_code == 0
    assert tables(p, *FAMILY_TABLES) == before


def test_a_memory_target_is_undone_too(project: MakeProject) -> None:
    columns = (Column("id", Kind.TEXT, nullable=False), Column("name", Kind.TEXT), Column("age", Kind.INT32))
    memory = Memory("app").create("people", Schema("people", columns, ("id",)))
    p = project(PEOPLE, target="memory", memory=memory, people=people(3))
    p.apply()
    p.put(people=[person(0, "Changed"), *people(4)[1:]])
    p.apply()
    assert rows(rollback(p, 2)) == {"restored": 1, "deleted": 1}
    assert memory.ask("SELECT name FROM people ORDER BY 1") == [("Name 0",), ("Name 1",), ("Name 2",)]
    assert rows(rollback(p, 1)) == {"deleted": 3}
    assert memory.count("people") == 0


@pytest.mark.parametrize("lost", [False, True])
def test_a_d1_target_is_undone_too_also_if_an_answer_is_lost(project: MakeProject, lost: bool) -> None:
    p = family(project, "sqlite")
    with start_d1(p.root / "target.sqlite") as local:
        path = p.root / "migration.yaml"
        given = json.dumps({"type": "d1", **local.settings()})
        path.write_text(path.read_text().replace(f"{{type: sqlite, path: {p.root / 'target.sqlite'}}}", given))
        before = tables(p, *FAMILY_TABLES)
        p.apply()
        first = tables(p, *FAMILY_TABLES)
        p.put(people=[person(n, "Changed") for n in range(3)])
        p.apply()
        with p.opened() as opened:
            assert rows(rolling.plan_rollback(*opened, p.options({})[0], 2)) == {"restored": 3}
        if lost:
            left = [LOST, LOST]
            local.faults = lambda said: left.pop() if left and any("DELETE" in one for one in said) else None
        assert rows(rollback(p, 2)) == {"restored": 3}
        assert tables(p, *FAMILY_TABLES) == first
        assert rows(rollback(p, 1, batch_size=4)) == {"deleted": 18}
        assert tables(p, *FAMILY_TABLES) == before


# -- killed and run again -----------------------------------------------------------------------------------

DYING = """
import os, sys
from pathlib import Path
from tests.engine import conftest, test_rollback
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

for owner, name in (({connector}, "delete"), ({connector}, "write"), (Ledger, "forget"), (Ledger, "finish")):
    around(owner, name)
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
test_rollback.rollback(conftest.Project(Path({root!r}), {kind!r}, {url!r}, runs={runs}), 2, batch_size=2)
"""


@pytest.mark.parametrize(
    ("point", "nth"),
    [("after delete", 2), ("before write", 1), ("before forget", 2), ("after forget", 1), ("before commit", 7),
     ("after commit", 9), ("before finish", 1)],
)  # fmt: skip
def test_a_rollback_that_died_is_gone_on_with(project: MakeProject, database: str, point: str, nth: int) -> None:
    p = family(project, database)
    p.apply()
    first = tables(p, *FAMILY_TABLES)
    p.put(people=[*(person(n, "Changed") for n in range(3)), *people(9)[3:]])
    p.apply()
    connector = {"sqlite": "SQLite", "postgres": "Postgres"}[database]
    script = dedent(DYING).format(kind=database, connector=connector, root=str(p.root), url=p.url, runs=p.runs)
    done = subprocess.run(
        [sys.executable, "-c", script, point, str(nth)], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert done.returncode == 9, f"it was to die {point} ({nth}): {done.stderr[-2000:]}"
    assert rollback(p, 2, batch_size=2).exit_code == 0
    assert tables(p, *FAMILY_TABLES) == first
    assert statuses(p.apply())["done"] == 6


def test_a_chunk_that_fails_takes_back_only_itself(
    project: MakeProject, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = family(project, database)
    before = tables(p, *FAMILY_TABLES)
    p.apply()
    written = rolling._write
    chunks: list[int] = []

    def write(verdict: Any) -> None:
        chunks.append(1)
        written(verdict)
        if len(chunks) == 2:
            raise RuntimeError("out of order")

    monkeypatch.setattr(rolling, "_write", write)
    with pytest.raises(RuntimeError):
        rollback(p, 1, batch_size=2)
    assert len(p.rows("pets")) == 4
    monkeypatch.undo()
    assert rows(rollback(p, 1)) == {"deleted": 16}
    assert tables(p, *FAMILY_TABLES) == before


def test_a_stop_between_chunks_is_said_and_can_be_gone_on_with(project: MakeProject) -> None:
    p = family(project, "sqlite")
    before = tables(p, *FAMILY_TABLES)
    p.apply()
    stop = threading.Event()
    stop.set()
    done = rollback(p, 1, batch_size=2, stop=stop)
    assert (done.status, done.exit_code, len(p.rows("pets"))) == ("interrupted", 130, 4)
    assert rollback(p, 1).exit_code == 0
    assert tables(p, *FAMILY_TABLES) == before
