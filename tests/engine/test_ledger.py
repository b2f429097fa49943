"""The ledger: one writer at a time, a fence for those thought dead, and memory that people may read."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from datetime import timedelta

import pyarrow as pa
import pytest

from resettle.connections import Connections
from resettle.errors import FenceError, LedgerError, LedgerVersionError, LockedError, ResettleError
from resettle.ledger.owner import STALE_AFTER
from resettle.mapping.load import load
from tests.engine.conftest import START, MakeProject, Project, people, person, statuses


def p_(p: Project) -> str:
    return "resettle." if p.kind == "postgres" else "resettle_"


def prepared(project: MakeProject, database: str) -> Project:
    p = project(target=database, people=people(3))
    p.apply()
    return p


def dead_process() -> int:
    """The number of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


# -- the lock ------------------------------------------------------------------------------------------------


def test_a_second_run_is_refused_while_the_first_one_writes(project: MakeProject, database: str) -> None:
    p = prepared(project, database)
    with p.ledger() as ledger, ledger.run("apply", {}, START, lock=True):
        with pytest.raises(LockedError, match="is writing") as caught:
            p.apply()
        assert caught.value.exit_code == 7
    assert statuses(p.apply()) == {"unchanged": 3}, "and free afterwards"


def test_a_run_that_failed_gives_the_lock_back(project: MakeProject, database: str) -> None:
    p = prepared(project, database)
    with p.ledger() as ledger:
        with pytest.raises(ResettleError, match="trouble"), ledger.run("apply", {}, START, lock=True):
            raise ResettleError("trouble")
        assert ledger.runs()[0]["status"] == "failed"
    assert statuses(p.apply()) == {"unchanged": 3}


def test_an_interrupted_run_says_so(project: MakeProject, database: str) -> None:
    p = prepared(project, database)
    with p.ledger() as ledger:
        with pytest.raises(KeyboardInterrupt), ledger.run("apply", {}, START, lock=True):
            raise KeyboardInterrupt
        assert ledger.runs()[0]["status"] == "interrupted"


def test_a_stop_between_batches_is_balanced_and_can_be_gone_on_with(project: MakeProject, database: str) -> None:
    p = project(target=database, people=people(30))
    stop = threading.Event()
    first = p.apply(batch_size=10, stop=stop, progress=lambda flow, state, counts: counts.read >= 10 and stop.set())
    assert first.exit_code == 130
    assert statuses(first) == {"done": first.counts[0].read}
    assert 0 < len(p.rows("people")) < 30
    second = p.apply()
    assert statuses(second) == {"done": 30 - first.counts[0].read, "unchanged": first.counts[0].read}


@pytest.mark.parametrize("how", ["its process is gone", "it has been silent for too long"])
def test_the_lock_of_a_dead_run_is_taken_over(project: MakeProject, database: str, how: str) -> None:
    p = prepared(project, database)
    p.sql(f"UPDATE {p_(p)}locks SET run = 1, pid = {dead_process() if 'process' in how else os.getppid()}")
    p.sql(f"UPDATE {p_(p)}runs SET status = 'running' WHERE run = 1")
    if "silent" in how:
        long_ago = {"postgres": f"now() - interval '{STALE_AFTER + 1} seconds'", "sqlite": "'2020-01-01T00:00:00.000Z'"}
        p.sql(f"UPDATE {p_(p)}locks SET heartbeat = {long_ago[database]}")
    assert statuses(p.apply()) == {"unchanged": 3}
    assert p.sql(f"SELECT status FROM {p_(p)}runs WHERE run = 1") == [("died",)]


def test_a_live_process_elsewhere_keeps_its_lock(project: MakeProject, database: str) -> None:
    p = prepared(project, database)
    p.sql(f"UPDATE {p_(p)}locks SET run = 1, pid = {dead_process()}, host = 'elsewhere'")
    with pytest.raises(LockedError, match="elsewhere"):
        p.apply()


def test_a_run_that_lost_its_lock_can_commit_nothing_more(project: MakeProject, database: str) -> None:
    p = prepared(project, database)
    p.put(people=[*people(3), *(person(n) for n in range(10, 20))])

    def overtaken(flow: str, state: str, counts: object) -> None:
        if state == "writing":  # somebody took it for dead
            p.sql(f"UPDATE {p_(p)}locks SET fence = fence + 1, run = 99")

    before = p.rows("people"), p.remembered()
    with pytest.raises(FenceError) as caught:
        p.apply(progress=overtaken)
    assert caught.value.exit_code == 7
    assert (p.rows("people"), p.remembered()) == before
    assert p.sql(f"SELECT run FROM {p_(p)}locks") == [(99,)], "nor does it touch the lock of the other"


def test_a_heartbeat_without_the_lock_is_refused(project: MakeProject, database: str) -> None:
    p = prepared(project, database)
    with p.ledger() as ledger, ledger.run("apply", {}, START, lock=True) as run:
        ledger.heartbeat(run)
        p.sql(f"UPDATE {p_(p)}locks SET fence = fence + 1")
        with pytest.raises(FenceError):
            ledger.heartbeat(run)


def test_of_two_first_runs_at_once_one_is_told_that_it_is_locked(project: MakeProject, database: str) -> None:
    p = project(target=database, people=people(3))
    started, finish = threading.Barrier(2), threading.Event()
    outcomes: list[object] = []

    def run() -> None:
        with p.opened() as (_, _, ledger):
            started.wait()
            try:
                ledger.prepare({"people": ["row"]})
                with ledger.run("apply", {}, START, lock=True):
                    outcomes.append("ran")
                    finish.wait(10)
            except BaseException as error:
                outcomes.append(error)
            finally:
                if len(outcomes) == 2:
                    finish.set()

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["LockedError", "str"], outcomes


# -- what it remembers ------------------------------------------------------------------------------------------


def test_a_ledger_of_a_newer_resettle_is_refused(project: MakeProject, database: str) -> None:
    p = prepared(project, database)
    p.sql(f"UPDATE {p_(p)}meta SET value = '2' WHERE key = 'version'")
    with pytest.raises(LedgerVersionError) as caught:
        p.plan()
    assert caught.value.exit_code == 2


def test_the_id_map_is_a_view_for_people(project: MakeProject, database: str) -> None:
    flow = "people: {from: src.people, unit: id, into: app.people, columns: {id: \"'k-' || id\", name: name}}"
    p = project(flow, target=database, people=people(2))
    p.apply()
    view = "resettle.test_local_people" if database == "postgres" else "resettle_test_local_people"
    assert p.rows(view, "unit, target_key, run") == [("p0", "k-p0", 1), ("p1", "k-p1", 1)]


def test_every_run_is_listed_with_its_outcome(project: MakeProject, database: str) -> None:
    p = prepared(project, database)
    p.put(people=[{**person(1), "age": "x"}])
    p.apply()
    with p.ledger() as ledger:
        runs = ledger.runs()
    assert [(run["run"], run["phase"], run["status"]) for run in runs] == [(2, "apply", "held"), (1, "apply", "done")]
    assert runs[0]["summary"]["flows"][0]["held"] == 1
    assert all(run["completed_at"] for run in runs)


def test_only_a_run_that_came_to_its_end_is_completed(project: MakeProject, database: str) -> None:
    p = prepared(project, database)
    with p.ledger() as ledger:
        for status in ("done", "held", "failed", "interrupted"):
            with ledger.run("apply", {}, START, lock=True) as run:
                ledger.finish(run, status, {})
        with pytest.raises(ResettleError), ledger.run("apply", {}, START, lock=True):
            raise ResettleError("trouble")
        found = [(run["status"], run["completed_at"] is not None) for run in ledger.runs()]
    completed = [("done", True), ("held", True), ("done", True)]
    assert sorted(found) == sorted([*completed, ("failed", False), ("failed", False), ("interrupted", False)])


def test_a_table_of_somebody_else_is_not_taken_for_the_ledgers(project: MakeProject, database: str) -> None:
    p = project(target=database, people=people(1))
    p.sql(*(["CREATE SCHEMA resettle"] if database == "postgres" else []), f"CREATE TABLE {p_(p)}runs (id INTEGER)")
    with pytest.raises(LedgerError, match="somebody else"):
        p.apply()


def test_a_trace_tells_what_became_of_a_record(project: MakeProject, database: str) -> None:
    p = project(target=database, people=[person(1), {**person(2), "age": "x"}])
    p.apply()
    with p.ledger() as ledger:
        (done,), (held,), nothing = ledger.trace("p1"), ledger.trace("p2"), ledger.trace("p3")
    assert (done["flow"], done["output"], done["target_key"], done["run"]) == ("people", "row", "p1", 1)
    assert (held["status"], held["reason"]) == ("held", "cast")
    assert nothing == []


def test_the_ledger_holds_no_value_of_any_record(project: MakeProject) -> None:
    p = project(people=[person(1, "Very Private"), {**person(2), "age": "Secret"}])
    p.apply()
    dump = repr([p.sql(f"SELECT * FROM resettle_{t}") for t in ("rows", "units", "runs", "flows", "shapes")])
    assert "Very Private" not in dump
    assert "Secret" not in dump


def test_environments_do_not_see_each_other(project: MakeProject, database: str) -> None:
    p = project(target=database, people=people(2), extra="environments: {local: {}, second: {}}")
    p.apply()
    migration = load(p.root, "second")
    with Connections(migration) as connections:
        ledger = connections.ledger()
        assert ledger.runs() == []
        assert ledger.target_keys("people", "row", pa.array(["p0"])).num_rows == 0
        assert len(ledger.seen("people").done) == 0
        assert ledger.units("held") == []
        assert ledger.trace("p0") == []
        ledger.prepare({"people": ["row"]})
        later = START + timedelta(hours=1)
        with p.ledger() as first, first.run("apply", {}, START, lock=True), ledger.run("apply", {}, later, lock=True):
            pass  # each has a lock of its own


def test_the_schema_of_the_ledger_may_have_another_name(project: MakeProject, database: str) -> None:
    p = project(target=database, people=people(2), extra="ledger: {schema: migration}")
    p.apply()
    table = "migration.runs" if database == "postgres" else "migration_runs"
    assert p.sql(f"SELECT run FROM {table}") == [(1,)]
