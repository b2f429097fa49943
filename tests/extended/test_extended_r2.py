"""The connector for S3 against R2, as wrangler runs it here: parts of one size, no listing of unfinished uploads.

The endpoint here has a path before the bucket, as Cloudflare's has not: so the connector is given a client.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import boto3
import pyarrow as pa
import pytest
from botocore.config import Config

from resettle.connector import Body
from resettle.connectors._s3_upload import MIB
from resettle.connectors.s3 import S3, S3Settings
from resettle.errors import AccessError, ConfigError, RejectedError
from tests.extended import parts

pytestmark = pytest.mark.extended

PATH = "/cdn-cgi/local/r2/s3"
KEYS = {"access_key": "tests-key", "secret_key": "tests-secret"}
BIG = bytes(range(256)) * (64 << 10)  # 16 MiB: four parts of the smallest size
WORKER = "export default { fetch() { return new Response('here'); } };"


def client(url: str, **keys: str) -> Any:
    config = Config(
        s3={"addressing_style": "path"},
        retries={"total_max_attempts": 1},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    told = {**KEYS, **keys}
    return boto3.client(
        "s3",
        endpoint_url=url + PATH,
        region_name="auto",
        aws_access_key_id=told["access_key"],
        aws_secret_access_key=told["secret_key"],
        config=config,
    )


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("wrangler")
    credentials = {"accessKeyId": KEYS["access_key"], "secretAccessKey": KEYS["secret_key"]}
    bucket = {
        "binding": "FILES",
        "bucket_name": "files",
        "local_dev": {"experimental_s3_credentials": credentials},
    }
    worker = folder / "given.js"
    worker.write_text(WORKER)

    def ready(url: str) -> None:
        client(url).list_objects_v2(Bucket="files")

    with parts.wrangler(folder, worker, {"r2_buckets": [bucket]}, ready) as found:
        yield found


def opened(url: str, *, bucket: str = "files", **keys: str) -> S3:
    """`endpoint` takes no path, so the client is given."""
    settings = S3Settings(bucket=bucket, endpoint=url, part_size=5 * MIB, **{**KEYS, **keys})
    return S3("r2", settings, client=client(url, **keys))


@pytest.fixture
def r2(url: str) -> Iterator[S3]:
    """The bucket, empty."""
    direct = client(url)
    for page in direct.get_paginator("list_objects_v2").paginate(Bucket="files"):
        for one in page.get("Contents", []):
            direct.delete_object(Bucket="files", Key=one["Key"])
    made = opened(url)
    yield made
    made.close()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def body(content: bytes, **said: Any) -> Body:
    return Body(lambda start: (content[at : at + 300_000] for at in range(start, len(content), 300_000)), **said)


def put(r2: S3, key: str, content: bytes, *, replace: bool = False, metadata: Mapping[str, str] | None = None) -> Any:
    return r2.put("objects", key, body(content, md5=md5(content)), metadata=metadata or {}, replace=replace)


def whole(r2: S3, key: str) -> bytes:
    return b"".join(r2.open("objects", key).chunks(0))


def rows(r2: S3, wanted: int = 1) -> list[dict[str, Any]]:
    return [
        row
        for part in r2.partitions("objects", wanted)
        for batch in r2.read(part, 10)
        for row in batch.table.to_pylist()
    ]


@pytest.mark.parametrize("content", [b"", b"small", BIG], ids=["empty", "small", "big"])
def test_what_is_put_is_there_exactly(r2: S3, content: bytes) -> None:
    stored = put(r2, "a/k", content, metadata={"origin": "ü"})
    assert (stored.size, stored.md5) == (len(content), md5(content))
    assert whole(r2, "a/k") == content
    found = r2.fetch("objects", pa.table({"key": ["a/k"]}), ["size", "md5"]).to_pylist()
    assert found == [{"key": "a/k", "size": len(content), "md5": md5(content)}]


def test_r2_takes_our_parts_and_refuses_parts_of_different_sizes(url: str, r2: S3) -> None:
    assert put(r2, "ours", BIG).md5 == md5(BIG)
    direct = client(url)
    given = {"Bucket": "files", "Key": "theirs"}
    given["UploadId"] = direct.create_multipart_upload(**given)["UploadId"]
    sent = [
        direct.upload_part(**given, PartNumber=number, Body=bytes(size * MIB))["ETag"]
        for number, size in enumerate((6, 5, 1), 1)
    ]
    told = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(sent, 1)]
    with pytest.raises(direct.exceptions.ClientError):
        direct.complete_multipart_upload(**given, MultipartUpload={"Parts": told})


@pytest.mark.parametrize("content", [b"other", BIG], ids=["small", "big"])
def test_what_is_there_is_only_replaced_when_asked_to(r2: S3, content: bytes) -> None:
    put(r2, "k", b"first")
    with pytest.raises(RejectedError) as caught:
        put(r2, "k", content)
    assert caught.value.reason == "exists"
    assert whole(r2, "k") == b"first"
    put(r2, "k", content, replace=True)
    assert whole(r2, "k") == content


def test_what_somebody_makes_at_the_last_moment_is_never_touched(url: str, r2: S3) -> None:
    pending = [True]

    def theirs(**given: Any) -> None:
        if pending and pending.pop():
            client(url).put_object(Bucket="files", Key="k", Body=b"theirs")

    r2._client.meta.events.register("before-call.s3.PutObject", theirs)
    with pytest.raises(RejectedError) as caught:
        put(r2, "k", b"ours")
    assert caught.value.reason == "exists"
    assert whole(r2, "k") == b"theirs"


def test_what_somebody_makes_while_a_large_body_comes_is_never_touched(url: str, r2: S3) -> None:
    def chunks(start: int) -> Iterator[bytes]:
        yield BIG[start:]
        client(url).put_object(Bucket="files", Key="k", Body=b"theirs")

    with pytest.raises(RejectedError) as caught:
        r2.put("objects", "k", Body(chunks), metadata={}, replace=False)
    assert caught.value.reason == "exists"
    assert whole(r2, "k") == b"theirs"


def test_r2_pays_no_heed_to_a_condition_when_an_upload_is_completed(url: str, r2: S3) -> None:
    """So between our last look and the end of a large upload somebody's object can be lost; see the guarantees."""
    direct = client(url)
    given = {"Bucket": "files", "Key": "k"}
    given["UploadId"] = direct.create_multipart_upload(**given)["UploadId"]
    etag = direct.upload_part(**given, PartNumber=1, Body=b"ours")["ETag"]
    direct.put_object(Bucket="files", Key="k", Body=b"theirs")
    parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    direct.complete_multipart_upload(**given, MultipartUpload=parts, IfNoneMatch="*")
    assert whole(r2, "k") == b"ours"


def test_a_body_that_is_not_what_it_says_leaves_nothing(r2: S3) -> None:
    for content in (b"small", BIG):
        with pytest.raises(RejectedError) as caught:
            r2.put("objects", "k", body(content, md5="0" * 32), metadata={}, replace=False)
        assert caught.value.reason == "changed"
    assert rows(r2) == []


@pytest.mark.parametrize("wanted", [1, 4])
def test_every_object_is_listed_once_with_its_size_and_md5(url: str, r2: S3, wanted: int) -> None:
    files = {f"{number % 3}/{number} ü+%.txt": f"{number}".encode() for number in range(35)}
    direct = client(url)
    for key, content in files.items():
        direct.put_object(Bucket="files", Key=key, Body=content)
    found = rows(r2, wanted)
    assert {row["key"]: (row["size"], row["md5"]) for row in found} == {
        key: (len(content), md5(content)) for key, content in files.items()
    }
    assert len(found) == len(files)
    keys = pa.table({"key": [*list(files)[:20], "none"]})
    assert r2.delete("objects", keys) == 20
    assert len(rows(r2)) == 15


def test_a_body_is_taken_up_from_any_byte_and_notices_a_change(r2: S3) -> None:
    put(r2, "k", BIG)
    found = r2.open("objects", "k")
    assert b"".join(found.chunks(len(BIG) - 10)) == BIG[-10:]
    put(r2, "k", BIG[::-1], replace=True)
    with pytest.raises(RejectedError) as caught:
        list(found.chunks(0))
    assert caught.value.reason == "changed"


def test_r2_cannot_list_unfinished_uploads_so_none_is_given_up_and_the_log_says_so(
    url: str, r2: S3, caplog: pytest.LogCaptureFixture
) -> None:
    direct = client(url)
    with pytest.raises(direct.exceptions.ClientError, match="NotImplemented"):
        direct.list_multipart_uploads(Bucket="files")
    with caplog.at_level("INFO", "resettle"):
        assert r2.abandon("objects") == 0
    assert "unfinished uploads cannot be listed here, and are left to the service" in caplog.messages


def test_a_wrong_secret_key_is_an_access_error(url: str, r2: S3) -> None:
    wrong = opened(url, secret_key="another")
    with pytest.raises(AccessError):
        wrong.schema("objects")


def test_a_bucket_that_is_not_there_is_a_config_error(url: str, r2: S3) -> None:
    with pytest.raises(ConfigError, match="no bucket"):
        opened(url, bucket="filez").schema("objects")
