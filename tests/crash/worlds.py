"""The five migrations, each on its own sandbox with a few dozen records of its own generator."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg

from resettle.sandbox.module import module_at
from tests.crash.points import MIGRATIONS
from tests.crash.states import FIXED, Effects, Tables, World
from tests.crash.stores import InPostgres, InSQLite, Objects
from tests.crash.zygote import ROOT, Zygote


def part(migration: str, name: str) -> ModuleType:
    """A module of a migration's sandbox, loaded for us alone: its traps are cut down here."""
    return module_at(ROOT / "migrations" / migration / "sandbox" / f"{name}.py", alone="crash ")


def only(messy: Sequence[Any], *names: str) -> tuple[Any, ...]:
    """The traps with these names."""
    kept = tuple(one for one in messy if one.name in names)
    assert {one.name for one in kept} == set(names)
    return kept


# -- the migrations ------------------------------------------------------------------------------------------


class Medzen(InPostgres):
    variable = "SUPABASE_DB_URL"

    def start(self, opened: ExitStack) -> None:
        self.generate = part("medzen", "generate")
        traps = ("time_zero", "appointment_not_a_uuid", "status_ended", "meeting_id_malformed", "instant_ms",
                 "soap_missing", "note_without_session", "audit_twin_first", "audit_twin_second",
                 "audit_without_session")  # fmt: skip
        self.generate.MESSY = only(self.generate.MESSY, *traps)
        self.variables["MEDZEN_EXPORT"] = str(self.folder / "export")
        self.generate.generate(self.folder / "export", 8)
        self.fresh()
        part("medzen", "stack").prepare(self.url)
        self.refuse("video_call_audit_log", "event_type <> 'TRANSCRIPTION_FAILED'")
        self.prepared()

    def edit(self) -> None:
        shutil.rmtree(self.folder / "export")
        self.generate.generate(self.folder / "export", 8, changed=0.5)


class LessonAssets(InPostgres):
    variable = "DATABASE_URL"
    minting = True
    hashes_targets = True
    traps = ("key_in_one_lesson", "key_in_another_lesson", "key_twice_in_a_lesson", "videos_object", "asset_archived",
             "malformed_beside_good", "usage_missing", "asset_stale_but_there", "course_without_group")  # fmt: skip

    def start(self, opened: ExitStack) -> None:
        self.fresh()
        stack, messy = part("lesson-assets", "stack"), part("lesson-assets", "messy")
        stack.prepare(self.url)
        messy.MESSY = tuple(one for one in messy.MESSY if one.name in {*self.traps, "usage_there"})
        part("lesson-assets", "generate").generate(self.url, 5)
        with psycopg.connect(self.url) as connection:
            messy.write(connection)
        self.prepared()

    def edit(self) -> None:
        item = '[{"type":"youtube","link":"https://youtu.be/new","metadata":{}}]'
        with psycopg.connect(self.url) as connection:
            connection.execute(
                "UPDATE lesson SET videos = CASE jsonb_typeof(videos) WHEN 'array' THEN videos ELSE '[]' END || %s"
                " WHERE id::text IN (SELECT unit FROM resettle.rows ORDER BY unit LIMIT 1)",
                [item],
            )


class Mirubato(InSQLite):
    prefix = "migration"

    def start(self, opened: ExitStack) -> None:
        generate = part("mirubato", "generate")
        traps = ("pieces_cut_off", "deleted_beside", "owner_unknown", "duration_30", "odd_text", "target_date_number",
                 "milestones_cut_off", "goal_deleted", "session_sql_text", "accuracy_real")  # fmt: skip
        generate.MESSY = only(generate.MESSY, *traps)
        self.backend, self.file = self.folder / "backend.sqlite", self.folder / "api" / "api.sqlite"
        self.file.parent.mkdir()
        generate.generate(self.backend, self.file, 20)
        self.variables |= {"MIRUBATO_BACKEND_DB": str(self.backend), "MIRUBATO_API_DB": str(self.file)}
        with closing(sqlite3.connect(self.file)) as base, base:
            base.execute("DROP TRIGGER update_sync_data_updated_at")
            base.execute(
                "CREATE TRIGGER update_sync_data_updated_at AFTER UPDATE ON sync_data BEGIN"
                " UPDATE sync_data SET updated_at = updated_at || '+' WHERE id = NEW.id; END"  # one for each update
            )
            base.execute(  # a rule of the target's own, which one of the records breaks
                "CREATE TRIGGER refuses BEFORE INSERT ON sync_data WHEN NEW.entity_id = 'messy_odd_text' BEGIN"
                " SELECT RAISE (ABORT, 'refused'); END"
            )
            base.execute("PRAGMA writable_schema = ON")
            base.execute(
                "UPDATE sqlite_master SET sql = replace(sql, 'DEFAULT CURRENT_TIMESTAMP', ?)", (f"DEFAULT '{FIXED}'",)
            )

    def edit(self) -> None:
        with closing(sqlite3.connect(self.backend)) as base, base:
            for table, column in (
                ("logbook_entries", "notes"),
                ("goals", "title"),
                ("practice_sessions", "sheet_music_id"),
            ):
                base.execute(f"UPDATE {table} SET {column} = 'edited' WHERE rowid % 2 = 1")


class Omt(InPostgres):
    variable = "SUPABASE_DB_URL"
    minting = True
    intending = True
    without: Mapping[str, str] = {"media_files_verses": "id"}
    traps = ("fractions", "no_chapter", "more", "same_key_1", "same_key_2", "lone_verse", "equal_times", "tryout")

    def start(self, opened: ExitStack) -> None:
        generate, stack = part("omt", "generate"), part("omt", "stack")
        self.fresh()
        stack.prepare(self.url)
        generate.fill_target(self.url)
        self.running = opened.enter_context(stack.start(self.folder, self.url))
        made = generate.generate(2)
        keep = {*self.traps, "audio-00000", "audio-00001"}
        made.audio = [one for one in made.audio if one["id"] in keep]
        made.timestamps = [one for one in made.timestamps if one["audioFileId"] in {*keep, "nobody"}]
        files = {one["s3Key"] for one in made.audio}
        made.objects = {key: body for key, body in made.objects.items() if key in files}
        self.running.put(made)
        stack.part("draft_languages").draft("local", self.running.languages, self.running.variables)
        self.running.approve({k: v for k, v in generate.APPROVED.items() if k != generate.BALOCHI})
        self.variables |= self.running.variables
        self.objects = Objects(self.running.r2, self.running.target)
        self.prepared()
        self.refuse("media_files", "original_filename <> 'Bajhangi_Genesis_Chapter003.mp3'")
        with psycopg.connect(self.url) as connection:
            connection.execute(
                "CREATE OR REPLACE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$"
                " BEGIN NEW.updated_at := OLD.updated_at + interval '1 second'; RETURN NEW; END $$"
            )

    def edit(self) -> None:
        data = self.running.appsync.data
        first, second = [one for one in self.running.appsync.items("OmtAudioFile") if one["id"].startswith("audio-")]
        data.put("OmtAudioFile", first | {"duration": 99.5})
        times = next(
            one for one in self.running.appsync.items("OmtVerseTimestamps") if one["audioFileId"] == first["id"]
        )
        data.put("OmtVerseTimestamps", times | {"timestamps": [at + 0.25 for at in times["timestamps"]]})
        self.running.s3.load(self.running.source, {second["s3Key"]: b"another recording"})

    def keep(self, state: str) -> None:
        super().keep(state)
        self.objects.keep(state)

    def restore(self, state: str) -> None:
        super().restore(state)
        self.objects.restore(state)

    def target(self) -> Tables:
        return {**super().target(), "objects": self.objects.told()}

    def effects(self) -> Effects:
        return self.objects.effects()

    def unfinished(self) -> int:
        return self.objects.parts()


class AmplifyMedia(InSQLite):
    intending = True
    hashes_targets = True
    traps = ("#1.jpg", "#10-#15.mp4", "#21-#22.jpg", "#30-#32.mov", "#99.jpg", "#40.jpg", "#40b.jpg", "photo.jpg")

    def start(self, opened: ExitStack) -> None:
        stack = part("amplify-media-migrator", "stack")
        messy = stack.part("messy")
        self.kept_messy, messy.MESSY = messy.MESSY, only(messy.MESSY, *self.traps)
        try:
            self.sandbox = opened.enter_context(stack.sandbox(self.folder, files=6))
        finally:
            messy.MESSY = self.kept_messy
        self.variables |= {**self.sandbox.variables, "part_size": str(5 << 20)}
        self.file = self.folder / "ledger" / "ledger.sqlite"
        self.file.parent.mkdir()
        self.variables["LEDGER"] = str(self.file)
        self.objects = Objects(self.sandbox.store, self.sandbox.bucket)
        self.api: dict[str, list[dict[str, Any]]] = {}
        self.sandbox.api.data.now = lambda: datetime(2026, 1, 1, tzinfo=UTC)
        generate = stack.part("generate")
        generate.observe(self.sandbox.api, 7000)
        drive = self.sandbox.drive
        large = drive.file("7000.mp4", self.sandbox.root, body=5_300_000, mime="video/mp4")
        del drive.files[large]["md5Checksum"]  # so that it goes in parts

    def edit(self) -> None:
        drive, stack = self.sandbox.drive, part("amplify-media-migrator", "stack")
        stack.part("generate").observe(self.sandbox.api, stack.part("messy").FIRST + 22)
        known = {unit for (unit,) in self.ask("SELECT unit FROM LEDGER.rows WHERE output = 0")}
        changed = min(known)
        drive.bodies[changed] = b"another picture"
        drive.files[changed] |= {"size": "15", "md5Checksum": hashlib.md5(b"another picture").hexdigest()}

    def keep(self, state: str) -> None:
        super().keep(state)
        self.objects.keep(state)
        self.api[state] = self.sandbox.api.items("Media")

    def restore(self, state: str) -> None:
        super().restore(state)
        self.objects.restore(state)
        data = self.sandbox.api.data
        with data.turn:
            for item in list(data.items["Media"].values()):
                data._take("Media", item)
            data.put("Media", *self.api[state])
        self.sandbox.api.requests.clear()

    def target(self) -> Tables:
        return {
            "objects": self.objects.told(),
            "Media": [json.dumps(item, sort_keys=True) for item in self.sandbox.api.items("Media")],
        }

    def effects(self) -> Effects:
        made = self.objects.effects()
        for asked in self.sandbox.api.requests:
            made.update(one for one in asked if one.startswith(("create", "update", "delete")))
        return made

    def unfinished(self) -> int:
        return self.objects.parts()


_KINDS: Mapping[str, tuple[type[World], int, Mapping[str, Any]]] = {
    "medzen": (Medzen, 8, {"limit": 6}),
    "mirubato": (Mirubato, 10, {"limit": 8}),
    "lesson-assets": (LessonAssets, 6, {"limit": 5}),
    "omt": (Omt, 5, {"limit": 4}),
    "amplify-media-migrator": (AmplifyMedia, 6, {"limit": 5}),
}
assert set(_KINDS) == set(MIGRATIONS)


@contextmanager
def world(migration: str, zygote: Zygote, folder: Path, postgres: str) -> Iterator[World]:
    """A migration with its servers running and its states made."""
    kind, batch, base = _KINDS[migration]
    options = {"batch_size": batch, "workers": 1, "concurrency": 1}
    with ExitStack() as opened:
        made = kind(migration, zygote, folder, options, base=base)
        if isinstance(made, InPostgres):
            made.server = postgres
            opened.callback(made.drop_all)
        made.start(opened)  # type: ignore[attr-defined]
        made.begin()
        yield made
