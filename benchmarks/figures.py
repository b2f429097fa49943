"""What was measured, by name and repeat, and whether the ratios are those that were wanted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks import step, table

HEAD = ("what", "seconds: median", "min", "max", "whole process: median", "min", "max", "peak MB")
TARGETS = ("target", "wanted", "ratio: median (min to max)", "holds")


@dataclass
class Figures:
    """Measured values by name, one for each repeat."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Around the work itself: `resettle.apply`, a COPY, a statement or a loop."""
    process: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Around the whole process, of resettle's steps only."""
    peak: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    untouched: list[bool] = field(default_factory=list)
    """Whether a no-change apply left the data tables alone."""

    def add(self, name: str, taken: step.Step, *, peer: bool = False) -> None:
        """``peer``: what resettle is compared with, whose interpreter and imports are not counted."""
        self.seconds[name].append(taken.seconds)
        self.peak[name].append(taken.peak)
        if not peer:
            self.process[name].append(taken.process)

    def show(self, names: Sequence[str]) -> None:
        """Times and peak memory of each."""
        body = []
        for name in names:
            around = table.spread(self.process[name]) if name in self.process else "- | - | -"
            peak = f"{max(self.peak[name]):.0f}" if name in self.peak else "-"
            body.append([name, table.spread(self.seconds[name]), around, peak])
        table.rows(HEAD, body)

    def target(
        self, name: str, above: str, below: str, *, most: float | None = None, least: float | None = None
    ) -> list[str]:
        """One line of `TARGETS`, judged twice: by the time around the work and by that of resettle's whole process.

        A peer's time is both times that around its work. With neither `most` nor `least` it is information.
        """
        plain = table.ratios(self.seconds[above], self.seconds[below])
        whole = table.ratios(self._whole(above), self._whole(below))
        said = "; ".join(map(spread, (plain, whole)))
        if most is None and least is None:
            return [name, "-", said, "-"]
        wanted = f"≤ {most}" if most is not None else f"≥ {least}"

        def held(values: list[float]) -> str:
            middle = median(values)
            return table.holds(middle <= most if most is not None else middle >= (least or 0.0))

        return [name, wanted, said, f"{held(plain)}; {held(whole)}"]

    def _whole(self, name: str) -> list[float]:
        return self.process.get(name) or self.seconds[name]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, least and most in one cell."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
