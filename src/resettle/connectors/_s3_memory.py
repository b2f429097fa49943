"""Finding some keys among many objects: by looks or by a listing, which a run may remember until its end."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from resettle.connectors._s3_bucket import Bucket, Found
from resettle.connectors._s3_listing import AT_ONCE, looks

FEW = 64
"""Up to so many keys are looked at one by one, without a listing."""
KEPT = 250_000
"""Objects that are remembered, some 150 MB; a listing of more is made anew for each question."""


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
        self._listed: dict[str, dict[str, Found]] = {}
        """By prefix: all that lies below it."""
        self._span: tuple[str, str] | None = None
        self._asked = self._least = 0

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
                return {key: there[key] for key in keys if key in there}, ()
        self._asked += len(keys)
        first, last = self._span or (keys[0], keys[-1])
        self._span = min(first, keys[0]), max(last, keys[-1])
        if self._asked <= FEW or self._asked < self._least:
            return {}, keys
        return self._list(_shared(*self._span), set(keys), self._asked // AT_ONCE)

    def _list(self, prefix: str, wanted: set[str], budget: int) -> tuple[dict[str, Found], Sequence[str]]:
        there: dict[str, Found] = {}
        found: dict[str, Found] = {}
        for number, page in enumerate(self._bucket.pages(Prefix=prefix)):
            if number >= budget:
                self._least = self._asked * 2
                return found, sorted(wanted - found.keys())
            objects = self._bucket.found(page)
            found |= {one.key: one for one in objects if one.key in wanted}
            if self._open and len(there) <= KEPT:
                there |= {one.key: one for one in objects}
        if self._open and len(there) <= KEPT:
            self._listed[prefix] = there
        return found, ()


def _shared(first: str, last: str) -> str:
    """What both begin with, and so all that are sorted between them."""
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return "".join(one for one, _ in pairs)
