"""A table's finished export, in a folder or a bucket: whole and checked before a record is given."""

from __future__ import annotations

import base64
import difflib
import functools
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar

import msgspec
import pyarrow as pa

from resettle.batch import RECORD, Batch, Partition, Schema
from resettle.calls import Caller
from resettle.connectors import _dynamodb_json as typed
from resettle.connectors._lines import FETCH_AGAIN, batches, lines, share
from resettle.errors import ConfigError, CorruptError

T = TypeVar("T")

SUMMARY = "manifest-summary.json"
LISTING = "manifest-files.json"
SAMPLE = 1000
_READERS = 4


class Store(Protocol):
    """Where exports lie. A key is a path below it, with slashes."""

    def summaries(self) -> list[str]:
        """Keys of every summary manifest."""
        ...

    def path(self, key: str) -> Path | None:
        """The file on this machine, brought here if need be; None if there is none of that key."""
        ...

    def close(self) -> None: ...


class Folder:
    """Exports in a folder of this machine."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def summaries(self) -> list[str]:
        return [found.relative_to(self._root).as_posix() for found in self._root.rglob(SUMMARY)]

    def path(self, key: str) -> Path | None:
        path = (self._root / key).resolve()  # a key may say anything; a path stays in its folder
        return path if path.is_relative_to(self._root.resolve()) and path.is_file() else None

    def close(self) -> None:
        """Nothing is held."""


class Bucket:
    """Exports under a prefix of a bucket; a file stays in a temporary folder once it was fetched."""

    def __init__(self, s3: Any, call: Caller, bucket: str, prefix: str) -> None:
        self._s3, self._call, self._bucket = s3, call, bucket
        self._prefix = prefix.rstrip("/") + "/" if prefix.strip("/") else ""
        self._here = tempfile.TemporaryDirectory(prefix="resettle-export-")

    def summaries(self) -> list[str]:
        keys: list[str] = []
        more: dict[str, str] = {}
        while True:
            try:
                page = self._call(self._s3.list_objects_v2, Bucket=self._bucket, Prefix=self._prefix, **more)
            except self._s3.exceptions.NoSuchBucket:
                raise ConfigError(f"there is no bucket {self._bucket}") from None
            keys += (found["Key"].removeprefix(self._prefix) for found in page.get("Contents", ()))
            if not page.get("NextContinuationToken"):
                return [key for key in keys if PurePosixPath(key).name == SUMMARY]
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def path(self, key: str) -> Path | None:
        parts = PurePosixPath(key).parts
        if {"..", "/"} & {*parts}:  # a key may say anything; a path stays in its folder
            return None
        path = Path(self._here.name, *parts)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._call(self._fetch, key, path)
            except self._s3.exceptions.ClientError as error:
                if error.response.get("Error", {}).get("Code") not in ("NoSuchKey", "404"):
                    raise
                return None
        return path

    def _fetch(self, key: str, path: Path) -> None:
        body = self._s3.get_object(Bucket=self._bucket, Key=self._prefix + key)["Body"]
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            for block in body.iter_chunks(1 << 20):
                file.write(block)
        Path(file.name).replace(path)

    def close(self) -> None:
        self._here.cleanup()


class Summary(msgspec.Struct, frozen=True, rename="camel"):
    """What we need of a summary manifest."""

    item_count: int
    table_arn: str | None = None
    start_time: str | None = None
    export_time: str | None = None
    manifest_files_s3_key: str | None = None
    output_format: str = "DYNAMODB_JSON"
    export_type: str = "FULL_EXPORT"


class Listed(msgspec.Struct, frozen=True, rename="camel"):
    """A line of the manifest of data files; the MD5 is that of the compressed file, in base64."""

    item_count: int
    md5_checksum: str
    data_file_s3_key: str


@dataclass(frozen=True)
class File:
    """A data file: where it lies, and what it must be."""

    key: str
    md5: str
    items: int


@dataclass(frozen=True)
class Export:
    """One export of one table."""

    table: str
    id: str
    folder: PurePosixPath
    summary: Summary

    @property
    def age(self) -> tuple[str, str]:
        """Sorts by the instant whose data it holds; ISO 8601 in UTC sorts as text."""
        started = self.summary.start_time or ""
        return self.summary.export_time or started, started


class Exports:
    """The newest export of each table, or the one that the settings name."""

    def __init__(self, name: str, store: Store, export_id: str | None) -> None:
        self.name = name
        self._store, self._export_id = store, export_id
        self._checked: set[str] = set()
        self._schemas: dict[str, Schema] = {}

    def datasets(self) -> Sequence[str]:
        return sorted(self._found)

    def schema(self, dataset: str) -> Schema:
        if dataset not in self._schemas:
            self._schemas[dataset] = self._sampled(dataset)
        return self._schemas[dataset]

    def _sampled(self, dataset: str) -> Schema:
        export = self._export(dataset)
        sample = pa.table({RECORD: pa.array([], pa.string())})
        for file in self._files(export):
            found = lines(self._sound(file.key, file.md5), self.name)
            sample = next((table for table in batches(found, SAMPLE) if len(table)), sample)
            if len(sample):
                break
        return Schema(dataset, typed.columns(sample), privileges=frozenset({"select"}), open=True)

    def count(self, dataset: str) -> int | None:
        return self._export(dataset).summary.item_count

    def partitions(self, dataset: str, wanted: int) -> Sequence[Partition]:
        files = self._files(self._export(dataset))
        with ThreadPoolExecutor(_READERS) as pool:
            list(pool.map(lambda file: self._sound(file.key, file.md5), files))
        groups = share(files, wanted, lambda file: file.items)
        return [
            Partition(dataset, f"files {number} of {len(groups)}", {"files": group})
            for number, group in enumerate(groups, 1)
        ]

    def read(self, partition: Partition, rows: int) -> Iterator[Batch]:
        files: Sequence[File] = partition.detail["files"]
        arrays = (array for file in files for array in self._records(file))
        for table in batches(arrays, rows):
            yield Batch(partition.dataset, table, typed.decode_sound)

    def close(self) -> None:
        self._store.close()

    @functools.cached_property
    def _found(self) -> dict[str, Export]:
        exports = [self._summary(key) for key in self._store.summaries()]
        if not exports:
            raise ConfigError(
                f"{self.name}: no finished export here (no {SUMMARY})",
                hint="point `export` at the folder or prefix that holds AWSDynamoDB",
            )
        named = [export for export in exports if export.id == self._export_id]
        if self._export_id and not named:
            raise _unknown(self.name, "export", self._export_id, [export.id for export in exports])
        newest = {export.table: export for export in sorted(exports, key=lambda export: export.age)}
        return newest | {export.table: export for export in named}

    def _summary(self, key: str) -> Export:
        folder = PurePosixPath(key).parent
        (summary,) = self._manifest(key, Summary, lambda data: [data])
        above = folder.parent.parent.name if folder.parent.name == "AWSDynamoDB" else folder.name
        table = (summary.table_arn or "").rpartition("table/")[2] or above
        return Export(table, folder.name, folder, summary)

    def _export(self, dataset: str) -> Export:
        if dataset not in self._found:
            raise _unknown(self.name, "table", dataset, self.datasets())
        export = self._found[dataset]
        form, kind = export.summary.output_format, export.summary.export_type
        if (form, kind) != ("DYNAMODB_JSON", "FULL_EXPORT"):
            raise ConfigError(
                f'{self.name}: export {export.id} of "{dataset}" is a {kind} in {form}; '
                "only a FULL_EXPORT in DYNAMODB_JSON can be read",
                hint="make a full export in DynamoDB JSON, or name another one as `export_id`",
            )
        return export

    def _files(self, export: Export) -> list[File]:
        listing = export.folder / PurePosixPath(export.summary.manifest_files_s3_key or LISTING).name
        # By name only: the files may have been copied to another folder or bucket since.
        files = [
            File(
                str(export.folder / "data" / PurePosixPath(listed.data_file_s3_key).name),
                listed.md5_checksum,
                listed.item_count,
            )
            for listed in self._manifest(str(listing), Listed, bytes.splitlines)
        ]
        if sum(file.items for file in files) != export.summary.item_count:
            raise self._corrupt(f"the manifests of export {export.id} disagree on the number of items")
        return files

    def _manifest(self, key: str, kind: type[T], split: Callable[[bytes], list[bytes]]) -> list[T]:
        """A manifest's entries, once it was checked against its checksum file where there is one."""
        stem = key.removesuffix(".json")
        beside = (self._store.path(f"{stem}.{suffix}") for suffix in ("checksum", "md5"))
        checksum = next((path.read_text().strip() for path in beside if path), "")
        # The service documents no form for these: only what looks like an MD5 in base64 is compared.
        data = self._sound(key, checksum if len(checksum) == 24 else None).read_bytes()
        try:
            return [msgspec.json.decode(entry, type=kind) for entry in split(data)]
        except msgspec.DecodeError:
            raise self._corrupt(f"{key} is not a whole manifest") from None

    def _sound(self, key: str, md5: str | None) -> Path:
        """The file, existing and with this checksum (base64)."""
        path = self._store.path(key)
        if path is None:
            raise self._corrupt(f"{key} is missing")
        if md5 and key not in self._checked:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, functools.partial(hashlib.md5, usedforsecurity=False))
            if base64.b64encode(digest.digest()).decode() != md5:
                raise self._corrupt(f"{key} does not have the checksum in its manifest")
            self._checked.add(key)
        return path

    def _records(self, file: File) -> Iterator[pa.Array]:
        count = 0
        for array in lines(self._sound(file.key, file.md5), self.name):
            count += len(array)
            yield array
        if count != file.items:
            raise self._corrupt(f"{file.key} holds {count} items, its manifest says {file.items}")

    def _corrupt(self, what: str) -> CorruptError:
        return CorruptError(what, connection=self.name, hint=FETCH_AGAIN)


def _unknown(connection: str, what: str, name: str, known: Sequence[str]) -> ConfigError:
    near = difflib.get_close_matches(name, known, 1)
    hint = f'did you mean "{near[0]}"?' if near else "there are: " + ", ".join(known[:10])
    return ConfigError(f'{connection}: there is no {what} "{name}"', hint=hint)
