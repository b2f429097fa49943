"""Shape: a flow compiled against both sides, then batches of source rows to batches of wanted target rows.

Compiling finds what can be known beforehand (unknown names, impossible casts, NOT NULL without a source,
keys without a unique index) and raises MappingError at its place. Running never raises for a row's sake: a
row that does not cast or cannot be stored holds its unit, with reason and detail but without its value.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import TROUBLE, Column, Kind, Schema
from resettle.engine.fingerprint import as_duckdb, as_wire, fingerprint_sql, join_key, key_sql
from resettle.engine.uuids import from_text
from resettle.errors import MappingError
from resettle.mapping.columns import DUCKDB, Cast, NoCastError, cast, literal, quote, refuse
from resettle.mapping.functions import query, run_tried
from resettle.mapping.load import Migration, suggest
from resettle.mapping.model import ColumnForm, Flow, Lookup, Mint, Output, Ref, Value
from resettle.mapping.sql import Parsed, SqlError, parse_expression, parse_query

OURS = ("_unit", "_raw", "_n", "migration_time")
Ids = Callable[[int], pa.Array]
"""``ids(n)``: n fresh uuids as 16-byte values."""
Minted = Callable[[pa.Array, int], pa.Table]
"""``minted(units, output)``: _unit, _n, m (JSON object of column to value) of rows made earlier."""


@dataclass(frozen=True)
class OutputShape:
    """One output, compiled. ``columns`` are the target columns it writes, in the declaration's order."""

    name: str
    connection: str
    dataset: str
    schema: Schema
    key: tuple[Column, ...]
    match: bool
    columns: tuple[Column, ...]
    sql: str
    fast_sql: str | None
    """Like ``sql`` with uuids left as text, which `uuids.from_text` turns at once; None where there are none."""
    try_sql: str
    minted: tuple[str, ...]
    refs: tuple[tuple[str, str | None, str], ...]
    """(flow, output, expression) of every reference, in the order of the joins _ref0, _ref1, ..."""
    lookups: tuple[tuple[str, str], ...] = ()
    """(lookup, expression) of every lookup: its rows are loaded when the first value asks for it."""
    plain: Mapping[str, str] = field(default_factory=dict)
    """Each column's expression before its cast, to say what class of value did not become the column's."""
    alternates: tuple[str, ...] = ()
    """Key columns that have an `on_duplicate_key` form, delivered as _alt_<name>."""
    rows_sql: str = ""
    """The SELECT of its own `rows:`, if it has one."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def key_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.key)


@dataclass(frozen=True)
class FlowShape:
    """A compiled flow."""

    name: str
    flow: Flow
    needs: tuple[str, ...]
    """Source columns that the flow's expressions use, in the source's order."""
    unit_sql: str
    rules_sql: str | None
    rules_try_sql: str | None
    rows_sql: str | None
    outputs: tuple[OutputShape, ...]
    unmapped: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    """Names used that an open source's sample did not hold."""
    open: bool = False
    """Whether the source has no catalogue, so that records may hold names that nobody has seen."""


@dataclass(frozen=True)
class Shaped:
    """What a batch should become.

    units:   _unit, _raw, status (null where it goes on), reason, detail, warnings; one row per source record
    outputs: per output: _unit, _n, its columns, _key, _fp (16 bytes), `_alt_*`; held units have no rows
    """

    units: pa.Table
    outputs: tuple[pa.Table, ...]


def _none_minted(units: pa.Array, output: int) -> pa.Table:
    return pa.table(
        {"_unit": pa.array([], pa.string()), "_n": pa.array([], pa.int64()), "m": pa.array([], pa.string())}
    )


@dataclass(frozen=True)
class Resolver:
    """What shaping needs from the ledger and the run: the id map, ids for minting, lookups' rows."""

    target_keys: Callable[[str, str | None, pa.Array], pa.Table]
    ids: Ids
    load_lookup: Callable[[str], None]
    minted: Minted = _none_minted


# -- compiling -------------------------------------------------------------------------------------------


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
            _rules_sql(rules, tried=False),
            _rules_sql(rules, tried=True),
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
            _output_sql(values, joins, key, alternates, {}, tried=False),
            _fast_sql(values, joins, key, alternates),
            _output_sql(values, joins, key, alternates, _missing_reasons(forms), tried=True),
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
        structs = "".join(f", {_struct(done, null=True)} AS {quote(name)}" for name, done in self._previous.items())
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


def _struct(output: OutputShape, *, null: bool = False) -> str:
    """An earlier output's row as one struct, so that `object.key` reads its column."""
    fields = ", ".join(
        f"{quote(c.name)} := " + (f"CAST(NULL AS {DUCKDB[c.kind]})" if null else quote(c.name)) for c in output.columns
    )
    return f"struct_pack({fields})"


def _rules_sql(rules: Mapping[tuple[str, str], Parsed], *, tried: bool) -> str | None:
    if not rules:
        return None

    def condition(parsed: Parsed) -> str:
        return f"coalesce(TRY(CAST(({parsed.sql}) AS BOOLEAN)), false)" if tried else f"({parsed.sql})"

    def first(kind: str) -> str:
        arms = " ".join(f"WHEN {condition(p)} THEN {literal(n)}" for (k, n), p in rules.items() if k == kind)
        return f"CASE {arms} END" if arms else "CAST(NULL AS VARCHAR)"

    warned = [f"CASE WHEN {condition(p)} THEN {literal(n)} END" for (k, n), p in rules.items() if k == "warn"]
    warnings = f"nullif(concat_ws(',', {', '.join(warned)}), '')" if warned else "CAST(NULL AS VARCHAR)"
    bad = "CAST(NULL AS VARCHAR)"
    if tried:
        arms = " ".join(
            f"WHEN TRY((CAST(({p.sql}) AS BOOLEAN)) IS NULL) IS NULL THEN {literal(n)}" for (_, n), p in rules.items()
        )
        bad = f"CASE {arms} END"
    return f"SELECT {first('skip')} AS skip, {first('hold')} AS hold, {warnings} AS warnings, {bad} AS bad FROM source"


def _missing_reasons(forms: Mapping[str, ColumnForm]) -> dict[str, str]:
    """Why a column's value can be missing, other than by its cast."""
    return {
        name: "lookup_missing" if isinstance(form, Lookup) else "reference_missing"
        for name, form in forms.items()
        if isinstance(form, Lookup | Ref)
    }


def _fast_sql(
    values: Mapping[str, tuple[Column, Cast]],
    joins: Sequence[tuple[str, str]],
    key: Sequence[Column],
    alternates: Mapping[str, str],
) -> str | None:
    texts = {name: (column, replace(made, sql=made.text or made.sql)) for name, (column, made) in values.items()}
    if texts == values:
        return None
    return _output_sql(texts, joins, key, alternates, {}, tried=False)


def _output_sql(
    values: Mapping[str, tuple[Column, Cast]],
    joins: Sequence[tuple[str, str]],
    key: Sequence[Column],
    alternates: Mapping[str, str],
    reasons: Mapping[str, str],
    *,
    tried: bool,
) -> str:
    """The SELECT of one output over the relation `base` (source rows with earlier outputs beside them)."""

    def value(sql: str) -> str:
        return f"TRY({sql})" if tried else sql

    columns = [f"{value(made.sql)} AS {quote(name)}" for name, (_, made) in values.items()]
    columns += [f"{value(sql)} AS {quote('_alt_' + name)}" for name, sql in alternates.items()]
    arms = [
        f"WHEN {check.sql} THEN {literal(f'{check.reason}|{name}')}"
        for name, (_, made) in values.items()
        for check in made.checks
    ]
    arms += [f"WHEN {quote(column.name)} IS NULL THEN {literal('no_key|' + column.name)}" for column in key]
    bad = "CAST(NULL AS VARCHAR) AS _bad"
    if tried:
        tries = [
            f"WHEN TRY(({made.sql}) IS NULL) IS NULL THEN {literal(reasons.get(name, 'cast') + '|' + name)}"
            for name, (_, made) in values.items()
        ]
        bad = f"CASE {' '.join(tries)} END AS _bad"
    problem = f"coalesce(_bad, CASE {' '.join(arms)} END)" if arms else "_bad"
    joined = " ".join(f"LEFT JOIN {table} = {value(on)}" for table, on in joins)
    picked = ", ".join(quote(name) for name in [*values, *("_alt_" + name for name in alternates)])
    fingerprint = fingerprint_sql([column for column, _ in values.values()])
    return (
        f"SELECT _unit, _n, {picked}, {problem} AS _problem, {key_sql(key)} AS _key, {fingerprint} AS _fp"
        f" FROM (SELECT source._unit, source._n, {', '.join(columns)}, {bad} FROM base AS source {joined})"
    )


# -- running ---------------------------------------------------------------------------------------------


def unit_keys(connection: duckdb.DuckDBPyConnection, shape: FlowShape, rows: pa.Table) -> pa.Array:
    """The unit key of each source row; null where it has none."""
    connection.register("source", rows)
    try:
        found = query(connection, f"SELECT {shape.unit_sql} AS u FROM source")
    except duckdb.Error:
        found = run_tried(connection, f"SELECT TRY({shape.unit_sql}) AS u FROM source")
    finally:
        connection.unregister("source")
    return found["u"].combine_chunks()


def run(connection: duckdb.DuckDBPyConnection, shape: FlowShape, rows: pa.Table, resolver: Resolver) -> Shaped:
    """Shape a batch.

    ``rows`` holds the needed columns, _unit (not null), _raw, migration_time, and `_trouble` ("reason|detail")
    if some rows could not be read.
    """
    units = _rules(connection, shape, rows)
    going = pc.is_null(units["status"])
    source = rows.filter(going).drop_columns([n for n in (TROUBLE,) if n in rows.column_names])
    outputs: list[pa.Table] = []
    problems: list[pa.Table] = []
    if shape.rows_sql:
        source, problem = _explode(connection, shape.rows_sql, source)
        problems += problem
    elif "_n" not in source.column_names:
        source = source.append_column("_n", pa.repeat(pa.scalar(0, pa.int64()), source.num_rows))
    for number, output in enumerate(shape.outputs):
        declared = list(shape.flow.all_outputs.values())[number]
        own = source
        if declared.rows:
            own, problem = _explode(connection, output.rows_sql, source)
            problems += problem
        shaped, bad = _output(connection, output, number, own, shape.outputs[:number], outputs, resolver)
        problems += [bad] if bad is not None else []
        outputs.append(shaped.drop_columns(["_problem"]))
    if problems:
        units, outputs = _hold(units, outputs, pa.concat_tables(problems))
    return Shaped(units, tuple(as_wire(t, o.columns) for t, o in zip(outputs, shape.outputs, strict=True)))


def _rules(connection: duckdb.DuckDBPyConnection, shape: FlowShape, rows: pa.Table) -> pa.Table:
    count = rows.num_rows
    none = pa.nulls(count, pa.string())
    status, reason, detail, warnings = none, none, none, none
    if shape.rules_sql:
        connection.register("source", rows)
        try:
            found = query(connection, shape.rules_sql)
        except duckdb.Error:
            found = run_tried(connection, shape.rules_try_sql or "")
        finally:
            connection.unregister("source")
        skip, hold, bad = (found[name].combine_chunks() for name in ("skip", "hold", "bad"))
        held = pc.or_(pc.is_valid(hold), pc.is_valid(bad))
        status = pc.if_else(pc.is_valid(skip), "skipped", pc.if_else(held, "held", none))
        reason = pc.coalesce(skip, hold, pc.if_else(pc.is_valid(bad), "rule_failed", none))
        detail = pc.if_else(pc.is_valid(skip), none, bad)
        warnings = found["warnings"].combine_chunks()
    if TROUBLE in rows.column_names:
        trouble = rows[TROUBLE].combine_chunks()
        broken = pc.is_valid(trouble)
        status = pc.if_else(broken, "held", status)
        reason = pc.if_else(broken, pc.replace_substring_regex(trouble, r"\|.*", ""), reason)
        detail = pc.if_else(broken, pc.replace_substring_regex(trouble, r"^[^|]*\|", ""), detail)
    return pa.table(
        {
            "_unit": rows["_unit"],
            "_raw": rows["_raw"],
            "status": status,
            "reason": reason,
            "detail": detail,
            "warnings": warnings,
        }
    )


def _explode(connection: duckdb.DuckDBPyConnection, sql: str, source: pa.Table) -> tuple[pa.Table, list[pa.Table]]:
    """Run a `rows:` query, and problems (unit, reason, detail) of the records that make it fail."""
    try:
        return _exploded(connection, sql, source), []
    except duckdb.Error:
        if source.num_rows < 2:
            detail = "the query in `rows:` fails on this record"
            columns = {"unit": source["_unit"], "reason": ["rows_failed"], "detail": [detail]}
            return _exploded(connection, sql, source.slice(0, 0)), [pa.table(columns)] if source.num_rows else []
    middle = source.num_rows // 2
    halves = [_explode(connection, sql, half) for half in (source.slice(0, middle), source.slice(middle))]
    return pa.concat_tables([rows for rows, _ in halves]), [one for _, found in halves for one in found]


def _exploded(connection: duckdb.DuckDBPyConnection, sql: str, source: pa.Table) -> pa.Table:
    """The query's rows; those of one unit are numbered in the order the query gives them."""
    connection.register("source", source)
    try:
        found = query(connection, sql)
    finally:
        connection.unregister("source")
    found = found.drop_columns([name for name in ("_n", "_raw") if name in found.column_names])
    connection.register("_found", found)
    try:
        numbered: pa.Table = query(
            connection,
            "SELECT * EXCLUDE (_at), row_number() OVER (PARTITION BY _unit ORDER BY _at) - 1 AS _n"
            " FROM (SELECT *, row_number() OVER () AS _at FROM _found) ORDER BY _at",
        )
    finally:
        connection.unregister("_found")
    return numbered


def _output(
    connection: duckdb.DuckDBPyConnection,
    output: OutputShape,
    number: int,
    source: pa.Table,
    earlier: Sequence[OutputShape],
    done: Sequence[pa.Table],
    resolver: Resolver,
) -> tuple[pa.Table, pa.Table | None]:
    names = ["base"]
    base = _beside(connection, source, earlier, done)
    if output.minted:
        base = _mint(connection, output, number, base, resolver)
    connection.register("base", base)
    try:
        for lookup, on in output.lookups:
            if run_tried(connection, f"SELECT 1 FROM base AS source WHERE TRY({on}) IS NOT NULL LIMIT 1").num_rows:
                resolver.load_lookup(lookup)
        for index, (flow, ref_output, on) in enumerate(output.refs):
            asked = run_tried(connection, f"SELECT DISTINCT TRY({on}) AS u FROM base AS source")["u"]
            found = resolver.target_keys(flow, ref_output, asked.combine_chunks().drop_null())
            # Under names that no source column has, so that an expression's `unit` stays the source's.
            connection.register(f"_ref{index}", found.rename_columns(["_unit_of", "_target_key"]))
            names.append(f"_ref{index}")
        try:
            shaped = _with_uuids(connection, output) or query(connection, output.sql)
        except duckdb.Error:
            shaped = run_tried(connection, output.try_sql)
        bad = shaped.filter(pc.is_valid(shaped["_problem"]))
        return shaped, _problems(connection, output, bad) if bad.num_rows else None
    finally:
        for name in names:
            connection.unregister(name)


def _with_uuids(connection: duckdb.DuckDBPyConnection, output: OutputShape) -> pa.Table | None:
    """The output with its uuids turned from text in one go; None where one of them needs DuckDB's cast."""
    if output.fast_sql is None:
        return None
    shaped = query(connection, output.fast_sql)
    for column in output.columns:
        if column.kind is Kind.UUID and pa.types.is_string(shaped[column.name].type):
            values = from_text(shaped[column.name])
            if values is None:
                return None
            shaped = shaped.set_column(shaped.column_names.index(column.name), column.name, values)
    return shaped


def _beside(
    connection: duckdb.DuckDBPyConnection,
    source: pa.Table,
    earlier: Sequence[OutputShape],
    done: Sequence[pa.Table],
) -> pa.Table:
    """Source rows with each earlier output's row of the same unit (same ordinal, else its first) as a struct."""
    if not earlier:
        return source
    joins, columns, names = [], [], ["_s"]
    connection.register("_s", source)
    for index, (output, table) in enumerate(zip(earlier, done, strict=True)):
        connection.register(f"_o{index}", as_duckdb(table, output.columns))
        names.append(f"_o{index}")
        struct = f"SELECT _unit, _n, {_struct(output)} AS v FROM _o{index}"
        joins.append(
            f"LEFT JOIN ({struct}) e{index} ON e{index}._unit = _s._unit AND e{index}._n = _s._n"
            f" LEFT JOIN ({struct}) f{index} ON f{index}._unit = _s._unit AND f{index}._n = 0"
        )
        columns.append(f"coalesce(e{index}.v, f{index}.v) AS {quote(output.name)}")
    try:
        found: pa.Table = query(connection, f"SELECT _s.*, {', '.join(columns)} FROM _s {' '.join(joins)}")
    finally:
        for name in names:
            connection.unregister(name)
    return found


def _mint(
    connection: duckdb.DuckDBPyConnection,
    output: OutputShape,
    number: int,
    base: pa.Table,
    resolver: Resolver,
) -> pa.Table:
    """Add _mint_<column>: the remembered value of each row, or a fresh one."""
    known = resolver.minted(pc.unique(base["_unit"]), number)
    for name in output.minted:
        fresh = pa.ExtensionArray.from_storage(pa.uuid(), resolver.ids(base.num_rows))
        table = base.append_column(f"_mint_{name}", fresh)
        connection.register("_b", table)
        connection.register("_m", known)
        try:
            base = query(
                connection,
                f"SELECT b.* REPLACE (coalesce(CAST(json_text(m.m, {literal(name)}) AS UUID),"
                f" b.{quote('_mint_' + name)}) AS {quote('_mint_' + name)})"
                " FROM _b b LEFT JOIN _m m ON m._unit = b._unit AND m._n = b._n",
            )
        finally:
            connection.unregister("_b")
            connection.unregister("_m")
    return base


def _problems(connection: duckdb.DuckDBPyConnection, output: OutputShape, bad: pa.Table) -> pa.Table:
    """unit, reason, detail of rows that cannot be written; the detail names column and class, never the value."""
    kinds = {column.name: column for column in output.columns}
    connection.register("_bad", bad.select(["_unit", "_n", "_problem"]))
    arms = " ".join(
        f"WHEN {literal('cast|' + name)} THEN {_value_class(f'TRY(CAST(({sql}) AS VARCHAR))')}"
        for name, sql in output.plain.items()
    )
    classes = f"CASE _problem {arms} END" if arms else "CAST(NULL AS VARCHAR)"
    try:
        rows = run_tried(
            connection,
            f"SELECT source._unit AS unit, _problem, {classes} AS class FROM _bad JOIN base AS source"
            " ON source._unit = _bad._unit AND source._n = _bad._n",
        )
    finally:
        connection.unregister("_bad")
    split = [problem.partition("|") for problem in rows["_problem"].to_pylist()]
    details = [
        f"{output.dataset}.{_explain(reason, kinds[name], value_class)}"
        for (reason, _, name), value_class in zip(split, rows["class"].to_pylist(), strict=True)
    ]
    return pa.table(
        {
            "unit": rows["unit"],
            "reason": pa.array([reason for reason, _, _ in split], pa.string()),
            "detail": pa.array(details, pa.string()),
        }
    )


def _value_class(text: str) -> str:
    """SQL for what kind of value a text is, without saying which."""
    return (
        f"CASE WHEN {text} IS NULL THEN 'a value that its expression refuses' WHEN {text} = '' THEN 'empty text'"
        f" WHEN regexp_full_match({text}, '[+-]?[0-9.eE+-]+') THEN 'a number of ' || length({text}) || ' characters'"
        f" ELSE 'a text of ' || length({text}) || ' characters' END"
    )


def _explain(reason: str, column: Column, value_class: str | None) -> str:
    native = column.native or column.kind
    return {
        "cast": f"{column.name}: {value_class or 'the value'} does not become {native}",
        "null": f"{column.name}: NOT NULL, and there is no value",
        "no_key": f"{column.name}: part of the key, and there is no value",
        "unstorable": f"{column.name}: holds the character U+0000, which {native} cannot store",
        "too_long": f"{column.name}: longer than {native} allows",
        "lookup_missing": f"{column.name}: the value is not in the lookup, or what it gives does not become {native}",
        "reference_missing": f"{column.name}: the unit it points at was not migrated",
        "choice": f"{column.name}: not one of {', '.join(column.choices or ())}",
    }[reason]


def _hold(units: pa.Table, outputs: Sequence[pa.Table], problems: pa.Table) -> tuple[pa.Table, list[pa.Table]]:
    """Hold every unit that has a problem (its first) and drop its rows from every output."""
    first = problems.group_by("unit", use_threads=False).aggregate([("reason", "first"), ("detail", "first")])
    at = pc.index_in(units["_unit"], first["unit"].combine_chunks())
    hit = pc.is_valid(at)
    changed = {
        "status": pc.if_else(hit, "held", units["status"]),
        "reason": pc.if_else(hit, first["reason_first"].combine_chunks().take(at), units["reason"]),
        "detail": pc.if_else(hit, first["detail_first"].combine_chunks().take(at), units["detail"]),
    }
    for name, column in changed.items():
        units = units.set_column(units.column_names.index(name), name, column)
    keep = first["unit"].combine_chunks()
    return units, [table.filter(pc.invert(pc.is_in(table["_unit"], keep))) for table in outputs]
