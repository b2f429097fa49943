"""How long it takes to prove that rows are equal: by digests in the target, and by reading them. `make bench-verify`.

Each measurement is a process of its own. Source and target are tables of one server, and nothing travels over a
network: reading rows would take longer over one, a digest would not.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

from benchmarks import server, step, table
from benchmarks.figures import TARGETS, Figures
from resettle.sandbox.postgres import Postgres

DIGEST, ALONE = "target: digest", "target: digest, without parallel workers"
COPY, READ, FETCH = "target: COPY to nowhere", "target: read", "target: fetch by key"
WHOLE, FETCHED, CHANGED = "verify, by digest", "verify, every row fetched", "verify, by digest, 10 rows changed"
TARGET_PARTS = (DIGEST, ALONE, COPY, READ, FETCH)
WRONG = 10

COLUMNS = """
    id uuid primary key, appointment_id uuid not null, provider_id uuid not null, patient_id uuid not null,
    status text not null, start_time timestamptz, end_time timestamptz, join_url text, meeting_id text,
    media_region text, transcription_enabled boolean, transcript_id uuid, transcript_language text,
    price numeric(10, 2), finalization_status text, created_at timestamptz, updated_at timestamptz"""
FILL = """
insert into old.sessions select md5('id' || n)::uuid, md5('a' || n)::uuid, md5('p' || n % 5000)::uuid,
    md5('q' || n % 90000)::uuid, (array['COMPLETED', 'FAILED', 'ACTIVE'])[1 + n % 3],
    timestamptz '2025-01-01' + n * interval '7.123457 s', case when n % 3 = 0 then
    timestamptz '2025-01-01' + n * interval '8 s' end, 'https://meet.example.org/' || md5('u' || n), 'meeting-' || n,
    case when n % 2 = 0 then 'eu-central-1' end, n % 5 = 0, case when n % 5 = 0 then md5('t' || n)::uuid end,
    case when n % 5 = 0 then 'de' end, n % 100000 / 100.0, case when n % 7 = 0 then 'done' end,
    timestamptz '2025-01-01' + n * interval '1 s', timestamptz '2025-06-01' + n * interval '1.000001 s'
from generate_series(1, {rows}) n
"""
MIGRATION = """
migration: sessions
connections:
  old: {type: postgres, url: "${BENCH_URL}", schema: old}
  new: {type: postgres, url: "${BENCH_URL}"}
flows:
  sessions: {from: old.sessions, unit: id, into: new.sessions, columns: auto}
"""


def make(url: str, rows: int) -> None:
    """The source with its rows, and the empty target."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create schema old")
        for name in ("old.sessions", "sessions"):
            connection.execute(f"create table {name} ({COLUMNS})".encode())
        connection.execute(FILL.format(rows=rows).encode())
        connection.execute("vacuum analyze old.sessions")


def opened(folder: str, url: str) -> Any:
    import resettle
    from resettle.memory import steady

    steady()  # as the command line does
    return resettle.load(Path(folder), None, {"BENCH_URL": url})


def apply(folder: str, url: str) -> dict[str, Any]:
    import resettle

    loaded = opened(folder, url)
    with resettle.connect(loaded) as connections:
        begun = time.perf_counter()
        applied = resettle.apply(loaded, connections, resettle.Options())
        return {"seconds": time.perf_counter() - begun, "done": applied.counts[0].units["done"]}


def verify(folder: str, url: str, digest: bool) -> dict[str, Any]:
    """``digest``: as it is; else as with a target that cannot digest rows."""
    import resettle
    from resettle.engine.verify import _FlowChecker

    if not digest:
        _FlowChecker._digestible = lambda self, output: False  # type: ignore[method-assign]
    loaded = opened(folder, url)
    with resettle.connect(loaded) as connections:
        begun = time.perf_counter()
        found = resettle.verify(loaded, connections)
        seconds = time.perf_counter() - begun
    (flow,) = found.flows
    return {"seconds": seconds, "rows": flow.rows, "by_digest": flow.by_digest, "findings": sum(found.counts.values())}


def digest(url: str, workers: int | None) -> dict[str, Any]:
    """All that a verify of equal rows asks of the target."""
    from resettle.connectors.postgres import Postgres as Connector
    from resettle.connectors.postgres import PostgresSettings

    target = Connector("new", PostgresSettings.model_validate({"url": url}))
    names = target.schema("sessions").names
    with target.transaction(readonly=True):
        if workers is not None:
            target.execute(f"set local max_parallel_workers_per_gather = {workers}")
        begun = time.perf_counter()
        found = target.digests("sessions", names, [], 0)
        seconds = time.perf_counter() - begun
    target.close()
    return {"seconds": seconds, "rows": found["count"][0].as_py()}


def copy(url: str) -> dict[str, Any]:
    """The least that reading them out can take: the server's text of every row, received and dropped."""
    size = 0
    with psycopg.connect(url) as connection:
        begun = time.perf_counter()
        with connection.cursor().copy("copy sessions to stdout") as rows:
            for row in rows:
                size += len(row)
        return {"seconds": time.perf_counter() - begun, "bytes": size}


def read(url: str) -> dict[str, Any]:
    """Every row as Arrow, as a source is read, one part after the other."""
    from resettle.connectors.postgres import Postgres as Connector
    from resettle.connectors.postgres import PostgresSettings

    target = Connector("new", PostgresSettings.model_validate({"url": url}))
    begun = time.perf_counter()
    count = sum(len(batch) for part in target.partitions("sessions", 1) for batch in target.read(part, 20_000))
    seconds = time.perf_counter() - begun
    target.close()
    return {"seconds": seconds, "rows": count}


def fetch(url: str) -> dict[str, Any]:
    """Every row by its key, batch by batch, as verify does where a target cannot digest rows."""
    from resettle.connectors.postgres import Postgres as Connector
    from resettle.connectors.postgres import PostgresSettings

    target = Connector("new", PostgresSettings.model_validate({"url": url}))
    names, count, seconds = target.schema("sessions").names, 0, 0.0
    for part in target.partitions("sessions", 1):
        for batch in target.read(part, 20_000):
            keys = batch.table.select(["id"])
            begun = time.perf_counter()
            count += target.fetch("sessions", keys, names).num_rows
            seconds += time.perf_counter() - begun
    target.close()
    return {"seconds": seconds, "rows": count}


def demand(found: step.Step, **expected: int) -> step.Step:
    """Nothing is measured that does not do its work."""
    wrong = {name: found.said[name] for name, value in expected.items() if found.said[name] != value}
    if wrong:
        raise SystemExit(f"expected {expected}, got {wrong}: nothing measured")
    return found


def measure_target(url: str, rows: int, figures: Figures) -> None:
    """What is asked of the target alone, in turn."""
    calls: dict[str, tuple[str, dict[str, Any]]] = {
        DIGEST: ("digest", {"workers": None}),
        ALONE: ("digest", {"workers": 0}),
        COPY: ("copy", {}),
        READ: ("read", {}),
        FETCH: ("fetch", {}),
    }
    for name, (function, arguments) in calls.items():
        found = step.alone(f"benchmarks.verify:{function}", url=url, **arguments)
        figures.add(name, found if name == COPY else demand(found, rows=rows), peer=True)


def measure_whole(folder: str, url: str, rows: int, figures: Figures) -> None:
    """The whole verify, in turn, and once more with some rows wrong."""
    whole = "benchmarks.verify:verify"
    equal = step.alone(whole, folder=folder, url=url, digest=True)
    figures.add(WHOLE, demand(equal, rows=rows, by_digest=rows, findings=0))
    fetched = step.alone(whole, folder=folder, url=url, digest=False)
    figures.add(FETCHED, demand(fetched, rows=rows, by_digest=0, findings=0))
    with psycopg.connect(url, autocommit=True) as connection:
        some = f"select id from old.sessions order by id limit {WRONG}"
        change = "update sessions set updated_at = updated_at + interval '{} microsecond' where id in ({})"
        connection.execute(change.format(1, some).encode())
        found = step.alone(whole, folder=folder, url=url, digest=True)
        connection.execute(change.format(-1, some).encode())
    figures.add(CHANGED, demand(found, rows=rows, findings=WRONG))
    print(f"{rows - found.said['by_digest']:,} rows were fetched to find {WRONG}.", flush=True)


def measure(postgres: Postgres, rows: int, repeat: int, *, whole: bool) -> Figures:
    figures = Figures()
    prepared = server.database(postgres, "verified", lambda url: make(url, rows))
    with tempfile.TemporaryDirectory() as folder, prepared as url:
        (Path(folder) / "migration.yaml").write_text(MIGRATION)
        applied = demand(step.alone("benchmarks.verify:apply", folder=folder, url=url), done=rows)
        print(f"applied in {applied.seconds:.0f} s", flush=True)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("vacuum analyze")
        for _ in range(repeat):
            measure_target(url, rows, figures)
            if whole:
                measure_whole(folder, url, rows, figures)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--target", action="store_true", help="only what is asked of the target")
    arguments = parser.parse_args()
    print(f"{arguments.rows:,} rows, {arguments.repeat} repeats; {table.machine()}; {table.load()} at the start")
    with server.running() as postgres:
        print(f"{server.described(postgres)}\n", flush=True)
        figures = measure(postgres, arguments.rows, arguments.repeat, whole=not arguments.target)
    figures.show([name for name in (*TARGET_PARTS, WHOLE, FETCHED, CHANGED) if name in figures.seconds])
    body = [
        figures.target(f"{DIGEST} / {FETCH}", DIGEST, FETCH, most=0.5),
        figures.target(f"{DIGEST} / {READ}", DIGEST, READ),
        figures.target(f"{DIGEST} / {COPY}", DIGEST, COPY),
        figures.target(f"{ALONE} / {READ}", ALONE, READ),
    ]
    if not arguments.target:
        body.append(figures.target(f"{WHOLE} / {FETCHED}", WHOLE, FETCHED))
        body.append(figures.target(f"{CHANGED} / {WHOLE}", CHANGED, WHOLE))
    table.rows(TARGETS, body)
    print(f"{table.load()} at the end")


if __name__ == "__main__":
    main()
