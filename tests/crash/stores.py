"""Where the ledger, rows and objects of a world are: kept and restored, and told as text."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psycopg
from moto.s3.models import S3Backend
from psycopg import sql

from tests.crash.states import FIXED, STATES, Effects, Tables, World


class InPostgres(World):
    """The target is a Postgres database: each state a template, each case a database of its own."""

    server = ""
    url = ""
    variable = ""
    without: Mapping[str, str] = {}
    """Columns that the database gives random values, by table."""
    _count = 0

    def prepared(self) -> None:
        """The first database, with every `now` of its tables replaced by one moment."""
        with psycopg.connect(self.url) as connection:
            found = connection.execute(
                "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
                " AND (column_default ILIKE '%now()%' OR column_default ILIKE '%current_timestamp%')"
            ).fetchall()
            for table, column in found:
                text = "ALTER TABLE {} ALTER COLUMN {} SET DEFAULT {}"
                connection.execute(sql.SQL(text).format(*map(sql.Identifier, (table, column)), sql.Literal(FIXED)))

    def refuse(self, table: str, check: str) -> None:
        """A rule of the target's own, which we do not know and one of the records breaks."""
        with psycopg.connect(self.url) as connection:
            connection.execute(f"ALTER TABLE {table} ADD CHECK ({check})")

    def fresh(self, template: str | None = None) -> None:
        type(self)._count += 1
        name = f"crash_{self.migration.replace('-', '_')}_{self._count}_{id(self)}"
        self.url = f"{self.server.rpartition('/')[0]}/{name}"
        self.variables[self.variable] = self.url
        self._create(name, template)

    def _create(self, name: str, template: str | None) -> None:
        made = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
            sql.Identifier(name), sql.Identifier(template or "template1")
        )
        with psycopg.connect(self.server, autocommit=True) as connection:
            connection.execute(made)

    def keep(self, state: str) -> None:
        self._create(f"{self._template(state)}", self.url.rpartition("/")[2])

    def restore(self, state: str) -> None:
        self.drop()
        self.fresh(self._template(state))

    def drop(self) -> None:
        with psycopg.connect(self.server, autocommit=True) as connection:
            gone = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(self.url.rpartition("/")[2]))
            connection.execute(gone)

    def _template(self, state: str) -> str:
        return f"crash_{self.migration.replace('-', '_')}_{state}_{id(self)}"

    def drop_all(self) -> None:
        self.drop()
        with psycopg.connect(self.server, autocommit=True) as connection:
            for state in STATES:
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(self._template(state))))

    def target(self) -> Tables:
        with psycopg.connect(self.url) as connection:
            names = [
                name
                for (name,) in connection.execute(
                    "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
                    " AND relkind IN ('r', 'm') ORDER BY 1"
                )
            ]
            parts = []
            for name in names:
                text = "t::text" if name not in self.without else f"(to_jsonb(t) - '{self.without[name]}')::text"
                parts.append(f"SELECT '{name}', {text} FROM \"{name}\" t")
            tables: Tables = {name: [] for name in names}
            for name, row in connection.execute(" UNION ALL ".join(parts)):
                tables[name].append(row)
            return tables

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url) as connection:
            return connection.execute(statement.replace("LEDGER.", "resettle.")).fetchall()

    def has_ledger(self) -> bool:
        return bool(self.ask("SELECT to_regclass('resettle.flows') IS NOT NULL")[0][0])


class InSQLite(World):
    """The ledger (and the target, if it is one) is a SQLite file: each state a copy of it."""

    file = Path()
    prefix = "resettle"

    def keep(self, state: str) -> None:
        for name in self._names(self.file):
            (self.folder / f"{state}_{name}").write_bytes((self.file.parent / name).read_bytes())

    def restore(self, state: str) -> None:
        for name in self._names(self.file):
            (self.file.parent / name).unlink()
        kept = self.folder / f"{state}_{self.file.name}"
        if kept.exists():
            shutil.copyfile(kept, self.file)

    @staticmethod
    def _names(file: Path) -> list[str]:
        return [one.name for one in file.parent.glob(f"{file.name}*")]

    def target(self) -> Tables:
        return {"sync_data": [json.dumps(row) for row in self.look("SELECT * FROM sync_data")]}

    def look(self, statement: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.file)) as base:
            return base.execute(statement).fetchall()

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        return self.look(statement.replace("LEDGER.", f"{self.prefix}_"))

    def has_ledger(self) -> bool:
        return self.file.exists() and bool(
            self.look(f"SELECT count(*) FROM sqlite_master WHERE name = '{self.prefix}_flows'")[0][0]
        )


class Objects:
    """A bucket of a stand-in, and its states."""

    def __init__(self, store: Any, bucket: str) -> None:
        self.store, self.bucket, self.client = store, bucket, store.client()
        self._kept: dict[str, dict[str, Any]] = {}

    def listed(self) -> dict[str, str]:
        listed = self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return {one["Key"]: one["ETag"] for one in listed}

    def keep(self, state: str) -> None:
        self._kept[state] = {key: self._got(key) for key in self.listed()}

    def _got(self, key: str) -> dict[str, Any]:
        got = self.client.get_object(Bucket=self.bucket, Key=key)
        told = {"Body": got["Body"].read(), "ContentType": got["ContentType"], "Metadata": got["Metadata"]}
        return {**told, "etag": got["ETag"]}

    def restore(self, state: str) -> None:
        there, wanted = self.listed(), self._kept[state]
        for key in there.keys() - wanted.keys():
            self.client.delete_object(Bucket=self.bucket, Key=key)
        for key, one in wanted.items():
            if there.get(key) != one["etag"]:
                given = {name: value for name, value in one.items() if name != "etag"}
                self.client.put_object(Bucket=self.bucket, Key=key, **given)
                one["etag"] = self.listed()[key]
        for upload in self.uploads():
            self.client.abort_multipart_upload(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        self.store.requests.clear()
        MADE.clear()

    def uploads(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])
        return found

    def parts(self) -> int:
        """Parts of uploads that were begun and not ended."""
        asked = ({"Key": one["Key"], "UploadId": one["UploadId"]} for one in self.uploads())
        return sum(len(self.client.list_parts(Bucket=self.bucket, **one).get("Parts", [])) for one in asked)

    def told(self) -> list[str]:
        found = []
        for key in self.listed():
            one = self._got(key)
            body = hashlib.sha256(one["Body"]).hexdigest()
            found.append(json.dumps([key, len(one["Body"]), body, one["ContentType"], one["Metadata"]]))
        return found

    def effects(self) -> Effects:
        """Objects made, whichever way, and deleted, by key."""
        made = Effects({f"put {key}": count for (bucket, key), count in MADE.items() if bucket == self.bucket})
        for asked in self.store.requests:
            verb, place = asked.split(" ", 1)
            key, _, query = place.partition("?")
            if verb == "DELETE" and "uploadId" not in query:
                made[f"delete {key}"] += 1
        return made


MADE: Counter[tuple[str, str]] = Counter()
"""How often each object was made, by bucket and key."""


@contextmanager
def counted() -> Iterator[None]:
    """Count the objects that the stand-ins make, once each: a request that they refuse makes none."""
    real = S3Backend.put_object
    if hasattr(real, "counts"):  # a fixture of this worker's session counts already
        yield
        return

    def put_object(self: Any, bucket_name: str, key_name: str, *args: Any, **kwargs: Any) -> Any:
        MADE[bucket_name, key_name] += 1
        return real(self, bucket_name, key_name, *args, **kwargs)

    put_object.counts = True  # type: ignore[attr-defined]
    with patch.object(S3Backend, "put_object", put_object):
        yield
