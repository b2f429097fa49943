"""A small language for whole migrations: `project(flows, tables, people=[...])`, then plan, apply, verify, look.

The source is a folder of JSON lines, the target a SQLite file, a Postgres database or a memory connector.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import psycopg
import pytest

from resettle.connections import Connections
from resettle.connectors.memory import Memory
from resettle.engine import apply as applying
from resettle.engine import plan as planning
from resettle.engine import verify as verifying
from resettle.engine.flow import Options
from resettle.ledger.ledger import Ledger
from resettle.mapping.load import Migration, load

Records = Sequence[Mapping[str, Any]]
START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)

PEOPLE = """
people:
  from: src.people
  unit: id
  into: app.people
  columns: {id: id, name: name, age: age}
"""
PEOPLE_TABLE = "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT NOT NULL, age INTEGER, note TEXT)"


def person(number: int, name: str = "Anna", **more: Any) -> dict[str, Any]:
    return {"id": f"p{number}", "name": name, "age": 30 + number, **more}


def people(count: int) -> list[dict[str, Any]]:
    return [person(number, f"Name {number}") for number in range(count)]


@dataclass
class Project:
    """A migration folder with its source and its target. Every plan and apply starts an hour after the one before."""

    root: Path
    kind: str
    url: str = ""
    memory: Memory | None = None
    runs: int = 0
    start: datetime = START
    defaults: dict[str, Any] = field(default_factory=dict)
    opened_before: dict[str, Any] = field(default_factory=dict)
    """Connectors that the migration's connections of these names stand for."""

    # -- what people do to the source, the mapping and the target -------------------------------------------

    def put(self, **files: Records) -> None:
        """Write these datasets of the source anew."""
        for name, records in files.items():
            text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            (self.root / "source" / f"{name}.jsonl").write_text(text, "utf-8")

    def flows(self, text: str, extra: str = "") -> None:
        """Write the mapping anew."""
        setting = {"sqlite": f"path: {self.root / 'target.sqlite'}", "postgres": f'url: "{self.url}"', "memory": ""}
        connection = ", ".join(filter(None, [f"type: {self.kind}", setting[self.kind]]))
        (self.root / "migration.yaml").write_text(
            "migration: test\n"
            f"connections:\n  src: {{type: files, path: source}}\n  app: {{{connection}}}\n"
            f"{dedent(extra).strip()}\n"
            f"flows:\n{indent(dedent(text).strip(), '  ')}\n",
            "utf-8",
        )

    def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        """What somebody else does to (or asks of) the target: the rows of the last statement."""
        if self.kind == "postgres":
            with psycopg.connect(self.url) as connection:
                for statement in statements:
                    cursor = connection.execute(statement)
                return cursor.fetchall() if cursor.description else []
        with closing(sqlite3.connect(self.root / "target.sqlite")) as base, base:
            for statement in statements:
                found = base.execute(statement).fetchall()
            return found

    # -- what we do -----------------------------------------------------------------------------------------

    def load(self) -> Migration:
        return load(self.root)

    @contextmanager
    def opened(self) -> Iterator[tuple[Migration, Connections, Ledger]]:
        migration = self.load()
        given = {**self.opened_before, **({"app": self.memory} if self.memory else {})}
        with Connections(migration, opened=given) as connections:
            yield migration, connections, connections.ledger()

    def options(self, given: Mapping[str, Any]) -> tuple[Options, datetime]:
        self.runs += 1
        return Options(**{**self.defaults, **given}), self.start + timedelta(hours=self.runs)

    def plan(self, **options: Any) -> planning.Plan:
        with self.opened() as opened:
            return planning.plan(*opened, *self.options(options))

    def apply(self, saved: planning.Plan | None = None, **options: Any) -> applying.Applied:
        with self.opened() as opened:
            return applying.apply(*opened, *self.options(options), saved=saved)

    def verify(self, sample: int | None = None, **options: Any) -> verifying.Verified:
        with self.opened() as opened:
            return verifying.verify(*opened, *self.options(options), sample=sample)

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        with self.opened() as (_, _, ledger):
            yield ledger

    # -- what we look at ------------------------------------------------------------------------------------

    def rows(self, table: str, columns: str = "*") -> list[tuple[Any, ...]]:
        return self.sql(f"SELECT {columns} FROM {table} ORDER BY 1")

    def units(self, status: str) -> dict[str, str]:
        """Unit -> reason of every unit with a status in the ledger."""
        with self.ledger() as ledger:
            return {row["unit"]: row["reason"] for row in ledger.units(status)}

    @property
    def held(self) -> dict[str, str]:
        return self.units("held")

    def detail(self, unit: str) -> str:
        with self.ledger() as ledger:
            (found,) = [row["detail"] for row in ledger.units("held") if row["unit"] == unit]
        return str(found)

    @property
    def file(self) -> bytes:
        """Every byte of the SQLite target."""
        assert not list(self.root.glob("target.sqlite-*")), "no journal is left behind"
        return (self.root / "target.sqlite").read_bytes()

    def remembered(self) -> dict[str, list[tuple[Any, ...]]]:
        """The ledger's tables without what differs from run to run (run numbers, times, processes)."""
        p = "resettle." if self.kind == "postgres" else "resettle_"
        queries = {
            "rows": f"SELECT flow, unit, output, n, target_key, fingerprint, raw, reused FROM {p}rows",
            "units": f"SELECT flow, unit, status, reason, detail, warnings, raw FROM {p}units",
        }
        return {name: sorted(self.sql(query), key=repr) for name, query in queries.items()}


MakeProject = Callable[..., Project]


@pytest.fixture
def project(tmp_path: Path, request: pytest.FixtureRequest) -> MakeProject:
    """``project(flows, tables, target="sqlite", extra="", **files)``: a migration, ready to run."""
    made: list[Project] = []

    def make(
        flows: str = PEOPLE,
        tables: str | Sequence[str] = PEOPLE_TABLE,
        target: str = "sqlite",
        extra: str = "",
        memory: Memory | None = None,
        **files: Records,
    ) -> Project:
        root = tmp_path / f"project{len(made)}"
        (root / "source").mkdir(parents=True)
        url = request.getfixturevalue("new_database")() if target == "postgres" else ""
        one = Project(root, target, url, memory)
        made.append(one)
        if target != "memory":
            one.sql(*([tables] if isinstance(tables, str) else tables))
        one.put(**files)
        one.flows(flows, extra)
        return one

    return make


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> str:
    """Every test that asks for it runs on both."""
    return str(request.param)


def counts(run: planning.Plan | applying.Applied) -> list[dict[str, Any]]:
    """The numbers of a plan or apply, flow by flow; empty ones left out."""
    found = []
    for one in run.counts:
        plain = one.as_json()
        plain["rows"] = {name: {k: v for k, v in rows.items() if v} for name, rows in plain["rows"].items()}
        plain["rows"] = {name: rows for name, rows in plain["rows"].items() if rows}
        found.append({key: value for key, value in plain.items() if value})
    return found


def statuses(run: planning.Plan | applying.Applied) -> dict[str, int]:
    """Units by status over all flows; empty ones left out."""
    words = ("done", "unchanged", "partial", "skipped", "held", "failed")
    totals = {word: sum(one.units[word] for one in run.counts) for word in words}
    return {word: count for word, count in totals.items() if count}


def actions(run: planning.Plan | applying.Applied) -> dict[str, int]:
    """Rows by action over all flows and outputs; empty ones left out."""
    totals: dict[str, int] = {}
    for one in run.counts:
        for rows in one.rows.values():
            for action, count in rows.items():
                if count:
                    totals[str(action)] = totals.get(str(action), 0) + count
    return totals
