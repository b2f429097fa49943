"""Uniques: which 64-bit hashes a run has seen, in 8 bytes each.

Sorted arrays of doubling size, so that adding n hashes costs O(n log n) in all. Two different keys have one
hash with probability n**2 / 2**65 (3e-6 for ten million): then one record too many is held, and listed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.int64]


class Uniques:
    def __init__(self) -> None:
        self._levels: list[Hashes] = []

    def seen(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """For each hash, whether it was added before."""
        found = np.zeros(len(hashes), np.bool_)
        for level in self._levels:
            found |= contains(level, hashes)
        return found

    def repeated(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """For each hash, whether it was added before or stands earlier in the same array."""
        order = np.argsort(hashes, kind="stable")
        again = np.zeros(len(hashes), np.bool_)
        again[order[1:]] = hashes[order[1:]] == hashes[order[:-1]]
        return again | self.seen(hashes)

    def add(self, hashes: Hashes) -> None:
        merged = np.sort(hashes)
        while self._levels and len(self._levels[-1]) <= 2 * len(merged):
            merged = np.sort(np.concatenate([self._levels.pop(), merged]), kind="stable")
        if len(merged):
            self._levels.append(merged)


def contains(ordered: Hashes, hashes: Hashes) -> npt.NDArray[np.bool_]:
    """For each hash, whether the sorted array ``ordered`` holds it."""
    if not len(ordered):
        return np.zeros(len(hashes), np.bool_)
    at = np.searchsorted(ordered, hashes)
    at[at == len(ordered)] = 0
    found: npt.NDArray[np.bool_] = ordered[at] == hashes
    return found
