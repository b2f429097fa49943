"""explain: one record's rows as they should be, beside what the target holds now and what we know of having written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from resettle.engine.alternate import rekeyed
from resettle.engine.count import show
from resettle.engine.decision import Foreseen
from resettle.engine.feed import Prepared
from resettle.engine.fingerprint import as_wire, differing, fingerprints
from resettle.engine.flow import Connections, FlowRun, Options, open_flow, referenced
from resettle.engine.present import keyed
from resettle.engine.settle import looking, renumbered
from resettle.engine.statements import OutputShape
from resettle.ledger.ledger import Ledger
from resettle.mapping.functions import connect
from resettle.mapping.load import Migration


@dataclass(frozen=True)
class Side:
    """One row of a record.

    ``wrote`` is the run that wrote it last (None: we never did), ``left`` whether the target still holds what that run
    left there (None where there is no such row). ``fields``: column -> (there now, what we would write), of those that
    differ.
    """

    output: str
    key: str
    wrote: int | None
    left: bool | None
    fields: dict[str, tuple[Any, Any]]


def explain(
    migration: Migration,
    connections: Connections,
    ledger: Ledger,
    options: Options,
    now: datetime,
    flow: str,
    unit: str,
) -> list[Side]:
    """Every row that the record should become. Reads the source until it is found; writes nothing.

    A record that a rule holds, or whose values do not fit, becomes no row: then the list is empty.
    """
    chosen = replace(options, only={flow: [unit]}, fresh=True)
    run = open_flow(migration, flow, connections, ledger, Foreseen(referenced=referenced(migration)), now, chosen)
    with run.prepared(ahead=False) as batches:
        for prepared in batches:
            if unit in prepared.units.to_pylist():
                return list(_Explainer(run, ledger, prepared).sides(unit))
    return []


class _Explainer:
    def __init__(self, run: FlowRun, ledger: Ledger, prepared: Prepared) -> None:
        self._run, self._prepared, self._db = run, prepared, connect()
        self._shapes = ledger.shapes(run.name)
        self._numbers = ledger.numbers(run.name, [output.name for output in run.shape.outputs])
        self._ledger = ledger
        self._written: dict[tuple[str, int], dict[str, Any]] = {}

    def sides(self, unit: str) -> Iterator[Side]:
        known, targets = self._prepared.known, self._run.targets
        mine = (one for one in self._ledger.trace(unit) if "output" in one and one["flow"] == self._run.name)
        self._written = {(one["output"], one["n"]): one for one in mine if one["unit"] == unit}
        shaped = self._prepared.shaped_with(looking(self._db, targets, known, self._numbers))
        for number, output, wanted in zip(self._numbers, self._run.shape.outputs, shaped.outputs, strict=True):
            before = known.rows.filter(pc.equal(known.rows["output"], number))
            rows = rekeyed(self._db, output, wanted.filter(pc.equal(wanted["_unit"], unit)), before)
            rows = renumbered(self._db, rows, before) if output.settles else rows
            if rows.num_rows and not (output.patch or output.body):
                yield from self._output(output, rows, before)

    def _output(self, output: OutputShape, rows: pa.Table, known: pa.Table) -> Iterator[Side]:
        target = self._run.targets[output.connection]
        keys = as_wire(rows.select(list(output.key_names)), output.key)
        present = as_wire(target.fetch(output.dataset, keys, output.names), output.columns)
        there = keyed(self._db, present, output.key)["_key"].combine_chunks()
        for place, key in enumerate(rows["_key"].to_pylist()):
            at = pc.index(there, key).as_py()
            mine = known.filter(pc.equal(known["n"], rows["_n"][place]))
            found = present.slice(at, 1) if at >= 0 else None
            yield Side(
                output.name,
                key,
                self._last_run(output, rows["_n"][place].as_py()) if mine.num_rows else None,
                self._as_left(output, found, mine),
                self._fields(output, rows.slice(place, 1), found),
            )

    def _last_run(self, output: OutputShape, n: int) -> int | None:
        one = self._written.get((output.name, n))
        return None if one is None or one["reused"] else one["changed_run"] or one["run"]

    def _as_left(self, output: OutputShape, found: pa.Table | None, mine: pa.Table) -> bool | None:
        if found is None or not mine.num_rows:
            return None
        names = self._shapes.get(mine["shape"][0].as_py(), output.names)
        columns = [column for name in names if (column := output.schema.column(name)) and name in found.column_names]
        return bool(fingerprints(self._db, found, columns)[0].as_py() == mine["fp"][0].as_py())

    def _fields(self, output: OutputShape, wanted: pa.Table, found: pa.Table | None) -> dict[str, tuple[Any, Any]]:
        if found is None:
            return {name: (None, show(wanted[name][0].as_py())) for name in output.names}
        names = differing(self._db, output.columns, wanted, found)[0]
        return {name: (show(found[name][0].as_py()), show(wanted[name][0].as_py())) for name in names}
