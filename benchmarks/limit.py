"""The limit: what the same server needs for rows and state rows that are prepared beforehand, by binary COPY."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier

import psycopg
from psycopg import sql

from benchmarks.server import TABLE

STATE = "create table state (source_key uuid primary key, fingerprint uuid not null, run integer not null)"
STATES = "select unit::uuid as id, fingerprint, run::integer from resettle.rows"
ROWS = f"select * from {TABLE}"
BLOCK = 1 << 20

Part = tuple[Path, Path]
"""A file of rows and a file of a state row for each."""


@dataclass(frozen=True)
class Prepared:
    """Binary COPY files of the same rows, cut and ordered in three ways; one connection loads one part."""

    whole: Sequence[Part]
    """In the order in which resettle wrote them: batches in the export's order, each ordered by key."""
    halves: Sequence[Part]
    """Keys of the lower and of the upper half."""
    ordered: Sequence[Part]
    """All ordered by key, which only somebody who has read everything can do."""


def prepare(url: str, folder: Path) -> Prepared:
    """Copy out what a finished run of resettle left in its target and in its ledger."""
    folder.mkdir(parents=True, exist_ok=True)
    middle = "'80000000-0000-0000-0000-000000000000'"

    def part(name: str, tail: str) -> Part:
        rows, states = folder / f"{name}.rows", folder / f"{name}.states"
        copy_out(url, f"select * from ({ROWS}) s {tail}", rows)
        copy_out(url, f"select * from ({STATES}) s {tail}", states)
        return rows, states

    return Prepared(
        [part("whole", "")],
        [part("lower", f"where id < {middle}"), part("upper", f"where id >= {middle}")],
        [part("ordered", "order by id")],
    )


def load(url: str, parts: Sequence[Part]) -> float:
    """Seconds from the first byte sent to the last commit; a connection for each part, all opened before."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(STATE)
    ready = Barrier(len(parts) + 1)
    with ThreadPoolExecutor(len(parts)) as pool:
        loading = [pool.submit(_load, url, part, ready) for part in parts]
        ready.wait()
        begun = time.perf_counter()
        for each in loading:
            each.result()
        return time.perf_counter() - begun


def _load(url: str, part: Part, ready: Barrier) -> None:
    with psycopg.connect(url) as connection:
        ready.wait()
        for table, path in zip((TABLE, "state"), part, strict=True):
            statement = sql.SQL("copy {} from stdin (format binary)").format(sql.Identifier(table))
            with connection.cursor().copy(statement) as copy, path.open("rb") as file:
                while block := file.read(BLOCK):
                    copy.write(block)


def copy_out(url: str, query: str, path: Path, form: str = "format binary") -> None:
    """Write what a query gives to a file."""
    with psycopg.connect(url) as connection, path.open("wb") as file:
        connection.execute("set synchronize_seqscans = off")  # or a scan may begin in the middle
        with connection.cursor().copy(f"copy ({query}) to stdout ({form})".encode()) as copy:
            for block in copy:
                file.write(block)
