"""The contract of a connector: what the engine, the ledger and the commands may ask of one technology.

A connector is one file with, in this order: its settings, its errors table, its class, private functions. A large
one has pieces of its own beside it, called `_<name>_<piece>.py`.
Everything it does over the wire goes through its `Caller` (calls.py); nothing else retries or sleeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from resettle.batch import Action, Batch, Partition, Schema


@runtime_checkable
class Source(Protocol):
    """Reads, and only reads: opened read-only wherever the technology can enforce it."""

    name: str
    """The connection's name in the migration, for messages."""

    def datasets(self) -> Sequence[str]:
        """Names of everything that can be read, sorted."""
        ...

    def schema(self, dataset: str) -> Schema:
        """The dataset's columns and constraints. Raises ConfigError, with a suggestion, if there is none."""
        ...

    def count(self, dataset: str) -> int | None:
        """Exact number of records, or None where that is unknown or as dear as reading them."""
        ...

    def partitions(self, dataset: str, wanted: int) -> Sequence[Partition]:
        """Between 1 and about ``wanted`` parts that together hold every record exactly once.

        Whatever can be known about the whole source's integrity without decoding it (checksums, missing
        files) is checked here, so that a corrupt source is refused before anything is written.
        """
        ...

    def read(self, partition: Partition, rows: int) -> Iterator[Batch]:
        """The partition's records in batches of at most about ``rows``; empty batches are allowed.

        Ends only at the service's own end marker, never at an empty page. May be called from any thread,
        each partition at most once at a time.
        """
        ...

    def close(self) -> None:
        """Give up every resource; calling it twice is harmless."""
        ...


class Sql(Protocol):
    """A transactional SQL store, as the ledger needs it. ``dialect`` picks the ledger's store file."""

    dialect: str

    def transaction(self, *, readonly: bool = False) -> AbstractContextManager[None]:
        """Commit at the end, roll back on any exception.

        Within an open transaction of the same thread it is a savepoint: an exception undoes only what happened
        inside it, and deferred constraints are checked at its end. ``readonly`` is then just a scope. Where a
        technology has no savepoints, nesting raises ConfigError.

        Where it has no transaction but a batch sent at its end (D1), reads inside see what is committed, a refusal
        comes from leaving it, and RETURNING gives nothing: see `demand`.
        """
        ...

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement; rows if it has any. `%s` marks a parameter in every dialect."""
        ...

    def demand(self, sql: str, parameters: Sequence[Any], error: Exception) -> None:
        """Run a statement that must give a row (RETURNING): raises ``error`` if it gives none, at once or when the
        transaction commits."""
        ...

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """Run one SELECT and give its rows as Arrow, in the column order of the statement.

        Integers as int64, fingerprints (16 bytes) as binary, everything else as text.
        """
        ...

    def insert(self, table: str, rows: pa.Table) -> None:
        """Bulk insert into an existing table by column name (``table`` may be qualified, unquoted)."""
        ...

    def stage(self, name: str, rows: pa.Table) -> None:
        """A temporary table with these rows, gone when the outermost transaction ends; replaces one of that name."""
        ...


@runtime_checkable
class Target(Source, Protocol):
    """Also writes: only rows, only in datasets that exist, only named columns."""

    transactional: bool
    """Whether write() and the ledger can commit together through `transaction`."""

    def sql(self) -> Sql | None:
        """The store that can hold the ledger beside the data, if this technology has one."""
        ...

    def transaction(self, *, readonly: bool = False) -> AbstractContextManager[None]:
        """One unit of commitment for `fetch`, `write`, `delete` and the ledger's own statements.

        Commit at the end, roll back on any exception. Within an open transaction of the same thread it is a
        savepoint: an exception undoes only what happened inside it, and deferred constraints are checked at its
        end. ``readonly`` is then just a scope. Where a technology has no savepoints, nesting raises ConfigError.
        """
        ...

    def empty(self, dataset: str) -> bool:
        """Whether the dataset has no row at all (a cheap look, not a count)."""
        ...

    def fetch(self, dataset: str, keys: pa.Table, columns: Sequence[str], *, lock: bool = False) -> pa.Table:
        """Present rows whose key columns equal a row of ``keys``: the key columns and ``columns``.

        ``keys`` holds only key columns, in the arrow types of `batch.ARROW`; so does the answer. Absent keys
        give no row. With ``lock`` nobody else can change those rows until the transaction ends, where the
        technology can do that. Outside a transaction it reads what is committed.
        """
        ...

    def write(self, dataset: str, rows: pa.Table, key: Sequence[str], action: Action) -> None:
        """Create or update rows; ``rows`` holds exactly the columns to write, the key's among them.

        CREATE inserts and never touches a row that is there: it raises RejectedError("exists"). UPDATE
        changes the non-key columns of rows that are there. All rows or none: RejectedError says that the
        target refuses some row and that nothing was done (the surrounding transaction must be rolled back).
        """
        ...

    def refusals(
        self, writes: Sequence[tuple[str, pa.Table, Sequence[str], Action]], units: Sequence[pa.Array]
    ) -> pa.Table | None:
        """Which units the target refuses, found in one pass: columns unit, reason, detail (no values).

        ``writes`` are the arguments of the `write` calls of one batch, ``units`` the unit of each of their
        rows. Leaves no trace. None where the technology cannot tell: the batch is then bisected.
        """
        ...

    def delete(self, dataset: str, keys: pa.Table) -> int:
        """Delete rows by key; deleting what is absent succeeds. Gives the number really deleted."""
        ...

    def orphans(self, dataset: str) -> pa.Table:
        """Rows that point nowhere: columns constraint, count. Includes keys added NOT VALID."""
        ...

    def ask(self, sql: str, *, role: str | None = None, claims: str | None = None) -> list[tuple[Any, ...]]:
        """Run one read-only query of the migration's `verify:` section, as ``role`` where given."""
        ...


@runtime_checkable
class Concurrent(Protocol):
    """A target that sends several requests at a time, each with a row or some."""

    concurrency: int
    """How many; may be set at any time."""


@runtime_checkable
class Batching(Protocol):
    """A target that knows how many records one transaction had best have, where the user does not say."""

    batch_size: int


@runtime_checkable
class Spelling(Protocol):
    """A target with types of its own (`Kind.OTHER`), whose values it spells in its own way."""

    def as_stored(self, dataset: str, column: str, texts: pa.Array) -> pa.Array:
        """Each text as `fetch` would give it back once it was written; null where the target would refuse it."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A target without transactions, of which one listing may answer many a `fetch`."""

    def remembering(self) -> AbstractContextManager[None]:
        """Until it ends, `fetch` may answer from what it listed since its beginning.

        What this connector writes meanwhile is seen, what others do need not be: `write` and `put` look for
        themselves, as far as the service can be asked for single rows. It may be entered again within itself.
        """
        ...


@dataclass(frozen=True)
class Use:
    """What a migration does with one dataset: it reads it, and creates and updates rows with these columns."""

    dataset: str
    created: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()


@dataclass(frozen=True)
class Needs:
    """What a migration does over one connection. ``ledger``: its schema or prefix, if it lives here; ``roles``: those
    that `verify:` asks as; ``after``: SQL of the migration's own."""

    uses: tuple[Use, ...]
    ledger: str | None = None
    roles: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@runtime_checkable
class Granting(Protocol):
    """A connection that can say what its user has to be allowed."""

    def privileges(self, needs: Needs, *, rollback: bool = False) -> Sequence[str]:
        """The least that ``needs`` take, a line each, in the words of whoever grants it: statements, actions, scopes.

        With ``rollback``: what a rollback takes beyond that.
        """
        ...


@runtime_checkable
class Digesting(Protocol):
    """A target that digests a whole dataset where it lies, without giving its rows.

    A row is spelt as bytes, alike here and there, so that no two different rows are spelt the same; its hash is the
    last 8 bytes of their md5, a number without sign, the first byte the highest. One value that could be spelt in
    two ways costs time, because its row is then looked at; one spelling of two values would hide a difference.
    """

    def exact(self, dataset: str) -> frozenset[str]:
        """Columns whose values can be spelt; of the others a digest knows only whether they are null."""
        ...

    def spelt(self, dataset: str, rows: pa.Table, whether: Sequence[str]) -> pa.Array:
        """The bytes of each row of ``rows`` (in the arrow types of `batch.ARROW`), once it is written.

        Its columns in their order; of those in ``whether`` only whether they are null.
        """
        ...

    def digests(self, dataset: str, columns: Sequence[str], whether: Sequence[str], bits: int) -> pa.Table:
        """All rows of the dataset by the last ``bits`` bits of their hashes: bucket and count (int64), and digest
        (uint64), the sum of the hashes modulo 2**64. Buckets without a row may be left out."""
        ...


@dataclass(frozen=True)
class Body:
    """The bytes of one file, not read yet.

    ``chunks(start)`` gives them from byte ``start`` on, in pieces of at most 8 MiB, one connection at a time; it
    raises TransientError where a cut connection may be taken up again by another call, from the byte after the last
    one that came. ``size`` (bytes) and ``md5`` (lower-case hex) are what the service says of it beforehand, or None.
    """

    chunks: Callable[[int], Iterator[bytes]]
    size: int | None = None
    md5: str | None = None
    content_type: str | None = None


@dataclass(frozen=True)
class Stored:
    """A body as it now lies in a target: what was sent and read back, not what was hoped for."""

    size: int
    md5: str
    etag: str | None = None


@runtime_checkable
class BodySource(Protocol):
    """A source whose datasets are listings of files."""

    def open(self, dataset: str, key: str) -> Body:
        """The body of the file with this key (the dataset's key column). Nothing is read before `chunks` is called.

        Raises RejectedError("gone") where there is none, RejectedError("no_body") where it has no bytes of its own.
        """
        ...


@runtime_checkable
class BodyTarget(Protocol):
    """A target whose datasets are listings of files."""

    def put(self, dataset: str, key: str, body: Body, *, metadata: Mapping[str, str], replace: bool) -> Stored:
        """Stream a body into a file, in bounded memory, and verify it: size, and checksum where one is known.

        Without ``replace`` a file that is there is never touched: RejectedError("exists"). Raises
        RejectedError("changed") where the bytes are not as many, or do not have the checksum, as ``body`` says; the
        file is then not there, or is as it was. May be called from many threads.
        """
        ...

    def abandon(self, dataset: str) -> int:
        """Give up uploads that earlier runs began with `put` and never ended; how many there were."""
        ...
