"""Statements of others made fit for D1: staged rows become parts of the statement, answers keep every digit."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from resettle.connectors._d1_http import Statement
from resettle.connectors._d1_values import COMMENT, QUOTED, Chunk, chunks, exact, filled
from resettle.connectors._sqlite import quote, storage_of
from resettle.errors import ConfigError

_WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE|REPLACE)\b", re.IGNORECASE)
_NAME = r'(?:"(?:[^"]|"")*"|\w+)'
_PLAIN = re.compile(rf"\s*(?:{_NAME}\s*\.\s*)?({_NAME})(?:\s+AS\s+{_NAME})?\s*", re.IGNORECASE)
_TABLE = re.compile(rf"\b(?:FROM|JOIN)\s+({_NAME})", re.IGNORECASE)


def reads(sql: str) -> bool:
    """Whether a statement gives rows and changes nothing."""
    bare = _bare(sql).lstrip()
    word = re.match(r"\w*", bare)
    first = word[0].upper() if word else ""
    return first in {"SELECT", "VALUES", "EXPLAIN", "PRAGMA"} or (first == "WITH" and not _WRITES.search(bare))


def wrappable(sql: str) -> bool:
    """Whether a statement may stand in the FROM of another one."""
    return re.match(r"\s*(SELECT|VALUES|WITH)\b", _bare(sql), re.IGNORECASE) is not None


def one_query(sql: str) -> str:
    """The statement without its end. Raises ConfigError where it is more than one, or would break out of brackets."""
    depth, bare = 0, _bare(sql).rstrip().rstrip(";")
    for character in bare:
        depth += (character == "(") - (character == ")")
        if depth < 0 or character == ";":
            raise ConfigError("expected one SELECT statement")
    return re.sub(r"\s*;\s*$", "", sql)


def _bare(sql: str) -> str:
    """The statement without comments and without what is quoted."""
    return re.sub(rf"{COMMENT}|({QUOTED})", lambda found: "''" if found[1] else " ", sql, flags=re.DOTALL)


def counting(sql: str) -> str:
    """A query whose one row, all null, has as many cells as the rows of ``sql``."""
    return f"SELECT q.* FROM (SELECT 1) LEFT JOIN ({sql}\n) AS q ON 0"


def keeping(sql: str, columns: int, *, hexed: bool) -> str:
    """The same rows in the same order, with `exact` cells."""
    names = [f"c{number}" for number in range(columns)]
    cells = ", ".join(exact(name, hexed=hexed) for name in names)
    return f"WITH resettle_query({', '.join(names)}) AS ({sql}\n) SELECT {cells} FROM resettle_query"


class Staged:
    """Rows under names that statements may use like tables."""

    def __init__(self) -> None:
        self._tables: dict[str, pa.Table] = {}
        self._chunks: dict[str, list[Chunk]] = {}

    def stage(self, name: str, rows: pa.Table) -> None:
        self._tables[name], self._chunks[name] = rows, list(chunks(rows))

    def named(self, sql: str) -> list[str]:
        words = set(re.findall(r"\w+", _bare(sql)))
        return [name for name in self._tables if name in words or quote(name) in sql]

    def shape(self, sql: str) -> tuple[tuple[str, ...], ...]:
        """The names and columns of the staged tables that a statement names."""
        return tuple((name, *self._tables[name].column_names) for name in self.named(sql))

    def rendered(self, sql: str, values: Sequence[Any], *, empty: bool = False) -> Iterator[Statement]:
        """The statement once for every piece of the staged rows that it names.

        So a row of the answer, or a change, must come from one staged row: an aggregate over all of them would
        come in pieces. With ``empty`` once, without any rows.
        """
        names = self.named(sql)
        if not names:
            yield filled(sql, values)
            return
        pieces = [list(chunks(self._tables[name].slice(0, 0))) if empty else self._chunks[name] for name in names]
        for together in itertools.product(*pieces):
            parts: list[str] = []
            before: list[str] = []
            for name, piece in zip(names, together, strict=True):
                columns = ", ".join(map(quote, self._tables[name].column_names))
                parts.append(f"{quote(name)}({columns}) AS ({piece.select})")
                before += piece.parameters
            yield filled(_with(", ".join(parts), sql), values, tuple(before))

    def types(self, sql: str) -> Mapping[str, str]:
        """The declared type of each column of the staged tables that a statement names."""
        return {field.name: storage_of(field.type) for name in self.named(sql) for field in self._tables[name].schema}


def _with(parts: str, sql: str) -> str:
    found = re.match(r"\s*WITH\b(\s+RECURSIVE\b)?", sql, re.IGNORECASE)
    if not found:
        return f"WITH {parts} {sql}"
    return f"WITH{found[1] or ''} {parts}, {sql[found.end() :]}"


def plain_columns(sql: str) -> list[str | None]:
    """For each column of a SELECT its name in a table, or None where it is an expression."""
    parts = re.split(f"({QUOTED})", sql)
    depth, items, started = 0, [""], False
    for number, part in enumerate(parts):
        for piece in [part] if number % 2 else re.split(r"([(),]|\bSELECT\b|\bFROM\b)", part, flags=re.IGNORECASE):
            word = piece.upper()
            depth += (word == "(") - (word == ")")
            if not started:
                started = word == "SELECT"
            elif word == "FROM" and not depth:
                return [_name(item) for item in items]
            elif word == "," and not depth:
                items.append("")
            else:
                items[-1] += piece
    return [_name(item) for item in items]


def _name(item: str) -> str | None:
    found = _PLAIN.fullmatch(item)
    return _unquoted(found[1]) if found else None


def tables(sql: str) -> list[str]:
    """What stands after FROM and JOIN."""
    return [_unquoted(name) for name in _TABLE.findall(sql)]


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name
