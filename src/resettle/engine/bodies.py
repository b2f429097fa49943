"""Bodies: which files are to be copied, and copying them.

    known        | present                      | action
    -------------+------------------------------+------------------------------------------------------
    any          | absent                       | copy
    no           | same size, and same checksum | reuse
    yes, meant   | same size, and same checksum | unchanged
    yes          | different                    | copy: what is different is put right
    no, meant    | different                    | conflict; by policy target: reuse
    reused       | different                    | conflict: it is its owner's; by policy target: reuse
    elsewhere    | (another key than before)    | conflict

A file that we did not put there is never replaced, by no policy: nobody could give it back. "meant": a run meant to
put it there, and died before it could say that it had.

Sizes and checksums count where both sides know them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import duckdb
import pyarrow as pa

from resettle.connector import BodySource, BodyTarget
from resettle.errors import ConfigError, RejectedError, TransientError
from resettle.mapping.functions import query

COMPARED = ("size", "md5")
"""Columns of a listing of files by which two files are told apart, beside their key."""
UNREACHABLE = "unreachable"
COPY_FAILED = ("gone", "changed", "exists", UNREACHABLE)
"""Reasons why a file was not copied that the next run may find gone."""

_SQL = """
WITH compared AS (
  SELECT w._at, k._at IS NOT NULL AS known, p._key IS NOT NULL AS there, k.target_key <> w._key AS moved,
    k.reused = 1 AS reused, k._at IS NOT NULL AND NOT k.intended AND k.reused = 0 AS ours,
    coalesce({size}, true) AND coalesce({md5}, true) AS same
  FROM _w w LEFT JOIN _k k ON k._at = w._at
  LEFT JOIN (SELECT * FROM _p QUALIFY row_number() OVER (PARTITION BY _key) = 1) p ON p._key = w._key
)
SELECT CASE
    WHEN moved THEN 'conflict'
    WHEN NOT there THEN 'copy'
    WHEN same AND known THEN 'unchanged'
    WHEN same THEN 'reuse'
    WHEN ours THEN 'copy'
    WHEN $policy = 'target' THEN 'reuse'
    ELSE 'conflict' END AS _action,
  CASE WHEN moved THEN 'key_changed' WHEN there AND NOT same AND NOT ours
    THEN CASE WHEN reused THEN 'not_ours' ELSE 'exists_in_target' END END AS _reason,
  known AS _known, there AS _there
FROM compared ORDER BY _at
"""


def states(
    connection: duckdb.DuckDBPyConnection, rows: pa.Table, known: pa.Table, present: pa.Table, *, policy: str
) -> pa.Table:
    """_action, _reason, _known and _there of each row (with _at and _key).

    known:   _at, target_key, reused and intended of those the ledger knows
    present: the files that are there, by _key
    """
    equal = {
        name: f"w.{name} = p.{name}" if name in rows.column_names and name in present.column_names else "true"
        for name in COMPARED
    }
    wanted = rows.select(["_at", "_key", *(name for name in equal if name in rows.column_names)])
    known = known.select(["_at", "target_key", "reused", "intended"])
    return query(connection, _SQL.format(**equal), {"policy": policy}, _w=wanted, _k=known, _p=present)


@dataclasses.dataclass(frozen=True)
class Copier:
    """Copies the files of one output, ``workers`` at once."""

    source: BodySource
    dataset: str
    target: BodyTarget
    into: str
    workers: int

    def copy(self, rows: pa.Table, key: str) -> pa.Table:
        """Copy every row's file; those that could not be: unit, reason, detail. Raises what concerns them all.

        rows: _unit, _body (the file's key in the source), _there (whether it replaces a file), the column ``key``,
        and what is set at creation.
        """
        with ThreadPoolExecutor(self.workers, "resettle-copy") as pool:
            failures = [found for found in pool.map(lambda row: self._one(row, key), rows.to_pylist()) if found]
        columns = ("unit", "reason", "detail")
        return pa.table({name: pa.array([f[at] for f in failures], pa.string()) for at, name in enumerate(columns)})

    def _one(self, row: Mapping[str, Any], key: str) -> tuple[str, str, str] | None:
        try:
            self._put(row, str(row[key]))
        except RejectedError as error:
            return row["_unit"], error.reason, f"{self.into}: {error.detail or error.reason}"
        except TransientError as error:
            return row["_unit"], UNREACHABLE, f"{self.into}: {type(error).__name__} after every try"
        return None

    def _put(self, row: Mapping[str, Any], key: str) -> None:
        if row["_body"] is None:
            raise RejectedError("no_body", "the record names no file")
        body = self.source.open(self.dataset, row["_body"])
        for name in COMPARED:
            listed, now = row.get(name), getattr(body, name)
            if None not in (listed, now) and listed != now:
                raise RejectedError("changed", "the file is another than when it was listed")
        body = dataclasses.replace(body, size=_first(body.size, row.get("size")), md5=_first(body.md5, row.get("md5")))
        if row.get("content_type"):
            body = dataclasses.replace(body, content_type=row["content_type"])
        self.target.put(self.into, key, body, metadata={}, replace=row["_there"])


def _first(now: Any, listed: Any) -> Any:
    """What the mapping says of a file counts where its service is silent."""
    return listed if now is None else now


def copier(sources: Any, body: tuple[str, str], target: Any, into: str, workers: int) -> Copier:
    """Raises ConfigError where one side has no files."""
    source = sources.source(body[0])
    if not isinstance(source, BodySource):
        raise ConfigError(f"connection `{body[0]}` has no files to copy from")
    if not isinstance(target, BodyTarget):
        raise ConfigError(f"connection `{target.name}` takes no files")
    return Copier(source, body[1], target, into, workers)
