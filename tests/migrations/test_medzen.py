"""medzen from end to end: made-up exports of its three tables into the schema that Supabase has.

Every trap of `generate.MESSY` becomes what it says it does.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

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
from resettle.mapping.load import load
from resettle.sandbox.module import module_at
from resettle.sandbox.postgres import supabase_roles

FOLDER = Path(__file__).parents[2] / "migrations" / "medzen"
FIRST = datetime(2026, 1, 5, 8, 0, 0, 250_000, tzinfo=UTC)
"""The start of the first run."""
LATER = datetime(2026, 1, 6, 8, 0, tzinfo=UTC)
TABLES = {
    "medzen-video-sessions": "video_call_sessions",
    "medzen-soap-notes": "clinical_notes",
    "medzen-meeting-audit": "video_call_audit_log",
}
SESSIONS = 200


generate = module_at(FOLDER / "sandbox" / "generate.py")
MESSY: dict[str, Any] = {messy.name: messy for messy in generate.MESSY}


class Medzen:
    """The migration with some export and some database."""

    def __init__(self, export: Path, url: str, *, folder: Path = FOLDER, **variables: str) -> None:
        self.url = url
        self.migration = load(folder, "local", {"MEDZEN_EXPORT": str(export), "SUPABASE_DB_URL": url, **variables})

    def plan(self, now: datetime = FIRST) -> Plan:
        with Connections(self.migration) as connections:
            return plan_migration(self.migration, connections, connections.ledger(), Options(), now)

    def apply(self, now: datetime = FIRST, **options: Any) -> Applied:
        with Connections(self.migration) as connections:
            return apply_migration(self.migration, connections, connections.ledger(), Options(**options), now)

    def verify(self, now: datetime = LATER) -> Verified:
        with Connections(self.migration) as connections:
            return verify_migration(self.migration, connections, connections.ledger(), Options(), now)

    def rows(self, table: str) -> dict[str, dict[str, Any]]:
        """Rows by id, documents as text."""
        with psycopg.connect(self.url) as connection, connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            found = cursor.execute(f"SELECT to_jsonb(t)::text AS row, * FROM {table} t").fetchall()
        return {str(row["id"]): row | {"row": json.loads(row["row"], parse_float=Decimal)} for row in found}

    def versions(self) -> dict[str, dict[str, str]]:
        """The transaction that last wrote each row of data."""
        with psycopg.connect(self.url) as connection:
            return {
                table: dict(connection.execute(f"SELECT id::text, xmin::text FROM {table}").fetchall())
                for table in TABLES.values()
            }

    def units(self, status: str) -> dict[str, dict[str, Any]]:
        with Connections(self.migration) as connections:
            return {row["unit"]: row for row in connections.ledger().units(status)}


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("medzen") / "export"
    generate.generate(folder, SESSIONS)
    return folder


@pytest.fixture(scope="module")
def server(postgres_url: str) -> Iterator[Callable[[], str]]:
    """Makes databases that live as long as this module."""
    made: list[str] = []

    def create() -> str:
        made.append(f"resettle_medzen_{len(made)}_{id(made)}")
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {made[-1]}")
        return f"{postgres_url.rpartition('/')[0]}/{made[-1]}"

    yield create
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for name in made:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def supabase(server: Callable[[], str]) -> Callable[[], str]:
    """Makes databases as Supabase has them, with medzen's empty tables."""

    def create() -> str:
        url = server()
        supabase_roles(url)
        with psycopg.connect(url) as connection:
            connection.execute((FOLDER / "sandbox" / "schema.sql").read_text())
        return url

    return create


@pytest.fixture(scope="module")
def run(export: Path, supabase: Callable[[], str]) -> tuple[Medzen, Plan, Applied]:
    """medzen planned, then applied once."""
    medzen = Medzen(export, supabase())
    return medzen, medzen.plan(), medzen.apply()


@pytest.fixture
def medzen(run: tuple[Medzen, Plan, Applied]) -> Medzen:
    return run[0]


def unit_of(messy: Any) -> str:
    """The unit key of a messy item, as the declaration makes it."""
    item = messy.item
    return item["id"]["S"] + ("/" + item["timestamp"]["N"] if "timestamp" in item else "")


def instant(value: Any) -> Any:
    if value == generate.MIGRATION_TIME:
        return FIRST
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return value


@pytest.mark.parametrize("name", [n for n, m in MESSY.items() if m.outcome == "done" and n != "audit_twin_second"])
def test_a_messy_record_arrives_as_it_should(medzen: Medzen, name: str) -> None:
    messy = MESSY[name]
    row = medzen.rows(TABLES[messy.table])[messy.item["id"]["S"]]
    for column, value in messy.expect.items():
        found = row[column] if isinstance(row[column], datetime) else row["row"][column]
        assert found == (instant(value) if isinstance(row[column], datetime) else value), column


@pytest.mark.parametrize("name", [n for n, m in MESSY.items() if m.outcome == "held"])
def test_a_messy_record_that_cannot_arrive_is_held_with_its_reason(medzen: Medzen, name: str) -> None:
    messy = MESSY[name]
    assert medzen.units("held")[unit_of(messy)]["reason"] == messy.expect["reason"]
    assert messy.item["id"]["S"] not in medzen.rows(TABLES[messy.table])


def test_the_reason_names_the_column_and_never_the_value(medzen: Medzen) -> None:
    detail = medzen.units("held")[unit_of(MESSY["appointment_not_a_uuid"])]["detail"]
    assert "video_call_sessions.appointment_id" in detail
    assert "appt-17" not in detail


def derived_id(medzen: Medzen, *parts: str) -> str:
    return str(uuid5(UUID(medzen.migration.variables["namespace"]), "/".join(parts)))


def test_two_events_with_one_id_both_arrive(medzen: Medzen) -> None:
    first, second = MESSY["audit_twin_first"], MESSY["audit_twin_second"]
    times = [row["created_at"] for row in medzen.rows("video_call_audit_log").values()]
    assert instant(first.expect["created_at"]) in times
    assert times.count(instant(second.expect["created_at"])) == 1
    with Connections(medzen.migration) as connections:
        (kept,), (derived,) = (connections.ledger().trace(unit_of(messy)) for messy in (first, second))
    assert kept["target_key"] == first.item["id"]["S"]
    assert derived["target_key"] == derived_id(medzen, first.item["id"]["S"], second.item["timestamp"]["N"])


def test_what_is_odd_but_kept_is_warned_of(medzen: Medzen) -> None:
    warned = {unit: row["warnings"] for unit, row in medzen.units("done").items()}
    assert warned[unit_of(MESSY["meeting_id_malformed"])] == "malformed_meeting_id"
    assert warned[unit_of(MESSY["soap_array"])] == "soap_unstructured"
    assert warned[unit_of(MESSY["soap_text"])] == "soap_unstructured"
    assert warned[unit_of(MESSY["soap_more_members"])] == "soap_other_members"
    assert warned[unit_of(MESSY["soap_sets"])] == "soap_other_members"
    assert warned.get(unit_of(MESSY["soap_blank_complaint"])) is None
    assert warned[unit_of(MESSY["event_unlisted"])] == "unlisted_event_type"


def test_unstructured_notes_are_kept_whole(medzen: Medzen) -> None:
    notes = medzen.rows("clinical_notes")
    assert notes[MESSY["soap_text"].item["id"]["S"]]["row"]["subjective"] == "text"
    assert notes[MESSY["soap_array"].item["id"]["S"]]["row"]["subjective"] == []


def test_nothing_is_lost_or_doubled(run: tuple[Medzen, Plan, Applied]) -> None:
    medzen, _, applied = run
    for counts, (source, table) in zip(applied.counts, TABLES.items(), strict=True):
        messy = [m for m in MESSY.values() if m.table == source]
        held = sum(m.outcome == "held" for m in messy)
        assert counts.units["held"] == held
        assert counts.units["done"] == counts.read - held == len(medzen.rows(table))
    assert [counts.read for counts in applied.counts][::2] == [
        SESSIONS + sum(m.table == "medzen-video-sessions" for m in MESSY.values()),
        3 * SESSIONS + sum(m.table == "medzen-meeting-audit" for m in MESSY.values()),
    ]


def test_the_plan_counted_what_the_apply_did(run: tuple[Medzen, Plan, Applied]) -> None:
    _, planned, applied = run
    assert [counts.as_json() for counts in planned.counts] == [counts.as_json() for counts in applied.counts]


def test_verify_finds_nothing_to_complain_of(medzen: Medzen) -> None:
    verified = medzen.verify()
    assert not verified.findings
    assert all(passed for _, passed, _ in verified.checks)
    assert {name for name, _, _ in verified.checks} >= {
        f"probe {name}" for name in medzen.migration.file.verify.probes
    }, "row-level security was asked as well"


def test_a_second_apply_writes_no_row_of_data(medzen: Medzen) -> None:
    before = medzen.versions()
    applied = medzen.apply(LATER)
    assert [counts.units["done"] for counts in applied.counts] == [0, 0, 0]
    assert medzen.versions() == before


def test_even_a_fresh_look_at_every_record_writes_no_row_of_data(medzen: Medzen) -> None:
    before = medzen.versions()
    applied = medzen.apply(LATER, fresh=True)
    assert [counts.units["done"] for counts in applied.counts] == [0, 0, 0]
    assert medzen.versions() == before


# -- later exports and other choices ---------------------------------------------------------------------


def test_an_export_of_which_a_hundredth_changed_updates_exactly_that(
    supabase: Callable[[], str], tmp_path: Path
) -> None:
    for name, changed in (("before", 0.0), ("after", 0.01)):
        generate.generate(tmp_path / name, 500, changed=changed)
    medzen = Medzen(tmp_path / "before", supabase())
    medzen.apply()
    before = medzen.versions()
    later = Medzen(tmp_path / "after", medzen.url)
    assert [counts.as_json() for counts in later.plan(LATER).counts] == [
        counts.as_json() for counts in later.apply(LATER).counts
    ]
    after = later.versions()
    different = {
        table: sum(before[table][key] != version for key, version in rows.items()) for table, rows in after.items()
    }
    assert different["video_call_sessions"] == 5
    assert 0 < different["clinical_notes"] < 6
    assert different["video_call_audit_log"] == 0
    assert {table: rows.keys() for table, rows in before.items()} == {t: rows.keys() for t, rows in after.items()}
    assert not later.verify().findings


def test_missing_times_may_stay_missing(export: Path, supabase: Callable[[], str]) -> None:
    medzen = Medzen(export, supabase(), missing_times="null")
    medzen.apply(select=("sessions",))
    sessions = medzen.rows("video_call_sessions")
    for name in ("time_zero", "time_empty", "time_missing", "time_null"):
        row = sessions[MESSY[name].item["id"]["S"]]
        assert row["start_time"] is None
        assert row["created_at"] == FIRST, "only a session's start and end are the declaration's choice"


def test_events_as_the_code_wrote_them_find_their_session_by_meeting(
    supabase: Callable[[], str], tmp_path: Path
) -> None:
    generate.generate(tmp_path / "real", 300, audit_shape="real", messy=False)
    medzen = Medzen(tmp_path / "real", supabase(), audit_shape="real")
    planned, applied = medzen.plan(), medzen.apply()
    assert [counts.as_json() for counts in planned.counts] == [counts.as_json() for counts in applied.counts]
    meetings = {str(row["meeting_id"]): key for key, row in medzen.rows("video_call_sessions").items()}
    items = [
        json.loads(line)["Item"]
        for file in (tmp_path / "real").glob("medzen-meeting-audit/AWSDynamoDB/*/data/*.json.gz")
        for line in gzip.decompress(file.read_bytes()).splitlines()
    ]
    known = [item for item in items if item.get("meetingId", {}).get("S") in meetings]
    events = medzen.rows("video_call_audit_log")
    assert len(events) == len(known) < len(items)
    held = medzen.units("held")
    assert len(held) == len(items) - len(known)
    assert {row["reason"] for row in held.values()} == {"lookup_missing", "null"}
    with Connections(medzen.migration) as connections:
        for item in known[:20]:
            (found,) = connections.ledger().trace(f"{item['pk']['S']}/{item['sk']['S']}".replace("%", "%25"))
            assert found["target_key"] == derived_id(medzen, item["pk"]["S"], item["sk"]["S"])
            row = events[found["target_key"]]
            assert str(row["session_id"]) == meetings[item["meetingId"]["S"]]
            assert row["created_at"] == datetime.fromisoformat(item["timestamp"]["S"])
    assert not medzen.verify().findings
    assert {counts.units["done"] for counts in medzen.apply().counts} == {0}


def test_an_event_of_a_meeting_that_two_sessions_name_is_held_and_its_neighbours_go_on(
    supabase: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twins = [generate._session(number, meetingId=f"meeting-{name}") for number, name in ((301, 1), (302, 1), (303, 2))]
    events = [
        {"pk": f"MEETING#meeting-{name}", "sk": "EVENT#1#CALL_JOINED", "meetingId": f"meeting-{name}"}
        | {"eventType": "CALL_JOINED", "timestamp": "2025-12-26T12:00:00.000Z", "data": {}}
        for name in (1, 2)
    ]
    made = [generate._done("", generate.SESSIONS, twin) for twin in twins]
    made += [generate._done("", generate.AUDIT, generate._item(event, {})) for event in events]
    monkeypatch.setattr(generate, "_messy", lambda _: made)
    generate.generate(tmp_path / "real", 10, audit_shape="real")
    medzen = Medzen(tmp_path / "real", supabase(), audit_shape="real")
    medzen.apply()
    held = {unit: row["reason"] for unit, row in medzen.units("held").items()}
    assert held.pop("MEETING#meeting-1/EVENT#1#CALL_JOINED") == "ambiguous_meeting"
    assert "ambiguous_meeting" not in held.values()
    sessions = [str(row["session_id"]) for row in medzen.rows("video_call_audit_log").values()]
    assert sessions.count(generate.messy_id(303)) == 1
    assert not {generate.messy_id(301), generate.messy_id(302)} & set(sessions)


def test_a_session_time_zone_of_the_database_changes_no_instant(export: Path, supabase: Callable[[], str]) -> None:
    url = supabase()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET TimeZone = 'Africa/Douala'")
    medzen = Medzen(export, url)
    medzen.apply(select=("sessions",))
    row = medzen.rows("video_call_sessions")[MESSY["instant_ms"].item["id"]["S"]]
    assert row["start_time"] == datetime(2025, 12, 26, 12, tzinfo=UTC)


# -- links --------------------------------------------------------------------------------------------------


def change(url: str, *statements: str) -> None:
    """What the target's owner did otherwise."""
    with psycopg.connect(url) as connection:
        for sql in statements:
            connection.execute(sql)


def linked(monkeypatch: pytest.MonkeyPatch, **notes: str | None) -> None:
    """Sessions whose note is told, by name: of the messy ones, `there` may be pointed at; null is none."""
    made = [
        generate._done(name, generate.SESSIONS, generate._session(300 + at, soapNoteId=note))
        for at, (name, note) in enumerate(notes.items())
    ]
    monkeypatch.setattr(generate, "MESSY", (*generate.MESSY, *made))


THERE, NOWHERE = MESSY["soap_missing"].item["id"]["S"], generate.messy_id(404)


def test_without_foreign_keys_what_points_nowhere_arrives_and_verify_says_so(
    supabase: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mapping document's own tables have none."""
    linked(monkeypatch, noted=THERE, dangling=NOWHERE, unnoted=None, of_held=MESSY["soap_with_nul"].item["id"]["S"])
    generate.generate(tmp_path / "export", 10)
    medzen = Medzen(tmp_path / "export", supabase())
    change(
        medzen.url,
        "ALTER TABLE clinical_notes DROP CONSTRAINT clinical_notes_session_id_fkey",
        "ALTER TABLE video_call_audit_log DROP CONSTRAINT video_call_audit_log_session_id_fkey",
    )
    medzen.apply()
    assert "foreign_key" not in {row["reason"] for row in medzen.units("held").values()}
    verified = medzen.verify()
    assert {name: detail for name, passed, detail in verified.checks if not passed} == {
        f"assertion {name}": "expected 0, got 1"
        for name in ("notes_have_their_session", "events_have_their_session", "sessions_have_their_note")
    }
    assert verified.exit_code == 4


def test_with_a_foreign_key_on_both_sides_the_session_learns_its_note_afterwards(
    supabase: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its README says: the note's flow waits for the session, so the session's must not wait for the note."""
    linked(monkeypatch, noted=THERE, dangling=NOWHERE, unnoted=None)
    generate.generate(tmp_path / "export", 10)
    medzen = Medzen(tmp_path / "export", supabase(), folder=with_note_flow(tmp_path))
    change(medzen.url, "ALTER TABLE video_call_sessions ADD FOREIGN KEY (soap_note_id) REFERENCES clinical_notes (id)")
    medzen.apply()
    sessions, notes = medzen.rows("video_call_sessions"), medzen.rows("clinical_notes")
    held = {unit: row["reason"] for unit, row in medzen.units("held").items()}
    named = {m.name: m.item["id"]["S"] for m in generate.MESSY}
    assert str(sessions[named["noted"]]["soap_note_id"]) == THERE
    assert sessions[named["dangling"]]["soap_note_id"] is sessions[named["unnoted"]]["soap_note_id"] is None
    assert held[named["dangling"]] == "foreign_key"
    assert sum(row["soap_note_id"] is not None for row in sessions.values()) == 1 + sum(
        not key.startswith("00000000") for key in notes
    )
    before = medzen.versions()
    medzen.apply(LATER, fresh=True)
    assert medzen.versions() == before
    assert not medzen.verify().findings


def with_note_flow(folder: Path) -> Path:
    """The migration changed as its README says for a foreign key on soap_note_id."""
    (flow,) = re.findall(r"```yaml\n(  session_notes:.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)
    copy = folder / "medzen"
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns(".resettle", "sandbox", "__pycache__"))
    text = (copy / "migration.yaml").read_text()
    for old, new in (("      soap_note_id: soapNoteId\n", ""), ("  audit:\n", f"{flow}\n  audit:\n")):
        assert text.count(old) == 1
        text = text.replace(old, new)
    (copy / "migration.yaml").write_text(text)
    return copy
