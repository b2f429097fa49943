"""What the ledger says of rows is true of the rows that are there: of intents, of rows left behind, of others' rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from resettle.batch import Column, Kind, Schema
from resettle.connectors.memory import Memory
from resettle.engine import apply as applying
from resettle.engine.drift import drift
from resettle.engine.rollback import rollback
from resettle.errors import FenceError, TransientError
from resettle.ledger.ledger import Ledger
from tests.engine.conftest import PEOPLE, PEOPLE_TABLE, MakeProject, Project, people, person, statuses
from tests.engine.test_units_with_files import Stores, project_of, track

MEDIA = """
media: {from: src.media, unit: id, into: api.Media, columns: {slug: slug, other: other}}
uses: {from: src.uses, unit: id, into: app.uses, columns: {id: id, media: {ref: media, on: media}}}
"""
AUTHORS = """
authors: {from: src.authors, unit: id, into: app.authors, match: name, columns: {id: {mint: uuid}, name: name}}
books: {from: src.books, unit: id, into: app.books, columns: {id: id, author: {ref: authors, on: author}}}
"""
AUTHORS_TABLES = [
    "CREATE TABLE authors (id TEXT PRIMARY KEY, name TEXT NOT NULL)",
    "CREATE TABLE books (id TEXT PRIMARY KEY, author TEXT REFERENCES authors (id))",
]


def undo(p: Project, of: int) -> dict[str, int]:
    """What a rollback kept, by reason."""
    with p.opened() as opened:
        options, now = p.options({})
        done = rollback(*opened, options, now, of)
    return {reason: count for flow in done.flows for reason, count in flow.kept.items()}


def drifted(p: Project) -> list[Any]:
    with p.opened() as (migration, connections, ledger):
        return [one for flow in drift(migration, connections, ledger, p.options({})[0]) for one in flow.listed]


def with_api(project: MakeProject, *rows: dict[str, Any], **files: Any) -> tuple[Project, Memory]:
    """A project that also writes to an API without transactions, which knows these media."""
    columns = (Column("slug", Kind.TEXT, nullable=False), Column("other", Kind.TEXT))
    api = Memory("api").create("Media", Schema("Media", columns, key=("slug",), unique=(("other",),)), list(rows))
    api.transactional = False
    p = project(MEDIA, "CREATE TABLE uses (id TEXT PRIMARY KEY, media TEXT NOT NULL)", **files)
    p.opened_before = {"api": api}
    text = (p.root / "migration.yaml").read_text().replace("connections:\n", "connections:\n  api: {type: memory}\n")
    (p.root / "migration.yaml").write_text(text)
    return p, api


def slugs(api: Memory) -> list[str]:
    return [row["slug"] for row in api._committed["Media"].rows.values()]


def test_nothing_points_at_a_file_that_was_not_copied(project: MakeProject, stores: Stores) -> None:
    stores.keep(a=b"AAA", b=b"BBB")
    p = project_of(project, "sqlite", stores, tracks=[track("a"), track("b")])
    reference = "{id: id, object_key: {ref: tracks.object, on: track}}"
    text = (p.root / "migration.yaml").read_text()
    points = f"  points: {{from: src.points, unit: id, into: app.points, columns: {reference}}}\n"
    (p.root / "migration.yaml").write_text(text + points)
    p.sql("CREATE TABLE points (id TEXT PRIMARY KEY, object_key TEXT NOT NULL)")
    p.put(points=[{"id": "1", "track": "a"}, {"id": "2", "track": "b"}])
    del stores.old.shelf.files["objects", "a"]
    p.apply()
    assert p.rows("points") == [("2", "audio/b")]
    assert p.held == {"1": "reference_missing"}
    assert drifted(p) == []
    with p.ledger() as ledger:
        assert ledger.count_rows()["tracks"]["units"] == 1
        (intent, *_) = ledger.trace("a")
        assert intent["intended"]
    stores.keep(a=b"AAA")
    p.apply()
    assert p.rows("points") == [("1", "audio/a"), ("2", "audio/b")]


@pytest.fixture
def stores() -> Stores:
    return Stores()


def test_what_was_refused_under_one_key_may_be_made_under_another(project: MakeProject) -> None:
    p, api = with_api(
        project, {"slug": "theirs", "other": "taken"}, media=[{"id": "m", "slug": "one", "other": "taken"}], uses=[]
    )
    p.apply()
    assert p.held == {"m": "unique"}
    p.put(media=[{"id": "m", "slug": "eins", "other": "free"}], uses=[{"id": "u", "media": "m"}])
    p.apply()
    assert (slugs(api), p.rows("uses")) == (["theirs", "eins"], [("u", "eins")])
    assert statuses(p.apply(fresh=True)) == {"unchanged": 2}
    assert undo(p, 2) == {}
    assert (slugs(api), p.rows("uses")) == (["theirs"], [])


def test_what_was_meant_and_made_under_one_key_is_not_made_under_another(
    project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    p, api = with_api(project, media=[{"id": "m", "slug": "one", "other": "x"}], uses=[])
    monkeypatch.setattr(Ledger, "record", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        p.apply()
    monkeypatch.undo()
    p.put(media=[{"id": "m", "slug": "eins", "other": "x"}])
    p.apply()
    assert (slugs(api), p.held) == (["one"], {"m": "key_changed"})


@pytest.mark.parametrize("how", ["renamed", "deleted"])
def test_a_reference_follows_the_row_that_the_record_makes_now(project: MakeProject, database: str, how: str) -> None:
    tables = [t.replace("TEXT REFERENCES", "UUID REFERENCES") for t in AUTHORS_TABLES] if database == "postgres" else []
    tables = [t.replace("authors (id TEXT", "authors (id UUID") for t in tables] or AUTHORS_TABLES
    p = project(AUTHORS, tables, target=database, authors=[{"id": "a", "name": "Ana"}], books=[])
    p.apply()
    (old,) = p.sql("SELECT id FROM authors")[0]
    if how == "renamed":
        p.put(authors=[{"id": "a", "name": "Anna"}])
    else:
        p.sql("DELETE FROM authors")
    p.apply(fresh=True)
    for number, name in enumerate(["first", "later"], 1):  # decided in an earlier run, and known to the ledger alone
        p.put(books=[{"id": f"b{at}", "author": "a"} for at in range(number)])
        p.apply()
        query = "SELECT a.name FROM books b JOIN authors a ON a.id = b.author"
        assert p.sql(query) == [("Anna" if how == "renamed" else "Ana",)] * number, name
    assert p.sql("SELECT count(*) FROM books") == [(2,)]
    if how == "renamed":
        p.put(authors=[{"id": "a", "name": "Ana"}], books=[{"id": f"b{at}", "author": "a"} for at in range(3)])
        p.apply()
        assert p.sql("SELECT author FROM books WHERE id = 'b2'") == [(old,)]


def test_another_flows_row_is_not_overwritten_whatever_the_policy(project: MakeProject, database: str) -> None:
    second = PEOPLE.replace("people:", "others:", 1).replace("src.people", "src.others")
    flows = (PEOPLE + second).replace("  columns", "  on_conflict: source\n  columns")
    p = project(flows, target=database, people=people(1), others=[person(0, "Other")])
    p.apply()
    for options in ({}, {"fresh": True}, {"select": ("others",), "fresh": True}):
        p.apply(**options)
        assert (p.rows("people", "name"), p.held) == ([("Name 0",)], {"p0": "duplicate_key"})


def test_a_lost_answer_of_a_batch_with_files_holds_nothing(
    project: MakeProject, database: str, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores.keep(a=b"AAA", b=b"BBB")
    p = project_of(project, database, stores, tracks=[track("a"), track("b")])
    real, lost = applying.transactions, []

    @contextmanager
    def losing(*given: Any, **more: Any) -> Iterator[None]:
        with real(*given, **more):
            yield
        if not more.get("rollback") and not lost:
            lost.append(1)
            raise TransientError("the answer was lost")

    monkeypatch.setattr(applying, "transactions", losing)
    assert statuses(p.apply()) == {"done": 2}
    assert lost
    monkeypatch.undo()
    assert statuses(p.apply()) == {"unchanged": 2}


def test_a_run_that_lost_its_lock_runs_nothing_more_and_stays_dead(project: MakeProject) -> None:
    p = project(
        PEOPLE + "  after: [\"INSERT INTO log VALUES ('after')\"]\n",
        [PEOPLE_TABLE, "CREATE TABLE log (t TEXT)"],
        people=people(2),
    )

    def asleep(flow: str, state: str, counts: Any) -> None:
        if state == "done":
            taken = "UPDATE resettle_locks SET run = 2, fence = fence + 1, pid = 1, host = 'elsewhere'"
            p.sql("UPDATE resettle_runs SET status = 'died' WHERE run = 1", taken)

    with pytest.raises(FenceError):
        p.apply(progress=asleep)
    assert p.sql("SELECT * FROM log") == []
    assert p.sql("SELECT status FROM resettle_runs") == [("died",)]


def test_a_rollback_takes_back_what_the_run_said_of_records(project: MakeProject, database: str) -> None:
    flows = PEOPLE + "  hold: {no_age: age is null}\n"
    p = project(flows, target=database, people=[person(0) | {"age": None}, person(1), person(2) | {"age": None}])
    p.apply()
    p.sql("UPDATE people SET name = 'edited'")
    p.put(people=[person(0), person(1, "Berta"), person(2) | {"age": None, "name": "Other"}])
    p.apply()
    assert p.held == {"p1": "edited_in_target", "p2": "no_age"}
    assert undo(p, 2) == {}
    assert p.held == {"p2": "no_age"}, "held by both runs; p1 was done, p0 is looked at again"
    with p.ledger() as ledger:
        assert ledger.done("people") == ["p1"]
    p.sql("UPDATE people SET name = 'Anna'")
    assert statuses(p.apply()) == {"done": 2, "held": 1}


LANGUAGES = "languages: {from: src.languages, unit: id, into: app.languages, columns: {id: id, code: code}}\n"
BOOKS = """
books:
  from: src.books
  unit: id
  outputs:
    language: {into: app.languages, match: code, columns: {code: lang}}
    book: {into: app.books, columns: {id: id, language: language.code}}
"""


@pytest.mark.parametrize("other", ["flow", "migration"])
def test_a_row_that_is_reused_under_another_key_is_kept(project: MakeProject, database: str, other: str) -> None:
    id_ = "INTEGER GENERATED BY DEFAULT AS IDENTITY" if database == "postgres" else "INTEGER"
    tables = [f"CREATE TABLE languages (id {id_} PRIMARY KEY, code TEXT NOT NULL UNIQUE)"]
    tables += ["CREATE TABLE books (id TEXT PRIMARY KEY, language TEXT NOT NULL)"]
    p = project(LANGUAGES + BOOKS, tables, target=database)
    p.put(languages=[{"id": 1, "code": "de"}, {"id": 2, "code": "en"}], books=[{"id": "b", "lang": "de"}])
    p.apply(select=("languages",))
    if other == "migration":
        text = (p.root / "migration.yaml").read_text()
        (p.root / "migration.yaml").write_text(text.replace("migration: test", "migration: another"))
    p.apply(select=("books",))
    if other == "migration":
        (p.root / "migration.yaml").write_text(text)
    assert undo(p, 1) == {"reused": 1}
    assert p.rows("languages") == [(1, "de")]


def test_after_a_whole_rollback_a_flow_may_go_elsewhere(project: MakeProject, database: str) -> None:
    p = project(tables=[PEOPLE_TABLE, PEOPLE_TABLE.replace("people", "folk")], target=database, people=people(2))
    p.apply()
    assert undo(p, 1) == {}
    p.flows(PEOPLE.replace("app.people", "app.folk"))
    assert statuses(p.apply()) == {"done": 2}


def test_each_output_has_a_view_of_its_own(project: MakeProject, database: str) -> None:
    long = "a_flow_whose_name_is_longer_than_anybody_would_care_to_write"
    flows = "media: {from: src.people, unit: id, outputs: {file: {into: app.people, columns: {id: id, name: name}}}}\n"
    flows += "media_file: {from: src.pets, unit: id, into: app.pets, columns: {id: id}}\n"
    flows += f"{long}: {{from: src.pets, unit: id, outputs: {{a: {{into: app.a, columns: {{id: id}}}},"
    flows += " b: {into: app.b, columns: {id: id}}}}\n"
    tables = [PEOPLE_TABLE, *(f"CREATE TABLE {name} (id TEXT PRIMARY KEY)" for name in ("pets", "a", "b"))]
    p = project(flows, tables, target=database, people=people(1), pets=[{"id": "dog"}])
    for _ in range(2):
        p.apply()
    names = "SELECT name FROM sqlite_master WHERE type = 'view'"
    if database == "postgres":
        names = "SELECT 'resettle.' || viewname FROM pg_views WHERE schemaname = 'resettle'"
    views = [name for (name,) in p.sql(names)]
    assert len(views) == 4
    assert sorted(p.sql(f"SELECT target_key FROM {view}") for view in views) == [[("dog",)]] * 3 + [[("p0",)]]
