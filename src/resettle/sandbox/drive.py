"""Google Drive on this machine: the reading half of its API v3 as it is documented, on a free port of 127.0.0.1.

Bodies may be given, or made up as they are read, so that a large file takes no room. Followed is
https://developers.google.com/workspace/drive/api/reference/rest/v3 , and for errors
https://developers.google.com/workspace/drive/api/guides/handle-errors .
"""

from __future__ import annotations

import functools
import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson

from resettle.sandbox._drive_http import ApiError, Fault, Handler, Request
from resettle.sandbox._drive_oauth import OAuth
from resettle.sandbox._drive_query import InvalidError, Query, mask, picked

__all__ = ["BACKEND", "CUT", "RATE", "TOO_MANY", "USER_RATE", "Fault", "LocalDrive", "Request", "start_drive"]

FOLDER = "application/vnd.google-apps.folder"
SHORTCUT = "application/vnd.google-apps.shortcut"
DOCUMENT = "application/vnd.google-apps.document"

RATE = Fault(403, "rateLimitExceeded")
USER_RATE = Fault(403, "userRateLimitExceeded")
TOO_MANY = Fault(429, "rateLimitExceeded", {"Retry-After": "1"})
BACKEND = Fault(500, "backendError")
CUT = Fault(cut=0)

Body = bytes | int
"""Bytes as they are, or how many are to be made up."""
Tree = Mapping[str, "Body | Tree"]
"""A folder: names, each with a file's body or a folder."""

_BLOCK = 1 << 16


def _names(text: str) -> dict[str, Any]:
    return {name: {} for name in text.split()}


_FILE: Mapping[str, Any] = {
    **_names("kind id name mimeType description starred trashed parents spaces version webViewLink createdTime"),
    **_names("modifiedTime driveId size resourceKey md5Checksum sha1Checksum sha256Checksum headRevisionId ownedByMe"),
    "shortcutDetails": _names("targetId targetMimeType targetResourceKey"),
}
_LIST: Mapping[str, Any] = {"kind": {}, "incompleteSearch": {}, "nextPageToken": {}, "files": _FILE}
_FEW = "kind,id,name,mimeType"


@functools.cache
def _block() -> bytes:
    return random.Random(1).randbytes(_BLOCK)


@functools.lru_cache(10_000)
def _made_up_md5(size: int) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for piece in _pieces(size, 0, size):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(body: Body, start: int, stop: int) -> Iterator[bytes]:
    if isinstance(body, bytes):
        yield body[start:stop]
        return
    while start < stop:
        at = start % _BLOCK
        piece = _block()[at : at + stop - start]
        yield piece
        start += len(piece)


@dataclass
class LocalDrive:
    """A running stand-in, as one user sees it. ``faults`` is asked before each request what goes wrong with it."""

    url: str
    oauth: OAuth
    clock: Callable[[], float]
    faults: Callable[[Request], Fault | None] = lambda request: None
    requests: list[Request] = field(default_factory=list)
    units_per_minute: int | None = None
    """What may be spent in a minute; more is answered with 403 userRateLimitExceeded."""
    forgotten: set[str] = field(default_factory=set)
    """Folders whose children a query that names several folders leaves out, as Drive has been seen to do."""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Every file, folder and shortcut by id, as the API shows it."""
    bodies: dict[str, Body] = field(default_factory=dict)
    children: dict[str, list[str]] = field(default_factory=dict)
    locked: set[str] = field(default_factory=set)
    """Files that need their resource key."""
    unplaced: set[str] = field(default_factory=set)
    """Files that do not say where they lie, as those do whose folder is not shared with the user."""
    turn: threading.Lock = field(default_factory=threading.Lock)
    spent: tuple[int, float] = (0, 0.0)
    """Quota units, and since when."""
    used: Counter[str] = field(default_factory=Counter)
    """Since the start: `units` spent, requests that were `refused` because there were none left."""
    latency: float = 0.0
    """Seconds that it takes over an answer."""
    asked: tuple[float, float] = (0.0, 0.0)
    """When units were spent for the first and the last time."""

    @property
    def api(self) -> str:
        return f"{self.url}/drive/v3"

    def sent(self, path: str = "/drive/v3/files", **parameters: str) -> int:
        """How many requests were for this path, with these parameters."""
        return sum(one.path == path and parameters.items() <= one.query.items() for one in self.requests)

    # -- what lies in it

    def folder(self, name: str, *parents: str, drive: str | None = None, **given: Any) -> str:
        """A folder below others, or in My Drive; its id."""
        return self._add(name, parents, FOLDER, drive, given)

    def shared_drive(self, name: str) -> str:
        """A shared drive; its id, which is its top folder's too."""
        identity = self._identity("0A")
        return self._add("Drive", (), FOLDER, identity, {"id": identity, "description": name, "parents": []})

    def file(self, name: str, *parents: str, body: Body = b"", mime: str = "image/jpeg", **given: Any) -> str:
        """A file; its id. A made-up body has the checksum that is given, or its own."""
        if isinstance(body, bytes):
            known = hashlib.md5(body, usedforsecurity=False).hexdigest()
        else:
            known = given.get("md5Checksum") or _made_up_md5(body)
        size = len(body) if isinstance(body, bytes) else body
        identity = self._add(name, parents, mime, None, {"size": str(size), "md5Checksum": known, **given})
        self.bodies[identity] = body
        return identity

    def document(self, name: str, *parents: str, **given: Any) -> str:
        """A document of Google's own kind: it has no bytes; its id."""
        return self._add(name, parents, DOCUMENT, None, {"size": "1024", **given})

    def shortcut(self, name: str, target: str, *parents: str, **given: Any) -> str:
        """A shortcut to a file or folder; its id."""
        aim = self.files.get(target, {"mimeType": "image/jpeg"})
        details = {"targetId": target, "targetMimeType": aim["mimeType"]}
        if "resourceKey" in aim:
            details["targetResourceKey"] = aim["resourceKey"]
        return self._add(name, parents, SHORTCUT, None, {"shortcutDetails": details, **given})

    def plant(self, tree: Tree, *parents: str) -> dict[str, str]:
        """Files and folders below others; the id of each by its path."""
        found: dict[str, str] = {}
        for name, content in tree.items():
            if isinstance(content, Mapping):
                found[name] = self.folder(name, *parents)
                below = self.plant(content, found[name])
                found |= {f"{name}/{path}": identity for path, identity in below.items()}
            else:
                found[name] = self.file(name, *parents, body=content)
        return found

    def _identity(self, prefix: str = "1") -> str:
        return f"{prefix}{len(self.files):032x}"

    def _add(self, name: str, parents: tuple[str, ...], mime: str, drive: str | None, given: Mapping[str, Any]) -> str:
        identity = given.get("id") or self._identity()
        folders = list(parents or ("root",))
        drive = drive or self.files.get(folders[0], {}).get("driveId")
        entry = {
            "kind": "drive#file",
            "id": identity,
            "name": name,
            "mimeType": mime,
            "trashed": False,
            "parents": [self.root if one == "root" else one for one in folders],
            "createdTime": "2024-01-01T00:00:00.000Z",
            "modifiedTime": "2024-01-02T03:04:05.678Z",
            "webViewLink": f"https://drive.google.com/file/d/{identity}/view",
            **({"driveId": drive} if drive else {}),
            **given,
        }
        self.files[identity] = {key: value for key, value in entry.items() if value is not None}
        for one in entry["parents"]:
            self.children.setdefault(one, []).append(identity)
        return str(identity)

    @property
    def root(self) -> str:
        """The id of My Drive's top folder, which is also called `root`."""
        if "0AMyDrive" not in self.files:
            self.files["0AMyDrive"] = {}
            self._add("My Drive", (), FOLDER, None, {"id": "0AMyDrive", "parents": []})
        return "0AMyDrive"

    # -- how it answers

    def pieces(self, body: Body, start: int, stop: int) -> Iterator[bytes]:
        """The bytes of a body from ``start`` up to ``stop``."""
        return _pieces(body, start, stop)

    def spend(self, units: int) -> None:
        """Raises ApiError where the minute's quota is used up."""
        with self.turn:
            used, since = self.spent
            now = self.clock()
            used, since = (0, now) if now - since >= 60 else (used, since)
            if self.units_per_minute is not None and used + units > self.units_per_minute:
                self.used["refused"] += 1
                raise ApiError(403, "userRateLimitExceeded")
            self.spent = used + units, since
            self.used["units"] += units
            self.asked = (self.asked[0] or now, now)

    def listing(self, request: Request, fault: Fault) -> dict[str, Any]:
        """files.list: one page of what a search finds, in a fixed order."""
        asked = request.query
        wanted = mask(asked.get("fields") or f"kind,incompleteSearch,nextPageToken,files({_FEW})", _LIST)
        size = asked.get("pageSize", "100")
        if not size.isdigit() or not 1 <= int(size) <= 1000:
            raise InvalidError("pageSize")
        found = self._found(asked)
        start = _offset(asked.get("pageToken"), len(found), asked.get("q", ""))
        page = [] if fault.empty else [self._placed(file) for file in found[start : start + int(size)]]
        answer = {"kind": "drive#fileList", "incompleteSearch": fault.incomplete, "files": page}
        stop = start if fault.again else start + len(page)
        if fault.empty or stop < len(found):
            answer["nextPageToken"] = f"~!!~{stop}.{_mark(asked.get('q', ''))}"
        shown: dict[str, Any] = picked(answer, wanted)
        return shown

    def _found(self, asked: Mapping[str, str]) -> list[dict[str, Any]]:
        query = Query(asked["q"]) if asked.get("q") else None
        every, corpora = asked.get("includeItemsFromAllDrives") == "true", asked.get("corpora", "user")
        if every and asked.get("supportsAllDrives") != "true":
            raise InvalidError("supportsAllDrives")
        if (corpora == "drive") is not ("driveId" in asked) or (corpora in ("drive", "allDrives") and not every):
            raise InvalidError("driveId")
        named = [self.root if one == "root" else one for one in query.parents] if query else []
        for one in named:
            if one not in self.files:
                raise ApiError(404, "notFound", location="fileId")
        if query and query.narrow:
            named = [one for one in named if len(named) == 1 or one not in self.forgotten]
            names = dict.fromkeys(name for one in named for name in self.children.get(one, ()))
        else:
            names = dict.fromkeys(self.files)
        return [
            file
            for file in (self.files[name] for name in names if name in self.files)
            if (every or "driveId" not in file)
            and file["id"] not in (self.root, file.get("driveId"))
            and ("driveId" not in asked or file.get("driveId") == asked["driveId"])
            and (query is None or query.test({**file, "parents": [*file["parents"], *self._aliases(file)]}))
        ]

    def _placed(self, file: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in file.items() if name != "parents" or file["id"] not in self.unplaced}

    def _aliases(self, file: Mapping[str, Any]) -> tuple[str, ...]:
        return ("root",) if self.root in file["parents"] else ()

    def get(self, identity: str, request: Request) -> dict[str, Any]:
        """files.get of a file that is there and may be seen. Raises ApiError("notFound") otherwise."""
        file = self.files.get(self.root if identity == "root" else identity)
        keys = dict(
            pair.split("/", 1) for pair in request.headers.get("X-Goog-Drive-Resource-Keys", "").split(",") if pair
        )
        hidden = file and "driveId" in file and request.query.get("supportsAllDrives") != "true"
        if not file or hidden or (identity in self.locked and keys.get(identity) != file.get("resourceKey")):
            raise ApiError(404, "notFound", location="fileId")
        return file

    def shown(self, file: Mapping[str, Any], fields: str | None) -> dict[str, Any]:
        shown: dict[str, Any] = picked(file, mask(fields or _FEW, _FILE))
        return shown

    # -- who may ask

    def client_file(self, path: Path) -> Path:
        """Write the file of an OAuth client for installed apps."""
        path.write_bytes(orjson.dumps(self.oauth.client()))
        return path

    def service_account_file(self, path: Path) -> Path:
        """Write the key file of a service account."""
        path.write_bytes(orjson.dumps(self.oauth.service_account()))
        return path

    def token_file(self, path: Path) -> Path:
        """Write the stored token of somebody who has signed in before."""
        client = self.oauth.client()["installed"]
        self.oauth.refresh_tokens.add("1//stored")
        stored = {name: client[name] for name in ("client_id", "client_secret", "token_uri")}
        path.write_bytes(orjson.dumps({"type": "authorized_user", "refresh_token": "1//stored", **stored}))
        return path


def _mark(query: str) -> str:
    return hashlib.md5(query.encode(), usedforsecurity=False).hexdigest()[:8]


def _offset(token: str | None, size: int, query: str) -> int:
    """Where a page begins; a token is good for the query it was given for."""
    if token is None:
        return 0
    at, _, mark = token.removeprefix("~!!~").partition(".")
    if not token.startswith("~!!~") or not at.isdigit() or mark != _mark(query) or int(at) > size:
        raise InvalidError("pageToken")
    return int(at)


@contextmanager
def start_drive(*, clock: Callable[[], float] = time.time) -> Iterator[LocalDrive]:
    """Start it with an empty My Drive, and stop it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    url = f"http://127.0.0.1:{server.server_port}"
    local = LocalDrive(url, OAuth(url, clock), clock)
    server.local = local  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield local
    finally:
        server.shutdown()
        server.server_close()
