"""What is too large to be kept, made up as it is asked for: DynamoDB items of any size."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.connectors.test_dynamodb import WHEN, manifest

Item = dict[str, Any]
_NOISE = random.Random(1).randbytes(1 << 20).hex()
PARTS = 4
"""Data files of an export."""
PAGE = 1 << 20
"""Bytes that a Scan reads for an answer, by the service's own limit."""


def body(number: int, size: int) -> str:
    """A text that makes an item about as large as it may be, and no two alike."""
    at = number * 101 % (len(_NOISE) - size)
    return f"{number:09}" + _NOISE[at : at + size - 200]


def item(number: int, size: int) -> Item:
    """An item as boto3 types it."""
    tags = {"L": [{"S": "a"}, {"N": str(number)}, {"NULL": True}]}
    return {"id": {"S": f"note-{number:09}"}, "body": {"S": body(number, size)}, "tags": tags}


def items(count: int, size: int) -> Iterator[Item]:
    return (item(number, size) for number in range(count))


def export(root: Path, table: str, found: Iterator[Item], count: int) -> None:
    """What DynamoDB's export to S3 writes."""
    folder = root / "AWSDynamoDB" / "0001-a"
    (folder / "data").mkdir(parents=True)
    listing = []
    for part in range(PARTS):
        path, held = folder / "data" / f"part{part}.json.gz", len(range(part, count, PARTS))
        with gzip.open(path, "wt", compresslevel=1) as file:
            file.writelines(json.dumps({"Item": next(found)}, separators=(",", ":")) + "\n" for _ in range(held))
        with path.open("rb") as file:
            md5 = base64.b64encode(hashlib.file_digest(file, "md5").digest()).decode()
        listing.append({"itemCount": held, "md5Checksum": md5, "dataFileS3Key": f"data/{path.name}"})
    manifest(folder / "manifest-files.json", "".join(json.dumps(entry) + "\n" for entry in listing))
    told = {"tableArn": f"arn:aws:dynamodb:us-east-1:123456789012:table/{table}", "itemCount": count}
    told |= {"exportTime": WHEN, "outputFormat": "DYNAMODB_JSON", "manifestFilesS3Key": "x/manifest-files.json"}
    manifest(folder / "manifest-summary.json", json.dumps(told))


@contextmanager
def dynamodb(table: str, count: int, size: int) -> Iterator[str]:
    """The service with one table whose items are made as they are read; its URL. Pages end at 1 MiB, as they do."""
    key = [{"AttributeName": "id", "KeyType": "HASH"}]
    described = {"KeySchema": key, "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}]}

    def scan(asked: dict[str, Any]) -> dict[str, Any]:
        parts, mine = asked.get("TotalSegments", 1), asked.get("Segment", 0)
        begin = asked.get("ExclusiveStartKey")
        numbers = range(int(begin["id"]["S"].rpartition("-")[2]) + parts if begin else mine, count, parts)
        page = numbers[: max(1, min(asked.get("Limit", count), PAGE // size))]
        more = {"LastEvaluatedKey": {"id": item(page[-1], size)["id"]}} if len(page) < len(numbers) else {}
        return {"Items": [item(number, size) for number in page], "Count": len(page), **more}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Nothing: one line for every request otherwise."""

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            verb = self.headers["X-Amz-Target"].rpartition(".")[2]
            said = {"ListTables": {"TableNames": [table]}, "DescribeTable": {"Table": described}}
            content = json.dumps(said.get(verb) or scan(asked)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-amz-json-1.0")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with serving(Handler) as server:
        yield f"http://127.0.0.1:{server.server_port}"


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[ThreadingHTTPServer]:
    """A server on a free port, until the end of the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
