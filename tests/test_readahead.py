"""Reading ahead: how far a thread may run, and that it ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from resettle.middleware.readahead import Ahead

PATIENCE = 10.0
"""Seconds after which something never comes."""


class Numbers:
    """Numbers up to a last one; ``reached`` is set when somebody asks for what follows ``mark``."""

    def __init__(self, last: int, mark: int) -> None:
        self.asked, self.reached = 0, threading.Event()
        self._last, self._mark = last, mark

    def __iter__(self) -> Iterator[int]:
        for number in range(self._last):
            self.asked += 1
            if number > self._mark:
                self.reached.set()
            yield number


def test_what_is_light_is_read_on_while_nobody_asks_and_what_is_heavy_waits() -> None:
    numbers = Numbers(1000, mark=900)
    with Ahead(numbers, depth=1, heavy=lambda number: number in (950, 960)) as ahead:
        assert numbers.reached.wait(PATIENCE)
        given = iter(ahead)
        assert next(given) == 0
        assert numbers.asked <= 951  # the first heavy one is waited for
        assert list(given) == list(range(1, 1000))


def test_everything_is_heavy_unless_said_otherwise() -> None:
    numbers = Numbers(1000, mark=3)
    with Ahead(numbers, depth=2) as ahead:
        assert not numbers.reached.wait(0.2)
        assert list(ahead) == list(range(1000))


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_leaving_ends_the_thread_whatever_it_waits_for(taken: int) -> None:
    before = threading.active_count()
    with Ahead(iter(range(1000)), depth=1) as ahead:
        given = iter(ahead)
        assert [next(given) for _ in range(taken)] == list(range(taken))
    assert threading.active_count() == before


def test_an_exception_arrives_where_it_would_have() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("two")

    with Ahead(broken(), depth=1) as ahead:
        given = iter(ahead)
        assert next(given) == 1
        with pytest.raises(ValueError, match="two"):
            next(given)
