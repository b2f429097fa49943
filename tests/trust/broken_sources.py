"""Sources that each break one rule of the contract: the memory connector, with one thing wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from resettle.batch import Batch, Column, Kind, Partition, Schema
from resettle.connectors.memory import Memory
from resettle.errors import ConfigError
from tests.contract.cases import Row, SourceCase
from tests.trust.battery import Broken

BROKEN: list[Broken] = []
COLUMNS = (Column("id", Kind.TEXT), Column("name", Kind.TEXT), Column("age", Kind.INT64))


def case_of(kind: type[Memory]) -> SourceCase:
    def make(place: Any, rows: Sequence[Row]) -> Any:
        return kind("memory").create("people", Schema("people", COLUMNS, key=("id",)), rows)

    return SourceCase(kind.__name__, make)


def caught_by(*tests: str) -> Callable[[type[Memory]], type[Memory]]:
    """Each of these tests must fail for the class."""

    def broken(kind: type[Memory]) -> type[Memory]:
        BROKEN.append(Broken("source", kind.__doc__ or "", case_of(kind), tests))
        return kind

    return broken


@caught_by("test_every_record_arrives", "test_any_batch_size_gives_the_same_records")
class EndsAtAnEmptyPage(Memory):
    """An empty page is taken for the end of the listing."""

    def read(self, partition: Partition, rows: int) -> Iterator[Batch]:
        pages = list(super().read(partition, min(rows, 10)))
        pages = [*pages[:2], Batch(partition.dataset, pages[0].table.slice(0, 0)), *pages[2:]] if pages else []
        for page in pages:
            if not len(page):
                return
            yield page


@caught_by("test_any_batch_size_gives_the_same_records", "test_a_batch_is_not_much_larger_than_asked_for")
class LosesTheRest(Memory):
    """The last, smaller page is lost."""

    def read(self, partition: Partition, rows: int) -> Iterator[Batch]:
        yield from (page for page in super().read(partition, rows) if len(page) == rows)


@caught_by("test_partitions_hold_every_record_exactly_once")
class OverlapsAtTheSeams(Memory):
    """Where two partitions meet, both have the record."""

    def partitions(self, dataset: str, wanted: int) -> Sequence[Partition]:
        found = super().partitions(dataset, wanted)
        return [replace(one, detail={**one.detail, "stop": one.detail["stop"] + 1}) for one in found]


@caught_by("test_partitions_hold_every_record_exactly_once")
class LosesAPartition(Memory):
    """Of many partitions the last is forgotten."""

    def partitions(self, dataset: str, wanted: int) -> Sequence[Partition]:
        found = super().partitions(dataset, wanted)
        return found[:-1] if len(found) > 3 else found


@caught_by("test_partitions_are_really_parts")
class HasOnePartition(Memory):
    """Whatever is wanted, all is in one part."""

    def partitions(self, dataset: str, wanted: int) -> Sequence[Partition]:
        return super().partitions(dataset, 1)


@caught_by("test_a_batch_is_not_much_larger_than_asked_for")
class ReadsAllAtOnce(Memory):
    """The size of a batch is not heeded."""

    def read(self, partition: Partition, rows: int) -> Iterator[Batch]:
        return super().read(partition, 10**6)


@caught_by("test_reading_twice_gives_the_same")
class ReadsOnce(Memory):
    """What was read is gone."""

    def read(self, partition: Partition, rows: int) -> Iterator[Batch]:
        done = self.__dict__.setdefault("done", set())
        if partition.name not in done:
            yield from super().read(partition, rows)
        done.add(partition.name)


class _Values(Memory):
    """``column`` of each batch as something else."""

    column: str

    def read(self, partition: Partition, rows: int) -> Iterator[Batch]:
        for page in super().read(partition, rows):
            at = page.table.column_names.index(self.column)
            values = [None if one is None else self.spoilt(one) for one in page.table[self.column].to_pylist()]
            kind = page.table[self.column].type
            yield Batch(page.dataset, page.table.set_column(at, self.column, pa.array(values, kind)))

    def spoilt(self, value: Any) -> Any:
        raise NotImplementedError


@caught_by("test_text_keeps_its_code_points")
class TrimsText(_Values):
    """Spaces around a text are lost."""

    column = "name"

    def spoilt(self, value: Any) -> Any:
        return value.strip()


@caught_by("test_text_keeps_its_code_points")
class GuessesTypes(_Values):
    """A text that looks like a number becomes one."""

    column = "name"

    def spoilt(self, value: Any) -> Any:
        return str(int(value)) if value.isdecimal() else value


@caught_by("test_an_empty_string_is_not_null", "test_text_keeps_its_code_points")
class EmptyIsNull(_Values):
    """An empty text comes as null."""

    column = "name"

    def spoilt(self, value: Any) -> Any:
        return value or None


@caught_by("test_whole_numbers_keep_every_digit")
class ReadsDoubles(_Values):
    """Whole numbers go through a double."""

    column = "age"

    def spoilt(self, value: Any) -> Any:
        return min(int(float(value)), 2**63 - 1)


@caught_by("test_an_empty_dataset_has_partitions_and_no_records")
class HasNoPartitions(Memory):
    """An empty dataset has no partition."""

    def partitions(self, dataset: str, wanted: int) -> Sequence[Partition]:
        return super().partitions(dataset, wanted) if self.count(dataset) else []


@caught_by("test_count_is_exact_or_unknown")
class EstimatesItsCount(Memory):
    """Its count is an estimate."""

    def count(self, dataset: str) -> int | None:
        found = super().count(dataset)
        return None if found is None else round(found, -1)


@caught_by("test_datasets_are_listed_and_sorted")
class ListsNothing(Memory):
    """It lists no datasets."""

    def datasets(self) -> Sequence[str]:
        return []


@caught_by("test_the_schema_names_the_columns")
class KnowsNoKey(Memory):
    """Its schema has no key."""

    def schema(self, dataset: str) -> Schema:
        return replace(super().schema(dataset), key=())


@caught_by("test_an_unknown_dataset_is_a_config_error_with_a_suggestion")
class SuggestsNothing(Memory):
    """An unknown name is refused without a suggestion."""

    def schema(self, dataset: str) -> Schema:
        if dataset not in self._tables:
            raise ConfigError("no such dataset")
        return super().schema(dataset)


@caught_by("test_an_unknown_dataset_is_a_config_error_with_a_suggestion")
class PartsOfNothing(Memory):
    """A dataset that is none has an empty partition."""

    def partitions(self, dataset: str, wanted: int) -> Sequence[Partition]:
        known = dataset in self._tables
        return super().partitions(dataset, wanted) if known else [Partition(dataset, "0", {"start": 0, "stop": 0})]


@caught_by("test_a_name_with_quotes_is_only_an_unknown_name")
class EndsNamesAtQuotes(Memory):
    """A name ends at its first quote."""

    def schema(self, dataset: str) -> Schema:
        return super().schema(dataset.partition('"')[0])


@caught_by("test_partitions_can_be_read_from_many_threads")
class ReadsInOneThread(Memory):
    """Two partitions read at once share a cursor: the second reader gets nothing."""

    def read(self, partition: Partition, rows: int) -> Iterator[Batch]:
        busy = self.__dict__.setdefault("busy", threading.Lock())
        if not busy.acquire(blocking=False):
            return
        try:
            threading.Event().wait(0.05)
            yield from super().read(partition, rows)
        finally:
            busy.release()


@caught_by("test_a_reader_that_stops_early_holds_nothing")
class HoldsItsReader(Memory):
    """A reader that stopped early keeps its place: the next one goes on from there."""

    def read(self, partition: Partition, rows: int) -> Iterator[Batch]:
        waiting = self.__dict__.setdefault("waiting", {})
        pages = waiting.setdefault(partition.name, list(super().read(partition, rows)))
        while pages:
            yield pages.pop(0)
        waiting.pop(partition.name, None)


@caught_by("test_closing_twice_is_harmless")
class ClosesOnce(Memory):
    """Closing it again is an error."""

    def close(self) -> None:
        if self.__dict__.setdefault("closed", False):
            raise ConfigError("closed already")
        self.__dict__["closed"] = True
