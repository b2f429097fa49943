"""What every listing of files owes, see `resettle.connector.BodySource` and `BodyTarget`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest

from resettle.connector import Body, BodySource, BodyTarget, Source, Target
from resettle.errors import ConfigError, RejectedError, ResettleError
from tests.contract.cases import FILES, FilesCase, Place

Make = Callable[[Mapping[str, bytes]], tuple[Any, Mapping[str, str]]]

SMALL = {f"a/{number:02}.txt": f"file {number}".encode() * number for number in range(25)}
NAMES = ["with space", "ü/日本 語", "a+b", "100%", "a%20b", "x//y", "q?a=b&c#d", "dir/", "👩‍👩‍👧.mp3", "quote \" '"]
BIG = bytes(range(256)) * (70 << 10)  # 17.5 MiB: more than one part of anything


@pytest.fixture(params=FILES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> FilesCase:
    found: FilesCase = request.param
    return found


@pytest.fixture
def make(case: FilesCase, place: Place) -> Iterator[Make]:
    made: list[Any] = []

    def source(files: Mapping[str, bytes]) -> tuple[Any, Mapping[str, str]]:
        found, keys = case.source(place, files)
        made.append(found)
        return found, keys

    yield source
    for one in made:
        one.close()


@pytest.fixture
def into(case: FilesCase, place: Place) -> Iterator[Any]:
    if case.target is None:
        pytest.skip("files are only read")
    made = case.target(place)
    yield made
    made.close()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def body(content: bytes, **said: Any) -> Body:
    """A body in pieces, that says of itself what is given."""
    return Body(lambda start: (content[at : at + 100_000] for at in range(start, len(content), 100_000)), **said)


def whole(source: BodySource, dataset: str, key: str, start: int = 0) -> bytes:
    return b"".join(source.open(dataset, key).chunks(start))


def listed(source: Source, dataset: str, *, wanted: int = 1, rows: int = 1000) -> dict[str, dict[str, Any]]:
    names = [name for name in source.schema(dataset).names if name in {"key", "id", "size", "md5"}]
    (key,) = source.schema(dataset).key
    found = [
        row
        for partition in source.partitions(dataset, wanted)
        for batch in source.read(partition, rows)
        for row in batch.decode(batch.table, names).to_pylist()
    ]
    assert len({row[key] for row in found}) == len(found)
    return {row[key]: row for row in found}


def fetched(target: Target, dataset: str, *keys: str) -> list[dict[str, Any]]:
    found = target.fetch(dataset, pa.table({"key": pa.array(keys, pa.string())}), ["size", "md5"])
    return sorted(found.to_pylist(), key=lambda row: str(row["key"]))


# -- listing and reading ---------------------------------------------------------------------------


@pytest.mark.parametrize(("wanted", "rows"), [(1, 1000), (1, 7), (4, 7), (50, 1)])
def test_every_file_is_listed_once_with_its_size_and_md5(make: Make, case: FilesCase, wanted: int, rows: int) -> None:
    files = SMALL | {f"b{number % 3}/{number}": b"x" for number in range(9)} | {"empty": b""}
    source, keys = make(files)
    found = listed(source, case.dataset, wanted=wanted, rows=rows)
    assert {(key, int(row["size"]), row["md5"]) for key, row in found.items()} == {
        (keys[name], len(content), md5(content)) for name, content in files.items()
    }


def test_a_listing_without_files_ends(make: Make, case: FilesCase) -> None:
    source, _ = make({})
    assert source.partitions(case.dataset, 4)
    assert listed(source, case.dataset, wanted=4) == {}


@pytest.mark.parametrize("name", ["objets", "Files "])
def test_an_unknown_listing_is_a_config_error_that_names_the_known(make: Make, case: FilesCase, name: str) -> None:
    source, _ = make(SMALL)
    for ask in (source.schema, lambda dataset: source.partitions(dataset, 1)):
        with pytest.raises(ConfigError) as caught:
            ask(name)
        assert case.dataset in f"{caught.value} {caught.value.hint}"


def test_a_body_is_its_files_bytes(make: Make, case: FilesCase) -> None:
    source, keys = make({**SMALL, "big": BIG, "empty": b""})
    assert isinstance(source, BodySource)
    assert whole(source, case.dataset, keys["a/07.txt"]) == SMALL["a/07.txt"]
    assert whole(source, case.dataset, keys["empty"]) == b""
    found = source.open(case.dataset, keys["big"])
    assert (found.size, found.md5) == (len(BIG), md5(BIG))
    pieces = list(found.chunks(0))
    assert max(map(len, pieces)) <= 8 << 20 or case.name == "memory"
    assert b"".join(pieces) == BIG


@pytest.mark.parametrize("start", [1, 100, len(BIG) - 1, len(BIG)])
def test_a_body_can_be_taken_up_from_any_byte(make: Make, case: FilesCase, start: int) -> None:
    source, keys = make({"big": BIG})
    assert whole(source, case.dataset, keys["big"], start) == BIG[start:]


def test_a_file_that_is_not_there_is_gone(make: Make, case: FilesCase) -> None:
    source, _ = make(SMALL)
    with pytest.raises(RejectedError) as caught:
        source.open(case.dataset, "no such key")
    assert caught.value.reason == "gone"


def test_bodies_are_read_from_many_threads(make: Make, case: FilesCase) -> None:
    source, keys = make(SMALL)
    with ThreadPoolExecutor(8) as pool:
        found = dict(zip(SMALL, pool.map(lambda name: whole(source, case.dataset, keys[name]), SMALL), strict=True))
    assert found == SMALL


def test_a_reader_that_stops_early_holds_nothing(make: Make, case: FilesCase) -> None:
    source, keys = make({"big": BIG})
    for _ in range(20):
        pieces = source.open(case.dataset, keys["big"]).chunks(0)
        next(pieces)
        if close := getattr(pieces, "close", None):
            close()
    assert whole(source, case.dataset, keys["big"]) == BIG


# -- writing ---------------------------------------------------------------------------------------


def test_a_target_of_files_is_all_that_the_engine_asks_for(into: Any) -> None:
    assert isinstance(into, Target)
    assert isinstance(into, BodyTarget)
    assert into.transactional or into.sql() is None


@pytest.mark.parametrize("content", [b"", b"x", BIG], ids=["empty", "small", "big"])
def test_what_is_put_is_there_exactly(into: Any, case: FilesCase, content: bytes) -> None:
    said = {"size": len(content), "md5": md5(content), "content_type": "audio/mpeg"}
    stored = into.put(case.dataset, "k", body(content, **said), metadata={"origin": "a"}, replace=False)
    assert (stored.size, stored.md5) == (len(content), md5(content))
    assert fetched(into, case.dataset, "k") == [{"key": "k", "size": len(content), "md5": md5(content)}]
    assert whole(into, case.dataset, "k") == content


def test_a_body_may_say_nothing_of_itself(into: Any, case: FilesCase) -> None:
    assert into.put(case.dataset, "k", body(BIG), metadata={}, replace=False).md5 == md5(BIG)
    assert whole(into, case.dataset, "k") == BIG


def test_a_key_may_be_any_text(into: Any, case: FilesCase) -> None:
    for name in NAMES:
        into.put(case.dataset, name, body(name.encode()), metadata={}, replace=False)
    assert [row["key"] for row in fetched(into, case.dataset, *NAMES, "none")] == sorted(NAMES)
    assert listed(into, case.dataset).keys() == set(NAMES)
    assert [whole(into, case.dataset, name).decode() for name in NAMES] == NAMES


@pytest.mark.parametrize("content", [b"other", BIG], ids=["small", "big"])
def test_a_file_that_is_there_is_only_replaced_when_asked_to(into: Any, case: FilesCase, content: bytes) -> None:
    into.put(case.dataset, "k", body(b"first"), metadata={}, replace=False)
    with pytest.raises(RejectedError) as caught:
        into.put(case.dataset, "k", body(content), metadata={}, replace=False)
    assert caught.value.reason == "exists"
    assert whole(into, case.dataset, "k") == b"first"
    into.put(case.dataset, "k", body(content), metadata={}, replace=True)
    assert whole(into, case.dataset, "k") == content


@pytest.mark.parametrize("content", [b"", b"small", BIG], ids=["empty", "small", "big"])
@pytest.mark.parametrize("there", [False, True], ids=["absent", "there"])
@pytest.mark.parametrize("lie", ["longer", "shorter", "md5"])
def test_a_body_that_is_not_what_it_says_changes_nothing(
    into: Any, case: FilesCase, content: bytes, there: bool, lie: str
) -> None:
    if there:
        into.put(case.dataset, "k", body(b"first"), metadata={}, replace=False)
    said = {"md5": md5(b"another")} if lie == "md5" else {"size": max(0, len(content) + (1 if lie == "longer" else -1))}
    if said.get("size") == len(content):
        pytest.skip("nothing is shorter than nothing")
    with pytest.raises(RejectedError) as caught:
        into.put(case.dataset, "k", body(content, **said), metadata={}, replace=there)
    assert caught.value.reason == "changed"
    assert len(fetched(into, case.dataset, "k")) == int(there)
    assert not there or whole(into, case.dataset, "k") == b"first"


class Interrupted(BaseException):
    """Not even an Exception, as Ctrl-C is."""


@pytest.mark.parametrize("cause", [RejectedError("changed"), ValueError(), Interrupted()], ids=repr)
def test_a_body_that_breaks_off_leaves_nothing(into: Any, case: FilesCase, cause: BaseException) -> None:
    def chunks(start: int) -> Iterator[bytes]:
        yield BIG[start:]
        raise cause

    with pytest.raises(type(cause)):
        into.put(case.dataset, "k", Body(chunks), metadata={}, replace=False)
    assert fetched(into, case.dataset, "k") == []
    assert into.abandon(case.dataset) == 0


def test_files_are_put_from_many_threads(into: Any, case: FilesCase) -> None:
    def put(name: str) -> str:
        md5: str = into.put(case.dataset, name, body(SMALL[name]), metadata={}, replace=False).md5
        return md5

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(put, SMALL)) == [md5(content) for content in SMALL.values()]
    assert listed(into, case.dataset).keys() == SMALL.keys()


def test_files_are_deleted_by_key_and_counted(into: Any, case: FilesCase) -> None:
    for name in ("a", "b", "c"):
        into.put(case.dataset, name, body(b"x"), metadata={}, replace=False)
    keys = pa.table({"key": pa.array(["a", "c", "none", "a"])})
    with into.transaction():
        assert into.delete(case.dataset, keys) == 2
    assert listed(into, case.dataset).keys() == {"b"}
    assert into.delete(case.dataset, keys) == 0


def test_fetch_of_many_keys_gives_those_that_are_there_once(into: Any, case: FilesCase) -> None:
    for name in SMALL:
        into.put(case.dataset, name, body(SMALL[name]), metadata={}, replace=False)
    absent = [f"a/{number}.none" for number in range(300)]
    found = fetched(into, case.dataset, *SMALL, *absent, *SMALL)
    assert [(row["key"], row["md5"]) for row in found] == [(name, md5(SMALL[name])) for name in sorted(SMALL)]
    assert fetched(into, case.dataset) == []


def test_a_null_key_fetches_nothing(into: Any, case: FilesCase) -> None:
    assert into.fetch(case.dataset, pa.table({"key": pa.array([None], pa.string())}), ["size"]).num_rows == 0


def test_empty_says_whether_there_is_a_file(into: Any, case: FilesCase) -> None:
    assert into.empty(case.dataset)
    into.put(case.dataset, "k", body(b""), metadata={}, replace=False)
    assert not into.empty(case.dataset)


def test_a_readonly_transaction_refuses_to_delete(into: Any, case: FilesCase) -> None:
    into.put(case.dataset, "k", body(b"x"), metadata={}, replace=False)
    with pytest.raises(ResettleError), into.transaction(readonly=True):
        into.delete(case.dataset, pa.table({"key": ["k"]}))
    assert whole(into, case.dataset, "k") == b"x"


def test_closing_twice_is_harmless(make: Make) -> None:
    source, _ = make(SMALL)
    source.close()
    source.close()
