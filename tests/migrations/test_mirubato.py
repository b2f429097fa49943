"""mirubato from end to end: the backend's tables into the API's sync_data, in SQLite files as a local D1 keeps them.

Every trap of `generate.MESSY` becomes what it says it does.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import resettle
from resettle.cli import main
from resettle.engine.apply import Applied
from resettle.engine.balance import Counts
from resettle.engine.plan import Plan
from resettle.engine.verify import Verified
from resettle.errors import MappingError
from resettle.sandbox.module import module_at

FOLDER = Path(__file__).parents[2] / "migrations" / "mirubato"
FLOWS = ["logbook_entries", "goals", "practice_sessions"]
ENTRIES = 300
Row = dict[str, Any]
NUMBERS_SORTED = "68b462d4bae5ad7f749525b6b1456ca1d71d6e8dfcec9324bff4d0c0358f2367"
ODD_KEYS_SORTED = "86548d36af09dd2090e626b4d81d7cc8f9da5b74a2968f6b479dbfb48511fc8a"
"""Checksums that the API's calculateChecksum printed for two records, run as JavaScript."""


generate, stack = (module_at(FOLDER / "sandbox" / f"{name}.py") for name in ("generate", "stack"))
MESSY: dict[str, Any] = {messy.name: messy for messy in generate.MESSY}
ARRIVING = [name for name, messy in MESSY.items() if messy.held is None]
HELD = [name for name, messy in MESSY.items() if messy.held]


class Mirubato:
    """The migration between two database files; one, when they are the same."""

    def __init__(self, backend: Path, api: Path, *, folder: Path = FOLDER, **variables: str) -> None:
        self.backend, self.api = backend, api
        paths = {"MIRUBATO_BACKEND_DB": str(backend), "MIRUBATO_API_DB": str(api)}
        self.migration = resettle.load(folder, "local", {**paths, **variables})

    def plan(self, **options: Any) -> Plan:
        with resettle.connect(self.migration) as connections:
            return resettle.plan(self.migration, connections, resettle.Options(**options))

    def apply(self, **options: Any) -> Applied:
        with resettle.connect(self.migration) as connections:
            return resettle.apply(self.migration, connections, resettle.Options(**options))

    def verify(self) -> Verified:
        with resettle.connect(self.migration) as connections:
            return resettle.verify(self.migration, connections)

    def held(self) -> dict[str, str]:
        """Reason by unit."""
        with resettle.connect(self.migration) as connections:
            return {row["unit"]: row["reason"] for row in connections.ledger().units("held")}

    def warned(self) -> dict[str, str]:
        with resettle.connect(self.migration) as connections:
            return {row["unit"]: row["warnings"] for row in connections.ledger().units("done") if row["warnings"]}

    def change(self, path: Path, sql: str, *parameters: Any) -> int:
        with closing(sqlite3.connect(path)) as database, database:
            return database.execute(sql, parameters).rowcount

    def ask(self, sql: str, *parameters: Any) -> list[Row]:
        with closing(sqlite3.connect(self.api)) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(sql, parameters)]

    def rows(self) -> dict[str, Row]:
        """sync_data by entity_id."""
        return {row["entity_id"]: row for row in self.ask("SELECT * FROM sync_data")}

    def row(self, messy: str) -> Row:
        return self.rows()[MESSY[messy].id]

    def age(self) -> None:
        """As if all had been written long ago; the trigger would say that it was now."""
        with closing(sqlite3.connect(self.api)) as database, database:
            (sql,) = database.execute("SELECT sql FROM sqlite_master WHERE type = 'trigger'").fetchone()
            database.execute("DROP TRIGGER update_sync_data_updated_at")
            database.execute("UPDATE sync_data SET updated_at = '2025-01-01 00:00:00'")
            database.execute(sql)


def made(folder: Path, *, entries: int = 20, **variables: str) -> Mirubato:
    backend, api = folder / "backend.sqlite", folder / "api.sqlite"
    generate.generate(backend, api, entries)
    return Mirubato(backend, api, **variables)


def rows_of(applied: Applied | Plan) -> Counter[str]:
    """Rows by action, over all flows."""
    found: Counter[str] = Counter()
    for counts in applied.counts:
        for actions in counts.rows.values():
            found.update({str(action): number for action, number in actions.items() if number})
    return found


def changed(before: Mapping[str, Row], after: Mapping[str, Row]) -> set[str]:
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def checksum(data: str) -> str:
    """Python's own way to the API's checksum; enough for documents without odd keys and numbers."""
    sorted_text = json.dumps(json.loads(data), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(sorted_text.encode()).hexdigest()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Mirubato, Plan, Applied]:
    """mirubato planned, then applied once."""
    mirubato = made(tmp_path_factory.mktemp("mirubato"), entries=ENTRIES)
    return mirubato, mirubato.plan(), mirubato.apply()


@pytest.fixture(scope="module")
def first(run: tuple[Mirubato, Plan, Applied]) -> Mirubato:
    """After the first run; only to look at."""
    return run[0]


@pytest.fixture(scope="module")
def after_a_run(tmp_path_factory: pytest.TempPathFactory) -> Mirubato:
    """After a first run, long ago; to copy."""
    mirubato = made(tmp_path_factory.mktemp("settled"))
    mirubato.apply()
    mirubato.age()
    return mirubato


@pytest.fixture
def settled(after_a_run: Mirubato, tmp_path: Path) -> Mirubato:
    """After a first run, long ago; to do things to."""
    return Mirubato(*(Path(shutil.copy(path, tmp_path)) for path in (after_a_run.backend, after_a_run.api)))


# -- what a record becomes -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARRIVING)
def test_a_messy_record_arrives_as_it_should(first: Mirubato, name: str) -> None:
    row, messy = first.row(name), MESSY[name]
    data = json.loads(row["data"])
    assert {member: data[member] for member in messy.expect} == messy.expect
    assert row["deleted_at"] == messy.deleted_at
    assert (row["user_id"], row["entity_type"], row["version"]) == (messy.user, generate.TYPE_OF[messy.table], 1)
    assert first.warned().get(messy.id, "") == messy.warned


def test_what_cannot_arrive_is_held_by_id_with_its_reason_and_nothing_else_is(first: Mirubato) -> None:
    assert first.held() == {MESSY[name].id: MESSY[name].held for name in HELD}
    assert not first.rows().keys() & {MESSY[name].id for name in HELD}


def test_every_other_record_arrives(run: tuple[Mirubato, Plan, Applied]) -> None:
    first, _, applied = run
    assert [counts.read for counts in applied.counts] == [
        ENTRIES + sum(messy.table == "logbook_entries" for messy in MESSY.values()),
        ENTRIES // 20 + sum(messy.table == "goals" for messy in MESSY.values()),
        ENTRIES // 10 + sum(messy.table == "practice_sessions" for messy in MESSY.values()),
    ]
    assert rows_of(applied) == {"create": len(first.rows())}
    assert len(first.rows()) == sum(counts.read for counts in applied.counts) - len(HELD)


def test_the_plan_counted_what_the_apply_did(run: tuple[Mirubato, Plan, Applied]) -> None:
    _, planned, applied = run
    assert rows_of(planned) == rows_of(applied)


def test_a_payload_has_its_members_in_their_order(first: Mirubato) -> None:
    assert first.row("every_member")["data"] == (
        '{"id":"messy_every_member","timestamp":"2025-06-23T22:32:52.797Z","duration":2700,"type":"LESSON",'
        '"instrument":"GUITAR","pieces":[{"id":"satie-1","title":"Gymnopédie No. 1"}],"techniques":["scales"],'
        '"goalIds":["goal_1750717972797_0suwq20o8"],"notes":"Left hand slower","mood":"EXCITED","tags":["evening"],'
        '"sessionId":"messy_every_session_member","metadata":{"source":"midi","accuracy":95.5,"notesPlayed":412,'
        '"mistakeCount":19},"createdAt":"2025-06-23T22:32:53.797Z","updatedAt":"2025-06-23T22:32:54.797Z"}'
    )
    assert first.row("every_goal_member")["data"] == (
        '{"id":"messy_every_goal_member","title":"Bach","description":"By heart",'
        '"targetDate":"2025-06-23T22:32:55.797Z","progress":12.5,"milestones":[{"id":"m1","title":"First page",'
        '"completed":true,"completedAt":"2024-05-01T10:00:00.000Z"}],"status":"COMPLETED",'
        '"linkedEntries":["messy_every_member"],"createdAt":"2025-06-23T22:32:53.797Z",'
        '"updatedAt":"2025-06-23T22:32:54.797Z","completedAt":"2025-06-23T22:32:56.797Z"}'
    )
    assert first.row("every_session_member")["data"] == (
        '{"id":"messy_every_session_member","instrument":"GUITAR","sheetMusicId":"score_7",'
        '"sessionType":"ASSESSMENT","startedAt":"2025-06-23T10:00:00.000Z","completedAt":"2025-06-23T10:30:00.000Z",'
        '"pausedDuration":45,"accuracyPercentage":94.25,"notesAttempted":400,"notesCorrect":377}'
    )


def test_what_is_not_set_stands_as_null_or_its_default(first: Mirubato) -> None:
    assert first.row("lists_missing")["data"] == (
        '{"id":"messy_lists_missing","timestamp":"2025-06-23T22:32:52.797Z","duration":1800,"type":"PRACTICE",'
        '"instrument":"PIANO","pieces":[],"techniques":[],"goalIds":[],"notes":null,"mood":"SATISFIED","tags":[],'
        '"sessionId":null,"metadata":{"source":"manual"},"createdAt":"2025-06-23T22:32:52.797Z",'
        '"updatedAt":"2025-06-23T22:32:52.797Z"}'
    )
    assert first.row("staging_goal")["data"] == (
        '{"id":"messy_staging_goal","title":"Learn it","description":null,"targetDate":null,"progress":0,'
        '"milestones":[],"status":"ACTIVE","linkedEntries":["test-entry-1"],'
        '"createdAt":"2025-06-24T04:06:52.000Z","updatedAt":"2025-06-24T04:06:52.000Z","completedAt":null}'
    )
    assert first.row("accuracy_zero")["data"] == (
        '{"id":"messy_accuracy_zero","instrument":"PIANO","sheetMusicId":null,"sessionType":"FREE_PRACTICE",'
        '"startedAt":"2025-06-23T10:00:00.000Z","completedAt":null,"pausedDuration":0,"accuracyPercentage":0,'
        '"notesAttempted":0,"notesCorrect":0}'
    )


def test_numbers_and_keys_stand_as_javascript_prints_them(first: Mirubato) -> None:
    assert (
        '"metadata":{"source":"midi","accuracy":95.5,"notesPlayed":100,"tiny":1e-7,"large":1e+21}'
        in (first.row("metadata_with_numbers")["data"])
    )
    assert (
        '"metadata":{"9":4,"10":3,"\ufb01":1,"😀":2,"b":{"y":1,"x":2}}' in (first.row("metadata_with_odd_keys")["data"])
    )


def test_the_checksum_is_the_one_that_the_api_calculates(first: Mirubato) -> None:
    odd = {MESSY[name].id for name in ("metadata_with_numbers", "metadata_with_odd_keys")}
    rows = first.rows()
    assert {key for key, row in rows.items() if row["checksum"] != checksum(row["data"])} == odd
    assert first.row("metadata_with_numbers")["checksum"] == NUMBERS_SORTED
    assert first.row("metadata_with_odd_keys")["checksum"] == ODD_KEYS_SORTED
    assert len({row["checksum"] for row in rows.values()}) == len(rows), "no two records share one"


def test_the_checksum_may_be_the_old_script_s(tmp_path: Path) -> None:
    mirubato = made(tmp_path, checksum="insertion")
    mirubato.apply()
    for row in mirubato.rows().values():
        assert row["checksum"] == hashlib.sha256(row["data"].encode()).hexdigest()


def test_ids_have_the_target_s_shape_and_are_the_same_in_every_database(first: Mirubato, settled: Mirubato) -> None:
    ids = {key: row["id"] for key, row in first.rows().items()}
    assert len(set(ids.values())) == len(ids)
    assert all(re.fullmatch(r"sync_[0-9a-f]{32}", one) for one in ids.values())
    again = {key: row["id"] for key, row in settled.rows().items()}
    assert again.items() & ids.items() >= {(MESSY[name].id, ids[MESSY[name].id]) for name in ARRIVING}


def test_durations_may_become_minutes_and_halves_go_up(tmp_path: Path) -> None:
    mirubato = made(tmp_path, duration="minutes")
    mirubato.apply()
    expected = {"duration_89": 1, "duration_3300": 55, "duration_30": 1, "duration_29": 0, "duration_half": 2}
    assert {name: json.loads(mirubato.row(name)["data"])["duration"] for name in expected} == expected
    assert mirubato.warned()[MESSY["duration_30"].id] == "duration_may_be_minutes", "it may have been minutes before"


def test_enums_may_become_lower_case(tmp_path: Path) -> None:
    mirubato = made(tmp_path, enums="lower")
    mirubato.apply()
    for row in mirubato.rows().values():
        data = json.loads(row["data"])
        words = [data.get(name) for name in ("type", "instrument", "mood", "status", "sessionType")]
        assert [word for word in words if word and word != word.lower()] == []


def test_the_machine_s_time_zone_changes_nothing(
    first: Mirubato, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "America/Chicago")
    mirubato = made(tmp_path)
    mirubato.apply()
    assert {name: mirubato.row(name)["data"] for name in ARRIVING} == {
        name: first.row(name)["data"] for name in ARRIVING
    }


# -- run again -----------------------------------------------------------------------------------------


def test_a_second_run_writes_nothing(settled: Mirubato) -> None:
    before = settled.rows()
    assert rows_of(settled.apply())["update"] == 0
    assert rows_of(settled.apply(fresh=True))["update"] == 0
    assert settled.rows() == before, "neither versions nor updated_at moved"


def test_an_edited_record_is_exactly_one_update_and_the_next_version(settled: Mirubato) -> None:
    before = settled.rows()
    key = MESSY["duration_3300"].id
    settled.change(settled.backend, "UPDATE logbook_entries SET notes = 'again', updated_at = ? WHERE id = ?", 1, key)
    settled.change(settled.backend, "UPDATE logbook_entries SET updated_at = ? WHERE id = ?", generate.MS + 60_000, key)
    planned, applied = settled.plan(), settled.apply()
    assert rows_of(planned)["update"] == rows_of(applied)["update"] == 1
    after = settled.rows()
    assert changed(before, after) == {key}
    assert (before[key]["version"], after[key]["version"]) == (1, 2)
    assert after[key]["id"] == before[key]["id"]
    assert after[key]["created_at"] == before[key]["created_at"]
    assert after[key]["updated_at"] > before[key]["updated_at"], "the target's own trigger said so"
    assert json.loads(after[key]["data"])["notes"] == "again"
    assert after[key]["checksum"] == checksum(after[key]["data"])


def test_what_does_not_belong_to_the_payload_updates_nothing(settled: Mirubato) -> None:
    before = settled.rows()
    settled.change(settled.backend, "UPDATE logbook_entries SET sync_version = 9, checksum = 'x', device_id = 'y'")
    assert rows_of(settled.apply())["update"] == 0
    assert settled.rows() == before


def edited_by_the_app(mirubato: Mirubato, key: str) -> Row:
    data = json.loads(mirubato.rows()[key]["data"]) | {"notes": "from my phone"}
    text = json.dumps(data, separators=(",", ":"))
    mirubato.change(
        mirubato.api,
        "UPDATE sync_data SET data = ?, checksum = ?, version = version + 1 WHERE entity_id = ?",
        text,
        checksum(text),
        key,
    )
    return mirubato.rows()[key]


def test_a_row_that_the_app_edited_is_not_overwritten(settled: Mirubato) -> None:
    key = MESSY["duration_3300"].id
    edited = edited_by_the_app(settled, key)
    settled.apply()
    assert settled.rows()[key] == edited, "the source had not changed: nothing to do"
    settled.change(settled.backend, "UPDATE logbook_entries SET notes = 'from the old app' WHERE id = ?", key)
    settled.change(settled.backend, "UPDATE logbook_entries SET notes = 'too' WHERE id = 'messy_duration_89'")
    applied = settled.apply()
    assert settled.held()[key] == "edited_in_target"
    assert settled.rows()[key] == edited
    assert rows_of(applied)["update"] == 1, "its neighbour goes on"


@pytest.mark.parametrize(("policy", "notes", "version"), [("target", "from my phone", 2), ("source", "old app", 3)])
def test_who_wins_a_conflict_can_be_declared(settled: Mirubato, policy: str, notes: str, version: int) -> None:
    key = MESSY["duration_3300"].id
    edited_by_the_app(settled, key)
    settled.change(settled.backend, "UPDATE logbook_entries SET notes = 'old app' WHERE id = ?", key)
    Mirubato(settled.backend, settled.api, on_conflict=policy).apply()
    row = settled.rows()[key]
    assert (json.loads(row["data"])["notes"], row["version"]) == (notes, version)
    assert key not in settled.held()


def test_what_the_user_deleted_in_the_app_is_not_revived(settled: Mirubato) -> None:
    key = MESSY["duration_3300"].id
    settled.change(settled.api, "UPDATE sync_data SET deleted_at = '2025-08-01T00:00:00.000Z' WHERE entity_id = ?", key)
    deleted = settled.rows()[key]
    settled.apply()
    assert settled.rows()[key] == deleted
    settled.change(settled.backend, "UPDATE logbook_entries SET notes = 'edited' WHERE id = ?", key)
    settled.apply()
    assert settled.rows()[key] == deleted
    assert settled.held()[key] == "edited_in_target"


@pytest.mark.parametrize("where", ["row", "beside"])
def test_what_is_deleted_in_the_source_later_becomes_deleted_and_stays_so(settled: Mirubato, where: str) -> None:
    key, user = MESSY["duration_3300"].id, generate.USER
    before = settled.rows()
    if where == "row":
        settled.change(
            settled.backend, "UPDATE logbook_entries SET deleted_at = '2025-08-01 12:00:00' WHERE id = ?", key
        )
    else:
        settled.change(
            settled.backend,
            "INSERT INTO deleted_entities VALUES ('d', ?, 'logbook_entry', ?, '2025-08-01 12:00:00')",
            user,
            key,
        )
    for _ in range(2):
        settled.apply()
        after = settled.rows()
        assert changed(before, after) == {key}
        assert (after[key]["deleted_at"], after[key]["version"]) == ("2025-08-01T12:00:00.000Z", 2)
        assert after[key]["data"] == before[key]["data"]


@pytest.mark.parametrize("moment", ["", "0", "0.0", " "])
def test_a_record_that_is_listed_as_deleted_without_a_moment_does_not_arrive_live(
    settled: Mirubato, moment: str
) -> None:
    key, sql = "never_seen", "INSERT INTO deleted_entities VALUES ('d', ?, 'logbook_entry', ?, ?)"
    settled.change(settled.backend, "UPDATE logbook_entries SET id = ? WHERE id = ?", key, MESSY["duration_3300"].id)
    settled.change(settled.backend, sql, generate.USER, key, moment)
    settled.apply()
    assert settled.held()[key] == "cast"
    assert key not in settled.rows()
    settled.change(settled.backend, sql.replace("'d'", "'e'"), generate.USER, key, "2025-08-01 12:00:00")
    settled.apply()
    assert settled.rows()[key]["deleted_at"] == "2025-08-01T12:00:00.000Z"


def with_deletions(folder: Path, mirubato: Mirubato) -> Mirubato:
    """The migration with what its README says for rows that the backend has removed."""
    copy = folder / "mirubato"
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns(".resettle", "sandbox", "__pycache__"))
    readme = (FOLDER / "README.md").read_text().partition("## Rows that the backend has removed")[2]
    lookups, flow = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)
    text = (copy / "migration.yaml").read_text()
    for added, behind in ((lookups, "\nflows:\n"), (flow, "\nverify:\n")):
        assert text.count(behind) == 1
        text = text.replace(behind, added + behind)
    (copy / "migration.yaml").write_text(text)
    return Mirubato(mirubato.backend, mirubato.api, folder=copy)


def removed(mirubato: Mirubato, name: str, *, lines: int = 1, line: str = "logbook_entry") -> str:
    """A row is gone from the backend, and its lines in deleted_entities are there."""
    key = MESSY[name].id
    assert mirubato.change(mirubato.backend, "DELETE FROM logbook_entries WHERE id = ?", key) == 1
    for at in range(1, lines + 1):
        sql = f"INSERT INTO deleted_entities VALUES ('{key}{at}', ?, ?, ?, '2025-08-0{at} 12:00:00')"
        mirubato.change(mirubato.backend, sql, generate.USER, line, key)
    return key


def test_what_the_source_has_removed_is_counted_by_verify_and_stays(settled: Mirubato) -> None:
    before = settled.rows()
    removed(settled, "duration_3300")
    settled.apply()
    assert settled.rows() == before
    told = {name: count for name, _, count in settled.verify().checks if "no longer has" in name}
    assert sorted(told.values()) == ["0", "0", "1"]


def test_with_the_readme_s_flow_what_the_source_has_removed_becomes_deleted(settled: Mirubato, tmp_path: Path) -> None:
    mirubato, before = with_deletions(tmp_path, settled), settled.rows()
    mirubato.apply()
    assert mirubato.rows() == before, "what is deleted already, and still there, is its own flow's"
    gone, twice = removed(mirubato, "duration_3300", line="logbookEntry"), removed(mirubato, "duration_89", lines=2)
    edited = removed(mirubato, "duration_30")
    edited_by_the_app(mirubato, edited)
    never = "INSERT INTO deleted_entities VALUES ('n', ?, 'goal', 'never_migrated', '2025-08-01 12:00:00')"
    mirubato.change(mirubato.backend, never, generate.USER)
    beside = "INSERT INTO deleted_entities VALUES ('b', ?, 'logbook_entry', 'messy_duration_29', '2025-08-01 12:00:00')"
    mirubato.change(mirubato.backend, beside, generate.USER)
    planned, applied = mirubato.plan(), mirubato.apply()
    assert [counts.as_json() for counts in planned.counts] == [counts.as_json() for counts in applied.counts]
    after = mirubato.rows()
    assert changed(before, after) == {gone, twice, edited, "messy_duration_29"}
    assert (after[gone]["deleted_at"], after[gone]["version"]) == ("2025-08-01T12:00:00.000Z", 2)
    assert (after[twice]["deleted_at"], after[twice]["version"]) == ("2025-08-02T12:00:00.000Z", 2)
    assert after[gone]["data"] == before[gone]["data"]
    assert (after[edited]["deleted_at"], mirubato.held()[f"{edited}1"]) == (None, "edited_since")
    mirubato.apply()
    assert mirubato.rows() == after
    assert not mirubato.verify().findings


def test_a_row_that_was_deleted_for_good_in_the_target_is_not_made_again(settled: Mirubato) -> None:
    key = MESSY["duration_3300"].id
    settled.change(settled.api, "DELETE FROM sync_data WHERE entity_id = ?", key)
    settled.change(settled.backend, "UPDATE logbook_entries SET notes = 'edited' WHERE id = ?", key)
    settled.apply()
    assert key not in settled.rows()
    assert settled.held()[key] == "deleted_in_target"


def test_a_malformed_record_arrives_once_it_is_corrected(settled: Mirubato) -> None:
    before = settled.rows()
    stack.correct(settled.backend.parent)
    applied = settled.apply()
    corrected = {MESSY[name].id for name in stack.CORRECTIONS}
    assert changed(before, settled.rows()) == corrected
    assert rows_of(applied)["create"] == len(corrected)
    assert settled.held() == {MESSY[name].id: MESSY[name].held for name in HELD if MESSY[name].id not in corrected}


def test_a_stopped_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    def stop_after_a_batch(flow: str, state: str, counts: Counts) -> None:
        if counts.units["done"]:
            options.stop.set()

    mirubato = made(tmp_path, entries=400)
    options = resettle.Options(batch_size=50, workers=1, progress=stop_after_a_batch)
    with resettle.connect(mirubato.migration) as connections:
        resettle.apply(mirubato.migration, connections, options)
    written = mirubato.rows()
    assert 0 < len(written) < 400
    mirubato.apply()
    complete = mirubato.rows()
    assert len(complete) == 400 + 20 + 40 + len(ARRIVING)
    assert {row["version"] for row in complete.values()} == {1}
    assert {key: complete[key] for key in written} == written
    assert not mirubato.verify().findings


# -- which records, where from and where to ------------------------------------------------------------


def test_one_user_s_2500_records_arrive_in_batches_of_1000(tmp_path: Path) -> None:
    mirubato = made(tmp_path, entries=2_600)
    mirubato.change(mirubato.api, "INSERT INTO users (id, email) VALUES ('user_one', 'one@example.com')")
    mirubato.change(
        mirubato.backend,
        "UPDATE logbook_entries SET user_id = 'user_one' WHERE rowid IN"
        " (SELECT rowid FROM logbook_entries WHERE id NOT LIKE 'messy%' ORDER BY id LIMIT 2500)",
    )
    applied = mirubato.apply(where="user_id = 'user_one'", select=("logbook_entries",), batch_size=1_000)
    assert rows_of(applied) == {"create": 2_500}
    assert Counter(row["user_id"] for row in mirubato.rows().values()) == {"user_one": 2_500}


def test_one_entity_can_be_chosen(tmp_path: Path) -> None:
    mirubato = made(tmp_path)
    mirubato.apply(select=("goals",))
    assert {row["entity_type"] for row in mirubato.rows().values()} == {"goal"}


def test_source_and_target_may_be_one_database(tmp_path: Path) -> None:
    path = tmp_path / "mirubato.sqlite"
    generate.generate(path, path, 100)
    mirubato = Mirubato(path, path)
    with closing(sqlite3.connect(path)) as database:
        source = {table: database.execute(f"SELECT * FROM {table}").fetchall() for table in FLOWS}
    planned, applied = mirubato.plan(), mirubato.apply()
    assert rows_of(planned) == rows_of(applied) == {"create": 100 + 5 + 10 + len(ARRIVING)}
    assert mirubato.held() == {MESSY[name].id: MESSY[name].held for name in HELD}
    assert not mirubato.verify().findings
    assert rows_of(mirubato.apply())["update"] == 0
    with closing(sqlite3.connect(path)) as database:
        assert source == {table: database.execute(f"SELECT * FROM {table}").fetchall() for table in FLOWS}


def test_a_plan_for_a_fresh_target_writes_nothing(tmp_path: Path) -> None:
    mirubato = made(tmp_path)
    before = mirubato.api.read_bytes()
    assert rows_of(mirubato.plan()) == {"create": 20 + 1 + 2 + len(ARRIVING)}
    assert mirubato.api.read_bytes() == before


def test_a_row_that_the_app_made_first_is_a_conflict_unless_it_is_equal(first: Mirubato, tmp_path: Path) -> None:
    mirubato = made(tmp_path)
    equal, other = first.row("duration_3300"), first.row("duration_89")
    for row in (equal | {"id": "sync_made-by-the-app", "version": 4}, other | {"data": "{}", "checksum": "x"}):
        marks = ", ".join("?" * len(row))
        mirubato.change(mirubato.api, f"INSERT INTO sync_data ({', '.join(row)}) VALUES ({marks})", *row.values())
    before = mirubato.rows()
    applied = mirubato.apply()
    assert rows_of(applied)["reuse"] == 1
    assert {key: mirubato.rows()[key] for key in before} == before
    assert mirubato.held()[other["entity_id"]] == "exists_in_target"


def test_rows_of_the_old_shell_script_can_be_taken_over_one_by_one(tmp_path: Path) -> None:
    """It wrote another payload and 16 digits for a checksum; held records are replayed with the source winning."""
    mirubato = made(tmp_path)
    stamped, apps = MESSY["duration_3300"], MESSY["duration_89"]
    sql = (
        "INSERT INTO sync_data (id, user_id, entity_type, entity_id, data, checksum, version)"
        " VALUES (?, ?, 'logbook_entry', ?, '{}', ?, 3)"
    )
    mirubato.change(mirubato.api, sql, "a" * 32, stamped.user, stamped.id, "656E7472795F3137")
    mirubato.change(mirubato.api, sql, "sync_made-by-the-app", apps.user, apps.id, "0" * 64)
    mirubato.apply()
    held = mirubato.held()
    assert held[stamped.id] == held[apps.id] == "exists_in_target"
    over = Mirubato(mirubato.backend, mirubato.api, on_conflict="source")
    over.apply(only={"logbook_entries": [stamped.id]})
    row = mirubato.rows()[stamped.id]
    assert (row["id"], row["version"], len(row["checksum"])) == ("a" * 32, 4, 64)
    assert mirubato.rows()[apps.id]["data"] == "{}"
    mirubato.apply()
    assert (mirubato.rows()[stamped.id], mirubato.held()[apps.id]) == (row, "exists_in_target")


def test_tables_of_the_other_schema_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    """The API's migration 0002 makes tables of the same names with other columns, where they are missing."""
    mirubato = made(tmp_path)
    mirubato.change(mirubato.backend, "ALTER TABLE goals RENAME COLUMN linked_entries TO links")
    before = mirubato.api.read_bytes()
    with pytest.raises(MappingError, match="linked_entries"):
        mirubato.apply()
    assert mirubato.api.read_bytes() == before or mirubato.rows() == {}


# -- proof, history, sequence --------------------------------------------------------------------------


def test_verify_finds_nothing_to_complain_of(first: Mirubato) -> None:
    verified = first.verify()
    assert not verified.findings
    assert all(passed for _, passed, _ in verified.checks)
    assert len(verified.checks) >= 3


def test_the_run_history_answers_the_seed_s_queries(settled: Mirubato) -> None:
    settled.apply()
    history = settled.ask("SELECT * FROM migration_runs ORDER BY started_at DESC")
    assert [row["run"] for row in history] == [2, 1]
    (last,) = settled.ask(
        "SELECT * FROM migration_runs WHERE completed_at IS NOT NULL ORDER BY completed_at DESC LIMIT 1"
    )
    assert last["run"] == 2
    assert last["status"] == "held"
    assert last["started_at"] <= last["completed_at"]
    assert json.loads(last["summary"])


def test_the_weekly_job_s_exit_codes(settled: Mirubato, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRUBATO_BACKEND_DB", str(settled.backend))
    monkeypatch.setenv("MIRUBATO_API_DB", str(settled.api))

    def run(*arguments: str) -> Any:
        with pytest.raises(SystemExit) as stop:
            main([*arguments, "--migration", str(FOLDER)])
        return stop.value.code

    assert run("apply") == 3
    with resettle.connect(settled.migration) as connections:
        ledger = connections.ledger()
        with ledger.run("apply", {}, datetime.now(UTC), lock=True) as other:
            assert run("apply") == 7
            ledger.finish(other, "done", {})
    assert run("held", "waive", *settled.held(), "--why", "nobody misses them") == 0
    assert run("apply") == 0


def with_seq(folder: Path) -> Path:
    """The migration with the lines about seq in it, as its README says."""
    copy = folder / "mirubato"
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns(".resettle", "sandbox", "__pycache__"))
    text = (copy / "migration.yaml").read_text()
    text, columns = re.subn(r"^(\s*)# (seq: .*)$", r"\1\2", text, flags=re.MULTILINE)
    text, after = re.subn(r"^# (after:|  .*)$", r"\1", text, flags=re.MULTILINE)
    assert (columns, after) == (3, 6)
    (copy / "migration.yaml").write_text(text)
    return copy


def test_where_the_target_has_seq_every_row_gets_one_and_a_changed_row_the_next(tmp_path: Path) -> None:
    plain = made(tmp_path)
    with closing(sqlite3.connect(plain.api)) as api:
        api.executescript((FOLDER / "sandbox" / "sequence.sql").read_text())
        api.execute("UPDATE sync_sequence SET current_value = 1000")
        api.commit()
    mirubato = Mirubato(plain.backend, plain.api, folder=with_seq(tmp_path))
    mirubato.apply()
    before = mirubato.rows()
    assert sorted(row["seq"] for row in before.values()) == list(range(1001, 1001 + len(before)))
    assert mirubato.ask("SELECT current_value AS v FROM sync_sequence") == [{"v": 1000 + len(before)}]
    mirubato.apply()
    assert mirubato.rows() == before
    key = MESSY["duration_3300"].id
    mirubato.change(mirubato.backend, "UPDATE logbook_entries SET notes = 'again' WHERE id = ?", key)
    mirubato.apply()
    after = mirubato.rows()
    assert changed(before, after) == {key}
    assert after[key]["seq"] == 1001 + len(before)
    assert not mirubato.verify().findings


def test_a_target_with_seq_that_the_mapping_leaves_out_fails_verification(tmp_path: Path) -> None:
    mirubato = made(tmp_path)
    with closing(sqlite3.connect(mirubato.api)) as api:
        api.executescript((FOLDER / "sandbox" / "sequence.sql").read_text())
    mirubato.apply()
    failed = [name for name, passed, _ in mirubato.verify().checks if not passed]
    assert any("no_row_without_seq" in name for name in failed)


# -- made-up data --------------------------------------------------------------------------------------


def test_the_same_arguments_make_the_same_rows(tmp_path: Path) -> None:
    dumps = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        mirubato = made(tmp_path / name, entries=60)
        with closing(sqlite3.connect(mirubato.backend)) as database:
            dumps.append([line for line in database.iterdump() if "CURRENT_TIMESTAMP" not in line])
            assert database.execute("SELECT count(*) FROM logbook_entries").fetchone()[0] > 60
    strip = re.compile(r"'20\d\d-\d\d-\d\d \d\d:\d\d:\d\d'")  # columns that default to now
    assert [strip.sub("", line) for line in dumps[0]] == [strip.sub("", line) for line in dumps[1]]


def test_the_stack_s_variables_open_the_local_environment(tmp_path: Path) -> None:
    with stack.stack(tmp_path, entries=20) as variables:
        migration = resettle.load(FOLDER, "local", variables)
        with resettle.connect(migration) as connections:
            assert rows_of(resettle.plan(migration, connections))["create"] > 20
