"""survey: what a draft has to know of a dataset beyond its catalogue, from its first records; no value leaves here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from resettle.batch import Schema
from resettle.connector import Source
from resettle.engine.profile import CLASS, SHOWN
from resettle.mapping.columns import quote
from resettle.mapping.functions import connect, relations
from resettle.middleware.readahead import batches, plainly

RECORDS = 1000
"""So many records of a dataset are looked at."""

OWN = ("resettle.", "resettle_")
"""Our own tables in a database: no part of anybody's migration."""


@dataclass(frozen=True)
class Seen:
    """What the first records hold in one column.

    ``classes`` counts values by the words that `resettle profile` uses, ``distinct`` the different ones; ``words``
    are the different values if they are few, to compare with an enum, never to show.
    """

    classes: Mapping[str, int] = field(default_factory=dict)
    distinct: int = 0
    words: frozenset[str] | None = field(default=None, repr=False)

    @property
    def records(self) -> int:
        return sum(self.classes.values())

    @property
    def unique(self) -> bool:
        """Whether every record has a value, and no two have the same."""
        return 0 < self.records == self.distinct

    @property
    def missing(self) -> int:
        """Records without a value."""
        return self.classes.get("null", 0)

    def only(self, *classes: str) -> bool:
        """Whether there are values at all, and all are of these classes."""
        held = {name for name in self.classes if name != "null"}
        return bool(held) and held <= set(classes)


@dataclass(frozen=True)
class Side:
    """One side as a draft sees it: its connection's name and its datasets in the catalogue's words."""

    connection: str
    schemas: Mapping[str, Schema]


def survey(connector: Source) -> Side:
    """The catalogue of everything that can be read there, but the tables of a ledger."""
    names = [name for name in connector.datasets() if not name.startswith(OWN)]
    return Side(connector.name, {name: connector.schema(name) for name in names})


def sample(connector: Source, schema: Schema) -> dict[str, Seen]:
    """What the first `RECORDS` records hold, by column; nothing where there are none."""
    names = list(schema.names)
    read = batches(connector, schema.dataset, rows=RECORDS, workers=1, look=plainly, limit=RECORDS)
    tables = [batch.decode(batch.table, names).select(names) for batch in read if len(batch)]
    if not tables or not names:
        return {}
    database = connect()
    with relations(database, _rows=pa.concat_tables(tables, promote_options="permissive")):
        return {name: _seen(database, f"CAST({quote(name)} AS VARCHAR)") for name in names}


def _seen(database: duckdb.DuckDBPyConnection, value: str) -> Seen:
    column = f"(SELECT {value} AS v FROM _rows)"
    classes = database.execute(f"SELECT {CLASS.format(v='v')}, count(*) FROM {column} GROUP BY 1").fetchall()
    distinct = database.execute(f"SELECT count(DISTINCT v) FROM {column}").fetchall()[0][0]
    few = f"SELECT DISTINCT v FROM {column} WHERE v IS NOT NULL"
    words = frozenset(word for (word,) in database.execute(few).fetchall()) if distinct <= SHOWN else None
    return Seen(dict(classes), distinct, words)
