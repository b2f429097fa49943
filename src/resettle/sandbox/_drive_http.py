"""The Drive stand-in's HTTP: which request is which call, Range, error answers, and what is made to go wrong."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import orjson

from resettle.sandbox._drive_oauth import OAuthError
from resettle.sandbox._drive_query import InvalidError

_FILE = re.compile(r"/drive/v3/files/([^/]+)$")
_USAGE = ("LimitExceeded", "accessNotConfigured")
_COSTS = {"list": 100, "get": 5, "download": 200}
"""Quota units of a call: https://developers.google.com/workspace/drive/api/guides/limits ."""


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request.

    An error answer (``status``, ``reason``), a line that is cut after so many bytes of the body (0: before any
    answer), half of an answer as if it were all, an empty page with a next one, a page that comes once more, a search
    that was not complete, a wrong byte, all bytes whatever Range says.
    """

    status: int = 0
    reason: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    short: bool = False
    empty: bool = False
    again: bool = False
    incomplete: bool = False
    corrupt: bool = False
    whole: bool = False


_NOTHING = Fault()


class ApiError(Exception):
    """An error answer of the API."""

    def __init__(
        self, status: int, reason: str, *, location: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(reason)
        self.status, self.reason, self.location, self.headers = status, reason, location, dict(headers or {})


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    @property
    def local(self) -> Any:
        """The `LocalDrive` behind this server."""
        return self.server.local  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing: one line for every request otherwise."""

    def do_POST(self) -> None:
        """The token endpoint."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request, fault = self._take()
        if fault is not None and fault.status:
            self._json(fault.status, {"error": fault.reason}, fault.headers)
        elif fault is not None and fault.cut is not None:
            self._cut()
        elif request.path != "/token":
            self._json(404, {"error": "not_found"})
        else:
            try:
                self._json(200, self.local.oauth.grant(dict(parse_qsl(body.decode()))), fault=fault or _NOTHING)
            except OAuthError as error:
                self._json(error.status, {"error": error.error, "error_description": "Bad Request"})

    def do_GET(self) -> None:
        request, fault = self._take()
        if self.local.latency:
            time.sleep(self.local.latency)
        if request.path == "/o/oauth2/auth":
            self._authorise(request)
            return
        try:
            if fault is not None and fault.status:
                raise ApiError(fault.status, fault.reason, headers=fault.headers)
            if fault is not None and fault.cut == 0:
                self._cut()
                return
            self._authenticate()
            self._route(request, fault or _NOTHING)
        except ApiError as error:
            self._refuse(error)
        except InvalidError as error:
            self._refuse(ApiError(400, error.reason, location=error.parameter), error.message)

    def _take(self) -> tuple[Request, Fault | None]:
        local = self.local
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        request = Request(self.command, parts.path, query, dict(self.headers.items()))
        local.requests.append(request)
        return request, local.faults(request)

    def _authorise(self, request: Request) -> None:
        try:
            back = self.local.oauth.authorise(request.query)
        except OAuthError as error:
            self._json(error.status, {"error": error.error})
            return
        self._head(302, {"Location": back, "Content-Length": "0"})

    def _authenticate(self) -> None:
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        if kind != "Bearer" or not self.local.oauth.good(token):
            asked = {"WWW-Authenticate": 'Bearer realm="https://accounts.google.com/"'}
            raise ApiError(401, "authError" if token else "required", location="Authorization", headers=asked)

    def _route(self, request: Request, fault: Fault) -> None:
        local = self.local
        if request.path == "/drive/v3/files":
            local.spend(_COSTS["list"])
            self._json(200, local.listing(request, fault), fault=fault)
            return
        match = _FILE.match(request.path)
        if not match:
            raise ApiError(404, "notFound")
        identity = unquote(match[1])
        media = request.query.get("alt") == "media"
        local.spend(_COSTS["download" if media else "get"])
        file = local.get(identity, request)
        if media:
            self._media(file, local.bodies.get(file["id"]), request, fault)
        else:
            self._json(200, local.shown(file, request.query.get("fields")), fault=fault)

    def _media(self, file: Mapping[str, Any], body: bytes | int | None, request: Request, fault: Fault) -> None:
        """The bytes, or the part that Range asks for (RFC 9110, 14)."""
        if body is None:
            raise ApiError(403, "fileNotDownloadable", location="alt")
        size = len(body) if isinstance(body, bytes) else body
        kind = {"Content-Type": file["mimeType"], "Accept-Ranges": "bytes"}
        asked = "" if fault.whole else request.headers.get("Range", "")
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
        if span and int(span[1]) >= size:
            raise ApiError(416, "requestedRangeNotSatisfiable", headers={"Content-Range": f"bytes */{size}"})
        start = int(span[1]) if span else 0
        stop = min(int(span[2]) + 1, size) if span and span[2] else size
        stop = (start + stop) // 2 if fault.short else stop
        part = {"Content-Range": f"bytes {start}-{stop - 1}/{size}"} if span else {}
        self._head(206 if span else 200, {**kind, **part, "Content-Length": str(stop - start)})
        self._stream(body, start, stop, fault)

    def _stream(self, body: bytes | int, start: int, stop: int, fault: Fault) -> None:
        end = stop if fault.cut is None else min(stop, start + fault.cut)
        for number, piece in enumerate(self.local.pieces(body, start, end)):
            spoilt = bytes([piece[0] ^ 1]) + piece[1:] if fault.corrupt and number == 0 and piece else piece
            try:
                self.wfile.write(spoilt)
            except OSError:  # the reader has had enough
                self.close_connection = True
                return
        if end < stop:
            self._cut()

    def _cut(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def _refuse(self, error: ApiError, message: str = "") -> None:
        words = message or error.reason
        one = {"message": words, "domain": "global", "reason": error.reason}
        if any(error.reason.endswith(end) for end in _USAGE):
            one["domain"] = "usageLimits"
        if error.location:
            header = error.location == "Authorization"
            one |= {"location": error.location, "locationType": "header" if header else "parameter"}
        self._json(error.status, {"error": {"errors": [one], "code": error.status, "message": words}}, error.headers)

    def _json(
        self,
        status: int,
        body: Mapping[str, Any],
        headers: Mapping[str, str] | None = None,
        *,
        fault: Fault = _NOTHING,
    ) -> None:
        text = orjson.dumps(body)
        text = text[: len(text) // 2] if fault.short else text
        kind = {"Content-Type": "application/json; charset=UTF-8", "Content-Length": str(len(text))}
        self._head(status, {**kind, **(headers or {})})
        self.wfile.write(text[: fault.cut])
        if fault.cut is not None:
            self._cut()

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
