"""Google's own client is content with the Drive stand-in: what it asks, it gets, and what it tries again is given.

The client lives in a venv of its own: it runs there, and says what it got.
"""

from __future__ import annotations

import json
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resettle.sandbox.drive import BACKEND, RATE, TOO_MANY, USER_RATE, Fault, LocalDrive, Request, start_drive
from tests.extended.parts import part

pytestmark = pytest.mark.extended

BEGIN = """
import io, json, sys
from google.oauth2 import service_account
from googleapiclient.discovery import build
from googleapiclient.errors import HttpError
from googleapiclient.http import MediaIoBaseDownload

given = json.loads(sys.argv[1])
scopes = ["https://www.googleapis.com/auth/drive.readonly"]
account = service_account.Credentials.from_service_account_file(given["key"], scopes=scopes)
there = {"api_endpoint": given["api"] + "/"}
drive = build("drive", "v3", credentials=account, client_options=there, cache_discovery=False)

def whole(identity, chunk=300):
    stream = io.BytesIO()
    download = MediaIoBaseDownload(stream, drive.files().get_media(fileId=identity), chunksize=chunk)
    done = False
    while not done:
        _, done = download.next_chunk(num_retries=4)
    return stream.getvalue()
"""


@pytest.fixture
def drive() -> Iterator[LocalDrive]:
    with start_drive() as local:
        yield local


def client(drive: LocalDrive, place: Path, script: str, **given: Any) -> Any:
    """Run a script that ends with `said = ...`, and give what it says."""
    part("venv/lib/python3*/site-packages/googleapiclient", "Google's client")
    python = part("venv/bin/python", "Python")
    told = json.dumps({"key": str(drive.service_account_file(place / "key.json")), "api": drive.api, **given})
    code = BEGIN + textwrap.dedent(script) + "\nprint(json.dumps(said))"
    done = subprocess.run([python, "-c", code, told], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def after(*faults: Fault) -> Any:
    """These faults go wrong with the first requests for files, one each."""
    left = list(faults)

    def next_one(request: Request) -> Fault | None:
        return left.pop(0) if left and request.path.startswith("/drive/v3/files") else None

    return next_one


def test_it_lists_a_folder_page_by_page(drive: LocalDrive, tmp_path: Path) -> None:
    folder = drive.folder("top")
    ids = drive.plant({f"{n}.jpg": f"{n}".encode() for n in range(120)}, folder)
    script = """
        said, asking = [], drive.files().list(
            q=f"'{given['folder']}' in parents and trashed = false", pageSize=50,
            fields="nextPageToken,incompleteSearch,files(id,name,size,md5Checksum,mimeType,parents,createdTime)")
        while asking is not None:
            page = asking.execute()
            said.append(page["files"])
            asking = drive.files().list_next(asking, page)
    """
    pages = client(drive, tmp_path, script, folder=folder)
    assert [len(page) for page in pages] == [50, 50, 20]
    assert {one["name"]: one["id"] for page in pages for one in page} == ids
    assert all(one["size"].isdigit() and one["parents"] == [folder] for page in pages for one in page)


def test_it_takes_a_file_in_pieces_and_at_once(drive: LocalDrive, tmp_path: Path) -> None:
    body = bytes(range(256)) * 4
    key = drive.file("x.bin", body=body)
    empty = drive.file("empty.bin", body=b"")
    script = """
        said = {
            "pieces": whole(given["key_of"]).hex(),
            "at once": drive.files().get_media(fileId=given["key_of"]).execute().hex(),
            "empty": whole(given["empty"]).hex(),
        }
    """
    said = client(drive, tmp_path, script, key_of=key, empty=empty)
    assert said == {"pieces": body.hex(), "at once": body.hex(), "empty": ""}
    assert {one.headers.get("range") or one.headers.get("Range") for one in drive.requests} >= {"bytes=0-299"}


def test_it_follows_shortcuts_and_shared_drives(drive: LocalDrive, tmp_path: Path) -> None:
    shared = drive.shared_drive("Team")
    target = drive.file("there.jpg", shared, body=b"there")
    shortcut = drive.shortcut("here", target)
    script = """
        found = drive.files().get(fileId=given["shortcut"], fields="shortcutDetails").execute()["shortcutDetails"]
        file = drive.files().get(fileId=found["targetId"], supportsAllDrives=True, fields="name,driveId").execute()
        try:
            drive.files().get(fileId=found["targetId"]).execute()
        except HttpError as error:
            refused = error.resp.status, error.error_details[0]["reason"]
        listed = drive.files().list(corpora="drive", driveId=given["shared"], includeItemsFromAllDrives=True,
                                    supportsAllDrives=True).execute()["files"]
        said = [found, file, refused, [one["name"] for one in listed]]
    """
    found, file, refused, listed = client(drive, tmp_path, script, shortcut=shortcut, shared=shared)
    assert found == {"targetId": target, "targetMimeType": "image/jpeg"}
    assert file == {"name": "there.jpg", "driveId": shared}
    assert refused == [404, "notFound"]
    assert listed == ["there.jpg"]


@pytest.mark.parametrize("fault", [RATE, USER_RATE, TOO_MANY, BACKEND], ids=lambda one: f"{one.status} {one.reason}")
def test_it_tries_again_what_passes(drive: LocalDrive, tmp_path: Path, fault: Fault) -> None:
    key = drive.file("x.jpg", body=b"x" * 1000)
    drive.faults = after(fault, fault)
    said = client(drive, tmp_path, "said = drive.files().get(fileId=given['id']).execute(num_retries=4)", id=key)
    assert said["name"] == "x.jpg"
    assert drive.sent(f"/drive/v3/files/{key}") == 3
    drive.faults = after(fault)
    assert client(drive, tmp_path, "said = len(whole(given['id']))", id=key) == 1000


def test_it_does_not_try_again_what_a_quota_of_the_day_refuses(drive: LocalDrive, tmp_path: Path) -> None:
    key = drive.file("x.jpg", body=b"x")
    drive.faults = after(*[Fault(403, "dailyLimitExceeded")] * 4)
    script = """
        try:
            drive.files().get(fileId=given["id"]).execute(num_retries=3)
        except HttpError as error:
            said = [error.resp.status, error.error_details[0]["reason"]]
    """
    assert client(drive, tmp_path, script, id=key) == [403, "dailyLimitExceeded"]
    assert drive.sent(f"/drive/v3/files/{key}") == 1


def test_it_refuses_to_download_a_document(drive: LocalDrive, tmp_path: Path) -> None:
    document = drive.document("notes")
    script = """
        try:
            whole(given["id"])
        except HttpError as error:
            said = [error.resp.status, error.error_details[0]["reason"]]
    """
    assert client(drive, tmp_path, script, id=document) == [403, "fileNotDownloadable"]
