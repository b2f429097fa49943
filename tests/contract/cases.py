"""One case per connector: how the contract's tests get a source with rows and an empty target.

A new connector passes the whole suite by adding a case here. A case may be made for reading, writing or both.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import sqlite3
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from resettle.batch import ARROW, TROUBLE, Column, ForeignKey, Kind, Schema
from resettle.connector import Body, Source, Target
from resettle.connectors.memory import Memory
from resettle.connectors.sqlite import SQLite, SQLiteSettings

Row = Mapping[str, Any]

WEIRD, WEIRD_COLUMN = "we\"ird'; drop table people; --", "na\"me' %s"
"""A dataset and a column whose names would break a statement that does not quote them."""


@dataclass(frozen=True)
class Place:
    """Where a case may put its things: a folder, and new Postgres databases."""

    folder: Path
    new_database: Callable[[], str]


@dataclass(frozen=True)
class SourceCase:
    """``make(place, rows)``: a source whose dataset `people` holds id (text, its key), name and age."""

    name: str
    make: Callable[[Place, Sequence[Row]], Source]
    parallel: bool = True


@dataclass(frozen=True)
class TargetCase:
    """``make(place)``: a target with the empty datasets of `TABLES`, in the technology's own types.

    ``orphan(place, target)`` then adds a pet of nobody, past the constraint.
    """

    name: str
    make: Callable[[Place], Target]
    orphan: Callable[[Place, Target], None]
    nests: bool = True
    """Whether a transaction within one is a savepoint; ConfigError otherwise."""
    sees_its_writes: bool = True
    """Whether reads in a transaction see its writes; what is committed otherwise."""
    enforces: frozenset[str] = frozenset({"null", "exists", "unique", "foreign_key"})
    """What of `TABLES` the technology can be told, and obeys: the reasons of its refusals."""
    speaks_sql: bool = True
    """Whether `ask` answers; ConfigError otherwise."""
    free_names: bool = True
    """Whether datasets and columns may have any name, as `WEIRD`."""


@dataclass(frozen=True)
class FilesCase:
    """Listings of files, and their bytes; the dataset's key may be the files' name or a key of the service's own.

    ``source(place, files)``: a source (and BodySource) with these files, name to bytes, and each one's key.
    ``target(place)``: a target (and BodyTarget) without files, whose keys may be any text, where there is one.
    """

    name: str
    dataset: str
    source: Callable[[Place, Mapping[str, bytes]], tuple[Any, Mapping[str, str]]]
    target: Callable[[Place], Any] | None = None


def arrow(schema: Schema, rows: Sequence[Row]) -> pa.Table:
    """Rows of plain Python values in the Arrow types that the dataset's columns travel in."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    arrays = {}
    for name in names:
        column = schema.column(name)
        assert column is not None, name
        values = [_to_kind(column.kind, row.get(name)) for row in rows]
        arrays[name] = pa.array(values, ARROW[column.kind])
    return pa.table(arrays)


def keys(schema: Schema, *ids: str | None) -> pa.Table:
    """A table of keys of a dataset whose key is `id`."""
    column = schema.column("id")
    assert column is not None
    return pa.table({"id": pa.array([_to_kind(column.kind, one) for one in ids], ARROW[column.kind])})


def plain(schema: Schema, table: pa.Table) -> list[dict[str, Any]]:
    """The way back from `arrow`, sorted by id."""
    kinds = {column.name: column.kind for column in schema.columns}
    rows = [{name: _from_kind(kinds[name], name, value) for name, value in row.items()} for row in table.to_pylist()]
    return sorted(rows, key=lambda row: str(row.get("id")))


def _to_kind(kind: Kind, value: Any) -> Any:
    if value is None:
        return None
    if kind is Kind.UUID:
        return uuid.UUID(value).bytes
    if isinstance(value, datetime) and ARROW[kind] == pa.string():
        return value.isoformat()
    return value


def _from_kind(kind: Kind, name: str, value: Any) -> Any:
    if value is None:
        return None
    if kind is Kind.UUID:
        return str(uuid.UUID(bytes=value))
    if name == "born":
        return datetime.fromisoformat(value) if isinstance(value, str) else value
    return json.loads(value) if name == "extra" else value


def records(source: Source, dataset: str, *, wanted: int = 1, rows: int = 1000) -> list[dict[str, str | None]]:
    """Every record of a dataset as text, sorted by id."""
    found: list[dict[str, str | None]] = []
    for partition in source.partitions(dataset, wanted):
        for batch in source.read(partition, rows):
            table = batch.decode(batch.table, ["id", "name", "age"])
            if TROUBLE in table.column_names:
                assert table[TROUBLE].null_count == table.num_rows
                table = table.drop_columns([TROUBLE])
            found += table.to_pylist()
    texts = [{name: None if value is None else str(value) for name, value in row.items()} for row in found]
    return sorted(texts, key=lambda row: str(row["id"]))


# -- memory ----------------------------------------------------------------------------------------

PEOPLE = Schema(
    "people",
    (
        Column("id", Kind.UUID, nullable=False),
        Column("name", Kind.TEXT, nullable=False),
        Column("age", Kind.INT32),
        Column("born", Kind.INSTANT),
        Column("extra", Kind.JSON),
        Column("email", Kind.TEXT),
        Column("balance", Kind.NUMERIC),
    ),
    key=("id",),
    unique=(("email",),),
)
PETS = Schema(
    "pets",
    (
        Column("id", Kind.TEXT, nullable=False),
        Column("owner", Kind.UUID),
        Column("mother", Kind.TEXT),
    ),
    key=("id",),
    foreign_keys=(
        ForeignKey("pets_owner_fkey", ("owner",), "people", ("id",)),
        ForeignKey("pets_mother_fkey", ("mother",), "pets", ("id",)),
    ),
)
NAMED_WEIRDLY = Schema(WEIRD, (Column("id", Kind.TEXT, nullable=False), Column(WEIRD_COLUMN, Kind.TEXT)), key=("id",))
NOBODY = "00000000-0000-4000-8000-00000000dead"


def memory_source(place: Place, rows: Sequence[Row]) -> Source:
    columns = (Column("id", Kind.TEXT), Column("name", Kind.TEXT), Column("age", Kind.INT64))
    return Memory("memory").create("people", Schema("people", columns, key=("id",)), rows)


def memory_target(place: Place) -> Target:
    memory = Memory("memory")
    for schema in (PEOPLE, PETS, NAMED_WEIRDLY):
        memory.create(schema.dataset, schema)
    return memory


def memory_orphan(place: Place, target: Target) -> None:
    assert isinstance(target, Memory)
    target.create("pets", PETS, [{"id": "lost", "owner": NOBODY}])


OBJECTS = Schema(
    "objects",
    (Column("key", Kind.TEXT, nullable=False), Column("size", Kind.INT64), Column("md5", Kind.TEXT)),
    key=("key",),
)


def memory_files_target(place: Place) -> Any:
    return Memory("memory").create("objects", OBJECTS)


def memory_files_source(place: Place, files: Mapping[str, bytes]) -> tuple[Any, Mapping[str, str]]:
    memory = memory_files_target(place)
    for name, content in files.items():
        memory.put(
            "objects", name, Body(lambda start, content=content: iter([content[start:]])), metadata={}, replace=False
        )
    return memory, {name: name for name in files}


# -- sqlite ----------------------------------------------------------------------------------------

SQLITE_TABLES = f"""
CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT NOT NULL, age INTEGER, born DATETIME, extra TEXT,
                     email TEXT UNIQUE, balance NUMERIC);
CREATE TABLE pets (id TEXT PRIMARY KEY, owner TEXT REFERENCES people (id), mother TEXT REFERENCES pets);
CREATE TABLE "{WEIRD.replace('"', '""')}" (id TEXT PRIMARY KEY, "{WEIRD_COLUMN.replace('"', '""')}" TEXT);
"""


def sqlite_file(place: Place, script: str, rows: Iterable[Row] = ()) -> Path:
    path = place.folder / "people.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(script)
        connection.executemany("INSERT INTO people (id, name, age) VALUES (:id, :name, :age)", list(rows))
    connection.close()
    return path


def sqlite_source(place: Place, rows: Sequence[Row]) -> Source:
    path = sqlite_file(place, "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT, age INTEGER)", rows)
    return SQLite("sqlite", SQLiteSettings(path=path, readonly=True))


def sqlite_source_without_rowid(place: Place, rows: Sequence[Row]) -> Source:
    script = "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT, age INTEGER) WITHOUT ROWID"
    return SQLite("sqlite", SQLiteSettings(path=sqlite_file(place, script, rows), readonly=True))


def sqlite_target(place: Place) -> Target:
    return SQLite("sqlite", SQLiteSettings(path=sqlite_file(place, SQLITE_TABLES)))


def sqlite_orphan(place: Place, target: Target) -> None:
    with sqlite3.connect(place.folder / "people.sqlite") as connection:  # foreign keys are off by default
        connection.execute("INSERT INTO pets (id, owner) VALUES ('lost', ?)", [NOBODY])
    connection.close()


# -- d1 --------------------------------------------------------------------------------------------


def _d1(place: Place, script: str, rows: Iterable[Row] = (), *, readonly: bool = False) -> Any:
    from resettle.connectors.d1 import D1, D1Settings
    from resettle.sandbox.d1 import start_d1

    stack = ExitStack()
    local = stack.enter_context(start_d1(sqlite_file(place, script, rows)))
    return _Closing(D1("d1", D1Settings(**local.settings(), readonly=readonly)), stack.close)


def d1_source(place: Place, rows: Sequence[Row]) -> Source:
    script = "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT, age INTEGER)"
    source: Source = _d1(place, script, rows, readonly=True)
    return source


def d1_source_without_rowid(place: Place, rows: Sequence[Row]) -> Source:
    script = "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT, age INTEGER) WITHOUT ROWID"
    source: Source = _d1(place, script, rows, readonly=True)
    return source


def d1_target(place: Place) -> Target:
    target: Target = _d1(place, SQLITE_TABLES)
    return target


# -- files -----------------------------------------------------------------------------------------


def files_source(place: Place, rows: Sequence[Row]) -> Source:
    from resettle.connectors.files import Files, FilesSettings

    (place.folder / "people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Files("files", FilesSettings(path=place.folder))


# -- dynamodb --------------------------------------------------------------------------------------

KEYS = {
    "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
    "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
    "BillingMode": "PAY_PER_REQUEST",
}


def _item(row: Row) -> dict[str, Any]:
    texts = {name: {"S": value} for name, value in row.items() if isinstance(value, str)}
    numbers = {name: {"N": str(value)} for name, value in row.items() if isinstance(value, int)}
    return texts | numbers | {name: {"NULL": True} for name, value in row.items() if value is None}


def export_source(place: Place, rows: Sequence[Row]) -> Source:
    from resettle.connectors.dynamodb import DynamoDB, DynamoDBSettings

    folder = place.folder / "AWSDynamoDB" / "01700000000000-abcd"
    (folder / "data").mkdir(parents=True)
    listing = []
    for number in range(3):
        lines = [json.dumps({"Item": _item(row)}) + "\n" for row in rows[number::3]]
        body = gzip.compress("".join(lines).encode())
        (folder / "data" / f"{number}.json.gz").write_bytes(body)
        md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
        key = f"AWSDynamoDB/{folder.name}/data/{number}.json.gz"
        listing.append({"itemCount": len(lines), "md5Checksum": md5, "etag": "", "dataFileS3Key": key})
    (folder / "manifest-files.json").write_text("".join(json.dumps(one) + "\n" for one in listing))
    summary = {
        "version": "2020-06-30",
        "exportArn": f"arn:aws:dynamodb:us-east-1:1:table/people/export/{folder.name}",
        "tableArn": "arn:aws:dynamodb:us-east-1:1:table/people",
        "exportTime": "2023-11-14T22:13:20Z",
        "manifestFilesS3Key": f"AWSDynamoDB/{folder.name}/manifest-files.json",
        "itemCount": len(rows),
        "outputFormat": "DYNAMODB_JSON",
    }
    for name in ("manifest-summary.json", "manifest-files.json"):
        if name == "manifest-summary.json":
            (folder / name).write_text(json.dumps(summary))
        body = (folder / name).read_bytes()
        (folder / name).with_suffix(".md5").write_text(base64.b64encode(hashlib.md5(body).digest()).decode())
    return DynamoDB("dynamodb", DynamoDBSettings(export=str(place.folder)))


def dynamodb_source(place: Place, rows: Sequence[Row]) -> Source:
    import boto3
    from moto import mock_aws

    from resettle.connectors.dynamodb import DynamoDB, DynamoDBSettings

    mock = mock_aws()
    mock.start()
    given = {"region_name": "us-east-1", "aws_access_key_id": "test", "aws_secret_access_key": "test"}
    client = boto3.client("dynamodb", **given)
    client.create_table(TableName="people", **KEYS)
    for row in rows:
        client.put_item(TableName="people", Item=_item(row))
    source = DynamoDB("dynamodb", DynamoDBSettings(region="us-east-1"), client=client)
    return _Closing(source, mock.stop)


class _Closing:
    """A source that stops what was started for it when it is closed first."""

    def __init__(self, source: Source, stop: Callable[[], None]) -> None:
        self._source, self._stop = source, stop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def close(self) -> None:
        self._source.close()
        stop, self._stop = self._stop, lambda: None
        stop()


# -- google_drive ----------------------------------------------------------------------------------


def google_drive_files_source(place: Place, files: Mapping[str, bytes]) -> tuple[Any, Mapping[str, str]]:
    from resettle.connectors.google_drive import GoogleDrive, GoogleDriveSettings
    from resettle.sandbox.drive import start_drive

    stack = ExitStack()
    drive = stack.enter_context(start_drive())
    folder = drive.folder("files")
    below: dict[str, str] = {"": folder}
    keys = {}
    for name, content in files.items():
        path, _, last = name.rpartition("/")
        if path not in below:
            below[path] = drive.folder(path, folder)
        keys[name] = drive.file(last, below[path], body=content)
    token = drive.token_file(place.folder / "token.json")
    settings = GoogleDriveSettings(folder=folder, token=token, url=drive.api, page_size=10)
    return _Closing(GoogleDrive("google_drive", settings), stack.close), keys


# -- postgres --------------------------------------------------------------------------------------

POSTGRES_TABLES = f"""
CREATE TABLE people (id uuid PRIMARY KEY, name text NOT NULL, age int, born timestamptz, extra jsonb,
                     email text UNIQUE, balance numeric);
CREATE TABLE pets (id text PRIMARY KEY, owner uuid REFERENCES people (id), mother text REFERENCES pets);
CREATE TABLE "{WEIRD.replace('"', '""')}" (id text PRIMARY KEY, "{WEIRD_COLUMN.replace('"', '""')}" text);
"""


def _postgres(place: Place, script: str) -> tuple[Target, str]:
    import psycopg

    from resettle.connectors.postgres import Postgres, PostgresSettings

    url = place.new_database()
    with psycopg.connect(url) as connection:
        connection.execute(script)
    return Postgres("postgres", PostgresSettings.model_validate({"url": url})), url


def postgres_source(place: Place, rows: Sequence[Row]) -> Source:
    source, url = _postgres(place, "CREATE TABLE people (id text PRIMARY KEY, name text, age bigint)")
    import psycopg

    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        statement = "INSERT INTO people (id, name, age) VALUES (%(id)s, %(name)s, %(age)s)"
        cursor.executemany(statement, list(rows))
    return source


def postgres_target(place: Place) -> Target:
    target, url = _postgres(place, POSTGRES_TABLES)
    (place.folder / "url").write_text(url)
    return target


def postgres_orphan(place: Place, target: Target) -> None:
    import psycopg

    with psycopg.connect((place.folder / "url").read_text()) as connection:
        connection.execute("ALTER TABLE pets DROP CONSTRAINT pets_owner_fkey")
        connection.execute("INSERT INTO pets (id, owner) VALUES ('lost', %s)", [NOBODY])
        connection.execute(
            "ALTER TABLE pets ADD CONSTRAINT pets_owner_fkey FOREIGN KEY (owner) REFERENCES people NOT VALID"
        )


# -- s3 --------------------------------------------------------------------------------------------


def s3_files_source(place: Place, files: Mapping[str, bytes]) -> tuple[Any, Mapping[str, str]]:
    from resettle.connectors.s3 import S3, S3Settings
    from resettle.sandbox.s3 import start_s3

    stack = ExitStack()
    local = stack.enter_context(start_s3())
    local.load("people", files)
    source = S3("s3", S3Settings(**local.settings("people", readonly=True)))
    return _Closing(source, stack.close), {name: name for name in files}


def s3_files_target(place: Place) -> Any:
    from resettle.connectors.s3 import S3, S3Settings
    from resettle.sandbox.s3 import start_s3

    stack = ExitStack()
    local = stack.enter_context(start_s3())
    local.load("people")
    return _Closing(S3("s3", S3Settings(**local.settings("people"))), stack.close)


# -- appsync ---------------------------------------------------------------------------------------

APPSYNC_PEOPLE = "type people @model { id: ID! name: String age: String }"
APPSYNC_TABLES = """
type people @model { id: ID! name: String! age: Int born: AWSDateTime extra: AWSJSON email: String balance: String }
type pets @model { id: ID! owner: ID mother: ID }
"""


def _appsync(schema: str, rows: Iterable[Row] = (), *, readonly: bool = False) -> Any:
    from resettle.connectors.appsync import AppSync, AppSyncSettings
    from resettle.sandbox.appsync import start_appsync

    stack = ExitStack()
    local = stack.enter_context(start_appsync(schema))
    local.data.put("people", *rows)
    local.data.empty_pages = 1
    return _Closing(AppSync("appsync", AppSyncSettings(**local.settings(), readonly=readonly)), stack.close)


def appsync_source(place: Place, rows: Sequence[Row]) -> Source:
    # Int has 32 bits: larger numbers are text there.
    texts = [{**row, "age": None if row["age"] is None else str(row["age"])} for row in rows]
    source: Source = _appsync(APPSYNC_PEOPLE, texts, readonly=True)
    return source


def appsync_target(place: Place) -> Target:
    target: Target = _appsync(APPSYNC_TABLES)
    return target


def no_orphan(place: Place, target: Target) -> None:
    raise NotImplementedError("for targets that know no foreign keys")


SOURCES = (
    SourceCase("memory", memory_source),
    SourceCase("sqlite", sqlite_source),
    SourceCase("sqlite without rowid", sqlite_source_without_rowid, parallel=False),
    SourceCase("d1", d1_source),
    SourceCase("d1 without rowid", d1_source_without_rowid, parallel=False),
    SourceCase("files", files_source, parallel=False),
    SourceCase("dynamodb export", export_source),
    SourceCase("dynamodb", dynamodb_source),
    SourceCase("postgres", postgres_source),
    SourceCase("appsync", appsync_source, parallel=False),
)
TARGETS = (
    TargetCase("memory", memory_target, memory_orphan),
    TargetCase("sqlite", sqlite_target, sqlite_orphan),
    TargetCase("d1", d1_target, sqlite_orphan, nests=False, sees_its_writes=False),
    TargetCase("postgres", postgres_target, postgres_orphan),
    TargetCase(
        "appsync",
        appsync_target,
        no_orphan,
        nests=False,
        enforces=frozenset({"null", "exists"}),
        speaks_sql=False,
        free_names=False,
    ),
)
FILES = (
    FilesCase("memory", "objects", memory_files_source, memory_files_target),
    FilesCase("google_drive", "files", google_drive_files_source),
    FilesCase("s3", "objects", s3_files_source, s3_files_target),
)
