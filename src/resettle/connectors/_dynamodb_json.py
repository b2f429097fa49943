"""DynamoDB JSON to columns of text and back: the one decoder of dynamodb.py and files.py.

A record is one line, `{"Item": {attribute: {tag: value}}}` as exports write it, or the bare inner object. A
bare record that begins with an attribute named `Item` reads as an export's: wrap it before decoding.
"""

from __future__ import annotations

import base64
import functools
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence, Set
from decimal import Decimal
from typing import Any

import duckdb
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import RECORD, TROUBLE, Column, Kind

WRAPPED = '{"Item":{'

_SCALARS = dict.fromkeys(("S", "N", "BOOL", "NULL"), "VARCHAR")

# DuckDB turns any JSON value into text, and a JSON number into a double first. DynamoDB writes S, N and B as
# strings, so whatever looks otherwise is left to the strict path. It may catch too much, never too little.
_UNQUOTED = r'"[SNB]"\s*:\s*[^"\s]'

_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")

_SIFT = """
    select case kind when 'wrapped' then _record when 'bare' then '{"Item":' || _record || '}' end as _record,
           case when kind not in ('wrapped', 'bare') then kind end as _trouble
    from (select _record, case
        when not coalesce(json_valid(_record), false) then 'not valid JSON'
        when json_type(_record) <> 'OBJECT' then 'not a JSON object'
        when json_keys(_record) <> ['Item'] then 'bare'
        when json_type(_record, '$.Item') <> 'OBJECT' then 'not a DynamoDB item'
        else 'wrapped' end as kind from records)
"""


class _StrangeError(Exception):
    """A value that is not DynamoDB JSON; the message says why and names no value."""


class _Local(threading.local):
    """Each thread has a database of its own: DuckDB's connections are not shared between threads."""

    def __init__(self) -> None:
        self.duckdb = duckdb.connect(config={"threads": 1, "enable_external_access": "false"})
        self.duckdb.execute("set python_enable_replacements = false")


_local = _Local()


def encode(item: Mapping[str, Mapping[str, Any]]) -> str:
    """One line for an item of boto3's low-level client; keys sorted: the service has no order."""
    return orjson.dumps({"Item": item}, default=_base64, option=orjson.OPT_SORT_KEYS).decode()


def decode(table: pa.Table, names: Sequence[str], *, sound: bool = False) -> pa.Table:
    """The attributes ``names`` of the records in `_record` as text columns, null where absent or NULL.

    S, N and B are the text as written, BOOL is true or false; maps, lists and sets are JSON text without type
    tags, every digit kept, sets sorted (they have no order of their own). `_trouble` is added if some record
    or attribute is not DynamoDB JSON; its readable attributes are given all the same. ``sound`` records were
    written by the service or by `encode`: wrapped, and their strings and numbers quoted.
    """
    records, trouble = table[RECORD].combine_chunks().cast(pa.string()), dict[int, str]()
    if not sound and not pc.all(pc.fill_null(pc.starts_with(records, WRAPPED), False)).as_py():
        records = _sift(records, trouble)
    try:
        decoded = _scalars(records, names)
    except duckdb.InvalidInputException:  # one malformed record refuses the whole batch
        records = _sift(records, trouble)
        decoded = _scalars(records, names)
    columns = _complete(records, decoded, names, trouble, sound=sound)
    if trouble:
        columns.append(pa.array([trouble.get(row) for row in range(len(records))], pa.string()))
    titles = [*names, TROUBLE] if trouble else list(names)
    return pa.table(columns, names=titles) if titles else table.select([])


decode_sound = functools.partial(decode, sound=True)


def _sift(records: pa.Array, trouble: dict[int, str]) -> pa.Array:
    """The records, each in the wrapped form, or null with its trouble noted."""
    sifted = _query(records, _SIFT)
    trouble |= {row: text for row, text in enumerate(sifted[TROUBLE].to_pylist()) if text}
    return sifted[RECORD].combine_chunks()


def _scalars(records: pa.Array, names: Sequence[str]) -> pa.Table:
    """For the nth name `tn`, its scalar as text, and `odd`, whether some attribute is there but is no scalar."""
    if not names:
        return pa.table({})
    texts = (f"coalesce(v{n}.S, v{n}.N, v{n}.BOOL) as t{n}" for n in range(1, len(names) + 1))
    odd = " or ".join(_odd(n) for n in range(1, len(names) + 1))
    return _query(records, f"select {', '.join(texts)}, {odd} as odd from {_values(names)}")


def _values(names: Sequence[str]) -> str:
    """A relation of each attribute's possible scalars. By position: DuckDB compares a struct's names without
    case, and DynamoDB's attributes have case."""
    shape = json.dumps({"Item": dict.fromkeys(names, _SCALARS)}).replace("'", "''")
    values = (f"struct_extract_at(item, {position}) as v{position}" for position in range(1, len(names) + 1))
    return (
        f"(select {', '.join(values)} from ("
        f"select struct_extract_at(json_transform(_record, '{shape}'), 1) as item from records))"
    )


def _odd(n: int) -> str:
    return f'(v{n} is not null and coalesce(v{n}.S, v{n}.N, v{n}.BOOL, v{n}."NULL") is null)'


def _query(records: pa.Array, sql: str) -> pa.Table:
    connection = _local.duckdb
    connection.register("records", pa.table({RECORD: records}))
    try:
        return connection.execute(sql).to_arrow_table()
    finally:
        connection.unregister("records")


def _complete(
    records: pa.Array, decoded: pa.Table, names: Sequence[str], trouble: dict[int, str], *, sound: bool
) -> list[pa.Array]:
    """The columns, with what DuckDB could not give exactly taken from the records themselves."""
    columns = [decoded[f"t{position}"].combine_chunks() for position in range(1, len(names) + 1)]
    masks = _masks(records, decoded, names, sound=sound) if names else {}
    texts = _strictly(records, {names[position]: mask for position, mask in masks.items()}, trouble)
    for position, mask in masks.items():
        columns[position] = pc.replace_with_mask(columns[position], mask, texts[names[position]])
    return columns


def _masks(records: pa.Array, decoded: pa.Table, names: Sequence[str], *, sound: bool) -> dict[int, pa.Array]:
    """For each attribute (by position) the rows in which only the strict path gives it exactly."""
    nowhere = pa.scalar(False)
    doubtful = nowhere if sound else pc.fill_null(pc.match_substring_regex(records, _UNQUOTED), False)
    odd = pa.table({})
    if pc.any(decoded["odd"]).as_py():
        flags = (f"{_odd(n)} as odd{n}" for n in range(1, len(names) + 1))
        odd = _query(records, f"select {', '.join(flags)} from {_values(names)}")
    masks = {}
    for position in range(len(names)):
        mask = pc.fill_null(odd[f"odd{position + 1}"].combine_chunks(), False) if odd.num_columns else nowhere
        mask = pc.or_(doubtful, mask)
        if isinstance(mask, pa.Array) and pc.any(mask).as_py():
            masks[position] = mask
    return masks


def _strictly(records: pa.Array, masks: Mapping[str, pa.Array], trouble: dict[int, str]) -> dict[str, pa.Array]:
    """For each attribute its texts in the rows of its mask, one record in memory at a time."""
    texts: dict[str, list[str | None]] = {name: [] for name in masks}
    wanted: dict[int, list[str]] = {}
    for name, mask in masks.items():
        for row in pc.indices_nonzero(mask).to_pylist():
            wanted.setdefault(row, []).append(name)
    rows = sorted(wanted)
    for row, record in zip(rows, records.take(pa.array(rows, pa.int64())).to_pylist(), strict=True):
        try:
            item = orjson.loads(record)["Item"]
        except orjson.JSONDecodeError:
            item = {}
            trouble[row] = "not valid JSON"
        for name in wanted[row]:
            try:
                texts[name].append(_text(item.get(name)))
            except (_StrangeError, RecursionError, orjson.JSONEncodeError) as error:
                texts[name].append(None)
                why = str(error) if isinstance(error, _StrangeError) else "nested too deeply"
                trouble.setdefault(row, f'attribute "{name}": {why}')
    return {name: pa.array(found, pa.string()) for name, found in texts.items()}


def _text(value: Any) -> str | None:
    """A top-level attribute as text."""
    plain = None if value is None else _plain(value)
    if plain is None or isinstance(plain, str):
        return plain
    return str(value["N"]) if "N" in value else orjson.dumps(plain).decode()


def _plain(value: Any) -> Any:
    """A typed value without its tags, ready for orjson, numbers with every digit."""
    try:
        ((tag, inner),) = value.items()
        untag = _UNTAG[tag]
    except (AttributeError, KeyError, ValueError):
        raise _StrangeError("not one value with one known type tag") from None
    return untag(inner)


def _string(inner: Any) -> str:
    if not isinstance(inner, str):
        raise _StrangeError("a string, number or binary that is not written as a string")
    return inner


def _number(inner: Any) -> orjson.Fragment:
    if not _NUMBER.fullmatch(_string(inner)):
        raise _StrangeError("a number that is none")
    return orjson.Fragment(inner)


def _bool(inner: Any) -> bool:
    if not isinstance(inner, bool):
        raise _StrangeError("neither true nor false")
    return inner


def _null(inner: Any) -> None:
    if inner is not True:
        raise _StrangeError("a NULL that is not true")


def _map(inner: Any) -> dict[str, Any]:
    if not isinstance(inner, dict):
        raise _StrangeError("a map that is no object")
    return {name: _plain(member) for name, member in inner.items()}


def _list(inner: Any) -> list[Any]:
    if not isinstance(inner, list):
        raise _StrangeError("a list or set that is no array")
    return [_plain(member) for member in inner]


def _strings(inner: Any) -> list[str]:
    if not isinstance(inner, list):
        raise _StrangeError("a list or set that is no array")
    return sorted(map(_string, inner))


def _numbers(inner: Any) -> list[orjson.Fragment]:
    fragments = {text: _number(text) for text in _strings(inner)}
    return [fragments[text] for text in sorted(fragments, key=Decimal)]


_UNTAG: Mapping[str, Callable[[Any], Any]] = {
    "S": _string,
    "N": _number,
    "B": _string,
    "BOOL": _bool,
    "NULL": _null,
    "M": _map,
    "L": _list,
    "SS": _strings,
    "NS": _numbers,
    "BS": _strings,
}


def _base64(value: Any) -> str:
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    raise TypeError(f"no DynamoDB value: {type(value).__name__}")


def columns(records: pa.Table) -> tuple[Column, ...]:
    """The attributes that the records in `_record` hold, by name; ``native`` lists their type tags.

    All travel as text, as `decode` gives them: numbers as NUMERIC, maps, lists and sets as JSON.
    """
    held: dict[str, set[str]] = {}
    sifted = _sift(records[RECORD].combine_chunks().cast(pa.string()), {})
    for record in sifted.drop_null().to_pylist():
        try:
            item = orjson.loads(record)["Item"]
        except orjson.JSONDecodeError:
            continue  # nested deeper than the service allows
        for name, value in item.items():
            held.setdefault(name, set()).update(value if isinstance(value, dict) else ())
    return tuple(column(name, tags) for name, tags in sorted(held.items()))


def column(name: str, tags: Set[str], *, nullable: bool = True) -> Column:
    """An attribute seen with these type tags."""
    known = tags - {"NULL"}
    nested = known and known <= {"M", "L", "SS", "NS", "BS"}
    kind = Kind.NUMERIC if known == {"N"} else Kind.JSON if nested else Kind.TEXT
    return Column(name, kind, "|".join(sorted(tags)), nullable)
