"""Lists of records by status: on the terminal, and as a JSON file that only its owner may read."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console

from resettle import private
from resettle.report.terminal import escape

SHOWN = 20
"""Failed records that are named at the end of a run."""


@dataclass(frozen=True)
class Unsettled:
    """What a run leaves for somebody to look at: what failed, and the file with all that failed or is held."""

    failed: tuple[Mapping[str, Any], ...]
    """The first of those that failed."""
    more: int
    """How many others failed."""
    path: Path | None

    def as_json(self) -> dict[str, Any]:
        names = ("flow", "unit", "label", "reason", "detail")
        shown = [{name: one[name] for name in names if name in one} for one in self.failed]
        return {"failed": shown, "unsettled": str(self.path) if self.path else None}


def print_unsettled(console: Console, left: Unsettled) -> None:
    """The first failed records, and where all of them are listed."""
    for one in left.failed:
        console.print(f"[red]![/] {line(one)}", highlight=False)
    if left.more:
        console.print(f"  and {left.more:,} more", highlight=False)
    if left.path:
        console.print(f"Every failed and held record: {escape(str(left.path))}", highlight=False)


def line(one: Mapping[str, Any]) -> str:
    """A record on one line: its flow, its key, its label where it has one, and why it is in the list."""
    label = f" ({escape(one['label'])})" if one.get("label") else ""
    why = f"{one['reason']}: {one['detail'] or 'held by this rule of the mapping'}"
    return f"{one['flow']} [bold]{escape(one['unit'])}[/]{label} {escape(why)}"


def write_unsettled(path: Path, found: Iterator[Mapping[str, Any]]) -> Unsettled:
    """Write what a run leaves to a file, if it leaves anything; there may be millions of records."""
    failed: list[Mapping[str, Any]] = []
    more = 0

    def noted() -> Iterator[Mapping[str, Any]]:
        nonlocal more
        for one in found:
            if one["status"] == "failed" and len(failed) < SHOWN:
                failed.append(one)
            elif one["status"] == "failed":
                more += 1
            yield one

    left = noted()
    first = next(left, None)
    if first is None:
        return Unsettled((), 0, None)
    write_outcomes(path, itertools.chain([first], left))
    return Unsettled(tuple(failed), more, path)


def write_outcomes(path: Path, found: Iterable[Mapping[str, Any]]) -> int:
    """A JSON array in a file, one record a line; gives how many records it holds."""
    count = 0
    with private.replacing(path) as file:
        for count, text in enumerate(_lines(found, plain=False)):  # noqa: B007
            file.write(text.encode())
    return count


def print_outcomes(stream: TextIO, found: Iterable[Mapping[str, Any]]) -> int:
    """The same on a stream that may be a terminal: what is not ASCII is escaped."""
    count = 0
    for count, text in enumerate(_lines(found, plain=True)):  # noqa: B007
        stream.write(text)
    return count


def _lines(found: Iterable[Mapping[str, Any]], *, plain: bool) -> Iterator[str]:
    """A line for each record, and one for the end."""
    before = "[\n"
    for one in found:
        yield before + json.dumps(one, ensure_ascii=plain, default=str)
        before = ",\n"
    yield "[]\n" if before.startswith("[") else "\n]\n"
