"""DynamoDB (and S3) on this machine: moto's server in this process, on a free port of 127.0.0.1."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from resettle.errors import ConfigError

REGION = "us-east-1"
SECRETS = {"aws_access_key_id": "sandbox", "aws_secret_access_key": "sandbox"}
BATCH = 25  # the service's own limit for one BatchWriteItem


@dataclass(frozen=True)
class LocalDynamoDB:
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
        from moto.server import ThreadedMotoServer
    except ImportError:
        raise ConfigError("the sandbox needs moto", hint='pip install "resettle[sandbox]"') from None
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # one line for every request otherwise
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        moto_api_backend.reset()
        host, port = server.get_host_and_port()
        yield LocalDynamoDB(f"http://{host}:{port}")
    finally:
        server.stop()
        moto_api_backend.reset()
