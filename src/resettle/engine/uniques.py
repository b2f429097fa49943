"""Uniques: which 64-bit hashes a run has seen, in 16 bytes each.

Sorted arrays of doubling size, so that adding n hashes costs O(n log n) in all. Two different keys have one
hash with probability n**2 / 2**65 (3e-6 for ten million): then one record too many is held, and listed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class Uniques:
    """Hashes, each with a companion hash (of the record that brought it, say)."""

    def __init__(self) -> None:
        self._levels: list[tuple[Hashes, Hashes]] = []

    def seen(self, hashes: Hashes) -> Mask:
        """For each hash, whether it was added before."""
        found = np.zeros(len(hashes), np.bool_)
        for level, _ in self._levels:
            found |= contains(level, hashes)
        return found

    def repeated(self, hashes: Hashes) -> Mask:
        """For each hash, whether it was added before or stands earlier in the same array."""
        order = np.argsort(hashes, kind="stable")
        again = np.zeros(len(hashes), np.bool_)
        again[order[1:]] = hashes[order[1:]] == hashes[order[:-1]]
        return again | self.seen(hashes)

    def companion(self, value: int) -> int | None:
        """What was added with a hash, first."""
        for level, companions in self._levels:
            at = int(np.searchsorted(level, value))
            if at < len(level) and level[at] == value:
                return int(companions[at])
        return None

    def add(self, hashes: Hashes, companions: Hashes | None = None) -> None:
        order = np.argsort(hashes, kind="stable")
        merged, beside = hashes[order], (hashes if companions is None else companions)[order]
        while self._levels and len(self._levels[-1][0]) <= 2 * len(merged):
            level, more = self._levels.pop()
            both = np.concatenate([level, merged])
            order = np.argsort(both, kind="stable")
            merged, beside = both[order], np.concatenate([more, beside])[order]
        if len(merged):
            self._levels.append((merged, beside))


def contains(ordered: Hashes, hashes: Hashes) -> Mask:
    """For each hash, whether the sorted array ``ordered`` holds it."""
    if not len(ordered):
        return np.zeros(len(hashes), np.bool_)
    at = np.searchsorted(ordered, hashes)
    at[at == len(ordered)] = 0
    found: Mask = ordered[at] == hashes
    return found
