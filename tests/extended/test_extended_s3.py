"""The connector for S3 against SeaweedFS, which checks signatures and every MD5: the tests that moto passes, and more.

It stands behind the stand-in's door, so that things can go wrong here too.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import pytest
from werkzeug.serving import make_server

from resettle.connectors import _s3_upload as upload
from resettle.connectors._s3_bucket import MD5
from resettle.connectors.s3 import S3, S3Settings
from resettle.errors import AccessError
from resettle.sandbox import s3 as sandbox
from resettle.sandbox.s3 import LocalS3

from tests.contract.test_bodies import *  # noqa: F403  # isort: skip
from tests.connectors.test_s3 import *  # noqa: F403  # isort: skip
from tests.connectors.test_s3 import BIG, PART, _decoded, begin, body, md5, opened, put, reason, rows, unfinished, whole
from tests.contract.cases import FilesCase, Place
from tests.contract.test_bodies import NAMES
from tests.extended import parts

pytestmark = pytest.mark.extended

_NUMBERS = itertools.count()
TOMORROW = timedelta(days=1, minutes=1)
_OWN = {"connection", "transfer-encoding", "server", "date"}


class Forwarding:
    """Hands every request on as it came, byte for byte: its signature must still be good."""

    def __init__(self, endpoint: str) -> None:
        self._place = urlsplit(endpoint).netloc

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        connection = http.client.HTTPConnection(self._place)
        body = environ["wsgi.input"].read()
        connection.putrequest(environ["REQUEST_METHOD"], environ["RAW_URI"], skip_host=True, skip_accept_encoding=True)
        for name, value in _headers(environ).items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in _OWN]
        if environ["REQUEST_METHOD"] != "HEAD" and answer.status != 204:
            headers = [one for one in headers if one[0].lower() != "content-length"]
            headers.append(("Content-Length", str(len(content))))
        connection.close()
        start(f"{answer.status} {answer.reason}", headers)
        return [content]


def _headers(environ: Mapping[str, Any]) -> dict[str, str]:
    sent = {name[5:].replace("_", "-"): value for name, value in environ.items() if name.startswith("HTTP_")}
    sent |= {name.replace("_", "-"): environ[name] for name in ("CONTENT_TYPE", "CONTENT_LENGTH") if environ.get(name)}
    return {name: value for name, value in sent.items() if name not in ("EXPECT", "CONNECTION")}


class Real(LocalS3):
    """A server to which it is an error to make a bucket twice."""

    def load(self, bucket: str, files: Mapping[str, bytes] = MappingProxyType({})) -> None:
        client = self.client()
        with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket=bucket)
        for key, content in files.items():
            client.put_object(Bucket=bucket, Key=key, Body=content)
        client.close()


class Door(sandbox._Door):
    """Refuses nothing by itself: the server does."""

    def _refused(self, environ: dict[str, Any], body: bytes) -> tuple[int, str] | None:
        return None


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalS3]:
    """The server itself, without a door."""
    keys = {"access_key": "tests-key", "secret_key": "tests-secret"}

    def ready(endpoint: str) -> None:
        Real(endpoint, **keys).load("probe", {"probe": b"probe"})

    with parts.seaweed(tmp_path_factory.mktemp("weed"), *keys.values(), ready) as endpoint:
        yield Real(endpoint, **keys)


@pytest.fixture(scope="module")
def server(seaweed: LocalS3) -> Iterator[LocalS3]:
    from moto.moto_server.werkzeug_app import MotoRequestHandler

    local = Real("", seaweed.access_key, seaweed.secret_key)
    door = Door(Forwarding(seaweed.endpoint), local, "")
    made = make_server("127.0.0.1", 0, door, threaded=True, request_handler=MotoRequestHandler)
    local.endpoint = f"http://127.0.0.1:{made.server_port}"
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    local.load("bkt")
    yield local
    made.shutdown()
    thread.join()
    made.server_close()


# -- the contract of files -------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, lambda: "")


@pytest.fixture
def case(server: LocalS3) -> FilesCase:
    """A bucket of its own: here a folder that was emptied still stands in the way of a file of its name."""
    bucket = f"contract-{next(_NUMBERS)}"
    server.faults.clear()

    def source(place: Place, files: Mapping[str, bytes]) -> tuple[S3, Mapping[str, str]]:
        server.load(bucket, files)
        return S3("s3", S3Settings(**server.settings(bucket, readonly=True))), {name: name for name in files}

    def target(place: Place) -> S3:
        server.load(bucket)
        return S3("s3", S3Settings(**server.settings(bucket)))

    return FilesCase("s3", "objects", source, target)


# -- what this server does in its own way ----------------------------------------------------------

# The door makes tokens of its own, and with them the signature of the next request would be wrong.
del test_an_empty_page_is_not_the_end  # noqa: F821
# The server has no keys to encrypt by.
del test_an_etag_of_an_encrypted_object_is_no_md5  # noqa: F821


def test_a_key_may_be_any_text(into: S3, case: FilesCase) -> None:
    """Except for those that are no path: two slashes are one here."""
    names = [name for name in NAMES if name not in ("x//y", "dir/")]
    for name in names:
        into.put(case.dataset, name, body(name.encode()), metadata={}, replace=False)
    assert sorted(row["key"] for row in rows(into)) == sorted(names)
    assert [whole(into, name).decode() for name in names] == names


def test_bytes_that_the_server_does_not_keep_are_noticed(into: S3, case: FilesCase) -> None:
    """It takes what ends in a slash for a folder, says that all went well, and keeps nothing."""
    assert reason(into, "folder/", b"content") == "changed"
    assert rows(into) == []


def test_what_the_caller_says_of_a_file_lies_with_it(end: LocalS3, s3: S3) -> None:
    """Except for what is empty, which the server drops."""
    given = {"origin": "a b", "name": "ü 日本", "lines": "a\nb", "padded": " a "}
    for key, content in (("small", b"x"), ("big", BIG)):
        said = body(content, md5=md5(content), content_type="audio/mpeg")
        s3.put("objects", key, said, metadata=given, replace=False)
        head = end.client().head_object(Bucket="bkt", Key=key)
        assert head["ContentType"] == "audio/mpeg"
        assert head["Metadata"].pop(MD5) == md5(content)
        assert {name: _decoded(value) for name, value in head["Metadata"].items()} == given


# -- what the server checks by itself --------------------------------------------------------------


def test_a_wrong_secret_key_is_an_access_error_at_once(seaweed: LocalS3) -> None:
    s3 = S3("s3", S3Settings(**{**seaweed.settings("bkt"), "secret_key": "another"}))
    with pytest.raises(AccessError):
        s3.schema("objects")
    with pytest.raises(AccessError):
        put(s3, "k", b"x")


def test_bytes_that_do_not_have_the_md5_they_are_sent_with_are_refused(seaweed: LocalS3, end: LocalS3) -> None:
    client = seaweed.client()
    with pytest.raises(client.exceptions.ClientError, match=r"BadDigest|InvalidDigest"):
        client.put_object(Bucket="bkt", Key="k", Body=b"x", ContentMD5="AAAAAAAAAAAAAAAAAAAAAA==")
    assert "Contents" not in client.list_objects_v2(Bucket="bkt")


def test_our_smallest_parts_are_large_enough(seaweed: LocalS3, end: LocalS3) -> None:
    """The server refuses parts below 5 MiB, but for the last one."""
    client = seaweed.client()
    begun = client.create_multipart_upload(Bucket="bkt", Key="small")["UploadId"]
    given = {"Bucket": "bkt", "Key": "small", "UploadId": begun}
    sent = [client.upload_part(**given, PartNumber=number, Body=bytes(PART - 1)) for number in (1, 2)]
    told = [{"PartNumber": number, "ETag": one["ETag"]} for number, one in enumerate(sent, 1)]
    with pytest.raises(client.exceptions.ClientError, match="EntityTooSmall"):
        client.complete_multipart_upload(**given, MultipartUpload={"Parts": told})
    s3 = S3("s3", S3Settings(**seaweed.settings("bkt", part_size=PART)))
    assert put(s3, "k", BIG).md5 == md5(BIG)
    s3.close()


# -- in place of those that know when, by moto, an upload began ------------------------------------


def test_only_our_own_old_uploads_are_given_up(end: LocalS3, s3: S3) -> None:
    begin(end, "a/ours", upload.part_size(PART, None))
    begin(end, "a/theirs", PART)
    begin(end, "a/nothing yet", None)
    begin(end, "b/ours", upload.part_size(2 * PART, None))
    assert s3.abandon("objects") == 0
    later = {"clock": lambda: datetime.now(UTC) + TOMORROW}
    assert opened(end, prefix="a/", **later).abandon("objects") == 1
    assert sorted(unfinished(end)) == ["a/nothing yet", "a/theirs", "b/ours"]
    assert opened(end, **later).abandon("objects") == 1
    assert opened(end, **later).abandon("objects") == 0
    assert sorted(unfinished(end)) == ["a/nothing yet", "a/theirs"]


def test_an_upload_that_could_not_be_ended_is_given_up_later(end: LocalS3, s3: S3) -> None:
    end.fail("status", method="DELETE", times=100, status=500, code="InternalError")
    assert reason(s3, "k", BIG, md5="0" * 32) == "changed"
    assert unfinished(end) == ["k"]
    end.faults.clear()
    assert opened(end, clock=lambda: datetime.now(UTC) + TOMORROW).abandon("objects") == 1
    assert unfinished(end) == []
