"""Concurrency: how many files are copied and how many requests are under way at once is what a run says."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from resettle.engine import flow
from resettle.engine.flow import COPIES, Options
from resettle.errors import ConfigError
from resettle.ledger.ledger import Ledger
from tests.engine.conftest import MakeProject
from tests.engine.test_units_with_files import Stores, project_of, track


class Crowd:
    """How many are in the room at once, at most."""

    def __init__(self) -> None:
        self.most = self._now = 0
        self._lock = threading.Lock()

    @contextmanager
    def inside(self) -> Iterator[None]:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            time.sleep(0.02)
            yield
        finally:
            with self._lock:
                self._now -= 1


@pytest.mark.parametrize(("given", "most"), [(1, 1), (3, 3), (None, COPIES)])
def test_as_many_files_are_copied_at_once_as_the_run_says(
    project: MakeProject, monkeypatch: pytest.MonkeyPatch, given: int | None, most: int
) -> None:
    stores, crowd = Stores(), Crowd()
    names = [f"t{number}" for number in range(24)]
    stores.keep(**{name: name.encode() for name in names})
    put = stores.new.put

    def counted(*arguments: Any, **named: Any) -> Any:
        with crowd.inside():
            return put(*arguments, **named)

    monkeypatch.setattr(stores.new, "put", counted)
    p = project_of(project, "sqlite", stores, tracks=[track(name) for name in names])
    p.apply(concurrency=given)
    assert (crowd.most, len(stores.new.shelf.files)) == (most, 24)


def test_a_target_that_sends_several_requests_at_a_time_is_told_how_many(project: MakeProject) -> None:
    stores = Stores()
    stores.keep(a=b"AAA")
    stores.new.concurrency = 4  # type: ignore[attr-defined]
    p = project_of(project, "sqlite", stores, tracks=[track("a")])
    p.plan()
    assert stores.new.concurrency == 4  # type: ignore[attr-defined]
    p.apply(concurrency=7)
    assert stores.new.concurrency == 7  # type: ignore[attr-defined]


@pytest.mark.parametrize("wrong", [0, -3])
def test_less_than_one_at_once_is_refused(wrong: int) -> None:
    with pytest.raises(ConfigError, match="less than 1"):
        Options(concurrency=wrong)


def test_no_more_files_are_copied_than_a_batch_has_before_they_are_remembered(
    project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores, told = Stores(), list[str]()
    names = [f"t{number}" for number in range(24)]
    stores.keep(**{name: name.encode() for name in names})
    put, record = stores.new.put, Ledger.record
    monkeypatch.setattr(stores.new, "put", lambda *given, **named: told.append("copy") or put(*given, **named))
    monkeypatch.setattr(Ledger, "record", lambda *given: told.append("remember") or record(*given))
    monkeypatch.setattr(flow, "FILES", 5)
    project_of(project, "sqlite", stores, tracks=[track(name) for name in names]).apply()
    runs = [len(list(group)) for word, group in itertools.groupby(told) if word == "copy"]
    assert runs == [5, 5, 5, 5, 4]
