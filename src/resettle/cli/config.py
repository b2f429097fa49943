"""config: ask for what a migration must be told, keep it in its .env, and see whether the connections work."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from resettle import private
from resettle.cli.look import check
from resettle.cli.options import HERE, Env, Json, MigrationPath, Verbose, err, out, print_json
from resettle.connections import settings_of
from resettle.mapping.load import FILE, environments
from resettle.mapping.questions import Question, filled, questions, settled
from resettle.report.summary import table_of
from resettle.report.terminal import escape

Quiet = Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: say what to set.")]


def register(app: typer.Typer) -> None:
    app.command()(config)


def config(
    migration: MigrationPath = HERE,
    env: Env = None,
    yes: Quiet = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Ask for what the connections must be told, keep it in .env, and check them. Without a terminal: list it."""
    folder = migration.parent if migration.name == FILE else migration
    if asks(yes=yes, json=json):
        ask(folder, env, verbose=verbose)
        return
    asked = _questions(folder, env)
    known = settled(folder)
    if json:
        print_json({"file": str(folder / ".env"), "variables": [_as_json(one, known) for one in asked]})
        return
    rows = [{"variable": one.name, "now": _now(one, known), "what": one.what} for one in asked]
    out.print(table_of(rows, ["variable", "now", "what"]))
    out.print(f"Set them, or put them into {escape(str(folder / '.env'))}", highlight=False)


def asks(*, yes: bool, json: bool) -> bool:
    """Whether there is somebody to ask."""
    return not yes and not json and sys.stdin.isatty() and err.is_terminal


def ask(folder: Path, env: str | None, *, verbose: bool = False) -> None:
    """Ask question by question, write the answers, and check the connections: exits with check's code."""
    env = env or _environment(environments(folder))
    known, answers = settled(folder), dict[str, str]()
    for one in _questions(folder, env):
        if one.name in os.environ:
            err.print(f"[bold]{escape(one.name)}[/] is set in this shell", highlight=False)
            continue
        answer = _answer(one, known.get(one.name))
        if answer and answer != (known.get(one.name) or one.default):
            answers[one.name] = answer
    if answers:
        with private.replacing(folder / ".env") as file:
            file.write(filled(folder, answers).encode())
        out.print(f"Wrote {escape(str(folder / '.env'))}, which only you may read.", highlight=False)
    out.print("Looking at the connections ...")
    check(migration=folder, env=env, verbose=verbose)


def _environment(names: Sequence[str]) -> str | None:
    """Which one to ask for; the sandbox's own is the last that somebody would set up by hand."""
    if len(names) < 2:
        return None
    first = next((name for name in names if name != "local"), names[0])
    said: str = typer.prompt(f"Environment ({', '.join(names)})", default=first, err=True)
    return said


def _answer(one: Question, known: str | None) -> str:
    """What somebody types; what is known already, or the default, where that is nothing."""
    err.print(f"[dim]{escape(one.what)}[/]", highlight=False)
    now = known if known is not None else one.default
    # A secret is no default of a prompt: that would be shown.
    default = "" if one.secret else now or ""
    text = f"{one.name} [Enter: as it is]" if one.secret and known else one.name
    while True:
        given: str = typer.prompt(text, default, hide_input=one.secret, show_default=bool(default), err=True).strip()
        if given or now is not None:
            return given
        err.print("  It has no default.")


def _questions(folder: Path, env: str | None) -> list[Question]:
    return questions(folder, env, lambda kind: settings_of(kind, kind))


def _now(one: Question, known: Mapping[str, str]) -> str:
    if one.name in os.environ:
        return "set in this shell"
    if one.name in known:
        return "set in .env"
    return "not set" if one.default is None else f"default: {one.default}" if one.default else "empty"


def _as_json(one: Question, known: Mapping[str, str]) -> dict[str, Any]:
    is_set = one.name in os.environ or one.name in known
    return {"name": one.name, "what": one.what, "secret": one.secret, "default": one.default, "set": is_set}
