"""lesson-assets' lessons in one Postgres, beside the loop that everybody writes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg

from benchmarks import server, step
from benchmarks.data import generator
from benchmarks.figures import Figures
from resettle.sandbox.postgres import Postgres

FLOW = "lessons"
LOOP, FIRST, SECOND = "loop", "first apply", "second apply"
ALIKE = 0.02
"""The loop takes some items for media that resettle leaves out with a reason; this part of them at most."""


def called(name: str, lessons: int) -> str:
    """A measure's name among the figures."""
    return f"{name}, {lessons:,} lessons"


@contextmanager
def originals(postgres: Postgres, sizes: Sequence[int]) -> Iterator[None]:
    """For each size a database to copy: filled once by the migration's generator, with statistics."""
    with ExitStack() as made:
        for lessons in sizes:
            made.enter_context(server.database(postgres, _name(lessons), _schema))
            # In a process of its own: what it needs would count towards the peak memory of later children.
            url = f"{postgres.url.rpartition('/')[0]}/{_name(lessons)}"
            step.alone("benchmarks.lessons:fill", url=url, lessons=lessons)
            server.settle(url)
        yield


def measure_loop(postgres: Postgres, lessons: int, figures: Figures) -> dict[str, Any]:
    """The loop over a fresh copy; gives what it counted."""
    with server.copied(postgres, _name(lessons), "loop") as url:
        taken = step.alone("benchmarks.lessons_loop:load", url=url)
    figures.add(called(LOOP, lessons), taken, peer=True)
    return dict(taken.said)


def measure_resettle(postgres: Postgres, lessons: int, figures: Figures) -> dict[str, Any]:
    """The first apply over a fresh copy, and the second, which reads what the first has patched; its own counts."""
    with server.copied(postgres, _name(lessons), "resettle") as url:
        first = _apply(url, lessons, FIRST, figures)
        before = server.fingerprint(url)
        again = _apply(url, lessons, SECOND, figures)
        figures.untouched.append(server.fingerprint(url) == before)
    made = ("assetsCreated", "usagesCreated", "lessonItemsPatchedWithAssetId")
    if any(again.said["summary"][FLOW][name] for name in made):
        raise SystemExit(f"the second apply made something: {again.said['summary'][FLOW]}: nothing measured")
    return dict(first.said["summary"][FLOW])


def _apply(url: str, lessons: int, name: str, figures: Figures) -> step.Step:
    taken = step.apply("lesson-assets", {"DATABASE_URL": url}, FLOW)
    units = taken.said["units"][FLOW]
    if sum(units.values()) != lessons or set(units) - {"done", "unchanged", "skipped"}:
        raise SystemExit(f"expected {lessons} lessons done or skipped, resettle says {units}: nothing measured")
    figures.add(called(name, lessons), taken)
    return taken


def compare(counted: dict[str, Any], summary: dict[str, Any]) -> str:
    """That both did the same work, in a sentence. Stops where they did not."""
    pairs = {
        "items": (counted["items"], summary["mediaItemsEligible"]),
        "new assets": (counted["assets"], summary["assetsCreated"]),
        "new usages": (counted["usages"], summary["usagesCreated"]),
    }
    said = ", ".join(f"{theirs:,} and {ours:,} {name}" for name, (theirs, ours) in pairs.items())
    if any(abs(theirs - ours) > theirs * ALIKE for theirs, ours in pairs.values()):
        raise SystemExit(f"the loop and resettle differ: {said}: nothing measured")
    return f"the loop and resettle: {said}"


def _name(lessons: int) -> str:
    return f"lessons_{lessons}"


def _schema(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute((step.MIGRATIONS / "lesson-assets" / "sandbox" / "schema.sql").read_bytes())


def fill(url: str, lessons: int) -> dict[str, Any]:
    """In a process of its own: the generator's lessons, without the messy ones; it analyzes at the end."""
    begun = time.perf_counter()
    generator("lesson-assets").generate(url, lessons)
    return {"seconds": time.perf_counter() - begun}
