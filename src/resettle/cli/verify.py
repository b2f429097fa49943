"""verify and report: prove that everything arrived, and say so on a page."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from resettle import private
from resettle.cli.options import (
    DEFAULT_WORKERS,
    HERE,
    BatchSize,
    Env,
    Json,
    Limit,
    MigrationPath,
    Select,
    ShowValues,
    Var,
    Verbose,
    Where,
    Workers,
    opened,
    out,
    print_json,
)
from resettle.engine import verify as verifying
from resettle.report import html, summary
from resettle.report.terminal import escape

Sample = Annotated[int | None, typer.Option(min=1, help="Compare about so many records of each flow.")]
Seed = Annotated[int, typer.Option(help="Chooses the sample and the spot checks.")]


def register(app: typer.Typer) -> None:
    app.command()(verify)
    app.command()(report)


def verify(
    migration: MigrationPath = HERE,
    env: Env = None,
    var: Var = None,
    select: Select = None,
    where: Where = None,
    limit: Limit = None,
    batch_size: BatchSize = None,
    workers: Workers = DEFAULT_WORKERS,
    sample: Sample = None,
    seed: Seed = 0,
    spots: Annotated[int, typer.Option(min=0, help="Spot checks printed (all are in --json).")] = 3,
    show_values: ShowValues = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compare the source, shaped again, with the target: every row, orphans, assertions, RLS probes."""
    chosen: dict[str, Any] = {"select": select, "where": where, "limit": limit, "show_values": show_values}
    chosen |= {"batch_size": batch_size, "workers": workers}
    with opened("verify", migration, env, var, json=json, verbose=verbose, progress=True, **chosen) as o:
        ledger, now = o.connections.ledger(), datetime.now(UTC)
        found = verifying.verify(o.migration, o.connections, ledger, o.options, now, sample=sample, seed=seed)
    if json:
        print_json(found.as_json())
    else:
        summary.print_verified(out, found, spots=spots)
    if found.exit_code:
        raise typer.Exit(found.exit_code)


def report(
    migration: MigrationPath = HERE,
    env: Env = None,
    var: Var = None,
    select: Select = None,
    batch_size: BatchSize = None,
    workers: Workers = DEFAULT_WORKERS,
    sample: Sample = None,
    seed: Seed = 0,
    to: Annotated[Path | None, typer.Option("--out", help="The page; by default .resettle/report.html.")] = None,
    show_values: ShowValues = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Verify, and write the outcome with the runs and what is held on one HTML page, to be sent on."""
    chosen: dict[str, Any] = {"select": select, "batch_size": batch_size, "workers": workers}
    chosen["show_values"] = show_values
    with opened("report", migration, env, var, json=json, verbose=verbose, progress=True, **chosen) as o:
        ledger, now, flows = o.connections.ledger(), datetime.now(UTC), o.migration.file.flows
        found = verifying.verify(o.migration, o.connections, ledger, o.options, now, sample=sample, seed=seed)
        into = {name: dict.fromkeys(one.into for one in flow.all_outputs.values()) for name, flow in flows.items()}
        places = {name: f"{flow.from_} → {', '.join(into[name])}" for name, flow in flows.items()}
        described = o.migration.file.description or ""
        scope = f" (only {', '.join(select)})" if select else ""
        scope += f", about {sample:,} records of each flow" if sample else ""
        mine = (o.migration.name, o.migration.environment, described)
        about = html.About(*mine, places, scope, now, version("resettle"))
        runs = [summary.run_row(run) for run in ledger.runs()]
        page = html.page(about, found, ledger.count_units(), runs)
        path = to or private.folder(o.migration.root / ".resettle") / "report.html"
        with private.replacing(path) as file:
            file.write(page.encode())
    if json:
        print_json({"report": str(path), **found.as_json()})
    else:
        summary.print_verdict(out, found)
        out.print(f"Written to {escape(str(path))}")
    if found.exit_code:
        raise typer.Exit(found.exit_code)
