"""Compile: a flow against both live sides, before anything runs.

It finds what can be known beforehand (unknown names, impossible casts, NOT NULL without a source, keys without
a unique index) and raises MappingError at its place.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import duckdb
import pyarrow as pa

from resettle.batch import Schema
from resettle.engine.fingerprint import join_key
from resettle.engine.lookups import Lookups
from resettle.engine.outputs import compile_output, snake
from resettle.engine.statements import FlowShape, OutputShape, rules_sql, struct_sql, with_row_key
from resettle.errors import MappingError
from resettle.mapping.columns import quote
from resettle.mapping.load import Migration, suggest
from resettle.mapping.sql import Parsed, SqlError, first_line, meant, parse_expression, parse_query

OURS = {
    "_unit": pa.string(),
    "_raw": pa.int64(),
    "_n": pa.int64(),
    "migration_time": pa.timestamp("us", tz="UTC"),
}

_LACKING = re.compile(r'Referenced column "([^"]+)" not found|does not have a column named "([^"]+)"')
"""What DuckDB says where a query names a column that its source has not."""


class Compiler:
    """Compiles one flow; ``connection`` has the functions, and the ``lookups``."""

    def __init__(
        self,
        migration: Migration,
        name: str,
        connection: duckdb.DuckDBPyConnection,
        source: Schema,
        source_types: pa.Schema,
        target_schema: Callable[[str, str], Schema],
        lookups: Lookups,
    ) -> None:
        self.migration, self.name, self.flow = migration, name, migration.file.flows[name]
        self.db, self.source, self.target_schema = connection, source, target_schema
        self._lookups = lookups
        self._functions: set[str] = set()
        self._asked: set[str] = set()
        self._used: dict[str, None] = {}
        self._types = source_types
        self._previous: dict[str, OutputShape] = {}
        self._beside: set[str] = set()
        self._extra: frozenset[str] = frozenset()
        self._unseen: dict[str, tuple[int, tuple[str, ...]]] = {}
        self._rows_sql: str | None = None
        self._ours: list[str] = []

    def compile(self) -> FlowShape:
        """Raises MappingError with the place of the first thing that cannot work."""
        flow = self.flow
        units = [flow.unit] if isinstance(flow.unit, str) else flow.unit
        at = ("flows", self.name)
        parsed = [self.expression(text, *at, "unit") for text in units]
        unit_sql = join_key([f"CAST({one.sql} AS VARCHAR)" for one in parsed])
        rules = {
            (kind, rule): self.expression(text, *at, kind, rule)
            for kind in ("skip", "hold", "warn")
            for rule, text in getattr(flow, kind).items()
        }
        self._relation(None, ours=[])
        for one in parsed:
            self.bind(one, *at, "unit")
        self._relation(None, ours=["_unit"])
        label = self._label(*at)
        self._relation(None)
        for rule, one in rules.items():
            self.bind(one, *at, *rule)
        rows_sql = self._query(flow.rows, *at, "rows") if flow.rows else None
        row_rules = self._row_rules(rows_sql)
        row_key = self._row_key(rows_sql, *at)
        outputs = self._outputs(rows_sql)
        names = self.source.names
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
            with_row_key(rules_sql(row_rules, tried=False), row_key),
            with_row_key(rules_sql(row_rules, tried=True), row_key),
            tuple(self._lookups.needed(self._asked.union(self._lookups.asked((), self._functions)))),
            label=label,
            unmapped=unmapped,
            unseen=tuple(name for name in self._used if name not in names and name not in OURS),
            open=self.source.open,
        )

    def _needs(self, everything: bool) -> list[str]:
        """A `rows:` query may say `*`, so it gets every column; of those that differ in case alone, the mapped one."""
        known = self.source.names
        one_of = {name.lower(): name for name in (*reversed(known), *(name for name in self._used if name in known))}
        return [
            *(name for name in known if name in self._used or (everything and one_of[name.lower()] == name)),
            *(name for name in self._used if name not in known and name not in OURS),
        ]

    def _row_rules(self, rows_sql: str | None) -> dict[tuple[str, str], Parsed]:
        """Which rows are left out: skipped for good, or (as `hold`) waiting."""
        rules = {
            (kind, name): (text, ("flows", self.name, key, name))
            for kind, key in (("skip", "skip_rows"), ("hold", "partial_rows"), ("warn", "warn_rows"))
            for name, text in getattr(self.flow, key).items()
        }
        for _, place in rules.values():
            if rows_sql is None:
                message = f"`{place[2]}:` is about the rows of a `rows:` query, and there is none"
                raise MappingError(self.migration.place(*place[:3]), message, hint="`skip:` is about whole records")
            self._relation(rows_sql)
        parsed = {rule: self.expression(text, *place) for rule, (text, place) in rules.items()}
        for rule, one in parsed.items():
            self.bind(one, *rules[rule][1])
        return parsed

    def _label(self, *at: str) -> Parsed | None:
        """What a record is called for people. The lookups that it needs are loaded only where it is shown."""
        if self.flow.label is None:
            return None
        functions = set(self._functions)
        parsed = self.expression(self.flow.label, *at, "label")
        self._functions = functions
        self.bind(parsed, *at, "label")
        return parsed

    def _row_key(self, rows_sql: str | None, *at: str) -> Parsed | None:
        if self.flow.row_key is None:
            return None
        if rows_sql is None:
            message = "`row_key:` is about the rows of a `rows:` query, and there is none"
            raise MappingError(self.migration.place(*at, "row_key"), message)
        self._relation(rows_sql)
        parsed = self.expression(self.flow.row_key, *at, "row_key")
        self.bind(parsed, *at, "row_key")
        return parsed

    def _outputs(self, rows_sql: str | None) -> list[OutputShape]:
        outputs: list[OutputShape] = []
        for name, output in self.flow.all_outputs.items():
            at = ("flows", self.name, *(() if self.flow.into else ("outputs", name)))
            self._relation(rows_sql)
            if output.rows:
                self._relation(self._query(output.rows, *at, "rows"))
            self._beside = set()
            made = compile_output(self, name, output, at)
            self._asked |= set(self._lookups.asked(made.lookups, ()))  # of the rows that this output sees
            self._check_patches(made, outputs, *at)
            own = (self._rows_sql or "") if output.rows else ""
            outputs.append(replace(made, rows_sql=own, beside=frozenset(self._beside)))
            self._previous = {done.name: done for done in outputs}
        return outputs

    def _check_patches(self, made: OutputShape, earlier: Sequence[OutputShape], *at: str) -> None:
        """Two outputs are decided on the same rows: the second would write over what the first has set."""
        for other in earlier:
            both = _patched(made) & _patched(other) if other.place == made.place else set()
            if both:
                raise MappingError(
                    self.migration.place(*at),
                    f"`{other.name}` and `{made.name}` both patch `{min(both)}` of `{made.place}`",
                    hint="put the second into a flow of its own behind this one, or both into one by a `rows:` query",
                )

    # -- names and types ---------------------------------------------------------------------------

    def expression(self, text: str, *at: str) -> Parsed:
        try:
            parsed = parse_expression(text)
        except SqlError as error:
            raise MappingError(self.migration.expression_place(*at, at=error.position), f"bad SQL: {error}") from None
        self._functions |= parsed.functions
        for qualifier, name, position in parsed.columns:
            self._beside |= {qualifier or name} & self._previous.keys()
            if qualifier in (None, "source") or qualifier not in self._previous:
                self._use(qualifier if qualifier not in (None, "source") else name, position, *at)
        return parsed

    def use(self, names: Iterable[str], *at: str) -> None:
        """These columns of the source are mapped."""
        for name in names:
            twin = next((one for one in self._used if one != name and one.lower() == name.lower()), None)
            if twin is not None:
                raise MappingError(
                    self.migration.place(*at),
                    f"`{twin}` and `{name}` of `{self.flow.from_}` differ in case alone, which SQL does not tell apart",
                    hint="map one of them, or read a view in which the other has another name",
                )
            self._used[name] = None

    def _use(self, name: str, position: int, *at: str) -> None:
        if name in OURS or name in self._extra:
            return
        known = meant(name, self.source.names)
        if known is not None:
            self.use([known], *at)
            return
        if not self.source.open:
            raise self._unknown(name, position, *at, hint=suggest(name, self.source.names))
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
            if twins and snake(twins[0]) != snake(name):
                raise self._unknown(name, position, *at, hint=f"did you mean `{twins[0]}`?")

    def _query(self, text: str, *at: str) -> str:
        sql = self.migration.sql_text(text)
        try:
            parsed = parse_query(sql)
        except SqlError as error:
            raise MappingError(self.migration.place(*at), f"bad SQL: {error}") from None
        self._functions |= parsed.functions
        named = [meant(name, self.source.names) for _, name, _ in parsed.columns]
        self.use([name for name in named if name is not None], *at)
        return parsed.sql

    def _relation(self, rows_sql: str | None, ours: Iterable[str] = tuple(OURS)) -> None:
        """Make `_probe`, an empty relation with the names and types that expressions see, ``ours`` among them."""
        self._rows_sql, self._ours = rows_sql, list(ours)
        fields = [(name, self._type(name)) for name in self._needs(everything=True)]
        fields += [(name, OURS[name]) for name in self._ours]
        self.db.register("source", pa.schema(fields).empty_table())
        structs = "".join(f", {struct_sql(done, null=True)} AS {quote(name)}" for name, done in self._previous.items())
        inner = f"({rows_sql})" if rows_sql else "source"
        try:
            self.db.execute(f"CREATE OR REPLACE TEMP VIEW _probe AS SELECT *{structs} FROM {inner}")
            names = [row[0] for row in self.db.execute("DESCRIBE _probe").fetchall()]
        except duckdb.Error as error:
            at = ("flows", self.name, "rows")
            lacking = _LACKING.search(str(error))
            name = lacking and (lacking[1] or lacking[2])
            if self.source.open and name and name not in self._used:
                self._use(name, 0, *at)
                self._relation(rows_sql, self._ours)
                return
            raise MappingError(self.migration.place(*at), f"bad SQL: {first_line(error)}") from None
        if rows_sql and "_unit" not in names:
            raise MappingError(
                self.migration.place("flows", self.name, "rows"),
                "a `rows:` query must keep the column _unit",
                hint="SELECT *, ... FROM source, or name _unit",
            )
        self._extra = frozenset(names) - {column.name for column in self.source.columns}

    def _type(self, name: str) -> pa.DataType:
        index = self._types.get_field_index(name)
        return self._types.field(index).type if index >= 0 else pa.string()

    def bind(self, parsed: Parsed, *at: str) -> str:
        """The DuckDB type of an expression over the probe relation. Raises MappingError at its place."""
        self._widen(parsed)
        try:
            return str(self.db.execute(f"DESCRIBE SELECT {parsed.sql} FROM _probe AS source").fetchall()[0][1])
        except duckdb.Error as error:
            raise MappingError(self.migration.place(*at), f"bad SQL: {first_line(error)}") from None

    def _widen(self, parsed: Parsed) -> None:
        """Names of an open source that no sample held become null text columns of the probe."""
        have = {row[0].lower() for row in self.db.execute("DESCRIBE _probe").fetchall()}
        new = [name for q, name, _ in parsed.columns if q in (None, "source") and name.lower() not in have]
        if new and self.source.open:
            self._relation(self._rows_sql, self._ours)


def _patched(output: OutputShape) -> set[str]:
    """The columns that a patch changes."""
    return {*output.names, *output.edits} - {*output.key_names} if output.patch else set()
