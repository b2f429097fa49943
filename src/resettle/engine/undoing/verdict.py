"""Verdict: what a rollback is asked about some units, how their rows stand, and what becomes of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from resettle.engine.images import KNOWN, Image
from resettle.engine.undoing.standing import LEFT, Place, Seen
from resettle.ledger.undo import Forgotten, MadeOf, Written

CREATED, UPDATED, PATCHED, REUSED, NOTED = "created", "updated", "patched", "reused", "noted"
"""What a run did to a row; of a noted one it changed only what the ledger says."""
OURS = frozenset({CREATED, UPDATED, PATCHED})
WAITS = frozenset({"referenced", "reused", "refused"})
"""Reasons that may be gone once other units are undone."""


@dataclass(frozen=True)
class Asked:
    """Some units of a flow as the ledger remembers them.

    ``reusers``: of each (connection, dataset), (key, flow, unit) of all that reuse a row which the run made.
    """

    units: list[str]
    written: Written
    reusers: Mapping[tuple[str, str], Sequence[tuple[str, str, str]]]


@dataclass(frozen=True)
class Kept:
    """A unit that is left as it is, and why."""

    flow: str
    unit: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Change:
    """Rows to delete (only their keys) or to restore."""

    place: Place
    rows: pa.Table
    deletes: bool


@dataclass(frozen=True)
class Verdict:
    """What becomes of some units.

    counts: by output: deleted, restored and forgotten rows
    rows:   what `Undone.rows` is to remember
    """

    flow: str
    undone: list[str]
    kept: list[Kept]
    changes: list[Change]
    forgotten: Forgotten
    counts: Mapping[str, Counter[str]]
    rows: list[str]


@dataclass(frozen=True)
class Look:
    """The rows of one output and set of columns, and how they stand. All lists are by row."""

    made: MadeOf
    rows: pa.Table
    units: list[str]
    what: list[str]
    place: Place | None = None
    seen: Seen | None = None
    images: list[Image | None] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    values: pa.Table | None = None
    """Of updated rows: what they held, in wire types."""

    def places(self, active: set[str], *whats: str) -> list[int]:
        """Rows of these units that are to be undone: still as the run left them."""
        wanted = zip(self.units, self.what, self.states, strict=True)
        return [at for at, (u, w, s) in enumerate(wanted) if w in whats and s == LEFT and u in active]


def column(table: pa.Table, name: str) -> list[Any]:
    """A column's values."""
    found: list[Any] = table[name].to_pylist()
    return found


def unit_text(flow: str, unit: str) -> str:
    """What `Undone.units` remembers of a unit."""
    return f"{flow}\x1f{unit}"


def counted(what: str, state: str) -> str | None:
    """What is done with a row of a unit that is undone."""
    if what == NOTED:
        return None
    if what == REUSED or state != LEFT:
        return "forgotten"
    return "deleted" if what == CREATED else "restored"


def forgotten(
    undone: list[str], gone: list[tuple[str, int, int]], before: list[tuple[str, int, int, Image, int]]
) -> Forgotten:
    known = [image.get(KNOWN) or {} for *_, image, _ in before]
    prints = [bytes.fromhex(one["fingerprint"]) if one.get("fingerprint") else None for one in known]
    shapes = [one.get("shape", shape) for one, (*_, shape) in zip(known, before, strict=True)]
    again = _rows_of([(unit, output, n) for unit, output, n, _, _ in before])
    again = again.append_column("fingerprint", pa.array(prints, pa.binary(16)))
    again = again.append_column("shape", pa.array(shapes, pa.int32()))
    again = again.append_column("reused", pa.array([bool(one.get("reused")) for one in known], pa.bool_()))
    return Forgotten(pa.table({"unit": pa.array(undone, pa.string())}), _rows_of(gone), again)


def _rows_of(rows: list[tuple[str, int, int]]) -> pa.Table:
    return pa.table(
        {
            "unit": pa.array([unit for unit, _, _ in rows], pa.string()),
            "output": pa.array([output for _, output, _ in rows], pa.int16()),
            "n": pa.array([n for _, _, n in rows], pa.int32()),
        }
    )
