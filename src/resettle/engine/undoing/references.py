"""References: who points at rows that are to be deleted, by foreign key. A delete must take no other row along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from resettle.batch import Column, ForeignKey, Schema
from resettle.connector import Target
from resettle.engine.fingerprint import as_duckdb, as_wire, key_hashes, key_sql
from resettle.engine.uniques import Hashes, Uniques
from resettle.mapping.functions import query

Identity = tuple[str, str]
"""(connection.dataset, key as text) of a row."""


@dataclass(frozen=True)
class Pointer:
    """A row that points at a row which ``unit`` would delete."""

    unit: str
    row: Identity
    foreign_key: ForeignKey


@dataclass
class Undone:
    """Rows that a rollback has deleted or restored so far, or in a plan would have: 8 bytes each."""

    rows: Uniques = field(default_factory=Uniques)
    units: Uniques = field(default_factory=Uniques)


class References:
    """The foreign keys of some targets. ``identities``: what else a row of a dataset without a primary key goes by."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        targets: Mapping[str, Target],
        identities: Mapping[tuple[str, str], tuple[str, ...]],
    ) -> None:
        self._db, self._targets, self._identities = connection, targets, identities
        self._schemas: dict[tuple[str, str], Schema] = {}
        self._pointing: dict[str, dict[str, list[tuple[str, ForeignKey]]]] = {}

    def schema(self, connection: str, dataset: str) -> Schema:
        """The dataset as it is, looked up once. Raises ConfigError if there is none."""
        found = self._schemas.get((connection, dataset))
        if found is None:
            found = self._schemas[connection, dataset] = self._targets[connection].schema(dataset)
        return found

    def identity(self, connection: str, dataset: str) -> list[Column]:
        """The columns that tell a dataset's rows apart."""
        schema = self.schema(connection, dataset)
        names = schema.key or self._identities.get((connection, dataset), ())
        return [column for name in names if (column := schema.column(name))]

    def of(self, connection: str, dataset: str) -> Sequence[tuple[str, ForeignKey]]:
        """(dataset, foreign key) of all that may point at a dataset's rows."""
        if connection not in self._pointing:
            names = self._targets[connection].datasets()
            folded = {name.lower(): name for name in names}
            found: dict[str, list[tuple[str, ForeignKey]]] = {}
            for name in names:
                for key in self.schema(connection, name).foreign_keys:
                    target = key.target if key.target in names else folded.get(key.target.lower(), key.target)
                    found.setdefault(target, []).append((name, key))
            self._pointing[connection] = found
        return self._pointing[connection].get(dataset, [])

    def pointed_at(self, connection: str, dataset: str) -> list[str]:
        """The columns of a dataset that foreign keys point at."""
        return list(dict.fromkeys(name for _, key in self.of(connection, dataset) for name in key.target_columns))

    def pointers(self, connection: str, dataset: str, doomed: pa.Table) -> list[Pointer]:
        """All that points at rows to delete (unit, and the columns that are pointed at)."""
        return [
            pointer
            for pointing, foreign_key in self.of(connection, dataset)
            for pointer in self._by_key(connection, self.schema(connection, dataset), pointing, foreign_key, doomed)
        ]

    def _by_key(
        self, connection: str, schema: Schema, pointing: str, foreign_key: ForeignKey, doomed: pa.Table
    ) -> list[Pointer]:
        theirs = self.schema(connection, pointing)
        mine = [c for name in foreign_key.target_columns if (c := schema.column(name))]
        columns = [c for name in foreign_key.columns if (c := theirs.column(name))]
        own = [column.name for column in mine]
        rows = doomed.select(["unit", *own]).drop_null()
        if not rows.num_rows:
            return []
        identity = self.identity(connection, pointing) or columns
        asked = rows.select(own).group_by(own).aggregate([]).select(own)
        keys = as_wire(asked.rename_columns([column.name for column in columns]), columns)
        names = list(dict.fromkeys(column.name for column in (*columns, *identity)))
        found = self._targets[connection].fetch(pointing, keys, names).select(names)
        pairs = query(
            self._db,
            f"SELECT d.unit, f.row FROM (SELECT unit, {key_sql(mine)} AS k FROM _d) d JOIN"
            f" (SELECT {key_sql(columns)} AS k, {key_sql(identity)} AS row FROM _f) f ON f.k = d.k",
            _d=as_duckdb(rows, mine),
            _f=as_duckdb(as_wire(found, [*columns, *identity]), theirs.columns),
        )
        place = f"{connection}.{pointing}"
        found_pairs = zip(pairs["unit"].to_pylist(), pairs["row"].to_pylist(), strict=True)
        return [Pointer(unit, (place, row), foreign_key) for unit, row in found_pairs]

    def hashes(self, texts: Sequence[str]) -> Hashes:
        return key_hashes(self._db, pa.chunked_array([texts], pa.string()))


def deleted(row: Identity) -> str:
    """What `Undone.rows` remembers of a deleted row."""
    return "\x1f".join(row)


def restored(row: Identity, foreign_key: ForeignKey) -> str:
    """What `Undone.rows` remembers of a restored row: one for each foreign key that points elsewhere now."""
    return "\x1f".join((*row, foreign_key.name, *foreign_key.columns))
