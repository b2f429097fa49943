"""Reading D1's tables: pages and rows by key, each answer of a bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from resettle.batch import Schema
from resettle.connectors._d1_http import LARGEST_ANSWER, MOST_COLUMNS, Answer, Statement
from resettle.connectors._d1_values import ORDINAL, cell, chunks, exact, filled, repaired
from resettle.connectors._sqlite import quote
from resettle.errors import ConfigError

Ask = Callable[[Statement], Answer]
BEFORE, TOTAL, PLACE = "resettle_before", "resettle_total", "resettle_place"


def bounded(names: Sequence[str], source: str, place: Sequence[str], *, hexed: bool) -> str:
    """The rows of ``source``, in the order of ``place``, as long as those before hold not too much.

    At least the rows of the first place, so there are none only if the source has none. Then the place itself,
    and how many rows there would have been.
    """
    columns = [f"c{number}" for number in range(len(names))]
    places = [f"{PLACE}{number}" for number in range(len(place))]
    renamed = [f"{name} AS {short}" for name, short in zip((*names, *place), (*columns, *places), strict=True)]
    size = _sum([f"coalesce(length({column}), 4)" for column in columns] or ["1"])
    order = ", ".join(places)
    return (
        f"SELECT {', '.join(exact(column, hexed=hexed) for column in [*columns, *places])}, {TOTAL} FROM ("
        f"SELECT *, count(*) OVER () AS {TOTAL},"
        f" sum({size}) OVER (ORDER BY {order} GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS {BEFORE}"
        f" FROM (SELECT {', '.join(renamed)} FROM {source}))"
        f" WHERE coalesce({BEFORE}, 0) <= {LARGEST_ANSWER} ORDER BY {order}"
    )


def _sum(terms: Sequence[str]) -> str:
    """A sum as a tree: SQLite limits how deep an expression is."""
    if len(terms) == 1:
        return terms[0]
    middle = len(terms) // 2
    return f"({_sum(terms[:middle])} + {_sum(terms[middle:])})"


def pages(
    ask: Ask, schema: Schema, order: Sequence[str], after: Any, until: Any, rows: int
) -> Iterator[list[tuple[Any, ...]]]:
    """Rows in the order of ``order``, after ``after`` and up to ``until`` in its first column, as sqlite3 has them."""
    if len(schema.columns) + len(order) + 2 > MOST_COLUMNS:
        raise ConfigError(f"{schema.dataset}: more than {MOST_COLUMNS - 2 - len(order)} columns cannot be read")
    position = f"({', '.join(map(quote, order))})"
    place: tuple[Any, ...] = () if after is None else (after,)
    names = [quote(name) for name in schema.names]
    while True:
        tests = [f"{position} > ({', '.join('?' * len(order))})"] if place else []
        values = list(place)
        if until is not None:
            tests.append(f"{position} <= (?)")
            values.append(until)
        source = (
            f"main.{quote(schema.dataset)} WHERE {' AND '.join(tests) or '1'} ORDER BY {position[1:-1]}"
            f" LIMIT {int(rows)}"
        )
        found = rows_of(ask, names, source, [*map(quote, order)], values)
        if not found:
            return
        yield [row[: len(names)] for row in found]
        place = found[-1][len(names) : len(names) + len(order)]


def rows_of(
    ask: Ask,
    names: Sequence[str],
    source: str,
    place: Sequence[str],
    values: Sequence[Any],
    before: tuple[str, ...] = (),
) -> list[tuple[Any, ...]]:
    """The rows that `bounded` gives; asked again byte by byte where a text may not have been UTF-8."""
    rows: list[tuple[Any, ...]] = []
    for hexed in (False, True):
        found = ask(filled(bounded(names, source, place, hexed=hexed), values, before))
        rows = [(*map(cell, row[:-1]), row[-1]) for row in found.rows]
        if not repaired(rows):
            break
    return rows


def fetch(ask: Ask, dataset: str, keys: pa.Table, names: Sequence[str]) -> list[tuple[Any, ...]]:
    """The rows whose key columns equal a row of ``keys``, which are all different and not null."""
    same = " AND ".join(f"t.{quote(name)} = k.{quote(name)}" for name in keys.column_names)
    asked = [f"t.{quote(name)}" for name in names]
    found: list[tuple[Any, ...]] = []
    waiting = [keys] if keys.num_rows else []
    while waiting:
        left, start = waiting.pop(), 0
        for chunk in chunks(left):
            source = f"({chunk.numbered}) AS k CROSS JOIN main.{quote(dataset)} AS t ON {same}"
            rows = rows_of(ask, asked, source, [f"k.{ORDINAL}"], [], chunk.parameters)
            found += [row[: len(names)] for row in rows]
            if rows and len(rows) < rows[-1][-1]:
                done = rows[-1][-2] + 1
                waiting.append(left.slice(start + done, chunk.rows - done))
            start += chunk.rows
    return found
