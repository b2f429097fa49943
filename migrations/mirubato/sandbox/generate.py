"""Made-up databases of the backend and the API: same arguments, same rows; every trap by name."""

import argparse
import base64
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
ENTRIES, GOALS, SESSIONS = "logbook_entries", "goals", "practice_sessions"
TYPE_OF = {ENTRIES: "logbook_entry", GOALS: "goal", SESSIONS: "practice_session"}
CHUNK = 50_000
FIRST_MINUTE, MINUTES = 28_401_120, 525_600  # 2024, in minutes since 1970
USER, STRANGER = "user_V1StGXR8_Z5jdHi6B-myT", "user_a7Kp2mQ9xL4nR8sT1vW3y"
"""The user of the messy records, and one whom the API does not know."""

PIECES = [
    "[]",
    '[{"id":"bach-bwv-846","title":"Prelude in C","composer":"J. S. Bach","measures":null,"tempo":null}]',
    '[{"id":"satie-1","title":"Gymnopédie No. 1"}]',
    '[{"id":"czerny-299-1","title":"Op. 299/1","composer":"Czerny","measures":"1-16","tempo":120},'
    '{"id":"giuliani-1","title":"Studio","composer":null,"measures":null,"tempo":null}]',
    '[{"title":"Für Elise"}]',
]
TECHNIQUES = ["[]", '["scales"]', '["scales","arpeggios"]', '["sight-reading"]']
TAGS = ["[]", '["evening"]', '["lesson","week-3"]', '["übung"]']
NOTES = [None, None, None, None, "Left hand slower", "Zweite Seite: Takt 17 noch unsauber"]
METADATA = [None, '{"source":"manual"}', '{"source":"midi","accuracy":95.5,"notesPlayed":412,"mistakeCount":19}']
MOODS = ["FRUSTRATED", "NEUTRAL", "SATISFIED", "EXCITED"]
DURATIONS = [600, 1200, 1800, 1800, 1800, 1800, 2400, 2700, 3300, 3600, 7200]
MILESTONES = [
    "[]",
    '[{"id":"m1","title":"First page","completed":true,"completedAt":"2024-05-01T10:00:00.000Z"}]',
    '[{"id":"m1","title":"Hands apart","completed":false},{"id":"m2","title":"Together","completed":false}]',
]


@dataclass(frozen=True)
class Messy:
    """One trap: a row of the source and what must become of it."""

    name: str
    table: str
    row: dict[str, Any]
    """Its columns; the rest as in `PLAIN`."""
    expect: dict[str, Any] = field(default_factory=dict)
    """Members of `data` as they must be."""
    held: str | None = None
    """The reason why it is held."""
    warned: str = ""
    deleted_at: str | None = None
    """What the target's deleted_at must be."""
    entity: tuple[str, str] | None = None
    """Its row in deleted_entities: entity_type, deleted_at."""

    @property
    def id(self) -> str:
        return f"messy_{self.name}"

    @property
    def user(self) -> str:
        return str(self.row.get("user_id", USER))

    def columns(self) -> dict[str, Any]:
        return {"id": self.id, "user_id": USER, **PLAIN[self.table], **self.row}


MS = 1_750_717_972_797
ISO = "2025-06-23T22:32:52.797Z"
PLAIN: dict[str, dict[str, Any]] = {
    ENTRIES: {
        "timestamp": MS,
        "duration": 1800,
        "type": "PRACTICE",
        "instrument": "PIANO",
        "pieces": "[]",
        "techniques": "[]",
        "goal_ids": "[]",
        "notes": None,
        "mood": "SATISFIED",
        "tags": "[]",
        "session_id": None,
        "metadata": None,
        "created_at": MS,
        "updated_at": MS,
        "deleted_at": None,
        "device_id": None,
    },
    GOALS: {
        "title": "Learn it",
        "description": None,
        "target_date": None,
        "progress": 0,
        "milestones": "[]",
        "status": "ACTIVE",
        "linked_entries": "[]",
        "created_at": MS,
        "updated_at": MS,
        "completed_at": None,
        "deleted_at": None,
        "device_id": None,
    },
    SESSIONS: {
        "instrument": "PIANO",
        "sheet_music_id": None,
        "session_type": "FREE_PRACTICE",
        "started_at": "2025-06-23 10:00:00",
        "completed_at": None,
        "paused_duration": 0,
        "accuracy_percentage": None,
        "notes_attempted": 0,
        "notes_correct": 0,
        "updated_at": "2025-06-23 10:00:00",
        "deleted_at": None,
        "device_id": None,
    },
}

MANUAL = {"source": "manual"}
ODD_TEXT = 'Quote " back\\slash, new\nline, \x1f, \x7f, \u2028, 🎹 e\u0301'

MESSY = (
    Messy(
        "every_member",
        ENTRIES,
        {
            "duration": 2700,
            "type": "LESSON",
            "instrument": "GUITAR",
            "pieces": PIECES[2],
            "techniques": TECHNIQUES[1],
            "goal_ids": '["goal_1750717972797_0suwq20o8"]',
            "notes": "Left hand slower",
            "mood": "EXCITED",
            "tags": TAGS[1],
            "session_id": "messy_every_session_member",
            "metadata": METADATA[2],
            "created_at": MS + 1000,
            "updated_at": MS + 2000,
        },
        {"sessionId": "messy_every_session_member"},
    ),
    Messy(
        "every_goal_member",
        GOALS,
        {
            "title": "Bach",
            "description": "By heart",
            "target_date": MS + 3000,
            "progress": 12.5,
            "milestones": MILESTONES[1],
            "status": "COMPLETED",
            "linked_entries": '["messy_every_member"]',
            "created_at": MS + 1000,
            "updated_at": MS + 2000,
            "completed_at": MS + 4000,
        },
        {"description": "By heart"},
    ),
    Messy(
        "every_session_member",
        SESSIONS,
        {
            "instrument": "GUITAR",
            "sheet_music_id": "score_7",
            "session_type": "ASSESSMENT",
            "completed_at": "2025-06-23 10:30:00",
            "paused_duration": 45,
            "accuracy_percentage": 94.25,
            "notes_attempted": 400,
            "notes_correct": 377,
        },
        {"sheetMusicId": "score_7"},
    ),
    Messy("time_in_seconds", ENTRIES, {"timestamp": 1_750_717_972}, {"timestamp": "2025-06-23T22:32:52.000Z"}),
    Messy("time_in_milliseconds", ENTRIES, {"timestamp": MS}, {"timestamp": ISO}),
    Messy("time_as_text", ENTRIES, {"timestamp": "1750717972797"}, {"timestamp": ISO}),
    Messy("time_with_fraction", ENTRIES, {"timestamp": 1750717972797.5}, {"timestamp": ISO}),
    Messy(
        "time_as_sql_text",
        ENTRIES,
        {"created_at": "2025-06-24 04:06:52", "updated_at": "2025-06-03T04:54:21.310Z"},
        {"createdAt": "2025-06-24T04:06:52.000Z", "updatedAt": "2025-06-03T04:54:21.310Z"},
    ),
    Messy("time_with_zone", ENTRIES, {"timestamp": "2025-06-23T17:32:52.797-05:00"}, {"timestamp": ISO}),
    Messy("time_is_a_word", ENTRIES, {"created_at": "yesterday"}, held="unreadable_time"),
    Messy("time_is_zero", ENTRIES, {"timestamp": 0}, held="unreadable_time"),
    Messy("metadata_missing", ENTRIES, {"metadata": None}, {"metadata": MANUAL}),
    Messy("metadata_empty", ENTRIES, {"metadata": ""}, {"metadata": MANUAL}),
    Messy("metadata_json_null", ENTRIES, {"metadata": "null"}, {"metadata": MANUAL}),
    Messy("metadata_set_to_nothing", ENTRIES, {"metadata": "{}"}, {"metadata": {}}),
    Messy(
        "metadata_with_numbers",
        ENTRIES,
        {"metadata": '{"source": "midi", "accuracy": 95.50, "notesPlayed": 100.0, "tiny": 1e-7, "large": 1E+21}'},
        {"metadata": {"source": "midi", "accuracy": 95.5, "notesPlayed": 100, "tiny": 1e-7, "large": 1e21}},
    ),
    Messy(
        "metadata_with_odd_keys",
        ENTRIES,
        {"metadata": '{"\ufb01":1,"😀":2,"10":3,"9":4,"b":{"z":1,"a":2},"b":{"y":1,"x":2}}'},
        {"metadata": {"\ufb01": 1, "😀": 2, "10": 3, "9": 4, "b": {"y": 1, "x": 2}}},
    ),
    Messy(
        "lists_missing",
        ENTRIES,
        {"pieces": None, "techniques": "", "goal_ids": "null", "tags": " [ ] "},
        {"pieces": [], "techniques": [], "goalIds": [], "tags": []},
    ),
    Messy(
        "lists_as_json_strings",
        ENTRIES,
        {"pieces": json.dumps(PIECES[1]), "techniques": json.dumps(json.dumps(TECHNIQUES[2])), "tags": '""'},
        {"pieces": json.loads(PIECES[1]), "techniques": ["scales", "arpeggios"], "tags": []},
    ),
    Messy("pieces_cut_off", ENTRIES, {"pieces": '[{"id":"bach-bwv-846","title":"Prel'}, held="malformed_pieces"),
    Messy("techniques_not_a_list", ENTRIES, {"techniques": '{"scales":true}'}, held="malformed_techniques"),
    Messy("goal_ids_plain_text", ENTRIES, {"goal_ids": "goal_1, goal_2"}, held="malformed_goal_ids"),
    Messy("tags_with_comma", ENTRIES, {"tags": '["evening",]'}, held="malformed_tags"),
    Messy("metadata_a_list", ENTRIES, {"metadata": "[1]"}, held="malformed_metadata"),
    Messy("metadata_rounded", ENTRIES, {"metadata": '{"accuracy":0.10000000000000000001}'}, held="malformed_metadata"),
    Messy(
        "deleted_in_its_row",
        ENTRIES,
        {"deleted_at": "2025-07-01 08:00:00"},
        {"timestamp": ISO},
        deleted_at="2025-07-01T08:00:00.000Z",
    ),
    Messy(
        "deleted_beside",
        ENTRIES,
        {},
        {"timestamp": ISO},
        deleted_at="2025-07-02T09:30:00.000Z",
        entity=("logbookEntry", "2025-07-02 09:30:00"),
    ),
    Messy(
        "deleted_beside_and_zero",
        ENTRIES,
        {"deleted_at": 0},
        {"timestamp": ISO},
        deleted_at="2025-07-02T09:30:00.000Z",
        entity=("logbook_entry", "2025-07-02 09:30:00"),
    ),
    Messy("deleted_zero", ENTRIES, {"deleted_at": 0}, {"timestamp": ISO}),
    Messy(
        "deleted_twice",
        ENTRIES,
        {"deleted_at": "2025-07-01 08:00:00"},
        {"timestamp": ISO},
        deleted_at="2025-07-01T08:00:00.000Z",
        entity=("logbook_entry", "2025-07-02 09:30:00"),
    ),
    Messy("owner_unknown", ENTRIES, {"user_id": STRANGER}, held="foreign_key"),
    Messy("duration_89", ENTRIES, {"duration": 89}, {"duration": 89}),
    Messy("duration_3300", ENTRIES, {"duration": 3300}, {"duration": 3300}),
    Messy("duration_30", ENTRIES, {"duration": 30}, {"duration": 30}, warned="duration_may_be_minutes"),
    Messy("duration_29", ENTRIES, {"duration": 29}, {"duration": 29}, warned="duration_may_be_minutes"),
    Messy("duration_half", ENTRIES, {"duration": 90.5}, {"duration": 90.5}),
    Messy("duration_huge", ENTRIES, {"duration": 3_300_000}, {"duration": 3_300_000}, warned="duration_over_a_day"),
    Messy("duration_text", ENTRIES, {"duration": "half an hour"}, held="unreadable_number"),
    Messy("word_in_lower_case", ENTRIES, {"type": "practice"}, {"type": "practice", "instrument": "PIANO"}),
    Messy("words_missing", ENTRIES, {"mood": None, "notes": ""}, {"mood": None, "notes": "", "sessionId": None}),
    Messy("odd_text", ENTRIES, {"notes": ODD_TEXT}, {"notes": ODD_TEXT}),
    Messy("twin_first", ENTRIES, {"timestamp": MS + 1}, {"duration": 1800}),
    Messy("twin_second", ENTRIES, {"timestamp": MS + 1}, {"duration": 1800}),
    Messy("target_date_text", GOALS, {"target_date": "2025-07-23"}, {"targetDate": "2025-07-23T00:00:00.000Z"}),
    Messy("target_date_number", GOALS, {"target_date": MS}, {"targetDate": ISO}),
    Messy("target_date_zero", GOALS, {"target_date": 0}, {"targetDate": None}),
    Messy("target_date_word", GOALS, {"target_date": "next summer"}, held="unreadable_time"),
    Messy("progress_real", GOALS, {"progress": 95.5}, {"progress": 95.5}),
    Messy("progress_tenth", GOALS, {"progress": 0.1}, {"progress": 0.1}),
    Messy("progress_whole", GOALS, {"progress": 100.0}, {"progress": 100}),
    Messy("progress_missing", GOALS, {"progress": None}, {"progress": 0}),
    Messy("status_missing", GOALS, {"status": None}, {"status": "ACTIVE"}),
    Messy("status_paused", GOALS, {"status": "PAUSED", "description": ""}, {"status": "PAUSED", "description": ""}),
    Messy(
        "staging_goal",
        GOALS,
        {
            "created_at": "2025-06-24 04:06:52",
            "updated_at": "2025-06-24 04:06:52",
            "linked_entries": '["test-entry-1"]',
        },
        {"createdAt": "2025-06-24T04:06:52.000Z", "linkedEntries": ["test-entry-1"], "milestones": []},
    ),
    Messy("milestones_cut_off", GOALS, {"milestones": '[{"id":"m1"'}, held="malformed_milestones"),
    Messy("goal_deleted", GOALS, {"deleted_at": "2025-07-01T08:00:00.123Z"}, deleted_at="2025-07-01T08:00:00.123Z"),
    Messy(
        "goal_deleted_beside_and_zero",
        GOALS,
        {"deleted_at": 0},
        deleted_at="2025-07-02T09:30:00.000Z",
        entity=("goal", "2025-07-02 09:30:00"),
    ),
    Messy(
        "session_sql_text",
        SESSIONS,
        {"started_at": "2025-06-23 10:00:00", "completed_at": "2025-06-23T10:30:00.500Z"},
        {"startedAt": "2025-06-23T10:00:00.000Z", "completedAt": "2025-06-23T10:30:00.500Z"},
    ),
    Messy("accuracy_zero", SESSIONS, {"accuracy_percentage": 0.0}, {"accuracyPercentage": 0}),
    Messy("accuracy_missing", SESSIONS, {"accuracy_percentage": None}, {"accuracyPercentage": None}),
    Messy("accuracy_real", SESSIONS, {"accuracy_percentage": 87.25}, {"accuracyPercentage": 87.25}),
    Messy("counts_missing", SESSIONS, {"notes_attempted": None}, {"notesAttempted": 0, "completedAt": None}),
    Messy(
        "session_deleted_beside",
        SESSIONS,
        {},
        deleted_at="2025-07-03T00:00:00.000Z",
        entity=("practice_session", "2025-07-03T00:00:00Z"),
    ),
    Messy(
        "session_deleted_beside_and_zero",
        SESSIONS,
        {"deleted_at": 0},
        deleted_at="2025-07-03T00:00:00.000Z",
        entity=("practice_session", "2025-07-03T00:00:00Z"),
    ),
)


def generate(backend: Path, api: Path, entries: int, *, messy: bool = True) -> None:
    """Make the backend's database with ``entries`` logbook entries (a twentieth as many goals, a tenth as many
    sessions) and the API's with its users; one database with both when the paths are the same."""
    users = [f"user_{nanoid('user', number)}" for number in range(max(3, entries // 200))]
    with closing(database(backend, "backend.sql")) as source, source:
        _insert(source, "users", _users([*users, USER, *([] if backend == api else [STRANGER])]))
        for start in range(0, entries, CHUNK):
            _insert(source, ENTRIES, _entries(users, start, min(entries, start + CHUNK)))
        _insert(source, GOALS, _goals(users, entries // 20))
        _insert(source, SESSIONS, _sessions(users, entries // 10))
        for trap in MESSY if messy else ():
            _insert(source, trap.table, [trap.columns()])
            if trap.entity:
                kind, when = trap.entity
                row = {"id": f"deleted_{trap.id}", "user_id": USER, "entity_type": kind, "entity_id": trap.id}
                _insert(source, "deleted_entities", [row | {"deleted_at": when}])
    with closing(database(api, "schema.sql")) as target, target:
        if backend != api:
            _insert(target, "users", ({k: u[k] for k in ("id", "email")} for u in _users([*users, USER])))


def database(path: Path, *scripts: str) -> sqlite3.Connection:
    """The database with these scripts run in it. It is made anew in no time, so nothing is synced."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA synchronous = OFF")
    for script in scripts:
        connection.executescript((HERE / script).read_text("utf-8"))
    return connection


def nanoid(kind: str, number: int) -> str:
    """21 characters of [A-Za-z0-9_-], always the same for the same two."""
    return base64.urlsafe_b64encode(hashlib.sha256(f"{kind}/{number}".encode()).digest())[:21].decode()


def entry_id(number: int, milliseconds: int) -> str:
    """As the app has made them over time."""
    match number % 5:
        case 0:
            return nanoid("entry", number)
        case 1:
            digits = hashlib.sha256(f"uuid/{number}".encode()).hexdigest()
            return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:32]}"
    return f"entry_{milliseconds}_{number * 2654435761 % 16**9:09x}"


def _insert(connection: sqlite3.Connection, table: str, rows: Iterable[dict[str, Any]]) -> None:
    rows = iter(rows)
    if (first := next(rows, None)) is None:
        return
    sql = f"INSERT INTO {table} ({', '.join(first)}) VALUES ({', '.join('?' * len(first))})"
    connection.execute(sql, tuple(first.values()))
    connection.executemany(sql, (tuple(row.values()) for row in rows))


def _users(ids: Iterable[str]) -> Iterator[dict[str, Any]]:
    for number, user in enumerate(ids):
        created = "2025-06-03T04:54:21.310Z" if number % 2 else "2025-06-24 04:06:52"
        yield {"id": user, "email": f"{user}@example.com", "created_at": created}


def _entries(users: list[str], start: int, stop: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng([1, start])
    count = stop - start
    minutes = (FIRST_MINUTE + rng.integers(0, MINUTES, count)).tolist()
    sizes = (len(users), len(DURATIONS), len(PIECES), len(TECHNIQUES), len(NOTES), len(MOODS), len(TAGS), len(METADATA))
    picks = zip(*(rng.integers(0, size, count).tolist() for size in sizes), strict=True)
    for number, (minute, pick) in enumerate(zip(minutes, picks, strict=True), start):
        ms = minute * 60_000
        yield {
            "id": entry_id(number, ms),
            "user_id": users[pick[0]],
            "timestamp": ms,
            "duration": DURATIONS[pick[1]],
            "type": "PRACTICE" if number % 9 else "LESSON",
            "instrument": "GUITAR" if pick[0] % 4 == 0 else "PIANO",
            "pieces": PIECES[pick[2]],
            "techniques": TECHNIQUES[pick[3]],
            "goal_ids": "[]",
            "notes": NOTES[pick[4]],
            "mood": MOODS[pick[5]],
            "tags": TAGS[pick[6]],
            "metadata": METADATA[pick[7]],
            "created_at": ms + 61_000,
            "updated_at": ms + 61_000,
            "device_id": f"device_{users[pick[0]][5:]}",
        }


def _goals(users: list[str], count: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(2)
    for number in range(count):
        ms = (FIRST_MINUTE + int(rng.integers(0, MINUTES))) * 60_000
        done = number % 5 == 0
        yield {
            "id": f"goal_{ms}_{number:09d}",
            "user_id": users[number % len(users)],
            "title": f"Piece number {number}",
            "target_date": ms + 2_592_000_000 if number % 3 else None,
            "progress": 100 if done else round(float(rng.random() * 100), 1),
            "milestones": MILESTONES[number % len(MILESTONES)],
            "status": "COMPLETED" if done else "ACTIVE",
            "created_at": ms,
            "updated_at": ms + 1000,
            "completed_at": ms + 1000 if done else None,
        }


def _sessions(users: list[str], count: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(3)
    for number in range(count):
        day = np.datetime64("2024-01-01") + int(rng.integers(0, 365))
        yield {
            "id": nanoid("session", number),
            "user_id": users[number % len(users)],
            "instrument": "PIANO",
            "sheet_music_id": f"score_{number % 40}" if number % 2 else None,
            "session_type": ("FREE_PRACTICE", "GUIDED_PRACTICE", "ASSESSMENT")[number % 3],
            "started_at": f"{day} 17:05:00",
            "completed_at": f"{day} 17:35:30" if number % 4 else None,
            "accuracy_percentage": round(float(rng.random() * 100), 2) if number % 3 else None,
            "notes_attempted": 400,
            "notes_correct": 377,
        }


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("backend", type=Path)
    arguments.add_argument("api", type=Path)
    arguments.add_argument("--entries", type=int, default=2_000)
    chosen = arguments.parse_args()
    generate(chosen.backend, chosen.api, chosen.entries)
