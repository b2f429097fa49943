"""Drift: rows of the target that changed or vanished since we wrote them. The source is not read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import Schema
from resettle.connector import Target
from resettle.engine.flow import Connections, Options, selected
from resettle.engine.images import is_patch
from resettle.engine.undoing import standing
from resettle.engine.undoing.standing import CHANGED, GONE, LEFT, Place
from resettle.errors import RejectedError
from resettle.ledger.ledger import Ledger
from resettle.ledger.undo import MadeOf
from resettle.mapping.functions import connect, query
from resettle.mapping.load import Migration

ROWS = 20_000
"""Rows that are compared at once."""
LISTED = 1000
"""Rows of a flow that are listed; all are counted."""


@dataclass(frozen=True)
class Drifted:
    """A row that is not as we left it: kind is changed or vanished. A fingerprint does not say which columns."""

    flow: str
    output: str
    unit: str
    key: str
    kind: str


@dataclass
class FlowDrift:
    """What was compared in one flow: rows, how many of them drifted by kind, and the first of them."""

    flow: str
    rows: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    listed: list[Drifted] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "flow": self.flow,
            "rows": self.rows,
            "changed": self.counts["changed"],
            "vanished": self.counts["vanished"],
        }


def drift(migration: Migration, connections: Connections, ledger: Ledger, options: Options) -> list[FlowDrift]:
    """Compare every row that we made or changed, of the selected flows, with what is there now."""
    applied = set(ledger.flows())
    made_of, db = ledger.made_of(), connect()
    found = []
    for name in selected(migration, options):
        one = FlowDrift(name)
        found.append(one)
        if name not in applied:
            continue
        flow = _Flow(migration, name, connections, ledger, made_of, db)
        for rows in ledger.our_rows(name, min(options.batch, ROWS)):
            one.rows += rows.num_rows
            for drifted in flow.compare(rows):
                one.counts[drifted.kind] += 1
                if len(one.listed) < LISTED:
                    one.listed.append(drifted)
            if options.stop.is_set():
                raise KeyboardInterrupt
    return found


class _Flow:
    """Compares the rows of one flow."""

    def __init__(
        self,
        migration: Migration,
        name: str,
        connections: Connections,
        ledger: Ledger,
        made_of: Mapping[int, MadeOf],
        db: duckdb.DuckDBPyConnection,
    ) -> None:
        self._name, self._connections, self._ledger, self._made_of, self._db = name, connections, ledger, made_of, db
        self._schemas: dict[tuple[str, str], tuple[Target, Schema]] = {}
        outputs = migration.file.flows[name].all_outputs
        self._names = {number: output for output, number in ledger.outputs(name).items()}
        self._patches = {
            number for number, output in self._names.items() if output in outputs and outputs[output].patch
        }

    def compare(self, rows: pa.Table) -> Iterator[Drifted]:
        """The rows (as `Ledger.our_rows` gives them) that are not as we left them, in their order by output."""
        shapes = rows.group_by(["output", "shape"], use_threads=False).aggregate([])
        for output, shape in zip(shapes["output"].to_pylist(), shapes["shape"].to_pylist(), strict=True):
            mine = rows.filter(pc.and_(pc.equal(rows["output"], output), pc.equal(rows["shape"], shape)))
            words = self._patched(shape, mine) if output in self._patches else self._written(shape, mine)
            odd = pa.array([word != LEFT for word in words], pa.bool_())
            keys = zip(mine.filter(odd)["unit"].to_pylist(), mine.filter(odd)["target_key"].to_pylist(), strict=True)
            kinds = ["vanished" if word == GONE else "changed" for word in words if word != LEFT]
            for (unit, key), kind in zip(keys, kinds, strict=True):
                yield Drifted(self._name, self._names[output], unit, key, kind)

    def _place(self, shape: int) -> Place | None:
        made = self._made_of[shape]
        at = (made.connection, made.dataset)
        if at not in self._schemas:
            target = self._connections.target(made.connection)
            self._schemas[at] = (target, target.schema(made.dataset))
        return standing.place_of(made, *self._schemas[at])

    def _written(self, shape: int, rows: pa.Table) -> list[str]:
        place = self._place(shape)
        if place is None:
            return [CHANGED] * rows.num_rows
        try:
            words: list[str] = standing.states(standing.see(self._db, place, rows, (), lock=False)).to_pylist()
        except RejectedError:  # some row holds what its column's type cannot: nothing that we wrote
            if rows.num_rows == 1:
                return [CHANGED]
            half = rows.num_rows // 2
            return [*self._written(shape, rows.slice(0, half)), *self._written(shape, rows.slice(half))]
        return words

    def _patched(self, shape: int, rows: pa.Table) -> list[str]:
        """By what the last patch of each row set; a row of which that is not known is taken to stand."""
        place = self._place(shape)
        units = pc.unique(rows["unit"].combine_chunks())
        images = self._ledger.latest_images(self._name, units)
        sql = "SELECT i.image FROM _r r LEFT JOIN _i i USING (unit, output, n) ORDER BY r.unit, r.output, r.n"
        texts = query(self._db, sql, _r=rows, _i=images)["image"].to_pylist()
        parsed = [json.loads(text) if text else {} for text in texts]
        also = dict.fromkeys(name for image in parsed for name in image)
        if place is None or not any(is_patch(image) for image in parsed):
            return [CHANGED if place is None else LEFT] * rows.num_rows
        columns = [name for name in also if place.schema.column(name)]
        seen = standing.see(self._db, place, rows, columns, lock=False)
        words = standing.patch_states(self._db, place, seen, parsed)
        return [LEFT if word != GONE and not image else word for word, image in zip(words, parsed, strict=True)]
