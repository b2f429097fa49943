"""Uploads: a body becomes an object in bounded memory, whole and verified or not at all.

Nothing becomes visible before every byte has been counted and hashed, here or by the service. A body whose size and MD5
are known beforehand goes on in one request as it comes in, and its end is held back until then; a smaller one is read
first; any other is a multipart upload that is completed only then. Each request carries its MD5. Where the answer to a
whole object has the MD5 of its bytes for an ETag, the service has hashed what it now holds; otherwise what lies there
is looked at. That a key is free is asked before, until the service was seen to refuse one that is taken: then it does
so itself. Once it was seen to hash, it alone does so with what goes on, as it comes, to a key that is free; one that
does not check the request's MD5 may then have wrong bytes there until its answer was read.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from resettle.calls import Caller
from resettle.connector import Body, Stored
from resettle.connectors._s3_bucket import MD5, Bucket, Found, bare, code, encrypted
from resettle.connectors._s3_incoming import Incoming, Through
from resettle.connectors._s3_wire import MOST, BrokenOffError
from resettle.errors import ConnectorError, RejectedError, TransientError

_LOG = logging.getLogger("resettle")
MIB = 1 << 20
LITTLE = 8 * MIB
"""A body of at most so many bytes is read first where it may have to be sent twice, see `Uploads._learn`."""

TAKEN = {"PreconditionFailed", "412"}
"""What a service says where If-None-Match does not hold."""

PARTS = 10_000
"""The most parts that an upload may have."""

MARK = 41
"""Our parts are whole MiB and so many bytes, as nobody else's are: this tells our unfinished uploads from others'."""

OLD = timedelta(days=1)
"""An upload is given up only if it began longer ago: a younger one may be another run's, still going on."""


def part_size(asked: int, size: int | None) -> int:
    """Bytes of every part but the last: what was asked for, more where 10,000 of them would not hold ``size``."""
    needed = -(-(size or 0) // PARTS)
    return -(-max(asked, needed) // MIB) * MIB + MARK


@dataclass(frozen=True)
class Sent:
    """What the service should now have, and the ETag that it gave for it."""

    size: int
    md5: str
    expected: str
    """The ETag of these bytes where ETags are made of MD5s."""
    etag: str | None
    hashed: bool = True
    """Whether the bytes were seen to have that MD5 as they passed."""


class Uploads:
    """Puts bodies into one bucket. From many threads; each holds about two parts in memory."""

    def __init__(self, bucket: Bucket, call: Caller, part: int, clock: Callable[[], datetime]) -> None:
        self._bucket, self._call, self._part, self._clock = bucket, call, part, clock
        self._going: set[str] = set()
        self._proves = False
        """Whether answers to a whole object have the MD5 of its bytes for an ETag, as one had."""
        self._refuses: bool | None = None
        """Whether the service refuses a key that is taken, as it was seen to do; None: not tried yet."""
        self._lock = threading.Lock()

    def put(self, key: str, body: Body, given: Mapping[str, Any], *, replace: bool) -> Stored:
        """See `BodyTarget.put`; ``given`` are Metadata and ContentType."""
        try:
            return self._put(key, body, given, replace=replace)
        except RejectedError as error:
            raise error.of(self._bucket.connection) from None

    def _put(self, key: str, body: Body, given: Mapping[str, Any], *, replace: bool) -> Stored:
        before = self._bucket.look(key) if replace or not self._refuses else None
        if before and not replace:
            raise self._exists()
        streams = bool(body.md5 and body.size and body.size <= MOST and self._bucket.client.streams)
        if streams and (replace or self._refuses is not None or (body.size or 0) > LITTLE):
            return self._verified(key, self._through(key, body, given, replace=replace), before)
        size = part_size(self._part, body.size)
        with closing(Incoming(body, self._call)) as incoming:
            first = incoming.block(size)
            second = incoming.block(size) if len(first) == size else b""
            if second:
                blocks = _after([first, second], incoming, size)
                del first, second  # or the two would stay in memory until the end
                sent = self._in_parts(key, body, blocks, incoming, given, replace=replace)
            else:
                sent = self._at_once(key, first, incoming, given, replace=replace)
                if not replace:
                    self._learn(key, first, given)
        return self._verified(key, sent, before)

    def _learn(self, key: str, block: bytes, given: Mapping[str, Any]) -> None:
        """See once whether the service refuses a key that is taken. If not, the object gets the same bytes again."""
        with self._lock:
            if self._refuses is not None or not self._bucket.conditional:
                return
            self._refuses = False
        md5 = hashlib.md5(block, usedforsecurity=False).hexdigest()
        given = {**given, "Metadata": {**given["Metadata"], MD5: md5}, "ContentMD5": _base64(md5)}
        try:
            self._bucket.ask("put_object", Key=key, Body=block, IfNoneMatch="*", **given)
        except self._bucket.client.exceptions.ClientError as error:
            self._refuses = code(error) in TAKEN
        except ConnectorError as error:  # not seen: keys are asked for as before
            facts = {"connection": self._bucket.connection, "error": type(error).__name__}
            _LOG.info("whether keys that are taken are refused was not to be seen", extra={"facts": facts})

    def _through(self, key: str, body: Body, given: Mapping[str, Any], *, replace: bool) -> Sent:
        md5, size = str(body.md5).lower(), body.size or 0
        given = {**given, "Metadata": {**given["Metadata"], MD5: md5}, "ContentLength": size}
        through = Through(body, self._call, hashed=replace or not self._proves)
        sent = Sent(size, md5, md5, md5)
        try:
            answer = self._made("put_object", key, sent, replace, Body=through, ContentMD5=_base64(md5), **given)
        except BrokenOffError as error:
            raise error.cause from None
        return Sent(size, md5, md5 if not encrypted(answer) else "", bare(answer.get("ETag")), through.hashed)

    def _at_once(self, key: str, block: bytes, incoming: Incoming, given: Mapping[str, Any], *, replace: bool) -> Sent:
        md5 = incoming.check()
        given = {**given, "Metadata": {**given["Metadata"], MD5: md5}}
        answer = self._made(
            "put_object", key, Sent(len(block), md5, md5, md5), replace, Body=block, ContentMD5=_base64(md5), **given
        )
        return Sent(len(block), md5, md5 if not encrypted(answer) else "", bare(answer.get("ETag")))

    def _in_parts(
        self,
        key: str,
        body: Body,
        blocks: Iterator[bytes],
        incoming: Incoming,
        given: Mapping[str, Any],
        *,
        replace: bool,
    ) -> Sent:
        said = {MD5: body.md5.lower()} if body.md5 else {}
        given = {**given, "Metadata": {**given["Metadata"], **said}}
        upload = self._bucket.ask("create_multipart_upload", Key=key, **given)["UploadId"]
        with self._lock:
            self._going.add(upload)
        try:
            sums, parts = self._sent(key, upload, blocks)
            md5 = incoming.check()
            whole = hashlib.md5(b"".join(sums), usedforsecurity=False).hexdigest()
            etag = f"{whole}-{len(sums)}"
            answer = self._made(
                "complete_multipart_upload",
                key,
                Sent(incoming.size, md5, etag, etag),
                replace,
                UploadId=upload,
                MultipartUpload={"Parts": parts},
            )
        except BaseException:
            self._give_up(key, upload)
            raise
        finally:
            with self._lock:
                self._going.discard(upload)
        return Sent(incoming.size, md5, etag if not encrypted(answer) else "", bare(answer.get("ETag")))

    def _sent(self, key: str, upload: str, blocks: Iterator[bytes]) -> tuple[list[bytes], list[dict[str, Any]]]:
        """Send every part; their MD5s, and what completing wants to know of them."""
        sums: list[bytes] = []
        parts: list[dict[str, Any]] = []
        for number, block in enumerate(blocks, 1):
            if number > PARTS:
                raise RejectedError("too_large", f"more than {PARTS} parts; a larger `part_size` would hold it")
            digest = hashlib.md5(block, usedforsecurity=False)
            answer = self._bucket.ask(
                "upload_part",
                Key=key,
                UploadId=upload,
                PartNumber=number,
                Body=block,
                ContentMD5=_base64(digest.hexdigest()),
            )
            sums.append(digest.digest())
            parts.append({"PartNumber": number, "ETag": answer["ETag"]})
        return sums, parts

    def _made(self, verb: str, key: str, sent: Sent, replace: bool, **given: Any) -> Mapping[str, Any]:
        """The call that makes the object visible, only where there is none unless ``replace``.

        An answer may have been lost and the call been made again: what is there then is what was to be made.
        """
        condition = {} if replace or not self._bucket.conditional else {"IfNoneMatch": "*"}
        tries: list[str] = []
        if not replace and (verb != "put_object" or not condition) and self._bucket.look(key):
            raise self._exists()
        try:
            answer: Mapping[str, Any] = self._bucket.ask(verb, tries=tries, Key=key, **given, **condition)
            return answer
        except self._bucket.client.exceptions.ClientError as error:
            said = code(error)
            if condition and said == "NotImplemented":
                self._bucket.conditional = False
                return self._made(verb, key, sent, replace, **given)
            if said not in {*TAKEN, "NoSuchUpload"}:
                raise
            there = self._bucket.look(key) if len(tries) > 1 else None
            if there and there.size == sent.size and (there.etag == sent.expected or there.md5 == sent.md5):
                return {"ETag": there.etag}
            if said == "NoSuchUpload":
                raise TransientError("somebody else ended the upload", connection=self._bucket.connection) from None
            raise self._exists() from None

    def _verified(self, key: str, sent: Sent, before: Found | None) -> Stored:
        """Know what is there now. What is not what was sent is removed, if it is ours and nothing was there."""
        # Some services take what ends in a slash for a folder, say that all went well, and keep nothing of it.
        if sent.etag == sent.expected == sent.md5 and not key.endswith("/"):
            self._proves = True
            return Stored(sent.size, sent.md5, sent.etag)
        there = self._bucket.look(key)
        if there and there.size == sent.size and _agree(sent, there) and self._proved(sent, there):
            return Stored(sent.size, sent.md5, there.etag)
        if there and before is None and there.etag == sent.etag:
            self._bucket.remove(key)
        raise RejectedError("changed", "what is there is not what was sent", connection=self._bucket.connection)

    def _proved(self, sent: Sent, there: Found) -> bool:
        """Whether bytes that nobody hashed after all are those that were sent: by reading them."""
        if sent.hashed or there.etag == sent.md5:
            return True
        self._proves = False
        md5 = hashlib.md5(usedforsecurity=False)
        for piece in self._bucket.stream(self._bucket.get(there.key, 0, there.etag)):
            md5.update(piece)
        return md5.hexdigest() == sent.md5

    def _give_up(self, key: str, upload: str) -> bool:
        """End an upload without an object; False where it cannot be ended now, which is left to `abandon`."""
        try:
            self._bucket.ask("abort_multipart_upload", Key=key, UploadId=upload)
        except self._bucket.client.exceptions.ClientError as error:
            return code(error) == "NoSuchUpload"
        except ConnectorError:
            return False
        return True

    def abandon(self, prefix: str) -> int:
        """Give up unfinished uploads below ``prefix`` that are ours, see `MARK`, and older than `OLD`.

        One without any part holds nothing, and cannot be told from others': it is left to the bucket's own rules.
        """
        count = 0
        for one in self._unfinished(prefix):
            if one["UploadId"] not in self._going and self._clock() - one["Initiated"] > OLD and self._ours(one):
                count += self._give_up(one["Key"], one["UploadId"])
        return count

    def _unfinished(self, prefix: str) -> Iterator[Mapping[str, Any]]:
        more: dict[str, Any] = {}
        while True:
            try:
                page = self._bucket.ask("list_multipart_uploads", Prefix=prefix, **more)
            except self._bucket.client.exceptions.ClientError as error:
                if code(error) == "NotImplemented":
                    facts = {"connection": self._bucket.connection}
                    _LOG.info(
                        "unfinished uploads cannot be listed here, and are left to the service", extra={"facts": facts}
                    )
                    return
                raise
            yield from page.get("Uploads", [])
            if not page.get("IsTruncated"):
                return
            more = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def _ours(self, upload: Mapping[str, Any]) -> bool:
        try:
            answer = self._bucket.ask("list_parts", Key=upload["Key"], UploadId=upload["UploadId"], MaxParts=1)
        except self._bucket.client.exceptions.ClientError as error:
            if code(error) in {"NoSuchUpload", "NotImplemented"}:
                return False
            raise
        return any(part["PartNumber"] == 1 and part["Size"] % MIB == MARK for part in answer.get("Parts", []))

    def _exists(self) -> RejectedError:
        return RejectedError("exists", "there is an object with this key", connection=self._bucket.connection)


def _after(begun: list[bytes], incoming: Incoming, size: int) -> Iterator[bytes]:
    """The blocks that were read already, and all others; none is kept."""
    while begun:
        yield begun.pop(0)
    while block := incoming.block(size):
        yield block


def _agree(sent: Sent, there: Found) -> bool:
    """Whether the ETags say that the bytes are the same; a service whose ETags are of another form says nothing."""
    if not there.checked or not sent.expected or there.etag is None:
        return True
    hashed, _, parts = there.etag.partition("-")
    looks_so = len(hashed) == 32 and parts == sent.expected.partition("-")[2]
    return there.etag == sent.expected if looks_so else True


def _base64(md5: str) -> str:
    return base64.b64encode(bytes.fromhex(md5)).decode()
