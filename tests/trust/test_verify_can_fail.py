"""Each of verify's checks can fail: exactly one thing is made wrong in an applied target, and exactly that is found."""

# ruff: noqa: F811  (fixtures are asked for by the names under which they are imported)

from __future__ import annotations

import ast
import base64
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from psycopg import sql

from resettle.batch import ARROW, Action, Column, Kind, Schema
from resettle.connectors.memory import Memory
from resettle.connectors.s3 import S3, S3Settings
from resettle.engine.verify import Verified
from resettle.mapping.functions import canonical_text
from resettle.sandbox.s3 import start_s3
from tests.engine.conftest import MakeProject, Project, database, people, project  # noqa: F401

RECORDS = 40
START = datetime(2026, 1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Field:
    """A column in Postgres and SQLite (none: it is not there), its kind in memory, and its value in record n."""

    postgres: str
    sqlite: str
    kind: Kind
    value: Callable[[int], Any]


def moment(n: int) -> str:
    return (START + timedelta(microseconds=n)).isoformat(timespec="microseconds")


FIELDS: Mapping[str, Field] = {
    "flag": Field("boolean", "BOOLEAN", Kind.BOOLEAN, lambda n: n % 2 == 0),
    "small": Field("int2", "", Kind.INT16, lambda n: n - 7),
    "plain": Field("int4", "", Kind.INT32, lambda n: 1000 * n),
    "big": Field("int8", "INTEGER", Kind.INT64, lambda n: 2**53 + n),
    "single": Field("float4", "", Kind.FLOAT32, lambda n: n + 0.5),
    "double": Field("float8", "REAL", Kind.FLOAT64, lambda n: n + 0.1),
    "digits": Field("numeric", "", Kind.NUMERIC, lambda n: f"123456789012345678901.{n}1"),
    "text": Field("text", "TEXT", Kind.TEXT, lambda n: f"Anna {n}"),
    "empty": Field("text", "TEXT", Kind.TEXT, lambda n: ""),
    "nothing": Field("text", "TEXT", Kind.TEXT, lambda n: None),
    "uuid": Field("uuid", "", Kind.UUID, lambda n: str(UUID(int=n))),
    "instant": Field("timestamptz", "TEXT", Kind.INSTANT, lambda n: f"{moment(n)}Z"),
    "moment": Field("timestamp", "TEXT", Kind.DATETIME, moment),
    "day": Field("date", "TEXT", Kind.DATE, lambda n: (START.date() + timedelta(n)).isoformat()),
    "clock": Field("time", "TEXT", Kind.TIME, lambda n: f"12:34:56.{n:06}"),
    "doc": Field("jsonb", "JSON", Kind.JSON, lambda n: {"a": 1.5, "b": None, "c": [1, n + 2], "d": "1"}),
    "plain_doc": Field("json", "", Kind.JSON, lambda n: {"a": n, "b": [True]}),
    "bytes": Field("bytea", "BLOB", Kind.BINARY, lambda n: base64.b64encode(bytes([n, 0, 255])).decode()),
    "padded": Field("char(4)", "", Kind.OTHER, lambda n: f"ab{n}"),
    "mood": Field("mood", "", Kind.OTHER, lambda n: "fine"),
    "list": Field("text[]", "", Kind.OTHER, lambda n: f"{{a,b{n}}}"),
    "label": Field("label", "", Kind.TEXT, lambda n: f"l{n}"),
}
CHANGES: Mapping[str, tuple[str, Callable[[int], Any]]] = {
    "a boolean turned over": ("flag", lambda n: n % 2 == 1),
    "a value gone": ("flag", lambda n: None),
    "the next small number": ("small", lambda n: n - 6),
    "the next number": ("plain", lambda n: 1000 * n + 1),
    "a number that is the same as a double": ("big", lambda n: 2**53 + n + 1),
    "a number that shares its lower half": ("big", lambda n: 2**53 + n + 2**32),
    "the next single float": ("single", lambda n: n + 0.5000038),
    "the next double": ("double", lambda n: (n + 0.1) * (1 + 2**-51)),
    "the last digit of a long decimal": ("digits", lambda n: f"123456789012345678901.{n}2"),
    "a trailing space": ("text", lambda n: f"Anna {n} "),
    "another case": ("text", lambda n: f"ANNA {n}"),
    "a letter composed of two": ("text", lambda n: f"Änna {n}"),
    "null instead of empty": ("empty", lambda n: None),
    "empty instead of null": ("nothing", lambda n: ""),
    "a space instead of empty": ("empty", lambda n: " "),
    "the last digit of a uuid": ("uuid", lambda n: str(UUID(int=n + 1))),
    "an instant one microsecond later": ("instant", lambda n: f"{moment(n + 1)}Z"),
    "an instant one hour later": ("instant", lambda n: f"{moment(n + 3_600_000_000)}Z"),
    "a local time one microsecond later": ("moment", lambda n: moment(n + 1)),
    "the next day": ("day", lambda n: (START.date() + timedelta(n + 1)).isoformat()),
    "a time of day one microsecond later": ("clock", lambda n: f"12:34:56.{n + 1:06}"),
    "another number in a document": ("doc", lambda n: {"a": 1.51, "b": None, "c": [1, n + 2], "d": "1"}),
    "null gone from a document": ("doc", lambda n: {"a": 1.5, "c": [1, n + 2], "d": "1"}),
    "a list in another order": ("doc", lambda n: {"a": 1.5, "b": None, "c": [n + 2, 1], "d": "1"}),
    "a number instead of text in a document": ("doc", lambda n: {"a": 1.5, "b": None, "c": [1, n + 2], "d": 1}),
    "JSON null instead of a document": ("doc", lambda n: "null"),
    "a document gone": ("plain_doc", lambda n: None),
    "true turned to false in a text of JSON": ("plain_doc", lambda n: {"a": n, "b": [False]}),
    "one byte": ("bytes", lambda n: base64.b64encode(bytes([n, 1, 255])).decode()),
    "another text of fixed length": ("padded", lambda n: f"aB{n}"),
    "another word of an enum": ("mood", lambda n: "sad"),
    "another element of an array": ("list", lambda n: f"{{a,c{n}}}"),
    "another text of a domain": ("label", lambda n: f"m{n}"),
}
ASSERTION = "verify: {spot_checks: 0, assertions: {all_there: {sql: 'SELECT count(*) FROM everything', expect: 40}}}"


@dataclass
class World:
    """An applied target of one kind, which can be made wrong and is put right again."""

    project: Project
    fields: Mapping[str, Field]

    @contextmanager
    def wrong(self) -> Iterator[None]:
        """Whatever happens inside to the table is undone."""
        memory = self.project.memory
        saved = dict(memory._committed) if memory else {}
        try:
            yield
        finally:
            if memory:
                memory._committed = saved
            else:
                self.project.sql("DELETE FROM everything", "INSERT INTO everything SELECT * FROM was")

    def set(self, n: int, column: str, value: Any) -> None:
        """Write a value (as the source would hold it) past the migration."""
        with self.project.opened() as (_, connections, _):
            target = connections.target("app")
            found = target.schema("everything").column(column)
            assert found is not None
            key = pa.array([f"u{n}"], pa.string())
            cell = pa.array([wire(found.kind, value)], ARROW[found.kind])
            target.write("everything", pa.table({"id": key, column: cell}), ["id"], Action.UPDATE)

    def delete(self, n: int) -> None:
        with self.project.opened() as (_, connections, _):
            connections.target("app").delete("everything", pa.table({"id": [f"u{n}"]}))

    def swap(self, one: int, other: int, *columns: str) -> None:
        for n, values in ((one, record(other)), (other, record(one))):
            for column in columns:
                self.set(n, column, values[column])

    def insert(self, *keys: str) -> None:
        """Rows of somebody else."""
        with self.project.opened() as (_, connections, _):
            rows = pa.table({"id": pa.array(keys, pa.string())})
            connections.target("app").write("everything", rows, ["id"], Action.CREATE)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """The table is declared to be ours alone."""
        with declared_exclusive(self.project, "app.everything"):
            yield

    def found(self) -> set[tuple[str, str | None, str]]:
        return said(self.project.verify())


@contextmanager
def declared_exclusive(p: Project, into: str) -> Iterator[None]:
    declared = (p.root / "migration.yaml").read_text("utf-8")
    more = declared.replace("verify: {", f"verify: {{exclusive: [{into}], ")
    assert more != declared
    (p.root / "migration.yaml").write_text(more, "utf-8")
    try:
        yield
    finally:
        (p.root / "migration.yaml").write_text(declared, "utf-8")


def said(verified: Verified) -> set[tuple[str, str | None, str]]:
    """(kind, unit, detail) of every finding; without the remark that somebody changed it since."""
    assert verified.counts.total() == len(verified.findings), "none is counted that is not listed"
    return {(one.kind, one.unit, one.detail.partition(" (")[0]) for one in verified.findings}


def wire(kind: Kind, value: Any) -> Any:
    """A value of a source's record as it travels."""
    if value is None:
        return None
    if kind in {Kind.JSON, Kind.OTHER, Kind.TEXT, Kind.NUMERIC}:
        return value if isinstance(value, str) else json.dumps(value)
    turn: Mapping[Kind, Callable[[Any], Any]] = {
        Kind.UUID: lambda text: UUID(text).bytes,
        Kind.INSTANT: datetime.fromisoformat,
        Kind.DATETIME: datetime.fromisoformat,
        Kind.DATE: date.fromisoformat,
        Kind.TIME: time.fromisoformat,
        Kind.BINARY: base64.b64decode,
    }
    return turn[kind](value) if kind in turn else value


def record(n: int) -> dict[str, Any]:
    return {"id": f"u{n}", **{name: field.value(n) for name, field in FIELDS.items()}}


def table(kind: str, fields: Mapping[str, Field]) -> str:
    columns = ", ".join(f'"{name}" {getattr(field, kind)}' for name, field in fields.items())
    return f"CREATE TABLE everything (id TEXT PRIMARY KEY, {columns})"


Worlds = Callable[[str], World]


@pytest.fixture(scope="module")
def worlds(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    made: dict[str, World] = {}

    def of(kind: str) -> World:
        if kind not in made:
            url = new_postgres(request.getfixturevalue("postgres_url")) if kind == "postgres" else ""
            made[kind] = applied(Project(tmp_path_factory.mktemp("world"), kind, url))
        return made[kind]

    return of


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def world(request: pytest.FixtureRequest, worlds: Worlds) -> World:
    return worlds(str(request.param))


def applied(p: Project) -> World:
    fields = {name: field for name, field in FIELDS.items() if p.kind != "sqlite" or field.sqlite}
    (p.root / "source").mkdir()
    if p.kind == "memory":
        columns = [Column("id", Kind.TEXT, nullable=False), *(Column(name, f.kind) for name, f in fields.items())]
        p.memory = Memory("app").create("everything", Schema("everything", tuple(columns), key=("id",)))
    if p.kind == "postgres":
        p.sql("CREATE TYPE mood AS ENUM ('fine', 'sad')", "CREATE DOMAIN label AS varchar(9)")
    if p.kind != "memory":
        p.sql(table(p.kind, fields))
    p.put(everything=[record(n) for n in range(RECORDS)])
    special = {"bytes": "from_base64(bytes)"}
    mapped = ", ".join(f"{name}: {special.get(name, name)}" for name in ("id", *fields))
    p.flows(f"everything: {{from: src.everything, unit: id, into: app.everything, columns: {{{mapped}}}}}", ASSERTION)
    assert p.apply().counts[0].units["done"] == RECORDS
    if p.kind != "memory":
        p.sql("CREATE TABLE was AS SELECT * FROM everything")
    return World(p, fields)


def new_postgres(server: str) -> str:
    name = f"resettle_test_{uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    return f"{server.rpartition('/')[0]}/{quote(name)}"


def test_nothing_is_found_where_nothing_is_wrong(world: World) -> None:
    verified = world.project.verify()
    assert said(verified) == set()
    assert verified.flows[0].cells == RECORDS * (1 + len(world.fields))


def test_a_changed_cell_of_every_kind_is_found_and_nothing_else(world: World) -> None:
    wanted = set()
    with world.wrong():
        changes = [one for one in CHANGES.values() if one[0] in world.fields]
        for at, (column, changed) in enumerate(changes):
            world.set(at, column, changed(at))
            wanted.add(("differs", f"u{at}", f"everything: {column}"))
        assert world.found() == wanted


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_alone_is_found_though_no_row_is_fetched_before(worlds: Worlds, change: str) -> None:
    world, (column, changed) = worlds("postgres"), CHANGES[change]
    with world.wrong():
        world.set(11, column, changed(11))
        assert world.found() == {("differs", "u11", f"everything: {column}")}


def test_what_only_looks_different_is_none(world: World) -> None:
    with world.wrong():
        for name in {"doc", "plain_doc"} & {name for name, field in world.fields.items() if field.kind is Kind.JSON}:
            if name == "doc" and world.project.kind == "sqlite":
                continue  # its JSON is a text
            text = json.dumps(dict(reversed(FIELDS[name].value(3).items())), indent=1)
            assert canonical_text(text) == canonical_text(json.dumps(FIELDS[name].value(3)))
            world.set(3, name, text)
        if "digits" in world.fields:
            world.set(4, "digits", FIELDS["digits"].value(4) + "000")
        assert world.found() == set()


def test_a_missing_row_is_found_and_the_count_that_was_asserted(world: World) -> None:
    with world.wrong():
        world.delete(7)
        assert world.found() == {
            ("missing", "u7", "everything: the row is not there"),
            ("assertion", None, "all_there: expected 40, got 39"),
        }


def test_two_rows_that_changed_places_are_both_found(world: World) -> None:
    columns = [name for name in world.fields if record(4)[name] != record(9)[name]]
    with world.wrong():
        world.swap(4, 9, *columns)
        detail = f"everything: {', '.join(columns)}"
        assert world.found() == {("differs", "u4", detail), ("differs", "u9", detail)}


def test_one_value_exchanged_between_two_rows_is_found_in_both(world: World) -> None:
    with world.wrong():
        world.swap(4, 9, "text")
        assert world.found() == {("differs", "u4", "everything: text"), ("differs", "u9", "everything: text")}


def test_a_row_of_somebody_else_is_no_finding_but_for_the_count_that_was_asserted(world: World) -> None:
    with world.wrong():
        world.insert("theirs")
        verified = world.project.verify()
        assert said(verified) == {("assertion", None, "all_there: expected 40, got 41")}
        assert verified.flows[0].in_target == {"everything": 41}


def test_a_record_that_was_never_applied_is_found(world: World) -> None:
    world.project.put(everything=[record(n) for n in range(RECORDS + 1)])
    try:
        assert world.found() == {("not_applied", "u40", "the record was never applied")}
    finally:
        world.project.put(everything=[record(n) for n in range(RECORDS)])


def test_a_record_that_left_the_source_is_told(world: World) -> None:
    world.project.put(everything=[record(n) for n in range(RECORDS - 1)])
    try:
        verified = world.project.verify()
        assert said(verified) == set()
        assert ("everything: migrated records that the source no longer has", True, "1") in verified.checks
    finally:
        world.project.put(everything=[record(n) for n in range(RECORDS)])


EXAMPLES = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=8,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)


@EXAMPLES
@given(n=st.integers(0, RECORDS - 1), other=st.integers(0, RECORDS), data=st.data())
def test_any_single_changed_cell_is_found(world: World, n: int, other: int, data: st.DataObject) -> None:
    column = data.draw(st.sampled_from(sorted(world.fields)))
    value = None if other == RECORDS else FIELDS[column].value(other)
    assume(value != FIELDS[column].value(n))
    with world.wrong():
        world.set(n, column, value)
        assert world.found() == {("differs", f"u{n}", f"everything: {column}")}


@EXAMPLES
@given(lost=st.sets(st.integers(0, RECORDS - 1), min_size=1, max_size=3))
def test_any_missing_rows_are_found(world: World, lost: set[int]) -> None:
    with world.wrong():
        for n in lost:
            world.delete(n)
        found = {(kind, unit) for kind, unit, _ in world.found()}
        assert found == {("assertion", None), *(("missing", f"u{n}") for n in lost)}


@EXAMPLES
@given(pair=st.sets(st.integers(0, RECORDS - 1), min_size=2, max_size=2), data=st.data())
def test_any_pair_of_exchanged_cells_is_found(world: World, pair: set[int], data: st.DataObject) -> None:
    one, other = sorted(pair)
    column = data.draw(st.sampled_from(sorted(world.fields)))
    assume(record(one)[column] != record(other)[column])
    with world.wrong():
        world.swap(one, other, column)
        detail = f"everything: {column}"
        assert world.found() == {("differs", f"u{one}", detail), ("differs", f"u{other}", detail)}


# -- rows that belong to no record, where nobody else writes ---------------------------------------------------------

EXTRA = "everything: the row belongs to no record that was applied"
OTHERS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)


def extras(verified: Verified) -> set[str | None]:
    """The keys of what was found; nothing else may be."""
    assert {one.kind for one in verified.findings} <= {"extra", "assertion"}
    return {one.key for one in verified.findings if one.kind == "extra"}


@EXAMPLES
@given(keys=st.sets(OTHERS.filter(lambda key: key not in {f"u{n}" for n in range(RECORDS)}), min_size=1, max_size=3))
def test_any_extra_rows_are_found_where_the_table_is_ours_alone(world: World, keys: set[str]) -> None:
    with world.wrong(), world.exclusive():
        assert extras(world.project.verify()) == set()
        world.insert(*keys)
        assert extras(world.project.verify()) == keys


def test_an_extra_row_is_found_though_the_count_is_right(world: World) -> None:
    with world.wrong(), world.exclusive():
        world.delete(7)
        world.insert("theirs")
        assert world.found() == {("missing", "u7", "everything: the row is not there"), ("extra", None, EXTRA)}


def test_a_row_whose_record_is_gone_is_extra_and_one_whose_record_is_held_now_is_not(world: World) -> None:
    gone = RECORDS - 1
    records = [record(n) for n in range(RECORDS)]
    records[3]["big"] = "much"
    try:
        with world.exclusive():
            world.project.put(everything=records)
            verified = world.project.verify()
            assert (verified.flows[0].held, verified.exit_code) == (1, 0)
            world.project.put(everything=records[:gone])
            verified = world.project.verify()
            assert extras(verified) == {f"u{gone}"}
            assert ("app.everything: rows that belong to no record", False, "1") in verified.checks
    finally:
        world.project.put(everything=[record(n) for n in range(RECORDS)])


@pytest.mark.parametrize("part", [{"sample": 1}, {"limit": 3}, {"where": "id = 'u1'"}])
def test_extra_rows_are_not_looked_for_in_a_part_and_that_is_told(worlds: Worlds, part: dict[str, Any]) -> None:
    world = worlds("sqlite")
    with world.wrong(), world.exclusive():
        world.insert("theirs")
        verified = world.project.verify(**part)
        assert extras(verified) == set()
        told = (
            "app.everything: rows that belong to no record",
            True,
            "not looked for: everything not compared as a whole",
        )
        assert told in verified.checks


SHARED_TABLE = """
cats: {from: src.cats, unit: id, into: app.pets, columns: {id: id, kind: {value: cat}}}
dogs: {from: src.dogs, unit: id, into: app.pets, columns: {id: id, kind: {value: dog}}}
"""


def test_a_table_that_two_flows_fill_has_the_rows_of_both(project: MakeProject, database: str) -> None:
    p = project(
        SHARED_TABLE,
        "CREATE TABLE pets (id TEXT PRIMARY KEY, kind TEXT)",
        target=database,
        extra="verify: {spot_checks: 0}",
        cats=[{"id": "c1"}],
        dogs=[{"id": "d1"}],
    )
    p.apply()
    with declared_exclusive(p, "app.pets"):
        assert extras(p.verify()) == set()
        p.sql("INSERT INTO pets VALUES ('x', 'cow')")
        assert extras(p.verify()) == {"x"}
        verified = p.verify(select=("cats",))
        assert extras(verified) == set()
        assert ("app.pets: rows that belong to no record", True, "not looked for: dogs not compared as a whole") in (
            verified.checks
        )
        p.put(cats=[], dogs=[])
        assert extras(p.verify()) == {"c1", "d1", "x"}, "of a source without records too"


KEYS = {
    "postgres": {
        "a": "uuid",
        "b": "int8",
        "c": "timestamptz",
        "d": "numeric",
        "e": "bytea",
        "f": "char(4)",
        "g": "date",
    },
    "sqlite": {"a": "TEXT", "b": "INTEGER", "c": "TEXT", "g": "TEXT"},
}


def test_keys_of_every_kind_are_read_as_they_were_written(project: MakeProject, database: str) -> None:
    names = KEYS[database]
    given = {
        "a": "'0b0e7f6a-0000-4000-8000-' || lpad(id, 12, '0')",
        "b": "id::bigint + 9007199254740993",
        "c": "instant('2026-01-02T03:04:05.000006Z')",
        "d": "'1.50'",
        "e": "encode('a/%' || id)",
        "f": "'ab'",
        "g": "'2026-01-02'",
    }
    mapped = "\n".join(f'    {name}: "{given[name]}"' for name in names)
    columns = ", ".join(f"{name} {kind}" for name, kind in names.items())
    p = project(
        f"rows:\n  from: src.rows\n  unit: id\n  into: app.rows\n  columns:\n{mapped}",
        f"CREATE TABLE rows (n TEXT, {columns}, PRIMARY KEY ({', '.join(names)}))",
        target=database,
        extra="verify: {spot_checks: 0}",
        rows=[{"id": str(n)} for n in range(3)],
    )
    assert p.apply().counts[0].units["done"] == 3
    theirs = ", ".join("7" if name == "b" else name for name in names)
    p.sql(f"INSERT INTO rows (n, {', '.join(names)}) SELECT 'theirs', {theirs} FROM rows LIMIT 1")
    with declared_exclusive(p, "app.rows"):
        found = extras(p.verify())
    assert len(found) == 1
    assert "/7/" in str(found)


# -- what points nowhere, who may see what ------------------------------------------------------------------------

PETS = "pets: {from: src.pets, unit: id, into: app.pets, columns: {id: id, owner: owner}}"
OWNED = [
    "CREATE TABLE people (id TEXT PRIMARY KEY)",
    "CREATE TABLE pets (id TEXT PRIMARY KEY, owner TEXT REFERENCES people (id))",
    "INSERT INTO people VALUES ('p1'), ('p2')",
]


def test_a_row_that_points_nowhere_is_found(project: MakeProject, database: str) -> None:
    p = project(PETS, OWNED, target=database, pets=[{"id": "cat", "owner": "p1"}, {"id": "dog", "owner": "p2"}])
    p.apply()
    assert said(p.verify()) == set()
    if database == "postgres":
        p.sql("ALTER TABLE people DISABLE TRIGGER ALL")
    p.sql("DELETE FROM people WHERE id = 'p1'")
    assert said(p.verify()) == {("orphan", None, "pets: 1 rows point nowhere")}


PROBE = "verify: {probes: {hidden: {role: resettle_probe, sql: SELECT count(*) FROM people, expect: 0}}}"


def test_a_role_that_sees_what_it_must_not_is_found(project: MakeProject) -> None:
    p = project(target="postgres", people=people(3), extra=PROBE)
    p.sql("DO $$ BEGIN CREATE ROLE resettle_probe; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    p.sql("GRANT SELECT ON people TO resettle_probe", "ALTER TABLE people ENABLE ROW LEVEL SECURITY")
    p.apply()
    assert said(p.verify()) == set()
    p.sql("CREATE POLICY open ON people FOR SELECT TO resettle_probe USING (id = 'p1')")
    assert said(p.verify()) == {("probe", None, "hidden: as resettle_probe: expected 0, got 1")}
    p.sql("REVOKE SELECT ON people FROM resettle_probe")
    assert said(p.verify()) == {("probe", None, "hidden: as resettle_probe: expected 0, got denied")}
    p.sql("DROP OWNED BY resettle_probe")


# -- patches --------------------------------------------------------------------------------------------------------

PATCH = """
notes:
  from: src.people
  unit: id
  outputs:
    place: {into: app.docs, patch: id,
            columns: {id: id, note: name, doc: {at: "'/items/0/asset'", set: "age::json"}}}
"""


@pytest.mark.parametrize(
    "wrong",
    [
        "note = 'other'",
        "note = NULL",
        """doc = '{"items": [{"asset": 32}]}'""",
        """doc = '{"items": [{"asset": "31"}]}'""",
        """doc = '{"items": [{}]}'""",
        """doc = '{"items": []}'""",
        "doc = NULL",
        None,
    ],
)
def test_a_patch_that_is_not_there_is_found(project: MakeProject, database: str, wrong: str | None) -> None:
    json_type = "JSONB" if database == "postgres" else "TEXT"
    rows = ", ".join(f"""('p{n}', 'x', '{{"items": [{{"asset": 0}}]}}')""" for n in range(3))
    tables = [
        f"CREATE TABLE docs (id TEXT PRIMARY KEY, note TEXT, doc {json_type})",
        f"INSERT INTO docs VALUES {rows}",
    ]
    p = project(PATCH, tables, target=database, people=people(3))
    p.apply()
    p.sql("""UPDATE docs SET doc = '{ "more": 1, "items": [{"asset": 32}]}' WHERE id = 'p2'""")
    assert said(p.verify()) == set(), "what stands around the place is nobody's business"
    p.sql(f"UPDATE docs SET {wrong} WHERE id = 'p1'" if wrong else "DELETE FROM docs WHERE id = 'p1'")
    assert said(p.verify()) == {("differs", "p1", "docs: note, doc: the patch is not there")}


# -- files ----------------------------------------------------------------------------------------------------------

FILES = """
files:
  from: src.files
  unit: id
  outputs:
    object:
      into: store.objects
      body: {from: old.objects, at: id}
      columns: {key: "'new/' || id", size: lookup_sizes(id)::bigint, md5: lookup_sums(id)}
    row: {into: app.files, columns: {id: id, key: object.key}}
"""
LOOKUPS = """
verify: {spot_checks: 20}
lookups:
  sizes: {from: old.objects, key: key, value: size}
  sums: {from: old.objects, key: key, value: md5}
"""
LISTING = Schema(
    "objects",
    (Column("key", Kind.TEXT, nullable=False), Column("size", Kind.INT64), Column("md5", Kind.TEXT)),
    key=("key",),
)


class Shelves:
    """A new store of files, in memory or behind the API of S3, that can be made wrong."""

    def __init__(self, kind: str, folder: Any) -> None:
        self.old = filled(Memory("old"), {"a": b"AAA", "b": b"BBB", "c": b""})
        self.s3 = folder
        self.new: Any = S3("store", S3Settings(**folder.settings("new"))) if kind == "s3" else Memory("store")
        if kind == "memory":
            self.new.create("objects", LISTING)
            self.new.transactional = False

    def put(self, key: str, content: bytes) -> None:
        if self.s3:
            self.s3.client().put_object(Bucket="new", Key=key, Body=content)
        else:
            filled(self.new, {**self.files, key: content})

    def delete(self, key: str) -> None:
        if self.s3:
            self.s3.client().delete_object(Bucket="new", Key=key)
        else:
            filled(self.new, {name: content for name, content in self.files.items() if name != key})

    @property
    def files(self) -> dict[str, bytes]:
        return {key: content for (_, key), content in self.new.shelf.files.items()}


def filled(memory: Memory, files: Mapping[str, bytes]) -> Memory:
    """A listing with exactly these files."""
    memory.create("objects", LISTING)
    memory.shelf.files.clear()
    for key, content in files.items():
        memory.shelf.files["objects", key] = content
        memory._list("objects", key, len(content), memory.shelf.open("objects", key).md5 or "")
    return memory


@pytest.fixture(params=["memory", "s3"])
def shelves(request: pytest.FixtureRequest) -> Iterator[Shelves]:
    if request.param == "memory":
        yield Shelves("memory", None)
        return
    with start_s3() as local:
        local.load("new")
        made = Shelves("s3", local)
        yield made
        made.new.close()


def copied(make: MakeProject, shelves: Shelves) -> Project:
    p = make(FILES, "CREATE TABLE files (id TEXT PRIMARY KEY, key TEXT)", extra=LOOKUPS, files=FILE_RECORDS)
    p.opened_before = {"old": shelves.old, "store": shelves.new}
    declared = (p.root / "migration.yaml").read_text("utf-8")
    more = "connections:\n  old: {type: memory}\n  store: {type: memory}\n"
    (p.root / "migration.yaml").write_text(declared.replace("connections:\n", more), "utf-8")
    assert p.apply().counts[0].units["done"] == 3
    assert said(p.verify()) == set()
    return p


FILE_RECORDS = [{"id": name} for name in "abc"]
MISSING, DIFFERS = "objects: no such file", "objects: another size or checksum"


def test_a_file_that_is_gone_is_found(project: MakeProject, shelves: Shelves) -> None:
    p = copied(project, shelves)
    shelves.delete("new/a")
    assert said(p.verify()) == {("missing", "a", MISSING)}


@pytest.mark.parametrize("content", [b"AAB", b"AA", b""])
def test_a_file_with_other_bytes_is_found(project: MakeProject, shelves: Shelves, content: bytes) -> None:
    p = copied(project, shelves)
    shelves.put("new/a", content)
    assert said(p.verify()) == {("differs", "a", DIFFERS)}


def test_two_files_that_changed_places_are_both_found(project: MakeProject, shelves: Shelves) -> None:
    p = copied(project, shelves)
    shelves.put("new/a", b"BBB")
    shelves.put("new/b", b"AAA")
    assert said(p.verify()) == {("differs", "a", DIFFERS), ("differs", "b", DIFFERS)}


def test_a_file_of_somebody_else_is_found_where_the_place_is_ours_alone(project: MakeProject, shelves: Shelves) -> None:
    p = copied(project, shelves)
    with declared_exclusive(p, "store.objects"):
        assert said(p.verify()) == set()
        shelves.put("new/../x", b"XXX")
        assert {(one.kind, one.key) for one in p.verify().findings} == {("extra", "new/../x")}


def test_the_row_beside_a_file_is_looked_at_too(project: MakeProject, shelves: Shelves) -> None:
    p = copied(project, shelves)
    p.sql("UPDATE files SET key = 'new/b' WHERE id = 'a'")
    assert said(p.verify()) == {("differs", "a", "files: key")}


# -- and it is nobody's accomplice ----------------------------------------------------------------------------------

ENGINE = Path(__file__).parents[2] / "src" / "resettle" / "engine"
OWN = {"verify", *(f"verifying.{path.stem}" for path in (ENGINE / "verifying").glob("[!_]*.py"))}
"""The modules that are verify's own."""
SHARED = {
    "flow": None,  # which flows there are, opened and compiled
    "feed": {"Prepared"},
    "shape": {"Shaped"},
    "statements": {"OutputShape"},
    "settle": {"looking", "renumbered"},  # which rows a `match:` output reuses, as the target says it now
    "alternate": {"rekeyed"},  # under which key an earlier run made a row
    "fingerprint": None,
    "present": {"keyed"},
    "uniques": None,  # a set of hashes
    "decision": {"Foreseen"},  # empty: what a plan would make
    "count": {"show"},
}
"""What they may use of the engine beside: reading and shaping."""
WRITES = {
    "apply", "bodies", "commit", "compare", "decide", "effects", "links", "outcomes", "patch", "plan", "rehearse",
    "remember", "rollback", "undoing.restore", "undoing.undo",
}  # fmt: skip


def imported(module: str) -> dict[str, set[str]]:
    """Modules of the engine, and the names that a module takes from each."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse((ENGINE / f"{module.replace('.', '/')}.py").read_text("utf-8"))):
        assert not (isinstance(node, ast.Import) and any(one.name.startswith("resettle") for one in node.names))
        if not isinstance(node, ast.ImportFrom) or not f"{node.module}.".startswith("resettle.engine."):
            continue
        place = str(node.module).removeprefix("resettle.engine").removeprefix(".")
        if place in {"", "drafting", "undoing", "verifying"}:  # folders: what is taken are modules
            found |= {f"{place}.{one.name}".removeprefix("."): {"*"} for one in node.names}
        else:
            found.setdefault(place, set()).update(one.name for one in node.names)
    return found


@pytest.mark.parametrize("module", sorted(OWN))
def test_verify_shares_reading_and_shaping_with_apply_and_nothing_else(module: str) -> None:
    for other, names in imported(module).items():
        assert other not in WRITES
        assert other in OWN or names <= (SHARED[other] or names), f"{module} takes {names} from {other}"


@pytest.mark.parametrize("writing", ["apply", "commit", "decide", "remember", "effects", "rollback", "compare"])
def test_the_write_path_takes_nothing_from_verify(writing: str) -> None:
    assert not OWN & imported(writing).keys()


def test_the_list_of_what_it_shares_holds_nothing_more() -> None:
    assert {name for module in OWN for name in imported(module)} - OWN == SHARED.keys()
