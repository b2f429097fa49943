"""What Postgres alone can get wrong: exact types, constraints, row level security, lost connections, poolers."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import psycopg
import pyarrow as pa
import pytest

from resettle.batch import ARROW, Action, Kind
from resettle.calls import Caller
from resettle.connectors.postgres import ERRORS, Postgres, PostgresSettings, errors
from resettle.errors import (
    AccessError,
    ConfigError,
    ConnectorError,
    RejectedError,
    ResettleError,
    TransientError,
)
from resettle.sandbox.postgres import supabase_roles

SECRET = "correct-horse"
ZONE = "Africa/Douala"  # UTC+1 all year

TYPES = """
create type mood as enum ('fine', 'not "so" fine');
create domain label as varchar(5) not null check (value <> 'bad');
create domain euros as numeric(10, 2);
create table everything (
    id uuid primary key, number bigint generated always as identity, small int2, plain int4, big int8,
    single float4, double float8, digits numeric, money numeric(10, 2), text text, short varchar(5),
    padded char(4), flag boolean, instant timestamptz, moment timestamp, day date, clock time, json json,
    jsonb jsonb, bytes bytea, list text[], address inet, mood mood, label label, euros euros, span interval)
"""

ID, OTHER_ID = (uuid.UUID(int=number).bytes for number in (1, 2))

Connect = Callable[..., Postgres]


def settings(url: str, **more: Any) -> PostgresSettings:
    return PostgresSettings.model_validate({"url": url, **more})


@pytest.fixture
def url(new_database: Callable[[], str]) -> str:
    """A database whose own settings are not those that exactness needs."""
    made = new_database()
    name = made.rpartition("/")[2]
    with psycopg.connect(made, autocommit=True) as connection:
        connection.execute(f"alter database {name} set timezone = '{ZONE}'")
        connection.execute(f"alter database {name} set datestyle = 'German'")
        connection.execute(f"alter database {name} set extra_float_digits = -5")
        connection.execute(f"alter database {name} set bytea_output = 'escape'")
    return made


@pytest.fixture
def admin(url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection of the test's own, beside the connector's."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set timezone = 'UTC'; set datestyle = 'ISO'")
        yield connection


@pytest.fixture
def connect(url: str) -> Iterator[Connect]:
    made: list[Postgres] = []

    def open_one(**more: Any) -> Postgres:
        made.append(Postgres("pg", settings(url, **more)))
        return made[-1]

    yield open_one
    for postgres in made:
        postgres.close()


@pytest.fixture
def pg(connect: Connect) -> Postgres:
    return connect()


def create(pg: Postgres, dataset: str, rows: pa.Table, key: tuple[str, ...] = ("id",)) -> None:
    with pg.transaction():
        pg.write(dataset, rows, key, Action.CREATE)


def refused(pg: Postgres, dataset: str, rows: pa.Table, key: tuple[str, ...] = ("id",)) -> RejectedError:
    with pytest.raises(RejectedError) as caught:
        create(pg, dataset, rows, key)
    return caught.value


def column(kind: Kind, *values: Any) -> pa.Array:
    return pa.array(values, ARROW[kind])


EVERYTHING = pa.table(
    {
        "id": column(Kind.UUID, ID, OTHER_ID),
        "number": column(Kind.INT64, 2**62, -7),
        "small": column(Kind.INT16, -(2**15), None),
        "plain": column(Kind.INT32, 2**31 - 1, None),
        "big": column(Kind.INT64, 2**63 - 1, None),
        "single": column(Kind.FLOAT32, 0.1, float("inf")),
        "double": column(Kind.FLOAT64, 0.1 + 0.2, None),
        "digits": column(Kind.NUMERIC, "12345678901234567890123456789012345678", "0.10"),
        "money": column(Kind.NUMERIC, "-99999999.99", None),
        "text": column(Kind.TEXT, "", 'a,"b"\r\nc\\N\td 👩‍👩‍👧'),
        "short": column(Kind.TEXT, "ééééé", None),
        "padded": column(Kind.OTHER, "ab", None),
        "flag": column(Kind.BOOLEAN, True, None),
        "instant": column(Kind.INSTANT, datetime(2026, 3, 29, 1, 30, 0, 1, UTC), None),
        "moment": column(Kind.DATETIME, datetime(1, 1, 1), None),
        "day": column(Kind.DATE, date(9999, 12, 31), None),
        "clock": column(Kind.TIME, time(23, 59, 59, 999999), None),
        "json": column(Kind.JSON, '{"b":1.50,  "a":null, "a":2}', None),
        "jsonb": column(Kind.JSON, '{"a": null, "b": 1.50}', "null"),
        "bytes": column(Kind.BINARY, bytes(range(256)), b""),
        "list": column(Kind.OTHER, '{a,"b,c",NULL}', None),
        "address": column(Kind.OTHER, "10.0.0.1", None),
        "mood": column(Kind.OTHER, 'not "so" fine', None),
        "label": column(Kind.TEXT, "fives", "x"),
        "euros": column(Kind.NUMERIC, "1.20", None),
        "span": column(Kind.OTHER, "P1DT2H", None),
    }
)


def test_every_type_is_written_and_fetched_exactly(pg: Postgres, admin: psycopg.Connection[Any]) -> None:
    admin.execute(TYPES)
    create(pg, "everything", EVERYTHING)
    found = pg.fetch("everything", EVERYTHING.select(["id"]), EVERYTHING.column_names)
    assert found.sort_by("id") == EVERYTHING
    instant, json = admin.execute(
        "select instant::text, json::text from everything where id = %s", [uuid.UUID(bytes=ID)]
    ).fetchone() or ("", "")
    assert instant == "2026-03-29 01:30:00.000001+00"
    assert json == '{"b":1.50,  "a":null, "a":2}'


def test_an_update_writes_every_type_exactly(pg: Postgres, admin: psycopg.Connection[Any]) -> None:
    admin.execute(TYPES)
    first = EVERYTHING.select(["id", "number", "label"]).slice(1)
    create(pg, "everything", first)
    changed = EVERYTHING.slice(0, 1).drop(["number"]).set_column(0, "id", first["id"])
    with pg.transaction():
        pg.write("everything", changed, ["id"], Action.UPDATE)
    assert pg.fetch("everything", changed.select(["id"]), changed.column_names) == changed


def test_what_is_read_is_what_is_there_and_a_uuid_is_text(
    pg: Postgres, connect: Connect, admin: psycopg.Connection[Any]
) -> None:
    admin.execute(TYPES)
    create(pg, "everything", EVERYTHING)
    source = connect(readonly=True)
    [partition] = source.partitions("everything", 1)
    tables = [batch.table for batch in source.read(partition, 1)]
    assert [table.num_rows for table in tables] == [1, 1]
    found = pa.concat_tables(tables).sort_by("id")
    assert found["id"].to_pylist() == [str(uuid.UUID(int=1)), str(uuid.UUID(int=2))]
    assert found.drop(["id"]) == EVERYTHING.drop(["id"])


def test_infinity_and_years_before_christ_survive(pg: Postgres, admin: psycopg.Connection[Any]) -> None:
    admin.execute("create table ages (id int primary key, t timestamptz, d date)")
    values = [
        ("infinity", "infinity"),
        ("-infinity", "-infinity"),
        ("0044-03-15 12:00:00+00 BC", "4713-01-01 BC"),
        ("294276-12-31 23:59:59.999999+00", "5874897-12-31"),
    ]
    for number, (instant, day) in enumerate(values):
        admin.execute("insert into ages values (%s, %s, %s)", [number, instant, day])
    keys = pa.table({"id": column(Kind.INT32, 0, 1, 2)})  # Arrow's microseconds end in the year 294247
    found = pg.fetch("ages", keys, ["t", "d"])
    assert found["t"].cast(pa.int64()).to_pylist()[:2] == [2**63 - 1, -(2**63 - 1)]
    admin.execute("create table copies (like ages including all)")
    create(pg, "copies", found)
    select = "select t::text, d::text from copies order by id"
    assert admin.execute(select).fetchall() == values[:3]


def test_a_column_of_nulls_alone_is_read(pg: Postgres, admin: psycopg.Connection[Any]) -> None:
    admin.execute("create table bare (a text); insert into bare values (null), (''), (null)")
    [partition] = pg.partitions("bare", 4)
    [batch] = pg.read(partition, 10)
    assert batch.table["a"].to_pylist() == [None, "", None]


def test_the_catalogue_tells_kinds_lengths_and_constraints(pg: Postgres, admin: psycopg.Connection[Any]) -> None:
    admin.execute(TYPES)
    admin.execute(
        """
        create schema other; create table other.towns (id int primary key);
        create table people (
            id int generated by default as identity primary key, a int, b int default 1, town int, total int
            generated always as (a + 1) stored, constraint adult check (a >= 18), unique (b, a),
            constraint lives foreign key (town) references other.towns (id));
        create unique index partial on people (a) where b > 1;
        create unique index lowered on people ((a + b));
        create function keep() returns trigger language plpgsql as 'begin return new; end';
        create trigger stamp before update on people for each row execute function keep();
        create view grown as select id, a from people
        """
    )
    columns = {c.name: c for c in pg.schema("everything").columns}
    money, label, mood, number = (columns[name] for name in ("money", "label", "mood", "number"))
    assert (money.kind, money.precision, money.scale) == (Kind.NUMERIC, 10, 2)
    assert (label.kind, label.native, label.length, label.nullable) == (Kind.TEXT, "label", 5, False)
    assert (mood.kind, mood.choices) == (Kind.OTHER, ("fine", 'not "so" fine'))
    assert (number.generated, number.has_default, columns["euros"].scale) == (True, True, 2)
    people = pg.schema("people")
    assert (people.key, people.unique, people.triggers) == (("id",), (("b", "a"),), ("stamp",))
    assert people.checks == {"adult": "(a >= 18)"}
    [link] = people.foreign_keys
    assert (link.name, link.columns, link.target, link.target_columns) == (
        "lives",
        ("town",),
        "other.towns",
        ("id",),
    )
    generated = {c.name: (c.generated, c.has_default) for c in people.columns}
    assert generated == {
        "id": (False, True),
        "a": (False, False),
        "b": (False, True),
        "town": (False, False),
        "total": (True, True),
    }
    assert not people.row_security
    assert pg.datasets() == ["everything", "grown", "other.towns", "people"]
    assert pg.schema("grown").names == ("id", "a")


def test_an_unknown_dataset_or_column_comes_with_a_suggestion(pg: Postgres, admin: psycopg.Connection[Any]) -> None:
    admin.execute("create table people (id int primary key, name text)")
    with pytest.raises(ConfigError) as caught:
        pg.schema("peopel")
    assert caught.value.hint == "did you mean 'people'?"
    with pytest.raises(ConfigError) as caught:
        create(pg, "people", pa.table({"id": column(Kind.INT32, 1), "nmae": ["x"]}))
    assert caught.value.hint == "did you mean 'name'?"


# -- refusals --------------------------------------------------------------------------------------

SHOP = """
create table people (id int primary key, name varchar(5) not null, email text unique, age int check (age > 0));
create table orders (id int primary key, person int constraint buyer references people, total numeric(6, 2),
    parent int constraint within references orders, extra jsonb);
create function no_zero() returns trigger language plpgsql as $$
    begin if new.total = 0 then raise exception 'zero for %', new.id; end if; return new; end $$;
create trigger guard before insert on orders for each row execute function no_zero()
"""


def people(*rows: tuple[int, str | None, str | None, int | None]) -> pa.Table:
    ids, names, emails, ages = zip(*rows, strict=True)
    return pa.table(
        {
            "id": column(Kind.INT32, *ids),
            "name": column(Kind.TEXT, *names),
            "email": column(Kind.TEXT, *emails),
            "age": column(Kind.INT32, *ages),
        }
    )


def orders(*rows: tuple[int, int | None, str | None, int | None, str | None]) -> pa.Table:
    ids, persons, totals, parents, extras = zip(*rows, strict=True)
    return pa.table(
        {
            "id": column(Kind.INT32, *ids),
            "person": column(Kind.INT32, *persons),
            "total": column(Kind.NUMERIC, *totals),
            "parent": column(Kind.INT32, *parents),
            "extra": column(Kind.JSON, *extras),
        }
    )


PEOPLE_TROUBLE = [
    ((1, "again", None, None), "exists", "id"),
    ((2, "x", SECRET, None), "unique", "people_email_key"),
    ((2, None, None, None), "null", "name"),
    ((2, "x", None, -1), "check", "people_age_check"),
    ((2, SECRET, None, None), "cast", "name"),
    ((2, "a\0b", None, None), "cast", "name"),
]


@pytest.mark.parametrize(("row", "reason", "detail"), PEOPLE_TROUBLE, ids=lambda value: str(value))
def test_a_refusal_names_the_constraint_and_no_value(
    pg: Postgres, admin: psycopg.Connection[Any], row: Any, reason: str, detail: str
) -> None:
    admin.execute(SHOP)
    create(pg, "people", people((1, "one", SECRET, 3)))
    error = refused(pg, "people", people(row))
    assert (error.reason, error.detail) == (reason, detail)
    assert SECRET not in f"{error} {error.__cause__}"
    assert error.__suppress_context__


ORDERS_TROUBLE = [
    ((1, 99, "1", None, None), "foreign_key", "buyer"),
    ((1, 1, "0", None, None), "trigger", "no_zero"),
    ((1, 1, "12345.67", None, None), "cast", ""),
    ((1, 1, SECRET, None, None), "cast", ""),
    ((1, 1, "1", None, "{" + SECRET), "cast", ""),
]


@pytest.mark.parametrize(("row", "reason", "detail"), ORDERS_TROUBLE, ids=lambda value: str(value))
def test_a_refusal_of_staged_rows_names_no_value(
    pg: Postgres, admin: psycopg.Connection[Any], row: Any, reason: str, detail: str
) -> None:
    admin.execute(SHOP)
    create(pg, "people", people((1, "one", None, 3)))
    error = refused(pg, "orders", orders(row))
    assert error.reason == reason
    assert detail in error.detail
    assert SECRET not in f"{error} {error.detail}"


def test_refusals_say_for_each_unit_what_the_server_said(pg: Postgres, admin: psycopg.Connection[Any]) -> None:
    admin.execute(SHOP)
    create(pg, "people", people((1, "one", "taken", 3)))
    rows = orders(
        (10, 1, "1", None, None),
        (11, 1, "1", 12, None),  # points at a row of a later unit: fine, as in one statement
        (12, 1, "1", None, "null"),
        (13, 99, "1", None, None),
        (14, 1, "0", None, None),
        (15, 1, "12345.67", None, None),
        (16, 1, SECRET, None, None),
        (17, 1, "1", None, "{" + SECRET),
        (10, 1, "1", None, None),
    )
    units = pa.array([f"o{number}" for number in (*range(10, 18), 20)])
    made = [(10 * n or 1, row[1], row[2] and "taken", row[3]) for n, (row, _, _) in enumerate(PEOPLE_TROUBLE)]
    made_units = pa.array([f"p{n}" for n in range(len(made))])
    writes = [
        ("people", people(*made), ["id"], Action.CREATE),
        ("orders", rows, ["id"], Action.CREATE),
    ]
    with pg.transaction():
        found = pg.refusals(writes, [made_units, units])
        assert found is not None
        said = {row["unit"]: (row["reason"], row["detail"]) for row in found.to_pylist()}
    expected = {f"p{n}": (reason, detail) for n, (_, reason, detail) in enumerate(PEOPLE_TROUBLE)}
    expected |= {
        "o13": ("foreign_key", "buyer"),
        "o14": ("trigger", "no_zero"),
        "o15": ("cast", "total"),
        "o16": ("cast", "total"),
        "o17": ("cast", "extra"),
        "o20": ("exists", "id"),
    }
    assert said == expected
    assert pg.count("orders") == 0
    assert pg.count("people") == 1


def test_with_a_third_of_the_units_bad_the_others_are_written(pg: Postgres, admin: psycopg.Connection[Any]) -> None:
    admin.execute(SHOP)
    count = 3000
    rows = people(*((n, "n", f"{n}@x", -1 if n % 3 == 0 else 1) for n in range(count)))
    units = pa.array([str(n) for n in range(count)])
    with pg.transaction():
        found = pg.refusals([("people", rows, ["id"], Action.CREATE)], [units])
    assert found is not None
    assert sorted(map(int, found["unit"].to_pylist())) == list(range(0, count, 3))
    bad = set(found["unit"].to_pylist())
    create(pg, "people", rows.filter(pa.array([unit not in bad for unit in units.to_pylist()])))
    assert pg.count("people") == count - len(bad)


def test_refusals_of_updates_are_found(pg: Postgres, admin: psycopg.Connection[Any]) -> None:
    admin.execute(SHOP)
    create(pg, "people", people((1, "one", None, 1), (2, "two", "taken", 2)))
    change = pa.table({"id": column(Kind.INT32, 1, 2), "email": ["taken", "taken"]})
    with pg.transaction():
        found = pg.refusals([("people", change, ["id"], Action.UPDATE)], [pa.array(["a", "b"])])
    assert found is not None
    assert found.to_pylist() == [{"unit": "a", "reason": "unique", "detail": "people_email_key"}]


def test_a_deferred_constraint_refuses_at_the_end_of_the_transaction(
    pg: Postgres, admin: psycopg.Connection[Any]
) -> None:
    admin.execute(
        "create table a (id int primary key, b int constraint later references a deferrable initially deferred)"
    )
    error = refused(pg, "a", pa.table({"id": column(Kind.INT32, 1), "b": column(Kind.INT32, 9)}))
    assert (error.reason, error.detail) == ("foreign_key", "later")
    assert pg.count("a") == 0


def test_after_a_nested_transaction_only_what_is_deferred_by_default_is_deferred(
    pg: Postgres, admin: psycopg.Connection[Any]
) -> None:
    admin.execute(
        """
        create schema "o""ther";
        create table a (id int primary key, b int constraint later references a deferrable initially deferred);
        create table "o""ther".at_once (b int constraint "at once" references a deferrable initially immediate);
        create table same_name (b int constraint later references a);
        create table unseen (b int constraint later references a deferrable)
        """
    )
    with pg.transaction():
        for number in (1, 3):
            with pg.transaction():
                pg.execute("insert into a values (%s, %s)", (number, number + 1))
                pg.execute("insert into a values (%s)", (number + 1,))
            for table in ('"o""ther".at_once', "same_name", "unseen"):
                with pytest.raises(RejectedError) as caught, pg.transaction():  # noqa: PT012
                    pg.execute(f"insert into {table} values (99)")
                    assert table == "unseen", "it is immediate"
                assert caught.value.reason == "foreign_key"
    assert pg.count("a") == 4


def test_many_nested_transactions_that_stage_hold_no_more_locks_than_one(
    pg: Postgres, admin: psycopg.Connection[Any]
) -> None:
    admin.execute("create table t (id int primary key, n numeric)")
    counts = []
    with pg.transaction():
        for number in range(5):
            with pg.transaction():
                pg.stage("asked", pa.table({"unit": [str(number)], 'o"dd': ["it's %"]}))
                create(pg, "t", pa.table({"id": column(Kind.INT32, number), "n": column(Kind.NUMERIC, str(number))}))
                assert pg.query("select unit from asked")["unit"].to_pylist() == [str(number)]
            with pytest.raises(ValueError), pg.transaction():  # noqa: PT012
                pg.stage("asked", pa.table({"unit": [str(number)]}))
                raise ValueError
            counts.append(admin.execute("select count(*) from pg_locks where locktype = 'relation'").fetchone())
    assert counts[1] == counts[-1]
    assert pg.count("t") == 5


def test_orphans_of_a_key_that_was_never_validated_are_counted(pg: Postgres, admin: psycopg.Connection[Any]) -> None:
    admin.execute(
        """
        create table parents (a int, b int, primary key (a, b)); create table children (a int, b int);
        insert into children values (1, 1), (1, null), (null, null), (2, 2); insert into parents values (2, 2);
        alter table children add constraint belongs foreign key (a, b) references parents not valid
        """
    )
    assert pg.orphans("children").to_pylist() == [{"constraint": "belongs", "count": 1}]


def test_replica_role_fires_no_triggers(connect: Connect, admin: psycopg.Connection[Any]) -> None:
    admin.execute(SHOP)
    create(connect(replica_role=True), "orders", orders((1, None, "0", None, None)))
    assert admin.execute("select count(*) from orders").fetchone() == (1,)


# -- who may what ----------------------------------------------------------------------------------

NOTES = """
create table notes (id int primary key, owner uuid, note text);
alter table notes enable row level security;
create policy own on notes for all to authenticated using (owner = auth.uid()) with check (owner = auth.uid());
grant select, insert, update on notes to authenticated;
insert into notes values (1, '00000000-0000-0000-0000-000000000001', 'mine'),
    (2, '00000000-0000-0000-0000-000000000002', 'yours');
create table hidden (id int primary key)
"""
MINE = '{"sub": "00000000-0000-0000-0000-000000000001", "role": "authenticated"}'


@pytest.fixture
def notes(url: str, admin: psycopg.Connection[Any]) -> None:
    supabase_roles(url)
    admin.execute(NOTES)


@pytest.mark.usefixtures("notes")
def test_ask_sees_what_the_role_and_its_claims_may_see(pg: Postgres) -> None:
    count = "select count(*) from notes where note like '%o%' or true"
    assert pg.ask(count) == [(2,)]
    assert pg.ask(count, role="authenticated", claims=MINE) == [(1,)]
    assert pg.ask(count, role="authenticated") == [(0,)]
    assert pg.ask("select current_user, current_setting('request.jwt.claims', true)")[0][1] in (None, "")
    with pytest.raises(AccessError) as caught:
        pg.ask("select * from hidden", role="authenticated", claims=MINE)
    assert "GRANT" in (caught.value.hint or "")
    with pytest.raises(ConfigError, match="no role 'nobody_here'"):
        pg.ask(count, role="nobody_here")


@pytest.mark.usefixtures("notes")
def test_ask_cannot_leave_its_read_only_transaction(pg: Postgres, admin: psycopg.Connection[Any]) -> None:
    for text in ("delete from notes returning id", "select 1; commit; delete from notes", "commit"):
        with pytest.raises(ResettleError):
            pg.ask(text)
    assert admin.execute("select count(*) from notes").fetchone() == (2,)


@pytest.mark.usefixtures("notes")
def test_row_level_security_that_applies_to_us_is_told_and_refuses(url: str, admin: psycopg.Connection[Any]) -> None:
    user = f"u{uuid.uuid4().hex}"
    admin.execute(f"create role {user} login password '{SECRET}' in role authenticated")
    parts = urlsplit(url)
    mine = Postgres("mine", settings(f"postgresql://{user}:{SECRET}@{parts.hostname}:{parts.port}{parts.path}"))
    try:
        schema = mine.schema("notes")
        assert schema.row_security
        assert schema.privileges == {"select", "insert", "update"}
        note = pa.table({"id": column(Kind.INT32, 3), "owner": column(Kind.UUID, ID), "note": [SECRET]})
        with pytest.raises(AccessError) as caught:
            create(mine, "notes", note)
        assert SECRET not in str(caught.value)
        assert "policy" in (caught.value.hint or "")
    finally:
        mine.close()
        admin.execute(f"drop role {user}")


def test_a_read_only_source_refuses_writes(connect: Connect, admin: psycopg.Connection[Any]) -> None:
    admin.execute(SHOP)
    source = connect(readonly=True)
    for write in (
        lambda: create(source, "people", people((1, "one", None, 1))),
        lambda: source.execute("insert into people values (1, 'one')"),
        lambda: source.delete("people", pa.table({"id": column(Kind.INT32, 1)})),
    ):
        with pytest.raises(AccessError, match="read-only"):
            write()
    assert source.count("people") == 0


# -- connections -----------------------------------------------------------------------------------


def test_an_unreachable_server_is_transient_and_tried_again() -> None:
    caller = Caller(errors, attempts=3, sleep=lambda seconds: None)
    unreachable = Postgres("pg", settings("postgresql://me:pw@127.0.0.1:1/db"), caller=caller)
    with pytest.raises(TransientError) as caught:
        unreachable.datasets()
    assert caller.counts["calls"] == 3
    assert "host and port" in (caught.value.hint or "")


@pytest.mark.parametrize("change", ["password", "user", "database"])
def test_no_password_is_in_the_message_when_the_door_is_shut(postgres_url: str, change: str) -> None:
    parts = urlsplit(postgres_url)
    user = "no_such_user" if change == "user" else parts.username
    password = quote(parts.password or "", safe="") if change == "database" else SECRET
    path = "/no_such_database" if change == "database" else parts.path
    made = Postgres("pg", settings(f"postgresql://{user}:{password}@{parts.hostname}:{parts.port}{path}"))
    with pytest.raises(AccessError) as caught:
        made.datasets()
    assert caught.value.hint
    for word in (SECRET, parts.password or SECRET):
        assert word not in f"{caught.value} {caught.value.hint} {caught.value.__cause__}"


def test_a_url_that_is_none_is_a_config_error_without_its_text() -> None:
    with pytest.raises(ConfigError) as caught:
        Postgres("pg", settings(f"postgresql://me:{SECRET}@host:port:x/db?nonsense=1"))
    assert SECRET not in f"{caught.value} {caught.value.hint}"
    assert SECRET not in repr(settings(f"postgresql://me:{SECRET}@host/db"))


def test_an_unescaped_password_does_not_become_a_host_in_the_message() -> None:
    made = Postgres("pg", settings(f"postgresql://me:a@{SECRET}@127.0.0.1:1/db"), caller=Caller(errors, attempts=1))
    with pytest.raises(ConnectorError) as caught:
        made.datasets()
    assert SECRET not in f"{caught.value} {caught.value.hint}"


def kill_others(admin: psycopg.Connection[Any]) -> None:
    admin.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
        "where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"
    )


def test_a_connection_lost_between_transactions_is_made_again(pg: Postgres, admin: psycopg.Connection[Any]) -> None:
    admin.execute(SHOP)
    create(pg, "people", people((1, "one", None, 1)))
    kill_others(admin)
    create(pg, "people", people((2, "two", None, 1)))
    kill_others(admin)
    assert pg.count("people") == 2


def test_a_connection_lost_inside_a_transaction_loses_the_transaction_and_is_not_retried(
    pg: Postgres, admin: psycopg.Connection[Any]
) -> None:
    admin.execute(SHOP)
    with pytest.raises(TransientError), pg.transaction():  # noqa: PT012
        pg.write("people", people((1, "one", None, 1)), ["id"], Action.CREATE)
        kill_others(admin)
        pg.write("people", people((2, "two", None, 1)), ["id"], Action.CREATE)
    assert pg.count("people") == 0


def test_an_error_that_was_passed_over_does_not_look_like_a_commit(
    pg: Postgres, admin: psycopg.Connection[Any]
) -> None:
    admin.execute(SHOP)
    with pytest.raises(ConnectorError), pg.transaction():  # noqa: PT012
        pg.write("people", people((1, "one", None, 1)), ["id"], Action.CREATE)
        with pytest.raises(RejectedError):
            pg.write("people", people((1, "one", None, 1)), ["id"], Action.CREATE)
    assert pg.count("people") == 0


@pytest.mark.parametrize("state", ["40P01", "40001", "55P03", "57P01", "57014", "53300", "08006"])
def test_what_may_go_well_next_time_is_transient(state: str) -> None:
    assert isinstance(errors(psycopg.errors.lookup(state)("x")), TransientError)


def test_every_error_of_postgres_is_translated() -> None:
    states = {
        cls.sqlstate: cls
        for cls in vars(psycopg.errors).values()
        if isinstance(cls, type) and issubclass(cls, psycopg.Error) and cls.sqlstate
    }
    assert len(states) > 200
    for state, cls in states.items():
        translated = errors(cls("Key (id)=(secret) already exists"), "pg")
        assert isinstance(translated, ConnectorError), state
        assert "secret" not in f"{translated} {getattr(translated, 'detail', '')}"
        if isinstance(translated, RejectedError):
            assert translated.reason in {words for _, words in ERRORS.values()}


def test_another_thread_sees_only_what_is_committed(pg: Postgres, admin: psycopg.Connection[Any]) -> None:
    admin.execute(SHOP)
    with ThreadPoolExecutor(1) as pool, pg.transaction():
        pg.write("people", people((1, "one", None, 1)), ["id"], Action.CREATE)
        assert pg.count("people") == 1
        assert pool.submit(pg.count, "people").result(10) == 0
        pool.submit(create, pg, "people", people((2, "two", None, 1))).result(10)
    assert pg.count("people") == 2


def test_two_threads_write_at_the_same_time(pg: Postgres, admin: psycopg.Connection[Any]) -> None:
    admin.execute(SHOP)
    both = threading.Barrier(2, timeout=10)

    def work(number: int) -> None:
        with pg.transaction():
            pg.write("people", people((number, "n", None, 1)), ["id"], Action.CREATE)
            both.wait()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, [1, 2]))
    assert pg.count("people") == 2


def test_a_locked_row_waits_for_the_transaction_to_end(pg: Postgres, admin: psycopg.Connection[Any]) -> None:
    admin.execute(SHOP)
    create(pg, "people", people((1, "one", None, 1)))
    admin.execute("set lock_timeout = '100ms'")
    with pg.transaction():
        pg.fetch("people", pa.table({"id": column(Kind.INT32, 1)}), ["name"], lock=True)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            admin.execute("update people set name = 'x'")
    admin.execute("update people set name = 'x'")


def test_a_reader_that_stops_early_gives_its_connection_back(pg: Postgres, admin: psycopg.Connection[Any]) -> None:
    admin.execute("create table many as select n as id, repeat('x', 100) as t from generate_series(1, 50000) n")
    for _ in range(5):
        [partition] = pg.partitions("many", 1)
        batches = pg.read(partition, 100)
        next(batches)
        batches.close()  # type: ignore[attr-defined]
    select = (
        "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'resettle'"
    )
    assert admin.execute(select).fetchone() == (1,)
    assert pg.count("many") == 50000


@pytest.mark.parametrize("table", ["create table t (id uuid primary key)", "create table t (id text primary key)"])
def test_partitions_hold_every_row_once_while_rows_are_updated(
    pg: Postgres, admin: psycopg.Connection[Any], table: str
) -> None:
    admin.execute(table)
    kind = "uuid" if "uuid" in table else "text"
    admin.execute(
        f"alter table t add n int; insert into t select md5(n::text)::{kind}, n from generate_series(1, 20000) n"
    )
    partitions = pg.partitions("t", 4)
    assert len(partitions) == 4
    seen: list[int] = []
    for partition in partitions:
        for batch in pg.read(partition, 1000):
            seen += batch.table["n"].to_pylist()
        admin.execute("update t set n = n")  # every row moves to another block
    assert sorted(seen) == list(range(1, 20001))


# -- the Sql verbs ---------------------------------------------------------------------------------


def test_the_ledgers_rows_are_copied_into_uuid_and_bigint(pg: Postgres) -> None:
    rows = pa.table(
        {
            "unit": ["a", "b"],
            "n": pa.array([1, 2], pa.int32()),
            "fp": pa.array([ID, None], pa.binary()),
            "raw": pa.array([5, 2**63 - 1], pa.uint64()),
        }
    )
    with pg.transaction():
        pg.execute("create schema resettle; create table resettle.rows (unit text, n int, fp uuid, raw bigint)")
        pg.insert("resettle.rows", rows)
        pg.stage("asked", rows.set_column(2, "fp", rows["fp"].cast(pa.binary(16))))
        found = pg.query("select r.* from resettle.rows r join asked a using (unit, n, fp, raw)")
        assert found.to_pylist() == [{"unit": "a", "n": 1, "fp": ID, "raw": 5}]
        assert pg.query("select fp, n, unit from resettle.rows where n > %s;", [1]).to_pylist() == [
            {"fp": None, "n": 2, "unit": "b"}
        ]


# -- a pooler in transaction mode ------------------------------------------------------------------


@pytest.fixture
def pooled(url: str, tmp_path: Path) -> Iterator[Postgres]:
    """The database behind PgBouncer with fewer server connections than the test has transactions."""
    program = shutil.which("pgbouncer")
    if program is None:
        pytest.skip("needs PgBouncer: apt-get install pgbouncer")
    parts = urlsplit(url)
    port = _free_port()
    (tmp_path / "users.txt").write_text(f'"{parts.username}" "{parts.password}"\n')
    (tmp_path / "bouncer.ini").write_text(
        f"[databases]\n* = host={parts.hostname} port={parts.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {tmp_path}/users.txt\n"
        "pool_mode = transaction\ndefault_pool_size = 3\nserver_reset_query =\n"
    )
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents[:2]:
        folder.chmod(0o755)
    as_root = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = subprocess.Popen([program, *as_root, str(tmp_path / "bouncer.ini")])
    made = Postgres("pooled", settings(url.replace(f":{parts.port}/", f":{port}/")))
    try:
        yield made
    finally:
        made.close()
        process.terminate()
        process.wait(10)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.extended
def test_everything_works_through_a_pooler_in_transaction_mode(
    pooled: Postgres, admin: psycopg.Connection[Any]
) -> None:
    admin.execute(TYPES + ";" + SHOP)
    create(pooled, "everything", EVERYTHING)

    def work(number: int) -> None:
        rows = people((number, "n", None, 1), (number + 1000, "n", None, -1))
        with pooled.transaction():
            found = pooled.refusals([("people", rows, ["id"], Action.CREATE)], [pa.array(["good", "bad"])])
            assert found is not None
            assert found["unit"].to_pylist() == ["bad"]
            pooled.stage("asked", rows.select(["id"]))
            pooled.write("people", rows.slice(0, 1), ["id"], Action.CREATE)
            assert pooled.query("select count(*) as n from asked").to_pylist() == [{"n": 2}]
        assert pooled.fetch("people", rows.select(["id"]), ["name"]).num_rows == 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    assert pooled.count("people") == 40
    found = pooled.fetch("everything", EVERYTHING.select(["id"]), EVERYTHING.column_names)
    assert found.sort_by("id") == EVERYTHING
