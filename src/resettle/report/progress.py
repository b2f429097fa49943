"""Progress: one live line per flow on a terminal, plain lines otherwise, always on stderr."""

from __future__ import annotations

import time

from rich.console import Console
from rich.live import Live
from rich.table import Table

from resettle.engine.balance import Counts

EVERY = 5.0
"""Seconds between plain lines."""


class Progress:
    """Call it as `Options.progress`; use it as a context manager. ``totals``: flow -> records, where known."""

    def __init__(self, console: Console, totals: dict[str, int | None]) -> None:
        self._console, self._totals = console, totals
        self._lines: dict[str, tuple[str, int, float, float]] = {}
        self._said = time.monotonic()
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, flow: str, state: str, counts: Counts) -> None:
        now = time.monotonic()
        started = self._lines.get(flow, (state, 0, now, now))[2]
        self._lines[flow] = (state, counts.read, started, now)
        if self._live:
            self._live.update(self._table())
        elif now - self._said >= EVERY:
            self._said = now
            self._console.print(f"{flow}: {self._words(flow)}", highlight=False)

    def _table(self) -> Table:
        table = Table(box=None, show_header=False, pad_edge=False)
        for flow in self._lines:
            table.add_row(f"[bold]{flow}[/]", self._words(flow))
        return table

    def _words(self, flow: str) -> str:
        state, read, started, now = self._lines[flow]
        rate = read / (now - started) if now > started else 0.0
        total = self._totals.get(flow)
        words = f"{state} {read:,}" + (f" of {total:,}" if total else "") + " records"
        if rate:
            words += f", {rate:,.0f}/s"
        if total and rate and state != "done":
            words += f", {max(total - read, 0) / rate:,.0f} s to go"
        return words
