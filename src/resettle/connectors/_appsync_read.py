"""Many fields in one request, told apart by aliases: pages of a listing, look-ups by key or by an index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson

from resettle.calls import Caller
from resettle.connectors._appsync_http import LARGEST_BATCH, Answer, Http, Trouble
from resettle.connectors._appsync_schema import Listing, Model
from resettle.errors import AccessError, ConnectorError, RejectedError, TransientError

T = TypeVar("T")
Item = Mapping[str, Any]
Explain = Callable[[Trouble], ConnectorError]


@dataclass(frozen=True)
class Ask:
    """One field of a request: its arguments with their types, and what it selects."""

    field: str
    args: Mapping[str, tuple[str, Any]]
    select: str
    fragile: bool = False
    """Whether the answer's own value, a page, is wanted although a part of it failed."""
    optional: bool = False
    """Whether null is an answer: there is no such record."""

    def size(self) -> int:
        return sum(len(orjson.dumps(value)) for _, value in self.args.values())


@dataclass(frozen=True)
class Given:
    """A field's value, and what failed inside of it."""

    value: Any
    troubles: Sequence[Trouble] = ()


def written(kind: str, asks: Sequence[Ask]) -> tuple[str, dict[str, Any]]:
    """The text and the variables of one request (``kind``: query or mutation); the n-th field is called `r<n>`."""
    declared, fields, variables = [], [], {}
    for at, ask in enumerate(asks):
        for name, (type_, value) in ask.args.items():
            declared.append(f"$r{at}_{name}:{type_}")
            variables[f"r{at}_{name}"] = value
        args = ",".join(f"{name}:$r{at}_{name}" for name in ask.args)
        fields.append(f"r{at}:{ask.field}" + (f"({args})" if args else "") + ask.select)
    return f"{kind}({','.join(declared)}){{{' '.join(fields)}}}", variables


def portions(asks: Sequence[T], most: int, size: Callable[[T], int]) -> Iterator[list[T]]:
    """Cut so that no request has too many fields or is too large."""
    part: list[T] = []
    room = LARGEST_BATCH
    for ask in asks:
        cost = size(ask)
        if part and (len(part) == most or cost > room):
            yield part
            part, room = [], LARGEST_BATCH
        part.append(ask)
        room -= cost
    if part:
        yield part


@dataclass
class Requests:
    """Sends aliased requests, several at a time, each through the Caller."""

    http: Http
    call: Caller
    explain: Explain
    workers: int
    reads: int
    """Aliases in one query."""
    _long: dict[str, int] = field(default_factory=dict)
    """Pages that a dataset is known to have at least."""

    def answer(self, kind: str, asks: Sequence[Ask]) -> list[Given | ConnectorError]:
        """One portion's values or what went wrong, field by field.

        What failed for a reason that passes is asked again by the Caller, and only that. Raises what the whole
        request failed with, and AccessError.
        """
        done: dict[int, Given | ConnectorError] = {}

        def once() -> None:
            left = [at for at in range(len(asks)) if at not in done]
            found = self.http.run(*written(kind, [asks[at] for at in left]))
            passing: TransientError | None = None
            for place, at in enumerate(left):
                outcome = _outcome(found, place, asks[at], self.explain)
                if isinstance(outcome, AccessError):
                    raise outcome
                if isinstance(outcome, TransientError):
                    passing = outcome
                else:
                    done[at] = outcome
            if passing:
                raise passing

        self.call(once)
        return [done[at] for at in range(len(asks))]

    def each(self, work: Callable[[list[T]], Any], parts: Iterable[list[T]]) -> list[Any]:
        """The work's result for each part, in order; several at a time. The first error ends it."""
        listed = list(parts)
        if len(listed) < 2:
            return [work(part) for part in listed]
        pool = ThreadPoolExecutor(min(self.workers, len(listed)))
        try:
            return list(pool.map(work, listed))
        finally:
            pool.shutdown(cancel_futures=True)

    def pages(self, listing: Listing, select: str, rows: int) -> Iterator[list[Item]]:
        """Every page of a list to the service's own end; a record that it cannot give has its id and `_trouble`."""
        token = None
        while True:
            (given,) = self._values([self._asked(listing, select, rows, token)])
            yield self._whole(listing, given, rows, token)
            token = given.value.get("nextToken")
            if token is None:
                return

    def lookups(self, listing: Listing, values: Sequence[Any], select: str, rows: int) -> Iterator[list[Item]]:
        """All rows of an index for each of these values, all pages, many values in a request."""
        asks: list[tuple[Any, str | None]] = [(value, None) for value in values]
        while asks:
            following: list[tuple[Any, str | None]] = []
            made = [self._asked(listing, select, rows, token, value) for value, token in asks]
            for (value, token), given in zip(asks, self._values(made), strict=True):
                yield self._whole(listing, given, rows, token, value)
                if given.value.get("nextToken") is not None:
                    following.append((value, given.value["nextToken"]))
            asks = following

    def gets(self, model: Model, keys: Sequence[Mapping[str, Any]], select: str) -> Iterator[list[Item]]:
        """The records with these keys, many in a request; absent ones give nothing."""
        types = model.key_types or {}
        args = [{name: (types[name], key[name]) for name in types} for key in keys]
        asks = [Ask(model.get or "", one, select, optional=True) for one in args]
        yield [found.value for found in self._values(asks) if found.value is not None]

    def first_pages(self, model: Model, select: str, rows: int, lookups: int) -> list[Item] | None:
        """The whole list, if it may be had in fewer requests than that many look-ups take; else None, at half of it."""
        most, listing = lookups // 2, model.listing
        if listing is None or most < 2 or self._long.get(model.name, 0) > lookups:
            return None
        found: list[Item] = []
        for number, page in enumerate(self.pages(listing, select, rows)):
            if number == most:
                self._long[model.name] = lookups * 2
                return None
            found += page
        return found

    def _values(self, asks: Sequence[Ask]) -> list[Given]:
        """The fields' values; raises the first thing that failed for good."""
        found: list[Given] = []
        for outcomes in self.each(lambda part: self.answer("query", part), portions(asks, self.reads, Ask.size)):
            for outcome in outcomes:
                if isinstance(outcome, ConnectorError):
                    raise outcome
                found.append(outcome)
        return found

    def _whole(self, listing: Listing, given: Given, rows: int, token: str | None, value: Any = None) -> list[Item]:
        """A page's records. One that the service could not give has its id, and what failed as `_trouble`."""
        items = given.value["items"]
        if None not in items:
            return list(items)
        (named,) = self._values([self._asked(listing, "{items{id} nextToken}", rows, token, value)])
        ids = named.value["items"]
        if len(ids) != len(items) or None in ids:
            raise RejectedError("nonconforming", "the service cannot give a record, nor its id")
        failed = {one.path[2]: str(one.path[-1]) for one in given.troubles if len(one.path) > 3}
        return [
            item if item is not None else {**name, "_trouble": f"{failed.get(at, '?')}: the service cannot give it"}
            for at, (item, name) in enumerate(zip(items, ids, strict=True))
        ]

    def _asked(self, listing: Listing, select: str, rows: int, token: str | None, value: Any = None) -> Ask:
        args: dict[str, tuple[str, Any]] = {"limit": ("Int", rows)} if listing.limited else {}
        if token is not None:
            args["nextToken"] = ("String", token)
        if listing.by:
            args[listing.by] = (listing.type, value)
        return Ask(listing.field, args, select, fragile=True)


def _outcome(answer: Answer, place: int, ask: Ask, explain: Explain) -> Given | ConnectorError:
    alias = f"r{place}"
    value = answer.data.get(alias)
    lacking = value is None or (ask.fragile and value["items"] is None)
    # A trouble that does not say whose it is may be that of any field without a value.
    troubles = [one for one in answer.troubles if (one.path[0] == alias if one.path else lacking)]
    if lacking and not troubles and not ask.optional:
        return TransientError("the service gave nothing where a value must be, and no reason")
    if not troubles or (ask.fragile and not lacking and all(_of_null(one) for one in troubles)):
        return Given(value, troubles)
    explained = [explain(one) for one in troubles]
    # What passes or bars the way counts before what is only wrong with a part.
    for kind in (AccessError, TransientError):
        for one in explained:
            if isinstance(one, kind):
                return one
    return explained[0]


def _of_null(trouble: Trouble) -> bool:
    return "null for non-nullable" in trouble.text
