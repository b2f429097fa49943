"""One flow in one run: source, targets, compiled shape and feed put together, for plan, apply and verify."""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple, Protocol

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import Column, Schema
from resettle.connector import Batching, Concurrent, Remembering, Source, Spelling, Target
from resettle.engine.balance import Counts
from resettle.engine.bodies import Copier, copier
from resettle.engine.compile import Compiler
from resettle.engine.count import summary_relation
from resettle.engine.decision import Foreseen
from resettle.engine.feed import Feed, Prepared
from resettle.engine.lookups import Lookups
from resettle.engine.shape import Ids, Resolver
from resettle.engine.spelling import Spelt
from resettle.engine.statements import FlowShape, OutputShape
from resettle.errors import ConfigError, MappingError, ResettleError
from resettle.ledger.ledger import Ledger
from resettle.mapping.columns import quote
from resettle.mapping.functions import connect
from resettle.mapping.load import Migration
from resettle.mapping.model import Ref, constant_of
from resettle.mapping.sql import Parsed, SqlError, first_line, meant, parse_expression
from resettle.memory import trimmed
from resettle.middleware.readahead import Ahead, batches

SAMPLE_ROWS = 1000
BATCH = 20_000
"""Records in one transaction, where neither the user nor the target says how many."""
FILES = 500
"""Records of a flow that copies files in one transaction, at most."""
COPIES = 10
"""Files copied at once, where nobody says how many."""


class Connections(Protocol):
    """What the engine asks of connections.py."""

    def source(self, name: str) -> Source: ...

    def target(self, name: str) -> Target: ...


def fresh_uuids(count: int) -> pa.Array:
    """Random version 4 uuids, in ascending order: so a batch goes through an index of them once, not here and there."""
    values = np.frombuffer(secrets.token_bytes(16 * count), np.uint8).reshape(count, 16).copy()
    values[:, 6] = values[:, 6] & 0x0F | 0x40
    values[:, 8] = values[:, 8] & 0x3F | 0x80
    values = values[np.argsort(values[:, :8].copy().view(">u8").reshape(-1), kind="stable")]
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), count, [None, pa.py_buffer(values.tobytes())])


Progress = Callable[[str, str, Counts], None]
"""``progress(flow, state, counts)``: state is one word: reading, writing, waiting, done."""


@dataclass(frozen=True)
class Options:
    """How much of a migration to run, and how; the same for every phase."""

    select: tuple[str, ...] = ()
    where: str | None = None
    limit: int | None = None
    batch_size: int | None = None
    """Records in one transaction. None: what the flow's targets say, else `BATCH`."""
    workers: int = 2
    concurrency: int | None = None
    """Files copied at once, and requests to an API at a time. None: `COPIES`, and what each connection says."""
    fresh: bool = False
    """Do not trust remembered hashes: decode and compare everything."""
    show_values: bool = False
    only: Mapping[str, list[str]] | None = None
    """Just these units of these flows (for replaying held ones)."""
    progress: Progress = lambda flow, state, counts: None
    stop: threading.Event = field(default_factory=threading.Event)
    ids: Ids = fresh_uuids

    def __post_init__(self) -> None:
        if self.concurrency is not None and self.concurrency < 1:
            raise ConfigError(f"concurrency: {self.concurrency} is less than 1")

    @property
    def batch(self) -> int:
        """Records in one batch, where no target is asked."""
        return self.batch_size or BATCH

    def as_json(self) -> dict[str, object]:
        plain = {"select": list(self.select), "where": self.where, "limit": self.limit, "fresh": self.fresh}
        return {key: value for key, value in plain.items() if value}


@dataclass(frozen=True)
class FlowRun:
    """A flow ready to run. ``digest`` changes whenever what it makes of a record could change."""

    name: str
    shape: FlowShape
    digest: str
    source: Source
    dataset: str
    targets: Mapping[str, Target]
    feed: Feed
    options: Options
    batch: int
    """Records in one batch."""
    copiers: Mapping[str, Copier] = field(default_factory=dict)
    """How each output with a body gets its files."""

    @property
    def rows(self) -> int:
        """Records in one transaction: few where files are copied first, or nothing would point at them for hours."""
        files = any(output.body for output in self.shape.outputs)
        return min(self.batch, FILES) if files else self.batch

    @contextmanager
    def prepared(self, *, ahead: bool = True, rows: int | None = None) -> Iterator[Iterator[Prepared]]:
        """Batches read and decoded in ``workers`` threads and shaped in another, while this one writes.

        Without ``ahead`` this one prepares them too, as and when it asks for them.
        """
        if rows is not None:
            self.feed.gather = min(self.feed.gather, rows)
        read = batches(
            self.source,
            self.dataset,
            rows=rows or self.batch,
            workers=self.options.workers,
            limit=self.options.limit,
            look=self.feed.look,
            heavy=lambda looked: looked.rows.num_rows > 0,
        )
        if not ahead:
            with closing(read):
                yield trimmed(map(self.feed.prepare, read))
            return
        with Ahead(map(self.feed.prepare, read), depth=1, heavy=lambda prepared: len(prepared) > 0) as batches_ahead:
            yield trimmed(batches_ahead)


@contextmanager
def remembering(targets: Mapping[str, Target]) -> Iterator[None]:
    """Until the end of a run one listing may answer for many batches, where a target offers that."""
    with ExitStack() as stack:
        for target in targets.values():
            if isinstance(target, Remembering):
                stack.enter_context(target.remembering())
        yield


def selected(migration: Migration, options: Options) -> list[str]:
    """The flows to run, in the declaration's order. Raises ConfigError for a name that is none."""
    from resettle.mapping.load import suggest

    for name in options.select:
        if name not in migration.file.flows:
            raise ConfigError(f"no flow `{name}`", hint=suggest(name, migration.file.flows))
    return [name for name in migration.file.flows if not options.select or name in options.select]


def referenced(migration: Migration) -> frozenset[str]:
    """Flows whose target keys others look up."""
    return frozenset(
        form.ref.partition(".")[0]
        for flow in migration.file.flows.values()
        for output in flow.all_outputs.values()
        if isinstance(output.columns, dict)
        for form in output.columns.values()
        if isinstance(form, Ref)
    )


def foresee(migration: Migration, connections: Connections, flows: Sequence[str]) -> Foreseen:
    """Nothing foreseen yet, of a run of these flows."""
    pointed = set()
    for output in (output for name in flows for output in migration.file.flows[name].all_outputs.values()):
        connection, _, dataset = output.into.partition(".")
        with suppress(ConfigError):  # of a dataset that is not there its flow tells when it is compiled
            for key in connections.target(connection).schema(dataset).foreign_keys:
                pointed.add(((connection, key.target), tuple(sorted(key.target_columns))))
    return Foreseen(referenced=referenced(migration), pointed=frozenset(pointed))


class Compiled(NamedTuple):
    """A flow's shape, and the DuckDB and the lookups that its expressions use."""

    shape: FlowShape
    database: duckdb.DuckDBPyConnection
    lookups: Lookups


def compile_flow(migration: Migration, name: str, connections: Connections) -> Compiled:
    """Compile a flow against both live sides. Raises MappingError."""
    flow = migration.file.flows[name]
    connection_name, _, dataset = flow.from_.partition(".")
    source = connections.source(connection_name)
    schema = source.schema(dataset)
    database = connect(migration.functions_file)
    lookups = Lookups(database, migration, connections)

    def target_schema(target: str, target_dataset: str) -> Schema:
        return connections.target(target).schema(target_dataset)

    compiler = Compiler(migration, name, database, schema, source_types(source, schema), target_schema, lookups)
    shape = compiler.compile()
    _check_constants(migration, shape, connections)
    _check_summary(migration, shape, database)
    return Compiled(shape, database, lookups)


def open_flow(
    migration: Migration,
    name: str,
    connections: Connections,
    ledger: Ledger,
    foreseen: Foreseen,
    started_at: datetime,
    options: Options,
    compiled: Compiled | None = None,
) -> FlowRun:
    """Everything of a flow, opened, and compiled if it is not yet: then it may raise MappingError."""
    shape, database, lookups = compiled or compile_flow(migration, name, connections)
    _check_place(migration, shape, ledger)
    connection_name, _, dataset = migration.file.flows[name].from_.partition(".")
    where = _where(options.where, shape, database)  # before lookups take the place of the compiler's `source`
    said = lookups.load(shape.lookups)
    if where:
        lookups.load(set(lookups.asked([], where.functions)) - set(said))
    targets = {output.connection: connections.target(output.connection) for output in shape.outputs}
    liked = (target.batch_size if isinstance(target, Batching) else BATCH for target in targets.values())
    batch = options.batch_size or min(liked, default=BATCH)
    digest = hashlib.sha256(json.dumps([migration.flow_digest(name), dict(said)]).encode()).hexdigest()
    feed = Feed(
        shape,
        ledger,
        Resolver(_target_keys(migration, ledger, foreseen), options.ids, spelt=_spelling(targets)),
        database,
        digest=digest,
        started_at=started_at,
        where=where,
        only=None if options.only is None else pa.array(options.only.get(name, []), pa.string()),
        fresh=options.fresh,
        gather=max(batch // 2, 1),
    )
    for target in targets.values():
        if options.concurrency and isinstance(target, Concurrent):
            target.concurrency = options.concurrency
    at_once = options.concurrency or COPIES
    copiers = {
        output.name: copier(connections, output.body, targets[output.connection], output.dataset, at_once)
        for output in shape.outputs
        if output.body
    }
    source = connections.source(connection_name)
    return FlowRun(name, shape, digest, source, dataset, targets, feed, options, batch, copiers)


def _check_place(migration: Migration, shape: FlowShape, ledger: Ledger) -> None:
    """Raise MappingError where an output moved to another dataset or key: the id map speaks of other rows."""
    numbers = ledger.outputs(shape.name)
    for output in shape.outputs:
        before = ledger.place(shape.name, numbers[output.name]) if output.name in numbers else None
        if before is not None and before != (output.place, output.key_names):
            raise MappingError(
                migration.place("flows", shape.name),
                f"this output made its rows in {before[0]} by ({', '.join(before[1])}),"
                f" now it says {output.place} by ({', '.join(output.key_names)})",
                hint="give the flow or the output another name: to the ledger it is another one",
            )


def _check_summary(migration: Migration, shape: FlowShape, database: duckdb.DuckDBPyConnection) -> None:
    """Raise MappingError for a figure of `summary:` that names what nobody counts."""
    relation = summary_relation(shape, Counts(shape.name))
    for name, text in shape.flow.summary.items():
        try:
            database.execute(f"DESCRIBE SELECT CAST(({text}) AS BIGINT) FROM ({relation})")
        except duckdb.Error as error:
            place = migration.place("flows", shape.name, "summary", name)
            raise MappingError(place, f"bad SQL: {first_line(error)}") from None


def _check_constants(migration: Migration, shape: FlowShape, connections: Connections) -> None:
    """Raise MappingError for a constant that a CHECK about its column alone refuses."""
    for output in shape.outputs:
        target = connections.target(output.connection)
        declared = shape.flow.all_outputs[output.name].columns
        for name, form in declared.items() if isinstance(declared, dict) else ():
            column, constant = output.schema.column(name), constant_of(form)
            if constant is None or column is None:
                continue
            for constraint, expression in output.schema.checks.items():
                if _refuses(target, expression, column, constant):
                    at = () if shape.flow.into else ("outputs", output.name)
                    raise MappingError(
                        migration.place("flows", shape.name, *at, "columns", name),
                        f"`{output.dataset}.{name}` does not accept this constant (CHECK {constraint})",
                    )


def _refuses(target: Target, check: str, column: Column, value: object) -> bool:
    """Whether a CHECK is false for the constant; a CHECK about other columns too cannot be told here."""
    sql = target.sql()
    typed = f"::{column.native}" if sql is not None and sql.dialect == "postgres" else ""
    text = str(value).replace("'", "''")
    try:
        answer = target.ask(f"SELECT {check} FROM (SELECT '{text}'{typed} AS {quote(column.name)}) t")
    except ResettleError:
        return False
    return bool(answer) and answer[0][0] in (False, 0)


def source_types(source: Source, schema: Schema) -> pa.Schema:
    """The arrow types that the source's columns arrive in, seen on its first batch (text where it has none)."""
    for partition in source.partitions(schema.dataset, 1):
        for batch in source.read(partition, SAMPLE_ROWS):
            if len(batch):
                decoded: pa.Table = batch.decode(batch.table.slice(0, 1), list(schema.names))
                return decoded.schema
    return pa.schema([(name, pa.string()) for name in schema.names])


def _target_keys(
    migration: Migration, ledger: Ledger, foreseen: Foreseen
) -> Callable[[str, str | None, pa.Array], pa.Table]:
    """The id map: what earlier runs made, then what this run would make."""

    def target_keys(flow: str, output: str | None, units: pa.Array) -> pa.Table:
        names = list(migration.file.flows[flow].all_outputs)
        named = output or names[0]
        found = ledger.target_keys(flow, named, units)
        number = ledger.numbers(flow, names)[names.index(named)]
        tables = foreseen.target_keys.get((flow, number), [])
        if tables:  # what this run decided of a unit counts, whatever was remembered before
            coming = pa.concat_tables(tables)
            coming = coming.filter(pc.is_in(coming["unit"], units))
            found = found.filter(pc.invert(pc.is_in(found["unit"], coming["unit"].combine_chunks())))
            found = pa.concat_tables([found, coming.cast(found.schema)])
        return found

    return target_keys


def _spelling(targets: Mapping[str, Target]) -> Spelt:
    def spelt(output: OutputShape, column: str, texts: pa.Array) -> pa.Array:
        target = targets[output.connection]
        return target.as_stored(output.dataset, column, texts) if isinstance(target, Spelling) else texts

    return spelt


def _where(text: str | None, shape: FlowShape, database: duckdb.DuckDBPyConnection) -> Parsed | None:
    """A condition over the source's columns. Raises ConfigError where it makes no sense."""
    from resettle.mapping.load import suggest

    if text is None:
        return None
    try:
        parsed = parse_expression(text)
    except SqlError as error:
        raise ConfigError(f"--where: bad SQL: {error}") from None
    known = [row[0] for row in database.execute("DESCRIBE source").fetchall()]
    spelt = {name: meant(name, known) for _, name, _ in parsed.columns}
    unseen = [name for name, there in spelt.items() if there is None]
    for name in unseen:
        hint = suggest(name, known)
        if not shape.open or (hint and hint.startswith("did you mean")):
            raise ConfigError(f"--where: the source has no column `{name}`", hint=hint)
    nulls = "".join(f", CAST(NULL AS VARCHAR) AS {quote(name)}" for name in unseen)
    try:
        database.execute(
            f"DESCRIBE SELECT TRY(CAST(({parsed.sql}) AS BOOLEAN)) FROM (SELECT *{nulls} FROM source) source"
        )
    except duckdb.Error as error:
        raise ConfigError(f"--where: bad SQL: {first_line(error)}") from None
    return replace(parsed, columns=tuple((q, spelt[name] or name, position) for q, name, position in parsed.columns))
