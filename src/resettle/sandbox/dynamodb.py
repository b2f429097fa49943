"""DynamoDB (and S3) on this machine: moto's, in this process, behind a door that can go wrong as asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from resettle.errors import ConfigError
from resettle.sandbox._door import Behind, Door, Environ, Fault, Respond, said, served

__all__ = ["REGION", "SECRETS", "Fault", "LocalDynamoDB", "start_dynamodb"]

REGION = "us-east-1"
SECRETS = {"aws_access_key_id": "sandbox", "aws_secret_access_key": "sandbox"}
BATCH = 25  # the service's own limit for one BatchWriteItem
_EMPTY = "resettle-empty"
"""The only name in the key that an injected page before the first record goes on from."""


@dataclass
class LocalDynamoDB(Behind):
    """A running stand-in; any access key will do."""

    endpoint_url: str
    region: str = REGION

    def client(self, service: str = "dynamodb") -> Any:
        """A boto3 client of ``service`` (`dynamodb` or `s3`) at this endpoint."""
        import boto3

        return boto3.client(service, endpoint_url=self.endpoint_url, region_name=self.region, **SECRETS)

    def load(self, table: str, key: Sequence[str], items: Iterable[Mapping[str, Any]]) -> None:
        """Create ``table`` with this key (partition, then sort) and put ``items``, typed as boto3 has them.

        The types of the key are those of the first item, or string where there is none.
        """
        client, items = self.client(), list(items)
        tags = {name: next(iter(items[0][name])) if items else "S" for name in key}
        client.create_table(
            TableName=table,
            BillingMode="PAY_PER_REQUEST",
            KeySchema=[
                {"AttributeName": name, "KeyType": kind} for name, kind in zip(key, ("HASH", "RANGE"), strict=False)
            ],
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": tags[name]} for name in key],
        )
        for start in range(0, len(items), BATCH):
            puts = [{"PutRequest": {"Item": item}} for item in items[start : start + BATCH]]
            client.batch_write_item(RequestItems={table: puts})


@contextmanager
def start_dynamodb() -> Iterator[LocalDynamoDB]:
    """Start it empty, and stop it. One at a time in a process: moto's state is the process's."""
    try:
        from moto.moto_api._internal.models import moto_api_backend
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    except ImportError:
        raise ConfigError("the sandbox needs moto", hint='pip install "resettle[sandbox]"') from None
    local = LocalDynamoDB("")
    moto_api_backend.reset()
    try:
        with served(_Door(DomainDispatcherApplication(create_backend_app), local)) as local.endpoint_url:
            yield local
    finally:
        moto_api_backend.reset()


class _Door(Door):
    """Speaks DynamoDB's JSON, and S3's XML where that is asked for."""

    def asked(self, environ: Environ, body: bytes) -> str:
        target = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
        if target:
            return f"{target} {body.decode(errors='replace')}"
        return f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ.get('QUERY_STRING', '')}"

    def answer(
        self, environ: Environ, start: Respond, status: int, code: str, retry_after: int | None = None
    ) -> Iterable[bytes]:
        if "HTTP_X_AMZ_TARGET" in environ:
            told = {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": code}
            return said(start, status, orjson.dumps(told), "application/x-amz-json-1.0", retry_after)
        body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        whole = said(start, status, body, "application/xml", retry_after)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else whole

    def empty_page(self, environ: Environ, start: Respond, body: bytes) -> Iterable[bytes]:
        page = {"Items": [], "Count": 0, "ScannedCount": 0, "LastEvaluatedKey": _from(body)}
        return said(start, 200, orjson.dumps(page), "application/x-amz-json-1.0")

    def after_empty(self, environ: Environ, body: bytes) -> bytes:
        # What an injected page before the first record goes on from is no key.
        environ["resettle.from"] = _from(body) if "HTTP_X_AMZ_TARGET" in environ else {}
        if _EMPTY not in environ["resettle.from"] or b"ExclusiveStartKey" not in body:
            return body
        return orjson.dumps({name: value for name, value in orjson.loads(body).items() if name != "ExclusiveStartKey"})

    def page_again(self, environ: Environ, answer: bytes) -> bytes:
        return orjson.dumps(orjson.loads(answer) | {"LastEvaluatedKey": environ["resettle.from"]})


def _from(body: bytes) -> dict[str, Any]:
    """Where a page of a scan begins."""
    found: dict[str, Any] = orjson.loads(body).get("ExclusiveStartKey", {_EMPTY: {"S": ""}})
    return found
