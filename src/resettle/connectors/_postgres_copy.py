"""Arrow to and from COPY: binary on the way in, CSV on the way out, never a Python object per value.

An infinite timestamp or date is, in Arrow as in DuckDB, the greatest or the least integer but one.
"""

from __future__ import annotations

import re
import select
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pgpq
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
from numpy.typing import NDArray
from pgpq import encoders
from pgpq.schema import Jsonb
from psycopg import sql

from resettle.batch import ARROW, Kind
from resettle.connectors._postgres_catalogue import Connection, Field, Relation
from resettle.errors import RejectedError

MESSAGE_ROWS = 8192
"""Rows encoded at a time, so that the server works while we encode."""
BLOCK_BYTES = 64 << 20
"""A batch ends at this size even if it has few rows: bodies of text are not bounded by a row count."""

MICROSECONDS_TO_2000 = 946_684_800_000_000
DAYS_TO_2000 = 10_957

# Types whose binary COPY format is the text itself: the server's own input function for them reads text.
_TEXT_ON_THE_WIRE = frozenset({"text", "varchar", "bpchar", "name", "citext", "enum", "json", "xml"})
_NATIVE = {
    "bool": ARROW[Kind.BOOLEAN],
    "int2": pa.int16(),
    "int4": pa.int32(),
    "int8": pa.int64(),
    "float4": pa.float32(),
    "float8": pa.float64(),
    "uuid": pa.binary(16),
    "bytea": pa.binary(),
    "timestamptz": ARROW[Kind.INSTANT],
    "timestamp": ARROW[Kind.DATETIME],
    "date": pa.date32(),
    "time": pa.time64("us"),
}
# What Postgres can hold, in Arrow's integers: from 4714 BC on, dates up to 5874897 AD.
_INSTANTS = (-210_866_803_200_000_000, 2**63 - 1)
_DATES = (-2_440_588, 2_145_042_905)


@dataclass(frozen=True)
class Sent:
    """One column on its way in: what it is staged as, and what becomes of it in INSERT or UPDATE."""

    name: str
    values: pa.ChunkedArray
    staged: str
    type: sql.SQL
    cast: sql.SQL | None = None
    direct: bool = False
    jsonb: bool = False

    def value(self, alias: str) -> sql.Composable:
        """The staged value as the column takes it by assignment, which refuses what is too long."""
        column = sql.Identifier(alias, self.name)
        return column if self.cast is None else sql.SQL("{}::{}").format(column, self.cast)

    def comparable(self, alias: str) -> sql.Composable:
        """The staged value as a key: of the column's own type, so that its index is used."""
        return sql.SQL("{}::{}").format(sql.Identifier(alias, self.name), self.type)

    def filtered(self, mask: pa.ChunkedArray) -> Sent:
        return replace(self, values=self.values.filter(mask))


def prepare(rows: pa.Table, relation: Relation) -> list[Sent]:
    """Decide for every column how it travels. Raises ConfigError for a column that is not there."""
    return [_prepare(relation.field(name), rows[name]) for name in rows.column_names]


def _prepare(field: Field, values: pa.ChunkedArray) -> Sent:
    name, base, texts = field.column.name, field.base, _is_text(values.type)
    if base in _NATIVE and (not texts or pa.types.is_null(values.type)):
        return Sent(name, _cast(name, values, _NATIVE[base]), base, field.cast, direct=True)
    as_text = _cast(name, values, pa.string())
    if base in _TEXT_ON_THE_WIRE or base == "jsonb":
        plain = base in {"text", "varchar", "bpchar", "name"}
        cast = None if plain else field.cast
        return Sent(name, as_text, "text", field.cast, cast, direct=True, jsonb=base == "jsonb")
    return Sent(name, as_text, "text", field.cast, field.cast)


def infer(rows: pa.Table) -> list[Sent]:
    """The columns of a staging table that mirrors ``rows``: only 16 bytes of fixed size are a uuid."""
    sent = []
    for name in rows.column_names:
        values, base = rows[name], _base(rows[name].type)
        kind = _NATIVE.get(base, pa.string())
        sent.append(Sent(name, _cast(name, values, kind), base, sql.SQL(base), direct=True))
    return sent


def _base(arrow: pa.DataType) -> str:
    if pa.types.is_integer(arrow):
        bits = arrow.bit_width * (1 if pa.types.is_signed_integer(arrow) else 2)
        return {8: "int2", 16: "int2", 32: "int4"}.get(bits, "int8")
    if pa.types.is_timestamp(arrow):
        return "timestamptz" if arrow.tz else "timestamp"
    if pa.types.is_binary(arrow) or pa.types.is_large_binary(arrow):
        return "bytea"
    return next((base for base, native in _NATIVE.items() if native.equals(arrow)), "text")


def _is_text(arrow: pa.DataType) -> bool:
    return bool(pa.types.is_string(arrow) or pa.types.is_large_string(arrow) or pa.types.is_string_view(arrow))


def _cast(name: str, values: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    if values.type.equals(wanted):
        return values
    try:
        return values.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        # The message would hold the value.
        raise RejectedError("cast", name) from None


def unsendable(column: Sent) -> pa.ChunkedArray | None:
    """Which values Postgres has no room for (NUL in text, times out of its range); None if none."""
    values, arrow = column.values, column.values.type
    if _is_text(arrow):
        wrong = pc.match_substring(values, "\0")
    elif pa.types.is_timestamp(arrow):
        wrong = _outside(values.cast(pa.int64()), _INSTANTS, np.iinfo(np.int64).max)
    elif pa.types.is_date(arrow):
        wrong = _outside(values.cast(pa.int32()), _DATES, np.iinfo(np.int32).max)
    else:
        return None
    return wrong if pc.any(wrong).as_py() else None


def _outside(values: pa.ChunkedArray, limits: tuple[int, int], infinity: int) -> pa.ChunkedArray:
    low, high = limits
    finite = pc.and_(pc.not_equal(values, infinity), pc.not_equal(values, -infinity))
    return pc.and_(finite, pc.or_(pc.less(values, low), pc.greater(values, high)))


def copy_in(connection: Connection, target: sql.Composable, columns: Sequence[Sent]) -> None:
    """Binary COPY into ``target``. Raises RejectedError("cast", column) before anything is sent."""
    for column in columns:
        if unsendable(column) is not None:
            raise RejectedError("cast", column.name)
    table = pa.table({column.name: _wire(column.values) for column in columns})
    jsonb = {column.name for column in columns if column.jsonb}
    encoder = pgpq.ArrowToPostgresBinaryEncoder.new_with_encoders(
        table.schema, {field.name: _encoder(field, field.name in jsonb) for field in table.schema}
    )
    names = sql.SQL(", ").join(sql.Identifier(column.name) for column in columns)
    statement = sql.SQL("copy {} ({}) from stdin (format binary)").format(target, names)
    with connection.cursor().copy(statement) as copy:
        copy.write(encoder.write_header())
        for batch in table.to_batches(max_chunksize=MESSAGE_ROWS):
            copy.write(encoder.write_batch(batch))
        copy.write(encoder.finish())


def _encoder(field: pa.Field, jsonb: bool) -> Any:
    if jsonb:
        return encoders.StringEncoderBuilder.new_with_output(field, Jsonb())
    return pgpq.ArrowToPostgresBinaryEncoder.infer_encoder(field)


def _wire(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Times with an infinity among them as the integers of Postgres' own format; all else as it is."""
    if pa.types.is_timestamp(values.type):
        integer, infinity, epoch = pa.int64(), np.iinfo(np.int64).max, MICROSECONDS_TO_2000
    elif pa.types.is_date(values.type):
        integer, infinity, epoch = pa.int32(), np.iinfo(np.int32).max, DAYS_TO_2000
    else:
        return values
    numbers = values.cast(integer)
    ends = pc.min_max(numbers)
    if infinity not in (ends["max"].as_py(), -(ends["min"].as_py() or 0)):
        return values
    moved = pc.subtract(numbers, pa.scalar(epoch, integer))  # unchecked: the infinities are put back below
    moved = pc.if_else(pc.equal(numbers, infinity), pa.scalar(infinity, integer), moved)
    return pc.if_else(pc.equal(numbers, -infinity), pa.scalar(-infinity - 1, integer), moved)


# Reading. Times, uuids and bytes come as the hexadecimal digits of their wire format: exact for every value
# (infinity, BC), independent of the session's time zone, and decoded by numpy for a whole column at once.
_SEND = {
    Kind.UUID: "uuid_send",
    Kind.INSTANT: "timestamptz_send",
    Kind.DATETIME: "timestamp_send",
    Kind.DATE: "date_send",
    Kind.TIME: "time_send",
}
_PLAIN = {Kind.BOOLEAN, Kind.INT16, Kind.INT32, Kind.INT64, Kind.FLOAT32, Kind.FLOAT64}


@dataclass(frozen=True)
class Taken:
    """One column on its way out."""

    name: str
    kind: Kind
    text: bool = False
    """Cast to text on the server, whatever its kind."""

    def expression(self, column: sql.Composable) -> sql.Composable:
        """The SQL that gives the column in the form that `decode` reads."""
        if self.text:
            return sql.SQL("{}::text").format(column)
        if self.kind is Kind.BINARY:
            return sql.SQL("encode({}, 'hex')").format(column)
        if self.kind in _SEND:
            return sql.SQL("pg_catalog.{}({})").format(sql.SQL(_SEND[self.kind]), column)
        return column

    @property
    def arrow(self) -> pa.DataType:
        return pa.string() if self.text else ARROW[self.kind]

    @property
    def parsed(self) -> pa.DataType:
        """What the CSV reader makes of it: digits that `decode` takes apart are text to it."""
        return self.arrow if self.kind in _PLAIN else pa.string()

    def decode(self, values: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
        if self.text:
            return values
        if self.kind is Kind.BINARY:
            return _unhex(values.combine_chunks())
        return _from_wire(self.kind, values.combine_chunks()) if self.kind in _SEND else values


def copy_out(
    connection: Connection, query: sql.Composable, columns: Sequence[Taken], rows: int | None = None
) -> Generator[pa.Table, None, None]:
    """The answer of ``query``, whose columns are `Taken.expression`s, in tables of at most ``rows``."""
    statement = sql.SQL("copy ({}) to stdout (format csv)").format(query)
    with connection.cursor().copy(statement):
        for block in _blocks(connection, rows):
            yield _decode(block, columns)


def take(connection: Connection, query: sql.Composable, columns: Sequence[Taken]) -> pa.Table:
    """The whole answer of ``query`` as one table."""
    empty = pa.schema([(column.name, column.arrow) for column in columns]).empty_table()
    return pa.concat_tables([empty, *copy_out(connection, query, columns)])


def _blocks(connection: Connection, rows: int | None) -> Iterator[bytes]:
    """The lines of a COPY that has begun. psycopg's own loop takes three times as long per row."""
    block: list[memoryview] = []
    size, server = 0, connection.pgconn
    readable = select.poll()
    readable.register(server.socket, select.POLLIN)
    while True:
        length, line = server.get_copy_data(1)
        if length > 0:
            block.append(line)
            size += length
            if size >= BLOCK_BYTES or len(block) == rows:
                yield b"".join(block)
                block, size = [], 0
        elif length == 0:
            readable.poll()
            server.consume_input()
        else:
            break
    while True:
        while server.is_busy():  # get_result() would wait for the server with Python's lock in its hands
            readable.poll()
            server.consume_input()
        if (result := server.get_result()) is None:
            break
        if result.status != psycopg.pq.ExecStatus.COMMAND_OK:
            raise psycopg.errors.error_from_result(result)
    if block:
        yield b"".join(block)


def _decode(block: bytes, columns: Sequence[Taken]) -> pa.Table:
    places = [str(place) for place in range(len(columns))]
    types = {place: column.parsed for place, column in zip(places, columns, strict=True)}
    table = csv.read_csv(
        pa.BufferReader(block),
        csv.ReadOptions(column_names=places, block_size=len(block) + 1),  # one block: a row may be of any size
        csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        csv.ConvertOptions(
            column_types=types,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=["t"],
            false_values=["f"],
        ),
    )
    arrays = [column.decode(table[place]) for place, column in zip(places, columns, strict=True)]
    return pa.Table.from_arrays(arrays, schema=pa.schema([(column.name, column.arrow) for column in columns]))


_DIGIT = np.frombuffer(b"0123456789abcdef", np.uint8)
_NIBBLE = np.zeros(256, np.uint8)
_NIBBLE[_DIGIT] = np.arange(16)


def _digits(values: pa.Array) -> NDArray[np.uint8]:
    offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + len(values) + 1]
    digits: NDArray[np.uint8] = np.frombuffer(values.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    return digits


def _unhex(values: pa.Array) -> pa.Array:
    """Text of hexadecimal digits, of any length each, as binary."""
    nibbles = _NIBBLE[_digits(values)]
    lengths = pc.fill_null(pc.binary_length(values), 0).to_numpy() // 2
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    data = nibbles[0::2] << 4 | nibbles[1::2]
    validity = pa.array(values.is_valid().to_numpy(zero_copy_only=False))
    buffers = [validity.buffers()[1], pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.binary(), len(values), buffers)


def _from_wire(kind: Kind, values: pa.Array) -> pa.Array:
    r"""Text such as ``\x0002...``, of one width or null, as the kind's Arrow type."""
    there = values.is_valid().to_numpy(zero_copy_only=False)
    width = {Kind.UUID: 16, Kind.DATE: 4}.get(kind, 8)
    nibbles = _NIBBLE[_digits(values).reshape(-1, 2 + 2 * width)[:, 2:]]
    data = np.zeros((len(values), width), np.uint8)
    data[there] = nibbles[:, 0::2] << 4 | nibbles[:, 1::2]
    if kind is Kind.UUID:
        validity = pa.array(there).buffers()[1]
        return pa.Array.from_buffers(pa.binary(16), len(values), [validity, pa.py_buffer(data)])
    numbers = data.view(f">i{width}").reshape(-1).astype(f"i{width}")
    if kind is not Kind.TIME:
        least, most = np.iinfo(numbers.dtype).min, np.iinfo(numbers.dtype).max
        epoch = DAYS_TO_2000 if kind is Kind.DATE else MICROSECONDS_TO_2000
        moved = numbers + epoch  # wraps only where the infinities are
        numbers = np.where(numbers == most, most, np.where(numbers == least, -most, moved))
    return pa.array(numbers, mask=~there).cast(ARROW[kind])


def keys_as_rows(keys: pa.Table, relation: Relation, alias: str) -> sql.Composable:
    """``unnest(...) as alias(columns)``: keys as arrays in the statement.

    Not a staging table: this works in a read-only transaction too, on a replica, and leaves the live
    target's catalogue alone.
    """
    arrays = [
        sql.SQL("{}::{}[]").format(_array(_as_text(name, keys[name])), relation.field(name).cast)
        for name in keys.column_names
    ]
    columns = sql.SQL(", ").join(map(sql.Identifier, keys.column_names))
    return sql.SQL("unnest({}) as {}({})").format(sql.SQL(", ").join(arrays), sql.Identifier(alias), columns)


def _as_text(name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    if not (pa.types.is_fixed_size_binary(values.type) or pa.types.is_binary(values.type)):
        return _cast(name, values, pa.string())
    digits = pa.chunked_array(map(_hex, values.cast(pa.binary()).chunks), pa.string())
    is_uuid = pa.types.is_fixed_size_binary(values.type)
    return digits if is_uuid else pc.binary_join_element_wise("\\x", digits, "")


def _hex(values: pa.Array) -> pa.Array:
    offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + len(values) + 1]
    data = np.frombuffer(values.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    digits = np.stack([_DIGIT[data >> 4], _DIGIT[data & 15]], axis=1)
    validity = pa.array(values.is_valid().to_numpy(zero_copy_only=False)).buffers()[1]
    buffers = [validity, pa.py_buffer((offsets - offsets[0]) * 2), pa.py_buffer(digits)]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


def _array(values: pa.ChunkedArray) -> sql.Composable:
    """An array literal; every element is quoted, so that no value can end it."""
    escaped = pc.replace_substring(pc.replace_substring(values, "\\", "\\\\"), '"', '\\"')
    quoted = pc.fill_null(pc.binary_join_element_wise('"', escaped, '"', ""), "NULL").combine_chunks()
    joined = pc.binary_join(pa.ListArray.from_arrays([0, len(quoted)], quoted), ",")[0]
    return sql.Literal("{" + joined.as_py() + "}")


_CONTEXT = re.compile(r"^COPY \S+, line \d+, column ([^:\n]+)", re.MULTILINE)


def column_in(context: str | None) -> str:
    """The column that a failed COPY names; what follows a colon there would be the value."""
    found = _CONTEXT.search(context or "")
    return found[1] if found else ""
