"""Terminal reports of a rollback and of drift: counts first, then what is kept or drifted, then what to run next."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from resettle.engine.drift import FlowDrift
from resettle.engine.rollback import FlowUndone, RolledBack
from resettle.report.terminal import escape

WORDS = ("deleted", "restored", "forgotten")
LISTED = 20
"""Units or rows that are shown; all are counted."""


def print_rollback(console: Console, done: RolledBack) -> None:
    """A rollback or the plan of one, for people."""
    name = f"rollback of run {done.of}"
    console.print(f"[bold]run {done.run}[/] {name}: {done.status}" if done.run else f"[bold]plan[/] {name}")
    console.print(_table(done.flows))
    for flow in done.flows:
        if flow.samples and not done.run:
            console.print(f"  {flow.flow}: {escape(', '.join(flow.samples))}, ...", highlight=False)
        for reason, count in flow.kept.most_common():
            console.print(f"  {flow.flow}: kept {count:,} ({escape(reason)})", highlight=False)
    kept = [one for flow in done.flows for one in flow.listed]
    for one in kept[:LISTED]:
        where = f"{one.flow} [bold]{escape(one.unit)}[/]"
        console.print(f"[yellow]![/] {where} {escape(one.reason)}: {escape(one.detail)}", highlight=False)
    if done.kept > LISTED:
        console.print(f"  and {done.kept - LISTED:,} more (--json lists them)")
    _next(console, done)


def _table(flows: Sequence[FlowUndone]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("flow", "output", "units", *(f"rows {word}" for word in WORDS), "units kept"):
        table.add_column(title, justify="left" if title in {"flow", "output"} else "right", no_wrap=True)
    for flow in flows:
        outputs = [name for name, counts in flow.outputs.items() if counts.total()]
        for place, output in enumerate(outputs or [""]):
            first = place == 0
            numbers = [flow.outputs[output][word] if output else 0 for word in WORDS]
            table.add_row(
                flow.flow if first else "",
                "" if output == "row" else output,
                _number(flow.units) if first else "",
                *map(_number, numbers),
                _number(flow.kept.total()) if first else "",
            )
    return table


def _number(count: int) -> str:
    return f"{count:,}" if count else "-"


def _next(console: Console, done: RolledBack) -> None:
    if done.interrupted:
        console.print(f"Interrupted after a whole batch; go on with: [bold]resettle rollback {done.of} --execute[/]")
    elif done.run is None:
        console.print(f"Nothing was written. To do this: [bold]resettle rollback {done.of} --execute[/]")
    elif done.kept:
        console.print(f"[yellow]{done.kept:,} units are kept as they are.[/] Once they may go, run it again.")
    else:
        console.print(f"[green]Run {done.of} is undone.[/]")


def print_drift(console: Console, found: Sequence[FlowDrift]) -> None:
    """Drift, for people."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("flow", "rows compared", "changed", "vanished"):
        table.add_column(title, justify="left" if title == "flow" else "right")
    for flow in found:
        numbers = (flow.rows, flow.counts["changed"], flow.counts["vanished"])
        table.add_row(flow.flow, *map(_number, numbers))
    console.print(table)
    for one in [drifted for flow in found for drifted in flow.listed][:LISTED]:
        output = "" if one.output == "row" else f".{one.output}"
        where = f"{one.flow}{output} [bold]{escape(one.unit)}[/] {escape(one.key)}"
        console.print(f"[yellow]![/] {one.kind} {where}", highlight=False)
    total = sum(flow.counts.total() for flow in found)
    if total > LISTED:
        console.print(f"  and {total - LISTED:,} more (--json lists them)")
    if not total:
        console.print("[green]Every row is as we left it.[/]")
    else:
        console.print(f"[yellow]{total:,} rows are not as we left them.[/] Columns and values: resettle verify")
