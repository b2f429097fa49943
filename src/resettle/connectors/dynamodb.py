"""DynamoDB tables, read from the live service or from their exports; always read, never written."""

from __future__ import annotations

import difflib
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator

from resettle.batch import RECORD, Batch, Column, Partition, Schema
from resettle.calls import Caller, in_the_open, seconds_of
from resettle.connector import Needs, Source
from resettle.connectors import _dynamodb_json as typed
from resettle.connectors._dynamodb_export import Bucket, Exports, Folder, Store
from resettle.connectors._lines import batches
from resettle.errors import AccessError, ConfigError, ConnectorError, TransientError


class DynamoDBSettings(BaseModel):
    """Settings of a connection of type `dynamodb`; what is left out is found as every AWS tool finds it."""

    model_config = ConfigDict(extra="forbid")

    region: str | None = Field(default=None, description="the AWS region")
    plain_http: bool = Field(default=False, description="an `endpoint_url` without TLS, elsewhere than on this machine")
    endpoint_url: str | None = Field(default=None, description="the URL of a stand-in; AWS where left out")
    profile: str | None = Field(default=None, description="of AWS's own configuration on this machine")
    access_key_id: SecretStr | None = Field(default=None, description="the id of an access key")
    secret_access_key: SecretStr | None = Field(default=None, description="the secret that belongs to `access_key_id`")
    session_token: SecretStr | None = Field(default=None, description="of temporary credentials")
    consistent: bool = Field(default=False, description="strongly consistent reads, at twice the price")
    segments: int | None = Field(default=None, ge=1, le=1_000_000, description="parts of a parallel scan")
    export: str | None = Field(default=None, description="a folder or s3://bucket/prefix with table exports")
    export_id: str | None = Field(default=None, description="one export, where not the newest of its table")

    @field_validator("endpoint_url")
    @classmethod
    def _is_shut(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value and value.startswith("http:") and in_the_open(value) and not info.data.get("plain_http"):
            raise ValueError("begins with https://: elsewhere than on this machine http:// needs `plain_http: true`")
        return value


ERRORS: Mapping[str, type[ConnectorError]] = {
    "401": AccessError,  # without a code of the service's own: a proxy's answer
    "403": AccessError,
    "AccessDenied": AccessError,
    "AccessDeniedException": AccessError,
    "ExpiredToken": AccessError,
    "ExpiredTokenException": AccessError,
    "IncompleteSignature": AccessError,
    "IncompleteSignatureException": AccessError,
    "InvalidAccessKeyId": AccessError,
    "InvalidClientTokenId": AccessError,
    "InvalidSignatureException": AccessError,
    "InvalidToken": AccessError,
    "MissingAuthenticationToken": AccessError,
    "MissingAuthenticationTokenException": AccessError,
    "NotAuthorized": AccessError,
    "OptInRequired": AccessError,
    "RequestExpired": AccessError,
    "RequestTimeTooSkewed": AccessError,
    "SignatureDoesNotMatch": AccessError,
    "UnrecognizedClientException": AccessError,
    "InternalError": TransientError,
    "InternalFailure": TransientError,
    "InternalServerError": TransientError,
    "ReplicatedWriteConflictException": TransientError,
    "RequestTimeout": TransientError,
    "ServiceUnavailable": TransientError,
    "TransactionInProgressException": TransientError,
    "InvalidObjectState": ConnectorError,  # of an export's file
    "ValidationException": ConnectorError,
    # botocore's own exceptions, by class
    "CredentialRetrievalError": AccessError,
    "NoAuthTokenError": AccessError,
    "NoCredentialsError": AccessError,
    "PartialCredentialsError": AccessError,
    "SSOError": AccessError,
    "TokenRetrievalError": AccessError,
    "ConnectionError": TransientError,
    "FlexibleChecksumError": TransientError,  # damaged on its way
    "HTTPClientError": TransientError,
    "IncompleteReadError": TransientError,
    "ResponseStreamingError": TransientError,
}
"""By error code, and by the name of an exception class or one of its bases (boto3 is imported late)."""

THROTTLES = frozenset(
    {
        "429",
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
"""Codes that say "too fast": transient, and the pace is halved."""

PERMISSIONS = (
    "check the credentials and that they allow dynamodb:ListTables, dynamodb:DescribeTable and dynamodb:Scan "
    "(for exports s3:ListBucket and s3:GetObject), and kms:Decrypt where a key of your own encrypts"
)

HINTS: Mapping[str, str] = {
    "InvalidObjectState": "the export is archived: restore its objects first",
    "ValidationException": "check the table's name, and `segments` and `consistent` of the connection",
}


def errors(error: BaseException, connection: str = "") -> ConnectorError | None:
    """What an error of boto3 means; None for one that the tables do not hold, which is never retried."""
    response: Mapping[str, Any] = getattr(error, "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = str(response.get("Error", {}).get("Code") or status or "")  # a proxy's page has no code
    # Without the service's message: it may quote values, and names who we are.
    said = f"{code or type(error).__name__} from {getattr(error, 'operation_name', 'AWS')}"
    after = seconds_of(response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("retry-after"))
    if code in THROTTLES:
        return TransientError(said, connection=connection, retry_after=after, throttled=True)
    names = [code] if code else [kind.__name__ for kind in type(error).__mro__]
    known = next((ERRORS[name] for name in names if name in ERRORS), None)
    if known is None and status >= 500:
        known = TransientError
    if known is None and code.startswith("KMS"):  # KMSAccessDeniedException; of S3 KMS.DisabledException and its like
        known = AccessError
    if known is None:
        return None
    if known is TransientError:
        return TransientError(said, connection=connection, retry_after=after)
    return known(said, connection=connection, hint=PERMISSIONS if known is AccessError else HINTS.get(code))


class DynamoDB:
    """Source over the tables of one region, or over exports of them; see `Live` and `Exports`."""

    def __init__(
        self, name: str, settings: DynamoDBSettings, *, caller: Caller | None = None, client: Any = None
    ) -> None:
        self.name = name
        self._export = settings.export
        call = caller or Caller(errors, connection=name)
        self._form: Source
        if settings.export:
            store = _store(name, settings, settings.export, call, client)
            self._form = Exports(name, store, settings.export_id)
        else:
            client = client or _client(name, settings, "dynamodb")
            self._form = Live(name, client, call, settings.segments, settings.consistent)

    def privileges(self, needs: Needs, *, rollback: bool = False) -> Sequence[str]:
        export = self._export or ""
        if rollback or (export and not export.startswith("s3://")):
            return ()
        if export:
            bucket, _, prefix = export.removeprefix("s3://").partition("/")
            return (f"s3:ListBucket on arn:aws:s3:::{bucket}", f"s3:GetObject on arn:aws:s3:::{bucket}/{prefix}*")
        tables = [f"arn:aws:dynamodb:*:*:table/{use.dataset}" for use in needs.uses]
        own = [f"dynamodb:{action} on {table}" for table in tables for action in ("DescribeTable", "Scan")]
        return ("dynamodb:ListTables on *", *own)

    def datasets(self) -> Sequence[str]:
        """Table names, sorted."""
        return self._form.datasets()

    def schema(self, dataset: str) -> Schema:
        """What a sample holds; all text, see `_dynamodb_json.columns`. An export does not know its key."""
        return self._form.schema(dataset)

    def count(self, dataset: str) -> int | None:
        """Exact for an export; unknown for a live table, whose count is hours old."""
        return self._form.count(dataset)

    def partitions(self, dataset: str, wanted: int) -> Sequence[Partition]:
        """Segments of a parallel scan, or groups of export files, all of them present and of their MD5."""
        return self._form.partitions(dataset, wanted)

    def read(self, partition: Partition, rows: int) -> Iterator[Batch]:
        """Undecoded records; a scan is no snapshot: a record written meanwhile may come old or new."""
        return self._form.read(partition, rows)

    def close(self) -> None:
        self._form.close()


class Live:
    """The service itself, by Scan to its end marker; a page may be empty before that."""

    def __init__(self, name: str, client: Any, call: Caller, segments: int | None, consistent: bool) -> None:
        self.name = name
        self._client, self._call = client, call
        self._segments, self._consistent = segments, consistent

    def datasets(self) -> Sequence[str]:
        names: list[str] = []
        more: dict[str, str] = {}
        while True:
            page = self._ask("list_tables", "TableNames", **more)
            names += page["TableNames"]
            if not page.get("LastEvaluatedTableName"):
                return sorted(names)
            more = {"ExclusiveStartTableName": page["LastEvaluatedTableName"]}

    def schema(self, dataset: str) -> Schema:
        table = self._describe(dataset)
        key = tuple(part["AttributeName"] for part in table["KeySchema"])
        pages = self._pages(dataset, {"Limit": 500})
        some = itertools.islice(filter(len, pages), 2)
        sample = pa.table({RECORD: pa.chunked_array(some, pa.string())})
        found = {column.name: column for column in typed.columns(sample)}
        tags = {part["AttributeName"]: part["AttributeType"] for part in table["AttributeDefinitions"]}
        for name in key:
            found[name] = typed.column(name, {tags[name]}, nullable=False)
        return Schema(dataset, _ordered(found, key), key, privileges=frozenset({"select"}), open=True)

    def count(self, dataset: str) -> int | None:
        self._describe(dataset)
        return None

    def partitions(self, dataset: str, wanted: int) -> Sequence[Partition]:
        self._describe(dataset)
        parts = self._segments or max(1, wanted)
        return [
            Partition(dataset, f"segment {n + 1} of {parts}", {"Segment": n, "TotalSegments": parts})
            for n in range(parts)
        ]

    def read(self, partition: Partition, rows: int) -> Iterator[Batch]:
        pages = self._pages(partition.dataset, {**partition.detail, "Limit": rows})
        for table in batches(pages, rows):
            yield Batch(partition.dataset, table, typed.decode_sound)

    def close(self) -> None:
        self._client.close()

    def _pages(self, dataset: str, options: Mapping[str, Any]) -> Iterator[pa.Array]:
        """Every page of a scan, empty ones too, as records."""
        scan = functools.partial(
            self._ask,
            "scan",
            "Items",
            TableName=dataset,
            ConsistentRead=self._consistent,
            ReturnConsumedCapacity="TOTAL",
            **options,
        )
        more: dict[str, Any] = {}
        while True:
            try:
                page = scan(**more)
            except self._client.exceptions.ResourceNotFoundException:
                said, hint = f'the table "{dataset}" was deleted while it was read', "run again once it is there"
                raise ConnectorError(said, connection=self.name, hint=hint) from None
            # What the read costs its owner; shown beside calls and retries.
            spent = (page.get("ConsumedCapacity") or {}).get("CapacityUnits", 0)
            self._call.counts["capacity units"] += math.ceil(spent)
            yield pa.array([typed.encode(item) for item in page["Items"]], pa.string())
            if not page.get("LastEvaluatedKey"):
                return
            more = {"ExclusiveStartKey": page["LastEvaluatedKey"]}

    def _describe(self, dataset: str) -> Mapping[str, Any]:
        try:
            described = self._ask("describe_table", "Table", TableName=dataset)
        except self._client.exceptions.ResourceNotFoundException:
            near = difflib.get_close_matches(dataset, self.datasets(), 1)
            hint = f'did you mean "{near[0]}"?' if near else "check the region and the account"
            raise ConfigError(f'{self.name}: there is no table "{dataset}"', hint=hint) from None
        table: Mapping[str, Any] = described["Table"]
        return table

    def _ask(self, verb: str, needed: str, **given: Any) -> Mapping[str, Any]:
        """One call. What boto3 makes of an answer that was cut off, or of a proxy's page, holds nothing."""

        def once() -> Mapping[str, Any]:
            answer: Mapping[str, Any] = getattr(self._client, verb)(**given)
            if needed not in answer:
                raise TransientError(f"the answer to {verb} is not whole")
            return answer

        return self._call(once)


def _ordered(found: Mapping[str, Column], key: Sequence[str]) -> tuple[Column, ...]:
    """The key's columns first, then the others by name."""
    return tuple(found[name] for name in [*key, *sorted(found.keys() - set(key))])


def _store(name: str, settings: DynamoDBSettings, export: str, call: Caller, client: Any) -> Store:
    if export.startswith("s3://"):
        bucket, _, prefix = export.removeprefix("s3://").partition("/")
        return Bucket(client or _client(name, settings, "s3"), call, bucket, prefix)
    if not Path(export).is_dir():
        raise ConfigError(f"{name}: there is no folder {export}")
    return Folder(Path(export))


def _client(name: str, settings: DynamoDBSettings, service: str) -> Any:
    try:
        import boto3
        import botocore.config
        import botocore.exceptions
    except ImportError:
        raise ConfigError(f"{name} needs boto3", hint='pip install "resettle[dynamodb]"') from None

    def shown(secret: SecretStr | None) -> str | None:
        return secret.get_secret_value() if secret else None

    try:
        session = boto3.Session(
            profile_name=settings.profile,
            region_name=settings.region,
            aws_access_key_id=shown(settings.access_key_id),
            aws_secret_access_key=shown(settings.secret_access_key),
            aws_session_token=shown(settings.session_token),
        )
        # One attempt: only Caller retries. A connection for every thread that may read.
        config = botocore.config.Config(
            retries={"mode": "standard", "total_max_attempts": 1},
            max_pool_connections=64,
        )
        client = session.client(service, endpoint_url=settings.endpoint_url, config=config)
    except (botocore.exceptions.BotoCoreError, ValueError) as error:
        # Such as an unknown profile, no region, a malformed URL: the message names the setting.
        raise ConfigError(f"{name}: {error}") from error
    if in_the_open(client.meta.endpoint_url) and not settings.plain_http:  # the environment may name it too
        raise ConfigError(f"{name}: elsewhere than on this machine http:// needs `plain_http: true`")
    return client
