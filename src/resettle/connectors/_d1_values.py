"""Values on their way to D1 and back, to the last digit: JSON would round integers and lose the type of a cell."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa

from resettle.connectors._d1_http import LARGEST_CHUNK, MOST_PARAMETERS, MOST_VALUE, Statement
from resettle.connectors._sqlite import quote, storage_of
from resettle.errors import RejectedError

ORDINAL = "resettle_ordinal"
QUOTED = r"(?:'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\")"
COMMENT = r"--[^\n]*|/\*.*?\*/"
_LONG_TEXT = 1_900_000
_LONG_BLOB = 900_000
"""Beyond these a mark, or hexadecimal digits, would not fit in a value: such a cell comes as an array of bytes."""


def exact(column: str, *, hexed: bool = False) -> str:
    """SQL for one cell as `cell` reads it: a real is a JSON number, everything else a text that says its type.

    With ``hexed`` text comes as its bytes too, for where it is not UTF-8 and D1 would repair it silently.
    """
    most, text = (_LONG_BLOB, f"'x' || hex({column})") if hexed else (_LONG_TEXT, f"'t' || {column}")
    bare = f"CAST({column} AS BLOB)"
    return (
        f"CASE typeof({column}) WHEN 'text' THEN CASE WHEN length({bare}) > {most} THEN {bare} ELSE {text} END"
        f" WHEN 'integer' THEN 'i' || {column}"
        f" WHEN 'blob' THEN CASE WHEN length({column}) > {_LONG_BLOB} THEN {column} ELSE 'b' || hex({column}) END"
        f" WHEN 'real' THEN CASE WHEN abs({column}) > 1.7976931348623157e308"
        f" THEN iif({column} > 0, 'rinf', 'r-inf') ELSE {column} END END"
    )


def cell(value: Any) -> Any:
    """A cell as sqlite3 gives it: int, float, str (with surrogates for what is not UTF-8), bytes or None."""
    if value is None:
        return None
    if not isinstance(value, str):
        return bytes(value) if isinstance(value, list) else float(value)
    mark, rest = value[0], value[1:]
    if mark == "t":
        return rest
    if mark == "i":
        return int(rest)
    if mark == "r":
        return float(rest)
    found = bytes.fromhex(rest)
    return found if mark == "b" else found.decode(errors="surrogateescape")


def repaired(rows: Iterable[Sequence[Any]]) -> bool:
    """Whether some text holds the mark that D1 puts where it was not UTF-8 (or that it always held)."""
    return any(isinstance(one, str) and "\ufffd" in one for row in rows for one in row)


def literal(value: Any) -> tuple[str, tuple[str, ...]]:
    """A value as SQL and its parameters, which are all text."""
    if value is None:
        return "NULL", ()
    if isinstance(value, bool | int):
        return str(int(value)), ()
    if isinstance(value, float):
        mantissa, exponent = _halves(value)
        return f"(CAST({mantissa} AS REAL) * pow(2.0, {exponent}))", ()
    if isinstance(value, bytes):
        return "unhex(?)", (value.hex(),)
    text = str(value)
    return ("CAST(unhex(?) AS TEXT)", (text.encode().hex(),)) if "\0" in text else ("?", (text,))


def filled(sql: str, values: Sequence[Any], before: tuple[str, ...] = ()) -> Statement:
    """A statement with a `?` for each value, of any type and number; ``before``: parameters of earlier `?`."""
    made = [*(("?", (text,)) for text in before), *map(literal, values)]
    parameters = tuple(text for _, texts in made for text in texts)
    if len(parameters) > MOST_PARAMETERS:
        places = iter(range(len(parameters)))
        made = [(re.sub(r"\?", lambda _: f"json_extract(?1, '$[{next(places)}]')", sql), ()) for sql, _ in made]
        parameters = (orjson.dumps(parameters).decode(),)
    parts = iter(made)
    pieces = re.split(f"({QUOTED}|{COMMENT})", sql, flags=re.DOTALL)
    pieces[::2] = [re.sub(r"\?", lambda _: next(parts)[0], piece) for piece in pieces[::2]]
    return Statement("".join(pieces), parameters)


@dataclass(frozen=True)
class Chunk:
    """Some rows as a SELECT that gives them, and its parameters."""

    cells: str
    source: str
    parameters: tuple[str, ...]
    rows: int

    @property
    def select(self) -> str:
        return f"SELECT {self.cells}{self.source}"

    @property
    def numbered(self) -> str:
        """With the place of each row among them, from 0."""
        return f"SELECT {self.cells}, {'key' if self.source else '0'} AS {ORDINAL}{self.source}"


def chunks(rows: pa.Table) -> Iterator[Chunk]:
    """A table in pieces that fit into parameters; one without rows if there are none."""
    encoded = [_encoded(name, column) for name, column in zip(rows.column_names, rows.columns, strict=True)]
    cells = [
        f"{form.format(f'json_extract(value, {_path(form, at)})', f'json_extract(value, {_path(form, at, 1)})')}"
        f" AS {quote(name)}"
        for at, (name, (form, _)) in enumerate(zip(rows.column_names, encoded, strict=True))
    ]
    select, source = ", ".join(cells), " FROM json_each(?)"
    if not rows.num_rows:
        yield Chunk(select, source, ("[]",), 0)
        return
    lines = list(zip(*(values for _, values in encoded), strict=True))
    step = max(1, LARGEST_CHUNK * len(lines) * 3 // (rows.nbytes * 4 + 1))  # JSON is a little longer than Arrow
    for first in range(0, len(lines), step):
        for start, stop, text in _pieces(lines, first, min(first + step, len(lines))):
            if stop == start + 1 and len(text) > MOST_VALUE - 10:
                yield _large(rows.column_names, [(form, values[start]) for form, values in encoded])
            else:
                yield Chunk(select, source, (text.decode(),), stop - start)


def _pieces(lines: Sequence[Sequence[Any]], start: int, stop: int) -> Iterator[tuple[int, int, bytes]]:
    """The lines from ``start`` to ``stop`` as JSON lists that fit; a longer line is one of its own."""
    text = orjson.dumps(lines[start:stop])
    if len(text) <= LARGEST_CHUNK or stop == start + 1:
        yield start, stop, text
        return
    middle = (start + stop) // 2
    yield from _pieces(lines, start, middle)
    yield from _pieces(lines, middle, stop)


_TEXT, _NUL, _BLOB, _REAL = "{0}", "CAST(unhex({0}) AS TEXT)", "unhex({0})", "CAST({0} AS REAL) * pow(2.0, {1})"


def _path(form: str, at: int, part: int = 0) -> str:
    return f"'$[{at}][{part}]'" if form == _REAL else f"'$[{at}]'"


def _encoded(name: str, column: pa.ChunkedArray) -> tuple[str, list[Any]]:
    """How SQL makes a cell from its JSON, and the JSON. A NaN, which SQLite has not, is refused."""
    held = column.type
    if pa.types.is_uint64(held):
        column = pa.chunked_array([chunk.view(pa.int64()) for chunk in column.chunks], pa.int64())
    if pa.types.is_floating(held):
        values = column.to_pylist()
        if any(value is not None and math.isnan(value) for value in values):
            raise RejectedError("inexact", name)
        if all(value is None or _short(value) for value in values):
            return _TEXT, values
        return _REAL, [None if value is None else _halves(value) for value in values]
    storage = storage_of(held)
    if storage == "BLOB":
        return _BLOB, [None if value is None else value.hex() for value in column.to_pylist()]
    if storage == "INTEGER":
        return _TEXT, column.to_pylist()
    texts = column.cast(pa.string()).to_pylist()
    if "\0" not in "".join(filter(None, texts)):
        return _TEXT, texts
    return _NUL, [None if text is None else text.encode().hex() for text in texts]


def _short(value: float) -> bool:
    """Whether any reader of decimal numbers finds exactly this one: few digits, a small power of ten."""
    if not 1e-6 <= abs(value) < 1e15:
        return value == 0 and math.copysign(1, value) > 0
    return len(repr(value).strip("-").replace(".", "").strip("0")) <= 15


def _halves(value: float) -> tuple[int, int]:
    """An integer and the power of two that make this value without rounding."""
    if math.isinf(value):
        return (1 if value > 0 else -1), 5000
    above, below = value.as_integer_ratio()
    zeros = (above & -above).bit_length() - 1 if above and below == 1 else 0
    return above >> zeros, zeros - below.bit_length() + 1


def _large(names: Sequence[str], row: Sequence[tuple[str, Any]]) -> Chunk:
    """One row whose JSON is longer than a value may be: its long cells in pieces."""
    cells, parameters = [], []
    for name, (form, value) in zip(names, row, strict=True):
        if not isinstance(value, str):
            sql = form.format(*value) if isinstance(value, tuple) else literal(value)[0]
            cells.append(f"{sql} AS {quote(name)}")
            continue
        if len(value.encode()) > (MOST_VALUE if form == _TEXT else 2 * MOST_VALUE):
            raise RejectedError("too_large", name)
        step = LARGEST_CHUNK // 4  # characters of at most four bytes; an even number of hexadecimal digits
        pieces = [value[start : start + step] for start in range(0, len(value), step)] or [""]
        parameters += pieces
        joined = " || ".join("?" if form == _TEXT else "unhex(?)" for _ in pieces)
        kind = {_TEXT: joined, _NUL: f"CAST({joined} AS TEXT)", _BLOB: f"CAST({joined} AS BLOB)"}[form]
        cells.append(f"{kind} AS {quote(name)}")
    return Chunk(", ".join(cells), "", tuple(parameters), 1)
