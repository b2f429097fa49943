"""How fast and how large: resettle's steps beside the limit, alternating, on one server. `make bench`."""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks import limit, server, step, table
from benchmarks.data import CACHE, export
from resettle.sandbox.postgres import Postgres

CHANGED = 0.01
LIMITS = {"limit": "whole", "limit, 2 connections": "halves", "limit, all rows ordered by key": "ordered"}
STEPS = ("first apply", "no-change apply", "1%-changed apply", "1% changed back, after ANALYZE")
LARGE = 5_000_000
MEMORY = 500.0
"""MB (1,000,000 bytes)."""
SAME = 1.05
"""Two peaks count as equal within this: allocators are not exact."""


@dataclass
class Figures:
    """Measured values by name, one for each repeat."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Around the COPY, or around `resettle.apply`."""
    process: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Around resettle's whole process."""
    peak: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    untouched: list[bool] = field(default_factory=list)
    """Whether the no-change apply left every data table alone."""

    def add(self, name: str, taken: step.Step) -> None:
        self.seconds[name].append(taken.apply)
        self.process[name].append(taken.process)
        self.peak[name].append(taken.peak)


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


def show_figures(figures: Figures) -> None:
    body = []
    for name in (*LIMITS, *STEPS):
        around = table.spread(figures.process[name]) if name in figures.process else "- | - | -"
        peak = f"{max(figures.peak[name]):.0f}" if name in figures.peak else "-"
        body.append([name, table.spread(figures.seconds[name]), around, peak])
    head = ("what", "seconds: median", "min", "max", "whole process: median", "min", "max", "peak MB")
    table.rows(head, body)


def show_targets(figures: Figures) -> None:
    """Each target line, judged twice: by the time around `resettle.apply` and by that of the whole process."""
    first, same, changed, analyzed = STEPS
    body = [
        _target("first apply / limit", figures, first, "limit", most=1.5),
        *(_target(f"first apply / {name}", figures, first, name) for name in LIMITS if name != "limit"),
        _target("first apply / no-change apply", figures, first, same, least=4.0),
        _target("1%-changed / no-change apply", figures, changed, same, most=1.3),
        _target("the same, after ANALYZE", figures, analyzed, same, most=1.3),
    ]
    written = "no data table written" if all(figures.untouched) else "data tables were written"
    body.append(["no-change apply writes nothing", "0 tuples, same xmin", written, table.holds(all(figures.untouched))])
    peak = max(max(figures.peak[name]) for name in STEPS)
    body.append(["peak memory, all steps", f"< {MEMORY:.0f} MB", f"{peak:.0f} MB", table.holds(peak < MEMORY)])
    table.rows(("target", "wanted", "ratio: median (min to max)", "holds"), body)
    print(
        "Ratios are taken within each repeat. The first is around `resettle.apply`, the second with the whole process"
    )
    print("of resettle (interpreter, imports, connecting). The peer's line is measured by `make bench-peers`.\n")


def _target(
    name: str, figures: Figures, above: str, below: str, *, most: float | None = None, least: float | None = None
) -> list[str]:
    """One line; with neither `most` nor `least` it is information, and nothing is judged."""
    plain = table.ratios(figures.seconds[above], figures.seconds[below])
    whole = table.ratios(figures.process[above], figures.process.get(below) or figures.seconds[below])
    said = "; ".join(f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})" for values in (plain, whole))
    if most is None and least is None:
        return [name, "-", said, "-"]
    wanted = f"≤ {most}" if most is not None else f"≥ {least}"

    def held(values: list[float]) -> str:
        middle = median(values)
        return table.holds(middle <= most if most is not None else middle >= (least or 0.0))

    return [name, wanted, said, f"{held(plain)}; {held(whole)}"]


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
        show_figures(figures)
        show_targets(figures)
        if arguments.large:
            show_large(postgres, rows, figures)
    print(f"{table.load()} at the end")


if __name__ == "__main__":
    main()
