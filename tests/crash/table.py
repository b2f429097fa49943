"""The crash table of docs/guarantees.md, made of the points: `python -m tests.crash.table` writes it anew."""

from __future__ import annotations

import re
from pathlib import Path

from tests.crash.points import POINTS
from tests.crash.zygote import ROOT

PAGE = ROOT / "docs" / "guarantees.md"
PART = re.compile(r"(<!-- crash points -->\n)(.*?)(<!-- /crash points -->)", re.DOTALL)


def table() -> str:
    """The table of docs/guarantees.md."""
    rows = [f"| `{point.name}` | {point.before} | {point.after} | {point.then} |" for point in POINTS]
    return "\n".join(["| point | killed before it | killed after it | the next run |", "|---|---|---|---|", *rows, ""])


def write(page: Path = PAGE) -> None:
    """Write the table anew."""
    page.write_text(PART.sub(lambda found: found[1] + table() + found[3], page.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    write()
