"""Rounds: a flow's batches, and then, again and again, its records that wait for others of the same flow.

A row may point at one of its own flow that comes in a later batch. Its record is set aside as it was prepared, and
decided once more when all have come. That goes on as long as it helps; what is left then points nowhere, or at
something that is held.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import MOST_BYTES
from resettle.engine.decision import Decision
from resettle.engine.feed import Finish, Prepared
from resettle.engine.flow import BATCH
from resettle.engine.shape import Shaped, Started
from resettle.errors import BalanceError
from resettle.ledger.records import Known

WORTH = 100
"""A round helps if more than one in so many is decided. Else a long chain in a bad order would take a round for each of
its links: it is held, and goes on with the next run."""


class Rounds:
    """Iterate it for batches to decide, ``rows`` records together at most, and tell it of each what was decided.

    What is left when a round did not help comes once more in one batch, for rows that point at each other in a circle.
    """

    def __init__(self, batches: Iterable[Prepared], rows: int, known: Callable[[pa.Array], Known]) -> None:
        """``known(units)``: what the ledger knows of them now. What waits may have been made meanwhile, outside of the
        transaction that left it out."""
        self._batches, self._rows, self._known = batches, rows, known
        self._aside = _Aside()

    def __iter__(self) -> Iterator[Prepared]:
        yield from self._batches
        helpless = 0
        while self._aside.count:
            aside, self._aside = self._aside, _Aside()
            with closing(aside):
                for prepared in aside.batches(max(self._rows, BATCH) if helpless else self._rows):
                    yield replace(prepared, may_wait=helpless < 2)
            helped = aside.count - self._aside.count > aside.count // WORTH
            helpless = 0 if helped else helpless + 1

    def decided(self, prepared: Prepared, decisions: Sequence[Decision]) -> int:
        """Set aside the units of which no decision speaks, to be read again, as it were; how many they are."""
        chunks = [chunk for decision in decisions for chunk in decision.units["_unit"].chunks]
        spoken = pa.chunked_array(chunks, prepared.units.type).combine_chunks()
        if len(spoken) == len(prepared):
            return 0
        waits = prepared.units.filter(pc.invert(pc.is_in(prepared.units, spoken)))
        if not prepared.may_wait:
            raise BalanceError(f"{len(waits)} records were decided to wait when there was nothing to wait for")
        self._aside.put(replace(prepared.of(waits), read=len(waits), known=self._known(waits)))
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
        count = size = 0
        for place in reversed(self._places):
            self._file.seek(place)
            prepared: Prepared = pickle.load(self._file)  # noqa: S301 - our own, and nobody else can open it
            count, size = count + len(prepared), size + _size(prepared)
            if together and (count > rows or size > MOST_BYTES or not _alike(together[0], prepared)):
                yield _joined(together, self._finish)
                together, count, size = [], len(prepared), _size(prepared)
            together.append(prepared)
        if together:
            yield _joined(together, self._finish)

    def close(self) -> None:
        self._file.close()


def _tables_of(prepared: Prepared) -> list[pa.Table]:
    made = prepared.made
    source = [made.source] if isinstance(made, Started) else []
    return [made.units, made.rows, *source, *(rows for rows in made.outputs if rows is not None)]


def _size(prepared: Prepared) -> int:
    return sum(table.nbytes for table in _tables_of(prepared))


def _alike(one: Prepared, other: Prepared) -> bool:
    """Whether both have the same columns: files of one dataset may differ in theirs."""
    return [table.schema for table in _tables_of(one)] == [table.schema for table in _tables_of(other)]


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
