"""Files as services: a bucket that is read, listed and written, and folders of Drive."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from resettle.calls import Caller
from resettle.connector import Body
from resettle.connectors._s3_incoming import Incoming
from resettle.connectors.google_drive import GoogleDrive, GoogleDriveSettings
from resettle.connectors.s3 import S3, S3Settings
from resettle.sandbox.drive import Fault as DriveFault
from resettle.sandbox.drive import LocalDrive, Request
from resettle.sandbox.s3 import Fault, LocalS3
from tests.crash.stores import MADE
from tests.faults.schedule import Schedule
from tests.faults.services import PLANTED, Service

FILES = {f"{PLANTED}/{number}.mp3": f"{PLANTED} {number}".encode() * (number + 1) for number in range(8)}
LARGE = f"{PLANTED}/large.mp3", PLANTED.encode() * 50_000
"""More than one part, whose least size is lowered for it."""


def listed(source: Any, dataset: str) -> list[dict[str, Any]]:
    """Every file, by small pages."""
    pages = [batch.table for part in source.partitions(dataset, 1) for batch in source.read(part, 3)]
    return [row for page in pages for row in page.to_pylist()]


class InS3(Service):
    """From one bucket to another: by single puts with and without a checksum, and in parts."""

    name = "s3"
    often = ("slow", "busy", "failed", "late", "unsent", "lost", "cut", "short", "page", "empty", "again", "corrupt")
    ends = ("skewed", "expired", "denied")
    refuses = ("changed",)
    checked: ClassVar = re.compile(r"GET /(?!.*large)[^?]+\?$")
    """Requests for a body whose MD5 is known."""
    _faults: ClassVar[Mapping[str, Fault]] = {
        "slow": Fault("status", code="SlowDown"),
        "busy": Fault("status", status=503, code="ServiceUnavailable"),
        "failed": Fault("status", status=500, code="InternalError"),
        "late": Fault("late", status=500, code="InternalError"),
        "page": Fault("page", status=429),
        "skewed": Fault("status", status=403, code="RequestTimeTooSkewed"),
        "expired": Fault("status", status=400, code="ExpiredToken"),
        "denied": Fault("status", status=403, code="AccessDenied"),
    }

    def __init__(self, local: LocalS3) -> None:
        self._local, self._client = local, local.client()
        local.load("source", {**FILES, LARGE[0]: LARGE[1]})
        local.load("target")

    def reset(self) -> None:
        for one in self._client.list_objects_v2(Bucket="target").get("Contents", []):
            self._client.delete_object(Bucket="target", Key=one["Key"])
        self._client.put_object(Bucket="target", Key=f"{PLANTED}/old", Body=b"old")
        MADE.clear()

    def disturb(self, day: Schedule | None) -> None:
        self.spoil(self._local, day)

    @classmethod
    def spoil(cls, local: LocalS3, day: Schedule | None) -> None:
        """From now on things go wrong with this stand-in as the schedule has it."""

        def fault(asked: str) -> Fault | None:
            asked = re.sub("uploadId=[^&]*", "uploadId", asked)
            kind = day(asked) if day else None
            if kind is None or day is None:
                return None
            if kind in ("empty", "again") and "list-type=2" not in asked:
                kind = "failed"
            if kind == "corrupt" and not cls.checked.match(asked):
                kind = "cut"  # nothing but a body has a checksum
            found = cls._faults.get(kind) or Fault(kind)
            return replace(found, retry_after=day.waits(asked)) if kind in ("slow", "busy") else found

        local.schedule = fault

    def job(self) -> None:
        source, target = (S3(self.name, self._settings(bucket)) for bucket in ("source", "target"))
        try:
            with closing(source), closing(target):
                self._copy(source, target)
        finally:
            for one in (source, target):  # the client is shared, as making one takes longer than a job
                wire = one._bucket.client
                wire.meta.events.unregister("before-send.s3.ListObjectsV2", wire._learn)

    def _settings(self, bucket: str) -> S3Settings:
        settings = S3Settings(**self._local.settings(bucket))
        settings.part_size = 1 << 20
        return settings

    def _copy(self, source: S3, target: S3) -> None:
        found = listed(source, "objects")
        sizes = {row["key"]: row["size"] for row in found}
        assert sizes == {key: len(body) for key, body in [*FILES.items(), LARGE]}
        keys = [*list(FILES)[:4], LARGE[0]]
        there = set(target.fetch("objects", pa.table({"key": keys}), ["size"])["key"].to_pylist())
        for number, key in enumerate(keys):
            if key in there:
                continue
            body = source.open("objects", key)
            if key == LARGE[0]:
                body = Body(body.chunks, size=body.size)
            elif number % 2:  # so that it must be read before it is sent
                body = Body(body.chunks, md5=body.md5)
            stored = target.put("objects", key, body, metadata={}, replace=False)
            assert (stored.size, stored.md5) == (len(_of(key)), hashlib.md5(_of(key)).hexdigest())
        target.delete("objects", pa.table({"key": [f"{PLANTED}/old"]}))

    def check(self) -> None:
        keys = [*list(FILES)[:4], LARGE[0]]
        held = {one["Key"] for one in self._client.list_objects_v2(Bucket="target").get("Contents", [])}
        assert held == set(keys)
        for key in keys:
            assert self._client.get_object(Bucket="target", Key=key)["Body"].read() == _of(key)
        made = {key: count for (bucket, key), count in MADE.items() if bucket == "target"}
        assert made == dict.fromkeys(keys, 1), f"made {made}"


def _of(key: str) -> bytes:
    return {**FILES, LARGE[0]: LARGE[1]}[key]


class InDrive(Service):
    """All files below a folder, and their bytes, as somebody who signed in before or as a service account."""

    name = "google_drive"
    often = ("rate", "many", "failed", "unsent", "cut", "short", "empty", "again", "incomplete", "expired", "corrupt",
             "whole")  # fmt: skip
    ends = ("denied", "skewed")
    refuses = ("changed",)
    _faults: ClassVar[Mapping[str, DriveFault]] = {
        "rate": DriveFault(403, "userRateLimitExceeded"),
        "many": DriveFault(429, "rateLimitExceeded"),
        "failed": DriveFault(503, "backendError"),
        "unsent": DriveFault(cut=0),
        "cut": DriveFault(cut=20),
        "short": DriveFault(short=True),
        "empty": DriveFault(empty=True),
        "again": DriveFault(again=True),
        "incomplete": DriveFault(incomplete=True),
        "expired": DriveFault(401, "authError"),
        "corrupt": DriveFault(corrupt=True),
        "whole": DriveFault(whole=True),
        "denied": DriveFault(403, "insufficientPermissions"),
    }

    def __init__(self, local: LocalDrive, token: Path, account: Path) -> None:
        self._local = local
        tree = {
            "one": {"a.jpg": _picture(1), "b.jpg": _picture(2)},
            "two": {"c.jpg": _picture(3)},
            "d.jpg": _picture(4),
        }
        self._top = local.folder(PLANTED)
        found = local.plant(tree, self._top)
        self._files = {one: local.bodies[one] for one in found.values() if one in local.bodies}
        self._stored, self._token, self._account = local.token_file(token).read_bytes(), token, account
        local.service_account_file(account)
        self._alone = False

    def reset(self) -> None:
        self._local.oauth.expire()
        self._token.write_bytes(self._stored)

    def disturb(self, day: Schedule | None) -> None:
        if day:
            self._alone = len(day.kinds) % 2 == 0
        self.spoil(self._local, day)

    @classmethod
    def spoil(cls, local: LocalDrive, day: Schedule | None) -> None:
        """From now on things go wrong with this stand-in as the schedule has it."""

        def fault(request: Request) -> DriveFault | None:
            asked = f"{request.path} {sorted(request.query.items())} {request.headers.get('Range')}"
            kind = day(asked) if day else None
            if kind is None or day is None:
                return None
            if request.path == "/token":
                kind = kind if kind in ("unsent", "short", "many", *cls.ends) else "failed"
                return DriveFault(400, "invalid_grant") if kind in cls.ends else cls._faults[kind]
            known = local.files.get(request.path.rpartition("/")[2], {})
            if kind == "corrupt" and (request.query.get("alt") != "media" or "md5Checksum" not in known):
                kind = "cut"
            found = cls._faults["denied" if kind == "skewed" else kind]
            wait = day.waits(asked) if kind in ("many", "failed") else None
            return found if wait is None else replace(found, headers={"Retry-After": str(wait)})

        local.faults = fault

    def job(self) -> None:
        given = {"credentials": self._account} if self._alone else {"token": self._token}
        settings = GoogleDriveSettings(folder=self._top, url=self._local.api, page_size=2, **given)
        with closing(GoogleDrive(self.name, settings)) as drive:
            found = listed(drive, "files")
            assert sorted(row["id"] for row in found) == sorted(self._files)
            assert {row["id"]: row["size"] for row in found} == {key: len(body) for key, body in self._files.items()}
            again = Caller(lambda error: None, connection=self.name)
            for key, body in self._files.items():
                with closing(Incoming(drive.open("files", key), again)) as incoming:
                    came = incoming.block(10_000)
                    again(incoming.check)
                    assert came == body

    def check(self) -> None:
        """Nothing is written there."""


def _picture(number: int) -> bytes:
    return f"{PLANTED} {number}".encode() * 40 * number
