"""Tools that copy a bucket into another: resettle, rclone and s5cmd, each as one would call it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.step import Step
from benchmarks.stores import BINARIES, REGION, Store

OLD, NEW = "recordings", "copies"
"""The bucket to copy from, and the one to copy into."""

MIGRATION = f"""\
migration: recordings
connections:
  old:
    type: s3
    bucket: {OLD}
    endpoint: "${{OLD_ENDPOINT}}"
    region: {REGION}
    access_key: "${{OLD_KEY}}"
    secret_key: "${{OLD_SECRET}}"
    readonly: true
  new:
    type: s3
    bucket: {NEW}
    endpoint: "${{NEW_ENDPOINT}}"
    region: {REGION}
    access_key: "${{NEW_KEY}}"
    secret_key: "${{NEW_SECRET}}"
flows:
  recordings:
    from: old.objects
    unit: key
    outputs:
      object:
        into: new.objects
        body: key
        columns:
          key: key
          size: size
          md5: md5
"""


@dataclass(frozen=True)
class Ends:
    """Both stores, and a folder that is gone after the step."""

    old: Store
    new: Store
    folder: Path


def resettle(ends: Ends, concurrency: int | None, units: int) -> Step:
    """`resettle apply` into an empty bucket with an empty ledger; every unit must be done."""
    (ends.folder / "migration.yaml").write_text(MIGRATION)
    environment = {}
    for name, store in (("OLD", ends.old), ("NEW", ends.new)):
        environment[f"{name}_ENDPOINT"] = store.endpoint
        environment[f"{name}_KEY"], environment[f"{name}_SECRET"] = store.access_key, store.secret_key
    command = [str(Path(sys.executable).parent / "resettle"), "apply", "--json"]
    if concurrency is not None:
        command += ["--concurrency", str(concurrency)]
    taken, said = _run(command, ends.folder, environment)
    done = [flow["done"] for flow in json.loads(said)["flows"]]
    if done != [units]:
        raise SystemExit(f"expected {units} units done, resettle says {done}: nothing measured")
    if not (ends.folder / ".resettle" / "ledger.sqlite").exists():
        raise SystemExit("there is no ledger: nothing measured")
    return taken


def rclone(ends: Ends, transfers: int, units: int) -> Step:
    """`rclone copy` between two remotes, so through this machine; checksums are compared, its default."""
    environment = {"RCLONE_CONFIG": str(ends.folder / "rclone.conf")}
    for name, store in (("OLD", ends.old), ("NEW", ends.new)):
        settings = {
            "TYPE": "s3",
            "PROVIDER": "SeaweedFS",
            "ENDPOINT": store.endpoint,
            "REGION": REGION,
            "ACCESS_KEY_ID": store.access_key,
            "SECRET_ACCESS_KEY": store.secret_key,
        }
        environment |= {f"RCLONE_CONFIG_{name}_{one}": value for one, value in settings.items()}
    more = ["--transfers", str(transfers), "--checkers", str(max(transfers, 8))]
    return _run([str(BINARIES / "rclone"), "copy", f"old:{OLD}", f"new:{NEW}", *more], ends.folder, environment)[0]


def s5cmd(ends: Ends, workers: int, units: int) -> Step:
    """`s5cmd cp` into a folder and out of it: between two endpoints it cannot copy."""
    folder = ends.folder / "files"
    from_, to = (f"s3://{bucket}/" for bucket in (OLD, NEW))
    down = _s5cmd(ends, ends.old, workers, [f"{from_}*", f"{folder}/"])
    up = _s5cmd(ends, ends.new, workers, [f"{folder}/", to])
    return Step(down.seconds + up.seconds, down.process + up.process, max(down.peak, up.peak), {})


def _s5cmd(ends: Ends, store: Store, workers: int, ends_of_copy: Sequence[str]) -> Step:
    environment = {
        "AWS_ACCESS_KEY_ID": store.access_key,
        "AWS_SECRET_ACCESS_KEY": store.secret_key,
        "AWS_REGION": REGION,
        "HOME": str(ends.folder),
    }
    binary = BINARIES.parent.glob("lib/python*/site-packages/s5cmd/bin/s5cmd")
    command = [str(next(binary)), "--endpoint-url", store.endpoint, "--numworkers", str(workers), "--log", "error"]
    return _run([*command, "cp", *ends_of_copy], ends.folder, environment)[0]


def _run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> tuple[Step, str]:
    """Run a command; its time as a whole process, and its peak memory, looked at every 20 ms."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "TMPDIR")}
    outcome = folder / "said"
    with outcome.open("wb") as said, (folder / "told").open("wb") as told:
        begun = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env={**kept, **environment}, stdout=said, stderr=told)
        peak, ended = [0.0], threading.Event()
        watching = threading.Thread(target=_watch, args=(process.pid, peak, ended))
        watching.start()
        status = process.wait()
        seconds = time.perf_counter() - begun
        ended.set()
        watching.join()
    if status:
        raise SystemExit(f"{command[0]} ended with {status}:\n{(folder / 'told').read_text()[-2000:]}")
    return Step(seconds, seconds, peak[0], {}), outcome.read_text()


def _watch(pid: int, peak: list[float], ended: threading.Event) -> None:
    """The largest resident set so far in MB: what `getrusage` says of a child begins at its parent's size."""
    while not ended.wait(0.02):
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            return
        for line in lines:
            if line.startswith("VmHWM:"):
                peak[0] = int(line.split()[1]) * 1024 / 1e6
