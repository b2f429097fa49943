"""Statements: what a compiled flow is, and the SQL that shapes its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from resettle.batch import Column, Schema
from resettle.engine.fingerprint import fingerprint_sql, key_sql
from resettle.mapping.columns import DUCKDB, Cast, literal, quote
from resettle.mapping.model import ColumnForm, Flow, Lookup, Ref
from resettle.mapping.sql import Parsed


@dataclass(frozen=True)
class OutputShape:
    """One output, compiled. ``columns`` are the target columns that it owns, in the declaration's order."""

    name: str
    connection: str
    dataset: str
    schema: Schema
    key: tuple[Column, ...]
    """What a row goes by in the ledger: its key, or under `match:` the target's primary key where that is mapped."""
    columns: tuple[Column, ...]
    statements: Statements
    minted: tuple[str, ...] = ()
    refs: tuple[tuple[str, str | None, str], ...] = ()
    """(flow, output, expression) of every reference, in the order of the joins _ref0, _ref1, ..."""
    lookups: tuple[tuple[str, str], ...] = ()
    """(lookup, expression) of every lookup that is joined."""
    plain: Mapping[str, str] = field(default_factory=dict)
    """Each column's expression before its cast, to say what class of value did not become the column's."""
    alternates: tuple[str, ...] = ()
    """Key columns that have an `on_duplicate_key` form, delivered as _alt_<name>."""
    rows_sql: str = ""
    """The SELECT of its own `rows:`, if it has one."""
    beside: frozenset[str] = frozenset()
    """Earlier outputs whose rows its expressions name."""
    match: tuple[Column, ...] = ()
    """The natural key of a `match:` output."""
    reuse_rules: Mapping[str, Parsed] = field(default_factory=dict)
    """`hold_reuse:`, over the target's columns."""
    patch: bool = False
    edits: tuple[str, ...] = ()
    """JSON columns of a `patch:` output, delivered as _at_<name>, _set_<name> and _expect_<name>."""
    once: tuple[Column, ...] = ()
    """Columns that are written when the row is created, and never compared."""
    updates: Mapping[str, Parsed] = field(default_factory=dict)
    """Columns that get a value with each update: SQL, already cast, over ``columns`` and `target`."""
    counts: Mapping[str, Parsed] = field(default_factory=dict)
    body: tuple[str, str] | None = None
    """Connection and dataset of the files whose bytes are copied; each row's key there is delivered as _body."""

    @property
    def place(self) -> str:
        return f"{self.connection}.{self.dataset}"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def key_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.key)

    @property
    def written(self) -> tuple[Column, ...]:
        """The columns of a new row."""
        return (*self.columns, *self.once)

    @property
    def settles(self) -> bool:
        """Whether rows are found by one key and go by another, which those that are reused have already."""
        return bool(self.match) and self.match != self.key

    @property
    def ahead(self) -> bool:
        """Whether its rows are known before they are settled: they need no earlier output and nothing remembered."""
        return self.settles and not self.beside and not self.refs


@dataclass(frozen=True)
class Statements:
    """The SELECT of one output over `base`: as it is, fast, and with every expression tried for itself."""

    sql: str
    fast: str | None
    """Like ``sql`` with uuids left as text, which `uuids.from_text` turns at once; None where there are none."""
    tried: str
    when: str | None = None
    """`when:` over `base`: _keep, true for this output's rows; _bad where the condition fails (tried only)."""
    when_tried: str | None = None


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
    row_rules_sql: str | None = None
    row_rules_try_sql: str | None = None
    lookups: tuple[str, ...] = ()
    """Lookups that can give some expression a value."""
    label: Parsed | None = None
    unmapped: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    """Names used that an open source's sample did not hold."""
    open: bool = False
    """Whether the source has no catalogue, so that records may hold names that nobody has seen."""

    @property
    def late(self) -> bool:
        """Whether shaping needs what is there at the moment of writing."""
        return any(output.settles for output in self.outputs)

    @property
    def looks(self) -> bool:
        """Whether every run looks at every record: patches and files are put right where they are not as they were."""
        return any(output.patch or output.body for output in self.outputs)


def struct_sql(output: OutputShape, *, null: bool = False) -> str:
    """An earlier output's row as one struct, so that `object.key` reads its column."""
    return struct_of(output.written, null=null)


def struct_of(columns: Sequence[Column], *, null: bool = False) -> str:
    """Columns as one struct, or one of their types with nothing in it."""
    fields = ", ".join(
        f"{quote(c.name)} := " + (f"CAST(NULL AS {DUCKDB[c.kind]})" if null else quote(c.name)) for c in columns
    )
    return f"struct_pack({fields})"


def rules_sql(rules: Mapping[tuple[str, str], Parsed], *, tried: bool) -> str | None:
    """The SELECT that names, for each row of `source`, the first skip and hold rule that is true, and all warnings."""
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


def with_row_key(rules: str | None, key: Parsed | None) -> str | None:
    """The SELECT of rules about rows, which also names each row."""
    if rules is None or key is None:
        return rules
    return f"{rules.removesuffix(' FROM source')}, CAST(TRY({key.sql}) AS VARCHAR) AS row FROM source"


def missing_reasons(forms: Mapping[str, ColumnForm]) -> dict[str, str]:
    """Why a column's value can be missing, other than by its cast."""
    return {
        name: "lookup_missing" if isinstance(form, Lookup) else "reference_missing"
        for name, form in forms.items()
        if isinstance(form, Lookup | Ref)
    }


def statements(
    values: Mapping[str, tuple[Column, Cast]],
    joins: Sequence[tuple[str, str]],
    key: Sequence[Column],
    extras: Mapping[str, str],
    owned: Sequence[Column],
    reasons: Mapping[str, str],
    when: Parsed | None,
) -> Statements:
    """The SELECTs of one output.

    ``values`` are the target columns with their casts, ``extras`` further columns as they are, ``owned`` what the
    fingerprint is made of, ``reasons`` why a column's value can be missing other than by its cast.
    """
    texts = {name: (column, replace(made, sql=made.text or made.sql)) for name, (column, made) in values.items()}
    return Statements(
        _output_sql(values, joins, key, extras, owned, {}, tried=False),
        None if texts == values else _output_sql(texts, joins, key, extras, owned, {}, tried=False),
        _output_sql(values, joins, key, extras, owned, reasons, tried=True),
        f"SELECT coalesce(CAST(({when.sql}) AS BOOLEAN), false) AS _keep, false AS _bad FROM base AS source"
        if when
        else None,
        f"SELECT coalesce(TRY(CAST(({when.sql}) AS BOOLEAN)), false) AS _keep,"
        f" TRY((CAST(({when.sql}) AS BOOLEAN)) IS NULL) IS NULL AS _bad FROM base AS source"
        if when
        else None,
    )


def _output_sql(
    values: Mapping[str, tuple[Column, Cast]],
    joins: Sequence[tuple[str, str]],
    key: Sequence[Column],
    extras: Mapping[str, str],
    owned: Sequence[Column],
    reasons: Mapping[str, str],
    *,
    tried: bool,
) -> str:
    """The SELECT of one output over the relation `base` (source rows with earlier outputs beside them)."""

    def value(sql: str) -> str:
        return f"TRY({sql})" if tried else sql

    columns = [f"{value(made.sql)} AS {quote(name)}" for name, (_, made) in values.items()]
    columns += [f"{value(sql)} AS {quote(name)}" for name, sql in extras.items()]
    arms = [
        f"WHEN {check.sql} THEN {literal(f'{check.reason}|{name}')}"
        for name, (_, made) in values.items()
        for check in made.checks
    ]
    arms += [f"WHEN {quote(column.name)} IS NULL THEN {literal('no_key|' + column.name)}" for column in key]
    bad = "CAST(NULL AS VARCHAR) AS _bad"
    if tried:
        sqls = {**{name: made.sql for name, (_, made) in values.items()}, **extras}
        tries = [
            f"WHEN TRY(({sql}) IS NULL) IS NULL THEN {literal(reasons.get(name, 'cast') + '|' + name)}"
            for name, sql in sqls.items()
        ]
        bad = f"CASE {' '.join(tries)} END AS _bad"
    problem = f"coalesce(_bad, CASE {' '.join(arms)} END)" if arms else "_bad"
    joined = " ".join(f"LEFT JOIN {table} = {value(on)}" for table, on in joins)
    picked = ", ".join(quote(name) for name in [*values, *extras])
    return (
        f"SELECT _unit, _n, {picked}, {problem} AS _problem, {key_sql(key)} AS _key, {fingerprint_sql(owned)} AS _fp"
        f" FROM (SELECT source._unit, source._n, {', '.join(columns)}, {bad} FROM base AS source {joined})"
    )
