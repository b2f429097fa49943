"""Two SeaweedFS servers on this machine, each with a key of its own, and the objects that are copied between them."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BINARIES = Path(__file__).parents[1] / ".venv-peers" / "bin"
SMALLEST, LARGEST = 100_000, 2_000_000
HUGE, HUGE_COUNT = 50_000_000, 5
REGION = "us-east-1"
SEED = 20261120
PATIENCE = 60.0
"""Seconds that a server may take to start."""

Listing = dict[str, tuple[int, str]]
"""Size and MD5 by key."""


@dataclass(frozen=True)
class Store:
    """One server: where it listens, and the one key that may write."""

    endpoint: str
    access_key: str
    secret_key: str

    def client(self) -> Any:
        import boto3
        from botocore.config import Config

        config = Config(
            s3={"addressing_style": "path"},
            max_pool_connections=16,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=config,
        )

    def listing(self, bucket: str) -> Listing:
        """All objects; an object in parts has no MD5 for an ETag, but says it in its metadata, or here it is empty."""
        client, found = self.client(), Listing()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for one in page.get("Contents", []):
                md5 = one["ETag"].strip('"')
                if "-" in md5:
                    said = client.head_object(Bucket=bucket, Key=one["Key"])["Metadata"]
                    md5 = said.get("resettle-md5", "")
                found[one["Key"]] = (one["Size"], md5)
        return found


@contextmanager
def two(folder: Path) -> Iterator[tuple[Store, Store]]:
    """A server to read from and one to write to: with one alone, a tool might let the server copy by itself."""
    with ExitStack() as stack:
        old = stack.enter_context(_running(folder / "old", "old"))
        new = stack.enter_context(_running(folder / "new", "new"))
        yield old, new


@contextmanager
def _running(folder: Path, name: str) -> Iterator[Store]:
    folder.mkdir(parents=True)
    store = Store(f"http://127.0.0.1:{_port()}", f"{name}-key", f"{name}-secret-of-the-benchmark")
    keys = {"accessKey": store.access_key, "secretKey": store.secret_key}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    config = folder / "keys.json"
    config.write_text(json.dumps({"identities": [{"name": name, "credentials": [keys], "actions": actions}]}))
    port, grpc = store.endpoint.rpartition(":")[2], _port()
    ports = {one: _port() for one in ("master", "volume", "filer")}
    command = [
        *(BINARIES / "weed", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}"),
        *(f"-{one}.port={port}" for one, port in ports.items()),
        *("-filer", "-s3", f"-s3.port={port}", f"-s3.config={config}"),
        *(f"-s3.port.grpc={grpc}", "-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        *("-master.volumeSizeLimitMB=1024", "-volume.max=200", "-master.telemetry=false"),
    ]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait(store, server, folder / "log")
        yield store
    finally:
        server.kill()  # asked to end, it takes ten seconds; nothing it has is wanted
        server.wait()
        for number in (*ports.values(), *(one + 10_000 for one in ports.values()), port, grpc):
            for left in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):
                left.unlink()


def _wait(store: Store, server: subprocess.Popen[bytes], log: Path) -> None:
    """Until a bucket can be made and an object written: the gateway listens before the rest is there."""
    client, until = store.client(), time.monotonic() + PATIENCE
    while True:
        try:
            client.create_bucket(Bucket="probe")
            client.put_object(Bucket="probe", Key="probe", Body=b"probe")
            return
        except Exception:
            if server.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"SeaweedFS did not start:\n{log.read_text()[-2000:]}") from None
            time.sleep(0.2)


def _port() -> int:
    """A free port whose sum with 10,000 is free too: that is where SeaweedFS serves gRPC."""
    while True:
        number = random.randrange(20_000, 30_000)
        try:
            for one in (number, number + 10_000):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", one))
        except OSError:
            continue
        return number


def fill(store: Store, bucket: str, count: int) -> Listing:
    """``count`` objects of 100 KB to 2 MB in folders of a hundred, and five of 50 MB; each in one request."""
    chance = random.Random(SEED)
    sizes = {f"{at // 100:02}/recording {at:05}.mp3": chance.randint(SMALLEST, LARGEST) for at in range(count)}
    sizes |= {f"long/recording {at}.mp4": HUGE for at in range(HUGE_COUNT)}
    # Slices of one block of noise: making 2 GB of it would take longer than sending them.
    noise = memoryview(chance.randbytes(HUGE + LARGEST))
    client = store.client()
    client.create_bucket(Bucket=bucket)

    def put(item: tuple[str, int]) -> tuple[str, tuple[int, str]]:
        key, size = item
        at = int.from_bytes(hashlib.md5(key.encode()).digest()[:4]) % LARGEST
        content = bytes(noise[at : at + size])
        client.put_object(Bucket=bucket, Key=key, Body=content, ContentType="audio/mpeg")
        return key, (size, hashlib.md5(content).hexdigest())

    with ThreadPoolExecutor(8) as pool:
        return dict(pool.map(put, sizes.items()))


@contextmanager
def empty(store: Store, bucket: str) -> Iterator[None]:
    """A bucket that has been written to, and is empty; removed afterwards with all that is in it."""
    client = store.client()
    client.create_bucket(Bucket=bucket)
    client.put_object(Bucket=bucket, Key="first", Body=b"room is made for a bucket when it is first written to")
    client.delete_object(Bucket=bucket, Key="first")
    try:
        yield
    finally:
        client.delete_bucket(Bucket=bucket)
