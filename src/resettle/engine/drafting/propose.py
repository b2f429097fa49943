"""propose: the expression that makes one target column of one source column, and what is doubtful about it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from resettle.batch import Column, Kind
from resettle.engine.drafting.survey import Seen
from resettle.mapping.columns import literal, quote
from resettle.mapping.sql import UNDECIDED, SqlError, parse_expression

WHOLE = frozenset({Kind.INT16, Kind.INT32, Kind.INT64})
NUMBERS = WHOLE | {Kind.FLOAT32, Kind.FLOAT64, Kind.NUMERIC}
TEXTS = frozenset({Kind.TEXT, Kind.OTHER})
_SECONDS, _MILLIS = "number like epoch seconds", "number like epoch milliseconds"
_WHOLES = ("whole number", _SECONDS, _MILLIS)


@dataclass(frozen=True)
class Proposal:
    """An expression, or none where a person must decide; ``doubt`` says what to look at, or what is to be decided."""

    expression: str | None
    doubt: str | None = None


@cache
def reference(name: str) -> str:
    """A column's name as an expression, quoted only where SQL would not read it as that name."""
    try:
        plain = [(q, n) for q, n, _ in parse_expression(name).columns] == [(None, name)]
    except SqlError:
        plain = False
    return name if plain and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) else quote(name)


def undecided(why: str) -> str:
    """An expression that `check` refuses at its place, until somebody writes another one."""
    return f"{UNDECIDED}({literal(why)})"


def is_moment(column: Column) -> bool:
    """Whether the column holds a date with its time, also where the technology keeps that as it comes (SQLite)."""
    loose = column.kind is Kind.OTHER and column.native.upper().startswith(("DATETIME", "TIMESTAMP"))
    return loose or column.kind in {Kind.INSTANT, Kind.DATETIME}


def propose(source: Column, seen: Seen, target: Column) -> Proposal:
    """What to write for a target column, going by the kinds of both and by what the first records hold."""
    made = _moment(source, seen, target) if is_moment(target) else _RULES[target.kind](source, seen, target)
    if made.expression is None or target.nullable or not seen.missing:
        return made
    held = f"{seen.missing} of the first {seen.records} records have no value and will be held; coalesce(...) gives one"
    return Proposal(made.expression, f"{made.doubt}; {held}" if made.doubt else held)


def _moment(source: Column, seen: Seen, target: Column) -> Proposal:
    name = reference(source.name)
    if source.kind in NUMBERS or seen.only(*_WHOLES):
        unit, word = ("s", "seconds") if seen.only(_SECONDS) else ("ms", "milliseconds")
        return Proposal(f"instant({name}, '{unit}')", f"a number meets a timestamp: read as {word} since 1970")
    if source.kind is Kind.DATE:
        return Proposal(name, "a day becomes its midnight in UTC")
    if source.kind in {Kind.INSTANT, Kind.DATETIME}:
        zone = source.kind is Kind.DATETIME and target.kind is Kind.INSTANT
        return Proposal(name, "no time zone there: taken as UTC" if zone else None)
    if source.kind not in TEXTS:
        return _no(source, target)
    if target.kind is Kind.OTHER or seen.only("date or instant"):
        return Proposal(name)
    return Proposal(f"instant({name})", _some(seen, "no ISO 8601 text: see what instant() makes of them"))


def _whole(source: Column, seen: Seen, target: Column) -> Proposal:
    name = reference(source.name)
    if source.kind in WHOLE or source.kind is Kind.BOOLEAN or seen.only(*_WHOLES):
        return Proposal(name)
    if is_moment(source) or seen.only("date or instant"):
        instant = name if source.kind is Kind.INSTANT else f"instant({name})"
        return Proposal(f"epoch_ms({instant})", "a timestamp meets a number: written as milliseconds since 1970")
    if source.kind in NUMBERS | TEXTS:
        return Proposal(name, _some(seen, "no whole number and will be held"))
    return _no(source, target)


def _number(source: Column, seen: Seen, target: Column) -> Proposal:
    name = reference(source.name)
    if source.kind in NUMBERS or seen.only("number", *_WHOLES):
        return Proposal(name)
    return Proposal(name, _some(seen, "no number and will be held")) if source.kind in TEXTS else _no(source, target)


def _boolean(source: Column, seen: Seen, target: Column) -> Proposal:
    name = reference(source.name)
    if source.kind is Kind.BOOLEAN or (seen.words is not None and seen.words <= {"0", "1", "true", "false"}):
        return Proposal(name)
    if source.kind in NUMBERS | TEXTS:
        return Proposal(name, "what is not true, false, 0 or 1 will be held")
    return _no(source, target)


def _uuid(source: Column, seen: Seen, target: Column) -> Proposal:
    if source.kind is Kind.UUID or seen.only("uuid"):
        return Proposal(reference(source.name))
    uuids = seen.classes.get("uuid", 0)
    if source.kind in TEXTS and 2 * uuids > seen.records - seen.missing:
        others = seen.records - seen.missing - uuids
        return Proposal(reference(source.name), f"{others} of the first {seen.records} are no uuids and will be held")
    if source.kind in TEXTS and not seen.records:
        return Proposal(reference(source.name), "no record to look at: are they all uuids?")
    return Proposal(None, f"`{source.name}` holds no uuids: uuid5('a uuid of yours', {source.name}) derives them")


def _date(source: Column, seen: Seen, target: Column) -> Proposal:
    name = reference(source.name)
    if source.kind is Kind.DATE:
        return Proposal(name)
    if source.kind in NUMBERS or seen.only(*_WHOLES):
        return Proposal(f"CAST(instant({name}, 'ms') AS DATE)", "a number meets a date: the day in UTC")
    if source.kind in {Kind.INSTANT, Kind.DATETIME}:
        return Proposal(f"CAST({name} AS DATE)", "the time of day is left out")
    if source.kind in TEXTS:
        return Proposal(name, "what is not YYYY-MM-DD will be held; CAST(instant(...) AS DATE) leaves the time out")
    return _no(source, target)


def _time(source: Column, seen: Seen, target: Column) -> Proposal:
    if source.kind is Kind.TIME:
        return Proposal(reference(source.name))
    text = Proposal(reference(source.name), "what is not HH:MM or HH:MM:SS will be held")
    return text if source.kind in TEXTS else _no(source, target)


def _json(source: Column, seen: Seen, target: Column) -> Proposal:
    name = reference(source.name)
    if source.kind is Kind.BINARY:
        return _no(source, target)
    if source.kind not in TEXTS or seen.only("JSON"):
        return Proposal(name)
    return Proposal(name, _some(seen, "no JSON and will be held; to_json(...) keeps them as strings"))


def _binary(source: Column, seen: Seen, target: Column) -> Proposal:
    if source.kind is Kind.BINARY:
        return Proposal(reference(source.name))
    return Proposal(None, f"text meets bytes: from_base64, unhex or encode of `{source.name}`?")


def _text(source: Column, seen: Seen, target: Column) -> Proposal:
    name = reference(source.name)
    if source.kind is Kind.BINARY:
        return Proposal(None, f"bytes meet text: decode, hex or to_base64 of `{source.name}`?")
    if target.native.endswith("[]") and source.native != target.native:
        return Proposal(None, f"`{source.name}` meets {target.native}: write a text as Postgres reads it, '{{a,b}}'")
    if target.choices and seen.words is not None and (strangers := seen.words - set(target.choices)):
        return Proposal(name, f"{len(strangers)} of its words are none of the target's and will be held")
    return Proposal(name)


def _no(source: Column, target: Column) -> Proposal:
    return Proposal(None, f"`{source.name}` ({source.kind}) does not become {target.kind}")


def _some(seen: Seen, what: str) -> str:
    return f"some values are {what}" if seen.records else f"no record to look at; are some {what}?"


_RULES: dict[Kind, Callable[[Column, Seen, Column], Proposal]] = {
    Kind.BOOLEAN: _boolean,
    Kind.INT16: _whole,
    Kind.INT32: _whole,
    Kind.INT64: _whole,
    Kind.FLOAT32: _number,
    Kind.FLOAT64: _number,
    Kind.NUMERIC: _number,
    Kind.TEXT: _text,
    Kind.UUID: _uuid,
    Kind.INSTANT: _moment,
    Kind.DATETIME: _moment,
    Kind.DATE: _date,
    Kind.TIME: _time,
    Kind.JSON: _json,
    Kind.BINARY: _binary,
    Kind.OTHER: _text,
}
