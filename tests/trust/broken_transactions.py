"""Targets whose transactions, or whose account of what they refuse, break one rule of the contract."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from resettle.batch import Action
from resettle.errors import ConfigError, RejectedError
from tests.trust.broken_targets import Telling, caught_by

# -- transactions ------------------------------------------------------------------------------------


@caught_by("test_a_transaction_rolls_back_whole")
class RollsNothingBack(Telling):
    """An exception commits what came before it."""

    @contextmanager
    def transaction(self, *, readonly: bool = False) -> Iterator[None]:
        if self._owner == threading.get_ident():
            with super().transaction():
                yield
            return
        said: BaseException | None = None
        with super().transaction(readonly=readonly):
            try:
                yield
            except BaseException as error:
                said = error
        if said is not None:
            raise said


@caught_by("test_a_transaction_rolls_back_whole", "test_a_nested_transaction_ends_with_the_outer_one")
class RollsBackErrorsOnly(Telling):
    """What is no Exception, such as Ctrl-C, commits."""

    @contextmanager
    def transaction(self, *, readonly: bool = False) -> Iterator[None]:
        said: BaseException | None = None
        with super().transaction(readonly=readonly):
            try:
                yield
            except Exception:
                raise
            except BaseException as error:
                said = error
        if said is not None:
            raise said


@caught_by(
    "test_a_transaction_sees_its_own_writes_and_nobody_else_does", "test_a_nested_transaction_ends_with_the_outer_one"
)
class ShowsWhatIsNotCommitted(Telling):
    """Others see what a transaction is about to write."""

    @property
    def _tables(self) -> Any:
        return self._committed if self._working is None else self._working


@caught_by("test_a_readonly_transaction_reads_and_refuses_writes", "test_within_a_readonly_transaction_none_may_write")
class WritesInReadonly(Telling):
    """A read-only transaction is like any."""

    @contextmanager
    def transaction(self, *, readonly: bool = False) -> Iterator[None]:
        with super().transaction():
            yield


@caught_by("test_within_a_readonly_transaction_none_may_write")
class WritesWithinReadonly(Telling):
    """A transaction within a read-only one may write."""

    @contextmanager
    def transaction(self, *, readonly: bool = False) -> Iterator[None]:
        with super().transaction(readonly=readonly):
            if not readonly:
                self._readonly = False
            yield


@caught_by("test_a_readonly_transaction_within_another_is_just_a_scope")
class StaysReadonly(Telling):
    """A read-only scope makes all that follows read-only."""

    @contextmanager
    def transaction(self, *, readonly: bool = False) -> Iterator[None]:
        with super().transaction(readonly=readonly):
            self._readonly = self._readonly or readonly
            yield


@caught_by("test_transactions_of_many_threads_follow_each_other")
class RefusesToWait(Telling):
    """A second transaction is refused while one is open."""

    @contextmanager
    def transaction(self, *, readonly: bool = False) -> Iterator[None]:
        if self._owner not in (None, threading.get_ident()):
            raise RejectedError("constraint", "busy", connection=self.name)
        with super().transaction(readonly=readonly):
            threading.Event().wait(0.02 if self._depth() else 0)
            yield

    def _depth(self) -> bool:
        return self._working is not None


@caught_by("test_a_technology_without_savepoints_refuses_to_nest", nests=False)
class NestsInSecret(Telling):
    """Its transactions do not nest, and it does not say so."""


@caught_by("test_an_exception_undoes_only_what_happened_inside_the_nested_transaction")
class UndoesNothingInside(Telling):
    """An exception inside a nested transaction undoes nothing."""

    @contextmanager
    def _savepoint(self) -> Iterator[None]:
        yield


@caught_by("test_an_exception_undoes_only_what_happened_inside_the_nested_transaction")
class UndoesAllOfIt(Telling):
    """An exception inside a nested transaction undoes the outer one too."""

    @contextmanager
    def _savepoint(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._working = dict(self._committed)
            raise


@caught_by("test_a_nested_transaction_ends_with_the_outer_one")
class CommitsInside(Telling):
    """The end of a nested transaction commits."""

    @contextmanager
    def _savepoint(self) -> Iterator[None]:
        with super()._savepoint():
            yield
        assert self._working is not None
        self._committed = dict(self._working)


@caught_by("test_the_middle_of_three_transactions_takes_the_innermost_with_it")
class KeepsTheInnermost(Telling):
    """What an innermost transaction wrote outlives the one around it."""

    @contextmanager
    def _savepoint(self) -> Iterator[None]:
        around = getattr(self, "_before", None)
        self._before = before = {"tables": dict(self._tables)}
        try:
            yield
            if around is not None:
                around["tables"] = dict(self._tables)
        except BaseException:
            self._working = before["tables"]
            raise
        finally:
            self._before = around


@caught_by("test_after_a_refusal_in_a_nested_transaction_the_outer_one_goes_on")
class GivesUpAfterARefusal(Telling):
    """After a refusal nothing more can be done in the transaction, as in Postgres without a savepoint."""

    refused = False

    def _refused(self, reason: str, detail: str) -> RejectedError:
        self.refused = self._owner == threading.get_ident()
        return super()._refused(reason, detail)

    def write(self, dataset: str, rows: pa.Table, key: Any, action: Action) -> None:
        if self.refused:
            raise RejectedError("constraint", "the transaction is aborted", connection=self.name)
        super().write(dataset, rows, key, action)

    @contextmanager
    def transaction(self, *, readonly: bool = False) -> Iterator[None]:
        outermost = self._owner != threading.get_ident()
        with super().transaction(readonly=readonly):
            yield
        if outermost:
            self.refused = False


@caught_by("test_every_read_in_the_outer_transaction_sees_the_writes_of_the_nested_one")
class CountsWhatIsCommitted(Telling):
    """A count is of what is committed, also within a transaction."""

    def count(self, dataset: str) -> int | None:
        return len(self._committed[dataset].rows)


# -- refusals ----------------------------------------------------------------------------------------


class _Telling(Telling):
    def refusals(self, writes: Any, units: Any) -> pa.Table | None:
        found = super().refusals(writes, units)
        assert found is not None
        return self.spoilt(found, units)

    def spoilt(self, found: pa.Table, units: Any) -> pa.Table:
        raise NotImplementedError


@caught_by(
    "test_refusals_name_exactly_the_bad_units",
    "test_what_refusals_left_over_can_be_written",
    "test_refusals_are_found_in_a_nested_transaction",
)
class MissesAUnit(_Telling):
    """One of the refused units is not named."""

    def spoilt(self, found: pa.Table, units: Any) -> pa.Table:
        return found.slice(1)


@caught_by(
    "test_refusals_of_good_units_are_none",
    "test_a_unit_that_points_at_a_later_one_is_not_refused",
    "test_names_with_quotes_are_only_names",
)
class BlamesTheWholeBatch(_Telling):
    """All units of the batch are named."""

    def spoilt(self, found: pa.Table, units: Any) -> pa.Table:
        names = sorted({unit for of in units for unit in of.to_pylist()})
        count = len(names)
        return pa.table({"unit": names, "reason": ["constraint"] * count, "detail": [""] * count})


@caught_by("test_a_unit_that_points_at_a_later_one_is_not_refused")
class BlamesWhatComesEarly(Telling):
    """A unit that points at a later one of the batch is refused."""

    def refusals(self, writes: Any, units: Any) -> pa.Table | None:
        refused = []
        for (dataset, rows, key, action), of in zip(writes, units, strict=True):
            for at, unit in enumerate(of.to_pylist()):
                try:
                    with self.transaction():
                        self.write(dataset, rows.slice(at, 1), key, action)
                        raise ConfigError("undo")
                except RejectedError as error:
                    refused.append({"unit": unit, "reason": error.reason, "detail": error.detail})
                except ConfigError:
                    continue
        empty = pa.schema([(name, pa.string()) for name in ("unit", "reason", "detail")])
        return pa.Table.from_pylist(refused, empty)


@caught_by("test_refusals_name_exactly_the_bad_units")
class SaysTheWrongReason(_Telling):
    """Every refused unit has the same reason."""

    def spoilt(self, found: pa.Table, units: Any) -> pa.Table:
        return found.set_column(1, "reason", pa.array(["constraint"] * found.num_rows, pa.string()))


@caught_by("test_refusals_leave_no_trace", "test_refusals_of_good_units_are_none")
class KeepsWhatItTried(_Telling):
    """The units that are not refused stay written."""

    def refusals(self, writes: Any, units: Any) -> pa.Table | None:
        found = Telling.refusals(self, writes, units)
        assert found is not None
        bad = set(found["unit"].to_pylist())
        for (dataset, rows, key, action), of in zip(writes, units, strict=True):
            good = pa.array([unit not in bad for unit in of.to_pylist()])
            self.write(dataset, rows.filter(good), key, action)
        return found
