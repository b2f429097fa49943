"""plan: what apply would do, counted and sampled; writes nothing anywhere but its own file."""

from __future__ import annotations

import base64
import json
import zlib
from array import array
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from resettle import private
from resettle.engine.balance import Counts
from resettle.engine.count import count_decision, count_prepared, summarise
from resettle.engine.decide import Decider
from resettle.engine.decision import WRITES, Decision, Foreseen
from resettle.engine.flow import Connections, FlowRun, Options, foresee, open_flow, remembering, selected
from resettle.engine.rounds import Rounds
from resettle.engine.uniques import Hashes
from resettle.errors import PlanError, StalePlanError
from resettle.ledger.ledger import Ledger
from resettle.mapping.functions import connect, query
from resettle.mapping.load import Migration
from resettle.middleware.readonly import ReadOnly

FORMAT = 1


@dataclass(frozen=True)
class Plan:
    """A plan: counts per flow, and a hash of every decision, so that exactly it can be applied."""

    migration: str
    environment: str
    made_at: str
    options: Mapping[str, Any]
    digests: Mapping[str, str]
    counts: tuple[Counts, ...]
    decisions: Mapping[str, Hashes]
    engine: str = field(default_factory=lambda: f"duckdb {duckdb.__version__}")

    @property
    def writes(self) -> Counter[str]:
        """By action: what an apply would create, change, patch and copy."""
        every = sum((counter for counts in self.counts for counter in counts.rows.values()), Counter[str]())
        return Counter({action: every[action] for action in WRITES if every[action]})


def plan(migration: Migration, connections: Connections, ledger: Ledger, options: Options, now: datetime) -> Plan:
    """Decide everything, write nothing."""
    foreseen = foresee(migration, connections, selected(migration, options))
    counted: list[Counts] = []
    decisions: dict[str, Hashes] = {}
    digests: dict[str, str] = {}
    with ExitStack() as stack:
        for name in selected(migration, options):
            run = open_flow(migration, name, connections, ledger, foreseen, now, options)
            stack.enter_context(remembering(run.targets))
            counts, hashes = plan_flow(run, ledger, foreseen)
            counts.check()
            counted.append(counts)
            decisions[name], digests[name] = hashes, run.digest
    return Plan(
        migration.name,
        migration.environment,
        now.isoformat(),
        options.as_json(),
        digests,
        tuple(counted),
        decisions,
    )


def plan_flow(run: FlowRun, ledger: Ledger, foreseen: Foreseen) -> tuple[Counts, Hashes]:
    """One flow's counts and the sorted hashes of its decisions."""
    counts = Counts(run.name, unmapped=run.shape.unmapped, unseen=run.shape.unseen)
    targets = {name: ReadOnly(target) for name, target in run.targets.items()}
    database = connect()
    decider = Decider(run.shape, targets, database, foreseen, ledger)
    hashes = array("q")  # grows in one piece
    with run.prepared() as batches:
        rounds = Rounds(batches, run.rows, partial(ledger.known, run.name))
        for prepared in rounds:
            count_prepared(counts, prepared)
            run.options.progress(run.name, "reading", counts)
            if not len(prepared):
                continue
            decision = decider.decide(prepared, optimistic=True, lock=False)
            counts.read -= rounds.decided(prepared, [decision])
            foreseen.accept(run.name, decision)
            count_decision(counts, run.shape, decision, database, show_values=run.options.show_values)
            hashes.frombytes(decision_hashes(database, decision).tobytes())
    summarise(counts, run.shape, database)
    run.options.progress(run.name, "done", counts)
    found: Hashes = np.frombuffer(hashes, np.int64)
    found.sort()
    return counts, found


def decision_hashes(database: duckdb.DuckDBPyConnection, decision: Decision) -> Hashes:
    """One 64-bit hash per unit over its key, its raw record, its status and the actions of its rows.

    The raw record's hash and the mapping's digest stand for the values, so that minted ids and the run's
    time, which differ between a plan and its apply, do not make a plan stale.
    """
    actions = pa.concat_tables(
        [
            made.rows.select(["_unit", "_n", "_action"]).append_column(
                "o", pa.repeat(pa.scalar(made.number), made.rows.num_rows)
            )
            for made in decision.outputs
        ]
    )
    found = query(
        database,
        "SELECT hash(u._unit, u._raw, u.status, u.reason, a.actions) AS h FROM _units u LEFT JOIN"
        " (SELECT _unit, string_agg(_action, ',' ORDER BY o, _n) AS actions FROM _actions GROUP BY _unit) a"
        " ON a._unit = u._unit",
        _units=decision.units,
        _actions=actions,
    )
    hashes: Hashes = found["h"].to_numpy().view(np.int64)
    return hashes


def save(made: Plan, path: Path) -> None:
    """Write a plan file, readable by its owner only."""
    text = json.dumps(
        {
            "resettle_plan": FORMAT,
            "engine": made.engine,
            "migration": made.migration,
            "environment": made.environment,
            "made_at": made.made_at,
            "options": dict(made.options),
            "digests": dict(made.digests),
            "flows": [counts.as_json() for counts in made.counts],
            "decisions": {name: _pack(hashes) for name, hashes in made.decisions.items()},
        }
    )
    with private.replacing(path) as file:
        file.write(text.encode())


def load_plan(path: Path) -> Plan:
    """Read a plan file. Raises PlanError if it is none."""
    try:
        data = json.loads(path.read_text("utf-8"))
        if data["resettle_plan"] != FORMAT:
            raise PlanError(f"{path}: a plan of another resettle version", hint="make a new plan")
        counts = tuple(_counts(flow) for flow in data["flows"])
        decisions = {name: _unpack(text) for name, text in data["decisions"].items()}
        return Plan(
            data["migration"],
            data["environment"],
            data["made_at"],
            data["options"],
            data["digests"],
            counts,
            decisions,
            data["engine"],
        )
    except (OSError, ValueError, KeyError, TypeError, zlib.error) as error:
        raise PlanError(f"{path}: not a plan file ({type(error).__name__})", hint="make one with plan --out") from None


def check_fresh(saved: Plan, current: Plan) -> None:
    """Raise StalePlanError unless a plan made now decides exactly what the saved one did."""
    hint = "make a new plan and look at it"
    if (saved.migration, saved.environment) != (current.migration, current.environment):
        raise PlanError(
            f"the plan is for {saved.migration} ({saved.environment}), not {current.migration} ({current.environment})"
        )
    if saved.engine != current.engine:
        raise StalePlanError(f"the plan was made with {saved.engine}, this is {current.engine}", hint=hint)
    for name, digest in current.digests.items():
        if saved.digests.get(name) != digest:
            raise StalePlanError(f"the plan is stale: the mapping of flow `{name}` changed", hint=hint)
    for counts in current.counts:
        before, after = saved.decisions.get(counts.flow), current.decisions[counts.flow]
        settled = next((c.read for c in saved.counts if c.flow == counts.flow), None)
        if before is None or settled != counts.read or not np.array_equal(before, after):
            differ = len(np.setxor1d(before if before is not None else [], after))
            raise StalePlanError(
                f"the plan is stale: flow `{counts.flow}` would now be decided differently ({differ} decisions)",
                hint=hint,
            )


def _counts(flow: Mapping[str, Any]) -> Counts:
    made = Counts(flow["flow"], flow["read"])
    for word in ("done", "unchanged", "partial", "skipped", "held", "failed"):
        made.units[word] = flow[word]
    for output, actions in flow["rows"].items():
        made.add_rows(output, actions)
    made.reasons.update(flow["reasons"])
    made.warnings.update(flow["warnings"])
    made.exploded = flow.get("exploded", 0)
    made.left_out.update(flow.get("left_out", {}))
    made.counted.update(flow.get("counted", {}))
    made.summary.update(flow.get("summary", {}))
    return made


def _pack(hashes: Hashes) -> str:
    return base64.b64encode(zlib.compress(hashes.astype("<i8").tobytes())).decode()


def _unpack(text: str) -> Hashes:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), "<i8").astype(np.int64)
