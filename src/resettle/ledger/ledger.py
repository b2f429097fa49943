"""The ledger: what we did and why, committed with what we did.

Tables (documented in docs/guarantees.md, to be queried by people):
`runs` one row per execution of a phase; `rows` the id map, one row per target row that we made or reused;
`units` one row per source record that is not simply done: held, skipped, failed, warned, or held once;
`before_images` what we overwrote; `locks` who is writing, with a fence so that a run thought dead cannot.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import ModuleType

import numpy as np
import pyarrow as pa

from resettle.batch import Status
from resettle.connector import Sql
from resettle.errors import LedgerError, LedgerVersionError
from resettle.ledger import d1, postgres, sqlite
from resettle.ledger.records import AWAITING, ROWS, UNITS, Hashes, Known, Record, Run, Seen, joined, nothing_known
from resettle.ledger.runs import Runs
from resettle.ledger.undo import Undoing

VERSION = 1

_STORES: Mapping[str, ModuleType] = {"postgres": postgres, "sqlite": sqlite, "d1": d1}


class Ledger(Runs, Undoing):
    """The ledger of one migration and environment, in the store behind ``sql``."""

    def __init__(self, sql: Sql, migration: str, environment: str, *, schema: str, version: str) -> None:
        self._sql, self._store = sql, _STORES[sql.dialect]
        self.migration, self.environment, self.schema = migration, environment, schema
        self._p = self._store.prefix(schema)
        self._version = version
        self._flows: dict[str, int] = {}
        self.exists = self._look()

    # -- the store itself ---------------------------------------------------------------------------

    def _look(self) -> bool:
        if not self._has("meta"):
            if self._has("runs"):
                raise LedgerError(
                    f"`{self._p}runs` is somebody else's table: there is no `{self._p}meta` beside it",
                    hint="choose another `ledger: schema:`",
                )
            return False
        found = self._sql.execute(f"SELECT value FROM {self._p}meta WHERE key = 'version'")
        if found and int(found[0][0]) > VERSION:
            raise LedgerVersionError(
                f"the ledger in `{self.schema}` has version {found[0][0]}, this resettle knows {VERSION}",
                hint="install the newer resettle that wrote it",
            )
        rows = self._sql.execute(
            f"SELECT name, flow FROM {self._p}flows WHERE migration = %s AND environment = %s", self._mine
        )
        self._flows = {str(name): int(flow) for name, flow in rows}
        return bool(found)

    def _has(self, table: str) -> bool:
        return bool(self._sql.execute(self._store.EXISTS.format(p=self._p, table=table))[0][0])

    def lives_in(self, sql: Sql) -> bool:
        """Whether this is the ledger's store, so that one transaction covers data and memory."""
        return sql is self._sql

    def transaction(self) -> AbstractContextManager[None]:
        """A transaction of the ledger's own store, where that is not the target's."""
        return self._sql.transaction()

    def prepare(self, flows: Mapping[str, Sequence[str]]) -> None:
        """Make the tables where they are missing, and number this migration's flows and outputs."""
        with self._alone():
            for statement in self._store.TABLES.format(p=self._p, schema=self.schema).split(";\n"):
                self._sql.execute(statement)
            self._sql.execute(f"INSERT INTO {self._p}meta VALUES ('version', '{VERSION}') ON CONFLICT (key) DO NOTHING")
        with self._alone():  # a store may not see what its own transaction made
            known = self._sql.execute(f"SELECT flow, migration, environment, name, outputs FROM {self._p}flows")
            mine = {row[3]: (int(row[0]), json.loads(row[4])) for row in known if row[1:3] == self._mine}
            free = max((int(row[0]) for row in known), default=0)
            views: set[str] = set()
            for name in sorted(flows, key=lambda name: mine.get(name, (free + 1,))[0]):
                if name not in mine:
                    free += 1
                self._number_flow(name, flows[name], *mine.get(name, (free, None)), views)
        self.exists = True

    def _number_flow(
        self, name: str, outputs: Sequence[str], flow: int, known: list[str] | None, views: set[str]
    ) -> None:
        """Remember a flow under its number; the outputs ``known`` by earlier runs keep theirs. ``views`` are taken."""
        outputs = [*numbered({name: number for number, name in enumerate(known or ())}, outputs)]
        if known is None:
            self._sql.execute(
                f"INSERT INTO {self._p}flows VALUES (%s, %s, %s, %s, %s)",
                (flow, *self._mine, name, json.dumps(outputs)),
            )
        elif outputs != known:
            self._sql.execute(f"UPDATE {self._p}flows SET outputs = %s WHERE flow = %s", (json.dumps(outputs), flow))
        self._flows[name] = flow
        for number, output in enumerate(outputs):
            view = self._store.view_name(self.schema, *self._mine, name, output)
            if view in views:  # flow `media`, output `file`, and flow `media_file`
                view = self._store.view_name(self.schema, *self._mine, name, f"{output}_{flow}")
            views.add(view)
            self._sql.execute(self._store.VIEW.format(view=view, p=self._p, flow=flow, output=number))

    def outputs(self, flow: str) -> dict[str, int]:
        """Output name to number, as remembered."""
        if flow not in self._flows:
            return {}
        found = self._sql.execute(f"SELECT outputs FROM {self._p}flows WHERE flow = %s", (self._flows[flow],))
        return {name: number for number, name in enumerate(json.loads(found[0][0]))}

    def numbers(self, flow: str, names: Sequence[str]) -> list[int]:
        """The number of each output, as the next run will remember it."""
        known = numbered(self.outputs(flow), names)
        return [known[name] for name in names]

    def shape(self, flow: str, output: int, into: str, key: Sequence[str], columns: Sequence[str]) -> int:
        """The number of the column set that a fingerprint was made of; numbered if it is new."""
        text = json.dumps({"into": into, "key": list(key), "columns": list(columns)})
        found = self._sql.execute(
            f"SELECT shape FROM {self._p}shapes WHERE flow = %s AND output = %s AND columns = %s",
            (self._flows[flow], output, text),
        )
        if found:
            return int(found[0][0])
        number = int(self._sql.execute(f"SELECT coalesce(max(shape), 0) + 1 FROM {self._p}shapes")[0][0])
        self._sql.execute(
            f"INSERT INTO {self._p}shapes VALUES (%s, %s, %s, %s)", (number, self._flows[flow], output, text)
        )
        return number

    def shapes(self, flow: str) -> dict[int, tuple[str, ...]]:
        """Every column set that this flow's fingerprints were made of."""
        if flow not in self._flows:
            return {}
        rows = self._sql.execute(f"SELECT shape, columns FROM {self._p}shapes WHERE flow = %s", (self._flows[flow],))
        return {int(shape): tuple(json.loads(text)["columns"]) for shape, text in rows}

    # -- reading memory -----------------------------------------------------------------------------

    def seen(self, flow: str) -> Seen:
        """The raw records that need not even be decoded."""
        if flow not in self._flows:
            return Seen(np.empty(0, np.int64))
        number = self._flows[flow]
        settled = f"units WHERE flow = {number} AND raw IS NOT NULL AND {_lasting()} AND status"
        kinds = self._sql.execute(f"SELECT DISTINCT status, reason FROM {self._p}{settled} IN ('held', 'skipped')")
        others = [
            (str(status), reason, self._hashes(f"{settled} = '{status}' AND {_is(reason)}")) for status, reason in kinds
        ]
        done = self._hashes(f"rows WHERE flow = {number} AND raw IS NOT NULL", f"{settled} = 'done'")
        return Seen(done, tuple(others))

    def _hashes(self, *wheres: str) -> Hashes:
        return joined([part for where in wheres for part in self._store.raws(self._sql, self._p, where)])

    def remembers(self, flow: str) -> bool:
        """Whether any record of this flow was ever settled."""
        if flow not in self._flows:
            return False
        return any(
            self._sql.execute(f"SELECT 1 FROM {self._p}{table} WHERE flow = {self._flows[flow]} LIMIT 1")
            for table in ("rows", "units")
        )

    def known(self, flow: str, units: pa.Array) -> Known:
        """What is remembered of ``units`` (text)."""
        if flow not in self._flows or not len(units):
            return nothing_known()
        number = self._flows[flow]
        with self._sql.transaction(readonly=True):
            self._sql.stage("staged_asked", pa.table({"unit": pa.array(units, pa.string())}))
            rows = self._sql.query(
                "SELECT r.unit, r.output, r.n, coalesce(r.target_key, r.unit), r.fingerprint, r.shape,"
                f" CASE WHEN r.reused THEN 1 ELSE 0 END, r.minted, r.raw FROM {self._of_asked('rows', number)}"
            )
            first = self._sql.query(
                "SELECT s.unit, min(t.started_at), max(s.status), max(s.reason), max(s.raw) FROM ("
                f"SELECT r.unit, r.first_run AS run, r.status, r.reason, r.raw FROM {self._of_asked('units', number)}"
                f" UNION ALL SELECT r.unit, r.run, NULL, NULL, NULL FROM {self._of_asked('rows', number)}) s"
                f" JOIN {self._p}runs t ON t.run = s.run GROUP BY s.unit"
            )
        return Known(_typed(first, UNITS), _typed(rows, ROWS))

    def target_keys(self, flow: str, output: str, units: pa.Array) -> pa.Table:
        """The id map for ``units`` of a flow: columns unit, target_key (of the output's first row). No intents."""
        empty = pa.table({"unit": pa.array([], pa.string()), "target_key": pa.array([], pa.string())})
        number = self.outputs(flow).get(output)
        if number is None or flow not in self._flows or not len(units):
            return empty
        with self._sql.transaction(readonly=True):
            self._sql.stage("staged_asked", pa.table({"unit": pa.array(units, pa.string())}))
            found = self._sql.query(
                f"SELECT r.unit, coalesce(r.target_key, r.unit) FROM {self._of_asked('rows', self._flows[flow])}"
                f" WHERE r.output = {number} AND r.fingerprint IS NOT NULL AND NOT EXISTS (SELECT 1 FROM {self._p}rows"
                " x WHERE x.flow = r.flow AND x.unit = r.unit AND x.output = r.output AND x.n < r.n"
                " AND x.fingerprint IS NOT NULL)"
            )
        return found.rename_columns(empty.column_names).cast(empty.schema)

    def _of_asked(self, table: str, flow: int) -> str:
        asked: str = self._store.OF_ASKED
        return asked.format(p=self._p, table=table, flow=flow)

    # -- writing memory (inside the data's transaction) -----------------------------------------------

    def record(self, run: Run, flow: str, record: Record) -> None:
        """Remember a batch. Must run in the transaction that writes the data."""
        number = self._flows[flow]
        self.fence(run)
        if record.left.num_rows:
            self._renumber(number, record.left)
        if record.intended and record.created.num_rows:
            self._forget_intents(number, record.created)
        if record.created.num_rows:
            self._sql.insert(f"{self._p}rows", _stamped(record.created, number, run))
        if record.changed.num_rows:
            self._change_rows(run, number, record.changed)
        if record.touched.num_rows:
            self._sql.stage("staged_touched", record.touched)
            self._sql.execute(
                f"UPDATE {self._p}rows SET raw = NULL FROM staged_touched t WHERE {self._p}rows.flow = {number}"
                f" AND {self._p}rows.unit = t.unit AND {self._p}rows.raw <> t.raw"
            )
        if record.units.num_rows:
            self._keep_units(run, number, record.units)
        if record.images.num_rows:
            self._sql.insert(f"{self._p}before_images", _stamped(record.images, number, run))

    def _renumber(self, flow: int, left: pa.Table) -> None:
        """A unit's first row is the one that it makes now; its images go with a row."""
        self._sql.stage("staged_left", left)
        for table in ("rows", "before_images"):
            self._sql.execute(
                f"UPDATE {self._p}{table} SET n = l.behind FROM staged_left l WHERE {self._p}{table}.flow = {flow}"
                f" AND {self._p}{table}.unit = l.unit AND {self._p}{table}.output = l.output"
                f" AND {self._p}{table}.n = l.n"
            )

    def intend(self, run: Run, flow: str, created: pa.Table) -> None:
        """Remember what is about to be written where no transaction covers it: rows without a fingerprint.

        What was meant for these rows before, and never written, is forgotten.
        """
        self.fence(run)
        rows = created.set_column(
            created.column_names.index("fingerprint"), "fingerprint", pa.nulls(created.num_rows, pa.binary(16))
        )
        rows = rows.set_column(rows.column_names.index("raw"), "raw", pa.nulls(rows.num_rows, pa.int64()))
        if rows.num_rows:
            self._forget_intents(self._flows[flow], rows)
            self._sql.insert(f"{self._p}rows", _stamped(rows, self._flows[flow], run))

    def _forget_intents(self, flow: int, created: pa.Table) -> None:
        """What is known now takes the place of what was meant."""
        self._sql.stage("staged_meant", created.select(["unit", "output", "n"]))
        self._sql.execute(
            f"DELETE FROM {self._p}rows WHERE flow = {flow} AND fingerprint IS NULL"
            " AND (unit, output, n) IN (SELECT unit, output, n FROM staged_meant)"
        )

    def loaded(self) -> None:
        """Many rows were just remembered: let the store know its own size."""
        if self._store.AFTER_LOAD:
            self._sql.execute(self._store.AFTER_LOAD.format(p=self._p))

    def _change_rows(self, run: Run, flow: int, changed: pa.Table) -> None:
        self._sql.stage("staged_changed", changed)
        self._sql.execute(
            f"UPDATE {self._p}rows SET fingerprint = c.fingerprint, shape = c.shape, raw = c.raw,"
            f" reused = coalesce(c.reused, {self._p}rows.reused),"
            f" changed_run = CASE WHEN {self._p}rows.fingerprint IS NOT DISTINCT FROM c.fingerprint"
            f" THEN changed_run ELSE {run.number} END"
            f" FROM staged_changed c WHERE {self._p}rows.flow = {flow}"
            f" AND {self._p}rows.unit = c.unit AND {self._p}rows.output = c.output AND {self._p}rows.n = c.n"
        )

    def _keep_units(self, run: Run, flow: int, units: pa.Table) -> None:
        """Held, skipped, failed and warned units; a unit that is now plainly done keeps its first run."""
        self._sql.stage("staged_units", units)
        self._sql.execute(
            f"INSERT INTO {self._p}units (flow, unit, status, reason, detail, warnings, raw, first_run, last_run,"
            f" attempts, retry) SELECT {flow}, unit, status, reason, detail, warnings, raw, {run.number},"
            f" {run.number}, 1, false FROM staged_units WHERE true"
            " ON CONFLICT (flow, unit) DO UPDATE SET status = excluded.status, reason = excluded.reason,"
            " detail = excluded.detail, warnings = excluded.warnings, raw = excluded.raw,"
            f" last_run = excluded.last_run, attempts = {self._p}units.attempts + 1,"
            f" note = CASE WHEN excluded.reason = 'waived' THEN {self._p}units.note END"
        )
        self._sql.execute(
            f"UPDATE {self._p}rows SET raw = NULL WHERE flow = {flow} AND raw IS NOT NULL AND unit IN"
            f" (SELECT unit FROM staged_units WHERE status <> '{Status.DONE}')"
        )

    def waive(self, flow: str | None, reason: str | None, units: Sequence[str], why: str) -> int:
        """Mark held units as out of scope; gives how many."""
        where, parameters = self._units_where(Status.HELD, flow, reason, units)
        chosen = f"SELECT u.flow, u.unit FROM {self._p}units u JOIN {self._p}flows f ON f.flow = u.flow WHERE {where}"
        with self._sql.transaction():
            count = int(self._sql.execute(f"SELECT count(*) FROM ({chosen}) chosen", parameters)[0][0])
            self._sql.execute(
                f"UPDATE {self._p}units SET status = 'skipped', reason = 'waived', note = %s"
                f" WHERE (flow, unit) IN ({chosen})",
                [why, *parameters],
            )
        return count


def numbered(known: Mapping[str, int], names: Iterable[str]) -> dict[str, int]:
    """Outputs by number: what is remembered keeps its own, what is new follows in its order."""
    new = [name for name in names if name not in known]
    return {**known, **{name: len(known) + place for place, name in enumerate(new)}}


def _lasting() -> str:
    """SQL for units that wait for nothing that another flow may bring."""
    reasons = ", ".join(f"'{reason}'" for reason in AWAITING)
    return f"coalesce(reason, '') NOT IN ({reasons})"


def _is(reason: str | None) -> str:
    if reason is None:
        return "reason IS NULL"
    doubled = reason.replace("'", "''")
    return f"reason = '{doubled}'"


def _typed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    return table.rename_columns(schema.names).cast(schema)


def _stamped(table: pa.Table, flow: int, run: Run) -> pa.Table:
    """The rows with the flow and the run that they belong to."""
    table = table.append_column("flow", pa.repeat(pa.scalar(flow, pa.int32()), table.num_rows))
    return table.append_column("run", pa.repeat(pa.scalar(run.number, pa.int64()), table.num_rows))
