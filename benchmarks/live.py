"""Migrations into live schemas beside what one would write by hand: mirubato, lesson-assets, D1. `make bench-live`."""

from __future__ import annotations

import argparse
from statistics import median

from benchmarks import d1, lessons, logbook, server, table
from benchmarks.figures import TARGETS, Figures, spread

PARTS = ("logbook", "lessons", "d1")
SHARES = (20, 10)
"""The loop is measured on these parts of the lessons: a twentieth and a tenth."""
RATE, TIMES = 50_000, 10.0
"""Rows a second, or so many times those of the insert: whichever is lower."""


def measure_logbook(rows: int, repeat: int) -> None:
    """mirubato from SQLite to SQLite beside the plain statement."""
    figures = Figures()
    print(f"## mirubato: {rows:,} logbook entries, SQLite to SQLite\n", flush=True)
    logbook.prepare(rows)
    for turn in range(repeat):
        # In turn, so that neither always comes first.
        if turn % 2 == 0:
            logbook.measure_plain(rows, figures)
        logbook.measure_resettle(rows, figures)
        if turn % 2:
            logbook.measure_plain(rows, figures)
    figures.show((*logbook.PLAIN, logbook.FIRST, logbook.SAME))
    first, same = logbook.FIRST, logbook.SAME
    body = [
        figures.target(f"{first} / {logbook.JUDGED}", first, logbook.JUDGED, most=3.0),
        *(figures.target(f"{first} / {name}", first, name) for name in logbook.PLAIN if name != logbook.JUDGED),
        figures.target(f"{first} / {same}", first, same, least=4.0),
        _untouched(same, "same digest of sync_data", figures),
    ]
    table.rows(TARGETS, body)


def measure_lessons(count: int, repeat: int, *, whole: bool) -> None:
    """lesson-assets beside the loop: on parts, and on all lessons."""
    figures, parts = Figures(), [max(1, count // share) for share in SHARES]
    print(f"## lesson-assets: {count:,} lessons, in one Postgres\n", flush=True)
    with server.running() as postgres, lessons.originals(postgres, [*parts, count]):
        print(f"{server.described(postgres)}\n", flush=True)
        for turn in range(repeat):
            for size in parts:
                counted = lessons.measure_loop(postgres, size, figures)
                said = lessons.compare(counted, lessons.measure_resettle(postgres, size, figures))
                if turn == 0:
                    print(f"{size:,} lessons, {said}.", flush=True)
            counts = lessons.measure_resettle(postgres, count, figures)
        if whole:  # once: it may take half an hour
            said = lessons.compare(lessons.measure_loop(postgres, count, figures), counts)
            print(f"{count:,} lessons, {said}.")
    print(flush=True)
    names = (lessons.LOOP, lessons.FIRST, lessons.SECOND)
    found = [lessons.called(name, size) for size in (*parts, count) for name in names]
    figures.show([name for name in found if name in figures.seconds])
    show_lessons(figures, parts, count, whole=whole)


def show_lessons(figures: Figures, parts: list[int], count: int, *, whole: bool) -> None:
    """The ratios on the parts, which are measured, and on all lessons; and whether the loop grows as is assumed."""
    loop, first = lessons.called(lessons.LOOP, count), lessons.called(lessons.FIRST, count)
    part, said = parts[-1], "loop, measured once"
    loops = {size: figures.seconds[lessons.called(lessons.LOOP, size)] for size in parts}
    if whole:
        figures.seconds[loop] *= len(figures.seconds[first])
    else:
        figures.seconds[loop] = [seconds * count / part for seconds in loops[part]]
        said = f"loop, extrapolated from {part:,}"
    body = [
        *(figures.target(f"loop / first apply, {size:,} lessons", *_pair(size)) for size in parts),
        figures.target(f"{said} / first apply, {count:,} lessons", *_pair(count), least=TIMES),
        _untouched("second apply", "0 tuples, same xmin", figures),
    ]
    table.rows(TARGETS, body)
    growth, more = table.ratios(loops[part], loops[parts[0]]), part / parts[0]
    print(f"The loop over {part:,} lessons takes {spread(growth)} times as long as over {parts[0]:,}:")
    if median(growth) >= more:
        print(f"no less than {more:.1f}, so an extrapolation in proportion is in the loop's favour.\n")
    else:
        print(f"less than {more:.1f}, so at these sizes an extrapolation in proportion says nothing.\n")


def _pair(size: int) -> tuple[str, str]:
    return lessons.called(lessons.LOOP, size), lessons.called(lessons.FIRST, size)


def measure_d1(rows: int, repeat: int) -> None:
    """The connector's write beside inserts of a hundred parameters; mirubato with both sides on D1."""
    figures = Figures()
    print(f"## D1: {rows:,} rows of sync_data, through the local stand-in\n", flush=True)
    for _ in range(repeat):
        d1.measure_writes(rows, figures)
        d1.measure_mirubato(rows, figures)
    figures.show((d1.WRITE, d1.INSERT, d1.BATCHES, d1.FIRST, d1.SAME))
    rates = {name: [rows / seconds for seconds in figures.seconds[name]] for name in (d1.WRITE, d1.INSERT, d1.BATCHES)}
    least = min(RATE, TIMES * median(rates[d1.INSERT]))
    held = table.holds(median(rates[d1.WRITE]) >= least)
    body = [
        ["rows/s of write()", f"≥ {least:,.0f}", _rate(rates[d1.WRITE]), held],
        *([f"rows/s of {name}", "-", _rate(rates[name]), "-"] for name in (d1.INSERT, d1.BATCHES)),
        _untouched("mirubato, no-change apply", "same digest of sync_data", figures),
    ]
    table.rows(("target", "wanted", "median (min to max)", "holds"), body)
    print(f"Wanted of write(): {RATE:,} rows/s, or {TIMES:.0f} times {d1.INSERT}, whichever is lower.\n")


def _rate(values: list[float]) -> str:
    return f"{median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def _untouched(name: str, wanted: str, figures: Figures) -> list[str]:
    held = all(figures.untouched)
    return [f"{name} writes nothing", wanted, "nothing written" if held else "rows were written", table.holds(held)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, help="one of the three")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1_000_000, help="logbook entries from SQLite to SQLite")
    parser.add_argument("--lessons", type=int, default=200_000)
    parser.add_argument("--d1-rows", type=int, default=100_000)
    parser.add_argument("--whole", action="store_true", help="run the loop over all lessons once, for half an hour")
    arguments = parser.parse_args()
    chosen = [arguments.only] if arguments.only else PARTS
    print(f"{arguments.repeat} repeats; {table.machine()}; {table.load()} at the start\n")
    if "logbook" in chosen:
        measure_logbook(arguments.rows, arguments.repeat)
    if "lessons" in chosen:
        measure_lessons(arguments.lessons, arguments.repeat, whole=arguments.whole)
    if "d1" in chosen:
        measure_d1(arguments.d1_rows, arguments.repeat)
    print(
        "Ratios are taken within each repeat: once with the time around resettle's work, once with its whole process."
    )
    print(f"{table.load()} at the end")


if __name__ == "__main__":
    main()
