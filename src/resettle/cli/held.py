"""held: see, export, replay and waive the records that need a person."""

from __future__ import annotations

import csv
import io
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from resettle import private
from resettle.cli.options import (
    HERE,
    Concurrency,
    Env,
    Json,
    Listed,
    MigrationPath,
    ShowValues,
    Var,
    Verbose,
    Yes,
    conclude,
    opened,
    out,
    print_json,
    unsettled,
)
from resettle.engine import apply as applying
from resettle.engine import explain as explaining
from resettle.engine.outcomes import labelled, waiting
from resettle.errors import ConfigError
from resettle.ledger.ledger import Ledger
from resettle.report import summary
from resettle.report.outcomes import line
from resettle.report.sides import print_sides, side_json
from resettle.report.terminal import escape, visible

app = typer.Typer(help="See, export, replay and waive held records.", no_args_is_help=True)


Flow = Annotated[str | None, typer.Option("--select", "-s", help="Only this flow.")]
Reason = Annotated[str | None, typer.Option(help="Only this reason.")]
Units = Annotated[list[str] | None, typer.Argument(help="Unit keys; by default all that the options choose.")]


@app.command("list")
def list_(
    migration: MigrationPath = HERE,
    env: Env = None,
    var: Var = None,
    select: Flow = None,
    reason: Reason = None,
    limit: Listed = 50,
    show_values: ShowValues = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List held records by flow and reason, and partial ones with the rows that wait."""
    with opened("held-list", migration, env, var, json=json, verbose=verbose) as o:
        ledger = o.connections.ledger()
        counts = [
            one
            for one in ledger.count_units()
            if one["status"] == "held" and select in (None, one["flow"]) and reason in (None, one["reason"])
        ]
        totals: Counter[tuple[str, str]] = Counter()
        for one in counts:
            totals[one["flow"], one["reason"]] += one["count"]
        shares = _shares(totals, limit)
        held = [one for (flow, why), most in shares.items() for one in ledger.each_unit("held", flow, why, most)]
        partial = [one | {"waiting": waiting(one["detail"])} for one in ledger.units("partial", select, reason, limit)]
        if show_values:
            held, partial = (labelled(o.migration, o.connections, o.options, found) for found in (held, partial))
    if json:
        print_json({"counts": counts, "held": held, "partial": partial})
        return
    for one in partial:
        out.print(f"[cyan]~[/] {line(one)}", highlight=False)
    if not held:
        out.print("Nothing is held.")
        return
    rows = [{"flow": flow, "reason": why, "records": f"{count:,}"} for (flow, why), count in totals.items()]
    out.print(summary.table_of(rows, ["flow", "reason", "records"]))
    for one in held:
        out.print(f"[yellow]![/] {line(one)}", highlight=False)
    if totals.total() > len(held):
        out.print(
            f"  and {totals.total() - len(held):,} more: [bold]--reason[/], [bold]--limit[/] or"
            " [bold]resettle held export FILE[/]",
            highlight=False,
        )
    out.print("Next: correct the source or the mapping, then [bold]resettle held replay[/]; or [bold]held waive[/]")


def _shares(totals: Mapping[tuple[str, str], int], limit: int) -> dict[tuple[str, str], int]:
    """How many records of each flow and reason are listed, ``limit`` in all: rare reasons whole, others alike."""
    shares: dict[tuple[str, str], int] = {}
    for place, (group, count) in enumerate(sorted(totals.items(), key=lambda one: one[1])):
        shares[group] = min(count, (limit - sum(shares.values())) // (len(totals) - place))
    return {group: shares[group] for group in totals if shares[group]}


@app.command()
def show(
    unit: Annotated[str, typer.Argument(help="A unit's key.")],
    migration: MigrationPath = HERE,
    env: Env = None,
    var: Var = None,
    select: Flow = None,
    show_values: ShowValues = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show one held record: why, what is there now, what would be written, and what to run next."""
    with opened("held-show", migration, env, var, json=json, verbose=verbose) as o:
        ledger = o.connections.ledger()
        found = ledger.units("held", select, unit=unit)
        for one in found:
            now = datetime.now(UTC)
            one["rows"] = explaining.explain(o.migration, o.connections, ledger, o.options, now, one["flow"], unit)
        found = labelled(o.migration, o.connections, o.options, found) if show_values else found
    if not found:
        raise ConfigError(f"no held record has the key `{unit}`", hint="resettle held list")
    if json:
        print_json({"held": [{**one, "rows": [side_json(r, show_values) for r in one["rows"]]} for one in found]})
        return
    for one in found:
        out.print(f"[bold]{one['flow']}[/] {escape(one['unit'])}", highlight=False)
        for name in _columns(show_values)[2:]:
            out.print(f"  {name.replace('_', ' ')}: {escape(str(one[name]))}", highlight=False)
        print_sides(out, one["rows"], show_values=show_values)
        unit = escape(shlex.quote(one["unit"]))
        out.print(f"  next: correct it, then resettle held replay {unit}", highlight=False)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="A CSV file to write; `-` is stdout.")],
    migration: MigrationPath = HERE,
    env: Env = None,
    var: Var = None,
    select: Flow = None,
    reason: Reason = None,
    show_values: ShowValues = False,
    verbose: Verbose = False,
) -> None:
    """Write held records (keys and reasons; labels on request) to a CSV file."""
    with opened("held-export", migration, env, var, verbose=verbose) as o:
        held = o.connections.ledger().each_unit("held", select, reason)
        held = iter(labelled(o.migration, o.connections, o.options, held)) if show_values else held
        lines = _as_csv(_columns(show_values), held)
        if str(file) == "-":
            sys.stdout.writelines(map(visible, lines) if sys.stdout.isatty() else lines)
            return
        with private.replacing(file) as stream:
            stream.writelines(line.encode() for line in lines)


def _as_csv(names: list[str], records: Iterator[dict[str, Any]]) -> Iterator[str]:
    """A heading and a line for each record, as they come."""
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore")
    writer.writeheader()
    for one in records:
        writer.writerow(one)
        yield text.getvalue()
        text.seek(0)
        text.truncate()
    yield text.getvalue()


def _columns(show_values: bool) -> list[str]:
    """What is told of a held record."""
    label = ["label"] if show_values else []
    return ["flow", "unit", *label, "reason", "detail", "warnings", "first_run", "last_run", "attempts"]


@app.command()
def replay(
    units: Units = None,
    migration: MigrationPath = HERE,
    env: Env = None,
    var: Var = None,
    select: Flow = None,
    reason: Reason = None,
    concurrency: Concurrency = None,
    show_values: ShowValues = False,
    yes: Yes = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Try held records again, and only them."""
    settings: dict[str, Any] = {"json": json, "verbose": verbose, "progress": True, "stoppable": True, "yes": yes}
    settings |= {"concurrency": concurrency, "show_values": show_values}
    with opened("held-replay", migration, env, var, writes=True, **settings) as o:
        ledger = o.connections.ledger()
        named = _named(ledger, select, reason, units)
        only: dict[str, list[str]] = {}
        for one in ledger.each_unit("held", select, reason):
            if named and one["unit"] not in named:
                continue
            # A second record of a unit has a key of its own in the ledger; the source knows it by the unit's.
            repeat = one["reason"] == "duplicate_unit"
            only.setdefault(one["flow"], []).append(one["unit"].rpartition("#")[0] if repeat else one["unit"])
        if not only:
            out.print("Nothing is held that these options choose.")
            return
        options = replace(o.options, select=tuple(only), only=only)
        done = applying.apply(o.migration, o.connections, ledger, options, datetime.now(UTC), phase="replay")
        left = unsettled(o, done)
    gone = sum(max(0, len(set(only[counts.flow])) - counts.read) for counts in done.counts)
    if gone and not json:
        out.print(f"{gone:,} of them are not in the source any more; `resettle held waive` puts them aside.")
    conclude(done, left, json=json)


def _named(ledger: Ledger, select: str | None, reason: str | None, units: Sequence[str] | None) -> set[str]:
    """The records that are named, all of which must be held."""
    named = set(units or ())
    missing = named and named.difference(one["unit"] for one in ledger.each_unit("held", select, reason))
    if missing:
        listed = ", ".join(sorted(missing)[:3])
        raise ConfigError(f"not held: {listed}", hint="`resettle held list` shows the keys of those that are")
    return named


@app.command()
def waive(
    units: Units = None,
    why: Annotated[str, typer.Option("--why", help="Kept in the ledger.")] = "",
    migration: MigrationPath = HERE,
    env: Env = None,
    var: Var = None,
    select: Flow = None,
    reason: Reason = None,
    yes: Yes = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Declare held records out of scope; they count as skipped from then on."""
    if not why:
        raise ConfigError("a waiver needs its reason", hint="--why 'test data of 2023, agreed with ...'")
    if not (units or select or reason):
        raise ConfigError("say which records", hint="name units, --select FLOW or --reason REASON")
    with opened("held-waive", migration, env, var, json=json, verbose=verbose, writes=True, yes=yes) as o:
        ledger = o.connections.ledger()
        _named(ledger, select, reason, units)
        with ledger.run("waive", {"why": why}, datetime.now(UTC), lock=True) as run:
            count = ledger.waive(select, reason, units or [], why)
            ledger.finish(run, "done", {"waived": count})
    if json:
        print_json({"waived": count})
    else:
        out.print(f"{count:,} records waived.")
