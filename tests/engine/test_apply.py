"""What an apply does to the target and to our memory of it, run after run, with people editing in between."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from resettle.batch import Column, ForeignKey, Kind, Schema
from resettle.connectors.memory import Memory
from resettle.connectors.sqlite import SQLite
from resettle.errors import BalanceError, ConfigError
from resettle.ledger.ledger import Ledger
from tests.engine.conftest import (
    PEOPLE,
    START,
    MakeProject,
    Project,
    actions,
    counts,
    people,
    person,
    statuses,
)

# -- again and again -------------------------------------------------------------------------------------


def test_every_record_becomes_a_row(project: MakeProject, database: str) -> None:
    p = project(target=database, people=people(3))
    assert statuses(p.apply()) == {"done": 3}
    assert p.rows("people", "id, name, age") == [(f"p{n}", f"Name {n}", 30 + n) for n in range(3)]


def test_a_second_apply_changes_neither_data_nor_memory(project: MakeProject, database: str) -> None:
    p = project(target=database, people=[*people(50), person(60, None)])
    p.apply()
    data, memory = p.rows("people"), p.remembered()
    again = p.apply()
    assert statuses(again) == {"unchanged": 50, "held": 1}
    assert not actions(again)
    assert p.rows("people") == data
    assert p.remembered() == memory


def test_in_postgres_a_second_apply_leaves_every_row_version_alone(project: MakeProject) -> None:
    p = project(target="postgres", people=people(20))
    p.apply()
    before = p.rows("people", "id, xmin::text"), p.sql("SELECT unit, xmin::text FROM resettle.rows ORDER BY 1")
    p.apply()
    assert (
        p.rows("people", "id, xmin::text"),
        p.sql("SELECT unit, xmin::text FROM resettle.rows ORDER BY 1"),
    ) == before


def test_a_fresh_look_compares_everything_and_writes_no_row(project: MakeProject, database: str) -> None:
    p = project(target=database, people=people(20))
    p.apply()
    again = p.apply(fresh=True)
    assert statuses(again) == {"unchanged": 20}
    assert actions(again) == {"unchanged": 20}


def test_a_changed_record_updates_its_row_and_only_the_columns_that_are_ours(
    project: MakeProject, database: str
) -> None:
    p = project(target=database, people=people(3))
    p.apply()
    p.sql("UPDATE people SET note = 'theirs'")
    p.put(people=[*people(2), person(2, "Changed")])
    again = p.apply()
    assert statuses(again) == {"done": 1, "unchanged": 2}
    assert p.rows("people", "id, name, note") == [
        ("p0", "Name 0", "theirs"),
        ("p1", "Name 1", "theirs"),
        ("p2", "Changed", "theirs"),
    ]


def test_what_an_update_overwrites_is_kept_as_it_was(project: MakeProject, database: str) -> None:
    p = project(target=database, people=people(1))
    p.apply()
    p.put(people=[person(0, "Changed")])
    p.apply()
    p_ = "resettle." if database == "postgres" else "resettle_"
    ((run, text),) = p.sql(f"SELECT run, image FROM {p_}before_images")
    image = json.loads(text)
    known = image.pop("_known")
    assert (run, image) == (2, {"id": "p0", "name": "Name 0", "age": "30"})
    assert (len(known.pop("fingerprint")), known) == (32, {"shape": 1, "reused": False})


def test_a_new_record_is_added_to_what_is_there(project: MakeProject, database: str) -> None:
    p = project(target=database, people=people(2))
    p.apply()
    p.put(people=people(4))
    assert statuses(p.apply()) == {"done": 2, "unchanged": 2}
    assert len(p.rows("people")) == 4


def test_a_record_that_left_the_source_leaves_its_row(project: MakeProject) -> None:
    p = project(people=people(2))
    p.apply()
    p.put(people=people(1))
    assert statuses(p.apply()) == {"unchanged": 1}
    assert len(p.rows("people")) == 2


# -- other people's rows and edits -------------------------------------------------------------------------


def edited(project: MakeProject, database: str, policy: str) -> Project:
    """Our row was edited by somebody, and then its record changed."""
    p = project(PEOPLE + f"  on_conflict: {policy}\n", target=database, people=people(2))
    p.apply()
    p.sql("UPDATE people SET name = 'Theirs' WHERE id = 'p0'")
    p.put(people=[person(0, "Ours"), person(1, "Ours")])
    return p


def test_a_row_that_others_edited_is_a_conflict_and_stays(project: MakeProject, database: str) -> None:
    p = edited(project, database, "hold")
    again = p.apply()
    assert statuses(again) == {"done": 1, "held": 1}
    assert actions(again) == {"update": 1, "conflict": 1}
    assert p.rows("people", "id, name") == [("p0", "Theirs"), ("p1", "Ours")]
    assert p.held == {"p0": "edited_in_target"}


def test_with_on_conflict_source_our_record_wins(project: MakeProject, database: str) -> None:
    p = edited(project, database, "source")
    assert statuses(p.apply()) == {"done": 2}
    assert p.rows("people", "id, name") == [("p0", "Ours"), ("p1", "Ours")]
    assert not p.held


def test_with_on_conflict_target_their_edit_wins(project: MakeProject, database: str) -> None:
    p = edited(project, database, "target")
    p.apply()
    assert p.rows("people", "id, name") == [("p0", "Theirs"), ("p1", "Ours")]
    assert not p.held
    assert not actions(p.apply()), "and it is settled"


def test_an_edit_of_a_row_whose_record_did_not_change_is_left_alone(project: MakeProject, database: str) -> None:
    p = project(target=database, people=people(1))
    p.apply()
    p.sql("UPDATE people SET name = 'Theirs'")
    assert statuses(p.apply()) == {"unchanged": 1}
    assert statuses(p.apply(fresh=True)) == {"unchanged": 1}
    assert p.rows("people", "name") == [("Theirs",)]


def test_an_edit_that_says_what_the_record_now_says_is_no_conflict(project: MakeProject, database: str) -> None:
    p = project(target=database, people=people(1))
    p.apply()
    p.sql("UPDATE people SET name = 'Same'")
    p.put(people=[person(0, "Same")])
    assert actions(p.apply()) == {"unchanged": 1}
    assert not p.held


@pytest.mark.parametrize("policy", ["hold", "source", "target"])
def test_a_row_that_others_deleted_is_not_revived(project: MakeProject, database: str, policy: str) -> None:
    p = project(PEOPLE + f"  on_conflict: {policy}\n", target=database, people=people(1))
    p.apply()
    p.sql("DELETE FROM people")
    assert statuses(p.apply()) == {"unchanged": 1}, "an unchanged record does not even ask the target"
    p.put(people=[person(0, "Changed")])
    p.apply()
    assert p.rows("people") == []
    assert p.held == {"p0": "deleted_in_target"}


def test_an_equal_row_that_was_there_before_is_reused(project: MakeProject, database: str) -> None:
    p = project(target=database, people=people(2))
    p.sql("INSERT INTO people (id, name, age, note) VALUES ('p0', 'Name 0', 30, 'theirs')")
    first = p.apply()
    assert statuses(first) == {"done": 2}
    assert actions(first) == {"create": 1, "reuse": 1}
    assert p.rows("people", "id, note") == [("p0", "theirs"), ("p1", None)]


def test_a_reused_row_is_not_ours_to_update(project: MakeProject, database: str) -> None:
    p = project(target=database, people=people(1))
    p.sql("INSERT INTO people (id, name, age) VALUES ('p0', 'Name 0', 30)")
    p.apply()
    p.put(people=[person(0, "Changed")])
    p.apply()
    assert p.rows("people", "name") == [("Name 0",)]
    assert p.held == {"p0": "not_ours"}


def test_a_different_row_that_was_there_before_is_a_conflict(project: MakeProject, database: str) -> None:
    p = project(target=database, people=people(2))
    p.sql("INSERT INTO people (id, name) VALUES ('p0', 'Somebody else')")
    assert statuses(p.apply()) == {"done": 1, "held": 1}
    assert p.rows("people", "id, name") == [("p0", "Somebody else"), ("p1", "Name 1")]
    assert p.held == {"p0": "exists_in_target"}


def test_rows_that_appear_while_we_load_an_empty_target_are_found(
    project: MakeProject, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first load asks an empty target nothing; its inserts still refuse what somebody else made meanwhile."""
    p = project(target=database, people=people(10))

    def interfere(flow: str, state: str, counts: Any) -> None:
        if state == "writing" and not p.rows("people"):
            p.sql("INSERT INTO people (id, name, age) VALUES ('p3', 'Name 3', 33), ('p4', 'Theirs', 0)")

    applied = p.apply(progress=interfere)
    assert actions(applied) == {"create": 8, "reuse": 1, "conflict": 1}
    assert p.held == {"p4": "exists_in_target"}


# -- the mapping changes -------------------------------------------------------------------------------------

MORE = PEOPLE.replace("age: age}", "age: age, note: \"'note of ' || name\"}")


def test_a_mapping_that_gains_a_column_updates_the_rows_that_we_left_alone(project: MakeProject, database: str) -> None:
    p = project(target=database, people=people(3))
    p.apply()
    p.flows(MORE)
    assert actions(p.apply()) == {"update": 3}
    assert p.rows("people", "id, note") == [(f"p{n}", f"note of Name {n}") for n in range(3)]


def test_a_mapping_that_gains_a_column_still_sees_what_others_edited(project: MakeProject, database: str) -> None:
    p = project(target=database, people=people(3))
    p.apply()
    p.sql("UPDATE people SET name = 'Theirs' WHERE id = 'p1'")
    p.flows(MORE)
    assert statuses(p.apply()) == {"done": 2, "held": 1}
    assert p.held == {"p1": "edited_in_target"}
    assert p.rows("people", "name, note")[-1] == ("Theirs", None)


def test_a_mapping_that_loses_a_column_writes_nothing(project: MakeProject, database: str) -> None:
    p = project(MORE, target=database, people=people(3))
    p.apply()
    p.flows(PEOPLE)
    assert actions(p.apply()) == {"unchanged": 3}
    assert p.rows("people", "note") == [(f"note of Name {n}",) for n in range(3)]


def test_a_mapping_that_moves_a_value_to_another_column_writes_it_there(project: MakeProject, database: str) -> None:
    """The values alone are the same as before: a fingerprint counts only for its own columns."""
    columns = "id TEXT PRIMARY KEY, first TEXT, second TEXT"
    flow = "people: {from: src.people, unit: id, into: app.people, columns: {id: id, first: name}}"
    p = project(flow, f"CREATE TABLE people ({columns})", target=database, people=people(2))
    p.apply()
    p.flows(flow.replace("first: name", "second: name"))
    assert actions(p.apply()) == {"update": 2}
    assert p.rows("people", "second") == [("Name 0",), ("Name 1",)]


def test_a_mapping_that_changes_a_value_updates_it(project: MakeProject, database: str) -> None:
    p = project(target=database, people=people(2))
    p.apply()
    p.flows(PEOPLE.replace("name: name", "name: upper(name)"))
    assert actions(p.apply()) == {"update": 2}
    assert p.rows("people", "name") == [("NAME 0",), ("NAME 1",)]


# -- held, replayed, waived -----------------------------------------------------------------------------------


def test_a_record_that_cannot_be_kept_is_held_and_its_neighbours_go_on(project: MakeProject, database: str) -> None:
    bad = [{**person(1), "age": "forty"}, {**person(2), "name": None}]
    p = project(target=database, people=[person(0), *bad, person(3)])
    applied = p.apply()
    assert statuses(applied) == {"done": 2, "held": 2}
    assert applied.exit_code == 3
    assert p.held == {"p1": "cast", "p2": "null"}
    assert p.rows("people", "id") == [("p0",), ("p3",)]


def test_a_held_record_is_not_tried_again_until_it_changes(project: MakeProject, database: str) -> None:
    p = project(target=database, people=[{**person(0), "age": "forty"}])
    p.apply()
    p.apply()
    with p.ledger() as ledger:
        assert [row["attempts"] for row in ledger.units("held")] == [1]
    p.put(people=[person(0)])
    assert statuses(p.apply()) == {"done": 1}
    assert not p.held


def test_a_held_record_is_tried_again_when_the_mapping_changes(project: MakeProject, database: str) -> None:
    p = project(target=database, people=[{**person(0), "age": "forty"}])
    p.apply()
    p.flows(PEOPLE.replace("age: age", 'age: "try_cast(age as integer)"'))
    assert statuses(p.apply()) == {"done": 1}
    assert not p.held


def test_replay_of_named_units_looks_at_no_others(project: MakeProject, database: str) -> None:
    p = project(target=database, people=people(3))
    p.sql("INSERT INTO people (id, name) VALUES ('p0', 'Somebody else')")
    p.apply()
    p.sql("DELETE FROM people WHERE id = 'p0'")
    applied = p.apply(only={"people": ["p0"]})
    assert statuses(applied) == {"done": 1}
    assert applied.counts[0].read == 1


def test_a_waived_record_is_out_of_scope_with_a_note(project: MakeProject, database: str) -> None:
    p = project(target=database, people=[{**person(0), "age": "forty"}])
    p.apply()
    with p.ledger() as ledger:
        assert ledger.waive(None, "cast", [], "a test account") == 1
    assert statuses(p.apply()) == {"skipped": 1}
    with p.ledger() as ledger:
        (unit,) = ledger.units("skipped")
    assert (unit["reason"], unit["note"]) == ("waived", "a test account")


def test_a_record_without_a_key_of_its_own_is_the_same_one_under_another_mapping(
    project: MakeProject, database: str
) -> None:
    strange = [{"name": "Nobody", "age": 1}, {"name": "None", "age": 2}, person(0, "Other")]
    p = project(PEOPLE, target=database, people=[*people(2), *strange])
    p.apply()
    held = p.held
    assert sorted(held.values()) == ["duplicate_unit", "no_key", "no_key"]
    waived = next(unit for unit, reason in held.items() if reason == "no_key")
    with p.ledger() as ledger:
        ledger.waive("people", None, [waived], "test data")
    p.flows(PEOPLE.replace("name: name", "name: upper(name)"))
    assert counts(p.plan()) == counts(p.apply())
    del held[waived]
    assert (p.held, p.units("skipped")) == (held, {waived: "waived"})


def test_a_waiver_outlives_a_change_of_the_mapping(project: MakeProject, database: str) -> None:
    p = project(target=database, people=[{**person(0), "age": "forty"}, person(1)])
    p.apply()
    with p.ledger() as ledger:
        ledger.waive("people", None, ["p0"], "a test account")
    p.flows(PEOPLE.replace("name: name", "name: upper(name)"))
    assert counts(p.plan()) == counts(p.apply())
    with p.ledger() as ledger:
        assert [(unit["unit"], unit["note"]) for unit in ledger.units("skipped")] == [("p0", "a test account")]
    assert p.held == {}


# -- the same unit, the same key -------------------------------------------------------------------------------


def test_an_identical_second_record_is_counted_and_skipped(project: MakeProject, database: str) -> None:
    p = project(target=database, people=[person(0), person(1), person(0)])
    applied = p.apply()
    assert statuses(applied) == {"done": 2, "skipped": 1}
    assert applied.counts[0].reasons == {"identical_duplicate": 1}


def test_a_different_second_record_of_a_unit_is_held_and_both_are_remembered(
    project: MakeProject, database: str
) -> None:
    p = project(target=database, people=[person(0, "First"), person(0, "Second")])
    assert statuses(p.apply()) == {"done": 1, "held": 1}
    assert list(p.held.values()) == ["duplicate_unit"]
    assert p.rows("people", "name") == [("First",)]
    assert statuses(p.apply()) == {"unchanged": 1, "held": 1}


@pytest.mark.parametrize("turned", [False, True])
def test_a_second_record_of_a_unit_that_changes_does_not_take_its_place(
    project: MakeProject, database: str, turned: bool
) -> None:
    """The first is not even decoded, and may stand behind the second."""
    p = project(target=database, people=[person(0, "First"), person(0, "Second")])
    p.apply()
    changed = [person(0, "First"), person(0, "Third")]
    p.put(people=changed[::-1] if turned else changed)
    p.apply()
    assert p.rows("people", "name") == [("First",)]
    assert set(p.held.values()) == {"duplicate_unit"}


def test_a_second_record_of_a_unit_that_comes_later_does_not_take_its_place(
    project: MakeProject, database: str
) -> None:
    p = project(target=database, people=[person(0, "First")])
    p.apply()
    p.put(people=[person(0, "First"), person(0, "Second")])
    for _ in range(3):
        p.apply()
        assert p.rows("people", "name") == [("First",)]


MAILS = """
people: {from: src.people, unit: id, into: app.people, columns: {id: mail, name: name}}
"""


@pytest.mark.parametrize("size", [1, 100])
def test_the_second_of_two_units_with_one_target_key_is_held(project: MakeProject, database: str, size: int) -> None:
    records = [person(0, "Anna", mail="a@x"), person(1, "Bert", mail="b@x"), person(2, "Carl", mail="a@x")]
    p = project(MAILS, target=database, people=records)
    assert counts(p.plan(batch_size=size)) == counts(p.apply(batch_size=size))
    assert p.held == {"p2": "duplicate_key"}
    assert p.rows("people", "id, name") == [("a@x", "Anna"), ("b@x", "Bert")]


@pytest.mark.parametrize("size", [1, 100])
def test_it_is_the_same_where_the_target_was_not_empty(project: MakeProject, database: str, size: int) -> None:
    """Then every batch looks at the target, and finds what an earlier one made: that is ours, not theirs."""
    twins = [person(0, "Anna", mail="a@x"), person(1, "Anna", mail="a@x"), person(2, "Carl", mail="a@x")]
    p = project(MAILS, target=database, people=twins)
    p.sql("INSERT INTO people (id, name) VALUES ('theirs', 'Theirs')")
    assert counts(p.plan(batch_size=size)) == counts(p.apply(batch_size=size))
    assert p.held == {"p1": "duplicate_key", "p2": "duplicate_key"}


def test_two_flows_with_rows_for_one_table_do_not_overwrite_each_other(project: MakeProject, database: str) -> None:
    second = PEOPLE.replace("people:", "more:", 1).replace("src.people", "src.more")
    p = project(PEOPLE + second, target=database, people=people(2), more=[person(1, "Another"), person(2)])
    assert counts(p.plan()) == counts(p.apply())
    assert p.rows("people", "id, name") == [("p0", "Name 0"), ("p1", "Name 1"), ("p2", "Anna")]
    assert p.held == {"p1": "duplicate_key"}


REKEYED = """
people:
  from: src.people
  unit: id
  into: app.people
  on_duplicate_key: {id: "mail || '/' || source.id"}
  columns: {id: mail, name: name}
"""


@pytest.mark.parametrize("size", [1, 100])
def test_on_duplicate_key_gives_the_second_unit_a_key_of_its_own_for_good(
    project: MakeProject, database: str, size: int
) -> None:
    twins = [person(0, "Anna", mail="a@x"), person(1, "Bert", mail="a@x"), person(2, "Carl", mail="a@x")]
    p = project(REKEYED, target=database, people=twins)
    p.defaults = {"batch_size": size}
    assert counts(p.plan()) == counts(p.apply())
    expected = [("a@x", "Anna"), ("a@x/p1", "Bert"), ("a@x/p2", "Carl")]
    assert p.rows("people", "id, name") == expected
    assert not actions(p.apply())
    assert actions(p.apply(fresh=True)) == {"unchanged": 3}
    p.put(people=[twins[0], {**twins[1], "name": "Berta"}, twins[2]])
    assert actions(p.apply()) == {"update": 1}
    assert p.rows("people", "id, name") == [expected[0], ("a@x/p1", "Berta"), expected[2]]
    assert not p.verify().findings


def test_on_duplicate_key_leaves_the_row_of_a_stranger_alone(project: MakeProject, database: str) -> None:
    """The key is another unit's only if the ledger says so; a row that the target's owner made is in conflict."""
    p = project(REKEYED, target=database, people=[person(0, "Anna", mail="a@x")])
    p.sql("INSERT INTO people (id, name) VALUES ('a@x', 'A stranger')")
    assert counts(p.plan()) == counts(p.apply())
    assert p.held == {"p0": "exists_in_target"}
    assert p.rows("people", "id, name") == [("a@x", "A stranger")]


def test_on_duplicate_key_knows_the_units_of_earlier_runs(project: MakeProject, database: str) -> None:
    twins = [person(0, "Anna", mail="a@x"), person(1, "Bert", mail="a@x")]
    p = project(REKEYED, target=database, people=twins[:1])
    p.apply()
    p.put(people=twins)
    assert actions(p.apply()) == {"create": 1}
    assert p.rows("people", "id, name") == [("a@x", "Anna"), ("a@x/p1", "Bert")]


@pytest.mark.parametrize("size", [1, 100])
@pytest.mark.parametrize(("policy", "there"), [("hold", "Anna"), ("target", "Theirs"), ("source", "Theirs")])
def test_a_row_that_is_there_becomes_one_units_alone(
    project: MakeProject, database: str, size: int, policy: str, there: str
) -> None:
    """Whether two units meet in one batch or in two: of two records no row is made one."""
    twins = [person(0, "Anna", mail="a@x"), person(1, "Anna", mail="a@x")]
    for flow, held, rows in (
        (MAILS.replace("unit: id", f"unit: id, on_conflict: {policy}"), {"p1": "duplicate_key"}, ["a@x"]),
        (REKEYED.replace("unit: id", f"unit: id\n  on_conflict: {policy}"), {}, ["a@x", "a@x/p1"]),
    ):
        p = project(flow, target=database, people=twins)
        p.defaults = {"batch_size": size}
        p.sql(f"INSERT INTO people (id, name) VALUES ('a@x', '{there}')")
        assert counts(p.plan()) == counts(p.apply())
        assert p.held == held
        assert [key for (key,) in p.rows("people", "id")] == rows


# -- what only the target knows -------------------------------------------------------------------------------

REFUSING = {
    "check": "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT CHECK (length(name) < 10), age INTEGER)",
    "unique": "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT UNIQUE, age INTEGER)",
}
TRIGGER = {
    "sqlite": [
        "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT, age INTEGER)",
        "CREATE TRIGGER no BEFORE INSERT ON people WHEN length(NEW.name) >= 10 BEGIN SELECT RAISE(ABORT, 'no'); END",
    ],
    "postgres": [
        "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT, age INTEGER)",
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF length(NEW.name) >= 10 THEN"
        " RAISE EXCEPTION 'no'; END IF; RETURN NEW; END $$",
        "CREATE TRIGGER no BEFORE INSERT ON people FOR EACH ROW EXECUTE FUNCTION no()",
    ],
}


@pytest.mark.parametrize("bad", [1, 30])
@pytest.mark.parametrize("kind", ["check", "unique", "trigger"])
def test_a_refused_row_holds_its_unit_and_no_other(project: MakeProject, database: str, kind: str, bad: int) -> None:
    tables = TRIGGER[database] if kind == "trigger" else [REFUSING[kind]]
    wrong = {number * 3 + 1 for number in range(bad)}
    records = [person(n, "refused name" if n in wrong else f"n{n}") for n in range(100)]
    p = project(target=database, tables=tables, people=[person(100, "refused name"), *records])
    expected = {f"p{n}" for n in wrong} | ({"p100"} if kind != "unique" else set())
    applied = p.apply()
    # Which one of those with one unique name arrives is the target's choice.
    assert statuses(applied) == {"done": 101 - len(expected), "held": len(expected)}
    assert set(p.held.values()) == {kind}
    if kind != "unique":
        assert set(p.held) == expected
    assert {row[0] for row in p.rows("people", "id")} == {f"p{n}" for n in range(101)} - set(p.held)
    assert "refused name" not in "".join(p.detail(unit) for unit in p.held)
    assert not actions(p.apply())


def memory_of_people(**more: Any) -> Memory:
    columns = (
        Column("id", Kind.TEXT, nullable=False),
        Column("name", Kind.TEXT),
        Column("age", Kind.INT64),
        Column("note", Kind.TEXT),
    )
    return Memory("app").create("people", Schema("people", columns, key=("id",), **more))


@pytest.mark.parametrize("bad", [1, 30])
def test_a_target_that_cannot_name_what_it_refuses_is_bisected(project: MakeProject, bad: int) -> None:
    wrong = {number * 3 + 1 for number in range(bad)}
    records = [person(n, "same" if n in wrong else f"n{n}") for n in range(100)]
    memory = memory_of_people(unique=(("name",),))
    p = project(target="memory", memory=memory, people=[person(100, "same"), *records])
    assert statuses(p.apply()) == {"done": 101 - bad, "held": bad}
    assert set(p.held.values()) == {"unique"}
    assert memory.count("people") == 101 - bad
    assert not actions(p.apply())


def test_a_memory_target_has_its_ledger_in_a_file_of_its_own(project: MakeProject) -> None:
    p = project(target="memory", memory=memory_of_people(), people=people(3))
    assert statuses(p.apply()) == {"done": 3}
    assert statuses(p.apply()) == {"unchanged": 3}
    assert (p.root / ".resettle" / "ledger.sqlite").stat().st_mode & 0o077 == 0


def test_a_refused_update_holds_its_unit_and_no_other(project: MakeProject, database: str) -> None:
    p = project(target=database, tables=REFUSING["check"], people=people(10))
    p.apply()
    p.put(people=[person(n, "refused name" if n == 4 else "new") for n in range(10)])
    assert statuses(p.apply()) == {"done": 9, "held": 1}
    assert p.held == {"p4": "check"}
    assert p.rows("people", "name")[4] == ("Name 4",) or ("Name 4",) in p.rows("people", "name")


def test_a_key_that_a_refused_unit_would_have_had_is_free_for_others(project: MakeProject, database: str) -> None:
    tables = "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT CHECK (length(name) < 10), age INTEGER)"
    records = [person(0, "refused name", mail="a@x"), person(1, "Bert", mail="a@x")]
    p = project(MAILS, tables, target=database, people=records)
    p.apply(batch_size=1)
    assert p.held == {"p0": "check"}
    assert p.rows("people", "id, name") == [("a@x", "Bert")]


# -- several outputs, links -----------------------------------------------------------------------------------

ORDERS = """
orders:
  from: src.orders
  unit: id
  outputs:
    head: {into: app.orders, columns: {id: id, customer: customer}}
    line: {into: app.lines, columns: {id: "id || '-1'", order_id: head.id, amount: amount}}
"""
ORDER_TABLES = [
    "CREATE TABLE orders (id TEXT PRIMARY KEY, customer TEXT)",
    "CREATE TABLE lines (id TEXT PRIMARY KEY, order_id TEXT NOT NULL REFERENCES orders (id),"
    " amount INTEGER CHECK (amount > 0))",
]


def test_a_unit_with_several_outputs_arrives_whole_or_not_at_all(project: MakeProject, database: str) -> None:
    amounts = [10, 0, 20, "many"]  # one that the target refuses, one that does not cast
    orders = [{"id": f"o{n}", "customer": "c", "amount": amount} for n, amount in enumerate(amounts)]
    p = project(ORDERS, ORDER_TABLES, target=database, orders=orders)
    assert statuses(p.apply()) == {"done": 2, "held": 2}
    assert p.held == {"o1": "check", "o3": "cast"}
    assert p.rows("orders", "id") == [("o0",), ("o2",)]
    assert p.rows("lines", "id, order_id, amount") == [("o0-1", "o0", 10), ("o2-1", "o2", 20)]
    assert not p.verify().findings


CHILDREN = """
parents: {from: src.parents, unit: id, into: app.parents, columns: {id: id}}
children: {from: src.children, unit: id, into: app.children, columns: {id: id, parent: parent}}
"""
CHILDREN_TABLES = [
    "CREATE TABLE parents (id TEXT PRIMARY KEY)",
    "CREATE TABLE children (id TEXT PRIMARY KEY, parent TEXT REFERENCES parents (id))",
]


@pytest.mark.parametrize("size", [1, 100])
def test_what_points_nowhere_is_held_by_plan_and_apply_alike(project: MakeProject, database: str, size: int) -> None:
    children = [{"id": f"c{n}", "parent": parent} for n, parent in enumerate(["x", "theirs", "nobody", None])]
    p = project(CHILDREN, CHILDREN_TABLES, target=database, parents=[{"id": "x"}], children=children)
    p.sql("INSERT INTO parents VALUES ('theirs')")
    planned, applied = p.plan(batch_size=size), p.apply(batch_size=size)
    assert counts(planned) == counts(applied)
    assert p.held == {"c2": "foreign_key"}
    assert p.rows("children") == [("c0", "x"), ("c1", "theirs"), ("c3", None)]


def test_what_points_at_a_held_unit_is_held(project: MakeProject, database: str) -> None:
    tables = ["CREATE TABLE parents (id TEXT PRIMARY KEY CHECK (id <> 'bad'))", CHILDREN_TABLES[1]]
    children = [{"id": "c0", "parent": "good"}, {"id": "c1", "parent": "bad"}]
    p = project(CHILDREN, tables, target=database, parents=[{"id": "good"}, {"id": "bad"}], children=children)
    p.apply()
    assert p.held == {"bad": "check", "c1": "foreign_key"}
    assert p.rows("children") == [("c0", "good")]


@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_table_that_points_at_itself_is_filled_in_whatever_batches(
    project: MakeProject, database: str, size: int
) -> None:
    flow = "nodes: {from: src.nodes, unit: id, into: app.nodes, columns: {id: id, parent: parent}}"
    table = "CREATE TABLE nodes (id TEXT PRIMARY KEY, parent TEXT REFERENCES nodes (id))"
    nodes = [{"id": f"n{n}", "parent": f"n{n - 1}" if n else None} for n in range(5)]
    p = project(flow, table, target=database, nodes=[*nodes, {"id": "n9", "parent": "nobody"}])
    assert counts(p.plan(batch_size=size)) == counts(p.apply(batch_size=size))
    assert p.held == {"n9": "foreign_key"}
    assert len(p.rows("nodes")) == 5


def test_a_memory_target_obeys_its_foreign_keys_too(project: MakeProject) -> None:
    key = ForeignKey("children_parent_fkey", ("parent",), "parents", ("id",))
    memory = Memory("app")
    memory.create("parents", Schema("parents", (Column("id", Kind.TEXT, nullable=False),), key=("id",)))
    columns = (Column("id", Kind.TEXT, nullable=False), Column("parent", Kind.TEXT))
    memory.create("children", Schema("children", columns, key=("id",), foreign_keys=(key,)))
    children = [{"id": "c0", "parent": "x"}, {"id": "c1", "parent": "nobody"}]
    p = project(CHILDREN, target="memory", memory=memory, parents=[{"id": "x"}], children=children)
    assert counts(p.plan()) == counts(p.apply())
    assert p.held == {"c1": "foreign_key"}


# -- time, choice, exactness ------------------------------------------------------------------------------------


def test_migration_time_fits_a_column_of_milliseconds(project: MakeProject) -> None:
    table = "CREATE TABLE people (id text PRIMARY KEY, name text, made timestamptz(3))"
    p = project(PEOPLE.replace("age: age", "made: migration_time"), table, target="postgres", people=people(2))
    p.start = START.replace(microsecond=123_999)
    p.apply()
    assert p.held == {}
    assert [made.microsecond for (made,) in p.rows("people", "made")] == [123_000, 123_000]
    p.put(people=[person(0, "Changed"), *people(2)[1:]])
    assert actions(p.apply()) == {"update": 1}
    assert [made.microsecond for (made,) in p.rows("people", "made")] == [123_000, 123_000]


def test_migration_time_stays_that_of_the_run_that_first_saw_the_unit(project: MakeProject) -> None:
    table = "CREATE TABLE people (id text PRIMARY KEY, name text, made timestamptz)"
    flow = PEOPLE.replace("age: age", "made: migration_time")
    p = project(flow, table, target="postgres", people=[person(0), {**person(1), "name": "a\u0000b"}])
    p.apply()
    p.put(people=[person(0, "Changed"), person(1, "No longer held"), person(2)])
    p.apply()
    times = [(made - START).total_seconds() / 3600 for _, made in p.rows("people", "id, made")]
    assert times == [1, 1, 2], "also of a unit that was held at first"


SPELT = [
    ("inet", "2001:DB8::1", "2001:db8::2", "no address"),
    ("interval", "1 day", "26 hours", "soon"),
    ("money", "12.5", "1,000", "much"),
    ("int4range", "[1, 4]", "(1,7]", "[4,1]"),
    ("macaddr", "08-00-2B-01-02-03", "08002b010204", "none"),
    ("text[]", '{"a", b}', "{ c }", "{a"),
    ("bpchar", "ab  ", "abc ", None),
    ("jsonpath", "$.a", "$.b", "$."),
    ("numeric(5, 2)[]", "{1.5}", "{2, NULL}", "{1.005}"),
    ("numeric(6, -2)", "12300", "1e4", "12345"),
    ("varchar(3)[]", "{abc}", '{"a b"}', "{abcd}"),
    ("interval(3)", "1 day 0.5 s", "1.001 s", "1.0001 s"),
    ("bit(3)", "101", "011", "1011"),
    ("money", "-0.5", "+7", "1.005"),
    ("timestamptz(3)", "2025-01-01T00:00:00.123Z", "2025-01-01T00:00:00.100Z", "2025-01-01T00:00:00.1234Z"),
    ("real", "-0.0", "0.25", "1e-60"),
]


@pytest.mark.parametrize(("kind", "first", "second", "bad"), SPELT, ids=[kind for kind, *_ in SPELT])
def test_a_value_that_the_target_spells_in_its_own_way_is_the_same_value(
    project: MakeProject, kind: str, first: str, second: str, bad: str | None
) -> None:
    flow = "things: {from: src.things, unit: id, into: app.things, columns: {id: id, value: value}}"
    table = f"CREATE TABLE things (id TEXT PRIMARY KEY, value {kind})"
    records = [{"id": "ours", "value": first}, {"id": "theirs", "value": first}, {"id": "null", "value": None}]
    if bad is not None:
        records.append({"id": "bad", "value": bad})
    p = project(flow, table, target="postgres", things=records)
    p.sql(f"INSERT INTO things VALUES ('theirs', '{first}')")
    assert counts(p.plan()) == counts(applied := p.apply())
    assert actions(applied) == {"create": 2, "reuse": 1}
    assert p.held == ({"bad": "inexact" if kind == "timestamptz(3)" else "cast"} if bad is not None else {})
    assert not actions(p.apply())
    assert p.verify().findings == []
    p.put(things=[{"id": "ours", "value": second}, *records[1:]])
    assert actions(p.apply()) == {"update": 1}
    same = f"SELECT value::text = '{second}'::{kind}::text FROM things WHERE id = 'ours'"
    assert p.sql(same) == [(True,)]


def test_a_server_that_cannot_tell_beforehand_is_asked_until_the_refused_stand_alone(
    project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Postgres 16."""
    monkeypatch.setattr(psycopg.ConnectionInfo, "server_version", 150000)
    flow = "things: {from: src.things, unit: id, into: app.things, columns: {id: id, value: value}}"
    table = "CREATE TABLE things (id TEXT PRIMARY KEY, value inet)"
    values = ["10.0.0.1", "none", None, "::FFFF:1", "10.0.0.1", "", "10.0.0.0/8"]
    records = [{"id": f"t{n}", "value": value} for n, value in enumerate(values)]
    p = project(flow, table, target="postgres", things=records)
    assert counts(p.plan()) == counts(p.apply())
    assert p.held == {"t1": "cast", "t5": "cast"}
    assert p.detail("t1") == "things.value: a text of 4 characters does not become inet"
    assert p.verify().findings == []


@pytest.mark.parametrize("where", ["age >= '38'", "AGE >= '38'", "Note >= '38'"])
def test_where_chooses_records(project: MakeProject, where: str) -> None:
    """Also by what nothing maps, and in any case."""
    p = project(people=[{**one, "note": one["age"]} for one in people(10)])
    applied = p.apply(where=where)
    assert (applied.counts[0].read, statuses(applied)) == (2, {"done": 2})
    assert p.rows("people", "id") == [("p8",), ("p9",)]


@pytest.mark.parametrize("where", ["agee > 1", "age >", "nosuch(age)", "sum(1)"])
def test_a_where_that_makes_no_sense_is_refused_before_anything_is_written(project: MakeProject, where: str) -> None:
    p = project(people=people(10))
    with pytest.raises(ConfigError, match="--where"):
        p.apply(where=where)
    assert not p.rows("people")


def test_a_transaction_holds_as_many_records_as_the_user_says_or_else_the_target(
    project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    record = Ledger.record

    def spy(self: Ledger, run: Any, flow: str, what: Any) -> None:
        sizes.append(what.created.num_rows)
        record(self, run, flow, what)

    monkeypatch.setattr(Ledger, "record", spy)
    monkeypatch.setattr(SQLite, "batch_size", 4)
    p = project(people=people(10))
    p.apply(limit=5, batch_size=2)
    said, sizes[:] = list(sizes), []
    p.apply()
    assert sum(said) == sum(sizes) == 5
    assert max(said) == 2
    assert 2 < max(sizes) <= 4


def test_limit_takes_the_first_records(project: MakeProject) -> None:
    p = project(people=people(10))
    assert statuses(p.apply(limit=4, batch_size=3)) == {"done": 4}
    assert len(p.rows("people")) == 4
    assert statuses(p.apply()) == {"done": 6, "unchanged": 4}


def test_select_runs_only_these_flows(project: MakeProject) -> None:
    p = project(CHILDREN, CHILDREN_TABLES, parents=[{"id": "x"}], children=[{"id": "c", "parent": "x"}])
    assert [one.flow for one in p.apply(select=("parents",)).counts] == ["parents"]
    assert p.rows("children") == []
    with pytest.raises(ConfigError) as caught:
        p.apply(select=("childrn",))
    assert caught.value.hint == "did you mean `children`?"


EXACT = """
values:
  from: src.values
  unit: id
  into: app.values_
  columns: {id: id, number: number, money: money, document: document, text: text, at: moment, big: big, real_: tiny}
"""
EXACT_TABLE = (
    "CREATE TABLE values_ (id uuid PRIMARY KEY, number numeric, money numeric(10, 2), document jsonb, text text,"
    " at timestamptz, big bigint, real_ double precision)"
)
UUID = "3f0b7d3e-6a3c-4f5e-9d55-6f6b0c6f1a77"
TEXT = "  e\u0301 👩🏾‍⚕️ \u200b trailing  "
DOCUMENT = '{"z": 12345678901234567890123456789012345678, "a": [1.50, null, "é\\n"], "text": "' + TEXT + '"}'


def test_every_digit_and_character_arrives_in_postgres(project: MakeProject) -> None:
    line = (
        f'{{"id": "{UUID.upper()}", "number": 1.2345678901234567890123456789012345678, "money": 1.5,'
        f' "document": {DOCUMENT}, "text": "{TEXT}", "moment": "2025-12-26T13:00:00.123456+01:00",'
        ' "big": 9223372036854775807, "tiny": 0.1}'
    )
    p = project(EXACT, EXACT_TABLE, target="postgres")
    (p.root / "source" / "values.jsonl").write_text(line + "\n", "utf-8")
    assert counts(p.plan()) == counts(p.apply())
    row = p.sql("SELECT id::text, number, money, document::text, text, at::text, big, real_ FROM values_")[0]
    assert row[:3] == (UUID, Decimal("1.2345678901234567890123456789012345678"), Decimal("1.50"))
    assert json.loads(row[3], parse_float=Decimal) == json.loads(DOCUMENT, parse_float=Decimal)
    assert row[4] == TEXT
    assert row[6:] == (2**63 - 1, 0.1)
    assert p.sql("SELECT at = '2025-12-26 12:00:00.123456+00' FROM values_") == [(True,)]
    assert not p.verify().findings
    assert actions(p.apply(fresh=True)) == {"unchanged": 1}
    p.flows(EXACT + '  warn: {odd: "false"}\n')
    assert actions(p.apply()) == {"unchanged": 1}, "nor does the target look different when it is asked"


@pytest.mark.parametrize("native", ["DECIMAL(10, 2)", "NUMERIC"])
def test_zeros_at_the_end_of_a_number_are_no_difference(project: MakeProject, database: str, native: str) -> None:
    flow = "prices: {from: src.prices, unit: id, into: app.prices, columns: {id: id, price: price, name: name}}"
    table = f"CREATE TABLE prices (id TEXT PRIMARY KEY, price {native}, name TEXT)"
    p = project(flow, table, target=database, prices=[{"id": "a", "price": "1.50", "name": "x"}])
    p.apply()
    assert not p.verify().findings
    p.put(prices=[{"id": "a", "price": "1.5", "name": "y"}])
    assert actions(p.apply()) == {"update": 1}


@pytest.mark.parametrize(
    ("document", "reason"), [('{"a": "\\ud800"}', "surrogate"), ("[" * 2000 + "]" * 2000, "nesting")]
)
def test_a_document_that_is_beyond_us_holds_its_unit_at_most(project: MakeProject, document: str, reason: str) -> None:
    flow = "docs: {from: src.docs, unit: id, into: app.docs, columns: {id: id, document: document}}"
    p = project(flow, "CREATE TABLE docs (id text PRIMARY KEY, document jsonb)", target="postgres")
    good, bad = {"id": "good", "document": {"a": 1}}, {"id": "bad", "document": document}
    p.put(docs=[good, bad])
    p.apply()
    assert ("good",) in p.rows("docs", "id")
    if reason == "surrogate":
        assert list(p.held) == ["bad"]


def test_statements_after_a_flow_run_once_it_is_done(project: MakeProject, database: str) -> None:
    p = project(PEOPLE + "  after: [\"UPDATE people SET note = 'after'\"]\n", target=database, people=people(2))
    p.apply()
    assert p.rows("people", "note") == [("after",)] * 2


def test_a_run_that_does_not_add_up_has_failed(project: MakeProject, monkeypatch: pytest.MonkeyPatch) -> None:
    p = project(people=people(3))
    monkeypatch.setattr("resettle.engine.apply.count_prepared", lambda counts, prepared: None)
    with pytest.raises(BalanceError):
        p.apply()
    with p.ledger() as ledger:
        assert ledger.runs()[0]["status"] == "failed"
