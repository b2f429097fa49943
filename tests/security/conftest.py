"""A small migration that a test can run by its commands, with all that it says, on whatever channel."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from resettle.cli import main

FLOW = """
migration: shut
connections:
  src: {type: files, path: data}
  app: {type: sqlite, path: app.sqlite}
flows:
  people:
    from: src.people
    unit: id
    into: app.people
    columns: {id: id, name: name, age: age}
"""
TABLE = """
CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT NOT NULL, age INTEGER CHECK (age < 200), note TEXT);
"""


@dataclass
class Said:
    """How a command ended and all that it said."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


@dataclass
class Folder:
    """A migration's folder and its commands."""

    root: Path
    capture: pytest.CaptureFixture[str]
    said: list[Said] = field(default_factory=list)

    def run(self, *arguments: str) -> Said:
        """Run a command in this process; whatever it writes to stdout and stderr, by C libraries too, is kept."""
        self.capture.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RESETTLE_MIGRATION", str(self.root))
            with pytest.raises(SystemExit) as stop:
                main([*arguments])
        captured = self.capture.readouterr()
        assert isinstance(stop.value.code, int)
        self.said.append(Said(stop.value.code, captured.out, captured.err))
        return self.said[-1]

    def declare(self, text: str) -> None:
        (self.root / "migration.yaml").write_text(text, "utf-8")

    def records(self, records: Sequence[Mapping[str, Any]], dataset: str = "people") -> None:
        (self.root / "data").mkdir(exist_ok=True)
        text = "".join(json.dumps(one) + "\n" for one in records)
        (self.root / "data" / f"{dataset}.jsonl").write_text(text, "utf-8")

    def sql(self, script: str) -> None:
        with closing(sqlite3.connect(self.root / "app.sqlite")) as database, database:
            database.executescript(script)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.root / "app.sqlite")) as database:
            return database.execute(sql).fetchall()


@pytest.fixture
def make(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Folder]:
    """Makes a migration's folder; by default of people, from JSON lines to SQLite."""

    def make(
        declaration: str = FLOW, tables: str = TABLE, records: Sequence[Mapping[str, Any]] = (), name: str = "shut"
    ) -> Folder:
        folder = Folder(tmp_path / name, capfd)
        folder.root.mkdir()
        folder.declare(declaration)
        folder.records(records)
        folder.sql(tables)
        return folder

    return make
