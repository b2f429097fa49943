"""The memory connector's files: bodies behind the rows of a dataset with key, size and md5."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

from resettle.connector import Body, Stored
from resettle.errors import RejectedError


class Shelf:
    """Bytes by dataset and key. ``listed(dataset, key, size, md5)`` makes a file's row what it should be."""

    def __init__(self, listed: Callable[[str, str, int, str], None]) -> None:
        self.files: dict[tuple[str, str], bytes] = {}
        self.puts: list[str] = []
        self._listed = listed

    def open(self, dataset: str, key: str) -> Body:
        content = self.files.get((dataset, key))
        if content is None:
            raise RejectedError("gone", "there is no such file")
        return Body(lambda start: iter([content[start:]]), len(content), hashlib.md5(content).hexdigest())  # noqa: S324

    def put(self, dataset: str, key: str, body: Body, *, metadata: Mapping[str, str], replace: bool) -> Stored:
        if not replace and (dataset, key) in self.files:
            raise RejectedError("exists", "the file is there already")
        content = b"".join(body.chunks(0))
        stored = Stored(len(content), hashlib.md5(content).hexdigest())  # noqa: S324
        if body.size not in (None, stored.size) or body.md5 not in (None, stored.md5):
            raise RejectedError("changed", "the bytes are not those that were listed")
        self.files[dataset, key] = content
        self.puts.append(key)
        self._listed(dataset, key, stored.size, stored.md5)
        return stored

    def abandon(self, dataset: str) -> int:
        """Nothing is ever half put."""
        return 0
