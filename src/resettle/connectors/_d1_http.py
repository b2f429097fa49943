"""D1's HTTP API: its limits in one table, one request, and the errors it answers with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote as in_url

import orjson
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from resettle.calls import demand_tls, seconds_of
from resettle.connector import Needs
from resettle.connectors._http import GarbledError, pool_of

MOST_PARAMETERS = 100
"""In one statement: https://developers.cloudflare.com/d1/platform/limits/ , as the next four."""
MOST_SQL = 100_000
"""Bytes of one statement."""
MOST_VALUE = 2_000_000
"""Bytes of one string, BLOB or row; a parameter is a string."""
MOST_COLUMNS = 100
"""Of a table, and by SQLite's own rule of a result."""
LONGEST_QUERY = 30.0
"""Seconds of one statement."""
LARGEST_CHUNK = 1_000_000
"""Ours: bytes of rows in one parameter, so that a statement takes a fraction of `LONGEST_QUERY`."""
LARGEST_REQUEST = 16_000_000
"""Ours: bytes of one request. No limit is documented, but D1 has to hold it within the 128 MB of a Durable Object
(https://developers.cloudflare.com/durable-objects/platform/limits/) together with the database's own pages."""
LARGEST_ANSWER = 4_000_000
"""Ours: characters of values in one answer, for the same reason."""


@dataclass(frozen=True)
class Statement:
    """One statement; every parameter is text, as the API documents them."""

    sql: str
    parameters: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {"sql": self.sql, "params": list(self.parameters)}


@dataclass(frozen=True)
class Answer:
    """What one statement gave."""

    columns: list[str]
    rows: list[list[Any]]


class ApiError(Exception):
    """The service answered with an error: HTTP status, its own text, and what it asks for."""

    def __init__(self, status: int, text: str, retry_after: float | None = None) -> None:
        super().__init__(f"HTTP {status}")
        self.status, self.text, self.retry_after = status, text, retry_after


def never_ran(error: BaseException) -> bool:
    """Whether the service surely did not run what was sent: it was never sent, or refused while it queued."""
    if isinstance(error, ApiError):
        return error.status == 429 or "is overloaded" in error.text
    return isinstance(error, NewConnectionError | ConnectTimeoutError)


class Http:
    """Sends statements to one database. Any thread may; nothing is tried again here."""

    def __init__(self, url: str, account: str, database: str, token: str, connect: float, read: float) -> None:
        demand_tls(url, "url")
        self._url = f"{url.rstrip('/')}/accounts/{in_url(account, safe='')}/d1/database/{in_url(database, safe='')}/raw"
        self._pool = pool_of(connect, read, 16)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def run(self, body: bytes) -> list[Answer]:
        """The answer to each statement of a request. Raises ApiError, GarbledError or what urllib3 raises."""
        answer = self._pool.request("POST", self._url, body=body, headers=self._headers, redirect=False)
        try:
            found = orjson.loads(answer.data)
            good = answer.status == 200 and found["success"] is True
            if good:
                return [Answer(one["results"]["columns"], one["results"]["rows"]) for one in found["result"]]
            text = "; ".join(str(error["message"]) for error in found["errors"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            if answer.status == 200:
                raise GarbledError from None
            text = ""
        raise ApiError(answer.status, text, seconds_of(answer.headers.get("Retry-After")))

    def close(self) -> None:
        self._pool.clear()


def privileges(needs: Needs, *, rollback: bool = False) -> Sequence[str]:
    """D1 knows no smaller right than to write a database of the account."""
    writes = needs.ledger is not None or any(use.created or use.updated for use in needs.uses)
    return () if rollback else (f"an API token with the permission Account > D1 > {'Edit' if writes else 'Read'}",)


def body_of(statements: Sequence[Statement]) -> bytes:
    """A request; several statements are one transaction."""
    if len(statements) == 1:
        return orjson.dumps(statements[0].as_json())
    return orjson.dumps({"batch": [statement.as_json() for statement in statements]})
