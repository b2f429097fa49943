"""What a Postgres says about its own tables: one `Relation` per dataset, read from pg_catalog."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from resettle.batch import Column, ForeignKey, Kind, Schema
from resettle.errors import ConfigError

Connection = psycopg.Connection[tuple[Any, ...]]

KINDS: Mapping[str, Kind] = {
    "bool": Kind.BOOLEAN,
    "int2": Kind.INT16,
    "int4": Kind.INT32,
    "int8": Kind.INT64,
    "float4": Kind.FLOAT32,
    "float8": Kind.FLOAT64,
    "numeric": Kind.NUMERIC,
    "text": Kind.TEXT,
    "varchar": Kind.TEXT,
    "uuid": Kind.UUID,
    "timestamptz": Kind.INSTANT,
    "timestamp": Kind.DATETIME,
    "date": Kind.DATE,
    "time": Kind.TIME,
    "json": Kind.JSON,
    "jsonb": Kind.JSON,
    "bytea": Kind.BINARY,
}
"""By pg_type.typname; every other type is OTHER and travels as text."""


@dataclass(frozen=True)
class Field:
    """A column and its type underneath: ``base`` is pg_type.typname below all domains, or "enum".

    ``cast`` is that type as SQL without a length, because an explicit cast to varchar(3) cuts silently
    where the assignment to such a column refuses. ``limited`` is that type with it.
    """

    column: Column
    base: str
    cast: sql.SQL
    limited: sql.SQL


@dataclass(frozen=True)
class Relation:
    """A table or view as the connector needs it, beside the `Schema` that it shows."""

    name: sql.Identifier
    schema: Schema
    fields: Mapping[str, Field]
    uniques: Mapping[str, tuple[str, ...]]
    """Columns by the name of the unique index, which is what a unique_violation names."""
    is_table: bool
    takes_copy: bool
    """COPY FROM refuses views, and tables whose row level security applies to us."""

    def field(self, name: str) -> Field:
        if name not in self.fields:
            raise unknown(f"{self.schema.dataset} has no column {name!r}", name, list(self.fields))
        return self.fields[name]


def unknown(message: str, name: str, known: Sequence[str]) -> ConfigError:
    near = difflib.get_close_matches(name, known, n=1)
    return ConfigError(message, hint=f"did you mean {near[0]!r}?" if near else None)


def datasets(connection: Connection, namespace: str) -> list[str]:
    """Everything that we may read, without the partitions of partitioned tables."""
    found = connection.execute(_DATASETS, [namespace]).fetchall()
    return sorted(name for (name,) in found)


def relation(connection: Connection, namespace: str, dataset: str) -> Relation:
    """Look a dataset up; ``table`` is one of ``namespace``, ``schema.table`` one of any."""
    first, _, rest = dataset.partition(".")
    found = connection.execute(_RELATION, [namespace, dataset, first, rest, namespace]).fetchone()
    if found is None:
        raise unknown(f"no table or view {dataset!r}", dataset, datasets(connection, namespace))
    oid, schema_name, name, relkind, row_security, *grants = found
    fields = [_field(row) for row in connection.execute(_COLUMNS, [oid]).fetchall()]
    indexes = connection.execute(_INDEXES, [oid]).fetchall()
    words = ("select", "insert", "update", "delete")
    schema = Schema(
        dataset,
        tuple(field.column for field in fields),
        key=next((tuple(columns) for _, primary, columns in indexes if primary), ()),
        unique=tuple(dict.fromkeys(tuple(columns) for _, primary, columns in indexes if not primary)),
        foreign_keys=tuple(
            ForeignKey(fk, tuple(columns), target, tuple(target_columns))
            for fk, columns, target, target_columns in connection.execute(_FOREIGN_KEYS, [namespace, oid])
        ),
        checks=dict(connection.execute(_CHECKS, [oid]).fetchall()),
        triggers=tuple(trigger for (trigger,) in connection.execute(_TRIGGERS, [oid])),
        row_security=row_security,
        privileges=frozenset(word for word, granted in zip(words, grants, strict=True) if granted),
    )
    return Relation(
        sql.Identifier(schema_name, name),
        schema,
        {field.column.name: field for field in fields},
        {index: tuple(columns) for index, _, columns in indexes},
        is_table=relkind in "rp",
        takes_copy=relkind in "rpf" and not row_security,
    )


def _field(row: tuple[Any, ...]) -> Field:
    name, native, required, has_default, generated, base, modifier, cast, limited, choices = row
    length = modifier - 4 if base in {"varchar", "bpchar"} and modifier > 0 else None
    precision, scale = _digits(base, modifier)
    column = Column(
        name,
        KINDS.get(base, Kind.OTHER),
        native,
        nullable=not required,
        has_default=has_default,
        generated=generated,
        length=length,
        precision=precision,
        scale=scale,
        choices=None if choices is None else tuple(choices),
    )
    # format_type() quotes what needs it; casts are the only SQL text that does not come from this file.
    return Field(column, base if choices is None else "enum", sql.SQL(cast), sql.SQL(limited))


def _digits(base: str, modifier: int) -> tuple[int | None, int | None]:
    """Precision and scale. numeric's modifier has the one in its upper half, the other with its sign in 11 bits."""
    if modifier < 0 or base not in {"numeric", "timestamptz", "timestamp", "time"}:
        return None, None
    if base != "numeric":
        return modifier, None
    return (modifier - 4) >> 16 & 0xFFFF, (((modifier - 4) & 0x7FF) ^ 0x400) - 0x400


_DATASETS = """
select case when n.nspname = %s then c.relname else n.nspname || '.' || c.relname end
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'v', 'm', 'p', 'f') and not c.relispartition and n.nspname <> 'information_schema'
    and n.nspname not like 'pg\\_%%' and has_schema_privilege(n.oid, 'usage')
    and has_any_column_privilege(c.oid, 'select')
"""

_RELATION = """
select c.oid, n.nspname, c.relname, c.relkind::text, row_security_active(c.oid),
    has_any_column_privilege(c.oid, 'select'), has_any_column_privilege(c.oid, 'insert'),
    has_any_column_privilege(c.oid, 'update'), has_table_privilege(c.oid, 'delete')
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where (n.nspname, c.relname) in ((%s, %s), (%s, %s)) and c.relkind in ('r', 'v', 'm', 'p', 'f')
order by n.nspname = %s desc limit 1
"""

_COLUMNS = """
with recursive layer as (
    select attrelid, attnum, atttypid as type, atttypmod as modifier, attnotnull as required,
        atthasdef as filled
    from pg_attribute where attrelid = %s and attnum > 0 and not attisdropped
    union all
    select l.attrelid, l.attnum, t.typbasetype, t.typtypmod, l.required or t.typnotnull,
        l.filled or t.typdefault is not null
    from layer l join pg_type t on t.oid = l.type where t.typtype = 'd'
)
select a.attname, format_type(a.atttypid, a.atttypmod), l.required, l.filled or a.attidentity <> '',
    a.attidentity = 'a' or a.attgenerated <> '', t.typname, l.modifier, format_type(t.oid, -1),
    format_type(t.oid, l.modifier),
    case when t.typtype = 'e' then
        array(select enumlabel::text from pg_enum where enumtypid = t.oid order by enumsortorder) end
from layer l join pg_type t on t.oid = l.type
    join pg_attribute a on a.attrelid = l.attrelid and a.attnum = l.attnum
where t.typtype <> 'd' order by a.attnum
"""

_INDEXES = """
select c.relname, i.indisprimary, array(
    select a.attname::text from unnest(i.indkey::int2[]) with ordinality k(attnum, place)
        join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
    where k.place <= i.indnkeyatts order by k.place)
from pg_index i join pg_class c on c.oid = i.indexrelid
where i.indrelid = %s and i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null
order by c.relname
"""

# A key to a partitioned table has a row per partition beside its own: those name a parent on the same table.
_FOREIGN_KEYS = """
select c.conname, array(
        select a.attname::text from unnest(c.conkey) with ordinality k(attnum, place)
            join pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.attnum order by k.place),
    case when n.nspname = %s then t.relname else n.nspname || '.' || t.relname end, array(
        select a.attname::text from unnest(c.confkey) with ordinality k(attnum, place)
            join pg_attribute a on a.attrelid = c.confrelid and a.attnum = k.attnum order by k.place)
from pg_constraint c join pg_class t on t.oid = c.confrelid join pg_namespace n on n.oid = t.relnamespace
where c.conrelid = %s and c.contype = 'f' and not exists (
    select from pg_constraint p where p.oid = c.conparentid and p.conrelid = c.conrelid)
order by c.conname
"""

_CHECKS = """
select conname, pg_get_expr(conbin, conrelid) from pg_constraint
where conrelid = %s and contype = 'c' order by conname
"""

_TRIGGERS = """
select tgname from pg_trigger where tgrelid = %s and not tgisinternal and tgenabled <> 'D' order by tgname
"""
