"""What the ledger takes and gives: runs, what is remembered of units, what a batch adds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Hashes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    """One execution of one phase. ``started_at`` is also its migration_time (UTC, microseconds)."""

    number: int
    phase: str
    started_at: datetime
    fence: int = 0


@dataclass(frozen=True)
class Seen:
    """Hashes (sorted) of the raw records that earlier runs of the same mapping settled."""

    done: Hashes
    others: tuple[tuple[str, str | None, Hashes], ...] = ()
    """(status, reason, hashes) of held and skipped ones."""


@dataclass(frozen=True)
class Known:
    """What earlier runs remember of some units.

    units: unit, first_time (when the run that first saw it began), status (null for plainly done), reason, raw
    rows:  unit, output, n, target_key, fp (16 bytes), shape, reused, minted (JSON or null), raw
    """

    units: pa.Table
    rows: pa.Table


@dataclass(frozen=True)
class Record:
    """What one batch adds to the ledger; every table may be empty. Columns as the ledger's, less flow and run.

    created: unit, output, n, target_key (null if it is the unit), fingerprint, shape, raw, reused, minted
    changed: unit, output, n, fingerprint, shape, raw, reused (null: as it was)
    units:   unit, status, reason, detail, warnings, raw
    images:  unit, output, n, target_key, image
    touched: unit, raw of every unit that was known before: no other row of it keeps a raw hash
    left:    unit, output, n, behind: rows that their unit left behind get a number after those that it makes now
    """

    created: pa.Table
    changed: pa.Table
    units: pa.Table
    images: pa.Table
    touched: pa.Table
    left: pa.Table
    intended: bool = False
    """Whether some of what was created was intended before by this run."""


AWAITING = ("reference_missing", "foreign_key")
"""Reasons of held units that every run looks at again: what they point at may have come."""


def joined(parts: list[Hashes]) -> Hashes:
    """All of them in one sorted array; the list is empty then, so that they are not there twice."""
    whole = np.empty(sum(map(len, parts)), np.int64)
    at = len(whole)
    while parts:
        part = parts.pop()
        whole[at - len(part) : at] = part
        at -= len(part)
    whole.sort()
    return whole


def nothing_known() -> Known:
    """What is known of units that no run ever saw."""
    return Known(UNITS.empty_table(), ROWS.empty_table())


UNITS = pa.schema([*((name, pa.string()) for name in ("unit", "first_time", "status", "reason")), ("raw", pa.int64())])
ROWS = pa.schema(
    [
        ("unit", pa.string()),
        ("output", pa.int64()),
        ("n", pa.int64()),
        ("target_key", pa.string()),
        ("fp", pa.binary()),
        ("shape", pa.int64()),
        ("reused", pa.int64()),
        ("minted", pa.string()),
        ("raw", pa.int64()),
    ]
)
