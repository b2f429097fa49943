"""Places in JSON text by JSON pointer (RFC 6901): look, put and take away without touching any other byte."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from json import decoder

import msgspec

_SPACE = re.compile(r"[ \t\r\n]*")
_BLANK = frozenset(" \t\r\n")
_WHOLE = msgspec.json.Decoder(msgspec.Raw)
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_value_end = json.JSONDecoder(parse_float=str, parse_int=str).raw_decode
_string_end = decoder.scanstring  # type: ignore[attr-defined]

Span = tuple[int, int]
Splice = tuple[int, int, str]
"""Replace the characters from here to there by this."""


class Document:
    """One JSON text; what is found in it once is not looked for again. Raises ValueError for what is no JSON."""

    def __init__(self, text: str) -> None:
        try:
            _WHOLE.decode(text)
        except (msgspec.DecodeError, RecursionError):
            raise ValueError("this text is no JSON") from None
        self.text = text
        self._whole = (_skip(text, 0), len(text.rstrip(" \t\r\n")))
        self._ascii = text.isascii()
        self._escaped = "\\u" in text
        self._children: dict[int, Mapping[str, Span]] = {}

    def at(self, pointer: str) -> str | None:
        """The text of the value at a pointer; None where there is none."""
        return self.text_of(self.find(pointer)[1])

    def find(self, pointer: str) -> tuple[Span | None, Span | None]:
        """Where the value's holder stands, and the value itself; None where there is none. Nothing holds the whole."""
        path = steps(pointer)
        if not path:
            return None, self._whole
        holder: Span | None = self._whole
        for step in path[:-1]:
            holder = self._child(holder, step)
        return holder, self._child(holder, path[-1])

    def text_of(self, span: Span | None) -> str | None:
        return self.text[span[0] : span[1]] if span else None

    def splice(self, pointer: str, value: str, found: tuple[Span | None, Span | None] | None = None) -> Splice | None:
        """What puts ``value`` (JSON text) at the pointer, behind the other members where it is new.

        None where there is no object or list element that could hold it. ``found``: what `find` said.
        """
        holder, span = found or self.find(pointer)
        if span:
            return (*span, value)
        if holder is None or self.text[holder[0]] != "{":
            return None
        text, (start, end) = self.text, holder
        place = end - 1
        while text[place - 1] in _BLANK:
            place -= 1
        colon, comma = (": ", ", ") if text.find('": ', start, end) >= 0 else (":", ",")
        return place, place, f"{comma if place > start + 1 else ''}{_quoted(steps(pointer)[-1])}{colon}{value}"

    def without(self, pointer: str) -> Splice | None:
        """What takes the member at the pointer away: the reverse of a `splice` that was new. None if it has none."""
        holder, span = self.find(pointer)
        if holder is None or span is None or self.text[holder[0]] != "{":
            return None
        members, (start, end) = self._members(holder[0]), span
        before = max((stop for begin, stop in members.values() if begin < start), default=None)
        if before is not None:
            return before, end, ""
        after = _skip(self.text, end)
        return holder[0] + 1, after + 1 if self.text[after] == "," else end, ""

    def with_splices(self, splices: Iterable[Splice]) -> str:
        """The text with all these done."""
        return spliced(self.text, splices)

    def _child(self, span: Span | None, step: str) -> Span | None:
        """Where the member or element of that name or number stands, of what stands there."""
        if span is None:
            return None
        opening = self.text[span[0]]
        if opening == "{":
            return None if self._lacks(step, *span) else self._members(span[0]).get(step)
        return self._items(*span).get(step) if opening == "[" else None

    def _lacks(self, name: str, start: int, end: int) -> bool:
        """Whether an object has no such member, seen without taking it apart: a plain name stands as it is in it."""
        plain = name.isalnum() and name.isascii() and not self._escaped
        return plain and self.text.find(f'"{name}"', start, end) < 0

    def _members(self, start: int) -> Mapping[str, Span]:
        """Start and end of value of each member of the object that starts there, by name.

        Of members with one name the last counts, as it does in JavaScript and in Postgres.
        """
        if start in self._children:
            return self._children[start]
        text, found = self.text, dict[str, Span]()
        place = _skip(text, start + 1)
        while text[place] != "}":
            name, place = _string_end(text, place + 1, False)
            begin = _skip(text, _skip(text, place) + 1)
            end = _end(text, begin)
            found[name] = (begin, end)
            place = _skip(text, end)
            if text[place] == ",":
                place = _skip(text, place + 1)
        self._children[start] = found
        return found

    def _items(self, start: int, stop: int) -> Mapping[str, Span]:
        if start in self._children:
            return self._children[start]
        text, found = self.text, dict[str, Span]()
        place = start + 1
        for index, item in enumerate(_ITEMS.decode(text if (start, stop) == (0, len(text)) else text[start:stop])):
            place = _skip(text, place)
            end = place + (len(bytes(item)) if self._ascii else len(bytes(item).decode()))
            found[str(index)] = (place, end)
            place = _skip(text, end) + 1
        self._children[start] = found
        return found


def spliced(text: str, splices: Iterable[Splice]) -> str:
    """The text with all these done; of two at one place the first comes first."""
    parts, place, new = [], 0, -1
    for start, end, put in sorted(splices, key=lambda one: one[:2]):
        comma = "," if start == end == new and not put.startswith(",") else ""  # both new in an empty object
        parts += [text[place:start], comma, put]
        place, new = end, start if start == end else -1
    return "".join([*parts, text[place:]])


def put(document: str, pointer: str, value: str) -> str | None:
    """The document with ``value`` (JSON text) at the pointer; None where there is no place for it."""
    found = Document(document)
    splice = found.splice(pointer, value)
    return found.with_splices([splice]) if splice else None


@lru_cache(4096)
def steps(pointer: str) -> tuple[str, ...]:
    """A pointer's steps. Raises ValueError for what is none."""
    if pointer and not pointer.startswith("/"):
        raise ValueError("a JSON pointer is empty or starts with /")
    parts = pointer.split("/")[1:]
    return tuple(part.replace("~1", "/").replace("~0", "~") if "~" in part else part for part in parts)


@lru_cache(4096)
def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _skip(document: str, place: int) -> int:
    if document[place : place + 1] not in _BLANK:
        return place
    found = _SPACE.match(document, place)
    return found.end() if found else place


def _end(document: str, place: int) -> int:
    return int(_value_end(document, place)[1])
