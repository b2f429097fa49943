"""DynamoDB as a service: a table read in segments, and an export of it read from a bucket."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from resettle.batch import TROUBLE
from resettle.connectors.dynamodb import DynamoDB, DynamoDBSettings, _client
from resettle.sandbox.dynamodb import Fault, LocalDynamoDB
from tests.contract.cases import Place, _item, export_source
from tests.faults.schedule import Schedule
from tests.faults.services import PLANTED, Service

ROWS = [{"id": f"i{number}", "name": f"{PLANTED} {number}", "age": number} for number in range(9)]

KEYS: Mapping[str, Any] = {"access_key_id": "sandbox", "secret_access_key": "sandbox"}


class InDynamoDB(Service):
    """The live table, by Scan."""

    name = "dynamodb"
    often = ("slow", "throttled", "failed", "late", "unsent", "lost", "cut", "short", "empty", "again", "page")
    ends = ("skewed", "expired", "denied")
    _faults: ClassVar[Mapping[str, Fault]] = {
        "slow": Fault("status", status=400, code="ProvisionedThroughputExceededException"),
        "throttled": Fault("status", status=400, code="ThrottlingException"),
        "failed": Fault("status", status=500, code="InternalServerError"),
        "late": Fault("late", status=503, code="ServiceUnavailable"),
        "page": Fault("page", status=429),
        "skewed": Fault("status", status=400, code="InvalidSignatureException"),
        "expired": Fault("status", status=400, code="ExpiredTokenException"),
        "denied": Fault("status", status=400, code="AccessDeniedException"),
    }

    def __init__(self, local: LocalDynamoDB, folder: Path) -> None:
        self._local = local
        settings = DynamoDBSettings(endpoint_url=local.endpoint_url, region="us-east-1", **KEYS)
        self._client = _client(self.name, settings, self.service)  # making one takes longer than a job
        local.load("people", ["id"], map(_item, ROWS))
        self._at_rest = local.client("s3")
        self._at_rest.create_bucket(Bucket="exports")
        export_source(Place(folder, str), ROWS).close()
        for path in (folder / "AWSDynamoDB").rglob("*.*"):
            self._at_rest.put_object(Bucket="exports", Key=f"pre/{path.relative_to(folder)}", Body=path.read_bytes())

    service: ClassVar = "dynamodb"
    paged: ClassVar = "Scan "

    def reset(self) -> None:
        """Nothing is ever written."""

    def disturb(self, day: Schedule | None) -> None:
        self.spoil(self._local, day)

    @classmethod
    def spoil(cls, local: LocalDynamoDB, day: Schedule | None) -> None:
        """From now on things go wrong with this stand-in as the schedule has it."""

        def fault(asked: str) -> Fault | None:
            kind = day(asked) if day else None
            if kind is None or day is None:
                return None
            if kind in ("empty", "again") and not asked.startswith(cls.paged):
                kind = "failed"
            return cls._spoilt(cls._faults.get(kind) or Fault(kind), asked, day)

        local.schedule = fault

    @classmethod
    def _spoilt(cls, fault: Fault, asked: str, day: Schedule) -> Fault:
        return fault

    def settings(self) -> dict[str, Any]:
        return {"segments": 2}

    def job(self) -> None:
        settings = DynamoDBSettings(region="us-east-1", **self.settings())
        with closing(DynamoDB(self.name, settings, client=self._client)) as source:
            assert source.datasets() == ["people"]
            assert {"id", "name", "age"} <= set(source.schema("people").names)
            found = []
            for part in source.partitions("people", 2):
                for batch in source.read(part, 2):
                    table = batch.decode(batch.table, ["id", "name", "age"])
                    assert TROUBLE not in table.column_names or table[TROUBLE].null_count == table.num_rows
                    found += table.select(["id", "name", "age"]).to_pylist()
        told = {json.dumps({**one, "age": int(one["age"])}) for one in found}
        assert told == {json.dumps(one) for one in ROWS}

    def check(self) -> None:
        """Nothing is ever written."""


class InExport(InDynamoDB):
    """An export of it in a bucket."""

    name = "dynamodb_export"
    often = ("slow", "busy", "failed", "late", "unsent", "lost", "cut", "short", "page", "corrupt")
    ends = ("skewed", "expired", "denied")
    service = "s3"
    _faults: ClassVar = {
        **InDynamoDB._faults,
        "slow": Fault("status", code="SlowDown"),
        "busy": Fault("status", code="ServiceUnavailable"),
        "skewed": Fault("status", status=403, code="RequestTimeTooSkewed"),
        "expired": Fault("status", status=400, code="ExpiredToken"),
        "denied": Fault("status", status=403, code="AccessDenied"),
    }

    @classmethod
    def _spoilt(cls, fault: Fault, asked: str, day: Schedule) -> Fault:
        if fault.kind == "corrupt" and not asked.startswith("GET /exports/pre"):
            return cls._faults["failed"]
        return replace(fault, retry_after=day.waits(asked)) if fault is cls._faults["slow"] else fault

    def settings(self) -> dict[str, Any]:
        return {"export": "s3://exports/pre"}
