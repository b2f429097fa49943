"""D1: the local stand-in in a process of its own, and what writes into it. `python -m benchmarks.d1 FILE` serves."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import logbook, step
from benchmarks.figures import Figures

WRITE, INSERT, BATCHES = "write()", "100 parameters a request", "10 x 100 parameters a request"
FIRST, SAME = "mirubato D1 to D1, first apply", "mirubato D1 to D1, no-change apply"
TABLE = "sync_data"
KEY = ("user_id", "entity_type", "entity_id")
NAMES = (*KEY, "id", "data", "checksum", "version")
PARAMETERS = 100
"""What D1 takes in one statement: 14 rows of seven columns."""
BATCH_SIZE = 10_000
"""Rows of one commit: what is left of resettle's 20,000 after it halves a batch that is too much for one request."""


@contextmanager
def serving(database: Path) -> Iterator[dict[str, str]]:
    """The stand-in over this file; gives the settings of a connection to it."""
    command = [sys.executable, "-m", "benchmarks.d1", str(database)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            yield json.loads(server.stdout.readline())
        finally:
            server.stdin.close()  # it ends with its input


def rows_file(rows: int) -> Path:
    """A file with the rows of sync_data to write, as the plain statement makes them of the logbook."""
    folder = logbook.made(rows)
    file = folder / "rows.sqlite"
    if not file.exists():
        with logbook.fresh(folder, "making") as making:
            logbook.run_plain(folder, making, rows, checksums=True)
            making.rename(file)
    return file


def measure_writes(rows: int, figures: Figures) -> None:
    """The same rows into fresh databases: by the connector, and by statements of a hundred parameters."""
    source = str(rows_file(rows))
    for name, call, how in (
        (WRITE, "write", {}),
        (INSERT, "insert", {"statements": 1}),
        (BATCHES, "insert", {"statements": 10}),
    ):
        with logbook.fresh(logbook.made(rows), "d1") as file, serving(file) as settings:
            taken = step.alone(f"benchmarks.d1:{call}", settings=settings, source=source, **how)
            figures.add(name, taken, peer=name != WRITE)
            with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
                ((count,),) = database.execute(f"SELECT count(*) FROM {TABLE}")
            if count != rows:
                raise SystemExit(f"expected {rows} rows, {name} wrote {count}: nothing measured")


def measure_mirubato(rows: int, figures: Figures) -> None:
    """Both sides on D1, each with its own server."""
    folder = logbook.made(rows)
    with ExitStack() as servers:
        api = servers.enter_context(logbook.fresh(folder, "d1"))
        sides = {
            "backend": servers.enter_context(serving(folder / "backend.sqlite")),
            "api": servers.enter_context(serving(api)),
        }
        one = sides["api"]
        variables = {
            "CLOUDFLARE_ACCOUNT_ID": one["account"],
            "CLOUDFLARE_API_TOKEN": one["token"],
            "MIRUBATO_BACKEND_D1": sides["backend"]["database"],
            "MIRUBATO_API_D1": one["database"],
        }
        more: dict[str, Any] = {
            "environment": "staging",
            "settings": {name: {"url": settings["url"]} for name, settings in sides.items()},
        }
        figures.add(FIRST, step.apply("mirubato", variables, logbook.FLOW, {"done": rows}, **more))
        before = logbook.digest(api)
        figures.add(SAME, step.apply("mirubato", variables, logbook.FLOW, {"unchanged": rows}, **more))
        figures.untouched.append(logbook.digest(api) == before)


def write(settings: Mapping[str, str], source: str) -> dict[str, Any]:
    """In a process of its own: all rows by the connector's `write`, a commit for every batch."""
    import pyarrow as pa

    from resettle.batch import Action
    from resettle.connectors.d1 import D1, D1Settings
    from resettle.memory import steady

    steady()  # as the command line does
    table = pa.table(dict(zip(NAMES, zip(*_rows(source), strict=True), strict=True)))
    with closing(D1("d1", D1Settings(**settings))) as d1:  # type: ignore[arg-type]
        d1.schema(TABLE)
        begun = time.perf_counter()
        for start in range(0, table.num_rows, BATCH_SIZE):
            with d1.transaction():
                d1.write(TABLE, table.slice(start, BATCH_SIZE), KEY, Action.CREATE)
        return {"seconds": time.perf_counter() - begun}


def insert(settings: Mapping[str, str], source: str, statements: int) -> dict[str, Any]:
    """In a process of its own: all rows by INSERTs of as many as fit, so many statements in one request."""
    import orjson
    import urllib3

    rows = _rows(source)
    url = f"{settings['url']}/accounts/{settings['account']}/d1/database/{settings['database']}/query"
    headers = {"Authorization": f"Bearer {settings['token']}", "Content-Type": "application/json"}
    each = PARAMETERS // len(NAMES)
    with urllib3.PoolManager(headers=headers) as http:
        begun = time.perf_counter()
        for start in range(0, len(rows), each * statements):
            end = min(start + each * statements, len(rows))
            batch = [_insert(rows[at : min(at + each, end)]) for at in range(start, end, each)]
            body = {"batch": batch} if statements > 1 else batch[0]
            answer = http.request("POST", url, body=orjson.dumps(body))
            if answer.status != 200:
                raise RuntimeError(f"HTTP {answer.status}: {answer.data!r}")
        return {"seconds": time.perf_counter() - begun}


def _insert(rows: list[tuple[Any, ...]]) -> dict[str, Any]:
    places = f"({', '.join('?' * len(NAMES))})"
    sql = f"INSERT INTO {TABLE} ({', '.join(NAMES)}) VALUES {', '.join([places] * len(rows))}"
    return {"sql": sql, "params": [str(value) for row in rows for value in row]}


def _rows(source: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as database:
        return database.execute(f"SELECT {', '.join(NAMES)} FROM {TABLE} ORDER BY rowid").fetchall()


def main() -> None:
    from resettle.sandbox.d1 import start_d1

    with start_d1(sys.argv[1]) as local:
        print(json.dumps(local.settings()), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
