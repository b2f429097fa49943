"""Undo: what of some units a rollback takes back, and why the rest is kept. The one code path of plan and execute.

Nothing is written here. A unit is undone whole or not at all.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from resettle.connector import Target
from resettle.engine.fingerprint import as_duckdb, as_wire, key_sql
from resettle.engine.images import KNOWN, Image, is_patch
from resettle.engine.undoing import standing
from resettle.engine.undoing.references import Identity, Pointer, References, Undone, deleted, restored
from resettle.engine.undoing.restore import documents, plain_values, values_of
from resettle.engine.undoing.standing import CHANGED, GONE, LEFT, STRANGE, Place
from resettle.engine.undoing.verdict import (
    CREATED,
    NOTED,
    OURS,
    PATCHED,
    REUSED,
    UPDATED,
    Asked,
    Change,
    Kept,
    Look,
    Verdict,
    column,
    counted,
    forgotten,
    unit_text,
)
from resettle.ledger.undo import MadeOf, Written
from resettle.mapping.functions import query, run_tried
from resettle.mapping.sql import Parsed

_KEPT = {CHANGED: "changed_since", STRANGE: "schema_changed"}
_SAYS = {CHANGED: "somebody changed the row since", STRANGE: "the table no longer has these columns"}
_REUSED = ("reused", "another unit reuses a row of it")

_TOUCHED = """
SELECT r.*, i.image, CASE WHEN i.image IS NOT NULL THEN 'updated' WHEN r.run = $run AND r.reused = 1 THEN 'reused'
  WHEN r.run = $run THEN 'created' ELSE 'noted' END AS what
FROM _r r LEFT JOIN _i i ON i.unit = r.unit AND i.output = r.output AND i.n = r.n
WHERE i.image IS NOT NULL OR r.run = $run OR r.changed_run = $run
ORDER BY r.output DESC, r.unit, r.n DESC
"""


Owners = dict[Identity, list[tuple[str, set[str] | None]]]
"""Of rows that are to be deleted or restored: the units that do it, with the restored columns (None: deleted)."""


class Undoer:
    """Decides units of one flow."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        flow: str,
        run: int,
        targets: Mapping[str, Target],
        references: References,
        made_of: Mapping[int, MadeOf],
        names: Mapping[int, str],
        patches: frozenset[int],
        undone: Undone,
        where: Parsed | None,
    ) -> None:
        self._db, self._flow, self._run, self._targets = connection, flow, run, targets
        self._references, self._made_of, self._names = references, made_of, names
        self._patches, self._undone, self._where = patches, undone, where

    def decide(self, asked: Asked, *, lock: bool) -> Verdict:
        """Decide these units. ``lock`` keeps the rows we looked at as they are until the transaction ends."""
        touched = self._touched(asked.written)
        looks = [self._look(rows, lock=lock) for rows in _by_shape(touched)]
        active = set(asked.units) if self._where is None else self._chosen(looks)
        kept = {unit: reason for unit, reason in self._later(asked.written).items() if unit in active}
        for look in looks:
            for unit, state in zip(look.units, look.states, strict=True):
                if state in _KEPT and unit in active:
                    kept.setdefault(unit, (_KEPT[state], f"{look.made.dataset}: {_SAYS[state]}"))
        self._keep_pointed_at(looks, asked, active, kept)
        undone = [unit for unit in asked.units if unit in active and unit not in kept]
        return self._verdict(looks, undone, [Kept(self._flow, unit, *why) for unit, why in kept.items()])

    def refused(self, unit: str, reason: str) -> Verdict:
        """The verdict on a unit that the target does not let us undo."""
        return self._verdict([], [], [Kept(self._flow, unit, "refused", f"the target refuses it: {reason}")])

    # -- what the run did ---------------------------------------------------------------------------------

    def _touched(self, written: Written) -> pa.Table:
        return query(self._db, _TOUCHED, {"run": self._run}, _r=written.rows, _i=written.images)

    def _later(self, written: Written) -> dict[str, tuple[str, str]]:
        """Units of which a later run wrote something: that run goes first."""
        rows = written.rows
        last = pc.max_element_wise(rows["run"], rows["changed_run"])
        table = pa.concat_tables([pa.table({"unit": rows["unit"], "run": last}), written.later])
        table = table.filter(pc.greater(table["run"], self._run))
        latest = table.group_by("unit", use_threads=False).aggregate([("run", "max")])
        pairs = zip(latest["unit"].to_pylist(), latest["run_max"].to_pylist(), strict=True)
        return {unit: (f"changed_by_run {run}", f"roll back run {run} first") for unit, run in pairs}

    def _look(self, rows: pa.Table, *, lock: bool) -> Look:
        """Fetch what is there for the rows of one set of columns, and say how each stands."""
        made = self._made_of[rows["shape"][0].as_py()]
        texts = column(rows, "image")
        images: list[Image | None] = [None if text is None else json.loads(text) for text in texts]
        whats = [self._what(made, word, image) for word, image in zip(column(rows, "what"), images, strict=True)]
        ours = [what in OURS for what in whats]
        look = Look(made, rows, column(rows, "unit"), whats, images=images, states=[GONE] * len(whats))
        schema = self._references.schema(made.connection, made.dataset)
        place = standing.place_of(made, self._targets[made.connection], schema)
        if place is None or any(schema.column(name) is None for name in _names(images)):
            return replace(look, states=[STRANGE if mine else GONE for mine in ours])
        if not any(ours) and not self._covers(place):
            return look
        also = [one.name for one in self._references.identity(made.connection, made.dataset)]
        also += [*self._references.pointed_at(made.connection, made.dataset), *_names(images)]
        also += schema.names if self._covers(place) else []
        seen = standing.see(self._db, place, rows, also, lock=lock)
        states = zip(standing.states(seen).to_pylist(), ours, strict=True)
        look = replace(look, place=place, seen=seen, states=[word if mine else GONE for word, mine in states])
        return self._with_images(look, place)

    def _what(self, made: MadeOf, word: str, image: Image | None) -> str:
        if image is not None:
            return NOTED if not image.keys() - {KNOWN} else PATCHED if is_patch(image) else UPDATED
        # a patch never made a row, whatever the ledger says
        return REUSED if word == CREATED and made.output in self._patches else word

    def _with_images(self, look: Look, place: Place) -> Look:
        """The states of rows that the run changed: by what it overwrote."""
        assert look.seen is not None
        states, values = list(look.states), None
        for word, state_of in ((UPDATED, standing.image_states), (PATCHED, standing.patch_states)):
            at = [row for row, what in enumerate(look.what) if what == word]
            images = [image for row in at if (image := look.images[row]) is not None]
            if not at:
                continue
            part = replace(look.seen, rows=look.seen.rows.take(pa.array(at, pa.int64())))
            found = state_of(self._db, place, part, images)
            if word == UPDATED:
                values, unfit = values_of(self._db, place, images)
            else:
                unfit = plain_values(self._db, place, images)[1]
            for row, state, bad in zip(at, found, unfit, strict=True):
                states[row] = STRANGE if bad and state == LEFT else state
        return replace(look, states=states, values=values)

    # -- --where ------------------------------------------------------------------------------------------

    def _covers(self, place: Place) -> bool:
        lower = {name.lower() for name in place.schema.names}
        return self._where is not None and all(name.lower() in lower for _, name, _ in self._where.columns)

    def _chosen(self, looks: Sequence[Look]) -> set[str]:
        """Units of which some row, as it is now, satisfies the condition."""
        assert self._where is not None
        found: set[str] = set()
        for look in looks:
            if look.place is None or look.seen is None or not self._covers(look.place):
                continue
            sql = f"SELECT coalesce(TRY(CAST(({self._where.sql}) AS BOOLEAN)), false) AS w FROM source"
            present = as_duckdb(look.seen.present, look.place.schema.columns)
            true = run_tried(self._db, sql, source=present)["w"].to_pylist()
            at = column(look.seen.rows, "_at")
            found |= {unit for unit, row in zip(look.units, at, strict=True) if row is not None and true[row]}
        return found

    # -- who points at what is to be deleted -----------------------------------------------------------------

    def _keep_pointed_at(
        self, looks: Sequence[Look], asked: Asked, active: set[str], kept: dict[str, tuple[str, str]]
    ) -> None:
        """Keep units whose rows others need, and those that these need, until no more are found."""
        going = active - kept.keys()
        pointers = [pointer for look in looks for pointer in self._pointers(look, going)]
        reusers = [one for look in looks for one in _reusers(look, asked, going)]
        if not pointers and not reusers:
            return
        pointers = self._still(pointers)
        for unit in self._reused_elsewhere([one for one in reusers if one[1] != self._flow or one[2] not in going]):
            kept.setdefault(unit, _REUSED)
        mine = [(unit, other) for unit, flow, other in reusers if flow == self._flow and other in going]
        owners = self._owners(looks, going)
        while found := self._needed(pointers, mine, owners, kept):
            kept.update(found)

    def _needed(
        self, pointers: list[Pointer], mine: list[tuple[str, str]], owners: Owners, kept: Mapping[str, object]
    ) -> dict[str, tuple[str, str]]:
        """Units that are needed by rows or units which are kept so far; the same whatever order they come in."""
        found: dict[str, tuple[str, str]] = {}
        for pointer in pointers:
            if pointer.unit not in kept and not any(
                unit not in kept and (names is None or names >= set(pointer.foreign_key.columns))
                for unit, names in owners.get(pointer.row, ())
            ):
                dataset = pointer.row[0].partition(".")[2]
                found.setdefault(pointer.unit, ("referenced", f"{dataset} points at it ({pointer.foreign_key.name})"))
        for unit, other in mine:
            if other in kept and unit not in kept:
                found.setdefault(unit, _REUSED)
        return found

    def _pointers(self, look: Look, going: set[str]) -> list[Pointer]:
        at = look.places(going, CREATED)
        if not at or look.seen is None:
            return []
        made = look.made
        present = look.seen.present.take(look.seen.rows["_at"].take(pa.array(at)).combine_chunks())
        doomed = present.append_column("unit", pa.array([look.units[row] for row in at], pa.string()))
        return self._references.pointers(made.connection, made.dataset, doomed)

    def _still(self, pointers: list[Pointer]) -> list[Pointer]:
        """The pointers whose rows this rollback has not deleted or turned elsewhere before."""
        if not pointers or not self._undone.rows:
            return pointers
        seen, hashes = self._undone.rows.seen, self._references.hashes
        gone = seen(hashes([deleted(one.row) for one in pointers]))
        turned = seen(hashes([restored(one.row, one.foreign_key) for one in pointers]))
        return [one for one, done in zip(pointers, (gone | turned).tolist(), strict=True) if not done]

    def _reused_elsewhere(self, reusers: list[tuple[str, str, str]]) -> list[str]:
        """Units whose rows are reused by units (flow, unit) that this rollback has not undone before."""
        if not reusers:
            return []
        hashes = self._references.hashes([unit_text(flow, other) for _, flow, other in reusers])
        gone = self._undone.units.seen(hashes).tolist()
        return [unit for (unit, _, _), done in zip(reusers, gone, strict=True) if not done]

    def _owners(self, looks: Sequence[Look], going: set[str]) -> Owners:
        """Of each row that is to be deleted (None) or restored (the columns): by which unit."""
        owners: Owners = {}
        for look in looks:
            identities = self._identities(look)
            for at in look.places(going, CREATED, UPDATED, PATCHED):
                image = look.images[at]
                names = None if image is None else image.keys() - {KNOWN}
                owners.setdefault(identities[at], []).append((look.units[at], names))
        return owners

    def _identities(self, look: Look) -> list[Identity]:
        """What each present row of a look goes by; of an absent one it means nothing."""
        if look.seen is None:
            return []
        made, schema = look.made, self._references.schema(look.made.connection, look.made.dataset)
        columns = self._references.identity(made.connection, made.dataset)
        present = as_duckdb(look.seen.present, schema.columns)
        keys = query(self._db, f"SELECT {key_sql(columns)} AS k FROM _p", _p=present)["k"]
        texts = keys.combine_chunks().take(look.seen.rows["_at"].combine_chunks()).to_pylist()
        return [(f"{made.connection}.{made.dataset}", text or "") for text in texts]

    # -- the verdict --------------------------------------------------------------------------------------

    def _verdict(self, looks: Sequence[Look], undone: list[str], kept: list[Kept]) -> Verdict:
        active = set(undone)
        counts: dict[str, Counter[str]] = {}
        changes: list[Change] = []
        remembered: list[str] = []
        gone: list[tuple[str, int, int]] = []
        before: list[tuple[str, int, int, Image, int]] = []
        for look in looks:
            totals = counts.setdefault(self._names[look.made.output], Counter())
            changes += self._changes(look, active)
            remembered += self._remembered(look, active)
            columns = (column(look.rows, name) for name in ("unit", "output", "n", "run", "shape"))
            for at, (unit, output, n, run, shape) in enumerate(zip(*columns, strict=True)):
                if unit not in active:
                    continue
                word = counted(look.what[at], look.states[at])
                totals.update([word] if word else [])
                image = look.images[at]
                if run == self._run:
                    gone.append((unit, output, n))
                elif image is not None:
                    before.append((unit, output, n, image, shape))
        return Verdict(self._flow, undone, kept, changes, forgotten(undone, gone, before), counts, remembered)

    def _changes(self, look: Look, active: set[str]) -> Iterable[Change]:
        """What is restored, then what is deleted: as the run had made before it changed."""
        if look.place is None or look.seen is None:
            return
        place, key = look.place, [column.name for column in look.place.key]
        if look.values is not None and (at := look.places(active, UPDATED)):
            updated = [row for row, what in enumerate(look.what) if what == UPDATED]
            yield Change(place, look.values.take(pa.array([updated.index(row) for row in at])), deletes=False)
        if at := look.places(active, PATCHED):
            images = [image for row in at if (image := look.images[row]) is not None]
            rows = look.seen.rows["_at"].take(pa.array(at)).to_pylist()
            for table in documents(self._db, place, look.seen.present, images, rows):
                yield Change(place, table, deletes=False)
        if at := look.places(active, CREATED):
            rows = list(dict.fromkeys(look.seen.rows["_at"].take(pa.array(at)).to_pylist()))
            yield Change(place, as_wire(look.seen.present.take(pa.array(rows)).select(key), place.key), deletes=True)

    def _remembered(self, look: Look, active: set[str]) -> list[str]:
        """Rows of datasets that point at others: these need not wait for them any more."""
        schema = self._references.schema(look.made.connection, look.made.dataset)
        rows = look.places(active, CREATED, UPDATED, PATCHED) if schema.foreign_keys else []
        if not rows:
            return []
        identities = self._identities(look)
        found = [deleted(identities[at]) for at in rows if look.images[at] is None]
        for at in rows:
            image = look.images[at]
            if image is not None:
                keys = [key for key in schema.foreign_keys if set(key.columns) <= image.keys()]
                found += [restored(identities[at], key) for key in keys]
        return found


def _by_shape(touched: pa.Table) -> Iterator[pa.Table]:
    """The rows by output, the last first, and by the columns of their fingerprints."""
    kinds = touched.group_by(["output", "shape"], use_threads=False).aggregate([])
    for output, shape in zip(column(kinds, "output"), column(kinds, "shape"), strict=True):
        yield touched.filter(pc.and_(pc.equal(touched["output"], output), pc.equal(touched["shape"], shape)))


def _names(images: Iterable[Image | None]) -> list[str]:
    """The columns of images."""
    return list(dict.fromkeys(name for image in images if image for name in image if name != KNOWN))


def _reusers(look: Look, asked: Asked, going: set[str]) -> Iterator[tuple[str, str, str]]:
    """(unit, flow, other unit) of all that reuse a row which the unit would delete."""
    found = asked.reusers.get((look.made.connection, look.made.dataset), ())
    if found:
        keys = column(look.rows, "target_key")
        owner = {keys[at]: look.units[at] for at in look.places(going, CREATED)}
        yield from ((owner[key], flow, unit) for key, flow, unit in found if key in owner)
