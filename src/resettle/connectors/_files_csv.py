"""CSV for files.py: read by Arrow, its end checked by Python's strict parser."""

from __future__ import annotations

import csv
import functools
import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from resettle.batch import RECORD, TROUBLE, Batch, Column, Decode, Kind
from resettle.connectors._lines import BLOCK, FETCH_AGAIN, reading
from resettle.errors import ConfigError, CorruptError

LONGEST = 32 << 20
"""Bytes of the longest record: Arrow wants each within one block."""

MOST_SAID = 100_000
"""Records whose row is told."""

csv.field_size_limit(LONGEST)  # Python's own is 128 KiB


class Csv:
    """A header, then records; all text. Nothing between the commas is null, "" is empty text, a blank line nothing.

    A record that has more or fewer values than the header is trouble of its own: it travels as text, and has none,
    as nobody can say which of them are which columns'.
    """

    sampled = False

    def __init__(self) -> None:
        self._said: dict[str, str] = {}
        """What is wrong with such a record. Its row is not in the batch: it is the same record where it has another."""
        self.decode: Decode = self._decoded

    def check(self, path: Path, connection: str) -> None:
        wanted, quotes, last = len(self.columns(path, connection)), 0, b""
        with reading(path, connection) as stream:
            for block in iter(functools.partial(stream.read, BLOCK), b""):
                quotes += block.count(b'"')
                last = block.rpartition(b"\n")[2]
        # Neither is a fault in itself, but one of them has every file that is seen to break off.
        if quotes % 2 or (last.strip() and _values(last) < wanted):
            values = self._last(path, connection)
            if last.strip() and values < wanted:
                said = f"{path.name} ends in the middle of a record"
                raise CorruptError(said, connection=connection, hint=FETCH_AGAIN)

    def columns(self, path: Path, connection: str) -> Sequence[Column]:
        header = next(self._rows(path, connection), [])
        names = [name or f"column_{place}" for place, name in enumerate(header, 1)]
        if not names or len(set(names)) < len(names):
            what = "names a column twice" if names else "has no header"
            raise ConfigError(f"{connection}: {path.name} {what}", hint="its first line must name its columns")
        return [Column(name, Kind.TEXT) for name in names]

    def count(self, path: Path) -> int | None:
        return None

    def read(self, path: Path, connection: str, rows: int) -> Iterator[pa.Table]:
        names = [column.name for column in self.columns(path, connection)]
        if len(list(itertools.islice(self._rows(path, connection), 2))) < 2:
            return  # Arrow takes a header without a line feed for an empty file
        ragged: list[str] = []

        def skip(row: Any) -> str:
            how = "few" if row.actual_columns < row.expected_columns else "many"
            said = f"too {how} values: {row.actual_columns} for the {row.expected_columns} columns of its header"
            if len(self._said) < MOST_SAID:
                self._said.setdefault(row.text, f"{path.name} row {row.number} has {said}")
            ragged.append(row.text)
            return "skip"

        convert = pa.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        parse = pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip)
        options = pa.csv.ReadOptions(block_size=LONGEST, use_threads=False, column_names=names, skip_rows_after_names=1)
        with reading(path, connection) as stream:
            try:
                for batch in pa.csv.open_csv(stream, options, parse, convert):
                    for start in range(0, batch.num_rows, rows):
                        yield pa.Table.from_batches([batch.slice(start, rows)])
                    yield from _undecoded(ragged, rows)
            except pa.ArrowInvalid as error:
                large = f"has a record larger than {LONGEST >> 20} MiB"
                said = f"{path.name} {large if 'straddling' in str(error) else 'is not UTF-8'}"
                # Without a cause: Arrow's message holds the record.
                raise CorruptError(said, connection=connection) from None
        yield from _undecoded(ragged, rows)

    def _decoded(self, table: pa.Table, names: Sequence[str]) -> pa.Table:
        if table.column_names != [RECORD]:
            return Batch.decode(table, names)
        known = list(self._said.items())
        records, said = (pa.array([pair[place] for pair in known], pa.string()) for place in (0, 1))
        trouble = said.take(pc.index_in(table[RECORD].combine_chunks(), records))
        columns = {name: pa.nulls(len(table), pa.string()) for name in names}
        return pa.table(columns | {TROUBLE: pc.fill_null(trouble, "has too few or too many values")})

    def _last(self, path: Path, connection: str) -> int:
        """How many values the last record has."""
        values = 0
        for row in self._rows(path, connection):
            values = len(row)
        return values

    def _rows(self, path: Path, connection: str) -> Iterator[list[str]]:
        """The file as Python's strict parser has it, which refuses a quote that is never closed."""
        try:
            with reading(path, connection) as stream:
                yield from csv.reader(io.TextIOWrapper(stream, "utf-8", newline=""), strict=True)
        except UnicodeDecodeError:
            raise CorruptError(f"{path.name} is not UTF-8", connection=connection) from None
        except csv.Error:
            said = f"{path.name} has a quote that is not closed, or text after one"
            raise CorruptError(said, connection=connection, hint=FETCH_AGAIN) from None


def _values(line: bytes) -> int:
    """How many values the last of some lines has, if no quotes were open before."""
    rows = list(csv.reader(io.StringIO(line.decode(errors="replace"), newline="")))
    return len(rows[-1])


def _undecoded(ragged: list[str], rows: int) -> Iterator[pa.Table]:
    """These records, of which then none is left."""
    while ragged:
        yield pa.table({RECORD: pa.array(ragged[:rows], pa.string())})
        del ragged[:rows]
