"""The conformance battery can fail: for each rule a connector that breaks it, which the contract's tests catch."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from resettle.connectors.memory import Memory
from resettle.errors import ResettleError
from tests.contract.cases import (
    FilesCase,
    SourceCase,
    TargetCase,
    memory_files_source,
    memory_files_target,
    sqlite_orphan,
    sqlite_target,
)
from tests.trust import broken_files, broken_sources, broken_stores, broken_targets, broken_transactions
from tests.trust.battery import Broken, contract, run

BROKEN: list[Broken] = [*broken_sources.BROKEN, *broken_targets.BROKEN, *broken_stores.BROKEN, *broken_files.BROKEN]
"""Those of broken_transactions are among the targets."""
assert broken_transactions

INTACT: dict[str, SourceCase | TargetCase | FilesCase] = {
    "source": broken_sources.case_of(Memory),
    "target": broken_targets.case_of(broken_targets.Telling),
    "store": TargetCase("sqlite", sqlite_target, sqlite_orphan),
    "files": FilesCase("memory", "objects", memory_files_source, memory_files_target),
}
NOT_FOR_THEM = {
    "test_a_technology_without_savepoints_refuses_to_nest",
    "test_what_cannot_be_asked_in_sql_says_so",
}
"""Tests that the intact connectors skip or pass without a question, since they can do all of it."""
CAUGHT = (AssertionError, pytest.fail.Exception, ResettleError, sqlite3.Error)
UNCATCHABLE: dict[tuple[str, str], str] = {}
"""Tests that no broken connector fails, and why."""

TESTS = [(suite, name) for suite in INTACT for name in contract(suite)]


@pytest.mark.parametrize(("suite", "name"), TESTS)
def test_an_intact_connector_passes(suite: str, name: str, tmp_path: Path) -> None:
    """Or what follows would prove nothing."""
    runs = run(suite, name, INTACT[suite], tmp_path, all_of_it=False)
    assert runs == 1 or name in NOT_FOR_THEM


@pytest.mark.parametrize("broken", BROKEN, ids=lambda one: f"{one.suite}-{one.case.name}")
def test_a_connector_that_breaks_a_rule_is_caught(broken: Broken, tmp_path: Path) -> None:
    for number, name in enumerate(broken.caught_by):
        try:
            run(broken.suite, name, broken.case, tmp_path / str(number), all_of_it=True)
        except CAUGHT:
            continue
        raise AssertionError(f"{name} does not see that {broken.lie}")


@pytest.mark.parametrize(("suite", "name"), TESTS)
def test_every_test_of_the_contract_catches_somebody(suite: str, name: str) -> None:
    catching = [one for one in BROKEN if one.suite == suite and name in one.caught_by]
    assert bool(catching) != ((suite, name) in UNCATCHABLE), "no broken connector fails it: write one"
