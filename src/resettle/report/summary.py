"""Terminal summaries: counts first, then samples by kind of decision, then what to run next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from resettle.batch import Action, Status
from resettle.engine.apply import Applied
from resettle.engine.balance import Counts, Sample
from resettle.engine.check import Remark
from resettle.engine.plan import Plan
from resettle.engine.privileges import Privileges
from resettle.engine.rehearse import Rehearsed
from resettle.engine.verify import Verified
from resettle.report.terminal import escape

_SIGNS = {
    **dict.fromkeys(("create", "copy"), "[green]+[/]"),
    **dict.fromkeys(("update", "patch"), "[yellow]~[/]"),
    "reuse": "[cyan]=[/]",
}


RUN = ("run", "phase", "status", "started", "took", "what")
"""Columns of a list of runs, as `run_row` gives them."""
_PAST = {"create": "created", "update": "updated", "patch": "patched", "copy": "copied", "reuse": "reused"}
_ALWAYS = {"done", "unchanged", "held"}


def counts_table(counts: Sequence[Counts]) -> Table:
    """One line per flow: what was read, what became of it, and the rows behind it. Empty columns are left out."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    words = [str(word) for word in Status if word in _ALWAYS or any(one.units[word] for one in counts)]
    actions = [word for word in _PAST if any(one.total(Action(word)) for one in counts)]
    for title in ("flow", "read", *words, *(f"rows {_PAST[word]}" for word in actions)):
        table.add_column(title, justify="left" if title == "flow" else "right", no_wrap=True)
    for one in counts:
        units = [_number(one.units[word], word) for word in words]
        rows = [one.total(Action(action)) for action in actions]
        table.add_row(one.flow, f"{one.read:,}", *units, *(f"{row:,}" if row else "-" for row in rows))
    return table


def _number(count: int, word: str) -> str:
    if not count:
        return "-"
    colour = {"held": "yellow", "failed": "red", "done": "green"}.get(word)
    return f"[{colour}]{count:,}[/]" if colour else f"{count:,}"


def held_words(count: int) -> str:
    """How many records are held, as a sentence."""
    return f"{count:,} record{' is' if count == 1 else 's are'} held"


_TO_DO = {
    "create": "rows to create",
    "update": "rows to update",
    "patch": "rows to patch",
    "copy": "files to copy",
}
"""By action."""


def print_plan(console: Console, plan: Plan, *, saved_as: str | None, samples: int) -> None:
    """A plan, for people."""
    console.print(f"[bold]plan[/] {plan.migration} ({plan.environment})")
    console.print(counts_table(plan.counts))
    for counts in plan.counts:
        _reasons(console, counts)
        _samples(console, counts, samples)
        _fields(console, counts)
    parts = [f"{count:,} {_TO_DO[action]}" for action, count in plan.writes.items()]
    parts = parts or ["nothing to write"]
    console.print(f"Plan: {', '.join(parts)}. Nothing will be deleted, no table will be altered.", highlight=False)
    if saved_as:
        console.print(f"Saved to {escape(saved_as)}. To do exactly this: [bold]resettle apply {escape(saved_as)}[/]")


def print_applied(console: Console, applied: Applied) -> None:
    """A run, for people."""
    console.print(f"[bold]run {applied.run}[/] {applied.status}")
    console.print(counts_table(applied.counts))
    for counts in applied.counts:
        _reasons(console, counts)
    _what_next(console, applied.counts)
    if applied.interrupted:
        console.print("Interrupted after a whole batch; go on with: [bold]resettle apply[/]")


def print_rehearsed(console: Console, rehearsed: Rehearsed) -> None:
    """A rehearsal, for people."""
    console.print("[bold]rehearsal[/] everything was written to the real tables, and rolled back")
    console.print(counts_table(rehearsed.counts))
    for counts in rehearsed.counts:
        _reasons(console, counts)
        for kind, kept in counts.samples.items():
            for sample in kept if kind.startswith(("held", "failed")) else ():
                console.print(f"  [yellow]![/] {_line(counts.flow, kind, sample)}", highlight=False)
    lost = sum(counts.units[Status.HELD] + counts.units[Status.FAILED] for counts in rehearsed.counts)
    if lost:
        console.print(f"[yellow]{lost:,} records would not go in[/] as they are. The rest was accepted.")
    else:
        console.print("[green]The target accepts everything.[/]")
    console.print("Nothing stays of it but the numbers that sequences gave out.")


def _what_next(console: Console, counted: Sequence[Counts]) -> None:
    held = sum(counts.units[Status.HELD] for counts in counted)
    failed = sum(counts.units[Status.FAILED] for counts in counted)
    if failed:
        console.print(f"[red]{failed:,} records failed[/] and are tried again by the next [bold]resettle apply[/].")
    if held:
        console.print(
            f"[yellow]{held_words(held)}.[/] See them: [bold]resettle held list[/]; once they or the mapping"
            " are right: [bold]resettle held replay[/]"
        )


def _reasons(console: Console, counts: Counts) -> None:
    parts = [f"{reason} {count:,}" for reason, count in counts.reasons.most_common()]
    parts += [f"{reason} {count:,} rows left out" for reason, count in counts.left_out.most_common()]
    parts += [f"{name} {count:,} (warning)" for name, count in counts.warnings.most_common()]
    if parts:
        console.print(f"  {counts.flow}: {', '.join(parts)}", highlight=False)
    width = max(map(len, counts.summary), default=0)
    for name, figure in counts.summary.items():
        console.print(f"  {name:<{width}}  {figure:>12,}", highlight=False)


def _samples(console: Console, counts: Counts, samples: int) -> None:
    for kind, kept in counts.samples.items():
        for sample in kept[:samples]:
            console.print(f"  {_SIGNS.get(kind, '[yellow]![/]')} {_line(counts.flow, kind, sample)}", highlight=False)
            for name, (before, after) in list(sample.fields.items())[:20] if kind != "create" else ():
                console.print(f"      {escape(name)}: {escape(str(before))} -> {escape(str(after))}", highlight=False)
            if kind == "create" and sample.fields and next(iter(sample.fields.values()))[1] != "(not shown)":
                shown = ", ".join(f"{name}={after}" for name, (_, after) in sample.fields.items())
                console.print(f"      {escape(shown)}", highlight=False)


def _line(flow: str, kind: str, sample: Sample) -> str:
    return escape(f"{kind} {flow} {sample.unit}" + (f": {sample.detail}" if sample.detail else ""))


def _fields(console: Console, counts: Counts) -> None:
    if counts.unmapped:
        console.print(f"  {counts.flow}: nothing maps {escape(', '.join(counts.unmapped))}", highlight=False)
    if counts.unseen:
        console.print(f"  {counts.flow}: not in the first records: {escape(', '.join(counts.unseen))}", highlight=False)


def print_remarks(console: Console, remarks: Iterable[Remark]) -> None:
    """check's remarks, the worst first."""
    marks = {"error": "[red]error[/]  ", "warning": "[yellow]warning[/]", "note": "[dim]note[/]   "}
    for remark in sorted(remarks, key=lambda one: list(marks).index(one.level)):
        place = f" ({remark.place})" if remark.place else ""
        console.print(f"{marks[remark.level]} {escape(remark.message)}{escape(place)}", highlight=False)
        if remark.hint:
            console.print(f"        {escape(remark.hint)}", style="dim", highlight=False)


def print_privileges(console: Console, needed: Iterable[Privileges]) -> None:
    """What each connection's user has to be allowed, fit to be copied."""
    for one in needed:
        console.print(f"[bold]{escape(one.connection)}[/]: what its user needs")
        for line in one.apply or ("-- its connector names nothing: to read, and to write what is written",):
            console.print(f"  {escape(line)}", highlight=False)
        if one.rollback:
            console.print("  -- and for a rollback", highlight=False)
        for line in one.rollback:
            console.print(f"  {escape(line)}", highlight=False)


def print_verified(console: Console, verified: Verified, *, spots: int) -> None:
    """verify's outcome, for people."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in (
        "flow",
        "source records",
        "held",
        "skipped",
        "rows compared",
        "by digest",
        "cells",
        "instants",
        "JSON",
        "in target",
    ):
        table.add_column(title, justify="left" if title in {"flow", "in target"} else "right")
    for flow in verified.flows:
        counted = (flow.read, flow.held, flow.skipped, flow.rows, flow.by_digest)
        numbers = (*counted, flow.cells, flow.instants, flow.documents)
        there = ", ".join(f"{name} {count:,}" for name, count in flow.in_target.items())
        table.add_row(flow.flow, *(f"{number:,}" for number in numbers), there)
    console.print(table)
    for name, passed, detail in verified.checks:
        sign = "[green]ok[/]  " if passed else "[red]FAIL[/]"
        console.print(f"{sign} {escape(name)}" + (f": {escape(detail)}" if detail else ""), highlight=False)
    for spot in verified.spots[:spots]:
        equal = sum(same for _, _, same in spot.fields.values())
        console.print(
            f"spot {spot.flow} {escape(spot.key)}: {equal} of {len(spot.fields)} fields equal", highlight=False
        )
        for name, (wanted, found, same) in spot.fields.items():
            hidden = wanted is None and found is None
            if not hidden or not same:
                sign = "=" if same else "[red]*[/]"
                pair = "differs (not shown)" if hidden else f"{escape(str(wanted))} | {escape(str(found))}"
                console.print(f"    {sign} {escape(name)}: {pair}", highlight=False)
    for finding in verified.findings:
        where = " ".join(part for part in (finding.flow, finding.unit or finding.key) if part)
        console.print(f"[red]* {finding.kind}[/] {escape(where)}: {escape(finding.detail)}", highlight=False)
    print_verdict(console, verified)


def print_verdict(console: Console, verified: Verified) -> None:
    """verify's last line."""
    total, held = verified.counts.total(), verified.held
    if total:
        console.print(f"[red]{total:,} findings.[/]")
    elif held:
        console.print(f"[green]Verified: all that was migrated arrived.[/] [yellow]{held_words(held)}.[/]")
    else:
        console.print("[green]Verified: everything arrived.[/]")


def run_row(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run of the ledger with, for one line, when it `started`, how long it `took`, and `what` it did."""
    started = datetime.fromisoformat(run["started_at"])
    completed = datetime.fromisoformat(run["completed_at"]) if run["completed_at"] else None
    flows = (run["summary"] or {}).get("flows", [])
    words = ("done", "unchanged", "held", "failed", "deleted", "restored", "forgotten")
    totals = {word: sum(flow.get(word, 0) for flow in flows) for word in words}
    what = ", ".join(f"{count:,} {word}" for word, count in totals.items() if count)
    took = f"{(completed - started).total_seconds():.1f} s" if completed else ""
    return {**run, "started": f"{started:%Y-%m-%d %H:%M:%S}", "took": took, "what": what}


def table_of(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Table:
    """A plain table of dicts."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*("" if row.get(column) is None else escape(str(row[column])) for column in columns))
    return table
