"""Caller and Pace on a clock of their own: what calls cost, what a service's "too fast" does, who waits for whom."""

from __future__ import annotations

import random
import threading
import time

import pytest

from resettle.calls import Caller, Pace, Quota
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


# -- quotas of a window ----------------------------------------------------------------------------


class Metered:
    """A service that lets so many units through in each minute since its first call, and refuses the rest."""

    def __init__(self, clock: Clock, allowed: float) -> None:
        self.clock, self.allowed = clock, allowed
        self.left, self.since, self.begun = allowed, clock(), clock()
        self.passed = self.refused = 0

    def __call__(self) -> None:
        if self.clock() - self.since >= 60:
            self.left, self.since = self.allowed, self.clock()
        if self.left < 1:
            self.refused += 1
            raise TransientError("too fast", throttled=True)
        self.left -= 1
        self.passed += 1

    def used(self) -> float:
        return self.passed / (self.allowed / 60 * (self.clock() - self.begun))


def quota(clock: Clock, units: float) -> Quota:
    return Quota(units, clock=clock, sleep=clock.sleep)


def test_a_quota_that_is_as_believed_is_used_up_and_never_tripped(clock: Clock) -> None:
    service, call = Metered(clock, 6000), calling(clock, quota(clock, 6000))
    for _ in range(20_000):
        call(service)
    assert service.used() > 0.98
    assert service.refused == 0


def test_time_in_which_nothing_was_asked_is_made_up_for_without_a_refusal(clock: Clock) -> None:
    service, call = Metered(clock, 6000), calling(clock, quota(clock, 6000))
    for number in range(20_000):
        call(service)
        if number % 700 == 0:
            clock.now += 2
    assert service.used() > 0.96
    assert service.refused == 0


def test_in_no_minute_more_goes_out_than_it_holds(clock: Clock) -> None:
    pace, sent = quota(clock, 600), []
    chance = random.Random(1)
    for number in range(5000):
        sent.append(pace.wait(2))
        clock.now += chance.choice([0, 0, 0.1, 5 if number % 50 == 0 else 0])
    last = 0
    for number, when in enumerate(sent):
        while sent[last] <= when - 60:
            last += 1
        assert 2 * (number - last + 1) <= 600


@pytest.mark.parametrize("part", [0.9, 0.7, 0.55])
def test_a_quota_that_is_less_than_believed_is_learned_by_a_few_refusals(clock: Clock, part: float) -> None:
    service, call = Metered(clock, 6000 * part), calling(clock, quota(clock, 6000))
    for _ in range(20_000):
        call(service)
    assert service.used() > 0.9
    assert service.refused < 2.5 * (clock.now / 60)
    assert call.counts["throttled"] == service.refused


def test_refusals_of_calls_that_were_on_their_way_count_as_one(clock: Clock) -> None:
    pace = quota(clock, 6000)
    began = [pace.wait() for _ in range(10)]
    for one in began:
        pace.throttled(None, one)
    assert pace.rate == pytest.approx(
        0.99 * 50
    )  # in the first window others may have used it up: halved once, and not to nothing
    before = clock.now
    pace.wait()
    assert clock.now == pytest.approx(before + 1)


def test_while_nothing_is_let_through_calls_ask_after_longer_and_longer_waits(clock: Clock) -> None:
    pace, waited = quota(clock, 6000), []
    pace.throttled(None, pace.wait())
    for _ in range(6):
        before = clock.now
        began = pace.wait()
        waited.append(clock.now - before)
        pace.throttled(None, began)
    assert waited == pytest.approx([1, 2, 4, 8, 8, 8])
    pace.accepted(1, pace.wait())
    before = clock.now
    pace.wait()
    assert clock.now == before


def test_a_call_let_through_that_began_before_the_refusal_does_not_end_the_waiting(clock: Clock) -> None:
    pace = quota(clock, 6000)
    early = pace.wait()
    pace.throttled(None, pace.wait())
    pace.accepted(1, early)
    before = clock.now
    pace.wait()
    assert clock.now == pytest.approx(before + 1)


def test_a_learned_quota_grows_back_ever_faster_and_never_above_what_was_believed(clock: Clock) -> None:
    pace = quota(clock, 6000)
    pace.throttled(None, pace.wait())
    pace.accepted(1, pace.wait())
    rates = []
    for _ in range(9):
        clock.now += 60
        pace.wait()
        rates.append(pace.rate)
    assert rates[0] == pytest.approx(0.99 * 50 * 1.01)
    assert rates[1] == pytest.approx(rates[0] * 1.02)
    assert rates[-1] == pytest.approx(99)


def test_other_threads_wait_while_one_asks_whether_a_quota_is_free_again() -> None:
    pace = Quota(60_000)
    pace.throttled(None, pace.wait())
    passed: list[float] = []

    def go() -> None:
        passed.append(pace.wait())

    threads = [threading.Thread(target=go, daemon=True) for _ in range(5)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 5
    while not passed and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert len(passed) == 1
    pace.accepted(1, passed[0])
    for thread in threads:
        thread.join(5)
    assert len(passed) == 5
