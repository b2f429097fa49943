"""compare: three-way and pure: what a row should be, what we last wrote, what is there now.

    known | present              | action
    ------+----------------------+---------------------------------------------------------------
    no    | absent               | create
    no    | present, equal       | reuse
    no    | present, different   | reuse by natural key (match), else conflict; by policy as below
    yes   | (wanted unchanged)   | unchanged; the target is not even asked
    yes   | equal to wanted      | unchanged (only our memory is brought up to date)
    yes   | as we left it        | update
    yes   | changed by others    | conflict; by policy: hold, source (overwrite) or target (keep theirs: reuse)
    yes   | gone                 | conflict: deleted in the target, never revived
    meant | absent               | create: a target without transactions was not reached before the run died

A row that we only reused was never ours: a change to it is a conflict, and nothing at all under `match`, unless
another natural key is wanted now.
Of several rows with one natural key (`match` needs no unique index) the first counts.
"""

from __future__ import annotations

import duckdb
import pyarrow as pa

from resettle.mapping.functions import query

_SQL = """
SELECT w._at,
  CASE
    WHEN k._at IS NULL AND p._at IS NULL THEN 'create'
    WHEN k._at IS NULL AND (p._fp = w._fp OR $match OR $policy = 'target') THEN 'reuse'
    WHEN k._at IS NULL AND $policy = 'source' THEN 'update'
    WHEN k._at IS NULL THEN 'conflict'
    WHEN k.intended AND p._at IS NULL AND k.target_key = w._key THEN 'create'
    WHEN k.same OR (k.reused = 1 AND $match AND k.target_key = w._key) THEN 'unchanged'
    WHEN k.target_key <> w._key OR p._at IS NULL THEN 'conflict'
    WHEN p._fp = w._fp THEN 'unchanged'
    WHEN p._left AND k.reused = 0 THEN 'update'
    WHEN $policy = 'source' THEN 'update'
    WHEN $policy = 'target' THEN 'reuse'
    ELSE 'conflict'
  END AS _action,
  CASE
    WHEN k._at IS NULL THEN 'exists_in_target'
    WHEN k.target_key <> w._key THEN 'key_changed'
    WHEN p._at IS NULL THEN 'deleted_in_target'
    WHEN k.reused = 1 THEN 'not_ours'
    ELSE 'edited_in_target'
  END AS _reason,
  k._at IS NOT NULL AS _known, p._at AS _present
FROM wanted w
LEFT JOIN known k ON k._at = w._at
LEFT JOIN (SELECT * FROM present QUALIFY row_number() OVER (PARTITION BY _key ORDER BY _at) = 1) p ON p._key = w._key
ORDER BY w._at
"""


def compare(
    connection: duckdb.DuckDBPyConnection,
    wanted: pa.Table,
    known: pa.Table,
    present: pa.Table,
    *,
    match: bool,
    policy: str,
) -> pa.Table:
    """Decide every wanted row.

    wanted:  _at (position), _key, _fp
    known:   _at (of the wanted row), same (wanted equals what we wrote), intended (to be written, and never
             confirmed), reused, target_key
    present: _at (position among the fetched), _key, _fp, _left (equals what we wrote)
    Gives, in the order of wanted: _at, _action, _reason (for conflicts), _known, _present.
    """
    choices = {"match": match, "policy": policy}
    return query(connection, _SQL, choices, wanted=wanted, known=known, present=present)
