"""Enough of GraphQL to read a schema and to read requests: no fragments, no subscriptions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_TOKEN = re.compile(
    r'[\s,\ufeff]+|#[^\n]*|(?P<block>"""(?:[^"\\]|\\.|"(?!""))*""")|(?P<text>"(?:[^"\\\n]|\\.)*")'
    r"|(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_]\w*)|(?P<mark>\.\.\.|[!$():=@\[\]{}|&])"
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", '"': '"', "\\": "\\", "/": "/"}


class SyntaxTrouble(Exception):  # noqa: N818
    """The text is not GraphQL."""


@dataclass(frozen=True)
class Variable:
    """Where a variable's value goes."""

    name: str


@dataclass(frozen=True)
class Word:
    """A bare name as a value: one of an enum's."""

    text: str


@dataclass(frozen=True)
class Type:
    """A type as it is written; ``inner`` of a list."""

    name: str
    required: bool = False
    inner: Type | None = None

    @property
    def base(self) -> str:
        return self.inner.base if self.inner else self.name

    def __str__(self) -> str:
        return (f"[{self.inner}]" if self.inner else self.name) + ("!" if self.required else "")


@dataclass(frozen=True)
class Field:
    """A field that a request wants."""

    alias: str
    name: str
    args: Mapping[str, Any]
    select: tuple[Field, ...] = ()


@dataclass(frozen=True)
class Request:
    """One operation."""

    kind: str
    variables: Mapping[str, tuple[Type, Any]]
    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Declared:
    """A field of a type in a schema."""

    name: str
    type: Type
    args: Mapping[str, Type] = field(default_factory=dict)
    marks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Definition:
    """A type of a schema: ``kind`` is type, input, enum or scalar; ``marks`` are its directives."""

    kind: str
    name: str
    fields: Mapping[str, Declared] = field(default_factory=dict)
    values: tuple[str, ...] = ()
    marks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def read_request(text: str) -> Request:
    """The one operation of a request's text. Raises SyntaxTrouble."""
    reader = _Reader(text)
    kind = "query" if reader.peek() == "{" else reader.name()
    if kind not in ("query", "mutation"):
        raise SyntaxTrouble(f"{kind} is not offered")
    if reader.peek() not in ("(", "{"):
        reader.name()
    variables: dict[str, tuple[Type, Any]] = {}
    if reader.skip("("):
        while not reader.skip(")"):
            reader.need("$")
            name = reader.name()
            reader.need(":")
            variables[name] = (reader.type(), reader.value() if reader.skip("=") else None)
    fields = reader.selection()
    if reader.peek():
        raise SyntaxTrouble("more than one operation")
    return Request(kind, variables, fields)


def read_schema(text: str) -> dict[str, Definition]:
    """Types of a schema, by name. Raises SyntaxTrouble."""
    reader = _Reader(text)
    found: dict[str, Definition] = {}
    while reader.peek():
        reader.description()
        definition = reader.definition()
        found[definition.name] = definition
    return found


class _Reader:
    """A cursor over the tokens."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        self._at = place = 0
        while place < len(text):
            found = _TOKEN.match(text, place)
            if not found:
                raise SyntaxTrouble(f"what is at {place}?")
            if found.lastgroup:
                self._tokens.append((found.lastgroup, found[0]))
            place = found.end()

    def peek(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def next(self) -> tuple[str, str]:
        if self._at >= len(self._tokens):
            raise SyntaxTrouble("unexpected end")
        self._at += 1
        return self._tokens[self._at - 1]

    def skip(self, mark: str) -> bool:
        if self.peek() == mark:
            self._at += 1
            return True
        return False

    def need(self, mark: str) -> None:
        if not self.skip(mark):
            raise SyntaxTrouble(f"expected {mark}, found {self.peek() or 'the end'}")

    def name(self) -> str:
        kind, text = self.next()
        if kind != "name":
            raise SyntaxTrouble(f"expected a name, found {text}")
        return text

    def type(self) -> Type:
        if self.skip("["):
            inner = self.type()
            self.need("]")
            return Type("", self.skip("!"), inner)
        name = self.name()
        return Type(name, self.skip("!"))

    def value(self) -> Any:
        kind, text = self.next()
        if text == "$":
            return Variable(self.name())
        if text == "[":
            items = []
            while not self.skip("]"):
                items.append(self.value())
            return items
        if text == "{":
            return self._pairs("}")
        if kind in ("text", "block"):
            return _unquoted(text)
        if kind == "number":
            return float(text) if set(text) & set(".eE") else int(text)
        if kind == "name":
            return {"true": True, "false": False, "null": None}.get(text, Word(text))
        raise SyntaxTrouble(f"expected a value, found {text}")

    def _pairs(self, end: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not self.skip(end):
            name = self.name()
            self.need(":")
            found[name] = self.value()
        return found

    def selection(self) -> tuple[Field, ...]:
        self.need("{")
        found: list[Field] = []
        while not self.skip("}"):
            name = alias = self.name()
            if self.skip(":"):
                name = self.name()
            args = self._pairs(")") if self.skip("(") else {}
            found.append(Field(alias, name, args, self.selection() if self.peek() == "{" else ()))
        return tuple(found)

    def description(self) -> None:
        if self._at < len(self._tokens) and self._tokens[self._at][0] in ("text", "block"):
            self._at += 1

    def definition(self) -> Definition:
        kind, name = self.name(), self.name()
        if kind not in ("type", "input", "enum", "scalar"):
            raise SyntaxTrouble(f"{kind} is not offered")
        marks = self._marks()
        fields: dict[str, Declared] = {}
        values: list[str] = []
        if kind != "scalar":
            self.need("{")
            while not self.skip("}"):
                self.description()
                if kind == "enum":
                    values.append(self.name())
                    continue
                declared = self._declared()
                fields[declared.name] = declared
        return Definition(kind, name, fields, tuple(values), marks)

    def _declared(self) -> Declared:
        name = self.name()
        args: dict[str, Type] = {}
        if self.skip("("):
            while not self.skip(")"):
                arg = self.name()
                self.need(":")
                args[arg] = self.type()
        self.need(":")
        return Declared(name, self.type(), args, self._marks())

    def _marks(self) -> dict[str, Mapping[str, Any]]:
        found: dict[str, Mapping[str, Any]] = {}
        while self.skip("@"):
            name = self.name()
            found[name] = self._pairs(")") if self.skip("(") else {}
        return found


def _unquoted(text: str) -> str:
    if text.startswith('"""'):
        return text[3:-3].strip()
    plain = re.sub(r"\\u([0-9A-Fa-f]{4})", lambda found: chr(int(found[1], 16)), text[1:-1])
    return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), plain)


def filled(value: Any, variables: Mapping[str, Any]) -> Any:
    """A value with the variables put in; names of enums become text."""
    if isinstance(value, Variable):
        return variables.get(value.name)
    if isinstance(value, Word):
        return value.text
    if isinstance(value, Mapping):
        return {name: filled(one, variables) for name, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [filled(one, variables) for one in value]
    return value
