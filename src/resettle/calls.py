"""Caller: pace, retry, translate and count every service call. Nothing else retries, sleeps or paces."""

from __future__ import annotations

import copy
import email.utils
import ipaddress
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import ParamSpec, TypeVar
from urllib.parse import urlsplit

import tenacity

from resettle.errors import ConfigError, ConnectorError, TransientError

P = ParamSpec("P")
T = TypeVar("T")
Translate = Callable[[BaseException], ConnectorError | None]

_WINDOW = 60.0
"""Seconds for which a quota counts."""
_CREDIT = 1 / 6
"""The part of a window that is made up for when nothing was asked meanwhile."""
_GAP, _LONGEST_GAP = 1.0, 8.0
"""Seconds between two calls that ask whether a quota is free again: the first, and at most."""
_USED = 0.99
"""The part of a quota that is used: calls do not arrive as evenly as they are sent, nor minutes begin together."""
_MARGIN, _GROWTH = 0.98, 0.01
"""What of a quota that was learned is used, and by what part it grows in its first window without a refusal."""


def on_this_machine(host: str) -> bool:
    """Whether a host's name or address leads nowhere else."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def in_the_open(url: str) -> bool:
    """Whether what is sent there could be read on its way: it goes elsewhere without TLS."""
    given = urlsplit(url)
    return given.scheme != "https" and not on_this_machine(given.hostname or "")


def demand_tls(url: str, setting: str) -> None:
    """Raises ConfigError where a secret that is sent there could be read on its way."""
    if in_the_open(url):
        raise ConfigError(f"`{setting}` must begin with https://", hint="secrets would be sent in the open")


def seconds_of(retry_after: str | None) -> float | None:
    """What a Retry-After header asks for: seconds, or a date (RFC 9110, 10.2.3). None where it says neither."""
    if not retry_after or retry_after.isdecimal():
        return float(retry_after) if retry_after else None
    try:
        when = email.utils.parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(when.timestamp() - time.time(), 0.0)


class Pace:
    """An adaptive limit in units a second: additive increase, halved when the service says "too fast".

    ``rate`` None means unlimited until the first throttle, which sets the limit to what was last achieved.
    Never slower than a fiftieth of a given rate. Shared by all threads of a connection.
    """

    def __init__(
        self,
        rate: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.rate = rate
        self.ceiling = rate
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._next = clock()
        self._started, self._spent = clock(), 0.0
        self._halved = float("-inf")

    def wait(self, cost: float = 1.0) -> float:
        """Block until ``cost`` units may be spent; gives the time it then is."""
        with self._lock:
            self._spent += cost
            now = self._clock()
            start = max(now, self._next)
            if self.rate is not None:
                self._next = start + cost / self.rate
                self.rate = self.rate * 1.005 if self.ceiling is None else min(self.ceiling, self.rate * 1.005)
        if start > now:
            self._sleep(start - now)
        return self._clock()

    def accepted(self, cost: float, began: float) -> None:
        """The service let a call through that began at that time."""

    def throttled(self, retry_after: float | None = None, began: float = float("inf")) -> None:
        """The service refused for speed: halve the rate, once a second however many threads were refused.

        Where it said how long to wait (seconds), no thread goes on before that.
        """
        with self._lock:
            now = self._clock()
            self._next = max(self._next, now + (retry_after or 0.0))
            if now - self._halved < 1.0:
                return
            self._halved = now
            achieved = self._spent / max(now - self._started, 0.1)
            floor = self.ceiling / 50 if self.ceiling else 0.1
            self.rate = max((self.rate or achieved) / 2, floor)


class _Spent:
    """What was spent in the last window: when, and how much, in order."""

    def __init__(self) -> None:
        self._kept: deque[tuple[float, float]] = deque()
        self.sum = 0.0

    def add(self, when: float, units: float) -> None:
        self._kept.append((when, units))
        self.sum += units

    def forget(self, before: float) -> None:
        while self._kept and self._kept[0][0] <= before:
            self.sum -= self._kept.popleft()[1]

    def room(self, most: float) -> float:
        """When that was spent which has to be forgotten before the rest is no more than that."""
        left = self.sum
        for when, units in self._kept:
            if left <= most:
                break
            left -= units
            last = when
        return last if left < self.sum else float("-inf")


class Quota(Pace):
    """A limit of so many units in a window of a minute, which is learned where the service allows less.

    A refusal says that a window's units are used up: they are what was let through in the last one. Until something
    is let through again, one call at a time asks, after longer and longer waits. The longer nothing is refused, the
    faster the rate grows back: by a hundredth in the first window, by twice as much in each that follows.
    """

    def __init__(
        self,
        units: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        rate = units / _WINDOW * _USED
        super().__init__(rate, clock=clock, sleep=sleep)
        self.rate: float = rate
        self._sent, self._passed = _Spent(), _Spent()
        self._refused: float | None = None
        """When the last call began that was refused; None once one was let through."""
        self._gap = 0.0
        self._grown, self._growth = clock(), _GROWTH

    def wait(self, cost: float = 1.0) -> float:
        """Block until ``cost`` units may be spent; gives the time it then is."""
        while True:
            with self._lock:
                now = self._clock()
                refused = self._refused is not None
                start = max(now, self._next) if refused else self._booked(now, cost)
                if refused and start == now:
                    self._next = now + self._gap
            if start > now:
                self._sleep(start - now)
            with self._lock:
                # Who waited for its turn meanwhile waits for the one that asks.
                if self._refused is None or (refused and start == now):
                    return self._clock()

    def _booked(self, now: float, cost: float) -> float:
        """The moment for so many units. Time in which nothing was asked is made up for, but in no window more goes out
        than one holds: after a burst that is when what went out a window ago falls out of it."""
        self._grow(now)
        due = max(self._next, now - _CREDIT * _WINDOW)
        self._next = due + cost / self.rate
        self._sent.forget(now - _WINDOW)
        start = max(now, due, self._sent.room(self.rate * _WINDOW - cost) + _WINDOW)
        self._sent.add(start, cost)
        return start

    def accepted(self, cost: float, began: float) -> None:
        with self._lock:
            now = self._clock()
            self._passed.add(now, cost)
            self._passed.forget(now - _WINDOW)
            if self._refused is not None and began > self._refused:
                self._refused, self._next = None, now
                self._grown, self._growth = now, _GROWTH

    def throttled(self, retry_after: float | None = None, began: float = float("inf")) -> None:
        with self._lock:
            now = self._clock()
            if self._refused is None:
                self._learn(now)
                self._refused, self._gap, self._next = now, _GAP, now + _GAP
            elif began > self._refused:  # not one of those that were on their way already
                self._refused, self._gap = now, min(2 * self._gap, _LONGEST_GAP)
                self._next = now + self._gap
            self._next = max(self._next, now + (retry_after or 0.0))

    def _learn(self, now: float) -> None:
        """In our first window it may be that others used it up before us: then not less than half."""
        self._passed.forget(now - _WINDOW)
        least = self.rate / 2 if now - self._started < _WINDOW else 0.0
        ceiling = self.ceiling or self.rate
        self.rate = max(min(self.rate, self._passed.sum / _WINDOW * _MARGIN), least, ceiling / 50)

    def _grow(self, now: float) -> None:
        if now - self._grown >= _WINDOW and self._refused is None:
            self.rate = min(self.ceiling or self.rate, self.rate * (1 + self._growth))
            self._grown, self._growth = now, 2 * self._growth


class Caller:
    """Calls a service: ``call(fn, *args)`` retries what `translate` says is transient, with jitter.

    An exception that ``translate`` does not know is raised as it is and never retried: not every write is
    idempotent. ``counts`` holds calls, retries and throttles for the run's summary. Every error names ``connection``,
    if it names none.
    """

    def __init__(
        self,
        translate: Translate,
        *,
        connection: str = "",
        attempts: int = 8,
        pace: Pace | None = None,
        longest: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self._translate, self._connection = translate, connection
        self._pace = pace or Pace(sleep=sleep)
        self._rng = rng or random.Random()
        self._longest = longest
        self._attempts, self._sleep = attempts, sleep
        self._cost = 1.0
        self.counts: Counter[str] = Counter()

    def costing(self, units: float) -> Caller:
        """This caller for calls that cost so many units of its pace; they are paced and counted together."""
        dearer = copy.copy(self)
        dearer._cost = units
        return dearer

    def __call__(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return self._once(fn, *args, **kwargs)
        except TransientError as error:
            failed = [error]

        def once() -> T:
            if failed:
                raise failed.pop()
            return self._once(fn, *args, **kwargs)

        # Made only for a call that failed: it takes longer than many a call.
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self._attempts),
            wait=self._delay,
            retry=tenacity.retry_if_exception_type(TransientError),
            before_sleep=self._count_retry,
            sleep=self._sleep,
            reraise=True,
        )
        result: T = retrying(once)
        return result

    def _once(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        began = self._pace.wait(self._cost)
        self.counts["calls"] += 1
        try:
            result = self._translated(fn, *args, **kwargs)
        except TransientError as error:
            if error.throttled:
                self._pace.throttled(error.retry_after, began)
            raise
        self._pace.accepted(self._cost, began)
        return result

    def _translated(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return fn(*args, **kwargs)
        except ConnectorError as error:
            error.of(self._connection)
            raise
        except Exception as error:
            translated = self._translate(error)
            if translated is None:
                raise
            raise translated.of(self._connection) from None  # a driver's own text may hold values

    def _delay(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, TransientError) and error.retry_after else 0.0
        backoff = self._rng.uniform(0, min(self._longest, 0.1 * 2**state.attempt_number))
        return max(asked, backoff)

    def _count_retry(self, state: tenacity.RetryCallState) -> None:
        self.counts["retries"] += 1
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, TransientError) and error.throttled:
            self.counts["throttled"] += 1
