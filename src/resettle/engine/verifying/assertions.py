"""Assertions: what must hold in the target beyond its rows: foreign keys, the declaration's own SQL, who sees what."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from resettle.connector import Target
from resettle.engine.flow import Connections
from resettle.errors import AccessError, ResettleError
from resettle.mapping.load import Migration
from resettle.mapping.model import Assertion, Probe


@dataclass(frozen=True)
class Answer:
    """One check: whether it passed, and what is told if it did not (``count`` findings of a kind)."""

    name: str
    passed: bool
    detail: str
    kind: str
    finding: str
    flow: str = ""
    count: int = 1


def orphans(migration: Migration, connections: Connections, flows: Iterable[str]) -> Iterator[Answer]:
    """Rows that point nowhere, in every dataset that the flows write."""
    seen: set[str] = set()
    for name in flows:
        for output in migration.file.flows[name].all_outputs.values():
            if output.into in seen:
                continue
            seen.add(output.into)
            connection, _, dataset = output.into.partition(".")
            for row in connections.target(connection).orphans(dataset).to_pylist():
                count, constraint = row["count"], row["constraint"]
                finding = f"{dataset}: {count} rows point nowhere ({constraint})"
                yield Answer(f"{dataset}: {constraint}", count == 0, f"{count} orphans", "orphan", finding, name, count)


def assertions(migration: Migration, connections: Connections, *, show_values: bool = False) -> Iterator[Answer]:
    """The `verify: assertions:` of the declaration. A text is told only where it is the expected one, or on request."""
    for name, assertion in migration.file.verify.assertions.items():
        value = _first(_on(migration, connections, assertion).ask(assertion.sql))
        detail = f"expected {assertion.expect}, got {_told(value, assertion.expect, show_values)}"
        passed = _same(value, assertion.expect)
        yield Answer(f"assertion {name}", passed, detail, "assertion", f"{name}: {detail}")


def probes(migration: Migration, connections: Connections, *, show_values: bool = False) -> Iterator[Answer]:
    """Every row-level-security probe."""
    for name, probe in migration.file.verify.probes.items():
        target = _on(migration, connections, probe)
        claims = json.dumps(probe.claims) if probe.claims else None
        expect, wanted = probe.expect, str(probe.expect)
        if probe.same_as:
            expect = _first(target.ask(probe.same_as))
            wanted = _told(expect, None, show_values)
        value: Any
        try:
            value = _first(target.ask(probe.sql, role=probe.role, claims=claims))
            said = _told(value, probe.expect, show_values)
        except AccessError:
            value = said = "denied"
        except ResettleError as error:
            value = said = f"error: {error}"
        detail = f"as {probe.role}: expected {wanted}, got {said}"
        yield Answer(f"probe {name}", _same(value, expect), detail, "probe", f"{name}: {detail}")


def _on(migration: Migration, connections: Connections, check: Assertion | Probe) -> Target:
    return connections.target(check.on or migration.file.targets[0])


def _first(rows: list[tuple[Any, ...]]) -> Any:
    return rows[0][0] if rows else None


def _told(value: Any, expect: Any, show_values: bool) -> str:
    """An answer for a report: figures as they are, a text of the target's only on request."""
    plain = value is None or isinstance(value, int | float | Decimal)
    return str(value) if plain or show_values or _same(value, expect) else f"(a text of {len(str(value))} characters)"


def _same(value: Any, expect: Any) -> bool:
    return bool(value == expect) or str(value) == str(expect)
