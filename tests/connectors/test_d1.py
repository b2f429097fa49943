"""What only the connector for D1 does: its limits, exact numbers, one batch for a transaction, lost answers."""

from __future__ import annotations

import functools
import json
import random
import re
import sqlite3
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pyarrow as pa
import pytest

from resettle.batch import Action
from resettle.calls import Caller
from resettle.connections import Connections
from resettle.connectors import _d1_http, _d1_read, _d1_write
from resettle.connectors._d1_http import ApiError
from resettle.connectors.d1 import D1, D1Settings, errors
from resettle.connectors.sqlite import SQLite, SQLiteSettings
from resettle.engine import apply as applying
from resettle.engine import plan as planning
from resettle.engine import verify as verifying
from resettle.engine.flow import Options
from resettle.errors import (
    AccessError,
    ConfigError,
    ConnectorError,
    FenceError,
    LedgerError,
    LockedError,
    RejectedError,
    ResettleError,
    TransientError,
)
from resettle.ledger import d1 as store
from resettle.ledger import sqlite as sqlite_store
from resettle.ledger.ledger import Ledger
from resettle.mapping.load import load
from resettle.sandbox.d1 import CUT, LOST, OVERLOADED, RESET, TOKEN, TOO_MANY, Fault, LocalD1, start_d1


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalD1]:
    with start_d1(tmp_path / "d1.sqlite") as made:
        yield made


def opened(local: LocalD1, **settings: Any) -> D1:
    """A connector that does not really wait between its tries."""
    translate = functools.partial(errors, connection="d1")
    caller = Caller(translate, sleep=lambda seconds: None)
    return D1("d1", D1Settings(**{**local.settings(), **settings}), caller=caller)


@pytest.fixture
def d1(local: LocalD1) -> Iterator[D1]:
    made = opened(local)
    yield made
    made.close()


def once(fault: Fault, of: str) -> Callable[[Sequence[str]], Fault | None]:
    """The first request with a statement that begins so goes wrong."""
    left = [fault]
    return lambda sqls: left.pop() if left and any(sql.startswith(of) for sql in sqls) else None


def sent(local: LocalD1, of: str) -> int:
    """How many requests had a statement that begins so."""
    return sum(any(sql.startswith(of) for sql in request) for request in local.requests)


def create(d1: D1, dataset: str, **columns: Any) -> None:
    with d1.transaction():
        d1.write(dataset, pa.table(columns), ["id"], Action.CREATE)


PEOPLE = "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT NOT NULL, age INTEGER)"
INSERT = "INSERT OR ABORT"


# -- values --------------------------------------------------------------------------------------------------

MESSY = [
    None,
    0,
    2**53 + 1,
    -(2**63),
    2**63 - 1,
    1.0,
    0.1,
    -1e300,
    5e-324,
    1 / 3,
    float("inf"),
    float("-inf"),
    "",
    "text",
    "null",
    "i12",
    "007",
    "1e5",
    "a\x00b",
    "👩‍👩‍👧 é \u2028",
    "an honest \ufffd",
    b"",
    b"bytes",
    b"\xff\x00",
    "x" * 1_950_000,
    b"\x00" * 1_200_000,
]


def messy(path: Path, extra: str = "") -> None:
    with sqlite3.connect(path) as base:
        base.execute(f"CREATE TABLE t (id INTEGER PRIMARY KEY, a, b TEXT, c BLOB, d REAL, e NUMERIC, f INT){extra}")
        for number, value in enumerate(MESSY):
            for column in "abcdef":
                at = number * 6 + "abcdef".index(column) + 2**60
                base.execute(f"INSERT INTO t (id, {column}) VALUES (?, ?)", (at, value))
        base.execute("INSERT INTO t (id, a, b) VALUES (1, 'fine', CAST(x'41ff42' AS TEXT))")
        base.execute("INSERT INTO t (id, c) VALUES (-9223372036854775808, CAST(x'41ff42' AS TEXT))")
    base.close()


@pytest.mark.parametrize("rows", [7, 1000])
@pytest.mark.parametrize("extra", ["", " WITHOUT ROWID"])
def test_a_source_gives_what_the_sqlite_connector_gives_for_the_same_file(
    local: LocalD1, d1: D1, tmp_path: Path, rows: int, extra: str
) -> None:
    messy(tmp_path / "d1.sqlite", extra)
    sqlite = SQLite("sqlite", SQLiteSettings(path=tmp_path / "d1.sqlite", readonly=True))

    def read(source: D1 | SQLite) -> list[Any]:
        batches = [one for part in source.partitions("t", 1) for one in source.read(part, rows)]
        return [row | {"_trouble": row.get("_trouble")} for batch in batches for row in batch.table.to_pylist()]

    assert d1.schema("t") == sqlite.schema("t").__class__(
        **vars(sqlite.schema("t")) | {"privileges": d1.schema("t").privileges}
    )
    assert sum(row["_trouble"] is not None for row in read(d1)) > 0
    assert read(d1) == read(sqlite)
    sqlite.close()


def test_fetch_gives_what_the_sqlite_connector_gives(local: LocalD1, d1: D1, tmp_path: Path) -> None:
    messy(tmp_path / "d1.sqlite")
    for column, kind in (("c", "blob"), ("d", "real"), ("f", "integer")):
        local.sql(f"DELETE FROM t WHERE typeof({column}) NOT IN ('{kind}', 'null')")
    local.sql("DELETE FROM t WHERE id < 2 OR x'ff00' IN (a, b, e)")
    sqlite = SQLite("sqlite", SQLiteSettings(path=tmp_path / "d1.sqlite"))
    keys = pa.table({"id": pa.array([row[0] for row in local.sql("SELECT id FROM t")], pa.int64())})
    found = [source.fetch("t", keys, list("abcdef")).sort_by("id") for source in (d1, sqlite)]
    assert found[0].num_rows > 50
    assert found[0] == found[1]
    sqlite.close()


def test_every_double_is_written_to_the_last_bit(local: LocalD1, d1: D1) -> None:
    local.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, x REAL)")
    rng = random.Random(1)
    values = [struct.unpack("d", rng.randbytes(8))[0] for _ in range(20_000)]
    values = [one for one in values if one == one] + [
        0.1,
        1e15,
        5e-324,
        2.2250738585072011e-308,
        1.7976931348623157e308,
    ]
    values += [float("inf"), float("-inf"), 0.0, None]
    create(d1, "t", id=pa.array(range(len(values)), pa.int64()), x=pa.array(values, pa.float64()))
    assert [x for (x,) in local.sql("SELECT x FROM t ORDER BY id")] == values
    plain = pa.array([0.25, 1 / 4, 123456.789, 1e-5, None], pa.float64())
    create(d1, "t", id=pa.array(range(-5, 0), pa.int64()), x=plain)
    assert local.sql("SELECT x FROM t WHERE id < 0 ORDER BY id") == [(one,) for one in plain.to_pylist()]
    with pytest.raises(RejectedError, match="inexact"):
        create(d1, "t", id=pa.array([-9], pa.int64()), x=pa.array([float("nan")]))


def test_integers_beyond_a_double_survive_every_way_of_asking(local: LocalD1, d1: D1) -> None:
    local.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)", f"INSERT INTO t VALUES ({2**53 + 1}, {-(2**63)})")
    assert d1.execute("SELECT id, n FROM t WHERE id = %s", (2**53 + 1,)) == [(2**53 + 1, -(2**63))]
    assert d1.query("SELECT id, n FROM t").to_pylist() == [{"id": 2**53 + 1, "n": -(2**63)}]
    assert d1.ask("select n, id from t order by id; ") == [(-(2**63), 2**53 + 1)]
    keys = pa.table({"id": pa.array([2**53, 2**53 + 1], pa.int64())})
    assert d1.fetch("t", keys, ["n"]).to_pylist() == [{"id": 2**53 + 1, "n": -(2**63)}]


def test_a_statement_keeps_what_is_quoted_or_commented(d1: D1) -> None:
    sql = "SELECT '?; %%s ''', %s, \"x?\" -- is it; ) so?\nFROM (SELECT 5 AS \"x?\") /* ) ? */"
    assert d1.execute(sql, ("a",)) == [("?; %s '", "a", 5)]
    assert d1.execute("WITH a AS (SELECT %s AS b) SELECT b FROM a", (b"\x00",)) == [(b"\x00",)]


@pytest.mark.parametrize(
    "sql", ["select 1) select 1; delete from people; --", "select 1; select 2", "pragma user_version"]
)
def test_ask_takes_one_select(local: LocalD1, d1: D1, sql: str) -> None:
    local.sql(PEOPLE, "INSERT INTO people VALUES ('a', 'A', 1)")
    with pytest.raises(ConfigError):
        d1.ask(sql)
    assert local.sql("SELECT count(*) FROM people") == [(1,)]


# -- limits --------------------------------------------------------------------------------------------------


def test_values_as_long_as_d1_allows_are_written_and_read(local: LocalD1, d1: D1) -> None:
    local.sql("CREATE TABLE t (id TEXT PRIMARY KEY, a TEXT, b BLOB)")
    long = {"quotes": '"\\' * 900_000, "emoji": "👧" * 490_000, "nul": "\x00" * 1_200_000}
    create(d1, "t", id=list(long), a=list(long.values()))
    create(d1, "t", id=["bytes"], b=pa.array([bytes(range(256)) * 7_000], pa.binary()))
    found = d1.fetch("t", pa.table({"id": [*long, "bytes"]}), ["a", "b"]).to_pylist()
    assert {row["id"]: row["a"] for row in found if row["a"]} == long
    assert [row["b"] for row in found if row["b"]] == [bytes(range(256)) * 7_000]


@pytest.mark.parametrize("value", ["x" * 2_000_001, b"x" * 2_000_001])
def test_a_value_longer_than_that_is_refused(local: LocalD1, d1: D1, value: str | bytes) -> None:
    local.sql("CREATE TABLE t (id TEXT PRIMARY KEY, a)")
    with pytest.raises(RejectedError) as caught:
        create(d1, "t", id=["a"], a=[value])
    assert caught.value.reason == "too_large"
    assert d1.empty("t")


def test_a_table_may_have_almost_as_many_columns_as_d1_allows(local: LocalD1, d1: D1) -> None:
    for count in (97, 98):
        names = [f"c{number}" for number in range(count - 1)]
        local.sql(f"CREATE TABLE t{count} (id TEXT PRIMARY KEY, {', '.join(names)})")
        create(d1, f"t{count}", id=["a", "b"], **{name: ["1", None] for name in names})
    (part,) = d1.partitions("t97", 1)
    assert [len(batch) for batch in d1.read(part, 10)] == [2]
    with pytest.raises(ConfigError, match="columns cannot be read"):
        list(d1.read(d1.partitions("t98", 1)[0], 10))


def test_a_statement_may_have_more_parameters_than_d1_allows(local: LocalD1, d1: D1) -> None:
    values = [*(f"it's ? {n}" for n in range(150)), None, 2**62, "a\x00b", b"\x01"]
    marks = ", ".join(["(%s)"] * len(values))
    assert d1.execute(f"SELECT column1 FROM (VALUES {marks})", values) == [(one,) for one in values]


def test_pages_of_long_values_hold_fewer_rows(local: LocalD1, d1: D1) -> None:
    local.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)")
    local.sql("INSERT INTO t SELECT value, hex(zeroblob(500000)) FROM json_each('[1,2,3,4,5,6,7,8,9,10,11]')")
    sizes = [len(batch) for batch in d1.read(d1.partitions("t", 1)[0], 1000)]
    assert sizes == [4, 4, 3]
    keys = pa.table({"id": pa.array([*range(50), 3], pa.int64())})
    local.requests.clear()
    found = d1.fetch("t", keys, ["a"])
    assert sorted(found["id"].to_pylist()) == list(range(1, 12))
    assert len(local.requests) == 3


def test_many_staged_rows_are_worked_off_in_pieces(local: LocalD1, d1: D1) -> None:
    local.sql("CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER)")
    numbers = "WITH RECURSIVE r(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM r WHERE n < 59999)"
    local.sql(f"{numbers} INSERT INTO t SELECT n, n FROM r")
    asked = pa.table({"id": [f"{n}" for n in range(0, 100_000, 2)], "pad": ["x" * 100] * 50_000})
    local.requests.clear()
    with d1.transaction():
        d1.stage("asked", asked)
        found = d1.query("SELECT t.id, t.n FROM asked a CROSS JOIN t ON t.id = a.id")
        d1.execute("UPDATE t SET n = -1 FROM asked WHERE asked.id = t.id")
    assert sorted(found["n"].to_pylist()) == list(range(0, 60_000, 2))
    assert local.sql("SELECT count(*), sum(n = -1) FROM t") == [(60_000, 30_000)]
    assert sum(len(request) for request in local.requests) > 10


def test_a_commit_that_is_too_large_says_which_batch_would_fit(
    local: LocalD1, d1: D1, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.sql(PEOPLE)
    monkeypatch.setattr(_d1_write, "LARGEST_REQUEST", 100_000)
    many = pa.table({"id": [str(n) for n in range(10_000)], "name": ["n" * 50] * 10_000})
    with pytest.raises(RejectedError, match="--batch-size") as caught, d1.transaction():
        d1.write("people", many, ["id"], Action.CREATE)
    assert caught.value.reason == "too_large"
    fits = int(caught.value.detail.partition("--batch-size ")[2].partition(" ")[0])
    assert 500 < fits < 2000
    with d1.transaction():
        d1.write("people", many.slice(0, fits), ["id"], Action.CREATE)
    assert d1.count("people") == fits


def test_d1s_own_tables_are_no_datasets(local: LocalD1, d1: D1) -> None:
    local.sql("CREATE TABLE _cf_KV (key TEXT PRIMARY KEY)", "CREATE TABLE acf_x (id INTEGER)", PEOPLE)
    assert d1.datasets() == ["acf_x", "people"]


# -- errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "text", "kind", "reason", "detail"),
    [
        (400, "UNIQUE constraint failed: t.a, t.b: SQLITE_CONSTRAINT", RejectedError, "unique", "t.a, t.b"),
        (
            400,
            "UNIQUE constraint failed: t.a: SQLITE_CONSTRAINT (extended: SQLITE_CONSTRAINT_PRIMARYKEY)",
            RejectedError,
            "unique",
            "t.a",
        ),
        (400, "D1_ERROR: NOT NULL constraint failed: t.a: SQLITE_CONSTRAINT", RejectedError, "null", "t.a"),
        (400, "CHECK constraint failed: positive: SQLITE_CONSTRAINT", RejectedError, "check", "positive"),
        (400, "FOREIGN KEY constraint failed: SQLITE_CONSTRAINT", RejectedError, "foreign_key", ""),
        (400, "cannot store TEXT value in INTEGER column t.a: SQLITE_CONSTRAINT", RejectedError, "type", ""),
        (400, "datatype mismatch: SQLITE_MISMATCH", RejectedError, "type", ""),
        (400, "not for Anna: SQLITE_CONSTRAINT (extended: SQLITE_CONSTRAINT_TRIGGER)", RejectedError, "trigger", ""),
        (400, "string or blob too big: SQLITE_TOOBIG", RejectedError, "too_large", ""),
        (413, "", RejectedError, "too_large", ""),
        (401, "Authentication error", AccessError, "", ""),
        (403, "", AccessError, "", ""),
        (404, "The database was not found", AccessError, "", ""),
        (400, "not authorized: SQLITE_AUTH", AccessError, "", ""),
        (429, "", TransientError, "", ""),
        (500, "D1 DB is overloaded. Too many requests queued.", TransientError, "", ""),
        (400, "D1_ERROR: Network connection lost.", TransientError, "", ""),
        (500, "D1 DB storage operation exceeded timeout which caused object to be reset.", TransientError, "", ""),
        (500, "internal error", TransientError, "", ""),
        (502, "", TransientError, "", ""),
        (400, "no such table: overloaded: SQLITE_ERROR", ConnectorError, "", ""),
        (418, "", ConnectorError, "", ""),
    ],
)
def test_every_error_of_the_service_is_known(
    status: int, text: str, kind: type[ConnectorError], reason: str, detail: str
) -> None:
    found = errors(ApiError(status, text), "d1")
    assert type(found) is kind
    assert found.connection == "d1"
    if isinstance(found, RejectedError):
        assert (found.reason, found.detail) == (reason, detail)
    assert "Anna" not in str(found)


def test_every_refusal_of_the_engine_has_its_reason(local: LocalD1, d1: D1) -> None:
    local.sql(
        "CREATE TABLE t (id TEXT PRIMARY KEY, a TEXT CHECK (a <> 'bad'), b INTEGER) STRICT",
        "CREATE TRIGGER no BEFORE INSERT ON t WHEN NEW.a = 'no' BEGIN SELECT RAISE(ABORT, 'never Anna'); END",
    )
    for column, value, reason in (("a", "bad", "check"), ("a", "no", "trigger"), ("b", "x", "type")):
        with pytest.raises(RejectedError) as caught:
            create(d1, "t", id=["1"], **{column: [value]})
        assert caught.value.reason == reason
        assert "Anna" not in f"{caught.value} {caught.value.detail}"


FAMILY = (
    "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT)",
    "CREATE TABLE pets (id TEXT PRIMARY KEY, owner TEXT REFERENCES people, mother TEXT REFERENCES pets, pad TEXT)",
)


def test_of_two_foreign_keys_the_one_that_finds_nothing_is_named(local: LocalD1, d1: D1) -> None:
    local.sql(*FAMILY)
    pets = pa.table({"id": ["cat", "kitten"], "owner": ["a", "gone"], "mother": [None, "cat"]})
    with pytest.raises(RejectedError) as caught, d1.transaction():  # noqa: PT012
        d1.write("people", pa.table({"id": ["a"]}), ["id"], Action.CREATE)
        d1.write("pets", pets, ["id"], Action.CREATE)
    assert (caught.value.reason, caught.value.detail) == ("foreign_key", "pets_owner_fkey")
    assert d1.empty("people")


def test_rows_may_point_at_rows_of_a_later_statement(local: LocalD1, d1: D1) -> None:
    local.sql(*FAMILY)
    count = 3_000
    pets = {"id": [f"{n}" for n in range(count)], "mother": [f"{count - 1 - n}" for n in range(count)]}
    create(d1, "pets", **pets, pad=["x" * 1000] * count)
    assert sum(sql.startswith(INSERT) for sql in local.requests[-1]) > 1
    assert d1.count("pets") == count


def test_a_wrong_token_is_said_without_it(local: LocalD1) -> None:
    with pytest.raises(AccessError) as caught:
        opened(local, token="cfut_secret").datasets()
    assert "cfut_secret" not in f"{caught.value} {caught.value.hint}"
    assert TOKEN not in repr(D1Settings(**local.settings())).replace(f"account='{TOKEN}'", "")


def test_the_token_is_never_sent_in_the_open(local: LocalD1) -> None:
    with pytest.raises(ConfigError, match="https"):
        opened(local, url="http://api.example.org/client/v4")


def test_a_service_that_is_not_there_is_tried_again(local: LocalD1) -> None:
    d1 = opened(local, url="http://127.0.0.1:1/client/v4")
    with pytest.raises(TransientError):
        d1.datasets()
    assert d1._call.counts["retries"] == 7


def test_a_readonly_connection_never_sends_a_write(local: LocalD1) -> None:
    local.sql(PEOPLE)
    d1 = opened(local, readonly=True)
    for write in (
        lambda: create(d1, "people", id=["a"], name=["A"]),
        lambda: d1.execute("DELETE FROM people"),
        lambda: d1.insert("people", pa.table({"id": ["a"]})),
        lambda: d1.delete("people", pa.table({"id": ["a"]})),
        lambda: d1.demand("DELETE FROM people", (), LedgerError("x")),
    ):
        with pytest.raises(AccessError):
            write()
    assert all(sql.startswith("SELECT") for request in local.requests for sql in request)


# -- trouble on the way ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [TOO_MANY, OVERLOADED, RESET, CUT, LOST, Fault(502, "bad gateway")], ids=repr)
def test_a_read_is_tried_again(local: LocalD1, d1: D1, fault: Fault) -> None:
    local.sql(PEOPLE, "INSERT INTO people VALUES ('a', 'A', 1)")
    local.faults = once(fault, "SELECT q.*")
    assert d1.execute("SELECT name FROM people") == [("A",)]
    assert d1._call.counts["retries"] == 1
    assert d1._call.counts["throttled"] == (fault in (TOO_MANY, OVERLOADED))


@pytest.mark.parametrize("fault", [TOO_MANY, OVERLOADED], ids=repr)
def test_a_commit_that_surely_did_not_run_is_tried_again(local: LocalD1, d1: D1, fault: Fault) -> None:
    local.sql(PEOPLE)
    local.faults = once(fault, INSERT)
    create(d1, "people", id=["a"], name=["A"])
    assert local.sql("SELECT id FROM people") == [("a",)]
    assert sent(local, INSERT) == 2


@pytest.mark.parametrize(
    ("fault", "there"), [(RESET, 0), (CUT, 0), (LOST, 1), (Fault(500, "internal error", after=True), 1)]
)
def test_a_commit_whose_answer_is_lost_is_not_repeated_but_told(
    local: LocalD1, d1: D1, fault: Fault, there: int
) -> None:
    local.sql(PEOPLE)
    local.faults = once(fault, INSERT)
    with pytest.raises(TransientError):
        create(d1, "people", id=["a"], name=["A"])
    assert local.sql("SELECT count(*) FROM people") == [(there,)]
    assert sent(local, INSERT) == 1
    create(d1, "people", id=["b"], name=["B"])  # and the connection goes on


def test_an_update_of_a_row_that_somebody_changed_meanwhile_does_nothing(local: LocalD1, d1: D1) -> None:
    local.sql(PEOPLE, "INSERT INTO people VALUES ('a', 'A', 1), ('b', 'B', 2), ('c', 'C', 3)")
    keys, rows = pa.table({"id": ["a", "b"]}), pa.table({"id": ["a"], "name": ["new"]})
    for theirs in ("UPDATE people SET age = 7 WHERE id = 'a'", "DELETE FROM people WHERE id = 'a'"):
        with pytest.raises(TransientError, match="somebody else"), d1.transaction():  # noqa: PT012
            d1.fetch("people", keys, ["name", "age"], lock=True)
            d1.write("people", rows, ["id"], Action.UPDATE)
            d1.write("people", pa.table({"id": ["z"], "name": ["Z"]}), ["id"], Action.CREATE)
            local.sql(theirs)
    assert local.sql("SELECT id, name FROM people ORDER BY id") == [("b", "B"), ("c", "C")]
    with d1.transaction():
        d1.fetch("people", keys, ["name", "age"], lock=True)
        local.sql("UPDATE people SET age = 8 WHERE id = 'c'")  # a row that is not written
        d1.write("people", pa.table({"id": ["b"], "name": ["new"]}), ["id"], Action.UPDATE)
    assert local.sql("SELECT name FROM people WHERE id = 'b'") == [("new",)]


def test_a_row_that_somebody_changed_meanwhile_is_not_deleted(local: LocalD1, d1: D1) -> None:
    local.sql(PEOPLE, "INSERT INTO people VALUES ('a', 'A', 1), ('b', 'B', 2)")
    keys = pa.table({"id": ["a", "b"]})
    with pytest.raises(TransientError, match="somebody else"), d1.transaction():  # noqa: PT012
        d1.fetch("people", keys, ["name", "age"], lock=True)
        d1.delete("people", keys)
        local.sql("UPDATE people SET age = 7 WHERE id = 'b'")
    assert local.sql("SELECT id, age FROM people ORDER BY id") == [("a", 1), ("b", 7)]
    with d1.transaction():
        d1.fetch("people", keys, ["name", "age"], lock=True)
        local.sql("UPDATE people SET age = 8 WHERE id = 'b'")  # a row that stays
        assert d1.delete("people", keys.slice(0, 1)) == 1
    assert local.sql("SELECT id, age FROM people") == [("b", 8)]


def test_the_columns_of_a_query_are_asked_once_for_each_form_of_what_is_staged(local: LocalD1, d1: D1) -> None:
    for number in range(3):
        with d1.transaction():
            d1.stage("asked", pa.table({"a": [f"{number}"]}))
            assert d1.query("SELECT * FROM asked").to_pylist() == [{"a": f"{number}"}]
    assert len(local.requests) == 4
    with d1.transaction():
        d1.stage("asked", pa.table({"a": ["0"], "b": pa.array([1], pa.int64())}))
        assert d1.query("SELECT * FROM asked").to_pylist() == [{"a": "0", "b": 1}]


def test_reads_in_a_transaction_see_what_is_committed(local: LocalD1, d1: D1) -> None:
    local.sql(PEOPLE)
    with d1.transaction():
        d1.write("people", pa.table({"id": ["a"], "name": ["A"]}), ["id"], Action.CREATE)
        assert d1.execute("UPDATE people SET age = 1 RETURNING id") == []
        assert d1.empty("people")
        with pytest.raises(ConfigError, match="transaction within a transaction"), d1.transaction():
            pass
    assert local.sql("SELECT id, age FROM people") == [("a", 1)]
    assert sent(local, INSERT) == 1


# -- the ledger ------------------------------------------------------------------------------------------------

START = datetime(2026, 1, 1, 12, tzinfo=UTC)


def ledger_of(d1: D1, schema: str = "resettle", migration: str = "test") -> Ledger:
    return Ledger(d1, migration, "local", schema=schema, version="1")


def test_of_two_runs_that_see_a_free_lock_one_is_told_that_it_is_locked(local: LocalD1, d1: D1) -> None:
    ledger_of(d1).prepare({"people": ["row"]})
    for number in (1, 2):  # with no row in `locks`, then with a free one
        mine, theirs = ledger_of(d1), ledger_of(opened(local))
        with theirs.run("apply", {}, START, lock=True) if number == 2 else nullcontext():
            pass
        held = theirs.run("apply", {}, START, lock=True)
        first = [held.__enter__]

        def meanwhile(sqls: Sequence[str], first: list[Callable[[], object]] = first) -> None:
            if first and any(sql.startswith("INSERT INTO resettle_locks") for sql in sqls):
                first.pop()()

        local.faults = meanwhile
        with pytest.raises(LockedError, match="took the lock"), mine.run("apply", {}, START, lock=True):
            pass
        assert not first
        with pytest.raises(LockedError, match="is writing"), mine.run("apply", {}, START, lock=True):
            pass
        held.__exit__(None, None, None)
    assert len({run["run"] for run in mine.runs()}) == 3


def test_two_migrations_that_are_prepared_at_once_get_different_numbers(local: LocalD1, d1: D1) -> None:
    ledger_of(d1).prepare({"people": ["row"]})
    others = [lambda: ledger_of(opened(local), migration="other").prepare({"a": ["row"], "b": ["row"]})]

    def meanwhile(sqls: Sequence[str]) -> None:
        if others and any(sql.startswith("INSERT INTO resettle_flows") for sql in sqls):
            others.pop()()

    local.faults = meanwhile
    third = ledger_of(d1, migration="third")
    with pytest.raises(LockedError, match="same moment"):
        third.prepare({"c": ["row"]})
    third.prepare({"c": ["row"]})
    assert local.sql("SELECT flow, name FROM resettle_flows ORDER BY flow") == [
        (1, "people"),
        (2, "a"),
        (3, "b"),
        (4, "c"),
    ]


def test_a_run_that_lost_its_lock_can_neither_write_nor_beat(local: LocalD1, d1: D1) -> None:
    local.sql(PEOPLE)
    ledger = ledger_of(d1)
    ledger.prepare({"people": ["row"]})
    with ledger.run("apply", {}, START, lock=True) as run:
        ledger.heartbeat(run)
        local.sql("UPDATE resettle_locks SET fence = fence + 1")
        with pytest.raises(FenceError):
            ledger.heartbeat(run)
        with pytest.raises(FenceError), d1.transaction():  # noqa: PT012
            d1.write("people", pa.table({"id": ["a"], "name": ["A"]}), ["id"], Action.CREATE)
            ledger.fence(run)
    assert d1.empty("people")


def test_hashes_are_read_in_pages(local: LocalD1, d1: D1, monkeypatch: pytest.MonkeyPatch) -> None:
    local.sql("CREATE TABLE m_rows (unit TEXT PRIMARY KEY, raw INTEGER)")
    raws = [2**63 - 1 - n for n in range(25)]
    local.sql(*(f"INSERT INTO m_rows VALUES ('{n or ''}', {raw})" for n, raw in enumerate(raws)))
    for page in (1, 5, 7, 100):
        monkeypatch.setattr(sqlite_store, "PAGE", page)
        found = [raw for array in store.raws(d1, "m_", "rows WHERE raw IS NOT NULL") for raw in array.tolist()]
        assert sorted(found, reverse=True) == raws


def test_a_table_of_somebody_else_is_not_taken_for_the_ledgers(local: LocalD1, d1: D1) -> None:
    local.sql("CREATE TABLE migration_runs (id INTEGER PRIMARY KEY, entity_type TEXT)")
    with pytest.raises(LedgerError, match=r"migration_runs.*somebody else"):
        ledger_of(d1, "migration")
    ledger_of(d1, "other").prepare({"people": ["row"]})
    assert ledger_of(d1, "other").exists


# -- whole migrations --------------------------------------------------------------------------------------------

TABLES = (
    "CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT NOT NULL, age INTEGER, email TEXT UNIQUE)",
    "CREATE TABLE pets (id TEXT PRIMARY KEY, owner TEXT NOT NULL REFERENCES people (id), weight REAL)",
)
FLOWS = """
people:
  from: src.people
  unit: id
  into: app.people
  columns: {id: "'user_' || id", name: name, age: age, email: email}
pets:
  from: src.pets
  unit: id
  into: app.pets
  columns: {id: id, owner: {ref: people, on: owner}, weight: weight}
"""


class Project:
    """A migration folder: JSON lines in, D1 out, the ledger beside it. Every run starts an hour later."""

    def __init__(self, root: Path, local: LocalD1) -> None:
        self.root, self.local, self.runs = root, local, 0
        (root / "source").mkdir(parents=True)
        settings = ", ".join(f'{name}: "{value}"' for name, value in local.settings().items())
        (root / "migration.yaml").write_text(
            "migration: test\n"
            f"connections:\n  src: {{type: files, path: source}}\n  app: {{type: d1, {settings}}}\n"
            f"flows:\n{indent(dedent(FLOWS).strip(), '  ')}\n"
        )

    def put(self, **files: Sequence[Mapping[str, Any]]) -> None:
        for name, records in files.items():
            text = "".join(json.dumps(record) + "\n" for record in records)
            (self.root / "source" / f"{name}.jsonl").write_text(text)

    def run(self, command: Callable[..., Any], **options: Any) -> Any:
        self.runs += 1
        migration = load(self.root)
        with Connections(migration) as connections:
            connections.target("app")._call._sleep = lambda seconds: None  # type: ignore[attr-defined]
            now = START + timedelta(hours=self.runs)
            return command(migration, connections, connections.ledger(), Options(**options), now)


@pytest.fixture
def project(tmp_path: Path, local: LocalD1) -> Project:
    local.sql(*TABLES)
    made = Project(tmp_path / "project", local)
    made.put(
        people=[{"id": f"{n}", "name": f"Name {n}", "age": 2**53 + n, "email": f"{n}@example.org"} for n in range(250)],
        pets=[{"id": f"p{n}", "owner": f"{n}", "weight": n / 7} for n in range(200)],
    )
    return made


def totals(run: Any) -> dict[str, int]:
    words = ("done", "unchanged", "skipped", "held", "failed")
    return {word: count for word in words if (count := sum(one.units[word] for one in run.counts))}


def actions(run: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in run.counts:
        for rows in one.rows.values():
            for action, count in rows.items():
                found[str(action)] = found.get(str(action), 0) + count
    return {action: count for action, count in found.items() if count}


def writes(local: LocalD1) -> list[str]:
    """Statements that touched anything but the ledger's runs and locks."""
    own = r"\s*CREATE|INSERT INTO resettle_(meta|runs|locks)|UPDATE resettle_(runs|locks)"
    found = [sql for request in local.requests for sql in request if re.search("INSERT|UPDATE|DELETE|CREATE", sql)]
    return [sql for sql in found if not re.match(own, sql)]


def test_a_migration_is_planned_applied_applied_again_and_verified(project: Project, local: LocalD1) -> None:
    plan = project.run(planning.plan)
    assert not local.sql("SELECT name FROM sqlite_master WHERE name LIKE 'resettle%'"), "a plan writes nothing"
    first = project.run(applying.apply, batch_size=60)
    assert totals(first) == {"done": 450}
    assert actions(first) == actions(plan) == {"create": 450}
    assert local.sql("SELECT age FROM people WHERE id = 'user_7'") == [(2**53 + 7,)]
    assert local.sql("SELECT owner, weight FROM pets WHERE id = 'p9'") == [("user_9", 9 / 7)]
    (view,) = [
        name for (name,) in local.sql("SELECT name FROM sqlite_master WHERE type = 'view' AND name LIKE '%people'")
    ]
    assert local.sql(f'SELECT count(*) FROM "{view}"') == [(250,)]
    local.requests.clear()
    again = project.run(applying.apply)
    assert totals(again) == {"unchanged": 450}
    assert writes(local) == []
    verified = project.run(verifying.verify)
    assert verified.exit_code == 0, verified
    assert local.sql("SELECT status, completed_at IS NOT NULL FROM resettle_runs") == [("done", 1), ("done", 1)]


def test_an_edit_arrives_and_one_of_somebody_else_is_not_overwritten(project: Project, local: LocalD1) -> None:
    project.run(applying.apply)
    people = [json.loads(line) for line in (project.root / "source" / "people.jsonl").open()]
    for number in (3, 4, 5):
        people[number]["name"] = "Edited"
    project.put(people=people)
    local.sql("UPDATE people SET age = 1 WHERE id = 'user_4'")

    def meanwhile(sqls: Sequence[str]) -> None:
        if any('UPDATE OR ABORT main."people"' in sql for sql in sqls):
            local.sql("UPDATE people SET age = 2 WHERE id = 'user_5'")

    local.faults = meanwhile
    second = project.run(applying.apply)
    assert totals(second) == {"done": 1, "unchanged": 447, "held": 2}
    rows = "SELECT id, name, age FROM people WHERE id IN ('user_3', 'user_4', 'user_5') ORDER BY id"
    assert local.sql(rows) == [("user_3", "Edited", 2**53 + 3), ("user_4", "Name 4", 1), ("user_5", "Name 5", 2)]


def test_what_d1_refuses_is_held_and_its_neighbours_are_written(project: Project, local: LocalD1) -> None:
    local.sql("INSERT INTO people VALUES ('theirs', 'T', 1, '17@example.org'), ('user_30', 'T', 1, NULL)")
    first = project.run(applying.apply, batch_size=100)
    assert totals(first) == {"done": 446, "held": 4}
    held = local.sql("SELECT unit, reason FROM resettle_units WHERE status = 'held' ORDER BY flow, unit")
    assert [unit for unit, _ in held] == ["17", "30", "p17", "p30"]
    assert held[0][1] == "unique"
    assert local.sql("SELECT count(*) FROM people") == [(250,)]


def test_a_batch_that_no_request_can_hold_is_cut(
    project: Project, local: LocalD1, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_d1_write, "LARGEST_REQUEST", 12_000)
    assert totals(project.run(applying.apply)) == {"done": 450}
    assert local.sql("SELECT count(*) FROM pets") == [(200,)]


@pytest.mark.parametrize("fault", [LOST, CUT, RESET, OVERLOADED, TOO_MANY], ids=repr)
def test_trouble_on_the_way_changes_nothing_in_the_end(project: Project, local: LocalD1, fault: Fault) -> None:
    rng = random.Random(3)

    def often(sqls: Sequence[str]) -> Fault | None:
        data = any("INTO main." in sql or "staged_asked" in sql for sql in sqls)
        return fault if data and rng.random() < 0.3 else None

    local.faults = often
    first = project.run(applying.apply, batch_size=60)
    assert totals(first) in ({"done": 450}, {"done": totals(first)["done"], "unchanged": 450 - totals(first)["done"]})
    local.faults = lambda sqls: None
    assert local.sql("SELECT count(*), count(DISTINCT email) FROM people") == [(250, 250)]
    assert local.sql("SELECT count(*) FROM pets") == [(200,)]
    assert totals(project.run(applying.apply)) == {"unchanged": 450}
    assert project.run(verifying.verify).exit_code == 0


def test_a_run_that_fails_is_not_completed(project: Project, local: LocalD1) -> None:
    local.faults = lambda sqls: Fault(418, "no") if any("INTO main." in sql for sql in sqls) else None
    with pytest.raises(ResettleError):
        project.run(applying.apply)
    assert local.sql("SELECT status, completed_at FROM resettle_runs") == [("failed", None)]
    local.faults = lambda sqls: None
    assert totals(project.run(applying.apply)) == {"done": 450}
    found = "SELECT run FROM resettle_runs WHERE completed_at IS NOT NULL ORDER BY completed_at DESC"
    assert local.sql(found) == [(2,)]


def test_no_statement_is_longer_than_d1_allows(project: Project, local: LocalD1) -> None:
    project.run(applying.apply)
    longest = max(len(sql) for request in local.requests for sql in request)
    assert longest < _d1_http.MOST_SQL / 10
    assert _d1_read.LARGEST_ANSWER < _d1_http.LARGEST_REQUEST
