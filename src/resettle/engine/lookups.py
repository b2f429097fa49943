"""Lookups: tables that people or the target own, for one flow's expressions, and a digest of what they say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import duckdb
import pyarrow as pa
import pyarrow.csv

from resettle.connector import Source
from resettle.errors import MappingError
from resettle.mapping.columns import quote
from resettle.mapping.functions import query, register, relations
from resettle.mapping.load import Migration, suggest
from resettle.mapping.sql import Parsed, SqlError, first_line, meant, parse_expression
from resettle.middleware.readahead import batches, plainly

PREFIX = "lookup_"
"""Before a lookup's name, when it is called as a function."""
ROWS = 50_000


class Sources(Protocol):
    """What lookups ask of connections.py."""

    def source(self, name: str) -> Source: ...


class Lookups:
    """The lookups of one flow in its DuckDB: as a table _lookup_NAME(_k, _v) to join, as a function lookup_NAME(x).

    Both are empty until `load`.
    """

    def __init__(self, database: duckdb.DuckDBPyConnection, migration: Migration, connections: Sources) -> None:
        self._db, self._migration, self._connections = database, migration, connections
        self._values: dict[str, dict[str, str]] = {}
        for name in migration.file.lookups:
            database.execute(f"CREATE TABLE {quote('_lookup_' + name)} (_k VARCHAR, _v VARCHAR)")
            self._values[name] = {}
            register(database, PREFIX + name, self._function(name), ["VARCHAR"], "VARCHAR")

    def asked(self, on: Iterable[tuple[str, str]], functions: Iterable[str]) -> list[str]:
        """Which lookups can give a value: those called as functions, and those whose ``on`` is not always null.

        ``on``: lookup and expression over `_probe`, the relation that expressions see. A variable of the
        migration may well have decided that an expression is null, and a lookup can be a whole table.
        """
        called = self._called(functions)
        joined = {name for name, expression in on if name not in called and self._may_ask(expression)}
        return sorted(called | joined)

    def needed(self, names: Iterable[str]) -> list[str]:
        """These lookups, each after those that its own key and value ask. Raises MappingError where one asks itself."""
        ordered: dict[str, None] = {}

        def add(name: str, askers: tuple[str, ...]) -> None:
            if name in askers:
                raise MappingError(self._migration.place("lookups", name), f"lookup `{name}` asks itself")
            functions = {one for at in ("key", "value") for one in self._expression(name, at).functions}
            for other in sorted(self._called(functions)):
                add(other, (*askers, name))
            ordered[name] = None

        for name in sorted(names):
            add(name, ())
        return list(ordered)

    def _called(self, functions: Iterable[str]) -> set[str]:
        own = {f"{PREFIX}{name}".lower(): name for name in self._values}  # a function's name has no case
        return {own[name.lower()] for name in functions if name.lower() in own}

    def load(self, names: Iterable[str]) -> Mapping[str, str]:
        """Fill these lookups and those that they need; a digest of what each says. Raises MappingError if a key has two
        values."""
        digests = {}
        for name in self.needed(names):
            table, pick = quote(f"_lookup_{name}"), self._migration.file.lookups[name].pick
            for rows in self._rows(name):
                with relations(self._db, _l=rows):
                    self._db.execute(f"INSERT INTO {table} SELECT DISTINCT k, v FROM _l WHERE k IS NOT NULL")
            chosen = f"_k, {pick}(_v) AS _v FROM {table} GROUP BY _k" if pick else f"DISTINCT _k, _v FROM {table}"
            self._db.execute(f"CREATE OR REPLACE TABLE {table} AS SELECT {chosen}")
            count, keys, digest = self._db.execute(
                f"SELECT count(*), count(DISTINCT _k), coalesce(bit_xor(hash(_k, _v)), 0) FROM {table}"
            ).fetchall()[0]
            if count != keys:
                raise MappingError(
                    self._migration.place("lookups", name),
                    f"lookup `{name}`: {count - keys} keys have several values",
                    hint="say which one counts: `pick: max` or `pick: min`",
                )
            digests[name] = f"{count}:{digest}"
            pairs = query(self._db, f"SELECT _k, _v FROM {table}")
            self._values[name].update(zip(pairs["_k"].to_pylist(), pairs["_v"].to_pylist(), strict=True))
        return digests

    def _function(self, name: str):  # type: ignore[no-untyped-def]
        values = self._values[name]

        def look_up(keys: pa.ChunkedArray) -> pa.Array:
            return pa.array([values.get(key) for key in keys.to_pylist()], pa.string())

        return look_up

    def _may_ask(self, expression: str, relation: str = "_probe") -> bool:
        plan = self._db.execute(f"EXPLAIN (FORMAT json) SELECT {expression} AS v FROM {relation} AS source").fetchall()
        if '"Projections": ""' not in plan[0][1]:
            return True  # some column is read
        one_row = f"(SELECT * FROM (SELECT 1) LEFT JOIN {relation} ON true)"
        constant = self._db.execute(f"SELECT TRY({expression}) IS NULL FROM {one_row} AS source").fetchall()
        return not constant[0][0]

    def _rows(self, name: str) -> Iterator[pa.Table]:
        """The lookup's keys and values: k and v, as text."""
        lookup = self._migration.file.lookups[name]
        key, value = (self._expression(name, at) for at in ("key", "value"))
        names = list(dict.fromkeys(column for _, column, _ in (*key.columns, *value.columns)))
        with relations(self._db, _rows=pa.schema([(column, pa.string()) for column in names]).empty_table()):
            wanted = not names or self._may_ask(key.sql, "_rows")
        if not wanted:
            return  # a variable of the migration has decided that every key is null
        for rows in self._batches(name, names):
            try:
                yield query(
                    self._db,
                    f"SELECT CAST({key.sql} AS VARCHAR) AS k, CAST({value.sql} AS VARCHAR) AS v FROM source",
                    source=rows,
                )
            except duckdb.Error as error:
                place = self._migration.place("lookups", name)
                said = f"lookup `{name}` from {lookup.from_ or lookup.file}: {first_line(error)}"
                raise MappingError(place, said) from None

    def _batches(self, name: str, names: list[str]) -> Iterator[pa.Table]:
        lookup = self._migration.file.lookups[name]
        if lookup.file:
            path = self._migration.root / lookup.file
            text = pa.csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False, null_values=[""])
            text.column_types = {column: pa.string() for column in pa.csv.read_csv(path).column_names}
            table = pa.csv.read_csv(path, convert_options=text)
            for column in names:
                if meant(column, table.column_names) is None:
                    place = self._migration.place("lookups", name)
                    raise MappingError(place, f"{lookup.file} has no column `{column}`")
            yield table
            return
        connection, _, dataset = (lookup.from_ or "").partition(".")
        source = self._connections.source(connection)
        schema = source.schema(dataset)
        spelt = [meant(column, schema.names) for column in names]
        for column, there in zip(names, spelt, strict=True):
            if there is None and not schema.open:
                place, hint = self._migration.place("lookups", name), suggest(column, schema.names)
                raise MappingError(place, f"{lookup.from_} has no column `{column}`", hint=hint)
        wanted = [there or column for column, there in zip(names, spelt, strict=True)]
        for batch in batches(source, dataset, rows=ROWS, workers=1, look=plainly):
            yield batch.decode(batch.table, wanted)

    def _expression(self, name: str, at: str) -> Parsed:
        try:
            return parse_expression(getattr(self._migration.file.lookups[name], at))
        except SqlError as error:
            place = self._migration.place("lookups", name, at)
            raise MappingError(place, f"bad SQL: {error}") from None
