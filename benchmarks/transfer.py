"""Files from one S3 server to another, beside rclone and s5cmd on the same servers. `make bench-files`."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks import movers, stores, table
from benchmarks.figures import TARGETS, Figures
from benchmarks.step import Step

LEAST, MOST_MB = 0.9, 300
ROOM = 12_000_000_000
"""Bytes for both stores and what s5cmd writes in between; in memory, if there is so much."""
RESETTLE, RCLONE, S5CMD = "resettle", "rclone, its best", "s5cmd, its best"

Copy = Callable[[movers.Ends, int], Step]


def contenders(concurrency: int | None, transfers: list[int], workers: list[int]) -> dict[str, dict[str, Copy]]:
    """What is measured: by tool, then by name. Peers may have several settings, of which the best counts."""
    return {
        RESETTLE: {RESETTLE: lambda ends, units: movers.resettle(ends, concurrency, units)},
        RCLONE: {f"rclone --transfers {n}": lambda ends, units, n=n: movers.rclone(ends, n, units) for n in transfers},
        S5CMD: {
            f"s5cmd --numworkers {n}, down and up": lambda ends, units, n=n: movers.s5cmd(ends, n, units)
            for n in workers
        },
    }


def measure(tools: dict[str, dict[str, Copy]], objects: int, repeat: int, folder: Path, figures: Figures) -> None:
    """Every tool in turn, from the same full bucket into an empty one."""
    with stores.two(folder) as (old, new):
        wanted = stores.fill(old, movers.OLD, objects)
        print(f"{len(wanted):,} objects, {sum(size for size, _ in wanted.values()) / 1e6:,.0f} MB\n", flush=True)
        for turn in range(repeat):
            # In turn, so that none always comes first.
            order = list(tools)[turn % len(tools) :] + list(tools)[: turn % len(tools)]
            for tool in order:
                taken = {name: _once(copy, old, new, wanted, folder) for name, copy in tools[tool].items()}
                for name, step in taken.items():
                    figures.add(name, step, peer=True)
                if tool != RESETTLE:
                    best = min(taken.values(), key=lambda step: step.seconds)
                    figures.seconds[tool].append(best.seconds)


def _once(copy: Copy, old: stores.Store, new: stores.Store, wanted: stores.Listing, folder: Path) -> Step:
    """One copy; every object must then be there with its size and MD5."""
    with stores.empty(new, movers.NEW), tempfile.TemporaryDirectory(dir=folder) as place:
        taken = copy(movers.Ends(old, new, Path(place)), len(wanted))
        found = new.listing(movers.NEW)
    wrong = sum(1 for key, (size, md5) in wanted.items() if not _is(found.get(key), size, md5))
    if wrong or len(found) != len(wanted):
        raise SystemExit(f"{wrong} objects are missing or wrong, {len(found)} are there: nothing measured")
    return taken


def _is(found: tuple[int, str] | None, size: int, md5: str) -> bool:
    """An object in parts may say no MD5: then its size alone."""
    return found is not None and found[0] == size and found[1] in ("", md5)


def show(figures: Figures, tools: dict[str, dict[str, Copy]]) -> None:
    names = [name for tool in tools.values() for name in tool]
    figures.show(names)
    body = [
        figures.target(f"throughput / that of {tool}", tool, RESETTLE, least=LEAST)
        for tool in (RCLONE, S5CMD)
        if tool in figures.seconds
    ]
    peak = figures.peak[RESETTLE]
    said = f"{median(peak):.0f} ({min(peak):.0f} to {max(peak):.0f})"
    table.rows(TARGETS, [*body, ["peak MB of resettle", f"< {MOST_MB}", said, table.holds(max(peak) < MOST_MB)]])


@contextmanager
def _place() -> Iterator[Path]:
    """A folder in memory, where there is room: a disk's own pauses are not what is compared."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > ROOM
    with tempfile.TemporaryDirectory(prefix="resettle-files-", dir=memory if roomy else None) as place:
        yield Path(place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=2000, help="of 100 KB to 2 MB; five of 50 MB come on top")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--concurrency", type=int, help="files that resettle copies at once")
    parser.add_argument("--transfers", type=int, nargs="*", default=[4, 8, 16], help="of rclone; its best counts")
    parser.add_argument("--workers", type=int, nargs="*", default=[16, 256], help="of s5cmd; its best counts")
    arguments = parser.parse_args()
    print(f"{arguments.repeat} repeats; {table.machine()}; {table.load()} at the start")
    tools = contenders(arguments.concurrency, arguments.transfers, arguments.workers)
    tools = {tool: named for tool, named in tools.items() if named}
    figures = Figures()
    with _place() as folder:
        measure(tools, arguments.objects, arguments.repeat, folder, figures)
    show(figures, tools)
    print("Seconds are those of whole processes. The best of a peer is the fastest of its settings in each repeat.")
    print(f"{table.load()} at the end")


if __name__ == "__main__":
    main()
