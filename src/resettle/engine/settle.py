"""Settle: under which key a row of a `match:` output goes: its own, or that of the row it reuses.

A row is found by its natural key, null-safe, and goes by its target's primary key (_nk is the one, _there says
whether the target has the other). What is there in the target counts first, and of that what this unit had before;
then what this run has made, then the first row of this batch. Memory alone counts for nothing: a row that somebody
deleted, or whose natural key is another now, is not this one any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import Kind, set_column
from resettle.connector import Target
from resettle.engine.alternate import keyed_again
from resettle.engine.fingerprint import as_duckdb, as_wire, fingerprint_sql, key_sql
from resettle.engine.shape import Settle
from resettle.engine.statements import OutputShape
from resettle.ledger.records import Known
from resettle.mapping.columns import DUCKDB, literal, quote
from resettle.mapping.functions import query, run_tried

Made = Callable[[OutputShape], pa.Table]
"""What this run has made of an output's dataset by its natural key: _nk, key (text)."""

NATURAL = "_nk"
NOTHING_MADE = pa.table({"_nk": pa.array([], pa.binary()), "key": pa.array([], pa.string())})
_CANDIDATES = pa.schema([("_nk", pa.binary()), ("key", pa.string()), ("why", pa.string())])

_SQL = """
SELECT w._at, c.key IS NOT NULL AS there,
  coalesce(c.key, m.key, first_value(w._key) OVER (
    PARTITION BY w._nk ORDER BY w._at ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)) AS key,
  CASE WHEN NOT c.had THEN c.why END AS why
FROM _w w
LEFT JOIN _m m ON m._nk = w._nk
LEFT JOIN (
  SELECT x._at, c.key, c.why, h.unit IS NOT NULL AS had
  FROM _w x JOIN _c c ON c._nk = x._nk LEFT JOIN _h h ON h.unit = x._unit AND h.target_key = c.key
  QUALIFY row_number() OVER (PARTITION BY x._at
    ORDER BY had DESC, (c.key = x._prefer) DESC NULLS LAST, c.why IS NOT NULL, c.key) = 1) c ON c._at = w._at
ORDER BY w._at
"""


def settler(
    connection: duckdb.DuckDBPyConnection,
    targets: Mapping[str, Target],
    known: Known,
    numbers: Sequence[int],
    made: Made,
    looks: Callable[[OutputShape], bool],
    *,
    lock: bool,
) -> Settle:
    """Settles the rows of one batch. ``numbers``: the ledger's number of each output; ``looks``: whether the target
    may hold rows that this run has not made; ``lock`` keeps those that are found until the transaction ends."""

    fresh = pa.array([], pa.binary(16))
    """Ids that this batch mints for rows which the target does not have."""

    def settle(place: int, output: OutputShape, rows: pa.Table) -> tuple[pa.Table, pa.Table | None]:
        nonlocal fresh
        rows = _named(connection, output, rows)
        candidates = _CANDIDATES.empty_table()
        if looks(output):
            asked = _without(rows, output, fresh)
            candidates = _candidates(connection, targets[output.connection], output, asked, lock=lock)
        settled, refused = _chosen(connection, output, rows, _had(known, numbers[place]), candidates, made(output))
        if output.minted == output.key_names and output.key[0].kind is Kind.UUID:
            there = settled.filter(settled["_there"])[output.minted[0]].combine_chunks()
            mine = rows[output.minted[0]].combine_chunks()
            fresh = pa.concat_arrays([fresh, mine.filter(pc.invert(pc.is_in(mine, there)))])
        return settled, refused

    return settle


def _without(rows: pa.Table, output: OutputShape, fresh: pa.Array) -> pa.Table:
    """The rows but for those whose natural key holds an id that was just minted: nobody can have it yet."""
    for column in output.match:
        if column.kind is Kind.UUID and len(fresh):
            rows = rows.filter(pc.invert(pc.is_in(rows[column.name], fresh)))
    return rows


def looking(
    connection: duckdb.DuckDBPyConnection, targets: Mapping[str, Target], known: Known, numbers: Sequence[int]
) -> Settle:
    """Settles by what the targets hold now, keeping nothing from changing: for looking at what was done."""
    return settler(connection, targets, known, numbers, lambda _: NOTHING_MADE, lambda _: True, lock=False)


def _had(known: Known, number: int) -> pa.Table:
    """What the ledger remembers of one output: unit and target_key."""
    mine = known.rows.filter(pc.equal(known.rows["output"], number))
    return mine.select(["unit", "target_key"]).group_by(["unit", "target_key"]).aggregate([])


def _named(connection: duckdb.DuckDBPyConnection, output: OutputShape, rows: pa.Table) -> pa.Table:
    """The rows with their natural key as one value."""
    return rows.append_column(NATURAL, natural_keys(connection, output, rows))


def renumbered(connection: duckdb.DuckDBPyConnection, rows: pa.Table, known: pa.Table) -> pa.Table:
    """The rows of a `match:` output under the ordinals by which the ledger knows them.

    Within its unit a row is known by its target key, wherever it stands; one that is new gets an ordinal that no
    other has. ``known``: unit, n and target_key of the output.
    """
    if not known.num_rows:
        return rows
    found = query(
        connection,
        """
        WITH w AS (SELECT *, row_number() OVER (PARTITION BY _unit, _key ORDER BY _n) AS nth FROM _w),
        k AS (SELECT *, row_number() OVER (PARTITION BY unit, target_key ORDER BY n) AS nth FROM _k),
        top AS (SELECT unit, max(n) AS most FROM _k GROUP BY unit)
        SELECT coalesce(k.n, top.most + row_number() OVER (PARTITION BY w._unit, k.n IS NULL ORDER BY w._n), w._n) AS n
        FROM w LEFT JOIN k ON k.unit = w._unit AND k.target_key = w._key AND k.nth = w.nth
        LEFT JOIN top ON top.unit = w._unit ORDER BY w._at
        """,
        _w=rows.select(["_unit", "_n", "_key"]).append_column("_at", pa.array(np.arange(rows.num_rows))),
        _k=known.select(["unit", "n", "target_key"]),
    )
    return set_column(rows, "_n", found["n"].cast(pa.int64()))


def natural_keys(connection: duckdb.DuckDBPyConnection, output: OutputShape, rows: pa.Table) -> pa.Array:
    natural = as_duckdb(rows.select([column.name for column in output.match]), output.match)
    sql = f"SELECT {fingerprint_sql(output.match)} AS nk FROM _n"
    return query(connection, sql, _n=natural)["nk"].combine_chunks()


def _chosen(
    connection: duckdb.DuckDBPyConnection,
    output: OutputShape,
    rows: pa.Table,
    had: pa.Table,
    candidates: pa.Table,
    made: pa.Table,
) -> tuple[pa.Table, pa.Table | None]:
    prefer = rows["_prefer"] if "_prefer" in rows.column_names else pa.nulls(rows.num_rows, pa.string())
    wanted = rows.select(["_unit", "_n", "_key", NATURAL]).append_column("_prefer", prefer)
    found = query(
        connection,
        _SQL,
        _w=wanted.append_column("_at", pa.array(np.arange(rows.num_rows))),
        _h=had,
        _m=made.select([NATURAL, "key"]),
        _c=candidates,
    )
    rows = _under(connection, output, rows, found["key"]).append_column("_there", found["there"])
    refused = pc.is_valid(found["why"])
    if not pc.any(refused).as_py():
        return rows, None
    bad = pa.table({"unit": rows["_unit"], "reason": found["why"]}).filter(refused)
    told = f"{output.dataset}: the row to reuse is there, and `hold_reuse:` says: "
    detail = pc.binary_join_element_wise(told, bad["reason"], "")
    return rows.filter(pc.invert(refused)), bad.append_column("detail", detail)


def _under(
    connection: duckdb.DuckDBPyConnection, output: OutputShape, rows: pa.Table, keys: pa.ChunkedArray
) -> pa.Table:
    """The rows under these keys (text)."""
    other = pc.not_equal(keys, rows["_key"]).combine_chunks()
    if not pc.any(other).as_py():
        return rows
    (column,) = output.key
    sql = f"SELECT CAST(t AS {DUCKDB[column.kind]}) AS {quote(column.name)} FROM _t"
    found = query(connection, sql, _t=pa.table({"t": keys.filter(other)}))
    value = as_wire(found, [column])[column.name]
    moved = keyed_again(connection, output, set_column(rows.filter(other), column.name, value))
    for name in (column.name, "_key", "_fp"):
        merged = pc.replace_with_mask(rows[name].combine_chunks(), other, moved[name].combine_chunks())
        rows = set_column(rows, name, merged)
    return rows


def _candidates(
    connection: duckdb.DuckDBPyConnection, target: Target, output: OutputShape, rows: pa.Table, *, lock: bool
) -> pa.Table:
    """Rows of the target that have the natural key of some row: _nk, key, why (the rule against reusing it)."""
    rules = output.reuse_rules.items()
    names = [c.name for c in output.schema.columns if any(c.name == n for _, p in rules for _, n, _ in p.columns)]
    wanted = list(dict.fromkeys([*(c.name for c in output.match), *output.key_names, *names]))
    columns = [column for name in wanted if (column := output.schema.column(name))]
    arms = " ".join(f"WHEN coalesce(TRY(CAST(({p.sql}) AS BOOLEAN)), true) THEN {literal(n)}" for n, p in rules)
    why = f"CASE {arms} END" if arms else "CAST(NULL AS VARCHAR)"
    found = []
    for keys in _keys(output, rows):
        there = as_wire(target.fetch(output.dataset, keys, wanted, lock=lock).select(wanted), columns)
        said = run_tried(
            connection,
            f"SELECT {fingerprint_sql(output.match)} AS _nk, {key_sql(output.key)} AS key, {why} AS why FROM _there",
            _there=as_duckdb(there, columns),
        )
        found.append(said.cast(_CANDIDATES))
    return pa.concat_tables(found) if found else _CANDIDATES.empty_table()


def _keys(output: OutputShape, rows: pa.Table) -> Iterator[pa.Table]:
    """What to ask the target for: the natural keys without their nulls, which no `=` finds, by where they have them.

    What comes back and has something there is no candidate: its whole natural key is another.
    """
    names = [column.name for column in output.match]
    pattern = np.zeros(rows.num_rows, np.int64)
    for bit, name in enumerate(names):
        pattern |= pc.is_valid(rows[name]).to_numpy(zero_copy_only=False).astype(np.int64) << bit
    for one in np.unique(pattern).tolist():
        filled = [column for bit, column in enumerate(output.match) if one >> bit & 1]
        if filled:
            own = [column.name for column in filled]
            mine = rows.filter(pa.array(pattern == one)).select(own)
            yield as_wire(mine.group_by(own).aggregate([]).select(own), filled)
