"""Google Drive: the files below some folders, and their bytes; always read, never written."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import urllib3
from pydantic import BaseModel, ConfigDict, Field

from resettle.batch import Batch, Partition, Schema
from resettle.calls import Caller, Quota
from resettle.connector import Body, Needs
from resettle.connectors._google_drive_auth import SCOPE, Auth
from resettle.connectors._google_drive_http import LARGEST_PAGE, UNITS_PER_MINUTE, ApiError, File, Service
from resettle.connectors._google_drive_listing import COLUMNS, Folder, Found, Listing, Search, kind, table
from resettle.connectors._http import pool_of, unreached
from resettle.errors import AccessError, ConfigError, ConnectorError, RejectedError, TransientError

FILES = "files"


class GoogleDriveSettings(BaseModel):
    """Settings of a connection of type `google_drive`."""

    model_config = ConfigDict(extra="forbid")

    folder: str | list[str] = Field(description="the id or URL of a folder, or several; `root` is all of My Drive")
    credentials: Path | None = Field(default=None, description="the file of an OAuth client or of a service account")
    token: Path | None = Field(default=None, description="where the token of who signed in is stored")
    subject: str | None = Field(default=None, description="the user for whom the service account acts")
    url: str = Field(default="https://www.googleapis.com/drive/v3", description="where the API is")
    page_size: int = Field(
        default=LARGEST_PAGE, ge=1, le=LARGEST_PAGE, description="files in one answer that lists a folder"
    )
    folders_per_query: int = Field(
        default=1, ge=1, le=50, description="more saves calls, but Drive may leave files out"
    )
    queries_per_minute: int | None = Field(
        default=None, ge=1, description="the quota of a project that counts queries, not quota units"
    )
    trashed: bool = Field(default=False, description="also what lies in the bin")
    folder_rows: bool = Field(default=False, description="also a row for every folder")


ERRORS: Mapping[str, type[ConnectorError]] = {
    "rateLimitExceeded": TransientError,
    "userRateLimitExceeded": TransientError,
    "backendError": TransientError,
    "internalError": TransientError,
    "transientError": TransientError,
    "accessNotConfigured": AccessError,
    "appAccessRestricted": AccessError,
    "appNotAuthorizedToFile": AccessError,
    "authError": AccessError,
    "dailyLimitExceeded": AccessError,
    "dailyLimitExceededUnreg": AccessError,
    "domainPolicy": AccessError,
    "forbidden": AccessError,
    "insufficientFilePermissions": AccessError,
    "insufficientPermissions": AccessError,
    "numChildrenInNonRootLimitExceeded": AccessError,
    "quotaExceeded": AccessError,
    "required": AccessError,
    "sharingRateLimitExceeded": AccessError,
    "storageQuotaExceeded": AccessError,
    "teamDriveMembershipRequired": AccessError,
}
"""By `reason`: https://developers.google.com/workspace/drive/api/guides/handle-errors ."""

REFUSED: Mapping[str, str] = {
    "notFound": "gone",
    "fileNotDownloadable": "no_body",
    "cannotDownloadAbusiveFile": "abusive",
    "cannotDownloadFile": "not_downloadable",
    "downloadQuotaExceeded": "download_quota",
}
"""Reasons that concern one file, and our words for them."""

STATUSES: Mapping[int, type[ConnectorError]] = {
    401: AccessError,
    403: AccessError,
    408: TransientError,
    429: TransientError,
    500: TransientError,
    502: TransientError,
    503: TransientError,
    504: TransientError,
}
"""By HTTP status, where `reason` says nothing that is known."""

THROTTLES = frozenset({"rateLimitExceeded", "userRateLimitExceeded"})
PERMISSIONS = (
    "enable the Drive API in the project, share the folder with the account, and allow drive.readonly; "
    "a daily quota is free again the next day"
)


def errors(error: BaseException, connection: str = "") -> ConnectorError | None:
    """What an error means; None for one that the tables do not hold, which is never retried."""
    if isinstance(error, ApiError):
        said = str(error)
        if error.reason in REFUSED:
            return RejectedError(REFUSED[error.reason], said, connection=connection)
        if error.status == 404:
            return RejectedError("gone", said, connection=connection)
        known = ERRORS.get(error.reason) or STATUSES.get(error.status)
        if known is TransientError:
            slow = error.reason in THROTTLES or error.status == 429
            return TransientError(said, connection=connection, retry_after=error.retry_after, throttled=slow)
        return known(said, connection=connection, hint=PERMISSIONS) if known else None
    return unreached(error, connection)


class _Bytes(NamedTuple):
    """What a listing says of a file that has bytes."""

    size: int | None
    md5: str | None
    content_type: str


class GoogleDrive:
    """Source with one dataset, `files`, and the bodies of those files. Nothing is asked for that could write."""

    def __init__(
        self, name: str, settings: GoogleDriveSettings, *, caller: Caller | None = None, auth: Auth | None = None
    ) -> None:
        self.name = name
        self._settings = settings
        pool = pool_of(10, 60, 32)
        auth = auth or Auth(name, settings.credentials, settings.token, settings.subject, pool)
        queries = settings.queries_per_minute
        self._call = caller or Caller(
            errors,
            connection=name,
            pace=Quota(queries or UNITS_PER_MINUTE),
            # A quota is used up for a minute at most, and Google asks for waits of up to 64 seconds.
            attempts=12,
            longest=64.0,
        )
        self._service = Service(settings.url, auth, self._call, pool, queries=queries is not None)
        given = [settings.folder] if isinstance(settings.folder, str) else settings.folder
        self._folders = [_folder(name, one) for one in given]
        self._known: dict[str, _Bytes] = {}

    def privileges(self, needs: Needs, *, rollback: bool = False) -> Sequence[str]:
        shared = "each folder shared with the account, as a viewer"
        return () if rollback else (f"the scope {SCOPE}", shared)

    def datasets(self) -> Sequence[str]:
        return [FILES]

    def schema(self, dataset: str) -> Schema:
        self._check(dataset)
        return Schema(FILES, COLUMNS, ("id",), privileges=frozenset({"select"}))

    def count(self, dataset: str) -> int | None:
        """Unknown: counting is as dear as listing."""
        self._check(dataset)
        return None

    def partitions(self, dataset: str, wanted: int) -> Sequence[Partition]:
        """One: what is below a folder is known when it has been listed. Every folder must be there."""
        self._check(dataset)
        roots = [self._root(*one) for one in self._folders]
        return [Partition(FILES, "all", {"roots": [(root.id, root.drive) for root in roots]})]

    def read(self, partition: Partition, rows: int) -> Iterator[Batch]:
        """Every file once, whatever leads to it; see `Listing`."""
        settings = self._settings
        search = Search(
            min(settings.page_size, LARGEST_PAGE), settings.folders_per_query, settings.trashed, settings.folder_rows
        )
        roots = [Folder(identity, "", drive) for identity, drive in partition.detail["roots"]]
        waiting: list[Found] = []
        for page in Listing(self._service, search, self.name).walk(roots):
            for found in page:
                self._remember(found.file)
            waiting += page
            while len(waiting) >= rows:
                yield Batch(FILES, table(waiting[:rows]))
                waiting = waiting[rows:]
        yield Batch(FILES, table(waiting))

    def open(self, dataset: str, key: str) -> Body:
        """The size and checksum are those of the listing, where the file was in one; else Drive is asked."""
        self._check(dataset)
        if key not in self._known:
            file = self._service.file(key)
            if kind(file) != "file":
                raise RejectedError("no_body", f"a file of kind {kind(file)}", connection=self.name)
            self._remember(file)
        known = self._known[key]
        return Body(functools.partial(self._chunks, key), known.size, known.md5, known.content_type)

    def close(self) -> None:
        self._service.close()

    def _chunks(self, key: str, start: int) -> Iterator[bytes]:
        try:
            yield from self._service.body(key, start)
        except (urllib3.exceptions.HTTPError, ConnectionError) as error:
            raise TransientError(f"{type(error).__name__} while a file came", connection=self.name) from None

    def _remember(self, file: File) -> None:
        if kind(file) == "file":
            size = int(file["size"]) if "size" in file else None
            self._known[file["id"]] = _Bytes(size, file.get("md5Checksum"), file["mimeType"])

    def _root(self, identity: str, key: str | None) -> Folder:
        self._service.unlock(identity, key)
        try:
            file = self._service.file(identity)
            if kind(file) == "shortcut":
                file = self._service.file(file["shortcutDetails"]["targetId"])
        except RejectedError:
            raise AccessError(
                f"there is no folder {identity}, or this account may not see it",
                connection=self.name,
                hint="check the id, and share the folder with the account",
            ) from None
        if kind(file) != "folder":
            raise ConfigError(f"{self.name}: {identity} is not a folder")
        return Folder(file["id"], "", file.get("driveId"))

    def _check(self, dataset: str) -> None:
        if dataset != FILES:
            near = difflib.get_close_matches(dataset, [FILES], 1)
            hint = f'did you mean "{FILES}"?' if near else f"there is: {FILES}"
            raise ConfigError(f'{self.name}: there is no dataset "{dataset}"', hint=hint)


def _folder(name: str, given: str) -> tuple[str, str | None]:
    """A folder's id, and the resource key that a URL may hold."""
    identity, key = given, None
    if "://" in given:
        parts = urlsplit(given)
        asked = parse_qs(parts.query)
        match = re.search(r"/folders/([^/]+)", parts.path)
        identity = match[1] if match else asked.get("id", [""])[0]
        key = asked.get("resourcekey", [None])[0]
    if not re.fullmatch(r"[\w-]+", identity, re.ASCII):
        raise ConfigError(f"{name}: `folder`: neither the id nor the URL of a folder: {given}")
    return identity, key
