"""Compile: a flow against both live sides, before anything runs.

It finds what can be known beforehand (unknown names, impossible casts, NOT NULL without a source, keys without
a unique index) and raises MappingError at its place.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import duckdb
import pyarrow as pa

from resettle.batch import Column, Schema
from resettle.engine.fingerprint import join_key
from resettle.engine.statements import (
    FlowShape,
    OutputShape,
    fast_sql,
    missing_reasons,
    output_sql,
    rules_sql,
    struct_sql,
)
from resettle.errors import MappingError
from resettle.mapping.columns import Cast, NoCastError, cast, literal, quote, refuse
from resettle.mapping.load import Migration, suggest
from resettle.mapping.model import ColumnForm, Lookup, Mint, Output, Ref, Value
from resettle.mapping.sql import Parsed, SqlError, parse_expression, parse_query

OURS = ("_unit", "_raw", "_n", "migration_time")


class Compiler:
    """Compiles one flow; ``connection`` has the functions and the lookups (tables named _lookup_<name>)."""

    def __init__(
        self,
        migration: Migration,
        name: str,
        connection: duckdb.DuckDBPyConnection,
        source: Schema,
        source_types: pa.Schema,
        target_schema: Callable[[str, str], Schema],
    ) -> None:
        self.migration, self.name, self.flow = migration, name, migration.file.flows[name]
        self._db, self._source, self._target_schema = connection, source, target_schema
        self._used: dict[str, None] = {}
        self._types = source_types
        self._previous: dict[str, OutputShape] = {}
        self._extra: frozenset[str] = frozenset()
        self._unseen: dict[str, tuple[int, tuple[str, ...]]] = {}
        self._rows_sql: str | None = None

    def compile(self) -> FlowShape:
        """Raises MappingError with the place of the first thing that cannot work."""
        flow = self.flow
        units = [flow.unit] if isinstance(flow.unit, str) else flow.unit
        at = ("flows", self.name)
        parsed = [self._expression(text, *at, "unit") for text in units]
        unit_sql = join_key([f"CAST({one.sql} AS VARCHAR)" for one in parsed])
        rules = {
            (kind, rule): self._expression(text, *at, kind, rule)
            for kind in ("skip", "hold", "warn")
            for rule, text in getattr(flow, kind).items()
        }
        self._relation(None)
        for one, place in [
            *((p, (*at, "unit")) for p in parsed),
            *((p, (*at, *k)) for k, p in rules.items()),
        ]:
            self._bind(one, *place)
        rows_sql = self._query(flow.rows, *at, "rows") if flow.rows else None
        outputs = self._outputs(rows_sql)
        names = [column.name for column in self._source.columns]
        unmapped = tuple(name for name in names if name not in self._used)
        self._check_unseen(unmapped)
        return FlowShape(
            self.name,
            flow,
            tuple(self._needs(any([rows_sql, *(output.rows for output in flow.all_outputs.values())]))),
            unit_sql,
            rules_sql(rules, tried=False),
            rules_sql(rules, tried=True),
            rows_sql,
            tuple(outputs),
            unmapped=unmapped,
            unseen=tuple(name for name in self._used if name not in names and name not in OURS),
            open=self._source.open,
        )

    def _needs(self, everything: bool) -> list[str]:
        """A `rows:` query may say `*`, so it gets every column."""
        known = [column.name for column in self._source.columns]
        return [
            *(name for name in known if everything or name in self._used),
            *(name for name in self._used if name not in known and name not in OURS),
        ]

    def _outputs(self, rows_sql: str | None) -> list[OutputShape]:
        outputs = []
        for name, output in self.flow.all_outputs.items():
            at = ("flows", self.name, *(() if self.flow.into else ("outputs", name)))
            self._relation(rows_sql)
            if output.rows:
                self._relation(self._query(output.rows, *at, "rows"))
            outputs.append(
                replace(self._output(name, output, at), rows_sql=(self._rows_sql or "") if output.rows else "")
            )
            self._previous = {done.name: done for done in outputs}
        return outputs

    def _output(self, name: str, output: Output, at: tuple[str, ...]) -> OutputShape:
        connection, _, dataset = output.into.partition(".")
        schema = self._target_schema(connection, dataset)
        forms = self._forms(output, schema)
        joins: list[tuple[str, str]] = []
        refs: list[tuple[str, str | None, str]] = []
        lookups: list[tuple[str, str]] = []
        minted: list[str] = []
        values: dict[str, tuple[Column, Cast]] = {}
        plain: dict[str, str] = {}
        for column_name, form in forms.items():
            column = schema.column(column_name)
            place = (*at, "columns", column_name)
            if column is None:
                raise MappingError(
                    self.migration.place(*place),
                    f"`{output.into}` has no column `{column_name}`",
                    hint=suggest(column_name, schema.names),
                )
            if column.generated:
                raise MappingError(self.migration.place(*place), f"`{column_name}` is generated by the target")
            sql, sql_type = self._form(form, joins, refs, lookups, minted, column_name, place)
            values[column_name] = (column, self._cast(sql, sql_type, column, place))
            if isinstance(form, str):
                plain[column_name] = sql
        self._check_required(schema, forms, at, output.into)
        key, match = self._key(output, schema, forms, at)
        alternates = self._alternates(output, schema, at)
        return OutputShape(
            name,
            connection,
            dataset,
            schema,
            key,
            match,
            tuple(column for column, _ in values.values()),
            output_sql(values, joins, key, alternates, {}, tried=False),
            fast_sql(values, joins, key, alternates),
            output_sql(values, joins, key, alternates, missing_reasons(forms), tried=True),
            tuple(minted),
            tuple(refs),
            tuple(lookups),
            plain,
            tuple(alternates),
        )

    def _forms(self, output: Output, schema: Schema) -> Mapping[str, ColumnForm]:
        if isinstance(output.columns, dict):
            return output.columns
        by_name = {_snake(column.name): column.name for column in self._source.columns}
        found = {
            column.name: quote(by_name[_snake(column.name)])
            for column in schema.columns
            if _snake(column.name) in by_name and not column.generated
        }
        self._used |= dict.fromkeys(by_name[_snake(name)] for name in found)
        return found

    def _form(
        self,
        form: ColumnForm,
        joins: list[tuple[str, str]],
        refs: list[tuple[str, str | None, str]],
        lookups: list[tuple[str, str]],
        minted: list[str],
        column: str,
        place: tuple[str, ...],
    ) -> tuple[str, str]:
        """SQL and DuckDB type of a column form, adding the joins it needs."""
        if isinstance(form, Value):
            text = "NULL" if form.value is None else _constant(form.value)
            return text, _type_of(self._db, text)
        if isinstance(form, Mint):
            minted.append(column)
            return quote(f"_mint_{column}"), "UUID"
        if isinstance(form, Lookup):
            on = self._expression(form.on, *place, "on")
            self._bind(on, *place, "on")
            alias = f"_l{len(joins)}"
            joins.append((quote("_lookup_" + form.lookup) + f" {alias} ON {alias}._k", f"CAST({on.sql} AS VARCHAR)"))
            lookups.append((form.lookup, on.sql))
            otherwise = "NULL"
            if form.else_ is not None:
                parsed = self._expression(form.else_, *place, "else")
                self._bind(parsed, *place, "else")
                otherwise = f"CAST({parsed.sql} AS VARCHAR)"
            return (
                f"CASE WHEN {on.sql} IS NULL THEN {otherwise} WHEN {alias}._k IS NULL THEN {refuse(on.sql, 'VARCHAR')}"
                f" ELSE {alias}._v END",
                "VARCHAR",
            )
        if isinstance(form, Ref):
            on = self._expression(form.on, *place, "on")
            self._bind(on, *place, "on")
            alias, (flow, _, output) = f"_ref{len(refs)}", form.ref.partition(".")
            if flow == self.name:
                raise MappingError(
                    self.migration.place(*place),
                    f"`ref: {form.ref}` points at this flow itself, whose rows are not all there yet",
                    hint="write the key out, or fill the column by a second flow",
                )
            refs.append((flow, output or None, f"CAST({on.sql} AS VARCHAR)"))
            joins.append((f"{alias} ON {alias}._unit_of", f"CAST({on.sql} AS VARCHAR)"))
            missing = refuse(on.sql, "VARCHAR")
            value = f"{alias}._target_key"
            return (
                f"CASE WHEN {on.sql} IS NOT NULL AND {value} IS NULL THEN {missing} ELSE {value} END",
                "VARCHAR",
            )
        parsed = self._expression(form, *place)
        return parsed.sql, self._bind(parsed, *place)

    def _cast(self, sql: str, sql_type: str, column: Column, place: tuple[str, ...]) -> Cast:
        try:
            return cast(sql, sql_type, column)
        except NoCastError as error:
            raise MappingError(self.migration.place(*place), f"`{column.name}`: {error}") from None

    def _check_required(self, schema: Schema, forms: Mapping[str, Any], at: tuple[str, ...], into: str) -> None:
        for column in schema.columns:
            if not (column.nullable or column.has_default or column.generated or column.name in forms):
                raise MappingError(
                    self.migration.place(*at, "columns"),
                    f"`{into}.{column.name}` is NOT NULL, has no default and no source",
                    hint=f"map it: `{column.name}: <expression>`",
                )
        for name, form in forms.items():
            choices = next((c.choices for c in schema.columns if c.name == name), None)
            if choices and isinstance(form, Value) and form.value is not None and form.value not in choices:
                raise MappingError(
                    self.migration.place(*at, "columns", name),
                    f"`{into}.{name}` does not accept this constant",
                    hint=f"it accepts: {', '.join(choices)}",
                )

    def _key(
        self, output: Output, schema: Schema, forms: Mapping[str, Any], at: tuple[str, ...]
    ) -> tuple[tuple[Column, ...], bool]:
        chosen = output.match if output.match is not None else output.key
        names = (chosen,) if isinstance(chosen, str) else tuple(chosen or schema.key)
        where = "match" if output.match is not None else "key" if output.key is not None else "into"
        place = self.migration.place(*at, where)
        if not names:
            raise MappingError(place, f"`{output.into}` has no primary key", hint="name its `key:` columns")
        for name in names:
            if schema.column(name) is None:
                raise MappingError(place, f"`{output.into}` has no column `{name}`", hint=suggest(name, schema.names))
            if name not in forms:
                raise MappingError(place, f"the key column `{name}` is not mapped", hint=f"map `{name}:`")
        uniques = [set(schema.key), *(set(unique) for unique in schema.unique)]
        if output.match is None and set(names) not in uniques:
            raise MappingError(
                place,
                f"`{output.into}` has no unique index on ({', '.join(names)}): rows could be doubled",
                hint="use its primary key, add a unique index, or use `match:`",
            )
        return tuple(column for name in names if (column := schema.column(name))), output.match is not None

    def _alternates(self, output: Output, schema: Schema, at: tuple[str, ...]) -> dict[str, str]:
        found = {}
        for name, text in (output.on_duplicate_key or {}).items():
            place = (*at, "on_duplicate_key", name)
            parsed = self._expression(text, *place)
            column = schema.column(name)
            if column is None:
                raise MappingError(self.migration.place(*place), f"`{output.into}` has no column `{name}`")
            found[name] = self._cast(parsed.sql, self._bind(parsed, *place), column, place).sql
        return found

    # -- names and types ---------------------------------------------------------------------------

    def _expression(self, text: str, *at: str) -> Parsed:
        try:
            parsed = parse_expression(text)
        except SqlError as error:
            raise MappingError(self.migration.expression_place(*at, at=error.position), f"bad SQL: {error}") from None
        for qualifier, name, position in parsed.columns:
            if qualifier in (None, "source") or qualifier not in self._previous:
                self._use(qualifier if qualifier not in (None, "source") else name, position, *at)
            elif self._previous[qualifier].match and name in self._previous[qualifier].minted:
                raise MappingError(
                    self.migration.expression_place(*at, at=position),
                    f"`{qualifier}.{name}` is minted, but a reused row has an id of its own: not supported yet",
                    hint="derive the id from the natural key with uuid5(...)",
                )
        return parsed

    def _use(self, name: str, position: int, *at: str) -> None:
        known = {column.name.lower(): column.name for column in self._source.columns}
        if name in OURS or name in self._extra:
            return
        if name.lower() in known:
            self._used[known[name.lower()]] = None
            return
        if not self._source.open:
            raise self._unknown(name, position, *at, hint=suggest(name, known.values()))
        self._used[name] = None
        self._unseen.setdefault(name, (position, at))

    def _unknown(self, name: str, position: int, *at: str, hint: str | None) -> MappingError:
        place = self.migration.expression_place(*at, at=position)
        return MappingError(place, f"`{self.flow.from_}` has no column `{name}`", hint=hint)

    def _check_unseen(self, unmapped: Sequence[str]) -> None:
        """In an open source a name that no sample held may be a rare attribute; beside one that nothing maps
        and that is nearly its twin, it is a slip of the pen."""
        for name, (position, at) in self._unseen.items():
            twins = difflib.get_close_matches(name, unmapped, n=1, cutoff=0.7)
            if twins and _snake(twins[0]) != _snake(name):
                raise self._unknown(name, position, *at, hint=f"did you mean `{twins[0]}`?")

    def _query(self, text: str, *at: str) -> str:
        sql = self.migration.sql_text(text)
        try:
            parsed = parse_query(sql)
        except SqlError as error:
            raise MappingError(self.migration.place(*at), f"bad SQL: {error}") from None
        return parsed.sql

    def _relation(self, rows_sql: str | None) -> None:
        """Make `_probe`, an empty relation with the names and types that expressions see."""
        self._rows_sql = rows_sql
        fields = [(name, self._type(name)) for name in self._needs(everything=True)]
        ours = [("_unit", pa.string()), ("_raw", pa.int64()), ("_n", pa.int64())]
        ours.append(("migration_time", pa.timestamp("us", tz="UTC")))
        self._db.register("source", pa.schema([*fields, *ours]).empty_table())
        structs = "".join(f", {struct_sql(done, null=True)} AS {quote(name)}" for name, done in self._previous.items())
        inner = f"({rows_sql})" if rows_sql else "source"
        try:
            self._db.execute(f"CREATE OR REPLACE TEMP VIEW _probe AS SELECT *{structs} FROM {inner}")
            names = [row[0] for row in self._db.execute("DESCRIBE _probe").fetchall()]
        except duckdb.Error as error:
            raise MappingError(
                self.migration.place("flows", self.name, "rows"), f"bad SQL: {_first_line(error)}"
            ) from None
        if "_unit" not in names:
            raise MappingError(
                self.migration.place("flows", self.name, "rows"),
                "a `rows:` query must keep the column _unit",
                hint="SELECT *, ... FROM source, or name _unit",
            )
        self._extra = frozenset(names) - {column.name for column in self._source.columns}

    def _type(self, name: str) -> pa.DataType:
        index = self._types.get_field_index(name)
        return self._types.field(index).type if index >= 0 else pa.string()

    def _bind(self, parsed: Parsed, *at: str) -> str:
        """The DuckDB type of an expression over the probe relation. Raises MappingError at its place."""
        self._widen(parsed)
        try:
            return str(self._db.execute(f"DESCRIBE SELECT {parsed.sql} FROM _probe AS source").fetchall()[0][1])
        except duckdb.Error as error:
            raise MappingError(self.migration.place(*at), f"bad SQL: {_first_line(error)}") from None

    def _widen(self, parsed: Parsed) -> None:
        """Names of an open source that no sample held become null text columns of the probe."""
        have = {row[0].lower() for row in self._db.execute("DESCRIBE _probe").fetchall()}
        new = [name for q, name, _ in parsed.columns if q in (None, "source") and name.lower() not in have]
        if new and self._source.open:
            self._relation(self._rows_sql)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].removeprefix("Binder Error: ")


def _constant(value: str | int | float | bool) -> str:
    return literal(value) if isinstance(value, str) else str(value)


def _type_of(connection: duckdb.DuckDBPyConnection, sql: str) -> str:
    return str(connection.execute(f"DESCRIBE SELECT {sql}").fetchall()[0][1])
