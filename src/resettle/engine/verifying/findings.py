"""Findings: what verify compared, and what it found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KEPT = 100
"""Findings of one kind that are listed; all are counted."""


@dataclass(frozen=True)
class Finding:
    """One difference: kind is missing, differs, extra, not_applied, orphan, assertion or probe."""

    flow: str
    kind: str
    detail: str
    unit: str | None = None
    key: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Spot:
    """One record field by field: column -> (what it should be, what the target holds, whether they agree)."""

    flow: str
    unit: str
    key: str
    fields: Mapping[str, tuple[Any, Any, bool]]


@dataclass
class FlowChecked:
    """What was compared in one flow."""

    flow: str
    read: int = 0
    held: int = 0
    skipped: int = 0
    not_applied: int = 0
    rows: int = 0
    by_digest: int = 0
    """Rows that a digest in the target proved equal; all others were fetched."""
    cells: int = 0
    instants: int = 0
    documents: int = 0
    in_target: dict[str, int] = field(default_factory=dict)
    """Rows in each target dataset, ours or not."""

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass
class Verified:
    """The outcome: what was compared, what was found, and the named checks (name, passed, detail)."""

    flows: list[FlowChecked] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    checks: list[tuple[str, bool, str]] = field(default_factory=list)
    spots: list[Spot] = field(default_factory=list)

    def add(self, finding: Finding, count: int = 1) -> None:
        self.counts[finding.kind] += count
        if sum(one.kind == finding.kind for one in self.findings) < KEPT:
            self.findings.append(finding)

    @property
    def held(self) -> int:
        """Records of all flows that are held."""
        return sum(flow.held for flow in self.flows)

    @property
    def exit_code(self) -> int:
        return 4 if self.counts else 0

    def as_json(self) -> dict[str, Any]:
        return {
            "verified": not self.counts,
            "flows": [flow.as_json() for flow in self.flows],
            "findings": dict(self.counts),
            "listed": [finding.as_json() for finding in self.findings],
            "checks": [{"name": n, "passed": p, "detail": d} for n, p, d in self.checks],
            "spot_checks": [
                {"flow": s.flow, "unit": s.unit, "key": s.key, "fields": {k: v[2] for k, v in s.fields.items()}}
                for s in self.spots
            ],
        }
