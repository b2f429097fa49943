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
    """Whether the answer's own value is wanted although a part of it failed."""

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

    def pages(self, listing: Listing, select: str, rows: int) -> Iterator[list[Item | None]]:
        """Every page of a list to the service's own end; records that it cannot give whole are None."""
        token = None
        while True:
            page = self._page(listing, select, rows, token)
            yield list(page["items"] or ())
            token = page.get("nextToken")
            if token is None:
                return

    def lookups(self, listing: Listing, values: Sequence[Any], select: str, rows: int) -> Iterator[list[Item | None]]:
        """All rows of an index for each of these values, all pages, many values in a request."""
        asks: list[tuple[Any, str | None]] = [(value, None) for value in values]
        while asks:
            following: list[tuple[Any, str | None]] = []
            made = [self._asked(listing, select, rows, token, value) for value, token in asks]
            for portion, given in zip(asks, self._values(made), strict=True):
                if given is None:
                    continue
                yield list(given["items"] or ())
                if given.get("nextToken") is not None:
                    following.append((portion[0], given["nextToken"]))
            asks = following

    def gets(self, model: Model, keys: Sequence[Mapping[str, Any]], select: str) -> Iterator[list[Item]]:
        """The records with these keys, many in a request; absent ones give nothing."""
        types = model.key_types or {}
        asks = [Ask(model.get or "", {name: (types[name], key[name]) for name in types}, select) for key in keys]
        yield [found for found in self._values(asks) if found is not None]

    def first_pages(self, model: Model, select: str, rows: int, lookups: int) -> list[Item] | None:
        """The whole list, if it may be had in fewer requests than that many look-ups take; else None, at half of it."""
        most, listing = lookups // 2, model.listing
        if listing is None or most < 2 or self._long.get(model.name, 0) > lookups:
            return None
        found: list[Item] = []
        for number, page in enumerate(self.pages(listing, select, rows)):
            if number == most:
                self._long[model.name] = lookups + 1
                return None
            found += [item for item in page if item is not None]
        return found

    def _values(self, asks: Sequence[Ask]) -> list[Any]:
        """The fields' values; raises the first thing that failed for good."""
        found: list[Any] = []
        for outcomes in self.each(lambda part: self.answer("query", part), portions(asks, self.reads, Ask.size)):
            for outcome in outcomes:
                if isinstance(outcome, ConnectorError):
                    raise outcome
                found.append(outcome.value)
        return found

    def _page(self, listing: Listing, select: str, rows: int, token: str | None) -> dict[str, Any]:
        (outcome,) = self.answer("query", [self._asked(listing, select, rows, token)])
        if isinstance(outcome, ConnectorError):
            raise outcome
        page: dict[str, Any] = outcome.value
        if any(item is None for item in page["items"] or ()):
            page["items"] = self._mended(listing, page["items"], rows, token, outcome.troubles)
        return page

    def _mended(
        self, listing: Listing, items: Sequence[Item | None], rows: int, token: str | None, troubles: Sequence[Trouble]
    ) -> list[Item]:
        """Records that the service could not give, by their id, with the field that failed as `_trouble`."""
        (outcome,) = self.answer("query", [self._asked(listing, "{items{id} nextToken}", rows, token)])
        named = outcome.value["items"] if isinstance(outcome, Given) else []
        failed = {one.path[2]: str(one.path[-1]) for one in troubles if len(one.path) > 3}
        if len(named) != len(items) or any(one is None for one in named):
            raise RejectedError("nonconforming", "the service cannot give a record, nor its id")
        return [
            item if item is not None else {**name, "_trouble": f"{failed.get(at, '?')}: the service cannot give it"}
            for at, (item, name) in enumerate(zip(items, named, strict=True))
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
    troubles = [one for one in answer.troubles if one.path and one.path[0] == alias]
    value = answer.data.get(alias)
    if not troubles or (ask.fragile and value is not None and all(_of_null(one) for one in troubles)):
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
