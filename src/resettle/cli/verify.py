"""verify: prove that everything arrived."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

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
from resettle.report import summary


def register(app: typer.Typer) -> None:
    app.command()(verify)


def verify(
    migration: MigrationPath = HERE,
    env: Env = None,
    var: Var = None,
    select: Select = None,
    where: Where = None,
    limit: Limit = None,
    batch_size: BatchSize = None,
    workers: Workers = DEFAULT_WORKERS,
    sample: Annotated[int | None, typer.Option(min=1, help="Compare about so many records of each flow.")] = None,
    seed: Annotated[int, typer.Option(help="Chooses the sample and the spot checks.")] = 0,
    spots: Annotated[int, typer.Option(min=0, help="Spot checks printed (all are in --json).")] = 3,
    show_values: ShowValues = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compare the source, shaped again, with the target: every row, orphans, assertions, RLS probes."""
    chosen: dict[str, Any] = {"select": select, "where": where, "limit": limit, "show_values": show_values}
    chosen |= {"batch_size": batch_size, "workers": workers}
    with opened("verify", migration, env, var, json=json, verbose=verbose, progress=True, **chosen) as o:
        found = verifying.verify(
            o.migration,
            o.connections,
            o.connections.ledger(),
            o.options,
            datetime.now(UTC),
            sample=sample,
            seed=seed,
        )
    if json:
        print_json(found.as_json())
    else:
        summary.print_verified(out, found, spots=spots)
    if found.exit_code:
        raise typer.Exit(found.exit_code)
