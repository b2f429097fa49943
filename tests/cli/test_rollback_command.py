"""`rollback` plans first and writes only when it is told to; `status --drift` says what is not as we left it."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run

FLOW = """
migration: small
connections:
  src: {type: files, path: data}
  app: {type: sqlite, path: app.sqlite}
environments:
  local: {}
  production: {guard: true}
flows:
  people:
    from: src.people
    unit: id
    into: app.people
    columns: {id: id, name: name}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small migration, applied."""
    (tmp_path / "migration.yaml").write_text(FLOW)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "people.jsonl").write_text('{"id":"a","name":"Ann"}\n{"id":"b","name":"Ben"}\n')
    sql(tmp_path, "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT NOT NULL)")
    sql(tmp_path, "INSERT INTO people VALUES ('x', 'Theirs')")
    return tmp_path


@pytest.fixture
def run(run: Run, folder: Path) -> Run:
    """Run a command on the migration, which was applied before."""
    assert run("apply", "--migration", str(folder))[0] == 0
    return lambda *arguments: run(*arguments, "--migration", str(folder))


def sql(folder: Path, statement: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(folder / "app.sqlite") as database:
        return database.execute(statement).fetchall()


def test_a_rollback_is_planned_until_it_is_executed(folder: Path, run: Run) -> None:
    code, said, _ = run("rollback", "1")
    assert code == 0
    assert "Nothing was written. To do this: resettle rollback 1 --execute" in said
    assert sql(folder, "SELECT count(*) FROM people") == [(3,)]
    code, said, _ = run("rollback", "1", "--execute")
    assert (code, sql(folder, "SELECT id FROM people")) == (0, [("x",)])
    assert "Run 1 is undone." in said
    code, said, _ = run("runs")
    assert (code, "2 deleted" in said) == (0, True)
    assert run("apply")[0] == 0
    assert sql(folder, "SELECT count(*) FROM people") == [(3,)]


def test_what_is_kept_is_listed_and_the_command_says_so_by_its_code(folder: Path, run: Run) -> None:
    sql(folder, "UPDATE people SET name = 'Edited' WHERE id = 'b'")
    code, said, _ = run("rollback", "1")
    assert (code, "! people b changed_since" in said) == (0, True)
    code, said, said_aside = run("rollback", "1", "--execute", "--json")
    assert (code, said_aside) == (3, "")
    found = json.loads(said)
    assert (found["rolled_back"], found["run"], found["status"]) == (1, 2, "held")
    assert found["flows"] == [
        {
            "flow": "people",
            "units": 1,
            "deleted": 1,
            "restored": 0,
            "forgotten": 0,
            "kept": {"changed_since": 1},
            "outputs": {"row": {"deleted": 1, "restored": 0, "forgotten": 0}},
        }
    ]
    assert found["listed"] == [
        {"flow": "people", "unit": "b", "reason": "changed_since", "detail": "people: somebody changed the row since"}
    ]


def test_a_scope_is_asked_for_as_elsewhere(folder: Path, run: Run) -> None:
    assert run("rollback", "1", "--execute", "--where", "name = 'Ann'", "--select", "people")[0] == 0
    assert sql(folder, "SELECT id FROM people ORDER BY 1") == [("b",), ("x",)]
    code, _, said = run("rollback", "1", "--where", "nam = 'Ann'")
    assert (code, "did you mean" in said) == (2, True)


def test_a_run_that_is_none_is_refused_with_those_that_are(run: Run) -> None:
    code, _, said = run("rollback", "7")
    assert code == 2
    assert "there is no run 7" in said
    assert "1 (done)" in said


def test_a_guarded_environment_asks_for_its_name_before_rows_are_deleted(folder: Path, run: Run) -> None:
    sql(folder, "DELETE FROM people")
    assert run("apply", "--env", "production", "--yes", "production")[0] == 0
    assert run("rollback", "2", "--env", "production")[0] == 0, "a plan needs no name"
    code, _, said = run("rollback", "2", "--execute", "--env", "production")
    assert (code, "is guarded" in said) == (2, True)
    assert sql(folder, "SELECT count(*) FROM people") == [(2,)]
    assert run("rollback", "2", "--execute", "--env", "production", "--yes", "production")[0] == 0
    assert sql(folder, "SELECT count(*) FROM people") == [(0,)]


def test_drift_is_told_with_a_code_of_its_own(folder: Path, run: Run) -> None:
    code, said, _ = run("status", "--drift")
    assert (code, "Every row is as we left it." in said) == (0, True)
    sql(folder, "UPDATE people SET name = 'Edited' WHERE id = 'b'")
    sql(folder, "DELETE FROM people WHERE id = 'a'")
    code, said, _ = run("status", "--drift")
    assert code == 4
    assert "! changed people b" in said
    assert "! vanished people a" in said
    code, said, _ = run("status", "--drift", "--json")
    assert code == 4
    found = json.loads(said)
    assert found["flows"] == [{"flow": "people", "rows": 2, "changed": 1, "vanished": 1}]
    assert {one["unit"]: one["kind"] for one in found["listed"]} == {"a": "vanished", "b": "changed"}
    assert run("status")[0] == 0
