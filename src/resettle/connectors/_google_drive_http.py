"""Drive's API v3 over HTTP: what calls cost, in one table, the three calls that are made, and their errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote as in_url
from urllib.parse import urlencode

import orjson
import urllib3

from resettle.calls import Caller, demand_tls, seconds_of
from resettle.connectors._google_drive_auth import Auth
from resettle.errors import TransientError

UNITS_PER_MINUTE = 325_000
"""Of one user of a project. https://developers.google.com/workspace/drive/api/guides/limits , as the next three.

Projects from before May 2026 that kept their former quota count every call as one query, 12,000 of them a minute.
"""
LIST, GET, DOWNLOAD = 100, 5, 200
"""Quota units of one page of files.list, one files.get, one download."""
LARGEST_PAGE = 1000
"""Files of one page: https://developers.google.com/workspace/drive/api/reference/rest/v3/files/list ."""
PIECE = 1 << 20
"""Ours: bytes of a body that are handed on at a time."""

FILE = "id,name,mimeType,size,md5Checksum,parents,driveId,trashed,createdTime,modifiedTime,shortcutDetails,"
FILE += "webViewLink,resourceKey"

File = Mapping[str, Any]
"""A file as the API shows it."""


class ApiError(Exception):
    """The service answered with an error: HTTP status, `reason`, the parameter it is about, seconds to wait."""

    def __init__(self, status: int, reason: str = "", parameter: str = "", retry_after: float | None = None) -> None:
        super().__init__(f"HTTP {status} {reason}".rstrip())
        self.status, self.reason, self.parameter, self.retry_after = status, reason, parameter, retry_after


class Service:
    """Calls the API through a `Caller`. Any thread may; nothing is tried again here.

    ``queries``: every call costs one unit of the pace, whatever it is.
    """

    def __init__(self, url: str, auth: Auth, call: Caller, pool: urllib3.PoolManager, *, queries: bool) -> None:
        demand_tls(url, "url")
        self._url = url.rstrip("/")
        self._auth, self._call, self._pool, self._queries = auth, call, pool, queries
        self._keys: dict[str, str] = {}

    def unlock(self, identity: str, key: str | None) -> None:
        """Remember the resource key of a file or folder: without it, some that are shared by link are not found."""
        if key:
            self._keys[identity] = key

    def file(self, identity: str) -> File:
        """What is known of one file or folder."""
        found = self._ask(GET, f"/files/{in_url(identity, safe='')}", {"fields": FILE}, [identity])
        return self._seen(found)

    def page(
        self, query: str, folders: Sequence[str], drive: str | None, size: int, token: str | None
    ) -> Mapping[str, Any]:
        """One page of a search in ``folders``, of one shared drive or of what the user has."""
        asked = {
            "q": query,
            "fields": f"nextPageToken,incompleteSearch,files({FILE})",
            "pageSize": str(size),
            "includeItemsFromAllDrives": "true",
            **({"corpora": "drive", "driveId": drive} if drive else {"corpora": "user"}),
            **({"pageToken": token} if token else {}),
        }
        page = self._ask(LIST, "/files", asked, folders, _whole)
        for file in page["files"]:
            self._seen(file)
        return page

    def body(self, identity: str, start: int) -> Iterator[bytes]:
        """The bytes of a file from ``start`` on. What cuts them off is raised as it is."""
        self._auth.ready(self._call)
        try:
            answer = self._calling(DOWNLOAD)(self._open, identity, start)
        except ApiError as error:
            if error.status == 416:  # nothing is left: the file ends where we stopped
                return
            raise
        # A server may answer a Range with all of it.
        passed = start if answer.status == 200 else 0
        try:
            for piece in answer.stream(PIECE):
                yield piece[passed:]
                passed = max(0, passed - len(piece))
        finally:
            answer.close()

    def close(self) -> None:
        self._pool.clear()

    def _calling(self, units: int) -> Caller:
        return self._call.costing(1 if self._queries else units)

    def _seen(self, file: File) -> File:
        self.unlock(file["id"], file.get("resourceKey"))
        aim = file.get("shortcutDetails", {})
        if "targetId" in aim:
            self.unlock(aim["targetId"], aim.get("targetResourceKey"))
        return file

    def _ask(
        self,
        units: int,
        path: str,
        asked: Mapping[str, str],
        named: Sequence[str],
        good: Callable[[Mapping[str, Any]], None] = lambda found: None,
    ) -> Mapping[str, Any]:
        self._auth.ready(self._call)
        return self._calling(units)(self._json, path, asked, named, good)

    def _json(
        self, path: str, asked: Mapping[str, str], named: Sequence[str], good: Callable[[Mapping[str, Any]], None]
    ) -> Mapping[str, Any]:
        answer = self._get(path, asked, named, {})
        try:
            found: Mapping[str, Any] = orjson.loads(answer.data)
        except orjson.JSONDecodeError:
            raise TransientError("the answer of Drive is cut off") from None
        good(found)
        return found

    def _open(self, identity: str, start: int) -> urllib3.BaseHTTPResponse:
        span = {"Range": f"bytes={start}-"} if start else {}
        path, asked = f"/files/{in_url(identity, safe='')}", {"alt": "media"}
        return self._get(path, asked, [identity], {**span, "Accept-Encoding": "identity"}, preload=False)

    def _get(
        self,
        path: str,
        asked: Mapping[str, str],
        named: Sequence[str],
        more: Mapping[str, str],
        *,
        preload: bool = True,
    ) -> urllib3.BaseHTTPResponse:
        token = self._auth.token()
        keys = ",".join(f"{one}/{self._keys[one]}" for one in named if one in self._keys)
        headers = {"Authorization": f"Bearer {token}", **more, **({"X-Goog-Drive-Resource-Keys": keys} if keys else {})}
        url = f"{self._url}{path}?{urlencode({**asked, 'supportsAllDrives': 'true'})}"
        answer = self._pool.request("GET", url, headers=headers, redirect=False, preload_content=preload)
        if answer.status in (200, 206):
            self._auth.accepted(token)
            return answer
        error = _error(answer)
        if error.status == 401:
            self._auth.refused(token)
        raise error


def _whole(found: Mapping[str, Any]) -> None:
    """A search that was not complete is not the end of a listing either."""
    if found.get("incompleteSearch"):
        raise TransientError("Drive says that its search was not complete")


def _error(answer: urllib3.BaseHTTPResponse) -> ApiError:
    """Without the service's message: it may name files and people."""
    try:
        said = orjson.loads(answer.data)["error"]["errors"][0]
        reason, parameter = str(said["reason"]), str(said.get("location", ""))
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
        reason = parameter = ""
    reason = reason if reason.isidentifier() else ""
    return ApiError(answer.status, reason, parameter, seconds_of(answer.headers.get("Retry-After")))
