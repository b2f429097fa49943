"""The three requests that move bytes, signed and sent without boto3's machinery, which takes longer than they do.

boto3 says where a bucket is and how it is reached: its last listing of it is looked at as it leaves. Until then, and
wherever that was no plain request of AWS signature 4, all goes through boto3. The transport (connections, TLS,
proxies, time-outs) is always boto3's own; exceptions are boto3's or urllib3's.
"""

from __future__ import annotations

import email.utils
import hashlib
import hmac
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit

from resettle.errors import TransientError

EMPTY = hashlib.sha256().hexdigest()
UNSIGNED = "UNSIGNED-PAYLOAD"
"""A body is vouched for by its MD5, which is signed."""

MOST = 100 << 20
"""Bytes of the largest body that goes in one request while it still comes in: it starts anew if that fails."""

_CREDENTIAL = re.compile(r"AWS4-HMAC-SHA256 Credential=[^/]+/\d{8}/([^/]+)/s3/aws4_request,")
_CODE = re.compile(rb"<Code>([^<]*)</Code>")
_MOVED = frozenset({301, 302, 307, 308})
_PLAIN = re.compile("[ -~]*")
_META = "x-amz-meta-"
_WORDS = {
    "content-type": "ContentType",
    "x-amz-server-side-encryption": "ServerSideEncryption",
    "x-amz-server-side-encryption-customer-algorithm": "SSECustomerAlgorithm",
}


class BrokenOffError(Exception):
    """A body could not be read to its end while it was being sent; ``cause`` is why."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass
class Request:
    """What boto3's transport wants to know of a request."""

    method: str
    url: str
    headers: dict[str, str]
    body: Any = None
    stream_output: bool = True
    context: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where a bucket is: the URL that keys are added to, the region that requests are signed for, and boto3's own pool
    of connections to there, unless a proxy stands between."""

    url: str
    region: str
    pool: Any


class Wire:
    """boto3's client for one bucket, whose `head_object`, `get_object` and `put_object` are ours.

    They take and give what boto3's do, as far as it is used here, and raise what boto3's would. From many threads.
    ``Body`` of `put_object` may also be an iterable of pieces, where `streams` says so; it is read again for every
    call. All other verbs are the client's.
    """

    def __init__(self, client: Any, credentials: Any, bucket: str, clock: Callable[[], datetime]) -> None:
        self._client, self._credentials, self._name, self._clock = client, credentials, bucket, clock
        self._session: Any = getattr(getattr(client, "_endpoint", None), "http_session", None)
        self._place: Place | None = None
        self._keys: dict[tuple[str, str, str], bytes] = {}
        self._lock = threading.Lock()
        if credentials is not None and self._session is not None:
            client.meta.events.register("before-send.s3.ListObjectsV2", self._learn)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    @property
    def streams(self) -> bool:
        """Whether requests are sent from here; else by boto3, whose bodies are bytes."""
        return self._place is not None

    def head_object(self, **given: Any) -> Mapping[str, Any]:
        if self._place is None:
            return self._client.head_object(**given)  # type: ignore[no-any-return]
        return _described(self._send("HeadObject", "HEAD", given["Key"], {}))

    def get_object(self, **given: Any) -> Mapping[str, Any]:
        from botocore.response import StreamingBody

        if self._place is None:
            return self._client.get_object(**given)  # type: ignore[no-any-return]
        headers = {name: given[key] for key, name in (("Range", "range"), ("IfMatch", "if-match")) if key in given}
        answer = self._send("GetObject", "GET", given["Key"], headers)
        return _described(answer) | {"Body": StreamingBody(answer, answer.headers.get("content-length"))}

    def put_object(self, **given: Any) -> Mapping[str, Any]:
        body = given["Body"]
        if self._place is None or not _PLAIN.fullmatch(given.get("ContentType", "")):
            whole = body if isinstance(body, bytes) else b"".join(body)
            return self._client.put_object(**given | {"Body": whole})  # type: ignore[no-any-return]
        size = len(body) if isinstance(body, bytes) else given["ContentLength"]
        headers = {"content-length": str(size), "content-md5": given["ContentMD5"]}
        headers |= {"content-type": given["ContentType"]} if "ContentType" in given else {}
        headers |= {"if-none-match": given["IfNoneMatch"]} if "IfNoneMatch" in given else {}
        headers |= {f"{_META}{name}": value for name, value in given.get("Metadata", {}).items()}
        broke: list[Exception] = []
        try:
            sent = body if isinstance(body, bytes) else _watched(body, broke)
            return _described(self._send("PutObject", "PUT", given["Key"], headers, sent))
        except Exception:
            if broke:
                raise BrokenOffError(broke[0]) from None
            raise

    def _send(self, operation: str, method: str, key: str, headers: dict[str, str], body: Any = None) -> Any:
        place = self._place
        assert place is not None
        url = place.url + quote(key, safe="/~")
        payload = EMPTY if body is None else UNSIGNED
        answer = self._sent(place, Request(method, url, self._signed(place, method, url, headers, payload), body))
        if method == "GET" and answer.status < 300:
            return answer
        said = answer.read()  # to its end, so that the connection is free
        if answer.status in _MOVED:
            self._place = None  # boto3 follows
            raise TransientError("the bucket is somewhere else")
        if answer.status >= 300:
            raise _error(answer, said, operation)
        return answer

    def _sent(self, place: Place, request: Request) -> Any:
        """urllib3's answer, its body not yet read."""
        if place.pool is None:
            return self._session.send(request).raw
        return place.pool.urlopen(
            request.method,
            request.url.removeprefix(f"{place.pool.scheme}://{request.headers['host']}"),
            request.body,
            request.headers,
            retries=False,
            assert_same_host=False,
            preload_content=False,
            decode_content=False,
            enforce_content_length=False,  # whoever reads the body counts
        )

    def _signed(self, place: Place, method: str, url: str, headers: dict[str, str], payload: str) -> dict[str, str]:
        """The headers, with those of AWS signature 4."""
        key = self._credentials.get_frozen_credentials()
        stamp = self._clock().astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
        parts = urlsplit(url)
        signed = headers | {"host": parts.netloc, "x-amz-content-sha256": payload, "x-amz-date": stamp}
        signed |= {"x-amz-security-token": key.token} if key.token else {}
        names = sorted(name for name in signed if name != "content-length")
        lines = [f"{name}:{' '.join(signed[name].split())}" for name in names]
        listed = ";".join(names)
        canonical = "\n".join([method, parts.path, parts.query, *lines, "", listed, payload])
        scope = f"{stamp[:8]}/{place.region}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(self._key(key.secret_key, stamp[:8], place.region), text.encode(), "sha256").hex()
        told = f"Credential={key.access_key}/{scope}, SignedHeaders={listed}, Signature={signature}"
        agent = str(self._client.meta.config.user_agent)
        return signed | {"user-agent": agent, "authorization": f"AWS4-HMAC-SHA256 {told}"}

    def _key(self, secret: str, day: str, region: str) -> bytes:
        """The day's signing key, made once."""
        known = self._keys.get((secret, day, region))
        if known is None:
            known = f"AWS4{secret}".encode()
            for word in (day, region, "s3", "aws4_request"):
                known = hmac.digest(known, word.encode(), "sha256")
            with self._lock:
                self._keys = {(secret, day, region): known}
        return known

    def _learn(self, request: Any, **_: Any) -> None:
        """From a listing that boto3 is about to send, to wherever the bucket turned out to be."""
        said = request.headers.get("Authorization", "")
        found = _CREDENTIAL.match(said.decode() if isinstance(said, bytes) else said)
        parts = urlsplit(request.url)
        if found is None:
            self._place = None
            return
        self._place = Place(
            f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}/", found[1], self._pool(request.url)
        )

    def _pool(self, url: str) -> Any:
        """The connections that boto3 itself is about to use, with its TLS and its time-outs."""
        proxies, manager = (getattr(self._session, name, None) for name in ("_proxy_config", "_manager"))
        if proxies is None or manager is None or proxies.proxy_url_for(url):
            return None
        return manager.connection_from_url(url)


def _watched(body: Iterable[bytes], broke: list[Exception]) -> Iterator[bytes]:
    """The pieces; what ends them too early is kept, as the transport would take it for its own trouble."""
    try:
        yield from body
    except Exception as error:
        broke.append(error)
        raise


def _described(answer: Any) -> dict[str, Any]:
    """What the headers say, in boto3's words."""
    headers = {name.lower(): value for name, value in answer.headers.iteritems()}
    said: dict[str, Any] = {
        "ETag": headers.get("etag"),
        "ContentLength": int(headers.get("content-length") or 0),
        "Metadata": {name[len(_META) :]: value for name, value in headers.items() if name.startswith(_META)},
    }
    if modified := headers.get("last-modified"):
        said["LastModified"] = email.utils.parsedate_to_datetime(modified)
    return said | {word: headers[name] for name, word in _WORDS.items() if name in headers}


def _error(answer: Any, said: bytes, operation: str) -> Exception:
    """The ClientError that boto3 would make of an answer: its code from the body, or the status where it has none."""
    from botocore.exceptions import ClientError

    found = _CODE.search(said)
    code = found[1].decode(errors="replace") if found else str(answer.status)
    headers = {name.lower(): value for name, value in answer.headers.iteritems()}
    metadata = {"HTTPStatusCode": answer.status, "HTTPHeaders": headers}
    error: Exception = ClientError({"Error": {"Code": code, "Message": ""}, "ResponseMetadata": metadata}, operation)
    return error
