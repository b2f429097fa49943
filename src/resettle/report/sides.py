"""Sides: a held record's rows for people and for JSON: what we wrote, what is there now, what would be written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from resettle.engine.explain import Side
from resettle.report.terminal import escape

_HIDDEN = "(not shown)"


def side_json(side: Side, show_values: bool) -> dict[str, Any]:
    """A row for --json; values of records only on request."""
    fields = {
        name: {"now": now, "wanted": wanted} if show_values else {} for name, (now, wanted) in side.fields.items()
    }
    return {"output": side.output, "key": side.key, "wrote": side.wrote, "as_left": side.left, "differ": fields}


def print_sides(console: Console, sides: Sequence[Side], *, show_values: bool) -> None:
    """Each row: who wrote it last, and column by column what is there now and what we would write."""
    for side in sides:
        console.print(f"  {escape(side.output)} {escape(side.key)}: {_history(side)}", highlight=False)
        for name, (now, wanted) in side.fields.items():
            there, ours = (escape(str(now)), escape(str(wanted))) if show_values else (_HIDDEN, _HIDDEN)
            console.print(f"      {escape(name)}: now {there} | we would write {ours}", highlight=False)
    if any(side.fields for side in sides) and not show_values:
        console.print("      (--show-values shows them)", highlight=False)


def _history(side: Side) -> str:
    if side.wrote is None:
        return "we never wrote it"
    if side.left is None:
        return f"run {side.wrote} wrote it; the row is gone now"
    return f"run {side.wrote} wrote it; " + ("it is as we left it" if side.left else "somebody changed it since")
