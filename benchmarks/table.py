"""Figures as Markdown: median, least and most of each measure, ratios within a repeat, and what they mean."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from statistics import median


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, least and most, as the cells of a table."""
    return " | ".join(f"{value:.{digits}f}" for value in (median(values), min(values), max(values)))


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Repeat by repeat: what ran close together shared the same noise."""
    return [one / other for one, other in zip(above, below, strict=True)]


def holds(truth: bool) -> str:
    return "yes" if truth else "**no**"


def rows(header: Sequence[str], body: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table; a cell may already hold several."""
    print(f"| {' | '.join(header)} |")
    print(f"|{'---|' * len(header)}")
    for cells in body:
        print(f"| {' | '.join(cells)} |")
    print(flush=True)


def machine() -> str:
    """What this ran on."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    cpu = models[0].partition(":")[2].strip() if models else platform.processor()
    return f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GB, Python {platform.python_version()}"


def load() -> str:
    """How busy the machine is, ours included."""
    return "load " + " ".join(f"{value:.1f}" for value in os.getloadavg())
