"""Cloudflare D1 on this machine: its HTTP API over SQLite, with D1's limits, on a free port of 127.0.0.1.

What it enforces is what Cloudflare documents or its engine was seen to do: the limits of a statement, one
transaction for a batch, foreign keys, numbers rounded as JavaScript's, BLOBs as arrays of numbers.
"""

from __future__ import annotations

import math
import re
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson

ACCOUNT, DATABASE, TOKEN = "sandbox", "00000000-0000-4000-8000-000000000001", "sandbox"
LIMITS = {
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 100,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 100_000,
    sqlite3.SQLITE_LIMIT_LENGTH: 2_000_000,
    sqlite3.SQLITE_LIMIT_COLUMN: 100,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 32,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 50,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 5,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
}
"""https://developers.cloudflare.com/d1/platform/limits/ for the first six; the others its engine was seen to have,
or has by SQLite's advice for SQL from strangers (https://sqlite.org/security.html)."""

_ROUTE = re.compile(r"/client/v4/accounts/([^/]+)/d1/database/([^/]+)/(query|raw)$")
_OURS = {"BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "ATTACH", "DETACH", "VACUUM"}


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request. ``after``: it takes effect first. Without a status the line is cut.

    ``part``: of the answer. `cut` is half of it, then the end of the line; `short` is half of it as if it were all;
    `page` is a proxy's page in its place.
    """

    status: int = 0
    message: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    after: bool = False
    part: str = ""


TOO_MANY = Fault(429, "Too many requests", {"Retry-After": "0"})
OVERLOADED = Fault(500, "D1 DB is overloaded. Requests queued for too long.")
RESET = Fault(500, "D1_ERROR: Network connection lost.")
CUT = Fault()
LOST = Fault(after=True)


@dataclass
class LocalD1:
    """A running stand-in. ``faults`` is asked before each request, with its statements, what goes wrong with it."""

    url: str
    base: sqlite3.Connection
    turn: threading.Lock
    faults: Callable[[Sequence[str]], Fault | None] = lambda statements: None
    requests: list[list[str]] = field(default_factory=list)
    """The statements of every request."""

    def settings(self) -> dict[str, Any]:
        """Settings of a connection of type `d1`."""
        return {"url": self.url, "account": ACCOUNT, "database": DATABASE, "token": TOKEN}

    def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        """What somebody else does to the database: the rows of the last statement. No limit applies but D1's own."""
        with self.turn:
            found: list[tuple[Any, ...]] = []
            for statement in statements:
                found = self.base.execute(statement).fetchall()
            return found


@contextmanager
def start_d1(path: Path | str = ":memory:") -> Iterator[LocalD1]:
    """Start it over one database file, and stop it."""
    base = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    base.text_factory = lambda raw: raw.decode(errors="replace")  # as JavaScript reads text
    base.execute("PRAGMA foreign_keys = ON")
    # A sandbox outlives no power cut, as its Postgres does not; and a server has more than SQLite's 2 MB for its pages.
    base.execute("PRAGMA synchronous = OFF")
    base.execute("PRAGMA cache_size = -200000")
    base.execute("PRAGMA journal_mode = MEMORY")
    base.create_function("unhex", 1, _unhex, deterministic=True)  # SQLite has it from 3.41, D1 has it
    base.create_function("pow", 2, _pow, deterministic=True)
    for limit, most in LIMITS.items():
        base.setlimit(limit, most)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    local = LocalD1(f"http://127.0.0.1:{server.server_port}/client/v4", base, threading.Lock())
    server.local = local  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield local
    finally:
        server.shutdown()
        server.server_close()
        with local.turn:
            base.close()


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing: one line for every request otherwise."""

    def do_POST(self) -> None:
        local: LocalD1 = self.server.local  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        route = _ROUTE.match(self.path)
        if not route:
            self._refuse(404, 7003, "Could not route to this path")
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._refuse(401, 10000, "Authentication error")
        elif route.group(1, 2) != (ACCOUNT, DATABASE):
            self._refuse(404, 7404, "The database was not found")
        else:
            asked = orjson.loads(body)
            batch = asked.get("batch") or [asked]
            local.requests.append([one["sql"] for one in batch])
            self._answer(local, batch, route[3])

    def _answer(self, local: LocalD1, batch: Sequence[Mapping[str, Any]], form: str) -> None:
        fault = local.faults([one["sql"] for one in batch])
        if fault and not fault.after:
            self._fail(fault)
            return
        try:
            found = _run(local, batch)
        except (sqlite3.Error, sqlite3.Warning, TypeError) as error:
            self._refuse(400, 7500, _words(error))
            return
        if fault and not fault.part:
            self._fail(fault)
            return
        results = [_result(columns, rows, changes, form) for columns, rows, changes in found]
        body = {"success": True, "errors": [], "messages": [], "result": results}
        self._send(200, body, part=fault.part if fault else "")

    def _fail(self, fault: Fault) -> None:
        if fault.status:
            self._refuse(fault.status, 7500, fault.message, fault.headers)
        else:
            self._cut()

    def _cut(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def _refuse(self, status: int, code: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        errors = [{"code": code, "message": message}]
        self._send(status, {"success": False, "errors": errors, "messages": [], "result": None}, headers)

    def _send(
        self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None, *, part: str = ""
    ) -> None:
        text = b"<html>Bad gateway</html>" if part == "page" else orjson.dumps(body)
        text = text[: len(text) // 2] if part == "short" else text
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(text)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text if part != "cut" else text[: len(text) // 2])
        if part == "cut":
            self._cut()


def _run(local: LocalD1, batch: Sequence[Mapping[str, Any]]) -> list[tuple[list[str], list[tuple[Any, ...]], int]]:
    """All statements in one transaction, one request after the other: a D1 has one thread."""
    with local.turn:
        base, found = local.base, []
        base.execute("BEGIN IMMEDIATE")
        try:
            for one in batch:
                first = re.match(r"\s*(\w*)", one["sql"])
                if first and first[1].upper() in _OURS:
                    raise TypeError("not authorized: SQLITE_AUTH")
                if not all(isinstance(value, str) for value in one.get("params", ())):
                    raise TypeError("params: expected text")
                before = base.total_changes
                cursor = base.execute(one["sql"], one.get("params", ()))
                names = [column[0] for column in cursor.description or ()]
                found.append((names, cursor.fetchall(), base.total_changes - before))
            base.execute("COMMIT")
        except BaseException:
            if base.in_transaction:
                base.execute("ROLLBACK")
            raise
        return found


def _result(columns: list[str], rows: list[tuple[Any, ...]], changes: int, form: str) -> dict[str, Any]:
    values = [[_number(value) for value in row] for row in rows]
    results: Any = {"columns": columns, "rows": values}
    if form == "query":
        results = [dict(zip(columns, row, strict=True)) for row in values]
    meta = {"served_by": "sandbox", "duration": 0.0, "changes": changes, "changed_db": changes > 0}
    return {"results": results, "success": True, "meta": meta}


def _number(value: Any) -> Any:
    """A value as JavaScript writes it: every number is a double, and one without a fraction looks like an integer."""
    if isinstance(value, int):
        value = float(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() and abs(value) < 2**63 else value
    return list(value) if isinstance(value, bytes) else value


def _words(error: Exception) -> str:
    """SQLite's message as D1 passes it on."""
    name = getattr(error, "sqlite_errorname", "")
    if not name:
        return f"D1_ERROR: {error}"
    primary = "_".join(name.split("_")[:2])
    return f"{error}: {primary}" + (f" (extended: {name})" if name != primary else "")


def _unhex(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def _pow(base: float | None, exponent: float | None) -> float | None:
    if base is None or exponent is None:
        return None
    try:
        return math.pow(base, exponent)
    except OverflowError:
        return math.inf
