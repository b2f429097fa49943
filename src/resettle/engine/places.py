"""Places: what a run's patches set, so that no two of them set one place to different things.

A place is a column of a row, or what a JSON pointer names in it; the whole column is the pointer "". Two patches also
disagree where one sets what lies inside the place of the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa

from resettle.engine.statements import OutputShape
from resettle.engine.uniques import Hashes, Mask, Uniques
from resettle.mapping.columns import literal, quote
from resettle.mapping.functions import query

Kind = tuple[str, ...]
SET: Kind = ("=set",)
VALUE: Kind = ("=value",)
INSIDE: Kind = ("=inside",)
PLACES = (SET, VALUE, INSIDE)
"""Under what a run remembers the hashes of places, of places with what they are set to, and of all around them."""


@dataclass(frozen=True)
class Places:
    """The places that rows set, one entry each: the row's number and hashes. ``inside`` are pairs of arrays: the
    number of a row, and what lies around a place of it."""

    row: Hashes
    place: Hashes
    value: Hashes
    inside: tuple[Hashes, Hashes]

    def hashes(self) -> Mapping[Kind, Hashes]:
        """What a run remembers of them."""
        return {SET: self.place, VALUE: self.value, INSIDE: self.inside[1]}


def places_of(connection: duckdb.DuckDBPyConnection, output: OutputShape, rows: pa.Table) -> Places:
    """The places that patch rows set (_key, the output's columns, _at_<edit> and _set_<edit>)."""
    numbered = rows.append_column("_row", pa.array(np.arange(rows.num_rows)))
    whole = [(n, "''", f"CAST({quote(n)} AS VARCHAR)", "true") for n in output.names if n not in output.key_names]
    parts = [(n, quote(f"_at_{n}"), quote(f"_set_{n}")) for n in output.edits]
    edits = [(n, pointer, value, f"{pointer} IS NOT NULL AND {value} IS NOT NULL") for n, pointer, value in parts]
    each = " UNION ALL ".join(
        f"SELECT _row, concat(_key, chr(31), {literal(name)}, chr(31)) AS col, {pointer} AS pointer, {value} AS val"
        f" FROM _r WHERE {sets}"
        for name, pointer, value, sets in (*whole, *edits)
    )
    found = query(
        connection,
        "SELECT _row, hash(col || pointer) AS place, hash(concat(col, pointer, chr(31), val IS NULL, val)) AS value,"
        " list_transform(range(1, len(string_split(pointer, '/'))),"
        " lambda n: hash(col || array_to_string(string_split(pointer, '/')[1:n], '/'))) AS inside"
        f" FROM ({each}) ORDER BY _row",
        _r=numbered,
    )
    around = found["inside"].combine_chunks()
    lengths = np.diff(around.offsets.to_numpy())
    row = found["_row"].to_numpy()
    inside = (np.repeat(row, lengths), around.flatten().to_numpy().view(np.int64))
    return Places(row, found["place"].to_numpy().view(np.int64), found["value"].to_numpy().view(np.int64), inside)


def foreseen(places: Places, rows: int, seen: Mapping[Kind, Uniques]) -> Mask:
    """Which of so many rows set nothing but what a batch before them has set already."""
    new = ~seen[VALUE].seen(places.value)
    found = np.ones(rows, np.bool_)
    found[places.row[new]] = False
    return found


def disagree(places: Places, rows: int, seen: Mapping[Kind, Uniques]) -> Mask:
    """Which of so many rows set a place otherwise than a row before them, of this batch or (``seen``) of this run."""
    bad = np.zeros(rows, np.bool_)
    bad[places.row[seen[SET].seen(places.place) & ~seen[VALUE].seen(places.value)]] = True
    bad[places.row[seen[INSIDE].seen(places.place)]] = True
    bad[places.inside[0][seen[SET].seen(places.inside[1])]] = True
    shared = len(np.unique(places.place)) < len(places.place)
    if not shared and not np.isin(places.place, places.inside[1]).any():
        return bad
    values: dict[int, int] = {}  # of the few batches in which rows meet: one after the other, the first one counts
    around: set[int] = set()
    inside: dict[int, list[int]] = {}
    for row, place in zip(*(part.tolist() for part in places.inside), strict=True):
        inside.setdefault(row, []).append(place)
    for row, place, value in zip(places.row.tolist(), places.place.tolist(), places.value.tolist(), strict=True):
        if bad[row]:
            continue
        if values.get(place, value) != value or place in around or any(one in values for one in inside.get(row, ())):
            bad[row] = True
            continue
        values[place] = value
        around.update(inside.get(row, ()))
    return bad
