"""One bucket through one `Caller`: looking at objects, listing them, reading, removing; no decision is made here."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from resettle.calls import Caller
from resettle.connector import Needs
from resettle.errors import AccessError, ConfigError, ConnectorError, RejectedError

MD5 = "resettle-md5"
"""The user metadata that holds a body's MD5 as lower-case hex, where it was known when the upload began."""

PIECE = 1 << 18
"""Bytes read from the network at a time: few enough to be still in the processor's cache when they are sent on."""

_HEX = re.compile(r"[0-9a-f]{32}")
_ABSENT = frozenset({"404", "NoSuchKey", "NotFound"})


@dataclass(frozen=True)
class Found:
    """An object as it lies there; ``md5`` and ``content_type`` are None where what was asked does not tell."""

    key: str
    size: int
    etag: str | None
    md5: str | None
    last_modified: datetime
    content_type: str | None = None
    checked: bool = False
    """Whether the ETag is made of MD5s (it is not where the service encrypts by a key of its own)."""


class Bucket:
    """Every call over the wire, each retried and translated by ``call``; raises ConfigError if there is no bucket."""

    def __init__(self, connection: str, client: Any, call: Caller, name: str, translate: Callable[..., Any]) -> None:
        self.connection, self.name = connection, name
        self.client, self._call, self._translate = client, call, translate
        self.conditional = True
        """Whether the service offers If-None-Match when writing; found out by trying."""
        self._lock = threading.Lock()
        self._reached = False
        self._mixed = False
        """Whether some objects are known to have no MD5 for an ETag, or none may be looked at."""
        self._plain: list[datetime] = []
        """When the oldest and the newest were made that were seen to have one."""

    def ask(self, verb: str, /, *, tries: list[str] | None = None, **given: Any) -> Any:
        """One operation of S3 in this bucket; ``tries`` gets its name each time that it is tried."""

        def once(**given: Any) -> Any:
            if tries is not None:
                tries.append(verb)
            return getattr(self.client, verb)(**given)

        try:
            return self._call(once, Bucket=self.name, **given)
        except self.client.exceptions.ClientError as error:
            if code(error) in {"NoSuchBucket", "PermanentRedirect", "InvalidBucketName"}:
                raise self._unreachable(code(error)) from None
            raise

    def reach(self) -> None:
        """See once that the bucket is there: a look at an object cannot tell it from a missing object."""
        if not self._reached:
            self.ask("list_objects_v2", MaxKeys=1)
            self._reached = True

    def look(self, key: str) -> Found | None:
        """One object, or None where there is none."""
        try:
            head = self.ask("head_object", Key=key)
        except self.client.exceptions.ClientError as error:
            if code(error) in _ABSENT:
                return None
            raise
        return Found(
            key,
            head["ContentLength"],
            bare(head.get("ETag")),
            md5_in(head),
            head["LastModified"],
            head.get("ContentType"),
            checked=not encrypted(head),
        )

    def pages(self, size: int = 1000, **given: Any) -> Iterator[Mapping[str, Any]]:
        """Every page of a listing, empty ones too, until the service says that it was the last."""
        more: dict[str, Any] = {}
        while True:
            page = self.ask("list_objects_v2", MaxKeys=max(1, min(1000, size)), **given, **more)
            self._reached = True
            yield page
            if not page.get("IsTruncated"):
                return
            if not page.get("NextContinuationToken"):
                raise ConnectorError("a listing goes on, but does not say where", connection=self.connection)
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def found(self, page: Mapping[str, Any]) -> list[Found]:
        """The objects of one page."""
        contents = page.get("Contents", [])
        plain = self._etags_are_md5s(contents)
        listed = []
        for one in contents:
            etag = bare(one.get("ETag"))
            listed.append(Found(one["Key"], one["Size"], etag, md5_of(etag) if plain else None, one["LastModified"]))
        return listed

    def _etags_are_md5s(self, contents: Sequence[Mapping[str, Any]]) -> bool:
        """Where KMS encrypts, ETags only look like MD5s; a listing does not say so, an object does.

        A bucket may begin or cease to be encrypted at any time: the oldest and the newest tell of those between.
        """
        with self._lock:
            ends = (min(contents, key=_made), max(contents, key=_made)) if contents else ()
            return all(map(self._is_plain, ends))

    def _is_plain(self, one: Mapping[str, Any]) -> bool:
        if self._mixed or (self._plain and self._plain[0] <= _made(one) <= self._plain[1]):
            return not self._mixed
        try:
            seen = self.look(one["Key"])
        except AccessError:
            self._mixed = True  # it may be listed but not looked at: then nothing is claimed
            return False
        if seen is None:
            return False
        self._mixed = not seen.checked
        self._plain = [min([_made(one), *self._plain]), max([_made(one), *self._plain])]
        return seen.checked

    def get(self, key: str, start: int, etag: str | None) -> Mapping[str, Any]:
        """The answer with an object's bytes from ``start`` on; `stream` reads it."""
        given: dict[str, Any] = {"Range": f"bytes={start}-"} if start else {}
        given |= {"IfMatch": f'"{etag}"'} if etag else {}
        try:
            answer: Mapping[str, Any] = self.ask("get_object", Key=key, **given)
            return answer
        except self.client.exceptions.ClientError as error:
            if code(error) in {"PreconditionFailed", "412"}:
                raise RejectedError("changed", "it changed while it was read", connection=self.connection) from None
            if code(error) in _ABSENT:
                raise RejectedError("gone", "there is no such object", connection=self.connection) from None
            raise

    def stream(self, answer: Mapping[str, Any]) -> Iterator[bytes]:
        """The bytes of an answer of `get`. TransientError where it was cut."""
        with closing(answer["Body"]) as body:
            try:
                yield from body.iter_chunks(PIECE)
            except Exception as error:
                translated = self._translate(error)
                if translated is None:
                    raise
                raise translated from None

    def remove(self, key: str) -> None:
        """Removing what is absent succeeds."""
        self.ask("delete_object", Key=key)

    def _unreachable(self, said: str) -> ConfigError:
        if said == "PermanentRedirect":
            hint = "give the region that the bucket is in"
            return ConfigError(f"{self.connection}: the bucket `{self.name}` is in another region", hint=hint)
        return ConfigError(f"{self.connection}: there is no bucket `{self.name}`", hint=self._near())

    def _near(self) -> str:
        import difflib

        otherwise = "check the bucket's name, the endpoint and the account"
        try:
            names = [one["Name"] for one in self._call(self.client.list_buckets)["Buckets"]]
        except (ConnectorError, self.client.exceptions.ClientError):
            return otherwise  # few may list the buckets of an account
        near = difflib.get_close_matches(self.name, names, 1)
        return f"did you mean `{near[0]}`?" if near else otherwise


def code(error: BaseException) -> str:
    """The service's own word for an error; the HTTP status where it has no body, or a proxy's page."""
    response: Mapping[str, Any] = getattr(error, "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", "")
    return str(response.get("Error", {}).get("Code") or status)


def bare(etag: str | None) -> str | None:
    """An ETag without its quotes."""
    return etag.removeprefix("W/").strip('"') if etag else None


def md5_of(etag: str | None) -> str | None:
    """The MD5 that an ETag is, if it looks like one."""
    return etag if etag and _HEX.fullmatch(etag) else None


def md5_in(answer: Mapping[str, Any]) -> str | None:
    """The MD5 that an answer about an object tells: its ETag, where that is one, else what we noted in its metadata."""
    said = str(answer.get("Metadata", {}).get(MD5, "")).lower()
    etag = None if encrypted(answer) else md5_of(bare(answer.get("ETag")))
    return etag or (said if _HEX.fullmatch(said) else None)


def encrypted(answer: Mapping[str, Any]) -> bool:
    """Whether an object's ETag is no MD5 although it may look like one: encrypted by KMS or by the caller's key."""
    return str(answer.get("ServerSideEncryption", "")).startswith("aws:kms") or "SSECustomerAlgorithm" in answer


def _made(one: Mapping[str, Any]) -> datetime:
    made: datetime = one["LastModified"]
    return made


def rights(needs: Needs, bucket: str, prefix: str, *, rollback: bool) -> list[str]:
    """The actions of a policy of IAM, and on what."""
    whole, below = f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/{prefix}*"
    writes = any(use.created for use in needs.uses)
    if rollback:
        return [f"s3:DeleteObject on {below}"] if writes else []
    read = [f"s3:ListBucket on {whole}", f"s3:GetObject on {below}"]
    uploads = [f"s3:ListBucketMultipartUploads on {whole}", f"s3:ListMultipartUploadParts on {below}"]
    written = [f"s3:PutObject on {below}", f"s3:AbortMultipartUpload on {below}", *uploads]
    return [*read, *written] if writes else read
