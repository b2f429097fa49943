"""The ledger's share of undoing: what a run wrote, in pages; what it stops remembering once that is undone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from resettle.ledger.listing import Listing
from resettle.ledger.owner import is_dead

_ROWS = pa.schema(
    [
        ("unit", pa.string()),
        ("output", pa.int64()),
        ("n", pa.int64()),
        ("target_key", pa.string()),
        ("fp", pa.binary()),
        ("shape", pa.int64()),
        ("reused", pa.int64()),
        ("run", pa.int64()),
        ("changed_run", pa.int64()),
    ]
)
_IMAGES = pa.schema([("unit", pa.string()), ("output", pa.int64()), ("n", pa.int64()), ("image", pa.string())])
_LATER = pa.schema([("unit", pa.string()), ("run", pa.int64())])


class MadeOf(NamedTuple):
    """Where an output's rows are, and the columns that a fingerprint of theirs was made of."""

    flow: str
    output: int
    connection: str
    dataset: str
    key: tuple[str, ...]
    columns: tuple[str, ...]


class Reusing(NamedTuple):
    """An output that reuses rows: of which dataset, and by which key. Of another migration, what it calls the
    connection says nothing here: None."""

    flow: str
    number: int
    output: int
    connection: str | None
    dataset: str
    key: tuple[str, ...]


@dataclass(frozen=True)
class Written:
    """What is remembered of some units of a flow, with a run in view.

    rows:   every row of the units: unit, output, n, target_key, fp, shape, reused, run, changed_run (0: none)
    images: what that run overwrote of them: unit, output, n, image
    later:  unit, run: the last run after it that overwrote something of the unit
    """

    rows: pa.Table
    images: pa.Table
    later: pa.Table


@dataclass(frozen=True)
class Forgotten:
    """What a rollback leaves in the ledger of the units that it undid.

    units:  unit
    gone:   unit, output, n of rows that the run was the first to see
    before: unit, output, n, fingerprint, shape, reused of rows as they were remembered before the run
    """

    units: pa.Table
    gone: pa.Table
    before: pa.Table


class Undoing(Listing):
    """Adds what `rollback` and drift ask of the ledger."""

    def flows(self) -> list[str]:
        """Every flow that was ever applied, by its number."""
        return sorted(self._flows, key=lambda name: self._flows[name])

    def run_of(self, number: int) -> dict[str, Any] | None:
        """A run of this migration and environment: run, phase, status."""
        if not self.exists:
            return None
        found = self._sql.execute(
            f"SELECT run, phase, status FROM {self._p}runs WHERE run = %s AND migration = %s AND environment = %s",
            (number, *self._mine),
        )
        return dict(zip(("run", "phase", "status"), found[0], strict=True)) if found else None

    def writing(self) -> int | None:
        """The run that holds the lock now and is alive."""
        found = self._sql.execute(
            f"SELECT run, host, pid, {self._store.AGE} FROM {self._p}locks WHERE migration = %s AND environment = %s",
            self._mine,
        )
        if not found or found[0][0] is None or is_dead(*found[0][1:]):
            return None
        return int(found[0][0])

    def made_of(self) -> dict[int, MadeOf]:
        """Every set of columns that fingerprints of this migration's rows were made of, by its number."""
        names = {number: name for name, number in self._flows.items()}
        rows = self._sql.execute(f"SELECT shape, flow, output, columns FROM {self._p}shapes") if self.exists else []
        found = {}
        for shape, flow, output, text in rows:
            if int(flow) in names:
                one = json.loads(text)
                connection, _, dataset = one["into"].partition(".")
                place = (names[int(flow)], int(output), connection, dataset)
                found[int(shape)] = MadeOf(*place, tuple(one["key"]), tuple(one["columns"]))
        return found

    # -- what a run wrote -----------------------------------------------------------------------------

    def written_units(self, flow: str, run: int, after: str | None, limit: int) -> pa.Array:
        """The next units, after one of them, of which the run made, reused, changed or overwrote something."""
        number, more = self._flows[flow], "" if after is None else " AND unit > %s"
        parts = (
            f"{self._p}rows WHERE flow = {number} AND (run = {run:d} OR changed_run = {run:d})",
            f"{self._p}before_images WHERE run = {run:d} AND flow = {number}",
        )
        pages = [
            f"SELECT unit FROM (SELECT DISTINCT unit FROM {part}{more} ORDER BY unit LIMIT {limit:d}) page{place}"
            for place, part in enumerate(parts)
        ]
        found = self._sql.query(
            f"SELECT unit FROM ({' UNION '.join(pages)}) pages ORDER BY unit LIMIT {limit:d}",
            () if after is None else (after, after),
        )
        return found.column(0).cast(pa.string()).combine_chunks()

    def written(self, flow: str, run: int, units: pa.Array) -> Written:
        """Everything about these units that an undoing of the run must know."""
        number = self._flows[flow]
        asked = self._store.OF_ASKED.format(p=self._p, table="rows", flow=number)
        mine = f"{self._p}before_images WHERE flow = {number} AND unit IN (SELECT unit FROM staged_asked) AND run"
        with self._sql.transaction(readonly=True):
            self._sql.stage("staged_asked", pa.table({"unit": pa.array(units, pa.string())}))
            rows = self._sql.query(
                "SELECT r.unit, r.output, r.n, coalesce(r.target_key, r.unit), r.fingerprint, r.shape,"
                f" CASE WHEN r.reused THEN 1 ELSE 0 END, r.run, coalesce(r.changed_run, 0) FROM {asked}"
            )
            images = self._sql.query(f"SELECT unit, output, n, image FROM {mine} = {run:d}")
            later = self._sql.query(f"SELECT unit, max(run) FROM {mine} > {run:d} GROUP BY unit")
        return Written(_typed(rows, _ROWS), _typed(images, _IMAGES), _typed(later, _LATER))

    def reusing(self) -> list[Reusing]:
        """Every output that has reused some row; also those of other migrations that keep their memory here."""
        rows = self._sql.execute(f"SELECT DISTINCT flow, output FROM {self._p}rows WHERE reused")
        outputs = {(int(flow), int(output)) for flow, output in rows}
        flows = {
            int(flow): (name, True) if (migration, environment) == self._mine else (f"{migration}/{name}", False)
            for flow, migration, environment, name in self._sql.execute(
                f"SELECT flow, migration, environment, name FROM {self._p}flows"
            )
        }
        found = dict[Reusing, None]()
        for flow, output, text in self._sql.execute(f"SELECT flow, output, columns FROM {self._p}shapes"):
            if (int(flow), int(output)) in outputs:
                one, (name, ours) = json.loads(text), flows[int(flow)]
                connection, _, dataset = one["into"].partition(".")
                place = (connection if ours else None, dataset, tuple(one["key"]))
                found[Reusing(name, int(flow), int(output), *place)] = None
        return list(found)

    def reusers(self, one: Reusing, keys: Sequence[str]) -> list[tuple[str, str]]:
        """(target key, unit) of each unit that reuses one of these rows. Reads the whole id map of the output."""
        rows = self._sql.execute(
            f"SELECT coalesce(target_key, unit), unit FROM {self._p}rows WHERE flow = %s AND output = %s AND reused"
            f" AND coalesce(target_key, unit) IN ({self._store.TEXTS})",
            (one.number, one.output, json.dumps(list(keys))),
        )
        return [(str(key), str(unit)) for key, unit in rows]

    # -- inside the data's transaction ------------------------------------------------------------------

    def forget(self, flow: str, run: int, undone: Forgotten) -> None:
        """Remember these units as if the run had never been. Must run in the transaction that undoes their rows."""
        number, p = self._flows[flow], self._p
        images = f"FROM {p}before_images b WHERE b.flow = {number}"
        of_row = f"b.unit = {p}rows.unit AND b.output = {p}rows.output AND b.n = {p}rows.n"
        undone_units = "unit IN (SELECT unit FROM staged_undone)"
        self._sql.stage("staged_undone", undone.units)
        if undone.gone.num_rows:
            self._sql.stage("staged_gone", undone.gone)
            self._sql.execute(
                f"DELETE FROM {p}rows WHERE flow = {number} AND {undone_units}"
                " AND (unit, output, n) IN (SELECT unit, output, n FROM staged_gone)"
            )
        if undone.before.num_rows:
            self._sql.stage("staged_before", undone.before)
            self._sql.execute(
                f"UPDATE {p}rows SET fingerprint = c.fingerprint, shape = c.shape, reused = c.reused"
                f" FROM staged_before c WHERE {p}rows.flow = {number} AND {p}rows.unit = c.unit"
                f" AND {p}rows.output = c.output AND {p}rows.n = c.n"
            )
        self._sql.execute(
            f"UPDATE {p}rows SET changed_run = (SELECT max(b.run) {images} AND b.run < {run:d} AND {of_row})"
            f" WHERE flow = {number} AND changed_run = {run:d} AND {undone_units}"
        )
        self._sql.execute(f"UPDATE {p}rows SET raw = NULL WHERE flow = {number} AND {undone_units}")
        self._sql.execute(f"DELETE FROM {p}before_images WHERE run = {run:d} AND flow = {number} AND {undone_units}")
        self._forget_units(number, run, undone_units)

    def forget_unwritten(self, flow: str, run: int) -> None:
        """Forget what became of the units of which the run wrote nothing, or nothing any more: held ones, say."""
        number, p = self._flows[flow], self._p
        same = f"x.flow = {number} AND x.unit = {p}units.unit"
        wrote = (
            f"{p}rows x WHERE {same} AND (x.run = {run:d} OR x.changed_run = {run:d})",
            f"{p}before_images x WHERE {same} AND x.run = {run:d}",
        )
        none = " AND ".join(f"NOT EXISTS (SELECT 1 FROM {one})" for one in wrote)
        self._forget_units(number, run, f"last_run = {run:d} AND {none}")

    def _forget_units(self, flow: int, run: int, which: str) -> None:
        """What the run said of these units. Of one that it only held again, or skipped again, that stays; and a waiver
        does: somebody said that the record is left behind."""
        rows = f"{self._p}rows r WHERE r.flow = {flow} AND r.unit = {self._p}units.unit"
        news = f"(first_run = {run:d} OR last_run = {run:d} AND (status = 'done' OR EXISTS (SELECT 1 FROM {rows})))"
        mine = f"flow = {flow} AND {news} AND coalesce(reason, '') <> 'waived' AND {which}"
        self._sql.execute(f"DELETE FROM {self._p}units WHERE {mine}")
        self._sql.execute(f"UPDATE {self._p}units SET raw = NULL WHERE flow = {flow} AND {which}")

    # -- drift ----------------------------------------------------------------------------------------

    def our_rows(self, flow: str, limit: int) -> Iterator[pa.Table]:
        """Every row that we made or changed, in pages: unit, output, n, target_key, fp, shape, reused, run,
        changed_run."""
        number, after = self._flows[flow], ""
        parameters: tuple[Any, ...] = ()
        while True:
            page = self._sql.query(
                "SELECT unit, output, n, coalesce(target_key, unit), fingerprint, shape, 0, run,"
                f" coalesce(changed_run, 0) FROM {self._p}rows WHERE flow = {number} AND NOT reused"
                f" AND fingerprint IS NOT NULL{after}"
                f" ORDER BY unit, output, n LIMIT {limit:d}",
                parameters,
            )
            if page.num_rows:
                yield _typed(page, _ROWS)
            if page.num_rows < limit:
                return
            after = " AND (unit, output, n) > (%s, %s, %s)"
            parameters = tuple(page.column(place)[-1].as_py() for place in range(3))

    def latest_images(self, flow: str, units: pa.Array) -> pa.Table:
        """What was last overwritten of each row of these units: unit, output, n, image."""
        number = self._flows[flow]
        with self._sql.transaction():
            self._sql.stage("staged_asked", pa.table({"unit": pa.array(units, pa.string())}))
            found = self._sql.query(
                "SELECT unit, output, n, image FROM (SELECT unit, output, n, image, row_number() OVER"
                f" (PARTITION BY unit, output, n ORDER BY run DESC) AS place FROM {self._p}before_images"
                f" WHERE flow = {number} AND unit IN (SELECT unit FROM staged_asked)) latest WHERE place = 1"
            )
        return _typed(found, _IMAGES)


def _typed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    return table.rename_columns(schema.names).cast(schema)
