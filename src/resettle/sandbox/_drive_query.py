"""What a request to the Drive stand-in may say in `q` and `fields`, as far as its documentation is followed here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

File = Mapping[str, Any]
Test = Callable[[File], bool]


class Mask(dict[str, "Mask"]):
    """Names that are asked for, each with those below it."""


_TOKEN = re.compile(r"\s*(?:('(?:\\.|[^'\\])*')|(!=|=|\(|\))|(\w+))")


class InvalidError(Exception):
    """A parameter that Drive answers with 400: its name, and the service's words."""

    def __init__(self, parameter: str, message: str = "Invalid Value", reason: str = "invalid") -> None:
        super().__init__(message)
        self.parameter, self.message, self.reason = parameter, message, reason


class Query:
    """A search, https://developers.google.com/workspace/drive/api/guides/ref-search-terms : `in parents`, `name`,
    `mimeType`, `trashed`, with `and`, `or`, `not` and parentheses. InvalidError for all else."""

    def __init__(self, text: str) -> None:
        self.parents: list[str] = []
        """Every folder that is named, in order."""
        self.narrow = True
        """Whether only children of those folders can match."""
        self._left = self._tokens(text)
        self.test: Test = self._any()
        if self._left:
            raise InvalidError("q")
        self.narrow = self.narrow and bool(self.parents)

    @staticmethod
    def _tokens(text: str) -> list[str]:
        tokens, at = [], 0
        while text[at:].strip():
            match = _TOKEN.match(text, at)
            if not match:
                raise InvalidError("q")
            tokens.append(match[0].strip())
            at = match.end()
        return tokens[::-1]

    def _next(self) -> str:
        if not self._left:
            raise InvalidError("q")
        return self._left.pop()

    def _follows(self, word: str) -> bool:
        if self._left and self._left[-1].lower() == word:
            self._left.pop()
            return True
        return False

    def _any(self) -> Test:
        tests = [self._all()]
        while self._follows("or"):
            tests.append(self._all())
        return tests[0] if len(tests) == 1 else lambda file: any(test(file) for test in tests)

    def _all(self) -> Test:
        tests = [self._one()]
        while self._follows("and"):
            tests.append(self._one())
        return tests[0] if len(tests) == 1 else lambda file: all(test(file) for test in tests)

    def _one(self) -> Test:
        if self._follows("not"):
            self.narrow = False
            test = self._one()
            return lambda file: not test(file)
        if self._follows("("):
            test = self._any()
            if self._next() != ")":
                raise InvalidError("q")
            return test
        return self._term(self._next())

    def _term(self, first: str) -> Test:
        if first.startswith("'"):
            if not (self._follows("in") and self._follows("parents")):
                raise InvalidError("q")
            parent = _text(first)
            self.parents.append(parent)
            return lambda file: parent in file.get("parents", ())
        operator, value = self._next(), self._next()
        if first == "trashed" and operator in ("=", "!=") and value in ("true", "false"):
            wanted = (value == "true") is (operator == "=")
            return lambda file: file["trashed"] is wanted
        if first not in ("name", "mimeType") or not value.startswith("'"):
            raise InvalidError("q")
        text = _text(value)
        if operator == "=":
            return lambda file: file[first] == text
        if operator == "!=":
            return lambda file: file[first] != text
        if operator == "contains":
            return lambda file: text.lower() in file[first].lower()
        raise InvalidError("q")


def _text(quoted: str) -> str:
    return re.sub(r"\\(.)", r"\1", quoted[1:-1])


def mask(text: str, known: Mapping[str, Any]) -> Mask:
    """A partial response, https://developers.google.com/workspace/drive/api/guides/fields-parameter .

    ``known``: names that exist, each with its own below. Raises InvalidError for another one.
    """
    tokens, found = re.findall(r"[\w*]+|[(),/]", text), Mask()
    at = _mask(tokens, 0, found)
    unknown = next(_unknown(found, known), text if at != len(tokens) else None)
    if unknown is not None:
        raise InvalidError("fields", f"Invalid field selection {unknown}", "invalidParameter")
    return found


def _unknown(wanted: Mask, known: Mapping[str, Any]) -> Iterator[str]:
    for name, below in wanted.items():
        if name != "*" and name not in known:
            yield name
        else:
            yield from _unknown(below, known.get(name, {}))


def _mask(tokens: list[str], at: int, into: Mask) -> int:
    while at < len(tokens) and tokens[at] != ")":
        inner = into.setdefault(tokens[at], Mask())
        at += 1
        while at + 1 < len(tokens) and tokens[at] == "/":
            inner = inner.setdefault(tokens[at + 1], Mask())
            at += 2
        if at < len(tokens) and tokens[at] == "(":
            at = _mask(tokens, at + 1, inner) + 1
        if at < len(tokens) and tokens[at] == ",":
            at += 1
    return at


def picked(value: Any, wanted: Mask) -> Any:
    """The part of an answer that is asked for."""
    if isinstance(value, list):
        return [picked(one, wanted) for one in value]
    if not wanted or "*" in wanted or not isinstance(value, Mapping):
        return value
    return {name: picked(value[name], below) for name, below in wanted.items() if name in value}
