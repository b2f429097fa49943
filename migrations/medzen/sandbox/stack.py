"""medzen's local stack: a Supabase-like Postgres with the target's tables, and made-up exports as the source."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from resettle.sandbox.module import module_at
from resettle.sandbox.postgres import start_postgres, supabase_roles

HERE = Path(__file__).parent
SESSIONS = 5_000

CORRECTIONS = ((b'"appt-17"', b'"00000000-0000-4000-8000-0000000000a7"'), (b'{"S":"completed"}', b'{"S":"COMPLETED"}'))
"""What the owner of the source mends in the demo."""


@contextmanager
def stack(folder: Path, *, sessions: int = SESSIONS, audit_shape: str = "documented") -> Iterator[dict[str, str]]:
    """Start everything; yields the variables of the `local` environment."""
    export = folder / "export"
    generator().generate(export, sessions, audit_shape=audit_shape)
    with start_postgres() as server:
        url = server.create_database("medzen")
        prepare(url)
        yield {"SUPABASE_DB_URL": url, "MEDZEN_EXPORT": str(export)}


def prepare(url: str) -> None:
    """Make an empty database the target as it stands before the migration."""
    supabase_roles(url)
    with psycopg.connect(url) as connection:
        connection.execute((HERE / "schema.sql").read_text("utf-8"))


def generator():  # type: ignore[no-untyped-def]
    """The module that makes the exports (beside this file, which is in no package)."""
    return module_at(HERE / "generate.py")


def correct(folder: Path) -> None:
    """Mend some bad records, as a new export after a correction in DynamoDB would hold them."""
    for listing in (folder / "export").glob("*/AWSDynamoDB/*/manifest-files.json"):
        entries = [json.loads(line) for line in listing.read_text().splitlines()]
        for entry in entries:
            path = listing.parent / "data" / Path(entry["dataFileS3Key"]).name
            text = gzip.decompress(path.read_bytes())
            for wrong, right in CORRECTIONS:
                text = text.replace(wrong, right)
            data = gzip.compress(text, 1, mtime=0)
            path.write_bytes(data)
            entry["md5Checksum"] = _md5(data)
        listing.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        listing.with_name("manifest-files.md5").write_text(_md5(listing.read_bytes()))


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
