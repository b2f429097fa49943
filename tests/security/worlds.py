"""The five migrations of this checkout on their local stacks, with unmistakable values planted into every source."""

from __future__ import annotations

import base64
import gzip
import hashlib
import itertools
import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
from psycopg import sql

from resettle.sandbox.module import module_at

MIGRATIONS = Path(__file__).parents[2] / "migrations"
PLANTED = re.compile(rb"zq\d{6}zq")
NUMBERS = itertools.count(1)
_BOUND = re.compile(r"[0-9a-f-]{36}|[\d.:TZ +-]+|[A-Z_]+|true|false", re.IGNORECASE)
"""Texts that a target's column may not take with anything added: uuids, instants, numbers, words of a list."""


def token() -> str:
    """A value like no other."""
    return f"zq{next(NUMBERS):06}zq"


def planted(value: Any, *, everywhere: bool) -> Any:
    """The value with a token in each of its texts; ``everywhere``: also where it then fits no column."""
    if isinstance(value, dict):
        return {key: planted(one, everywhere=everywhere) for key, one in value.items()}
    if isinstance(value, list):
        return [planted(one, everywhere=everywhere) for one in value]
    if not isinstance(value, str) or not (everywhere or _BOUND.fullmatch(value) is None):
        return value
    try:
        inner = json.loads(value)
    except ValueError:
        return f"{value} {token()}@example.org"
    if isinstance(inner, dict | list | str):
        return json.dumps(planted(inner, everywhere=everywhere))
    return f"{value}{token()}" if everywhere else value


def record(one: Mapping[str, Any], number: int, keys: set[str]) -> dict[str, Any]:
    """A record with tokens in its free texts, every fifth in all of its texts, every other fifth as it was."""
    if number % 5 in (2, 4):
        return dict(one)
    return {k: v if k in keys else planted(v, everywhere=number % 5 == 1) for k, v in one.items()}


@dataclass
class World:
    """A migration's folder, the variables of its `local` environment, its secrets and where its ledger is."""

    name: str
    root: Path
    variables: dict[str, str]
    secrets: list[str] = field(default_factory=list)
    url: str = ""
    ledger: Path | None = None
    prefix: str = ""
    services: dict[str, Any] = field(default_factory=dict)
    """Stand-ins that keep what they were asked, by name."""

    def ledger_text(self) -> Iterator[tuple[str, str, Any]]:
        """Every cell of the ledger but keys of units and of target rows, and before-images: table, column, value."""
        allowed = {"unit", "target_key", "image"}
        if self.url:
            with psycopg.connect(self.url) as connection:
                tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'resettle'"
                for (table,) in connection.execute(tables).fetchall():
                    cursor = connection.execute(sql.SQL("SELECT * FROM resettle.{}").format(sql.Identifier(table)))
                    names = [one.name for one in cursor.description or ()]
                    for row in cursor:
                        yield from ((table, n, v) for n, v in zip(names, row, strict=True) if n not in allowed)
            return
        with closing(sqlite3.connect(self.ledger or "")) as database:
            for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                if not table.startswith(self.prefix):
                    continue
                cursor = database.execute(f'SELECT * FROM "{table}"')
                names = [one[0] for one in cursor.description]
                for row in cursor:
                    yield from ((table, n, v) for n, v in zip(names, row, strict=True) if n not in allowed)


def _stack(name: str) -> ModuleType:
    return module_at(MIGRATIONS / name / "sandbox" / "stack.py", alone="security ")


def _copy(name: str, folder: Path) -> Path:
    """The migration without what runs of it left, where a test may leave something."""
    root = folder / name
    shutil.copytree(MIGRATIONS / name, root, ignore=shutil.ignore_patterns(".resettle", "__pycache__", "sandbox"))
    return root


def _password(url: str) -> str:
    return url.partition("://")[2].partition("@")[0].partition(":")[2]


@contextmanager
def medzen(folder: Path, database: Callable[[], str]) -> Iterator[World]:
    stack, export, url = _stack("medzen"), folder / "export", database()
    stack.generator().generate(export, 40)
    for listing in export.glob("*/AWSDynamoDB/*/manifest-files.json"):
        entries = [json.loads(line) for line in listing.read_text().splitlines()]
        for entry in entries:
            path = listing.parent / "data" / Path(entry["dataFileS3Key"]).name
            lines = gzip.decompress(path.read_bytes()).decode().splitlines()
            data = gzip.compress("".join(_dynamo(line, n) + "\n" for n, line in enumerate(lines)).encode(), 1, mtime=0)
            path.write_bytes(data)
            entry["md5Checksum"] = _md5(data)
        listing.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        listing.with_name("manifest-files.md5").write_text(_md5(listing.read_bytes()))
    stack.prepare(url)
    variables = {"SUPABASE_DB_URL": url, "MEDZEN_EXPORT": str(export)}
    yield World("medzen", _copy("medzen", folder), variables, [_password(url)], url=url)


def _dynamo(line: str, number: int) -> str:
    try:
        item = json.loads(line)["Item"]
    except (ValueError, KeyError, TypeError):
        return line
    if number % 5 in (2, 4):
        return line
    keys, everywhere = {"id", "sessionId", "pk", "sk"}, number % 5 == 1
    texts = {name: value["S"] for name, value in item.items() if "S" in value and name not in keys}
    return json.dumps({"Item": item | {n: {"S": planted(text, everywhere=everywhere)} for n, text in texts.items()}})


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


@contextmanager
def mirubato(folder: Path, database: Callable[[], str]) -> Iterator[World]:
    stack = _stack("mirubato")
    with stack.stack(folder, entries=40) as variables:
        with closing(sqlite3.connect(variables["MIRUBATO_BACKEND_DB"])) as backend, backend:
            backend.row_factory = sqlite3.Row
            for table in ("logbook_entries", "goals", "practice_sessions"):
                for number, row in enumerate(backend.execute(f"SELECT * FROM {table}").fetchall()):
                    new = record(dict(row), number, {"id", "user_id"})
                    sets = ", ".join(f'"{name}" = ?' for name in new)
                    backend.execute(f"UPDATE OR IGNORE {table} SET {sets} WHERE id = ?", (*new.values(), row["id"]))
        root = _copy("mirubato", folder)
        yield World("mirubato", root, variables, ledger=Path(variables["MIRUBATO_API_DB"]), prefix="migration_")


@contextmanager
def lesson_assets(folder: Path, database: Callable[[], str]) -> Iterator[World]:
    stack, url = _stack("lesson-assets"), database()
    stack.prepare(url)
    stack.fill(url, 40)
    select = "SELECT id::text, title, note, videos::text, documents::text FROM lesson ORDER BY id"
    with psycopg.connect(url) as connection, connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        for number, row in enumerate(cursor.execute(select).fetchall()):
            new = (
                row
                if number % 3 == 1
                else {k: v if k == "id" else planted(v, everywhere=False) for k, v in row.items()}
            )
            update = "UPDATE lesson SET title = %(title)s, note = %(note)s, videos = %(videos)s::jsonb,"
            cursor.execute(f"{update} documents = %(documents)s::jsonb WHERE id = %(id)s::uuid", new)
    yield World("lesson-assets", _copy("lesson-assets", folder), {"DATABASE_URL": url}, [_password(url)], url=url)


@contextmanager
def omt(folder: Path, database: Callable[[], str]) -> Iterator[World]:
    stack, url = _stack("omt"), database()
    generate = stack.part("generate")
    with stack.start(folder, url) as running:
        stack.prepare(url)
        generate.fill_target(url)
        running.put(generate.generate(6, lost=True))
        stack.part("draft_languages").draft("local", running.languages, running.variables)
        running.approve({k: v for k, v in generate.APPROVED.items() if k != generate.BALOCHI})
        keys = {"id", "s3Key", "translationId", "audioFileId", "createdAt", "updatedAt", "book", "bookChapter"}
        for model in ("OmtTranslation", "OmtAudioFile", "OmtVerseTimestamps"):
            for number, item in enumerate(running.appsync.items(model)):
                running.appsync.data.put(model, record(item, number, keys))
        secrets = [_password(url), running.variables["OMT_API_KEY"]]
        services = {"appsync": running.appsync, "s3": running.s3, "r2": running.r2}
        yield World("omt", _copy("omt", folder), running.variables, secrets, url=url, services=services)


@contextmanager
def amplify(folder: Path, database: Callable[[], str]) -> Iterator[World]:
    stack = _stack("amplify-media-migrator")
    with stack.sandbox(folder, files=12) as made:
        for number, one in enumerate(made.drive.files.values()):
            if number % 4 == 0 and "parents" in one and not one["mimeType"].endswith("folder"):
                one["name"] = f"{token()} by Jane <{token()}@example.org>.jpg"
        keys = {"id", "createdAt", "updatedAt", "sequentialId", "country"}
        for number, item in enumerate(made.api.items("Observation")):
            made.api.data.put("Observation", record(item, number, keys))
        token_file = json.loads(Path(made.variables["GOOGLE_TOKEN"]).read_text())
        secrets = [made.variables["AMPLIFY_API_KEY"], *(str(token_file[k]) for k in ("refresh_token", "client_secret"))]
        services = {"drive": made.drive, "s3": made.store, "appsync": made.api}
        root, ledger = _copy("amplify-media-migrator", folder), Path(made.variables["LEDGER"])
        yield World("amplify-media-migrator", root, made.variables, secrets, ledger=ledger, services=services)


WORLDS = {"medzen": medzen, "mirubato": mirubato, "lesson-assets": lesson_assets, "omt": omt, "amplify": amplify}


@contextmanager
def world(name: str, folder: Path, database: Callable[[], str]) -> Iterator[World]:
    with ExitStack() as opened:
        yield opened.enter_context(WORLDS[name](folder, database))
