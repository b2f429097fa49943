"""What goes over a network is encrypted, unless the settings say otherwise in plain terms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from pydantic import ValidationError

from resettle.calls import Caller, in_the_open
from resettle.connectors._google_drive_http import Service
from resettle.connectors.appsync import AppSync, AppSyncSettings
from resettle.connectors.d1 import D1, D1Settings
from resettle.connectors.dynamodb import DynamoDB, DynamoDBSettings
from resettle.connectors.postgres import Postgres, PostgresSettings, errors
from resettle.connectors.s3 import S3, S3Settings
from resettle.errors import AccessError, ConfigError

KEYS = {"access_key": "a", "secret_key": "b"}


@pytest.mark.parametrize(
    ("url", "mode"),
    [
        ("postgresql://me:p@db.example/app", "require"),
        ("postgresql://me:p@db/app", "require"),
        ("postgresql://me:p@10.0.0.7/app", "require"),
        ("postgresql://me:p@[2001:db8::1]:5432/app", "require"),
        ("postgresql://me:p@localhost,db.example/app", "require"),
        ("host=db.example dbname=app", "require"),
        ("host=localhost hostaddr=203.0.113.9 dbname=app", "require"),
        ("postgresql://me:p@localhost.example/app", "require"),
        ("postgresql://me:p@db.example/app?sslmode=verify-full", None),
        ("postgresql://me:p@db.example/app?sslmode=disable", None),
        ("postgresql://me:p@localhost/app", None),
        ("postgresql://me:p@127.0.0.1:5432/app", None),
        ("postgresql://me:p@[::1]/app", None),
        ("postgresql:///app", None),
        ("host=/var/run/postgresql dbname=app", None),
    ],
)
def test_postgres_is_encrypted_unless_its_url_says_otherwise_or_leads_here(
    url: str, mode: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PGSSLMODE", "PGHOST", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    asked: list[dict[str, Any]] = []

    def connect(url: str, **_: Any) -> None:
        asked.append(conninfo_to_dict(url))
        raise psycopg.OperationalError("not today")

    monkeypatch.setattr(psycopg, "connect", connect)
    postgres = Postgres("app", PostgresSettings.model_validate({"url": url}), caller=Caller(errors, attempts=1))
    with pytest.raises(Exception, match="cannot be reached"):
        postgres.datasets()
    assert [given.get("sslmode") for given in asked] == [mode or conninfo_to_dict(url).get("sslmode")]


def test_a_postgres_without_tls_is_refused_at_once_with_what_to_do(new_database: Callable[[], str]) -> None:
    url = f"{new_database()}?sslmode=require"
    with pytest.raises(AccessError, match="does not speak TLS") as refused:
        Postgres("app", PostgresSettings.model_validate({"url": url})).datasets()
    assert "sslmode=disable" in str(refused.value.hint)


@pytest.mark.parametrize(
    ("url", "opened"),
    [
        ("http://store.example", True),
        ("http://10.0.0.1:9000", True),
        ("http://127.0.0.1@store.example", True),
        ("http://localhost.example", True),
        ("HTTP://store.example", True),
        ("ftp://127.0.0.1.example", True),
        ("https://store.example", False),
        ("HTTPS://store.example", False),
        ("http://localhost:9000", False),
        ("http://127.0.0.1:9000", False),
        ("http://127.8.8.8", False),
        ("http://[::1]:9000", False),
    ],
)
def test_only_this_machine_is_spoken_to_without_tls(url: str, opened: bool) -> None:
    assert in_the_open(url) is opened


def _s3(url: str, **more: Any) -> None:
    S3("store", S3Settings(bucket="files", endpoint=url, **KEYS, **more)).close()


def _dynamodb(url: str, **more: Any) -> None:
    keys = {"access_key_id": "a", "secret_access_key": "b"}
    DynamoDB("old", DynamoDBSettings(region="us-east-1", endpoint_url=url, **keys, **more)).close()


def _d1(url: str) -> None:
    D1("app", D1Settings.model_validate({"account": "a", "database": "d", "token": "t", "url": url})).close()


def _appsync(url: str) -> None:
    AppSync("api", AppSyncSettings.model_validate({"url": url, "api_key": "k"})).close()


def _cognito(url: str) -> None:
    user = {"user_pool": "us-east-1_x", "client_id": "c", "username": "u", "password": "p", "endpoint": url}
    AppSync("api", AppSyncSettings.model_validate({"url": "https://api.example", "cognito": user})).close()


def _drive(url: str) -> None:
    nobody: Any = None
    Service(url, nobody, nobody, nobody, queries=False)


SERVICES = [_s3, _dynamodb, _d1, _appsync, _cognito, _drive]


@pytest.mark.parametrize("opened", SERVICES)
@pytest.mark.parametrize("url", ["http://store.example", "http://10.0.0.1:9000", "http://127.0.0.1@store.example"])
def test_a_service_elsewhere_is_not_spoken_to_without_tls(opened: Callable[[str], None], url: str) -> None:
    with pytest.raises((ConfigError, ValidationError), match=r"https://|host alone"):
        opened(url)


@pytest.mark.parametrize("opened", [_s3, _dynamodb])
def test_plain_http_is_allowed_by_name(opened: Callable[..., None]) -> None:
    opened("http://store.example", plain_http=True)
    opened("http://127.0.0.1:9000")


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_DYNAMODB"])
def test_the_environment_does_not_lead_past_tls(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "http://store.example")
    keys = {"region": "us-east-1", "access_key_id": "a", "secret_access_key": "b"}
    with pytest.raises(ConfigError, match="plain_http"):
        DynamoDB("old", DynamoDBSettings.model_validate(keys))
    DynamoDB("old", DynamoDBSettings.model_validate({**keys, "plain_http": True})).close()
