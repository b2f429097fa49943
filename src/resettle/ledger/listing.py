"""The ledger's answers for people: runs, units that are not plainly done, counts, one record's story."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from resettle.connector import Sql

PAGE = 5_000
"""Units that are read at once."""


class Listing:
    """Reads only; `Ledger` adds what writes."""

    _sql: Sql
    _p: str
    _store: ModuleType
    migration: str
    environment: str
    exists: bool
    _flows: dict[str, int]

    @property
    def _mine(self) -> tuple[str, str]:
        return (self.migration, self.environment)

    def runs(self, limit: int = 50) -> list[dict[str, Any]]:
        """The latest runs, newest first."""
        names = ["run", "phase", "status", "started_at", "completed_at", "host", "pid", "options", "summary"]
        if not self.exists:
            return []
        rows = self._sql.execute(
            f"SELECT {', '.join(names)} FROM {self._p}runs WHERE migration = %s AND environment = %s"
            f" ORDER BY run DESC LIMIT {int(limit)}",
            self._mine,
        )
        found = [dict(zip(names, row, strict=True)) for row in rows]
        for one in found:
            one["options"] = json.loads(one["options"])
            one["summary"] = json.loads(one["summary"]) if one["summary"] else None
            one |= {key: str(one[key]) if one[key] else None for key in ("started_at", "completed_at")}
        return found

    def units(
        self,
        status: str,
        flow: str | None = None,
        reason: str | None = None,
        limit: int | None = None,
        *,
        unit: str | None = None,
    ) -> list[dict[str, Any]]:
        """Units with a status, by flow, reason and unit."""
        return list(self.each_unit(status, flow, reason, limit, unit=unit))

    def each_unit(
        self,
        status: str,
        flow: str | None = None,
        reason: str | None = None,
        limit: int | None = None,
        *,
        unit: str | None = None,
    ) -> Iterator[dict[str, Any]]:
        """The same, read a page at a time: there may be millions."""
        if not self.exists:
            return
        where, parameters = self._units_where(status, flow, reason, [unit] if unit is not None else None)
        groups = self._sql.execute(
            f"SELECT DISTINCT f.flow, f.name, u.reason FROM {self._p}units u JOIN {self._p}flows f ON f.flow = u.flow"
            f" WHERE {where} ORDER BY f.flow, u.reason",
            parameters,
        )
        size = min(limit or PAGE, PAGE)
        each = (one for at, name, why in groups for one in self._of_group(status, int(at), name, why, unit, size))
        yield from itertools.islice(each, limit or None)

    def _of_group(
        self, status: str, flow: int, name: str, reason: str | None, unit: str | None, size: int
    ) -> Iterator[dict[str, Any]]:
        """Units of one flow with one status and reason, in order. By their key: no page costs more than the first."""
        names = ["unit", "reason", "detail", "warnings", "first_run", "last_run", "attempts", "note"]
        where, parameters = f"flow = {flow} AND status = %s", [str(status)]
        for column, value in (("reason", reason), ("unit", unit)):
            if value is not None:
                where, parameters = f"{where} AND {column} = %s", [*parameters, value]
        where = where if reason is not None else f"{where} AND reason IS NULL"
        after: list[str] = []
        while True:
            rows = self._sql.execute(
                f"SELECT {', '.join(names)} FROM {self._p}units WHERE {where}{' AND unit > %s' if after else ''}"
                f" ORDER BY unit LIMIT {size}",
                [*parameters, *after],
            )
            yield from (dict(zip(["flow", *names], [name, *row], strict=True)) for row in rows)
            if len(rows) < size:
                return
            after = [rows[-1][0]]

    def done(self, flow: str) -> list[str]:
        """Units of a flow that are done, in order: all of their rows were written or reused."""
        if not self.exists or flow not in self._flows:
            return []
        number = self._flows[flow]
        rows = self._sql.execute(
            f"SELECT d.unit FROM (SELECT r.unit FROM {self._p}rows r WHERE r.flow = {number} GROUP BY r.unit"
            f" HAVING count(*) = count(r.fingerprint) UNION SELECT u.unit FROM {self._p}units u"
            f" WHERE u.flow = {number} AND u.status = 'done') d WHERE NOT EXISTS (SELECT 1 FROM {self._p}units x"
            f" WHERE x.flow = {number} AND x.unit = d.unit AND x.status <> 'done') ORDER BY d.unit"
        )
        return [str(unit) for (unit,) in rows]

    def count_units(self) -> list[dict[str, Any]]:
        """How many units have which status and reason (plainly done ones come from `rows`)."""
        if not self.exists:
            return []
        rows = self._sql.execute(
            f"SELECT f.name, u.status, u.reason, u.warnings, count(*) FROM {self._p}units u"
            f" JOIN {self._p}flows f ON f.flow = u.flow WHERE f.migration = %s AND f.environment = %s"
            " GROUP BY f.name, u.status, u.reason, u.warnings ORDER BY 1, 2, 3, 4",
            self._mine,
        )
        names = ("flow", "status", "reason", "warnings", "count")
        return [dict(zip(names, row, strict=True)) for row in rows]

    def count_rows(self) -> dict[str, dict[str, int]]:
        """Target rows in the id map, and units behind them, per flow."""
        if not self.exists:
            return {}
        rows = self._sql.execute(
            f"SELECT f.name, count(*), count(DISTINCT r.unit) FROM {self._p}rows r"
            f" JOIN {self._p}flows f ON f.flow = r.flow WHERE f.migration = %s AND f.environment = %s"
            " AND r.fingerprint IS NOT NULL GROUP BY f.name",
            self._mine,
        )
        return {str(name): {"rows": int(count), "units": int(units)} for name, count, units in rows}

    def trace(self, key: str) -> list[dict[str, Any]]:
        """Everything remembered of a source unit or a target key."""
        if not self.exists:
            return []
        rows = self._sql.execute(
            f"SELECT f.name, f.outputs, r.unit, r.output, r.n, coalesce(r.target_key, r.unit), r.run, r.changed_run,"
            f" r.reused, r.fingerprint IS NULL FROM {self._p}rows r JOIN {self._p}flows f ON f.flow = r.flow"
            " WHERE f.migration = %s AND f.environment = %s AND (r.unit = %s OR r.target_key = %s)"
            " ORDER BY f.flow, r.unit, r.output, r.n",
            (*self._mine, key, key),
        )
        names = ("flow", "outputs", "unit", "output", "n", "target_key", "run", "changed_run", "reused", "intended")
        found = [dict(zip(names, row, strict=True)) for row in rows]
        for one in found:
            one["output"] = json.loads(one.pop("outputs"))[one["output"]]
            one["reused"] = bool(one["reused"])
            if one.pop("intended"):
                one["intended"] = True  # it was to be written, and never was confirmed
        units = self._sql.execute(
            f"SELECT f.name, u.unit, u.status, u.reason, u.detail, u.warnings, u.first_run, u.last_run, u.note"
            f" FROM {self._p}units u JOIN {self._p}flows f ON f.flow = u.flow WHERE f.migration = %s"
            " AND f.environment = %s AND u.unit = %s",
            (*self._mine, key),
        )
        told = ("flow", "unit", "status", "reason", "detail", "warnings", "first_run", "last_run", "note")
        return found + [dict(zip(told, row, strict=True)) for row in units]

    def _units_where(
        self, status: str, flow: str | None, reason: str | None, units: Sequence[str] | None
    ) -> tuple[str, list[Any]]:
        where = "f.migration = %s AND f.environment = %s AND u.status = %s"
        parameters: list[Any] = [*self._mine, str(status)]
        for column, value in (("f.name", flow), ("u.reason", reason)):
            if value:
                where, parameters = f"{where} AND {column} = %s", [*parameters, value]
        if units:
            marks = ", ".join(["%s"] * len(units))
            where, parameters = f"{where} AND u.unit IN ({marks})", [*parameters, *units]
        return where, parameters

    def owned(self, flow: str, output: int, keys: Sequence[str]) -> list[str]:
        """Which target keys some unit of the flow already has. Reads the whole id map: for the odd few."""
        return self._having([(self._flows[flow], output)], keys) if flow in self._flows else []

    def owned_in(self, into: str, key: Sequence[str], keys: Sequence[str]) -> list[str]:
        """The same of all flows that ever wrote to a dataset by this key, also those of other migrations here."""
        if not keys or not self.exists:
            return []
        shapes = self._sql.execute(f"SELECT DISTINCT flow, output, columns FROM {self._p}shapes")
        told = [(int(flow), int(output), json.loads(text)) for flow, output, text in shapes]
        alike = {(flow, output) for flow, output, one in told if (one["into"], one["key"]) == (into, list(key))}
        return self._having(sorted(alike), keys)

    def _having(self, outputs: Sequence[tuple[int, int]], keys: Sequence[str]) -> list[str]:
        if not keys or not outputs:
            return []
        where = " OR ".join(f"(flow = {flow:d} AND output = {output:d})" for flow, output in outputs)
        rows = self._sql.execute(
            f"SELECT coalesce(target_key, unit) FROM {self._p}rows WHERE ({where})"
            f" AND coalesce(target_key, unit) IN ({self._store.TEXTS})",
            (json.dumps(list(keys)),),
        )
        return [str(key) for (key,) in rows]

    def place(self, flow: str, output: int) -> tuple[str, tuple[str, ...]] | None:
        """The dataset and key columns in which an output's rows were made; None while there are none."""
        if flow not in self._flows:
            return None
        found = self._sql.execute(
            f"SELECT columns FROM {self._p}shapes s WHERE flow = %s AND output = %s AND EXISTS (SELECT 1"
            f" FROM {self._p}rows r WHERE r.flow = s.flow AND r.output = s.output AND r.shape = s.shape) LIMIT 1",
            (self._flows[flow], output),
        )
        shape = json.loads(found[0][0]) if found else None
        return (shape["into"], tuple(shape["key"])) if shape else None
