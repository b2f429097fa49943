"""What each format of files.py needs: a check, its columns, its records, and how to decode them."""

from __future__ import annotations

import base64
import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from resettle.batch import ARROW, MOST_BYTES, RECORD, TROUBLE, Batch, Column, Decode, Kind
from resettle.connectors import _dynamodb_json as typed
from resettle.connectors._files_csv import Csv
from resettle.connectors._lines import FETCH_AGAIN, batches, check, lines, reading
from resettle.errors import ConfigError, CorruptError

SAMPLE = 1000


class Format(Protocol):
    """One format. ``sampled`` formats have no catalogue of their columns."""

    sampled: bool
    decode: Decode

    def check(self, path: Path, connection: str) -> None:
        """Raise CorruptError for what can be known to be wrong without decoding a record."""
        ...

    def columns(self, path: Path, connection: str) -> Sequence[Column]: ...

    def count(self, path: Path) -> int | None: ...

    def read(self, path: Path, connection: str, rows: int) -> Iterator[pa.Table]: ...


class _Digits(str):
    """A number that is no integer, as written."""


_any = msgspec.json.Decoder(float_hook=_Digits)
_raw = msgspec.json.Decoder(dict[str, msgspec.Raw])


@functools.lru_cache(1)  # a record often has several
def _members(record: str) -> dict[str, msgspec.Raw]:
    """The exact text of each member of a record."""
    return _raw.decode(record)


def decode_json(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """Top-level members as text: strings as they are, numbers digit by digit, objects and arrays verbatim."""
    texts: dict[str, list[str | None]] = {name: [] for name in names}
    trouble: dict[int, str] = {}
    for row, record in enumerate(table[RECORD].to_pylist()):
        try:
            values = _any.decode(record)
        except RecursionError:
            values, trouble[row] = {}, "nested too deeply"
        except (msgspec.DecodeError, ValueError):
            values, trouble[row] = {}, "not valid JSON"
        if not isinstance(values, dict):
            values, trouble[row] = {}, "not a JSON object"
        for name, column in texts.items():
            value = values.get(name)
            column.append(value if value is None or type(value) is str else _text(value, name, record))
    columns = {name: pa.array(column, pa.string()) for name, column in texts.items()}
    if trouble:
        columns[TROUBLE] = pa.array([trouble.get(row) for row in range(len(table))], pa.string())
    return pa.table(columns) if columns else table.select([])


def _text(value: Any, name: str, record: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return bytes(_members(record)[name]).decode()
    return str(value)


class Json:
    """JSON lines, or in a `.json` file one array. Records stay text until they are decoded."""

    sampled = True
    _document = re.compile(rb"\s*\[")

    def __init__(self, decode: Decode) -> None:
        self.decode = decode

    def check(self, path: Path, connection: str) -> None:
        if self._whole(path, connection):
            self._members(path, connection)
        else:
            check(path, connection)

    def columns(self, path: Path, connection: str) -> Sequence[Column]:
        sample = next(self.read(path, connection, SAMPLE), None)
        return self._columns(sample) if sample else ()

    def count(self, path: Path) -> int | None:
        return None

    def read(self, path: Path, connection: str, rows: int) -> Iterator[pa.Table]:
        if self._whole(path, connection):
            arrays = iter([pa.array(map(bytes, self._members(path, connection)), pa.string())])
        else:
            arrays = lines(path, connection)
        return batches(map(self._records(), arrays), rows)

    def _columns(self, sample: pa.Table) -> Sequence[Column]:
        kinds: dict[str, set[Kind]] = {}
        for record in sample[RECORD].to_pylist():
            try:
                values = _any.decode(record)
            except (msgspec.DecodeError, RecursionError, ValueError):
                continue
            for name, value in values.items() if isinstance(values, dict) else ():
                kinds.setdefault(name, set()).update(() if value is None else {_kind(value)})
        return [Column(name, found.pop() if len(found) == 1 else Kind.TEXT) for name, found in kinds.items()]

    def _records(self) -> Callable[[pa.Array], pa.Array]:
        """What makes records of an array of texts."""
        return lambda array: array

    def _whole(self, path: Path, connection: str) -> bool:
        """Whether the file is one JSON document, read as a whole, rather than lines."""
        if path.name.removesuffix(".gz").endswith((".jsonl", ".ndjson")):
            return False
        with reading(path, connection) as stream:
            return bool(self._document.match(stream.read(4096)))

    def _members(self, path: Path, connection: str) -> list[msgspec.Raw]:
        with reading(path, connection) as stream:
            data = stream.read()
        try:
            return self._listed(data, path, connection)
        except msgspec.DecodeError:
            said = f"{path.name} is not whole JSON"
            raise CorruptError(said, connection=connection, hint=FETCH_AGAIN) from None
        except RecursionError:
            said, hint = f"{path.name} is nested too deeply to be read as a whole", "make it JSON lines"
            raise CorruptError(said, connection=connection, hint=hint) from None

    def _listed(self, data: bytes, path: Path, connection: str) -> list[msgspec.Raw]:
        return msgspec.json.decode(data, type=list[msgspec.Raw])


def _kind(value: Any) -> Kind:
    if isinstance(value, dict | list):
        return Kind.JSON
    return Kind.NUMERIC if type(value) in (int, _Digits) else Kind.TEXT


class _Dump(msgspec.Struct):
    """The answer of `aws dynamodb scan`; either token says that more was to come."""

    items: list[msgspec.Raw] = msgspec.field(name="Items")
    count: int | None = msgspec.field(name="Count", default=None)
    last_key: Any = msgspec.field(name="LastEvaluatedKey", default=None)
    next_token: Any = msgspec.field(name="NextToken", default=None)


class DynamoDBJson(Json):
    """Lines of items, an array of them, or the whole answer of `aws dynamodb scan`."""

    # An answer's first member is a list, a number or null; an item's is an object.
    _document = re.compile(rb'\s*(\[|\{\s*"\w+"\s*:\s*[\[\dn])')

    def _columns(self, sample: pa.Table) -> Sequence[Column]:
        return typed.columns(sample)

    def _records(self) -> Callable[[pa.Array], pa.Array]:
        """Bare items are wrapped as exports have them; the first record tells for its file."""
        bare: list[bool] = []

        def records(array: pa.Array) -> pa.Array:
            if not bare and len(array):
                bare.append(_is_bare(array[0].as_py()))
            return pc.binary_join_element_wise('{"Item":', array, "}", "") if any(bare) else array

        return records

    def _listed(self, data: bytes, path: Path, connection: str) -> list[msgspec.Raw]:
        if data.lstrip().startswith(b"["):
            return super()._listed(data, path, connection)
        dump = msgspec.json.decode(data, type=_Dump)
        cut = dump.last_key is not None or dump.next_token is not None
        if cut or dump.count not in (None, len(dump.items)):
            raise CorruptError(
                f"{path.name} is a part of a scan, not all of it",
                connection=connection,
                hint="scan to the end, without --max-items or --no-paginate",
            )
        return dump.items


def _is_bare(record: str) -> bool:
    try:
        item = orjson.loads(record)
    except orjson.JSONDecodeError:
        return False
    return not (isinstance(item, dict) and list(item) == ["Item"] and isinstance(item["Item"], dict))


def _fitting(metadata: Any, rows: int) -> int:
    """How many rows of a Parquet file make a batch: fewer than ``rows`` where they are large somewhere."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    largest = max((group.total_byte_size / max(group.num_rows, 1) for group in groups), default=0)
    return min(rows, max(int(MOST_BYTES / max(largest, 1)), 1))


_STRANGE = "a nested value that JSON cannot hold exactly, such as NaN or nanoseconds"


def decode_parquet(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """The columns, and what trouble there is with one of them."""
    rows = Batch.decode(table, names)
    told = [table[column] for name in names if (column := f"{TROUBLE} {name}") in table.column_names]
    return rows.append_column(TROUBLE, pc.coalesce(*told)) if told else rows


class Parquet:
    """Typed columns, as `batch.ARROW` has them; nested values become JSON text.

    Beside a column `x` with values that JSON cannot hold stands `_trouble x`, which says in which rows.
    """

    sampled = False
    decode: Decode = staticmethod(decode_parquet)

    def check(self, path: Path, connection: str) -> None:
        self._open(path, connection).close()

    def columns(self, path: Path, connection: str) -> Sequence[Column]:
        with self._open(path, connection) as file:
            return [
                Column(field.name, _parquet_kind(field.type), str(field.type), field.nullable)
                for field in file.schema_arrow
            ]

    def count(self, path: Path) -> int | None:
        return int(pa.parquet.read_metadata(path).num_rows)

    def read(self, path: Path, connection: str, rows: int) -> Iterator[pa.Table]:
        with self._open(path, connection) as file:
            try:
                for batch in file.iter_batches(_fitting(file.metadata, rows)):
                    yield self._typed(batch, path, connection)
            except (pa.ArrowInvalid, OSError):
                raise self._corrupt(path, connection) from None

    def _typed(self, batch: pa.RecordBatch, path: Path, connection: str) -> pa.Table:
        columns: dict[str, pa.Array] = {}
        for name in batch.schema.names:
            try:
                columns[name], strange = _plain(batch[name])
            except pa.ArrowInvalid:
                kind = ARROW[_parquet_kind(batch[name].type)]
                said = f'{path.name}: column "{name}" holds a value that {kind} does not'
                raise CorruptError(said, connection=connection) from None
            if any(strange):
                said = f'column "{name}": {_STRANGE}'
                columns[f"{TROUBLE} {name}"] = pa.array([said if one else None for one in strange], pa.string())
        return pa.table(columns)

    def _open(self, path: Path, connection: str) -> Any:
        with reading(path, connection):
            pass  # says why, where it cannot be
        try:
            file = pa.parquet.ParquetFile(path, page_checksum_verification=True)
        except (pa.ArrowInvalid, OSError):
            raise self._corrupt(path, connection) from None
        names = file.schema_arrow.names
        if len(set(names)) < len(names):
            raise ConfigError(f"{connection}: {path.name} names a column twice")
        return file

    def _corrupt(self, path: Path, connection: str) -> CorruptError:
        return CorruptError(f"{path.name} is not a whole Parquet file", connection=connection, hint=FETCH_AGAIN)


def _parquet_kind(kind: pa.DataType) -> Kind:
    if pa.types.is_dictionary(kind):
        return _parquet_kind(kind.value_type)
    for test, known in _PARQUET:
        if test(kind):
            return known
    return Kind.OTHER


def _is_micro(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) and kind.unit != "ns")


def _is_bytes(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


_PARQUET = (
    (pa.types.is_boolean, Kind.BOOLEAN),
    (lambda kind: kind in (pa.int8(), pa.uint8(), pa.int16()), Kind.INT16),
    (lambda kind: kind in (pa.uint16(), pa.int32()), Kind.INT32),
    (lambda kind: kind in (pa.uint32(), pa.int64()), Kind.INT64),
    (lambda kind: kind == pa.uint64() or pa.types.is_decimal(kind), Kind.NUMERIC),
    (lambda kind: kind in (pa.float16(), pa.float32()), Kind.FLOAT32),
    (pa.types.is_float64, Kind.FLOAT64),
    (lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind), Kind.TEXT),
    (lambda kind: kind == pa.uuid(), Kind.UUID),
    (lambda kind: kind == pa.json_(), Kind.JSON),
    (lambda kind: _is_micro(kind) and kind.tz is not None, Kind.INSTANT),
    (_is_micro, Kind.DATETIME),
    (pa.types.is_date32, Kind.DATE),
    (lambda kind: pa.types.is_time(kind) and kind.unit != "ns", Kind.TIME),
    (_is_bytes, Kind.BINARY),
    (pa.types.is_nested, Kind.JSON),
)
"""What a column's type is for us, first match; nanoseconds and other rarities travel as text."""


def _plain(column: pa.Array) -> tuple[pa.Array, Sequence[bool]]:
    """The column in the type that its kind travels in, and in which rows it has null for what that cannot hold."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_nested(column.type):
        return _texts(column)
    wanted = ARROW[_parquet_kind(column.type)]
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    return column.cast(wanted), ()


def _texts(column: pa.Array) -> tuple[pa.Array, Sequence[bool]]:
    """Nested values as JSON."""
    floats = (leaf for leaf in _leaves(column) if pa.types.is_floating(leaf.type))
    finite = all(pc.all(pc.is_finite(leaf)).as_py() is not False for leaf in floats)
    texts: list[str | None] = []
    strange: list[bool] = []
    for value in column:
        try:
            texts.append(_json(value.as_py(), finite=finite) if value.is_valid else None)
            strange.append(False)
        except (ArithmeticError, TypeError, ValueError):
            texts.append(None)
            strange.append(True)
    return pa.array(texts, ARROW[Kind.JSON]), strange


def _leaves(column: pa.Array) -> Iterator[pa.Array]:
    """The columns of plain values that a nested one is made of."""
    if not pa.types.is_nested(column.type):
        yield column
        return
    inner = [column.keys, column.items] if pa.types.is_map(column.type) else column.flatten()
    for one in inner if isinstance(inner, list) else [inner]:
        yield from _leaves(one)


def _json(value: Any, *, finite: bool) -> str:
    if not finite:
        json.dumps(value, allow_nan=False, default=str)  # refuses what orjson makes null of
    return orjson.dumps(value, default=_exact, option=orjson.OPT_NON_STR_KEYS).decode()


def _exact(value: Any) -> Any:
    """Decimals keep their digits, bytes become base64."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return orjson.Fragment(format(value, "f"))


FORMATS: Mapping[str, Callable[[], Format]] = {
    "json": functools.partial(Json, decode_json),
    "dynamodb_json": functools.partial(DynamoDBJson, typed.decode),
    "csv": Csv,
    "parquet": Parquet,
}
