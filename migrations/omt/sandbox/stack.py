"""omt's local stack: AppSync with OMT's models, S3, R2, and a Supabase-like Postgres with the target's tables."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import psycopg

from resettle.sandbox.appsync import API_KEY, LocalAppSync, start_appsync
from resettle.sandbox.module import module_at
from resettle.sandbox.postgres import start_postgres, supabase_roles
from resettle.sandbox.s3 import LocalS3, start_s3

HERE = Path(__file__).parent


@dataclass
class Stack:
    """What runs, and where the approved languages are."""

    folder: Path
    appsync: LocalAppSync
    s3: LocalS3
    r2: LocalS3
    url: str
    source: str
    """OMT's bucket in S3."""
    target: str
    """The new backend's bucket in R2."""

    @property
    def languages(self) -> Path:
        return self.folder / "languages.csv"

    @property
    def variables(self) -> dict[str, str]:
        """The variables of the `local` environment."""
        return {
            "OMT_APPSYNC_URL": self.appsync.url,
            "OMT_API_KEY": API_KEY,
            "OMT_BUCKET": self.source,
            "R2_BUCKET": self.target,
            "OMT_S3_ENDPOINT": self.s3.endpoint,
            "OMT_S3_KEY": self.s3.access_key,
            "OMT_S3_SECRET": self.s3.secret_key,
            "R2_ENDPOINT": self.r2.endpoint,
            "R2_ACCESS_KEY_ID": self.r2.access_key,
            "R2_SECRET_ACCESS_KEY": self.r2.secret_key,
            "SUPABASE_DB_URL": self.url,
            "LANGUAGES": str(self.languages),
        }

    def put(self, made) -> None:  # type: ignore[no-untyped-def]
        """Put generated records and files where OMT keeps them."""
        self.appsync.data.put("OmtTranslation", *made.translations)
        self.appsync.data.put("OmtAudioFile", *made.audio)
        self.appsync.data.put("OmtVerseTimestamps", *made.timestamps)
        self.s3.load(self.source, made.objects)

    def approve(self, approved: dict[str, tuple[str, str]]) -> None:
        """Pick languages in the CSV and approve them, as a person would."""
        rows = list(csv.DictReader(self.languages.read_text("utf-8").splitlines()))
        language = part("generate").language
        for row in rows:
            if row["omt_translation_id"] in approved:
                names = approved[row["omt_translation_id"]]
                for column, name in zip(("source", "target"), names, strict=True):
                    row[f"{column}_language_entity_id"] = language(name)
                row["approved"] = "yes"
        with self.languages.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


RUNNING: dict[Path, Stack] = {}


@contextmanager
def start(folder: Path, url: str) -> Iterator[Stack]:
    """AppSync, S3 and R2, empty, beside a database that is there."""
    with ExitStack() as servers:
        appsync = servers.enter_context(start_appsync((HERE / "schema.graphql").read_text("utf-8")))
        s3, r2 = servers.enter_context(start_s3()), servers.enter_context(start_s3())
        buckets = s3.named("omt-audio-files-local"), r2.named("el-local-media-files")
        stack_ = Stack(folder, appsync, s3, r2, url, *buckets)
        s3.load(stack_.source)
        r2.load(stack_.target)
        RUNNING[folder] = stack_
        try:
            yield stack_
        finally:
            del RUNNING[folder]


@contextmanager
def stack(folder: Path, *, chapters: int = 50) -> Iterator[dict[str, str]]:
    """Start everything, fill it, draft the languages and approve most; yields the variables of `local`."""
    generate = part("generate")
    with start_postgres() as server, start(folder, server.create_database("everylanguage")) as running:
        prepare(running.url)
        generate.fill_target(running.url)
        running.put(generate.generate(chapters, lost=True))
        part("draft_languages").draft("local", running.languages, running.variables)
        running.approve({k: v for k, v in generate.APPROVED.items() if k != generate.BALOCHI})
        yield running.variables


def prepare(url: str) -> None:
    """Make an empty database the target as it stands before the migration, but for its Bible and its languages."""
    supabase_roles(url)
    with psycopg.connect(url) as connection:
        connection.execute((HERE / "schema.sql").read_text("utf-8"))


def correct(folder: Path) -> None:
    """Approve one more language, and mend two records and a file at their source."""
    running, generate = RUNNING[folder], part("generate")
    running.approve({generate.BALOCHI: generate.APPROVED[generate.BALOCHI]})
    audio = {item["id"]: item for item in running.appsync.items("OmtAudioFile")}
    running.appsync.data.put("OmtAudioFile", audio["unknown_chapter"] | {"bookChapter": "gen-3"})
    times = {item["audioFileId"]: item for item in running.appsync.items("OmtVerseTimestamps")}
    running.appsync.data.put("OmtVerseTimestamps", times["equal_times"] | {"timestamps": [0.0, 2.0, 2.5]})
    running.s3.load(running.source, {audio["empty"]["s3Key"]: b"now there is something to hear"})


def part(name: str) -> ModuleType:
    """A module of this migration, which is in no package."""
    path = HERE / f"{name}.py"
    return module_at(path if path.exists() else HERE.parent / path.name)
