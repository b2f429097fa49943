"""Exclusive: rows that belong to no record, in datasets of which the declaration says that nobody else writes to them.

Without that word a row more is no finding: the target is live, and its owners may add what they like. With it, every
key there must be a key of a record that was applied. The ledger is asked for nothing but the old rows of records that
are held now: those stay until the record is settled, and it is listed already.

In memory 8 bytes of each wanted row; the target's keys are read only where the count of its rows is not theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import duckdb
import numpy as np
import pyarrow as pa

from resettle.batch import Column
from resettle.connector import Target
from resettle.engine.fingerprint import key_hashes, key_sql
from resettle.engine.flow import Connections
from resettle.engine.uniques import Hashes, Mask, Uniques
from resettle.engine.verifying.findings import KEPT, Finding, Verified
from resettle.mapping.columns import DUCKDB, quote
from resettle.mapping.functions import connect, query
from resettle.mapping.load import Migration

ROWS = 50_000
"""Keys that are read at once."""


class Exclusive:
    """The keys that records want in one dataset, of every output that makes rows there."""

    def __init__(self, flow: str, dataset: str, target: Target, title: str) -> None:
        self._flow, self._dataset, self._target, self._title = flow, dataset, target, title
        self._db = connect()
        self._keys: dict[tuple[Column, ...], _Keys] = {}
        """By the columns of which they are made."""

    def add(self, key: tuple[Column, ...], wanted: pa.ChunkedArray, old: pa.ChunkedArray) -> None:
        """Take a batch's keys (text, made of ``key``): of the rows that must be there, and of those that may be."""
        self._keys.setdefault(key, _Keys()).add(key_hashes(self._db, wanted), key_hashes(self._db, old))

    def check(self, verified: Verified) -> None:
        """Find the rows that belong to no record, once every record was looked at."""
        counts = [keys.count for keys in self._keys.values()]
        before = verified.counts["extra"]
        if verified.counts["missing"] or len(counts) != 1 or counts[0] != self._target.count(self._dataset):
            for keys in self._keys_of_others():
                for key in keys[:KEPT].to_pylist():
                    detail = f"{self._dataset}: the row belongs to no record that was applied"
                    verified.add(Finding(self._flow, "extra", detail, key=key))
                if len(keys) > KEPT:
                    verified.counts["extra"] += len(keys) - KEPT
        found = verified.counts["extra"] - before
        verified.checks.append((self._title, not found, str(found)))

    def _keys_of_others(self) -> Iterator[pa.ChunkedArray]:
        for part in self._target.partitions(self._dataset, 1):
            for batch in self._target.read(part, ROWS):
                names = dict.fromkeys(column.name for key in self._keys for column in key)
                yield self._strange(batch.decode(batch.table, list(names)))

    def _strange(self, rows: pa.Table) -> pa.ChunkedArray:
        known = np.zeros(rows.num_rows, np.bool_)
        texts = pa.chunked_array([pa.nulls(rows.num_rows, pa.string())])
        for key, keys in self._keys.items():
            texts = _texts(self._db, key, rows)
            known |= keys.hold(key_hashes(self._db, texts))
        return texts.filter(pa.array(~known))


class _Keys:
    """Hashes of keys."""

    def __init__(self) -> None:
        self.count = 0
        """Different keys that must be there."""
        self._wanted, self._old = Uniques(), Uniques()

    def add(self, wanted: Hashes, old: Hashes) -> None:
        new = np.unique(wanted)
        new = new[~self._wanted.seen(new)]
        self._wanted.add(new)
        self.count += len(new)
        self._old.add(old)

    def hold(self, hashes: Hashes) -> Mask:
        return self._wanted.seen(hashes) | self._old.seen(hashes)


def declared(
    migration: Migration, connections: Connections, flows: Sequence[str], verified: Verified
) -> dict[str, Exclusive]:
    """The datasets of `verify.exclusive` of which these flows make all rows. Of the others is told why they are not
    looked at."""
    found = {}
    for into in migration.file.verify.exclusive:
        makers = sorted(migration.file.makers(into))
        if others := [name for name in makers if name not in flows]:
            verified.checks.append((_title(into), True, f"not looked for: {', '.join(others)} not compared as a whole"))
        else:
            connection, _, dataset = into.partition(".")
            found[into] = Exclusive(makers[0], dataset, connections.target(connection), _title(into))
    return found


def _title(into: str) -> str:
    return f"{into}: rows that belong to no record"


def _texts(connection: duckdb.DuckDBPyConnection, key: Sequence[Column], rows: pa.Table) -> pa.ChunkedArray:
    """The key of each row as text, null where it has none that could be ours."""
    cast = ", ".join(f"TRY_CAST({quote(one.name)} AS {DUCKDB[one.kind]}) AS {quote(one.name)}" for one in key)
    return query(connection, f"SELECT {key_sql(key)} AS k FROM (SELECT {cast} FROM _there)", _there=rows)["k"]
