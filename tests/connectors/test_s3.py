"""What only the connector for S3 does, against moto behind a door that lets things go wrong."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from resettle.batch import Action
from resettle.calls import Caller
from resettle.connector import Body
from resettle.connectors import _s3_upload as upload
from resettle.connectors._s3_bucket import MD5
from resettle.connectors.s3 import ERRORS, REFUSALS, S3, THROTTLES, S3Settings, errors
from resettle.errors import AccessError, ConfigError, RejectedError, TransientError
from resettle.sandbox.s3 import LocalS3, start_s3

PART = 5 * upload.MIB
BIG = bytes(range(256)) * (44 << 10)  # 11 MiB: three parts of the smallest size
SOON = datetime(2010, 11, 10, 22, tzinfo=UTC)
"""Shortly after the moment at which, by moto, every upload began."""


@pytest.fixture(scope="module")
def server() -> Iterator[LocalS3]:
    with start_s3() as local:
        local.load("bkt")
        yield local


@pytest.fixture
def end(server: LocalS3) -> LocalS3:
    """The server, with its one bucket empty and nothing going wrong."""
    server.faults.clear()
    client = server.client()
    for one in client.list_objects_v2(Bucket="bkt").get("Contents", []):
        client.delete_object(Bucket="bkt", Key=one["Key"])
    for one in client.list_multipart_uploads(Bucket="bkt").get("Uploads", []):
        client.abort_multipart_upload(Bucket="bkt", Key=one["Key"], UploadId=one["UploadId"])
    client.close()
    server.requests.clear()
    return server


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def s3(end: LocalS3, waits: list[float]) -> Iterator[S3]:
    made = opened(end, waits)
    yield made
    made.close()


def opened(end: LocalS3, waits: list[float] | None = None, **more: Any) -> S3:
    """A connection that does not really wait, with the smallest parts."""
    kept: list[float] = [] if waits is None else waits
    caller = Caller(lambda error: errors(error, "s3"), sleep=kept.append)
    clock = more.pop("clock", lambda: datetime.now(UTC))
    settings = S3Settings(**end.settings("bkt", **{"part_size": PART, **more}))
    return S3("s3", settings, caller=caller, clock=clock)


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def body(content: bytes, **said: Any) -> Body:
    return Body(lambda start: (content[at : at + 300_000] for at in range(start, len(content), 300_000)), **said)


def put(s3: S3, key: str, content: bytes, *, replace: bool = False, **said: Any) -> Any:
    return s3.put("objects", key, body(content, **said), metadata={}, replace=replace)


def whole(s3: S3, key: str) -> bytes:
    return b"".join(s3.open("objects", key).chunks(0))


def rows(s3: S3, *, wanted: int = 1, size: int = 1000) -> list[dict[str, Any]]:
    parts = s3.partitions("objects", wanted)
    return [row for part in parts for batch in s3.read(part, size) for row in batch.table.to_pylist()]


def fetched(s3: S3, columns: list[str], *keys: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = s3.fetch(
        "objects", pa.table({"key": pa.array(keys, pa.string())}), columns
    ).to_pylist()
    return found


def reason(s3: S3, key: str, content: bytes, **more: Any) -> str:
    with pytest.raises(RejectedError) as caught:
        put(s3, key, content, **more)
    assert key not in f"{caught.value} {caught.value.detail}".split()
    return caught.value.reason


def unfinished(end: LocalS3) -> list[str]:
    return [one["Key"] for one in end.client().list_multipart_uploads(Bucket="bkt").get("Uploads", [])]


def hook(s3: S3, event: str, do: Callable[..., Any]) -> None:
    """Run ``do`` once, at the next such event of boto3."""
    pending = [do]

    def once(**given: Any) -> None:
        if pending:
            pending.pop()(**given)

    by_boto3(s3).meta.events.register(f"{event}", once)


def by_boto3(s3: S3) -> Any:
    """boto3's client, which from here on sends every request of this connection itself."""
    s3._bucket.client = s3._client
    return s3._client


# -- settings and errors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"endpoint": "localhost:9000"},
        {"endpoint": "ftp://host"},
        {"endpoint": "https://account.r2.cloudflarestorage.com/bucket"},
        {"access_key": "only"},
        {"secret_key": "only"},
        {"part_size": 1 << 20},
        {"buket": "x"},
    ],
    ids=str,
)
def test_settings_that_cannot_be_meant_are_refused(settings: Mapping[str, Any]) -> None:
    with pytest.raises(ValidationError):
        S3Settings(bucket="bkt", **settings)


@pytest.mark.parametrize(
    ("settings", "region", "url"),
    [
        ({"endpoint": "https://a.r2.cloudflarestorage.com"}, "auto", "https://a.r2.cloudflarestorage.com"),
        ({"endpoint": "http://127.0.0.1:1"}, "us-east-1", "http://127.0.0.1:1"),
        ({"region": "eu-west-1"}, "eu-west-1", "https://s3.eu-west-1.amazonaws.com"),
        ({"region": "eu-west-1", "endpoint": "https://h"}, "eu-west-1", "https://h"),
    ],
)
def test_each_end_has_its_own_place(
    settings: Mapping[str, Any], region: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    made = S3("s3", S3Settings(bucket="bkt", access_key="a", secret_key="b", **settings))
    assert (made._client.meta.region_name, made._client.meta.endpoint_url) == (region, url)


def test_an_unknown_profile_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="nobody"):
        S3("s3", S3Settings(bucket="bkt", profile="nobody"))


def test_without_credentials_access_is_refused(end: LocalS3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(AccessError, match="NoCredentialsError"):
        S3("s3", S3Settings(bucket="bkt", endpoint=end.endpoint)).schema("objects")


def test_secrets_are_not_shown(end: LocalS3) -> None:
    settings = S3Settings(**end.settings("bkt"))
    assert end.secret_key not in repr(settings)
    assert end.access_key not in repr(settings)
    wrong = S3("s3", S3Settings(**{**end.settings("bkt"), "access_key": "WRONGKEY"}))
    with pytest.raises(AccessError) as caught:
        wrong.schema("objects")
    assert "WRONGKEY" not in f"{caught.value} {caught.value.hint}"
    assert "s3:ListBucket" in str(caught.value.hint)


def test_a_missing_bucket_is_a_config_error_with_a_suggestion(end: LocalS3) -> None:
    wrong = S3("s3", S3Settings(**end.settings("bktt")))
    asks: list[Callable[[], Any]] = [
        lambda: wrong.schema("objects"),
        lambda: wrong.partitions("objects", 1),
        lambda: wrong.open("objects", "k"),
        lambda: wrong.empty("objects"),
        lambda: fetched(wrong, ["size"], "k"),
        lambda: put(wrong, "k", b"x"),
    ]
    for ask in asks:
        with pytest.raises(ConfigError, match="no bucket `bktt`") as caught:
            ask()
        assert caught.value.hint == "did you mean `bkt`?"


def test_every_error_the_service_declares_is_in_a_table_or_knowingly_left_out() -> None:
    import boto3

    model = boto3.client("s3", region_name="us-east-1").meta.service_model
    operations = ("ListObjectsV2", "HeadObject", "GetObject", "PutObject", "DeleteObject", "CreateMultipartUpload")
    operations += ("UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload", "ListMultipartUploads", "ListParts")
    declared = {
        shape.metadata.get("error", {}).get("code", shape.name)
        for operation in operations
        for shape in model.operation_model(operation).error_shapes
    }
    handled = {"NoSuchBucket", "NoSuchKey", "NoSuchUpload"}
    # Of appending to objects and of encryption by the caller's own keys, neither of which is asked for.
    others = {"EncryptionTypeMismatch", "InvalidRequest", "InvalidWriteOffset", "TooManyParts"}
    assert declared - handled - others <= ERRORS.keys() | THROTTLES | REFUSALS.keys()


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (503, "SlowDown", TransientError),
        (429, "TooManyRequests", TransientError),
        (500, "InternalError", TransientError),
        (502, "Unheard", TransientError),
        (400, "ExpiredToken", AccessError),
        (403, "SignatureDoesNotMatch", AccessError),
        (403, "InvalidObjectState", RejectedError),
        (400, "Unheard", None),
        (501, "NotImplemented", None),
    ],
)
def test_an_answer_means_one_kind_of_error(status: int, code: str, expected: type[Exception] | None) -> None:
    import botocore.exceptions

    response = {"Error": {"Code": code, "Message": "k"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    found = errors(botocore.exceptions.ClientError(response, "PutObject"), "s3")
    assert type(found) is (expected or type(None))
    assert found is None or "k" not in str(found).split()


# -- things that go wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "throttled"), [(503, "SlowDown", 1), (429, "TooManyRequests", 1), (500, "InternalError", 0)]
)
@pytest.mark.parametrize(("method", "text"), [("GET", "list-type"), ("GET", "/k?"), ("HEAD", "/k?"), ("PUT", "/k?")])
def test_what_passes_is_tried_again(
    end: LocalS3, s3: S3, waits: list[float], status: int, code: str, throttled: int, method: str, text: str
) -> None:
    fault = end.fail("status", method=method, text=text, status=status, code=code, retry_after=7)
    put(s3, "k", b"content")
    assert whole(s3, "k") == b"content"
    assert [row["key"] for row in rows(s3)] == ["k"]
    assert fault.times == 0
    assert s3._bucket._call.counts["retries"] == 1
    assert bool(s3._bucket._call.counts["throttled"]) == bool(throttled or (method == "HEAD" and status != 500))
    assert max(waits) >= 7


def test_only_caller_tries_again(end: LocalS3, s3: S3) -> None:
    end.fail("status", method="PUT", times=100, status=500, code="InternalError")
    with pytest.raises(TransientError):
        put(s3, "k", b"content")
    assert sum(one.startswith("PUT") for one in end.requests) == 8
    assert rows(s3) == []


def test_an_expired_token_stops_the_run_at_once(end: LocalS3, s3: S3) -> None:
    put(s3, "k", b"content")
    for method in ("GET", "HEAD", "PUT"):
        end.faults.clear()
        end.fail("status", method=method, text="/k?", times=9, status=400, code="ExpiredToken")
        with pytest.raises(AccessError):  # of HEAD boto3 itself asks twice: the bucket might be in another region
            put(s3, "k", b"other", replace=True) if method == "PUT" else whole(s3, "k")
    assert s3._bucket._call.counts["retries"] == 0


def test_an_empty_page_is_not_the_end(end: LocalS3, s3: S3) -> None:
    names = [f"{number:03}" for number in range(25)]
    end.load("bkt", dict.fromkeys(names, b""))
    end.fail("empty", method="GET", text="list-type", times=1)
    assert [row["key"] for row in rows(s3, size=10)] == names
    end.fail("empty", method="GET", text="continuation-token", times=3)
    assert [row["key"] for row in rows(s3, size=10)] == names
    end.fail("empty", method="GET", text="list-type", times=2, after=1)
    assert len(fetched(s3, ["size"], *names)) == 25
    end.fail("empty", method="GET", text="list-type", times=2)
    assert not s3.empty("objects")


def test_a_cut_connection_is_for_the_reader_to_take_up_again(end: LocalS3, s3: S3) -> None:
    put(s3, "k", BIG)
    end.fail("cut", method="GET", text="/k?")
    came = b""
    found = s3.open("objects", "k")
    with pytest.raises(TransientError):  # noqa: PT012
        for piece in found.chunks(0):
            came += piece
    assert 0 < len(came) < len(BIG)
    assert came + b"".join(found.chunks(len(came))) == BIG


def test_a_copy_survives_a_source_that_is_cut_again_and_again(end: LocalS3, s3: S3) -> None:
    put(s3, "from", BIG, md5=md5(BIG))
    fault = end.fail("cut", method="GET", text="/from?", times=5)
    stored = s3.put("objects", "to", s3.open("objects", "from"), metadata={}, replace=False)
    assert (stored.size, stored.md5, fault.times) == (len(BIG), md5(BIG), 0)
    assert whole(s3, "to") == BIG


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize(
    ("content", "method", "text"),
    [
        (b"small", "PUT", "/k?"),
        (b"small", "HEAD", "/k?"),
        (BIG, "POST", "uploads"),
        (BIG, "PUT", "partNumber=2"),
        (BIG, "POST", "uploadId"),
    ],
    ids=["put", "head", "create", "part", "complete"],
)
def test_an_answer_that_is_lost_after_the_effect_is_no_failure(
    end: LocalS3, s3: S3, content: bytes, method: str, text: str, replace: bool
) -> None:
    if replace:
        put(s3, "k", b"first")
    fault = end.fail("lost", method=method, text=text)
    assert put(s3, "k", content, replace=replace).md5 == md5(content)
    assert fault.times == 0
    assert whole(s3, "k") == content


def test_a_complete_that_was_done_already_is_seen_even_where_the_service_has_forgotten_it(end: LocalS3, s3: S3) -> None:
    """AWS forgets an upload some time after it was completed."""
    end.fail("lost", method="POST", text="uploadId")
    end.fail("status", method="POST", text="uploadId", status=404, code="NoSuchUpload", after=1)
    assert put(s3, "k", BIG).md5 == md5(BIG)


def test_an_upload_that_somebody_ended_can_be_tried_again(end: LocalS3, s3: S3) -> None:
    end.fail("status", method="POST", text="uploadId", status=404, code="NoSuchUpload")
    with pytest.raises(TransientError):
        put(s3, "k", BIG)
    assert rows(s3) == []
    assert unfinished(end) == []
    put(s3, "k", BIG)


def test_a_request_that_is_damaged_on_its_way_is_sent_again(end: LocalS3, s3: S3) -> None:
    def damage(request: Any, **given: Any) -> None:
        request.body = b"damaged"

    hook(s3, "before-send.s3.PutObject", damage)
    assert put(s3, "k", b"content").md5 == md5(b"content")
    assert whole(s3, "k") == b"content"
    assert s3._bucket._call.counts["retries"] == 1


def test_a_file_in_an_archive_is_refused_by_that_word(end: LocalS3, s3: S3) -> None:
    put(s3, "k", b"content")
    end.fail("status", method="GET", text="/k?", status=403, code="InvalidObjectState")
    with pytest.raises(RejectedError) as caught:
        whole(s3, "k")
    assert caught.value.reason == "archived"


# -- listing and fetching --------------------------------------------------------------------------


def test_a_listing_knows_what_the_service_says(end: LocalS3, s3: S3) -> None:
    put(s3, "small", b"content", content_type="audio/mpeg")
    etag = put(s3, "big", BIG, md5=md5(BIG)).etag
    before = datetime.now(UTC)
    big, small = rows(s3)
    assert (small["etag"], small["md5"], small["content_type"]) == (md5(b"content"), md5(b"content"), None)
    assert (big["key"], big["size"], big["etag"], big["md5"]) == ("big", len(BIG), etag, None)
    assert etag.endswith("-3")
    assert abs((before - big["last_modified"]).total_seconds()) < 60


def test_the_md5_of_an_object_in_parts_is_fetched_from_its_metadata(end: LocalS3, s3: S3) -> None:
    put(s3, "said", BIG, md5=md5(BIG))
    put(s3, "unsaid", BIG)
    few = fetched(s3, ["md5"], "said", "unsaid")
    many = fetched(s3, ["md5"], "said", "unsaid", *(f"none{number}" for number in range(100)))
    assert few == many == [{"key": "said", "md5": md5(BIG)}, {"key": "unsaid", "md5": None}]
    assert s3.open("objects", "said").md5 == md5(BIG)


def test_an_etag_of_an_encrypted_object_is_no_md5(end: LocalS3, s3: S3) -> None:
    kms = {"ServerSideEncryption": "aws:kms"}
    end.client().put_object(Bucket="bkt", Key="k", Body=b"content", **kms)
    assert [row["md5"] for row in rows(s3)] == [None]
    assert s3.open("objects", "k").md5 is None
    end.client().put_object(Bucket="bkt", Key="k", Body=b"content", Metadata={MD5: "A" * 32}, **kms)
    assert s3.open("objects", "k").md5 == "a" * 32


@pytest.mark.parametrize("encrypted", ["older", "newer"])
@pytest.mark.parametrize("keys", [("older", "newer"), ("z-older", "newer")], ids=["older first", "newer first"])
def test_no_md5_is_claimed_where_the_bucket_was_encrypted_at_another_time(
    end: LocalS3, keys: tuple[str, str], encrypted: str
) -> None:
    """A bucket's default may change at any time; the first key says nothing of the others."""
    s3 = opened(end)
    for key in keys:
        kms = {"ServerSideEncryption": "aws:kms"} if encrypted in key else {}
        end.client().put_object(Bucket="bkt", Key=key, Body=b"content", **kms)

    def dated(parsed: dict[str, Any], **given: Any) -> None:
        for one in parsed.get("Contents", []):
            one["LastModified"] = datetime(2026, 1, 1 + keys.index(one["Key"]), tzinfo=UTC)

    s3._client.meta.events.register("after-call.s3.ListObjectsV2", dated)
    assert {row["key"]: row["md5"] for row in rows(s3)} == dict.fromkeys(keys)
    plain = {key: None if encrypted in key else md5(b"content") for key in keys}
    assert {key: s3.open("objects", key).md5 for key in keys} == plain


def test_only_the_oldest_and_the_newest_of_a_page_are_looked_at_unless_others_tell_of_them(end: LocalS3) -> None:
    s3 = opened(end)
    end.load("bkt", {f"{number:02}": b"content" for number in range(30)})

    def dated(parsed: dict[str, Any], **given: Any) -> None:
        for one in parsed.get("Contents", []):
            one["LastModified"] = datetime(2026, 1, 1 + int(one["Key"]) % 10, tzinfo=UTC)

    s3._client.meta.events.register("after-call.s3.ListObjectsV2", dated)
    end.requests.clear()
    assert {row["md5"] for row in rows(s3, size=10)} == {md5(b"content")}
    assert [one.split()[1] for one in end.requests if one.startswith("HEAD")] == ["/bkt/00?", "/bkt/09?"]


@pytest.mark.parametrize("kept", [{}, {"Metadata": {MD5: "A" * 32}}])
def test_a_listed_object_that_turns_out_to_be_encrypted_has_no_etag_for_an_md5(
    end: LocalS3, s3: S3, kept: dict[str, Any]
) -> None:
    for key, kms in (("a", {}), ("b", {"ServerSideEncryption": "aws:kms", **kept}), ("c", {})):
        end.client().put_object(Bucket="bkt", Key=key, Body=b"content", **kms)
    s3._bucket._etags_are_md5s = lambda page: True  # type: ignore[method-assign]
    assert [row["md5"] for row in rows(s3)] == [md5(b"content")] * 3
    told = "a" * 32 if kept else None
    assert [s3.open("objects", key).md5 for key in "abc"] == [md5(b"content"), told, md5(b"content")]


def test_where_objects_may_only_be_listed_no_md5_is_claimed(end: LocalS3, s3: S3) -> None:
    put(s3, "k", b"content")
    end.fail("status", method="HEAD", times=9, status=403, code="AccessDenied")
    assert [(row["key"], row["md5"]) for row in rows(opened(end))] == [("k", None)]


def test_the_metadata_does_not_count_where_the_etag_says_otherwise(end: LocalS3, s3: S3) -> None:
    end.client().put_object(Bucket="bkt", Key="k", Body=b"content", Metadata={MD5: "a" * 32})
    assert s3.open("objects", "k").md5 == md5(b"content")


def test_a_fetch_knows_the_type_where_it_is_asked_for(end: LocalS3, s3: S3) -> None:
    put(s3, "k", b"", content_type="audio/mpeg")
    absent = [f"none{number}" for number in range(100)]
    assert fetched(s3, ["content_type"], "k", *absent) == [{"key": "k", "content_type": "audio/mpeg"}]


def test_many_keys_are_fetched_by_a_listing_and_few_among_many_by_looks(end: LocalS3, s3: S3) -> None:
    names = [f"f/{number:04}" for number in range(1200)]
    end.load("bkt", dict.fromkeys(names, b"x"))
    end.requests.clear()
    found = fetched(s3, ["size", "md5"], *names[::2], "f/none")
    assert [row["key"] for row in found] == names[::2]
    assert len(end.requests) < 10
    end.requests.clear()
    assert len(fetched(s3, ["size"], *names[:10])) == 10
    assert not any("list-type" in one and "f%2F" in one for one in end.requests)


def test_a_listing_that_holds_too_much_is_given_up(end: LocalS3, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"f/{number:04}" for number in range(400)]
    end.load("bkt", dict.fromkeys(names, b"x"))
    pages = s3._bucket.pages
    monkeypatch.setattr(s3._bucket, "pages", lambda size=10, **given: pages(10, **given))
    wanted = [*names[::6], "f/none"]
    end.requests.clear()
    assert [row["key"] for row in fetched(s3, ["size"], *wanted)] == names[::6]
    assert sum("list-type" in one for one in end.requests) < 10


@pytest.mark.parametrize("wanted", [1, 2, 3, 8, 100])
def test_parts_are_folders_and_one_rest_whatever_comes_later(end: LocalS3, s3: S3, wanted: int) -> None:
    names = {f"p/q/{folder}/{number}" for folder in "abc" for number in range(5)} | {"top", "p/x", "p/q/y", "p/q/"}
    end.load("bkt", dict.fromkeys(names, b""))
    parts = s3.partitions("objects", wanted)
    later = {"p/q/d/0", "z/0", "p/r/0", "p/q/a/new", "0"}
    end.load("bkt", dict.fromkeys(later, b""))
    found = [row["key"] for part in parts for batch in s3.read(part, 3) for row in batch.table.to_pylist()]
    assert sorted(found) == sorted(names | later)
    assert len(parts) <= max(1, wanted)


def test_outside_of_the_prefix_nothing_is_seen_or_written(end: LocalS3) -> None:
    end.load("bkt", {"in/1": b"1", "in/2/3": b"2", "out/1": b"3", "inner": b"4"})
    s3 = opened(end, prefix="in/")
    for wanted in (1, 5):
        assert sorted(row["key"] for row in rows(s3, wanted=wanted)) == ["in/1", "in/2/3"]
    assert [row["key"] for row in fetched(s3, ["size"], "in/1", "out/1", "inner")] == ["in/1"]
    with pytest.raises(RejectedError, match="gone"):
        s3.open("objects", "out/1")
    assert reason(s3, "out/2", b"") == "key"
    assert s3.delete("objects", pa.table({"key": ["out/1", "inner"]})) == 0
    assert opened(end, prefix="none/").empty("objects")
    assert not s3.empty("objects")


def test_objects_are_found_by_key_alone(s3: S3) -> None:
    with pytest.raises(ConfigError, match="by `key` alone"):
        s3.fetch("objects", pa.table({"md5": ["x"]}), [])


# -- uploads ---------------------------------------------------------------------------------------


def test_parts_are_of_one_size_but_the_last(end: LocalS3, s3: S3) -> None:
    sizes: list[int] = []
    s3._client.meta.events.register(
        "before-parameter-build.s3.UploadPart", lambda params, **_: sizes.append(len(params["Body"]))
    )
    put(s3, "k", BIG)
    assert len(set(sizes[:-1])) == 1
    assert sum(sizes) == len(BIG)
    assert sizes[0] >= PART
    assert 0 < sizes[-1] <= sizes[0]


@pytest.mark.parametrize("size", [upload.part_size(PART, None) + more for more in (-1, 0, 1)])
def test_a_body_of_about_one_part_is_whole(s3: S3, size: int) -> None:
    content = BIG[:size]
    assert put(s3, "k", content).etag == (md5(content) if size <= upload.part_size(PART, None) else s3._look("k").etag)
    assert whole(s3, "k") == content


def test_ten_thousand_parts_hold_the_largest_object() -> None:
    for size in (None, 0, 10**9, 78 << 30, 1 << 40, 5 << 40):
        part = upload.part_size(8 * upload.MIB, size)
        assert part * upload.PARTS >= (size or 0)
        assert 8 * upload.MIB < part < 5 << 30
        assert part % upload.MIB == upload.MARK


def test_a_body_of_too_many_parts_is_refused(end: LocalS3, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "PARTS", 2)
    assert reason(s3, "k", BIG) == "too_large"
    assert unfinished(end) == []


def test_a_body_that_goes_on_past_its_size_is_not_read_to_its_end(end: LocalS3, s3: S3) -> None:
    came = 0

    def endless(start: int) -> Iterator[bytes]:
        nonlocal came
        while came < 20 * len(BIG):
            came += len(BIG)
            yield BIG

    with pytest.raises(RejectedError) as caught:
        s3.put("objects", "k", Body(endless, len(BIG) + 1), metadata={}, replace=False)
    assert caught.value.reason == "changed"
    assert came <= 2 * len(BIG)
    assert unfinished(end) == []


def test_what_the_caller_says_of_a_file_lies_with_it(end: LocalS3, s3: S3) -> None:
    given = {"origin": "a b", "name": "ü 日本", "empty": "", "lines": "a\nb", "padded": " a "}
    for key, content in (("small", b"x"), ("big", BIG)):
        s3.put(
            "objects", key, body(content, md5=md5(content), content_type="audio/mpeg"), metadata=given, replace=False
        )
        head = end.client().head_object(Bucket="bkt", Key=key)
        assert head["ContentType"] == "audio/mpeg"
        assert head["Metadata"].pop(MD5) == md5(content)
        assert head["Metadata"].keys() == given.keys()
        told = {name: _decoded(value) for name, value in head["Metadata"].items()}
        assert told == given


def _decoded(value: str) -> str:
    from email.header import decode_header, make_header

    return str(make_header(decode_header(value)))


def test_metadata_that_does_not_fit_is_refused(s3: S3) -> None:
    with pytest.raises(RejectedError) as caught:
        s3.put("objects", "k", body(b""), metadata={"a": "x" * 2048}, replace=False)
    assert caught.value.reason == "metadata"
    with pytest.raises(ConfigError, match="metadata"):
        s3.put("objects", "k", body(b""), metadata={"A b": "x"}, replace=False)
    assert rows(s3) == []


@pytest.mark.parametrize("key", ["", "x" * 1025, "é" * 513], ids=["empty", "long", "long in bytes"])
def test_a_key_that_cannot_be_is_refused(s3: S3, key: str) -> None:
    with pytest.raises(RejectedError) as caught:
        put(s3, key, b"")
    assert caught.value.reason == "key"


@pytest.mark.parametrize("content", [b"ours", BIG], ids=["small", "big"])
@pytest.mark.parametrize("conditional", [True, False])
def test_an_object_that_somebody_makes_meanwhile_is_never_touched(
    end: LocalS3, s3: S3, content: bytes, conditional: bool
) -> None:
    s3._bucket.conditional = conditional

    def theirs(start: int) -> Iterator[bytes]:
        yield content[start:]
        end.load("bkt", {"k": b"theirs"})

    with pytest.raises(RejectedError) as caught:
        s3.put("objects", "k", Body(theirs), metadata={}, replace=False)
    assert caught.value.reason == "exists"
    assert whole(s3, "k") == b"theirs"
    assert unfinished(end) == []


@pytest.mark.parametrize(("content", "verb"), [(b"ours", "PutObject"), (BIG, "CompleteMultipartUpload")])
def test_the_service_itself_sees_to_it_at_the_last_moment(end: LocalS3, s3: S3, content: bytes, verb: str) -> None:
    hook(s3, f"before-call.s3.{verb}", lambda **_: end.load("bkt", {"k": b"theirs"}))
    assert reason(s3, "k", content) == "exists"
    assert whole(s3, "k") == b"theirs"


@pytest.mark.parametrize(("content", "method", "text"), [(b"x", "PUT", "/k?"), (BIG, "POST", "uploadId")])
def test_a_service_without_conditional_puts_is_asked_first(
    end: LocalS3, s3: S3, content: bytes, method: str, text: str
) -> None:
    end.fail("status", method=method, text=text, status=501, code="NotImplemented")
    assert put(s3, "k", content).md5 == md5(content)
    asked: list[Any] = []
    by_boto3(s3).meta.events.register("before-call.s3", lambda params, **_: asked.append(params["headers"]))
    put(s3, "other", content)
    assert asked
    assert not any("If-None-Match" in headers for headers in asked)
    assert reason(s3, "k", content) == "exists"


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("content", [b"small", BIG], ids=["small", "big"])
def test_an_encrypted_bucket_is_verified_without_its_etags(end: LocalS3, s3: S3, content: bytes, lost: bool) -> None:
    """Where KMS encrypts, an ETag says nothing of the bytes."""

    def encrypts(parsed: dict[str, Any], **given: Any) -> None:
        if "ETag" in parsed:
            parsed |= {"ETag": '"' + "f" * 32 + '"', "ServerSideEncryption": "aws:kms"}

    for verb in ("PutObject", "CompleteMultipartUpload", "HeadObject"):
        by_boto3(s3).meta.events.register(f"after-call.s3.{verb}", encrypts)
    if lost:
        end.fail("lost", method="PUT" if content == b"small" else "POST", text="/k?", after=int(content == BIG))
    assert put(s3, "k", content, md5=md5(content)).md5 == md5(content)
    assert fetched(s3, ["md5"], "k") == [{"key": "k", "md5": md5(content)}]


@pytest.mark.parametrize("there", [False, True])
def test_what_the_service_kept_wrongly_is_removed_if_we_made_it(end: LocalS3, s3: S3, there: bool) -> None:
    if there:
        put(s3, "k", b"first")

    def keeps_wrongly(parsed: dict[str, Any], **given: Any) -> None:
        parsed["ETag"] = end.client().put_object(Bucket="bkt", Key="k", Body=b"wrong!!")["ETag"]

    hook(s3, "after-call.s3.PutObject", keeps_wrongly)
    assert reason(s3, "k", b"content", replace=there) == "changed"
    assert [row["key"] for row in rows(s3)] == (["k"] if there else [])


def test_what_somebody_else_puts_in_its_place_stays(end: LocalS3, s3: S3) -> None:
    hook(s3, "after-call.s3.PutObject", lambda **_: end.load("bkt", {"k": b"theirs!"}))
    assert put(s3, "k", b"content").size == 7  # ours was there, as the answer said; later is the next look's
    assert whole(s3, "k") == b"theirs!"


def test_a_file_that_changes_between_looking_and_reading_is_changed(end: LocalS3, s3: S3) -> None:
    put(s3, "k", b"before")
    found = s3.open("objects", "k")
    put(s3, "k", b"after!", replace=True)
    with pytest.raises(RejectedError) as caught:
        list(found.chunks(0))
    assert caught.value.reason == "changed"
    with pytest.raises(RejectedError) as caught:
        s3.put("objects", "copy", found, metadata={}, replace=False)
    assert caught.value.reason == "changed"
    s3.delete("objects", pa.table({"key": ["k"]}))
    with pytest.raises(RejectedError) as caught:
        list(found.chunks(0))
    assert caught.value.reason == "gone"
    assert rows(s3) == []


def test_a_body_is_copied_from_one_end_to_another(end: LocalS3) -> None:
    with start_s3() as other:
        other.load("away", {"k": BIG, "0": b""})
        source = S3("away", S3Settings(**other.settings("away", readonly=True)))
        target = opened(end)
        for key in ("k", "0"):
            target.put("objects", key, source.open("objects", key), metadata={}, replace=False)
        assert whole(target, "k") == BIG
        assert {row["key"] for row in rows(target)} == {"0", "k"}
        with pytest.raises(AccessError, match="read-only"):
            put(source, "k", b"")
        with pytest.raises(ConfigError, match="no bucket"):
            S3("end", S3Settings(**end.settings("away"))).schema("objects")


# -- unfinished uploads ----------------------------------------------------------------------------


def begin(end: LocalS3, key: str, size: int | None) -> None:
    """An upload that was begun and never ended, with one part of this size or none."""
    client = end.client()
    begun = client.create_multipart_upload(Bucket="bkt", Key=key)["UploadId"]
    if size is not None:
        client.upload_part(Bucket="bkt", Key=key, UploadId=begun, PartNumber=1, Body=bytes(size))


def test_only_our_own_old_uploads_are_given_up(end: LocalS3, s3: S3) -> None:
    begin(end, "a/ours", upload.part_size(PART, None))
    begin(end, "a/theirs", PART)
    begin(end, "a/nothing yet", None)
    begin(end, "b/ours", upload.part_size(2 * PART, None))
    assert opened(end, clock=lambda: SOON).abandon("objects") == 0
    assert opened(end, prefix="a/").abandon("objects") == 1
    assert sorted(unfinished(end)) == ["a/nothing yet", "a/theirs", "b/ours"]
    assert s3.abandon("objects") == 1
    assert s3.abandon("objects") == 0
    assert sorted(unfinished(end)) == ["a/nothing yet", "a/theirs"]


def test_an_upload_that_is_still_going_on_is_not_given_up(end: LocalS3, s3: S3) -> None:
    counts: list[int] = []

    def chunks(start: int) -> Iterator[bytes]:
        yield BIG[start:]
        counts.append(s3.abandon("objects"))
        counts.append(len(unfinished(end)))

    s3.put("objects", "k", Body(chunks), metadata={}, replace=False)
    assert counts == [0, 1]
    assert whole(s3, "k") == BIG


def test_an_upload_that_could_not_be_ended_is_given_up_later(end: LocalS3, s3: S3) -> None:
    end.fail("status", method="DELETE", times=100, status=500, code="InternalError")
    assert reason(s3, "k", BIG, md5="0" * 32) == "changed"
    assert unfinished(end) == ["k"]
    end.faults.clear()
    assert s3.abandon("objects") == 1
    assert unfinished(end) == []


def test_a_service_that_cannot_list_uploads_has_none_to_give_up(end: LocalS3, s3: S3) -> None:
    end.fail("status", method="GET", text="uploads", status=501, code="NotImplemented")
    assert s3.abandon("objects") == 0


# -- a bucket is no table --------------------------------------------------------------------------


def test_rows_cannot_be_written_and_sql_not_asked(s3: S3) -> None:
    row = pa.table({"key": ["k"], "content_type": ["x"]})
    for action in (Action.CREATE, Action.UPDATE):
        with pytest.raises(ConfigError) as caught:
            s3.write("objects", row, ["key"], action)
        assert "body:" in str(caught.value.hint)
    with pytest.raises(ConfigError):
        s3.ask("select 1")
    assert s3.orphans("objects").num_rows == 0
    assert s3.refusals([], []) is None


def test_a_transaction_does_not_nest_and_undoes_nothing(s3: S3) -> None:
    with pytest.raises(ConfigError), s3.transaction(), s3.transaction():
        pass
    with suppress(ValueError), s3.transaction():
        put(s3, "k", b"")
        raise ValueError
    assert not s3.empty("objects")
    with pytest.raises(AccessError), s3.transaction(readonly=True):
        put(s3, "other", b"")
    put(s3, "other", b"")


def test_a_connection_for_reading_only_refuses_every_verb_that_writes(end: LocalS3) -> None:
    s3 = opened(end, readonly=True)
    assert s3.schema("objects").privileges == {"select"}
    keys = pa.table({"key": ["k"]})
    for act in (lambda: put(s3, "k", b""), lambda: s3.delete("objects", keys), lambda: s3.abandon("objects")):
        with pytest.raises(AccessError, match="read-only"):
            act()


# -- memory ----------------------------------------------------------------------------------------

MEASURE = """
    import resource, sys, json, hashlib
    from resettle.connector import Body
    from resettle.connectors.s3 import S3, S3Settings

    settings = S3Settings(**json.loads(sys.argv[1]))
    s3 = S3("s3", settings)
    s3.put("objects", "warm", Body(lambda start: iter([bytes(20 << 20)[start:]])), metadata={}, replace=False)
    for _ in s3.open("objects", "warm").chunks(0): pass
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    block = bytes(range(256)) * 4096
    def chunks(start):
        for number in range(start >> 20, 200):
            yield block
    stored = s3.put("objects", "big", Body(chunks, 200 << 20), metadata={}, replace=False)
    hashed = hashlib.md5()
    for piece in s3.open("objects", "big").chunks(0):
        hashed.update(piece)
    assert stored.size == 200 << 20 and stored.md5 == hashed.hexdigest()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def test_memory_does_not_grow_with_the_size_of_a_file(end: LocalS3) -> None:
    """In a process of its own: moto, in this one, keeps the files."""
    settings = json.dumps(end.settings("bkt"))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEASURE), settings], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 32  # MiB
