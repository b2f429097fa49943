"""What a run has listed of an API's datasets, together with what it wrote since: so that one listing is enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc


class Memory:
    """Whole datasets as tables, while somebody remembers. From one thread."""

    def __init__(self) -> None:
        self._open = 0
        self._tables: dict[str, pa.Table] = {}
        self._lookups: Counter[str] = Counter()

    @property
    def open(self) -> bool:
        return self._open > 0

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """May be entered again within itself; all is forgotten at the end of the outermost."""
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            if not self._open:
                self._tables.clear()
                self._lookups.clear()

    def lookups(self, dataset: str, requests: int) -> int:
        """How many requests of look-ups the dataset has been asked for since the beginning, these with them."""
        if not self.open:
            return requests
        self._lookups[dataset] += requests
        return self._lookups[dataset]

    def names(self, dataset: str, wanted: Sequence[str]) -> list[str]:
        """The columns to list, so that one listing serves this look and those before it."""
        known = self._tables.get(dataset)
        return list(dict.fromkeys([*wanted, *(known.column_names if known else ())]))

    def table(self, dataset: str, wanted: Sequence[str]) -> pa.Table | None:
        """The whole dataset, if it is remembered with these columns."""
        known = self._tables.get(dataset)
        return known.select(list(wanted)) if known is not None and set(wanted) <= set(known.column_names) else None

    def columns(self, dataset: str) -> list[str]:
        """The columns that are remembered of a dataset; none where it is not."""
        known = self._tables.get(dataset)
        return known.column_names if known is not None else []

    def keep(self, dataset: str, table: pa.Table) -> None:
        if self.open:
            self._tables[dataset] = table

    def wrote(self, dataset: str, key: Sequence[str], rows: pa.Table | None) -> None:
        """Rows that are there now as they are here. Where that is not known (None), the dataset is listed anew."""
        known = self._tables.get(dataset)
        if known is None:
            return
        if rows is None or len(key) != 1 or key[0] not in known.column_names:
            del self._tables[dataset]
            return
        rest = known.filter(pc.invert(pc.is_in(known[key[0]], rows[key[0]].combine_chunks())))
        self._tables[dataset] = pa.concat_tables([rest, rows.select(known.column_names)])
