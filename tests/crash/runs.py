"""What one process of the matrix does: a command of a migration, with every point watched."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3.session
import botocore.loaders
import psycopg  # noqa: F401  imported once, and not by every child
import pyarrow.acero  # noqa: F401

import resettle.mapping.load as loading
from resettle.batch import Action
from resettle.connections import Connections
from resettle.connectors import appsync, dynamodb, google_drive, postgres, s3, sqlite  # noqa: F401
from resettle.engine.apply import Applied, apply
from resettle.engine.flow import Options
from resettle.engine.plan import plan, save
from resettle.engine.rollback import rollback
from tests.crash.points import MIGRATIONS, watch_all
from tests.crash.watching import Watch
from tests.crash.zygote import ROOT

FOLDERS = {name: ROOT / "migrations" / name for name in MIGRATIONS}


def warm() -> None:
    """Read once what every child would read: the declarations' YAML and boto3's description of S3."""
    loading._parse = functools.cache(loading._parse)
    for folder in FOLDERS.values():
        loading._parse(folder / loading.FILE)
    loader = boto3.session.Session()._session.get_component("data_loader")
    botocore.loaders.create_loader = lambda *args, **kwargs: loader
    boto3.client("s3", region_name="us-east-1", aws_access_key_id="none", aws_secret_access_key="none").close()


def run(
    do: str,
    migration: str,
    variables: Mapping[str, str],
    options: Mapping[str, Any],
    now: str,
    *,
    point: str | None = None,
    side: str = "",
    nth: int = 0,
    settings: Mapping[str, float] | None = None,
    of: int = 0,
    path: str = "",
) -> dict[str, Any]:
    """``do`` is apply, settle (apply, then again with everything looked at), rollback (of run ``of``) or plan."""
    for place, value in (settings or {}).items():
        module, _, name = place.partition(":")
        setattr(importlib.import_module(module), name, value)
    watch = Watch(point, side, nth)
    watch_all(watch, "apply" if do == "settle" else do)
    loaded = loading.load(FOLDERS[migration], "local", variables)
    moment, chosen = datetime.fromisoformat(now), Options(**options)
    said: dict[str, Any] = {}
    with Connections(loaded) as connections:
        ledger = connections.ledger()
        if do == "plan":
            save(plan(loaded, connections, ledger, chosen, moment), Path(path))
        elif do == "rollback":
            said["status"] = rollback(loaded, connections, ledger, chosen, moment, of).status
        else:
            applied = apply(loaded, connections, ledger, chosen, moment)
            said |= {"status": applied.status, "run": applied.run, "written": _written(applied)}
            if do == "settle":
                fresh = Options(**{**options, "fresh": True})
                said["written_again"] = _written(apply(loaded, connections, ledger, fresh, moment))
    return {**said, "passed": [(name, on, count) for (name, on), count in watch.passed.items()]}


def _written(applied: Applied) -> int:
    """Rows that a run wrote."""
    wrote = (Action.CREATE, Action.UPDATE, Action.PATCH, Action.COPY)
    return sum(counts.total(action) for counts in applied.counts for action in wrote)
