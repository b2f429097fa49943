"""AppSync over HTTP: its limits in one table, one request, its answer, and the errors inside of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from resettle.calls import demand_tls, seconds_of
from resettle.connectors._http import GarbledError, pool_of

LIMITS: Mapping[str, tuple[int, str]] = {
    "resolvers": (10_000, "resolvers in one request: an alias is one, so is each of its nested fields"),
    "seconds": (30, "for one request, its writes included"),
    "request": (1_048_576, "bytes of one request"),
    "page": (1_048_576, "bytes that one scan or query reads of DynamoDB, whatever its `limit`"),
}
"""Documented quotas: https://docs.aws.amazon.com/general/latest/gr/appsync.html and, for a page, DynamoDB's."""
MOST_READS, MOST_WRITES = 200, 100
"""Ours: aliases in one request, far below `resolvers`, so that even slow resolvers stay within `seconds`."""
LARGEST_BATCH = 500_000
"""Ours: bytes of values in one aliased request, half of `request`."""


@dataclass(frozen=True)
class Trouble:
    """One entry of an answer's `errors`. ``text`` may hold values and never leaves the connector."""

    path: tuple[str | int, ...]
    kind: str
    text: str


@dataclass(frozen=True)
class Answer:
    """What one request gave: the fields by alias, null where they failed, and why."""

    data: Mapping[str, Any]
    troubles: Sequence[Trouble] = ()


class ApiError(Exception):
    """The whole request failed: HTTP status, the service's own type and text, and what it asks for."""

    def __init__(self, status: int, kind: str = "", text: str = "", retry_after: float | None = None) -> None:
        super().__init__(f"HTTP {status}")
        self.status, self.kind, self.text, self.retry_after = status, kind, text, retry_after


class ExpiredError(Exception):
    """The service does not take the token any more; a new one was made, and the request may be sent again."""


class Auth(Protocol):
    """Lets requests in."""

    def headers(self, url: str, body: bytes) -> Mapping[str, str]:
        """What a request needs; signs in first where that is needed."""
        ...

    def renew(self, refused: Mapping[str, str]) -> bool:
        """After HTTP 401 for these headers: whether there are other ones now that were not refused yet."""
        ...


class Http:
    """Sends requests to one API. Any thread may; nothing is tried again here."""

    def __init__(self, url: str, auth: Auth, connect: float, read: float) -> None:
        demand_tls(url, "url")
        self._url, self._auth = url, auth
        self._pool = pool_of(connect, read)

    def run(self, query: str, variables: Mapping[str, Any] | None = None) -> Answer:
        """Raises ApiError, ExpiredError, GarbledError, or what urllib3 and the sign-in raise."""
        body = orjson.dumps({"query": query, "variables": variables or {}})
        headers = self._auth.headers(self._url, body)
        sent = {"Content-Type": "application/json", **headers}
        answer = self._pool.request("POST", self._url, body=body, headers=sent, redirect=False)
        try:
            found = orjson.loads(answer.data)
            data, troubles = found.get("data"), [_trouble(one) for one in found.get("errors") or ()]
        except (orjson.JSONDecodeError, AttributeError, TypeError):
            if answer.status == 200:
                raise GarbledError from None
            data, troubles = None, []
        if answer.status == 401 and self._auth.renew(headers):
            raise ExpiredError
        if answer.status == 200 and data is not None:
            return Answer(data, troubles)
        first = troubles[0] if troubles else Trouble((), "", "")
        raise ApiError(answer.status, first.kind, first.text, seconds_of(answer.headers.get("Retry-After")))

    def close(self) -> None:
        self._pool.clear()


def _trouble(entry: Mapping[str, Any]) -> Trouble:
    return Trouble(tuple(entry.get("path") or ()), str(entry.get("errorType") or ""), str(entry.get("message") or ""))
