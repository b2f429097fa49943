"""One resettle step in a process of its own, so that its time and its peak memory are its own.

`python -m benchmarks.step EXPORT URL` prints one line of JSON: see `Step`.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.server import MEDZEN


@dataclass(frozen=True)
class Step:
    """What one step took."""

    apply: float
    """Seconds around `resettle.apply`, measured inside the process."""
    process: float
    """Seconds around the whole process: interpreter, imports, connections and apply."""
    peak: float
    """The process' largest resident set, in MB (1,000,000 bytes)."""
    units: Mapping[str, int]


def run(export: Path, url: str, expected: Mapping[str, int]) -> Step:
    """Apply the flow `sessions` in a fresh process; its balance must be what is expected."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.step", str(export), url]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
    process = time.perf_counter() - begun
    said: dict[str, Any] = json.loads(done.stdout)
    if said["units"] != expected:
        raise SystemExit(f"expected {dict(expected)}, resettle says {said['units']}: nothing measured")
    return Step(said["apply"], process, said["peak"], said["units"])


def main() -> None:
    import resettle
    from resettle.memory import steady

    steady()  # as the command line does
    export, url = sys.argv[1:]
    migration = resettle.load(MEDZEN, "local", {"MEDZEN_EXPORT": export, "SUPABASE_DB_URL": url})
    with resettle.connect(migration) as connections:
        begun = time.perf_counter()
        applied = resettle.apply(migration, connections, resettle.Options(select=("sessions",)))
        seconds = time.perf_counter() - begun
    units = {str(status): count for status, count in applied.counts[0].units.items() if count}
    print(json.dumps({"apply": seconds, "peak": _peak(), "units": units}))


def _peak() -> float:
    """MB; from /proc where there is one, because `ru_maxrss` begins at the size of the process that started us."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
