"""The balance: what a flow's records became, counted, and the equation that must hold at the end of a run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from resettle.batch import Action, Status
from resettle.errors import BalanceError

SAMPLES = 5


@dataclass(frozen=True)
class Sample:
    """One record as an example of a kind of decision; ``fields`` is column -> (before, after)."""

    unit: str
    kind: str
    detail: str | None = None
    fields: dict[str, tuple[Any, Any]] = field(default_factory=dict)


@dataclass
class Counts:
    """One flow's balance. ``units`` by status, ``rows`` by output and action."""

    flow: str
    read: int = 0
    units: Counter[str] = field(default_factory=Counter)
    rows: dict[str, Counter[str]] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    exploded: int = 0
    """Rows that a `rows:` query gave for the records that went on."""
    left_out: Counter[str] = field(default_factory=Counter)
    """How many of them `skip_rows:` left out, by rule."""
    counted: Counter[str] = field(default_factory=Counter)
    """What `count:` counts among the rows created."""
    summary: dict[str, int] = field(default_factory=dict)
    """The report's own figures, once the flow is done."""
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    unmapped: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()

    def add_rows(self, output: str, actions: dict[str, int]) -> None:
        counter = self.rows.setdefault(output, Counter())
        for action, count in actions.items():
            counter[action] += count

    def add_sample(self, sample: Sample) -> None:
        kept = self.samples.setdefault(sample.kind, [])
        if len(kept) < SAMPLES:
            kept.append(sample)

    def total(self, action: Action) -> int:
        """Rows with an action, over all outputs."""
        return sum(counter[action] for counter in self.rows.values())

    def check(self) -> None:
        """Raise BalanceError unless read = done + unchanged + partial + skipped + held + failed."""
        accounted = sum(self.units[status] for status in Status)
        if accounted != self.read or set(self.units) - set(Status):
            raise BalanceError(
                f"flow {self.flow}: {self.read} records were read but {accounted} are accounted for",
                hint="this is a fault of resettle: keep the log under .resettle/logs and report it",
            )

    def as_json(self) -> dict[str, Any]:
        """For --json, the plan file and the ledger: no values of records."""
        return {
            "flow": self.flow,
            "read": self.read,
            **{str(status): self.units[status] for status in Status},
            "rows": {output: dict(counter) for output, counter in self.rows.items() if counter},
            "reasons": dict(self.reasons),
            "warnings": dict(self.warnings),
            **({"exploded": self.exploded, "left_out": dict(self.left_out)} if self.exploded else {}),
            **({"counted": dict(self.counted)} if self.counted else {}),
            **({"summary": dict(self.summary)} if self.summary else {}),
            "unmapped": list(self.unmapped),
            "unseen": list(self.unseen),
        }
