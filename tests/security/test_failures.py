"""Whatever fails, its message says where and why, and neither a record's value nor a secret."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import urllib3
from google.auth.exceptions import TransportError

from resettle.cli.options import redacted
from resettle.connectors import appsync, d1, google_drive, postgres, s3
from resettle.connectors._appsync_http import ApiError as AppSyncError
from resettle.connectors._d1_http import ApiError as D1Error
from resettle.errors import AccessError, ResettleError, TransientError
from tests.security.conftest import FLOW, TABLE, Folder

Make = Callable[..., Folder]
SECRET = "zq000001zq"
BAD = [{"id": "a", "name": SECRET, "age": SECRET}, {"id": "b", "name": f"Ben {SECRET}", "age": "31"}]
COMMANDS = (("check",), ("plan",), ("apply",), ("held", "list"), ("verify",))


def everything(folder: Folder) -> str:
    """All that the commands say, with -v, and all that is left in the folder but the data."""
    said = "".join(folder.run(*command, "-v").text for command in COMMANDS)
    kept = (path for path in folder.root.rglob("*") if path.is_file() and ".resettle" in path.parts)
    said += "".join(path.read_bytes().decode(errors="replace") for path in kept)
    there = folder.rows("SELECT name FROM sqlite_master WHERE name IN ('resettle_runs', 'resettle_units')")
    return said + "".join(str(folder.rows(f"SELECT * FROM {table}")) for (table,) in there)


def test_a_value_that_does_not_fit_is_not_said(make: Make) -> None:
    folder = make(records=BAD)
    assert SECRET not in everything(folder)
    assert "does not become" in folder.run("held", "list").out


def test_what_a_trigger_of_the_target_says_is_not_passed_on(make: Make) -> None:
    raising = "CREATE TRIGGER guard BEFORE INSERT ON people BEGIN SELECT RAISE(ABORT, '%s: no such person'); END;"
    folder = make(tables=TABLE + raising % SECRET, records=[{"id": "a", "name": "Ann", "age": 1}])
    assert SECRET not in everything(folder)
    assert folder.rows("SELECT reason FROM resettle_units") == [("trigger",)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: name,", 'name: "cast(name as integer)::varchar",'),
        ("name: name,", 'name: "error(name)",'),
        ("name: name,", 'name: "strict(name)",'),
        ("name: name,", "name: \"json_text(name, '$[')\","),
        ("unit: id", "unit: id\n    skip: {odd: error(name) = 1}"),
        ("unit: id", "unit: id\n    hold: {odd: strict(name) = '1'}"),
        ("unit: id", "unit: id\n    warn: {odd: cast(name as date) is null}"),
        ("unit: id", "unit: id\n    rows: select *, cast(name as integer) as n from source"),
        ("unit: id", "unit: id\n    rows: select *, strict(name) as n from source"),
        ("into: app.people", "into: app.people\n    count: {odd: cast(name as integer) > 1}"),
        ("name: name,", "name: {lookup: ages, on: name},"),
        ("migration: shut", "migration: shut\nverify: {assertions: {one: {sql: select name from people, expect: 0}}}"),
    ],
)
def test_no_expression_that_fails_tells_its_value(old: str, new: str, make: Make) -> None:
    folder = make(records=[{"id": "a", "name": SECRET, "age": "30"}])
    (folder.root / "functions.py").write_text(
        "def strict(name: str) -> str:\n    raise ValueError(f'cannot take {name}')\n"
    )
    text = FLOW.replace(old, new)
    assert text != FLOW
    if "ages" in new:
        text += "lookups:\n  ages: {from: src.people, key: name, value: cast(name as integer)}\n"
    folder.declare(text)
    assert SECRET not in everything(folder)


def test_a_batch_of_values_that_python_cannot_take_shows_no_traceback_with_them(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours, whose exceptions quote values, each caused by another."""

    def fault(*_: object, **__: object) -> None:
        try:
            raise KeyError(SECRET)
        except KeyError as error:
            raise ValueError(f"cannot take {SECRET}") from error

    monkeypatch.setattr("resettle.engine.plan.plan_flow", fault)
    said = make(records=BAD).run("plan", "-v")
    assert said.code == 1
    assert SECRET not in said.text
    assert "builtins.KeyError" in said.err
    assert "builtins.ValueError" in said.err
    assert "test_failures.py" in said.err


def test_a_thread_that_fails_says_its_kind_alone(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    make(records=BAD).run("status")

    def fail() -> None:
        raise ValueError(SECRET)

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    said = capfd.readouterr().err
    assert (SECRET in said, "ValueError" in said) == (False, True)


POSTGRES = FLOW.replace("{type: sqlite, path: app.sqlite}", "{type: postgres, url: '${URL}'}")


@pytest.mark.parametrize(
    ("url", "code"),
    [
        (f"postgresql://someone:{SECRET}@127.0.0.1:1/app?sslmode=disable", 1),
        (f"postgresql://someone:{SECRET}@nowhere.invalid/app", 1),
        (f"postgresql://someone:p@{SECRET}@127.0.0.1:1/app?sslmode=disable", 1),
        (f"postgresql://someone:{SECRET}@[::1/app", 2),
        (f"host=127.0.0.1 port=1 password={SECRET} sslmode=nonsense", 1),
        (f"postgresql://someone@127.0.0.1:1/app?password={SECRET}&unknown=1", 2),
    ],
)
def test_a_server_out_of_reach_or_a_wrong_url_tells_no_password(
    url: str, code: int, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("URL", url)
    monkeypatch.setattr("resettle.calls.Pace.wait", lambda *_: None)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda *_: None)
    monkeypatch.setattr("resettle.calls.Caller._delay", lambda *_: 0.0)
    folder = make(POSTGRES, records=BAD)
    said = folder.run("check", "-v")
    assert said.code in (code, 6), said.text
    folder.run("show", "-v")
    folder.run("show", "--json")
    assert SECRET not in "".join(one.text for one in folder.said)
    assert SECRET not in "".join(path.read_text() for path in (folder.root / ".resettle").rglob("*.jsonl"))


def test_a_wrong_password_is_not_told(
    make: Make, monkeypatch: pytest.MonkeyPatch, new_database: Callable[[], str]
) -> None:
    host = new_database().rpartition("@")[2]
    monkeypatch.setenv("URL", f"postgresql://postgres:{SECRET}@{host}")
    said = make(POSTGRES, records=BAD).run("check", "-v")
    assert said.code == 6, said.text
    assert SECRET not in said.text


def test_what_a_trigger_of_postgres_says_is_not_passed_on(
    make: Make, monkeypatch: pytest.MonkeyPatch, new_database: Callable[[], str]
) -> None:
    url = new_database()
    monkeypatch.setenv("URL", url)
    with psycopg.connect(url) as connection:
        connection.execute(TABLE.replace("INTEGER", "int"))
        connection.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'no %', NEW.name USING DETAIL = NEW.name, HINT = NEW.name; END $$"
        )
        connection.execute("CREATE TRIGGER refuse BEFORE INSERT ON people FOR EACH ROW EXECUTE FUNCTION refuse()")
    folder = make(POSTGRES, records=BAD)
    said = "".join(folder.run(*command, "-v").text for command in COMMANDS)
    assert "trigger: refuse" in said
    assert SECRET not in said
    with psycopg.connect(url) as connection:
        assert SECRET not in str(connection.execute("SELECT u::text FROM resettle.units u").fetchall())


class ClientError(Exception):
    """botocore's shape of a refusal that quotes everything."""

    def __init__(self, name: str) -> None:
        super().__init__(f"An error occurred: {SECRET}")
        self.operation_name = "PutObject"
        self.response = {
            "Error": {"Code": name, "Message": f"{SECRET} is wrong"},
            "ResponseMetadata": {"HTTPStatusCode": 403, "HTTPHeaders": {"x": SECRET}},
        }


ECHOES: list[tuple[Callable[..., Any], BaseException]] = [
    *((s3.errors, ClientError(name)) for name in [*s3.ERRORS, *s3.THROTTLES, *s3.REFUSALS, "Unheard"]),
    *(
        (appsync.errors, AppSyncError(status, kind, f"Variable '{SECRET}' {words} {SECRET}"))
        for status in (200, 400, 401, 403, 413, 429, 500)
        for kind, words in [
            ("", ""),
            ("MappingTemplate", "Throttl"),
            (SECRET, ""),
            ("Unauthorized", "Not Authorized"),
            ("BadRequest", "Can't serialize"),
            ("DynamoDB:ConditionalCheckFailedException", "ValidationException"),
        ]
    ),
    *(
        (d1.errors, D1Error(status, text))
        for status in (200, 400, 401, 403, 404, 413, 429, 500)
        for text in [
            f"{SECRET}: SQLITE_CONSTRAINT_TRIGGER",
            f"{SECRET} UNIQUE constraint: SQLITE_CONSTRAINT",
            f"D1_ERROR: {SECRET} is overloaded",
            f"{SECRET} exceeded timeout",
            f"{SECRET}",
        ]
    ),
    *(
        (postgres.errors, kind(f"invalid input {SECRET}"))
        for kind in (psycopg.OperationalError, psycopg.DataError, psycopg.InterfaceError, psycopg.DatabaseError)
    ),
    (google_drive.errors, google_drive.ApiError(403, "forbidden", SECRET)),
    (google_drive.errors, google_drive.ApiError(404, "notFound", SECRET)),
]


@pytest.mark.parametrize("service", [appsync, d1, google_drive])
def test_a_certificate_that_cannot_be_trusted_is_not_tried_again(service: Any) -> None:
    bad = urllib3.exceptions.SSLError("self-signed")
    wrapped = TransportError(bad)
    wrapped.__cause__ = bad
    for error in (bad, wrapped):
        assert isinstance(service.errors(error, "there"), AccessError)
    lost = service.errors(urllib3.exceptions.ProtocolError("cut"), "there")
    assert isinstance(lost, TransientError)


@pytest.mark.parametrize(("errors", "error"), ECHOES)
def test_a_services_words_that_echo_a_value_are_not_passed_on(errors: Callable[..., Any], error: BaseException) -> None:
    found = errors(error, "there")
    assert found is None or isinstance(found, ResettleError)
    if found is not None:
        assert SECRET not in f"{found.message} {found.hint} {getattr(found, 'detail', '')} {found!r}"


@pytest.mark.parametrize(
    "settings",
    [
        {"url": f"postgresql://me:{SECRET}@h/db"},
        {"url": f"postgresql://me:p@ss/{SECRET}@h/db"},
        {"url": f"postgresql://me@h/db?password={SECRET}"},
        {"url": f"host=h password='{SECRET} x' dbname=d"},
        {"url": f"https://api.example/?X-Amz-Signature={SECRET}&a=1"},
        {"url": f"https://api.example/?access_token={SECRET}"},
        {"headers": {"Cookie": f"session={SECRET}", "Authorization": f"Bearer {SECRET}", "x-api-key": SECRET}},
        {"endpoints": [f"https://me:{SECRET}@h/"]},
        {"cognito": {"username": "me", "password": SECRET}},
        {"api_key": SECRET, "secret_access_key": SECRET, "session_token": SECRET, "passwd": SECRET, "pwd": SECRET},
    ],
)
def test_show_hides_every_secret(settings: dict[str, Any]) -> None:
    assert SECRET not in str(redacted(settings))


def test_show_keeps_what_is_no_secret() -> None:
    plain = {"url": "postgresql://me@h:5432/db?sslmode=require", "bucket": "files", "page_size": 10, "path": Path("a")}
    assert redacted(plain) == plain
