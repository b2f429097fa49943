"""check: the mapping against both live sides, before anything runs. It writes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from resettle.connector import Target
from resettle.engine.flow import Connections, Options, compile_flow, selected
from resettle.engine.statements import FlowShape, OutputShape
from resettle.engine.verifying.assertions import probes
from resettle.errors import MappingError
from resettle.ledger.ledger import Ledger
from resettle.mapping.load import Migration


@dataclass(frozen=True)
class Remark:
    """Something that check has to say: level is error, warning or note."""

    level: str
    message: str
    place: str | None = None
    hint: str | None = None


def check(migration: Migration, connections: Connections, ledger: Ledger, options: Options) -> Iterator[Remark]:
    """Everything that can be known before a plan; errors first where a flow cannot run at all."""
    shapes: list[FlowShape] = []
    for name in selected(migration, options):
        try:
            shape, _, _ = compile_flow(migration, name, connections)
        except MappingError as error:
            yield from (Remark("error", one.message, None, one.hint) for one in (error, *error.others))
            continue
        shapes.append(shape)
        yield from _source(migration, shape, connections)
        yield from _targets(migration, shape, connections, ledger)
    yield from _order(migration, shapes)
    yield from _looked_up(migration, shapes)
    for one in probes(migration, connections):
        yield Remark("note" if one.passed else "warning", f"{one.name}: {one.detail}")


def _source(migration: Migration, shape: FlowShape, connections: Connections) -> Iterator[Remark]:
    connection, _, dataset = shape.flow.from_.partition(".")
    count = connections.source(connection).count(dataset)
    yield Remark(
        "note", f"{shape.name}: {shape.flow.from_} holds {'an unknown number of' if count is None else count} records"
    )
    if shape.unmapped:
        yield Remark("note", f"{shape.name}: nothing maps these source fields: {', '.join(shape.unmapped)}")
    if shape.unseen:
        yield Remark(
            "warning",
            f"{shape.name}: the first records hold no {', '.join(shape.unseen)}; they count as null",
            str(migration.place("flows", shape.name)),
        )


def _targets(migration: Migration, shape: FlowShape, connections: Connections, ledger: Ledger) -> Iterator[Remark]:
    ours = ledger.count_rows().get(shape.name, {}).get("rows", 0)
    seen: set[str] = set()
    for output in shape.outputs:
        target = connections.target(output.connection)
        into = f"{output.connection}.{output.dataset}"
        if into not in seen:
            yield _held(shape.name, into, target.count(output.dataset), ours)
            yield from _rights(into, output)
            yield from _triggers(into, output, target)
        seen.add(into)
        yield from _unowned(output)
        yield from _narrower(into, output)
        if shape.rows_sql or output.rows_sql:
            yield from _by_place(into, output)


def _held(flow: str, into: str, rows: int | None, ours: int) -> Remark:
    if rows is None:
        return Remark("note", f"{flow}: {into} holds an unknown number of rows")
    if rows <= ours:
        return Remark("note", f"{flow}: {into} holds {rows} rows" + (", all ours" if rows else ""))
    message = f"{flow}: {into} holds {rows} rows, of which the ledger knows {ours}: the others stay"
    return Remark("note" if ours else "warning", message)


def _rights(into: str, output: OutputShape) -> Iterator[Remark]:
    schema = output.schema
    needed = {"select", "update"} if output.patch else {"select", "insert", "update"}
    missing = needed - schema.privileges
    if missing:
        yield Remark(
            "error",
            f"{into}: this user may not {', '.join(sorted(missing))}",
            hint=f"GRANT {', '.join(sorted(missing)).upper()} ON {schema.dataset} TO <user>",
        )
    if schema.row_security:
        yield Remark(
            "warning",
            f"{into}: row-level security applies to this user; rows it may not see count as absent",
            hint="use a role with BYPASSRLS (Supabase: the database's postgres or service_role user)",
        )


def _triggers(into: str, output: OutputShape, target: Target) -> Iterator[Remark]:
    if output.schema.triggers:
        sql = target.sql()
        silent = "set `replica_role: true` on the connection to keep them (and foreign keys) silent"
        yield Remark(
            "warning",
            f"{into} has triggers that migrated rows will fire: {', '.join(output.schema.triggers)}",
            hint=silent if sql is not None and sql.dialect == "postgres" else None,
        )


def _unowned(output: OutputShape) -> Iterator[Remark]:
    mapped = {column.name for column in output.written} | {*output.updates, *output.edits}
    left = [column.name for column in output.schema.columns if column.name not in mapped]
    if left:
        yield Remark("note", f"{output.dataset}: not written, left to the target: {', '.join(left)}")


def _narrower(into: str, output: OutputShape) -> Iterator[Remark]:
    """A unique index on a part of the natural key refuses rows that differ in the rest of it alone."""
    names = {column.name for column in output.match}
    for unique in (output.schema.key, *output.schema.unique):
        if names and set(unique) < names:
            rest = ", ".join(sorted(names - set(unique)))
            yield Remark(
                "warning",
                f"{into}: a unique index on ({', '.join(unique)}) refuses rows that differ only in {rest}",
                hint="leave it out of `match:`, so that such rows are one",
            )


def _by_place(into: str, output: OutputShape) -> Iterator[Remark]:
    """Rows under minted keys are known by their place among their record's rows."""
    if set(output.minted) & {*output.key_names} and not output.match:
        yield Remark(
            "note",
            f"{into}: rows of one record are told apart by their order alone: where one goes, the next take its place",
            hint="if it has several: `match:` them by what tells them apart, or make the key of that with uuid5(...)",
        )


def _looked_up(migration: Migration, shapes: list[FlowShape]) -> Iterator[Remark]:
    """A lookup in what an earlier flow writes says one thing to a plan and another to the apply."""
    wrote: dict[str, str] = {}
    for shape in shapes:
        for name in shape.lookups:
            dataset = migration.file.lookups[name].from_
            if dataset in wrote:
                yield Remark(
                    "warning",
                    f"flow `{shape.name}` looks up {dataset}, which flow `{wrote[dataset]}` writes first:"
                    " a plan of both sees it as it is now",
                    str(migration.place("lookups", name)),
                    f"`--select {wrote[dataset]}` first, then plan the rest; or use `ref:`",
                )
        wrote |= {output.place: shape.name for output in shape.outputs}


def _order(migration: Migration, shapes: list[FlowShape]) -> Iterator[Remark]:
    """A flow that points at rows of a later flow would find them missing."""
    place = {output.dataset: index for index, shape in enumerate(shapes) for output in shape.outputs}
    for index, shape in enumerate(shapes):
        for output in shape.outputs:
            for key in output.schema.foreign_keys:
                if set(key.columns) <= set(output.names) and place.get(key.target, -1) > index:
                    yield Remark(
                        "warning",
                        f"flow `{shape.name}` points at {key.target}, which a later flow fills",
                        str(migration.place("flows", shape.name)),
                        "put that flow first",
                    )
