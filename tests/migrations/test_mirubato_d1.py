"""mirubato from Cloudflare D1 to Cloudflare D1: the same rows as from file to file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import resettle
from resettle.sandbox.d1 import ACCOUNT, DATABASE, TOKEN, LocalD1, start_d1
from resettle.sandbox.module import module_at

FOLDER = Path(__file__).parents[2] / "migrations" / "mirubato"
COLUMNS = "id, user_id, entity_type, entity_id, data, checksum, version, deleted_at"


generate = module_at(FOLDER / "sandbox" / "generate.py")


@contextmanager
def d1(backend: Path, api: Path) -> Iterator[tuple[resettle.Migration, LocalD1]]:
    """The staging environment with these databases served as D1; one database when the paths are the same."""
    variables = {
        "CLOUDFLARE_ACCOUNT_ID": ACCOUNT,
        "CLOUDFLARE_API_TOKEN": TOKEN,
        "MIRUBATO_BACKEND_D1": DATABASE,
        "MIRUBATO_API_D1": DATABASE,
    }
    migration = resettle.load(FOLDER, "staging", variables)
    with ExitStack() as servers:
        source = servers.enter_context(start_d1(backend))
        target = source if backend == api else servers.enter_context(start_d1(api))
        for name, local in (("backend", source), ("api", target)):
            settings: Any = migration.connections[name]
            settings["url"] = local.url
        yield migration, target


@pytest.mark.parametrize("databases", [2, 1])
def test_rows_from_d1_to_d1_are_those_from_file_to_file(tmp_path: Path, databases: int) -> None:
    found: dict[str, list[tuple[Any, ...]]] = {}
    held: dict[str, dict[str, str]] = {}
    for kind in ("files", "d1"):
        folder = tmp_path / kind
        folder.mkdir()
        backend = folder / "backend.sqlite"
        api = folder / "api.sqlite" if databases == 2 else backend
        generate.generate(backend, api, 60)
        with d1(backend, api) as (migration, local):
            if kind == "files":
                paths = {"MIRUBATO_BACKEND_DB": str(backend), "MIRUBATO_API_DB": str(api)}
                migration = resettle.load(FOLDER, "local", paths)
            with resettle.connect(migration) as connections:
                planned = resettle.plan(migration, connections)
                applied = resettle.apply(migration, connections)
                assert [counts.as_json() for counts in planned.counts] == [c.as_json() for c in applied.counts]
                assert not resettle.verify(migration, connections).findings
                again = resettle.apply(migration, connections)
                assert sum(counts.units["done"] for counts in again.counts) == 0
                held[kind] = {row["unit"]: row["reason"] for row in connections.ledger().units("held")}
            found[kind] = local.sql(f"SELECT {COLUMNS} FROM sync_data ORDER BY id")
    assert len(found["d1"]) == 60 + 3 + 6 + sum(messy.held is None for messy in generate.MESSY)
    assert found["d1"] == found["files"]
    assert held["d1"] == held["files"] == {messy.id: messy.held for messy in generate.MESSY if messy.held}


def test_an_edited_record_is_one_update_and_the_next_version(tmp_path: Path) -> None:
    generate.generate(tmp_path / "backend.sqlite", tmp_path / "api.sqlite", 20)
    with (
        d1(tmp_path / "backend.sqlite", tmp_path / "api.sqlite") as (migration, local),
        resettle.connect(migration) as connections,
    ):
        resettle.apply(migration, connections)
        with generate.closing(generate.sqlite3.connect(tmp_path / "backend.sqlite")) as backend, backend:
            backend.execute("UPDATE goals SET title = 'New' WHERE id = 'messy_goal_deleted'")
        resettle.apply(migration, connections)
        assert local.sql("SELECT entity_id, data->>'title', deleted_at FROM sync_data WHERE version = 2") == [
            ("messy_goal_deleted", "New", "2025-07-01T08:00:00.123Z")
        ]
        assert local.sql("SELECT max(version) FROM sync_data") == [(2,)]
