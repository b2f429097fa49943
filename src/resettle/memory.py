"""Steady memory: tell the allocator to give freed blocks back, so that a long run needs no more than a short one.

Batches come and go through several threads; by default glibc keeps what they free (measured: 680 MB instead of
430 MB at a million rows). Only the command line calls `steady`: a library does not change its host's allocator.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import pyarrow as pa

T = TypeVar("T")

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""glibc's malloc.h."""
_ALLOCATIONS = 100_000
"""Between two looks for cycles of objects. A batch makes many small ones, and no cycles (measured: 3 % of a run)."""
_SELDOM = 0.25
"""Seconds between two times of giving back what is free among the small blocks; it takes 5 ms."""

_trim: Callable[[int], Any] | None = None


def steady() -> None:
    """Large blocks are mapped on their own and unmapped when freed, where there is a mallopt; what is free among small
    ones is given back by `trimmed`; cycles are rarely looked for, and never among what is loaded by now."""
    global _trim
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS, 20, 100)
    glibc = ctypes.CDLL(None)
    mallopt, _trim = getattr(glibc, "mallopt", None), getattr(glibc, "malloc_trim", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 1 << 20)
        mallopt(_TRIM_THRESHOLD, 4 << 20)
        mallopt(_ARENA_MAX, 2)
    pa.set_memory_pool(pa.system_memory_pool())


def trimmed(batches: Iterable[T]) -> Iterator[T]:
    """The same batches; free memory is given back between them, once `steady` was called."""
    last = time.monotonic()
    for batch in batches:
        yield batch
        if _trim is not None and time.monotonic() - last > _SELDOM:
            _trim(0)
            last = time.monotonic()
