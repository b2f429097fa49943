"""Listings of a bucket: parts that can be read on their own, objects as rows, and finding some keys among many."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
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

FEW = 64
"""Up to so many keys are looked at one by one, without a listing."""

DEEPEST = 8
"""Folders that hold nothing but one folder are gone through so far to find parts."""


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


def find(bucket: Bucket, keys: Sequence[str], columns: Sequence[str]) -> list[Found]:
    """Those of ``keys`` (sorted, each once) that are there.

    A listing of what their names have in common costs less than many looks, unless it holds far more than they
    are: it is given up as soon as looking would have been faster. What a listing does not tell (the MD5 of an
    object in parts, the content type) is looked up where it is asked for.
    """
    if len(keys) <= FEW or "content_type" in columns:
        return looks(bucket, keys)
    wanted, found = set(keys), dict[str, Found]()
    budget = len(keys) // AT_ONCE
    missing: list[str] = []
    for number, page in enumerate(bucket.pages(Prefix=_shared(keys[0], keys[-1]))):
        if number >= budget:
            missing = [key for key in keys if key not in found]
            break
        found |= {one.key: one for one in bucket.found(page) if one.key in wanted}
    unsaid = [one.key for one in found.values() if one.md5 is None] if "md5" in columns else []
    seen = {one.key: one for one in looks(bucket, [*missing, *unsaid])}
    return [seen.get(key) or found[key] for key in keys if key in seen or (key in found and key not in unsaid)]


def _shared(first: str, last: str) -> str:
    """What both begin with, and so all that are sorted between them."""
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return "".join(one for one, _ in pairs)


def looks(bucket: Bucket, keys: Sequence[str]) -> list[Found]:
    """Those of ``keys`` that are there, each looked at by a call of its own."""
    if len(keys) <= 1:
        return [one for one in map(bucket.look, keys) if one]
    with pool() as looking:
        return [one for one in looking.map(bucket.look, keys) if one]


def pool() -> ThreadPoolExecutor:
    """Threads for calls that concern one object each."""
    return ThreadPoolExecutor(AT_ONCE, "resettle-s3")
