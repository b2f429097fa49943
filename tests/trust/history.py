"""A history: a source that changes, owners who edit, runs in any order; after each run the laws are held against it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from resettle.batch import Kind
from resettle.engine import plan as planning
from resettle.engine import rehearse as rehearsing
from resettle.engine import rollback as rolling
from resettle.engine.apply import Applied
from resettle.ledger.records import AWAITING
from resettle.mapping.model import Moment
from tests.engine.conftest import Project, actions, counts
from tests.trust.owners import Owners, Remembered, Row, Rows
from tests.trust.worlds import Table, World

REFUSED = {"check", "unique", "null", "constraint", "inexact", "exists", "foreign_key", "type", "limit"}
"""Reasons of what a plan may count as done because only the target can refuse it."""
WRITES = {"create", "update", "patch", "copy"}
WORK = ["change_a_record", "change_every_record", "change_the_source", "insert_a_row", "edit_a_row", "edit_a_row"]
WORK += ["edit_what_changes", "delete_a_row", "remap"]
UNITS = {"id", "isbn", "code"}
"""What the source never changes."""
OPTIONS = st.fixed_dictionaries(
    {"batch_size": st.sampled_from([1, 2, 3, 100]), "workers": st.sampled_from([1, 3]), "fresh": st.booleans()}
)

NewProject = Callable[[], Project]
"""A project in an empty folder, with an empty database where it has one."""


class History(RuleBasedStateMachine):
    """Subclasses say in which ``world``, and by ``new_project`` where."""

    world: World
    new_project: NewProject

    def __init__(self) -> None:
        super().__init__()
        self.p = type(self).new_project()
        self.owners = Owners(self.p, self.world)
        self.owners.make_tables()
        for name, text in self.world.files.items():
            (self.p.root / name).write_text(text, "utf-8")
        self.sources: dict[str, list[Row]] = {name: [] for name in self.world.records}
        self.p.put(**self.sources)
        self.left: Rows = {}
        """Each row that the ledger calls ours, as we left it."""
        self.undone: set[int] = set()

    def teardown(self) -> None:
        shutil.rmtree(self.p.root, ignore_errors=True)

    # -- what people do ---------------------------------------------------------------------------------

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        self.remap(data)
        for name in self.sources:
            odd = data.draw(self.world.records[name], label=name)
            self._put(name, [*self.world.plain.get(name, ()), *odd[: data.draw(st.integers(0, 3), label="odd")]])
        for table in self.world.tables:
            for _ in range(data.draw(st.integers(0, 2)) if table.inserted else 0):
                self._insert(table, data)
        self._applied(self.p.apply)

    def _work(self, data: st.DataObject) -> None:
        """What people do between two runs."""
        for what in data.draw(st.lists(st.sampled_from(WORK), min_size=1, max_size=4), label="people"):
            getattr(self, what)(data)

    def remap(self, data: st.DataObject) -> None:
        self.flows = data.draw(st.sampled_from(self.world.flows), label="mapping")
        self.p.flows(self.flows, self.world.extra)

    def change_a_record(self, data: st.DataObject) -> None:
        """A field of a record gets another value, so that what it became is to be updated."""
        for name in sorted(self.sources)[: 1 if len(self.sources) == 1 else None]:
            records = [dict(record) for record in self.sources[name]]
            if records and (new := data.draw(self.world.records[name], label=f"values for {name}")):
                record = records[data.draw(st.integers(0, len(records) - 1), label="which")]
                fields = data.draw(st.lists(st.sampled_from(sorted(new[0])), min_size=1, max_size=2), label="fields")
                record |= {field: new[0][field] for field in fields if field not in UNITS}
                self._put(name, records)

    def change_every_record(self, data: st.DataObject) -> None:
        """Whatever is written of it is to be updated."""
        word = data.draw(st.sampled_from(["Anna", "Bert", "Carl"]), label="everywhere")
        for name, records in self.sources.items():
            self._put(name, [{k: word if k in ("name", "title") else v for k, v in one.items()} for one in records])

    def edit_what_changes(self, data: st.DataObject) -> None:
        """A conflict, where the row is ours."""
        self.edit_a_row(data)
        self.change_every_record(data)

    def change_the_source(self, data: st.DataObject) -> None:
        for name in self.sources:
            old, new = self.sources[name], data.draw(self.world.records[name], label=name)
            stay = [record for record in old if data.draw(st.booleans(), label="stays")]
            self._put(name, [*stay, *new[:2]] or old)

    def insert_a_row(self, data: st.DataObject) -> None:
        self._insert(data.draw(st.sampled_from([t for t in self.world.tables if t.inserted])), data)

    def edit_a_row(self, data: st.DataObject) -> None:
        if (chosen := self._chosen(data)) is None:
            return
        table, key, row = chosen
        names = sorted(set(table.theirs) - set(table.key))
        if names:
            column = data.draw(st.sampled_from(names))
            value = data.draw(table.theirs[column], label=f"{table.name}.{column} of {key}")
            self.owners.edit(table, {name: row[name] for name in table.key}, column, value)

    def delete_a_row(self, data: st.DataObject) -> None:
        if (chosen := self._chosen(data)) is not None:
            table, key, row = chosen
            note(f"deletes {table.name} {key}")
            self.owners.delete(table, {name: row[name] for name in table.key})

    def _put(self, name: str, records: list[Row]) -> None:
        self.sources[name] = records
        self.p.put(**{name: records})

    def _insert(self, table: Table, data: st.DataObject) -> None:
        row = {name: data.draw(table.theirs[name], label=name) for name in (*table.key, *table.asked)}
        kinds = {one.name: one.kind for one in table.fields}
        if any(kinds[name] is Kind.JSON for name in row) and self.p.kind == "sqlite":
            row = {name: json.dumps(v) if kinds[name] is Kind.JSON else v for name, v in row.items()}
        self.owners.insert(table, row)

    def _chosen(self, data: st.DataObject) -> tuple[Table, str, Row] | None:
        rows = self.owners.rows()
        if not rows:
            return None
        # minted keys differ from run to run: choose by what else the rows hold
        ours = {at: row for at, row in rows.items() if at in self.left}
        if ours and data.draw(st.integers(0, 3), label="ours") < 3:
            rows = ours
        ordered = sorted(rows, key=lambda at: (at[0], repr(sorted(self._plain(rows[at]).items()))))
        place = ordered[data.draw(st.integers(0, len(ordered) - 1), label="row")]
        return self.owners.tables[place[0]], place[1], rows[place]

    def _plain(self, row: Row) -> Row:
        minted = {one.name for table in self.world.tables for one in table.fields if one.kind is Kind.UUID}
        return {name: value for name, value in row.items() if name not in minted and name != "items"}

    # -- what we do ---------------------------------------------------------------------------------------

    @rule(data=st.data(), options=OPTIONS, rehearsed=st.booleans(), again=st.booleans())
    def apply(self, data: st.DataObject, options: dict[str, Any], rehearsed: bool, again: bool) -> None:
        self._work(data)
        planned = self._plan(options)
        foreseen = self._rehearse(options) if rehearsed else None
        applied = self._applied(lambda: self.p.apply(**options))
        refused = REFUSED & {reason for one in applied.counts for reason in one.reasons}
        if not refused:
            assert counts(planned) == counts(applied), "a plan counts what its apply does"
        if foreseen is not None:
            assert counts(foreseen) == counts(applied), "a rehearsal counts what its apply does"  # type: ignore[arg-type]
        self._settled(again)

    @rule(data=st.data(), options=OPTIONS)
    def apply_a_saved_plan(self, data: st.DataObject, options: dict[str, Any]) -> None:
        self._work(data)
        planned = self._plan(options)
        applied = self._applied(lambda: self.p.apply(planned, **options))
        assert applied.counts[0].read == planned.counts[0].read

    @rule(data=st.data(), options=OPTIONS)
    def apply_and_roll_back(self, data: st.DataObject, options: dict[str, Any]) -> None:
        self._work(data)
        before, known = self.owners.rows(), self.owners.remembered()
        left = dict(self.left)
        applied = self._applied(lambda: self.p.apply(**options))
        done = self._roll_back(applied.run, 100)
        assert done.kept == 0, f"nobody changed anything since, but {done.as_json()} was kept"
        assert self.owners.rows() == before, "a rollback restores"
        assert _ours(self.owners.remembered()) == _ours(known), "a rollback restores the memory of rows"
        self.left = left

    @rule(data=st.data(), size=st.sampled_from([1, 2, 100]))
    def roll_back_an_earlier_run(self, data: st.DataObject, size: int) -> None:
        found = self.owners.ledger("SELECT run FROM {p}runs WHERE phase IN ('apply', 'replay') ORDER BY run")
        runs = [run for (run,) in found if run not in self.undone]
        if runs:
            chosen = data.draw(st.sampled_from(runs[-3:]), label="run")
            if self._roll_back(chosen, size).kept == 0:
                self.undone.add(chosen)

    @rule(data=st.data(), options=OPTIONS)
    def replay(self, data: st.DataObject, options: dict[str, Any]) -> None:
        self._work(data)
        held: dict[str, list[str]] = {}
        with self.p.ledger() as ledger:
            for one in ledger.units("held") if ledger.exists else ():
                repeat = one["reason"] == "duplicate_unit"
                held.setdefault(one["flow"], []).append(one["unit"].rpartition("#")[0] if repeat else one["unit"])
        if held:
            self._applied(lambda: self.p.apply(select=tuple(held), only=held, **options), whole=False)

    # -- the laws -------------------------------------------------------------------------------------------

    def _plan(self, options: dict[str, Any]) -> planning.Plan:
        before = self.owners.whole()
        planned = self.p.plan(**options)
        assert self.owners.whole() == before, "a plan changes nothing anywhere"
        return planned

    def _rehearse(self, options: dict[str, Any]) -> rehearsing.Rehearsed:
        before = self.owners.rows(), self.owners.remembered(), self.owners.unit_rows()
        with self.p.opened() as opened:
            given, now = self.p.options(options)
            done = rehearsing.rehearse(*opened, given, now)
        assert (self.owners.rows(), self.owners.remembered(), self.owners.unit_rows()) == before
        return done

    def _applied(self, apply: Callable[[], Applied], *, whole: bool = True) -> Applied:
        rows, known = self.owners.rows(), self.owners.remembered()
        applied = apply()
        note(f"applied: {counts(applied)}")
        for one in applied.counts:
            words = ("done", "unchanged", "partial", "skipped", "held", "failed")
            assert one.read == sum(one.units[word] for word in words), "the equation"
            source = self.p.load().file.flows[one.flow].from_.partition(".")[2]
            if whole and source in self.sources:
                assert one.read == len(self.sources[source]), "every record is read"
            elif whole:
                assert one.read == sum(table == source for table, _ in rows), "every row is read"
        made = self._owners_are_heard(rows, known)
        assert actions(applied).get("create", 0) == made, "as many rows were made as were counted"
        return applied

    def _owners_are_heard(self, before: Rows, known: Any) -> int:
        """No row went, and none was changed that is not ours, or that somebody changed since. Gives the new ones."""
        after, remembered = self.owners.rows(), self.owners.remembered()
        flows = self.p.load().file.flows
        ours = {(one.table, one.key) for one in remembered.values() if not one.reused}
        anybody = {
            o.into.partition(".")[2]
            for f in flows.values()
            if f.on_conflict == "source"
            for o in f.all_outputs.values()
        }
        for at, row in before.items():
            assert at in after, f"{at} was deleted"
            changed = {name for name in row if row[name] != after[at][name]}
            if at[0] in self.world.patched:
                self._only_patched(at, row, after[at], changed)
            elif changed and at[0] not in anybody:
                assert at in self.left, f"{at} is not ours, and {changed} of it changed"
                lost = {name for name in self.left[at] if self.left[at][name] != row[name]}
                assert not lost, f"{at}: the owners' {lost} went with our {changed}"
            if changed:
                assert changed <= self._written(at[0]), f"{at}: {changed} is not all mapped"
        for one in remembered.values():
            at, old = (one.table, one.key), known.get((one.flow, one.unit, one.output, one.n))
            if not one.reused and at in after and (old is None or old.fingerprint != one.fingerprint or old.reused):
                self.left[at] = self.left.get(at, {}) | {name: after[at][name] for name in self._compared(one)}
        self.left = {at: row for at, row in self.left.items() if at in ours}
        new = after.keys() - before.keys()
        strange = {at for at in new if at not in ours}
        assert not strange, f"{strange} was made and is not remembered"
        return len(new)

    def _only_patched(self, at: tuple[str, str], row: Row, now: Row, changed: set[str]) -> None:
        column = self.world.patched[at[0]]
        assert changed <= {column}, f"{at}: {changed} is not patched"
        assert _without_ids(row[column]) == _without_ids(now[column]), f"{at}: more than a place was patched"

    def _columns(self, table: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for flow in self.p.load().file.flows.values():
            for output in flow.all_outputs.values():
                if output.into.partition(".")[2] == table and isinstance(output.columns, dict):
                    found |= output.columns
        return found

    def _written(self, table: str) -> set[str]:
        return set(self._columns(table))

    def _compared(self, one: Remembered) -> set[str]:
        """The columns that its output writes, not those that another output writes into other rows of the table."""
        flow = self.p.load().file.flows.get(one.flow)
        output = flow.all_outputs.get(one.output) if flow else None
        columns = output.columns if output and isinstance(output.columns, dict) else {}
        return {name for name, form in columns.items() if not isinstance(form, Moment)}

    def _settled(self, again: bool) -> None:
        """What follows an apply has nothing to do, but for what waits for what may have come since."""
        waiting = self._waiting()
        after = self.p.plan()
        if not waiting:
            assert not WRITES & actions(after).keys(), f"a plan after an apply is empty, not {counts(after)}"
            assert sum(one.units["done"] for one in after.counts) == 0, counts(after)
        if not again and not waiting:
            return
        for _ in range(4):
            before = self.owners.rows(), self.owners.remembered(), self.owners.unit_rows()
            applied = self._applied(self.p.apply)
            if not WRITES & actions(applied).keys():
                break
            assert waiting, f"applying twice writes {counts(applied)}"
        else:
            raise AssertionError("it does not come to rest")
        assert self.owners.rows() == before[0]
        assert self.owners.remembered() == before[1], "applying twice changes no memory of rows"
        if not any("duplicate_unit" in one.reasons for one in applied.counts):  # see the one marked xfail
            assert self.owners.unit_rows() == before[2], "applying twice changes no memory of units"

    def _waiting(self) -> int:
        reasons = ", ".join(f"'{reason}'" for reason in AWAITING)
        query = f"SELECT 1 FROM {{p}}units WHERE status IN ('failed', 'partial') OR reason IN ({reasons})"
        return len(self.owners.ledger(query))

    def _roll_back(self, run: int, size: int) -> rolling.RolledBack:
        before = self.owners.rows()
        whole = self.owners.whole()
        with self.p.opened() as opened:
            planned = rolling.plan_rollback(*opened, self.p.options({"batch_size": size})[0], run)
        assert self.owners.whole() == whole, "a plan of a rollback changes nothing"
        with self.p.opened() as opened:
            given, now = self.p.options({"batch_size": size})
            done = rolling.rollback(*opened, given, now, run)
        note(f"rolled back: {done.as_json()}")
        assert [one.as_json() for one in planned.flows] == [one.as_json() for one in done.flows]
        after, remembered = self.owners.rows(), self.owners.remembered()
        for at, row in before.items():
            if after.get(at) == row:
                continue
            if at[0] in self.world.patched:
                assert at in after
                column = self.world.patched[at[0]]
                assert _without_ids(row[column]) == _without_ids(after[at][column])
                continue
            assert at in self.left, f"{at} is not ours, and was rolled back"
            lost = {name for name in self.left[at] if self.left[at][name] != row[name]}
            assert not lost, f"{at}: the owners' {lost} was rolled back"
            if at in after:
                self.left[at] = {name: after[at][name] for name in self.left[at]}
        assert after.keys() <= before.keys(), "a rollback makes no rows"
        ours = {(one.table, one.key) for one in remembered.values() if not one.reused}
        self.left = {at: row for at, row in self.left.items() if at in ours}
        return done


def _ours(known: dict[Any, Remembered]) -> dict[Any, Remembered]:
    """Without the fingerprints of rows that we only reuse: those are not put back, and nothing depends on them."""
    return {at: one._replace(fingerprint=None) if one.reused else one for at, one in known.items()}


def _without_ids(document: Any) -> Any:
    found = json.loads(document) if isinstance(document, str) else document
    if not isinstance(found, list):
        return found
    return [{k: v for k, v in one.items() if k != "assetId"} if isinstance(one, dict) else one for one in found]


def in_folder(kind: str, url: str = "") -> Project:
    root = Path(tempfile.mkdtemp(prefix="resettle-laws-"))
    (root / "source").mkdir()
    return Project(root, kind, url)
