"""Links: rows whose foreign keys point nowhere, neither in the target nor among what this run makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import Action, Column, ForeignKey, set_column
from resettle.connector import Target
from resettle.engine.decision import NEW, SETTING, TAKING, WRITTEN, Foreseen, holds
from resettle.engine.fingerprint import as_wire, key_hashes
from resettle.engine.places import places_of
from resettle.engine.present import keyed
from resettle.engine.statements import FlowShape, OutputShape
from resettle.engine.uniques import Hashes


class Links:
    """The foreign keys of one flow's outputs."""

    def __init__(
        self,
        shape: FlowShape,
        targets: Mapping[str, Target],
        connection: duckdb.DuckDBPyConnection,
        foreseen: Foreseen,
    ) -> None:
        self._shape, self._targets, self._db, self._foreseen = shape, targets, connection, foreseen

    def lost(self, outputs: Sequence[pa.Table], trouble: Sequence[pa.Table]) -> tuple[list[pa.Table], list[pa.Table]]:
        """Units whose rows point nowhere, and those that point at them, until no more are found.

        First those that point at a dataset of another flow, then those at one that this flow writes: what these
        point at may still come.
        """
        found: list[tuple[bool, pa.Table]] = []
        while True:
            gone = [chunk for table in [*trouble, *(table for _, table in found)] for chunk in table["unit"].chunks]
            going = list(outputs)
            if gone:
                held = pa.chunked_array(gone, pa.string()).combine_chunks()
                pairs = zip(self._shape.outputs, outputs, strict=True)
                going = [self.bereft(o, rows.filter(pc.invert(pc.is_in(rows["_unit"], held)))) for o, rows in pairs]
            pairs = zip(self._shape.outputs, going, strict=True)
            more = [one for output, rows in pairs for one in self._orphans(output, rows, going)]
            found += more
            if not more or not any(self._inner(o, key) for o in self._shape.outputs for key in o.schema.foreign_keys):
                return [table for inner, table in found if not inner], [table for inner, table in found if inner]

    def bereft(self, output: OutputShape, rows: pa.Table) -> pa.Table:
        """Rows that `match` one of this very batch whose unit is not written after all: the first of them makes it."""
        if not output.match:
            return rows
        reuse = pc.and_(pc.equal(rows["_action"], str(Action.REUSE)), pc.is_null(rows["_present"]))
        reuse = pc.and_(reuse, pc.invert(rows["_known"])).to_numpy(zero_copy_only=False)
        if not reuse.any():
            return rows
        hashes = key_hashes(self._db, rows["_key"])
        creates = pc.equal(rows["_action"], str(Action.CREATE)).to_numpy(zero_copy_only=False)
        made = self._foreseen.of((output.connection, output.dataset), output.key_names).seen(hashes)
        alone = reuse & ~made & ~np.isin(hashes, hashes[creates])
        first = np.zeros(len(hashes), np.bool_)
        first[np.flatnonzero(alone)[np.unique(hashes[alone], return_index=True)[1]]] = True
        return set_column(rows, "_action", pc.if_else(pa.array(first), str(Action.CREATE), rows["_action"]))

    def _inner(self, output: OutputShape, foreign_key: ForeignKey) -> bool:
        """Whether it points at a dataset that this very flow writes."""
        return any((o.connection, o.dataset) == (output.connection, foreign_key.target) for o in self._shape.outputs)

    def _orphans(self, output: OutputShape, rows: pa.Table, done: Sequence[pa.Table]) -> list[tuple[bool, pa.Table]]:
        """Rows to write whose foreign key points at nothing, neither in the target nor foreseen, and whether it is
        inner."""
        if not output.schema.foreign_keys:
            return []
        names = {name for key in output.schema.foreign_keys for name in key.columns} & set(output.names)
        narrow = rows.select(["_unit", "_action", *sorted(names)])  # a row may hold long documents
        writes = narrow.filter(pc.is_in(rows["_action"], WRITTEN))
        if not writes.num_rows:
            return []
        return [
            (self._inner(output, foreign_key), held)
            for foreign_key in output.schema.foreign_keys
            if set(foreign_key.columns) <= set(output.names)
            and (held := self._points_nowhere(output, foreign_key, writes, done)) is not None
        ]

    def _points_nowhere(
        self, output: OutputShape, foreign_key: ForeignKey, rows: pa.Table, done: Sequence[pa.Table]
    ) -> pa.Table | None:
        target = self._targets[output.connection]
        pairs = sorted(zip(foreign_key.target_columns, foreign_key.columns, strict=True))
        columns = [c for _, name in pairs if (c := output.schema.column(name))]
        referred = target.schema(foreign_key.target)
        theirs = [c for name, _ in pairs if (c := referred.column(name))]
        for name in foreign_key.columns:
            rows = rows.filter(pc.is_valid(rows[name]))
        if not rows.num_rows:
            return None
        own = [column.name for column in columns]
        keys = keyed(self._db, rows.select(own).group_by(own).aggregate([]), columns)
        missing = keys.filter(pc.invert(self._coming(output, foreign_key, theirs, keys["_key"], done)))
        if missing.num_rows:  # the target is asked about what this run does not make
            asked = as_wire(missing.select(own).rename_columns([column.name for column in theirs]), theirs)
            there = keyed(self._db, as_wire(target.fetch(foreign_key.target, asked, []), theirs), theirs)
            missing = missing.filter(pc.invert(pc.is_in(missing["_key"], there["_key"].combine_chunks())))
        if not missing.num_rows:
            return None
        lost = pc.is_in(keyed(self._db, rows.select(own), columns)["_key"], missing["_key"].combine_chunks())
        detail = f"{output.dataset}.{', '.join(own)}: no such row in {foreign_key.target} ({foreign_key.name})"
        return holds(rows.filter(lost)["_unit"], "foreign_key", detail)

    def _coming(
        self,
        output: OutputShape,
        foreign_key: ForeignKey,
        theirs: Sequence[Column],
        keys: pa.ChunkedArray,
        done: Sequence[pa.Table],
    ) -> pa.Array:
        """Which of the keys that a foreign key points at this run makes."""
        hashes = key_hashes(self._db, keys)
        dataset = (output.connection, foreign_key.target)
        names = tuple(column.name for column in theirs)
        coming = self._foreseen.of(dataset, names).seen(hashes)
        for other, table in zip(self._shape.outputs, done, strict=True):
            if (other.connection, other.dataset) == dataset:
                coming |= np.isin(hashes, self.new_keys(other, table).get(names, []))
        return pa.array(coming)

    def new_keys(self, output: OutputShape, rows: pa.Table) -> dict[tuple[str, ...], Hashes]:
        """Hashes of the keys that rows take, and, of rows to create, of those at which foreign keys point; of patches
        what they set."""
        if output.patch:
            sets = rows.filter(pc.is_in(rows["_action"], SETTING))
            return dict(places_of(self._db, output, sets).hashes())
        new = pc.is_in(rows["_action"], NEW)
        takes = new
        if not output.match:
            takes = pc.or_(new, pc.and_(pc.is_in(rows["_action"], TAKING), pc.invert(rows["_known"])))
        found = {output.key_names: key_hashes(self._db, rows["_key"].filter(takes))}
        for dataset, names in self._foreseen.pointed:
            mine = dataset == (output.connection, output.dataset) and set(names) <= set(output.names)
            if mine and names not in found:
                columns = [c for name in names if (c := output.schema.column(name))]
                creates = rows.select(list(names)).filter(new)
                found[names] = key_hashes(self._db, keyed(self._db, creates, columns)["_key"])
        return found
