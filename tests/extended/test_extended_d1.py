"""The connector for D1 against D1's real engine, as wrangler runs it here: the contract, its limits, a migration."""

from __future__ import annotations

import json
import random
import sqlite3
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import urllib3

import resettle
from resettle.batch import Action
from resettle.connector import Source, Target
from resettle.connectors.d1 import D1, D1Settings
from resettle.errors import AccessError, RejectedError
from resettle.sandbox.d1 import ACCOUNT, TOKEN

from tests.contract.conftest import *  # noqa: F403  # isort: skip
from tests.contract.test_source import *  # noqa: F403  # isort: skip
from tests.contract.test_sql import *  # noqa: F403  # isort: skip
from tests.contract.test_target import *  # noqa: F403  # isort: skip
from tests.contract.cases import SQLITE_TABLES, Place, Row, SourceCase, TargetCase
from tests.extended import parts
from tests.migrations.test_mirubato_d1 import COLUMNS, FOLDER, generate

pytestmark = pytest.mark.extended

BACKEND, API = (f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2))


class Real:
    """Two databases of one worker, as the connection's settings name them."""

    def __init__(self, url: str) -> None:
        self.url = f"{url}/client/v4"

    def settings(self, database: str = API) -> dict[str, Any]:
        return {"url": self.url, "account": ACCOUNT, "database": database, "token": TOKEN}

    def ask(self, *statements: Mapping[str, Any], database: str = API, form: str = "query") -> Any:
        """Rows of the last statement, past the connector. Raises RuntimeError with the service's words."""
        url = f"{self.url}/accounts/{ACCOUNT}/d1/database/{database}/{form}"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        found = urllib3.request("POST", url, json={"batch": statements}, headers=headers, retries=False).json()
        if not found["success"]:
            raise RuntimeError(found["errors"][0]["message"])
        return found["result"][-1]["results"]

    def sql(self, *statements: str, database: str = API) -> Any:
        return self.ask(*({"sql": one} for one in statements), database=database)

    def clear(self, database: str = API) -> None:
        """Drop every table and view."""
        asked = "SELECT type, name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%' "
        asked += "AND name NOT LIKE '\\_cf\\_%' ESCAPE '\\'"
        drops = [
            f'DROP {one["type"]} "{one["name"].replace(chr(34), chr(34) * 2)}"'
            for one in self.sql(asked, database=database)
        ]
        # In the order of their making, a table goes before what points at it.
        self.sql("PRAGMA defer_foreign_keys = on", *drops[::-1], "SELECT 1", database=database)

    def load(self, database: str, path: Path) -> None:
        """What a SQLite file holds, its indexes and triggers too."""
        with sqlite3.connect(path) as base:
            made = base.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND sql IS NOT NULL").fetchall()
            names = [name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            later = base.execute(
                "SELECT sql FROM sqlite_master WHERE type IN ('index', 'trigger') AND sql IS NOT NULL"
            ).fetchall()
            self.sql(*(sql for (sql,) in made), database=database)
            rows = [insert for name in names for insert in _inserts(base, name)]
            # Rows may point at rows of a later table.
            self.sql("PRAGMA defer_foreign_keys = on", *rows, "SELECT 1", database=database)
            if later:
                self.sql(*(sql for (sql,) in later), database=database)
        base.close()


def _inserts(base: sqlite3.Connection, name: str) -> Iterator[str]:
    for row in base.execute(f'SELECT * FROM "{name}"'):
        yield f'INSERT INTO "{name}" VALUES ({", ".join(_literal(value) for value in row)})'


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    return repr(value) if isinstance(value, int | float) else "'" + value.replace("'", "''") + "'"


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    folder = tmp_path_factory.mktemp("wrangler")
    names = {BACKEND: "BACKEND", API: "API"}
    settings = {
        "vars": {"TOKEN": TOKEN, "ACCOUNT": ACCOUNT, "DATABASES": names},
        "d1_databases": [
            {"binding": name, "database_name": name.lower(), "database_id": one} for one, name in names.items()
        ],
    }

    def ready(url: str) -> None:
        assert Real(url).sql("SELECT 1 AS one") == [{"one": 1}]

    worker = Path(__file__).parent / "wrangler" / "worker.js"
    with parts.wrangler(folder, worker, settings, ready) as url:
        yield Real(url)


@pytest.fixture
def real(worker: Real) -> Real:
    """Both databases, empty."""
    for database in (BACKEND, API):
        worker.clear(database)
    return worker


@pytest.fixture
def d1(real: Real) -> Iterator[D1]:
    made = D1("d1", D1Settings(**real.settings()))
    yield made
    made.close()


# -- the contract ----------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, lambda: "")


@pytest.fixture
def source_case(real: Real) -> SourceCase:
    def make(place: Place, rows: Sequence[Row]) -> Source:
        real.sql("CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT, age INTEGER)")
        for start in range(0, len(rows), 200):
            some = [[_literal(row.get(name)) for name in ("id", "name", "age")] for row in rows[start : start + 200]]
            real.sql(*(f"INSERT INTO people VALUES ({', '.join(one)})" for one in some))
        return D1("d1", D1Settings(**real.settings(), readonly=True))

    return SourceCase("d1", make)


@pytest.fixture
def target_case(real: Real) -> TargetCase:
    def make(place: Place) -> Target:
        real.sql(*(one for one in SQLITE_TABLES.split(";\n") if one.strip()))
        return D1("d1", D1Settings(**real.settings()))

    def orphan(place: Place, target: Target) -> None:
        pytest.skip("D1 lets nobody past its foreign keys")

    return TargetCase("d1", make, orphan, nests=False, sees_its_writes=False)


# -- exact values and limits -----------------------------------------------------------------------


def create(d1: D1, dataset: str, **columns: Any) -> None:
    with d1.transaction():
        d1.write(dataset, pa.table(columns), ["id"], Action.CREATE)


def test_integers_above_2_to_the_53rd_are_written_and_read_exactly(real: Real, d1: D1) -> None:
    real.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)")
    values = [2**53 + 1, 2**63 - 1, -(2**63), -(2**53) - 1, 0]
    create(d1, "t", id=[2**60 + at for at in range(5)], n=values)
    # what the service itself says of them is rounded
    assert real.sql("SELECT n FROM t ORDER BY id")[0]["n"] == 2**53
    read = [batch for part in d1.partitions("t", 1) for batch in d1.read(part, 10)]
    found = [row for batch in read for row in batch.decode(batch.table, ["id", "n"]).to_pylist()]
    assert sorted((int(row["id"]), int(row["n"])) for row in found) == [(2**60 + at, n) for at, n in enumerate(values)]
    assert d1.fetch("t", pa.table({"id": [2**60 + 1]}), ["n"])["n"].to_pylist() == [2**63 - 1]


def test_doubles_texts_and_bytes_are_kept_to_the_last_bit(real: Real, d1: D1) -> None:
    real.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, x REAL, s TEXT, b BLOB)")
    chance = random.Random(1)
    doubles = [struct.unpack("<d", chance.randbytes(8))[0] for _ in range(300)] + [0.1, 5e-324, 1e308]
    doubles = [one for one in doubles if one == one and abs(one) != float("inf")]
    texts = ["", "null", "007", "👩‍👩‍👧 é \u2028", "a\"b'c\\", "x" * 50_000]
    count = len(doubles)
    texts += [f"t{at}" for at in range(count - len(texts))]
    blobs = [chance.randbytes(at % 50) for at in range(count)]
    create(d1, "t", id=list(range(count)), x=doubles, s=texts, b=pa.array(blobs, pa.binary()))
    found = d1.fetch("t", pa.table({"id": list(range(count))}), ["x", "s", "b"]).sort_by("id")
    assert [struct.pack("<d", one) for one in found["x"].to_pylist()] == [struct.pack("<d", one) for one in doubles]
    assert found["s"].to_pylist() == texts
    assert found["b"].to_pylist() == blobs


def test_the_stand_in_has_the_limits_that_the_engine_has(real: Real, tmp_path: Path) -> None:
    from resettle.sandbox.d1 import start_d1

    many = {"sql": f"SELECT {', '.join('?' * 101)}", "params": ["x"] * 101}
    fits = {"sql": f"SELECT {', '.join('?' * 100)}", "params": ["x"] * 100}
    long = {"sql": f"SELECT '{'x' * 100_000}'"}
    like = {"sql": f"SELECT 'a' LIKE '{'x' * 51}'"}
    begin = {"sql": "BEGIN"}
    columns = {"sql": f"CREATE TABLE wide ({', '.join(f'c{at}' for at in range(101))})"}
    with start_d1(tmp_path / "d1.sqlite") as local:
        stand_in = Real(local.url.removesuffix("/client/v4"))
        database = str(local.settings()["database"])
        for one in (real, stand_in):
            where = {"database": API if one is real else database}
            assert one.ask(fits, **where)
            for wrong in (many, long, like, begin, columns):
                with pytest.raises(RuntimeError):
                    one.ask(wrong, **where)


def test_a_batch_is_one_transaction(real: Real) -> None:
    real.sql("CREATE TABLE t (id TEXT PRIMARY KEY)")
    with pytest.raises(RuntimeError, match="UNIQUE constraint failed"):
        real.sql("INSERT INTO t VALUES ('a')", "INSERT INTO t VALUES ('b')", "INSERT INTO t VALUES ('a')")
    assert real.sql("SELECT count(*) AS n FROM t") == [{"n": 0}]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"id": ["a"], "name": [None]}, "null"),
        ({"id": ["a"], "name": ["x"], "email": ["taken"]}, "unique"),
        ({"id": ["a"], "name": ["x"], "age": [-1]}, "check"),
        ({"id": ["a"], "name": ["x"], "boss": ["nobody"]}, "foreign_key"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_what_the_engine_refuses_has_its_reason(real: Real, d1: D1, columns: dict[str, Any], reason: str) -> None:
    real.sql(
        "CREATE TABLE t (id TEXT PRIMARY KEY, name TEXT NOT NULL, email TEXT UNIQUE, age INT CHECK (age > 0), "
        "boss TEXT REFERENCES t)",
        "INSERT INTO t (id, name, email) VALUES ('z', 'z', 'taken')",
    )
    with pytest.raises(RejectedError) as caught:
        create(d1, "t", **{name: pa.array(value, pa.int64() if name == "age" else pa.string())
                           for name, value in columns.items()})  # fmt: skip
    assert caught.value.reason == reason
    assert real.sql("SELECT count(*) AS n FROM t") == [{"n": 1}]


def test_a_wrong_token_is_an_access_error(real: Real) -> None:
    with pytest.raises(AccessError):
        D1("d1", D1Settings(**{**real.settings(), "token": "another"})).datasets()


def test_ten_thousand_rows_are_written_in_one_transaction(real: Real, d1: D1) -> None:
    real.sql("CREATE TABLE t (id TEXT PRIMARY KEY, data TEXT, n INTEGER)")
    ids = [f"id-{at}" for at in range(10_000)]
    create(d1, "t", id=ids, data=[json.dumps({"at": at, "text": "x" * 100}) for at in range(10_000)], n=range(10_000))
    assert real.sql("SELECT count(*) AS n, sum(n) AS s FROM t") == [{"n": 10_000, "s": sum(range(10_000))}]


# -- a migration -----------------------------------------------------------------------------------


def test_mirubato_migrates_from_engine_to_engine_as_from_file_to_file(real: Real, tmp_path: Path) -> None:
    paths = {kind: (tmp_path / kind / "backend.sqlite", tmp_path / kind / "api.sqlite") for kind in ("files", "d1")}
    for backend, api in paths.values():
        backend.parent.mkdir()
        generate.generate(backend, api, 60)
    backend, api = paths["files"]
    told = {"MIRUBATO_BACKEND_DB": str(backend), "MIRUBATO_API_DB": str(api)}
    wanted = _migrated(resettle.load(FOLDER, "local", told))
    with sqlite3.connect(api) as base:
        rows = base.execute(f"SELECT {COLUMNS} FROM sync_data ORDER BY id").fetchall()
    base.close()
    for database, path in zip((BACKEND, API), paths["d1"], strict=True):
        real.load(database, path)
    told = {"CLOUDFLARE_ACCOUNT_ID": ACCOUNT, "CLOUDFLARE_API_TOKEN": TOKEN}
    told |= {"MIRUBATO_BACKEND_D1": BACKEND, "MIRUBATO_API_D1": API}
    migration = resettle.load(FOLDER, "staging", told)
    for name in ("backend", "api"):
        settings: Any = migration.connections[name]
        settings["url"] = real.url
    assert _migrated(migration) == wanted
    found = real.sql(f"SELECT {COLUMNS} FROM sync_data ORDER BY id")
    assert [tuple(row.values()) for row in found] == rows


def _migrated(migration: resettle.Migration) -> Any:
    """Plan, apply, verify, apply again; what was counted and held."""
    with resettle.connect(migration) as connections:
        planned = resettle.plan(migration, connections)
        applied = resettle.apply(migration, connections)
        assert [counts.as_json() for counts in planned.counts] == [counts.as_json() for counts in applied.counts]
        assert not resettle.verify(migration, connections).findings
        again = resettle.apply(migration, connections)
        assert sum(counts.units["done"] for counts in again.counts) == 0
        held = {row["unit"]: row["reason"] for row in connections.ledger().units("held")}
    return {counts.flow: dict(counts.units) for counts in applied.counts}, held
