"""A target that cannot be written: what a plan sees. Every verb is spelt out, so a new one cannot slip by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NoReturn

import pyarrow as pa

from resettle.batch import Action, Batch, Partition, Schema
from resettle.connector import Sql, Target
from resettle.errors import ResettleError


class ReadOnly:
    """Wraps a target; writing verbs raise, transactions are read-only."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.name = target.name
        self.transactional = target.transactional

    def datasets(self) -> Sequence[str]:
        return self._target.datasets()

    def schema(self, dataset: str) -> Schema:
        return self._target.schema(dataset)

    def count(self, dataset: str) -> int | None:
        return self._target.count(dataset)

    def partitions(self, dataset: str, wanted: int) -> Sequence[Partition]:
        return self._target.partitions(dataset, wanted)

    def read(self, partition: Partition, rows: int) -> Iterator[Batch]:
        return self._target.read(partition, rows)

    def close(self) -> None:
        self._target.close()

    def sql(self) -> Sql | None:
        return None

    def transaction(self, *, readonly: bool = True) -> AbstractContextManager[None]:
        return self._target.transaction(readonly=True)

    def empty(self, dataset: str) -> bool:
        return self._target.empty(dataset)

    def fetch(self, dataset: str, keys: pa.Table, columns: Sequence[str], *, lock: bool = False) -> pa.Table:
        return self._target.fetch(dataset, keys, columns, lock=False)

    def write(self, dataset: str, rows: pa.Table, key: Sequence[str], action: Action) -> None:
        self._refuse()

    def refusals(
        self, writes: Sequence[tuple[str, pa.Table, Sequence[str], Action]], units: Sequence[pa.Array]
    ) -> pa.Table | None:
        self._refuse()

    def delete(self, dataset: str, keys: pa.Table) -> int:
        self._refuse()

    def orphans(self, dataset: str) -> pa.Table:
        return self._target.orphans(dataset)

    def ask(self, sql: str, *, role: str | None = None, claims: str | None = None) -> list[tuple[Any, ...]]:
        return self._target.ask(sql, role=role, claims=claims)

    def _refuse(self) -> NoReturn:
        raise ResettleError(f"{self.name}: a phase that only reads tried to write")
