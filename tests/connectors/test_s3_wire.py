"""What goes past boto3: signatures, bodies that are sent on as they come in, and what is seen of a service first."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.httpsession import URLLib3Session

from resettle.calls import Caller
from resettle.connector import Body
from resettle.connectors._s3_wire import Wire
from resettle.connectors.s3 import S3, S3Settings, errors
from resettle.errors import AccessError, RejectedError, TransientError
from resettle.sandbox.s3 import LocalS3, start_s3

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
MANY = bytes(range(256)) * (3 << 12)  # 3 MiB: a dozen pieces


@pytest.fixture
def end() -> Iterator[LocalS3]:
    with start_s3() as local:
        local.load("bkt")
        yield local


@pytest.fixture
def s3(end: LocalS3) -> Iterator[S3]:
    made = opened(end)
    yield made
    made.close()


def opened(end: LocalS3, **more: Any) -> S3:
    caller = Caller(lambda error: errors(error, "s3"), sleep=lambda seconds: None)
    return S3("s3", S3Settings(**end.settings("bkt")), caller=caller, **more)


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def body(content: bytes, **said: Any) -> Body:
    """In pieces, with its size and MD5, unless something else is said."""
    said = {"size": len(content), "md5": md5(content), **said}
    return Body(lambda start: (content[at : at + 300_000] for at in range(start, len(content), 300_000)), **said)


def put(s3: S3, key: str, content: bytes, *, replace: bool = False, **said: Any) -> Any:
    return s3.put("objects", key, body(content, **said), metadata={}, replace=replace)


def whole(s3: S3, key: str) -> bytes:
    return b"".join(s3.open("objects", key).chunks(0))


def listed(s3: S3) -> list[str]:
    (part,) = s3.partitions("objects", 1)
    return [key for batch in s3.read(part, 1000) for key in batch.table["key"].to_pylist()]


def asked(end: LocalS3, key: str) -> list[str]:
    """The verbs of all requests about one object."""
    return [one.split()[0] for one in end.requests if one.endswith(f"/{key}?")]


@pytest.mark.parametrize("key", ["plain", "ü/日本 語", "a+b %20 ~x", "q?a=b&c#d", "x//y/"])
@pytest.mark.parametrize("token", [None, "a-token"])
def test_a_request_is_signed_as_botocore_signs_it(end: LocalS3, key: str, token: str | None) -> None:
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    s3 = opened(end, clock=lambda: NOON)
    s3.schema("objects")
    wire = s3._bucket.client
    wire._credentials = Credentials("KEY", "secret/+x", token)
    sent: list[Any] = []
    wire._sent = lambda place, request: sent.append(request) or _Answer()
    given = {"Metadata": {"origin": "a  b"}, "ContentType": "audio/mpeg", "IfNoneMatch": "*", "ContentMD5": "x=="}
    wire.put_object(Bucket="bkt", Key=key, Body=b"content", **given)
    (request,) = sent
    plain = {name: value for name, value in request.headers.items() if name not in _ADDED}
    theirs = AWSRequest("PUT", request.url, plain, b"content")
    theirs.context |= {"client_config": wire._client.meta.config, "timestamp": "20261120T120000Z"}
    theirs.headers["X-Amz-Content-SHA256"] = "UNSIGNED-PAYLOAD"
    theirs.headers["X-Amz-Date"] = "20261120T120000Z"
    if token:
        theirs.headers["X-Amz-Security-Token"] = token
    auth = S3SigV4Auth(wire._credentials, "s3", "us-east-1")
    auth.payload = lambda request: "UNSIGNED-PAYLOAD"  # type: ignore[method-assign]
    text = auth.string_to_sign(theirs, auth.canonical_request(theirs))
    assert request.headers["authorization"].endswith(f"Signature={auth.signature(text, theirs)}")
    assert f"SignedHeaders={auth.signed_headers(auth.headers_to_sign(theirs))}," in request.headers["authorization"]


_ADDED = {"authorization", "user-agent", "host", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"} | {
    "content-length"
}


class _Answer:
    status = 200

    class headers:  # noqa: N801
        @staticmethod
        def iteritems() -> Iterator[tuple[str, str]]:
            return iter([("ETag", '"x"')])

    @staticmethod
    def read() -> bytes:
        return b""


@pytest.mark.parametrize("proxied", [False, True])
def test_requests_go_out_by_the_connections_of_boto3(
    end: LocalS3, s3: S3, monkeypatch: pytest.MonkeyPatch, proxied: bool
) -> None:
    """Where a proxy is between, boto3 itself sends them."""
    if proxied:
        monkeypatch.setattr(Wire, "_pool", lambda self, url: None)
    passed: list[str] = []
    send = URLLib3Session.send
    monkeypatch.setattr(URLLib3Session, "send", lambda self, request: passed.append(request.url) or send(self, request))
    assert put(s3, "k", MANY).md5 == md5(MANY)
    assert whole(s3, "k") == MANY
    with pytest.raises(RejectedError, match="gone"):
        whole(s3, "absent")
    assert asked(end, "k") == ["HEAD", "PUT", "PUT", "HEAD", "GET"], (
        "the second one is refused, and nothing is looked at"
    )
    assert any(url.endswith("/k") for url in passed) is proxied


def test_a_listed_object_is_copied_in_two_requests(end: LocalS3, s3: S3) -> None:
    with start_s3() as other:
        other.load("away", {f"{number}": b"content" * number for number in range(1, 5)})
        source = S3("away", S3Settings(**other.settings("away", readonly=True)))
        keys = listed(source)
        other.requests.clear()
        for key in keys:
            s3.put("objects", key, source.open("objects", key), metadata={}, replace=False)
        assert [asked(other, key) for key in keys] == [["GET"]] * 4
        assert [asked(end, key) for key in keys] == [["HEAD", "PUT", "PUT"], ["PUT"], ["PUT"], ["PUT"]]
        assert all(whole(s3, key) == b"content" * int(key) for key in keys)


def test_a_listed_object_keeps_its_content_type(end: LocalS3, s3: S3) -> None:
    put(s3, "k", b"content", content_type="audio/mpeg")
    assert listed(s3) == ["k"]
    assert s3.open("objects", "k").content_type == "audio/mpeg"


def test_an_object_that_changed_since_it_was_listed_is_looked_at(end: LocalS3, s3: S3) -> None:
    put(s3, "k", b"before")
    assert listed(s3) == ["k"]
    put(s3, "k", b"after!", replace=True)
    found = s3.open("objects", "k")
    assert found.md5 == md5(b"after!")
    assert b"".join(found.chunks(0)) == b"after!"


def test_an_object_that_is_gone_since_it_was_listed_is_gone(end: LocalS3, s3: S3) -> None:
    put(s3, "k", b"before")
    assert listed(s3) == ["k"]
    end.client().delete_object(Bucket="bkt", Key="k")
    with pytest.raises(RejectedError, match="gone"):
        s3.open("objects", "k")


def test_a_body_that_was_opened_can_be_read_twice(end: LocalS3, s3: S3) -> None:
    put(s3, "k", MANY)
    assert listed(s3) == ["k"]
    found = s3.open("objects", "k")
    assert b"".join(found.chunks(0)) == b"".join(found.chunks(0)) == MANY
    assert b"".join(found.chunks(1000)) == MANY[1000:]


@pytest.mark.parametrize("checks", [True, False], ids=["the service checks", "the service does not"])
@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("said", [{"md5": "0" * 32}, {"size": len(MANY) + 1}, {"size": len(MANY) - 1}], ids=str)
def test_a_body_sent_on_as_it_comes_changes_nothing_where_it_is_not_what_it_says(
    end: LocalS3, s3: S3, monkeypatch: pytest.MonkeyPatch, checks: bool, there: bool, said: Mapping[str, Any]
) -> None:
    put(s3, "first", b"content")
    if not checks:  # such a service would keep it
        monkeypatch.setattr("resettle.sandbox.s3._Door._refused", lambda *_: None)
    if there:
        put(s3, "k", b"ours")
    with pytest.raises(RejectedError) as caught:
        put(s3, "k", MANY, replace=there, **said)
    assert caught.value.reason == "changed"
    assert listed(s3) == (["first", "k"] if there else ["first"])
    assert not there or whole(s3, "k") == b"ours"


def test_a_service_that_ignores_the_condition_overwrites_nothing_that_is_there(end: LocalS3, s3: S3) -> None:
    send = s3._bucket.client.put_object

    def ignores(**given: Any) -> Any:
        return send(**{name: value for name, value in given.items() if name != "IfNoneMatch"})

    s3._bucket.client.put_object = ignores
    end.load("bkt", {"k": b"theirs"})
    with pytest.raises(RejectedError, match="exists"):
        put(s3, "k", b"ours")
    assert whole(s3, "k") == b"theirs"


@pytest.mark.parametrize("etag", ["f" * 32, None])
def test_an_answer_that_does_not_say_the_md5_is_not_enough(
    end: LocalS3, s3: S3, monkeypatch: pytest.MonkeyPatch, etag: str | None
) -> None:
    put(s3, "first", b"content")
    send = s3._bucket.client.put_object

    def keeps_wrongly(**given: Any) -> Any:
        answer = send(**given) | {"ETag": etag}
        if etag:
            answer["ETag"] = end.client().put_object(Bucket="bkt", Key="k", Body=b"wrong")["ETag"]
        return answer

    s3._bucket.client.put_object = keeps_wrongly
    if etag is None:
        assert put(s3, "k", MANY).etag == md5(MANY)
        assert asked(end, "k") == ["PUT", "HEAD"]
        return
    with pytest.raises(RejectedError, match="changed"):
        put(s3, "k", MANY)
    assert listed(s3) == ["first"]


def test_a_folder_that_the_service_does_not_keep_is_noticed(end: LocalS3, s3: S3) -> None:
    send = s3._bucket.client.put_object

    def keeps_nothing(**given: Any) -> Any:
        answer = send(**given)
        end.client().delete_object(Bucket="bkt", Key=given["Key"])
        return answer

    s3._bucket.client.put_object = keeps_nothing
    with pytest.raises(RejectedError, match="changed"):
        put(s3, "folder/", b"content")
    assert listed(s3) == []


@pytest.mark.parametrize("wrong", [False, True])
def test_bytes_that_nobody_hashed_are_read_again(
    end: LocalS3, s3: S3, monkeypatch: pytest.MonkeyPatch, wrong: bool
) -> None:
    """A service whose ETags were MD5s, and are something else from some object on."""
    put(s3, "first", b"content")
    send, look = s3._bucket.client.put_object, s3._bucket.look

    def looks(key: str) -> Any:
        found = look(key)
        return found and replace(found, etag="another-form", md5=None)

    s3._bucket.client.put_object = lambda **given: send(**given) | {"ETag": '"another-form"'}
    monkeypatch.setattr(s3._bucket, "look", looks)
    get = s3._bucket.get
    monkeypatch.setattr(s3._bucket, "get", lambda key, start, etag: get(key, start, None))
    if wrong:  # and so does what it keeps
        stream = s3._bucket.stream
        monkeypatch.setattr(s3._bucket, "stream", lambda answer: (bytes(len(piece)) for piece in stream(answer)))
        with pytest.raises(RejectedError, match="changed"):
            put(s3, "k", MANY)
        return
    assert put(s3, "k", MANY).md5 == md5(MANY)
    assert asked(end, "k") == ["PUT", "HEAD", "GET"]
    assert put(s3, "next", MANY).md5 == md5(MANY)
    assert asked(end, "next") == ["PUT", "HEAD"], "from now on bytes are hashed as they pass"


def test_what_somebody_makes_after_our_look_stays(end: LocalS3, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    end.load("bkt", {"k": b"theirs"})
    with monkeypatch.context() as patched:
        patched.setattr(s3._bucket, "look", lambda key: None)
        with pytest.raises(RejectedError):
            put(s3, "k", MANY)
    assert whole(s3, "k") == b"theirs"


@pytest.mark.parametrize("content", [MANY, b"another"])
def test_a_key_that_is_taken_is_refused_by_the_service_alone(end: LocalS3, s3: S3, content: bytes) -> None:
    """Also where it holds the very bytes: somebody else's file is not ours."""
    put(s3, "first", b"content")
    end.load("bkt", {"k": content})
    end.requests.clear()
    with pytest.raises(RejectedError, match="exists"):
        put(s3, "k", MANY)
    assert asked(end, "k") == ["PUT"]
    assert whole(s3, "k") == content


@pytest.mark.parametrize("refuses", [False, True])
def test_an_answer_that_was_lost_is_not_taken_for_somebody_elses_object(end: LocalS3, s3: S3, refuses: bool) -> None:
    put(s3, "first", b"content")
    s3._uploads._refuses = refuses
    send, lost = s3._bucket.client.put_object, []

    def loses(**given: Any) -> Any:
        answer = send(**given)
        if not lost:
            lost.append(given["Key"])
            raise TransientError("the answer is lost")
        return answer

    s3._bucket.client.put_object = loses
    assert put(s3, "k", MANY).md5 == md5(MANY)
    assert lost == ["k"]
    assert whole(s3, "k") == MANY


def test_where_a_service_takes_no_notice_of_the_condition_each_key_is_looked_at(end: LocalS3, s3: S3) -> None:
    send = s3._bucket.client.put_object
    s3._bucket.client.put_object = lambda IfNoneMatch=None, **given: send(**given)  # noqa: N803
    assert put(s3, "first", b"content").md5 == md5(b"content")
    assert whole(s3, "first") == b"content", "the same bytes were sent twice"
    end.load("bkt", {"k": b"theirs"})
    for _ in range(2):
        with pytest.raises(RejectedError, match="exists"):
            put(s3, "k", MANY)
    assert whole(s3, "k") == b"theirs"


def test_whether_keys_are_refused_is_tried_once(end: LocalS3, s3: S3) -> None:
    def fails(**given: Any) -> Any:
        if "IfNoneMatch" in given and given["Key"] in made:
            raise AccessError("no")
        made.append(given["Key"])
        return send(**given)

    send, made = s3._bucket.client.put_object, list[str]()
    s3._bucket.client.put_object = fails
    for key in ("one", "two"):
        assert put(s3, key, MANY).md5 == md5(MANY)
    assert [asked(end, key) for key in ("one", "two")] == [["HEAD", "PUT"], ["HEAD", "PUT"]]


def test_what_is_damaged_on_its_way_is_hashed_and_sent_again(end: LocalS3, s3: S3) -> None:
    put(s3, "first", b"content")
    sent, damaged = s3._bucket.client._sent, []

    def damages(place: Any, request: Any) -> Any:
        if request.method == "PUT" and not damaged:
            damaged.append(request.url)
            request.body = bytes(len(MANY))
        return sent(place, request)

    s3._bucket.client._sent = damages
    assert put(s3, "k", MANY).md5 == md5(MANY)
    assert damaged
    assert whole(s3, "k") == MANY


def test_a_source_that_cannot_be_read_to_its_end_is_tried_as_often_as_any_call(end: LocalS3, s3: S3) -> None:
    put(s3, "first", b"content")
    calls = 0

    def chunks(start: int) -> Iterator[bytes]:
        nonlocal calls
        calls += 1
        if start == 0:
            yield MANY[:300_000]
        raise TransientError("cut")

    with pytest.raises(TransientError, match="cut"):
        s3.put("objects", "k", Body(chunks, len(MANY), md5(MANY)), metadata={}, replace=False)
    assert calls <= 9
    assert listed(s3) == ["first"]


def test_what_stops_a_body_leaves_nothing(end: LocalS3, s3: S3) -> None:
    class Interrupted(BaseException):
        pass

    put(s3, "first", b"content")
    for cause in (ValueError("broken"), Interrupted()):

        def chunks(start: int, cause: BaseException = cause) -> Iterator[bytes]:
            yield MANY[: len(MANY) // 2]
            raise cause

        with pytest.raises(type(cause)):
            s3.put("objects", "k", Body(chunks, len(MANY), md5(MANY)), metadata={}, replace=False)
    assert listed(s3) == ["first"]
    assert put(s3, "k", MANY).size == len(MANY)


def test_a_bucket_that_moved_is_followed_by_boto3(end: LocalS3, s3: S3) -> None:
    put(s3, "k", b"content")
    end.fail("status", method="HEAD", text="/k?", status=307, code="TemporaryRedirect")
    assert whole(s3, "k") == b"content"
    assert not s3._bucket.client.streams
    assert put(s3, "other", MANY).md5 == md5(MANY)
    assert whole(s3, "other") == MANY


def test_without_credentials_nothing_is_signed_here(end: LocalS3) -> None:
    s3 = S3("s3", S3Settings(bucket="bkt", endpoint=end.endpoint), client=end.client())
    s3.schema("objects")
    assert not s3._bucket.client.streams
    assert put(s3, "k", MANY).md5 == md5(MANY)
