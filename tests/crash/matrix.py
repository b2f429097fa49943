"""One case of the matrix: die, look at what is left, run again, compare with a run that nothing disturbed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.crash.points import Point
from tests.crash.states import Effects, Found, Tables, World
from tests.crash.zygote import DIED, Ended

OUTCOMES = {"done", "held"}


@dataclass(frozen=True)
class Undisturbed:
    """How a phase ends if nothing happens, and what it passes."""

    begun: Found
    ended: Found
    effects: Effects
    passed: Mapping[tuple[str, str], int]
    status: str
    seconds: float
    """What one run takes on this machine."""


@dataclass
class Matrix:
    """The cases of one migration. What was run to its end from a state needs not be run from the same state again."""

    world: World
    _undisturbed: dict[tuple[str, str], Undisturbed] = field(default_factory=dict)
    _continued: set[tuple[str, str, str]] = field(default_factory=set)

    def start(self, point: Point, phase: str) -> str:
        return "applied" if phase == "rollback" else point.start

    def undisturbed(self, state: str, phase: str) -> Undisturbed:
        """Run once; the same every time."""
        if (state, phase) not in self._undisturbed:
            self.world.at(state)
            begun = self.world.found()
            started = time.monotonic()
            ended = self.world.go(phase)
            passed, seconds = ended.passed, time.monotonic() - started
            if self.world.minting and phase == "apply":
                self.world.at(state)
                ended = self._to_the_end(phase)
            assert ended.code == 0
            self._undisturbed[state, phase] = Undisturbed(
                begun, self.world.found(), self.world.effects(), passed, ended.said["status"], seconds
            )
        return self._undisturbed[state, phase]

    def die(self, point: Point, phase: str, side: str, nth: int, *, thorough: bool = False) -> None:
        """One case."""
        state = self.start(point, phase)
        calm = self.undisturbed(state, phase)
        self.world.at(state)
        given: dict[str, Any] = {"settings": point.settings} if point.settings else {}
        dead = self.world.go(phase, point=point.name, side=side, nth=nth, **given)
        assert dead.code == DIED, f"it was to die {side} `{point.name}` ({nth})"
        left = self.world.found()
        lasts = point.durable[side == "after"]
        if nth == 1 and lasts is not None:
            assert (left.traces != calm.begun.traces) is lasts, "what is on disk then is not what its point says"
        self.go_on(calm, state, phase, left, thorough=thorough)

    def go_on(self, calm: Undisturbed, state: str, phase: str, left: Found, *, thorough: bool) -> None:
        """Run again, and compare: every row, object and API row, all that is remembered, and what was done to whom."""
        key = (state, phase, f"{left.state}{sorted(self.world.effects().items())}")
        if key in self._continued and not thorough:
            return
        self.continue_and_compare(calm, phase)
        assert self.world.effects() == calm.effects, "something was done twice, or not at all"
        self._continued.add(key)

    def continue_and_compare(self, calm: Undisturbed, phase: str) -> None:
        """After any number of deaths: run to the end, and compare what is there."""
        self._to_the_end(phase)
        self.compare(calm)

    def compare(self, calm: Undisturbed) -> None:
        found = self.world.found()
        wrong = [*_differences(found.target, calm.ended.target), *_differences(found.memory, calm.ended.memory)]
        assert not wrong, "\n".join(wrong[:10])
        assert found.unfinished == 0
        assert found.lock is None
        assert {status for _, _, status, _ in found.runs} <= {*OUTCOMES, "died"}
        *_, (_, _, status, completed) = found.runs
        assert (status, completed) == (calm.status, True)

    def _to_the_end(self, phase: str) -> Ended:
        """Run as often as it takes to prove it. Fingerprints of minted ids are proven by a run that looks at all."""
        do = "settle" if self.world.minting and phase == "apply" else phase
        ended = self.world.go(do)
        assert ended.code == 0
        assert ended.said["status"] in OUTCOMES
        assert ended.said.get("written_again", 0) == 0
        return ended


def _differences(found: Tables, wanted: Tables) -> Iterator[str]:
    """Every row that is too many or missing."""
    for name in sorted({*found, *wanted}):
        here, there = Counter(found.get(name, ())), Counter(wanted.get(name, ()))
        yield from (f"{name}: too many: {row}" for row in (here - there).elements())
        yield from (f"{name}: missing: {row}" for row in (there - here).elements())
