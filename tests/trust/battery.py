"""The contract's own test functions, run against one connector: what `pytest` does for the cases, done by hand."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.contract import test_bodies, test_source, test_sql, test_target
from tests.contract.cases import FilesCase, Place, SourceCase, TargetCase

MODULES: Mapping[str, ModuleType] = {
    "source": test_source,
    "target": test_target,
    "store": test_sql,
    "files": test_bodies,
}
Case = SourceCase | TargetCase | FilesCase
Test = Callable[..., None]


@dataclass(frozen=True)
class Broken:
    """A connector that breaks one rule: what it does wrong, its case, and the contract's tests that must say so."""

    suite: str
    lie: str
    case: Case
    caught_by: tuple[str, ...]


def contract(suite: str) -> dict[str, Test]:
    """Every test of one file of the contract, by its name."""
    found = vars(MODULES[suite]).items()
    return {name: one for name, one in found if name.startswith("test_") and callable(one)}


def run(suite: str, name: str, case: Case, folder: Path, *, all_of_it: bool) -> int:
    """Run a test of the contract with each of its parameters (or the first): raises what it raises.

    Gives how often it was run to its end; none where it is not for this connector.
    """
    test, runs = contract(suite)[name], 0
    for number, parameters in enumerate(_parameters(test)):
        place = folder / str(number)
        place.mkdir(parents=True)
        try:
            _run_once(suite, test, case, Place(place, _no_database), parameters)
            runs += 1
        except pytest.skip.Exception:
            continue
        if not all_of_it:
            break
    return runs


def _run_once(suite: str, test: Test, case: Case, place: Place, parameters: Mapping[str, Any]) -> None:
    for mark in getattr(test, "pytestmark", ()):
        if mark.name == "usefixtures" and isinstance(case, TargetCase):
            for fixture in mark.args:
                needs = {"nests": case.nests, "sees_its_writes": case.sees_its_writes, "speaks_sql": case.speaks_sql}
                if not needs.get(fixture, True):
                    pytest.skip("not for this case")
    given = {"source": _source, "target": _target, "store": _target, "files": _files}[suite](case, place)
    wanted = inspect.signature(test).parameters
    with pytest.MonkeyPatch.context() as patched:
        # Nobody reads why it fails: where CI is set, pytest would compare megabytes line by line to say it.
        patched.setattr("_pytest.assertion.util._reprcompare", None)
        test(**{name: parameters[name] if name in parameters else given[name]() for name in wanted})


def _source(case: Any, place: Place) -> dict[str, Callable[[], Any]]:
    return {
        "make_source": lambda: lambda rows: case.make(place, rows),
        "source_case": lambda: case,
    }


def _target(case: Any, place: Place) -> dict[str, Callable[[], Any]]:
    target = case.make(place)

    def table() -> str:
        with target.sql().transaction():
            type_ = test_sql.FINGERPRINT["sqlite"]
            target.sql().execute(f"CREATE TABLE memo (unit TEXT, n BIGINT, fp {type_}, seen TEXT)")
        return "memo"

    return {
        "target": lambda: target,
        "target_case": lambda: case,
        "place": lambda: place,
        "store": target.sql,
        "table": table,
        "refused": lambda: {u: reason for u, reason in test_target.REFUSED.items() if reason in case.enforces},
    }


def _files(case: Any, place: Place) -> dict[str, Callable[[], Any]]:
    return {
        "case": lambda: case,
        "make": lambda: lambda files: case.source(place, files),
        "into": lambda: case.target(place),
    }


def _parameters(test: Test) -> Iterator[dict[str, Any]]:
    """Each combination of what the test's own marks give it."""
    choices: list[list[dict[str, Any]]] = []
    for mark in getattr(test, "pytestmark", ()):
        if mark.name == "parametrize":
            names = mark.args[0]
            names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
            values = [one if len(names) > 1 else (one,) for one in mark.args[1]]
            choices.append([dict(zip(names, one, strict=True)) for one in values])
    for chosen in itertools.product(*choices):
        yield {name: value for part in chosen for name, value in part.items()}


def _no_database() -> str:
    raise NotImplementedError("these connectors need no server")
