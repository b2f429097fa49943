"""AppSync as a service: rows read by pages and indexes, and written many in a request; with a key or a user's token."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any, ClassVar

import pyarrow as pa

from resettle.batch import Action
from resettle.connectors.appsync import AliasSettings, AppSync, AppSyncSettings
from resettle.sandbox._door import Fault as DoorFault
from resettle.sandbox.appsync import CUT, EXPIRED, LOST, THROTTLED, TOO_MANY, UNAVAILABLE, Fault, LocalAppSync
from resettle.sandbox.cognito import LocalCognito
from tests.faults.schedule import Schedule
from tests.faults.services import PLANTED, Service

SCHEMA = """
type Person @model { id: ID! name: String! age: Int }
type Pet @model { id: ID! name: String! owner: ID @index(queryField: "petsByOwner") }
"""
THERE = {f"p{number}": number for number in range(7)}


def people(**ages: int) -> pa.Table:
    return pa.table(
        {"id": list(ages), "name": [f"{PLANTED} {name}" for name in ages], "age": pa.array(ages.values(), pa.int32())}
    )


class InAppSync(Service):
    """Let in by an API key."""

    name = "appsync"
    often = ("throttled", "many", "failed", "late", "unsent", "lost", "cut", "short", "page", "empty", "again", "field")
    ends: ClassVar = ("expired", "denied")
    _faults: ClassVar[Mapping[str, Fault]] = {
        "throttled": THROTTLED,
        "many": TOO_MANY,
        "failed": UNAVAILABLE,
        "late": replace(UNAVAILABLE, after=True),
        "unsent": CUT,
        "lost": LOST,
        "cut": Fault(after=True, part="cut"),
        "short": Fault(after=True, part="short"),
        "page": Fault(after=True, part="page"),
        "empty": Fault(after=True, part="empty"),
        "again": Fault(after=True, part="again"),
        "field": Fault(200, "DynamoDB:ProvisionedThroughputExceededException", "", only=0),
        "expired": EXPIRED,
        "denied": Fault(403, "AccessDeniedException", "no"),
    }

    def __init__(self, local: LocalAppSync) -> None:
        self._local = local

    def reset(self) -> None:
        data = self._local.data
        with data.turn:
            for model in data.items:
                for item in list(data.items[model].values()):
                    data._take(model, item)
        data.put("Person", *({"id": key, "name": f"{PLANTED} {key}", "age": age} for key, age in THERE.items()))

    def disturb(self, day: Schedule | None) -> None:
        self.spoil(self._local, day)

    @classmethod
    def spoil(cls, local: LocalAppSync, day: Schedule | None) -> None:
        """From now on things go wrong with this stand-in as the schedule has it."""

        def fault(asked: str) -> Fault | None:
            kind = day(asked) if day else None
            if kind is None or day is None:
                return None
            if kind == "many":
                return replace(TOO_MANY, headers={"Retry-After": str(day.waits(asked) or 0)})
            return cls._faults["failed" if kind in ("empty", "again") and "nextToken" not in asked else kind]

        local.schedule = fault

    def settings(self) -> dict[str, Any]:
        return self._local.settings()

    def job(self) -> None:
        aliases = AliasSettings(read=2, write=2)
        settings = AppSyncSettings(**self.settings(), page_size=3, aliases=aliases, workers=3)
        with closing(AppSync(self.name, settings)) as api, api.remembering():
            self._work(api)

    def _work(self, api: AppSync) -> None:
        (part,) = api.partitions("Person", 1)
        found = {row["id"] for batch in api.read(part, 3) for row in batch.table.to_pylist()}
        assert found >= THERE.keys() - {"p3"}
        ages = api.fetch("Person", pa.table({"id": ["p1", "p2", "nobody"]}), ["age"])["age"].to_pylist()
        assert sorted(ages) in ([1, 2], [11, 12])
        api.write("Person", people(p7=7, p8=8, p9=9, p10=10, p11=11), ["id"], Action.CREATE)
        api.write("Person", people(p1=11, p2=12), ["id"], Action.UPDATE)
        api.delete("Person", pa.table({"id": ["p3", "nobody"]}))
        pets = pa.table({"name": [f"{PLANTED} {name}" for name in "abc"], "owner": ["p1", "p1", "p7"]})
        api.write("Pet", pets, ["owner", "name"], Action.CREATE)  # they bring no id of their own
        assert api.fetch("Pet", pa.table({"owner": ["p1"]}), ["name"]).num_rows == 2

    def check(self) -> None:
        ages = {**THERE, "p1": 11, "p2": 12, **{f"p{number}": number for number in range(7, 12)}}
        del ages["p3"]
        assert {one["id"]: (one["name"], one["age"]) for one in self._local.items("Person")} == {
            key: (f"{PLANTED} {key}", age) for key, age in ages.items()
        }
        pets = sorted((one["owner"], one["name"][-1]) for one in self._local.items("Pet"))
        assert pets == [("p1", "a"), ("p1", "b"), ("p7", "c")]


class InAppSyncByCognito(InAppSync):
    """Let in by a user's token, which may be over; Cognito has bad days too."""

    name = "cognito"
    often = (*InAppSync.often, "expired")
    ends = ("denied",)

    def __init__(self, local: LocalAppSync, pool: LocalCognito) -> None:
        super().__init__(local)
        self._pool = pool

    def settings(self) -> dict[str, Any]:
        return {"url": self._local.url, "cognito": {**self._pool.settings("mover", "Sandbox-1!"), "flow": "password"}}

    def disturb(self, day: Schedule | None) -> None:
        super().disturb(day)

        def fault(asked: str) -> DoorFault | None:
            kind = day(asked) if day else None
            if kind in ("throttled", "many"):
                return DoorFault("status", status=400, code="TooManyRequestsException")
            if kind in ("denied", "expired"):
                return DoorFault("status", status=400, code="NotAuthorizedException")
            return DoorFault(kind if kind in ("unsent", "lost", "cut", "short") else "status") if kind else None

        self._pool.schedule = fault
