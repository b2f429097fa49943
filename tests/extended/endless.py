"""An S3 server whose objects are made up as they are read, and of which only checksums are kept as they are written."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from resettle.sandbox.drive import _pieces
from tests.extended.large import serving

_DAY = "2026-11-20T00:00:00.000Z"
_MODIFIED = "Fri, 20 Nov 2026 00:00:00 GMT"
_HEAD = '<?xml version="1.0"?>'
_LAST = chr(0x10FFFF)
_RANGE = re.compile(r"bytes=(\d+)-")
PIECE = 1 << 18
FOLDER = 1_000
"""Files of one folder."""


class Made(Sequence[str]):
    """The keys of a bucket, in order, none of which is kept."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(self._count))]
        if not 0 <= at < self._count:
            raise IndexError(at)
        return f"{at // FOLDER:05}/recording {at:08}.mp3"


@dataclass
class Written:
    """An object that was written: its size, MD5 and ETag, and the sizes of its parts."""

    size: int
    md5: str
    etag: str
    parts: tuple[int, ...] = ()
    told: dict[str, str] = field(default_factory=dict)


@dataclass
class Endless:
    """A running server; in the bucket `old` each of ``keys`` has ``size`` bytes. All else is written to it."""

    keys: Sequence[str]
    size: int
    url: str = ""
    also: frozenset[str] = frozenset()
    """Buckets that have the same keys as `old`."""
    written: dict[str, Written] = field(default_factory=dict)
    """By bucket and key."""
    uploads: dict[str, Upload] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    asked: int = 0
    """Requests."""

    def etag(self, at: int) -> str:
        """As of an object in parts, if it is large: not the MD5 of its bytes, which nobody knows beforehand."""
        plain = hashlib.md5(str(at).encode(), usedforsecurity=False).hexdigest()
        return plain if self.size < 5_000_000 else f"{plain}-7"


class Upload:
    """Parts of an upload, hashed as they come; they come one after the other."""

    def __init__(self, told: dict[str, str]) -> None:
        self.whole = hashlib.md5(usedforsecurity=False)
        self.sums: list[bytes] = []
        self.sizes: list[int] = []
        self.told = told


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing: one line for every request otherwise."""

    @property
    def store(self) -> Endless:
        with self.server.store.lock:  # type: ignore[attr-defined]
            self.server.store.asked += 1  # type: ignore[attr-defined]
        return self.server.store  # type: ignore[attr-defined, no-any-return]

    def _place(self) -> tuple[str, str, dict[str, str]]:
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).strip("/").partition("/")
        query = parse_qs(parts.query, keep_blank_values=True)
        return bucket, key, {name: values[0] for name, values in query.items()}

    def do_GET(self) -> None:
        bucket, key, query = self._place()
        store = self.store
        if "uploads" in query:
            self._xml("<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>")
        elif not key:
            self._list(store, bucket, query)
        else:
            at = self._made(store, bucket, key)
            if at is None:
                self._answer(404)
                return
            found = _RANGE.match(self.headers.get("Range", ""))
            start = int(found[1]) if found else 0
            headers = {"ETag": f'"{store.etag(at)}"', "Last-Modified": _MODIFIED}
            self._begin(206 if found else 200, {"Content-Length": str(store.size - start), **headers})
            for piece in _pieces(store.size, start, store.size):
                self.wfile.write(piece)

    def do_HEAD(self) -> None:
        bucket, key, _ = self._place()
        store = self.store
        at = self._made(store, bucket, key) if key else None
        there = store.written.get(f"{bucket}/{key}")
        if not key:
            self._answer(200)
        elif at is not None:
            size = str(store.size)
            self._answer(200, {"Content-Length": size, "ETag": f'"{store.etag(at)}"', "Last-Modified": _MODIFIED})
        elif there is not None:
            headers = {"Content-Length": str(there.size), "ETag": f'"{there.etag}"', "Last-Modified": _MODIFIED}
            self._answer(200, headers | there.told)
        else:
            self._answer(404)

    def do_POST(self) -> None:
        bucket, key, query = self._place()
        store, path = self.store, f"{bucket}/{key}"
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "uploads" in query:
            told = {name: value for name, value in self.headers.items() if name.lower().startswith("x-amz-meta-")}
            with store.lock:
                name = f"upload-{len(store.uploads)}"
                store.uploads[name] = Upload(told)
            self._xml(f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>")
            return
        upload = store.uploads[query["uploadId"]]
        etag = f"{hashlib.md5(b''.join(upload.sums), usedforsecurity=False).hexdigest()}-{len(upload.sums)}"
        made = Written(sum(upload.sizes), upload.whole.hexdigest(), etag, tuple(upload.sizes), upload.told)
        store.written[path] = made
        self._xml(f"<CompleteMultipartUploadResult><ETag>&quot;{etag}&quot;</ETag></CompleteMultipartUploadResult>")

    def do_PUT(self) -> None:
        bucket, key, query = self._place()
        store = self.store
        upload = store.uploads[query["uploadId"]] if "uploadId" in query else Upload({})
        if "partNumber" in query and int(query["partNumber"]) != len(upload.sums) + 1:
            self._answer(400)
            return
        part, size, left = hashlib.md5(usedforsecurity=False), 0, int(self.headers["Content-Length"])
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.wfile.flush()
        while size < left and (piece := self.rfile.read(min(PIECE, left - size))):
            part.update(piece)
            upload.whole.update(piece)
            size += len(piece)
        upload.sums.append(part.digest())
        upload.sizes.append(size)
        if "uploadId" not in query:
            store.written[f"{bucket}/{key}"] = Written(size, part.hexdigest(), part.hexdigest())
        self._answer(200, {"ETag": f'"{part.hexdigest()}"'})

    def _made(self, store: Endless, bucket: str, key: str) -> int | None:
        """The number of a made-up object."""
        if bucket != "old" and bucket not in store.also:
            return None
        at = bisect.bisect_left(store.keys, key)
        return at if at < len(store.keys) and store.keys[at] == key else None

    def _list(self, store: Endless, bucket: str, query: dict[str, str]) -> None:
        """A page: objects and, where there is a delimiter, folders, in order."""
        keys: Sequence[str] = store.keys if bucket == "old" or bucket in store.also else ()
        prefix, delimiter, most = query.get("prefix", ""), query.get("delimiter", ""), int(query.get("max-keys", 1000))
        at = int(query.get("continuation-token") or bisect.bisect_left(keys, prefix))
        if query.get("start-after"):
            at = max(at, bisect.bisect_right(keys, query["start-after"]))
        end = bisect.bisect_left(keys, prefix + _LAST)
        parts: list[str] = []
        while at < end and len(parts) < most:
            key = keys[at]
            inner, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if found:
                parts.append(f"<CommonPrefixes><Prefix>{prefix}{inner}/</Prefix></CommonPrefixes>")
                at = bisect.bisect_left(keys, f"{prefix}{inner}/{_LAST}")
            else:
                parts.append(
                    f"<Contents><Key>{key}</Key><LastModified>{_DAY}</LastModified>"
                    f"<ETag>&quot;{store.etag(at)}&quot;</ETag><Size>{store.size}</Size></Contents>"
                )
                at += 1
        more = f"<NextContinuationToken>{at}</NextContinuationToken>" if at < end else ""
        told = f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated><KeyCount>{len(parts)}</KeyCount>{more}"
        self._xml(f"<ListBucketResult>{told}{''.join(parts)}</ListBucketResult>")

    def _xml(self, text: str) -> None:
        self._answer(200, {"Content-Type": "application/xml"}, f"{_HEAD}{text}".encode())

    def _begin(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self._begin(status, {"Content-Length": str(len(body)), **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def endless(keys: Sequence[str], size: int, *also: str) -> Iterator[Endless]:
    """Start it, and stop it."""
    with serving(_Handler) as server:
        store = Endless(keys, size, f"http://127.0.0.1:{server.server_port}", frozenset(also))
        server.store = store  # type: ignore[attr-defined]
        yield store


def whole_md5(size: int) -> str:
    """Of a made-up object."""
    found = hashlib.md5(usedforsecurity=False)
    for piece in itertools.chain(_pieces(size, 0, size)):
        found.update(piece)
    return found.hexdigest()
