"""The migrations to begin with that come with resettle: which there are, and their files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from resettle.errors import ConfigError
from resettle.mapping.load import FILE, suggest

LEFT = frozenset({"sandbox", "logs", "__pycache__"})
"""Folders of a migration that are no part of a template; neither is what is hidden, but for `.env.example`."""


def _places() -> dict[str, Traversable]:
    """Each template's folder by name: those of the package, and in a checkout its whole migrations."""
    own = files("resettle").joinpath("templates")
    whole = Path(__file__).parents[3] / "migrations"
    roots: list[Traversable] = [whole, own] if whole.is_dir() else [own]
    folders = [one for root in roots for one in root.iterdir() if one.joinpath(FILE).is_file()]
    return {one.name: one for one in sorted(folders, key=lambda one: one.name)}


def templates() -> dict[str, str]:
    """The templates by name, each with its description."""
    found = {}
    for name, folder in _places().items():
        said = re.search(r"^description: (.+)$", folder.joinpath(FILE).read_text("utf-8"), re.MULTILINE)
        found[name] = said[1] if said else ""
    return found


def template(name: str, migration: str) -> Mapping[str, str]:
    """A template's files by name, for a migration of that name. Raises ConfigError, naming what there is."""
    places = _places()
    if name not in places:
        known = templates()
        listed = "\n".join(f"  {one}: {said}" for one, said in known.items())
        near = suggest(name, known) or ""
        hint = f"{near}\n{listed}" if near.startswith("did you mean") else f"there are:\n{listed}"
        raise ConfigError(f"there is no template `{name}`", hint=hint)
    texts = dict(_files(places[name], ""))
    named = re.sub(r"^migration: .*$", lambda _: f"migration: {migration}", texts[FILE], count=1, flags=re.MULTILINE)
    return {**texts, FILE: named}


def _files(folder: Traversable, within: str) -> Iterator[tuple[str, str]]:
    for one in sorted(folder.iterdir(), key=lambda one: one.name):
        if one.name in LEFT or (one.name.startswith(".") and one.name != ".env.example"):
            continue
        if one.is_dir():
            yield from _files(one, f"{within}{one.name}/")
        else:
            yield f"{within}{one.name}", one.read_text("utf-8")


def variables_of(texts: Mapping[str, str]) -> list[str]:
    """The variables that a migration's .env.example names."""
    return re.findall(r"^(\w+)=", texts.get(".env.example", ""), re.MULTILINE)
