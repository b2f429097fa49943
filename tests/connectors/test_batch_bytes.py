"""Batches end by their bytes too: a few large records are as much as many small ones."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from resettle.connector import Source
from resettle.connectors import _file_formats, _lines, _sqlite
from resettle.connectors.files import Files, FilesSettings
from resettle.connectors.sqlite import SQLite, SQLiteSettings

RECORDS = [{"id": f"{number:03}", "text": "x" * (1_000 if number < 50 else 10)} for number in range(250)]
MOST = 10_000


def files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    (folder / "notes.jsonl").write_text("".join(json.dumps(one) + "\n" for one in RECORDS))
    monkeypatch.setattr(_lines, "MOST_BYTES", MOST)
    monkeypatch.setattr(_lines, "BLOCK", 2_000)
    return Files("files", FilesSettings(path=folder))


def sqlite(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    with sqlite3.connect(folder / "notes.sqlite") as database:
        database.execute("CREATE TABLE notes (id TEXT PRIMARY KEY, text TEXT)")
        database.executemany("INSERT INTO notes VALUES (:id, :text)", RECORDS)
    monkeypatch.setattr(_sqlite, "MOST_BYTES", MOST)
    monkeypatch.setattr(_sqlite, "PAGE", 3)
    return SQLite("sqlite", SQLiteSettings(path=folder / "notes.sqlite"))


@pytest.mark.parametrize("opened", [files, sqlite])
@pytest.mark.parametrize("rows", [100, 7, 1])
def test_a_batch_ends_by_its_rows_or_its_bytes(
    opened: type, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened(tmp_path, monkeypatch)
    (part,) = source.partitions("notes", 1)
    read = list(source.read(part, rows))
    found = [row for batch in read for row in batch.decode(batch.table, ["id", "text"]).to_pylist()]
    source.close()
    assert found == RECORDS
    sizes = [len(batch) for batch in read]
    assert all(batch.table.nbytes < MOST + 4_000 for batch in read)
    assert sizes[0] <= 12  # the large ones come first
    assert max(sizes) == rows


def test_a_parquet_file_with_large_rows_is_read_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "notes.parquet", row_group_size=50, use_dictionary=False)
    monkeypatch.setattr(_file_formats, "MOST_BYTES", MOST)
    source = Files("files", FilesSettings(path=tmp_path))
    (part,) = source.partitions("notes", 1)
    for rows, largest in ((100, 10), (3, 3)):
        read = list(source.read(part, rows))
        assert [row for batch in read for row in batch.table.to_pylist()] == RECORDS
        assert largest - 2 < max(map(len, read)) <= largest
    monkeypatch.setattr(_file_formats, "MOST_BYTES", 1)
    assert max(map(len, source.read(part, 100))) == 1
