"""S3 on this machine: moto's S3 in this process behind a door that checks the key and can go wrong as asked."""

from __future__ import annotations

import hashlib
import io
import itertools
import logging
import socket
import threading
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, urlencode

from resettle.errors import ConfigError

REGION = "us-east-1"
_NUMBERS = itertools.count(1)
_EMPTY = "resettle-empty:"
"""What the token of an injected empty page begins with; the true token follows."""

STATUS = {
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    429: "Too Many Requests",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}

Environ = dict[str, Any]
Respond = Callable[..., Any]


@dataclass
class Fault:
    """Something that goes wrong with the next ``times`` requests that fit: ``method``, and text in path or query.

    ``kind``: `status` (answers ``status``, ``code`` and Retry-After), `cut` (the connection breaks off in the middle
    of the answer), `lost` (it is done, but the answer never comes), `empty` (a page without objects, and a token).
    ``after`` requests that fit go well before that.
    """

    kind: str
    method: str = ""
    text: str = ""
    times: int = 1
    status: int = 503
    code: str = "SlowDown"
    retry_after: int | None = None
    after: int = 0

    def takes(self, environ: Environ) -> bool:
        """Whether this request is to go wrong; it is then counted."""
        asked = f"{environ['PATH_INFO']}?{environ.get('QUERY_STRING', '')}"
        if self.times < 1 or self.method not in ("", environ["REQUEST_METHOD"]) or self.text not in asked:
            return False
        if self.after:
            self.after -= 1
            return False
        self.times -= 1
        return True


@dataclass
class LocalS3:
    """A running end. Keys other than its own are refused; its buckets are not seen from another one."""

    endpoint: str
    access_key: str
    secret_key: str = field(default="sandbox-secret", repr=False)
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    """Method and path of every request since the start."""

    def settings(self, bucket: str, **more: Any) -> dict[str, Any]:
        """What a connection of type `s3` is told to reach a bucket here."""
        keys = {"access_key": self.access_key, "secret_key": self.secret_key}
        return {"bucket": bucket, "endpoint": self.endpoint, **keys, **more}

    def client(self) -> Any:
        """A boto3 client of this end."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )

    def load(self, bucket: str, files: Mapping[str, bytes] = MappingProxyType({})) -> None:
        """Make ``bucket`` if there is none, and put files into it."""
        client = self.client()
        client.create_bucket(Bucket=bucket)
        for key, body in files.items():
            client.put_object(Bucket=bucket, Key=key, Body=body)
        client.close()

    def fail(self, kind: str, **given: Any) -> Fault:
        """Let something go wrong, see `Fault`."""
        self.faults.append(Fault(kind, **given))
        return self.faults[-1]


@contextmanager
def start_s3() -> Iterator[LocalS3]:
    """Start an end, empty, on a free port of 127.0.0.1, and stop it. There may be several at once.

    Bucket names are one namespace for all ends of a process, as those of AWS are for all accounts.
    """
    try:
        from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
        from werkzeug.serving import make_server
    except ImportError:
        raise ConfigError("the sandbox needs moto", hint='pip install "resettle[sandbox]"') from None
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # one line for every request otherwise
    number = next(_NUMBERS)
    local = LocalS3("", f"SANDBOX{number:09}")
    door = _Door(create_backend_app("s3"), local, f"{number:012}")
    server = make_server("127.0.0.1", 0, door, threaded=True, request_handler=MotoRequestHandler)
    local.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield local
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        door.clear()


class _Door:
    """Stands before moto: checks the access key and the MD5 of what is sent, as moto does not, and lets things fail."""

    def __init__(self, inner: Respond, local: LocalS3, account: str) -> None:
        self._inner, self._local, self._account = inner, local, account
        self._lock = threading.Lock()

    def __call__(self, environ: Environ, start: Respond) -> Iterable[bytes]:
        environ["HTTP_X_MOTO_ACCOUNT_ID"] = self._account
        asked = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ.get('QUERY_STRING', '')}"
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        with self._lock:
            self._local.requests.append(asked)
            fault = next((one for one in self._local.faults if one.takes(environ)), None)
        refused = self._refused(environ, body)
        if refused:
            return _answer(environ, start, *refused)
        if fault is None:
            return self._inner(environ, _after_empty(environ, start))  # type: ignore[no-any-return]
        if fault.kind == "status":
            return _answer(environ, start, fault.status, fault.code, fault.retry_after)
        if fault.kind == "empty":
            return _empty_page(environ, start)
        whole = list(self._inner(environ, start))
        return _cut(environ, whole if fault.kind == "cut" else [])

    def _refused(self, environ: Environ, body: bytes) -> tuple[int, str] | None:
        if f"Credential={self._local.access_key}/" not in environ.get("HTTP_AUTHORIZATION", ""):
            return 403, "InvalidAccessKeyId"
        said = environ.get("HTTP_CONTENT_MD5")
        if said and said != b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode():
            return 400, "BadDigest"
        bucket = environ["PATH_INFO"].split("/")[1]
        makes = environ["REQUEST_METHOD"] == "PUT" and environ["PATH_INFO"].strip("/") == bucket
        return (404, "NoSuchBucket") if bucket and not makes and bucket not in self._buckets() else None

    def _buckets(self) -> dict[str, Any]:
        from moto.s3.models import s3_backends

        buckets: dict[str, Any] = s3_backends[self._account]["aws"].buckets
        return buckets

    def clear(self) -> None:
        """Give up what this end holds, and nothing of another's."""
        from moto.s3.models import FakeKey, s3_backends

        buckets = self._buckets()
        for name, bucket in list(buckets.items()):
            for one in [*bucket.keys.values(), *bucket.multiparts.values()]:
                if isinstance(one, FakeKey) or hasattr(one, "dispose"):
                    one.dispose()
            s3_backends.bucket_accounts.pop(name, None)
            del buckets[name]


def _answer(
    environ: Environ, start: Respond, status: int, code: str, retry_after: int | None = None
) -> Iterable[bytes]:
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'.encode()
    head = environ["REQUEST_METHOD"] == "HEAD"
    after = [("Retry-After", str(retry_after))] if retry_after is not None else []
    start(f"{status} {STATUS.get(status, 'Error')}", [("Content-Length", str(len(body))), *after])
    return [] if head else [body]


def _cut(environ: Environ, whole: list[bytes]) -> Iterator[bytes]:
    """Half of an answer, then the end of the connection; nothing at all of an empty one."""
    body = b"".join(whole)
    if body:
        yield body[: len(body) // 2]
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    yield b""


def _empty_page(environ: Environ, start: Respond) -> Iterable[bytes]:
    """A page without objects that is not the last one."""
    token = parse_qs(environ.get("QUERY_STRING", "")).get("continuation-token", [""])[0].removeprefix(_EMPTY)
    body = (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><IsTruncated>true</IsTruncated><KeyCount>0</KeyCount>'
        f"<NextContinuationToken>{_EMPTY}{token}</NextContinuationToken></ListBucketResult>"
    ).encode()
    start("200 OK", [("Content-Length", str(len(body))), ("Content-Type", "application/xml")])
    return [body]


def _after_empty(environ: Environ, start: Respond) -> Respond:
    """Turns the token of an injected empty page back into the true one."""
    asked = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    token = asked.get("continuation-token", [""])[0]
    if token.startswith(_EMPTY):
        asked["continuation-token"] = [token.removeprefix(_EMPTY)]
        if token == _EMPTY:
            del asked["continuation-token"]
        environ["QUERY_STRING"] = urlencode(asked, doseq=True)
        for name in ("REQUEST_URI", "RAW_URI"):
            environ[name] = f"{environ[name].partition('?')[0]}?{environ['QUERY_STRING']}"
    return start
