"""Uniques: which 64-bit hashes a run has seen, in 8 bytes each (16 with a companion).

Sorted arrays of doubling size, so that adding n hashes costs O(n log n) in all. Two different keys have one
hash with probability n**2 / 2**65 (3e-6 for ten million): then one record too many is held, and listed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class Uniques:
    """A set of hashes; each may have a companion (of the record that brought it, say), kept as it was added."""

    def __init__(self) -> None:
        self._levels: list[Hashes] = []
        self._added: list[tuple[Hashes, Hashes]] = []

    def __bool__(self) -> bool:
        return bool(self._levels)

    def seen(self, hashes: Hashes) -> Mask:
        """For each hash, whether it was added before."""
        found = np.zeros(len(hashes), np.bool_)
        for level in self._levels:
            found |= contains(level, hashes)
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
        for added, beside in reversed(self._added):
            hit = np.isin(added, hashes)
            found |= zip(added[hit].tolist(), beside[hit].tolist(), strict=True)
        return found

    def add(self, hashes: Hashes, companions: Hashes | None = None) -> None:
        if not len(hashes):
            return
        if companions is not None:
            self._added.append((hashes, companions))
        merged = np.sort(hashes)
        while self._levels and len(self._levels[-1]) <= 2 * len(merged):
            merged = np.sort(np.concatenate([self._levels.pop(), merged]))
        self._levels.append(merged)


def contains(ordered: Hashes, hashes: Hashes) -> Mask:
    """For each hash, whether the sorted array ``ordered`` holds it."""
    if not len(ordered):
        return np.zeros(len(hashes), np.bool_)
    at = np.searchsorted(ordered, hashes)
    at[at == len(ordered)] = 0
    found: Mask = ordered[at] == hashes
    return found
