"""Places in JSON text by JSON pointer (RFC 6901): look, put and take away without touching any other byte."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from json import decoder

_SPACE = re.compile(r"[ \t\r\n]*")
_value_end = json.JSONDecoder(parse_float=str, parse_int=str).raw_decode
_string_end = decoder.scanstring  # type: ignore[attr-defined]

Span = tuple[int, int]


def at(document: str, pointer: str) -> str | None:
    """The text of the value at a pointer; None where there is none. Raises ValueError for what is no JSON."""
    span = _find(document, _steps(pointer))
    return document[slice(*span)] if span else None


def parent(document: str, pointer: str) -> str | None:
    """The text of what holds the value at a pointer, whether that value is there or not."""
    span = _find(document, _steps(pointer)[:-1])
    return document[slice(*span)] if span else None


def put(document: str, pointer: str, value: str) -> str | None:
    """The document with ``value`` (JSON text) at the pointer, put after its other members where it is new.

    None where there is no object or list element that could hold it.
    """
    steps = _steps(pointer)
    span = _find(document, steps)
    if span:
        return document[: span[0]] + value + document[span[1] :]
    holder = _find(document, steps[:-1])
    if not steps or holder is None or document[holder[0]] != "{":
        return None
    members = list(_members(document, holder[0]))
    place = members[-1][2] if members else holder[0] + 1
    colon = ": " if members and document[members[-1][1] - 1] == " " else ":"
    comma = ("," + colon[1:]) if members else ""
    return f"{document[:place]}{comma}{json.dumps(steps[-1], ensure_ascii=False)}{colon}{value}{document[place:]}"


def take(document: str, pointer: str) -> str | None:
    """The document without the member at the pointer: the reverse of `put` where that was new. None if it has none."""
    steps = _steps(pointer)
    holder = _find(document, steps[:-1])
    if not steps or holder is None or document[holder[0]] != "{":
        return None
    members = list(_members(document, holder[0]))
    for number, (name, _, end) in enumerate(members):
        if name == steps[-1]:
            start = members[number - 1][2] if number else holder[0] + 1
            rest = document[end:]
            if not number and len(members) > 1:  # the comma behind the first member goes with it
                rest = rest[_SPACE.match(rest).end() + 1 :]  # type: ignore[union-attr]
            return document[:start] + rest
    return None


def _steps(pointer: str) -> tuple[str, ...]:
    if pointer and not pointer.startswith("/"):
        raise ValueError("a JSON pointer is empty or starts with /")
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:])


def _find(document: str, steps: tuple[str, ...]) -> Span | None:
    start = _skip(document, 0)
    span: Span | None = (start, _end(document, start))
    for step in steps:
        if span is None:
            return None
        opening = document[span[0]]
        children = _members(document, span[0]) if opening == "{" else _items(document, span[0])
        # Of members with one name the last counts, as it does in JavaScript and in Postgres.
        span = next(((s, e) for name, s, e in reversed([*children]) if name == step), None) if opening in "{[" else None
    return span


def _members(document: str, start: int) -> Iterator[tuple[str, int, int]]:
    """Name, start and end of value of each member of the object that starts there."""
    place = _skip(document, start + 1)
    while document[place] != "}":
        name, place = _string_end(document, place + 1, False)
        begin = _skip(document, _skip(document, place) + 1)
        end = _end(document, begin)
        yield name, begin, end
        place = _skip(document, end)
        if document[place] == ",":
            place = _skip(document, place + 1)


def _items(document: str, start: int) -> Iterator[tuple[str, int, int]]:
    place, number = _skip(document, start + 1), 0
    while document[place] != "]":
        end = _end(document, place)
        yield str(number), place, end
        place, number = _skip(document, end), number + 1
        if document[place] == ",":
            place = _skip(document, place + 1)


def _skip(document: str, place: int) -> int:
    found = _SPACE.match(document, place)
    return found.end() if found else place


def _end(document: str, place: int) -> int:
    return int(_value_end(document, place)[1])
