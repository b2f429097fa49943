"""Standing: whether rows that we wrote still are as we left them. What `rollback` and drift share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import Column, Schema
from resettle.connector import Target
from resettle.engine.fingerprint import as_duckdb, as_wire, fingerprint_sql, key_sql
from resettle.engine.images import KNOWN, Image, texts, value_sql
from resettle.ledger.undo import MadeOf
from resettle.mapping.columns import quote
from resettle.mapping.functions import canonical_text, query
from resettle.mapping.pointer import Document

LEFT = "left"
"""As we left it."""
BEFORE = "before"
"""As it was before the run; somebody has put it back already."""
CHANGED = "changed"
GONE = "gone"
STRANGE = "strange"
"""The target has no such key or columns any more."""


@dataclass(frozen=True)
class Place:
    """Where rows are, as the target has it now."""

    target: Target
    schema: Schema
    key: tuple[Column, ...]
    columns: tuple[Column, ...]
    """What the fingerprint is made of."""

    @property
    def name(self) -> str:
        return f"{self.target.name}.{self.schema.dataset}"


@dataclass(frozen=True)
class Seen:
    """Some rows of one output and what is there for them.

    rows:    the asked rows with _at, the place of the present row of that key (null where there is none)
    present: the fetched columns in wire types, _key and _now (fingerprint)
    twice:   keys that several present rows have
    """

    rows: pa.Table
    present: pa.Table
    twice: frozenset[str]


def place_of(made: MadeOf, target: Target, schema: Schema) -> Place | None:
    """The place of a set of columns; None where the target no longer has them all."""
    key = tuple(column for name in made.key if (column := schema.column(name)))
    columns = tuple(column for name in made.columns if (column := schema.column(name)))
    if len(key) < len(made.key) or len(columns) < len(made.columns):
        return None
    return Place(target, schema, key, columns)


def see(
    connection: duckdb.DuckDBPyConnection, place: Place, rows: pa.Table, also: Sequence[str], *, lock: bool
) -> Seen:
    """Fetch what is there for rows (target_key, ...): their columns, those of the key, and ``also``."""
    asked = as_wire(typed_keys(connection, rows["target_key"], place.key), place.key)
    wanted = dict.fromkeys([*(c.name for c in place.key), *(c.name for c in place.columns), *also])
    columns = [column for name in wanted if (column := place.schema.column(name))]
    names = [column.name for column in columns]
    there = as_wire(place.target.fetch(place.schema.dataset, asked, names, lock=lock).select(names), columns)
    sql = f"SELECT {key_sql(place.key)} AS _key, {fingerprint_sql(place.columns)} AS _now FROM _p"
    found = query(connection, sql, _p=as_duckdb(there, columns))
    for name in ("_key", "_now"):
        there = there.append_column(name, found[name])
    counted = there.group_by("_key").aggregate([([], "count_all")])
    twice = counted.filter(pc.greater(counted["count_all"], 1))["_key"].to_pylist()
    at = pc.index_in(rows["target_key"], there["_key"].combine_chunks())
    return Seen(rows.append_column("_at", at), there, frozenset(twice))


def typed_keys(connection: duckdb.DuckDBPyConnection, keys: pa.ChunkedArray, columns: Sequence[Column]) -> pa.Table:
    """Key texts as key columns, each once; those that cannot be such a key are left out."""
    parts = ["t"] if len(columns) == 1 else [_part(number) for number in range(1, len(columns) + 1)]
    picked = ", ".join(f"{value_sql(p, c)} AS {quote(c.name)}" for p, c in zip(parts, columns, strict=True))
    return query(connection, f"SELECT DISTINCT {picked} FROM _t", _t=pa.table({"t": keys})).drop_null()


def _part(number: int) -> str:
    """The reverse of `fingerprint.join_key`."""
    return f"replace(replace(split_part(t, '/', {number}), '%2F', '/'), '%25', '%')"


def states(seen: Seen) -> pa.Array:
    """Of each row by its fingerprint: left, changed or gone."""
    there = seen.present["_now"].combine_chunks().take(seen.rows["_at"].combine_chunks())
    same = pc.fill_null(pc.equal(there, seen.rows["fp"].combine_chunks()), False)
    alone = pc.invert(pc.is_in(seen.rows["target_key"].combine_chunks(), pa.array(seen.twice, pa.string())))
    word = pc.if_else(pc.and_(same, alone), LEFT, CHANGED)
    return pc.if_else(pc.is_null(seen.rows["_at"].combine_chunks()), GONE, word)


def image_states(connection: duckdb.DuckDBPyConnection, place: Place, seen: Seen, images: Sequence[Image]) -> list[str]:
    """Of each updated row: left, changed, gone, or before, where it holds what the image does."""
    names = [name for name in images[0] if name != KNOWN] if images else []
    columns = [column for name in names if (column := place.schema.column(name))]
    found = texts(connection, seen.present, columns, exact=True)
    words: list[str] = states(seen).to_pylist()
    for row, at in enumerate(seen.rows["_at"].to_pylist()):
        if words[row] == CHANGED and all(found[name][at] == images[row].get(name) for name in found):
            words[row] = BEFORE
    return words


def patch_states(connection: duckdb.DuckDBPyConnection, place: Place, seen: Seen, images: Sequence[Image]) -> list[str]:
    """Of each patched row, by the places that were patched: left, changed, gone or before."""
    names = {name for image in images for name in image if name != KNOWN}
    columns = [column for column in place.schema.columns if column.name in names]
    exact = texts(connection, seen.present, columns, exact=True)
    canonical = texts(connection, seen.present, columns, exact=False)
    documents: dict[tuple[str, int], Document | None] = {}
    words = []
    for image, at, key in zip(images, seen.rows["_at"].to_pylist(), seen.rows["target_key"].to_pylist(), strict=True):
        if at is None:
            words.append(GONE)
            continue
        found = set()
        for name, edit in image.items():
            if name == KNOWN:
                continue
            if name not in exact:
                found.add(STRANGE)
            elif "at" not in edit:
                left, before = canonical[name][at] == edit["set"], exact[name][at] == edit["was"]
                found.add(LEFT if left else BEFORE if before else CHANGED)
            else:
                if (name, at) not in documents:
                    documents[name, at] = _document(exact[name][at])
                found.add(_edit_state(documents[name, at], edit))
        words.append(CHANGED if key in seen.twice else _of_all(found))
    return words


def _of_all(found: set[str]) -> str:
    return next((word for word in (STRANGE, CHANGED, LEFT) if word in found), BEFORE)


def _document(text: str | None) -> Document | None:
    try:
        return None if text is None else Document(text)
    except (ValueError, IndexError):
        return None


def _edit_state(document: Document | None, edit: Mapping[str, str | None]) -> str:
    """Of one place in a document: left, before or changed."""
    if document is None:
        return CHANGED
    current = document.at(edit["at"] or "")
    if same_json(current, edit["set"]):
        return LEFT
    return BEFORE if same_json(current, edit["was"]) else CHANGED


def same_json(one: str | None, other: str | None) -> bool:
    """Whether two JSON texts say the same; None is nothing."""
    if one is None or other is None:
        return one is other
    return one == other or canonical_text(one) == canonical_text(other)
