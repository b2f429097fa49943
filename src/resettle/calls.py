"""Caller: pace, retry, translate and count every service call. Nothing else retries, sleeps or paces."""

from __future__ import annotations

import copy
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import tenacity

from resettle.errors import ConnectorError, TransientError

P = ParamSpec("P")
T = TypeVar("T")
Translate = Callable[[BaseException], ConnectorError | None]


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

    def wait(self, cost: float = 1.0) -> None:
        """Block until ``cost`` units may be spent."""
        with self._lock:
            self._spent += cost
            now = self._clock()
            start = max(now, self._next)
            if self.rate is not None:
                self._next = start + cost / self.rate
                self.rate = self.rate * 1.005 if self.ceiling is None else min(self.ceiling, self.rate * 1.005)
        if start > now:
            self._sleep(start - now)

    def throttled(self, retry_after: float | None = None) -> None:
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


class Caller:
    """Calls a service: ``call(fn, *args)`` retries what `translate` says is transient, with jitter.

    An exception that ``translate`` does not know is raised as it is and never retried: not every write is
    idempotent. ``counts`` holds calls, retries and throttles for the run's summary.
    """

    def __init__(
        self,
        translate: Translate,
        *,
        attempts: int = 8,
        pace: Pace | None = None,
        longest: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self._translate = translate
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
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self._attempts),
            wait=self._delay,
            retry=tenacity.retry_if_exception_type(TransientError),
            before_sleep=self._count_retry,
            sleep=self._sleep,
            reraise=True,
        )
        result: T = retrying(self._once, fn, *args, **kwargs)
        return result

    def _once(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        self._pace.wait(self._cost)
        self.counts["calls"] += 1
        try:
            return fn(*args, **kwargs)
        except ConnectorError:
            raise
        except Exception as error:
            translated = self._translate(error)
            if translated is None:
                raise
            raise translated from None  # a driver's own text may hold values

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
            self._pace.throttled(error.retry_after)
