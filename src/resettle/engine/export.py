"""export: the source's records as they are, to files: a backup, a sample, or a source for later."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from resettle.batch import RECORD
from resettle.connector import Source
from resettle.engine.flow import Options
from resettle.errors import ConfigError
from resettle.mapping.functions import connect, query
from resettle.middleware.readahead import batches, plainly


@dataclass(frozen=True)
class Exported:
    """One file: its records and the md5 of its bytes."""

    dataset: str
    path: Path
    records: int
    md5: str


def export(source: Source, dataset: str, folder: Path, options: Options) -> Exported:
    """Write a dataset to ``folder``/<dataset>.jsonl.gz, readable by its owner only.

    Records that a source delivers as lines (DynamoDB JSON, JSON lines) are written as they are; rows become
    JSON objects. Raises ConfigError rather than overwrite a file.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{dataset.replace('/', '_')}.jsonl.gz"
    if path.exists():
        raise ConfigError(f"{path} exists", hint="name another folder; an export never overwrites one")
    partial = path.with_suffix(".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    count = 0
    with os.fdopen(descriptor, "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=3, mtime=0) as file:
        for lines in _lines(source, dataset, options):
            count += len(lines)
            file.write("".join(line if line.endswith("\n") else f"{line}\n" for line in lines).encode())
    os.replace(partial, path)
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    return Exported(dataset, path, count, digest)


def write_manifest(folder: Path, files: list[Exported]) -> Path:
    """What was exported: names, counts, md5s."""
    path = folder / "manifest.json"
    listed = [{"dataset": f.dataset, "file": f.path.name, "records": f.records, "md5": f.md5} for f in files]
    path.write_text(json.dumps({"files": listed}, indent=2) + "\n")
    path.chmod(0o600)
    return path


def _lines(source: Source, dataset: str, options: Options) -> Iterator[list[str]]:
    database = connect()
    for batch in batches(source, dataset, rows=10_000, workers=1, look=plainly, limit=options.limit):
        if RECORD in batch.table.column_names:
            yield batch.table[RECORD].to_pylist()
        else:
            yield _as_json(database, batch.table)


def _as_json(database: duckdb.DuckDBPyConnection, rows: pa.Table) -> list[str]:
    database.register("_rows", rows)
    found: list[str] = query(database, "SELECT CAST(to_json(_rows) AS VARCHAR) AS j FROM _rows")["j"].to_pylist()
    database.unregister("_rows")
    return found
