"""How fast and how large: resettle's steps beside the limit, alternating, on one server. `make bench`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import limit, server, step, table
from benchmarks.data import CACHE, export
from benchmarks.figures import TARGETS, Figures
from resettle.sandbox.postgres import Postgres

CHANGED = 0.01
LIMITS = {"limit": "whole", "limit, 2 connections": "halves", "limit, all rows ordered by key": "ordered"}
STEPS = ("first apply", "no-change apply", "1%-changed apply", "1% changed back, after ANALYZE")
LARGE = 5_000_000
MEMORY = 500.0
"""MB (1,000,000 bytes)."""
SAME = 1.05
"""Two peaks count as equal within this: allocators are not exact."""


def measure_limit(postgres: Postgres, prepared: limit.Prepared, figures: Figures) -> None:
    """Each form of the limit, in a fresh database."""
    for name, form in LIMITS.items():
        with server.database(postgres, "limit") as url:
            figures.seconds[name].append(limit.load(url, getattr(prepared, form)))


def measure_resettle(postgres: Postgres, rows: int, figures: Figures, *, change: bool = True) -> None:
    """The first apply into a fresh database, one with nothing changed, one with 1% changed."""
    with server.database(postgres, "resettle") as url:
        figures.add(STEPS[0], step.run(export(rows), url, {"done": rows}))
        before = server.fingerprint(url)
        figures.add(STEPS[1], step.run(export(rows), url, {"unchanged": rows}))
        figures.untouched.append(server.fingerprint(url) == before)
        if change:
            some = round(rows * CHANGED)
            expected = {"unchanged": rows - some, "done": some}
            figures.add(STEPS[2], step.run(export(rows, CHANGED), url, expected))
            # As autovacuum does it on an ordinary server, a minute later or more; ours is off.
            server.analyze(url)
            figures.add(STEPS[3], step.run(export(rows), url, expected))
            server.settle(url)


def prepare(postgres: Postgres, rows: int, folder: Path) -> limit.Prepared:
    """An untimed first apply: it warms the disk cache, and its rows are what the limit loads."""
    with server.database(postgres, "prepare") as url:
        step.run(export(rows), url, {"done": rows})
        return limit.prepare(url, folder)


def show_targets(figures: Figures) -> None:
    """Each target line, judged twice: by the time around `resettle.apply` and by that of the whole process."""
    first, same, changed, analyzed = STEPS
    body = [
        figures.target("first apply / limit", first, "limit", most=1.5),
        *(figures.target(f"first apply / {name}", first, name) for name in LIMITS if name != "limit"),
        figures.target("first apply / no-change apply", first, same, least=4.0),
        figures.target("1%-changed / no-change apply", changed, same, most=1.3),
        figures.target("the same, after ANALYZE", analyzed, same, most=1.3),
    ]
    written = "no data table written" if all(figures.untouched) else "data tables were written"
    body.append(["no-change apply writes nothing", "0 tuples, same xmin", written, table.holds(all(figures.untouched))])
    peak = max(max(figures.peak[name]) for name in STEPS)
    body.append(["peak memory, all steps", f"< {MEMORY:.0f} MB", f"{peak:.0f} MB", table.holds(peak < MEMORY)])
    table.rows(TARGETS, body)
    print(
        "Ratios are taken within each repeat. The first is around `resettle.apply`, the second with the whole process"
    )
    print("of resettle (interpreter, imports, connecting). The peer's line is measured by `make bench-peers`.\n")


def show_large(postgres: Postgres, rows: int, figures: Figures) -> None:
    """Peak memory and time at many times the rows, once."""
    large = Figures()
    measure_resettle(postgres, LARGE, large, change=False)
    body = []
    for name in STEPS[:2]:
        small, peak = max(figures.peak[name]), large.peak[name][0]
        times = f"{large.seconds[name][0]:.1f} | {large.process[name][0]:.1f}"
        held = table.holds(peak < MEMORY and peak <= small * SAME)
        body.append([name, times, f"{small:.0f}", f"{peak:.0f}", held])
    peaks = (f"peak MB at {rows:,}", f"peak MB at {LARGE:,}", f"no higher (within {SAME - 1:.0%}) and < {MEMORY:.0f}")
    table.rows((f"{LARGE:,} rows", "seconds", "whole process", *peaks), body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--large", action="store_true", help=f"peak memory at {LARGE:,} rows as well")
    arguments = parser.parse_args()
    rows, figures = arguments.rows, Figures()
    print(f"{rows:,} sessions, {arguments.repeat} repeats; {table.machine()}; {table.load()} at the start")
    export(rows)
    export(rows, CHANGED)
    with server.running() as postgres:
        print(f"{server.described(postgres)}\n", flush=True)
        prepared = prepare(postgres, rows, CACHE / f"prepared-{rows}")
        for repeat in range(arguments.repeat):
            # In turn, so that neither always comes first.
            if repeat % 2 == 0:
                measure_limit(postgres, prepared, figures)
            measure_resettle(postgres, rows, figures)
            if repeat % 2:
                measure_limit(postgres, prepared, figures)
        figures.show((*LIMITS, *STEPS))
        show_targets(figures)
        if arguments.large:
            show_large(postgres, rows, figures)
    print(f"{table.load()} at the end")


if __name__ == "__main__":
    main()
