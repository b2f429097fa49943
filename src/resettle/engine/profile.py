"""profile: what a source really holds, attribute by attribute, without showing a value unless asked."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import duckdb

from resettle.batch import TROUBLE
from resettle.connector import Source
from resettle.engine.flow import Options
from resettle.mapping.columns import quote
from resettle.mapping.functions import connect, query, relations
from resettle.middleware.readahead import batches, plainly

SHOWN = 20
"""Distinct values of a column that are kept, for --show-values."""

CLASS = r"""CASE WHEN {v} IS NULL THEN 'null' WHEN {v} = '' THEN 'empty'
WHEN regexp_full_match({v}, '\s+') THEN 'blank'
WHEN regexp_full_match({v}, '[0-9a-fA-F]{{8}}(-[0-9a-fA-F]{{4}}){{3}}-[0-9a-fA-F]{{12}}') THEN 'uuid'
WHEN regexp_full_match({v}, '[1-9][0-9]{{9}}') THEN 'number like epoch seconds'
WHEN regexp_full_match({v}, '[1-9][0-9]{{12}}') THEN 'number like epoch milliseconds'
WHEN regexp_full_match({v}, '-?\d+') THEN 'whole number'
WHEN regexp_full_match({v}, '-?\d+(\.\d+)?([eE][+-]?\d+)?') THEN 'number'
WHEN regexp_matches({v}, '^\d{{4}}-\d\d-\d\d([T ]\d\d:\d\d|$)') THEN 'date or instant'
WHEN {v} IN ('true', 'false') THEN 'boolean'
WHEN regexp_matches({v}, '^\s*[\[{{]') AND json_valid({v}) THEN 'JSON'
WHEN contains({v}, chr(0)) THEN 'text with U+0000'
WHEN {v} <> trim({v}) THEN 'text with spaces around' ELSE 'text' END"""
"""SQL for the class of a text ``{v}``, in the words that people read."""


@dataclass
class Profiled:
    """One attribute: how many values of which class, the longest, and some values."""

    name: str
    classes: Counter[str] = field(default_factory=Counter)
    longest: int = 0
    values: Counter[str] = field(default_factory=Counter)
    many: bool = False

    def as_json(self, *, show_values: bool) -> dict[str, Any]:
        shown = {"values": dict(self.values.most_common(SHOWN))} if show_values and not self.many else {}
        distinct = f"more than {SHOWN}" if self.many else len(self.values)
        return {
            "name": self.name,
            "classes": dict(self.classes),
            "longest": self.longest,
            "distinct": distinct,
            **shown,
        }


@dataclass
class DatasetProfile:
    dataset: str
    read: int = 0
    undecodable: int = 0
    columns: dict[str, Profiled] = field(default_factory=dict)

    def as_json(self, *, show_values: bool) -> dict[str, Any]:
        columns = [column.as_json(show_values=show_values) for column in self.columns.values()]
        return {"dataset": self.dataset, "read": self.read, "undecodable": self.undecodable, "columns": columns}


def profile(source: Source, dataset: str, options: Options) -> DatasetProfile:
    """Read a dataset (all of it, or ``options.limit`` records) and classify every value."""
    names = list(source.schema(dataset).names)
    made = DatasetProfile(dataset, columns={name: Profiled(name) for name in names})
    database = connect()
    read = batches(source, dataset, rows=options.batch, workers=1, look=plainly, limit=options.limit)
    for batch in read:
        rows = batch.decode(batch.table, names)
        made.read += rows.num_rows
        if TROUBLE in rows.column_names:
            made.undecodable += rows.num_rows - rows[TROUBLE].null_count
        for column in made.columns.values():
            with relations(database, _rows=rows.select([column.name])):
                _classify(database, column)
    return made


def _classify(database: duckdb.DuckDBPyConnection, column: Profiled) -> None:
    """Count the values of a column of `_rows`."""
    text = f"CAST({quote(column.name)} AS VARCHAR)"
    classes = query(
        database,
        f"SELECT {CLASS.format(v='v')} AS c, count(*) AS n, max(length(v)) AS l FROM (SELECT {text} AS v FROM _rows)"
        " GROUP BY 1",
    )
    for row in classes.to_pylist():
        column.classes[row["c"]] += row["n"]
        column.longest = max(column.longest, row["l"] or 0)
    if not column.many:
        top = f"SELECT {text} AS v, count(*) AS n FROM _rows WHERE {text} IS NOT NULL GROUP BY 1 LIMIT {SHOWN + 1}"
        for row in query(database, top).to_pylist():
            column.values[row["v"]] += row["n"]
        column.many = len(column.values) > SHOWN
        if column.many:
            column.values.clear()
