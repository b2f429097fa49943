"""medzen from the tables themselves: the same traps through the live API, page by page, into the same rows."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

import resettle
from resettle.sandbox.dynamodb import LocalDynamoDB, start_dynamodb
from resettle.sandbox.module import module_at
from resettle.sandbox.postgres import supabase_roles

FOLDER = Path(__file__).parents[2] / "migrations" / "medzen"
KEYS = {
    "medzen-video-sessions": ["id"],
    "medzen-soap-notes": ["id"],
    "medzen-meeting-audit": ["id", "timestamp"],
}


generate = module_at(FOLDER / "sandbox" / "generate.py")


def _as_boto3(item: dict[str, Any]) -> dict[str, Any]:
    """The client wants bytes where an export writes base64."""

    def value(typed: dict[str, Any]) -> dict[str, Any]:
        ((tag, inner),) = typed.items()
        if tag == "B":
            return {"B": base64.b64decode(inner)}
        if tag == "BS":
            return {"BS": [base64.b64decode(each) for each in inner]}
        if tag == "M":
            return {"M": {name: value(each) for name, each in inner.items()}}
        if tag == "L":
            return {"L": [value(each) for each in inner]}
        return typed

    return {name: value(typed) for name, typed in item.items()}


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Every trap in DynamoDB tables; the environment points the AWS client at them."""
    with start_dynamodb() as dynamodb:
        for table, key in KEYS.items():
            items = [_as_boto3(one.item) for one in generate.MESSY if one.table == table]
            dynamodb.load(table, key, items)
        for name, value in (
            ("AWS_ENDPOINT_URL", dynamodb.endpoint_url),
            ("AWS_ACCESS_KEY_ID", "local"),
            ("AWS_SECRET_ACCESS_KEY", "local"),
        ):
            monkeypatch.setenv(name, value)
        yield dynamodb


def test_every_trap_becomes_what_it_says_through_the_live_api(
    live: LocalDynamoDB, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_database()
    supabase_roles(url)
    with psycopg.connect(url) as connection:
        connection.execute((FOLDER / "sandbox" / "schema.sql").read_text())
    monkeypatch.setenv("SUPABASE_DB_URL", url)
    migration = resettle.load(FOLDER, "live")
    with resettle.connect(migration) as connections:
        applied = resettle.apply(migration, connections)
        held = {unit["unit"].split("/")[0]: unit["reason"] for unit in connections.ledger().units("held")}
        verified = resettle.verify(migration, connections)
        again = resettle.apply(migration, connections)
    expected = {one.item["id"]["S"]: one.expect["reason"] for one in generate.MESSY if one.outcome == "held"}
    assert held == expected
    assert sum(counts.read for counts in applied.counts) == len(generate.MESSY)
    assert sum(counts.units["done"] for counts in applied.counts) == len(generate.MESSY) - len(expected)
    assert not verified.counts
    assert sum(counts.units["done"] for counts in again.counts) == 0
