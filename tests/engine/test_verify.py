"""verify believes neither our counts nor our memory: it reads both sides again."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine.conftest import PEOPLE, MakeProject, Project, people, person


def applied(project: MakeProject, database: str, **more: Any) -> Project:
    p = project(target=database, people=people(20), **more)
    p.apply()
    return p


def test_verify_passes_where_everything_arrived(project: MakeProject, database: str) -> None:
    p = applied(project, database)
    verified = p.verify()
    assert verified.exit_code == 0
    assert not verified.findings
    (flow,) = verified.flows
    assert (flow.read, flow.rows, flow.cells, flow.in_target) == (20, 20, 60, {"people": 20})


def test_a_changed_cell_is_found_and_its_column_named(project: MakeProject, database: str) -> None:
    p = applied(project, database)
    p.sql("UPDATE people SET age = 99 WHERE id = 'p7'")
    verified = p.verify(batch_size=6)
    assert verified.exit_code == 4
    ((finding),) = verified.findings
    assert (finding.kind, finding.unit, finding.key, finding.detail) == (
        "differs",
        "p7",
        "p7",
        "people: age (changed in the target since we wrote it)",
    )


def test_a_column_that_is_not_ours_may_change(project: MakeProject, database: str) -> None:
    p = applied(project, database)
    p.sql("UPDATE people SET note = 'theirs'")
    assert not p.verify().findings


def test_a_value_turned_to_null_is_found(project: MakeProject, database: str) -> None:
    p = applied(project, database)
    p.sql("UPDATE people SET age = NULL WHERE id = 'p0'")
    assert [finding.detail for finding in p.verify().findings] == [
        "people: age (changed in the target since we wrote it)"
    ]


def test_a_missing_row_is_found(project: MakeProject, database: str) -> None:
    p = applied(project, database)
    p.sql("DELETE FROM people WHERE id IN ('p3', 'p4')")
    verified = p.verify()
    assert [(one.kind, one.key) for one in verified.findings] == [("missing", "p3"), ("missing", "p4")]


def test_a_record_that_was_never_applied_is_found(project: MakeProject, database: str) -> None:
    p = applied(project, database)
    p.put(people=[*people(20), person(50), person(51)])
    verified = p.verify()
    assert verified.counts == {"not_applied": 2}
    assert verified.flows[0].not_applied == 2


def test_a_record_that_changed_since_is_found(project: MakeProject) -> None:
    p = applied(project, "sqlite")
    p.put(people=[*people(19), person(19, "Changed")])
    assert [(one.kind, one.unit) for one in p.verify().findings] == [("differs", "p19")]


def test_held_and_skipped_records_are_counted_and_no_finding(project: MakeProject) -> None:
    p = project(
        PEOPLE + "  skip: {anna: \"name = 'Anna'\"}\n",
        people=[*people(3), person(10), {**person(11, "Bert"), "age": "x"}],
    )
    p.apply()
    verified = p.verify()
    assert not verified.findings
    assert (verified.flows[0].held, verified.flows[0].skipped) == (1, 1)


def test_what_the_target_refused_is_held_and_no_finding(project: MakeProject, database: str) -> None:
    table = "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT CHECK (name <> 'bad'), age INTEGER)"
    p = project(tables=table, target=database, people=[*people(3), person(9, "bad")])
    p.apply()
    verified = p.verify()
    assert not verified.findings
    assert verified.flows[0].held == 1


def test_an_orphan_is_found(project: MakeProject, database: str) -> None:
    flow = "pets: {from: src.pets, unit: id, into: app.pets, columns: {id: id, owner: owner}}"
    tables = [
        "CREATE TABLE people (id TEXT PRIMARY KEY)",
        "CREATE TABLE pets (id TEXT PRIMARY KEY, owner TEXT REFERENCES people (id))",
    ]
    p = project(flow, tables, target=database, pets=[{"id": "cat", "owner": "p1"}])
    p.sql("INSERT INTO people VALUES ('p1')")
    p.apply()
    if database == "postgres":
        p.sql("ALTER TABLE pets DISABLE TRIGGER ALL", "ALTER TABLE people DISABLE TRIGGER ALL")
    p.sql("DELETE FROM people")
    verified = p.verify()
    assert verified.counts == {"orphan": 1}
    assert "pets_owner_fkey" in verified.findings[0].detail
    assert ("pets: pets_owner_fkey", False, "1 orphans") in verified.checks


ASSERTIONS = """
verify:
  assertions:
    nobody_is_old: {sql: "SELECT count(*) FROM people WHERE age > 90"}
    there_are_twenty: {sql: "SELECT count(*) FROM people", expect: 20}
"""


def test_an_assertion_that_fails_is_found_by_its_name(project: MakeProject, database: str) -> None:
    p = applied(project, database, extra=ASSERTIONS)
    assert p.verify().exit_code == 0
    p.sql("INSERT INTO people (id, name, age) VALUES ('x', 'Old', 99)")
    verified = p.verify()
    assert {(name, passed) for name, passed, _ in verified.checks} >= {
        ("assertion nobody_is_old", False),
        ("assertion there_are_twenty", False),
    }
    assert [one.kind for one in verified.findings] == ["assertion", "assertion"]
    assert "nobody_is_old: expected 0, got 1" in [one.detail for one in verified.findings]


PROBES = """
verify:
  probes:
    readers_see_nobody: {role: resettle_reader, sql: SELECT count(*) FROM people, expect: 0}
    strangers_are_denied: {role: resettle_stranger, sql: SELECT count(*) FROM people, expect: denied}
    owners_see_all: {role: postgres, sql: SELECT count(*) FROM people, same_as: SELECT count(*) FROM people}
"""


def test_a_probe_asks_as_another_role(project: MakeProject) -> None:
    p = project(target="postgres", people=people(20), extra=PROBES)
    for role in ("resettle_reader", "resettle_stranger"):
        p.sql(f"DO $$ BEGIN CREATE ROLE {role}; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    p.sql("GRANT SELECT ON people TO resettle_reader", "ALTER TABLE people ENABLE ROW LEVEL SECURITY")
    p.apply()
    assert p.verify().exit_code == 0
    p.sql("ALTER TABLE people DISABLE ROW LEVEL SECURITY")
    verified = p.verify()
    (finding,) = verified.findings
    assert (finding.kind, finding.detail) == (
        "probe",
        "readers_see_nobody: as resettle_reader: expected 0, got 20",
    )
    p.sql("DROP OWNED BY resettle_reader")


def test_a_sample_looks_at_some_rows_and_finds_what_is_wrong_everywhere(project: MakeProject) -> None:
    p = project(people=people(500))
    p.apply()
    p.sql("UPDATE people SET age = 0")
    verified = p.verify(sample=50)
    assert 10 < verified.flows[0].rows < 150
    assert verified.counts["differs"] == verified.flows[0].rows
    assert verified.flows[0].read == 500


def test_records_that_left_the_source_are_told(project: MakeProject) -> None:
    p = applied(project, "sqlite")
    p.put(people=people(18))
    verified = p.verify()
    ((_, passed, detail),) = [check for check in verified.checks if "no longer has" in check[0]]
    assert passed  # it is the source's right
    assert detail == "2"


def test_a_held_record_does_not_hide_one_that_left_the_source(project: MakeProject) -> None:
    p = project(target="sqlite", people=[*people(3), {"id": "p9", "name": None}])
    p.apply()
    p.put(people=[*people(2), {"id": "p9", "name": None}])
    ((_, _, detail),) = [check for check in p.verify().checks if "no longer has" in check[0]]
    assert detail == "1"


def test_spot_checks_show_records_field_by_field(project: MakeProject) -> None:
    p = applied(project, "sqlite", extra="verify: {spot_checks: 3}")
    hidden = p.verify().spots
    assert len(hidden) == 3
    assert all(field == (None, None, True) for spot in hidden for field in spot.fields.values())
    shown = p.verify(show_values=True).spots
    assert all(spot.fields["id"] == (spot.key, spot.key, True) for spot in shown)


def test_many_findings_are_all_counted_and_some_are_listed(project: MakeProject) -> None:
    p = project(people=people(300))
    p.apply()
    p.sql("DELETE FROM people")
    verified = p.verify()
    assert verified.counts == {"missing": 300}
    assert len(verified.findings) == 100


def test_verify_writes_nothing(project: MakeProject) -> None:
    p = applied(project, "sqlite")
    before = p.file
    p.verify()
    assert p.file == before


@pytest.mark.parametrize("where", ["id = 'p1'", None])
def test_verify_may_look_at_a_part(project: MakeProject, where: str | None) -> None:
    p = applied(project, "sqlite")
    p.sql("UPDATE people SET age = 99 WHERE id = 'p2'")
    assert p.verify(where=where).exit_code == (0 if where else 4)
