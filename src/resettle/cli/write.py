"""Commands that write: apply (the target) and rehearse (the target, taken back)."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from resettle.cli.options import (
    DEFAULT_WORKERS,
    HERE,
    BatchSize,
    Concurrency,
    Env,
    Fresh,
    Json,
    Limit,
    MigrationPath,
    Select,
    ShowValues,
    Var,
    Verbose,
    Where,
    Workers,
    Yes,
    conclude,
    opened,
    out,
    print_json,
    unsettled,
)
from resettle.engine import apply as applying
from resettle.engine import rehearse as rehearsing
from resettle.engine.plan import load_plan
from resettle.errors import ConfigError
from resettle.report.log import event
from resettle.report.summary import print_rehearsed


def register(app: typer.Typer) -> None:
    app.command()(rehearse)
    app.command()(apply)


def apply(
    plan_file: Annotated[Path | None, typer.Argument(help="A saved plan: exactly it, or refused as stale.")] = None,
    migration: MigrationPath = HERE,
    env: Env = None,
    var: Var = None,
    select: Select = None,
    where: Where = None,
    limit: Limit = None,
    batch_size: BatchSize = None,
    workers: Workers = DEFAULT_WORKERS,
    concurrency: Concurrency = None,
    fresh: Fresh = False,
    show_values: ShowValues = False,
    yes: Yes = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write what is missing or changed; goes on where an earlier run stopped."""
    saved = load_plan(plan_file) if plan_file else None
    chosen: dict[str, Any] = {"select": select, "where": where, "limit": limit}
    if saved is not None:
        if any(value is not None for value in chosen.values()):
            raise ConfigError("a saved plan says itself what it covers", hint="leave out --select, --where and --limit")
        chosen |= saved.options
    chosen |= {"batch_size": batch_size, "workers": workers, "concurrency": concurrency}
    chosen["fresh"] = fresh or bool(chosen.get("fresh"))
    chosen["show_values"] = show_values
    settings: dict[str, Any] = {"json": json, "verbose": verbose, "progress": True, "stoppable": True, "yes": yes}
    with opened("apply", migration, env, var, writes=True, **settings, **chosen) as o:
        ledger = o.connections.ledger()
        done = applying.apply(o.migration, o.connections, ledger, o.options, datetime.now(UTC), saved=saved)
        left = unsettled(o, done)
    for counts in done.counts:
        event("flow", run=done.run, **counts.as_json())
    conclude(done, left, json=json)


def rehearse(
    migration: MigrationPath = HERE,
    env: Env = None,
    var: Var = None,
    select: Select = None,
    where: Where = None,
    limit: Limit = None,
    batch_size: BatchSize = None,
    workers: Workers = DEFAULT_WORKERS,
    fresh: Fresh = False,
    yes: Yes = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write everything to the real tables in one transaction and roll it back: what would they refuse?"""
    chosen: dict[str, Any] = {"select": select, "where": where, "limit": limit, "fresh": fresh}
    chosen |= {"batch_size": batch_size, "workers": workers}
    settings: dict[str, Any] = {"json": json, "verbose": verbose, "progress": True, "stoppable": True, "yes": yes}
    with opened("rehearse", migration, env, var, writes=True, **settings, **chosen) as o:
        done = rehearsing.rehearse(o.migration, o.connections, o.connections.ledger(), o.options, datetime.now(UTC))
    if json:
        print_json({"flows": [counts.as_json() for counts in done.counts], "rolled_back": True})
    else:
        print_rehearsed(out, done)
    if done.exit_code:
        raise typer.Exit(done.exit_code)
