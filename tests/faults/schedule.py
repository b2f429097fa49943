"""A bad day, drawn from a seed: what goes wrong with each request, in whatever order threads send them."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Sequence

from tests.faults.virtual import Time

RATES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5)
OUTAGES = (0, 0, 0, 2, 5, 8, 14)
"""How often in a row a request fails that an outage hits: a `Caller` tries eight times."""
WAITS = (None, None, 1, 7, 30)
"""What a service that is too busy says of Retry-After, in seconds."""


class Schedule:
    """Asked before each request, with what is asked, what goes wrong with it: a word, or None.

    The answer is drawn from the seed, the request and how often it was asked before, and from nothing else. ``often``
    are kinds that may pass, of which each day has some; ``ends`` are those that nothing can be done about. ``milder``:
    by what part a request of this service is as likely to meet with any.
    """

    def __init__(
        self, seed: int | str, often: Sequence[str], ends: Sequence[str], time: Time, *, milder: float = 1.0
    ) -> None:
        self.seed = seed
        self._time = time
        day = random.Random(f"day {seed}")
        self.kinds = day.sample(often, day.randint(1, len(often)))
        self.rate, self._hit = milder * day.choice(RATES), milder * 0.2
        self.outage = day.choice(OUTAGES)
        self.wait = day.choice(WAITS)
        self._ends = day.choice([(), (), (), ends])
        self._turn = threading.Lock()
        self._met: Counter[str] = Counter()
        self._not_before: dict[str, float] = {}
        self.struck: Counter[str] = Counter()
        self.hasty: list[str] = []
        """Requests that came before the service had said."""

    @property
    def asked(self) -> int:
        return self._met.total()

    def __call__(self, asked: str) -> str | None:
        with self._turn:
            nth = self._met[asked]
            self._met[asked] += 1
            if self._time.now < self._not_before.pop(asked, 0.0):
                self.hasty.append(asked)
            kind = self._drawn(asked, nth)
            if kind is not None:
                self.struck[kind] += 1
            return kind

    def waits(self, asked: str) -> int | None:
        """Of Retry-After; whoever asks for this again has to obey."""
        if self.wait is not None:
            with self._turn:
                self._not_before[asked] = self._time.now + self.wait
        return self.wait

    def _drawn(self, asked: str, nth: int) -> str | None:
        here = random.Random(f"{self.seed} {asked}")
        if here.random() < self._hit and nth < self.outage:
            return here.choice(self.kinds)
        once = random.Random(f"{self.seed} {asked} {nth}")
        if self._ends and once.random() < 0.05:
            return once.choice(self._ends)
        return once.choice(self.kinds) if once.random() < self.rate else None
