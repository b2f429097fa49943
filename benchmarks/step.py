"""One step in a process of its own, so that its time and its peak memory are its own.

`python -m benchmarks.step` reads `{"call": "module:function", "arguments": {...}}` from stdin, calls the function and
prints what it gives (a dictionary or a dataclass, with `seconds`) and its peak memory as one line of JSON.
"""

from __future__ import annotations

import importlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MIGRATIONS = Path(__file__).parents[1] / "migrations"


@dataclass(frozen=True)
class Step:
    """What one step took."""

    seconds: float
    """What the function measured inside the process: around `resettle.apply`, a statement or a loop."""
    process: float
    """Seconds around the whole process: interpreter, imports, connections and the work."""
    peak: float
    """The process' largest resident set, in MB (1,000,000 bytes)."""
    said: Mapping[str, Any]
    """All that the function gave."""


def alone(call: str, **arguments: Any) -> Step:
    """Call a function ("module:function") in a fresh process; its arguments and its answer are JSON."""
    begun = time.perf_counter()
    # Not as arguments of the process: a password in a URL would show in the list of processes.
    asked = json.dumps({"call": call, "arguments": arguments}).encode()
    command = [sys.executable, "-m", "benchmarks.step"]
    done = subprocess.run(command, check=True, input=asked, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
    process = time.perf_counter() - begun
    said: dict[str, Any] = json.loads(done.stdout)
    return Step(said["seconds"], process, said.pop("peak"), said)


def apply(
    migration: str,
    variables: Mapping[str, str],
    flow: str,
    expected: Mapping[str, int] | None = None,
    *,
    environment: str = "local",
    settings: Mapping[str, Mapping[str, str]] | None = None,
) -> Step:
    """Apply one flow of a migration in a fresh process; its balance must be what is expected.

    ``settings``: by connection, what no variable of the migration sets.
    """
    asked = {"migration": migration, "environment": environment, "variables": dict(variables), "flows": [flow]}
    taken = alone("benchmarks.step:migrate", **asked, settings=settings or {})
    units = taken.said["units"][flow]
    if expected is not None and units != expected:
        raise SystemExit(f"expected {dict(expected)}, resettle says {units}: nothing measured")
    return taken


def run(export: Path, url: str, expected: Mapping[str, int]) -> Step:
    """Apply medzen's flow `sessions` in a fresh process; its balance must be what is expected."""
    return apply("medzen", {"MEDZEN_EXPORT": str(export), "SUPABASE_DB_URL": url}, "sessions", expected)


def migrate(
    migration: str,
    environment: str,
    variables: Mapping[str, str],
    flows: Sequence[str],
    settings: Mapping[str, Mapping[str, str]],
) -> dict[str, Any]:
    """Inside the process: apply these flows; units by flow and status, and the flow's own summary."""
    import resettle
    from resettle.memory import steady

    steady()  # as the command line does
    loaded = resettle.load(MIGRATIONS / migration, environment, variables)
    for name, more in settings.items():
        loaded.connections[name].update(more)  # type: ignore[attr-defined]
    with resettle.connect(loaded) as connections:
        begun = time.perf_counter()
        applied = resettle.apply(loaded, connections, resettle.Options(select=tuple(flows)))
        seconds = time.perf_counter() - begun
    counted = {one.flow: one for one in applied.counts}
    units = {flow: {str(s): n for s, n in one.units.items() if n} for flow, one in counted.items()}
    return {"seconds": seconds, "units": units, "summary": {flow: dict(one.summary) for flow, one in counted.items()}}


def main() -> None:
    asked = json.load(sys.stdin)
    module, _, function = asked["call"].partition(":")
    said = getattr(importlib.import_module(module), function)(**asked["arguments"])
    answer = said if isinstance(said, dict) else asdict(said)
    print(json.dumps({**answer, "peak": _peak()}))


def _peak() -> float:
    """MB; from /proc where there is one, because `ru_maxrss` begins at the size of the process that started us."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
