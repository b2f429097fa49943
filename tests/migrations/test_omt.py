"""omt on its own sandbox: AppSync, S3 and R2 on this machine, a Postgres with the target's tables, every trap."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from resettle.connections import Connections
from resettle.engine import apply as applying
from resettle.engine.apply import Applied
from resettle.engine.apply import apply as apply_migration
from resettle.engine.export import export
from resettle.engine.flow import Options
from resettle.engine.plan import Plan
from resettle.engine.plan import plan as plan_migration
from resettle.engine.verify import Verified
from resettle.engine.verify import verify as verify_migration
from resettle.errors import MappingError
from resettle.mapping.load import load
from resettle.sandbox.module import module_at
from tests.engine.conftest import actions, counts, statuses

FOLDER = Path(__file__).parents[2] / "migrations" / "omt"
BIBLE = Path(__file__).parents[3] / "shared" / "data"
NOW = datetime(2026, 7, 1, 8, 0, tzinfo=UTC)
TABLES = ("projects", "audio_versions", "media_files", "media_files_verses")


stack = module_at(FOLDER / "sandbox" / "stack.py")
generate = stack.part("generate")
draft = stack.part("draft_languages").draft
B = generate.BAJHANGI


class World:
    """A running stack, and the migration on it."""

    def __init__(self, running: Any) -> None:
        self.stack = running
        self.folder = FOLDER

    def _opened(self, run: Callable[..., Any], options: dict[str, Any], variables: dict[str, str]) -> Any:
        migration = load(self.folder, "local", {**self.stack.variables, **variables})
        with Connections(migration) as connections:
            return run(migration, connections, connections.ledger(), Options(**options), NOW)

    def plan(self, variables: dict[str, str] | None = None, **options: Any) -> Plan:
        found: Plan = self._opened(plan_migration, options, variables or {})
        return found

    def apply(self, variables: dict[str, str] | None = None, **options: Any) -> Applied:
        found: Applied = self._opened(apply_migration, options, variables or {})
        return found

    def verify(self, variables: dict[str, str] | None = None) -> Verified:
        found: Verified = self._opened(verify_migration, {}, variables or {})
        return found

    def units(self, status: str, flow: str) -> dict[str, str]:
        """Unit -> reason of every unit of a flow with a status in the ledger."""
        with psycopg.connect(self.stack.url) as connection:
            return dict(
                connection.execute(
                    "SELECT unit, reason FROM resettle.units JOIN resettle.flows USING (flow)"
                    " WHERE status = %s AND name = %s",
                    (status, flow),
                ).fetchall()
            )

    def ask(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.stack.url) as connection:
            return connection.execute(sql, values or None).fetchall()

    def do(self, sql: str, *values: Any) -> None:
        with psycopg.connect(self.stack.url) as connection:
            connection.execute(sql, values or None)

    def media(self, unit: str) -> dict[str, Any]:
        with psycopg.connect(self.stack.url) as connection:
            cursor = connection.cursor(row_factory=psycopg.rows.dict_row)
            (row,) = cursor.execute(
                "SELECT m.* FROM media_files m JOIN resettle.omt_local_media_files_media i ON i.target_key = m.id::text"
                " WHERE i.unit = %s",
                [unit],
            ).fetchall()
            return dict(row)

    def verses(self, unit: str) -> list[tuple[str, float, float]]:
        """Verse, start and duration of a file, in order."""
        return [
            (verse, round(start, 4), round(duration, 4))
            for verse, start, duration in self.ask(
                "SELECT verse_id, start_time_seconds, v.duration_seconds FROM media_files_verses v"
                " WHERE media_file_id = %s ORDER BY start_time_seconds",
                self.media(unit)["id"],
            )
        ]

    def versions(self) -> dict[str, set[tuple[str, str, str]]]:
        """Of every row of data: where it lies, who wrote it last, what it holds."""
        return {t: set(self.ask(f"SELECT ctid::text, xmin::text, t::text FROM {t} t")) for t in TABLES}  # type: ignore[misc]

    def objects(self) -> dict[str, bytes]:
        client = self.stack.r2.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.stack.target)
        keys = [one["Key"] for page in pages for one in page.get("Contents", [])]
        return {key: client.get_object(Bucket=self.stack.target, Key=key)["Body"].read() for key in keys}

    def puts(self) -> int:
        """Files that were written to R2 so far."""
        asked, unmet = (
            sum(one.startswith(f"PUT /{self.stack.target}/") for one in requests)
            for requests in (self.stack.r2.requests, self.stack.r2.unmet)
        )
        return asked - unmet

    def change(self, model: str, id_: str, **values: Any) -> None:
        """What somebody changes in OMT."""
        (item,) = [one for one in self.stack.appsync.items(model) if one["id"] == id_]
        self.stack.appsync.data.put(model, item | values)


@contextmanager
def world(
    folder: Path, url: str, *, approve: bool = True, books: Any = generate.BOOKS, **given: Any
) -> Iterator[World]:
    stack.prepare(url)
    generate.fill_target(url, books)
    with stack.start(folder, url) as running:
        running.put(generate.generate(books=books, **given))
        draft("local", running.languages, running.variables)
        if approve:
            running.approve({k: v for k, v in generate.APPROVED.items() if k != generate.BALOCHI})
        yield World(running)


@pytest.fixture
def make(tmp_path: Path, new_database: Callable[[], str]) -> Iterator[Callable[..., World]]:
    """A world of its own: 2 ordinary files and no traps, unless told otherwise."""
    with ExitStack() as worlds:

        def one(**given: Any) -> World:
            folder = tmp_path / str(len(list(tmp_path.iterdir())))
            folder.mkdir()
            return worlds.enter_context(world(folder, new_database(), **{"chapters": 2, "messy": False, **given}))

        yield one


class Run:
    """Everything planned, then applied once."""

    def __init__(self, one: World) -> None:
        self.world = one
        one.stack.appsync.data.empty_pages = 2  # an empty page is not the end
        before = one.versions()
        self.plan = one.plan()
        assert one.versions() == before, "a plan writes nothing"
        assert one.puts() == 0, "a plan copies nothing"
        self.applied = one.apply()


@pytest.fixture(scope="module")
def run(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    name = f"resettle_omt_{id(tmp_path_factory)}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    try:
        with world(tmp_path_factory.mktemp("omt"), f"{postgres_url.rpartition('/')[0]}/{name}", chapters=34) as one:
            yield Run(one)
    finally:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def done(run: Run) -> World:
    return run.world


# -- the whole job --------------------------------------------------------------------------------------------


def test_a_plan_counts_what_an_apply_does(run: Run) -> None:
    assert counts(run.applied) == counts(run.plan)
    assert actions(run.applied)["copy"] == run.world.puts() == len(run.world.objects())


def test_every_record_of_the_three_types_is_accounted_for(run: Run) -> None:
    models = ("OmtTranslation", "OmtAudioFile", "OmtVerseTimestamps")
    assert [one.read for one in run.applied.counts] == [len(run.world.stack.appsync.items(m)) for m in models]


def test_projects_are_told_apart_and_name_their_languages(done: World) -> None:
    assert set(
        done.ask(
            "SELECT p.name, s.name, t.name FROM projects p JOIN language_entities s ON s.id = source_language_entity_id"
            " JOIN language_entities t ON t.id = target_language_entity_id"
        )
    ) == {
        ("OMT — english_australia (1739757290594)", "English", "Australian"),
        ("OMT — taj_rasuwa (1740457919243)", "Nepali", "Taj"),
        ("OMT — taj_rasuwa (1740457978039)", "Nepali", "Taj"),
        ("OMT — Pidgin, Nigeria_Delta Pidgin (1739320683377)", "English", "Delta Pidgin"),
        ("OMT — bajhangi_nepal (1754634514201)", "English", "Bajhangi"),
    }


def test_each_project_has_its_own_audio_version_and_the_second_of_a_language_is_v2(done: World) -> None:
    found = done.ask(
        "SELECT i.unit, v.name, v.bible_version_id FROM audio_versions v"
        " JOIN resettle.omt_local_projects_project i ON i.target_key = v.project_id::text"
        " WHERE v.language_entity_id = (SELECT target_language_entity_id FROM projects p WHERE p.id = v.project_id)"
    )
    assert {unit: name for unit, name, _ in found} == {
        generate.AUSTRALIAN: "OMT",
        generate.TAJ: "OMT",
        generate.TAJ_AGAIN: "OMT v2",
        generate.PIDGIN: "OMT",
        generate.BAJHANGI: "OMT",
    }
    assert {bible for _, _, bible in found} == {generate.BIBLE_VERSION}


def test_a_file_is_copied_under_its_stable_key_and_described(done: World) -> None:
    row = done.media("audio-00000")
    key = f"{generate.MOMENT}-english_Genesis_Chapter001_V001_009.mp3"
    content = b"not really sound: audio-00000"
    (duration,) = [one["duration"] for one in done.stack.appsync.items("OmtAudioFile") if one["id"] == "audio-00000"]
    expected = {
        "object_key": key,
        "storage_provider": "r2",
        "file_size": len(content),
        "chapter_id": "gen-1",
        "start_verse_id": "gen-1-1",
        "end_verse_id": "gen-1-9",
        "media_type": "audio",
        "is_bible_audio": True,
        "upload_status": "completed",
        "publish_status": "pending",
        "check_status": "pending",
        "original_filename": "english_Genesis_Chapter001_V001_009.mp3",
        "file_type": "audio/mpeg",
        "version": 1,
        "created_by": None,
    }
    assert {name: row[name] for name in expected} == expected
    assert row["duration_seconds"] == pytest.approx(duration, abs=0.001)
    assert str(row["language_entity_id"]) == generate.language("Australian")
    assert done.objects()[key] == content
    head = done.stack.r2.client().head_object(Bucket=done.stack.target, Key=key)
    assert head["ContentType"] == "audio/mpeg"


def test_a_files_version_is_that_of_its_own_translation(done: World) -> None:
    pairs = done.ask(
        "SELECT m.unit, p.unit FROM resettle.omt_local_media_files_media m"
        " JOIN media_files f ON f.id::text = m.target_key"
        " JOIN audio_versions v ON v.id = f.audio_version_id"
        " JOIN resettle.omt_local_projects_project p ON p.target_key = v.project_id::text"
    )
    source = {one["id"]: one["translationId"] for one in done.stack.appsync.items("OmtAudioFile")}
    assert len(pairs) > 30
    assert all(source[unit] == translation for unit, translation in pairs)


def test_ordinary_timestamps_become_verses_up_to_the_medias_end(done: World) -> None:
    (times,) = [
        one["timestamps"] for one in done.stack.appsync.items("OmtVerseTimestamps") if one["id"] == "times_audio-00001"
    ]
    ends = [*times[1:], times[-1] + 7.5]
    expected = [
        (f"gen-2-{at}", start, round(end - start, 4))
        for at, (start, end) in enumerate(zip(times, ends, strict=True), 1)
    ]
    found = done.verses("audio-00001")
    assert [
        (verse, pytest.approx(start, abs=0.001), pytest.approx(length, abs=0.001)) for verse, start, length in found
    ] == expected


SPELT = {
    "spelt_upper": ("gen-1", 9),
    "spelt_spaced": ("gen-1", 9),
    "spelt_zeros": ("gen-1", 9),
    "spelt_named": ("gen-1", 9),
    "spelt_dotted": ("2kgs-2", 6),
    "spelt_numbers": ("ps-23", 4),
}


@pytest.mark.parametrize("unit", SPELT)
def test_a_chapter_is_found_however_it_is_written(done: World, unit: str) -> None:
    chapter, verses = SPELT[unit]
    row = done.media(unit)
    assert (row["chapter_id"], row["start_verse_id"], row["end_verse_id"]) == (
        chapter,
        f"{chapter}-1",
        f"{chapter}-{verses}",
    )


TIMED = {
    "fractions": [("ps-117-1", 0.0, 0.8), ("ps-117-2", 0.8, 4.2)],
    "fewer": [
        (f"gen-1-{at}", start, length)
        for at, start, length in (
            (1, 0.0, 6.24), (2, 6.24, 7.63), (3, 13.87, 6.13), (4, 20.0, 11.5), (5, 31.5, 8.51), (6, 40.01, 12.24),
            (7, 52.25, 7.5),
        )
    ],
    "more": [
        ("gen-3-1", 0.0, 6.24), ("gen-3-2", 6.24, 7.63), ("gen-3-3", 13.87, 6.13), ("gen-3-4", 20.0, 11.5),
        ("gen-3-5", 31.5, 8.51),
    ],
    "unsorted": [("ps-117-1", 0.0, 6.24), ("ps-117-2", 6.24, 1.26)],
    "lone_verse": [("john-3-16", 0.5, 7.5)],
    "no_duration": [("gen-2-1", 0.0, 6.24), ("gen-2-2", 6.24, 7.63), ("gen-2-3", 13.87, 1.0)],
    "short_tail": [("gen-2-4", 0.0, 6.24), ("gen-2-5", 6.24, 7.63), ("gen-2-6", 13.87, 6.13), ("gen-2-7", 20.0, 1.0)],
}  # fmt: skip


@pytest.mark.parametrize("unit", TIMED)
def test_timestamps_become_verses_with_durations(done: World, unit: str) -> None:
    assert done.verses(unit) == TIMED[unit]


def test_a_part_of_a_chapter_begins_at_the_verse_that_its_name_says(done: World) -> None:
    row = done.media("ranged")
    assert (row["start_verse_id"], row["end_verse_id"]) == ("ps-89-27", "ps-89-52")
    assert [verse for verse, *_ in done.verses("ranged")] == [f"ps-89-{at}" for at in range(27, 53)]


def test_a_name_is_cleaned_and_two_files_of_one_moment_and_name_get_two_keys(done: World) -> None:
    assert done.media("odd_name")["object_key"].partition("-")[2] == "100percent ltBajhangigt-2 Kings_é.MP3"
    assert done.media("odd_name")["file_type"] == "audio/mpeg"
    keys = [done.media(f"same_key_{number}")["object_key"] for number in (1, 2)]
    assert keys[0] == f"{generate.MOMENT - 1}-take.mp3"
    assert re.fullmatch(rf"{generate.MOMENT - 1}-[0-9a-f]{{8}}-take\.mp3", keys[1])
    assert [done.objects()[key] for key in keys] == [b"not really sound: same_key_1", b"not really sound: same_key_2"]


def test_what_needs_a_person_is_held_with_its_reason_and_everything_else_is_done(done: World) -> None:
    assert done.units("held", "projects") == {
        generate.TRYOUT: "language_not_approved",
        generate.BALOCHI: "language_not_approved",
    }
    files = {
        "unknown_chapter": "lookup_missing",
        "unknown_book": "lookup_missing",
        "no_chapter": "lookup_missing",
        "beyond": "lookup_missing",
        "copied_part": "unread_verses",
        "backwards": "unread_verses",
        "empty": "empty_file",
        "tryout": "reference_missing",
    }
    assert done.units("held", "media_files") == files
    times = {"equal_times": "equal_timestamps", "hole_in_times": "equal_timestamps", "nobody": "no_audio_file"}
    times |= {"negative_time": "negative_timestamp"} | dict.fromkeys(files, "reference_missing")
    assert done.units("held", "verses") == times
    assert done.units("skipped", "verses") == {"no_times": "rows_skipped"}
    assert not any(done.units("failed", flow) for flow in ("projects", "media_files", "verses"))


def test_what_is_odd_but_kept_is_warned_of(done: World) -> None:
    warned = dict(done.ask("SELECT unit, warnings FROM resettle.units WHERE status = 'done' AND warnings IS NOT NULL"))
    expected = {
        generate.PIDGIN: "no_user",
        "no_duration": "no_duration",
        "other_size": "other_size_than_recorded",
        "other_chapter": "other_chapter_in_name",
        "unsorted": "unsorted_timestamps",
        "fewer": "fewer_timestamps",
        "odd_name": "fewer_timestamps",
        "more": "more_timestamps",
        "fractions": "more_timestamps",
    }
    assert warned == expected


def test_only_files_of_rows_that_were_made_are_in_the_new_store(done: World) -> None:
    assert set(done.objects()) == {key for (key,) in done.ask("SELECT object_key FROM media_files")}


def test_verses_and_timestamps_that_have_no_partner_are_counted(run: Run) -> None:
    figures = run.applied.counts[2].as_json()["summary"]
    (made,) = run.world.ask("SELECT count(*) FROM media_files_verses")
    assert figures == {"versesCreated": made[0], "versesWithoutTimestamp": 2 + 9 + 5, "timestampsWithoutVerse": 1 + 2}


def test_what_was_migrated_is_verified_and_the_views_are_fresh(done: World) -> None:
    verified = done.verify()
    assert verified.findings == []
    assert verified.exit_code == 0
    assert done.ask("SELECT count(*) FROM mv_audio_version_progress_summary") == [(5,)]


def test_a_second_apply_writes_nothing(done: World) -> None:
    before, puts = done.versions(), done.puts()
    again = done.apply(fresh=True)
    assert set(actions(again)) == {"unchanged"}
    assert (done.versions(), done.puts()) == (before, puts)
    again = done.apply()
    assert set(statuses(again)) == {"unchanged", "skipped", "held"}
    assert (done.versions(), done.puts()) == (before, puts)


def test_the_coverage_report_counts_the_verses_of_each_project(done: World) -> None:
    sql = (FOLDER / "reports" / "coverage.sql").read_text("utf-8").replace(":'env'", "'local'")
    rows = {name: figures for name, *figures in done.ask(sql)}
    assert len(rows) == 5
    timed = sum(figures[3] for figures in rows.values())
    assert [(timed,)] == done.ask("SELECT count(*) FROM media_files_verses")
    files, chapters, verses, timed, lacking, *_ = rows["OMT — english_australia (1739757290594)"]
    assert (files, chapters, lacking) == (10, 10, 0)
    assert verses == timed == sum(sum(book[2].values()) for book in generate.BOOKS.values())
    assert rows["OMT — bajhangi_nepal (1754634514201)"][4] > 0


@pytest.mark.parametrize("environment", ["dev", "prod"])
def test_an_environment_has_its_own_buckets_and_languages(environment: str) -> None:
    names = ("OMT_APPSYNC_URL", "OMT_API_KEY", "OMT_AWS_ACCOUNT", "SUPABASE_DB_URL", "R2_ACCOUNT", "R2_ACCESS_KEY_ID")
    variables = dict.fromkeys((*names, "R2_SECRET_ACCESS_KEY"), "123456789012")
    migration = load(FOLDER, environment, variables)
    connections = migration.file.connections
    assert connections["s3"]["bucket"] == f"omt-audio-files-{environment}-123456789012"
    assert connections["r2"]["bucket"] == f"el-backend-{environment}-media-files"
    assert migration.file.lookups["listed"].file == f"lookups/languages.{environment}.csv"
    assert migration.guard == (environment == "prod")


# -- people, and what goes wrong ------------------------------------------------------------------------------


def test_nothing_that_a_person_changed_is_reset(make: Callable[..., World]) -> None:
    one = make()
    one.apply()
    one.do("UPDATE projects SET name = name || ', by hand', project_status = 'active'")
    one.do("UPDATE audio_versions SET name = name || ', ours'")
    one.do("UPDATE media_files SET publish_status = 'published', check_status = 'approved'")
    before = one.versions()
    one.apply(fresh=True)
    assert one.versions() == before
    one.change("OmtAudioFile", "audio-00000", duration=1234.5)
    assert actions(one.apply())["update"] == 2, "the file, and its last verse"
    assert one.verses("audio-00000")[-1][2] > 1000
    row = one.media("audio-00000")
    assert (row["duration_seconds"], row["publish_status"], row["check_status"]) == (1234.5, "published", "approved")
    assert one.ask("SELECT verses FROM mv_audio_version_progress_summary WHERE verses > 0") == [(16,)]


def test_a_row_that_a_person_changed_where_the_source_changed_too_is_held(make: Callable[..., World]) -> None:
    one = make()
    one.apply()
    one.do("UPDATE media_files SET duration_seconds = 99")
    one.change("OmtAudioFile", "audio-00000", duration=1234.5)
    one.apply()
    assert one.units("held", "media_files") == {"audio-00000": "edited_in_target"}
    assert one.media("audio-00000")["duration_seconds"] == 99


def test_a_file_that_is_not_there_is_not_linked_and_the_next_run_does_only_what_is_missing(
    make: Callable[..., World],
) -> None:
    one = make(lost=True)
    planned = one.plan()
    assert counts(one.apply()) == counts(planned)
    assert one.units("held", "media_files") == {"lost": "missing_file"}
    assert one.units("held", "verses") == {"lost": "reference_missing"}
    before = one.versions()
    one.stack.s3.load(one.stack.source, {f"{generate.PREFIX}{B}/Bajhangi_Genesis_Chapter002.mp3": b"here it is"})
    one.apply()
    assert one.puts() == 3
    assert all(before[table] <= rows for table, rows in one.versions().items()), "nothing else is touched"
    assert one.verses("lost") == [("gen-2-1", 0.0, 4.5), ("gen-2-2", 4.5, 7.5)]
    assert one.verify().exit_code == 0


def test_a_file_that_vanishes_while_it_is_copied_is_failed_and_tried_again(make: Callable[..., World]) -> None:
    one = make()
    key = "english_Genesis_Chapter002_V001_007.mp3"
    for method in ("GET", "HEAD"):
        one.stack.s3.fail("status", method=method, text=key, status=404, code="NoSuchKey")
    run = one.apply()
    assert one.units("failed", "media_files") == {"audio-00001": "gone"}
    assert run.exit_code == 1
    assert one.ask("SELECT original_filename FROM media_files") == [("english_Genesis_Chapter001_V001_009.mp3",)]
    before = one.versions()
    one.apply()
    assert one.puts() == 2
    assert all(before[table] <= rows for table, rows in one.versions().items()), "nothing else is touched"
    assert len(one.verses("audio-00001")) == 7


def test_a_run_that_dies_after_copying_copies_and_makes_nothing_twice(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make()
    one.apply(select=("projects",))

    def died(*_: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as dying:
        dying.setattr(applying, "transactions", died)
        with pytest.raises(SystemExit):
            one.apply(select=("media_files",))
    assert (one.puts(), one.ask("SELECT count(*) FROM media_files")) == (2, [(0,)])
    one.apply()
    assert (one.puts(), one.ask("SELECT count(*) FROM media_files")) == (2, [(2,)])
    assert one.verify().exit_code == 0


def test_a_copy_that_vanished_or_has_other_bytes_of_the_same_size_is_put_right(make: Callable[..., World]) -> None:
    one = make()
    one.apply()
    right = one.objects()
    first, second = sorted(right)
    client = one.stack.r2.client()
    client.delete_object(Bucket=one.stack.target, Key=first)
    client.put_object(Bucket=one.stack.target, Key=second, Body=b"?" * len(right[second]))
    assert actions(one.apply({"compare": "size"}))["copy"] == 1
    assert one.objects() == {first: right[first], second: b"?" * len(right[second])}
    assert actions(one.apply())["copy"] == 1
    assert one.objects() == right


def test_a_strangers_object_is_taken_if_it_is_the_same_and_never_overwritten(make: Callable[..., World]) -> None:
    one = make()
    keys = [f"{generate.MOMENT + at}-english_Genesis_Chapter00{at + 1}_V001_00{n}.mp3" for at, n in ((0, 9), (1, 7))]
    one.stack.r2.load(one.stack.target, {keys[0]: b"not really sound: audio-00000", keys[1]: b"something else"})
    puts = one.puts()
    run = one.apply()
    assert one.units("held", "media_files") == {"audio-00001": "exists_in_target"}
    assert actions(run)["reuse"] == 1
    assert one.puts() == puts
    assert one.media("audio-00000")["object_key"] == keys[0]
    assert one.objects()[keys[1]] == b"something else"


def test_new_timestamps_change_the_verses_in_place(make: Callable[..., World]) -> None:
    one = make()
    one.apply()
    ids = set(one.ask("SELECT id, verse_id FROM media_files_verses"))
    one.change("OmtVerseTimestamps", "times_audio-00001", timestamps=[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    one.apply()
    assert [(start, length) for _, start, length in one.verses("audio-00001")][:6] == [(at, 1.0) for at in range(6)]
    assert set(one.ask("SELECT id, verse_id FROM media_files_verses")) == ids


def test_names_as_found_hold_every_project_but_the_first(make: Callable[..., World]) -> None:
    one = make()
    one.apply({"project_name": "as_found"})
    assert one.ask("SELECT name FROM projects") == [("OMT",)]
    assert list(one.units("held", "projects").values()).count("unique") == 4


def test_every_file_may_be_taken_for_a_whole_chapter(make: Callable[..., World]) -> None:
    one = make(chapters=0, messy=True)
    one.apply({"verse_range": "chapter"})
    row = one.media("ranged")
    assert (row["start_verse_id"], row["end_verse_id"]) == ("ps-89-1", "ps-89-52")
    assert [verse for verse, *_ in one.verses("ranged")] == [f"ps-89-{at}" for at in range(1, 27)]


def test_a_status_that_the_target_does_not_have_is_refused_before_anything_is_written(
    make: Callable[..., World], tmp_path: Path
) -> None:
    one = make()
    one.folder = tmp_path / "seed"
    shutil.copytree(FOLDER, one.folder, ignore=shutil.ignore_patterns(".resettle", "__pycache__"))
    text = (one.folder / "migration.yaml").read_text("utf-8")
    (one.folder / "migration.yaml").write_text(text.replace("'completed'", "'uploaded'"), "utf-8")
    with pytest.raises(MappingError, match=r"`el\.media_files\.upload_status` does not accept this constant"):
        one.plan()


def test_an_export_of_the_three_types_gives_the_same_rows_as_appsync(
    make: Callable[..., World], tmp_path: Path
) -> None:
    one = make(chapters=2, messy=True)
    migration = load(FOLDER, "local", one.stack.variables)
    with Connections(migration) as connections:
        for name in ("OmtTranslation", "OmtAudioFile", "OmtVerseTimestamps"):
            export(connections.source("omt"), name, tmp_path / "export", Options())
    one.folder = tmp_path / "from_export"
    shutil.copytree(FOLDER, one.folder, ignore=shutil.ignore_patterns(".resettle", "__pycache__"))
    text = (one.folder / "migration.yaml").read_text("utf-8")
    place = "    connections:\n      s3:"
    assert place in text
    files = f"    connections:\n      omt: {{type: files, path: '{tmp_path / 'export'}'}}\n      s3:"
    (one.folder / "migration.yaml").write_text(text.replace(place, files, 1), "utf-8")
    one.apply()
    before, puts = one.versions(), one.puts()
    assert puts > 2
    one.folder = FOLDER
    assert "create" not in actions(one.apply())
    assert (one.versions(), one.puts()) == (before, puts)
    assert one.verify().exit_code == 0


# -- the languages' CSV ---------------------------------------------------------------------------------------


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return {row["omt_translation_id"]: row for row in csv.DictReader(file)}


def test_a_draft_offers_candidates_keeps_commas_and_quotes_and_approves_nothing(make: Callable[..., World]) -> None:
    one = make(approve=False)
    rows = rows_of(one.stack.languages)
    assert set(rows) == set(generate.TRANSLATIONS)
    assert {(row["source_language_id"], row["mother_tongue_id"]) for row in rows.values()} == set(
        generate.TRANSLATIONS.values()
    )
    assert not any(row["approved"] for row in rows.values())
    pidgin = rows[generate.PIDGIN]
    assert pidgin["source_language_entity_id"] == generate.language("English"), "the space behind it does not matter"
    assert pidgin["target_language_entity_id"] == generate.language("Delta Pidgin")
    assert 'Balochi "West" [language] by alias' in rows[generate.BALOCHI]["target_candidates"]
    assert rows[generate.BALOCHI]["source_language_entity_id"] == generate.language("Greek, Hebrew")
    assert rows[generate.TAJ]["source_language_entity_id"] == "", "two languages are called so: a person chooses"
    assert rows[generate.TAJ]["source_candidates"].count(";") == 1
    assert rows[generate.TRYOUT]["target_candidates"] == ""


def test_without_approval_nothing_is_migrated(make: Callable[..., World]) -> None:
    one = make(approve=False)
    assert "create" not in actions(one.apply())
    assert set(one.units("held", "projects").values()) == {"language_not_approved"}
    assert one.objects() == {}
    assert all(not rows for rows in one.versions().values())


def test_what_is_approved_without_languages_or_with_unknown_ones_is_held(make: Callable[..., World]) -> None:
    one = make(approve=False)
    text = one.stack.languages.read_text("utf-8")
    header = text.splitlines()[0]
    unknown = f"{generate.TAJ},,,,00000000-0000-4000-8000-000000000000,{generate.language('Taj')},,yes,,"
    one.stack.languages.write_text(f"{header}\n{generate.AUSTRALIAN},,,,,,,yes,,\n{unknown}\n", "utf-8")
    one.apply()
    held = one.units("held", "projects")
    assert (held[generate.AUSTRALIAN], held[generate.TAJ]) == ("language_unknown", "language_unknown")
    assert held[generate.PIDGIN] == "language_not_listed"


def test_a_new_draft_keeps_what_people_wrote(make: Callable[..., World]) -> None:
    one = make()
    before = one.stack.languages.read_text("utf-8")
    draft("local", one.stack.languages, one.stack.variables)
    assert rows_of(one.stack.languages) == {
        row["omt_translation_id"]: row for row in csv.DictReader(before.splitlines())
    }
    text = one.stack.languages.read_text("utf-8")
    noted = ["note" if n == 0 else "seen" for n in range(len(text.splitlines()))]
    lines = [f"{line},{note}" for line, note in zip(text.splitlines(), noted, strict=True)]
    one.stack.languages.write_text("\n".join(lines) + "\n", "utf-8")
    one.change("OmtTranslation", generate.TAJ, id="new_tongue_OMT_1750000000000", motherTongueId="new_tongue")
    draft("local", one.stack.languages, one.stack.variables)
    rows = rows_of(one.stack.languages)
    assert rows["new_tongue_OMT_1750000000000"]["approved"] == ""
    assert (rows[generate.TAJ]["approved"], rows[generate.TAJ]["note"]) == ("yes", "seen")


def test_a_later_approval_migrates_that_translation_and_no_other_row_is_touched(make: Callable[..., World]) -> None:
    one = make(chapters=15, books={"gen": generate.BOOKS["gen"]})
    one.apply()
    before, puts = one.versions(), one.puts()
    one.stack.approve({generate.BALOCHI: generate.APPROVED[generate.BALOCHI]})
    made = actions(one.apply())
    assert made["create"] > 2
    assert all(before[table] <= rows for table, rows in one.versions().items())
    assert one.puts() - puts == made["copy"]


VERSIONS = (
    "SELECT i.unit, v.name FROM audio_versions v"
    " JOIN resettle.omt_local_projects_version i ON i.target_key = v.id::text"
)


def test_an_earlier_translation_that_is_approved_later_gets_the_next_number(make: Callable[..., World]) -> None:
    one = make(approve=False)
    one.stack.approve({generate.TAJ_AGAIN: generate.APPROVED[generate.TAJ_AGAIN]})
    one.apply()
    assert dict(one.ask(VERSIONS)) == {generate.TAJ_AGAIN: "OMT"}
    before = one.versions()
    one.stack.approve({generate.TAJ: generate.APPROVED[generate.TAJ]})
    planned = one.plan()
    assert counts(one.apply()) == counts(planned)
    assert dict(one.ask(VERSIONS)) == {generate.TAJ_AGAIN: "OMT", generate.TAJ: "OMT v2"}
    assert all(before[table] <= rows for table, rows in one.versions().items())
    assert set(actions(one.apply())) <= {"unchanged"}


def test_a_later_translation_that_is_approved_later_gets_its_number(make: Callable[..., World]) -> None:
    one = make(approve=False)
    for unit in (generate.TAJ, generate.TAJ_AGAIN):
        one.stack.approve({unit: generate.APPROVED[unit]})
        one.apply()
    assert dict(one.ask(VERSIONS)) == {generate.TAJ: "OMT", generate.TAJ_AGAIN: "OMT v2"}


def test_a_version_that_somebody_else_made_takes_its_number(make: Callable[..., World]) -> None:
    one = make(approve=False)
    one.do(
        "INSERT INTO audio_versions (language_entity_id, bible_version_id, name) VALUES (%s, %s, 'OMT v11')",
        generate.language("Taj"),
        generate.BIBLE_VERSION,
    )
    one.stack.approve({generate.TAJ: generate.APPROVED[generate.TAJ]})
    one.apply()
    assert dict(one.ask(VERSIONS)) == {generate.TAJ: "OMT v12"}


def test_of_two_that_want_the_next_number_at_once_one_arrives_with_the_next_run(make: Callable[..., World]) -> None:
    one = make(approve=False)
    third = "taj_rasuwa_OMT_1740457999999"
    (item,) = [item for item in one.stack.appsync.items("OmtTranslation") if item["id"] == generate.TAJ]
    one.stack.appsync.data.put("OmtTranslation", item | {"id": third})
    draft("local", one.stack.languages, one.stack.variables)
    one.stack.approve({third: generate.APPROVED[generate.TAJ]})
    one.apply()
    one.stack.approve({unit: generate.APPROVED[unit] for unit in (generate.TAJ, generate.TAJ_AGAIN)})
    one.apply()
    one.apply()
    found = dict(one.ask(VERSIONS))
    assert found.pop(third) == "OMT"
    assert sorted(found.values()) == ["OMT v2", "OMT v3"]


# -- the real Bible -------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not (BIBLE / "chapters.csv").exists(), reason="the real Bible's structure is not beside this checkout"
)
@pytest.mark.parametrize("all_chapters", [False, pytest.param(True, marks=pytest.mark.extended)])
def test_the_real_bible_is_covered_verse_by_verse(make: Callable[..., World], all_chapters: bool) -> None:
    """The first chapter of each of the 66 books, or all 1,189 chapters."""
    whole = generate.real_bible(BIBLE)
    assert sum(sum(chapters.values()) for _, _, chapters in whole.values()) == 31_102
    first = {id_: (name, number, {1: chapters[1]}) for id_, (name, number, chapters) in whole.items()}
    books = whole if all_chapters else first
    count = sum(len(chapters) for _, _, chapters in books.values())
    one = make(chapters=count, books=books)
    assert statuses(one.apply())["done"] == 5 + count + count
    verses = sum(sum(chapters.values()) for _, _, chapters in books.values())
    assert one.ask("SELECT count(DISTINCT verse_id) FROM media_files_verses") == [(verses,)]
    assert one.verify().exit_code == 0
