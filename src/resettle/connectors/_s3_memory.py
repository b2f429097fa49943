"""Finding some keys among many objects: by looks or by a listing, which a run may remember until its end."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from resettle.connectors._s3_bucket import Bucket, Found
from resettle.connectors._s3_listing import AT_ONCE, looks, table

FEW = 64
"""Up to so many keys are looked at one by one, without a listing."""
KEPT = 1_500_000
"""Objects that are remembered, some 150 MB; a listing of more is made anew for each question that is worth it."""
BLOCK = 50_000
"""Objects that are packed together."""


class Packed:
    """Objects of a listing, in about a hundred bytes each."""

    def __init__(self) -> None:
        self._blocks: list[tuple[npt.NDArray[np.int64], pa.Table]] = []
        """By the hashes of their keys, in order."""
        self._loose: list[Found] = []
        self._packed = 0

    def __len__(self) -> int:
        return self._packed + len(self._loose)

    def add(self, objects: Sequence[Found]) -> None:
        self._loose += objects
        if len(self._loose) >= BLOCK:
            self.pack()

    def pack(self) -> None:
        if not self._loose:
            return
        hashes = np.fromiter((hash(one.key) for one in self._loose), np.int64, len(self._loose))
        order = np.argsort(hashes)
        rows = table(self._loose, ["key", "size", "etag", "last_modified"])
        rows = rows.append_column("md5", pa.array([one.md5 is not None for one in self._loose]))
        self._blocks.append((hashes[order], rows.take(pa.array(order)).combine_chunks()))
        self._packed += len(self._loose)
        self._loose = []

    def find(self, keys: Sequence[str]) -> dict[str, Found]:
        """Those of the keys that are there."""
        self.pack()
        found: dict[str, Found] = {}
        wanted = np.fromiter(map(hash, keys), np.int64, len(keys))
        for hashes, rows in self._blocks:
            at = np.searchsorted(hashes, wanted)
            at[at == len(hashes)] = 0
            hit = np.flatnonzero(hashes[at] == wanted)
            for place, row in zip(hit.tolist(), rows.take(pa.array(at[hit])).to_pylist(), strict=True):
                if row["key"] == keys[place]:
                    found[row["key"]] = Found(**row | {"md5": row["etag"] if row["md5"] else None})
        return found


class Memory:
    """What was listed, while somebody remembers. `find` from one thread, `touched` from many.

    A listing of what the keys have in common costs less than many looks, unless it holds far more than they are: it
    is given up as soon as looking would have been faster for all keys that were asked for since the beginning, and
    tried again once they are twice as many.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._open = 0
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._touched: set[str] = set()
        self._listed: dict[str, Packed] = {}
        """By prefix: all that lies below it."""
        self._span: tuple[str, str] | None = None
        self._asked = self._least = 0
        self._large = False
        """Whether a listing was too large to be kept."""

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """May be entered again within itself; all is forgotten at the end of the outermost."""
        if not self._open:
            self._forget()
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            if not self._open:
                self._forget()

    def touched(self, key: str) -> None:
        """We write or remove this object: from now on it is looked at."""
        if self._open:
            with self._lock:
                self._touched.add(key)

    def find(self, keys: Sequence[str], columns: Sequence[str]) -> list[Found]:
        """Those of ``keys`` (sorted, each once) that are there.

        What a listing does not tell (the MD5 of an object in parts, the content type) is looked up where it is asked
        for.
        """
        if not self._open:
            self._forget()
        if not keys or "content_type" in columns:
            return looks(self._bucket, keys)
        found, missing = self._known(keys)
        unsaid = [one.key for one in found.values() if one.md5 is None] if "md5" in columns else []
        with self._lock:
            ours = [key for key in keys if key in self._touched]
        again = set(itertools.chain(missing, unsaid, ours))
        seen = {one.key: one for one in looks(self._bucket, sorted(again))}
        return [one for key in keys if (one := seen.get(key) if key in again else found.get(key))]

    def _known(self, keys: Sequence[str]) -> tuple[dict[str, Found], Sequence[str]]:
        """What listings say of the keys, and the keys of which they say nothing."""
        for prefix, there in self._listed.items():
            if keys[0].startswith(prefix) and keys[-1].startswith(prefix):
                return there.find(keys), ()
        self._asked += len(keys)
        first, last = self._span or (keys[0], keys[-1])
        self._span = min(first, keys[0]), max(last, keys[-1])
        if self._asked <= FEW or self._asked < self._least:
            return {}, keys
        # What cannot be kept must be worth it for these keys alone.
        worth = len(keys) if self._large else self._asked
        return self._list(_shared(*self._span), set(keys), worth // AT_ONCE)

    def _list(self, prefix: str, wanted: set[str], budget: int) -> tuple[dict[str, Found], Sequence[str]]:
        there: Packed | None = Packed() if self._open else None
        found: dict[str, Found] = {}
        for number, page in enumerate(self._bucket.pages(Prefix=prefix)):
            if number >= budget:
                self._least = self._asked * 2
                return found, sorted(wanted - found.keys())
            objects = self._bucket.found(page)
            found |= {one.key: one for one in objects if one.key in wanted}
            if there is not None:
                there.add(objects)
                if len(there) > KEPT:
                    there, self._large = None, True
        if there is not None:
            there.pack()
            self._listed[prefix] = there
        return found, ()


def _shared(first: str, last: str) -> str:
    """What both begin with, and so all that are sorted between them."""
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return "".join(one for one, _ in pairs)
