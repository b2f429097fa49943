"""Rows written one by one, many in a request; a lost answer never becomes a second row."""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import pyarrow as pa

from resettle.connectors._appsync_read import Ask, Given, Requests, portions
from resettle.connectors._appsync_schema import STAMP, Model, Writing
from resettle.connectors._appsync_values import Refusal, alike, inputs_of
from resettle.errors import ConfigError, ConnectorError, RejectedError, TransientError

Fetch = Callable[[pa.Table, Sequence[str]], pa.Table]
"""Present rows by key: the key columns and the named ones."""
Wrote = Callable[[Sequence[Any] | None], None]
"""Told of each record as it is once it was written, or (None) that it is not known what some have become."""
OURS = uuid.UUID("6b1f2c0e-5d0e-5f43-9c5b-0d6c2a7e4f11")
"""The namespace of ids for rows that bring none."""


@dataclass
class Writer:
    """Writes to one dataset of an API."""

    requests: Requests
    model: Model
    fetch: Fetch
    most: int
    """Aliases in one mutation."""
    wrote: Wrote
    refused: dict[bytes, Refusal] = field(default_factory=dict)
    """What the service refused for good, by input: it says so only when it is asked to write."""
    _given: list[Any] = field(default_factory=list)
    """What the service gave for each row of the last call that it wrote."""
    _made: frozenset[bytes] = frozenset()
    """What the last call made although it told of a refusal: the next one need not send that again."""
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def create(self, rows: pa.Table, key: Sequence[str]) -> None:
        """Raises RejectedError if any row is refused; its neighbours are written then, and may be written again."""
        writing = self._writing("create", rows)
        inputs, bad = self._checked(rows, key)
        if bad:
            raise self._error(bad)
        known, self._made = self._made, frozenset()
        absent = [at for at in self._absent(rows, key, inputs) if orjson.dumps(inputs[at]) not in known]
        outcomes = self._sent("create", writing, [inputs[at] for at in absent])
        refused = {at: outcome for at, outcome in zip(absent, outcomes, strict=True) if outcome}
        doubtful = [at for at, (reason, _) in refused.items() if reason == "exists"]
        if doubtful:
            there = self._there(rows, inputs, doubtful)
            refused = {at: one for at, one in refused.items() if at not in there}
        if refused:
            self._made = frozenset(orjson.dumps(one) for at, one in enumerate(inputs) if at not in refused)
            raise self._error(refused)

    def update(self, rows: pa.Table, key: Sequence[str]) -> None:
        """Changes what the rows name; rows that are not there stay so."""
        writing = self._writing("update", rows)
        if len(rows.column_names) == len(key):
            return
        rows = self._identified(rows, key)
        inputs = inputs_of(self.model, writing, rows, create=False)
        bad = {at: one for at, one in enumerate(inputs) if isinstance(one, tuple)}
        if bad:
            raise self._error(bad)
        outcomes = self._sent("update", writing, [one for one in inputs if isinstance(one, dict)])
        refused = {at: one for at, one in enumerate(outcomes) if one and one[0] != "exists"}
        if refused:
            raise self._error(refused)

    def delete(self, keys: pa.Table, looked: Mapping[tuple[Any, ...], Any]) -> int:
        """What is there now is deleted; gives how many that were.

        ``looked``: `updatedAt` of rows, by key, with which alone they may be deleted. Raises TransientError where
        somebody changed such a row since; it stays, and its neighbours are deleted.
        """
        writing = self._writing("delete", keys.slice(0, 0).select([]))
        own = list(self.model.schema.key)
        found = self.fetch(keys, own).select(own)
        there: list[dict[str, Any]] = found.to_pylist()
        stamps = [looked.get(tuple(row.values())) if writing.condition else None for row in there]
        outcomes = self._sent("delete", writing, there, stamps)
        refused = {at: one for at, one in enumerate(outcomes) if one and one[0] != "exists"}
        if refused:
            raise self._error(refused)
        # What was not deleted is gone already, or is no longer as it was.
        left = [at for at, one in enumerate(outcomes) if one and stamps[at]]
        if left and self.fetch(found.take(pa.array(left)), own).num_rows:
            raise TransientError("somebody else changed a row that was to be deleted; it is looked at again")
        return len(there)

    def refusals(self, rows: pa.Table, key: Sequence[str], *, create: bool) -> dict[int, Refusal]:
        """Rows that would be refused, as far as that can be known without writing them."""
        writing = self._writing("create" if create else "update", rows)
        if not create:
            inputs = inputs_of(self.model, writing, self._identified(rows, key), create=False)
            return {at: one for at, one in enumerate(inputs) if isinstance(one, tuple)} | self._remembered(inputs)
        inputs, bad = self._checked(rows, key)
        bad = self._remembered(inputs) | bad
        good = [at for at in range(rows.num_rows) if at not in bad]
        part = rows.take(pa.array(good, pa.int64()))
        _, other = self._compared(part, key)
        return bad | {good[at]: ("exists", ", ".join(key)) for at in other}

    def _writing(self, verb: str, rows: pa.Table) -> Writing:
        writing = self.model.writing(verb)
        if writing is None:
            raise ConfigError(f"the API has no mutation to {verb} `{self.model.name}`")
        for name in rows.column_names:
            if name not in self.model.select:
                raise ConfigError(f"`{self.model.name}` has no column `{name}`")
            if name not in writing.columns:
                raise ConfigError(f"`{writing.input}` does not take `{self.model.name}.{name}`: the service sets it")
        return writing

    def _checked(self, rows: pa.Table, key: Sequence[str]) -> tuple[list[Any], dict[int, Refusal]]:
        """Inputs with their ids, and the rows that are wrong in themselves or come twice."""
        writing = self._writing("create", rows)
        inputs: list[Any] = inputs_of(self.model, writing, rows, create=True)
        bad: dict[int, Refusal] = {at: one for at, one in enumerate(inputs) if isinstance(one, tuple)}
        seen: set[bytes] = set()
        for at, given in enumerate(inputs):
            if at in bad:
                continue
            own = orjson.dumps([given.get(name) for name in key])
            if own in seen:
                bad[at] = ("exists", ", ".join(key))
            seen.add(own)
            if "id" in writing.columns and "id" not in given:
                given["id"] = str(uuid.uuid5(OURS, f"{self.model.name}\n{own.decode()}"))
        return inputs, bad

    def _absent(self, rows: pa.Table, key: Sequence[str], inputs: Sequence[Any]) -> list[int]:
        """Rows to create. By its own key the service itself looks; by any other one we do, before it."""
        if tuple(key) == self.model.schema.key:
            return list(range(len(inputs)))
        same, other = self._compared(rows, key)
        if other:
            raise RejectedError("exists", ", ".join(key))
        return [at for at in range(len(inputs)) if at not in same]

    def _compared(self, rows: pa.Table, key: Sequence[str]) -> tuple[set[int], set[int]]:
        """Places of rows that are there just so, and of those whose key is there with something else."""
        if not rows.num_rows:
            return set(), set()
        keys = rows.select(list(key))
        found = self.fetch(keys, rows.column_names).select(rows.column_names).to_pylist()
        present: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
        for row in found:
            present.setdefault(tuple(row[name] for name in key), []).append(row)
        same: set[int] = set()
        other: set[int] = set()
        for at, row in enumerate(rows.to_pylist()):
            there = present.get(tuple(row[name] for name in key), ())
            if any(self._equal(row, one) for one in there):
                same.add(at)
            elif there:
                other.add(at)
        return same, other

    def _there(self, rows: pa.Table, inputs: Sequence[Any], places: Sequence[int]) -> set[int]:
        """Of rows whose id is taken, those that are there as they were to be made: their answer was lost."""
        key = self.model.schema.key
        part = rows.take(pa.array(places, pa.int64()))
        if key == ("id",):
            named = part.drop_columns(["id"]) if "id" in part.column_names else part
            part = named.append_column("id", pa.array([inputs[at]["id"] for at in places], pa.string()))

        def look() -> set[int]:
            same, other = self._compared(part, key)
            if len(same) + len(other) < len(places):
                # Reads may lag behind a write for a moment.
                raise TransientError("a row that is there cannot be read yet")
            return same

        return {places[at] for at in self.requests.call(look)}

    def _equal(self, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
        columns = [column for column in self.model.schema.columns if column.name in ours]
        return all(alike(column, ours[column.name], theirs[column.name]) for column in columns)

    def _identified(self, rows: pa.Table, key: Sequence[str]) -> pa.Table:
        """Rows with the key that the service knows them by; those that are not there are gone."""
        own = self.model.schema.key
        if tuple(key) == own:
            return rows
        found = self.fetch(rows.select(list(key)), own)
        left = [name for name in rows.column_names if name not in own or name in key]
        return rows.select(left).join(found, list(key), join_type="inner", use_threads=False)

    def _sent(
        self, verb: str, writing: Writing, inputs: Sequence[Mapping[str, Any]], stamps: Sequence[Any] = ()
    ) -> list[Refusal | None]:
        """What became of each input: done, or why not. ``stamps``: what `updatedAt` must still be, by input."""
        # Everything is selected: the app's own subscribers get only what a mutation selects.
        select = f"{{{' '.join(self.model.select.values())}}}"
        asks = []
        for one, stamp in itertools.zip_longest(inputs, stamps):
            guard = {"condition": (writing.condition, {STAMP: {"eq": stamp}})} if stamp else {}
            # AppSync gives null for a row that is gone already: what is as it should be counts as done there.
            # https://docs.aws.amazon.com/appsync/latest/devguide/aws-appsync-resolver-mapping-template-reference-dynamodb-condition-expressions.html
            args = {"input": (f"{writing.input}!", one), **guard}
            asks.append(Ask(writing.field, args, select, optional=verb == "delete"))
        self._given = []
        known = False
        try:
            parts = self.requests.each(self._portion, portions(asks, self.most, Ask.size))
            outcomes = [outcome for part in parts for outcome in part]
            known = verb != "delete" and not any(outcomes)
        finally:
            self.wrote(self._given if known else None)
        return outcomes

    def _portion(self, asks: list[Ask]) -> list[Refusal | None]:
        """One request; cut in halves if one row spoils it for all, as a value of the wrong type does."""
        try:
            outcomes = self.requests.answer("mutation", asks)
        except RejectedError as error:
            if len(asks) > 1:
                middle = len(asks) // 2
                return [*self._portion(asks[:middle]), *self._portion(asks[middle:])]
            outcomes = [error]
        return [self._refusal(ask, outcome) for ask, outcome in zip(asks, outcomes, strict=True)]

    def _refusal(self, ask: Ask, outcome: Given | ConnectorError) -> Refusal | None:
        if isinstance(outcome, Given):
            self._given.append(outcome.value)
            return None
        if not isinstance(outcome, RejectedError):
            raise outcome
        refusal = (outcome.reason, outcome.detail or self.model.name)
        if outcome.reason != "exists":
            with self._turn:
                self.refused[orjson.dumps(ask.args["input"][1])] = refusal
        return refusal

    def _remembered(self, inputs: Sequence[Any]) -> dict[int, Refusal]:
        if not self.refused:
            return {}
        known = {at: self.refused.get(orjson.dumps(one)) for at, one in enumerate(inputs) if isinstance(one, dict)}
        return {at: refusal for at, refusal in known.items() if refusal}

    def _error(self, refused: Mapping[int, Refusal]) -> RejectedError:
        reason, detail = refused[min(refused)]
        return RejectedError(reason, detail)
