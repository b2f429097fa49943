"""S3, R2 and every service that speaks S3's API: the objects of one bucket, read and written."""

from __future__ import annotations

import base64
import difflib
import functools
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator, model_validator

from resettle.batch import Action, Batch, Partition, Schema
from resettle.calls import Caller, in_the_open, seconds_of
from resettle.connector import Body, Needs, Sql, Stored
from resettle.connectors import _s3_identity as identity
from resettle.connectors import _s3_listing as listing
from resettle.connectors._cognito import CognitoError, CognitoSettings, cognito_error
from resettle.connectors._s3_bucket import Bucket, Found, code, md5_in, rights
from resettle.connectors._s3_client import connect
from resettle.connectors._s3_memory import Memory
from resettle.connectors._s3_upload import MIB, Uploads
from resettle.connectors._s3_wire import Wire
from resettle.errors import AccessError, ConfigError, ConnectorError, RejectedError, TransientError


class S3Settings(BaseModel):
    """Settings of a connection of type `s3`; credentials that are left out are found as every AWS tool finds them."""

    model_config = ConfigDict(extra="forbid")

    bucket: str = Field(description="its name")
    prefix: str = Field(default="", description="only objects whose key begins so are seen; keys stay whole")
    plain_http: bool = Field(default=False, description="an `endpoint` without TLS, elsewhere than on this machine")
    endpoint: str | None = Field(
        default=None, description="https://ACCOUNT.r2.cloudflarestorage.com for R2; AWS where left out"
    )
    region: str | None = Field(default=None, description="the bucket's region")
    profile: str | None = Field(default=None, description="of AWS's own configuration on this machine")
    access_key: SecretStr | None = Field(default=None, description="the id of an access key")
    secret_key: SecretStr | None = Field(default=None, description="the secret that belongs to `access_key`")
    session_token: SecretStr | None = Field(default=None, description="of temporary credentials")
    cognito: CognitoSettings | None = Field(default=None, description="the user that `identity_pool` vouches for")
    identity_pool: str = Field(default="", description="whose credentials the user of `cognito` gets, as in Amplify")
    path_style: bool | None = Field(
        default=None, description="the bucket in the URL's path; so with an `endpoint`, where left out"
    )
    part_size: int = Field(
        default=8 * MIB,
        ge=5 * MIB,
        le=5 << 30,
        description="bytes of a part of a large upload, and so of the memory that one takes",
    )
    readonly: bool = Field(default=False, description="refuse to write")

    @field_validator("endpoint")
    @classmethod
    def _is_a_place(cls, value: str | None, info: ValidationInfo) -> str | None:
        parts = urlsplit(value or "https://aws")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("begins with https:// (or http://, for a server on this machine)")
        if parts.path.strip("/") or parts.username:
            raise ValueError("has a host alone: the bucket and the keys have settings of their own")
        if value and in_the_open(value) and not info.data.get("plain_http"):
            raise ValueError("begins with https://: elsewhere than on this machine http:// needs `plain_http: true`")
        return value

    @model_validator(mode="after")
    def _is_a_pair(self) -> S3Settings:
        if (self.access_key is None) != (self.secret_key is None):
            raise ValueError("`access_key` and `secret_key` come together")
        if self.identity_pool and (self.cognito is None or self.access_key or self.profile):
            raise ValueError("`identity_pool` needs `cognito`, and no `access_key` and `profile` beside it")
        return self


ERRORS: Mapping[str, type[ConnectorError]] = {
    "400": AccessError,  # a look at an object has no body: an expired token or a wrong signature
    "403": AccessError,
    "AccessDenied": AccessError,
    "AccountProblem": AccessError,
    "AllAccessDisabled": AccessError,
    "AuthorizationHeaderMalformed": AccessError,
    "ExpiredToken": AccessError,
    "InvalidAccessKeyId": AccessError,
    "InvalidToken": AccessError,
    "RequestTimeTooSkewed": AccessError,
    "SignatureDoesNotMatch": AccessError,
    "TokenRefreshRequired": AccessError,
    "Unauthorized": AccessError,
    **identity.ERRORS,
    "BadDigest": TransientError,  # damaged on its way
    "ConditionalRequestConflict": TransientError,
    "IncompleteBody": TransientError,
    "InternalError": TransientError,
    "OperationAborted": TransientError,
    "RequestTimeout": TransientError,
    "ServiceUnavailable": TransientError,
    "XAmzContentSHA256Mismatch": TransientError,
    # botocore's own exceptions, by class
    "CredentialRetrievalError": AccessError,
    "NoAuthTokenError": AccessError,
    "NoCredentialsError": AccessError,
    "PartialCredentialsError": AccessError,
    "SSOError": AccessError,
    "TokenRetrievalError": AccessError,
    "ConnectionError": TransientError,
    "HTTPClientError": TransientError,
    "HTTPError": TransientError,  # urllib3's, on the way to a sign-in
    "IncompleteReadError": TransientError,
    "ResponseStreamingError": TransientError,
}
"""By error code (the HTTP status where a look has none), and by the name of an exception's class or of its bases."""

THROTTLES = frozenset(
    {"429", "503", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "TooManyRequestsException"}
)
"""Codes that say "too fast": transient, and the pace is halved."""

REFUSALS: Mapping[str, str] = {
    "EntityTooLarge": "too_large",
    "InvalidObjectState": "archived",  # in Glacier: it must be restored before it can be read
    "KeyTooLongError": "key",
    "MetadataTooLarge": "metadata",
}
"""Codes that concern one object: the reason it is refused for."""

PERMISSIONS = (
    "check the credentials, the endpoint and this machine's clock, and that s3:ListBucket and s3:GetObject are allowed "
    "(for a target also s3:PutObject, s3:AbortMultipartUpload, s3:ListBucketMultipartUploads, "
    "s3:ListMultipartUploadParts and s3:DeleteObject)"
)

DATASET = "objects"
LONGEST_KEY = 1024
METADATA = 2048
"""Bytes that all user metadata of an object may have, names and values."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_PLAIN = re.compile(r"[!-~]([ -~]*[!-~])?")


def errors(error: BaseException, connection: str = "") -> ConnectorError | None:
    """What an error of boto3 means; None for one that the tables do not hold, which is never retried."""
    if isinstance(error, CognitoError):
        return cognito_error(error, connection)
    response: Mapping[str, Any] = getattr(error, "response", None) or {}
    metadata: Mapping[str, Any] = response.get("ResponseMetadata", {})
    known: type[ConnectorError] | None = None
    name = code(error)
    # Without the service's message: it may quote a key, and names who we are.
    said = f"{name or type(error).__name__} from {getattr(error, 'operation_name', 'S3')}"
    if name in REFUSALS:
        return RejectedError(REFUSALS[name], said, connection=connection)
    if name in THROTTLES:
        known = TransientError
    for one in [name] if name else [kind.__name__ for kind in type(error).__mro__]:
        known = known or ERRORS.get(one)
    if known is None and metadata.get("HTTPStatusCode", 0) >= 500 and name != "NotImplemented":
        known = TransientError
    if known is TransientError:
        after = seconds_of(metadata.get("HTTPHeaders", {}).get("retry-after"))
        return TransientError(said, connection=connection, retry_after=after, throttled=name in THROTTLES)
    hint = identity.HINT if getattr(error, "operation_name", "") in identity.OPERATIONS else PERMISSIONS
    return known(said, connection=connection, hint=hint) if known else None


class S3:
    """Source and Target over one bucket, whose one dataset `objects` is a listing; `put` writes, `write` cannot.

    On boto3, with its own retries off; it still follows a bucket to its region by itself. Keys are those of the
    bucket, whole, whatever characters they hold; outside of ``prefix`` nothing is seen and nothing written. ``md5``
    is the ETag where it is one, else what the object's metadata `resettle-md5` says, which only a look at that object
    tells. Nothing here is undone by a transaction.
    """

    transactional = False

    def privileges(self, needs: Needs, *, rollback: bool = False) -> Sequence[str]:
        return rights(needs, self._settings.bucket, self._settings.prefix, rollback=rollback)

    def __init__(
        self,
        name: str,
        settings: S3Settings,
        *,
        caller: Caller | None = None,
        client: Any = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.name = name
        self._settings = settings
        translate = functools.partial(errors, connection=name)
        call = caller or Caller(translate, connection=name)
        self._client, credentials = (client, None) if client else connect(name, settings)
        wire = Wire(self._client, credentials, settings.bucket, clock)
        self._bucket = Bucket(name, wire, call, settings.bucket, translate)
        self._listed = listing.Listed()
        self._memory = Memory(self._bucket)
        self._uploads = Uploads(self._bucket, call, settings.part_size, clock)
        self._local = threading.local()

    # -- reading -----------------------------------------------------------------------------------

    def datasets(self) -> Sequence[str]:
        return [DATASET]

    def schema(self, dataset: str) -> Schema:
        """Fixed, but only where the bucket is there."""
        self._known(dataset)
        self._bucket.reach()
        may = {"select"} if self._settings.readonly else {"select", "insert", "update"}
        return Schema(dataset, listing.COLUMNS, ("key",), privileges=frozenset(may))

    def count(self, dataset: str) -> int | None:
        """Unknown: a bucket is counted by listing it."""
        self._known(dataset)
        return None

    def partitions(self, dataset: str, wanted: int) -> Sequence[Partition]:
        """By folder, where there are some; see `_s3_listing.partitions`."""
        self._known(dataset)
        return listing.partitions(self._bucket, dataset, self._settings.prefix, wanted)

    def read(self, partition: Partition, rows: int) -> Iterator[Batch]:
        """A batch is a page: at most 1,000 objects. ``content_type`` is null: a listing does not know it."""
        names = [column.name for column in listing.COLUMNS]
        for found in listing.read(self._bucket, partition.detail, rows):
            self._listed.add(found)
            yield Batch(partition.dataset, listing.table(found, names))

    def close(self) -> None:
        self._client.close()

    def open(self, dataset: str, key: str) -> Body:
        """The object as it is now: `chunks` raises RejectedError("changed") if it is another by then.

        One that this connection listed a while ago is asked for at once, without a look before: if it is the same
        still, the answer says what the listing did not.
        """
        self._known(dataset)
        if (listed := self._listed.take(key)) is not None and (body := self._opened(listed)) is not None:
            return body
        found = self._look(key)
        if found is None:
            raise RejectedError("gone", "there is no such object", connection=self.name)
        return Body(functools.partial(self._chunks, found, []), found.size, found.md5, found.content_type)

    def _opened(self, found: Found) -> Body | None:
        """A listed object with its first answer; None where it is another one now."""
        try:
            answer = self._bucket.get(found.key, 0, found.etag)
        except RejectedError:
            return None
        chunks = functools.partial(self._chunks, found, [answer])
        return Body(chunks, found.size, md5_in(answer), answer.get("ContentType"))

    def _chunks(self, found: Found, begun: list[Mapping[str, Any]], start: int) -> Iterator[bytes]:
        """The bytes; ``begun`` holds the answer that is there already, for whoever reads from the beginning first."""
        if start >= found.size:
            return iter(())
        answer = begun.pop() if begun and start == 0 else self._bucket.get(found.key, start, found.etag)
        return self._bucket.stream(answer)

    def _look(self, key: str) -> Found | None:
        self._bucket.reach()
        return self._bucket.look(key) if key and key.startswith(self._settings.prefix) else None

    # -- writing -----------------------------------------------------------------------------------

    def put(self, dataset: str, key: str, body: Body, *, metadata: Mapping[str, str], replace: bool) -> Stored:
        """See `BodyTarget.put`. Verified by its size and its ETag, where that is made of MD5s.

        The metadata `resettle-md5` says the MD5, except where a body of several parts had none beforehand.
        """
        self._writable(dataset)
        if not key.startswith(self._settings.prefix) or not 0 < len(key.encode()) <= LONGEST_KEY:
            raise RejectedError("key", "empty, too long, or outside of the prefix", connection=self.name)
        given: dict[str, Any] = {"Metadata": _metadata(metadata, self.name)}
        given |= {"ContentType": body.content_type} if body.content_type else {}
        self._bucket.reach()
        self._memory.touched(key)
        return self._uploads.put(key, body, given, replace=replace)

    def abandon(self, dataset: str) -> int:
        """Give up unfinished uploads below the prefix that are ours by the size of their parts, after a day."""
        self._writable(dataset)
        return self._uploads.abandon(self._settings.prefix)

    def delete(self, dataset: str, keys: pa.Table) -> int:
        """Objects are looked for first: the service does not say whether it removed any. In a bucket with versions
        the older ones stay."""
        self._writable(dataset)
        found = self._found(keys, [])
        for one in found:
            self._memory.touched(one.key)
        with listing.pool() as pool:
            return sum(1 for _ in pool.map(self._bucket.remove, (one.key for one in found)))

    def write(self, dataset: str, rows: pa.Table, key: Sequence[str], action: Action) -> None:
        """Never: an object is a file."""
        self._writable(dataset)
        hint = "give the output a `body:`, the file that each object gets its bytes from"
        raise ConfigError(f"{self.name}: `{dataset}` takes files, not rows", hint=hint)

    def refusals(
        self, writes: Sequence[tuple[str, pa.Table, Sequence[str], Action]], units: Sequence[pa.Array]
    ) -> pa.Table | None:
        return None

    def sql(self) -> Sql | None:
        return None

    @contextmanager
    def transaction(self, *, readonly: bool = False) -> Iterator[None]:
        """A scope, in which ``readonly`` refuses this thread's writing. What is done stays done."""
        if getattr(self._local, "open", None):
            raise ConfigError(f"{self.name}: a bucket has no transaction within a transaction")
        self._local.open = "reading" if readonly else "writing"
        try:
            yield
        finally:
            self._local.open = None

    def empty(self, dataset: str) -> bool:
        self._known(dataset)
        pages = self._bucket.pages(1, Prefix=self._settings.prefix)
        return not any(page.get("Contents") for page in pages)

    def fetch(self, dataset: str, keys: pa.Table, columns: Sequence[str], *, lock: bool = False) -> pa.Table:
        """By key only. Nothing can be locked."""
        self._known(dataset)
        return listing.table(self._found(keys, columns), list(dict.fromkeys(["key", *columns])))

    def remembering(self) -> AbstractContextManager[None]:
        """A listing is kept, once looks would have taken more requests; see `_s3_memory.Memory`."""
        return self._memory.remembering()

    def orphans(self, dataset: str) -> pa.Table:
        """None: objects point at nothing."""
        return pa.table({"constraint": pa.array([], pa.string()), "count": pa.array([], pa.int64())})

    def ask(self, sql: str, *, role: str | None = None, claims: str | None = None) -> list[tuple[Any, ...]]:
        raise ConfigError(f"{self.name}: a bucket answers no SQL")

    def _found(self, keys: pa.Table, columns: Sequence[str]) -> list[Found]:
        if keys.column_names != ["key"]:
            raise ConfigError(f"{self.name}: objects are found by `key` alone")
        self._bucket.reach()
        prefix = self._settings.prefix
        wanted = {key for key in keys["key"].to_pylist() if key and key.startswith(prefix)}
        return self._memory.find(sorted(wanted), columns)

    def _writable(self, dataset: str) -> None:
        self._known(dataset)
        if self._settings.readonly or getattr(self._local, "open", None) == "reading":
            raise AccessError("the connection or the transaction is read-only", connection=self.name)

    def _known(self, dataset: str) -> None:
        if dataset != DATASET:
            near = difflib.get_close_matches(dataset, [DATASET], 1)
            hint = f"did you mean `{DATASET}`?" if near else f"there is one: `{DATASET}`"
            raise ConfigError(f"{self.name}: there is no dataset `{dataset}`", hint=hint)


def _metadata(given: Mapping[str, str], connection: str) -> dict[str, str]:
    """User metadata as it may go in headers: what is not plain ASCII in the form of RFC 2047, as S3 itself shows it."""
    for name in given:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{connection}: `{name}` cannot name metadata: lower-case letters, digits and hyphens can"
            )
    told = {name: value if _PLAIN.fullmatch(value) else _encoded(value) for name, value in given.items()}
    if sum(len(name) + len(value) for name, value in told.items()) > METADATA:
        raise RejectedError("metadata", f"more than {METADATA} bytes", connection=connection)
    return told


def _encoded(value: str) -> str:
    """Words of at most 75 characters, none of which cuts a code point; nothing for an empty value."""
    parts = (value[at : at + 11].encode() for at in range(0, len(value), 11))
    return " ".join(f"=?utf-8?b?{base64.b64encode(part).decode()}?=" for part in parts)
