"""Files of records, plain or gzip: checked, shared out, and cut into lines without touching one in Python."""

from __future__ import annotations

import gzip
import json
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import MOST_BYTES, RECORD
from resettle.errors import AccessError, CorruptError

T = TypeVar("T")

_BROKEN: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile)
try:  # three times as fast; comes with resettle[dynamodb]
    from isal import igzip, isal_zlib

    _gunzip: Any = igzip.open
    _BROKEN = (*_BROKEN, cast(type[Exception], isal_zlib.error))
except ImportError:
    _gunzip = gzip.open

BLOCK = 1 << 19
"""Bytes read at a time, decompressed; larger blocks were slower, and took more memory."""

_LINE_FEED = ord("\n")

FETCH_AGAIN = "fetch the file again from where it was made, or make it anew"


@contextmanager
def reading(path: Path, connection: str) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed if its name ends in `.gz`, without a byte order mark; its faults become errors
    that name it."""
    try:
        with _gunzip(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            if stream.read(len(BOM_UTF8)) != BOM_UTF8:
                stream.seek(0)
            yield stream
    except _BROKEN as error:
        said = f"{path.name} is not a whole gzip file"
        raise CorruptError(said, connection=connection, hint=FETCH_AGAIN) from error
    except FileNotFoundError as error:
        raise CorruptError(f"{path.name} is missing", connection=connection, hint=FETCH_AGAIN) from error
    except PermissionError as error:
        raise AccessError(f"{path.name} may not be read", connection=connection) from error


def share(files: Iterable[T], wanted: int, size: Callable[[T], int]) -> list[list[T]]:
    """The files in at most ``wanted`` groups of about equal size; one empty group if there are none."""
    largest = sorted(files, key=lambda file: -size(file))
    groups: list[list[T]] = [[] for _ in range(max(1, min(wanted, len(largest))))]
    for file in largest:
        min(groups, key=lambda group: sum(map(size, group))).append(file)
    return groups


def check(path: Path, connection: str) -> None:
    """Read a file through without decoding it: CorruptError unless its gzip form and last line are whole."""
    before, rest = 0, b""
    with reading(path, connection) as stream:
        while block := stream.read(BLOCK):
            head, found, tail = block.rpartition(b"\n")
            before += head.count(b"\n") + len(found)
            rest = tail if found else rest + tail
    if rest.strip():
        _last(rest, path, connection, before)


def lines(path: Path, connection: str) -> Iterator[pa.Array]:
    """Every line that is not blank, as text with its line feed, a block at a time.

    Raises CorruptError where the file breaks off within its last record, or is not UTF-8.
    """
    before, rest = 0, b""
    with reading(path, connection) as stream:
        while block := stream.read(BLOCK):
            whole = rest + block
            ends = np.flatnonzero(np.frombuffer(whole, np.uint8) == _LINE_FEED)
            if len(ends):
                yield _text(whole, ends, path, connection, before)
            rest = whole[int(ends[-1]) + 1 :] if len(ends) else whole
            before += len(ends)
        if rest.strip():
            yield _last(rest, path, connection, before)


def batches(arrays: Iterable[pa.Array], rows: int) -> Iterator[pa.Table]:
    """The same records in tables of one column `_record`, ``rows`` in each but the last, fewer where they are large."""
    held: list[pa.Array] = []
    count = size = 0
    for array in arrays:
        held.append(array)
        count, size = count + len(array), size + array.nbytes
        while count >= rows or size >= MOST_BYTES:
            whole = pa.chunked_array(held, pa.string())
            yield pa.table({RECORD: whole.slice(0, rows)})
            held = whole.slice(rows).chunks
            count, size = max(count - rows, 0), sum(chunk.nbytes for chunk in held)
    if count:
        yield pa.table({RECORD: pa.chunked_array(held, pa.string())})


def _text(block: bytes, ends: npt.NDArray[np.int64], path: Path, connection: str, before: int) -> pa.Array:
    """The lines of a block that end at ``ends``: an Arrow array over the block's own bytes, no line copied."""
    offsets = np.zeros(len(ends) + 1, np.int32)
    offsets[1:] = ends + 1
    texts = pa.StringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(block))
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        starts = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
        number = before + 1 + next(n for n, (start, end) in enumerate(starts) if not _is_utf8(block[start:end]))
        # Without a cause: Arrow's message holds the line.
        raise CorruptError(
            f"{path.name} line {number}: not UTF-8", connection=connection, hint="convert the file to UTF-8"
        ) from None
    # A look at lengths is cheap; only a file that may hold blank lines pays for more.
    if pc.less(pc.min(pc.binary_length(texts)), 3).as_py():
        texts = texts.filter(pc.not_equal(pc.utf8_trim_whitespace(texts), ""))
    return texts


def _last(line: bytes, path: Path, connection: str, before: int) -> pa.Array:
    """The last line of a file that does not end in a line feed: a whole record, or half of one."""
    if not _is_whole(line):
        said = f"{path.name} line {before + 1}: the file ends in the middle of a record"
        raise CorruptError(said, connection=connection, hint=FETCH_AGAIN)
    whole = line + b"\n"
    return _text(whole, np.array([len(whole) - 1]), path, connection, before)


def _is_whole(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        try:
            json.loads(line)
        except RecursionError:
            return True  # nobody can say; whoever decodes it says so of this record alone
        except ValueError:
            return False
    return True


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
