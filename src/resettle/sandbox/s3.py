"""S3 on this machine: moto's S3 in this process behind a door that checks the key and can go wrong as asked."""

from __future__ import annotations

import hashlib
import itertools
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, urlencode

from resettle.errors import ConfigError
from resettle.sandbox._door import Behind, Door, Environ, Fault, Respond, said, served

__all__ = ["REGION", "Fault", "LocalS3", "start_s3"]

REGION = "us-east-1"
_NUMBERS = itertools.count(1)
_EMPTY = "resettle-empty:"
"""What the token of an injected page begins with; the true token follows."""
_XML = b'<?xml version="1.0" encoding="UTF-8"?>'


@dataclass
class LocalS3(Behind):
    """A running end. Keys other than its own are refused; its buckets are not seen from another one."""

    endpoint: str
    number: int
    """Of this end among those of the process."""
    secret_key: str = field(default="sandbox-secret", repr=False)

    @property
    def access_key(self) -> str:
        return f"SANDBOX{self.number:09}"

    def named(self, bucket: str) -> str:
        """A bucket's name that no other end of the process has: names are one namespace for all of them."""
        return f"{bucket}-{self.number}"

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


@contextmanager
def start_s3() -> Iterator[LocalS3]:
    """Start an end, empty, on a free port of 127.0.0.1, and stop it. There may be several at once.

    Bucket names are one namespace for all ends of a process, as those of AWS are for all accounts.
    """
    try:
        from moto.moto_server.werkzeug_app import create_backend_app
    except ImportError:
        raise ConfigError("the sandbox needs moto", hint='pip install "resettle[sandbox]"') from None
    number = next(_NUMBERS)
    local = LocalS3("", number)
    door = _Door(create_backend_app("s3"), local, f"{number:012}")
    try:
        with served(door) as local.endpoint:
            yield local
    finally:
        door.clear()


class _Door(Door):
    """Checks the access key and the MD5 of what is sent, as moto does not."""

    def __init__(self, inner: Respond, local: LocalS3, account: str) -> None:
        super().__init__(inner, local)
        self._key, self._account = local.access_key, account

    def asked(self, environ: Environ, body: bytes) -> str:
        environ["HTTP_X_MOTO_ACCOUNT_ID"] = self._account
        return f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ.get('QUERY_STRING', '')}"

    def _refused(self, environ: Environ, body: bytes) -> tuple[int, str] | None:
        if f"Credential={self._key}/" not in environ.get("HTTP_AUTHORIZATION", ""):
            return 403, "InvalidAccessKeyId"
        said = environ.get("HTTP_CONTENT_MD5")
        if said and said != b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode():
            return 400, "BadDigest"
        bucket = environ["PATH_INFO"].split("/")[1]
        makes = environ["REQUEST_METHOD"] == "PUT" and environ["PATH_INFO"].strip("/") == bucket
        return (404, "NoSuchBucket") if bucket and not makes and bucket not in self._buckets() else None

    def answer(
        self, environ: Environ, start: Respond, status: int, code: str, retry_after: int | None = None
    ) -> Iterable[bytes]:
        body = _XML + f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        whole = said(start, status, body, "application/xml", retry_after)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else whole

    def empty_page(self, environ: Environ, start: Respond, body: bytes) -> Iterable[bytes]:
        page = "<ListBucketResult><IsTruncated>true</IsTruncated><KeyCount>0</KeyCount>"
        page += f"<NextContinuationToken>{_EMPTY}{_token(environ)}</NextContinuationToken></ListBucketResult>"
        return said(start, 200, _XML + page.encode(), "application/xml")

    def after_empty(self, environ: Environ, body: bytes) -> bytes:
        asked = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        if asked.get("continuation-token", [""])[0].startswith(_EMPTY):
            asked["continuation-token"] = [_token(environ)]
            if not _token(environ):
                del asked["continuation-token"]
            environ["QUERY_STRING"] = urlencode(asked, doseq=True)
            for name in ("REQUEST_URI", "RAW_URI"):
                environ[name] = f"{environ[name].partition('?')[0]}?{environ['QUERY_STRING']}"
        return body

    def page_again(self, environ: Environ, answer: bytes) -> bytes:
        # after_empty() has put the true token into the query, which leads to this page.
        more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{_EMPTY}{_token(environ)}"
        rest = re.sub(rb"<(IsTruncated|NextContinuationToken)>[^<]*</\1>", b"", answer)
        return rest.replace(b"</ListBucketResult>", f"{more}</NextContinuationToken></ListBucketResult>".encode())

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


def _token(environ: Environ) -> str:
    """The true token that a listing goes on from."""
    asked = parse_qs(environ.get("QUERY_STRING", ""))
    return str(asked.get("continuation-token", [""])[0]).removeprefix(_EMPTY)
