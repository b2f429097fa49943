"""SQLite's catalogue and values in our words: declared types to kinds, cells to Arrow and back."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import ARROW, MOST_BYTES, TROUBLE, Column, ForeignKey, Kind, Schema

Rows = list[tuple[Any, ...]]
Ask = Callable[[str, Sequence[Any]], Rows]

PAGE = 1_000
"""Rows of a source that are read at once; what they hold is known afterwards."""

_QUOTED = r"(?:'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\")"
_CHECK = re.compile(rf'{_QUOTED}|(?:CONSTRAINT\s+("(?:[^"]|"")*"|\w+)\s+)?\bCHECK\s*\(', re.IGNORECASE)
_PAREN = re.compile(rf"{_QUOTED}|[()]")
_LISTED = re.compile(rf"\(?\s*[\"`\[]?(\w+)[\"`\]]?\s+IN\s*\(((?:\s*{_QUOTED}\s*,?)+)\)\s*\)?", re.IGNORECASE)
NUMBER = r"(?i)^\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$"
"""What SQLite may take for a number and store as one, as Python's and Arrow's regular expressions say it."""
_NUMBER = re.compile(NUMBER)


def quote(name: str) -> str:
    """An identifier, whatever characters it has."""
    return '"' + name.replace('"', '""') + '"'


def kind_of(declared: str) -> Kind:
    """As https://sqlite.org/datatype3.html determines a column's affinity, and BOOLEAN, NUMERIC, DECIMAL."""
    name = declared.upper()
    if "INT" in name:
        return Kind.INT64
    if any(word in name for word in ("CHAR", "CLOB", "TEXT")):
        return Kind.TEXT
    if "BLOB" in name:
        return Kind.BINARY
    if any(word in name for word in ("REAL", "FLOA", "DOUB")):
        return Kind.FLOAT64
    if any(word in name for word in ("NUMERIC", "DECIMAL")):
        return Kind.NUMERIC
    return Kind.BOOLEAN if name.startswith("BOOL") else Kind.OTHER


def read_schema(ask: Ask, dataset: str, privileges: frozenset[str]) -> Schema:
    """The table's columns and constraints; CHECKs are parsed, as SQLite does not list them."""
    info = ask("SELECT * FROM pragma_table_xinfo(?)", [dataset])
    key = _key(info)
    sql = ask("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", [dataset])
    triggers = ask("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ? ORDER BY name", [dataset])
    checks = dict(_checks(sql[0][0] or ""))
    choices = {found[1]: found[2] for text in checks.values() if (found := _LISTED.fullmatch(text))}
    return Schema(
        dataset,
        tuple(_column(row, len(key) == 1, choices.get(row[1])) for row in info if row[6] != 1),
        key,
        tuple(_unique(ask, dataset)),
        tuple(_foreign_keys(ask, dataset)),
        checks,
        tuple(name for (name,) in triggers),
        privileges=privileges,
    )


def _key(info: Rows) -> tuple[str, ...]:
    # SQLite numbers a primary key's columns from 1; 0 is no part of it.
    return tuple(row[1] for row in sorted(info, key=lambda row: int(row[5])) if row[5])


def _column(row: tuple[Any, ...], alone: bool, choices: str | None) -> Column:
    _, name, declared, required, default, key, hidden = row
    serial = bool(alone and key and declared.upper() == "INTEGER")  # an alias of rowid, filled in when absent
    listed = [text[1:-1].replace("''", "'") for text in re.findall(_QUOTED, choices or "")]
    return Column(
        name,
        kind_of(declared),
        native=declared,
        nullable=not (required or key),
        has_default=default is not None or serial,
        generated=hidden in (2, 3),
        choices=tuple(listed) or None,
    )


def _unique(ask: Ask, dataset: str) -> Iterator[tuple[str, ...]]:
    indexes = ask(
        "SELECT name FROM pragma_index_list(?) WHERE \"unique\" AND NOT partial AND origin <> 'pk' ORDER BY seq",
        [dataset],
    )
    for (index,) in indexes:
        names = [name for (name,) in ask("SELECT name FROM pragma_index_info(?) ORDER BY seqno", [index])]
        if None not in names:  # an expression has no name
            yield tuple(names)


def _foreign_keys(ask: Ask, dataset: str) -> Iterator[ForeignKey]:
    """SQLite keeps no names of foreign keys; they get the one that Postgres would give them."""
    parts = ask('SELECT id, "table", "from", "to" FROM pragma_foreign_key_list(?) ORDER BY id, seq', [dataset])
    for number in sorted({part[0] for part in parts}):
        mine = [part for part in parts if part[0] == number]
        target, columns = mine[0][1], tuple(part[2] for part in mine)
        named = tuple(part[3] for part in mine)
        if None in named:  # REFERENCES people, without columns
            named = _key(ask("SELECT * FROM pragma_table_xinfo(?)", [target]))
        yield ForeignKey(f"{dataset}_{'_'.join(columns)}_fkey", columns, target, named)


def _checks(sql: str) -> Iterator[tuple[str, str]]:
    position, unnamed = 0, 0
    while found := _CHECK.search(sql, position):
        position = found.end()
        if not found[0].endswith("("):
            continue  # something quoted
        end = _closing(sql, position)
        unnamed += not found[1]
        yield (found[1] or f"check_{unnamed}").strip('"'), sql[position:end].strip()
        position = end


def _closing(sql: str, start: int) -> int:
    depth = 1
    for found in _PAREN.finditer(sql, start):
        depth += {"(": 1, ")": -1}.get(found[0], 0)
        if not depth:
            return found.start()
    return len(sql)


@functools.cache
def marked(sql: str) -> str:
    """`%s` as SQLite writes a parameter, and `%%` as a percent sign, which it is in every dialect."""
    return _outside_quotes(sql, "%s", "?").replace("%%", "%")


def bare(sql: str) -> str:
    """The statement with a null for each parameter, for where SQLite allows none."""
    return _outside_quotes(sql, "?", "NULL")


def _outside_quotes(sql: str, old: str, new: str) -> str:
    parts = re.split(f"({_QUOTED})", sql)
    return "".join(part if index % 2 else part.replace(old, new) for index, part in enumerate(parts))


def kept(text: str | None, numeric: bool) -> bool:
    """Whether a column with numeric affinity, which turns text into numbers, keeps this one.

    A column that is declared as a number may drop zeros (`1.50`); any other one (DATETIME, UUID, STRING) must
    give back the very text.
    """
    if text is None or not _NUMBER.fullmatch(text):
        return True
    digits = text.strip().lstrip("+-")
    if digits.isdecimal() and -(2**63) <= int(text) < 2**63:
        return numeric or str(int(text)) == text
    significant = re.sub(r"e.*|\.", "", digits, flags=re.IGNORECASE).strip("0")
    return len(significant) <= 15 and (numeric or repr(float(text)) == text)


def tuples(rows: pa.Table) -> Iterator[tuple[Any, ...]]:
    """Rows as sqlite3 takes them; a NaN becomes text, because SQLite would silently store a null."""
    return zip(*(cells(column) for column in rows.columns), strict=True)


def in_key_order(schema: Schema, rows: pa.Table, key: Sequence[str]) -> pa.Table:
    """New rows in the order of their key: its index is gone through once, not searched for every row.

    As they came where the database numbers them itself.
    """
    given = {name for name in rows.column_names if not rows[name].null_count}
    if not schema.key or not given.issuperset(schema.key):
        return rows
    return rows.sort_by([(name, "ascending") for name in key])


def cells(column: pa.ChunkedArray) -> list[Any]:
    """A column as sqlite3 takes it."""
    held = column.type
    if pa.types.is_uint64(held):
        signed = [chunk.view(pa.int64()) for chunk in column.chunks]
        return list(pa.chunked_array(signed, pa.int64()).to_pylist())
    found: list[Any] = (column if storage_of(held) != "TEXT" else column.cast(pa.string())).to_pylist()
    if pa.types.is_floating(held) and pc.any(pc.is_nan(column)).as_py():
        return ["NaN" if cell != cell else cell for cell in found]
    return found


def storage_of(held: pa.DataType) -> str:
    """The type to declare for an Arrow type."""
    if pa.types.is_integer(held) or pa.types.is_boolean(held):
        return "INTEGER"
    if pa.types.is_floating(held):
        return "REAL"
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return "BLOB" if any(test(held) for test in binary) else "TEXT"


class Gathered:
    """Pages of a source that are read one after the other, until they are a batch."""

    def __init__(self, rows: int) -> None:
        self._rows, self._pages = rows, list[pa.Table]()
        self.count = 0

    @property
    def room(self) -> int:
        """Rows of the next page."""
        return min(self._rows - self.count, PAGE)

    def add(self, page: pa.Table) -> bool:
        """Whether they are a batch now: so many rows, or so large."""
        self._pages.append(page)
        self.count += page.num_rows
        return self.count >= self._rows or sum(one.nbytes for one in self._pages) >= MOST_BYTES

    def taken(self) -> pa.Table:
        """All of them; then there are none."""
        pages, self._pages, self.count = self._pages, [], 0
        return pa.concat_tables(pages, promote_options="default").combine_chunks()


def decoded(schema: Schema, rows: Rows) -> pa.Table:
    """A page of a source: text everywhere but in BLOB columns, and what could not be read as `_trouble`."""
    arrays: dict[str, pa.Array] = {}
    trouble: dict[int, str] = {}
    for column, cells in zip(schema.columns, zip(*rows, strict=True), strict=False):
        convert = _bytes if column.kind is Kind.BINARY else _texts
        try:
            arrays[column.name] = convert(cells)
        except ValueError:
            good = [cell if _readable(cell) else None for cell in cells]
            wrong = (row for row, cell in enumerate(cells) if not _readable(cell))
            trouble |= dict.fromkeys(wrong, f"{column.name}: not UTF-8")
            arrays[column.name] = convert(good)
    if trouble:
        arrays[TROUBLE] = pa.array([trouble.get(row) for row in range(len(rows))], pa.string())
    return pa.table(arrays)


def typed(kind: Kind, cells: Sequence[Any]) -> pa.Array:
    """Cells of a target column in the Arrow type of its kind; ValueError where one does not fit."""
    if ARROW[kind] == pa.string():
        return _texts(cells)
    expected: Mapping[Kind, set[type]] = {Kind.BINARY: {bytes}, Kind.FLOAT64: {float}}
    if not _types(cells) <= expected.get(kind, {int}):
        raise ValueError
    if kind is Kind.BOOLEAN and not {*cells} <= {0, 1, None}:
        raise ValueError
    return pa.array(cells, pa.int64()).cast(pa.bool_()) if kind is Kind.BOOLEAN else pa.array(cells, ARROW[kind])


def answer(declared: str, cells: Sequence[Any]) -> pa.Array:
    """A column of a query: by its values, or as declared where it has none."""
    found = _types(cells)
    if found <= {int, bool} and (found or kind_of(declared) in (Kind.INT64, Kind.BOOLEAN)):
        return pa.array(cells, pa.int64())
    if found <= {bytes} and (found or kind_of(declared) is Kind.BINARY):
        return pa.array(cells, pa.binary())
    return _texts(cells)


def _types(cells: Sequence[Any]) -> set[type]:
    return set(map(type, cells)) - {type(None)}


def _texts(cells: Sequence[Any]) -> pa.Array:
    found = _types(cells)
    if found == {int}:
        return pa.array(cells, pa.int64()).cast(pa.string())
    return pa.array(cells if found <= {str} else [_text(cell) for cell in cells], pa.string())


def _text(cell: Any) -> str | None:
    if isinstance(cell, bytes):
        return cell.decode()
    return cell if cell is None or isinstance(cell, str) else repr(cell)


def _bytes(cells: Sequence[Any]) -> pa.Array:
    if _types(cells) <= {bytes}:
        return pa.array(cells, pa.binary())
    texts = (cell if cell is None or isinstance(cell, bytes) else _text(cell) for cell in cells)
    raw = [text.encode(errors="surrogateescape") if isinstance(text, str) else text for text in texts]
    return pa.array(raw, pa.binary())


def _readable(cell: Any) -> bool:
    try:
        (_text(cell) or "").encode()
    except ValueError:
        return False
    return True
