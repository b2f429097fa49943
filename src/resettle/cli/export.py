"""export: the sources' records as they are, or which record has which status, to files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from resettle.cli.options import (
    HERE,
    Env,
    Json,
    Limit,
    MigrationPath,
    Opened,
    Select,
    ShowValues,
    Var,
    Verbose,
    err,
    opened,
    out,
    print_json,
)
from resettle.engine import export as exporting
from resettle.engine.outcomes import outcomes
from resettle.errors import ConfigError
from resettle.report.outcomes import print_outcomes, write_outcomes
from resettle.report.terminal import escape


def register(app: typer.Typer) -> None:
    app.command()(export)


def export(
    folder: Annotated[Path | None, typer.Argument(help="Where to write; nothing there is overwritten.")] = None,
    migration: MigrationPath = HERE,
    env: Env = None,
    var: Var = None,
    select: Select = None,
    limit: Limit = None,
    status: Annotated[
        list[str] | None,
        typer.Option(
            help="Instead, a JSON list of records: pending, done, partial, skipped, held or failed; repeatable."
        ),
    ] = None,
    reason: Annotated[str | None, typer.Option(help="With --status: only this reason.")] = None,
    output: Annotated[Path | None, typer.Option(help="With --status: the file; by default stdout.")] = None,
    show_values: ShowValues = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write the sources' records as they are to files: a backup, a sample, or a source for later. Or, with --status,
    which record has which status, why, and what it became."""
    if (folder is None) == (not status) or (folder and (reason or output)) or (status and limit is not None):
        raise ConfigError("say where to write records, or which to list", hint="FOLDER, or --status STATUS")
    chosen: dict[str, Any] = {"select": select, "limit": limit, "show_values": show_values}
    with opened("export", migration, env, var, json=json, verbose=verbose, **chosen) as o:
        if folder is not None:
            _records(o, folder)
        else:
            _statuses(o, status or [], reason, output)


def _records(o: Opened, folder: Path) -> None:
    files = []
    for name in {
        f.from_: None for n, f in o.migration.file.flows.items() if n in o.options.select or not o.options.select
    }:
        connection, _, dataset = name.partition(".")
        files.append(exporting.export(o.connections.source(connection), dataset, folder, o.options))
        err.print(f"{escape(dataset)}: {files[-1].records:,} records", highlight=False)
        if files[-1].partial:
            said = (
                f"{files[-1].partial:,} of them are not whole: a value could not be read, see `_trouble` in their lines"
            )
            err.print(f"[yellow]{said}[/]", highlight=False)
    manifest = exporting.write_manifest(folder, files)
    if o.json:
        print_json({"manifest": str(manifest), "files": [vars(one) for one in files]})
    else:
        out.print(f"Exported {sum(one.records for one in files):,} records to {escape(str(folder))}", highlight=False)


def _statuses(o: Opened, statuses: list[str], reason: str | None, output: Path | None) -> None:
    found = outcomes(o.migration, o.connections, o.connections.ledger(), o.options, statuses, reason=reason)
    count = write_outcomes(output, found) if output else print_outcomes(sys.stdout, found)
    err.print(f"{count:,} records" + (f" in {escape(str(output))}" if output else ""), highlight=False)
    if o.json and output:
        print_json({"file": str(output), "records": count})
