"""export: the source's records as they are, to files: a backup, a sample, or a source for later."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from resettle import private
from resettle.batch import RECORD, TROUBLE
from resettle.connector import Source
from resettle.engine.flow import Options
from resettle.errors import ConfigError
from resettle.mapping.functions import connect, query
from resettle.middleware.readahead import batches, plainly

_UNFIT = re.compile(r"[^\w .()+=@~-]|^\.")


@dataclass(frozen=True)
class Exported:
    """One file: its records, how many of them are not whole, and the md5 of its bytes."""

    dataset: str
    path: Path
    records: int
    partial: int
    md5: str


def export(source: Source, dataset: str, folder: Path, options: Options) -> Exported:
    """Write a dataset to ``folder``/<dataset>.jsonl.gz, readable by its owner only.

    Records that a source delivers as lines (DynamoDB JSON, JSON lines) are written as they are; rows become
    JSON objects. One of which some value could not be read says so as `_trouble`. Raises ConfigError rather than
    overwrite a file.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{_stem(dataset)}.jsonl.gz"
    if path.exists():
        raise ConfigError(f"{path} exists", hint="name another folder; an export never overwrites one")
    count = partial = 0
    with private.replacing(path) as raw, gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=3, mtime=0) as file:
        for lines, troubled in _lines(source, dataset, options):
            count += len(lines)
            partial += troubled
            file.write("".join(line if line.endswith("\n") else f"{line}\n" for line in lines).encode())
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    return Exported(dataset, path, count, partial, digest)


def write_manifest(folder: Path, files: list[Exported]) -> Path:
    """What was exported: names, counts, md5s."""
    path = folder / "manifest.json"
    listed = [
        {"dataset": f.dataset, "file": f.path.name, "records": f.records, "partial": f.partial, "md5": f.md5}
        for f in files
    ]
    with private.replacing(path) as file:
        file.write((json.dumps({"files": listed}, indent=2) + "\n").encode())
    return path


def _stem(dataset: str) -> str:
    """A file's name for a dataset's, which may hold anything: no folder, no control character, not too long."""
    stem = _UNFIT.sub("_", dataset).encode()[:180].decode(errors="ignore")
    return stem if stem == dataset else f"{stem}-{hashlib.sha256(dataset.encode()).hexdigest()[:8]}"


def _lines(source: Source, dataset: str, options: Options) -> Iterator[tuple[list[str], int]]:
    """Lines, and how many of them are of records in trouble."""
    database = connect()
    for batch in batches(source, dataset, rows=10_000, workers=1, look=plainly, limit=options.limit):
        if RECORD in batch.table.column_names:
            yield batch.table[RECORD].to_pylist(), 0
        else:
            told = [column for column in batch.table.column_names if column.startswith(TROUBLE)]
            troubles = pc.coalesce(*(batch.table[column] for column in told)) if told else pa.nulls(len(batch))
            yield _as_json(database, batch.table), len(batch) - troubles.null_count


def _as_json(database: duckdb.DuckDBPyConnection, rows: pa.Table) -> list[str]:
    sql = "SELECT CAST(to_json(_rows) AS VARCHAR) AS j FROM _rows"
    found: list[str] = query(database, sql, _rows=rows)["j"].to_pylist()
    return found
