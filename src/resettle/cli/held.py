"""held: see, export, replay and waive the records that need a person."""

from __future__ import annotations

import csv
import os
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from resettle.cli.options import (
    HERE,
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
)
from resettle.engine import apply as applying
from resettle.engine import explain as explaining
from resettle.engine.flow import Options
from resettle.errors import ConfigError
from resettle.report import summary
from resettle.report.sides import print_sides, side_json

app = typer.Typer(help="See, export, replay and waive held records.", no_args_is_help=True)


def _why(unit: dict[str, Any]) -> str:
    return escape(f"{unit['reason']}: {unit['detail'] or 'held by this rule of the mapping'}")


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
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List held records by flow and reason."""
    with opened("held-list", migration, env, var, json=json, verbose=verbose) as o:
        ledger = o.connections.ledger()
        held = ledger.units("held", select, reason, limit)
        counts = [
            one
            for one in ledger.count_units()
            if one["status"] == "held" and select in (None, one["flow"]) and reason in (None, one["reason"])
        ]
    if json:
        print_json({"counts": counts, "held": held})
        return
    if not held:
        out.print("Nothing is held.")
        return
    totals: Counter[tuple[str, str]] = Counter()
    for one in counts:
        totals[one["flow"], one["reason"]] += one["count"]
    rows = [{"flow": flow, "reason": why, "records": f"{count:,}"} for (flow, why), count in totals.items()]
    out.print(summary.table_of(rows, ["flow", "reason", "records"]))
    for one in held:
        out.print(f"[yellow]![/] {one['flow']} [bold]{escape(one['unit'])}[/] {_why(one)}", highlight=False)
    out.print("Next: correct the source or the mapping, then [bold]resettle held replay[/]; or [bold]held waive[/]")


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
        found = [one for one in ledger.units("held", select) if one["unit"] == unit]
        for one in found:
            now = datetime.now(UTC)
            one["rows"] = explaining.explain(o.migration, o.connections, ledger, o.options, now, one["flow"], unit)
    if not found:
        raise ConfigError(f"no held record has the key `{unit}`", hint="resettle held list")
    if json:
        print_json({"held": [{**one, "rows": [side_json(r, show_values) for r in one["rows"]]} for one in found]})
        return
    for one in found:
        out.print(f"[bold]{one['flow']}[/] {one['unit']}", highlight=False)
        for name in ("reason", "detail", "warnings", "first_run", "last_run", "attempts"):
            out.print(f"  {name.replace('_', ' ')}: {one[name]}", highlight=False)
        print_sides(out, one["rows"], show_values=show_values)
        out.print(f"  next: correct it, then resettle held replay {one['unit']}", highlight=False)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="A CSV file to write; `-` is stdout.")],
    migration: MigrationPath = HERE,
    env: Env = None,
    var: Var = None,
    select: Flow = None,
    reason: Reason = None,
    verbose: Verbose = False,
) -> None:
    """Write held records (keys and reasons, no values) to a CSV file."""
    with opened("held-export", migration, env, var, verbose=verbose) as o:
        held = o.connections.ledger().units("held", select, reason)
    names = ["flow", "unit", "reason", "detail", "warnings", "first_run", "last_run", "attempts"]
    if str(file) == "-":
        stream = sys.stdout
    else:
        stream = os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", newline="")
    with stream:
        writer = csv.DictWriter(stream, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(held)


@app.command()
def replay(
    units: Units = None,
    migration: MigrationPath = HERE,
    env: Env = None,
    var: Var = None,
    select: Flow = None,
    reason: Reason = None,
    yes: Yes = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Try held records again, and only them."""
    settings: dict[str, Any] = {"json": json, "verbose": verbose, "progress": True, "stoppable": True, "yes": yes}
    with opened("held-replay", migration, env, var, writes=True, **settings) as o:
        ledger = o.connections.ledger()
        chosen = [one for one in ledger.units("held", select, reason) if not units or one["unit"] in units]
        only: dict[str, list[str]] = {}
        for one in chosen:
            # A second record of a unit has a key of its own in the ledger; the source knows it by the unit's.
            repeat = one["reason"] == "duplicate_unit"
            only.setdefault(one["flow"], []).append(one["unit"].rpartition("#")[0] if repeat else one["unit"])
        if not only:
            out.print("Nothing is held that these options choose.")
            return
        options = Options(select=tuple(only), only=only, progress=o.options.progress, stop=o.options.stop)
        done = applying.apply(o.migration, o.connections, ledger, options, datetime.now(UTC), phase="replay")
    conclude(done, json=json)


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
        with ledger.run("waive", {"why": why}, datetime.now(UTC), lock=True) as run:
            count = ledger.settle(select, reason, units or [], waive=why)
            ledger.finish(run, "done", {"waived": count})
    if json:
        print_json({"waived": count})
    else:
        out.print(f"{count:,} records waived.")
