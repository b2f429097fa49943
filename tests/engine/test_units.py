"""Units with several outputs: rows that are reused, links to them, and places in documents that are patched."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resettle.errors import MappingError
from tests.engine.conftest import PEOPLE, MakeProject, Project, actions, counts, people, statuses

TABLES = (
    "CREATE TABLE assets (id {uuid} PRIMARY KEY, org TEXT NOT NULL, provider TEXT NOT NULL, storage_key TEXT,"
    " url TEXT, title TEXT, status TEXT NOT NULL DEFAULT 'active', UNIQUE (org, provider, storage_key))",
    "CREATE TABLE usages (id {uuid} PRIMARY KEY, asset_id {uuid} NOT NULL REFERENCES assets (id),"
    " lesson TEXT NOT NULL, slot TEXT, position INTEGER)",
    "CREATE TABLE lessons (id TEXT PRIMARY KEY, items {json}, note TEXT)",
)
FLOWS = """
lessons:
  from: app.lessons
  unit: id
  rows: >-
    SELECT source.*, CAST(p AS INTEGER) AS position, json_at(items, CAST(p AS VARCHAR)) AS item
    FROM (SELECT *, unnest(range(CAST(json_array_length(items) AS BIGINT))) AS p FROM source) source
  skip_rows:
    malformed: "coalesce(json_kind(item), 'null') <> 'object'"
    missing_key: "(item->>'type') = 'upload' and (item->>'key') is null"
  outputs:
    uploads:
      into: app.assets
      when: "(item->>'type') = 'upload'"
      match: org, provider, storage_key
      prefer: {id: "item->>'assetId'"}
      hold_reuse: {archived: "status <> 'active'"}
      columns: {id: {mint: uuid}, org: "'o1'", provider: {value: upload}, storage_key: "item->>'key'",
                title: "item->>'title'", status: {create: "'active'"}}
      count: {untitled: title is null}
    externals:
      into: app.assets
      when: "(item->>'type') = 'link'"
      match: [org, provider, url]
      columns: {id: {mint: uuid}, org: "'o1'", provider: {value: link}, url: "item->>'url'"}
    usages:
      into: app.usages
      match: [asset_id, lesson, slot, position]
      columns: {id: {mint: uuid}, asset_id: "coalesce(uploads.id, externals.id)", lesson: id, slot: {value: null},
                position: position}
    payload:
      into: app.lessons
      patch: id
      columns:
        id: id
        items: {at: "'/' || position || '/assetId'", set: "coalesce(uploads.id, externals.id)", expect: item}
  summary:
    scanned: rows
    eligible: rows - reasons.malformed - reasons.missing_key
    made: uploads."create" + externals."create"
    reused: uploads.reuse + externals.reuse + uploads.unchanged + externals.unchanged
    patched: payload.patch
    untitled: counted.untitled
"""


def item(kind: str, where: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, ("key" if kind == "upload" else "url"): where, **more}


def lessons(make: MakeProject, database: str, **items: Any) -> Project:
    kinds = {"uuid": "UUID", "json": "JSONB"} if database == "postgres" else {"uuid": "UUID", "json": "TEXT"}
    p = make(FLOWS, [table.format(**kinds) for table in TABLES], target=database)
    for name, value in items.items():
        write(p, name, value)
    return p


def write(p: Project, name: str, value: Any) -> None:
    text = value if isinstance(value, str) else json.dumps(value)
    p.sql(
        f"INSERT INTO lessons (id, items) VALUES ('{name}', '{text}') ON CONFLICT (id) DO UPDATE SET items = '{text}'"
    )


def payload(p: Project, name: str) -> Any:
    ((text,),) = p.sql(f"SELECT items FROM lessons WHERE id = '{name}'")
    return json.loads(text) if isinstance(text, str) else text


def test_a_key_in_two_lessons_is_one_row_with_two_usages(project: MakeProject, database: str) -> None:
    p = lessons(project, database, a=[item("upload", "k1"), item("link", "u1")], b=[item("upload", "k1")])
    assert actions(p.apply()) == {"create": 2 + 3, "reuse": 1, "patch": 3}
    ((asset,),) = p.sql("SELECT id FROM assets WHERE storage_key = 'k1'")
    assert payload(p, "a")[0]["assetId"] == payload(p, "b")[0]["assetId"] == str(asset)
    assert p.sql("SELECT count(*) FROM usages u JOIN assets a ON a.id = u.asset_id") == [(3,)]


@pytest.mark.parametrize("size", [1, 100])
def test_a_plan_counts_as_its_apply_does_and_a_second_apply_writes_nothing(
    project: MakeProject, database: str, size: int
) -> None:
    shared = [item("upload", "k1"), item("link", "u1"), item("upload", "k2", title="T")]
    p = lessons(project, database, a=shared, b=shared[::-1], c=["text", None, {"type": "upload"}], d=[])
    planned, applied = (counts(run) for run in (p.plan(batch_size=size), p.apply(batch_size=size)))
    assert planned == applied
    assert planned[0]["summary"] == {
        "scanned": 9, "eligible": 6, "made": 3, "reused": 3, "patched": 6, "untitled": 1,
    }  # fmt: skip
    assert planned[0]["left_out"] == {"malformed": 2, "missing_key": 1}
    assert planned[0]["reasons"] == {"rows_skipped": 1, "no_rows": 1}
    before = [p.rows(table) for table in ("assets", "usages", "lessons")]
    again = p.apply(batch_size=size)
    assert actions(again) == {"unchanged": 18}
    assert before == [p.rows(table) for table in ("assets", "usages", "lessons")]
    assert actions(p.apply(batch_size=size)) == {"unchanged": 18}, "patches always look"
    assert p.verify().exit_code == 0


def test_a_row_that_was_there_is_reused_by_its_natural_key(project: MakeProject, database: str) -> None:
    there = "00000000-0000-4000-8000-000000000001"
    p = lessons(project, database, a=[item("upload", "k1"), item("link", "u1")])
    p.sql(
        f"INSERT INTO assets (id, org, provider, storage_key, title) VALUES ('{there}', 'o1', 'upload', 'k1', 'Theirs')"
    )
    assert actions(p.apply()) == {"create": 3, "reuse": 1, "patch": 2}
    assert payload(p, "a")[0]["assetId"] == there
    assert p.sql("SELECT title FROM assets WHERE storage_key = 'k1'") == [("Theirs",)]
    assert p.verify().exit_code == 0


def test_of_several_rows_with_one_natural_key_the_preferred_one_counts_else_the_lowest(
    project: MakeProject, database: str
) -> None:
    low, high = (f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2))
    p = lessons(project, database, a=[item("link", "u1")], b=[item("link", "u1", assetId=high)])
    p.flows(
        FLOWS.replace(
            "match: [org, provider, url]", "match: [org, provider, url]\n      prefer: {id: \"item->>'assetId'\"}"
        )
    )
    for one in (high, low):
        p.sql(f"INSERT INTO assets (id, org, provider, url) VALUES ('{one}', 'o1', 'link', 'u1')")
    assert actions(p.apply()) == {"reuse": 2, "create": 2, "patch": 1, "unchanged": 1}
    assert (payload(p, "a")[0]["assetId"], payload(p, "b")[0]["assetId"]) == (low, high)


def test_a_row_that_must_not_be_reused_holds_its_unit_alone(project: MakeProject, database: str) -> None:
    p = lessons(project, database, a=[item("upload", "k1"), item("link", "u1")], b=[item("link", "u1")])
    there = "00000000-0000-4000-8000-000000000001"
    p.sql(
        "INSERT INTO assets (id, org, provider, storage_key, status)"
        f" VALUES ('{there}', 'o1', 'upload', 'k1', 'archived')"
    )
    assert statuses(p.apply()) == {"done": 1, "held": 1}
    assert p.held == {"a": "archived"}
    assert payload(p, "a") == [item("upload", "k1"), item("link", "u1")]
    assert p.sql("SELECT count(*) FROM assets") == [(2,)]


def test_an_editors_change_of_another_item_between_reading_and_writing_is_kept(
    project: MakeProject, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = lessons(project, database, a=[item("upload", "k1"), item("link", "u1")])
    edit(p, monkeypatch, [item("upload", "k1"), item("link", "u1"), item("link", "new")])
    assert statuses(p.apply()) == {"done": 1}
    found = payload(p, "a")
    assert [one.get("url") for one in found] == [None, "u1", "new"]
    assert ["assetId" in one for one in found] == [True, True, False]


def test_a_unit_whose_item_moved_meanwhile_is_tried_again_by_the_next_run(
    project: MakeProject, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = lessons(project, database, a=[item("upload", "k1")])
    edit(p, monkeypatch, [item("link", "first"), item("upload", "k1")])
    run = p.apply()
    assert (statuses(run), run.exit_code) == ({"failed": 1}, 1)
    assert p.sql("SELECT count(*) FROM assets") == [(0,)]
    assert "assetId" not in json.dumps(payload(p, "a"))
    monkeypatch.undo()
    assert statuses(p.apply()) == {"done": 1}
    assert all("assetId" in one for one in payload(p, "a"))


def edit(p: Project, monkeypatch: pytest.MonkeyPatch, items: Any) -> None:
    """Somebody edits the lesson after it was read."""
    from resettle.engine.feed import Feed

    prepare = Feed.prepare

    def prepared(self: Feed, looked: Any) -> Any:
        found = prepare(self, looked)
        write(p, "a", items)
        return found

    monkeypatch.setattr(Feed, "prepare", prepared)


def test_every_other_character_of_a_patched_text_stays(project: MakeProject) -> None:
    text = '[ {"type":"upload" , "key":"k1","n":1.50, "u":"\\u00e9"},\n  {"type":"link","url":"u1"} , 7 ]'
    p = lessons(project, "sqlite", a=text)
    p.apply()
    ((found,),) = p.sql("SELECT items FROM lessons")
    ids = [one["assetId"] for one in json.loads(found)[:2]]
    assert found == text.replace('"u":"\\u00e9"', f'"u":"\\u00e9","assetId":"{ids[0]}"').replace(
        '"url":"u1"', f'"url":"u1","assetId":"{ids[1]}"'
    )


def test_a_stale_reference_is_put_right(project: MakeProject, database: str) -> None:
    p = lessons(project, database, a=[item("upload", "k1", assetId="gone")])
    assert p.plan().writes == {"create": 2, "patch": 1}
    assert actions(p.apply()) == {"create": 2, "patch": 1}
    ((asset,),) = p.sql("SELECT id FROM assets")
    assert payload(p, "a")[0]["assetId"] == str(asset)


def test_a_row_that_its_record_no_longer_makes_stays_and_is_told(project: MakeProject, database: str) -> None:
    p = lessons(project, database, a=[item("upload", "k1"), item("link", "u1")], b=[item("upload", "k1")])
    p.apply()
    write(p, "a", payload(p, "a")[:1])
    run = p.apply()
    assert run.counts[0].warnings == {"rows_left_behind": 1}
    assert p.sql("SELECT count(*) FROM usages") == [(3,)]
    assert p.apply().counts[0].warnings == {"rows_left_behind": 1}
    left = "lessons: rows that their records no longer make"
    assert (left, True, "2") in p.verify().checks
    whole = payload(p, "a")
    write(p, "a", [])
    run = p.apply()
    assert (run.counts[0].warnings, statuses(run)["skipped"]) == ({"rows_left_behind": 1}, 1)
    assert (left, True, "4") in p.verify().checks
    write(p, "a", whole)
    assert p.apply().counts[0].warnings == {"rows_left_behind": 1}
    write(p, "a", [*payload(p, "a"), item("link", "u1")])
    assert not p.apply().counts[0].warnings
    assert (left, True, "0") in p.verify().checks


def test_a_patch_needs_a_row_that_is_there(project: MakeProject) -> None:
    note = "{into: app.people, patch: id, columns: {id: id, note: name}}"
    flows = f"people: {{from: src.people, unit: id, outputs: {{note: {note}}}}}"
    p = project(
        flows, "CREATE TABLE people (id TEXT PRIMARY KEY, note TEXT, other TEXT)", people=[{"id": "p1", "name": "n"}]
    )
    run = p.apply()
    assert (statuses(run), p.held) == ({"held": 1}, {"p1": "no_row_to_patch"})
    p.sql("INSERT INTO people VALUES ('p1', 'old', 'kept')")
    assert actions(p.apply(fresh=True)) == {"patch": 1}
    assert p.rows("people") == [("p1", "n", "kept")]


def test_a_plan_foresees_a_patch_of_what_an_earlier_flow_makes(project: MakeProject, database: str) -> None:
    note = "{into: app.people, patch: id, columns: {id: id, note: name}}"
    flows = PEOPLE + f"notes: {{from: src.notes, unit: id, outputs: {{note: {note}}}}}\n"
    notes = [{"id": "p1", "name": "one"}, {"id": "p2", "name": "two"}, {"id": "p9", "name": "nobody's"}]
    p = project(flows, target=database, people=people(3), notes=notes)
    p.sql("INSERT INTO people (id, name, age, note) VALUES ('p2', 'Name 2', 32, 'two')")
    planned = p.plan()
    assert counts(planned) == counts(p.apply(saved=planned))
    assert actions(planned) == {"create": 2, "reuse": 1, "patch": 1, "unchanged": 1, "conflict": 1}
    assert p.held == {"p9": "no_row_to_patch"}
    assert sorted(p.rows("people", "id, note")) == [("p0", None), ("p1", "one"), ("p2", "two")]


def test_a_place_that_is_none_concerns_its_own_unit_alone(project: MakeProject) -> None:
    flows = """
    docs:
      from: src.docs
      unit: id
      outputs: {place: {into: app.docs, patch: id, columns: {id: id, doc: {at: ptr, set: "value::json"}}}}
    """
    value = '{"price":1.50,"id":12345678901234567890123}'
    docs = [{"id": name, "ptr": "/x", "value": value} for name in "abc"]
    p = project(
        flows, "CREATE TABLE docs (id TEXT PRIMARY KEY, doc TEXT)", docs=[*docs, {**docs[0], "id": "d", "ptr": "x"}]
    )
    p.sql("INSERT INTO docs VALUES ('a', '{}'), ('b', 'no JSON'), ('c', NULL), ('d', '{}')")
    assert statuses(p.apply()) == {"done": 1, "failed": 2, "held": 1}
    assert (p.units("failed"), p.held) == ({"b": "changed_meanwhile", "c": "changed_meanwhile"}, {"d": "cast"})
    assert p.rows("docs")[0] == ("a", '{"x":' + value + "}"), "not a digit is lost"


def test_a_version_counts_the_updates_and_is_nobodys_business_else(project: MakeProject, database: str) -> None:
    flows = """
    people:
      from: src.people
      unit: id
      into: app.people
      columns: {id: id, name: name, version: {create: "1", update: target.version + 1}}
    """
    table = "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT, version INTEGER NOT NULL)"
    p = project(flows, table, target=database, people=[{"id": "p1", "name": "a"}])
    p.apply()
    p.sql("UPDATE people SET version = 7")
    p.put(people=[{"id": "p1", "name": "b"}])
    assert actions(p.apply()) == {"update": 1}
    assert p.rows("people") == [("p1", "b", 8)]
    assert p.verify().exit_code == 0


def test_what_a_lookup_says_newly_is_noticed_by_the_next_run(project: MakeProject) -> None:
    flows = """
    people:
      from: src.people
      unit: id
      skip: {gone: "lookup_gone(id) is not null"}
      into: app.people
      columns: {id: id, name: "coalesce(lookup_names(id), 'none')"}
    """
    extra = """
    lookups:
      gone: {from: src.gone, key: "kind || '/' || id", value: day, pick: max}
      names: {from: src.names, key: id, value: name}
    """
    flows = flows.replace("lookup_gone(id)", "lookup_gone('person/' || id)")
    p = project(flows, "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT)", extra=extra,
                people=[{"id": "a"}, {"id": "b"}],
                gone=[{"kind": "person", "id": "b", "day": "1"}, {"kind": "person", "id": "b", "day": "2"}],
                names=[{"id": "a", "name": "Anna"}])  # fmt: skip
    assert statuses(p.apply()) == {"done": 1, "skipped": 1}
    assert p.rows("people") == [("a", "Anna")]
    saved = p.plan()
    p.put(names=[{"id": "a", "name": "Berta"}])
    with pytest.raises(Exception, match="stale"):
        p.apply(saved)
    assert actions(p.apply()) == {"update": 1}
    assert p.rows("people") == [("a", "Berta")]


def test_a_lookup_of_any_name_is_a_function(project: MakeProject) -> None:
    flows = """
    people:
      from: src.people
      unit: id
      into: app.people
      columns: {id: id, name: "lookup_nameOf(code) || \\"lookup_name-of\\"(code)"}
    """
    one = "{from: src.names, key: code, value: name}"
    p = project(flows, "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT)", people=[{"id": "a", "code": "x"}],
                extra=f"lookups: {{nameOf: {one}, name-of: {one}}}", names=[{"code": "x", "name": "A"}])  # fmt: skip
    p.apply()
    assert p.rows("people") == [("a", "AA")]


def test_a_lookup_may_be_on_a_column_that_a_later_outputs_own_rows_lack(project: MakeProject) -> None:
    flows = """
    people:
      from: src.people
      unit: id
      outputs:
        person: {into: app.people, columns: {id: id, name: {lookup: names, on: code}}}
        tag: {into: app.tags, rows: "select _unit, id from source", columns: {id: id}}
    """
    tables = ("CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT)", "CREATE TABLE tags (id TEXT PRIMARY KEY)")
    extra = "lookups: {names: {from: src.names, key: code, value: name}}"
    p = project(flows, tables, extra=extra, people=[{"id": "a", "code": "x"}], names=[{"code": "x", "name": "Anna"}])
    p.apply()
    assert p.rows("people") == [("a", "Anna")]


def test_on_conflict_decides_about_rows_that_we_never_wrote(project: MakeProject, database: str) -> None:
    columns = "{{id: id, name: name}}"
    flows = "people: {{from: src.people, unit: id, on_conflict: {policy}, into: app.people, columns: " + columns + "}}"
    p = project(flows.format(policy="target"), "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT)", target=database,
                people=[{"id": "p1", "name": "ours"}])  # fmt: skip
    p.sql("INSERT INTO people VALUES ('p1', 'theirs')")
    assert actions(p.apply()) == {"reuse": 1}
    assert (p.rows("people"), p.verify().exit_code) == ([("p1", "theirs")], 0)
    p.flows(flows.format(policy="source"))
    p.put(people=[{"id": "p1", "name": "newer"}])
    assert actions(p.apply()) == {"update": 1}
    assert p.rows("people") == [("p1", "newer")]


def test_a_kept_edit_of_the_target_is_no_finding_for_good(project: MakeProject, database: str) -> None:
    flows = "people: {from: src.people, unit: id, on_conflict: target, into: app.people, columns: {id: id, name: name}}"
    p = project(flows, "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT)", target=database,
                people=[{"id": "p1", "name": "a"}])  # fmt: skip
    p.apply()
    p.sql("UPDATE people SET name = 'edited'")
    p.put(people=[{"id": "p1", "name": "b"}])
    assert actions(p.apply()) == {"reuse": 1}
    assert (p.rows("people"), p.verify().exit_code) == ([("p1", "edited")], 0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("patch: id", "key: id", "go with `patch:`"),
        ("items: {at:", "items: {create: item}\n        x: {at:", "for rows that we make, not for `patch:`"),
        ("prefer: {id:", "prefer: {title:", "names the primary key"),
        ('hold_reuse: {archived: "status', 'hold_reuse: {archived: "state', "state"),
        ("count: {untitled: title", "count: {untitled: titel", "titel"),
        ("rows: >-", 'skip: {no: "false"}\n  skip: >-', "key"),
        ('uploads."create"', "uploads.made", "made"),
    ],
)
def test_what_a_units_declaration_gets_wrong_is_said_at_its_place(
    project: MakeProject, old: str, new: str, message: str
) -> None:
    p = lessons(project, "sqlite")
    p.flows(FLOWS.replace(old, new))
    with pytest.raises(MappingError, match=message):
        p.plan()


def test_a_unit_that_points_at_what_comes_later_is_done_by_the_run_that_brings_it(
    project: MakeProject, database: str
) -> None:
    flows = """
    people: {from: src.people, unit: id, into: app.people, columns: {id: id}}
    pets: {from: src.pets, unit: id, into: app.pets, columns: {id: id, owner: {ref: people, on: owner}}}
    """
    tables = (
        "CREATE TABLE people (id TEXT PRIMARY KEY)",
        "CREATE TABLE pets (id TEXT PRIMARY KEY, owner TEXT REFERENCES people (id))",
    )
    p = project(flows, tables, target=database, people=[{"id": "p1"}], pets=[{"id": "t1", "owner": "p2"}])
    p.apply()
    assert p.held == {"t1": "reference_missing"}
    before = p.remembered()
    p.apply()
    assert p.remembered() == before, "that it still waits is no news"
    p.put(people=[{"id": "p1"}, {"id": "p2"}])
    p.apply()
    assert (p.held, p.rows("pets")) == ({}, [("t1", "p2")])
