"""Stores of files that each break one rule of the contract: the memory connector's, with one thing wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import Batch, Partition, Schema
from resettle.connector import Body, Stored
from resettle.connectors.memory import Memory
from resettle.errors import ConfigError, RejectedError
from tests.contract.cases import OBJECTS, FilesCase, Place
from tests.trust.battery import Broken

BROKEN: list[Broken] = []


class Shelved(Memory):
    """Not broken: opening and putting as methods, to be spoilt."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.open, self.put = self.opened, self.kept  # type: ignore[method-assign]

    def opened(self, dataset: str, key: str) -> Body:
        return self.shelf.open(dataset, key)

    def kept(self, dataset: str, key: str, body: Body, *, metadata: Mapping[str, str], replace: bool) -> Stored:
        return self.shelf.put(dataset, key, body, metadata=metadata, replace=replace)


def case_of(kind: type[Memory]) -> FilesCase:
    def target(place: Place) -> Any:
        return kind("memory").create("objects", OBJECTS)

    def source(place: Place, files: Mapping[str, bytes]) -> tuple[Any, Mapping[str, str]]:
        memory = target(place)
        for name, content in files.items():
            body = Body(lambda start, content=content: iter([content[start:]]))  # type: ignore[misc]
            memory.shelf.put("objects", name, body, metadata={}, replace=False)
        return memory, {name: name for name in files}

    return FilesCase(kind.__name__, "objects", source, target)


def caught_by(*tests: str) -> Callable[[type[Memory]], type[Memory]]:
    """Each of these tests must fail for the class."""

    def broken(kind: type[Memory]) -> type[Memory]:
        BROKEN.append(Broken("files", kind.__doc__ or "", case_of(kind), tests))
        return kind

    return broken


# -- listing and reading -------------------------------------------------------------------------------


@caught_by("test_every_file_is_listed_once_with_its_size_and_md5", "test_a_key_may_be_any_text")
class ListsOneFolder(Shelved):
    """Only the files of the first page are listed."""

    def read(self, partition: Partition, rows: int) -> Iterator[Batch]:
        for page in super().read(partition, rows):
            yield Batch(page.dataset, page.table.slice(0, 5))


@caught_by("test_every_file_is_listed_once_with_its_size_and_md5")
class ListsItsOwnChecksum(Shelved):
    """It lists a checksum that is none of the bytes, as S3 does of a file in parts."""

    def read(self, partition: Partition, rows: int) -> Iterator[Batch]:
        for page in super().read(partition, rows):
            sums = pc.binary_join_element_wise(page.table["md5"], "3", "-")
            yield Batch(page.dataset, page.table.set_column(page.table.column_names.index("md5"), "md5", sums))


@caught_by("test_a_listing_without_files_ends")
class HasNoPartitions(Shelved):
    """An empty listing has no partition."""

    def partitions(self, dataset: str, wanted: int) -> Sequence[Partition]:
        return super().partitions(dataset, wanted) if self.count(dataset) else []


@caught_by("test_an_unknown_listing_is_a_config_error_that_names_the_known")
class SuggestsNothing(Shelved):
    """An unknown listing is refused without a suggestion."""

    def schema(self, dataset: str) -> Schema:
        if dataset not in self._tables:
            raise ConfigError("no such listing")
        return super().schema(dataset)


@caught_by("test_a_body_is_its_files_bytes", "test_what_is_put_is_there_exactly")
class CutsTheBody(Shelved):
    """A body ends after 16 MiB."""

    def opened(self, dataset: str, key: str) -> Body:
        found = super().opened(dataset, key)
        return replace(found, chunks=lambda start: (piece[: 16 << 20] for piece in found.chunks(start)))


@caught_by("test_a_body_is_its_files_bytes")
class SaysNoSize(Shelved):
    """A body does not say its size."""

    def opened(self, dataset: str, key: str) -> Body:
        return replace(super().opened(dataset, key), size=0)


@caught_by("test_a_body_can_be_taken_up_from_any_byte")
class AlwaysBegins(Shelved):
    """A body that is taken up begins anew."""

    def opened(self, dataset: str, key: str) -> Body:
        found = super().opened(dataset, key)
        return replace(found, chunks=lambda start: found.chunks(0))


@caught_by("test_a_file_that_is_not_there_is_gone")
class OpensNothing(Shelved):
    """A file that is not there is an empty one."""

    def opened(self, dataset: str, key: str) -> Body:
        try:
            return super().opened(dataset, key)
        except RejectedError:
            return Body(lambda start: iter(()), 0)


@caught_by("test_bodies_are_read_from_many_threads")
class ReadsOneAtATime(Shelved):
    """Two readers at once are in each other's way."""

    def opened(self, dataset: str, key: str) -> Body:
        found = super().opened(dataset, key)
        busy = self.__dict__.setdefault("busy", threading.Lock())

        def chunks(start: int) -> Iterator[bytes]:
            if not busy.acquire(blocking=False):
                return
            try:
                threading.Event().wait(0.02)
                yield from found.chunks(start)
            finally:
                busy.release()

        return replace(found, chunks=chunks)


@caught_by("test_a_reader_that_stops_early_holds_nothing")
class HoldsItsReaders(Shelved):
    """A reader that stopped early keeps its connection, and there are only ten."""

    def opened(self, dataset: str, key: str) -> Body:
        found = super().opened(dataset, key)

        def chunks(start: int) -> Iterator[bytes]:
            self.__dict__["held"] = self.__dict__.get("held", 0) + 1
            if self.__dict__["held"] > 10:
                raise ConfigError("no connection is free")
            yield from found.chunks(start)
            self.__dict__["held"] -= 1

        return replace(found, chunks=chunks)


@caught_by("test_closing_twice_is_harmless")
class ClosesOnce(Shelved):
    """Closing it again is an error."""

    def close(self) -> None:
        if self.__dict__.setdefault("closed", False):
            raise ConfigError("closed already")
        self.__dict__["closed"] = True


# -- writing -------------------------------------------------------------------------------------------


@caught_by("test_a_target_of_files_is_all_that_the_engine_asks_for")
class AbandonsNothing(Shelved):
    """It has no `abandon`."""

    def __getattribute__(self, name: str) -> Any:
        if name == "abandon":
            raise AttributeError(name)
        return super().__getattribute__(name)


class _Putting(Shelved):
    """A body that is put as something else."""

    def kept(self, dataset: str, key: str, body: Body, *, metadata: Mapping[str, str], replace: bool) -> Stored:
        return super().kept(dataset, key, self.spoilt(body), metadata=metadata, replace=replace)

    def spoilt(self, body: Body) -> Body:
        raise NotImplementedError


@caught_by("test_what_is_put_is_there_exactly", "test_a_body_may_say_nothing_of_itself")
class KeepsOnePart(_Putting):
    """Of a large body only the first part is kept, and what it says of itself is believed."""

    def spoilt(self, body: Body) -> Body:
        content = b"".join(body.chunks(0))[: 8 << 20]
        return Body(lambda start: iter([content[start:]]))


@caught_by("test_a_body_that_is_not_what_it_says_changes_nothing")
class BelievesTheSize(_Putting):
    """The size is not looked at."""

    def spoilt(self, body: Body) -> Body:
        return replace(body, size=None)


@caught_by("test_a_body_that_is_not_what_it_says_changes_nothing")
class BelievesTheChecksum(_Putting):
    """The checksum is not looked at."""

    def spoilt(self, body: Body) -> Body:
        return replace(body, md5=None)


@caught_by("test_a_body_that_breaks_off_leaves_nothing")
class KeepsWhatCame(_Putting):
    """What came of a body that broke off is kept."""

    def spoilt(self, body: Body) -> Body:
        def chunks(start: int) -> Iterator[bytes]:
            try:
                yield from body.chunks(start)
            except BaseException:
                return

        return replace(body, chunks=chunks)


@caught_by("test_a_body_may_say_nothing_of_itself")
class NeedsASize(_Putting):
    """A body must say its size."""

    def spoilt(self, body: Body) -> Body:
        if body.size is None:
            raise ConfigError("of what size?")
        return body


@caught_by("test_a_key_may_be_any_text")
class TidiesKeys(Shelved):
    """Doubled slashes and spaces in a key are tidied up."""

    def kept(self, dataset: str, key: str, body: Body, *, metadata: Mapping[str, str], replace: bool) -> Stored:
        tidy = key.replace("//", "/").strip(" /")
        return super().kept(dataset, tidy, body, metadata=metadata, replace=replace)


@caught_by("test_a_file_that_is_there_is_only_replaced_when_asked_to")
class PutsOver(Shelved):
    """A put is not conditional: it replaces what is there."""

    def kept(self, dataset: str, key: str, body: Body, *, metadata: Mapping[str, str], replace: bool) -> Stored:
        return super().kept(dataset, key, body, metadata=metadata, replace=True)


@caught_by("test_a_file_that_is_there_is_only_replaced_when_asked_to")
class NeverReplaces(Shelved):
    """What is there is never replaced."""

    def kept(self, dataset: str, key: str, body: Body, *, metadata: Mapping[str, str], replace: bool) -> Stored:
        return super().kept(dataset, key, body, metadata=metadata, replace=False)


@caught_by("test_files_are_put_from_many_threads")
class PutsOneAtATime(Shelved):
    """Of two files that are put at once one is lost."""

    def kept(self, dataset: str, key: str, body: Body, *, metadata: Mapping[str, str], replace: bool) -> Stored:
        busy = self.__dict__.setdefault("busy", threading.Lock())
        alone = busy.acquire(blocking=False)
        threading.Event().wait(0.02)
        stored = super().kept(dataset, key, body, metadata=metadata, replace=replace)
        if alone:
            busy.release()
        else:
            super().delete(dataset, pa.table({"key": [key]}))
        return stored


@caught_by("test_files_are_deleted_by_key_and_counted")
class CountsWhatItWasGiven(Shelved):
    """The number of deleted files is that of the keys."""

    def delete(self, dataset: str, keys: pa.Table) -> int:
        super().delete(dataset, keys)
        return int(keys.num_rows)


@caught_by("test_fetch_of_many_keys_gives_those_that_are_there_once")
class FetchesTwice(Shelved):
    """A key that is asked for twice comes twice."""

    def fetch(self, dataset: str, keys: pa.Table, columns: Sequence[str], *, lock: bool = False) -> pa.Table:
        found = [super(FetchesTwice, self).fetch(dataset, keys.slice(at, 1), columns) for at in range(keys.num_rows)]
        return pa.concat_tables(found) if found else super().fetch(dataset, keys, columns)


@caught_by("test_a_null_key_fetches_nothing")
class FetchesNull(Shelved):
    """For a null key comes a row of nulls."""

    def fetch(self, dataset: str, keys: pa.Table, columns: Sequence[str], *, lock: bool = False) -> pa.Table:
        found = super().fetch(dataset, keys, columns)
        nothing = pa.Table.from_pylist([dict.fromkeys(found.column_names)], found.schema)
        return pa.concat_tables([found, nothing]) if keys["key"].null_count else found


@caught_by("test_empty_says_whether_there_is_a_file")
class EmptyWithoutBytes(Shelved):
    """Files without bytes do not count."""

    def empty(self, dataset: str) -> bool:
        return not any(content for (of, _), content in self.shelf.files.items() if of == dataset)


@caught_by("test_a_readonly_transaction_refuses_to_delete")
class DeletesInReadonly(Shelved):
    """A read-only transaction is like any."""

    def transaction(self, *, readonly: bool = False) -> Any:
        return super().transaction()
