"""What a role of Postgres has to be allowed: the statements that whoever owns the database runs once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from psycopg import sql

from resettle.connector import Needs
from resettle.connectors._postgres_catalogue import Connection, Relation

ROLE = "resettle_user"
"""What the role is called in the statements."""

Find = Callable[[str], Relation]
_TO = sql.Identifier(ROLE)

_SEQUENCES = """
select n.nspname, s.relname from pg_depend d join pg_class s on s.oid = d.objid and s.relkind = 'S'
join pg_namespace n on n.oid = s.relnamespace
where d.refobjid = %s::regclass and d.deptype = 'a' order by 1, 2
"""
"""Of serial columns; those of identity columns need no right."""

_POINTING = """
select distinct n.nspname, c.relname from pg_constraint f join pg_class c on c.oid = f.conrelid
join pg_namespace n on n.oid = c.relnamespace
where f.contype = 'f' and f.confrelid = %s::regclass and not c.relispartition order by 1, 2
"""

_FACTS = """
select n.nspname, c.relname, c.relrowsecurity from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.oid = %s::regclass
"""

_LEDGER = """
select n.nspname, c.relname, case c.relkind when 'v' then 'view' else 'table' end
from pg_namespace n left join pg_class c on c.relnamespace = n.oid and c.relkind in ('r', 'v')
where n.nspname = %s order by 3, 2
"""


def statements(connection: Connection, needs: Needs, find: Find, *, rollback: bool) -> list[str]:
    """Each ends with a semicolon; a comment is a line of its own."""
    made = _rollback(connection, needs, find) if rollback else _apply(connection, needs, find)
    return list(dict.fromkeys(one if isinstance(one, str) else f"{one.as_string(connection)};" for one in made))


def _apply(connection: Connection, needs: Needs, find: Find) -> Iterator[sql.Composed | str]:
    base = sql.Identifier(connection.info.dbname)
    yield sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO {}").format(base, _TO)
    relations = {use.dataset: find(use.dataset) for use in needs.uses}
    written = [use for use in needs.uses if use.created or use.updated]
    # `verify` looks whether what is pointed at is there.
    parents = [key.target for use in written for key in relations[use.dataset].schema.foreign_keys]
    for relation in [*relations.values(), *map(find, parents)]:
        yield from _reading(*_facts(connection, relation)[:2])
    for use in written:
        relation = relations[use.dataset]
        for verb, columns in (("INSERT", use.created), ("UPDATE", use.updated)):
            if columns:
                named = sql.SQL(", ").join(map(sql.Identifier, columns))
                grant = sql.SQL("GRANT " + verb + " ({}) ON {} TO {}")
                yield grant.format(named, relation.name, _TO)
        for sequence in connection.execute(_SEQUENCES, [relation.name.as_string(connection)]).fetchall():
            yield sql.SQL("GRANT USAGE ON SEQUENCE {} TO {}").format(sql.Identifier(*sequence), _TO)
        if relation.schema.triggers:
            yield f"-- and whatever these triggers need: {', '.join(relation.schema.triggers)}"
    if any(_facts(connection, relations[use.dataset])[2] for use in written):
        yield sql.SQL("ALTER ROLE {} BYPASSRLS").format(_TO)
    if needs.roles:
        yield sql.SQL("ALTER ROLE {} NOINHERIT").format(_TO)
        yield sql.SQL("GRANT {} TO {}").format(sql.SQL(", ").join(map(sql.Identifier, needs.roles)), _TO)
    if needs.ledger is not None:
        yield from _ledger(connection, needs.ledger)
    yield from (f"-- and whatever this needs: {' '.join(text.split())}" for text in needs.after)


def _rollback(connection: Connection, needs: Needs, find: Find) -> Iterator[sql.Composed]:
    """What points at a row that goes has to be seen, or it would go along."""
    for use in needs.uses:
        if use.created:
            name = find(use.dataset).name
            yield sql.SQL("GRANT DELETE ON {} TO {}").format(name, _TO)
            for schema, pointing in connection.execute(_POINTING, [name.as_string(connection)]).fetchall():
                yield from _reading(schema, pointing)


def _facts(connection: Connection, relation: Relation) -> tuple[str, str, bool]:
    """Schema, name, and whether row-level security is on."""
    schema, name, secured = connection.execute(_FACTS, [relation.name.as_string(connection)]).fetchall()[0]
    return schema, name, secured


def _reading(schema: str, name: str) -> Iterator[sql.Composed]:
    yield sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(schema), _TO)
    yield sql.SQL("GRANT SELECT ON {} TO {}").format(sql.Identifier(schema, name), _TO)


def _ledger(connection: Connection, schema: str) -> Iterator[sql.Composed]:
    """The ledger is the role's own: it makes its tables there, and views."""
    there: Sequence[tuple[str, str | None, str]] = connection.execute(_LEDGER, [schema]).fetchall()
    if not there:
        yield sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(sql.Identifier(schema), _TO)
        return
    yield sql.SQL("ALTER SCHEMA {} OWNER TO {}").format(sql.Identifier(schema), _TO)
    for _, name, kind in there:
        if name is not None:
            alter = sql.SQL("ALTER " + kind.upper() + " {} OWNER TO {}")
            yield alter.format(sql.Identifier(schema, name), _TO)
