"""Digests that Postgres computes of its own rows, and the bytes that they are made of, spelt by us.

A row's bytes are those that `record_send` gives: the number of its columns, then of each its type's number, its length
(-1 for null) and its value in the server's own binary format. No two different rows have the same. What has no such
format that Arrow's values can be turned into is spelt as the text by which it is fetched.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from psycopg import sql

from resettle.batch import ARROW, Kind
from resettle.connectors._postgres_catalogue import Connection, Field, Relation
from resettle.connectors._postgres_copy import DAYS_TO_2000, MICROSECONDS_TO_2000, Taken, take

_NUMBERS = {
    "bool": (16, "?"),
    "int2": (21, ">i2"),
    "int4": (23, ">i4"),
    "int8": (20, ">i8"),
    "float4": (700, ">f4"),
    "float8": (701, ">f8"),
    "timestamptz": (1184, ">i8"),
    "timestamp": (1114, ">i8"),
    "date": (1082, ">i4"),
    "time": (1083, ">i8"),
}
"""By pg_type.typname: the type's number, which is the same on every server, and its binary format."""
_TEXT, _UUID, _BYTES, _BOOLEAN = 25, 2950, 17, 16
_NULL = (-1).to_bytes(4, "big", signed=True)


def exact(relation: Relation) -> frozenset[str]:
    """Columns whose values are spelt alike on both sides; JSON has its own text for one value in many spellings."""
    return frozenset(name for name, field in relation.fields.items() if field.column.kind is not Kind.JSON)


def spelt(relation: Relation, rows: pa.Table, whether: Sequence[str]) -> pa.Array:
    """Each row as `record_send` gives it once it is written."""
    if not rows.num_rows:
        return pa.array([], pa.binary())
    pieces: list[pa.Array | pa.Scalar] = [_constant(rows.num_columns.to_bytes(4, "big"))]
    for name in rows.column_names:
        values = rows[name].combine_chunks()
        pieces += _whether(values) if name in whether else _cells(relation.field(name), values)
    return pc.binary_join_element_wise(*pieces, _constant(b""))


def digests(
    connection: Connection, relation: Relation, columns: Sequence[str], whether: Sequence[str], bits: int
) -> pa.Table:
    """bucket, count and digest: one pass over the table, in the server."""
    cells = [_present(name) if name in whether else _value(relation.field(name)) for name in columns]
    bucket = sql.SQL("h & {}").format(sql.Literal((1 << bits) - 1)) if bits else sql.SQL("0")
    query = sql.SQL(_DIGESTS).format(
        bucket=bucket,
        cells=sql.SQL(", ").join(cells),
        relation=relation.name,
        barrier=sql.SQL("offset 0" if bits else ""),
        group=sql.SQL("group by 1" if bits else ""),
    )
    shape = [Taken("bucket", Kind.INT64), Taken("count", Kind.INT64), Taken("digest", Kind.TEXT)]
    found = take(connection, query, shape)
    return found.set_column(2, "digest", found["digest"].cast(pa.uint64()))


# With buckets the inner query stands for itself (offset 0), or the server would compute every hash once for each use;
# without, it must not, or the server would use one process alone.
_DIGESTS = """
select {bucket}, count(*), mod(mod(coalesce(sum(h), 0), 18446744073709551616) + 18446744073709551616,
    18446744073709551616)::text
from (
    select ('x' || right(md5(pg_catalog.record_send(row({cells}))), 16))::bit(64)::bigint as h
    from {relation} t {barrier}
) hashes {group}
"""


def _value(field: Field) -> sql.Composable:
    column = sql.Identifier("t", field.column.name)
    if field.base == "numeric":
        return sql.SQL("trim_scale({})::text").format(column)
    if field.base in _NUMBERS or field.base in {"uuid", "bytea"}:
        return sql.SQL("{}::{}").format(column, field.cast)  # a domain's value as that of the type underneath
    return sql.SQL("{}::text").format(column)


def _present(name: str) -> sql.Composable:
    return sql.SQL("({} is not null)").format(sql.Identifier("t", name))


def _cells(field: Field, values: pa.Array) -> list[pa.Array | pa.Scalar]:
    """A column's cells: type, length and value, in one piece or several."""
    if field.base in _NUMBERS:
        number, form = _NUMBERS[field.base]
        return [_fixed(number, _plain(field.base, values).astype(form), values)]
    if field.base == "uuid":
        data = np.frombuffer(values.buffers()[1], np.uint8)[16 * values.offset :][: 16 * len(values)]
        return [_fixed(_UUID, data.reshape(-1, 16), values)]
    number = _BYTES if field.base == "bytea" else _TEXT
    data = values.cast(pa.binary())
    lengths = pc.fill_null(pc.binary_length(data), -1).to_numpy(zero_copy_only=False)
    return [_constant(number.to_bytes(4, "big")), _binary(lengths.astype(">i4")), pc.fill_null(data, b"")]


def _whether(values: pa.Array) -> list[pa.Array | pa.Scalar]:
    there = values.is_valid()
    return [_fixed(_BOOLEAN, there.to_numpy(zero_copy_only=False), there)]


def _plain(base: str, values: pa.Array) -> NDArray[np.generic]:
    """Numbers as the server counts them: times from 2000 on, with the infinities at both ends."""
    if base not in {"timestamptz", "timestamp", "date", "time"}:
        plain: NDArray[np.generic] = pc.fill_null(values, False if base == "bool" else 0).to_numpy(zero_copy_only=False)
        return plain
    whole = pa.int32() if base == "date" else pa.int64()
    numbers = pc.fill_null(values.cast(ARROW[_KINDS[base]]).cast(whole), 0).to_numpy(zero_copy_only=False)
    if base == "time":
        return np.asarray(numbers)
    least, most = np.iinfo(numbers.dtype).min, np.iinfo(numbers.dtype).max
    moved = numbers - (DAYS_TO_2000 if base == "date" else MICROSECONDS_TO_2000)
    return np.where(numbers == most, most, np.where(numbers == -most, least, moved))


_KINDS = {"timestamptz": Kind.INSTANT, "timestamp": Kind.DATETIME, "date": Kind.DATE, "time": Kind.TIME}


def _fixed(number: int, data: NDArray[np.generic], values: pa.Array) -> pa.Array:
    """Cells of one width."""
    octets = np.ascontiguousarray(data).view(np.uint8).reshape(len(values), -1)
    head = number.to_bytes(4, "big") + octets.shape[1].to_bytes(4, "big")
    cells = np.empty((len(values), 8 + octets.shape[1]), np.uint8)
    cells[:, :8] = np.frombuffer(head, np.uint8)
    cells[:, 8:] = octets
    spelled = _binary(cells)
    if not values.null_count:
        return spelled
    return pc.if_else(values.is_valid(), spelled, _constant(number.to_bytes(4, "big") + _NULL))


def _binary(data: NDArray[np.generic]) -> pa.Array:
    """Each row of an array, or each number, as its bytes."""
    count = len(data)
    octets = np.ascontiguousarray(data).view(np.uint8).reshape(count, -1)
    offsets = np.arange(0, (count + 1) * octets.shape[1], octets.shape[1], dtype=np.int32)
    return pa.Array.from_buffers(pa.binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(octets.tobytes())])


def _constant(value: bytes) -> pa.Scalar:
    return pa.scalar(value, pa.binary())
