"""Caller and Pace on a clock of their own: what calls cost, what a service's "too fast" does, who waits for whom."""

from __future__ import annotations

import random
import threading

import pytest

from resettle.calls import Caller, Pace
from resettle.errors import TransientError


class Clock:
    """Moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self._turn = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self._turn:
            self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def paced(clock: Clock, rate: float | None) -> Pace:
    return Pace(rate, clock=clock, sleep=clock.sleep)


def calling(clock: Clock, pace: Pace) -> Caller:
    return Caller(lambda error: None, pace=pace, sleep=clock.sleep, rng=random.Random(1))


def test_units_are_spent_no_faster_than_the_rate(clock: Clock) -> None:
    pace = paced(clock, 10)
    for _ in range(5):
        pace.wait(20)
    assert clock.now == pytest.approx(8)  # four waits: the last one's units are not waited for


def test_dearer_calls_share_pace_and_counts_with_the_others(clock: Clock) -> None:
    call = calling(clock, paced(clock, 10))
    for _ in range(2):
        call.costing(50)(int)
        call(int)
    assert clock.now == pytest.approx(5 + 0.1 + 5)
    assert call.counts["calls"] == call.costing(3).counts["calls"] == 4


def test_too_fast_halves_the_rate_once_a_second_and_it_grows_back_slowly(clock: Clock) -> None:
    pace = paced(clock, 100)
    for _ in range(20):
        pace.throttled()
    assert pace.rate == 50
    for _ in range(100):
        pace.wait()
    assert 50 < float(pace.rate or 0) < 100
    for _ in range(200):
        pace.wait()
    assert pace.rate == 100


def test_a_given_rate_never_falls_below_a_fiftieth_nor_rises_above_itself(clock: Clock) -> None:
    for rate in (0.01, 1000.0):
        pace = paced(clock, rate)
        for _ in range(20):
            clock.now += 2
            pace.throttled()
        assert pace.rate == pytest.approx(rate / 50)


def test_without_a_rate_nothing_waits_until_the_first_too_fast(clock: Clock) -> None:
    pace = paced(clock, None)
    for _ in range(100):
        pace.wait()
    assert clock.now == 0
    clock.now = 10
    pace.throttled()
    assert pace.rate == pytest.approx(5)  # half of a hundred in ten seconds


@pytest.mark.parametrize("rate", [None, 1000.0])
def test_what_the_service_asks_to_wait_holds_every_thread(clock: Clock, rate: float | None) -> None:
    pace = paced(clock, rate)
    pace.throttled(30)
    pace.wait()
    assert clock.now == pytest.approx(30)


def test_the_wait_that_a_throttle_asks_for_reaches_the_pace(clock: Clock) -> None:
    pace = paced(clock, None)
    call = calling(clock, pace)
    answers = [TransientError("slow down", retry_after=7, throttled=True), None]

    def ask() -> float:
        if error := answers.pop(0):
            raise error
        return clock.now

    assert call(ask) >= 7
    assert (call.counts["retries"], call.counts["throttled"]) == (1, 1)
    pace.wait()
    assert clock.now >= 7
