"""Time that passes only when somebody sleeps: no test waits for what is waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from resettle.calls import Caller, Pace, Quota


class Time:
    """The same for all threads; what they sleep side by side adds up."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self._turn = threading.Lock()
        self.meanwhile: Callable[[], None] = lambda: None
        """What happens whenever somebody sleeps."""

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self._turn:
            self.now += max(seconds, 0.0)
            self.meanwhile()


@contextmanager
def virtual() -> Iterator[Time]:
    """Every Caller, Pace and Quota that is made meanwhile goes by it."""
    time = Time()
    with pytest.MonkeyPatch.context() as patched:
        for kind in (Caller, Pace, Quota):
            defaults = kind.__init__.__kwdefaults__
            patched.setitem(defaults, "sleep", time.sleep)
            if "clock" in defaults:
                patched.setitem(defaults, "clock", time)
        yield time
