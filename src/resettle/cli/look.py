"""Commands that only look: check, profile, plan, status, runs, trace, show, schema."""

from __future__ import annotations

from collections import Counter
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
    Listed,
    MigrationPath,
    Opened,
    Select,
    ShowValues,
    Var,
    Verbose,
    Where,
    Workers,
    opened,
    out,
    print_json,
    redacted,
)
from resettle.engine import check as checking
from resettle.engine import drift as drifting
from resettle.engine import plan as planning
from resettle.engine import privileges as granting
from resettle.engine import profile as profiling
from resettle.engine.flow import selected
from resettle.engine.outcomes import labelled, waiting
from resettle.mapping.schema import json_schema
from resettle.report import summary, undo
from resettle.report.terminal import escape


def register(app: typer.Typer) -> None:
    for command in (check, profile, plan, status, runs, trace, show, schema):
        app.command()(command)


def check(
    migration: MigrationPath = HERE,
    env: Env = None,
    var: Var = None,
    select: Select = None,
    privileges: Annotated[
        bool, typer.Option("--privileges", help="Also print the least that each connection's user needs.")
    ] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Check the mapping against both live sides: names, types, NOT NULL, keys, rights, triggers, RLS."""
    with opened("check", migration, env, var, json=json, verbose=verbose, select=select) as o:
        ledger = o.connections.ledger()
        remarks = list(checking.check(o.migration, o.connections, ledger, o.options))
        needed = granting.privileges(o.migration, o.connections, o.options, ledger) if privileges else []
        errors = [remark for remark in remarks if remark.level == "error"]
        if json:
            found = {"ok": not errors, "remarks": [vars(remark) for remark in remarks]}
            print_json(found | ({"privileges": [vars(one) for one in needed]} if privileges else {}))
        else:
            summary.print_remarks(out, remarks)
            summary.print_privileges(out, needed)
            out.print("[red]The migration cannot run as it is.[/]" if errors else "[green]Ready to plan.[/]")
    if errors:
        raise typer.Exit(2)


def profile(
    dataset: Annotated[list[str] | None, typer.Argument(help="connection.dataset; by default each flow's.")] = None,
    migration: MigrationPath = HERE,
    env: Env = None,
    var: Var = None,
    limit: Limit = None,
    show_values: ShowValues = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show what the sources really hold: classes of values per field, empties, lengths."""
    with opened("profile", migration, env, var, json=json, verbose=verbose, limit=limit) as o:
        names = dataset or list(dict.fromkeys(flow.from_ for flow in o.migration.file.flows.values()))
        made = []
        for name in names:
            connection, _, wanted = name.partition(".")
            made.append(profiling.profile(o.connections.source(connection), wanted, o.options))
        if json:
            print_json({"datasets": [one.as_json(show_values=show_values) for one in made]})
            return
        for one in made:
            out.print(f"[bold]{escape(one.dataset)}[/]: {one.read:,} records, {one.undecodable:,} undecodable")
            rows = [_profile_row(column.as_json(show_values=show_values)) for column in one.columns.values()]
            columns = ["name", "classes", "longest", "distinct", *(["values"] if show_values else [])]
            out.print(summary.table_of(rows, columns))


def _profile_row(column: dict[str, Any]) -> dict[str, Any]:
    words = ", ".join(f"{count:,} {name}" for name, count in sorted(column["classes"].items(), key=lambda c: -c[1]))
    values = ", ".join(f"{value} ({count})" for value, count in column.get("values", {}).items())
    return {**column, "classes": words, "values": values}


def plan(
    migration: MigrationPath = HERE,
    env: Env = None,
    var: Var = None,
    select: Select = None,
    where: Where = None,
    limit: Limit = None,
    batch_size: BatchSize = None,
    workers: Workers = DEFAULT_WORKERS,
    concurrency: Concurrency = None,
    plan_file: Annotated[Path | None, typer.Option("--out", help="Save the plan, to apply exactly it.")] = None,
    fresh: Fresh = False,
    samples: Annotated[int, typer.Option(min=0, help="Records shown for each kind of decision.")] = 2,
    show_values: ShowValues = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Say what apply would do, record by record counted, with samples; writes nothing but its own file."""
    chosen: dict[str, Any] = {"select": select, "where": where, "limit": limit, "show_values": show_values}
    chosen |= {"batch_size": batch_size, "workers": workers, "fresh": fresh, "concurrency": concurrency}
    with opened("plan", migration, env, var, json=json, verbose=verbose, progress=True, **chosen) as o:
        made = planning.plan(o.migration, o.connections, o.connections.ledger(), o.options, datetime.now(UTC))
    if plan_file:
        planning.save(made, plan_file)
    if json:
        flows = [counts.as_json() | {"samples": _samples(counts.samples)} for counts in made.counts]
        print_json(
            {
                "migration": made.migration,
                "environment": made.environment,
                "writes": made.writes.total(),
                "flows": flows,
            }
        )
    else:
        summary.print_plan(out, made, saved_as=str(plan_file) if plan_file else None, samples=samples)


def _samples(samples: dict[str, list[Any]]) -> dict[str, list[dict[str, Any]]]:
    return {kind: [vars(sample) for sample in kept] for kind, kept in samples.items()}


def status(
    migration: MigrationPath = HERE,
    env: Env = None,
    var: Var = None,
    drift: Annotated[bool, typer.Option("--drift", help="Compare the target's rows with what we wrote.")] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Say how far the migration is: per flow what is done, held, skipped; the last run. Or what drifted."""
    with opened("status", migration, env, var, json=json, verbose=verbose) as o:
        ledger = o.connections.ledger()
        if drift:
            _drift(o)
            return
        rows, units, last = ledger.count_rows(), ledger.count_units(), ledger.runs(1)
        if json:
            print_json({"flows": rows, "units": units, "last_run": last[0] if last else None})
            return
        if not last:
            out.print("Nothing was applied yet. Next: resettle plan")
            return
        lines = []
        for name in selected(o.migration, o.options):
            why: Counter[str] = Counter()
            for unit in units:
                if unit["flow"] == name and unit["reason"]:
                    why[f"{unit['status']} ({unit['reason']})"] += unit["count"]
            words = [f"{count:,} {what}" for what, count in why.items()]
            lines.append(
                {"flow": name, "migrated": f"{rows.get(name, {}).get('units', 0):,}", "else": ", ".join(words)}
            )
        out.print(summary.table_of(lines, ["flow", "migrated", "else"]))
        out.print(f"Last run: {last[0]['run']} {last[0]['phase']} {last[0]['status']} at {last[0]['started_at']}")


def _drift(o: Opened) -> None:
    """Rows of the target that changed or vanished since we wrote them."""
    found = drifting.drift(o.migration, o.connections, o.connections.ledger(), o.options)
    if o.json:
        listed = [vars(one) for flow in found for one in flow.listed]
        print_json({"flows": [flow.as_json() for flow in found], "listed": listed})
    else:
        undo.print_drift(out, found)
    if any(flow.counts for flow in found):
        raise typer.Exit(4)


def runs(
    migration: MigrationPath = HERE,
    env: Env = None,
    var: Var = None,
    limit: Listed = 20,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List the runs, the newest first."""
    with opened("runs", migration, env, var, json=json, verbose=verbose) as o:
        found = o.connections.ledger().runs(limit)
        if json:
            print_json({"runs": found})
        else:
            out.print(summary.table_of([summary.run_row(one) for one in found], summary.RUN))


def trace(
    key: Annotated[str, typer.Argument(help="A source unit's key or a target key.")],
    migration: MigrationPath = HERE,
    env: Env = None,
    var: Var = None,
    show_values: ShowValues = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Say what became of one record, and why."""
    with opened("trace", migration, env, var, json=json, verbose=verbose) as o:
        found = o.connections.ledger().trace(key)
        for one in found:
            if one.get("status") == "partial":
                one["waiting"] = waiting(one["detail"])
        found = labelled(o.migration, o.connections, o.options, found) if show_values else found
        if json:
            print_json({"key": key, "found": found})
        for one in [] if json else found:
            facts = ", ".join(
                f"{name} {value}"
                for name, value in one.items()
                if value is not None and name not in ("flow", "waiting")
            )
            out.print(f"[bold]{one['flow']}[/]: {escape(facts)}", highlight=False)
        if not found and not json:
            out.print("The ledger knows no such record. Was it applied? See: resettle status")
    if not found:
        raise typer.Exit(1)


def show(
    migration: MigrationPath = HERE, env: Env = None, var: Var = None, json: Json = False, verbose: Verbose = False
) -> None:
    """Show the migration as resolved for an environment, secrets redacted."""
    with opened("show", migration, env, var, json=json, verbose=verbose) as o:
        data = {
            "migration": o.migration.name,
            "environment": o.migration.environment,
            "guard": o.migration.guard,
            "folder": str(o.migration.root),
            "vars": redacted(o.migration.file.vars),
            "connections": {name: redacted(value) for name, value in o.migration.connections.items()},
            "flows": {
                name: {"from": f.from_, "into": [x.into for x in f.all_outputs.values()]}
                for name, f in o.migration.file.flows.items()
            },
        }
        if json:
            print_json(data)
        else:
            out.print_json(data=data)


def schema() -> None:
    """Print the JSON Schema of migration.yaml, for editors."""
    print_json(json_schema())
