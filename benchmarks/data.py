"""The rows: as the migrations' generators write them, made once and kept in benchmarks/.data (git-ignored)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from benchmarks.step import MIGRATIONS
from resettle.sandbox.module import module_at

CACHE = Path(__file__).parent / ".data"


def export(rows: int, changed: float = 0.0) -> Path:
    """The folder of an export of `rows` sessions, that part of them changed; without messy items."""
    folder = CACHE / f"export-{rows}-{changed:g}"
    if not folder.exists():
        making = folder.with_suffix(".making")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        # In a process of its own: what it needs would count towards the peak memory of later children.
        command = [
            sys.executable,
            str(MIGRATIONS / "medzen" / "sandbox" / "generate.py"),
            str(making),
            "--sessions",
            str(rows),
        ]
        subprocess.run([*command, "--changed", str(changed), "--no-messy", "--no-notes", "--no-audit"], check=True)
        making.rename(folder)
    return folder


def generator(migration: str) -> ModuleType:
    """The module that makes a migration's rows: it stands beside its sandbox, in no package."""
    return module_at(MIGRATIONS / migration / "sandbox" / "generate.py")
