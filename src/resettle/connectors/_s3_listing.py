"""Listings of a bucket: parts that can be read on their own, objects as rows, and single looks."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from resettle.batch import ARROW, Column, Kind, Partition
from resettle.connectors._s3_bucket import Bucket, Found

COLUMNS = (
    Column("key", Kind.TEXT, nullable=False),
    Column("size", Kind.INT64, nullable=False),
    Column("etag", Kind.TEXT),
    Column("md5", Kind.TEXT),
    Column("last_modified", Kind.INSTANT),
    Column("content_type", Kind.TEXT),
)

AT_ONCE = 16
"""Objects that are looked at in parallel."""

DEEPEST = 8
"""Folders that hold nothing but one folder are gone through so far to find parts."""


REMEMBERED = 40_000
"""Objects of a listing that are remembered until they are opened: two batches, about 20 MB."""


class Listed:
    """What was listed last, for opening it without another look. From many threads."""

    def __init__(self) -> None:
        self._found: dict[str, Found] = {}
        self._lock = threading.Lock()

    def add(self, objects: Iterable[Found]) -> None:
        """Remember those whose MD5 the listing knows; the longest remembered make room."""
        with self._lock:
            for one in objects:
                if one.md5 is not None:
                    self._found.pop(one.key, None)
                    self._found[one.key] = one
            while len(self._found) > REMEMBERED:
                del self._found[next(iter(self._found))]

    def take(self, key: str) -> Found | None:
        """What is remembered of an object, once."""
        with self._lock:
            return self._found.pop(key, None)


def table(objects: Sequence[Found], names: Sequence[str]) -> pa.Table:
    """Objects as rows of these columns."""
    kinds = {column.name: column.kind for column in COLUMNS}
    columns = {name: pa.array([getattr(one, name) for one in objects], ARROW[kinds[name]]) for name in names}
    return pa.table(columns)


def partitions(bucket: Bucket, dataset: str, prefix: str, wanted: int) -> list[Partition]:
    """Parts by folder (up to `/`), and one for all that lies in none of them.

    No part relies on the listing's order, and a folder made later belongs to the last part. A level with more
    than a page of folders is not cut.
    """
    level, folders = prefix, _folders(bucket, prefix) if wanted > 1 else None
    for _ in range(DEEPEST):
        if folders is None or len(folders) != 1:
            break
        level, folders = folders[0], _folders(bucket, folders[0])
    if not folders:
        bucket.reach()
        return [Partition(dataset, prefix or "all", {"prefixes": [prefix]})]
    groups = [folders[at :: wanted - 1] for at in range(min(wanted - 1, len(folders)))]
    parts = [Partition(dataset, f"{group[0]} and like it", {"prefixes": group}) for group in groups]
    # What lies above the level that was cut is in the last part too: it lists from the connection's own prefix.
    return [*parts, Partition(dataset, "the rest", {"prefixes": [], "above": prefix, "level": level, "known": folders})]


def _folders(bucket: Bucket, level: str) -> list[str] | None:
    """The folders right below ``level``; None where they fill more than a page."""
    page = next(bucket.pages(Prefix=level, Delimiter="/"))
    return None if page.get("IsTruncated") else [one["Prefix"] for one in page.get("CommonPrefixes", [])]


def read(bucket: Bucket, detail: Mapping[str, Any], rows: int) -> Iterator[list[Found]]:
    """A part's objects, a page at a time."""
    for prefix in detail["prefixes"]:
        for page in bucket.pages(rows, Prefix=prefix):
            yield bucket.found(page)
    if "level" in detail:
        yield from _rest(bucket, detail["above"], detail["level"], set(detail["known"]), rows)


def _rest(bucket: Bucket, above: str, level: str, known: set[str], rows: int) -> Iterator[list[Found]]:
    """All below ``above`` that no other part has, folder by folder down to ``level``."""
    for page in bucket.pages(rows, Prefix=above, Delimiter="/"):
        yield bucket.found(page)
        for folder in (one["Prefix"] for one in page.get("CommonPrefixes", [])):
            if folder in known:
                continue
            if level.startswith(folder):
                yield from _rest(bucket, folder, level, known, rows)
                continue
            for inner in bucket.pages(rows, Prefix=folder):
                yield bucket.found(inner)


def looks(bucket: Bucket, keys: Sequence[str]) -> list[Found]:
    """Those of ``keys`` that are there, each looked at by a call of its own."""
    if len(keys) <= 1:
        return [one for one in map(bucket.look, keys) if one]
    with pool() as looking:
        return [one for one in looking.map(bucket.look, keys) if one]


def pool() -> ThreadPoolExecutor:
    """Threads for calls that concern one object each."""
    return ThreadPoolExecutor(AT_ONCE, "resettle-s3")
