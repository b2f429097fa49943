"""Every file below some folders, once: through folders, shared drives and shortcuts, in as few calls as is safe."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Any

import pyarrow as pa

from resettle.batch import ARROW, Column, Kind
from resettle.connectors._google_drive_http import ApiError, File, Service
from resettle.errors import ConnectorError, RejectedError

FOLDER = "application/vnd.google-apps.folder"
SHORTCUT = "application/vnd.google-apps.shortcut"
NATIVE = "application/vnd.google-apps."
KINDS = ("file", "google_native", "shortcut", "broken_shortcut", "folder")

COLUMNS = (
    Column("id", Kind.TEXT, nullable=False),
    Column("name", Kind.TEXT, nullable=False),
    Column("path", Kind.TEXT, nullable=False),
    Column("folder_id", Kind.TEXT, nullable=False),
    Column("mime_type", Kind.TEXT, nullable=False),
    Column("size", Kind.INT64),
    Column("md5", Kind.TEXT, length=32),
    Column("modified_at", Kind.INSTANT),
    Column("created_at", Kind.INSTANT),
    Column("trashed", Kind.BOOLEAN, nullable=False),
    Column("shortcut_target", Kind.TEXT),
    Column("drive_id", Kind.TEXT),
    Column("kind", Kind.TEXT, nullable=False, choices=KINDS),
    Column("web_link", Kind.TEXT),
)

WORKERS = 8
"""Queries under way at once: a folder takes Drive a third of a second."""
_RESTARTS = 3


@dataclass(frozen=True)
class Folder:
    """A folder that is to be looked into: its path below the folder that was asked for, and its shared drive."""

    id: str
    path: str = ""
    drive: str | None = None


@dataclass(frozen=True)
class Found:
    """A file, and the folder it was found in; of a shortcut also whether it leads nowhere, once that is known."""

    file: File
    folder: Folder
    broken: bool | None = None


@dataclass(frozen=True)
class Search:
    """How to list. ``together``: folders that one query asks for, at most."""

    page_size: int
    together: int
    trashed: bool
    folder_rows: bool


def kind(file: File) -> str:
    """The word for what a file is."""
    mime = file["mimeType"]
    if mime in (FOLDER, SHORTCUT):
        return "folder" if mime == FOLDER else "shortcut"
    return "google_native" if mime.startswith(NATIVE) else "file"


class Listing:
    """One walk through the folders. No snapshot: what is moved meanwhile may be missed until the next one."""

    def __init__(self, service: Service, search: Search, name: str) -> None:
        self._service, self._search, self._name = service, search, name
        self._seen: set[str] = set()
        self._shortcuts: deque[Found] = deque()

    def walk(self, roots: Sequence[Folder]) -> Iterator[Sequence[Found]]:
        """What is to become rows, page by page.

        Folders themselves come before what only a shortcut leads to, so that the path of a file does not depend
        on luck where there are several ways to it.
        """
        level = [root for root in roots if self._new(root.id)]
        while level or self._shortcuts:
            below: list[Folder] = []
            for page in self._children(level) if level else self._targets(below):
                kept = [found for found in page if self._keep(found)]
                below += [
                    _into(found) for found in page if kind(found.file) == "folder" and self._new(found.file["id"])
                ]
                yield kept
            level = sorted(below, key=lambda folder: (folder.path, folder.id))

    def _keep(self, found: Found) -> bool:
        """Whether it becomes a row: every file once, shortcuts after they were followed, folders if asked for."""
        if found.broken is not None:
            return True
        sort = kind(found.file)
        if sort == "folder":
            return self._search.folder_rows and found.file["id"] not in self._seen
        if not self._new(found.file["id"]):
            return False
        if sort == "shortcut":
            self._shortcuts.append(found)
        return sort != "shortcut"

    def _new(self, identity: str) -> bool:
        if identity in self._seen:
            return False
        self._seen.add(identity)
        return True

    # -- folders

    def _children(self, level: Sequence[Folder]) -> Iterator[Sequence[Found]]:
        """All children of these folders; the first pages of several queries are fetched at once."""
        groups = iter(list(self._groups(level)))
        waiting: deque[tuple[Sequence[Folder], Future[Mapping[str, Any]]]] = deque()
        with ThreadPoolExecutor(WORKERS, "resettle-list") as pool:
            while True:
                for group in islice(groups, WORKERS - len(waiting)):
                    waiting.append((group, pool.submit(self._page, group)))
                if not waiting:
                    return
                group, first = waiting.popleft()
                yield from self._answers(group, first.result())

    def _groups(self, level: Sequence[Folder]) -> Iterator[Sequence[Folder]]:
        """Folders of one drive that one query asks for."""
        for drive in dict.fromkeys(folder.drive for folder in level):
            same = [folder for folder in level if folder.drive == drive]
            for start in range(0, len(same), self._search.together):
                yield same[start : start + self._search.together]

    def _answers(self, group: Sequence[Folder], first: Mapping[str, Any]) -> Iterator[Sequence[Found]]:
        if len(group) == 1:
            for files in self._pages(group, first):
                yield [Found(file, group[0]) for file in files]
            return
        by_id = {folder.id: folder for folder in group}
        met: set[str] = set()
        strays = False
        for files in self._pages(group, first):
            held = [(file, [by_id[one] for one in file.get("parents", ()) if one in by_id]) for file in files]
            met.update(folder.id for _, folders in held for folder in folders)
            strays = strays or not all(folders for _, folders in held)
            yield [Found(file, folders[0]) for file, folders in held if folders]
        # Drive has been seen to leave out folders of such a query: https://github.com/rclone/rclone/issues/9810
        # And a file need not say where it lies.
        for folder in group:
            if strays or folder.id not in met:
                yield from self._answers([folder], self._page([folder]))

    def _pages(self, group: Sequence[Folder], page: Mapping[str, Any]) -> Iterator[Sequence[File]]:
        """Every page to the last, which has no token; an empty page is none. A token that is refused, as it is after
        some hours, means to begin again: what comes twice counts once."""
        restarts = 0
        while True:
            yield page["files"]
            if not page.get("nextPageToken"):
                return
            try:
                page = self._page(group, page["nextPageToken"])
            except ApiError as error:
                restarts += 1
                if error.status != 400 or error.parameter != "pageToken" or restarts > _RESTARTS:
                    raise
                page = self._page(group)

    def _page(self, group: Sequence[Folder], token: str | None = None) -> Mapping[str, Any]:
        ids = [folder.id for folder in group]
        asked = " or ".join(f"'{one}' in parents" for one in ids)
        if not self._search.trashed:
            asked = f"({asked}) and trashed = false"
        try:
            return self._service.page(asked, ids, group[0].drive, self._search.page_size, token)
        except RejectedError:
            raise ConnectorError(
                "a folder went away while it was listed", connection=self._name, hint="run the command again"
            ) from None

    # -- shortcuts

    def _targets(self, below: list[Folder]) -> Iterator[Sequence[Found]]:
        """What the shortcuts found so far lead to, unless it was met already; and they themselves."""
        found, self._shortcuts = self._shortcuts, deque()
        aims: dict[str, Found] = {}
        for one in found:
            aim = _aim(one.file)
            if aim and aim not in self._seen:
                aims.setdefault(aim, one)
        lost: set[str | None] = {None}
        with ThreadPoolExecutor(WORKERS, "resettle-list") as pool:
            for some in _in_parts(aims.items(), 100):
                files = list(pool.map(lambda pair: self._target(pair[0]), some))
                lost |= {aim for (aim, _), file in zip(some, files, strict=True) if not file}
                yield [
                    made
                    for (_, one), file in zip(some, files, strict=True)
                    if file and (made := self._reached(one, file, below))
                ]
        yield [replace(one, broken=_aim(one.file) in lost) for one in found]

    def _reached(self, shortcut: Found, file: File, below: list[Folder]) -> Found | None:
        """A file as if it lay where its shortcut lies; a folder is looked into, under its shortcut's name."""
        if kind(file) == "folder":
            if self._new(file["id"]):
                path = _joined(shortcut.folder.path, shortcut.file["name"])
                below.append(Folder(file["id"], path, file.get("driveId")))
            return None
        return Found(file, shortcut.folder)

    def _target(self, identity: str) -> File | None:
        """What a shortcut leads to; None if it is gone, was never shared with us, or lies in a bin that is left out."""
        try:
            file = self._service.file(identity)
        except RejectedError:
            return None
        return None if file.get("trashed") and not self._search.trashed else file


def table(found: Iterable[Found]) -> pa.Table:
    """The files as rows, see COLUMNS."""
    records = [_row(one) for one in found]
    return pa.table(
        {
            column.name: pa.array([record[at] for record in records], ARROW[column.kind])
            for at, column in enumerate(COLUMNS)
        }
    )


def _row(found: Found) -> tuple[Any, ...]:
    file, folder = found.file, found.folder
    sort = "broken_shortcut" if found.broken else kind(file)
    body = sort == "file"
    return (
        file["id"],
        file["name"],
        folder.path,
        folder.id,
        file["mimeType"],
        int(file["size"]) if body and "size" in file else None,
        file.get("md5Checksum") if body else None,
        _instant(file.get("modifiedTime")),
        _instant(file.get("createdTime")),
        bool(file.get("trashed")),
        _aim(file),
        file.get("driveId"),
        sort,
        file.get("webViewLink"),
    )


def _aim(file: File) -> str | None:
    """What a shortcut leads to."""
    aim: str | None = file.get("shortcutDetails", {}).get("targetId")
    return aim


def _instant(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _into(found: Found) -> Folder:
    return Folder(found.file["id"], _joined(found.folder.path, found.file["name"]), found.file.get("driveId"))


def _joined(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _in_parts(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    left = iter(items)
    while part := list(islice(left, size)):
        yield part
