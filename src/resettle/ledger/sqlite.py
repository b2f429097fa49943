"""The ledger's tables in SQLite: prefixed tables in the target file, or a file of their own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from resettle.connector import Sql

NOW = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"

TABLES = """
CREATE TABLE IF NOT EXISTS {p}meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS {p}runs (
  run INTEGER PRIMARY KEY, migration TEXT NOT NULL, environment TEXT NOT NULL, phase TEXT NOT NULL,
  status TEXT NOT NULL, started_at TEXT NOT NULL, completed_at TEXT,
  host TEXT NOT NULL, pid INTEGER NOT NULL, version TEXT NOT NULL, options TEXT NOT NULL, summary TEXT);
CREATE TABLE IF NOT EXISTS {p}flows (
  flow INTEGER PRIMARY KEY, migration TEXT NOT NULL, environment TEXT NOT NULL, name TEXT NOT NULL,
  outputs TEXT NOT NULL, UNIQUE (migration, environment, name));
CREATE TABLE IF NOT EXISTS {p}shapes (
  shape INTEGER PRIMARY KEY, flow INTEGER NOT NULL, output INTEGER NOT NULL, columns TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS {p}rows (
  flow INTEGER NOT NULL, unit TEXT NOT NULL, output INTEGER NOT NULL, n INTEGER NOT NULL,
  target_key TEXT, fingerprint BLOB, shape INTEGER NOT NULL, raw INTEGER,
  run INTEGER NOT NULL, changed_run INTEGER, reused INTEGER NOT NULL, minted TEXT,
  PRIMARY KEY (flow, unit, output, n)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS {p}units (
  flow INTEGER NOT NULL, unit TEXT NOT NULL, status TEXT NOT NULL, reason TEXT, detail TEXT,
  warnings TEXT, raw INTEGER, first_run INTEGER NOT NULL, last_run INTEGER NOT NULL, attempts INTEGER NOT NULL,
  retry INTEGER NOT NULL, note TEXT, PRIMARY KEY (flow, unit)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS {p}before_images (
  run INTEGER NOT NULL, flow INTEGER NOT NULL, unit TEXT NOT NULL, output INTEGER NOT NULL,
  n INTEGER NOT NULL, target_key TEXT NOT NULL, image TEXT NOT NULL,
  PRIMARY KEY (run, flow, unit, output, n)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS {p}locks (
  migration TEXT NOT NULL, environment TEXT NOT NULL, fence INTEGER NOT NULL, run INTEGER, host TEXT, pid INTEGER,
  since TEXT, heartbeat TEXT, PRIMARY KEY (migration, environment))
"""

EXISTS = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = '{p}{table}'"

AGE = "(julianday('now') - julianday(heartbeat)) * 86400.0"

FOR_UPDATE = ""

AFTER_LOAD = ""
"""SQLite would make a table of statistics beside the target's own."""

TEXTS = "SELECT value FROM json_each(%s)"
"""The texts of one parameter, a JSON list."""

OF_ASKED = "staged_asked a CROSS JOIN {p}{table} r ON r.flow = {flow} AND r.unit = a.unit"
"""The asked units' rows by one index lookup each: SQLite does not reorder a CROSS JOIN."""

ALONE = ""
"""A transaction that writes is alone anyway."""

PAGE = 50_000
"""Record hashes that are read at once."""

VIEW = """
CREATE VIEW IF NOT EXISTS {view} AS
SELECT r.unit, r.n, coalesce(r.target_key, r.unit) AS target_key, r.reused, r.run, r.changed_run, r.fingerprint
FROM {p}rows r WHERE r.flow = {flow} AND r.output = {output}
"""


def prefix(name: str) -> str:
    """What stands before each table's name for the configured prefix ``name``."""
    return f"{name}_"


def view_name(schema: str, migration: str, environment: str, flow: str, output: str) -> str:
    """The quoted name of the id map view of one output."""
    parts = [schema, migration, environment, flow, *([] if output == "row" else [output])]
    name = "_".join(parts).replace("-", "_").replace('"', "")
    return f'"{name}"'


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
