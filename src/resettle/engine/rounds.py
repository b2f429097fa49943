"""Rounds: a flow's batches, and then, again and again, its records that wait for others of the same flow.

A row may point at one of its own flow that comes in a later batch. Its record is set aside as it was prepared, and
decided once more when all have come. That goes on as long as fewer are left each time; what is left then points
nowhere, or at something that is held.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import MOST_BYTES
from resettle.engine.decision import Decision
from resettle.engine.feed import Finish, Prepared
from resettle.engine.shape import Shaped, Started
from resettle.errors import BalanceError
from resettle.ledger.records import Known


class Rounds:
    """Iterate it for batches to decide, ``rows`` records together at most, and tell it of each what was decided."""

    def __init__(self, batches: Iterable[Prepared], rows: int) -> None:
        self._batches, self._rows = batches, rows
        self._aside = _Aside()

    def __iter__(self) -> Iterator[Prepared]:
        yield from self._batches
        helped = True
        while self._aside.count:
            aside, self._aside = self._aside, _Aside()
            with closing(aside):
                for prepared in aside.batches(self._rows):
                    yield prepared if helped else replace(prepared, may_wait=False)
            helped = self._aside.count < aside.count

    def decided(self, prepared: Prepared, decisions: Sequence[Decision]) -> int:
        """Set aside the units of which no decision speaks, to be read again, as it were; how many they are."""
        chunks = [chunk for decision in decisions for chunk in decision.units["_unit"].chunks]
        spoken = pa.chunked_array(chunks, prepared.units.type).combine_chunks()
        if len(spoken) == len(prepared):
            return 0
        waits = prepared.units.filter(pc.invert(pc.is_in(prepared.units, spoken)))
        if not prepared.may_wait:
            raise BalanceError(f"{len(waits)} records were decided to wait when there was nothing to wait for")
        self._aside.put(replace(prepared.of(waits), read=len(waits)))
        return len(waits)


class _Aside:
    """Batches that wait, in memory while they are few, else in a file that has no name."""

    def __init__(self) -> None:
        self.count = 0
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(MOST_BYTES)  # noqa: SIM115 - close() does it
        self._places: list[int] = []
        self._finish: Finish | None = None

    def put(self, prepared: Prepared) -> None:
        self.count += len(prepared)
        self._finish = prepared.finish
        self._places.append(self._file.tell())
        pickle.dump(replace(prepared, finish=None), self._file, protocol=5)

    def batches(self, rows: int) -> Iterator[Prepared]:
        """The last first: what came late is what the earlier ones wait for."""
        together: list[Prepared] = []
        for place in reversed(self._places):
            self._file.seek(place)
            prepared: Prepared = pickle.load(self._file)  # noqa: S301 - our own, and nobody else can open it
            if together and sum(map(len, together)) + len(prepared) > rows:
                yield _joined(together, self._finish)
                together = []
            together.append(prepared)
        if together:
            yield _joined(together, self._finish)

    def close(self) -> None:
        self._file.close()


def _joined(batches: Sequence[Prepared], finish: Finish | None) -> Prepared:
    """Several batches of one flow as one."""
    return replace(
        batches[0],
        units=pa.concat_arrays([batch.units for batch in batches]),
        known=Known(_tables(batch.known.units for batch in batches), _tables(batch.known.rows for batch in batches)),
        read=sum(batch.read for batch in batches),
        made=_made([batch.made for batch in batches]),
        finish=finish,
    )


def _made(parts: Sequence[Shaped | Started]) -> Shaped | Started:
    units, rows = _tables(part.units for part in parts), _tables(part.rows for part in parts)
    outputs = [None if found[0] is None else _tables(found) for found in zip(*(p.outputs for p in parts), strict=True)]
    started = [part for part in parts if isinstance(part, Started)]
    if not started:
        return Shaped(units, tuple(outputs), rows)
    problems = tuple(problem for part in started for problem in part.problems)
    return Started(units, _tables(part.source for part in started), rows, problems, tuple(outputs))


def _tables(tables: Iterable[pa.Table]) -> pa.Table:
    return pa.concat_tables(list(tables), promote_options="permissive")
