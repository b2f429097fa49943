"""A process that has imported everything and opened nothing: it forks for each run, and says how that one ended.

Importing costs a second and a half, forking some milliseconds. Asked and answered in lines of JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DIED = 9
"""How a process ends that is told to die at a point."""


@dataclass(frozen=True)
class Ended:
    """A process that is gone: its exit code (minus the signal that killed it), and what it said before."""

    code: int
    said: Mapping[str, Any]

    @property
    def passed(self) -> dict[tuple[str, str], int]:
        """How often it passed each point, before and after."""
        return {(name, side): count for name, side, count in self.said["passed"]}


class Zygote:
    """A running one. Leaving the `with` block stops it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.zygote"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def __call__(self, **asked: Any) -> Ended:
        """Run it in a process of its own, which is gone (and waited for) when this returns."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "trouble" not in answer["said"], answer["said"]["trouble"]
        return Ended(**answer)


def _serve() -> None:
    import tests.crash.runs as runs  # imports all that a run needs

    runs.warm()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever is printed is no answer
    for line in sys.stdin:
        asked = json.loads(line)
        with tempfile.TemporaryFile("w+") as told:
            child = os.fork()
            if child == 0:
                _run(runs, asked, told)
            code = _wait(child, asked.get("kill_after"))
            told.seek(0)
            said = told.read()
        answers.write(json.dumps({"code": code, "said": json.loads(said) if said else {}}) + "\n")
        answers.flush()


def _run(runs: Any, asked: dict[str, Any], told: Any) -> None:
    """In the child; does not return."""
    try:
        said = runs.run(**{name: value for name, value in asked.items() if name != "kill_after"})
    except BaseException:
        said = {"trouble": traceback.format_exc()}
    told.write(json.dumps(said))
    told.flush()
    os._exit(0)


def _wait(child: int, kill_after: float | None) -> int:
    """The exit code. A dead process must be waited for: as long as nobody does it holds its lock."""
    if kill_after is not None:
        until = time.monotonic() + kill_after
        while time.monotonic() < until:
            gone, status = os.waitpid(child, os.WNOHANG)
            if gone:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.0005)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    _serve()
