"""The evidence of docs/guarantees.md in numbers: `make evidence` collects the tests and writes the table anew.

A section's tests are those that it names; each counts with all the cases that it is run with.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.crash.points import MIGRATIONS, POINTS, SIDES
from tests.crash.test_crash_soak import KILLS, MANY
from tests.faults.migrating import WORLDS
from tests.faults.test_fault_runs import EXTENDED, SLOW, USUAL
from tests.faults.test_fault_schedules import SERVICES

PAGE = Path(__file__).parents[1] / "docs" / "guarantees.md"
PART = re.compile(r"(<!-- evidence -->\n)(.*?)(<!-- /evidence -->)", re.DOTALL)
SECTION = re.compile(r"^#{2,3} (.+?)\n(.*?)(?=^#{2,3} |\Z)", re.MULTILINE | re.DOTALL)


class Collected:
    """How many cases each test has, by its name: those of every run, and those of the extended tests."""

    def __init__(self) -> None:
        self.usual: Counter[str] = Counter()
        self.extended: Counter[str] = Counter()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            name = getattr(item, "originalname", None) or item.name
            (self.extended if item.get_closest_marker("extended") else self.usual)[name] += 1


def table(collected: Collected, page: str) -> str:
    """A row for each section that names tests, then what the crash and fault tests go through."""
    rows = ["| promise | tests | cases | more in the extended tests |", "|---|---|---|---|"]
    for title, text in SECTION.findall(page):
        names = set(re.findall(r"`(test_\w+)`", text))
        if names:
            cases = [sum(counted[name] for name in names) for counted in (collected.usual, collected.extended)]
            rows.append(f"| {title} | {len(names):,} | {cases[0]:,} | {cases[1]:,} |")
    passed = sum(len(set(MIGRATIONS) - set(point.not_passed)) for point in POINTS)
    rows.append(
        f"| all tests | {len(collected.usual):,} | {collected.usual.total():,} | {collected.extended.total():,} |"
    )
    return "\n".join(
        [
            *rows,
            "",
            f"Crashes: {len(POINTS)} points, before and after, of {len(MIGRATIONS)} migrations: {passed * len(SIDES)}"
            f" places to die, each at its first passing at least; {KILLS * len(MIGRATIONS)} kills at random moments,"
            f" {MANY * len(MIGRATIONS)} in the extended tests.",
            "",
            f"Faults: {sum(days for _, days in SERVICES.values()):,} bad days of {len(SERVICES)} services and"
            f" {sum(USUAL - (name in SLOW) for name in WORLDS)} of whole runs;"
            f" {EXTENDED * len(WORLDS)} more of whole runs in the extended tests.",
            "",
        ]
    )


def main() -> int:
    collected = Collected()
    ended = pytest.main(["--collect-only", "-qqq", "-p", "no:xdist", "-o", "addopts="], [collected])
    if ended not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        return int(ended)
    page = PAGE.read_text("utf-8")
    written = table(collected, PART.sub("", page))
    PAGE.write_text(PART.sub(lambda found: found[1] + written + found[3], page), "utf-8")
    print(written)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
