"""The data behind a stand-in for AppSync: DynamoDB's scans, queries and conditions, as Amplify's resolvers use them."""

from __future__ import annotations

import operator
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from resettle.sandbox._amplify import Api, Resolver

DEFAULT_LIMIT = 100
"""Items that Amplify's resolvers scan or query where a request names no limit."""
Item = dict[str, Any]


class FieldTrouble(Exception):  # noqa: N818
    """One field of a request failed, with Amplify's words."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind, self.text = kind, text


@dataclass
class Data:
    """Items by model and id, and by the columns that are indexed."""

    api: Api
    items: dict[str, dict[str, Item]] = field(default_factory=dict)
    empty_pages: int = 0
    """Pages without an item, but with a token, that come before each real page of a list."""
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    turn: threading.RLock = field(default_factory=threading.RLock)
    _indexes: dict[tuple[str, str], dict[Any, dict[str, None]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.items = {name: {} for name in self.api.models}
        columns = [(one.index.model, one.index.column) for one in self.api.resolvers.values() if one.index]
        columns += [(one.model, one.theirs) for one in self.api.relations.values() if one.many]
        self._indexes = {place: {} for place in columns}

    def put(self, model: str, *items: Mapping[str, Any]) -> None:
        """What somebody else writes: no condition, no check; stamps are added where they are missing."""
        moment = self._moment()
        with self.turn:
            for item in items:
                self._place(model, {"createdAt": moment, "updatedAt": moment, **item})

    def run(self, resolver: Resolver, args: Mapping[str, Any]) -> Any:
        """What a field of Query or Mutation gives. Raises FieldTrouble."""
        with self.turn:
            if resolver.verb == "get":
                return self.items[resolver.model].get(args["id"])
            if resolver.verb == "list":
                return self.page(list(self.items[resolver.model].values()), args)
            if resolver.index:
                found = self.found(resolver.model, resolver.index.column, args[resolver.index.column])
                return self.page(found[::-1] if args.get("sortDirection") == "DESC" else found, args)
            return self._write(resolver, args)

    def found(self, model: str, column: str, value: Any) -> list[Item]:
        """Items by an indexed column."""
        return [self.items[model][one] for one in self._indexes[model, column].get(value, ())]

    def page(self, items: Sequence[Item], args: Mapping[str, Any]) -> dict[str, Any]:
        """First the limit, then the filter: a page may be empty, and its token says whether there is more."""
        start, empty = 0, 0
        if args.get("nextToken"):
            try:
                start, empty = (int(part) for part in args["nextToken"].split("."))
            except ValueError:
                raise FieldTrouble("DynamoDB:DynamoDbException", "Invalid pagination token given.") from None
        if empty < self.empty_pages:
            return {"items": [], "nextToken": f"{start}.{empty + 1}"}
        limit = args.get("limit") or DEFAULT_LIMIT
        if limit < 1:
            raise FieldTrouble("DynamoDB:DynamoDbException", "Limit must be at least 1.")
        held = items[start : start + limit]
        if args.get("filter"):
            held = [item for item in held if passes(item, args["filter"])]
        stop = start + limit
        return {"items": held, "nextToken": f"{stop}.0" if stop < len(items) else None}

    def _write(self, resolver: Resolver, args: Mapping[str, Any]) -> Item:
        given = {name: value for name, value in args["input"].items() if value is not None or resolver.verb == "update"}
        held = self.items[resolver.model]
        key = given.setdefault("id", str(uuid.uuid4()))
        there = held.get(key)
        condition = args.get("condition")
        if (there is None) != (resolver.verb == "create") or (condition and not passes(there or {}, condition)):
            text = "The conditional request failed (Service: DynamoDb, Status Code: 400, Request ID: SANDBOX)"
            raise FieldTrouble("DynamoDB:ConditionalCheckFailedException", text)
        if resolver.verb == "delete":
            assert there is not None
            self._take(resolver.model, there)
            return there
        moment = self._moment()
        item = {"createdAt": moment, **(there or {}), **given, "updatedAt": moment}
        if there:
            self._take(resolver.model, there, keep=True)
        self._place(resolver.model, item)
        return item

    def _place(self, model: str, item: Item) -> None:
        kinds = self.api.models[model].fields
        for name, value in item.items():
            # AWSJSON is kept as what it says, and written anew.
            if isinstance(value, str) and name in kinds and str(kinds[name].type).rstrip("!") == "AWSJSON":
                item[name] = orjson.dumps(orjson.loads(value)).decode()
        if item["id"] in self.items[model]:
            self._take(model, self.items[model][item["id"]], keep=True)
        self.items[model][item["id"]] = item
        for (of, column), index in self._indexes.items():
            if of == model and item.get(column) is not None:
                index.setdefault(item[column], {})[item["id"]] = None

    def _take(self, model: str, item: Item, *, keep: bool = False) -> None:
        for (of, column), index in self._indexes.items():
            if of == model and item.get(column) is not None:
                index.get(item[column], {}).pop(item["id"], None)
        if not keep:
            del self.items[model][item["id"]]

    def _moment(self) -> str:
        return self.now().isoformat(timespec="milliseconds").replace("+00:00", "Z")


_COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "contains": operator.contains,
    "beginsWith": lambda have, want: str(have).startswith(want),
    "between": lambda have, want: bool(want[0] <= have <= want[1]),
}


def passes(item: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether an item is what a filter or a condition wants. Raises FieldTrouble for what is not offered."""
    for name, rule in wanted.items():
        if rule is None:
            continue
        if name in ("and", "or"):
            good = (all if name == "and" else any)(passes(item, one) for one in rule)
        elif name == "not":
            good = not passes(item, rule)
        else:
            good = all(_compares(item.get(name), word, value) for word, value in rule.items())
        if not good:
            return False
    return True


def _compares(have: Any, word: str, want: Any) -> bool:
    if word == "attributeExists":
        return (have is not None) is want
    if word not in _COMPARE:
        raise FieldTrouble("MappingTemplate", f"{word} is not offered")
    return word == "ne" if have is None else bool(_COMPARE[word](have, want))
