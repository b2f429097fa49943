"""A target's digests: alike on both sides for every value of every kind, different for every difference."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from resettle.batch import ARROW, Action, Kind
from resettle.connector import Digesting
from resettle.connectors.postgres import Postgres, PostgresSettings
from resettle.engine.verifying import digest as digesting
from tests.engine.conftest import PEOPLE, MakeProject, people, person, project  # noqa: F401

TYPES = """
create type mood as enum ('fine', 'not "so" fine');
create domain label as varchar(5);
create domain euros as numeric(10, 2);
create domain moment as timestamptz;
create table everything (
    id bigint primary key, small int2, plain int4, big int8, single float4, double float8, digits numeric, money euros,
    text text, short varchar(5), padded char(4), flag boolean, instant timestamptz, moment timestamp, day date,
    clock time, doc jsonb, bytes bytea, uuid uuid, list text[], address inet, mood mood, label label, since moment)
"""
LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXTS = st.text(LETTERS, max_size=12)
WORDS = st.text(LETTERS.filter(lambda letter: letter != " "), max_size=4)
INSTANTS = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999))
VALUES: Mapping[str, st.SearchStrategy[Any]] = {
    "small": st.integers(-(2**15), 2**15 - 1),
    "plain": st.integers(-(2**31), 2**31 - 1),
    "big": st.integers(-(2**63), 2**63 - 1),
    "single": st.floats(width=32, allow_nan=False),
    "double": st.floats(allow_nan=False),
    "digits": st.decimals(allow_nan=False, allow_infinity=False, places=7).map(lambda n: format(n.normalize(), "f")),
    "money": st.decimals(-(10**7), 10**7, places=2).map(lambda n: format(Decimal(n).normalize(), "f")),
    "text": TEXTS,
    "short": WORDS,
    "padded": WORDS,
    "flag": st.booleans(),
    "instant": INSTANTS.map(lambda moment: moment.replace(tzinfo=UTC)),
    "moment": INSTANTS,
    "day": st.dates(date(1, 1, 1)),
    "clock": st.times(),
    "doc": st.sampled_from(["{}", '{"a": [1, null]}']),
    "bytes": st.binary(max_size=20),
    "uuid": st.uuids().map(lambda one: one.bytes),
    "list": st.sampled_from(["{}", "{a,b}", '{"a b",NULL}']),
    "address": st.sampled_from(["10.0.0.1/32", "::1/128", "10.0.0.0/8"]),
    "mood": st.sampled_from(["fine", 'not "so" fine']),
    "label": WORDS,
    "since": INSTANTS.map(lambda moment: moment.replace(tzinfo=UTC)),
}
ROWS = st.lists(st.fixed_dictionaries({name: st.none() | values for name, values in VALUES.items()}), max_size=25)


def database(server: str) -> str:
    name = f"resettle_test_{uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    return f"{server.rpartition('/')[0]}/{quote(name)}"


@pytest.fixture(scope="module")
def target(postgres_url: str) -> Iterator[Postgres]:
    url = database(postgres_url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(TYPES.encode())
    one = Postgres("app", PostgresSettings.model_validate({"url": url}))
    yield one
    one.close()


def written(target: Postgres, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The rows, written into the empty table."""
    columns = {column.name: column for column in target.schema("everything").columns}
    arrays = {"id": pa.array(range(len(rows)), pa.int64())}
    for name in VALUES:
        arrays[name] = pa.array([row[name] for row in rows], ARROW[columns[name].kind])
    table = pa.table(arrays)
    target.execute("truncate everything")
    target.write("everything", table, ["id"], Action.CREATE)
    return table


def hashes(target: Postgres, rows: pa.Table) -> list[int]:
    spelt = target.spelt("everything", rows, whether(target))
    return [int.from_bytes(hashlib.md5(one, usedforsecurity=False).digest()[8:], "big") for one in spelt.to_pylist()]


def whether(target: Postgres) -> list[str]:
    return [name for name in ("id", *VALUES) if name not in target.exact("everything")]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(rows=ROWS, bits=st.integers(0, 6))
def test_what_was_written_has_the_digests_that_we_make_of_it(
    target: Postgres, rows: list[dict[str, Any]], bits: int
) -> None:
    table = written(target, rows)
    wanted: dict[int, tuple[int, int]] = {}
    for one in hashes(target, table):
        count, total = wanted.get(one % 2**bits, (0, 0))
        wanted[one % 2**bits] = (count + 1, (total + one) % 2**64)
    found = target.digests("everything", table.column_names, whether(target), bits).to_pylist()
    assert {row["bucket"]: (row["count"], row["digest"]) for row in found if row["count"]} == wanted


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    row=st.fixed_dictionaries({name: st.none() | values for name, values in VALUES.items()}),
    name=st.sampled_from([name for name in VALUES if name != "doc"]),
    data=st.data(),
)
def test_another_value_has_another_digest(
    target: Postgres, row: dict[str, Any], name: str, data: st.DataObject
) -> None:
    other = data.draw(st.none() | VALUES[name])
    ours, theirs = (hashes(target, written(target, [one])) for one in (row, {**row, name: other}))
    negative_zero = isinstance(other, float) and str(other) != str(row[name])  # -0.0 == 0.0, but is another text
    assert (ours == theirs) == (row[name] == other and not negative_zero)


def test_values_at_the_ends_of_their_kinds_have_digests_too(target: Postgres) -> None:
    row: dict[str, Any] = dict.fromkeys(VALUES)
    ends = [2**63 - 1, -(2**63 - 1)]
    row |= {"double": float("inf"), "single": float("-inf"), "clock": time.max}
    table = written(target, [row] * 2)
    for name, kind in (("instant", Kind.INSTANT), ("moment", Kind.DATETIME)):
        table = table.set_column(table.column_names.index(name), name, pa.array(ends, pa.int64()).cast(ARROW[kind]))
    days = pa.array([2**31 - 1, -(2**31 - 1)], pa.int32()).cast(ARROW[Kind.DATE])
    table = table.set_column(table.column_names.index("day"), "day", days)
    target.execute("truncate everything")
    target.write("everything", table, ["id"], Action.CREATE)
    infinite = target.ask("select count(*) from everything where not isfinite(instant) and not isfinite(day)")
    assert infinite == [(2,)]
    (found,) = target.digests("everything", table.column_names, whether(target), 0).to_pylist()
    assert (found["count"], found["digest"]) == (2, sum(hashes(target, table)) % 2**64)


def test_of_json_a_digest_knows_only_whether_it_is_there(target: Postgres) -> None:
    assert whether(target) == ["doc"]
    row: dict[str, Any] = dict.fromkeys(VALUES)
    some, other, none = (hashes(target, written(target, [row | {"doc": doc}])) for doc in ("{}", '{"a": 1}', None))
    assert some == other != none


# -- verify -----------------------------------------------------------------------------------------------------


class Fetches:
    """What `Postgres.fetch` was asked for: the keys' numbers, by columns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[int, tuple[str, ...]]] = []
        fetch = Postgres.fetch

        def fetched(target: Postgres, dataset: str, keys: pa.Table, columns: Sequence[str], **more: Any) -> pa.Table:
            self.asked.append((keys.num_rows, tuple(columns)))
            return fetch(target, dataset, keys, columns, **more)

        monkeypatch.setattr(Postgres, "fetch", fetched)

    @property
    def rows(self) -> int:
        return sum(count for count, _ in self.asked)


Applied = Callable[..., Any]
QUIET = "verify: {spot_checks: 0}"
MANY = 3000


@pytest.fixture
def applied(project: MakeProject) -> Applied:  # noqa: F811
    def make(*args: Any, extra: str = QUIET, **more: Any) -> Any:
        p = project(*args, target="postgres", extra=extra, **(more or {"people": people(MANY)}))
        p.apply()
        return p

    return make


def test_equal_rows_are_not_fetched(applied: Applied, monkeypatch: pytest.MonkeyPatch) -> None:
    p = applied()
    fetches = Fetches(monkeypatch)
    (flow,) = p.verify().flows
    assert (flow.rows, flow.by_digest, fetches.rows) == (MANY, MANY, 0)


def test_a_difference_costs_the_reading_of_its_bucket(applied: Applied, monkeypatch: pytest.MonkeyPatch) -> None:
    p = applied()
    p.sql("UPDATE people SET age = 0 WHERE id = 'p77'", "DELETE FROM people WHERE id = 'p99'")
    fetches = Fetches(monkeypatch)
    verified = p.verify()
    assert {(one.kind, one.unit) for one in verified.findings} == {("differs", "p77"), ("missing", "p99")}
    (flow,) = verified.flows
    assert 2 <= fetches.rows < 200
    assert flow.by_digest == MANY - fetches.rows


def test_rows_of_others_cost_time_and_are_no_finding(applied: Applied, monkeypatch: pytest.MonkeyPatch) -> None:
    p = applied()
    p.sql("INSERT INTO people SELECT 'x' || n, 'theirs', n FROM generate_series(1, 5) n")
    fetches = Fetches(monkeypatch)
    assert not p.verify().findings
    assert 0 < fetches.rows < 500
    p.sql("INSERT INTO people SELECT 'y' || n, 'theirs', n FROM generate_series(1, 50000) n")
    p.sql("UPDATE people SET name = 'changed' WHERE id = 'p5'")
    verified = p.verify()
    assert [(one.kind, one.unit) for one in verified.findings] == [("differs", "p5")]
    assert verified.flows[0].by_digest == 0


def test_suspects_too_many_to_name_are_found_all_the_same(applied: Applied, monkeypatch: pytest.MonkeyPatch) -> None:
    p = applied(people=people(50))
    p.sql("UPDATE people SET age = 0 WHERE id IN ('p7', 'p8')")
    monkeypatch.setattr(digesting, "FEW", 1)
    verified = p.verify()
    assert [(one.kind, one.unit) for one in verified.findings] == [("differs", "p7"), ("differs", "p8")]
    assert verified.flows[0].by_digest == 0


@pytest.mark.parametrize("few", [digesting.FEW, 1])
def test_records_are_counted_once_however_often_they_are_read(
    applied: Applied, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(digesting, "FEW", few)
    p = applied(PEOPLE + '  skip: {old: "age > 60"}\n', people=[*people(50), {"id": "bad", "name": None}])
    before = p.verify()
    p.sql("UPDATE people SET age = 0")
    p.put(people=[*people(50), {"id": "bad", "name": None}, person(55, age=1)])
    after = p.verify()
    (one,), (other,) = before.flows, after.flows
    assert (one.read, one.held, one.skipped, one.rows, one.cells) == (51, 1, 19, 31, 93)
    assert (other.read, other.held, other.skipped, other.rows, other.cells) == (52, 1, 19, 31, 93)
    assert after.counts == {"differs": 31, "not_applied": 1}


DOCS = "docs: {from: src.docs, unit: id, into: app.docs, columns: {id: id, name: name, doc: doc}}"


def test_of_rows_with_json_only_that_is_fetched(applied: Applied, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = [{"id": f"d{n}", "name": "x", "doc": None if n % 10 else '{"b": 1.50, "a": [null]}'} for n in range(200)]
    p = applied(DOCS, "CREATE TABLE docs (id TEXT PRIMARY KEY, name TEXT, doc JSONB)", docs=docs)
    fetches = Fetches(monkeypatch)
    verified = p.verify()
    assert not verified.findings
    assert fetches.asked == [(20, ("doc",))]
    assert (verified.flows[0].rows, verified.flows[0].by_digest) == (200, 180)
    p.sql("""UPDATE docs SET doc = '{"a": [null], "b": 1.51}' WHERE id = 'd20'""")
    p.sql("UPDATE docs SET doc = NULL, name = 'y' WHERE id = 'd30'", "UPDATE docs SET doc = '{}' WHERE id = 'd31'")
    found = [(one.unit, one.detail.partition(" (")[0]) for one in p.verify().findings]
    assert found == [("d20", "docs: doc"), ("d30", "docs: name, doc"), ("d31", "docs: doc")]


def test_spot_checks_fetch_their_rows(applied: Applied, monkeypatch: pytest.MonkeyPatch) -> None:
    p = applied(extra="verify: {spot_checks: 3}", people=people(100))
    fetches = Fetches(monkeypatch)
    spots = p.verify(show_values=True).spots
    assert len(spots) == 3
    assert all(spot.fields["id"] == (spot.key, spot.key, True) for spot in spots)
    assert fetches.rows < 20


def test_a_sample_and_a_part_are_fetched(applied: Applied) -> None:
    p = applied(people=people(100))
    (part,) = p.verify(where="id < 'p2'").flows
    (sample,) = p.verify(sample=20).flows
    assert part.rows > 0 < sample.rows
    assert (part.by_digest, sample.by_digest) == (0, 0)


def test_nothing_is_left_on_disk(applied: Applied) -> None:
    from resettle import private

    p = applied(people=people(5))
    p.verify()
    assert not list(Path(private.spill()).glob("*.units"))


def test_postgres_is_the_target_that_digests(target: Postgres) -> None:
    assert isinstance(target, Digesting)
