"""Outcomes: which record has which status, why, and what it became; keys and reasons, and labels on request."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from resettle.batch import TROUBLE, Status
from resettle.engine.flow import Connections, Options, compile_flow, selected
from resettle.engine.shape import unit_keys
from resettle.errors import ConfigError
from resettle.ledger.ledger import Ledger
from resettle.mapping.functions import run_tried
from resettle.mapping.load import Migration
from resettle.middleware.readahead import batches, plainly

Outcome = dict[str, Any]
"""flow, unit, status, reason, detail, warnings, waiting, targets, first_run, last_run, attempts; label where asked."""

PENDING = "pending"
"""A record of the source that no run has settled: it is new, or a run died over it."""
STATUSES = (PENDING, *(str(status) for status in Status if status is not Status.UNCHANGED))
CHUNK = 10_000
_WAITING = re.compile(r"(.+?) \(([^()]+)\)(?:, |$)")


def outcomes(
    migration: Migration,
    connections: Connections,
    ledger: Ledger,
    options: Options,
    statuses: Sequence[str],
    *,
    reason: str | None = None,
) -> Iterator[Outcome]:
    """Every record of the selected flows with one of the statuses, by flow and status.

    With ``options.show_values`` each has the label that the mapping gives it (null without one), for which the source
    is read; so it is for `pending`, of which the ledger knows nothing. Writes nothing. Raises ConfigError.
    """
    for status in statuses:
        if status not in STATUSES:
            raise ConfigError(f"there is no status `{status}`", hint=f"one of {', '.join(STATUSES)}")
    for flow in selected(migration, options):
        known = (_with_targets(ledger, flow, _remembered(ledger, flow, s, reason)) for s in statuses if s != PENDING)
        found = itertools.chain.from_iterable(known)
        if PENDING in statuses and reason is None:
            found = itertools.chain(found, _pending(migration, connections, ledger, options, flow))
        yield from labelled(migration, connections, options, found) if options.show_values else found


def unsettled(ledger: Ledger, flows: Iterable[str], run: int) -> Iterator[Outcome]:
    """What somebody should look at after a run of these flows: what failed in it, and all that is held."""
    for flow in flows:
        failed = _remembered(ledger, flow, str(Status.FAILED), None)
        yield from (one for one in failed if one["last_run"] == run)
        yield from _remembered(ledger, flow, str(Status.HELD), None)


def labelled(
    migration: Migration, connections: Connections, options: Options, found: Iterable[Outcome]
) -> list[Outcome]:
    """The outcomes with their `label`, read from the source as it is now; null where it has none, or no such record."""
    listed, wanted = list(found), dict[str, set[str]]()
    for one in listed:
        wanted.setdefault(one["flow"], set()).add(_source_unit(one))
    labels: dict[tuple[str, str], str | None] = {}
    for flow, units in wanted.items():
        if migration.file.flows[flow].label is None:
            continue
        asked = pa.array(sorted(units), pa.string())
        for keys, names in _records(migration, connections, options, flow):
            mine = pc.is_in(keys, asked)
            pairs = zip(keys.filter(mine).to_pylist(), names.filter(mine).to_pylist(), strict=True)
            labels |= {(flow, unit): label for unit, label in pairs}
    return [
        {"flow": one["flow"], "unit": one["unit"], "label": labels.get((one["flow"], _source_unit(one)))} | one
        for one in listed
    ]


def _source_unit(one: Mapping[str, Any]) -> str:
    """A second record of a unit has a key of its own in the ledger; the source knows it by the unit's."""
    unit = str(one["unit"])
    return unit.rpartition("#")[0] if one.get("reason") == "duplicate_unit" else unit


def _remembered(ledger: Ledger, flow: str, status: str, reason: str | None) -> Iterator[Outcome]:
    if status != Status.DONE:
        yield from (_outcome(flow, status, one) for one in ledger.each_unit(status, flow, reason))
    elif not reason:
        yield from (_outcome(flow, status, {"unit": unit}) for unit in ledger.done(flow))


def _outcome(flow: str, status: str, unit: Mapping[str, Any]) -> Outcome:
    names = ("reason", "detail", "warnings")
    told = {"flow": flow, "unit": unit["unit"], "status": status} | {name: unit.get(name) for name in names}
    told["waiting"] = waiting(unit.get("detail")) if status == Status.PARTIAL else []
    return told | {name: unit.get(name) for name in ("first_run", "last_run", "attempts", "note")}


def waiting(detail: str | None) -> list[dict[str, str]]:
    """The rows that a partial record waits for, as the ledger tells them: the row's key and the rule."""
    found = _WAITING.findall((detail or "").removeprefix("waiting: "))
    return [{"row": row, "reason": reason} for row, reason in found]


def _with_targets(ledger: Ledger, flow: str, found: Iterator[Outcome]) -> Iterator[Outcome]:
    """The outcomes with what their records became: `targets`, each an output, a key, and whether we only reuse it."""
    names = {number: name for name, number in ledger.outputs(flow).items()}
    while some := list(itertools.islice(found, CHUNK)):
        made: dict[str, list[dict[str, Any]]] = {}
        rows = ledger.known(flow, pa.array([one["unit"] for one in some], pa.string())).rows
        rows = rows.filter(pc.is_valid(rows["fp"])).sort_by(
            [("unit", "ascending"), ("output", "ascending"), ("n", "ascending")]
        )
        for row in rows.select(["unit", "output", "target_key", "reused"]).to_pylist():
            target = {"output": names[row["output"]], "key": row["target_key"], "reused": bool(row["reused"])}
            made.setdefault(row["unit"], []).append(target)
        yield from (one | {"targets": made.get(one["unit"], [])} for one in some)


def _pending(
    migration: Migration, connections: Connections, ledger: Ledger, options: Options, flow: str
) -> Iterator[Outcome]:
    """Records of the source that the ledger does not know, or only as intended."""
    for keys, _ in _records(migration, connections, options, flow):
        keys = keys.drop_null()
        known = ledger.known(flow, keys)
        meant = known.rows.filter(pc.is_null(known.rows["fp"]))["unit"].combine_chunks()
        told = known.units.filter(pc.is_valid(known.units["status"]))["unit"].combine_chunks()
        meant = meant.filter(pc.invert(pc.is_in(meant, told)))
        new = pc.or_(pc.invert(pc.is_in(keys, known.units["unit"].combine_chunks())), pc.is_in(keys, meant))
        for unit in keys.filter(new).to_pylist():
            yield _outcome(flow, PENDING, {"unit": unit}) | {"targets": []}


def _records(
    migration: Migration, connections: Connections, options: Options, flow: str
) -> Iterator[tuple[pa.Array, pa.Array]]:
    """The unit key and the label (null without one) of every record of the source, as text."""
    shape, database, lookups = compile_flow(migration, flow, connections)
    if shape.label:
        lookups.load(lookups.asked((), shape.label.functions))
    label = f"CAST(TRY({shape.label.sql}) AS VARCHAR)" if shape.label else "CAST(NULL AS VARCHAR)"
    connection, _, dataset = migration.file.flows[flow].from_.partition(".")
    source = connections.source(connection)
    for batch in batches(source, dataset, rows=CHUNK, workers=options.workers, look=plainly):
        rows = batch.decode(batch.table, list(shape.needs))
        rows = rows.drop_columns([TROUBLE]) if TROUBLE in rows.column_names else rows
        keys = unit_keys(database, shape, rows)
        names = run_tried(database, f"SELECT {label} AS label FROM source", source=rows.append_column("_unit", keys))
        yield keys, names["label"].combine_chunks()
