"""Load a migration folder; every complaint carries file:line:column and, where it can, a suggestion."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin

from dotenv import dotenv_values
from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError

from resettle.errors import ConfigError, MappingError, Place
from resettle.mapping.model import Flow, MigrationFile

FILE = "migration.yaml"
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
Path_ = tuple[str | int, ...]


@dataclass(frozen=True)
class Migration:
    """A loaded migration: the declaration with variables filled in, for one environment."""

    root: Path
    file: MigrationFile
    environment: str
    guard: bool
    connections: Mapping[str, Mapping[str, Any]]
    tree: Any = field(repr=False)

    @property
    def name(self) -> str:
        return self.file.migration

    def place(self, *path: str | int) -> Place:
        """Where ``path`` (keys from the top) is written; the nearest parent where it is not."""
        return _place(self.root / FILE, self.tree, path)

    def expression_place(self, *path: str | int, at: int | None = None) -> Place:
        """Like `place`, moved ``at`` characters into the value when that value is one plain line."""
        place = self.place(*path)
        if at is None:
            return place
        line = (self.root / FILE).read_text("utf-8").splitlines()[place.line - 1]
        quoted = line[place.column - 1 : place.column] in "\"'"
        return Place(place.path, place.line, place.column + at + int(quoted))

    def sql_text(self, text: str) -> str:
        """The SQL itself, or what the .sql file of that name holds, with variables filled in."""
        if not text.strip().endswith(".sql"):
            return text
        path = (self.root / text.strip()).resolve()
        if not path.is_relative_to(self.root.resolve()) or not path.is_file():
            raise ConfigError(f"{text}: no such file in {self.root}")
        return _fill(path.read_text("utf-8"), self.variables, Place(path, 1, 1))

    @property
    def variables(self) -> Mapping[str, str]:
        return {**_environment(self.root), **_texts(self.file.vars)}

    @property
    def functions_file(self) -> Path | None:
        path = self.root / "functions.py"
        return path if path.is_file() else None

    def flow_digest(self, name: str) -> str:
        """Changes whenever what the flow makes of a record could change."""
        flow = self.file.flows[name]
        parts: list[Any] = [flow.model_dump(mode="json", exclude={"after", "label", "row_key"})]
        parts += [self.sql_text(text) for text in _sql_files(flow)]
        for lookup in self.file.lookups.values():
            parts.append(lookup.model_dump(mode="json"))
            if lookup.file:
                parts.append((self.root / lookup.file).read_text("utf-8"))
        if self.functions_file:
            parts.append(self.functions_file.read_text("utf-8"))
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def load(folder: str | Path, environment: str | None = None, variables: Mapping[str, str] | None = None) -> Migration:
    """Read ``folder``/migration.yaml (or that file) for one environment.

    Variables come from, first wins: ``variables`` (the command line), the environment section, `vars:`,
    the process environment, the `.env` file beside the declaration.
    """
    root = Path(folder)
    root = root.parent if root.name == FILE else root
    path = root / FILE
    if not path.is_file():
        raise ConfigError(f"{path}: no such file", hint="name a migration's folder, or make one")
    tree = _parse(path)
    chosen = _choose_environment(path, tree, environment)
    section = (tree.get("environments") or {}).get(chosen) or {}
    values = {**_environment(root), **_texts(tree.get("vars") or {}), **_texts(section.get("vars") or {})}
    values |= variables or {}
    raw = _merge(_strip(tree), section)
    raw["vars"] = {**(raw.get("vars") or {}), **(section.get("vars") or {}), **(variables or {})}
    filled = _fill_tree(raw, values, path, tree, ())
    file = _validate(path, tree, filled)
    connections = {name: dict(settings) for name, settings in file.connections.items()}
    migration = Migration(root, file, chosen, bool(section.get("guard")), connections, tree)
    _check_names(migration)
    return migration


def unfilled(folder: str | Path, environment: str | None = None) -> dict[str, Any]:
    """The declaration for one environment as it is written, its variables not filled in."""
    path = Path(folder) / FILE
    tree = _parse(path)
    section = (tree.get("environments") or {}).get(_choose_environment(path, tree, environment)) or {}
    raw = _merge(_strip(tree), section)
    raw["vars"] = {**(raw.get("vars") or {}), **_strip(section.get("vars") or {})}
    raw.pop("environments", None)
    return raw


def environments(folder: str | Path) -> list[str]:
    """The environments that a declaration names."""
    path = Path(folder) / FILE
    if not path.is_file():
        raise ConfigError(f"{path}: no such file", hint="name a migration's folder, or make one")
    return [str(name) for name in _parse(path).get("environments") or {}]


_QUOTES = "SQL that begins with a quote or a bracket, or holds `: ` or ` #`, goes in quotes: \"'x' || name\""


def _parse(path: Path) -> Any:
    try:
        tree = YAML(typ="rt").load(path.read_text("utf-8"))
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = Place(path, mark.line + 1, mark.column + 1) if mark else Place(path, 1, 1)
        hint = None if isinstance(error, DuplicateKeyError) else _QUOTES
        raise MappingError(place, f"not YAML: {error.problem}", hint=hint) from error
    if not isinstance(tree, CommentedMap):
        raise MappingError(Place(path, 1, 1), "expected a mapping with `migration:`, `connections:`, `flows:`")
    return tree


def _choose_environment(path: Path, tree: Any, wanted: str | None) -> str:
    names = list(tree.get("environments") or {})
    if wanted is None:
        if len(names) > 1 and "local" not in names:
            raise ConfigError(f"{path}: several environments ({', '.join(names)})", hint="pass --env NAME")
        return "local" if "local" in names or not names else names[0]
    if wanted not in names and not (wanted == "local" and not names):
        hint = suggest(wanted, names)
        raise ConfigError(f"{path}: no environment `{wanted}`", hint=hint)
    return wanted


def _merge(raw: dict[str, Any], section: Mapping[str, Any]) -> dict[str, Any]:
    """An environment's connection replaces the general one if it names a type, else adds to it."""
    connections = dict(raw.get("connections") or {})
    for name, settings in (section.get("connections") or {}).items():
        plain = _strip(settings) or {}
        connections[name] = plain if "type" in plain else {**(connections.get(name) or {}), **plain}
    raw["connections"] = connections
    return raw


def _strip(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {str(key): _strip(value) for key, value in node.items()}
    if isinstance(node, Sequence) and not isinstance(node, str | bytes):
        return [_strip(value) for value in node]
    return str(node) if isinstance(node, str) else node


def _environment(root: Path) -> dict[str, str]:
    beside = {key: value for key, value in dotenv_values(root / ".env").items() if value is not None}
    return {**beside, **os.environ}


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Variables as they appear inside expressions and settings."""
    return {key: "null" if value is None else str(value) for key, value in values.items()}


def _fill(text: str, values: Mapping[str, str], place: Place) -> str:
    def one(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        if name in values and (values[name] != "" or default is None):
            return values[name]
        if default is None:
            raise MappingError(
                place, f"the variable `{name}` is not set", hint=f"export {name}=..., or put it into .env"
            )
        return default

    return VARIABLE.sub(one, text)


def expand(text: str, root: Path) -> str:
    """A setting outside any declaration, with its variables filled in. Raises ConfigError where one is not set."""
    try:
        return _fill(text, _environment(root), Place(root, 1, 1))
    except MappingError as error:
        raise ConfigError(error.message.removeprefix(f"{error.place}: "), hint=error.hint) from None


def _fill_tree(node: Any, values: Mapping[str, str], path: Path, tree: Any, at: Path_) -> Any:
    if isinstance(node, dict):
        skip = {"environments"} if not at else set()
        return {
            key: value if key in skip else _fill_tree(value, values, path, tree, (*at, key))
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [_fill_tree(value, values, path, tree, (*at, index)) for index, value in enumerate(node)]
    return _fill(node, values, _place(path, tree, at)) if isinstance(node, str) and "${" in node else node


def _validate(path: Path, tree: Any, raw: dict[str, Any]) -> MigrationFile:
    try:
        return MigrationFile.model_validate(raw)
    except ValidationError as error:
        found = [(one["type"], one["loc"], one["msg"]) for one in error.errors()]
        # Of several forms that a value may have it is none that does not know a key which another one has.
        other = [at[:-1] for kind, at, _ in found if kind == _UNKNOWN and at[-1] in _fields_at(_without_tags(at[:-1]))]
        found = [one for one in found if not any(one[1][: len(form)] == form for form in other)] or found
        told: dict[Path_, MappingError] = {}
        for kind, at, message in sorted(found, key=lambda one: (one[0] != _UNKNOWN, -len(one[1]))):
            at = _without_tags(at)
            if at not in told and (kind == _UNKNOWN or not told):
                told[at] = _fault(path, tree, kind, at, message)
        first, *others = told.values()
        first.others = tuple(others)
        raise first from None


def _fault(path: Path, tree: Any, kind: str, at: Path_, message: str) -> MappingError:
    """What pydantic says of the place ``at``, in our words."""
    hint = None
    if kind == _UNKNOWN:
        hint = suggest(str(at[-1]), _fields_at(at[:-1]))
        message = f"unknown key `{at[-1]}`"
    elif kind == "missing":
        message = f"`{at[-1]}` is missing"
    elif kind == "string_type":
        message = f"`{at[-1]}`: expected text"
        hint = "what YAML reads as a number, a date or nothing goes in quotes; a column's constant is `{value: ...}`"
    else:
        message = message.removeprefix("Value error, ")
        message = f"`{at[-1]}`: {message}" if at else message
    return MappingError(_place(path, tree, at), message, hint=hint)


def _without_tags(location: Sequence[str | int]) -> tuple[str | int, ...]:
    """pydantic names the alternative it tried inside the location; the file has no such key."""
    return tuple(part for part in location if not (isinstance(part, str) and (part in _TAGS or "[" in part)))


_TAGS = {"Value", "Lookup", "Ref", "Mint", "Moment", "Edit", "str", "int", "float", "bool"}
_UNKNOWN = "extra_forbidden"


def _fields_at(at: Sequence[str | int]) -> list[str]:
    """The keys that the model allows at a path, by walking its annotations along the path."""
    annotation: Any = MigrationFile
    for part in at:
        annotation = _annotation_at(annotation, part)
    return [info.alias or name for model in _models(annotation) for name, info in model.model_fields.items()]


def _annotation_at(annotation: Any, part: str | int) -> Any:
    """What the model says of one key of an annotated value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields.items()
        return next((info.annotation for name, info in fields if part in (name, info.alias)), None)
    if get_origin(annotation) in (dict, list):
        return get_args(annotation)[-1]
    return next((found for inner in get_args(annotation) if (found := _annotation_at(inner, part))), None)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotated value may be of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models(inner)


def _place(path: Path, tree: Any, at: Sequence[str | int]) -> Place:
    line, column, node = 0, 0, tree
    for part in at:
        try:
            if isinstance(node, CommentedMap):
                scalar = not isinstance(node[part], CommentedMap | CommentedSeq)
                line, column = node.lc.value(part) if scalar and node[part] is not None else node.lc.key(part)
            elif isinstance(node, CommentedSeq) and isinstance(part, int):
                line, column = node.lc.item(part)
            else:
                break
            node = node[part]
        except (KeyError, IndexError, AttributeError, TypeError):
            break
    return Place(path, line + 1, column + 1)


def suggest(name: str, among: Iterable[str]) -> str | None:
    """ "did you mean" for a name, or what there is."""
    names = sorted(set(among))
    if close := difflib.get_close_matches(name, names, n=1, cutoff=0.6):
        return f"did you mean `{close[0]}`?"
    return f"expected one of: {', '.join(names[:30])}" if names else None


def _sql_files(flow: Flow) -> list[str]:
    texts = [flow.rows, *(output.rows for output in flow.all_outputs.values())]
    return [text for text in texts if text and text.strip().endswith(".sql")]


def _check_names(migration: Migration) -> None:
    """Connections, lookups and flows that expressions name must exist."""
    file = migration.file
    for name, flow in file.flows.items():
        _check_dataset(migration, flow.from_, "flows", name, "from")
        for output_name, output in flow.all_outputs.items():
            at: Path_ = ("flows", name) if flow.into else ("flows", name, "outputs", output_name)
            _check_dataset(migration, output.into, *at, "into")
            for column, form in output.columns.items() if isinstance(output.columns, dict) else ():
                for attribute, known in (("ref", file.flows), ("lookup", file.lookups)):
                    used = getattr(form, attribute, None)
                    if used is not None and attribute == "ref":
                        used, _, named = used.partition(".")
                        if used in known and named and named not in file.flows[used].all_outputs:
                            raise MappingError(
                                migration.place(*at, "columns", column),
                                f"flow `{used}` has no output `{named}`",
                                hint=suggest(named, file.flows[used].all_outputs),
                            )
                    if used is not None and used not in known:
                        raise MappingError(
                            migration.place(*at, "columns", column),
                            f"unknown {'flow' if attribute == 'ref' else attribute} `{used}`",
                            hint=suggest(used, known),
                        )
    for name, lookup in file.lookups.items():
        if lookup.from_:
            _check_dataset(migration, lookup.from_, "lookups", name, "from")
        elif lookup.file and not (migration.root / lookup.file).is_file():
            raise MappingError(migration.place("lookups", name, "file"), f"no such file: {lookup.file}")
    made = {output.into for flow in file.flows.values() for output in flow.all_outputs.values() if not output.patch}
    for number, into in enumerate(file.verify.exclusive):
        if into not in made:
            place = migration.place("verify", "exclusive", number)
            raise MappingError(place, f"no flow makes rows of `{into}`", hint=suggest(into, made))


def _check_dataset(migration: Migration, text: str, *at: str | int) -> None:
    connection, _, dataset = text.partition(".")
    if not dataset:
        raise MappingError(migration.place(*at), f"`{text}`: expected connection.dataset")
    if connection not in migration.connections:
        raise MappingError(
            migration.place(*at),
            f"unknown connection `{connection}`",
            hint=suggest(connection, migration.connections),
        )
