"""Patch: change only the named columns, or places in JSON documents, of rows that exist.

A patch always looks: where the value is there already nothing is written, and where something else than was read
stands around the place nothing is written either. Documents are edited as text, one by one, so that every other
byte of them stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from json.encoder import encode_basestring
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import Column
from resettle.engine.fingerprint import fingerprints
from resettle.engine.images import texts as texts_of
from resettle.engine.statements import OutputShape
from resettle.mapping.functions import canonical_text
from resettle.mapping.pointer import Document, Splice, spliced

CHANGED = "changed_meanwhile"
NO_ROW = "no_row_to_patch"


class Found(NamedTuple):
    """What stands at a place of a document, and what puts the wanted value there: None where nothing need or can."""

    state: str
    was: str | None = None
    splice: Splice | None = None


_UNTOUCHED, _CHANGED = Found("unchanged"), Found(CHANGED)


def plain_columns(output: OutputShape) -> list[Column]:
    """The columns that a patch sets as a whole."""
    return [column for column in output.columns if column.name not in output.key_names]


def states(connection: duckdb.DuckDBPyConnection, output: OutputShape, rows: pa.Table, present: pa.Table) -> pa.Table:
    """What becomes of each row: _action (patch, unchanged or conflict) and _reason, one row each in their order.

    Of each edit also what `documents` and `images` need, so that every document is taken apart once: _was_<name>, the
    JSON that stands there, and _start_, _stop_ and _put_<name>, the splice; null where there is none.
    ``present``: the rows that are there, by _key.
    """
    at = pc.index_in(rows["_key"], present["_key"].combine_chunks())
    places = at.to_pylist()
    actions = ["unchanged" if place is not None else "conflict" for place in places]
    reasons: list[str | None] = [None if place is not None else NO_ROW for place in places]
    if plain := plain_columns(output):
        differ = _differ(connection, plain, rows, present, at)
        actions = ["patch" if d and a == "unchanged" else a for d, a in zip(differ, actions, strict=True)]
    edits: dict[str, pa.Array] = {}
    for name in output.edits:
        found = _edited(rows, name, places, present[name])
        for row, one in enumerate(found):
            if one.state == CHANGED:
                actions[row], reasons[row] = "conflict", CHANGED
            elif one.state == "patch" and actions[row] == "unchanged":
                actions[row] = "patch"
        splices = [one.splice or (None, None, None) for one in found]
        edits[f"_was_{name}"] = pa.array([one.was for one in found], pa.string())
        for index, (part, kind) in enumerate((("start", pa.int64()), ("stop", pa.int64()), ("put", pa.string()))):
            edits[f"_{part}_{name}"] = pa.array([splice[index] for splice in splices], kind)
    return pa.table({"_action": pa.array(actions, pa.string()), "_reason": pa.array(reasons, pa.string()), **edits})


def _edited(rows: pa.Table, name: str, places: list[int | None], column: pa.ChunkedArray) -> list[Found]:
    """What each row's edit of one document column finds; nothing to do where it has no place or no value."""
    documents = _Documents(column)
    edits = zip(places, *(rows[f"_{part}_{name}"].to_pylist() for part in ("at", "set", "expect")), strict=True)
    return [
        _UNTOUCHED
        if place is None or pointer is None or value is None
        else _look(documents[place], pointer, value, expect)
        for place, pointer, value, expect in edits
    ]


class _Documents(dict[int, Document | None]):
    """The documents of a column by row, each parsed when it is first asked for."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        super().__init__()
        self.texts = column.to_pylist()

    def __missing__(self, place: int) -> Document | None:
        text = self.texts[place]
        try:
            self[place] = None if text is None else Document(text)
        except ValueError:  # no JSON: there is nothing to find in it
            self[place] = None
        return self[place]


def documents(output: OutputShape, rows: pa.Table, present: pa.Table) -> Iterator[tuple[pa.Table, pa.Array]]:
    """What to write: tables of key and changed columns, one row per target row, with the unit of each row.

    ``rows`` are those with the action patch, with what `states` said of them. Columns that no edit touches are in no
    table.
    """
    if plain := plain_columns(output):
        first = _first_of_key(rows)
        yield first.select([*output.key_names, *(column.name for column in plain)]), first["_unit"].combine_chunks()
    places = pc.index_in(rows["_key"], present["_key"].combine_chunks()).to_pylist()
    after: dict[str, dict[int, str]] = {}
    owners: dict[int, int] = {}
    for name in output.edits:
        splices: dict[int, list[Splice]] = {}
        for row, splice in _splices(rows, name):
            of_document = splices.setdefault(places[row], [])
            if splice not in of_document:
                of_document.append(splice)
                owners.setdefault(places[row], row)
        texts = present[name].take(pa.array(list(splices), pa.int64())).to_pylist()
        after[name] = {at: spliced(text, some) for text, (at, some) in zip(texts, splices.items(), strict=True)}
    together: dict[tuple[str, ...], list[int]] = {}  # target rows by the columns that change
    for at in owners:
        together.setdefault(tuple(name for name in output.edits if at in after[name]), []).append(at)
    for names, those in together.items():
        table = present.take(pa.array(those)).select(list(output.key_names))
        for name in names:
            table = table.append_column(name, pa.array([after[name][at] for at in those], present[name].type))
        yield table, rows["_unit"].take(pa.array([owners[at] for at in those])).combine_chunks()


def _splices(rows: pa.Table, name: str) -> Iterator[tuple[int, Splice]]:
    """The number of each row that edits this document, and how."""
    parts = (rows[f"_{part}_{name}"].to_pylist() for part in ("start", "stop", "put"))
    return ((row, splice) for row, splice in enumerate(zip(*parts, strict=True)) if splice[2] is not None)


def images(connection: duckdb.DuckDBPyConnection, output: OutputShape, rows: pa.Table, present: pa.Table) -> list[str]:
    """What stood where each row is patched, and what stands there now, as engine/images.py says."""
    fields: list[list[str]] = [[] for _ in range(rows.num_rows)]
    if plain := plain_columns(output):
        places = pc.index_in(rows["_key"], present["_key"].combine_chunks()).to_pylist()
        before = texts_of(connection, present, plain, exact=True)
        after = texts_of(connection, rows, plain, exact=False)
        for name, values in after.items():
            for one, place, value in zip(fields, places, values, strict=True):
                one.append(f'{_text(name)}: {{"was": {_text(before[name][place])}, "set": {_text(value)}}}')
    for name in output.edits:
        parts = (rows[f"_{part}_{name}"].to_pylist() for part in ("at", "was", "set"))
        for one, pointer, was, value in zip(fields, *parts, strict=True):
            if pointer is not None and value is not None:
                edit = f'"at": {_text(pointer)}, "was": {_text(was)}, "set": {_text(value)}'
                one.append(f"{_text(name)}: {{{edit}}}")
    return [f"{{{', '.join(one)}}}" for one in fields]


def _text(value: str | None) -> str:
    return "null" if value is None else encode_basestring(value)


def _look(document: Document | None, pointer: str, value: str, expect: str | None) -> Found:
    if document is None:
        return _CHANGED
    place = document.find(pointer)
    holder, was = (document.text_of(span) for span in place)
    if was is not None and _is(was, value):
        return Found("unchanged", was)
    if holder is None or (expect is not None and not _is(holder, expect)):
        return _CHANGED
    splice = document.splice(pointer, value, place)
    return Found("patch", was, splice) if splice is not None else _CHANGED


def _is(found: str, wanted: str) -> bool:
    """Whether two JSON texts say the same."""
    return found == wanted or canonical_text(found) == canonical_text(wanted)


def _differ(
    connection: duckdb.DuckDBPyConnection, columns: list[Column], rows: pa.Table, present: pa.Table, at: pa.Array
) -> list[bool]:
    ours, theirs = (fingerprints(connection, table, columns) for table in (rows, present))
    found: list[bool] = pc.fill_null(pc.not_equal(ours, theirs.take(at)), True).to_pylist()
    return found


def _first_of_key(rows: pa.Table) -> pa.Table:
    first = {key: row for row, key in reversed([*enumerate(rows["_key"].to_pylist())])}
    return rows.take(pa.array(sorted(first.values()), pa.int64()))
