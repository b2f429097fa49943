"""The fastest peer beside resettle: ingestr merges the same rows into the same table. `make bench-peers`.

It reads no DynamoDB export, so it is given the rows as they will be in the end, in files of kinds that it reads.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

import duckdb
import psycopg

from benchmarks import limit, server, step, table
from benchmarks.data import CACHE, export
from resettle.sandbox.postgres import Postgres

INGESTR = Path(__file__).parents[1] / ".venv-peers" / "bin" / "ingestr"
SAID = {
    "csv": "plain text: values decoded and converted beforehand, types given",
    "jsonl": "nearest to an export: JSON, but plain, not DynamoDB's, and not compressed",
    "parquet": "columns decoded and typed beforehand",
}
TYPES = {"uuid": "uuid", "text": "text", "boolean": "boolean", "timestamp with time zone": "timestamp"}
LEAST = 1.5
QUIET = {"DISABLE_TELEMETRY": "true", "INGESTR_DISABLE_TELEMETRY": "true"}
COLUMNS = """
select column_name, data_type from information_schema.columns where table_name = %s order by ordinal_position
"""
DIGEST = f"""
select count(*), sum(hashtextextended(s::text, 0))::text
from (select {{}} from {server.TABLE}) s
"""
EARLIER = """\
Measured earlier, elsewhere, on these rows (first load of 1,000,000; the limit took 4.2 s in that session):
ingestr 1.1 merge 11.0 s, sling 1.6 incremental upsert 14.1 s, dlt 1.31 26.9 s. No ratio can be given for this run."""

Seconds = dict[str, list[float]]
Peaks = dict[str, list[float]]


def columns(url: str) -> dict[str, str]:
    """The target's columns and their types, as ingestr calls them."""
    with psycopg.connect(url) as connection:
        found = connection.execute(COLUMNS, (server.TABLE,)).fetchall()
    return {name: TYPES[kind] for name, kind in found}


def digest(url: str) -> tuple[int, str]:
    """The same for two tables that hold the same rows, whatever their order."""
    with psycopg.connect(url) as connection:
        row = connection.execute(DIGEST.format(", ".join(columns(url))).encode()).fetchone()
    assert row is not None
    return row[0], row[1]


def prepare(postgres: Postgres, rows: int, folder: Path) -> tuple[int, str]:
    """Write what an untimed apply of resettle made as CSV, JSON lines and Parquet; give its digest."""
    folder.mkdir(parents=True, exist_ok=True)
    with server.database(postgres, "prepare") as url:
        step.run(export(rows), url, {"done": rows})
        csv = folder / "rows.csv"
        limit.copy_out(url, limit.ROWS, csv, "format csv, header")
        # In a process of its own: a child's peak begins at its parent's size, and DuckDB's would stay with us.
        converting = multiprocessing.get_context("spawn").Process(target=_convert, args=(csv, columns(url)))
        converting.start()
        converting.join()
        if converting.exitcode:
            raise RuntimeError("the files for ingestr could not be made")
        return digest(url)


def _convert(csv: Path, types: dict[str, str]) -> None:
    names = {"uuid": "VARCHAR", "text": "VARCHAR", "boolean": "BOOLEAN", "timestamp": "TIMESTAMPTZ"}
    wanted = ", ".join(f"'{name}': '{names[kind]}'" for name, kind in types.items())
    with duckdb.connect() as database:
        database.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        database.execute(f"CREATE TABLE r AS FROM read_csv('{csv}', columns = {{{wanted}}}, header = true)")
        database.execute(f"COPY r TO '{csv.with_suffix('.parquet')}'")
        database.execute(f"COPY r TO '{csv.with_suffix('.jsonl')}' (FORMAT json)")


def ingest(kind: str, file: Path, url: str) -> tuple[float, float]:
    """Merge a file into the existing table: seconds of the whole process, peak MB."""
    types = ",".join(f"{name}:{called}" for name, called in columns(url).items())
    command = [str(INGESTR), "ingest", "--yes", "--progress", "log", "--no-load-timestamp", "--columns", types]
    command += ["--incremental-strategy", "merge", "--primary-key", "id", "--dest-table", f"public.{server.TABLE}"]
    command += ["--no-inference"] if kind == "csv" else []
    # Not as arguments: a password would show in the list of processes.
    places = {"SOURCE_URI": f"{kind}://{file}", "SOURCE_TABLE": "rows", "DESTINATION_URI": url}
    with (file.parent / "ingestr.log").open("wb") as log:
        begun = time.perf_counter()
        process = subprocess.Popen(command, env=os.environ | places | QUIET, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"ingestr from {kind} failed, see {log.name}")
    return seconds, usage.ru_maxrss * 1024 / 1e6


def repeat(postgres: Postgres, rows: int, folder: Path, wanted: tuple[int, str], out: tuple[Seconds, Peaks]) -> None:
    """resettle and each of the peer's forms once, each into a fresh database with the live schema."""
    seconds, peaks = out
    with server.database(postgres, "resettle") as url:
        taken = step.run(export(rows), url, {"done": rows})
        seconds["resettle"].append(taken.process)
        peaks["resettle"].append(taken.peak)
    for kind in SAID:
        with server.database(postgres, "peer") as url:
            took, peak = ingest(kind, folder / f"rows.{kind}", url)
            # The files are of the prepared run: an end that is missing in the source is that run's start.
            if digest(url) != wanted:
                raise RuntimeError(f"ingestr from {kind} did not write the same rows")
            seconds[kind].append(took)
            peaks[kind].append(peak)


def show(seconds: Seconds, peaks: Peaks) -> None:
    body = [
        [name if name == "resettle" else f"ingestr, {name}", table.spread(values), f"{max(peaks[name]):.0f}"]
        for name, values in seconds.items()
    ]
    table.rows(("first load", "whole process, s: median", "min", "max", "peak MB"), body)
    for kind, said in SAID.items():
        found = table.ratios(seconds[kind], seconds["resettle"])
        spread = f"{median(found):.2f} ({min(found):.2f} to {max(found):.2f})"
        print(
            f"ingestr from {kind} / resettle: {spread}, wanted ≥ {LEAST}: {table.holds(median(found) >= LEAST)}; {said}"
        )
    print("The target is the fastest that reads text: csv or jsonl. From DuckDB's files ingestr needs a driver that")
    print("it downloads; from SQLite it was slower than from csv when tried.")
    print("ingestr keeps no ledger; resettle's time includes it, and decoding the DynamoDB JSON.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    folder = CACHE / f"peers-{arguments.rows}"
    try:
        version = subprocess.run([INGESTR, "--version"], check=True, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise SystemExit(f"ingestr does not run here ({error}): run `make bench-peers`.\n{EARLIER}") from None
    print(
        f"{arguments.rows:,} sessions, {arguments.repeat} repeats; {version.strip()}; {table.machine()}; {table.load()}"
    )
    seconds, peaks = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    with server.running() as postgres:
        print(f"{server.described(postgres)}\n", flush=True)
        wanted = prepare(postgres, arguments.rows, folder)
        for _ in range(arguments.repeat):
            repeat(postgres, arguments.rows, folder, wanted, (seconds, peaks))
    show(seconds, peaks)


if __name__ == "__main__":
    main()
