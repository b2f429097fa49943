"""The SQL that reads: parts of a table, rows by key, orphans, and other people's queries."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql

from resettle.batch import ForeignKey, Kind
from resettle.connectors._postgres_catalogue import KINDS, Connection, Field, Relation
from resettle.connectors._postgres_copy import Taken, copy_out, keys_as_rows, take
from resettle.connectors._postgres_write import equal
from resettle.errors import ConfigError, RejectedError

_SAMPLE = 32
"""Pages looked at for each cut between two parts."""


def count(connection: Connection, relation: Relation) -> int:
    found = connection.execute(sql.SQL("select count(*) from {}").format(relation.name)).fetchone()
    return int(found[0]) if found else 0


def empty(connection: Connection, relation: Relation) -> bool:
    found = connection.execute(sql.SQL("select from {} limit 1").format(relation.name)).fetchone()
    return found is None


def cuts(connection: Connection, relation: Relation, parts: int) -> list[str]:
    """Values of the first key column that cut a table into about equal parts, by a sample of its pages."""
    if not relation.is_table or not relation.schema.key or parts < 2:
        return []
    name = sql.Literal(relation.name.as_string(connection))
    found = connection.execute(sql.SQL(_PAGES).format(name, name)).fetchone()
    pages = int(found[0]) if found else 0
    if not pages:
        return []
    values = connection.execute(
        sql.SQL(_CUTS).format(
            sql.Literal([part / parts for part in range(1, parts)]),
            sql.Identifier(relation.schema.key[0]),
            relation.name,
            sql.Literal(min(100.0, 100.0 * _SAMPLE * parts / pages)),
        )
    )
    return [value for (value,) in values]


# The first is null for a table without partitions.
_PAGES = """
select coalesce((select sum(pg_relation_size(relid)) from pg_partition_tree({})), pg_relation_size({}))
    / current_setting('block_size')::int
"""
_CUTS = """
select cut::text from (
    select distinct unnest(percentile_disc({}::float8[]) within group (order by {}))
    from {} tablesample system ({})) sample(cut)
where cut is not null order by cut
"""


MANY_KEYS = 1_000
"""From so many keys on that no unique index holds the table is read once, and not through an index that some of
their columns begin: the planner knows nothing of the keys, and would read much of the table for each of them."""


def read(
    connection: Connection, relation: Relation, between: Mapping[str, Any], rows: int
) -> Generator[pa.Table, None, None]:
    """All columns of the rows whose key is from `low` to below `high`; a uuid as text."""
    columns = [_taken(field, text=field.base == "uuid") for field in relation.fields.values()]
    query = sql.SQL("select {} from {} t where {}").format(
        _expressions(columns), relation.name, _range(relation, between)
    )
    return copy_out(connection, query, columns, rows)


def fetch(connection: Connection, relation: Relation, keys: pa.Table, columns: Sequence[str], lock: bool) -> pa.Table:
    """The key and other columns of the rows with these keys."""
    names = dict.fromkeys([*keys.column_names, *columns])
    keys = keys.group_by(keys.column_names).aggregate([])  # a key that is asked for twice is there once
    taken = [_taken(relation.field(name)) for name in names]
    query = sql.SQL("select {} from {} t join {} on {}{}").format(
        _expressions(taken),
        relation.name,
        keys_as_rows(keys, relation, "k"),
        equal(keys.column_names, lambda name: sql.Identifier("k", name)),
        sql.SQL(" for no key update of t" if lock else ""),
    )
    indexed = any(set(unique) <= set(keys.column_names) for unique in relation.uniques.values())
    if indexed or keys.num_rows < MANY_KEYS:
        return take(connection, query, taken)
    switch = "select set_config(name, '{}', true) from unnest(array['enable_nestloop', 'enable_mergejoin']) name"
    connection.execute(switch.format("off").encode())
    try:
        return take(connection, query, taken)
    finally:
        if connection.info.transaction_status is not psycopg.pq.TransactionStatus.INERROR:
            connection.execute(switch.format("on").encode())


def count_orphans(connection: Connection, relation: Relation, target: Relation, key: ForeignKey) -> int:
    """Rows of which every foreign key column is set (MATCH SIMPLE) and points to no row."""
    pairs = zip(key.columns, key.target_columns, strict=True)
    statement = sql.SQL("select count(*) from {} t where {} and not exists (select from {} p where {})").format(
        relation.name,
        sql.SQL(" and ").join(sql.SQL("t.{} is not null").format(sql.Identifier(c)) for c in key.columns),
        target.name,
        sql.SQL(" and ").join(
            sql.SQL("t.{} = p.{}").format(sql.Identifier(column), sql.Identifier(other)) for column, other in pairs
        ),
    )
    found = connection.execute(statement).fetchone()
    return int(found[0]) if found else 0


def ask(connection: Connection, text: str, role: str | None, claims: str | None) -> list[tuple[Any, ...]]:
    connection.execute("set transaction read only")
    if claims is not None:
        connection.execute("select set_config('request.jwt.claims', %s, true)", [claims])
    if role is not None:
        try:
            connection.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
        except psycopg.errors.InvalidParameterValue:
            raise ConfigError(f"there is no role {role!r}") from None
    with connection.cursor() as cursor:
        # stream() sends the text as ONE statement: the server refuses "...; commit; delete ...".
        return list(cursor.stream(text.encode()))


_INTEGERS = {Kind.INT16, Kind.INT32, Kind.INT64}
_BYTES = {Kind.UUID, Kind.BINARY}


def statement(text: str, parameters: Sequence[Any]) -> bytes:
    """`%%` is one percent sign in any case; psycopg takes it for one only where there are parameters."""
    return (text if parameters else text.replace("%%", "%")).encode()


def query(connection: Connection, asked: str, parameters: Sequence[Any]) -> pa.Table:
    """COPY takes no parameters, so that psycopg puts them into the text as literals."""
    cursor = psycopg.ClientCursor(connection)
    text = cursor.mogrify(statement(asked, parameters), parameters or None).rstrip().rstrip(";")
    shape = cursor.execute(f"select * from ({text}) q limit 0".encode()).description or []
    columns = []
    for place, column in enumerate(shape):
        known = connection.adapters.types.get(column.type_code)
        kind = KINDS.get(known.name, Kind.OTHER) if known else Kind.OTHER
        kind = Kind.INT64 if kind in _INTEGERS else kind
        columns.append(Taken(str(place), kind, text=kind not in _BYTES and kind is not Kind.INT64))
    query = sql.SQL("select {} from ({}) t({})").format(
        _expressions(columns),
        sql.SQL(text),
        sql.SQL(", ").join(sql.Identifier(column.name) for column in columns),
    )
    answer = take(connection, query, columns).rename_columns([column.name for column in shape])
    return answer.cast(
        pa.schema([(f.name, pa.binary() if pa.types.is_fixed_size_binary(f.type) else f.type) for f in answer.schema])
    )


def as_stored(ask: Callable[[Sequence[str]], list[str | None]], texts: pa.Array) -> pa.Array:
    """What ``ask`` makes of each text; null where it refuses it."""

    def each(some: Sequence[str]) -> list[str | None]:
        try:
            return ask(some)
        except RejectedError:
            if len(some) == 1:
                return [None]
        return [*each(some[: len(some) // 2]), *each(some[len(some) // 2 :])]

    encoded = texts.dictionary_encode()
    return pa.array(each(encoded.dictionary.to_pylist()), pa.string()).take(encoded.indices)


def read_back(connection: Connection, field: Field, texts: Sequence[str]) -> list[str | None]:
    """Each text as it is read back once it is in the column; null where it is no value of its type, or the column
    would round or cut it. Raises for one that is none where the server cannot tell beforehand (before Postgres 16)."""
    text = "v::{limited}::text" if field.base == "bpchar" else "format('%%s', v::{limited})"
    told = f"case when {_SAME.get(field.base, _UNCUT if field.limited != field.cast else 'true')} then {text} end"
    if connection.info.server_version >= 160000:
        told = f"case when pg_input_is_valid(v, {{type}}) then {told} end"
    asked = sql.SQL(told).format(
        cast=field.cast, limited=field.limited, type=sql.Literal(field.limited.as_string(connection))
    )
    statement = sql.SQL("select {} from unnest(%s::text[]) with ordinality u(v, n) order by n").format(asked)
    return [found for (found,) in connection.execute(statement, [list(texts)])]


_UNCUT = "v::{limited} = v::{cast}"
_SAME = {"money": "(v !~ '^[ +-]*[0-9.]+ *$' or v::numeric = v::money::numeric)"}
"""By pg_type.typname, where a type without a modifier rounds."""


def _taken(field: Field, *, text: bool = False) -> Taken:
    # The cast to text takes the padding of char(n) off, which is no part of its value.
    return Taken(field.column.name, field.column.kind, text=text or field.base == "bpchar")


def _expressions(columns: Sequence[Taken]) -> sql.Composable:
    return sql.SQL(", ").join(column.expression(sql.Identifier("t", column.name)) for column in columns)


def _range(relation: Relation, detail: Mapping[str, Any]) -> sql.Composable:
    bounds: list[sql.Composable] = [sql.SQL("true")]
    for comparison, cut in ((">=", detail["low"]), ("<", detail["high"])):
        if cut is not None:
            key = relation.field(relation.schema.key[0])
            text = f"{{}} {comparison} {{}}::{{}}"
            column = sql.Identifier("t", key.column.name)
            bounds.append(sql.SQL(text).format(column, sql.Literal(cut), key.cast))
    return sql.SQL(" and ").join(bounds)
