"""Commands in processes of their own whose memory is measured, and bounded, for the tests of what grows too large.

`python -m tests.extended.bounds CAP REPORT COMMAND...` is `resettle COMMAND...`. It writes its largest resident set to
the file REPORT. Of data it can have no more than eight times CAP (MB), most of which is never touched: a leak ends it,
not the machine.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MB = 1_000_000
SCALE = float(os.environ.get("RESETTLE_BOUNDS", "1"))
"""The part of the full sizes that is run: `RESETTLE_BOUNDS=0.01` while developing."""


def scaled(count: int) -> int:
    """A number of records or files, at the scale that is asked for."""
    return max(int(count * SCALE), 1)


@dataclass(frozen=True)
class Ran:
    """A command that has ended: its exit code, seconds, largest resident set (MB) and the lines it printed."""

    code: int
    seconds: float
    peak: float
    lines: tuple[str, ...]
    errors: str

    @property
    def json(self) -> Any:
        return json.loads("\n".join(self.lines))


def resettle(folder: Path, *command: str, cap: int, code: int = 0, within: float = 3600.0) -> Ran:
    """Run a command on the migration in ``folder``; it must end with ``code``, and never have had ``cap`` MB."""
    report = folder / "peak"
    report.unlink(missing_ok=True)
    asked = [sys.executable, "-m", "tests.extended.bounds", str(cap), str(report), *command, "--migration", str(folder)]
    begun = time.perf_counter()
    done = subprocess.run(asked, capture_output=True, text=True, cwd=ROOT, timeout=within)
    seconds = time.perf_counter() - begun
    assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    ran = Ran(done.returncode, seconds, float(report.read_text()), tuple(done.stdout.splitlines()), done.stderr)
    # The figures are the point of these tests: `pytest -s` or -rP shows them.
    print(f"{' '.join(command)}: {ran.seconds:.1f} s, {ran.peak:.0f} MB, {len(ran.lines)} lines", flush=True)
    assert ran.peak < cap, f"{command}: {ran.peak:.0f} MB"
    return ran


def largest() -> float:
    """MB; not `ru_maxrss`, which begins at the size of the process that started us."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / MB


def write_lines(path: Path, records: Iterator[Mapping[str, Any]]) -> None:
    """Records as JSON lines, one at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        file.writelines(json.dumps(one, separators=(",", ":")) + "\n" for one in records)


def main(cap: str, report: str, *command: str) -> None:
    data = 8 * int(cap) * MB
    resource.setrlimit(resource.RLIMIT_DATA, (data, data))
    from resettle.cli import main as run

    code = 1
    try:
        with suppress(KeyboardInterrupt):
            run(list(command))
    except SystemExit as stop:
        code = int(str(stop.code or 0))
    Path(report).write_text(f"{largest():.1f}")
    sys.exit(code)


if __name__ == "__main__":
    main(*sys.argv[1:])
