"""A plan writes nothing, counts what an apply then does, and can be applied exactly or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from resettle.engine.plan import load_plan, save
from resettle.errors import PlanError, StalePlanError
from tests.engine.conftest import (
    PEOPLE,
    PEOPLE_TABLE,
    MakeProject,
    Project,
    actions,
    counts,
    people,
    person,
    statuses,
)

# -- it writes nothing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("applied", [False, True])
def test_a_plan_leaves_every_byte_of_a_sqlite_target_as_it_is(project: MakeProject, applied: bool) -> None:
    p = project(people=people(10))
    if applied:
        p.apply()
        p.put(people=[*people(9), person(9, "Changed"), person(10, None)])
    before = p.file
    p.plan()
    assert p.file == before


def test_a_plan_makes_no_schema_in_postgres(project: MakeProject) -> None:
    p = project(target="postgres", people=people(10))
    p.plan()
    assert p.sql("SELECT nspname FROM pg_namespace WHERE nspname = 'resettle'") == []
    assert p.rows("people") == []


def test_a_plan_leaves_no_trace_in_the_ledger_of_postgres(project: MakeProject) -> None:
    p = project(target="postgres", people=people(10))
    p.apply()
    p.put(people=[person(1, "Changed"), person(2, None), person(11)])
    before = p.remembered(), p.sql("SELECT * FROM resettle.runs"), p.rows("people", "id, xmin::text")
    p.plan()
    assert (p.remembered(), p.sql("SELECT * FROM resettle.runs"), p.rows("people", "id, xmin::text")) == before


def test_a_plan_writes_no_file_but_its_own(project: MakeProject) -> None:
    p = project(people=people(10))
    before = sorted(path for path in p.root.rglob("*"))
    p.plan()
    assert sorted(path for path in p.root.rglob("*")) == before


# -- its counts are those of the apply -------------------------------------------------------------------------

NAMES = st.sampled_from(["Anna", "Bert", "", None, "too long a name for it"])
RECORD = st.fixed_dictionaries(
    {
        "id": st.sampled_from([f"p{n}" for n in range(6)]),
        "key": st.sampled_from(["a", "b", "c", "d"]),
        "name": NAMES,
        "age": st.sampled_from([1, 2, "x", None]),
        "boss": st.sampled_from(["a", "b", "theirs", "nobody", None]),
    }
)
RECORDS = st.lists(RECORD, max_size=8, unique_by=lambda record: str(record["id"]))
RANDOM = """
people:
  from: src.people
  unit: id
  into: app.people
  on_conflict: %s
  skip: {young: "age = '2'"}
  columns: {id: "%s", name: name, age: age, boss: boss}
"""
RANDOM_TABLE = (
    "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT NOT NULL, age INTEGER,"
    " boss TEXT REFERENCES people (id), note TEXT)"
)
ROW = st.tuples(st.sampled_from(["a", "b", "theirs", "p1", "p2"]), st.sampled_from(["Anna", "Theirs"]))


@given(
    first=RECORDS,
    second=RECORDS,
    rows=st.lists(ROW, max_size=3, unique_by=lambda row: row[0]),
    edits=st.lists(st.sampled_from(["a", "b", "p1", "p2"]), max_size=2),
    size=st.sampled_from([1, 3, 100]),
    policy=st.sampled_from(["hold", "source", "target"]),
    key=st.sampled_from(["id", "key"]),
)
@settings(  # without shrinking, which would take minutes of migrations
    max_examples=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
def test_a_plan_counts_what_the_apply_then_does(
    tmp_path_factory: pytest.TempPathFactory,
    first: list[dict[str, Any]],
    second: list[dict[str, Any]],
    rows: list[tuple[str, str]],
    edits: list[str],
    size: int,
    policy: str,
    key: str,
) -> None:
    root = tmp_path_factory.mktemp("plan")
    (root / "source").mkdir()
    p = Project(root, "sqlite", defaults={"batch_size": size})
    p.sql(RANDOM_TABLE, *(f"INSERT INTO people (id, name) VALUES ('{key}', '{name}')" for key, name in rows))
    p.flows(RANDOM % (policy, key))
    for records in (first, second):
        p.put(people=records)
        planned, applied = p.plan(), p.apply()
        assert counts(planned) == counts(applied)
        assert not actions(p.apply()), "and then there is nothing left to do"
        p.sql(*(f"UPDATE people SET name = 'Edited' WHERE id = '{key}'" for key in edits), "SELECT 1")
    shutil.rmtree(root)


def test_a_plan_knows_what_an_earlier_flow_of_the_same_plan_would_make(project: MakeProject, database: str) -> None:
    flows = """
    people: {from: src.people, unit: id, into: app.people, columns: {id: "'new-' || id", name: name}}
    pets: {from: src.pets, unit: id, into: app.pets, columns: {id: id, owner: {ref: people, on: owner}}}
    """
    tables = [PEOPLE_TABLE, "CREATE TABLE pets (id TEXT PRIMARY KEY, owner TEXT NOT NULL REFERENCES people (id))"]
    pets = [{"id": "cat", "owner": "p1"}, {"id": "dog", "owner": "p9"}, {"id": "cow", "owner": "p2"}]
    p = project(flows, tables, target=database, people=[person(1), {**person(2), "name": None}], pets=pets)
    assert counts(p.plan()) == counts(p.apply())
    assert p.held == {"p2": "null", "dog": "reference_missing", "cow": "reference_missing"}
    assert p.rows("pets") == [("cat", "new-p1")]


# -- a saved plan ------------------------------------------------------------------------------------------------


def saved(p: Project, **options: Any) -> Path:
    path = p.root / "plan.json"
    save(p.plan(**options), path)
    return path


def test_a_plan_comes_back_from_its_file_as_it_was(project: MakeProject) -> None:
    p = project(people=[*people(10), person(11, None)])
    made = p.plan()
    save(made, p.root / "plan.json")
    back = load_plan(p.root / "plan.json")
    assert counts(back) == counts(made)
    assert (back.migration, back.environment, back.made_at) == (made.migration, made.environment, made.made_at)
    assert back.digests == made.digests
    assert {flow: list(hashes) for flow, hashes in back.decisions.items()} == {
        flow: list(hashes) for flow, hashes in made.decisions.items()
    }


def test_only_its_owner_may_read_a_plan_file(project: MakeProject) -> None:
    p = project(people=people(1))
    old = p.root / "plan.json"
    old.touch(mode=0o644)
    assert saved(p).stat().st_mode & 0o777 == 0o600


def test_a_plan_file_holds_no_value_of_any_record(project: MakeProject) -> None:
    p = project(people=[person(1, "Very Private")])
    assert "Very Private" not in saved(p).read_text()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"resettle_plan": 99}', "nonsense", '{"resettle_plan": 1}'])
def test_what_is_no_plan_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(PlanError) as caught:
        load_plan(tmp_path / "plan.json")
    assert caught.value.exit_code == 5


def test_a_saved_plan_is_applied_exactly(project: MakeProject, database: str) -> None:
    p = project(target=database, people=[*people(10), person(11, None)])
    p.defaults = {"batch_size": 4}
    plan = load_plan(saved(p))
    assert counts(p.apply(saved=plan)) == counts(plan)


def changed_source(p: Project) -> None:
    p.put(people=[*people(9), person(9, "Changed")])


def one_record_more(p: Project) -> None:
    p.put(people=people(11))


def changed_target(p: Project) -> None:
    p.sql("INSERT INTO people (id, name) VALUES ('p3', 'Theirs')")


def changed_mapping(p: Project) -> None:
    p.flows(PEOPLE.replace("name: name", "name: upper(name)"))


@pytest.mark.parametrize("change", [changed_source, one_record_more, changed_target, changed_mapping])
def test_a_plan_is_stale_when_anything_changed_and_then_nothing_is_written(
    project: MakeProject, database: str, change: Any
) -> None:
    p = project(target=database, people=people(10))
    plan = load_plan(saved(p))
    change(p)
    before = p.rows("people")
    with pytest.raises(StalePlanError) as caught:
        p.apply(saved=plan)
    assert caught.value.exit_code == 5
    assert p.rows("people") == before


def test_a_plan_of_another_migration_is_refused(project: MakeProject) -> None:
    p = project(people=people(1))
    path = saved(p)
    path.write_text(path.read_text().replace('"migration": "test"', '"migration": "other"'))
    with pytest.raises(PlanError, match="the plan is for other"):
        p.apply(saved=load_plan(path))


def test_a_plan_of_another_engine_is_stale(project: MakeProject) -> None:
    p = project(people=people(1))
    path = saved(p)
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"engine": "duckdb 0.1"}))
    with pytest.raises(StalePlanError, match=r"duckdb 0\.1"):
        p.apply(saved=load_plan(path))


def test_what_changes_while_a_plan_is_applied_is_not_written(project: MakeProject, database: str) -> None:
    p = project(target=database, people=people(10))
    p.sql("INSERT INTO people (id, name) VALUES ('theirs', 'Theirs')")
    plan = load_plan(saved(p))

    def interfere(flow: str, state: str, counts: Any) -> None:
        if state == "writing":
            p.sql("INSERT INTO people (id, name) VALUES ('p5', 'Theirs') ON CONFLICT DO NOTHING")

    with pytest.raises(StalePlanError, match="changed while the plan was applied"):
        p.apply(saved=plan, progress=interfere)
    assert p.rows("people", "id") == [("p5",), ("theirs",)]


def test_a_row_that_the_target_refuses_does_not_make_a_plan_stale(project: MakeProject, database: str) -> None:
    """What only the target's constraints know is no change of anything: that unit is held, the others go on."""
    table = "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT CHECK (name <> 'bad'), age INTEGER)"
    p = project(tables=table, target=database, people=[*people(5), person(7, "bad")])
    plan = load_plan(saved(p))
    assert statuses(p.apply(saved=plan)) == {"done": 5, "held": 1}
    assert p.held == {"p7": "check"}


def test_samples_show_values_only_on_request(project: MakeProject) -> None:
    p = project(people=[person(1, "Private")])
    ((hidden,),) = [one.samples["create"] for one in p.plan().counts]
    assert "Private" not in repr(hidden)
    ((shown,),) = [one.samples["create"] for one in p.plan(show_values=True).counts]
    assert shown.fields["name"] == (None, "Private")
