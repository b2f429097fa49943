"""Uniques: which 64-bit hashes a run has seen, in 8 bytes each; what goes with them lies on disk.

Sorted arrays of doubling size, so that adding n hashes costs O(n log n) in all. They are kept in buckets, by their
first bits, so that making a larger array of two takes room for a bucket, not for all. Two different keys have one
hash with probability n**2 / 2**65 (3e-6 for ten million): then one record too many is held, and listed.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from typing import IO

import numpy as np
import numpy.typing as npt

from resettle import private

Hashes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

BUCKETS = 16
CHUNK = 1 << 20
"""Pairs that are read from disk at a time."""
_EDGES = np.arange(1 - BUCKETS // 2, BUCKETS // 2, dtype=np.int64) * (2**64 // BUCKETS)
"""Where each bucket but the first begins."""


class Uniques:
    """A set of hashes; each may have a companion (of the record that brought it, say), kept as it was added."""

    def __init__(self) -> None:
        self._buckets: list[list[Hashes]] = [[] for _ in range(BUCKETS)]
        self._added: IO[bytes] | None = None
        """Pairs of a hash and its companion, in the order in which they were added."""

    def __bool__(self) -> bool:
        return any(self._buckets)

    def seen(self, hashes: Hashes) -> Mask:
        """For each hash, whether it was added before."""
        found = np.zeros(len(hashes), np.bool_)
        if not self:
            return found
        order = np.argsort(hashes)
        ordered = hashes[order]
        hit = np.zeros(len(hashes), np.bool_)
        for levels, mine in self._divided(ordered):
            for level in levels:
                hit[mine] |= located(level, ordered[mine])[1]
        found[order] = hit
        return found

    def repeated(self, hashes: Hashes) -> Mask:
        """For each hash, whether it was added before or stands earlier in the same array."""
        again = self.seen(hashes)
        ordered = np.sort(hashes)
        if (ordered[1:] == ordered[:-1]).any():
            order = np.argsort(hashes, kind="stable")
            again[order[1:]] |= hashes[order[1:]] == hashes[order[:-1]]
        return again

    def companions(self, hashes: Hashes) -> dict[int, int]:
        """What was added with each of these hashes, first. Costs a pass over all that was added."""
        found: dict[int, int] = {}
        if self._added is None:
            return found
        wanted = np.sort(hashes)
        self._added.seek(0)
        while block := self._added.read(16 * CHUNK):
            pairs = np.frombuffer(block, np.int64).reshape(-1, 2)
            for one, beside in pairs[contains(wanted, pairs[:, 0])].tolist():
                found.setdefault(one, beside)
        return found

    def add(self, hashes: Hashes, companions: Hashes | None = None) -> None:
        if not len(hashes):
            return
        if companions is not None:
            if self._added is None:
                self._added = tempfile.TemporaryFile(dir=private.spill())  # noqa: SIM115 - it goes with the run
            self._added.seek(0, 2)
            self._added.write(np.column_stack([hashes, companions]).tobytes())
        ordered = np.sort(hashes)
        for levels, mine in self._divided(ordered):
            merged = ordered[mine].copy()
            while levels and len(levels[-1]) <= 2 * len(merged):
                merged = np.concatenate([levels.pop(), merged])
                merged.sort()
            levels.append(merged)

    def _divided(self, ordered: Hashes) -> Iterator[tuple[list[Hashes], slice]]:
        """The buckets that sorted hashes fall into, each with their places."""
        cuts = [0, *np.searchsorted(ordered, _EDGES).tolist(), len(ordered)]
        for levels, (first, last) in zip(self._buckets, itertools.pairwise(cuts), strict=True):
            if last > first:
                yield levels, slice(first, last)


def contains(ordered: Hashes, hashes: Hashes) -> Mask:
    """For each hash, whether the sorted array ``ordered`` holds it."""
    order = np.argsort(hashes)
    found = np.empty(len(hashes), np.bool_)
    found[order] = located(ordered, hashes[order])[1]
    return found


def located(ordered: Hashes, asked: Hashes) -> tuple[npt.NDArray[np.intp], Mask]:
    """Where in the sorted array ``ordered`` each of the sorted hashes ``asked`` stands, and whether it does.

    In their order a search begins near where the last one ended (measured: a quarter of the time).
    """
    if not len(ordered):
        return np.zeros(len(asked), np.intp), np.zeros(len(asked), np.bool_)
    at = np.searchsorted(ordered, asked)
    at[at == len(ordered)] = 0
    return at, ordered[at] == asked
