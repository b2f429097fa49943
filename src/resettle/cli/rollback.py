"""rollback: undo a run, planned first."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from resettle.cli.options import (
    HERE,
    BatchSize,
    Env,
    Json,
    MigrationPath,
    Select,
    Var,
    Verbose,
    Yes,
    opened,
    out,
    print_json,
)
from resettle.engine import rollback as rolling
from resettle.report import undo
from resettle.report.log import event


def register(app: typer.Typer) -> None:
    app.command()(rollback)


def rollback(
    run: Annotated[int, typer.Argument(help="The run to undo, as `resettle runs` numbers it.")],
    execute: Annotated[bool, typer.Option("--execute", help="Do it; without this it is only planned.")] = False,
    migration: MigrationPath = HERE,
    env: Env = None,
    var: Var = None,
    select: Select = None,
    where: Annotated[str | None, typer.Option(help="Only units with a target row for which this SQL is true.")] = None,
    batch_size: BatchSize = None,
    yes: Yes = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Undo a run: delete what it created, put back what it changed, where nobody changed it since."""
    chosen: dict[str, Any] = {"select": select, "where": where, "batch_size": batch_size}
    settings: dict[str, Any] = {"json": json, "verbose": verbose, "stoppable": True, "writes": execute, "yes": yes}
    with opened("rollback", migration, env, var, **settings, **chosen) as o:
        ledger = o.connections.ledger()
        if execute:
            done = rolling.rollback(o.migration, o.connections, ledger, o.options, datetime.now(UTC), run)
        else:
            done = rolling.plan_rollback(o.migration, o.connections, ledger, o.options, run)
    for flow in done.flows:
        event("flow", run=done.run, **flow.as_json())
    if json:
        print_json(done.as_json())
    else:
        undo.print_rollback(out, done)
    if done.exit_code and (execute or done.interrupted):
        raise typer.Exit(done.exit_code)
