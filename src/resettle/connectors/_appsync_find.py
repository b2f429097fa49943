"""Which requests find records: a list, an index for each parent, or look-ups, whichever takes fewer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from resettle.connectors._appsync_memory import Memory
from resettle.connectors._appsync_read import Item, Requests
from resettle.connectors._appsync_schema import Listing, Model
from resettle.connectors._appsync_values import said
from resettle.errors import ConfigError

LARGEST_PAGE_OF_AN_INDEX = 100
"""Rows of one value of an index in one answer: it holds many values."""


@dataclass(frozen=True)
class Finder:
    """Finds records of any model of one API. ``reads``: look-ups in one request."""

    name: str
    requests: Requests
    models: Callable[[], Mapping[str, Model]]
    page_size: int
    reads: int

    def way(self, model: Model) -> tuple[Listing, Model | None]:
        """How all records are had: by the list, or by an index for each record of the model that its column names."""
        if model.listing:
            return model.listing, None
        for index in model.indexes:
            if not re.search("I[dD]$", index.by):
                continue
            named = index.by[:-2].lower()
            parents = [one for name, one in self.models().items() if name.lower().endswith(named) and one.listing]
            if len(parents) == 1 and parents[0].name != model.name:
                return index, parents[0]
        raise ConfigError(f"{self.name}.{model.name} cannot be listed: the API has no query for it")

    def pages(self, model: Model, select: Sequence[str], rows: int) -> Iterator[list[Item]]:
        """All records, page by page."""
        listing, parent = self.way(model)
        text = f"{{items{{{' '.join(select)}}} nextToken}}"
        if parent is None:
            yield from self.requests.pages(listing, text, rows)
            return
        for page in self.pages(parent, [parent.schema.key[0]], self.page_size):
            values = [item[parent.schema.key[0]] for item in page]
            yield from self.requests.lookups(listing, values, text, min(rows, LARGEST_PAGE_OF_AN_INDEX))

    def singly(self, model: Model, columns: Sequence[str]) -> bool:
        """Whether records can be looked up by these columns without a list of them all."""
        return self._keyed(model, columns) or any(one.by in columns for one in model.indexes)

    @staticmethod
    def _keyed(model: Model, columns: Sequence[str]) -> bool:
        return bool(model.get) and set(model.key_types or {}) == set(columns)

    def find(
        self, model: Model, wanted: pa.Table, select: Sequence[str], memory: Memory
    ) -> tuple[Sequence[Item], bool]:
        """Records that hold all the wanted ones, and whether they are all that there are."""
        inner = f"{{{' '.join(select)}}}"
        text = f"{{items{inner} nextToken}}"
        index = next((one for one in model.indexes if one.by in wanted.column_names), None)
        if self.singly(model, wanted.column_names):
            lookups = memory.lookups(model.name, -(-wanted.num_rows // self.reads))
            listed = self.requests.first_pages(model, text, self.page_size, lookups)
            if listed is not None:
                return listed, True
        if self._keyed(model, wanted.column_names):
            gets = self.requests.gets(model, said(model, wanted), inner)
            return [item for page in gets for item in page], False
        if index:
            values = list(dict.fromkeys(key[index.by] for key in said(model, wanted)))
            pages = self.requests.lookups(index, values, text, LARGEST_PAGE_OF_AN_INDEX)
            return [item for page in pages for item in page], False
        return [item for page in self.pages(model, select, self.page_size) for item in page], True
