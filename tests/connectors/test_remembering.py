"""One listing for a whole run: what is asked when, what we wrote is seen, and when the listing is given up."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pyarrow as pa
import pytest

from resettle.batch import Action
from resettle.connector import Remembering
from resettle.connectors import _s3_memory as memory
from resettle.connectors.s3 import S3
from resettle.errors import RejectedError
from resettle.sandbox.appsync import LOST, LocalAppSync, start_appsync
from resettle.sandbox.s3 import LocalS3, start_s3
from tests.connectors import test_appsync, test_s3
from tests.connectors.test_appsync import MECO, field_names, media, nth, numbers, observations
from tests.connectors.test_s3 import fetched, put

# -- s3 --------------------------------------------------------------------------------------------


NAMES = [f"media/{hashlib.md5(str(number).encode()).hexdigest()[:8]}" for number in range(250)]
"""In no order, as observations' ids are."""
PAGES = 5
"""What a listing of them all takes, 50 a page."""


@pytest.fixture(scope="module")
def end() -> Iterator[LocalS3]:
    with start_s3() as local:
        local.load("bkt", dict.fromkeys(NAMES, b"12"))
        yield local


@pytest.fixture
def s3(end: LocalS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    made = test_s3.opened(end)
    pages = made._bucket.pages
    monkeypatch.setattr(made._bucket, "pages", lambda size=50, **given: pages(50, **given))
    monkeypatch.setattr(memory, "FEW", 8)
    monkeypatch.setattr(memory, "AT_ONCE", 4)
    made.schema("objects")
    end.requests.clear()
    yield made
    made.delete("objects", pa.table({"key": ["media/new", "media/theirs"]}))
    end.load("bkt", dict.fromkeys(NAMES[7:9], b"12"))
    made.close()


def asked(end: LocalS3) -> tuple[int, int]:
    """Pages listed and objects looked at since the last time."""
    listed, looked = (sum(word in one for one in end.requests) for word in ("list-type", "HEAD "))
    end.requests.clear()
    return listed, looked


def sizes(s3: S3, *wanted: str) -> dict[str, int]:
    return {one["key"]: one["size"] for one in fetched(s3, ["size", "md5"], *wanted)}


def test_objects_are_listed_once_while_a_run_remembers(end: LocalS3, s3: S3) -> None:
    assert isinstance(s3, Remembering)
    sizes(s3, *NAMES[:25])  # tells whether the ETags are MD5s
    asked(end)
    with s3.remembering():
        for first in range(0, 300, 25):
            wanted = NAMES[first : first + 25]
            assert sizes(s3, *wanted, f"media/none{first}").keys() == set(wanted)
        assert asked(end) == (PAGES, 0)
    for _ in range(2):
        sizes(s3, *NAMES[:25])
        assert asked(end) == (PAGES, 0), "the next run lists anew"


def test_what_we_wrote_or_removed_is_seen_and_what_others_did_is_seen_by_the_next_run(end: LocalS3, s3: S3) -> None:
    with s3.remembering():
        sizes(s3, *NAMES)
        put(s3, "media/new", b"our own")
        put(s3, NAMES[7], b"replaced", replace=True)
        s3.delete("objects", pa.table({"key": [NAMES[8]]}))
        end.load("bkt", {"media/theirs": b"theirs"})
        asked(end)
        found = sizes(s3, *NAMES[:20], "media/new", "media/theirs")
        assert (found["media/new"], found[NAMES[7]]) == (7, 8)
        assert not {NAMES[8], "media/theirs"} & found.keys()
        assert asked(end) == (0, 3)
        with pytest.raises(RejectedError, match="exists"):
            put(s3, "media/theirs", b"ours")
    assert sizes(s3, "media/theirs") == {"media/theirs": 6}


def test_remembering_within_remembering_forgets_at_the_outer_end(end: LocalS3, s3: S3) -> None:
    with s3.remembering():
        sizes(s3, *NAMES)
        with s3.remembering():
            pass
        asked(end)
        sizes(s3, *NAMES)
        assert asked(end) == (0, 0)


def test_a_long_listing_is_given_up_and_tried_again_once_twice_as_much_was_asked(end: LocalS3, s3: S3) -> None:
    sizes(s3, *NAMES)
    asked(end)
    calls = []
    with s3.remembering():
        for first in range(0, 100, 9):
            wanted = NAMES[first : first + 9]
            assert sizes(s3, *wanted).keys() == set(wanted)
            calls.append(asked(end)[0])
    # for 9 keys 2 pages may be listed, for 18 keys 4, for 36 keys 9: by then the five that there are
    assert [min(one, PAGES) for one in calls] == [3, 5, 0, 5, *[0] * 8]


def test_a_listing_of_more_than_is_kept_answers_and_is_not_kept(
    end: LocalS3, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "KEPT", 200)
    with s3.remembering():
        for _ in range(2):
            assert len(sizes(s3, *NAMES)) == len(NAMES)
            assert asked(end)[0] == PAGES


# -- appsync ---------------------------------------------------------------------------------------


@pytest.fixture
def local() -> Iterator[LocalAppSync]:
    with start_appsync(MECO) as made:
        yield made


def test_records_are_listed_once_while_a_run_remembers(local: LocalAppSync) -> None:
    observations(local, 3000)
    app = test_appsync.opened(local, aliases={"read": 10})
    assert isinstance(app, Remembering)
    app.datasets()
    local.requests.clear()
    with app.remembering():
        for first in range(0, 3000, 50):
            found = app.fetch("Observation", numbers(*range(first, first + 50)), ["id"])
            assert sorted(found["id"].to_pylist()) == sorted(f"o{one}" for one in range(first, first + 50))
        listed = [names for names in local.requests if names == ["listObservations"]]
        assert len(local.requests) <= 20
        assert listed
    local.requests.clear()
    assert app.fetch("Observation", numbers(7), ["id"]).num_rows == 1
    assert field_names(local) == [("listObservationBySequentialId", 1)], "nothing is remembered after it"


def urls(*wanted: int) -> pa.Table:
    return pa.table({"url": [f"https://bucket.example/{one}.jpg" for one in wanted]})


def test_rows_that_we_wrote_are_seen_without_another_listing(local: LocalAppSync) -> None:
    local.data.put("Media", *media(1, 2).to_pylist())
    app = test_appsync.opened(local)
    with app.remembering():
        assert app.fetch("Media", urls(1, 2, 3), ["id", "type"]).num_rows == 2
        local.requests.clear()
        app.write("Media", media(3, 4), ("id",), Action.CREATE)
        app.write("Media", pa.table({"id": ["m1"], "type": ["VIDEO"]}), ("id",), Action.UPDATE)
        found = app.fetch("Media", urls(1, 2, 3, 4), ["id", "type"])
        assert sorted(zip(*found.select(["id", "type"]).to_pydict().values(), strict=True)) == [
            ("m1", "VIDEO"),
            ("m2", "PHOTO"),
            ("m3", "PHOTO"),
            ("m4", "PHOTO"),
        ]
        assert ["listMedia"] not in local.requests
        app.delete("Media", pa.table({"id": ["m4"]}))
        assert app.fetch("Media", urls(4), ["id"]).num_rows == 0


def test_where_it_is_unknown_what_was_written_the_list_is_read_anew(local: LocalAppSync) -> None:
    app = test_appsync.opened(local)
    with app.remembering():
        assert app.fetch("Media", urls(1, 2), ["id"]).num_rows == 0
        local.faults = nth(LOST, 1)
        app.write("Media", media(1), ("id",), Action.CREATE)
        local.faults = lambda fields: None
        local.data.put("Media", *media(2).to_pylist())
        assert app.fetch("Media", urls(1, 2), ["id"]).num_rows == 2


def test_more_columns_than_are_remembered_are_listed_once_more(local: LocalAppSync) -> None:
    local.data.put("Media", *media(1).to_pylist())
    app = test_appsync.opened(local)
    app.datasets()
    local.requests.clear()
    with app.remembering():
        for columns in (["id"], ["id", "type"], ["id"], ["type"]):
            assert app.fetch("Media", urls(1), columns).num_rows == 1
    assert len([names for names in local.requests if names == ["listMedia"]]) == 2
