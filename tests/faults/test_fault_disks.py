"""A disk that is full where our own files lie: the plan, the log, the ledger."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from resettle import private
from resettle.errors import AccessError
from tests.crash.matrix import Matrix
from tests.crash.stores import counted
from tests.crash.worlds import world
from tests.faults.migrating import Here, assert_same, in_this_process
from tests.faults.services import PLANTED
from tests.faults.test_fault_databases import no_larger_than
from tests.faults.virtual import virtual
from tests.faults.wire import wired
from tests.security.conftest import Folder, make  # noqa: F401  a fixture

RECORDS = [{"id": f"p{number}", "name": f"{PLANTED} {number}", "age": number} for number in range(3)]
Make = Callable[..., Folder]


def full(name: str) -> Callable[[Path], int]:
    """In place of `private.new`: files with this in their name lie on a full disk."""
    new = private.new
    return lambda path: os.open("/dev/full", os.O_WRONLY) if name in path.name else new(path)


def test_a_plan_that_finds_no_room_leaves_the_older_one_and_says_so(
    make: Make,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, path = make(records=RECORDS), "it.plan"
    plan = folder.root / path
    assert folder.run("plan", "--out", str(plan)).code == 0
    older = plan.read_bytes()
    monkeypatch.setattr(private, "new", full(".partial"))
    said = folder.run("plan", "--out", str(plan))
    assert said.code == 1
    assert "No space left on device" in said.err
    assert "fault of resettle" not in said.err
    assert PLANTED not in said.text
    assert plan.read_bytes() == older
    assert not [*folder.root.glob(".*.partial")]
    monkeypatch.undo()
    assert folder.run("apply", str(plan)).code == 0


def test_a_log_that_finds_no_room_says_so_once_and_the_run_goes_on(
    make: Make,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = make(records=RECORDS)
    monkeypatch.setattr(private, "new", full(".jsonl"))
    said = folder.run("apply")
    assert said.code == 0
    assert said.err.count("the log of this run is not whole: No space left on device") == 1
    assert "Traceback" not in said.text
    assert len(folder.rows("SELECT id FROM people")) == 3


def test_a_run_whose_target_and_ledger_fill_the_disk_is_gone_on_with_when_there_is_room(tmp_path: Path) -> None:
    """Pages of the SQLite file that mirubato writes, with its history beside its rows."""
    with (
        in_this_process(),
        virtual(),
        counted(),
        wired("postgresql://nobody@127.0.0.1:1/none") as wire,
        world("mirubato", Here(wire), tmp_path, "") as mirubato,  # type: ignore[arg-type]
    ):
        calm = Matrix(mirubato).undisturbed("empty", "apply")
        for room in (0, 2, 6, 12):
            mirubato.at("empty")
            with no_larger_than(room), pytest.raises(AccessError, match=r"api: .* full"):
                mirubato.go("apply")
            assert mirubato.go("apply").said["status"] == calm.status
            assert_same(mirubato, calm)
