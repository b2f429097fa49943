"""Count a decision into a flow's balance, with samples of each kind of decision."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import Action, Status
from resettle.engine.balance import SAMPLES, Counts, Sample
from resettle.engine.decision import Decided, Decision
from resettle.engine.feed import REASON, Prepared
from resettle.engine.statements import FlowShape, OutputShape


def count_prepared(counts: Counts, prepared: Prepared) -> None:
    """Records read, and those that earlier runs settled."""
    counts.read += prepared.read
    for word, count in prepared.settled.items():
        if word.startswith(REASON):
            counts.reasons[word.removeprefix(REASON)] += count
        else:
            counts.units[word] += count


def count_decision(counts: Counts, shape: FlowShape, decision: Decision, *, show_values: bool) -> None:
    """Units by status and reason, rows by action, warnings, samples."""
    units = decision.units
    _tally(counts.units, units["status"])
    _tally(counts.reasons, units["reason"])
    migrated = units.filter(pc.is_in(units["status"], pa.array([str(Status.DONE), str(Status.UNCHANGED)])))
    if migrated["warnings"].null_count < migrated.num_rows:
        _tally(counts.warnings, pc.list_flatten(pc.split_pattern(migrated["warnings"].drop_null(), ",")))
    for output, made in zip(shape.outputs, decision.outputs, strict=True):
        actions = _tallied(made.rows["_action"])
        if decision.conflicts[output.name]:
            actions[Action.CONFLICT] = decision.conflicts[output.name]
        counts.add_rows(output.name, actions)
        for action in (Action.CREATE, Action.UPDATE, Action.REUSE):
            if len(counts.samples.get(str(action), ())) < SAMPLES:
                _sample_rows(counts, output, made, action, show_values=show_values)
    _sample_units(counts, units)


def _tallied(values: Any) -> dict[str, int]:
    return {
        entry["values"]: entry["counts"] for entry in pc.value_counts(values).to_pylist() if entry["values"] is not None
    }


def _tally(counter: Any, values: Any) -> None:
    for word, count in _tallied(values).items():
        counter[word] += count


def _sample_rows(counts: Counts, output: OutputShape, made: Decided, action: Action, *, show_values: bool) -> None:
    for row in made.having(action).slice(0, SAMPLES).to_pylist():
        before: dict[str, Any] = {}
        if action is Action.UPDATE:
            found = made.present.filter(pc.equal(made.present["_key"], row["_key"])).to_pylist()
            before = found[0] if found else {}
        names = [name for name in output.names if action is not Action.UPDATE or before.get(name) != row[name]]
        hidden = "(not shown)"
        fields = {
            name: (show(before.get(name)), show(row[name])) if show_values else (hidden, hidden) for name in names
        }
        counts.add_sample(Sample(row["_unit"], str(action), f"{output.dataset} {row['_key']}", fields))


def _sample_units(counts: Counts, units: pa.Table) -> None:
    odd = units.filter(pc.or_(pc.is_valid(units["reason"]), pc.is_valid(units["warnings"])))
    for row in odd.slice(0, 1000).to_pylist():
        kind = f"{row['status']}: {row['reason']}" if row["reason"] else f"warned: {row['warnings']}"
        counts.add_sample(Sample(row["_unit"], kind, row["detail"]))


def show(value: Any) -> Any:
    """A value for people and for JSON: uuids from their bytes, instants as ISO text."""
    if isinstance(value, bytes):
        text = value.hex()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}" if len(value) == 16 else text
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value if isinstance(value, str | int | float | bool | None) else json.dumps(value, default=str)
