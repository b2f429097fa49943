"""The ledger's tables in Cloudflare D1: SQLite's, read in pages because an answer must not be large."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from resettle.connector import Sql
from resettle.ledger import sqlite

NOW, TABLES, EXISTS, AGE = sqlite.NOW, sqlite.TABLES, sqlite.EXISTS, sqlite.AGE
FOR_UPDATE, AFTER_LOAD, TEXTS = sqlite.FOR_UPDATE, sqlite.AFTER_LOAD, sqlite.TEXTS
OF_ASKED, VIEW = sqlite.OF_ASKED, sqlite.VIEW
prefix, view_name = sqlite.prefix, sqlite.view_name

ALONE = ""
"""Nobody can be kept out: of two that take one number, or the lock, the second one's batch fails."""

PAGE = 50_000


def raws(sql: Sql, p: str, where: str) -> Iterator[npt.NDArray[np.int64]]:
    """Record hashes, a page of them as one text, in the order of the units: a unit has one at most."""
    rest = ""
    parameters: tuple[str, ...] = ()
    while True:
        ((texts, last),) = sql.execute(
            f"SELECT group_concat(raw), max(unit) FROM"
            f" (SELECT raw, unit FROM {p}{where}{rest} ORDER BY unit LIMIT {PAGE})",
            parameters,
        )
        if texts is None:
            return
        found = np.array(texts.split(","), np.int64)
        yield found
        if len(found) < PAGE:
            return
        rest, parameters = " AND unit > %s", (last,)
