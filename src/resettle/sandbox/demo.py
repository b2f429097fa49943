"""A migration's demo: its local stack, and the commands that show the main job from check to replay.

A migration brings `sandbox/stack.py` with ``stack(folder)``, a context manager that starts what the `local`
environment needs, fills the source and yields environment variables, and ``correct(folder)``, which mends the
source's bad records as its owner would.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from resettle.errors import ConfigError
from resettle.sandbox.module import module_at


@dataclass(frozen=True)
class Step:
    """One command of the demo, why it is run, and the exit code it should have."""

    why: str
    command: tuple[str, ...]
    expect: int = 0


def steps(plan_file: Path) -> tuple[list[Step], list[Step]]:
    """The commands before and after the source is corrected."""
    before = [
        Step("Can this mapping work? Both live sides are looked at, nothing is written.", ("check",)),
        Step("What would happen, record by record counted? Save it.", ("plan", "--out", str(plan_file))),
        Step("Do exactly that. Exit code 3: done, and some records are held.", ("apply", str(plan_file)), 3),
        Step("Which records need a person, and why?", ("held", "list")),
        Step("Did everything else arrive? The source is read and shaped again, the target looked at.", ("verify",)),
        Step("A second apply: nothing changed, so nothing is written.", ("apply",), 3),
        Step("How far are we?", ("status",)),
    ]
    after = [
        Step("Their owner corrected some of the held records. Try only those again.", ("held", "replay"), 3),
        Step("And the proof once more.", ("verify",)),
        Step("Every run is in the ledger, beside the data.", ("runs",)),
        Step("All of it on one page, to be sent on: open it in a browser.", ("report",)),
    ]
    return before, after


def find(name: str) -> Path:
    """The folder of a migration of this checkout. Raises ConfigError, naming those there are."""
    root = Path("migrations")
    folder = root / name
    if not (folder / "sandbox" / "stack.py").is_file():
        there = sorted(path.parent.parent.name for path in root.glob("*/sandbox/stack.py"))
        raise ConfigError(
            f"no demo `{name}` below {root.resolve()}",
            hint=f"demos: {', '.join(there)}" if there else "run it in a checkout of resettle",
        )
    return folder


@contextmanager
def local_stack(migration: Path) -> Iterator[tuple[Path, ModuleType]]:
    """The migration's stack, running, with its variables in this process's environment."""
    module = module_at(migration / "sandbox" / "stack.py")
    with tempfile.TemporaryDirectory(prefix="resettle-demo-") as name, module.stack(Path(name)) as variables:
        before = dict(os.environ)
        os.environ.update(variables)
        try:
            yield Path(name), module
        finally:
            os.environ.clear()
            os.environ.update(before)
