"""Questions: what a migration must be told before it can run, and the `.env` that tells it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from dotenv import dotenv_values
from pydantic import BaseModel, SecretStr

from resettle.errors import ConfigError
from resettle.mapping.load import VARIABLE, unfilled

Settings = Callable[[str], type[BaseModel]]
"""``settings(kind)``: what a connection of this type can be told."""

_SECRET = re.compile(r"SECRET|PASSWORD|API_?KEY|ACCESS_KEY|TOKEN$", re.IGNORECASE)
_LINE = re.compile(r"^\s*(?:export\s+)?(\w+)\s*=")


@dataclass(frozen=True)
class Question:
    """A variable that the declaration names: ``default`` None means that it must be told. ``what`` it is, in words."""

    name: str
    default: str | None
    what: str
    secret: bool


def questions(folder: Path, environment: str | None, settings: Settings) -> list[Question]:
    """Every variable that is filled in from outside, in the order in which the declaration names them."""
    raw = unfilled(folder, environment)
    told = {str(name) for name in raw.get("vars") or {}}
    notes = _notes(folder)
    found: dict[str, Question] = {}
    for path, name, default in _references(raw):
        if name in told:
            continue
        before = found.get(name)
        words, hidden, a_path = _setting(raw, path, settings)
        secret = hidden or bool(_SECRET.search(name) and not a_path)
        what = notes.get(name) or words
        if before is None:
            found[name] = Question(name, default, what, secret)
        else:
            needed = default if before.default is not None and default is not None else None
            found[name] = Question(name, needed and before.default, before.what, before.secret or secret)
    return list(found.values())


def _references(raw: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str, str | None]]:
    """Where a variable stands, its name and its default; connections first."""
    rest = {key: value for key, value in raw.items() if key != "connections"}
    for path, text in [*_texts(raw.get("connections") or {}, ("connections",)), *_texts(rest, ())]:
        for one in VARIABLE.finditer(text):
            yield path, one[1], one[2]


def _texts(node: Any, at: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _texts(value, (*at, str(key)))
    elif isinstance(node, list):
        for value in node:
            yield from _texts(value, at)
    elif isinstance(node, str):
        yield at, node


def _setting(raw: Mapping[str, Any], path: tuple[str, ...], settings: Settings) -> tuple[str, bool, bool]:
    """What is set there in words, whether it is a secret, and whether it is a file's path."""
    if path[0] != "connections" or len(path) < 3:
        return ".".join(path), False, False
    connection, *names = path[1:]
    kind = (raw["connections"][connection] or {}).get("type")
    model: Any = settings(kind) if isinstance(kind, str) else None
    words, kinds = "", set[Any]()
    for name in names:
        fields = getattr(model, "model_fields", {})
        field = fields.get(name) or next((one for one in fields.values() if one.alias == name), None)
        if field is None:
            break
        kinds = {field.annotation, *get_args(field.annotation)}
        words = f": {field.description}" if field.description else ""
        model = next((one for one in kinds if isinstance(one, type) and issubclass(one, BaseModel)), None)
    where = ".".join([connection, *names])
    return f"{where}{words}", SecretStr in kinds, Path in kinds


def _notes(folder: Path) -> dict[str, str]:
    """What the comments of a `.env.example` say of the variable right below them."""
    path = folder / ".env.example"
    notes: dict[str, str] = {}
    said: list[str] = []
    for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
        if line.startswith("#"):
            said.append(line.lstrip("# ").strip())
            continue
        if (found := _LINE.match(line)) and said:
            notes[found[1]] = " ".join(said)
        said = []
    return notes


def example(asked: list[Question]) -> str:
    """A `.env.example` that names what must be told, and says what it is."""
    lines = ["# Copy to .env and fill in; `resettle config` asks for it."]
    for one in asked:
        lines += ["", f"# {one.what}", f"{one.name}={one.default or ''}"]
    return "\n".join(lines) + "\n"


def settled(folder: Path) -> dict[str, str]:
    """What the `.env` of a migration's folder says already."""
    found = dotenv_values(folder / ".env")
    return {name: value for name, value in found.items() if value is not None}


def filled(folder: Path, answers: Mapping[str, str]) -> str:
    """The `.env` with these answers in it; what else it says stays. A new one has the example's comments.

    Raises ConfigError for a value that no line of it can hold.
    """
    there, sample = folder / ".env", folder / ".env.example"
    new = not there.is_file()
    path = sample if new and sample.is_file() else there
    left = dict(answers)
    lines = []
    for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
        found = _LINE.match(line)
        if found and found[1] in answers:
            lines += [f"{found[1]}={_quoted(left.pop(found[1]))}"] if found[1] in left else []
        else:
            lines.append(f"# {line}" if found and new else line)
    lines += [f"{name}={_quoted(value)}" for name, value in left.items()]
    text = "\n".join(lines) + "\n"
    kept = dotenv_values(stream=io.StringIO(text))
    for name, value in answers.items():
        if kept.get(name) != value:
            raise ConfigError(f"`{name}` cannot be kept in .env as it is", hint=f"export {name}=... instead")
    return text


def _quoted(value: str) -> str:
    if re.fullmatch(r"[\w.:/@~+,=%?&-]*", value, re.ASCII):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
