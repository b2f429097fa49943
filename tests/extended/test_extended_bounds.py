"""Bounds: what resettle is asked to move may be large; the memory it takes is not, and what it says stays readable.

Each command is a process of its own, whose largest resident set has a cap. `RESETTLE_BOUNDS=0.01` runs a hundredth.
"""

from __future__ import annotations

import csv
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from resettle.sandbox.drive import start_drive
from resettle.sandbox.postgres import start_postgres
from tests.extended import large
from tests.extended.bounds import resettle, scaled, write_lines
from tests.extended.endless import Endless, Made, Written, endless, whole_md5

pytestmark = [pytest.mark.extended, pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")]


# -- a million held records ------------------------------------------------------------------------

HELD = scaled(1_000_000)
READABLE = 80
"""Lines that somebody reads to the end."""
QUICK = 60.0
"""Seconds that a command may take that only tells of held records."""
BAD: tuple[dict[str, Any], ...] = ({"age": "many"}, {"born": "yesterday"}, {"name": None}, {"state": "lost"}, {"id": 0})
GOOD = {"name": "Anna", "age": "30", "born": "1996-02-29", "state": "open"}
PEOPLE = """
migration: people
connections:
  src: {type: files, path: data}
  app: {type: sqlite, path: app.sqlite}
flows:
  people:
    from: src.people
    unit: id
    into: app.people
    hold: {unknown_state: "state <> 'open'"}
    columns: {id: id, name: name, age: CAST(age AS INTEGER), born: CAST(born AS DATE), state: state}
"""
PEOPLE_TABLE = """
CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT NOT NULL, age INTEGER, born TEXT, state TEXT, CHECK (id <> '0'))
"""


def people(count: int, *, bad: bool) -> Iterator[Mapping[str, Any]]:
    for number in range(count):
        wrong = BAD[number % 4] if bad else {}
        yield {"id": f"person-{number:09}", **GOOD, **wrong}


@pytest.fixture
def held(tmp_path: Path) -> Path:
    (tmp_path / "migration.yaml").write_text(PEOPLE)
    with sqlite3.connect(tmp_path / "app.sqlite") as database:
        database.execute(PEOPLE_TABLE)
    return tmp_path


def test_a_million_held_records_are_told_in_few_lines_and_replayed(held: Path) -> None:
    data = held / "data" / "people.jsonl"
    write_lines(data, people(HELD, bad=True))
    for _ in range(2):  # the second time none is even decoded
        told = resettle(held, "apply", cap=500, code=3)
        assert len(told.lines) < READABLE
    (left, *_) = sorted((held / ".resettle").glob("failed_*.json"))
    with left.open() as file:
        assert sum(1 for _ in file) == HELD + 2
    reasons = Counter({"cast": 2 * HELD // 4, "null": HELD // 4, "unknown_state": HELD // 4})
    for command in (["held", "list"], ["status"], ["runs"], ["verify"], ["held", "show", "person-000000001"]):
        told = resettle(held, *command, cap=500 if command == ["verify"] else 300)
        assert len(told.lines) < READABLE, command
        assert told.seconds < QUICK, command
    listed = resettle(held, "held", "list", "--json", cap=300).json
    assert {one["reason"]: one["count"] for one in listed["counts"]} == reasons
    assert {one["reason"] for one in listed["held"]} == set(reasons)
    told = resettle(held, "held", "export", str(held / "held.csv"), cap=300)
    assert told.seconds < QUICK
    with (held / "held.csv").open() as file:
        assert Counter(row["reason"] for row in csv.DictReader(file)) == reasons
    told = resettle(held, "export", "--status", "held", "--output", str(held / "held.json"), cap=300)
    assert told.seconds < QUICK
    write_lines(data, people(HELD, bad=False))
    replayed = resettle(held, "held", "replay", "--json", cap=700).json
    assert replayed["flows"][0]["done"] == HELD
    assert resettle(held, "verify", "--json", cap=500).json["verified"]


# -- items of 400 KB -------------------------------------------------------------------------------

ITEMS = scaled(2_000)
LARGEST_ITEM = 400 * 1024
"""DynamoDB's own limit, names and values together."""
NOTES = """
migration: notes
connections:
  src: {{type: dynamodb, {source}}}
  app: {{type: sqlite, path: app.sqlite}}
flows:
  notes:
    from: src.notes
    unit: id
    into: app.notes
    columns: {{id: id, body: body, tags: tags}}
"""
NOTES_TABLE = "CREATE TABLE notes (id TEXT PRIMARY KEY, body TEXT NOT NULL, tags JSON)"


@pytest.fixture(params=["export", "live"])
def notes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with sqlite3.connect(tmp_path / "app.sqlite") as database:
        database.execute(NOTES_TABLE)
    if request.param == "export":
        large.export(tmp_path / "export", "notes", large.items(ITEMS, LARGEST_ITEM), ITEMS)
        (tmp_path / "migration.yaml").write_text(NOTES.format(source="export: export"))
        yield tmp_path
        return
    with large.dynamodb("notes", ITEMS, LARGEST_ITEM) as url:
        keys = "access_key_id: here, secret_access_key: here, region: us-east-1"
        (tmp_path / "migration.yaml").write_text(NOTES.format(source=f'endpoint_url: "{url}", {keys}'))
        yield tmp_path


def test_items_of_400_kb_take_no_more_memory_however_many_there_are(notes: Path) -> None:
    """A batch ends by its bytes: 20,000 such items would be 8 GB."""
    assert resettle(notes, "apply", "--json", cap=700).json["flows"][0]["done"] == ITEMS
    assert resettle(notes, "apply", "--json", cap=700).json["flows"][0]["unchanged"] == ITEMS
    assert resettle(notes, "verify", "--json", cap=700).json["verified"]
    with sqlite3.connect(notes / "app.sqlite") as database:
        sizes = database.execute("SELECT min(length(body)), max(length(body)), count(DISTINCT body) FROM notes")
        assert sizes.fetchone() == (*[len(large.body(0, LARGEST_ITEM))] * 2, ITEMS)


# -- a file of 5 GB --------------------------------------------------------------------------------

LARGEST_FILE = max(scaled(5_000_000_000), 200_000_000)
"""Bytes; what has less than 100 MiB may go in one request."""
COPY = """
migration: copy
connections:
  old: {old}
  new: {{type: s3, bucket: new, endpoint: "{url}", access_key: here, secret_key: here}}
  ledger: {{type: sqlite, path: ledger.sqlite, create: true}}
ledger: {{connection: ledger}}
flows:
  files:
    from: {dataset}
    unit: {key}
    outputs:
      object: {{into: new.objects, body: {key}, columns: {{key: "{name}", size: size}}}}
"""
OLD = 'type: s3, bucket: old, endpoint: "{url}", access_key: here, secret_key: here, readonly: true'


def copying(folder: Path, store: Endless, name: str = "'audio/' || key") -> None:
    """A migration of all objects from `old` to `new`, where each has this ``name``."""
    old = "{" + OLD.format(url=store.url) + "}"
    text = COPY.format(old=old, url=store.url, dataset="old.objects", key="key", name=name)
    (folder / "migration.yaml").write_text(text)


def check_upload(found: Written) -> None:
    """The bytes are those of the source, in parts of one size but for the last."""
    assert (found.size, found.md5) == (LARGEST_FILE, whole_md5(LARGEST_FILE))
    assert len(set(found.parts[:-1])) == 1
    assert found.parts[-1] <= found.parts[0]


def test_a_file_of_5_gb_is_copied_in_parts_in_little_memory(tmp_path: Path) -> None:
    with endless(["film.mp4"], LARGEST_FILE) as store:
        copying(tmp_path, store)
        told = resettle(tmp_path, "apply", "--json", cap=300)
        assert told.json["flows"][0]["done"] == 1
        check_upload(store.written["new/audio/film.mp4"])


def test_a_file_of_5_gb_comes_from_drive_in_little_memory(tmp_path: Path) -> None:
    with start_drive() as drive, endless([], 0) as store:
        drive.file("film.mp4", body=LARGEST_FILE)
        token = drive.token_file(tmp_path / "token")
        old = f'{{type: google_drive, folder: root, token: "{token}", url: "{drive.api}"}}'
        text = COPY.format(old=old, url=store.url, dataset="old.files", key="id", name="'audio/' || name")
        (tmp_path / "migration.yaml").write_text(text)
        told = resettle(tmp_path, "apply", "--json", cap=300)
        assert told.json["flows"][0]["done"] == 1
        check_upload(store.written["new/audio/film.mp4"])


# -- a listing of a million files ------------------------------------------------------------------

FILES = scaled(1_000_000)
PAGES = 1 / 250
"""Requests for each file that a plan may take: a page holds 1,000, and folders are looked for besides."""
LISTED = """
migration: listed
connections:
  old: {{{old}}}
  app: {{type: sqlite, path: app.sqlite}}
flows:
  files:
    from: old.objects
    unit: key
    into: app.files
    columns: {{id: key, size: size, md5: md5, changed: last_modified}}
"""
FILES_TABLE = "CREATE TABLE files (id TEXT PRIMARY KEY, size INTEGER NOT NULL, md5 TEXT, changed TEXT)"


def test_a_listing_of_a_million_files_becomes_rows(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "app.sqlite") as database:
        database.execute(FILES_TABLE)
    with endless(Made(FILES), 1_000) as store:
        (tmp_path / "migration.yaml").write_text(LISTED.format(old=OLD.format(url=store.url)))
        assert resettle(tmp_path, "apply", "--json", cap=500).json["flows"][0]["done"] == FILES
        assert resettle(tmp_path, "apply", "--json", cap=500).json["flows"][0]["unchanged"] == FILES


def test_a_copy_of_a_million_files_is_planned(tmp_path: Path) -> None:
    with endless(Made(FILES), 1_000) as store:
        copying(tmp_path, store)
        rows = resettle(tmp_path, "plan", "--json", cap=500).json["flows"][0]["rows"]["object"]
        assert rows == {"copy": FILES}
    assert store.asked < PAGES * FILES


def test_a_million_files_that_are_there_are_planned_from_one_listing_of_each_side(tmp_path: Path) -> None:
    with endless(Made(FILES), 1_000, "new") as store:
        copying(tmp_path, store, "key")
        rows = resettle(tmp_path, "plan", "--json", cap=600).json["flows"][0]["rows"]["object"]
        assert rows == {"reuse": FILES}
    assert store.asked < PAGES * FILES


# -- ten million records ---------------------------------------------------------------------------

RECORDS = scaled(10_000_000)
MANY = """
migration: many
connections:
  src: {type: files, path: data}
  app: {type: postgres, url: "${DATABASE_URL}"}
flows:
  events:
    from: src.events
    unit: id
    into: app.events
    columns: {id: id, seen: instant(seen), kind: kind, amount: CAST(amount AS BIGINT)}
"""
EVENTS_TABLE = """
CREATE TABLE events (id TEXT PRIMARY KEY, seen TIMESTAMPTZ NOT NULL, kind TEXT NOT NULL, amount BIGINT)
"""


def events(first: int, last: int) -> Iterator[Mapping[str, Any]]:
    for number in range(first, last):
        at = f"2026-01-{number % 28 + 1:02}T12:00:{number % 60:02}Z"
        yield {"id": f"event-{number:010}", "seen": at, "kind": f"kind {number % 7}", "amount": number % 1000}


def test_ten_million_records_arrive_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in range(4):
        first, last = RECORDS * part // 4, RECORDS * (part + 1) // 4
        write_lines(tmp_path / "data" / "events" / f"part{part}.jsonl", events(first, last))
    (tmp_path / "migration.yaml").write_text(MANY)
    with start_postgres() as server:
        monkeypatch.setenv("DATABASE_URL", server.url)
        with psycopg.connect(server.url) as connection:
            connection.execute(EVENTS_TABLE)
        assert resettle(tmp_path, "plan", "--json", cap=600).json["writes"] == RECORDS
        assert resettle(tmp_path, "apply", "--json", cap=500).json["flows"][0]["done"] == RECORDS
        assert resettle(tmp_path, "apply", "--json", cap=500).json["flows"][0]["unchanged"] == RECORDS
        said = resettle(tmp_path, "verify", "--json", cap=500).json
        assert (said["verified"], said["flows"][0]["by_digest"]) == (True, RECORDS)
