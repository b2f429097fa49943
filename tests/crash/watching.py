"""How a process watches what it passes: the engine's own methods are wrapped, and it ends at one of them.

Only in a process that is to end soon; the engine knows nothing of it.
"""

from __future__ import annotations

import functools
import importlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.crash.zygote import DIED

SQL = ("resettle.connectors.postgres:Postgres", "resettle.connectors.sqlite:SQLite")


class Watch:
    """Counts what a process passes, and ends it at the ``nth`` passing of one side of one point."""

    def __init__(self, name: str | None = None, side: str = "", nth: int = 0) -> None:
        self._chosen, self._nth = (name, side), nth
        self._turn = threading.Lock()
        self.passed: Counter[tuple[str, str]] = Counter()

    def at(self, name: str, side: str) -> None:
        with self._turn:
            self.passed[name, side] += 1
            if (name, side) == self._chosen and self.passed[name, side] == self._nth:
                os._exit(DIED)


class _Open(threading.local):
    """This thread's transaction: whether there is one, and what is done in it."""

    depth = 0
    name: str | None = None
    scope: str | None = None


_OPEN = _Open()


def _owner(path: str) -> Any:
    module, _, name = path.partition(":")
    found = importlib.import_module(module)
    return getattr(found, name) if name else found


@dataclass(frozen=True)
class Call:
    """A call of ``method`` of one of these owners (module:Class, or a module), where ``when(*its arguments)``."""

    owners: tuple[str, ...]
    method: str
    when: Callable[..., bool] = lambda *args, **kwargs: True

    def watched(self, watch: Watch, name: str) -> None:
        for path in self.owners:
            owner = _owner(path)
            setattr(owner, self.method, self._wrapped(getattr(owner, self.method), watch, name))

    def _wrapped(self, real: Callable[..., Any], watch: Watch, name: str) -> Callable[..., Any]:
        @functools.wraps(real)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if not self.when(*args, **kwargs):
                return real(*args, **kwargs)
            watch.at(name, "before")
            found = real(*args, **kwargs)
            watch.at(name, "after")
            return found

        return wrapped


@dataclass(frozen=True)
class Commit:
    """The commit of the transaction that calls this method of the ledger, or that it opens."""

    method: str

    def watched(self, watch: Watch, name: str) -> None:
        owner = _owner("resettle.ledger.ledger:Ledger")
        setattr(owner, self.method, self._naming(getattr(owner, self.method), name))

    def _naming(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        @functools.wraps(real)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if _OPEN.depth:
                _OPEN.name = name
                return real(*args, **kwargs)
            before, _OPEN.scope = _OPEN.scope, name
            try:
                return real(*args, **kwargs)
            finally:
                _OPEN.scope = before

        return wrapped


def watch_commits(watch: Watch) -> None:
    for path in SQL:
        owner = _owner(path)
        owner.transaction = _watched_transaction(owner.transaction, watch)


def _watched_transaction(real: Callable[..., Any], watch: Watch) -> Callable[..., Any]:
    @contextmanager
    def transaction(self: Any, *, readonly: bool = False) -> Iterator[None]:
        if _OPEN.depth or readonly:
            with real(self, readonly=readonly):
                yield
            return
        _OPEN.depth, _OPEN.name = 1, None
        try:
            with real(self):
                yield
                name = _OPEN.name or _OPEN.scope
                if name:
                    watch.at(name, "before")
        finally:
            _OPEN.depth = 0
        if name:
            watch.at(name, "after")

    return transaction
