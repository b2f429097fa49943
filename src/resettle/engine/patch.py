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
from resettle.engine.images import texts as texts_of
from resettle.engine.statements import OutputShape
from resettle.mapping.functions import canonical_text
from resettle.mapping.pointer import Document, Splice

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
    places = at.to_pylist()
    actions = ["unchanged" if place is not None else "conflict" for place in places]
    reasons: list[str | None] = [None if place is not None else NO_ROW for place in places]
    if plain := plain_columns(output):
        differ = _differ(connection, plain, rows, present, at)
        actions = ["patch" if d and a == "unchanged" else a for d, a in zip(differ, actions, strict=True)]
    for name in output.edits:
        texts = _Documents(present[name])
        for row, (pointer, value, expect) in enumerate(_edits(rows, name)):
            place = places[row]
            if place is None or pointer is None or value is None:
                continue
            state = _state(texts[place], pointer, value, expect)
            if state == CHANGED:
                actions[row], reasons[row] = "conflict", CHANGED
            elif state == "patch" and actions[row] == "unchanged":
                actions[row] = "patch"
    return pa.array(actions, pa.string()), pa.array(reasons, pa.string())


class _Documents(dict[int, Document | None]):
    """The documents of a column by row, each parsed when it is first asked for."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        super().__init__()
        self.texts = column.to_pylist()

    def __missing__(self, place: int) -> Document | None:
        text = self.texts[place]
        try:
            self[place] = None if text is None else Document(text)
        except (ValueError, IndexError):  # no JSON: there is nothing to find in it
            self[place] = None
        return self[place]


def documents(output: OutputShape, rows: pa.Table, present: pa.Table) -> Iterator[tuple[pa.Table, pa.Array]]:
    """What to write: tables of key and changed columns, one row per target row, with the unit of each row.

    ``rows`` are those with the action patch. Columns that no edit touches are in no table.
    """
    if plain := plain_columns(output):
        first = _first_of_key(rows)
        yield first.select([*output.key_names, *(column.name for column in plain)]), first["_unit"].combine_chunks()
    places = pc.index_in(rows["_key"], present["_key"].combine_chunks()).to_pylist()
    for name in output.edits:
        texts = _Documents(present[name])
        splices: dict[int, list[Splice]] = {}
        owners: dict[int, int] = {}
        for row, (place, (pointer, value, _)) in enumerate(zip(places, _edits(rows, name), strict=True)):
            document = texts[place] if pointer is not None and value is not None else None
            if document is None or pointer is None or value is None or _is(document.at(pointer), value):
                continue
            splice = document.splice(pointer, value)
            if splice is not None and splice not in splices.setdefault(place, []):
                splices[place].append(splice)
                owners.setdefault(place, row)
        if splices:
            keys = present.take(pa.array(list(splices))).select(list(output.key_names))
            after = [texts[place].with_splices(done) for place, done in splices.items()]  # type: ignore[union-attr]
            units = rows["_unit"].take(pa.array([owners[place] for place in splices]))
            yield keys.append_column(name, pa.array(after, present[name].type)), units.combine_chunks()


def images(connection: duckdb.DuckDBPyConnection, output: OutputShape, rows: pa.Table, present: pa.Table) -> list[str]:
    """What stood where each row is patched, and what stands there now, as engine/images.py says."""
    places = pc.index_in(rows["_key"], present["_key"].combine_chunks()).to_pylist()
    found: list[dict[str, Any]] = [{} for _ in places]
    plain = plain_columns(output)
    before = texts_of(connection, present, plain, exact=True)
    after = texts_of(connection, rows, plain, exact=False)
    for name in before:
        for image, place, value in zip(found, places, after[name], strict=True):
            image[name] = {"was": before[name][place], "set": value}
    for name in output.edits:
        texts = _Documents(present[name])
        for image, place, (pointer, value, _) in zip(found, places, _edits(rows, name), strict=True):
            document = texts[place] if pointer is not None and value is not None else None
            if document is not None and pointer is not None:
                image[name] = {"at": pointer, "was": document.at(pointer), "set": value}
    return [json.dumps(image) for image in found]


def _edits(rows: pa.Table, name: str) -> Edits:
    return list(zip(*(rows[f"_{part}_{name}"].to_pylist() for part in ("at", "set", "expect")), strict=True))


def _state(document: Document | None, pointer: str, value: str, expect: str | None) -> str:
    if document is None:
        return CHANGED
    if _is(document.at(pointer), value):
        return "unchanged"
    holder = document.parent(pointer)
    if holder is None or (expect is not None and not _is(holder, expect)):
        return CHANGED
    return "patch" if document.splice(pointer, value) is not None else CHANGED


def _is(found: str | None, wanted: str) -> bool:
    """Whether two JSON texts say the same."""
    return found is not None and (found == wanted or canonical_text(found) == canonical_text(wanted))


def _differ(
    connection: duckdb.DuckDBPyConnection, columns: list[Column], rows: pa.Table, present: pa.Table, at: pa.Array
) -> list[bool]:
    ours, theirs = (fingerprints(connection, table, columns).cast(pa.binary()) for table in (rows, present))
    found: list[bool] = pc.fill_null(pc.not_equal(ours, theirs.take(at)), True).to_pylist()
    return found


def _first_of_key(rows: pa.Table) -> pa.Table:
    first = {key: row for row, key in reversed([*enumerate(rows["_key"].to_pylist())])}
    return rows.take(pa.array(sorted(first.values()), pa.int64()))
