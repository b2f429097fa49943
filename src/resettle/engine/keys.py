"""Keys: what the rows of an output go by, and the natural key by which those that are there are found."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from resettle.batch import Column, Schema
from resettle.errors import MappingError, Place
from resettle.mapping.load import suggest
from resettle.mapping.model import Output, split


def keys(
    output: Output, schema: Schema, mapped: Collection[str], place: Callable[[str], Place]
) -> tuple[tuple[Column, ...], tuple[Column, ...]]:
    """The key, and the natural key if that is another; ``mapped`` are the output's columns.

    Raises MappingError at ``place(key)`` of the declaration where rows could not be told apart.
    """
    mode = next((mode for mode in ("match", "patch", "key") if getattr(output, mode) is not None), None)
    names = split(getattr(output, mode)) if mode else schema.key
    at = place(mode or "into")
    if not names:
        raise MappingError(at, f"`{output.into}` has no primary key", hint="name its `key:` columns")
    for name in names:
        if schema.column(name) is None:
            raise MappingError(at, f"`{output.into}` has no column `{name}`", hint=suggest(name, schema.names))
        if name not in mapped:
            raise MappingError(at, f"the key column `{name}` is not mapped", hint=f"map `{name}:`")
    uniques = [set(schema.key), *(set(unique) for unique in schema.unique)]
    if mode != "match" and set(names) not in uniques:
        raise MappingError(
            at,
            f"`{output.into}` has no unique index on ({', '.join(names)}): rows could be doubled",
            hint="use its primary key, add a unique index, or use `match:`",
        )
    key = _columns(schema, names)
    if mode != "match":
        return key, ()
    own = schema.key
    settles = len(own) == 1 and own[0] in mapped and own != names
    return (_columns(schema, own), key) if settles else (key, key)


def _columns(schema: Schema, names: Sequence[str]) -> tuple[Column, ...]:
    return tuple(column for name in names if (column := schema.column(name)))
