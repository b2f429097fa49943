"""SQL stores that each break one rule of the contract: the SQLite connector, with one thing wrong."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from resettle.connector import Sql
from resettle.connectors.sqlite import SQLite, SQLiteSettings
from resettle.errors import AccessError, ConfigError
from tests.contract.cases import SQLITE_TABLES, Place, TargetCase, sqlite_file, sqlite_orphan
from tests.trust.battery import Broken

BROKEN: list[Broken] = []


def case_of(kind: type[SQLite], **differently: Any) -> TargetCase:
    def make(place: Place) -> Any:
        return kind("sqlite", SQLiteSettings(path=sqlite_file(place, SQLITE_TABLES)))

    return replace(TargetCase(kind.__name__, make, sqlite_orphan), **differently)


def caught_by(*tests: str) -> Callable[[type[SQLite]], type[SQLite]]:
    """Each of these tests must fail for the class."""

    def broken(kind: type[SQLite]) -> type[SQLite]:
        BROKEN.append(Broken("store", kind.__doc__ or "", case_of(kind), tests))
        return kind

    return broken


@caught_by("test_the_dialect_is_known")
class SpeaksAnother(SQLite):
    """No ledger has a file for its dialect."""

    dialect = "oracle"


class _Executing(SQLite):
    """Statements and parameters as something else."""

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self.spoilt(sql, parameters, super().execute)

    def spoilt(self, sql: str, parameters: Sequence[Any], execute: Callable[..., Any]) -> list[tuple[Any, ...]]:
        raise NotImplementedError


@caught_by("test_execute_takes_parameters_and_gives_rows", "test_execute_gives_what_a_statement_returns")
class DoublesPercentInValues(_Executing):
    """A percent sign in a value becomes two."""

    def spoilt(self, sql: str, parameters: Sequence[Any], execute: Callable[..., Any]) -> list[tuple[Any, ...]]:
        said = [one.replace("%", "%%") if isinstance(one, str) else one for one in parameters]
        return list(execute(sql, said))


@caught_by("test_a_doubled_percent_sign_is_one")
class KeepsDoubledPercent(_Executing):
    """A doubled percent sign in a statement stays doubled."""

    def spoilt(self, sql: str, parameters: Sequence[Any], execute: Callable[..., Any]) -> list[tuple[Any, ...]]:
        return list(execute(sql.replace("'50%%'", "'50%%%%'"), parameters))


@caught_by("test_execute_gives_what_a_statement_returns")
class ReturnsNothing(_Executing):
    """What a statement returns is dropped outside a transaction."""

    def spoilt(self, sql: str, parameters: Sequence[Any], execute: Callable[..., Any]) -> list[tuple[Any, ...]]:
        found = list(execute(sql, parameters))
        return found if self._open or "RETURNING" not in sql else []


@caught_by("test_execute_outside_a_transaction_commits")
class ForgetsToCommit(_Executing):
    """A statement outside a transaction is rolled back."""

    def spoilt(self, sql: str, parameters: Sequence[Any], execute: Callable[..., Any]) -> list[tuple[Any, ...]]:
        if self._open or not sql.startswith("INSERT"):
            return list(execute(sql, parameters))
        try:
            with self.transaction():
                execute(sql, parameters)
                raise ConfigError("forgotten")
        except ConfigError:
            return []


@caught_by("test_what_is_demanded_happens_or_nothing_does")
class DemandsNothing(SQLite):
    """A statement that gives no row is as good as one that does."""

    def demand(self, sql: str, parameters: Sequence[Any], error: Exception) -> None:
        self.execute(sql, parameters)


@caught_by("test_execute_in_another_thread_is_no_part_of_this_transaction")
class SharesItsTransaction(SQLite):
    """All threads are in one transaction."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._local = SimpleNamespace()  # type: ignore[assignment]


class _Inserting(SQLite):
    """The rows of an insert as something else."""

    def insert(self, table: str, rows: pa.Table) -> None:
        super().insert(table, self.spoilt(rows))

    def spoilt(self, rows: pa.Table) -> pa.Table:
        raise NotImplementedError


@caught_by("test_insert_goes_by_column_name")
class InsertsByPlace(_Inserting):
    """Columns are taken by their place."""

    def spoilt(self, rows: pa.Table) -> pa.Table:
        return rows.rename_columns(["unit", "n", *rows.column_names[2:]])


@caught_by("test_insert_of_nothing_is_fine")
class InsertsSomething(_Inserting):
    """There must be a row to insert."""

    def spoilt(self, rows: pa.Table) -> pa.Table:
        if not rows.num_rows:
            raise ConfigError("no rows")
        return rows


@caught_by("test_insert_takes_many_rows")
class InsertsSoMany(_Inserting):
    """What one statement cannot hold is left out."""

    def spoilt(self, rows: pa.Table) -> pa.Table:
        return rows.slice(0, 32_766)


class _Querying(SQLite):
    """The answer of a query as something else."""

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        return self.spoilt(super().query(sql, parameters))

    def spoilt(self, found: pa.Table) -> pa.Table:
        raise NotImplementedError


@caught_by("test_query_types_hold_with_and_without_values", "test_a_staged_table_may_have_no_rows")
class GuessesTypes(_Querying):
    """Without rows every column is a text."""

    def spoilt(self, found: pa.Table) -> pa.Table:
        if found.num_rows:
            return found
        return pa.table({name: pa.array([], pa.string()) for name in found.column_names})


@caught_by("test_query_gives_counts_as_integers_and_the_rest_as_text", "test_insert_takes_many_rows")
class AnswersInText(_Querying):
    """Everything but fingerprints is a text."""

    def spoilt(self, found: pa.Table) -> pa.Table:
        return found.cast(pa.schema([(f.name, pa.string() if f.type == pa.int64() else f.type) for f in found.schema]))


# -- staging -----------------------------------------------------------------------------------------


@caught_by("test_stage_joins_with_tables")
class StagesTheRest(SQLite):
    """The first staged row is lost."""

    def stage(self, name: str, rows: pa.Table) -> None:
        super().stage(name, rows.slice(1))


@caught_by("test_stage_replaces_what_had_that_name", "test_a_staged_name_is_free_again_after_a_nested_transaction")
class StagesOnce(SQLite):
    """A name can be staged once in a transaction."""

    def stage(self, name: str, rows: pa.Table) -> None:
        if name in self._local.staged:
            raise ConfigError(f"{name} is there already")
        super().stage(name, rows)


@caught_by("test_stage_is_gone_after_the_transaction")
class LeavesWhatItStaged(SQLite):
    """A staged table outlives its transaction."""

    def stage(self, name: str, rows: pa.Table) -> None:
        super().stage(name, rows)
        self._local.staged.discard(name)


@caught_by("test_staged_names_with_quotes_are_only_names")
class StagesPlainNames(SQLite):
    """Quotes in a staged table's name are left out."""

    def stage(self, name: str, rows: pa.Table) -> None:
        super().stage(name.replace('"', ""), rows)


@caught_by("test_a_staged_table_may_have_no_rows")
class StagesNothing(SQLite):
    """A table without rows is not staged."""

    def stage(self, name: str, rows: pa.Table) -> None:
        if rows.num_rows:
            super().stage(name, rows)


@caught_by(
    "test_a_readonly_transaction_stages_and_reads_but_does_not_write",
    "test_a_nested_transaction_may_stage_within_a_readonly_one",
)
class StagesWhereItWrites(SQLite):
    """Within a read-only transaction nothing can be staged."""

    reading = False

    @contextmanager
    def transaction(self, *, readonly: bool = False) -> Iterator[None]:
        with super().transaction(readonly=readonly):
            before, self.reading = self.reading, self.reading or readonly
            try:
                yield
            finally:
                self.reading = before

    def stage(self, name: str, rows: pa.Table) -> None:
        if self.reading:
            raise AccessError("read-only", connection=self.name)
        super().stage(name, rows)


# -- transactions ------------------------------------------------------------------------------------


@caught_by("test_a_transaction_rolls_back_what_was_inserted", "test_data_and_memory_commit_together")
class RollsNothingBack(SQLite):
    """An exception commits what came before it."""

    @contextmanager
    def transaction(self, *, readonly: bool = False) -> Iterator[None]:
        said: BaseException | None = None
        with super().transaction(readonly=readonly):
            try:
                yield
            except BaseException as error:
                said = error
        if said is not None:
            raise said


@caught_by("test_a_readonly_transaction_stages_and_reads_but_does_not_write")
class WritesInReadonly(SQLite):
    """A read-only transaction is like any."""

    @contextmanager
    def transaction(self, *, readonly: bool = False) -> Iterator[None]:
        with super().transaction():
            yield


@caught_by("test_data_and_memory_commit_together")
class RemembersElsewhere(SQLite):
    """Its store is another database than its data's."""

    elsewhere: SQLite | None = None

    def sql(self) -> Sql | None:
        if self.elsewhere is None:
            path = self._path.with_name("elsewhere.sqlite")
            self.elsewhere = SQLite("elsewhere", SQLiteSettings(path=path, create=True))
        return self.elsewhere


@caught_by("test_statements_of_a_nested_transaction_are_undone_alone")
class UndoesNothingInside(SQLite):
    """An exception inside a nested transaction undoes nothing."""

    @contextmanager
    def transaction(self, *, readonly: bool = False) -> Iterator[None]:
        if self._open:
            yield
            return
        with super().transaction(readonly=readonly):
            yield


@caught_by("test_a_deferred_constraint_refuses_at_the_end_of_the_nested_transaction_that_broke_it")
class ChecksAtTheVeryEnd(SQLite):
    """Deferred constraints are looked at when the outermost transaction ends."""

    numbers = itertools.count()

    @contextmanager
    def transaction(self, *, readonly: bool = False) -> Iterator[None]:
        connection = self._open
        if connection is None:
            with super().transaction(readonly=readonly):
                yield
            return
        name = f"inner{next(self.numbers)}"
        connection.execute(f"SAVEPOINT {name}")
        try:
            yield
        except BaseException:
            connection.execute(f"ROLLBACK TO {name}")
            raise
        finally:
            connection.execute(f"RELEASE {name}")


@caught_by("test_a_readonly_scope_leaves_a_deferred_constraint_for_later")
class ChecksAfterReading(SQLite):
    """The end of a read-only scope looks at deferred constraints."""

    @contextmanager
    def transaction(self, *, readonly: bool = False) -> Iterator[None]:
        with super().transaction(readonly=readonly and self._open is None):
            yield
