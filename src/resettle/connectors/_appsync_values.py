"""Values on their way: JSON as columns, exactly or with the reason why not; rows as the input of a mutation."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any

import orjson
import pyarrow as pa

from resettle.batch import ARROW, TROUBLE, Column, Kind
from resettle.connectors._appsync_schema import Model, Writing

Item = Mapping[str, Any]
Refusal = tuple[str, str]
"""A reason and the column it is about."""

_INSTANT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d)(?::(\d\d)(?:\.(\d+))?)?(Z|[+-]\d\d:\d\d(?::\d\d)?)")
_TIME = re.compile(r"(\d\d:\d\d)(?::(\d\d)(?:\.(\d+))?)?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def table_of(model: Model, names: Sequence[str], items: Sequence[Item]) -> pa.Table:
    """Columns in the types of `batch.ARROW`, and `_trouble` if some value cannot be kept; that value is then null."""
    troubles: dict[int, str] = {}
    arrays = {}
    for name in names:
        column = model.schema.column(name)
        assert column is not None
        values = [item.get(name) for item in items]
        arrays[name] = _array(column, model.scalars.get(name, ""), values, troubles)
    if troubles:
        arrays[TROUBLE] = pa.array([troubles.get(at) for at in range(len(items))], pa.string())
    return pa.table(arrays)


def _array(column: Column, scalar: str, values: Sequence[Any], troubles: dict[int, str]) -> pa.Array:
    kind = ARROW[column.kind]
    if column.kind is Kind.JSON and not scalar:
        return pa.array([None if value is None else orjson.dumps(value).decode() for value in values], kind)
    plain = column.kind in (Kind.TEXT, Kind.INT32, Kind.FLOAT64, Kind.BOOLEAN, Kind.JSON)
    try:
        return pa.array(values, kind) if plain else pa.array([_moment(scalar, value) for value in values], kind)
    except (pa.ArrowException, ValueError, TypeError):
        kept = [_kept(column, scalar, value) for value in values]
    for at, (value, one) in enumerate(zip(values, kept, strict=True)):
        if value is not None and one is None:
            troubles.setdefault(at, f"{column.name}: not a value of {column.native} that can be kept exactly")
    return pa.array(kept, kind)


def _kept(column: Column, scalar: str, value: Any) -> Any:
    """The value, or None if it cannot be had in the column's type."""
    try:
        found = _moment(scalar, value) if scalar in MOMENTS else value
        return pa.scalar(found, ARROW[column.kind]).as_py()
    except (pa.ArrowException, ValueError, TypeError):
        return None


def _moment(scalar: str, value: Any) -> Any:
    return None if value is None else MOMENTS[scalar](value)


def _instant(text: str) -> datetime:
    """AWSDateTime; its offset may have seconds, its fraction nanoseconds."""
    found = _INSTANT.fullmatch(text)
    if not found:
        raise ValueError
    day, seconds, fraction, offset = found.groups()
    zone: timezone = UTC
    if offset != "Z":
        hours, minutes, *rest = (int(part) for part in offset[1:].split(":"))
        shift = timedelta(hours=hours, minutes=minutes, seconds=rest[0] if rest else 0)
        zone = timezone(-shift if offset[0] == "-" else shift)
    moment = datetime.fromisoformat(f"{day}:{seconds or '00'}").replace(tzinfo=zone)
    return moment.astimezone(UTC) + timedelta(microseconds=_micros(fraction))


def _micros(fraction: str | None) -> int:
    digits = (fraction or "").ljust(6, "0")
    if digits[6:].strip("0"):
        raise ValueError("finer than a microsecond")
    return int(digits[:6])


def _epoch(value: int) -> datetime:
    """AWSTimestamp: seconds."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError
    return _EPOCH + timedelta(seconds=value)


def _date(text: str) -> date:
    """AWSDate; one with an offset is no plain day."""
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        raise ValueError
    return date.fromisoformat(text)


def _time(text: str) -> time:
    """AWSTime; one with an offset is no plain time."""
    found = _TIME.fullmatch(text)
    if not found:
        raise ValueError
    minutes, seconds, fraction = found.groups()
    return time.fromisoformat(f"{minutes}:{seconds or '00'}").replace(microsecond=_micros(fraction))


MOMENTS: Mapping[str, Callable[[Any], Any]] = {
    "AWSDateTime": _instant,
    "AWSTimestamp": _epoch,
    "AWSDate": _date,
    "AWSTime": _time,
}


# -- the way there ---------------------------------------------------------------------------------


def inputs_of(model: Model, writing: Writing, rows: pa.Table, *, create: bool) -> list[dict[str, Any] | Refusal]:
    """Each row as the JSON of a mutation's input, or why the service would refuse it; found without asking it.

    ``create`` leaves nulls out, as the service stores none either; an update says them.
    """
    required = [name for name, type_ in writing.columns.items() if type_.required]
    columns = [(column, model.scalars.get(column.name, "")) for column in model.schema.columns]
    wanted = [(column, scalar) for column, scalar in columns if column.name in rows.column_names]
    made: list[dict[str, Any] | Refusal] = []
    for row in rows.to_pylist():
        missing = next((name for name in required if row.get(name) is None), None)
        nulled = missing or next(
            (c.name for c, _ in wanted if row[c.name] is None and not create and not c.nullable), None
        )
        made.append(("null", nulled) if nulled else _input(wanted, row, create=create))
    return made


def _input(columns: Sequence[tuple[Column, str]], row: Item, *, create: bool) -> dict[str, Any] | Refusal:
    made: dict[str, Any] = {}
    for column, scalar in columns:
        value = row[column.name]
        if value is None:
            if not create:
                made[column.name] = None
            continue
        if column.choices is not None and value not in column.choices:
            return ("check", column.name)
        try:
            made[column.name] = _json(column, scalar, value)
        except ValueError:
            return ("type", column.name)
    return made


def said(model: Model, keys: pa.Table) -> list[dict[str, Any]]:
    """Keys as a query's arguments; those that no record can have are left out."""
    columns = [column for column in model.schema.columns if column.name in keys.column_names]
    made = [
        _input([(one, model.scalars.get(one.name, "")) for one in columns], row, create=True)
        for row in keys.to_pylist()
    ]
    return [one for one in made if isinstance(one, dict)]


def _json(column: Column, scalar: str, value: Any) -> Any:
    if column.kind is Kind.INSTANT:
        return _said_instant(scalar, value)
    if column.kind is Kind.TIME:
        return value.isoformat()
    if column.kind is Kind.DATE:
        return value.isoformat()
    if column.kind is Kind.JSON:
        parsed = orjson.loads(value)  # raises ValueError, as AppSync would refuse it
        return value if scalar else parsed
    if column.kind is Kind.FLOAT64 and not math.isfinite(value):
        raise ValueError
    return value


def _said_instant(scalar: str, value: datetime) -> Any:
    if scalar != "AWSTimestamp":
        return (
            value.astimezone(UTC)
            .isoformat(timespec="microseconds" if value.microsecond else "milliseconds")
            .replace("+00:00", "Z")
        )
    if value.microsecond:
        raise ValueError("AWSTimestamp has whole seconds")
    return int((value - _EPOCH).total_seconds())


def alike(column: Column, ours: Any, theirs: Any) -> bool:
    """Whether two values of a column are the same; JSON whatever its spaces and the order of its keys."""
    if column.kind is Kind.JSON and ours is not None and theirs is not None:
        return bool(orjson.loads(ours) == orjson.loads(theirs))
    return bool(ours == theirs)
