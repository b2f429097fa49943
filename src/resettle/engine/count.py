"""Count a decision into a flow's balance, with samples of each kind of decision."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import Action, Status
from resettle.engine.balance import SAMPLES, Counts, Sample
from resettle.engine.decision import Decided, Decision
from resettle.engine.feed import REASON, Prepared
from resettle.engine.fingerprint import as_duckdb
from resettle.engine.statements import FlowShape, OutputShape
from resettle.mapping.columns import quote
from resettle.mapping.functions import query


def count_prepared(counts: Counts, prepared: Prepared) -> None:
    """Records read, and those that earlier runs settled."""
    counts.read += prepared.read
    for word, count in prepared.settled.items():
        if word.startswith(REASON):
            counts.reasons[word.removeprefix(REASON)] += count
        else:
            counts.units[word] += count


def count_decision(
    counts: Counts, shape: FlowShape, decision: Decision, database: duckdb.DuckDBPyConnection, *, show_values: bool
) -> None:
    """Units by status and reason, rows by action and by what the mapping counts, warnings, samples."""
    units = decision.units
    _tally(counts.units, units["status"])
    _tally(counts.reasons, units["reason"])
    if units["warnings"].null_count < units.num_rows:
        _tally(counts.warnings, pc.list_flatten(pc.split_pattern(units["warnings"].drop_null(), ",")))
    for output, made in zip(shape.outputs, decision.outputs, strict=True):
        actions = _tallied(made.rows["_action"])
        if decision.conflicts[output.name]:
            actions[Action.CONFLICT] = decision.conflicts[output.name]
        counts.add_rows(output.name, actions)
        _count_created(counts, output, made, database)
        for action in (Action.CREATE, Action.UPDATE, Action.REUSE, Action.PATCH, Action.COPY):
            if len(counts.samples.get(str(action), ())) < SAMPLES:
                _sample_rows(counts, output, made, action, show_values=show_values)
    _count_exploded(counts, units, decision.exploded)
    _sample_units(counts, units)


def _count_created(counts: Counts, output: OutputShape, made: Decided, database: duckdb.DuckDBPyConnection) -> None:
    creates = made.having(Action.CREATE)
    if not output.counts or not creates.num_rows:
        return
    figures = ((name, f"CAST(count_if({parsed.sql}) AS BIGINT)") for name, parsed in output.counts.items())
    fields = ", ".join(f"{sql} AS {quote(name)}" for name, sql in figures)
    created = as_duckdb(creates.select([column.name for column in output.written]), output.written)
    found = query(database, f"SELECT {fields} FROM _created", _created=created).to_pylist()[0]
    counts.counted.update({name: int(value) for name, value in found.items()})


def _count_exploded(counts: Counts, units: pa.Table, exploded: pa.Table) -> None:
    """Rows that `rows:` gave for records that are neither held nor failed, and those that a rule left out."""
    if not exploded.num_rows:
        return
    lost = units.filter(pc.is_in(units["status"], pa.array([str(Status.HELD), str(Status.FAILED)])))
    kept = exploded.filter(pc.invert(pc.is_in(exploded["_unit"], lost["_unit"].combine_chunks())))
    counts.exploded += kept.num_rows
    _tally(counts.left_out, kept["skip"])
    _tally(counts.left_out, kept["wait"])


def summarise(counts: Counts, shape: FlowShape, database: duckdb.DuckDBPyConnection) -> None:
    """The report's own figures (`summary:`), once a flow is counted."""
    if not shape.flow.summary:
        return
    relation = summary_relation(shape, counts)
    fields = ", ".join(f"CAST(({text}) AS BIGINT) AS {quote(name)}" for name, text in shape.flow.summary.items())
    counts.summary = query(database, f"SELECT {fields} FROM ({relation})").to_pylist()[0]


def summary_relation(shape: FlowShape, counts: Counts) -> str:
    """A SELECT of one row: what `summary:` may name."""
    flow = shape.flow
    reasons = [*flow.skip, *flow.hold, *flow.skip_rows, *flow.partial_rows, "no_rows", "rows_skipped"]
    counted = [name for output in flow.all_outputs.values() for name in output.count]
    parts = {"read": str(counts.read), "rows": str(counts.exploded)}
    parts |= {str(status): str(counts.units[status]) for status in Status}
    parts["reasons"] = _struct({name: counts.reasons[name] + counts.left_out[name] for name in reasons})
    if counted:
        parts["counted"] = _struct({name: counts.counted[name] for name in counted})
    for output in shape.outputs:
        actions = counts.rows.get(output.name, Counter())
        parts[output.name] = _struct({str(action): actions.get(str(action), 0) for action in Action})
    return "SELECT " + ", ".join(f"{sql} AS {quote(name)}" for name, sql in parts.items())


def _struct(fields: Mapping[str, int]) -> str:
    return "struct_pack(" + ", ".join(f"{quote(name)} := {value}" for name, value in fields.items()) + ")"


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
        if action is Action.PATCH:
            names = [name for name in output.names if name not in output.key_names]
            row |= {name: row[f"_set_{name}"] for name in output.edits if row[f"_at_{name}"] is not None}
            names += [name for name in output.edits if row[f"_at_{name}"] is not None]
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
