"""Digest: whose rows may differ from the target's, told by sums of hashes that the target computes itself.

Every wanted row is hashed as the target would spell it, and the hashes are summed in buckets, by their own last bits.
The target sums its rows the same way. Where a bucket's count and sum agree, so do its rows: a difference escapes with
a chance of one in 2**46 at most. Where they do not, the records of the bucket's wanted rows are suspects, whose rows
are to be fetched and compared. Rows of others only make a bucket differ: they cost time, and hide nothing.

In memory it takes 4 MiB, however many rows there are; on disk the key of every record, until it is closed.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from typing import NamedTuple

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from resettle import private
from resettle.connector import Digesting, Target
from resettle.engine.fingerprint import as_wire, fingerprints
from resettle.engine.present import keyed
from resettle.engine.statements import OutputShape
from resettle.mapping.functions import query

BITS = 18
"""Hashes are summed by so many of their bits."""
PER_BUCKET = 16
"""About so many rows are in a bucket that the target is asked for; more where `BITS` do not suffice."""
FEW = 200_000
"""Suspects that are named; where there are more, every record is one."""

Numbers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
_UNITS = pa.schema([("bucket", pa.uint32()), ("unit", pa.string())])


class Sums(NamedTuple):
    """By bucket: how many rows there are, and the sum of their hashes modulo 2**64."""

    counts: Numbers
    digests: Hashes

    def folded(self, bits: int) -> Sums:
        """By fewer bits."""
        return Sums(*(part.reshape(-1, 1 << bits).sum(axis=0, dtype=part.dtype) for part in self))


class Digest:
    """The wanted rows of one output. Use as a context manager: what it keeps on disk goes with it."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, target: Target, output: OutputShape) -> None:
        """Only for a target that is `Digesting`."""
        assert isinstance(target, Digesting)
        self._db, self._output, self._target, self._digesting = connection, output, target, target
        exact = target.exact(output.dataset)
        self.whether = tuple(name for name in output.names if name not in exact)
        """Columns of which a digest knows only whether they are null: rows that have them are fetched in part."""
        self._sums = Sums(np.zeros(1 << BITS, np.int64), np.zeros(1 << BITS, np.uint64))
        self._seen = pa.chunked_array([], pa.string())
        """Suspects of which no digest needs to be asked."""
        self._path = private.spill() / f"{secrets.token_hex(8)}.units"
        self._file = os.fdopen(private.new(self._path), "wb")
        self._units = pa.ipc.new_stream(self._file, _UNITS)

    def __enter__(self) -> Digest:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def add(self, rows: pa.Table) -> int:
        """Take a batch's wanted rows (_unit, _key and the output's columns); how many of them were fetched in part."""
        hashes = self._hashes(rows.select(list(self._output.names)))
        buckets = (hashes & np.uint64((1 << BITS) - 1)).astype(np.int64)
        self._sums.counts[:] += np.bincount(buckets, minlength=1 << BITS)
        np.add.at(self._sums.digests, buckets, hashes)
        units = rows["_unit"].combine_chunks()
        self._units.write_batch(pa.record_batch([pa.array(buckets.astype(np.uint32)), units], schema=_UNITS))
        return self._look(rows)

    def _hashes(self, rows: pa.Table) -> Hashes:
        spelt = self._digesting.spelt(self._output.dataset, rows, self.whether)
        sql = "SELECT unhex(md5(row)) AS md5 FROM _spelt"
        found = query(self._db, sql, _spelt=pa.table({"row": spelt}))["md5"].combine_chunks()
        octets = np.frombuffer(found.cast(pa.binary(16)).buffers()[1], np.uint8)[: 16 * len(found)]
        return np.ascontiguousarray(octets.reshape(-1, 16)[:, 8:]).view(">u8").reshape(-1).astype(np.uint64)

    def _look(self, rows: pa.Table) -> int:
        """Fetch what is in the columns that no digest knows; whoever has something else there is a suspect."""
        rows = rows.filter(self.filled(rows))
        if not rows.num_rows:
            return 0
        keys, names = list(self._output.key_names), list(self.whether)
        columns = [column for column in self._output.columns if column.name in {*keys, *names}]
        there = as_wire(self._target.fetch(self._output.dataset, as_wire(rows.select(keys), columns), names), columns)
        there = keyed(self._db, there, self._output.key)
        there = there.take(pc.index_in(rows["_key"], there["_key"].combine_chunks()))
        compared = [column for column in columns if column.name in names]
        ours, theirs = (fingerprints(self._db, table, compared) for table in (rows, there))
        other = pc.or_(pc.is_null(there["_key"]), pc.not_equal(pa.chunked_array([ours]), pa.chunked_array([theirs])))
        if len(self._seen) <= FEW:  # else they are too many to name anyway
            self._seen = pa.chunked_array([*self._seen.chunks, *rows["_unit"].filter(other).chunks], pa.string())
        return int(rows.num_rows)

    def filled(self, rows: pa.Table) -> pa.Array:
        """Which rows have something in a column that no digest knows."""
        found = np.zeros(rows.num_rows, np.bool_)
        for name in self.whether:
            found |= rows[name].is_valid().to_numpy()
        return pa.array(found)

    def suspects(self) -> pa.Array | None:
        """Units whose rows in the target may differ, each once; None where they are too many to name."""
        self._units.close()
        wanted = int(self._sums.counts.sum())
        if not wanted:
            return pa.array([], pa.string())
        whole, there = self._sums.folded(0), self._there(0)
        found = self._seen
        if not _agree(whole, there).all():
            bits = min(BITS, max(4, (wanted // PER_BUCKET).bit_length()))
            if int(there.counts[0]) - wanted > 4 << bits:
                return None  # so many rows of others that hardly a bucket is without one
            strange = ~_agree(self._sums.folded(bits), self._there(bits))
            for named in self._named(strange):
                found = pa.chunked_array([*found.chunks, named], pa.string())
                if len(found) > FEW:
                    return None
        return None if len(found) > FEW else found.unique()

    def _there(self, bits: int) -> Sums:
        names = list(self._output.names)
        found = self._digesting.digests(self._output.dataset, names, self.whether, bits)
        sums = Sums(np.zeros(1 << bits, np.int64), np.zeros(1 << bits, np.uint64))
        at = found["bucket"].to_numpy()
        sums.counts[at], sums.digests[at] = found["count"].to_numpy(), found["digest"].to_numpy()
        return sums

    def _named(self, strange: npt.NDArray[np.bool_]) -> Iterator[pa.Array]:
        """The units with a row in a strange bucket, batch by batch."""
        mask = np.uint32(len(strange) - 1)
        self._file.flush()
        with self._path.open("rb") as file, pa.ipc.open_stream(file) as batches:
            for batch in batches:
                hit = strange[batch["bucket"].to_numpy() & mask]
                if hit.any():
                    yield batch["unit"].filter(pa.array(hit))


def _agree(ours: Sums, theirs: Sums) -> npt.NDArray[np.bool_]:
    agree: npt.NDArray[np.bool_] = (ours.counts == theirs.counts) & (ours.digests == theirs.digests)
    return agree
