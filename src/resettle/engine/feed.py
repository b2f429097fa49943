"""Feed: from a source's raw batches to shaped ones, skipping what earlier runs settled.

A raw record whose hash (seeded with the mapping's digest) the ledger holds is not even decoded. The hash is
DuckDB's; it may change with DuckDB's version, so the version is part of the seed: then records are decoded
and their fingerprints compared, which costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import MOST_BYTES, TROUBLE, Batch, Decode, Status, set_column
from resettle.engine import shape as shaping
from resettle.engine.fingerprint import key_hashes
from resettle.engine.shape import NOTHING_SHAPED, Resolver, Settle, Shaped, Started
from resettle.engine.statements import FlowShape
from resettle.engine.uniques import Hashes, Mask, Uniques, contains, located
from resettle.ledger.ledger import Ledger
from resettle.ledger.records import Known, Seen, nothing_known
from resettle.mapping.columns import literal, quote
from resettle.mapping.functions import query, run_tried
from resettle.mapping.sql import Parsed

REASON = "reason "
"""Before a reason's name, among the counts of what was settled."""


Finish = Callable[[Started, Known, Settle], Shaped]
"""``finish(started, known, settle)``: see `Feed.finish`."""


@dataclass(frozen=True)
class Prepared:
    """A batch of records, shaped or begun to be, what the ledger knows of its units, and how many records were
    settled without a look.

    A flow whose outputs reuse rows is shaped to its end when it is decided.
    """

    units: pa.Array
    known: Known
    read: int
    made: Shaped | Started
    settled: Counter[str] = field(default_factory=Counter)
    finish: Finish | None = None
    """How it is shaped to its end, where it is only begun."""
    may_wait: bool = True
    """Whether a row may wait for a row of this flow that has not come yet; else it points nowhere."""

    def __len__(self) -> int:
        return len(self.units)

    def shaped_with(self, settle: Settle) -> Shaped:
        """What the batch should become, given what it may reuse."""
        if isinstance(self.made, Shaped):
            return self.made
        assert self.finish is not None
        return self.finish(self.made, self.known, settle)

    def of(self, units: pa.Array) -> Prepared:
        """Some of its units; they count as read with the whole."""
        return replace(self, units=units, read=0, made=self.made.of(units), settled=Counter())

    def part(self, start: int, stop: int) -> Prepared:
        """Some of its units in a row, for isolating a refused one."""
        return self.of(self.units.slice(start, stop - start))

    def refusal(self, reason: str, detail: str) -> pa.Table:
        """All its units, refused by the target for this reason."""
        count = len(self)
        return pa.table(
            {
                "unit": self.units,
                "reason": pa.array([reason] * count, pa.string()),
                "detail": pa.array([detail] * count, pa.string()),
            }
        )


@dataclass(frozen=True)
class Looked:
    """Decoded records that need more than a look (with _unit and _raw, in the order of their keys), and counts."""

    rows: pa.Table
    read: int
    settled: Counter[str]


@dataclass
class _Settled:
    """Hashes (sorted) of what earlier runs settled alike, and which of them this run has met."""

    status: str
    reason: str | None
    hashes: Hashes
    met: Mask = field(init=False)

    def __post_init__(self) -> None:
        self.met = np.zeros(len(self.hashes), np.bool_)


_NOTHING = pa.table({})
_NO_UNITS = pa.array([], pa.string())


class _Thread(threading.local):
    """A cursor of the flow's DuckDB for each reading thread."""

    def __init__(self) -> None:
        self._cursor: duckdb.DuckDBPyConnection | None = None

    def database(self, connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
        if self._cursor is None:
            self._cursor = connection.cursor()
        return self._cursor


class Feed:
    """Prepares the batches of one flow in one run: `look` in any thread, `prepare` in one."""

    def __init__(
        self,
        shape: FlowShape,
        ledger: Ledger,
        resolver: Resolver,
        connection: duckdb.DuckDBPyConnection,
        *,
        digest: str,
        started_at: datetime,
        where: Parsed | None = None,
        only: pa.Array | None = None,
        fresh: bool = False,
        gather: int = 10_000,
    ) -> None:
        self._shape, self._ledger, self._resolver, self._db = shape, ledger, resolver, connection
        self._finishing = connection.cursor() if shape.late else connection
        """Late shaping is finished in another thread than it is started in."""
        seed = hashlib.blake2b(f"{digest}/{duckdb.__version__}".encode(), digest_size=8)
        self._seed = np.frombuffer(seed.digest(), np.int64)
        """What a record's hash is mixed with: under another mapping no record is taken for settled."""
        self._started_at, self._where, self._only = started_at, where, only
        self._numbers = ledger.numbers(shape.name, [output.name for output in shape.outputs])
        self._remembers = ledger.remembers(shape.name)
        trusting = self._remembers and not fresh and only is None and not shape.looks
        seen = ledger.seen(shape.name) if trusting else _nothing_seen()
        self._seen = [_Settled(str(Status.UNCHANGED), None, seen.done), *(_Settled(*one) for one in seen.others)]
        self._thread = _Thread()
        self._units = Uniques()
        self.gather = gather
        """Records that are prepared together, about."""
        extra = [name for _, name, _ in where.columns] if where else []
        self._needs = list(dict.fromkeys([*shape.needs, *extra]))

    def look(self, batches: Iterator[Batch]) -> Iterator[Looked]:
        """The first look at a partition's raw batches, in the thread that reads them.

        What earlier runs settled is only counted. The rest is gathered to about a batch before it is decoded,
        so that a few changed records cost a few statements, not some for each batch that was read.
        """
        database = self._thread.database(self._db)
        rest: list[tuple[pa.Table, Hashes]] = []
        decode: Decode | None = None
        for batch in batches:
            table, raw = batch.table, self._hash(database, batch.table)
            if self._where is not None:
                chosen = self._matching(database, batch.decode(table, self._needs))
                table, raw = table.filter(pa.array(chosen)), raw[chosen]
            settled, left = self._settle(raw)
            if not left.all():
                table = table.filter(pa.array(left))
            if decode and rest[0][0].schema != table.schema:  # files of one dataset may differ in their columns
                yield self._decoded(database, decode, rest)
                rest = []
            decode = batch.decode
            rest.append((table, raw[left]))
            yield Looked(_NOTHING, sum(settled[status] for status in Status), settled)
            count, size = sum(len(hashes) for _, hashes in rest), sum(table.nbytes for table, _ in rest)
            if count >= self.gather or size >= MOST_BYTES:
                yield self._decoded(database, decode, rest)
                rest, decode = [], None
        if decode:
            yield self._decoded(database, decode, rest)

    def _decoded(
        self, database: duckdb.DuckDBPyConnection, decode: Decode, rest: list[tuple[pa.Table, Hashes]]
    ) -> Looked:
        table = pa.concat_tables([table for table, _ in rest])
        raw = np.concatenate([hashes for _, hashes in rest])
        if not len(raw):
            return Looked(_NOTHING, 0, Counter())
        rows = self._identify(database, decode(table, list(self._shape.needs)), raw)
        if self._only is not None:
            rows = rows.filter(pc.is_in(rows["_unit"], self._only))
        return Looked(rows, rows.num_rows, Counter())

    def prepare(self, looked: Looked) -> Prepared:
        """Shape what was looked at, batch after batch in one thread."""
        if not looked.rows.num_rows:
            return Prepared(_NO_UNITS, nothing_known(), looked.read, NOTHING_SHAPED, looked.settled)
        rows, repeats = self._drop_repeats(looked.rows)
        settled = looked.settled
        if repeats:
            settled = settled + Counter({str(Status.SKIPPED): repeats, f"{REASON}identical_duplicate": repeats})
        known = self._known(rows)
        rows = self._hold_twins(rows, known)
        rows = self._date(rows, known)
        started = shaping.start(self._db, self._shape, rows, self._resolver)
        units = rows["_unit"].combine_chunks()
        if self._shape.late:
            return Prepared(units, known, looked.read, started, settled, self.finish)
        return Prepared(units, known, looked.read, self.finish(started, known, shaping.settled), settled)

    def finish(self, started: Started, known: Known, settle: Settle) -> Shaped:
        """Shape to the end: with what is remembered of the units, and what their outputs may reuse."""
        resolver = replace(self._resolver, minted=_minted(known, self._numbers), settle=settle)
        return _keep_waived(shaping.finish(self._finishing, self._shape, started, resolver), known)

    def _hash(self, database: duckdb.DuckDBPyConnection, table: pa.Table) -> Hashes:
        places = [str(place) for place in range(table.num_columns)]  # DuckDB does not tell `Name` from `name`
        names = literal("/" + ",".join(table.column_names))
        sql = f"SELECT hash({', '.join(map(quote, places))}, {names}) AS h FROM _raw"
        found = query(database, sql, _raw=table.rename_columns(places))
        hashes: Hashes = found["h"].to_numpy().view(np.int64) ^ self._seed
        return hashes

    def _contents(self, raw: Hashes) -> pa.Array:
        """A name for each record by what it holds, whatever the mapping says of it."""
        return pa.array([f"{value:016x}" for value in (raw ^ self._seed).view(np.uint64).tolist()], pa.string())

    def _matching(self, database: duckdb.DuckDBPyConnection, decoded: pa.Table) -> Mask:
        assert self._where is not None
        sql = f"SELECT coalesce(TRY(CAST(({self._where.sql}) AS BOOLEAN)), false) AS w FROM source"
        found: Mask = run_tried(database, sql, source=decoded)["w"].to_numpy()
        return found

    def _settle(self, raw: Hashes) -> tuple[Counter[str], Mask]:
        """How many records were settled by earlier runs, and which still need a look."""
        counts: Counter[str] = Counter()
        order = np.argsort(raw)
        asked, rest = raw[order], np.ones(len(raw), np.bool_)
        for settled in self._seen:
            at, hit = located(settled.hashes, asked)
            hit &= rest
            rest &= ~hit
            found = int(hit.sum())
            if found:
                settled.met[at[hit]] = True
                counts[settled.status] += found
            if found and settled.reason:
                counts[f"{REASON}{settled.reason}"] += found
        left = np.empty(len(raw), np.bool_)
        left[order] = rest
        return counts, left

    def _identify(self, database: duckdb.DuckDBPyConnection, rows: pa.Table, raw: Hashes) -> pa.Table:
        """Add _unit and _raw; a record without a key, or with one no ledger can store, gets one from its hash and is
        held."""
        units = shaping.unit_keys(database, self._shape, rows)
        zero = pc.fill_null(pc.match_substring(units, "\0"), False)
        units = pc.if_else(zero, pa.scalar(None, units.type), units)
        trouble = rows[TROUBLE].combine_chunks() if TROUBLE in rows.column_names else None
        if units.null_count or (trouble is not None and trouble.null_count < len(trouble)):
            broken = pa.nulls(len(units), pa.string()) if trouble is None else trouble
            text = pc.binary_join_element_wise("undecodable", broken, "|")
            text = pc.if_else(pc.and_(pc.is_null(text), zero), "unstorable|the unit key holds U+0000", text)
            text = pc.if_else(pc.and_(pc.is_null(text), pc.is_null(units)), "no_key|the unit key is null", text)
            units = pc.coalesce(units, pc.binary_join_element_wise("raw:", self._contents(raw), ""))
            rows = rows.drop_columns([TROUBLE]) if trouble is not None else rows
            rows = rows.append_column(TROUBLE, text)
        # In the order of its keys a batch goes into the target's and the ledger's index in a quarter less time.
        rows = rows.append_column("_unit", units).append_column("_raw", pa.array(raw))
        return rows.take(pc.sort_indices(units))

    def _drop_repeats(self, rows: pa.Table) -> tuple[pa.Table, int]:
        """A unit key that comes again: the same record is dropped and counted, another one is held."""
        units = key_hashes(self._db, rows["_unit"])
        raw = rows["_raw"].to_numpy()
        again = self._units.repeated(units)
        self._units.add(units[~again], raw[~again])
        if not again.any():
            return rows, 0
        places = np.flatnonzero(again)
        same = np.zeros(len(again), np.bool_)
        first = self._units.companions(units[again])
        same[places] = [first[int(units[at])] == int(raw[at]) for at in places]
        other = again & ~same
        rows = self._hold_repeats(rows, pa.array(other)) if other.any() else rows
        return rows.filter(pa.array(~same)), int(same.sum())

    def _hold_twins(self, rows: pa.Table, known: Known) -> pa.Table:
        """Hold a record whose unit another record of this run has that was settled: it must not take its place.

        Records are gathered before they come here, so that the twin was met if it stands in the same partition,
        before or behind; in another partition it is met in time only if that was read by then.
        """
        said = pa.concat_tables([known.rows.select(["unit", "raw"]), known.units.select(["unit", "raw"])])
        said = said.filter(pc.is_valid(said["raw"]))
        raw = said["raw"].to_numpy()
        met = np.zeros(len(raw), np.bool_)
        for settled in self._seen:
            # A copy: NumPy counts a mask, then picks without the GIL, and readers go on setting it meanwhile.
            met |= contains(settled.hashes[settled.met.copy()], raw)
        if not met.any():
            return rows
        twins = said.filter(pa.array(met))["unit"].combine_chunks()
        return self._hold_repeats(rows, pc.is_in(rows["_unit"].combine_chunks(), twins))

    def _hold_repeats(self, rows: pa.Table, other: pa.Array) -> pa.Table:
        """Give a second record of a unit a key of its own, so that both are in the ledger, and hold it."""
        mine = rows.select(["_unit", "_raw"]).filter(other)
        contents = self._contents(mine["_raw"].to_numpy())
        renamed = pc.binary_join_element_wise(mine["_unit"].combine_chunks(), contents, "#")
        units = pc.replace_with_mask(rows["_unit"].combine_chunks(), other, renamed)
        text = rows[TROUBLE].combine_chunks() if TROUBLE in rows.column_names else pa.nulls(len(other), pa.string())
        text = pc.if_else(other, "duplicate_unit|another record of this run has the same unit key", text)
        rows = rows.drop_columns([n for n in (TROUBLE,) if n in rows.column_names])
        return set_column(rows, "_unit", units).append_column(TROUBLE, text)

    def _known(self, rows: pa.Table) -> Known:
        if not self._remembers or not rows.num_rows:
            return nothing_known()
        return self._ledger.known(self._shape.name, rows["_unit"].combine_chunks())

    def _date(self, rows: pa.Table, known: Known) -> pa.Table:
        """Add migration_time: the start of the run that first saw the unit, in whole milliseconds, which more columns
        can hold than microseconds."""
        now = pa.scalar(self._started_at, pa.timestamp("us", tz="UTC"))
        times = pa.repeat(now, rows.num_rows)
        if known.units.num_rows:
            at = pc.index_in(rows["_unit"].combine_chunks(), known.units["unit"].combine_chunks())
            first = query(self._db, "SELECT CAST(first_time AS TIMESTAMPTZ) AS t FROM _k", _k=known.units)
            times = pc.coalesce(first["t"].combine_chunks().take(at), times)
        whole = pc.multiply(pc.divide(times.cast(pa.int64()), 1000), 1000).cast(times.type)
        return rows.append_column("migration_time", whole)


def _nothing_seen() -> Seen:
    return Seen(np.empty(0, np.int64))


def _keep_waived(shaped: Shaped, known: Known) -> Shaped:
    """A waiver outlives a change of the mapping or of the record: somebody said that it stays behind."""
    waived = known.units.filter(pc.equal(known.units["reason"], "waived"))["unit"].combine_chunks()
    if not len(waived):
        return shaped
    hit = pc.is_in(shaped.units["_unit"], waived)
    units = shaped.units
    for name, word in (("status", str(Status.SKIPPED)), ("reason", "waived")):
        units = set_column(units, name, pc.if_else(hit, word, units[name]))
    outputs = (table.filter(pc.invert(pc.is_in(table["_unit"], waived))) for table in shaped.outputs)
    return Shaped(units, tuple(outputs), shaped.rows)


def _minted(known: Known, numbers: Sequence[int]) -> shaping.Minted:
    def minted(place: int) -> pa.Table:
        mine = known.rows.filter(pc.equal(known.rows["output"], numbers[place]))
        return pa.table({"_unit": mine["unit"], "_n": mine["n"], "m": mine["minted"]})

    return minted
