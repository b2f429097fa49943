"""The SQL that writes Arrow rows into a Postgres table: copied, staged and merged, or only tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from resettle.batch import Action
from resettle.connectors._postgres_catalogue import Connection, Relation
from resettle.connectors._postgres_copy import Sent, copy_in, keys_as_rows, prepare, unsendable
from resettle.connectors._postgres_session import undone
from resettle.errors import RejectedError

_STAGE = "resettle_rows"
_UNIT = "resettle_unit"


@dataclass(frozen=True)
class Write:
    """The arguments of one `write`, its dataset looked up."""

    relation: Relation
    rows: pa.Table
    key: Sequence[str]
    action: Action


@dataclass(frozen=True)
class Refusal:
    """What the server said about a unit: its names, never its message."""

    unit: str
    state: str
    constraint: str = ""
    column: str = ""
    context: str = ""


def write(connection: Connection, job: Write) -> None:
    """All rows or an error. Inserts in the order of the key: a quarter faster on the key's index.

    Where no unique index covers the key, rows are looked for first; a row that somebody else makes in the
    same moment is then not seen, which only a lock on the whole live table would prevent.
    """
    rows, create = job.rows, job.action is Action.CREATE
    if create and job.key and rows.num_rows > 1:
        order = pc.sort_indices(rows, [(name, "ascending") for name in job.key])
        if not pc.all(pc.equal(order, pa.array(range(rows.num_rows), pa.uint64()))).as_py():
            rows = rows.take(order)
    columns = prepare(rows, job.relation)
    proven = _proven(job)
    if create and proven and job.relation.takes_copy and all(column.direct for column in columns):
        copy_in(connection, job.relation.name, columns)
        return
    staged, always = _temporary(_STAGE), sql.SQL("true")
    stage(connection, _STAGE, columns)
    if not proven:
        found = connection.execute(sql.SQL("select {}").format(_exists(job, columns, staged, always))).fetchone()
        if found and found[0]:
            raise RejectedError("exists", ", ".join(job.key))
    statement = _merge(job, columns, staged, always)
    if statement is not None:
        connection.execute(sql.Composed([statement]))


def proof(number: int) -> str:
    """The constraint that a trial names where the key of write ``number``, without a unique index, exists."""
    return f"resettle_key_{number}"


def _proven(job: Write) -> bool:
    """Whether a unique index refuses a second row of the same key."""
    indexed = any(set(columns) <= set(job.key) for columns in job.relation.uniques.values())
    return indexed or not job.key or job.action is not Action.CREATE


def _exists(job: Write, columns: Sequence[Sent], staged: sql.Composable, where: sql.Composable) -> sql.Composable:
    """Whether a staged key is in the table, or twice among the staged."""
    by_name = {column.name: column for column in columns}
    keys = [by_name[name].comparable("s") for name in job.key]
    there = sql.SQL("exists (select from {} t join {} s on {} where {})").format(
        job.relation.name, staged, equal(job.key, lambda name: by_name[name].comparable("s")), where
    )
    twice = sql.SQL("exists (select from {} s where {} and ({}) is not null group by {} having count(*) > 1)")
    listed = sql.SQL(", ").join(keys)
    return sql.SQL("{} or {}").format(there, twice.format(staged, where, listed, listed))


def delete(connection: Connection, relation: Relation, keys: pa.Table) -> int:
    """Delete by key; gives the number of rows that were there."""
    statement = sql.SQL("delete from {} t using {} where {}").format(
        relation.name,
        keys_as_rows(keys, relation, "k"),
        equal(keys.column_names, lambda name: sql.Identifier("k", name)),
    )
    return connection.execute(statement).rowcount


def stage(connection: Connection, name: str, columns: Sequence[Sent]) -> None:
    """A temporary table with these columns that goes with the transaction; replaces one of that name."""
    definitions = [sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(column.staged)) for column in columns]
    listed = sql.SQL(", ").join(definitions)
    block = _STAGE_BLOCK.format(
        table=_temporary(name),
        name=sql.Identifier(name),
        columns=listed,
        found=sql.Literal(_temporary(name).as_string(connection)),
        comment=sql.Literal(listed.as_string(connection)),
    )
    connection.execute(sql.SQL("do {}").format(sql.Literal(block.as_string(connection))))
    if columns and len(columns[0].values):
        # A staged jsonb is a text, without the version byte of its wire format.
        copy_in(connection, _temporary(name), [replace(column, jsonb=False) for column in columns])


# A table of the same columns is emptied instead: within a transaction that holds many (see `Sql.transaction`),
# every table that is dropped would keep its locks, of which a server has some thousands.
_STAGE_BLOCK = sql.SQL("""
begin
    if obj_description(to_regclass({found}), 'pg_class') = {comment} then
        truncate {table};
    else
        drop table if exists {table};
        create temporary table {name} ({columns}) on commit drop;
        comment on table {table} is {comment};
    end if;
end
""")


def equal(names: Sequence[str], value: Callable[[str], sql.Composable]) -> sql.Composable:
    """``t.name = value(name) and ...``"""
    pairs = [sql.SQL("{} = {}").format(sql.Identifier("t", name), value(name)) for name in names]
    return sql.SQL(" and ").join(pairs)


def _temporary(name: str) -> sql.Identifier:
    return sql.Identifier("pg_temp", name)


def _merge(job: Write, columns: Sequence[Sent], staged: sql.Composable, where: sql.Composable) -> sql.Composable | None:
    """INSERT or UPDATE from staged rows; None for an update that has nothing but the key."""
    if job.action is Action.CREATE:
        generated = any(job.relation.field(column.name).column.generated for column in columns)
        return sql.SQL("insert into {} ({}) {} select {} from {} s where {}").format(
            job.relation.name,
            sql.SQL(", ").join(sql.Identifier(column.name) for column in columns),
            sql.SQL("overriding system value" if generated else ""),
            sql.SQL(", ").join(column.value("s") for column in columns),
            staged,
            where,
        )
    by_name = {column.name: column for column in columns}
    changes = [
        sql.SQL("{} = {}").format(sql.Identifier(column.name), column.value("s"))
        for column in columns
        if column.name not in job.key
    ]
    if not changes:
        return None
    return sql.SQL("update {} t set {} from {} s where {} and {}").format(
        job.relation.name,
        sql.SQL(", ").join(changes),
        staged,
        equal(job.key, lambda name: by_name[name].comparable("s")),
        where,
    )


def refused_units(connection: Connection, jobs: Sequence[Write], units: Sequence[pa.Array]) -> list[Refusal]:
    """Try every unit in a subtransaction of its own, in one round trip, and undo all of it.

    A unit that fails for want of a row it points to is tried again as long as others succeed after it:
    within one statement the order of rows would not matter either.
    """
    codes = pa.chunked_array([chunk for unit in units for chunk in _chunks(unit)], pa.string())
    codes = codes.combine_chunks().dictionary_encode()
    names, numbers = codes.dictionary, codes.indices
    refused: list[Refusal] = []
    trials: list[tuple[Write, list[Sent]]] = []
    start = 0
    for job in jobs:
        places = numbers.slice(start, job.rows.num_rows)
        start += job.rows.num_rows
        columns = prepare(job.rows, job.relation)
        columns.append(Sent(_UNIT, pa.chunked_array([places]), "int4", sql.SQL("int4")))
        trials.append((job, columns))
    unfit = _unfit(trials)
    refused += [Refusal(names[number].as_py(), "22000", column=column) for number, column in unfit.items()]
    with undone(connection):
        connection.execute(sql.Composed([_stage_trials(connection, trials, set(unfit), len(names))]))
        found = connection.execute(_REFUSED).fetchall()
    return refused + [Refusal(names[number].as_py(), *rest) for number, *rest in found]


def _chunks(values: pa.Array | pa.ChunkedArray) -> Sequence[pa.Array]:
    chunks: Sequence[pa.Array] = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
    return [chunk.cast(pa.string()) for chunk in chunks]


def _unfit(trials: Sequence[tuple[Write, list[Sent]]]) -> dict[int, str]:
    """Units with a value that cannot even be staged, and its column."""
    unfit: dict[int, str] = {}
    for _, columns in trials:
        for column in columns:
            wrong = unsendable(column)
            if wrong is not None:
                places = columns[-1].values.filter(pc.fill_null(wrong, False))
                unfit |= {number: column.name for number in places.to_pylist() if number not in unfit}
    return unfit


def _stage_trials(
    connection: Connection, trials: Sequence[tuple[Write, list[Sent]]], unfit: set[int], units: int
) -> sql.Composable:
    """Stage every write's rows with the number of their unit; the block that tries them."""
    connection.execute(
        "create temporary table resettle_refused (unit int, state text, constraint_name text, "
        "column_name text, context text) on commit drop"
    )
    statements: list[sql.Composable] = []
    probes: list[sql.Composable] = []
    at = sql.SQL("s.{} = resettle_at").format(sql.Identifier(_UNIT))
    for number, (job, columns) in enumerate(trials):
        name = f"resettle_trial_{number}"
        fit = columns
        if unfit:
            keep = pc.invert(pc.is_in(columns[-1].values, pa.array(sorted(unfit), pa.int32())))
            fit = [column.filtered(keep) for column in columns]
        stage(connection, name, fit)
        connection.execute(sql.SQL("create index on {} ({})").format(_temporary(name), sql.Identifier(_UNIT)))
        if not _proven(job):
            exists = _exists(job, columns[:-1], _temporary(name), at)
            statements.append(_GUARD.format(exists=exists, name=sql.Literal(proof(number))))
        statement = _merge(job, columns[:-1], _temporary(name), at)
        if statement is not None:
            statements.append(sql.SQL("{};").format(statement))
        probes += [
            _PROBE.format(value=value, staged=_temporary(name), at=at, column=sql.Literal(column.name))
            for column in columns[:-1]
            if (value := _probe(job.relation, column)) is not None
        ]
    secured = any(job.relation.schema.row_security for job, _ in trials)
    return _TRIAL.format(
        last=sql.Literal(units - 1),
        statements=sql.SQL("\n").join(statements),
        probes=sql.SQL("\n").join(probes),
        secured=sql.Literal(secured),
    )


def _probe(relation: Relation, column: Sent) -> sql.Composable | None:
    """An expression that fails where the value does not fit the column; None if it always fits."""
    field = relation.field(column.name)
    if field.column.length is not None:
        # 1/0 where the text is too long: an explicit cast would cut it.
        return sql.SQL("1 / (char_length({}) <= {})::int").format(
            sql.Identifier("s", column.name), sql.Literal(field.column.length)
        )
    if field.base == "numeric" and field.column.precision is not None:
        return sql.SQL("{}::numeric({}, {})").format(
            sql.Identifier("s", column.name),
            sql.Literal(field.column.precision),
            sql.Literal(field.column.scale),
        )
    return None if column.cast is None else column.value("s")


_REFUSED = """
select unit, state, constraint_name, column_name, context from pg_temp.resettle_refused order by unit
"""

_PROBE = sql.SQL("""
        if resettle_column = '' then
            begin
                perform {value} from {staged} s where {at};
            exception when others then
                resettle_column := {column};
            end;
        end if;""")

_GUARD = sql.SQL("""
            if {exists} then
                raise exception using errcode = 'unique_violation', constraint = {name};
            end if;""")

# Trouble that is not the data's (a deadlock, a lost permission, SQL that makes no sense) is raised again.
_TRIAL = sql.SQL("""
do $resettle$
#variable_conflict use_column
declare
    resettle_at int;
    resettle_pass int := 0;
    resettle_progress boolean;
    resettle_state text;
    resettle_constraint text;
    resettle_column text;
    resettle_context text;
begin
set constraints all immediate;
loop
    resettle_progress := false;
    for resettle_at in
        select generate_series(0, {last}) where resettle_pass = 0
        union all
        (select unit from pg_temp.resettle_refused where resettle_pass > 0 and state = '23503' order by unit)
    loop
        begin
            {statements}
            if resettle_pass > 0 then
                delete from pg_temp.resettle_refused where unit = resettle_at;
            end if;
            resettle_progress := true;
        exception when others then
            get stacked diagnostics resettle_state = returned_sqlstate, resettle_column = column_name,
                resettle_constraint = constraint_name, resettle_context = pg_exception_context;
            if left(resettle_state, 2) not in ('22', '23', '44', '54', 'P0')
                    and not (resettle_state = '42501' and {secured}) then
                raise;
            end if;
            if left(resettle_state, 2) = '22' then
                {probes}
                null;
            end if;
            if resettle_pass > 0 then
                delete from pg_temp.resettle_refused where unit = resettle_at;
            end if;
            insert into pg_temp.resettle_refused values (
                resettle_at, resettle_state, resettle_constraint, resettle_column,
                case when left(resettle_state, 2) = 'P0' then resettle_context else '' end);
        end;
    end loop;
    exit when not resettle_progress
        or not exists (select from pg_temp.resettle_refused where state = '23503');
    resettle_pass := resettle_pass + 1;
end loop;
end $resettle$
""")
