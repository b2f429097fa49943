"""What only the connector for Google Drive does: folders and shortcuts, quotas, tokens, Range, files without bytes."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import re
import socket
import stat
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import urllib3

from resettle.calls import Caller, Pace
from resettle.connections import Connections
from resettle.connectors import _google_drive_http as http
from resettle.connectors._google_drive_auth import Auth
from resettle.connectors._google_drive_http import ApiError
from resettle.connectors.google_drive import ERRORS, REFUSED, GoogleDrive, GoogleDriveSettings, errors
from resettle.errors import AccessError, ConfigError, ConnectorError, RejectedError, ResettleError, TransientError
from resettle.mapping.load import load
from resettle.sandbox._drive_oauth import CLIENT_SECRET
from resettle.sandbox.drive import BACKEND, CUT, RATE, TOO_MANY, USER_RATE, Fault, LocalDrive, Request, start_drive


@pytest.fixture
def drive() -> Iterator[LocalDrive]:
    with start_drive() as made:
        yield made


@pytest.fixture
def opened(drive: LocalDrive, tmp_path: Path) -> Iterator[Callable[..., GoogleDrive]]:
    """Opens a connector that does not really wait between its tries."""
    made: list[GoogleDrive] = []

    def make(folder: str | list[str] = "root", caller: Caller | None = None, **settings: Any) -> GoogleDrive:
        if not settings.keys() & {"token", "credentials"}:
            settings["token"] = drive.token_file(tmp_path / "stored.json")
        given = GoogleDriveSettings(folder=folder, url=drive.api, **settings)
        made.append(GoogleDrive("drive", given, caller=caller or unhurried()))
        return made[-1]

    yield make
    for one in made:
        one.close()


Opened = Callable[..., GoogleDrive]


def unhurried() -> Caller:
    return Caller(functools.partial(errors, connection="drive"), sleep=lambda seconds: None)


def listed(source: GoogleDrive, rows: int = 1000) -> dict[str, dict[str, Any]]:
    """Every row by its id, which nothing else has."""
    found = [
        row
        for partition in source.partitions("files", 4)
        for batch in source.read(partition, rows)
        for row in batch.table.to_pylist()
    ]
    assert len({row["id"] for row in found}) == len(found)
    return {row["id"]: row for row in found}


def paths(rows: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    return sorted((row["path"], row["name"]) for row in rows.values())


def whole(source: GoogleDrive, key: str, start: int = 0) -> bytes:
    return b"".join(source.open("files", key).chunks(start))


def first(*faults: Fault, path: str = "/drive/v3/files") -> Callable[[Request], Fault | None]:
    """The first requests for a path go wrong, one after the other."""
    left, turn = list(faults), threading.Lock()

    def fault(request: Request) -> Fault | None:
        with turn:
            return left.pop(0) if left and request.path.startswith(path) else None

    return fault


def always(fault: Fault) -> Callable[[Request], Fault | None]:
    """Every request to the API goes wrong."""
    return lambda request: fault if request.path.startswith("/drive/") else None


# -- what is listed --------------------------------------------------------------------------------


def test_a_file_becomes_one_row_with_all_that_drive_says_of_it(drive: LocalDrive, opened: Opened) -> None:
    folder = drive.folder("1-500", drive.folder("Observations"))
    key = drive.file("5.jpg", folder, body=b"abc")
    top = drive.files[folder]["parents"][0]
    assert listed(opened(top)) == {
        key: {
            "id": key,
            "name": "5.jpg",
            "path": "1-500",
            "folder_id": folder,
            "mime_type": "image/jpeg",
            "size": 3,
            "md5": hashlib.md5(b"abc").hexdigest(),
            "modified_at": datetime(2024, 1, 2, 3, 4, 5, 678000, tzinfo=UTC),
            "created_at": datetime(2024, 1, 1, tzinfo=UTC),
            "trashed": False,
            "shortcut_target": None,
            "drive_id": None,
            "kind": "file",
            "web_link": f"https://drive.google.com/file/d/{key}/view",
        }
    }


def test_folders_are_followed_to_any_depth_and_names_may_come_twice(drive: LocalDrive, opened: Opened) -> None:
    drive.plant({"a": {"b": {"c": {"deep.jpg": b"1"}, "x.jpg": b"2"}}, "x.jpg": b"3", "empty": {}})
    twin = drive.file("x.jpg", body=b"3")
    found = listed(opened())
    assert paths(found) == [("", "x.jpg"), ("", "x.jpg"), ("a/b", "x.jpg"), ("a/b/c", "deep.jpg")]
    assert found[twin]["folder_id"] == drive.root


def test_files_of_googles_own_kinds_have_no_size_no_checksum_and_no_body(drive: LocalDrive, opened: Opened) -> None:
    key = drive.document("Notes")
    source = opened()
    row = listed(source)[key]
    assert (row["kind"], row["size"], row["md5"]) == ("google_native", None, None)
    with pytest.raises(RejectedError) as caught:
        source.open("files", key)
    assert caught.value.reason == "no_body"


def test_what_lies_in_the_bin_is_listed_only_when_asked_for(drive: LocalDrive, opened: Opened) -> None:
    key = drive.file("old.jpg", trashed=True)
    assert listed(opened()) == {}
    assert listed(opened(trashed=True))[key]["trashed"] is True


def test_folders_become_rows_only_when_asked_for(drive: LocalDrive, opened: Opened) -> None:
    ids = drive.plant({"a": {"b": {"x.jpg": b""}}})
    found = listed(opened(folder_rows=True))
    assert {(row["path"], row["name"], row["kind"]) for row in found.values()} == {
        ("", "a", "folder"),
        ("a", "b", "folder"),
        ("a/b", "x.jpg", "file"),
    }
    assert found[ids["a/b"]]["folder_id"] == ids["a"]


def test_a_shortcut_is_a_row_and_what_it_leads_to_another(drive: LocalDrive, opened: Opened) -> None:
    top, elsewhere = drive.folder("top"), drive.folder("elsewhere")
    inside, outside = drive.file("in.jpg", top, body=b"i"), drive.file("out.jpg", elsewhere, body=b"o")
    short = [drive.shortcut(f"to {n}", aim, top) for n, aim in enumerate((inside, outside, outside))]
    found = listed(opened(top))
    assert found.keys() == {inside, outside, *short}
    assert (found[short[1]]["kind"], found[short[1]]["shortcut_target"]) == ("shortcut", outside)
    assert (found[outside]["kind"], found[outside]["path"], found[outside]["folder_id"]) == ("file", "", top)
    assert found[outside]["md5"] == hashlib.md5(b"o").hexdigest()
    assert (drive.sent(f"/drive/v3/files/{inside}"), drive.sent(f"/drive/v3/files/{outside}")) == (0, 1)


def test_a_folder_behind_a_shortcut_is_looked_into_under_the_shortcuts_name(drive: LocalDrive, opened: Opened) -> None:
    top, elsewhere = drive.folder("top"), drive.folder("elsewhere")
    drive.plant({"sub": {"x.jpg": b""}, "y.jpg": b""}, elsewhere)
    drive.shortcut("link", elsewhere, drive.folder("a", top))
    assert paths(listed(opened(top))) == [("a", "link"), ("a/link", "y.jpg"), ("a/link/sub", "x.jpg")]


def test_circles_of_shortcuts_end_and_every_folder_is_looked_into_once(drive: LocalDrive, opened: Opened) -> None:
    top = drive.folder("top")
    a, b = drive.folder("a", top), drive.folder("b", top)
    for place, aim in ((a, b), (b, a), (b, top), (a, a)):
        drive.shortcut("round", aim, place)
    drive.file("x.jpg", a)
    assert paths(listed(opened(top))) == [
        ("a", "round"),
        ("a", "round"),
        ("a", "x.jpg"),
        ("b", "round"),
        ("b", "round"),
    ]
    asked = [one.query["q"] for one in drive.requests if one.path == "/drive/v3/files"]
    assert len(asked) == len(set(asked)) == 3


def test_a_file_in_two_folders_is_one_row(drive: LocalDrive, opened: Opened) -> None:
    a, b = drive.folder("a"), drive.folder("b")
    key = drive.file("x.jpg", a, b)
    assert listed(opened())[key]["path"] == "a"
    assert listed(opened([a, b]))[key]["path"] == ""


def test_a_folder_within_another_that_is_asked_for_is_looked_into_once(drive: LocalDrive, opened: Opened) -> None:
    top = drive.folder("top")
    drive.file("x.jpg", drive.folder("sub", top))
    sub = drive.children[top][0]
    assert paths(listed(opened([top, sub, top]))) == [("", "x.jpg")]


def test_a_shortcut_to_what_is_gone_not_shared_or_in_the_bin_is_a_broken_one(drive: LocalDrive, opened: Opened) -> None:
    top, gone, old = drive.folder("top"), "1" + "f" * 32, drive.file("old.jpg", trashed=True)
    short = drive.shortcut("dangling", gone, top)
    again = drive.shortcut("dangling", gone, drive.folder("a", top))
    binned = drive.shortcut("binned", old, top)
    nowhere = drive.shortcut("nowhere", old, top, shortcutDetails=None)
    beside = drive.shortcut("beside", drive.file("there.jpg", drive.folder("b", top)), top)
    kinds = {key: row["kind"] for key, row in listed(opened(top)).items() if row["kind"] != "file"}
    assert kinds == {beside: "shortcut"} | dict.fromkeys((short, again, binned, nowhere), "broken_shortcut")
    found = listed(opened(top, trashed=True))
    assert (found[binned]["kind"], found[old]["kind"]) == ("shortcut", "file")


def test_a_shared_drive_is_listed_to_its_depth(drive: LocalDrive, opened: Opened) -> None:
    shared = drive.shared_drive("Team")
    key = drive.file("x.jpg", drive.folder("a", shared), body=b"s")
    drive.file("mine.jpg")
    found = listed(opened(shared))
    assert {(row["path"], row["name"], row["drive_id"]) for row in found.values()} == {("a", "x.jpg", shared)}
    assert drive.sent(corpora="drive", driveId=shared, includeItemsFromAllDrives="true", supportsAllDrives="true") == 2
    assert whole(opened(shared), key) == b"s"


def test_a_shortcut_may_lead_into_a_shared_drive(drive: LocalDrive, opened: Opened) -> None:
    shared = drive.shared_drive("Team")
    drive.file("x.jpg", shared)
    drive.shortcut("team", shared)
    assert paths(listed(opened())) == [("", "team"), ("team", "x.jpg")]


@pytest.mark.parametrize(
    "url",
    [
        "https://drive.google.com/drive/folders/{}",
        "https://drive.google.com/drive/u/1/folders/{}?usp=sharing",
        "https://drive.google.com/open?id={}",
    ],
)
def test_a_folder_may_be_given_as_the_browser_shows_it(drive: LocalDrive, opened: Opened, url: str) -> None:
    folder = drive.folder("top")
    drive.file("x.jpg", folder)
    assert paths(listed(opened(url.format(folder)))) == [("", "x.jpg")]


@pytest.mark.parametrize("given", ["", "a/b", "x' or name != '", "https://drive.google.com/drive/my-drive"])
def test_what_is_no_folders_id_is_refused_before_anything_is_asked(
    given: str, drive: LocalDrive, opened: Opened
) -> None:
    with pytest.raises(ConfigError, match="folder"):
        opened(given)
    assert drive.requests == []


def test_resource_keys_of_a_url_and_of_shortcuts_are_sent_along(drive: LocalDrive, opened: Opened) -> None:
    folder = drive.folder("top", resourceKey="0-top")
    key = drive.file("x.jpg", body=b"x", resourceKey="0-x")
    drive.shortcut("to x", key, folder)
    drive.locked = {folder, key}
    source = opened(f"https://drive.google.com/drive/folders/{folder}?resourcekey=0-top")
    assert key in listed(source)
    assert whole(source, key) == b"x"
    with pytest.raises(AccessError):
        listed(opened(folder))


def test_a_shortcut_to_a_folder_may_be_given_for_it(drive: LocalDrive, opened: Opened) -> None:
    folder = drive.folder("top")
    drive.file("x.jpg", folder)
    assert paths(listed(opened(drive.shortcut("link", folder)))) == [("", "x.jpg")]


def test_a_folder_that_is_not_there_says_what_to_do(drive: LocalDrive, opened: Opened) -> None:
    with pytest.raises(AccessError) as caught:
        opened("1nothing").partitions("files", 1)
    assert "share the folder" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="not a folder"):
        opened(drive.file("x.jpg")).partitions("files", 1)


# -- pages and queries -----------------------------------------------------------------------------


@pytest.mark.parametrize("together", [1, 50])
def test_twenty_thousand_files_take_less_than_two_hundred_calls(
    drive: LocalDrive, opened: Opened, together: int
) -> None:
    top = drive.folder("Observations")
    for folder in range(40):
        below = drive.folder(f"{folder}", top)
        for number in range(500):
            drive.file(f"{number}.jpg", below)
    source = opened(top, folders_per_query=together)
    assert len(listed(source)) == 20_000
    assert len([one for one in drive.requests if one.path != "/token"]) < (50 if together == 1 else 30)


def test_an_empty_page_is_not_the_end(drive: LocalDrive, opened: Opened) -> None:
    drive.plant({f"{n}.jpg": b"" for n in range(5)})
    drive.faults = lambda request: Fault(empty=True) if drive.sent() % 2 else None
    assert len(listed(opened(page_size=2))) == 5


@pytest.mark.parametrize("together", [1, 50])
def test_every_page_of_a_folder_is_read(drive: LocalDrive, opened: Opened, together: int) -> None:
    drive.plant({f"{f}": {f"{n}.jpg": b"" for n in range(7)} for f in range(3)})
    assert len(listed(opened(page_size=2, folders_per_query=together))) == 21


def test_a_token_that_is_no_longer_good_means_to_begin_the_folder_again(drive: LocalDrive, opened: Opened) -> None:
    drive.plant({f"{n}.jpg": b"" for n in range(9)})
    old = [True]

    def fault(request: Request) -> Fault | None:
        if request.query.get("pageToken") and old and drive.sent() == 3:
            old.clear()
            # As if hours had gone by.
            request.query["pageToken"] = "stale"  # type: ignore[index]
        return None

    drive.faults = fault
    assert len(listed(opened(page_size=2))) == 9
    assert not old


def test_a_search_that_is_not_complete_is_asked_again_and_never_taken_for_the_end(
    drive: LocalDrive, opened: Opened
) -> None:
    drive.file("x.jpg")
    drive.faults = first(Fault(incomplete=True))
    assert len(listed(opened())) == 1
    drive.faults = always(Fault(incomplete=True))
    with pytest.raises(TransientError, match="not complete"):
        listed(opened())


@pytest.mark.parametrize("together", [2, 3, 50])
def test_folders_that_a_query_of_several_leaves_out_are_asked_for_alone(
    drive: LocalDrive, opened: Opened, together: int
) -> None:
    ids = drive.plant({f"{f}": {"x.jpg": b"", "sub": {"y.jpg": b""}} for f in range(6)})
    drive.forgotten = {ids["1"], ids["4"], ids["2/sub"]}
    assert len(listed(opened(folders_per_query=together))) == 12


@pytest.mark.parametrize("together", [1, 50])
def test_files_that_do_not_say_where_they_lie_are_not_lost(drive: LocalDrive, opened: Opened, together: int) -> None:
    ids = drive.plant({f"{f}": {"x.jpg": b"", "y.jpg": b""} for f in range(3)})
    drive.unplaced = {ids["1/x.jpg"]}
    assert len(listed(opened(folders_per_query=together))) == 6


def test_a_folder_that_goes_away_meanwhile_stops_the_listing(drive: LocalDrive, opened: Opened) -> None:
    ids = drive.plant({"a": {"x.jpg": b""}})
    source = opened()
    (partition,) = source.partitions("files", 1)
    drive.faults = lambda request: drive.files.pop(ids["a"], None) and None if ids["a"] in str(request.query) else None
    with pytest.raises(ConnectorError, match="went away"):
        list(source.read(partition, 10))


# -- bodies ----------------------------------------------------------------------------------------


def test_a_cut_download_is_taken_up_where_it_was_cut(drive: LocalDrive, opened: Opened) -> None:
    key = drive.file("film.mp4", body=3_000_000)
    source = opened()
    body = source.open("files", key)
    drive.faults = first(Fault(cut=1_500_000), Fault(cut=1_000_000), path=f"/drive/v3/files/{key}")
    got = bytearray()

    def take() -> None:
        for piece in body.chunks(len(got)):
            got.extend(piece)

    for _ in range(2):
        with pytest.raises(TransientError, match="while a file came"):
            take()
    assert 0 < len(got) < 3_000_000
    take()
    assert (len(got), hashlib.md5(got).hexdigest()) == (body.size, body.md5)
    assert [one.headers.get("Range", "")[:6] for one in drive.requests if one.query.get("alt")] == [
        "",
        "bytes=",
        "bytes=",
    ]


def test_a_body_has_the_listings_size_and_checksum_and_nothing_more_is_asked(drive: LocalDrive, opened: Opened) -> None:
    key = drive.file("5.png", body=b"abc", mime="image/png")
    source = opened()
    listed(source)
    before = len(drive.requests)
    body = source.open("files", key)
    assert (body.size, body.md5, body.content_type) == (3, hashlib.md5(b"abc").hexdigest(), "image/png")
    assert len(drive.requests) == before
    assert opened().open("files", key).md5 == body.md5


def test_a_server_that_pays_no_heed_to_range_spoils_nothing(drive: LocalDrive, opened: Opened) -> None:
    key = drive.file("film.mp4", body=3_000_000)
    source = opened()
    rest = whole(source, key)[1_234_567:]
    drive.faults = always(Fault(whole=True))
    assert whole(source, key, 1_234_567) == rest


def test_a_wrong_byte_does_not_have_the_checksum_that_the_body_says(drive: LocalDrive, opened: Opened) -> None:
    key = drive.file("x.jpg", body=b"abc")
    body = opened().open("files", key)
    drive.faults = always(Fault(corrupt=True))
    assert hashlib.md5(b"".join(body.chunks(0))).hexdigest() != body.md5


def test_a_large_body_is_streamed_in_small_pieces(drive: LocalDrive, opened: Opened) -> None:
    key = drive.file("film.mp4", body=5 << 40, md5Checksum="0" * 32)
    pieces = opened().open("files", key).chunks((5 << 40) - (20 << 20))
    assert sum(map(len, pieces)) == 20 << 20
    pieces = opened().open("files", key).chunks(0)
    assert len(next(pieces)) <= http.PIECE
    pieces.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("status", "reason", "ours"),
    [
        (404, "notFound", "gone"),
        (403, "fileNotDownloadable", "no_body"),
        (403, "cannotDownloadAbusiveFile", "abusive"),
        (403, "cannotDownloadFile", "not_downloadable"),
        (403, "downloadQuotaExceeded", "download_quota"),
    ],
)
def test_what_concerns_one_file_is_a_refusal_with_its_reason(
    drive: LocalDrive, opened: Opened, status: int, reason: str, ours: str
) -> None:
    key = drive.file("x.jpg")
    body = opened().open("files", key)
    drive.faults = first(Fault(status, reason))
    with pytest.raises(RejectedError) as caught:
        list(body.chunks(0))
    assert caught.value.reason == ours
    assert "acknowledgeAbuse" not in drive.requests[-1].query


# -- errors and quotas -----------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [RATE, USER_RATE, TOO_MANY, BACKEND, CUT, Fault(503, ""), Fault(cut=20)])
def test_what_passes_is_tried_again(drive: LocalDrive, opened: Opened, fault: Fault) -> None:
    key = drive.file("x.jpg", body=b"x" * 100)
    source = opened()
    drive.faults = first(fault, fault)
    assert listed(source).keys() == {key}
    drive.faults = first(fault) if fault.cut is None else first()
    assert whole(source, key) == b"x" * 100


PASSING = {"rateLimitExceeded", "userRateLimitExceeded", "backendError", "internalError", "transientError"}


@pytest.mark.parametrize("reason", sorted(ERRORS.keys() - PASSING))
def test_what_does_not_pass_is_an_access_error_at_once(drive: LocalDrive, opened: Opened, reason: str) -> None:
    source = opened()
    drive.faults = always(Fault(403, reason))
    before = len(drive.requests)
    with pytest.raises(AccessError) as caught:
        source.partitions("files", 1)
    assert reason in str(caught.value)
    assert len([one for one in drive.requests[before:] if one.path != "/token"]) == 1


def test_an_error_that_no_table_holds_is_raised_as_it_is(drive: LocalDrive, opened: Opened) -> None:
    source = opened()
    drive.faults = always(Fault(400, "invalidSharingRequest"))
    with pytest.raises(ApiError, match="invalidSharingRequest"):
        source.partitions("files", 1)
    assert drive.sent("/drive/v3/files/root") == 1
    assert errors(ValueError("x")) is None


DOCUMENTED = """
    activeItemCreationLimitExceeded appNotAuthorizedToFile authError backendError badRequest
    cannotDownloadAbusiveFile cannotDownloadFile dailyLimitExceeded domainPolicy downloadQuotaExceeded
    fileNotDownloadable insufficientFilePermissions invalidSharingRequest notFound
    numChildrenInNonRootLimitExceeded rateLimitExceeded sharingRateLimitExceeded storageQuotaExceeded
    teamDriveFileLimitExceeded teamDriveHierarchyTooDeep teamDriveMembershipRequired userRateLimitExceeded
"""


def test_every_documented_reason_of_reading_calls_is_in_a_table() -> None:
    """https://developers.google.com/workspace/drive/api/guides/handle-errors , and of limits and downloads."""
    documented = set(DOCUMENTED.split())
    writing = {"activeItemCreationLimitExceeded", "teamDriveFileLimitExceeded", "teamDriveHierarchyTooDeep"}
    ours = {"badRequest", "invalidSharingRequest"}
    assert documented - writing - ours <= ERRORS.keys() | REFUSED.keys()
    for reason in documented - ours:
        assert errors(ApiError(403, reason)) is not None


def virtual(per_minute: float) -> tuple[Caller, list[float]]:
    """A caller whose clock moves only by its own waits."""
    now, turn = [0.0], threading.Lock()

    def sleep(seconds: float) -> None:
        with turn:
            now[0] += seconds

    pace = Pace(per_minute / 60, clock=lambda: now[0], sleep=sleep)
    rng = random.Random(1)
    return Caller(errors, pace=pace, sleep=sleep, attempts=12, longest=64.0, rng=rng), now


def test_calls_are_paced_by_what_they_cost(drive: LocalDrive, opened: Opened) -> None:
    key = drive.file("x.jpg", body=b"x")
    caller, now = virtual(60 * http.GET)
    source = opened(caller=caller)
    source.open("files", key)
    for _ in range(3):
        whole(source, key)
    # One files.get a second; three downloads at forty times that, the last one's price not yet waited for.
    assert now[0] == pytest.approx(1 + 2 * http.DOWNLOAD / http.GET)


def test_a_project_that_counts_queries_is_paced_by_queries(drive: LocalDrive, opened: Opened) -> None:
    key = drive.file("x.jpg", body=b"x")
    caller, now = virtual(60)
    source = opened(caller=caller, queries_per_minute=60)
    for _ in range(3):
        whole(source, key)
    assert now[0] == pytest.approx(3)


def test_a_minutes_quota_is_kept_and_used(drive: LocalDrive, opened: Opened) -> None:
    """The stand-in counts its minutes on the caller's own clock, and allows half of what we think we may."""
    for folder in range(30):
        drive.file("x.jpg", drive.folder(f"{folder}"))
    caller, now = virtual(4000)
    drive.clock, drive.units_per_minute = lambda: now[0], 2000
    drive.spent = (0, 0.0)
    assert len(listed(opened(caller=caller))) == 30
    assert caller.counts["throttled"] > 0
    assert now[0] >= 60  # 31 lists of 100 units at 2000 a minute


@pytest.mark.parametrize("asked", [7, 40])
def test_retry_after_is_obeyed(drive: LocalDrive, opened: Opened, asked: int) -> None:
    caller, now = virtual(6_000_000)
    drive.faults = first(Fault(429, "rateLimitExceeded", {"Retry-After": str(asked)}))
    opened(caller=caller).partitions("files", 1)
    assert asked <= now[0] <= asked + 1


# -- who may in ------------------------------------------------------------------------------------


def test_a_service_account_signs_in_with_its_key(drive: LocalDrive, opened: Opened, tmp_path: Path) -> None:
    key = drive.file("x.jpg")
    file = drive.service_account_file(tmp_path / "key.json")
    assert listed(opened(credentials=file)).keys() == {key}
    assert [kind.rpartition(":")[2] for kind in drive.oauth.granted] == ["jwt-bearer"]


def test_a_service_account_acts_for_a_user_who_is_delegated_to_it(
    drive: LocalDrive, opened: Opened, tmp_path: Path
) -> None:
    file = drive.service_account_file(tmp_path / "key.json")
    with pytest.raises(AccessError, match="unauthorized_client") as caught:
        listed(opened(credentials=file, subject="owner@example.org"))
    assert "delegation" in str(caught.value.hint)
    drive.oauth.subjects.add("owner@example.org")
    assert listed(opened(credentials=file, subject="owner@example.org")) == {}


def test_a_key_that_is_not_the_accounts_is_refused(drive: LocalDrive, opened: Opened, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem = other.private_bytes(serialization.Encoding.PEM, form, plain).decode()
    file = tmp_path / "key.json"
    file.write_text(json.dumps({**drive.oauth.service_account(), "private_key": pem}))
    with pytest.raises(AccessError, match="invalid_grant"):
        listed(opened(credentials=file))
    assert drive.sent("/token") == 1


def test_tokens_that_end_are_made_anew_and_nothing_is_lost(drive: LocalDrive, opened: Opened) -> None:
    ids = drive.plant({f"{n}.jpg": b"x" for n in range(9)})
    source = opened(page_size=2)

    def fault(request: Request) -> None:
        if request.path == "/drive/v3/files" and drive.sent() in (2, 4):
            drive.oauth.expire()

    drive.faults = fault
    assert listed(source).keys() == set(ids.values())
    drive.oauth.expire()
    assert whole(source, ids["3.jpg"]) == b"x"
    assert 3 <= drive.oauth.granted.count("refresh_token") <= 4


def test_a_new_token_that_is_refused_stops_at_once(drive: LocalDrive, opened: Opened) -> None:
    drive.faults = lambda request: drive.oauth.expire() if request.path != "/token" else None
    with pytest.raises(AccessError, match="just made"):
        listed(opened())
    assert drive.sent("/token") == 1


def test_a_token_that_was_taken_back_says_how_to_sign_in_again(
    drive: LocalDrive, opened: Opened, tmp_path: Path
) -> None:
    source = opened()
    drive.oauth.revoke()
    with pytest.raises(AccessError, match="invalid_grant") as caught:
        listed(source)
    assert "sign in again" in str(caught.value.hint)
    assert str(tmp_path / "stored.json") in str(caught.value.hint)


@pytest.mark.parametrize("fault", [Fault(503, "temporarily_unavailable"), Fault(429, "slow_down"), CUT])
def test_a_token_endpoint_that_stumbles_is_asked_again_by_the_caller_alone(
    drive: LocalDrive, opened: Opened, fault: Fault
) -> None:
    drive.faults = first(fault, fault, path="/token")
    caller = unhurried()
    assert listed(opened(caller=caller)) == {}
    assert (drive.sent("/token"), caller.counts["retries"]) == (3, 2)


def test_only_the_stored_token_is_needed_and_it_stays_private(
    drive: LocalDrive, opened: Opened, tmp_path: Path
) -> None:
    file = drive.token_file(tmp_path / "token.json")
    file.chmod(0o644)
    assert listed(opened(token=file)) == {}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text())["refresh_token"] == "1//stored"
    assert listed(opened(token=file)) == {}
    assert [one.name for one in tmp_path.iterdir()] == ["token.json"]


def test_a_stored_token_that_cannot_be_written_is_still_good(
    drive: LocalDrive, opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> int:
        raise PermissionError(13, "Permission denied")

    source = opened(token=drive.token_file(tmp_path / "token.json"))
    monkeypatch.setattr(os, "open", refuse)
    assert listed(source) == {}


def test_a_link_in_the_tokens_place_is_neither_replaced_nor_written_through(
    drive: LocalDrive, opened: Opened, tmp_path: Path
) -> None:
    file, link = drive.token_file(tmp_path / "theirs.json"), tmp_path / "token.json"
    link.symlink_to(file)
    before = file.read_bytes()
    assert listed(opened(token=link)) == {}
    assert (link.is_symlink(), file.read_bytes()) == (True, before)
    file.unlink()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "token.json").symlink_to(file)
    source = signing_in(drive, tmp_path, Person())
    with pytest.raises(ConfigError, match="is a link"):
        listed(source)
    assert not file.exists()
    source.close()


class Person:
    """Somebody at a terminal: opens the address that she is shown."""

    def __init__(self) -> None:
        self.shown = ""
        self.pages: list[int] = []

    def say(self, text: str) -> None:
        self.shown += text
        url = re.search(r"http\S+", text)
        assert url
        threading.Thread(target=self.open, args=[url[0]], daemon=True).start()

    def open(self, url: str) -> None:
        asked = parse_qs(urlsplit(url).query)
        back = urlsplit(asked["redirect_uri"][0])
        idle = socket.create_connection((str(back.hostname), int(back.port or 0)))  # as browsers do, in advance
        for one in (f"{asked['redirect_uri'][0]}/?state=stranger&code=4/other", url):
            try:
                with urllib.request.urlopen(one) as answer:
                    self.pages.append(answer.status)
            except urllib.error.HTTPError as error:
                self.pages.append(error.code)
        idle.close()


def signing_in(drive: LocalDrive, folder: Path, person: Person, *, terminal: bool = True) -> GoogleDrive:
    client, token = drive.client_file(folder / "client.json"), folder / "kept" / "token.json"
    auth = Auth("drive", client, token, None, urllib3.PoolManager(), terminal=lambda: terminal, say=person.say)
    settings = GoogleDriveSettings(folder="root", credentials=client, token=token, url=drive.api)
    return GoogleDrive("drive", settings, caller=unhurried(), auth=auth)


def test_a_person_signs_in_once_and_her_token_is_kept(drive: LocalDrive, opened: Opened, tmp_path: Path) -> None:
    key, person = drive.file("x.jpg"), Person()
    source = signing_in(drive, tmp_path, person)
    assert person.shown == ""
    assert listed(source).keys() == {key}
    asked = parse_qs(urlsplit(re.findall(r"http\S+", person.shown)[0]).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert asked["scope"] == ["https://www.googleapis.com/auth/drive.readonly"]
    assert person.pages == [400, 200]  # a stranger's answer is not taken
    token = tmp_path / "kept" / "token.json"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert drive.oauth.granted == ["authorization_code"]
    assert listed(opened(credentials=tmp_path / "client.json", token=token)).keys() == {key}
    assert drive.oauth.granted == ["authorization_code", "refresh_token"]
    source.close()


def test_a_code_is_no_use_without_the_secret_it_was_asked_with(drive: LocalDrive, tmp_path: Path) -> None:
    person = Person()
    source = signing_in(drive, tmp_path, person)

    def fault(request: Request) -> None:
        if request.path == "/token":
            for code, asked in drive.oauth.codes.items():
                drive.oauth.codes[code] = {**asked, "code_challenge": "another"}

    drive.faults = fault
    with pytest.raises(AccessError, match="no token"):
        listed(source)
    assert not (tmp_path / "kept").exists()


def test_a_person_may_say_no(drive: LocalDrive, tmp_path: Path) -> None:
    drive.oauth.denies = True
    with pytest.raises(AccessError, match="nobody signed in"):
        listed(signing_in(drive, tmp_path, Person()))


def test_without_a_terminal_the_error_says_which_command_to_run(drive: LocalDrive, tmp_path: Path) -> None:
    person = Person()
    with pytest.raises(AccessError, match="nobody has signed in") as caught:
        listed(signing_in(drive, tmp_path, person, terminal=False))
    assert "resettle check" in str(caught.value.hint)
    assert (person.shown, drive.requests) == ("", [])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("not json", "not a JSON file"),
        ("[]", "not a file with credentials"),
        ('{"type": "external_account"}', "no credentials"),
        ('{"type": "service_account", "token_uri": "https://example.org", "private_key": "-----BEGIN"}', "key file"),
        ('{"type": "service_account", "token_uri": "http://example.org"}', "https"),
        ('{"installed": {"client_id": "i"}}', "no credentials"),
    ],
)
def test_credentials_that_are_none_are_refused_before_anything_is_asked(
    tmp_path: Path, content: str | None, said: str
) -> None:
    file = tmp_path / "credentials.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=said) as caught:
        GoogleDrive("drive", GoogleDriveSettings(folder="root", credentials=file))
    assert "BEGIN" not in f"{caught.value}{caught.value.hint}"


def test_a_user_to_act_for_needs_a_service_account(drive: LocalDrive, opened: Opened) -> None:
    with pytest.raises(ConfigError, match="subject"):
        opened(subject="owner@example.org")


def test_a_client_needs_a_place_for_the_token(drive: LocalDrive, opened: Opened, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`token` is missing"):
        opened(credentials=drive.client_file(tmp_path / "client.json"))


def test_a_service_that_is_not_encrypted_gets_no_token(drive: LocalDrive, tmp_path: Path) -> None:
    token = drive.token_file(tmp_path / "t")
    with pytest.raises(ConfigError, match="https"):
        GoogleDrive("drive", GoogleDriveSettings(folder="root", token=token, url="http://example.org/drive/v3"))


def test_no_secret_is_in_any_message(drive: LocalDrive, opened: Opened, tmp_path: Path) -> None:
    secrets = [CLIENT_SECRET, "1//stored", "PRIVATE KEY", "ya29."]
    drive.oauth.revoke()
    said: list[str] = []
    for given in ({}, {"credentials": drive.service_account_file(tmp_path / "k"), "subject": "nobody@example.org"}):
        drive.oauth.refresh_tokens.clear()
        source = opened(**given)
        drive.oauth.refresh_tokens.clear()
        with pytest.raises(ResettleError) as caught:
            listed(source)
        said.append(f"{caught.value!r} {caught.value} {caught.value.hint}")
    assert not [one for one in secrets if one in " ".join(said)]


def test_a_migration_names_its_files_from_its_own_folder(drive: LocalDrive, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    drive.token_file(tmp_path / "secret" / "token.json")
    key = drive.file("x.jpg")
    (tmp_path / "migration.yaml").write_text(
        "migration: m\nconnections:\n"
        f"  drive: {{type: google_drive, folder: root, token: secret/token.json, url: '{drive.api}'}}\n"
        "  there: {type: memory}\n"
        "flows:\n  f: {from: drive.files, unit: id, into: there.t, key: id, columns: {id: id}}\n"
    )
    with Connections(load(tmp_path)) as connections:
        source = connections.source("drive")
        assert isinstance(source, GoogleDrive)
        assert listed(source).keys() == {key}


# -- the stand-in ----------------------------------------------------------------------------------


def asked(drive: LocalDrive, path: str, **query: str) -> tuple[int, Any]:
    """What the stand-in answers to a request that our connector would not make."""
    headers = {"Authorization": f"Bearer {drive.oauth.new_token()}"}
    answer = urllib3.PoolManager(retries=False).request("GET", f"{drive.api}{path}", fields=query, headers=headers)
    return answer.status, json.loads(answer.data)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", {"a", "b.jpg", "c's.png", "doc", "old"}),
        ("trashed = false", {"a", "b.jpg", "c's.png", "doc"}),
        ("'root' in parents and trashed = false", {"a", "doc"}),
        ("mimeType = 'image/png' or mimeType='image/jpeg' and trashed != true", {"b.jpg", "c's.png"}),
        ("not mimeType contains 'image' and (trashed = false)", {"a", "doc"}),
        (r"name = 'c\'s.png'", {"c's.png"}),
        ("not 'root' in parents", {"b.jpg", "c's.png", "old"}),
    ],
)
def test_the_stand_in_understands_searches(drive: LocalDrive, query: str, names: set[str]) -> None:
    folder = drive.folder("a")
    drive.file("b.jpg", folder)
    drive.file("c's.png", folder, mime="image/png")
    drive.file("old", folder, trashed=True)
    drive.document("doc")
    status, found = asked(drive, "/files", **({"q": query} if query else {}))
    assert (status, {one["name"] for one in found["files"]}) == (200, names)
    assert found["files"][0].keys() == {"kind", "id", "name", "mimeType"}


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ({"q": "'a' in parents and"}, "q"),
        ({"q": "size > 5"}, "q"),
        ({"q": "('a' in parents"}, "q"),
        ({"q": "fullText contains 'x'"}, "q"),
        ({"pageSize": "1001"}, "pageSize"),
        ({"pageSize": "0"}, "pageSize"),
        ({"pageToken": "nonsense"}, "pageToken"),
        ({"fields": "files(nome)"}, "fields"),
        ({"corpora": "drive"}, "driveId"),
        ({"includeItemsFromAllDrives": "true"}, "supportsAllDrives"),
    ],
)
def test_the_stand_in_refuses_what_drive_would(drive: LocalDrive, query: dict[str, str], parameter: str) -> None:
    status, found = asked(drive, "/files", **query)
    assert status == 400
    assert found["error"]["errors"][0]["location"] == parameter


def test_the_stand_in_hides_shared_drives_from_who_does_not_ask_for_them(drive: LocalDrive) -> None:
    shared = drive.shared_drive("Team")
    drive.file("x.jpg", shared)
    assert asked(drive, "/files")[1]["files"] == []
    assert asked(drive, f"/files/{shared}")[0] == 404
    assert asked(drive, f"/files/{shared}", supportsAllDrives="true")[0] == 200


def test_the_stand_in_lets_nobody_in_without_a_good_token(drive: LocalDrive) -> None:
    for header in ({}, {"Authorization": "Bearer ya29.other"}):
        answer = urllib3.PoolManager(retries=False).request("GET", f"{drive.api}/files", headers=header)
        assert answer.status == 401
    assert json.loads(answer.data)["error"]["errors"][0]["reason"] == "authError"
