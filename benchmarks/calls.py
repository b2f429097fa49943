"""API calls of amplify-media-migrator, counted by the stand-ins that got them: planning, applying, doing it again.

`python -m benchmarks.calls [--files N] [--observations N] [--batch N]`
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import resettle
from benchmarks import table
from benchmarks.table import holds
from resettle.sandbox.module import module_at

FOLDER = Path(__file__).parents[1] / "migrations" / "amplify-media-migrator"
MOST = 400
"""Calls of a plan that 20,000 files and 20,000 observations may take."""


@dataclass(frozen=True)
class Step:
    """What one step asked, by service and kind of call, and how long it took."""

    name: str
    calls: Counter[str]
    seconds: float
    units: dict[str, int]

    @property
    def total(self) -> int:
        return self.calls.total()

    def having(self, *words: str) -> int:
        return sum(count for name, count in self.calls.items() if any(word in name for word in words))


def taken(sandbox: Any) -> Counter[str]:
    """All calls since the last time, by service and kind."""
    found: Counter[str] = Counter()
    for one in sandbox.drive.requests:
        body = one.query.get("alt") == "media"
        found["drive token" if "token" in one.path else "drive body" if body else "drive list or look"] += 1
    for asked in sandbox.store.requests:
        method, _, rest = asked.partition(" ")
        found[f"s3 {'list' if 'list-type' in rest else method}"] += 1
    for fields in sandbox.api.requests:
        found[f"api {'write' if fields[0].startswith('create') else 'read'}"] += 1
    for one in (sandbox.drive, sandbox.store, sandbox.api):
        one.requests.clear()
    return found


def measure(sandbox: Any, name: str, work: Callable[[], Any]) -> Step:
    taken(sandbox)
    started = time.monotonic()
    result = work()
    seconds = time.monotonic() - started
    units = {word: count for word, count in result.counts[0].units.items() if count}
    return Step(name, taken(sandbox), seconds, units)


def run(files: int, observations: int, batch: int) -> list[Step]:
    stack = module_at(FOLDER / "sandbox" / "stack.py")
    with tempfile.TemporaryDirectory() as folder, stack.sandbox(Path(folder), files=files, messy=False) as sandbox:
        there = {one["sequentialId"] for one in sandbox.api.items("Observation")}
        more = max(observations - len(there), 0)
        stack.part("generate").observe(sandbox.api, *range(max(there) + 1, max(there) + 1 + more))
        migration = resettle.load(FOLDER, "local", sandbox.variables)
        options = resettle.Options(batch_size=batch)

        def step(name: str, verb: Any) -> Step:
            with resettle.connect(migration) as connections:
                return measure(sandbox, name, lambda: verb(migration, connections, options))

        return [
            step("plan", resettle.plan),
            step("apply", resettle.apply),
            step("plan again", resettle.plan),
            step("apply again", resettle.apply),
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--observations", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=resettle.Options().batch, help="as `--batch-size`")
    given = parser.parse_args()
    steps = run(given.files, given.observations, given.batch)
    kinds = sorted({kind for step in steps for kind in step.calls})
    print(
        f"{given.files:,} files, {given.observations:,} observations, batches of {given.batch:,}; {table.machine()}\n"
    )
    body = [
        [step.name, *(f"{step.calls[kind]:,}" for kind in kinds), f"{step.total:,}", f"{step.seconds:.0f}"]
        for step in steps
    ]
    table.rows(["step", *kinds, "all", "seconds"], body)
    for step in steps:
        print(f"- {step.name}: {', '.join(f'{count:,} {word}' for word, count in step.units.items())}")
    for step in steps:
        if step.name.startswith("plan"):
            print(f"- {step.name} takes fewer than {MOST} calls: {holds(step.total < MOST)}")


if __name__ == "__main__":
    main()
