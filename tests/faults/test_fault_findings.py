"""What schedules of faults have found, each alone."""

from __future__ import annotations

import itertools
import time as real
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from botocore.exceptions import ClientError

from resettle.calls import Caller, seconds_of
from resettle.connectors import dynamodb, s3
from resettle.connectors.appsync import AppSync, AppSyncSettings
from resettle.connectors.d1 import D1, D1Settings
from resettle.errors import AccessError, RejectedError, TransientError
from resettle.ledger.ledger import Ledger
from resettle.sandbox.appsync import Fault, start_appsync
from resettle.sandbox.d1 import CUT, start_d1
from resettle.sandbox.drive import Fault as DriveFault
from resettle.sandbox.drive import start_drive
from resettle.sandbox.dynamodb import Fault as DynamoDBFault
from resettle.sandbox.dynamodb import start_dynamodb
from tests.faults.apis import SCHEMA, InAppSync
from tests.faults.files import InDrive
from tests.faults.tables import InDynamoDB, InExport
from tests.faults.virtual import virtual


def once(kind: Any, text: str) -> Any:
    """The first request with this text goes wrong."""
    left = [kind]
    return lambda asked: left.pop() if left and text in str(asked) else None


def test_an_answer_of_googles_token_endpoint_that_is_cut_off_is_asked_for_again(tmp_path: Path) -> None:
    with start_drive() as local, virtual():
        service = InDrive(local, tmp_path / "token.json", tmp_path / "account.json")
        local.faults = once(DriveFault(short=True), "/token")
        service.job()
        assert local.sent("/token") == 2


@pytest.mark.parametrize("text", ["ListTables", "DescribeTable", "Scan"])
def test_an_answer_of_dynamodb_that_is_cut_off_is_asked_for_again(tmp_path: Path, text: str) -> None:
    with start_dynamodb() as local, virtual():
        service = InDynamoDB(local, tmp_path)
        local.schedule = once(DynamoDBFault("short"), text)
        service.job()


def test_empty_pages_are_no_end_of_a_sample(tmp_path: Path) -> None:
    with start_dynamodb() as local, virtual():
        service = InDynamoDB(local, tmp_path)
        scans = itertools.count(1)
        local.schedule = lambda asked: DynamoDBFault("empty") if "Scan" in asked and next(scans) < 4 else None
        service.job()


def test_a_file_of_an_export_that_was_damaged_on_its_way_is_fetched_again(tmp_path: Path) -> None:
    with start_dynamodb() as local, virtual():
        service = InExport(local, tmp_path)
        local.schedule = once(DynamoDBFault("corrupt"), "0.json.gz")
        service.job()


@pytest.mark.parametrize("errors", [dynamodb.errors, s3.errors])
@pytest.mark.parametrize(("status", "kind"), [(429, TransientError), (502, TransientError), (403, AccessError)])
def test_a_proxys_page_has_no_code_and_is_known_by_its_status(errors: Any, status: int, kind: type[Exception]) -> None:
    headers = {"retry-after": "7"}
    answer = {"Error": {}, "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers}}
    found = errors(ClientError(answer, "Scan"))
    assert type(found) is kind
    if isinstance(found, TransientError):
        assert found.retry_after == 7
        assert found.throttled is (status == 429)


def test_a_page_that_comes_twice_makes_no_second_record() -> None:
    with start_appsync(SCHEMA) as local, virtual():
        InAppSync(local).reset()
        local.data.put("Pet", *({"id": name, "name": name, "owner": "p1"} for name in "ab"))
        local.schedule = once(Fault(after=True, part="again"), "petsByOwner")
        found = AppSync("appsync", AppSyncSettings(**local.settings())).fetch("Pet", pa.table({"owner": ["p1"]}), [])
        assert found["owner"].to_pylist() == ["p1", "p1"]


def test_whatever_is_raised_within_a_call_names_the_connection() -> None:
    def fails(error: Exception) -> None:
        raise error

    call = Caller(lambda error: None, connection="ours", attempts=1)
    for error, words in (
        (TransientError("cut off"), "ours: cut off"),
        (RejectedError("changed", connection="theirs"), "theirs: refused: changed"),
    ):
        with pytest.raises(type(error)) as caught:
            call(fails, error)
        assert str(caught.value) == caught.value.message == words


def test_what_failed_first_is_said_also_where_the_ledger_cannot_be_reached_any_more(tmp_path: Path) -> None:
    with start_d1(tmp_path / "ledger.sqlite") as local, virtual():
        ledger = Ledger(D1("d1", D1Settings(**local.settings())), "any", "local", schema="resettle", version="1")
        ledger.prepare({})

        def fails() -> None:
            with ledger.run("apply", {}, datetime.now(UTC), lock=True):
                local.faults = lambda asked: CUT
                raise AccessError("no", connection="api")

        with pytest.raises(AccessError, match="api: no"):
            fails()


def test_retry_after_is_seconds_or_a_date() -> None:
    assert (seconds_of("12"), seconds_of(""), seconds_of(None), seconds_of("soon")) == (12.0, None, None, None)
    assert 50 < (seconds_of(formatdate(real.time() + 60, usegmt=True)) or 0) <= 60
    assert seconds_of(formatdate(real.time() - 60)) == 0.0
