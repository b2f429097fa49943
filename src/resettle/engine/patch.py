"""Patch: change only the named columns, or places in JSON documents, of rows that exist.

A patch always looks: where the value is there already nothing is written, and where something else than was read
stands around the place nothing is written either. Documents are edited as text, one by one, so that every other
byte of them stays.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import Column
from resettle.engine.fingerprint import fingerprints
from resettle.engine.statements import OutputShape
from resettle.mapping import pointer
from resettle.mapping.functions import canonical_text

CHANGED = "changed_meanwhile"
NO_ROW = "no_row_to_patch"
Edits = Sequence[tuple[str | None, str | None, str | None]]
"""(pointer, value, expected parent) of each row; nothing to do where pointer or value is null."""


def plain_columns(output: OutputShape) -> list[Column]:
    """The columns that a patch sets as a whole."""
    return [column for column in output.columns if column.name not in output.key_names]


def states(
    connection: duckdb.DuckDBPyConnection, output: OutputShape, rows: pa.Table, present: pa.Table
) -> tuple[pa.Array, pa.Array]:
    """Action (patch, unchanged or conflict) and reason of each row. ``present``: the rows that are there, by _key."""
    at = pc.index_in(rows["_key"], present["_key"].combine_chunks())
    actions = ["unchanged" if place is not None else "conflict" for place in at.to_pylist()]
    reasons: list[str | None] = [None if place is not None else NO_ROW for place in at.to_pylist()]
    places = at.to_pylist()
    if plain := plain_columns(output):
        differ = _differ(connection, plain, rows, present, at)
        actions = ["patch" if d and a == "unchanged" else a for d, a in zip(differ, actions, strict=True)]
    for name in output.edits:
        documents = present[name].to_pylist()
        for row, edit in enumerate(_edits(rows, name)):
            place = places[row]
            if place is None or edit[0] is None or edit[1] is None:
                continue
            state = _state(documents[place], edit[0], edit[1], edit[2])
            if state == CHANGED:
                actions[row], reasons[row] = "conflict", CHANGED
            elif state == "patch" and actions[row] == "unchanged":
                actions[row] = "patch"
    return pa.array(actions, pa.string()), pa.array(reasons, pa.string())


def documents(output: OutputShape, rows: pa.Table, present: pa.Table) -> Iterator[tuple[pa.Table, pa.Array]]:
    """What to write: tables of key and changed columns, one row per target row, with the unit of each row.

    ``rows`` are those with the action patch. Columns that no edit touches are in no table.
    """
    if plain := plain_columns(output):
        first = _first_of_key(rows)
        yield first.select([*output.key_names, *(column.name for column in plain)]), first["_unit"].combine_chunks()
    places = pc.index_in(rows["_key"], present["_key"].combine_chunks()).to_pylist()
    for name in output.edits:
        before = present[name].to_pylist()
        after = dict[int, str]()
        for place, (at, value, _) in zip(places, _edits(rows, name), strict=True):
            if at is not None and value is not None:
                after[place] = pointer.put(after.get(place, before[place]), at, value) or before[place]
        changed = [place for place, text in after.items() if text != before[place]]
        if changed:
            keys = present.take(pa.array(changed)).select(list(output.key_names))
            units = rows["_unit"].take(pa.array([places.index(place) for place in changed]))
            texts = pa.array([after[place] for place in changed], present[name].type)
            yield keys.append_column(name, texts), units.combine_chunks()


def images(output: OutputShape, rows: pa.Table, present: pa.Table) -> list[str]:
    """What stood where each row is patched, as JSON: column -> value, or at, was (null if nothing) and set."""
    places = pc.index_in(rows["_key"], present["_key"].combine_chunks()).to_pylist()
    found: list[dict[str, Any]] = [{} for _ in places]
    for column in plain_columns(output):
        values = present[column.name].cast(pa.string()).to_pylist()
        for image, place in zip(found, places, strict=True):
            image[column.name] = values[place]
    for name in output.edits:
        texts = present[name].to_pylist()
        for image, place, (at, value, _) in zip(found, places, _edits(rows, name), strict=True):
            if at is not None and value is not None:
                image[name] = {"at": at, "was": pointer.at(texts[place], at), "set": value}
    return [json.dumps(image) for image in found]


def _edits(rows: pa.Table, name: str) -> Edits:
    return list(zip(*(rows[f"_{part}_{name}"].to_pylist() for part in ("at", "set", "expect")), strict=True))


def _state(document: str | None, at: str, value: str, expect: str | None) -> str:
    if document is None:
        return CHANGED
    current = pointer.at(document, at)
    if current is not None and canonical_text(current) == canonical_text(value):
        return "unchanged"
    holder = pointer.parent(document, at)
    if holder is None or (expect is not None and canonical_text(holder) != canonical_text(expect)):
        return CHANGED
    return "patch" if pointer.put(document, at, value) is not None else CHANGED


def _differ(
    connection: duckdb.DuckDBPyConnection, columns: list[Column], rows: pa.Table, present: pa.Table, at: pa.Array
) -> list[bool]:
    ours, theirs = (fingerprints(connection, table, columns).cast(pa.binary()) for table in (rows, present))
    found: list[bool] = pc.fill_null(pc.not_equal(ours, theirs.take(at)), True).to_pylist()
    return found


def _first_of_key(rows: pa.Table) -> pa.Table:
    first = {key: row for row, key in reversed([*enumerate(rows["_key"].to_pylist())])}
    return rows.take(pa.array(sorted(first.values()), pa.int64()))
