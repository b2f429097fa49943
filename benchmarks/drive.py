"""Small files from Drive to S3 against a quota: how much of it is used, how often it is tripped. `make bench-drive`.

`python -m benchmarks.drive serve ...` is the Drive stand-in in a process of its own, as `stored` is the object store.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import step, table
from benchmarks.objects import start_objects
from benchmarks.table import holds

QUOTA = 1_300_000
"""Quota units a minute: four times Google's of one user, by which 20,000 files would take twelve minutes."""
LESS = 0.7
"""The part of that which the second run's Drive allows, without saying so."""
SIZE = 2_000
"""Bytes of a file."""
FOLDER = 1_000
"""Files of one folder."""
LEAST, HANDFUL = 0.95, 5
RUNS = ("quota as believed", "less than believed")
MIGRATION = """
migration: benchmark
environments: {local: {}}
connections:
  drive: {type: google_drive, folder: root, token: "${TOKEN}", url: "${DRIVE}"}
  storage: {type: s3, bucket: files, endpoint: "${S3}", region: us-east-1, access_key: here, secret_key: here}
  ledger: {type: sqlite, path: "${LEDGER}", create: true}
ledger: {connection: ledger}
flows:
  files:
    from: drive.files
    unit: id
    outputs:
      object: {into: storage.objects, body: id, columns: {key: path || '/' || name, size: size, md5: md5}}
"""


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """A server in a process of its own: what it says at its beginning, and what it says at its end, once it has."""
    command = [sys.executable, "-m", "benchmarks.drive", *arguments]
    last: dict[str, Any] = {}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            yield json.loads(server.stdout.readline()), last
        finally:
            server.stdin.close()  # it ends with its input
            last |= json.loads(server.stdout.read() or "{}")


def serve(files: int, quota: int, folder: str, latency: float) -> None:
    """The Drive stand-in until stdin ends; then what was spent of its quota."""
    from resettle.sandbox.drive import start_drive

    with start_drive() as drive:
        for number in range(0, files, FOLDER):
            parent = drive.folder(f"folder {number // FOLDER}")
            for one in range(number, min(number + FOLDER, files)):
                drive.file(f"{one:06}.jpg", parent, body=one.to_bytes(8, "big") * (SIZE // 8))
        drive.units_per_minute = quota or None
        drive.latency = latency
        print(json.dumps({"url": drive.api, "token": str(drive.token_file(Path(folder) / "token"))}), flush=True)
        sys.stdin.read()
        print(json.dumps({"refused": 0, **drive.used, "lasted": drive.asked[1] - drive.asked[0]}))


def stored() -> None:
    """The object store until stdin ends; then how many objects it holds."""
    with start_objects() as objects:
        print(json.dumps({"url": objects.url}), flush=True)
        sys.stdin.read()
        print(json.dumps({"objects": len(objects.found)}))


def migrate(folder: str, believed: int, variables: Mapping[str, str]) -> dict[str, Any]:
    """In a process of its own: apply; ``believed``: the quota that the connector paces by."""
    from resettle.connectors import google_drive

    # No setting says this: who has another quota is told so by Drive, and finds it.
    google_drive.UNITS_PER_MINUTE = believed
    return step.migrate(folder, "local", variables, ["files"], {})


def measure(files: int, quota: int, allowed: int, latency: float) -> tuple[step.Step, dict[str, Any]]:
    """One run into an empty store: what it took, and what Drive says of it."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as servers:
        (Path(folder) / "migration.yaml").write_text(MIGRATION)
        asked = ("serve", "--files", str(files), "--quota", str(allowed), "--folder", folder)
        drive, told = servers.enter_context(serving(*asked, "--latency", str(latency)))
        objects, kept = servers.enter_context(serving("stored"))
        variables = {
            "DRIVE": drive["url"],
            "TOKEN": drive["token"],
            "S3": objects["url"],
            "LEDGER": f"{folder}/ledger.sqlite",
        }
        call = "benchmarks.drive:migrate"
        taken = step.alone(call, folder=folder, believed=quota, variables=variables)
        servers.close()
    units = taken.said["units"]["files"]
    if units != {"done": files} or kept["objects"] != files:
        raise SystemExit(f"expected {files} files, resettle says {units}, {kept['objects']} came: nothing measured")
    return taken, told


def shown(name: str, quota: int, taken: step.Step, told: Mapping[str, Any]) -> list[str]:
    """One line of the table."""
    used = told["units"] / (quota / 60 * told["lasted"])
    held = holds(used >= LEAST and told["refused"] <= HANDFUL) if name == RUNS[0] else "-"
    cells = [f"{quota:,}", f"{told['units']:,}", f"{told['lasted']:.1f}", f"{used:.1%}", f"{told['refused']}"]
    return [name, *cells, f"{taken.seconds:.1f}", f"{taken.peak:.0f}", held]


def run(arguments: argparse.Namespace) -> None:
    files, quota = arguments.files, arguments.quota
    print(f"{files:,} files of {SIZE:,} bytes; {table.machine()}; {table.load()} at the start\n", flush=True)
    body = []
    for name, allowed in zip(RUNS, (quota, int(quota * LESS)), strict=True):
        if arguments.only in (None, name):
            began = time.strftime("%H:%M:%S")
            print(f"{began} {name}", file=sys.stderr, flush=True)
            body.append(shown(name, allowed, *measure(files, quota, allowed, arguments.latency)))
            print(" | ".join(body[-1]), file=sys.stderr, flush=True)
    head = ("run", "units a minute", "units spent", "over seconds", "of the quota", "refusals", "apply s", "peak MB")
    table.rows((*head, "holds"), body)
    print(
        f"Wanted of the first: at least {LEAST:.0%} of the quota, at most {HANDFUL} refusals. {table.load()} at the end"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("run", "serve", "stored"), default="run", help=argparse.SUPPRESS)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--quota", type=int, default=QUOTA, help="units a minute; Google's own are 325000")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds that Drive takes over each answer")
    parser.add_argument("--only", choices=RUNS, help="one of the runs")
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.what == "serve":
        serve(arguments.files, arguments.quota, arguments.folder, arguments.latency)
    elif arguments.what == "stored":
        stored()
    else:
        run(arguments)


if __name__ == "__main__":
    main()
