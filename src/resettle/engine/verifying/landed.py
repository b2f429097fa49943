"""Landed: patches and files that the target should have by now, looked at without the rules by which they were written.

For verify alone: a mistake in deciding what is to be written must not hide itself here.
"""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from resettle.connector import Target
from resettle.engine.fingerprint import as_wire, fingerprints
from resettle.engine.present import keyed
from resettle.engine.statements import OutputShape
from resettle.mapping.functions import canonical_text
from resettle.mapping.pointer import Document

FACTS = ("size", "md5")
"""What a listing of files says of each, beside its key."""


def patched(connection: duckdb.DuckDBPyConnection, target: Target, output: OutputShape, rows: pa.Table) -> list[bool]:
    """Whether each row's patch is there: its columns have their values, its places in documents theirs."""
    present = _present(connection, target, output, rows, (*output.names, *output.edits))
    at = pc.index_in(rows["_key"], present["_key"].combine_chunks())
    there: list[bool] = pc.is_valid(at).to_pylist()
    plain = [column for column in output.columns if column.name not in output.key_names]
    if plain:
        ours, theirs = (fingerprints(connection, table, plain) for table in (rows, present))
        equal = pc.fill_null(pc.equal(pa.chunked_array([ours]), pa.chunked_array([theirs]).take(at)), False)
        there = [one and same for one, same in zip(there, equal.to_pylist(), strict=True)]
    for name in output.edits:
        parsed = [_parsed(text) for text in present[name].to_pylist()]
        documents = [None if place is None else parsed[place] for place in at.to_pylist()]
        edits = zip(documents, rows[f"_at_{name}"].to_pylist(), rows[f"_set_{name}"].to_pylist(), strict=True)
        there = [one and _says(*edit) for one, edit in zip(there, edits, strict=True)]
    return there


def _says(document: Document | None, pointer: str | None, value: str | None) -> bool:
    """Whether the document has the value at the pointer; a row without a place or a value asks for nothing."""
    if pointer is None or value is None:
        return True
    found = document.at(pointer) if document else None
    return found is not None and canonical_text(found) == canonical_text(value)


def _parsed(text: str | None) -> Document | None:
    try:
        return None if text is None else Document(text)
    except ValueError:  # no JSON: nothing is at any place of it
        return None


def stored(
    connection: duckdb.DuckDBPyConnection, target: Target, output: OutputShape, rows: pa.Table
) -> list[str | None]:
    """Of each row's file: None where it is there, with the size and the checksum that both sides know; else `missing`
    or `differs`."""
    present = _present(connection, target, output, rows, FACTS)
    at = pc.index_in(rows["_key"], present["_key"].combine_chunks())
    words: list[str | None] = ["missing" if one is None else None for one in at.to_pylist()]
    for name in FACTS:
        if name not in rows.column_names or name not in present.column_names:
            continue
        pairs = zip(rows[name].to_pylist(), present[name].take(at).to_pylist(), strict=True)
        other = [None not in pair and pair[0] != pair[1] for pair in pairs]
        words = ["differs" if word is None and bad else word for word, bad in zip(words, other, strict=True)]
    return words


def _present(
    connection: duckdb.DuckDBPyConnection,
    target: Target,
    output: OutputShape,
    rows: pa.Table,
    names: tuple[str, ...],
) -> pa.Table:
    """These columns, as far as the dataset has them, of the rows that are there; and _key."""
    wanted = dict.fromkeys((*output.key_names, *names))
    columns = [column for name in wanted if (column := output.schema.column(name))]
    keys = list(output.key_names)
    asked = as_wire(rows.select(keys).group_by(keys).aggregate([]), output.key)
    there = target.fetch(output.dataset, asked, [column.name for column in columns])
    return keyed(connection, as_wire(there, columns), output.key)
