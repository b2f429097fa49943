"""demo: run a migration end to end on a local stack, showing each command and what it prints."""

from __future__ import annotations

import os
import time
from typing import Annotated

import typer

from resettle.cli.options import out, run
from resettle.errors import ResettleError
from resettle.report.terminal import escape
from resettle.sandbox.demo import Step, find, local_stack, steps


def register(app: typer.Typer) -> None:
    def demo(
        name: Annotated[str, typer.Argument(help="A migration of this checkout, such as medzen.")] = "medzen",
    ) -> None:
        """Run a migration end to end on a local stack: check, plan, apply, verify, hold, replay."""
        started = time.monotonic()
        migration = find(name)
        out.print(f"[bold]Starting the local stack of {escape(name)} and filling its source ...[/]")
        with local_stack(migration) as (folder, stack):
            os.environ["RESETTLE_MIGRATION"] = str(migration)
            before, after = steps(folder / "plan.json")
            for step in before:
                _run(app, step)
            stack.correct(folder)
            for step in after:
                _run(app, step)
        out.print(f"\n[bold green]The demo ran as it should, in {time.monotonic() - started:.0f} s.[/]")

    app.command()(demo)


def _run(app: typer.Typer, step: Step) -> None:
    """Run one command as the command line would; stop the demo if it ends otherwise than it should."""
    out.rule(style="dim")
    out.print(f"[italic]{escape(step.why)}[/]")
    out.print(f"[bold cyan]$ resettle {escape(' '.join(step.command))}[/]")
    code = run(app, list(step.command))
    if code != step.expect:
        raise ResettleError(f"`resettle {' '.join(step.command)}` ended with {code}, expected {step.expect}")
