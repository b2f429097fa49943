"""lesson-assets from end to end: made-up lessons of a live database become assets, usages and assetIds.

Every trap of `messy.MESSY` becomes what it says it does.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from resettle.connections import Connections
from resettle.engine.apply import Applied
from resettle.engine.apply import apply as apply_migration
from resettle.engine.flow import Options
from resettle.engine.plan import Plan
from resettle.engine.plan import plan as plan_migration
from resettle.engine.verify import Verified
from resettle.engine.verify import verify as verify_migration
from resettle.errors import LockedError
from resettle.mapping.load import load
from resettle.sandbox.module import module_at

FOLDER = Path(__file__).parents[2] / "migrations" / "lesson-assets"
FIRST = datetime(2026, 7, 1, 8, 0, tzinfo=UTC)
LATER = datetime(2026, 7, 2, 8, 0, tzinfo=UTC)
LESSONS = 400
TABLES = ("lesson", "assets", "asset_usages", "course", '"group"', "organization", "profile")
COUNTERS = (
    "lessonsScanned",
    "mediaItemsScanned",
    "mediaItemsEligible",
    "assetsCreated",
    "assetsReused",
    "usagesCreated",
    "usagesReused",
    "lessonItemsPatchedWithAssetId",
    "assetsWithByteSize",
    "assetsMissingByteSize",
    "skippedMalformed",
    "skippedMissingKey",
    "skippedMissingLink",
    "skippedUnsupportedType",
    "errors",
)


stack = module_at(FOLDER / "sandbox" / "stack.py")
messy = stack.part("messy")
MESSY: dict[str, Any] = {each.name: each for each in messy.MESSY}
DONE = [name for name, each in MESSY.items() if each.outcome == "done"]
LEFT = [name for name, each in MESSY.items() if each.outcome != "done"]
LISTS = {"lesson_video": "videos", "lesson_document": "documents"}


class Database:
    """The migration with some database."""

    def __init__(self, url: str, **variables: str) -> None:
        self.url = url
        self.migration = load(FOLDER, "local", {"DATABASE_URL": url, **variables})

    def plan(self, now: datetime = FIRST, **options: Any) -> Plan:
        with Connections(self.migration) as connections:
            return plan_migration(self.migration, connections, connections.ledger(), Options(**options), now)

    def apply(self, now: datetime = FIRST, **options: Any) -> Applied:
        with Connections(self.migration) as connections:
            return apply_migration(self.migration, connections, connections.ledger(), Options(**options), now)

    def verify(self, now: datetime = LATER) -> Verified:
        with Connections(self.migration) as connections:
            return verify_migration(self.migration, connections, connections.ledger(), Options(), now)

    def units(self, status: str) -> dict[str, dict[str, Any]]:
        with Connections(self.migration) as connections:
            return {row["unit"]: row for row in connections.ledger().units(status)}

    def ask(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        with psycopg.connect(self.url) as connection, connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            found: list[dict[str, Any]] = cursor.execute(sql, values or None).fetchall()
            return found

    def do(self, sql: str, *values: Any) -> None:
        with psycopg.connect(self.url) as connection:
            connection.execute(sql, values or None)

    def versions(self) -> dict[str, set[tuple[str, str, str]]]:
        """Of every row of data: where it lies, who wrote it last, what it holds."""
        with psycopg.connect(self.url) as connection:
            return {
                table: set(connection.execute(f"SELECT ctid::text, xmin::text, t::text FROM {table} t").fetchall())
                for table in TABLES
            }

    def lesson(self, name: str) -> dict[str, Any]:
        (row,) = self.ask("SELECT * FROM lesson WHERE id = %s", messy.lesson_id(name))
        return row

    def add_lesson(self, number: int, videos: list[Any]) -> str:
        """One more lesson of messy's course."""
        id_: str = messy.fixed_id(number)
        self.do(
            "INSERT INTO lesson (id, title, course_id, videos) VALUES (%s, 'One more', %s, %s)",
            id_,
            messy.COURSE,
            messy.encode(videos),
        )
        return id_

    def asset_ids(self, lesson: str) -> list[str | None]:
        """The assetIds in a lesson's videos."""
        (row,) = self.ask("SELECT videos FROM lesson WHERE id = %s", lesson)
        return [item.get("assetId") for item in row["videos"]]

    def usages(self, lesson: str) -> list[tuple[str, int, str]]:
        """Slot, position and asset of each usage of a lesson."""
        found = self.ask("SELECT * FROM asset_usages WHERE target_type = 'lesson' AND target_id = %s", lesson)
        return sorted((row["slot_type"], row["position"], str(row["asset_id"])) for row in found)


def summary(result: Plan | Applied) -> dict[str, int]:
    """The migration's own figures."""
    (counts,) = result.counts
    figures: dict[str, int] = counts.as_json()["summary"]
    return figures


@pytest.fixture(scope="module")
def databases(postgres_url: str) -> Iterator[Callable[..., str]]:
    """Makes databases with the product's tables and data, that live as long as this module."""
    made: list[str] = []

    def create(lessons: int = 0, *, later_usage_index: bool = False) -> str:
        made.append(f"resettle_lessons_{len(made)}_{id(made)}")
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {made[-1]}")
        url = f"{postgres_url.rpartition('/')[0]}/{made[-1]}"
        stack.prepare(url, later_usage_index=later_usage_index)
        stack.fill(url, lessons)
        return url

    yield create
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for name in made:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


class Run:
    """lesson-assets planned, then applied once; with what was there before."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        self.database.do("CREATE TABLE before_lesson AS SELECT * FROM lesson")
        self.database.do("CREATE TABLE before_assets AS SELECT * FROM assets")
        self.database.do("CREATE TABLE before_usages AS SELECT * FROM asset_usages")
        untouched = self.database.versions()
        self.plan = self.database.plan()
        assert self.database.versions() == untouched, "a plan writes nothing"
        self.applied = self.database.apply()
        self.expected = counters(self.database)


@pytest.fixture(scope="module")
def run(databases: Callable[..., str]) -> Run:
    return Run(databases(LESSONS))


@pytest.fixture
def database(run: Run) -> Database:
    return run.database


# -- what the seed's rules say, once more and plainly, over the rows as they were before -------------------


def counters(database: Database) -> Counter[str]:
    """The seed's counters from the tables as they were, one item after the other."""
    found: Counter[str] = Counter()
    organizations = database.ask(
        'SELECT course.id, g.organization_id FROM course LEFT JOIN "group" g ON g.id = group_id'
    )
    organization = {row["id"]: row["organization_id"] for row in organizations}
    known = {key_of(row): row["status"] for row in database.ask("SELECT * FROM before_assets")}
    ids = {str(row["id"]): key_of(row) for row in database.ask("SELECT * FROM before_assets")}
    attached = {usage_of(row, ids) for row in database.ask("SELECT * FROM before_usages")}
    for lesson in database.ask("SELECT * FROM before_lesson ORDER BY id"):
        found["lessonsScanned"] += 1
        if organization[lesson["course_id"]] is None:
            found["lessonsSkippedMissingLinkage"] += 1
            continue
        items = [(slot, at, item) for slot, name in LISTS.items() for at, item in enumerate_items(lesson[name])]
        keyed = [
            (slot, at, item, natural_key(slot, item, organization[lesson["course_id"]])) for slot, at, item in items
        ]
        if any(known.get(key) == "archived" for *_, key in keyed):
            found["errors"] += 1
            continue
        found["mediaItemsScanned"] += len(items)
        found.update(key for *_, key in keyed if isinstance(key, str))
        eligible = [row for row in keyed if not isinstance(row[3], str)]
        found["mediaItemsEligible"] += len(eligible)
        for slot, at, item, key in eligible:
            size = (isinstance(item.get("size"), int) and 0 <= item["size"] < 2**63) or item.get("size") == "1234"
            if key in known:
                found["assetsReused"] += 1
            else:
                found["assetsCreated"] += 1
                found["assetsWithByteSize" if size else "assetsMissingByteSize"] += 1
            usage = (key, str(lesson["id"]), slot, at)
            found["usagesReused" if usage in attached else "usagesCreated"] += 1
            attached.add(usage)
            if key not in known or ids.get(item.get("assetId")) != key:
                found["lessonItemsPatchedWithAssetId"] += 1
            known.setdefault(key, "active")
    return found


def enumerate_items(items: Any) -> list[tuple[int | None, Any]]:
    return list(enumerate(items)) if isinstance(items, list) else [(None, None)]


def natural_key(slot: str, item: Any, organization: Any) -> Any:
    """The natural key of an item's asset, or the counter of why it is left out."""
    if not isinstance(item, dict) or any(
        not isinstance(item.get(name), str | None) for name in ("type", "key", "link")
    ):
        return "skippedMalformed"
    key, link = (item.get(name) or "" for name in ("key", "link"))
    provider = item.get("type") if slot == "lesson_video" else "upload" if key.strip() else "external_url"
    if provider == "upload":
        return (organization, "upload", key) if key.strip() else "skippedMissingKey"
    if provider not in ("youtube", "generic", "external_url"):
        return "skippedUnsupportedType"
    if not link.strip():
        return "skippedMissingLink"
    path = link.lower().split("#")[0].split("?")[0]
    ending = path.rpartition(".")[2] if "/" in path.partition("://")[2] else ""
    usual = "video" if slot == "lesson_video" else "document"
    return (organization, provider, link.strip(), {"pdf": "document", "zip": "other"}.get(ending.strip(), usual))


def key_of(asset: dict[str, Any]) -> tuple[Any, ...]:
    start = (asset["organization_id"], asset["provider"])
    return (*start, asset["storage_key"]) if asset["storage_key"] else (*start, asset["source_url"], asset["kind"])


def usage_of(usage: dict[str, Any], keys: dict[str, Any]) -> tuple[Any, ...]:
    return (keys[str(usage["asset_id"])], usage["target_id"], usage["slot_type"], usage["position"])


def test_the_counters_are_those_of_a_plain_reading_of_the_rules(run: Run) -> None:
    figures = summary(run.applied)
    assert {name: figures[name] for name in COUNTERS} == {name: run.expected[name] for name in COUNTERS}
    assert figures["lessonsSkippedMissingLinkage"] == run.expected["lessonsSkippedMissingLinkage"]
    assert min(run.expected[name] for name in COUNTERS) > 0, "every counter was put to the test"


def test_the_counters_are_what_the_tables_gained(run: Run) -> None:
    figures = summary(run.applied)
    (made,) = run.database.ask(
        "SELECT count(*) AS all, count(byte_size) AS sized FROM assets WHERE id NOT IN (SELECT id FROM before_assets)"
    )
    assert made == {"all": figures["assetsCreated"], "sized": figures["assetsWithByteSize"]}
    (usages,) = run.database.ask("SELECT (SELECT count(*) FROM asset_usages) - count(*) AS n FROM before_usages")
    assert usages["n"] == figures["usagesCreated"]
    patched = run.database.ask(
        "SELECT count(*) AS n FROM lesson l JOIN before_lesson b USING (id), LATERAL ("
        "  SELECT a.value AS a, b.value AS b FROM (VALUES (l.videos, b.videos),"
        "  (l.documents, b.documents)) v(now, old),"
        "  jsonb_array_elements(now) WITH ORDINALITY a, jsonb_array_elements(old) WITH ORDINALITY b"
        "  WHERE a.ordinality = b.ordinality AND jsonb_typeof(now) = 'array') i WHERE a <> i.b"
    )
    assert patched == [{"n": figures["lessonItemsPatchedWithAssetId"]}]


# -- every trap -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DONE)
def test_the_usages_of_a_lesson_are_its_items_with_an_asset(database: Database, name: str) -> None:
    lesson = database.lesson(name)
    expected = [
        (slot, position, lesson[LISTS[slot]][position]["assetId"])
        for slot, position, item in MESSY[name].items
        if item.asset
    ]
    assert database.usages(messy.lesson_id(name)) == sorted(expected)


@pytest.mark.parametrize("name", DONE)
def test_only_asset_ids_change_in_a_lesson(database: Database, name: str) -> None:
    lesson = database.lesson(name)
    for slot, list_ in LISTS.items():
        expected = f"{list_}"
        for at, position, item in MESSY[name].items:
            if at == slot and item.asset and item.patched:
                new = lesson[list_][position]["assetId"]
                expected = f"jsonb_set({expected}, '{{{position},assetId}}', '\"{new}\"')"
        (row,) = database.ask(f"SELECT {expected}::text AS was FROM before_lesson WHERE id = %s", messy.lesson_id(name))
        (now,) = database.ask(f"SELECT {list_}::text AS now FROM lesson WHERE id = %s", messy.lesson_id(name))
        assert now["now"] == row["was"]


def test_no_other_column_of_any_lesson_changes(database: Database) -> None:
    changed = database.ask(
        "SELECT l.id FROM lesson l FULL JOIN before_lesson b USING (id)"
        " WHERE to_jsonb(l) - 'videos' - 'documents' IS DISTINCT FROM to_jsonb(b) - 'videos' - 'documents'"
    )
    assert not changed


def test_no_asset_and_no_usage_that_was_there_changes(database: Database) -> None:
    for table, before in (("assets", "before_assets"), ("asset_usages", "before_usages")):
        assert not database.ask(f"SELECT * FROM {before} EXCEPT SELECT * FROM {table}")


def test_items_share_an_asset_exactly_where_they_should(database: Database) -> None:
    named: dict[str, set[str]] = {}
    for name in DONE:
        lesson = database.lesson(name)
        for slot, position, item in MESSY[name].items:
            if item.asset:
                named.setdefault(item.asset, set()).add(lesson[LISTS[slot]][position]["assetId"])
    assert all(len(ids) == 1 for ids in named.values()), named
    assert len({next(iter(ids)) for ids in named.values()}) == len(named)
    assert {name: named[name] for name in named.keys() & messy.EXISTING.keys()} == {
        name: {name} for name in (messy.KNOWN, messy.KNOWN_WITH_USAGE, messy.TWIN, messy.LATER_TWIN)
    }


@pytest.mark.parametrize("name", [n for n in DONE if any(item.columns for *_, item in MESSY[n].items)])
def test_an_asset_holds_what_its_item_says(database: Database, name: str) -> None:
    lesson = database.lesson(name)
    for slot, position, item in MESSY[name].items:
        if not item.columns:
            continue
        id_ = lesson[LISTS[slot]][position]["assetId"]
        (row,) = database.ask("SELECT to_jsonb(a)::text AS row FROM assets a WHERE id = %s", id_)
        asset = json.loads(row["row"], parse_float=Decimal)
        assert {column: asset[column] for column in item.columns} == item.columns, item.value


@pytest.mark.parametrize("name", LEFT)
def test_a_lesson_that_is_left_out_stays_as_it_is(run: Run, name: str) -> None:
    database, each, id_ = run.database, MESSY[name], messy.lesson_id(name)
    unit = database.units(each.outcome)[id_]
    assert unit["reason"] == each.reason
    same = "SELECT l::text = b::text AS same FROM lesson l JOIN before_lesson b USING (id) WHERE id = %s"
    assert database.ask(same, id_) == [{"same": True}]
    assert database.usages(id_) == []


def test_nothing_of_a_lesson_with_an_archived_asset_is_written(database: Database) -> None:
    assert not database.ask("SELECT id FROM assets WHERE storage_key = 'with-archived.mp4'")


def test_lessons_with_the_older_fields_and_no_videos_are_counted(run: Run) -> None:
    (counts,) = run.applied.counts
    documents = run.database.ask(
        "SELECT coalesce(documents, '[]') = '[]' AS none, count(*) AS n FROM before_lesson l"
        ' JOIN course ON course.id = course_id JOIN "group" g ON g.id = group_id'
        " WHERE g.organization_id IS NOT NULL AND (video_url <> '' OR slide_url <> '')"
        " AND coalesce(videos, '[]') = '[]' GROUP BY 1"
    )
    expected = {row["none"]: row["n"] for row in documents}
    assert summary(run.applied)["lessonsWithOnlyOlderUrl"] == expected[True] > 0
    assert counts.as_json()["warnings"]["older_url"] == expected[False]


def test_the_ledger_knows_the_lessons_whose_items_are_left_out(run: Run) -> None:
    (counts,) = run.applied.counts
    left_out = {"malformed", "missing_key", "missing_link", "unsupported_type"}
    told = counts.as_json()["warnings"]
    assert left_out == told.keys() - {"older_url"}
    query = "SELECT warnings, count(*) AS n FROM resettle.units WHERE warnings <> 'older_url' GROUP BY 1"
    named = [(row["warnings"].split(","), row["n"]) for row in run.database.ask(query)]
    assert {name: sum(n for names, n in named if name in names) for name in left_out} == {n: told[n] for n in left_out}
    done = run.database.ask(
        "SELECT count(*) AS n FROM resettle.units WHERE status = 'done' AND warnings <> 'older_url'"
    )
    assert done[0]["n"] > 0, "lessons that lost some of their items, not all"


# -- plan, second execute, verify ---------------------------------------------------------------------------


def test_the_plan_counted_what_the_apply_did(run: Run) -> None:
    assert [counts.as_json() for counts in run.plan.counts] == [counts.as_json() for counts in run.applied.counts]


def test_a_second_execute_writes_nothing(run: Run) -> None:
    before = run.database.versions()
    again = run.database.apply(LATER)
    assert run.database.versions() == before
    figures = summary(again)
    for name in ("assetsCreated", "usagesCreated", "lessonItemsPatchedWithAssetId", "assetsMissingByteSize"):
        assert figures[name] == 0
    fresh = run.database.apply(LATER, fresh=True)
    assert run.database.versions() == before
    assert summary(fresh)["assetsCreated"] == summary(fresh)["lessonItemsPatchedWithAssetId"] == 0


def test_verify_finds_nothing_to_complain_of(database: Database) -> None:
    verified = database.verify()
    assert not verified.findings
    assert all(passed for _, passed, _ in verified.checks)
    assert {name.removeprefix("assertion ") for name, _, _ in verified.checks} >= set(ASSERTIONS)


ASSERTIONS = {
    "usages_stay_in_their_organization": "UPDATE asset_usages SET organization_id = %(other)s"
    " WHERE target_id = %(lesson)s",
    "assets_of_ours_are_no_doubles": "INSERT INTO assets (organization_id, kind, provider, source_url, is_external,"
    " created_at) SELECT organization_id, kind, provider, source_url, true, '2020-01-01' FROM assets"
    " WHERE source_url = %(link)s",
    "usages_of_ours_are_no_doubles": "INSERT INTO asset_usages (organization_id, asset_id, target_type, target_id,"
    " slot_type, position, created_at) SELECT organization_id, asset_id, target_type, target_id, slot_type, position,"
    " '2020-01-01' FROM asset_usages WHERE target_id = %(lesson)s",
    "patched_assets_exist": "UPDATE lesson SET videos = jsonb_set(videos, '{0,assetId}', to_jsonb(%(other)s::text))"
    " WHERE id = %(lesson)s",
}
"""Each assertion, and what makes it fail."""


def test_verify_finds_what_was_broken_afterwards(databases: Callable[..., str]) -> None:
    database = Database(databases())
    database.apply()
    values = {"other": messy.OTHER_ORGANIZATION, "lesson": messy.lesson_id("underscores")}
    values["link"] = MESSY["underscores"].videos[0].value["link"]
    for sql in ASSERTIONS.values():
        with psycopg.connect(database.url) as connection:
            assert connection.execute(sql, values).rowcount == 1
    failed = {name.removeprefix("assertion ") for name, passed, _ in database.verify().checks if not passed}
    assert failed == set(ASSERTIONS)


# -- a live database: editors, refusals, two runs at once ---------------------------------------------------


def while_writing(act: Callable[[], None]) -> Callable[..., None]:
    """A progress callback that does something once, when everything was read and nothing is written yet."""
    done = threading.Event()

    def progress(flow: str, state: str, counts: Any) -> None:
        if state == "writing" and not done.is_set():
            done.set()
            act()

    return progress


def test_an_edit_of_another_item_between_reading_and_writing_is_not_lost(databases: Callable[..., str]) -> None:
    database = Database(databases())
    lesson = database.add_lesson(501, [messy.upload("edited.mp4")])
    edit = "UPDATE lesson SET title = 'New', videos = videos || %s::jsonb WHERE id = %s"
    added = json.dumps([{"type": "generic", "link": "https://new.example/1"}])
    database.apply(progress=while_writing(lambda: database.do(edit, added, lesson)))
    (row,) = database.ask("SELECT title, videos FROM lesson WHERE id = %s", lesson)
    assert row["title"] == "New"
    assert row["videos"][1] == {"type": "generic", "link": "https://new.example/1"}
    assert database.usages(lesson) == [("lesson_video", 0, row["videos"][0]["assetId"])]
    database.apply(LATER)
    assert None not in database.asset_ids(lesson)
    assert len(database.usages(lesson)) == 2


@pytest.mark.parametrize(
    "edit",
    [
        "jsonb_set(videos, '{1,key}', '\"other.mp4\"')",
        "videos - 0",
        "'[]'",
        "'{}'",
    ],
)
def test_an_edit_of_the_item_itself_is_kept_and_nothing_of_the_lesson_is_written(
    databases: Callable[..., str], edit: str
) -> None:
    database = Database(databases())
    lesson = database.add_lesson(502, [messy.upload("first.mp4"), messy.upload("second.mp4")])
    applied = database.apply(
        progress=while_writing(lambda: database.do(f"UPDATE lesson SET videos = {edit} WHERE id = %s", lesson))
    )
    (counts,) = applied.counts
    assert counts.as_json()["failed"] == 1
    assert applied.exit_code == 1
    (row,) = database.ask("SELECT videos::text AS now FROM lesson WHERE id = %s", lesson)
    assert "assetId" not in row["now"]
    assert not database.usages(lesson)
    assert not database.ask("SELECT id FROM assets WHERE storage_key IN ('first.mp4', 'second.mp4', 'other.mp4')")
    assert database.usages(messy.lesson_id("columns")), "the others went on"
    database.apply(LATER)
    keys = {"videos - 0": 1, "'[]'": 0, "'{}'": 0}.get(edit, 2)
    assert len(database.usages(lesson)) == keys
    if keys:
        assert None not in database.asset_ids(lesson)


LATER_EDITS = {
    "an item is put in front": "jsonb_build_array(%(new)s::jsonb) || videos",
    "the first item is taken out": "videos - 0",
    "two items change places": "jsonb_build_array(videos -> 1, videos -> 0, videos -> 2)",
    "an item gets another file or link": "jsonb_set(videos, '{0}', %(new)s::jsonb || '{\"watchEnforced\": true}')",
    "an assetId is taken out": "videos #- '{1,assetId}'",
    "an assetId becomes stale": "jsonb_set(videos, '{1,assetId}', to_jsonb(%(foreign)s::text))",
    "a link is signed anew": "jsonb_set(videos, '{0,link}', '\"https://signed.example/again\"')",
}


@pytest.mark.parametrize("kind", ["uploads", "links"])
@pytest.mark.parametrize("edit", [pytest.param(sql, id=name) for name, sql in LATER_EDITS.items()])
def test_a_lesson_edited_after_its_migration_is_taken_as_it_is_now(
    databases: Callable[..., str], edit: str, kind: str
) -> None:
    media = [messy.upload(f"{word}.mp4") for word in ("red", "green", "blue", "new")]
    if kind == "links":
        media = [messy.generic(f"https://videos.example/{word}") for word in ("red", "green", "blue", "new")]
    database = Database(databases())
    lesson = database.add_lesson(505, media[:3])
    sharing = database.add_lesson(506, media[:3])
    database.apply()
    shared = database.asset_ids(sharing)
    assets = {str(row["id"]): row for row in database.ask("SELECT * FROM assets")}
    values = {"new": json.dumps(media[3]), "foreign": messy.FOREIGN, "id": lesson}
    with psycopg.connect(database.url) as connection:
        connection.execute(f"UPDATE lesson SET videos = {edit} WHERE id = %(id)s", values)
    planned, applied = database.plan(LATER), database.apply(LATER)
    assert summary(planned) == summary(applied)
    assert lesson not in database.units("held")
    after = {str(row["id"]): row for row in database.ask("SELECT * FROM assets")}
    assert {id_: after[id_] for id_ in assets} == assets, "no asset becomes another one"
    assert database.asset_ids(sharing) == shared
    (row,) = database.ask("SELECT videos FROM lesson WHERE id = %s", lesson)
    for position, item in enumerate(row["videos"]):
        asset = after[item["assetId"]]
        assert (asset["storage_key"] or asset["source_url"]) == item.get("key", item["link"])
        assert ("lesson_video", position, item["assetId"]) in database.usages(lesson)
    before = database.versions()
    database.apply(LATER, fresh=True)
    assert database.versions() == before


def test_no_asset_id_leads_to_an_asset_that_was_deleted(databases: Callable[..., str]) -> None:
    database = Database(databases())
    lesson = database.add_lesson(507, [messy.upload("kept.mp4"), messy.upload("gone.mp4")])
    database.apply()
    database.do("DELETE FROM assets WHERE storage_key = 'gone.mp4'")
    database.do("UPDATE lesson SET videos = videos #- '{1,assetId}' WHERE id = %s", lesson)
    database.apply(LATER)
    there = {str(row["id"]) for row in database.ask("SELECT id FROM assets")}
    assert {id_ for id_ in database.asset_ids(lesson) if id_} <= there


def test_a_refused_third_item_leaves_nothing_of_its_lesson_and_all_of_the_others(databases: Callable[..., str]) -> None:
    database = Database(databases(100))
    refused = database.add_lesson(503, [messy.upload(f"{word}.mp4") for word in ("one", "two", "refused")])
    sharing = database.add_lesson(504, [messy.upload("one.mp4"), messy.youtube("https://youtu.be/aaaaaaaaaaa")])
    database.do("ALTER TABLE assets ADD CONSTRAINT no_such CHECK (storage_key <> 'refused.mp4')")
    before = database.lesson("key_in_one_lesson")
    applied = database.apply()
    assert applied.exit_code == 3
    assert database.units("held")[refused]["reason"] == "check"
    assert database.asset_ids(refused) == [None, None, None]
    assert not database.usages(refused)
    assert not database.ask("SELECT id FROM assets WHERE storage_key = 'two.mp4'")
    (shared,) = database.ask("SELECT id FROM assets WHERE storage_key = 'one.mp4'")
    assert database.asset_ids(sharing)[0] == str(shared["id"]), "it does not point at what was not made"
    assert len(database.usages(sharing)) == 2
    assert database.lesson("key_in_one_lesson") != before
    figures = summary(applied)
    (made,) = database.ask("SELECT count(*) - %s AS n FROM assets", len(messy.EXISTING) + existing(database))
    assert figures["assetsCreated"] == made["n"], "what was refused is not counted"
    assert figures["errors"] == 3, "this one and two with an archived asset"


def existing(database: Database) -> int:
    """Ordinary assets that were there before: the generator dates them."""
    (row,) = database.ask("SELECT count(*) AS n FROM assets WHERE created_at = '2026-01-02 03:04:05+00'")
    return int(row["n"])


def test_two_runs_at_once_cannot_both_write(databases: Callable[..., str]) -> None:
    database = Database(databases(50))
    refusals: list[Exception] = []

    def second() -> None:
        try:
            Database(database.url).apply()
        except LockedError as error:
            refusals.append(error)

    database.apply(progress=while_writing(second))
    assert len(refusals) == 1
    doubles = "SELECT FROM asset_usages GROUP BY asset_id, target_id, slot_type, position HAVING count(*) > 1"
    assert not database.ask(doubles)


def test_an_archived_asset_is_attached_once_it_is_active_again(databases: Callable[..., str], tmp_path: Path) -> None:
    database = Database(databases())
    database.apply()
    (tmp_path / "url").write_text(database.url)
    stack.correct(tmp_path)
    applied = database.apply(LATER, fresh=True)
    assert applied.exit_code == 3, "the other one is archived still"
    assert database.asset_ids(messy.lesson_id("asset_archived"))[0] == messy.ARCHIVED
    assert database.asset_ids(messy.lesson_id("link_archived")) == [None]


# -- other choices --------------------------------------------------------------------------------------------


def test_links_to_one_video_may_be_one_asset(databases: Callable[..., str]) -> None:
    database = Database(databases(), youtube="canonical")
    database.apply()
    ids = database.asset_ids(messy.lesson_id("one_video_by_five_links"))
    assert len(set(ids)) == 1
    (asset,) = database.ask("SELECT source_url FROM assets WHERE id = %s", ids[0])
    assert asset["source_url"] == f"https://www.youtube.com/watch?v={messy.VIDEO}"


def test_an_unknown_type_may_be_guessed(databases: Callable[..., str]) -> None:
    database = Database(databases(), unknown_type="guess")
    applied = database.apply()
    assert summary(applied)["skippedUnsupportedType"] == 0
    ids = database.asset_ids(messy.lesson_id("unknown_type"))
    providers = {str(row["id"]): row["provider"] for row in database.ask("SELECT id, provider FROM assets")}
    assert [providers[id_ or ""] for id_ in ids] == ["external_url", "upload", "external_url", "external_url"]


def test_a_signed_link_may_be_left_out(databases: Callable[..., str]) -> None:
    database = Database(databases(), upload_source_url="none")
    database.apply()
    found = database.ask("SELECT source_url FROM assets WHERE storage_key = 'signed.mp4'")
    assert found == [{"source_url": None}]
    assert database.ask("SELECT FROM assets WHERE is_external AND source_url IS NULL") == []


def test_a_missing_list_may_be_no_fault(databases: Callable[..., str]) -> None:
    database = Database(databases(), null_list="empty")
    database.apply()
    assert database.units("skipped")[messy.lesson_id("videos_missing")]["reason"] == "no_rows"
    assert database.units("skipped")[messy.lesson_id("videos_null")]["reason"] == "rows_skipped"


def test_an_unfamiliar_mime_type_may_have_the_usual_kind(databases: Callable[..., str]) -> None:
    database = Database(databases(), unfamiliar_mime="usual")
    database.apply()
    found = database.ask("SELECT kind FROM assets WHERE source_url = 'https://files.example/a.zip'")
    assert found == [{"kind": "video"}]


def test_with_the_later_index_an_asset_is_attached_to_a_lesson_once(databases: Callable[..., str]) -> None:
    later = "asset_id, target_type, target_id, slot_type, slot_key"
    database = Database(databases(later_usage_index=True), usage_key=later)
    planned, applied = database.plan(), database.apply()
    assert summary(planned) == summary(applied)
    lesson = messy.lesson_id("key_twice_in_a_lesson")
    ids = database.asset_ids(lesson)
    assert ids[0] == ids[2] != ids[1]
    assert [(position, asset) for _, position, asset in database.usages(lesson)] == [(0, ids[0]), (1, ids[1])]


# -- the sandbox ----------------------------------------------------------------------------------------------


def test_the_same_arguments_make_the_same_rows(databases: Callable[..., str]) -> None:
    made = [Database(databases(300)) for _ in range(2)]
    media = "SELECT id, course_id, videos, documents, video_url FROM lesson ORDER BY id"
    assert made[0].ask(media) == made[1].ask(media)
    assets = "SELECT id, storage_key, organization_id FROM assets ORDER BY id"
    assert made[0].ask(assets) == made[1].ask(assets)


def test_the_demo_has_a_stack_of_its_own_whose_owner_corrects_a_part(tmp_path: Path) -> None:
    with stack.stack(tmp_path, lessons=20) as variables:
        database = Database(variables["DATABASE_URL"])
        database.apply()
        held = set(database.units("held"))
        stack.correct(tmp_path)
        database.apply(LATER, fresh=True)
        assert set(database.units("held")) == held - {messy.lesson_id("asset_archived")} != set()
