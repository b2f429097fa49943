"""Restore: from before-images to the rows that put back what a run overwrote."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import duckdb
import pyarrow as pa

from resettle.batch import Column
from resettle.engine.fingerprint import as_wire
from resettle.engine.images import KNOWN, Image, value_sql
from resettle.engine.undoing.standing import Place, same_json
from resettle.mapping.columns import quote
from resettle.mapping.functions import query
from resettle.mapping.pointer import Document, Splice

Edit = Mapping[str, str | None]


def values_of(
    connection: duckdb.DuckDBPyConnection, place: Place, images: Sequence[Image]
) -> tuple[pa.Table, list[bool]]:
    """What updated rows held, in wire types; and which of them the columns can no longer hold."""
    names = [name for name in images[0] if name != KNOWN]
    return _typed(connection, place, {name: [image.get(name) for image in images] for name in names}, len(images))


def plain_values(
    connection: duckdb.DuckDBPyConnection, place: Place, images: Sequence[Image]
) -> tuple[pa.Table, list[bool]]:
    """The same of the columns that a patch set as a whole."""
    names = {name: None for image in images for name, edit in image.items() if name != KNOWN and "at" not in edit}
    return _typed(connection, place, {name: [image[name]["was"] for image in images] for name in names}, len(images))


def _typed(
    connection: duckdb.DuckDBPyConnection, place: Place, texts: Mapping[str, list[str | None]], count: int
) -> tuple[pa.Table, list[bool]]:
    columns: list[Column] = [column for name in texts if (column := place.schema.column(name))]
    if not columns:
        return pa.table({}), [False] * count
    rows = pa.table({column.name: pa.array(texts[column.name], pa.string()) for column in columns})
    values = ", ".join(f"{value_sql(quote(column.name), column)} AS {quote(column.name)}" for column in columns)
    lost = " OR ".join(f"(v.{quote(c.name)} IS NULL AND t.{quote(c.name)} IS NOT NULL)" for c in columns)
    sql = f"SELECT v.*, {lost} AS _lost FROM (SELECT {values} FROM _t) v POSITIONAL JOIN _t t"
    found = query(connection, sql, _t=rows)
    return as_wire(found.select(list(texts)), columns), found["_lost"].to_pylist()


def documents(
    connection: duckdb.DuckDBPyConnection, place: Place, present: pa.Table, images: Sequence[Image], rows: Sequence[int]
) -> Iterator[pa.Table]:
    """What puts patched rows back: tables of key and columns. ``rows``: the present row of each image.

    Edits of one document are undone in the images' order, each where it still stands.
    """
    key = [column.name for column in place.key]
    first = {row: at for at, row in reversed([*enumerate(rows)])}
    values, _ = plain_values(connection, place, images)
    if values.num_columns:
        keys = as_wire(present.take(pa.array(list(first))).select(key), place.key)
        for name in values.column_names:
            keys = keys.append_column(name, values[name].take(pa.array(list(first.values()))))
        yield keys
    edits: dict[str, dict[int, list[Edit]]] = {}
    for image, row in zip(images, rows, strict=True):
        for name, edit in image.items():
            if name != KNOWN and "at" in edit:
                edits.setdefault(name, {}).setdefault(row, []).append(edit)
    for name, of_rows in edits.items():
        at = pa.array(list(of_rows), pa.int64())
        before = present[name].take(at).to_pylist()
        after = [_undone(text, some) for text, some in zip(before, of_rows.values(), strict=True)]
        keys = as_wire(present.take(at).select(key), place.key)
        yield keys.append_column(name, pa.array(after, present[name].type))


def _undone(text: str, edits: Sequence[Edit]) -> str:
    """The document without these edits; every other character stays."""
    document = Document(text)
    splices = sorted(splice for edit in edits if (splice := _back(document, edit)))
    if all(one[1] <= other[0] for one, other in itertools.pairwise(splices)):
        return document.with_splices(splices)
    for edit in edits:  # they touch each other: one by one
        document = Document(text)
        splice = _back(document, edit)
        text = document.with_splices([splice]) if splice else text
    return text


def _back(document: Document, edit: Edit) -> Splice | None:
    """What undoes an edit, where what it set still stands."""
    pointer, was = edit["at"] or "", edit["was"]
    if not same_json(document.at(pointer), edit["set"]):
        return None
    return document.without(pointer) if was is None else document.splice(pointer, was)
