"""A store that speaks as much of S3 as resettle asks of it, and does nothing else: what it holds is a checksum."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

_MODIFIED = "Fri, 20 Nov 2026 00:00:00 GMT"
_EMPTY = (
    b'<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>0</KeyCount></ListBucketResult>'
)
_NONE = (
    b'<?xml version="1.0"?><ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>'
)


@dataclass
class Objects:
    """A running store: each object's size, MD5 and metadata by its path. Listings are empty: it begins so."""

    url: str
    found: dict[str, tuple[int, str, dict[str, str]]] = field(default_factory=dict)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing: one line for every request otherwise."""

    @property
    def objects(self) -> Objects:
        return self.server.objects  # type: ignore[attr-defined, no-any-return]

    def do_PUT(self) -> None:
        body = self._body()
        path = unquote(urlsplit(self.path).path)
        if self.headers.get("If-None-Match") == "*" and path in self.objects.found:
            self._answer(412)
            return
        md5 = hashlib.md5(body, usedforsecurity=False).hexdigest()
        told = {name: value for name, value in self.headers.items() if name.lower().startswith("x-amz-meta-")}
        self.objects.found[path] = (len(body), md5, told)
        self._answer(200, {"ETag": f'"{md5}"'})

    def do_HEAD(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.strip("/").count("/") == 0:
            self._answer(200)
            return
        found = self.objects.found.get(path)
        if found is None:
            self._answer(404)
            return
        size, md5, told = found
        self._answer(200, {"Content-Length": str(size), "ETag": f'"{md5}"', "Last-Modified": _MODIFIED, **told})

    def do_GET(self) -> None:
        self._answer(200, {"Content-Type": "application/xml"}, _NONE if "uploads" in self.path else _EMPTY)

    def _body(self) -> bytes:
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.wfile.flush()
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def start_objects() -> Iterator[Objects]:
    """Start it empty on a free port of 127.0.0.1, and stop it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    objects = Objects(f"http://127.0.0.1:{server.server_port}")
    server.objects = objects  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield objects
    finally:
        server.shutdown()
        server.server_close()
