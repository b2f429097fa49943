"""Isolate: cut a refused batch in halves until the refused units stand alone; O(k log n) tries for k of n."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, Self, TypeVar

import pyarrow as pa

from resettle.errors import RejectedError

D = TypeVar("D")


class Divisible(Protocol):
    """A batch of units that can be cut."""

    def __len__(self) -> int: ...

    def part(self, start: int, stop: int) -> Self: ...

    def refusal(self, reason: str, detail: str) -> pa.Table: ...


B = TypeVar("B", bound=Divisible)


def isolate(batch: B, commit: Callable[[B, pa.Table | None], D]) -> list[D]:
    """Commit every unit that can be, and the others as held. ``commit(part, held)`` raises RejectedError."""
    try:
        return [commit(batch, None)]
    except RejectedError as error:
        if len(batch) == 1:
            return [commit(batch, batch.refusal(error.reason, error.detail))]
    middle = len(batch) // 2
    first, second = batch.part(0, middle), batch.part(middle, len(batch))
    return [*isolate(first, commit), *isolate(second, commit)]
