"""The migrations to begin with that come with resettle: which there are, and their files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

from resettle.errors import ConfigError
from resettle.mapping.load import FILE, suggest

FILES = (FILE, "README.md", ".env.example")
"""What a template may hold; only the declaration must be there."""


def templates() -> dict[str, str]:
    """The templates by name, each with its description."""
    found = {}
    for folder in sorted(files("resettle").joinpath("templates").iterdir(), key=lambda one: one.name):
        if folder.joinpath(FILE).is_file():
            said = re.search(r"^description: (.+)$", folder.joinpath(FILE).read_text("utf-8"), re.MULTILINE)
            found[folder.name] = said[1] if said else ""
    return found


def template(name: str, migration: str) -> Mapping[str, str]:
    """A template's files by name, for a migration of that name. Raises ConfigError, naming what there is."""
    known = templates()
    if name not in known:
        listed = "\n".join(f"  {one}: {said}" for one, said in known.items())
        near = suggest(name, known) or ""
        hint = f"{near}\n{listed}" if near.startswith("did you mean") else f"there are:\n{listed}"
        raise ConfigError(f"there is no template `{name}`", hint=hint)
    folder = files("resettle").joinpath("templates", name)
    texts = {file: folder.joinpath(file).read_text("utf-8") for file in FILES if folder.joinpath(file).is_file()}
    named = re.sub(r"^migration: .*$", lambda _: f"migration: {migration}", texts[FILE], count=1, flags=re.MULTILINE)
    return {**texts, FILE: named}


def variables_of(texts: Mapping[str, str]) -> list[str]:
    """The variables that a migration's .env.example names."""
    return re.findall(r"^(\w+)=", texts.get(".env.example", ""), re.MULTILINE)
