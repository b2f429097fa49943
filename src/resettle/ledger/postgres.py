"""The ledger's tables in Postgres: a schema of our own in the target database.

Where an administrator has made the schema, its owner needs no right to make one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from resettle.connector import Sql

NOW = "now()"

TABLES = """
DO $$ BEGIN IF to_regnamespace('{schema}') IS NULL THEN CREATE SCHEMA {schema}; END IF; END $$;
CREATE TABLE IF NOT EXISTS {p}meta (key text PRIMARY KEY, value text NOT NULL);
CREATE TABLE IF NOT EXISTS {p}runs (
  run bigint PRIMARY KEY, migration text NOT NULL, environment text NOT NULL, phase text NOT NULL,
  status text NOT NULL, started_at timestamptz NOT NULL, completed_at timestamptz,
  host text NOT NULL, pid integer NOT NULL, version text NOT NULL, options text NOT NULL, summary text);
CREATE TABLE IF NOT EXISTS {p}flows (
  flow integer PRIMARY KEY, migration text NOT NULL, environment text NOT NULL, name text NOT NULL,
  outputs text NOT NULL, UNIQUE (migration, environment, name));
CREATE TABLE IF NOT EXISTS {p}shapes (
  shape integer PRIMARY KEY, flow integer NOT NULL, output smallint NOT NULL, columns text NOT NULL);
CREATE TABLE IF NOT EXISTS {p}rows (
  flow integer NOT NULL, unit text COLLATE "C" NOT NULL, output smallint NOT NULL, n integer NOT NULL,
  target_key text COLLATE "C", fingerprint uuid, shape integer NOT NULL, raw bigint,
  run bigint NOT NULL, changed_run bigint, reused boolean NOT NULL, minted text,
  PRIMARY KEY (flow, unit, output, n));
CREATE TABLE IF NOT EXISTS {p}units (
  flow integer NOT NULL, unit text COLLATE "C" NOT NULL, status text NOT NULL, reason text, detail text,
  warnings text, raw bigint, first_run bigint NOT NULL, last_run bigint NOT NULL, attempts integer NOT NULL,
  retry boolean NOT NULL, note text, PRIMARY KEY (flow, unit));
CREATE TABLE IF NOT EXISTS {p}before_images (
  run bigint NOT NULL, flow integer NOT NULL, unit text COLLATE "C" NOT NULL, output smallint NOT NULL,
  n integer NOT NULL, target_key text COLLATE "C" NOT NULL, image text NOT NULL,
  PRIMARY KEY (run, flow, unit, output, n));
CREATE TABLE IF NOT EXISTS {p}locks (
  migration text NOT NULL, environment text NOT NULL, fence bigint NOT NULL, run bigint, host text, pid integer,
  since timestamptz, heartbeat timestamptz, PRIMARY KEY (migration, environment));
REVOKE ALL ON SCHEMA {schema} FROM PUBLIC
"""

EXISTS = "SELECT to_regclass('{p}{table}') IS NOT NULL"

AGE = "extract(epoch FROM now() - heartbeat)::float8"

FOR_UPDATE = "FOR UPDATE"

AFTER_LOAD = "ANALYZE {p}rows"
"""Without statistics an update of a few rows is planned as a join of all of them, until autovacuum has made some."""

TEXTS = "SELECT jsonb_array_elements_text(%s::jsonb)"
"""The texts of one parameter, a JSON list."""

OF_ASKED = """staged_asked a CROSS JOIN LATERAL (
  SELECT x.* FROM {p}{table} x WHERE x.flow = {flow} AND x.unit = a.unit OFFSET 0) r"""
"""The asked units' rows by one index lookup each. Right after a first load there are no statistics, and a plain
join is then planned as a sort of the whole table (measured: 0.5 s instead of 0.01 s for 200 units of a million)."""

ALONE = "SELECT pg_advisory_xact_lock(hashtext('resettle'), hashtext('{schema}'))"
"""Whoever makes tables or takes numbers in a ledger does it alone until the transaction ends."""

VIEW = """
CREATE OR REPLACE VIEW {view} AS
SELECT r.unit, r.n, coalesce(r.target_key, r.unit) AS target_key, r.reused, r.run, r.changed_run, r.fingerprint
FROM {p}rows r WHERE r.flow = {flow} AND r.output = {output}
"""


def prefix(name: str) -> str:
    """What stands before each table's name for the configured schema ``name``."""
    return f"{name}."


def view_name(schema: str, migration: str, environment: str, flow: str, output: str) -> str:
    """The quoted name of the id map view of one output; medzen_local_sessions for a single output.

    What is longer than Postgres takes (63 bytes) ends in eight digits of its hash.
    """
    parts = [migration, environment, flow, *([] if output == "row" else [output])]
    name = "_".join(parts).replace("-", "_").replace('"', "")
    if len(name.encode()) > LONGEST_NAME:
        digits = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name.encode()[: LONGEST_NAME - 9].decode(errors='ignore')}_{digits}"
    return f'{schema}."{name}"'


LONGEST_NAME = 63


BLOCKS = 1 << 15
"""Of a table's blocks so many are read at once: about two million rows."""


def raws(sql: Sql, p: str, where: str) -> Iterator[npt.NDArray[np.int64]]:
    """Record hashes, of some million records in one value: that costs one row over the wire, not a million."""
    statement = f"SELECT string_agg(int8send(raw), ''::bytea) FROM {p}{where}"
    table = f"{p}{where.partition(' ')[0]}"
    size = "SELECT pg_relation_size(%s::regclass) / current_setting('block_size')::bigint"
    blocks = int(sql.execute(size, (table,))[0][0])
    parts = [f" AND ctid >= '({at},0)' AND ctid < '({at + BLOCKS},0)'" for at in range(0, blocks, BLOCKS)]
    for part in parts if len(parts) > 1 else [""]:
        for (value,) in sql.execute(statement + part):
            if value is not None:
                yield np.frombuffer(bytes(value), dtype=">i8").astype(np.int64)
