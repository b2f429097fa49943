"""init: begin a migration, from a shipped template or as a draft made by looking at both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from resettle.cli.config import Quiet, ask, asks
from resettle.cli.options import Json, out, print_json
from resettle.connections import PATHS, looking, settings_of
from resettle.engine.drafting.alike import slug
from resettle.engine.drafting.draft import Draft, draft_between
from resettle.errors import ConfigError
from resettle.mapping.given import Given, given, kind_of
from resettle.mapping.load import environments
from resettle.mapping.questions import example, questions
from resettle.mapping.templates import template as template_files
from resettle.mapping.templates import templates, variables_of
from resettle.report.declaration import (
    FILE,
    declaration,
    example_variables,
    marks,
    readme,
    refuse_existing,
    write_files,
)
from resettle.report.terminal import escape


def register(app: typer.Typer) -> None:
    app.command()(init)


def init(
    folder: Annotated[Path | None, typer.Argument(help="The new migration's folder.", show_default=False)] = None,
    template: Annotated[str | None, typer.Option("--template", "-t", help="Begin with this shipped template.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Name the templates.")] = False,
    from_: Annotated[
        str | None, typer.Option("--from", help="TYPE:SETTING of the source, such as sqlite:old.db; draft from it.")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", help="TYPE:SETTING of the target, such as 'postgres:${URL}'.")
    ] = None,
    pair: Annotated[
        list[str] | None, typer.Option("--pair", help="SOURCE=TARGET, datasets that belong together; repeatable.")
    ] = None,
    yes: Quiet = False,
    json: Json = False,
) -> None:
    """Begin a migration: from a template, or drafted by looking at both sides. Nothing is overwritten.

    On a terminal it then asks for what a template's connections must be told, as `resettle config` does.
    """
    if list_:
        _list(json)
        return
    if folder is not None and template is None and from_ is None and to is None and folder.name in templates():
        template = folder.name
    if folder is None or (template is None) == (from_ is None or to is None) or (template and (from_ or to or pair)):
        raise ConfigError("say where, and what to begin with", hint="FOLDER, and --template NAME or --from and --to")
    refuse_existing(folder)
    name = slug(folder.resolve().name)
    if template is not None:
        _from_template(folder, template, name, yes=yes, json=json)
        return
    old, new = (_given(side, text or "", folder) for side, text in (("old", from_), ("new", to)))
    with looking({"old": old.values, "new": new.values}, folder) as sides:
        draft = draft_between(sides["old"], sides["new"], _pairs(pair))
    variables = [*dict.fromkeys([*old.variables, *new.variables])]
    text = declaration(name, {"old": old.written, "new": new.written}, draft)
    files = {FILE: text, "README.md": readme(name, draft, variables)}
    files |= {".env.example": example_variables(variables)} if variables else {}
    _conclude(folder, write_files(folder, files), text, variables, draft, json=json)


def _from_template(folder: Path, template: str, name: str, *, yes: bool, json: bool) -> None:
    files = dict(template_files(template, name))
    written = write_files(folder, files)
    if ".env.example" not in files:
        names = environments(folder)
        meant = next((one for one in names if one != "local"), None)
        files[".env.example"] = example(questions(folder, meant, lambda kind: settings_of(kind, kind)))
        (folder / ".env.example").write_text(files[".env.example"], "utf-8")
        written.append(folder / ".env.example")
    _conclude(folder, written, files[FILE], variables_of(files), json=json)
    if asks(yes=yes, json=json):
        ask(folder, None)


def _list(json: bool) -> None:
    if json:
        print_json({"templates": templates()})
        return
    for name, said in templates().items():
        out.print(f"[bold]{escape(name)}[/] {escape(said)}", highlight=False)


def _given(name: str, text: str, folder: Path) -> Given:
    return given(name, text, settings_of(kind_of(text), name), folder.resolve(), PATHS)


def _pairs(texts: list[str] | None) -> dict[str, str]:
    parts = [text.partition("=") for text in texts or []]
    for source, sign, target in parts:
        if not (source and sign and target):
            raise ConfigError(f"--pair {source}: expected SOURCE=TARGET")
    return {source: target for source, _, target in parts}


def _conclude(
    folder: Path,
    written: Sequence[Path],
    text: str,
    variables: Sequence[str],
    draft: Draft | None = None,
    *,
    json: bool,
) -> None:
    """What was written, what is marked and where, what to set, what to run."""
    places = [(f"{folder / FILE}:{mark.line}:{mark.column}", mark) for mark in marks(text)]
    flows = (
        [_flow(flow.pair.source.dataset, flow.pair.target.dataset, flow.name) for flow in draft.flows] if draft else []
    )
    if json:
        found = [{"place": place, "why": mark.why, "open": mark.open} for place, mark in places]
        print_json({"files": [str(one) for one in written], "flows": flows, "marks": found, "variables": variables})
        return
    for one in flows:
        out.print(f"[green]+[/] {escape(one['from'])} -> {escape(one['into'])}", highlight=False)
    for place, mark in places:
        out.print(f"[yellow]![/] {escape(place)} {escape(mark.why)}", highlight=False)
    if draft is not None:
        still = sum(mark.open for _, mark in places)
        out.print(
            f"Drafted {len(flows)} flows with {len(places)} marks; {still} of them stop check until they are settled."
        )
        alone = [*draft.pairs.unpaired_source, *draft.pairs.unpaired_target]
        if alone:
            out.print(f"Without a partner (pair by hand with --pair): {escape(', '.join(alone))}", highlight=False)
    for file in written:
        out.print(f"Wrote {escape(str(file))}", highlight=False)
    if variables:
        out.print(f"Set, or put into .env: {', '.join(variables)}", highlight=False)
    out.print(f"Next: {'settle the marks, then ' if places else ''}[bold]resettle check -m {escape(str(folder))}[/]")


def _flow(source: str, target: str, name: str) -> Mapping[str, Any]:
    return {"flow": name, "from": source, "into": target}
