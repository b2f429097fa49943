"""Outputs: one output's columns, key and rules, compiled against its target's catalogue."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

import duckdb

from resettle.batch import Column, Kind, Schema
from resettle.engine.bodies import COMPARED
from resettle.engine.keys import keys
from resettle.engine.statements import OutputShape, missing_reasons, statements, struct_of
from resettle.errors import MappingError, raise_together
from resettle.mapping.columns import DUCKDB, Cast, NoCastError, cast, literal, quote, refuse
from resettle.mapping.load import Migration, suggest
from resettle.mapping.model import ColumnForm, Edit, Flow, Lookup, Mint, Moment, Output, Ref, Value, constant_of, split
from resettle.mapping.sql import Parsed, SqlError, first_line, meant, parse_expression

At = tuple[str, ...]


class FlowCompiler(Protocol):
    """What compiling an output asks of its flow's compiler."""

    migration: Migration
    name: str
    flow: Flow
    db: duckdb.DuckDBPyConnection
    source: Schema

    def target_schema(self, connection: str, dataset: str) -> Schema: ...

    def expression(self, text: str, *at: str) -> Parsed: ...

    def bind(self, parsed: Parsed, *at: str) -> str: ...

    def use(self, names: Iterable[str], *at: str) -> None: ...


def compile_output(flow: FlowCompiler, name: str, output: Output, at: At) -> OutputShape:
    """Compile one output; ``at`` is its place in the declaration. Raises MappingError."""
    return _Output(flow, output, at).compile(name)


class _Output:
    def __init__(self, flow: FlowCompiler, output: Output, at: At) -> None:
        self._flow, self._migration, self._db = flow, flow.migration, flow.db
        self._output, self._at = output, at
        connection, _, dataset = output.into.partition(".")
        self._connection, self._dataset = connection, dataset
        self._schema = flow.target_schema(connection, dataset)
        self._joins: list[tuple[str, str]] = []
        self._refs: list[tuple[str, str | None, str]] = []
        self._lookups: list[tuple[str, str]] = []
        self._minted: list[str] = []
        self._values: dict[str, tuple[Column, Cast]] = {}
        self._plain: dict[str, str] = {}
        self._extras: dict[str, str] = {}
        self._edits: list[str] = []
        self._once: list[Column] = []

    def compile(self, name: str) -> OutputShape:
        output, schema = self._output, self._schema
        forms = self._forms()
        raise_together(self._columns(forms))
        owned = tuple(column for column, _ in self._values.values() if column not in self._once)
        if output.patch is None:
            raise_together(self._lacking(forms))
        key, match = keys(output, schema, {column.name for column in owned}, partial(self._migration.place, *self._at))
        self._check_minted(key, match)
        fingerprinted = [*owned, *(Column(f"_{part}_{edit}", Kind.TEXT) for edit in self._edits for part in _PRINTED)]
        alternates = self._alternates()
        self._prefer(key)
        body = self._body(owned)
        when = self._bound(output.when, "when") if output.when else None
        return OutputShape(
            name,
            self._connection,
            self._dataset,
            schema,
            key,
            owned,
            statements(self._values, self._joins, key, self._extras, fingerprinted, missing_reasons(forms), when),
            tuple(self._minted),
            tuple(self._refs),
            tuple(self._lookups),
            self._plain,
            alternates,
            match=match,
            reuse_rules=self._over_target(output.hold_reuse, schema.columns, "hold_reuse"),
            patch=output.patch is not None,
            edits=tuple(self._edits),
            once=tuple(self._once),
            updates=self._updates(forms, owned),
            counts=self._over_target(output.count, (*owned, *self._once), "count"),
            body=body,
        )

    def _forms(self) -> Mapping[str, ColumnForm]:
        if isinstance(self._output.columns, dict):
            return self._output.columns
        by_name: dict[str, str] = {}
        for source in self._flow.source.names:
            twin = by_name.setdefault(snake(source), source)
            if twin != source and any(column.name == snake(source) for column in self._schema.columns):
                message = f"both `{twin}` and `{source}` would become `{snake(source)}`"
                raise MappingError(self._migration.place(*self._at), message, hint="write its `columns:` out")
        found = {
            column.name: quote(by_name[snake(column.name)])
            for column in self._schema.columns
            if snake(column.name) in by_name and not column.generated
        }
        self._flow.use([by_name[snake(name)] for name in found], *self._at)
        return found

    # -- columns --------------------------------------------------------------------------------------------

    def _columns(self, forms: Mapping[str, ColumnForm]) -> Iterator[MappingError]:
        """Take each column; what is wrong with those that cannot be."""
        for name, form in forms.items():
            try:
                self._column(name, form)
            except MappingError as error:
                yield error

    def _column(self, name: str, form: ColumnForm) -> None:
        place = (*self._at, "columns", name)
        column = self._schema.column(name)
        if column is None:
            raise MappingError(
                self._migration.place(*place),
                f"`{self._output.into}` has no column `{name}`",
                hint=suggest(name, self._schema.names),
            )
        if column.generated:
            raise MappingError(self._migration.place(*place), f"`{name}` is generated by the target")
        if meant(name, [*self._values, *self._edits]) is not None:
            message = f"`{self._output.into}` has another mapped column of this name but for its case"
            hint = "SQL does not tell them apart: map one of them here, and the other by a second flow"
            raise MappingError(self._migration.place(*place), message, hint=hint)
        if isinstance(form, Edit):
            self._edit(name, form, place)
            return
        if isinstance(form, Moment):
            if self._output.patch is not None:
                message = f"`{name}`: `create:` and `update:` are for rows that we make, not for `patch:`"
                raise MappingError(self._migration.place(*place), message, hint="write the expression itself")
            if form.create is None:
                return
            self._once.append(column)
            form, place = form.create, (*place, "create")
        sql, sql_type = self._form(form, name, place)
        self._values[name] = (column, self._cast(sql, sql_type, column, place))
        if isinstance(form, str):
            self._plain[name] = sql

    def _form(self, form: ColumnForm, column: str, place: At) -> tuple[str, str]:
        """SQL and DuckDB type of a column form, adding the joins it needs."""
        if isinstance(form, Value):
            text = _constant(form.value)
            return text, str(self._db.execute(f"DESCRIBE SELECT {text}").fetchall()[0][1])
        if isinstance(form, Mint):
            self._minted.append(column)
            return quote(f"_mint_{column}"), "UUID"
        if isinstance(form, Lookup):
            return self._looked_up(form, place), "VARCHAR"
        if isinstance(form, Ref):
            self._check_wanted(form, column, place)
            return self._referenced(form, place), "VARCHAR"
        assert isinstance(form, str)
        parsed = self._flow.expression(form, *place)
        return parsed.sql, self._flow.bind(parsed, *place)

    def _looked_up(self, form: Lookup, place: At) -> str:
        on = self._bound(form.on, *place[len(self._at) :], "on")
        alias = f"_l{len(self._joins)}"
        self._joins.append((quote("_lookup_" + form.lookup) + f" {alias} ON {alias}._k", f"CAST({on.sql} AS VARCHAR)"))
        self._lookups.append((form.lookup, on.sql))
        otherwise = "NULL"
        if form.else_ is not None:
            otherwise = f"CAST({self._bound(form.else_, *place[len(self._at) :], 'else').sql} AS VARCHAR)"
        return (
            f"CASE WHEN {on.sql} IS NULL THEN {otherwise} WHEN {alias}._k IS NULL THEN {refuse(on.sql, 'VARCHAR')}"
            f" ELSE {alias}._v END"
        )

    def _referenced(self, form: Ref, place: At) -> str:
        on = self._bound(form.on, *place[len(self._at) :], "on")
        alias, (flow, _, output) = f"_ref{len(self._refs)}", form.ref.partition(".")
        if flow == self._flow.name:
            raise MappingError(
                self._migration.place(*place),
                f"`ref: {form.ref}` points at this flow itself, whose rows are not all there yet",
                hint="write the key out, or fill the column by a second flow",
            )
        self._refs.append((flow, output or None, f"CAST({on.sql} AS VARCHAR)"))
        self._joins.append((f"{alias} ON {alias}._unit_of", f"CAST({on.sql} AS VARCHAR)"))
        value = f"{alias}._target_key"
        missing = refuse(on.sql, "VARCHAR")
        return f"CASE WHEN {on.sql} IS NOT NULL AND {value} IS NULL THEN {missing} ELSE {value} END"

    def _check_wanted(self, form: Ref, column: str, place: At) -> None:
        """A reference gives what the other rows go by; a foreign key may want another column of theirs."""
        flow, _, name = form.ref.partition(".")
        outputs = self._migration.file.flows[flow].all_outputs
        other = outputs[name] if name else next(iter(outputs.values()))
        connection, _, dataset = other.into.partition(".")
        for key in self._schema.foreign_keys:
            if key.columns != (column,) or (self._connection, key.target) != (connection, dataset):
                continue
            own = self._flow.target_schema(connection, dataset).key
            given = split(other.match or other.key) or own
            if other.match and len(own) == 1 and own[0] in other.columns:
                given = own
            if given != key.target_columns and other.columns != "auto":
                raise MappingError(
                    self._migration.place(*place),
                    f"`ref: {form.ref}` gives `{', '.join(given)}`, which rows of `{other.into}` go by;"
                    f" the foreign key {key.name} wants `{', '.join(key.target_columns)}`",
                    hint="map that column in the other flow too, or fill this one by a `lookup:` from the target",
                )

    def _edit(self, name: str, form: Edit, place: At) -> None:
        """The parts of an edit as text, the value as JSON."""
        if self._output.patch is None:
            raise MappingError(self._migration.place(*place), f"`{name}`: `at:` and `set:` go with `patch:`")
        inside = place[len(self._at) :]
        at, value = (self._flow.expression(text, *place, key) for key, text in (("at", form.at), ("set", form.set_)))
        self._flow.bind(at, *place, "at")
        exact = self._flow.bind(value, *place, "set") == "JSON"  # as it stands: to_json would round its numbers
        pointer, made = f"CAST({at.sql} AS VARCHAR)", value.sql if exact else f"to_json({value.sql})"
        none = f"{pointer} <> '' AND NOT starts_with({pointer}, '/')"
        self._extras[f"_at_{name}"] = f"CASE WHEN {none} THEN {refuse(at.sql, 'VARCHAR')} ELSE {pointer} END"
        self._extras[f"_set_{name}"] = f"CAST({made} AS VARCHAR)"
        expect = f"CAST({self._bound(form.expect, *inside, 'expect').sql} AS VARCHAR)" if form.expect else "NULL"
        self._extras[f"_expect_{name}"] = f"CAST({expect} AS VARCHAR)"
        self._edits.append(name)

    def _updates(self, forms: Mapping[str, ColumnForm], owned: Sequence[Column]) -> dict[str, Parsed]:
        """SQL of the values that come with each update, cast to their columns."""
        relation = f"SELECT {_nulls(owned)}, {struct_of(self._schema.columns, null=True)} AS target"
        found = {}
        for name, form in forms.items():
            if not isinstance(form, Moment) or form.update is None:
                continue
            place = (*self._at, "columns", name, "update")
            parsed = self._parse(form.update, place)
            column = self._schema.column(name)
            assert column is not None
            made = self._cast(parsed.sql, self._type(parsed, relation, place), column, place)
            found[name] = Parsed(made.sql, parsed.columns)
        return found

    def _cast(self, sql: str, sql_type: str, column: Column, place: At) -> Cast:
        try:
            return cast(sql, sql_type, column)
        except NoCastError as error:
            raise MappingError(self._migration.place(*place), f"`{column.name}`: {error}") from None

    def _lacking(self, forms: Mapping[str, ColumnForm]) -> Iterator[MappingError]:
        """Columns that need a value and get none, or a constant that they do not take."""
        for column in self._schema.columns:
            if column.nullable or column.has_default or column.generated or column.name in self._values:
                continue
            yield MappingError(
                self._migration.place(*self._at, "columns"),
                f"`{self._output.into}.{column.name}` is NOT NULL, has no default and no source",
                hint=f"map it: `{column.name}: <expression>`",
            )
        for name, form in forms.items():
            choices = next((c.choices for c in self._schema.columns if c.name == name), None)
            constant = constant_of(form)
            if choices and constant is not None and constant not in choices:
                yield MappingError(
                    self._migration.place(*self._at, "columns", name),
                    f"`{self._output.into}.{name}` does not accept this constant",
                    hint=f"it accepts: {', '.join(choices)}",
                )

    # -- keys -----------------------------------------------------------------------------------------------

    def _check_minted(self, key: Sequence[Column], match: Sequence[Column]) -> None:
        for name in self._minted if match and match != key else ():
            if name not in [column.name for column in key]:
                raise MappingError(
                    self._migration.place(*self._at, "columns", name),
                    f"`{name}` is minted, but a reused row has a value of its own",
                    hint="derive it from the natural key with uuid5(...)",
                )

    def _prefer(self, key: Sequence[Column]) -> None:
        for name, text in (self._output.prefer or {}).items():
            place = (*self._at, "prefer", name)
            if [column.name for column in key] != [name]:
                message = "`prefer:` names the primary key, which the output must map beside its natural key"
                raise MappingError(self._migration.place(*place), message)
            parsed = self._bound(text, "prefer", name)
            self._extras["_prefer"] = f"CAST(TRY_CAST({parsed.sql} AS {DUCKDB[key[0].kind]}) AS VARCHAR)"

    def _body(self, owned: Sequence[Column]) -> tuple[str, str] | None:
        """Where the bytes come from; what a listing says of a file beforehand is all that can be compared."""
        form = self._output.body
        if form is None:
            return None
        for column in owned:
            if column.name not in (*self._schema.key, *COMPARED):
                raise MappingError(
                    self._migration.place(*self._at, "columns", column.name),
                    f"`{column.name}` of a file cannot be compared with what is there",
                    hint=f"write `{column.name}: {{create: ...}}`",
                )
        text, at = (form, ()) if isinstance(form, str) else (form.at, ("at",))
        self._extras["_body"] = f"CAST({self._bound(text, 'body', *at).sql} AS VARCHAR)"
        connection, _, dataset = (self._flow.flow.from_ if isinstance(form, str) else form.from_).partition(".")
        return connection, dataset

    def _alternates(self) -> tuple[str, ...]:
        found = self._output.on_duplicate_key or {}
        for name, text in found.items():
            place = (*self._at, "on_duplicate_key", name)
            parsed = self._flow.expression(text, *place)
            column = self._schema.column(name)
            if column is None:
                raise MappingError(self._migration.place(*place), f"`{self._output.into}` has no column `{name}`")
            self._extras[f"_alt_{name}"] = self._cast(parsed.sql, self._flow.bind(parsed, *place), column, place).sql
        return tuple(found)

    # -- expressions ----------------------------------------------------------------------------------------

    def _bound(self, text: str, *inside: str) -> Parsed:
        """An expression of the output over the source row, which DuckDB understands."""
        parsed = self._flow.expression(text, *self._at, *inside)
        self._flow.bind(parsed, *self._at, *inside)
        return parsed

    def _over_target(self, rules: Mapping[str, str], columns: Sequence[Column], key: str) -> dict[str, Parsed]:
        """Conditions over target columns."""
        found = {}
        for name, text in rules.items():
            place = (*self._at, key, name)
            parsed = self._parse(text, place)
            self._type(parsed, f"SELECT {_nulls(columns)}", place)
            found[name] = parsed
        return found

    def _parse(self, text: str, place: At) -> Parsed:
        try:
            return parse_expression(text)
        except SqlError as error:
            where = self._migration.expression_place(*place, at=error.position)
            raise MappingError(where, f"bad SQL: {error}") from None

    def _type(self, parsed: Parsed, relation: str, place: At) -> str:
        try:
            return str(self._db.execute(f"DESCRIBE SELECT {parsed.sql} FROM ({relation})").fetchall()[0][1])
        except duckdb.Error as error:
            raise MappingError(self._migration.place(*place), f"bad SQL: {first_line(error)}") from None


_PRINTED = ("at", "set")


def _constant(value: str | int | float | bool | None) -> str:
    if value is None:
        return "NULL"
    return literal(value) if isinstance(value, str) else str(value)


def _nulls(columns: Sequence[Column]) -> str:
    return ", ".join(f"CAST(NULL AS {DUCKDB[column.kind]}) AS {quote(column.name)}" for column in columns)


def snake(name: str) -> str:
    """camelCase as snake_case."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
