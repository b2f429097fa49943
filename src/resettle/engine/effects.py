"""Effects: what a batch does to targets without transactions, before the transaction that remembers it.

The ledger first keeps what is meant to be written (a row without a fingerprint); then files are copied and rows
written, output after output; what fails takes its unit out of the later ones. A run that dies in between leaves its
intents: the next one finds what was written by them, and writes the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import Action, Status, set_column
from resettle.connector import Target
from resettle.engine.bodies import Copier
from resettle.engine.decision import WRITTEN, Decided, Decision
from resettle.engine.statements import FlowShape, OutputShape
from resettle.errors import RejectedError

Writes = Callable[[Decided], Iterator[tuple[pa.Table, Action, pa.Array]]]
Hold = Callable[[Decision, pa.Table], Decision]


def outside(shape: FlowShape, targets: Mapping[str, Target]) -> frozenset[int]:
    """The places of outputs that no transaction covers: files, and rows of targets that have none."""
    return frozenset(
        place
        for place, output in enumerate(shape.outputs)
        if output.body or not targets[output.connection].transactional
    )


def carry_out(
    decision: Decision,
    places: frozenset[int],
    shape: FlowShape,
    targets: Mapping[str, Target],
    copiers: Mapping[str, Copier],
    writes: Writes,
    hold: Hold,
) -> Decision:
    """Do what the decision says of these outputs; gives the decision without the units that failed or are refused."""
    for place in sorted(places):
        output, made = shape.outputs[place], decision.outputs[place]
        lost = (
            _copied(copiers[output.name], output, made)
            if output.body
            else _written(targets[output.connection], output, made, writes)
        )
        if lost.num_rows:
            decision = hold(decision, lost)
    return decision


def _copied(copier: Copier, output: OutputShape, made: Decided) -> pa.Table:
    rows = made.having(Action.COPY)
    names = ["_unit", "_body", "_there", *(column.name for column in output.written)]
    return copier.copy(rows.select(names), output.key_names[0])


def _written(target: Target, output: OutputShape, made: Decided, writes: Writes) -> pa.Table:
    """Write rows; where some are refused, the target may know which: else each by itself, to find out."""
    lost: list[tuple[str, str, str]] = []
    for rows, action, units in writes(made):
        write = (output.dataset, rows, output.key_names, action)
        try:
            target.write(*write)
            continue
        except RejectedError:
            refused = target.refusals([write], [units])
        if refused is not None and refused.num_rows:
            lost += [tuple(row.values()) for row in refused.select(_LOST).to_pylist()]
            good = pc.invert(pc.is_in(units, refused["unit"].combine_chunks()))
            rows, units = rows.filter(good), units.filter(good)
        lost += _each(target, output, rows, action, units)
    told = [(unit, reason, f"{output.dataset}: {detail or reason}") for unit, reason, detail in lost]
    return pa.table({name: pa.array([one[at] for one in told], pa.string()) for at, name in enumerate(_LOST)})


def _each(
    target: Target, output: OutputShape, rows: pa.Table, action: Action, units: pa.Array
) -> list[tuple[str, str, str]]:
    """Write rows at once, or if that is refused each by itself; the units, reasons and details of those that are."""
    try:
        target.write(output.dataset, rows, output.key_names, action)
    except RejectedError as error:
        if rows.num_rows == 1:
            return [(units[0].as_py(), error.reason, error.detail)]
        parts = (_each(target, output, rows.slice(at, 1), action, units.slice(at, 1)) for at in range(rows.num_rows))
        return [one for part in parts for one in part]
    return []


def merged(decision: Decision, done: Decision, places: frozenset[int], hold: Hold) -> Decision:
    """The decision of a transaction, with what was done outside of it before."""
    units = decision.units["_unit"].combine_chunks()
    lost = done.units.filter(pc.is_in(done.units["status"], pa.array([str(Status.HELD), str(Status.FAILED)])))
    lost = lost.filter(pc.is_in(lost["_unit"], units))
    if lost.num_rows:
        decision = hold(
            decision, lost.select(["_unit", "reason", "detail"]).rename_columns(["unit", "reason", "detail"])
        )
    going = decision.units.filter(pc.invert(pc.is_in(decision.units["status"], _STOPPED)))["_unit"].combine_chunks()
    outputs: list[Decided] = list(decision.outputs)
    busy: Sequence[pa.Array] = []
    for place in places:
        made = done.outputs[place]
        outputs[place] = replace(made, rows=made.rows.filter(pc.is_in(made.rows["_unit"], going)))
        written = outputs[place].rows.filter(pc.is_in(outputs[place].rows["_action"], WRITTEN))
        busy = [*busy, *written["_unit"].chunks]
    changed = pc.is_in(decision.units["_unit"], pa.chunked_array(busy, pa.string()).combine_chunks())
    changed = pc.and_(changed, pc.equal(decision.units["status"], str(Status.UNCHANGED)))
    status = pc.if_else(changed, str(Status.DONE), decision.units["status"])
    return replace(decision, units=set_column(decision.units, "status", status), outputs=tuple(outputs))


def of_units(done: Decision, units: pa.Array) -> Decision:
    """The part of a decision that concerns some units."""

    def mine(table: pa.Table) -> pa.Table:
        return table.filter(pc.is_in(table["_unit"], units))

    outputs = tuple(replace(made, rows=mine(made.rows)) for made in done.outputs)
    return replace(done, units=mine(done.units), outputs=outputs, exploded=mine(done.exploded))


_LOST = ["unit", "reason", "detail"]
_STOPPED = pa.array([str(Status.HELD), str(Status.FAILED), str(Status.SKIPPED)])
