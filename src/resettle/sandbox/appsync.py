"""AWS AppSync on this machine: an Amplify schema served over HTTP on a free port of 127.0.0.1.

Pages, indexes, conditions, validation and errors are as Amplify's own resolvers and AppSync give them: the limit
before the filter, errors inside HTTP 200, values in the words of validation errors.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson

from resettle.sandbox._amplify import Api, api_of, coerced, introspected
from resettle.sandbox._amplify_data import Data, FieldTrouble
from resettle.sandbox._graphql import Definition, Field, Request, SyntaxTrouble, filled, read_request
from resettle.sandbox.cognito import REGION, LocalCognito

API_KEY, ACCESS_KEY = "da2-sandbox", "AKIASANDBOX"


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request: an HTTP status, or an error within 200; without a status the line is cut.

    ``after``: it takes effect first. ``only``: just the field at this place fails, with HTTP 200. ``part``: of the
    answer. `cut` is half of it, then the end of the line; `short` is half of it as if it were all; `page` is a proxy's
    page in its place; `empty` and `again` are lists with nothing in their page, or whose token leads to it once more.
    """

    status: int = 0
    kind: str = ""
    text: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    after: bool = False
    only: int | None = None
    part: str = ""


THROTTLED = Fault(200, "ThrottlingException", "Rate exceeded")
TOO_MANY = Fault(429, "TooManyRequestsException", "Too many requests", {"Retry-After": "0"})
UNAVAILABLE = Fault(503, "ServiceUnavailableException", "Service unavailable")
EXPIRED = Fault(401, "UnauthorizedException", "Token has expired.")
CUT = Fault()
LOST = Fault(after=True)


@dataclass
class LocalAppSync:
    """A running stand-in. ``faults`` is asked before each request, with the names of its fields, what goes wrong."""

    url: str
    data: Data
    introspection: bool = True
    faults: Callable[[Sequence[str]], Fault | None] = lambda fields: None
    schedule: Callable[[str], Fault | None] = lambda asked: None
    """Asked before each request that ``faults`` lets through, with its body."""
    requests: list[list[str]] = field(default_factory=list)
    """The fields of every request."""
    tokens: LocalCognito | None = None

    def settings(self) -> dict[str, Any]:
        """Settings of a connection of type `appsync`."""
        return {"url": self.url, "api_key": API_KEY}

    def items(self, model: str) -> list[dict[str, Any]]:
        with self.data.turn:
            return [dict(item) for item in self.data.items[model].values()]


@contextmanager
def start_appsync(schema: str, *, tokens: LocalCognito | None = None) -> Iterator[LocalAppSync]:
    """Serve ``schema`` (types with @model) without data, and stop it; with ``tokens`` that pool's users may come in."""
    data = Data(api_of(schema))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    local = LocalAppSync(f"http://127.0.0.1:{server.server_port}/graphql", data, tokens=tokens)
    server.local = local  # type: ignore[attr-defined]
    server.described = introspected(data.api)  # type: ignore[attr-defined]
    server.parsed = lru_cache(512)(lambda text: _checked(read_request(text), data.api))  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield local
    finally:
        server.shutdown()
        server.server_close()


class _InvalidError(Exception):
    """A request that AppSync refuses whole."""


@dataclass(frozen=True)
class _Caller:
    """Who asks: a key, a role, or a user with groups."""

    provider: str
    groups: frozenset[str] = frozenset()


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing: one line for every request otherwise."""

    def do_POST(self) -> None:
        local: LocalAppSync = self.server.local  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        caller = self._caller(local)
        if isinstance(caller, str):
            self._send(401, _error("UnauthorizedException", caller))
            return
        try:
            asked = orjson.loads(body)
            request = self.server.parsed(asked["query"])  # type: ignore[attr-defined]
            variables = _variables(request, asked.get("variables") or {}, local.data.api)
        except (SyntaxTrouble, orjson.JSONDecodeError, KeyError, TypeError):
            self._send(400, _error("MalformedHttpRequestException", "Unable to parse GraphQL query."))
            return
        except _InvalidError as error:
            self._send(200, {"data": None, **_error(None, str(error))})
            return
        names = [one.name for one in request.fields]
        local.requests.append(names)
        self._answer(local, request, variables, caller, local.faults(names) or local.schedule(body.decode()))

    def _answer(
        self, local: LocalAppSync, request: Request, variables: Mapping[str, Any], caller: _Caller, fault: Fault | None
    ) -> None:
        if fault and fault.only is None and not fault.after:
            self._fail(fault)
            return
        data: dict[str, Any] = {}
        errors: list[dict[str, Any]] = []
        for place, one in enumerate(request.fields):
            data[one.alias] = None
            try:
                if fault and fault.only == place:
                    raise FieldTrouble(fault.kind, fault.text)
                data[one.alias] = self._field(local, request.kind, one, variables, caller, errors)
            except FieldTrouble as trouble:
                errors.append({"path": [one.alias], "data": None, "errorType": trouble.kind, "errorInfo": None,
                               "locations": [], "message": trouble.text})  # fmt: skip
        part = fault.part if fault else ""
        if part in ("empty", "again"):
            _repaged(request, variables, data, part)
        elif fault and fault.only is None and not part:
            self._fail(fault)
            return
        self._send(200, {"data": data, "errors": errors} if errors else {"data": data}, part=part)

    def _field(
        self,
        local: LocalAppSync,
        kind: str,
        one: Field,
        variables: Mapping[str, Any],
        caller: _Caller,
        errors: list[Any],
    ) -> Any:
        if one.name == "__schema":
            if not local.introspection:
                raise FieldTrouble(
                    "ValidationError", "Introspection queries are disabled: introspection is switched off"
                )
            return _plain(self.server.described, one.select)  # type: ignore[attr-defined]
        resolver = local.data.api.resolvers[one.name]
        if not _allowed(local.data.api.models[resolver.model], caller):
            raise FieldTrouble("Unauthorized", f"Not Authorized to access {one.name} on type {kind.capitalize()}")
        found = local.data.run(resolver, filled(one.args, variables))
        type_ = local.data.api.types[kind.capitalize()].fields[one.name].type.base
        return _chosen(local.data, type_, found, one.select, [one.alias], errors, variables)

    def _caller(self, local: LocalAppSync) -> _Caller | str:
        """Who asks, or AppSync's words for a stranger."""
        given = self.headers.get("Authorization", "")
        if self.headers.get("x-api-key") == API_KEY:
            return _Caller("apiKey")
        if given.startswith("AWS4-HMAC-SHA256"):
            known = f"Credential={ACCESS_KEY}/" in given and f"/{REGION}/appsync/aws4_request" in given
            return _Caller("iam") if known else "The security token included in the request is invalid."
        if given and local.tokens:
            groups = local.tokens.groups(given)
            return _Caller("userPools", groups) if groups is not None else "Token has expired."
        return "Valid authorization header not provided." if not given else "You are not authorized to make this call."

    def _fail(self, fault: Fault) -> None:
        if fault.status:
            self._send(fault.status, {"data": None, **_error(fault.kind, fault.text)}, fault.headers)
        else:
            self._cut()

    def _cut(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def _send(
        self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None, *, part: str = ""
    ) -> None:
        text = b"<html>Bad gateway</html>" if part == "page" else orjson.dumps(body)
        text = text[: len(text) // 2] if part == "short" else text
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text if part != "cut" else text[: len(text) // 2])
        if part == "cut":
            self._cut()


def _repaged(request: Request, variables: Mapping[str, Any], data: Mapping[str, Any], part: str) -> None:
    """Pages with nothing in them, or that come again: their tokens lead to them."""
    for one in request.fields:
        page = data[one.alias]
        if isinstance(page, dict) and page.keys() >= {"items", "nextToken"}:
            start = str(filled(one.args, variables).get("nextToken") or "0").partition(".")[0]
            page |= {"nextToken": f"{start}.1"} | ({"items": []} if part == "empty" else {})


def _error(kind: str | None, text: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"path": None, "locations": [{"line": 1, "column": 1}], "message": text}
    return {"errors": [entry | ({"errorType": kind} if kind else {})]}


def _allowed(model: Definition, caller: _Caller) -> bool:
    """By the rules of @auth; without any, everybody who came in."""
    rules = model.marks.get("auth", {}).get("rules")
    if rules is None or caller.provider == "iam":
        return True
    for rule in filled(rules, {}):
        if caller.provider == "apiKey" and rule["allow"] == "public":
            return True
        if caller.provider == "userPools" and rule["allow"] == "private":
            return True
        if rule["allow"] == "groups" and caller.groups & set(rule["groups"]):
            return True
    return False


def _checked(request: Request, api: Api) -> Request:
    """A request whose fields and arguments the schema knows. Raises _InvalidError."""
    root = request.kind.capitalize()
    for one in request.fields:
        if one.name != "__schema":
            _check(one, root, api)
    return request


def _check(one: Field, above: str, api: Api) -> None:
    declared = api.types[above].fields.get(one.name)
    if one.name == "__typename":
        return
    if declared is None:
        text = f"Field '{one.name}' in type '{above}' is undefined @ '{one.name}'"
        raise _InvalidError(f"Validation error of type FieldUndefined: {text}")
    for name in one.args:
        if name not in declared.args:
            raise _InvalidError(
                f"Validation error of type UnknownArgument: Unknown field argument {name} @ '{one.name}'"
            )
    if any(kind.required and name not in one.args for name, kind in declared.args.items()):
        raise _InvalidError(f"Validation error of type MissingFieldArgument: @ '{one.name}'")
    inner = declared.type.base
    if (api.types[inner].kind == "type") != bool(one.select):
        raise _InvalidError(f"Validation error of type SubSelectionRequired: @ '{one.name}'")
    for part in one.select:
        _check(part, inner, api)


def _variables(request: Request, given: Mapping[str, Any], api: Api) -> dict[str, Any]:
    """Values of the declared variables. AppSync's words for a wrong one hold that value, and so do these."""
    found: dict[str, Any] = {}
    for name, (kind, default) in request.variables.items():
        if kind.base not in api.types:
            raise _InvalidError(f"Validation error of type UnknownType: Unknown type {kind.base}")
        value = given.get(name, filled(default, {}))
        try:
            found[name] = coerced(kind, value, api.types)
        except ValueError as error:
            raise _InvalidError(
                f"Variable '{name}' has an invalid value. Unable to parse `{value}` as `{error}`."
            ) from None
    return found


def _plain(value: Any, select: Sequence[Field]) -> Any:
    """What a selection takes of nested objects."""
    if isinstance(value, list):
        return [_plain(one, select) for one in value]
    if not select or value is None:
        return value
    return {one.alias: _plain(value.get(one.name), one.select) for one in select}


def _chosen(
    data: Data, name: str, value: Any, select: Sequence[Field], path: list[Any], errors: list[Any],
    variables: Mapping[str, Any],
) -> Any:  # fmt: skip
    """What a selection takes of a value of this type; an item without a value that it must have is null."""
    if isinstance(value, list):
        return [_chosen(data, name, one, select, [*path, at], errors, variables) for at, one in enumerate(value)]
    if value is None or not select:
        return value
    made: dict[str, Any] = {}
    fields = data.api.types[name].fields
    for one in select:
        if one.name == "__typename":
            made[one.alias] = name
            continue
        kind = fields[one.name].type
        found = value.get(one.name)
        relation = data.api.relations.get((name, one.name))
        if relation and relation.many:
            found = data.page(data.found(relation.model, relation.theirs, value["id"]), filled(one.args, variables))
        elif relation:
            found = data.items[relation.model].get(value.get(relation.ours, ""))
        if one.select:
            found = _chosen(data, kind.base, found, one.select, [*path, one.alias], errors, variables)
        if found is None and kind.required:
            text = f"Cannot return null for non-nullable type: '{kind.base}' within parent '{name}' (/{path[0]})"
            errors.append({"path": [*path, one.alias], "locations": None, "message": text})
            return None
        made[one.alias] = found
    return made
