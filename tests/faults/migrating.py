"""The five migrations on bad days: their worlds, run in this process, each service under a schedule of its own."""

from __future__ import annotations

import functools
import gzip
import json
import re
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3.session
import botocore.loaders
import pytest

from resettle.connections import Connections
from resettle.engine.apply import apply
from resettle.engine.flow import Options
from resettle.errors import ResettleError
from resettle.ledger import runs as ledgers
from resettle.mapping import load as loading
from resettle.sandbox.d1 import ACCOUNT, DATABASE, TOKEN, start_d1
from resettle.sandbox.dynamodb import start_dynamodb
from tests.crash.matrix import Matrix, _differences
from tests.crash.runs import FOLDERS, _written
from tests.crash.states import Tables, World
from tests.crash.worlds import _KINDS, Medzen, Mirubato
from tests.crash.worlds import world as crash_world
from tests.crash.zygote import Ended
from tests.faults.apis import InAppSync
from tests.faults.files import InDrive, InS3
from tests.faults.schedule import Schedule
from tests.faults.services import MOST_PER_REQUEST, Service, Tally
from tests.faults.stores import InD1, InPostgres
from tests.faults.tables import InDynamoDB
from tests.faults.virtual import Time
from tests.faults.wire import Wire
from tests.migrations.test_medzen_live import KEYS, _as_boto3

Between = list[tuple[type[Service], Any]]
"""Services: how one is spoilt, and its stand-in."""
MILD = (0.3, 0.1, 0.03)
"""A run has hundreds of requests: as many troubles as with a job are more than it could come through."""


class Here:
    """Stands in for the processes that a world runs its commands in: each is gone when it has ended."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.environment = "local"
        self.urls: dict[str, str] = {}
        """Of connections that the variables do not lead to a stand-in."""

    def __call__(self, do: str, migration: str, variables: Mapping[str, str], options: Any, now: str) -> Ended:
        routed = {key: self._routed(one) for key, one in variables.items()}
        loaded = loading.load(FOLDERS[migration], self.environment, routed)
        for name, url in self.urls.items():
            settings: Any = loaded.connections[name]
            settings["url"] = url
        moment, said = datetime.fromisoformat(now), dict[str, Any](passed=[])
        with Connections(loaded) as connections:
            ledger = connections.ledger()
            applied = apply(loaded, connections, ledger, Options(**options), moment)
            said |= {"status": applied.status, "run": applied.run, "written": _written(applied)}
            if do == "settle":
                fresh = Options(**{**options, "fresh": True})
                said["written_again"] = _written(apply(loaded, connections, ledger, fresh, moment))
        return Ended(0, said)

    def _routed(self, value: str) -> str:
        found = re.fullmatch(r"postgres(?:ql)?://.*/([^/?]+)", value)
        return self._wire.url(found[1]) if found else value


@contextmanager
def in_this_process() -> Iterator[None]:
    """What is read from files is read once, and a lock that a run leaves is that of a dead process."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    host, _ = ledgers.me()
    loader = boto3.session.Session()._session.get_component("data_loader")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loading, "_parse", functools.cache(loading._parse))
        patched.setattr(botocore.loaders, "create_loader", lambda *args, **kwargs: loader)
        patched.setattr(ledgers, "me", lambda: (host, gone.pid))
        yield


class MirubatoOnD1(Mirubato):
    """From one D1 to another, each served from the world's file."""

    def start(self, opened: ExitStack) -> None:
        super().start(opened)
        here: Any = self.zygote
        source, self.local = (opened.enter_context(start_d1(file)) for file in (self.backend, self.file))
        here.environment, here.urls = "staging", {"backend": source.url, "api": self.local.url}
        self.variables |= {"CLOUDFLARE_ACCOUNT_ID": ACCOUNT, "CLOUDFLARE_API_TOKEN": TOKEN}
        self.variables |= {"MIRUBATO_BACKEND_D1": DATABASE, "MIRUBATO_API_D1": DATABASE}
        self.between = [(InD1, source), (InD1, self.local)]

    def keep(self, state: str) -> None:
        with self.local.turn, closing(sqlite3.connect(self.folder / state)) as kept:
            self.local.base.backup(kept)

    def restore(self, state: str) -> None:
        with self.local.turn, closing(sqlite3.connect(self.folder / state)) as kept:
            kept.backup(self.local.base)


class MedzenLive(Medzen):
    """From the tables themselves."""

    def start(self, opened: ExitStack) -> None:
        super().start(opened)
        here: Any = self.zygote
        here.environment = "live"
        self.dynamodb = opened.enter_context(start_dynamodb())
        patched = opened.enter_context(pytest.MonkeyPatch.context())
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patched.setenv(name, "sandbox")
        patched.setenv("AWS_ENDPOINT_URL", self.dynamodb.endpoint_url)
        for table, key in KEYS.items():
            self.dynamodb.load(table, key, self._items(table))

    def edit(self) -> None:
        super().edit()
        with closing(self.dynamodb.client()) as client:
            for table in KEYS:
                for item in self._items(table):
                    client.put_item(TableName=table, Item=item)

    def _items(self, table: str) -> list[dict[str, Any]]:
        found = []
        for summary in self.folder.rglob("manifest-summary.json"):
            if json.loads(summary.read_bytes())["tableArn"].endswith(f"/{table}"):
                whole = b"".join(gzip.decompress(file.read_bytes()) for file in summary.parent.rglob("*.gz"))
                found += [_as_boto3(json.loads(line)["Item"]) for line in whole.splitlines()]
        return found


WORLDS: dict[str, type[World]] = {name: kind for name, (kind, _, _) in _KINDS.items()} | {
    "mirubato": MirubatoOnD1,  # from file to file there is no service
    "medzen-live": MedzenLive,
}


@contextmanager
def world(name: str, folder: Path, postgres: str, wire: Wire) -> Iterator[tuple[Matrix, Between]]:
    """A migration on its sandbox, and the services between it and a run."""
    migration = name.removesuffix("-live")
    _, batch, base = _KINDS[migration]
    with ExitStack() as opened, pytest.MonkeyPatch.context() as patched:
        patched.setitem(_KINDS, migration, (WORLDS[name], batch, base))  # type: ignore[arg-type]
        made: Any = opened.enter_context(crash_world(migration, Here(wire), folder, postgres))  # type: ignore[arg-type]
        between: Between = [(InPostgres, wire)] if hasattr(made, "server") else []
        if name == "mirubato":
            between = made.between
        if name == "medzen-live":
            between += [(InDynamoDB, made.dynamodb)]
        if name == "omt":
            between += [(InAppSync, made.running.appsync), (InS3, made.running.s3), (InS3, made.running.r2)]
        if name == "amplify-media-migrator":
            between = [(InDrive, made.sandbox.drive), (InS3, made.sandbox.store), (InAppSync, made.sandbox.api)]
        yield Matrix(made), between


def live_through(matrix: Matrix, between: Between, state: str, seed: int, time: Time, tally: Tally) -> None:
    """One run on a bad day: equal to a calm one, or it said what it could not do and the next one is."""
    calm = matrix.undisturbed(state, "apply")
    matrix.world.at(state)
    days = [
        Schedule(f"{seed} {n}", kind.often, kind.ends, time, milder=MILD[seed % 3] * kind.milder)
        for n, (kind, _) in enumerate(between)
    ]
    began = time.now
    for day, (kind, local) in zip(days, between, strict=True):
        kind.spoil(local, day)  # type: ignore[attr-defined]
    error: ResettleError | None = None
    try:
        status = matrix.world.go("apply").said["status"]
    except ResettleError as caught:
        status, error = "told", caught
    finally:
        for kind, local in between:
            kind.spoil(local, None)  # type: ignore[attr-defined]
    tally[status] += 1
    tally["disturbed"] += any(day.struck for day in days)
    for day in days:
        assert not day.hasty, day.hasty[:3]
    assert time.now - began <= MOST_PER_REQUEST * (1 + sum(day.asked for day in days))
    if error is not None:
        assert any(day.struck for day in days), repr(error)
        assert re.match(r"[\w-]+: .{10}", error.message), repr(error)
    elif status == calm.status:
        assert_same(matrix.world, calm)
    do = "settle" if matrix.world.minting else "apply"
    again = matrix.world.go(do).said
    assert (again["status"], again.get("written_again", 0)) == (calm.status, 0)
    assert_same(matrix.world, calm)


def assert_same(world: World, calm: Any) -> None:
    """Every row, object and API row is as after a calm run, and so is all that is remembered of them."""
    found = world.found()
    assert (found.lock, found.unfinished, found.runs[-1][2:]) == (None, 0, (calm.status, True))
    wrong = [*_differences(found.target, calm.ended.target)]
    wrong += _differences(_lasting(found.memory), _lasting(calm.ended.memory))
    assert not wrong, "\n".join(wrong[:10])
    made, once = (
        {what: times for what, times in effects.items() if what.startswith("put ")}
        for effects in (world.effects(), calm.effects)
    )
    assert made.keys() == once.keys()
    if world.started == "empty":  # what is replaced may be put again where its answer was lost
        assert made == once, "something was made twice"


def _lasting(memory: Tables) -> Tables:
    """Without the units of which the ledger only keeps that they failed, or were held, before they were done."""
    units = [one for one in memory["units"] if json.loads(one)[2:6] != ["done", *[None] * 3]]
    return {**memory, "units": units}
