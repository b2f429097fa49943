"""Targets that each break one rule of the contract: the memory connector, with one thing wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import Action, Schema
from resettle.connectors.memory import Memory
from resettle.errors import ConfigError, RejectedError
from tests.contract.cases import NAMED_WEIRDLY, PEOPLE, PETS, Place, TargetCase, memory_orphan
from tests.trust.battery import Broken

BROKEN: list[Broken] = []


class Telling(Memory):
    """Not broken: a memory connector that can say which units it refuses."""

    def refusals(self, writes: Any, units: Any) -> pa.Table | None:
        parts = list(zip(writes, units, strict=True))
        waiting = list(dict.fromkeys(unit for of in units for unit in of.to_pylist()))
        said: dict[str, RejectedError] = {}
        with self.transaction(), suppress(_Undo), self.transaction():
            while True:
                before, said = len(waiting), {}
                for unit in list(waiting):
                    try:
                        with self.transaction():
                            for (dataset, rows, key, action), of in parts:
                                self._told(dataset, rows.filter(pc.equal(of, unit)), key, action)
                        waiting.remove(unit)
                    except RejectedError as error:
                        said[unit] = error
                if len(waiting) == before:
                    raise _Undo
        return pa.table(
            {
                "unit": pa.array(list(said), pa.string()),
                "reason": pa.array([one.reason for one in said.values()], pa.string()),
                "detail": pa.array([one.detail for one in said.values()], pa.string()),
            }
        )

    def _told(self, dataset: str, rows: pa.Table, key: Sequence[str], action: Action) -> None:
        for column in self.schema(dataset).columns:  # a missing value is told before a key that is taken
            if not column.nullable and column.name in rows.column_names and rows[column.name].null_count:
                raise self._refused("null", column.name)
        self.write(dataset, rows, key, action)


class _Undo(Exception):  # noqa: N818
    """Leaves a transaction without a trace."""


def case_of(kind: type[Memory], **differently: Any) -> TargetCase:
    def make(place: Place) -> Any:
        memory = kind("memory")
        for schema in (PEOPLE, PETS, NAMED_WEIRDLY):
            memory.create(schema.dataset, schema)
        return memory

    return replace(TargetCase(kind.__name__, make, memory_orphan), **differently)


def caught_by(*tests: str, **differently: Any) -> Callable[[type[Memory]], type[Memory]]:
    """Each of these tests must fail for the class."""

    def broken(kind: type[Memory]) -> type[Memory]:
        BROKEN.append(Broken("target", kind.__doc__ or "", case_of(kind, **differently), tests))
        return kind

    return broken


# -- fetching ----------------------------------------------------------------------------------------


class _Fetching(Telling):
    def fetch(self, dataset: str, keys: pa.Table, columns: Sequence[str], *, lock: bool = False) -> pa.Table:
        return self.spoilt(super().fetch(dataset, keys, columns, lock=lock), keys, lock)

    def spoilt(self, found: pa.Table, keys: pa.Table, lock: bool) -> pa.Table:
        raise NotImplementedError


@caught_by("test_what_is_created_is_fetched_exactly", "test_update_changes_only_the_named_columns")
class FetchesSeconds(_Fetching):
    """Instants lose what is smaller than a second."""

    def spoilt(self, found: pa.Table, keys: pa.Table, lock: bool) -> pa.Table:
        if "born" not in found.column_names:
            return found
        cut = pc.floor_temporal(found["born"], unit="second")
        return found.set_column(found.column_names.index("born"), "born", cut)


@caught_by("test_fetch_gives_key_and_columns_in_their_arrow_types")
class FetchesWideIntegers(_Fetching):
    """Numbers of 32 bits come as such of 64."""

    def spoilt(self, found: pa.Table, keys: pa.Table, lock: bool) -> pa.Table:
        fields = [pa.field(f.name, pa.int64() if f.type == pa.int32() else f.type) for f in found.schema]
        return found.cast(pa.schema(fields))


@caught_by("test_fetch_may_ask_for_the_key_alone_or_among_the_columns")
class FetchesNoKeyAlone(Telling):
    """The key comes only where other columns are asked for."""

    def fetch(self, dataset: str, keys: pa.Table, columns: Sequence[str], *, lock: bool = False) -> pa.Table:
        found = super().fetch(dataset, keys, columns, lock=lock)
        return found if columns else found.select([])


@caught_by(
    "test_fetch_gives_only_present_keys_and_each_once", "test_fetch_may_ask_for_the_key_alone_or_among_the_columns"
)
class FetchesTwice(_Fetching):
    """Every row comes twice."""

    def spoilt(self, found: pa.Table, keys: pa.Table, lock: bool) -> pa.Table:
        return pa.concat_tables([found, found])


@caught_by("test_a_null_key_fetches_nothing")
class NullsAreEqual(Telling):
    """A null in a key finds the rows that have a null there."""

    def fetch(self, dataset: str, keys: pa.Table, columns: Sequence[str], *, lock: bool = False) -> pa.Table:
        found = super().fetch(dataset, keys, columns, lock=lock)
        (name, *_) = keys.column_names
        if keys.num_rows and keys[name].null_count:
            every = pa.table({"id": pa.array([one["id"] for one in self._tables[dataset].rows.values()])})
            every = every.cast(pa.schema([("id", pa.binary(16))])) if dataset == "people" else every
            rows = super().fetch(dataset, every, list(found.column_names))
            return rows.filter(pc.is_null(rows[name])).select(found.column_names)
        return found


@caught_by("test_fetch_goes_by_any_columns")
class FetchesByOneColumn(Telling):
    """Only the first of the asked columns counts."""

    def fetch(self, dataset: str, keys: pa.Table, columns: Sequence[str], *, lock: bool = False) -> pa.Table:
        (first, *others) = keys.column_names
        return super().fetch(dataset, keys.select([first]), [*others, *columns], lock=lock)


@caught_by("test_fetch_with_a_lock_gives_the_same")
class LocksAndForgets(_Fetching):
    """With a lock it locks, and gives nothing."""

    def spoilt(self, found: pa.Table, keys: pa.Table, lock: bool) -> pa.Table:
        return found.slice(0, 0) if lock else found


@caught_by("test_many_rows_are_written_and_fetched")
class FetchesSoMany(_Fetching):
    """Of more than 32,766 keys only those are asked for."""

    def spoilt(self, found: pa.Table, keys: pa.Table, lock: bool) -> pa.Table:
        return found.slice(0, 32_766)


@caught_by("test_an_unknown_column_is_an_error")
class FetchesUnknownColumns(Telling):
    """A column that is none comes as nulls."""

    def fetch(self, dataset: str, keys: pa.Table, columns: Sequence[str], *, lock: bool = False) -> pa.Table:
        known = [name for name in columns if name in self.schema(dataset).names]
        return super().fetch(dataset, keys, known, lock=lock)


# -- writing -----------------------------------------------------------------------------------------


class _Writing(Telling):
    """``rows`` of a write as something else."""

    def write(self, dataset: str, rows: pa.Table, key: Sequence[str], action: Action) -> None:
        super().write(dataset, self.spoilt(rows), key, action)

    def spoilt(self, rows: pa.Table) -> pa.Table:
        raise NotImplementedError


@caught_by("test_a_value_is_kept_exactly_or_refused")
class WritesDoubles(_Writing):
    """Decimal numbers go through a double."""

    def spoilt(self, rows: pa.Table) -> pa.Table:
        if "balance" not in rows.column_names:
            return rows
        values = [None if one is None else repr(float(one)) for one in rows["balance"].to_pylist()]
        return rows.set_column(rows.column_names.index("balance"), "balance", pa.array(values, pa.string()))


@caught_by("test_a_value_is_kept_exactly_or_refused")
class CutsAtNul(_Writing):
    """A text ends at its first U+0000."""

    def spoilt(self, rows: pa.Table) -> pa.Table:
        if "name" not in rows.column_names:
            return rows
        values = [None if one is None else one.partition("\0")[0] for one in rows["name"].to_pylist()]
        return rows.set_column(rows.column_names.index("name"), "name", pa.array(values, pa.string()))


@caught_by("test_empty_batches_are_fine")
class RefusesNothing(_Writing):
    """A batch without rows is an error."""

    def spoilt(self, rows: pa.Table) -> pa.Table:
        if not rows.num_rows:
            raise RejectedError("constraint", "no rows", connection=self.name)
        return rows


@caught_by("test_rows_of_one_write_may_point_at_each_other")
class WritesOneByOne(Telling):
    """Each row's foreign keys must hold before the next one comes."""

    def write(self, dataset: str, rows: pa.Table, key: Sequence[str], action: Action) -> None:
        for at in range(rows.num_rows) if dataset == "pets" else ():
            super().write(dataset, rows.slice(at, 1), key, action)
        if dataset != "pets":
            super().write(dataset, rows, key, action)


@caught_by(
    "test_create_never_touches_a_row_that_is_there",
    "test_create_refuses_a_key_that_comes_twice",
    "test_names_with_quotes_are_only_names",
)
class CreatesOver(Telling):
    """CREATE overwrites what is there."""

    def write(self, dataset: str, rows: pa.Table, key: Sequence[str], action: Action) -> None:
        with self.transaction():
            for at in range(rows.num_rows):
                one = rows.slice(at, 1)
                there = super().fetch(dataset, one.select(list(key)), []).num_rows
                super().write(dataset, one, key, Action.UPDATE if there else action)


@caught_by("test_create_refuses_a_key_that_comes_twice")
class CreatesTheFirst(Telling):
    """Of two rows with one key in a batch, CREATE silently makes one."""

    def write(self, dataset: str, rows: pa.Table, key: Sequence[str], action: Action) -> None:
        keys = [tuple(row[name] for name in key) for row in rows.to_pylist()]
        first = [keys.index(one) == at for at, one in enumerate(keys)]
        super().write(dataset, rows.filter(pa.array(first, pa.bool_())), key, action)


@caught_by("test_create_by_a_key_without_a_unique_index_never_makes_a_second_row")
class CreatesByItsOwnKey(Telling):
    """CREATE looks for the table's key, whichever key it was given."""

    def write(self, dataset: str, rows: pa.Table, key: Sequence[str], action: Action) -> None:
        super().write(dataset, rows, self.schema(dataset).key if action is Action.CREATE else key, action)


class _Refusing(Telling):
    def _refused(self, reason: str, detail: str) -> RejectedError:
        return self.spoilt(reason, detail)

    def spoilt(self, reason: str, detail: str) -> RejectedError:
        raise NotImplementedError


@caught_by(
    "test_a_refusal_has_a_reason_and_no_values",
    "test_refusals_name_exactly_the_bad_units",
    "test_update_obeys_constraints",
)
class RefusesForOneReason(_Refusing):
    """Every refusal has the same reason."""

    def spoilt(self, reason: str, detail: str) -> RejectedError:
        return RejectedError("constraint", detail, connection=self.name)


@caught_by("test_a_refusal_has_a_reason_and_no_values")
class NamesNoColumn(_Refusing):
    """A refusal does not say what was refused."""

    def spoilt(self, reason: str, detail: str) -> RejectedError:
        return RejectedError(reason, "refused", connection=self.name)


@caught_by("test_a_refusal_has_a_reason_and_no_values")
class RepeatsTheValue(Telling):
    """A refusal repeats the row, as a driver's own message does."""

    def write(self, dataset: str, rows: pa.Table, key: Sequence[str], action: Action) -> None:
        try:
            super().write(dataset, rows, key, action)
        except RejectedError as error:
            raise RejectedError(error.reason, f"{error.detail}: {rows.to_pylist()}", connection=self.name) from None


@caught_by("test_a_write_that_is_refused_writes_none_of_its_rows", "test_create_never_touches_a_row_that_is_there")
class WritesUpToTheRefusal(Telling):
    """What came before the refused row stays, as without a transaction."""

    def write(self, dataset: str, rows: pa.Table, key: Sequence[str], action: Action) -> None:
        for at in range(rows.num_rows):
            super().write(dataset, rows.slice(at, 1), key, action)

    @contextmanager
    def transaction(self, *, readonly: bool = False) -> Iterator[None]:
        if self._owner == threading.get_ident():
            yield
            return
        said: BaseException | None = None
        with super().transaction(readonly=readonly):
            try:
                yield
            except RejectedError as error:
                said = error
        if said is not None:
            raise said


@caught_by("test_update_changes_only_the_named_columns", "test_a_write_of_keys_alone_updates_nothing")
class UpdatesAllColumns(Telling):
    """UPDATE makes null what it was not given."""

    def write(self, dataset: str, rows: pa.Table, key: Sequence[str], action: Action) -> None:
        if action is Action.UPDATE and dataset == "people":
            for column in self.schema(dataset).columns:
                if column.name not in (*rows.column_names, "name"):
                    rows = rows.append_column(column.name, pa.nulls(rows.num_rows))
        super().write(dataset, rows, key, action)


@caught_by("test_update_makes_no_rows")
class UpdatesIntoBeing(Telling):
    """UPDATE makes rows that are not there."""

    def write(self, dataset: str, rows: pa.Table, key: Sequence[str], action: Action) -> None:
        with suppress(RejectedError):
            if action is Action.UPDATE:
                super().write(dataset, rows, key, Action.CREATE)
        super().write(dataset, rows, key, action)


@caught_by("test_update_obeys_constraints")
class UpdatesUnchecked(Telling):
    """UPDATE obeys no constraint."""

    def write(self, dataset: str, rows: pa.Table, key: Sequence[str], action: Action) -> None:
        self.unchecked = action is Action.UPDATE
        super().write(dataset, rows, key, action)

    def _put(self, table: Any, held: Any, changed: Any) -> None:
        if self.unchecked:
            assert self._working is not None
            self._working[table.schema.dataset] = type(table)(table.schema, held)
            return
        super()._put(table, held, changed)


# -- looking and deleting ------------------------------------------------------------------------------


@caught_by("test_empty_says_whether_there_is_a_row")
class AlwaysEmpty(Telling):
    """It remembers that it was empty."""

    def empty(self, dataset: str) -> bool:
        return True


@caught_by("test_what_is_written_can_be_read")
class ReadsOldRows(Telling):
    """What was written after it was opened is not read."""

    def partitions(self, dataset: str, wanted: int) -> Any:
        return [replace(one, detail={"start": 0, "stop": 0}) for one in super().partitions(dataset, wanted)]


@caught_by("test_delete_counts_what_was_there", "test_empty_batches_are_fine")
class CountsWhatItWasGiven(Telling):
    """The number of deleted rows is that of the keys."""

    def delete(self, dataset: str, keys: pa.Table) -> int:
        super().delete(dataset, keys)
        return max(int(keys.num_rows), 1)


@caught_by("test_delete_refuses_a_row_that_others_point_at")
class DeletesWhatIsNeeded(Telling):
    """Deleting leaves orphans behind."""

    def delete(self, dataset: str, keys: pa.Table) -> int:
        self.deleting = True
        try:
            return super().delete(dataset, keys)
        finally:
            self.deleting = False

    def _check_foreign_keys(self, before: Any, held: Any, changed: Any) -> None:
        if not getattr(self, "deleting", False):
            super()._check_foreign_keys(before, held, changed)


@caught_by("test_orphans_are_counted_by_constraint")
class SeesNoOrphans(Telling):
    """A constraint that is declared is taken for one that holds."""

    def orphans(self, dataset: str) -> pa.Table:
        return super().orphans(dataset).slice(0, 0)


@caught_by("test_names_with_quotes_are_only_names")
class HidesStrangeNames(Telling):
    """Datasets whose names need quotes are left out."""

    def datasets(self) -> Sequence[str]:
        return [name for name in super().datasets() if name.isidentifier()]


@caught_by("test_an_unknown_dataset_is_a_config_error")
class KnowsEveryDataset(Telling):
    """A dataset that is none has an empty schema."""

    def schema(self, dataset: str) -> Schema:
        return super().schema(dataset) if dataset in self._tables else Schema(dataset, ())


@caught_by("test_the_schema_tells_the_constraints")
class KnowsNoConstraints(Telling):
    """Its schema leaves out what must be unique and what points where."""

    def schema(self, dataset: str) -> Schema:
        return replace(super().schema(dataset), unique=(), foreign_keys=())


@caught_by("test_closing_twice_is_harmless")
class ClosesOnce(Telling):
    """Closing it again is an error."""

    closed = False

    def close(self) -> None:
        if self.closed:
            raise ConfigError("closed already")
        self.closed = True


class WithoutDelete:
    """It has no `delete`."""

    def __init__(self, inner: Memory) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        if name == "delete":
            raise AttributeError(name)
        return getattr(self._inner, name)


def _without_delete(place: Place) -> Any:
    return WithoutDelete(case_of(Telling).make(place))  # type: ignore[arg-type]


BROKEN.append(
    Broken(
        "target",
        WithoutDelete.__doc__ or "",
        TargetCase("WithoutDelete", _without_delete, memory_orphan),
        ("test_it_is_a_source_and_a_target",),
    )
)


# -- asking --------------------------------------------------------------------------------------------


@caught_by("test_ask_answers_and_never_writes", "test_ask_never_writes_inside_a_transaction_either")
class AsksAndWrites(Telling):
    """What is no query is carried out."""

    def ask(self, sql: str, *, role: str | None = None, claims: str | None = None) -> list[tuple[Any, ...]]:
        if sql.startswith("update"):
            ages = pa.table({"id": self._ids(), "age": pa.array([1] * len(self._ids()), pa.int32())})
            self.write("people", ages, ["id"], Action.UPDATE)
            return []
        return super().ask(sql, role=role, claims=claims)

    def _ids(self) -> pa.Array:
        return pa.array([row["id"] for row in self._tables["people"].rows.values()], pa.binary(16))


@caught_by(
    "test_ask_inside_a_transaction_sees_its_writes",
    "test_every_read_in_the_outer_transaction_sees_the_writes_of_the_nested_one",
)
class AsksWhatIsCommitted(Telling):
    """A question is asked over another connection."""

    def ask(self, sql: str, *, role: str | None = None, claims: str | None = None) -> list[tuple[Any, ...]]:
        working, self._working = self._working, None
        try:
            return super().ask(sql, role=role, claims=claims)
        finally:
            self._working = working


@caught_by("test_what_cannot_be_asked_in_sql_says_so", speaks_sql=False)
class AnswersNothing(Telling):
    """It cannot be asked in SQL, and answers that there is nothing."""

    def ask(self, sql: str, *, role: str | None = None, claims: str | None = None) -> list[tuple[Any, ...]]:
        return []
