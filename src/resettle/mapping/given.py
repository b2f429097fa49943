"""A connection given on the command line as TYPE:SETTING: how it is opened now, and how it is written down."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from resettle.errors import ConfigError
from resettle.mapping.load import VARIABLE, expand, suggest

MAIN: Mapping[str, str] = {"postgres": "url", "sqlite": "path", "files": "path", "dynamodb": "export"}
"""The setting that is meant when only a value is given."""

_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")
_SECRET_KEY = re.compile(r"secret|password|token|credential|access_?key|api_?key", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"://[^/@:]*:[^@/]+@|https?://[^/@]+@|\b(password|passwd|pwd|secret|token|sig|signature|api_?key)\s*=\s*\S",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Given:
    """``written`` is fit for a declaration: what looks like a secret is a variable there. ``values`` opens it now."""

    written: Mapping[str, str]
    values: Mapping[str, str]
    variables: tuple[str, ...]


def kind_of(text: str) -> str:
    """The connector type that a TYPE:SETTING names."""
    return text.partition(":")[0].strip()


def given(
    name: str,
    text: str,
    model: type[BaseModel],
    root: Path,
    paths: Sequence[str] = (),
    environment: Mapping[str, str] = os.environ,
) -> Given:
    """Read TYPE:VALUE or TYPE:KEY=VALUE,KEY=VALUE for the connection ``name``.

    ``${NAME}`` is kept, and filled in from the environment for looking. Relative ``paths`` count from here, and are
    written as they are seen from ``root``, the migration's folder. Raises ConfigError for what is no setting.
    """
    kind, _, rest = text.partition(":")
    fields = {field.alias or key: field for key, field in model.model_fields.items()}
    written, values, variables = {"type": kind}, {"type": kind}, list[str]()
    for key, value in _pairs(kind, rest.strip(), fields).items():
        if key not in fields:
            raise ConfigError(f"a connection of type `{kind}` has no setting `{key}`", hint=suggest(key, fields))
        shown = value
        if key in paths and "://" not in value and not VARIABLE.search(value):
            value = str(_here(value))
            shown = value if Path(shown).expanduser().is_absolute() else os.path.relpath(value, root)
        if _is_secret(key, shown, fields[key]):
            known = sorted(variable for variable, held in environment.items() if held == value)
            shown = f"${{{known[0] if known else f'{name}_{key}'.upper()}}}"
        written[key], values[key] = shown, expand(value, root)
        variables += [found[1] for found in VARIABLE.finditer(shown)]
    return Given(written, values, tuple(dict.fromkeys(variables)))


def _pairs(kind: str, rest: str, fields: Mapping[str, FieldInfo]) -> dict[str, str]:
    """Settings by key; a text that does not begin with a setting's name is the main setting's value, whole."""
    if not rest:
        return {}
    any_key = "|".join(map(re.escape, fields))
    if not re.match(rf"({any_key})=", rest):
        if re.fullmatch(r"[a-z_]+=[^,?&/\s]*", rest) and kind not in {"postgres"}:
            return {rest.partition("=")[0]: rest.partition("=")[2]}
        return {_main(kind, rest, fields): rest}
    parts = re.split(rf",\s*(?=(?:{any_key})=)", rest)
    return {key: value for key, _, value in (part.partition("=") for part in parts)}


def _main(kind: str, value: str, fields: Mapping[str, FieldInfo]) -> str:
    if kind == "dynamodb" and _REGION.fullmatch(value):
        return "region"
    required = [key for key, field in fields.items() if field.is_required()]
    if kind not in MAIN and len(required) != 1:
        raise ConfigError(f"`{kind}` has several settings: say which", hint=f"{kind}:{next(iter(fields))}=...")
    return MAIN.get(kind) or required[0]


def _is_secret(key: str, text: str, field: FieldInfo) -> bool:
    """Whether a text must not stand in a file; one that is made of variables may."""
    kinds = {field.annotation, *get_args(field.annotation)}
    literal = VARIABLE.sub(lambda found: found[2] or "", text)
    if VARIABLE.search(text):
        return bool(_SECRET_VALUE.search(literal))
    return SecretStr in kinds or bool(_SECRET_KEY.search(key)) or bool(_SECRET_VALUE.search(literal))


def _here(path: str) -> Path:
    """The absolute path, seen without the links of the folders above it: `..` then means the same to everybody."""
    wanted = Path(path).expanduser().absolute()
    return wanted.parent.resolve() / wanted.name
