"""S3 for a user of a Cognito user pool, by the credentials of an identity pool; both are moto's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from moto.cognitoidentity.responses import CognitoIdentityResponse
from moto.core.exceptions import JsonRESTError
from pydantic import ValidationError

from resettle.connectors.s3 import S3, S3Settings
from resettle.errors import AccessError
from resettle.sandbox.cognito import REGION, LocalCognito, start_cognito
from resettle.sandbox.dynamodb import SECRETS
from resettle.sandbox.s3 import LocalS3, start_s3

NAME, PASSWORD = "admin@example.com", "Passw0rd!"


@pytest.fixture
def pool() -> Iterator[LocalCognito]:
    with start_cognito() as made:
        made.add(NAME, PASSWORD, "ADMINS")
        yield made


@pytest.fixture
def end() -> Iterator[LocalS3]:
    with start_s3() as local:
        local.load("bkt", {"media/1.jpg": b"picture"})
        yield local


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, pool: LocalCognito, end: LocalS3) -> list[timedelta]:
    """How long each credentials that were given live; moto asks nobody for a token, and gives them 90 seconds."""
    made: list[timedelta] = []

    def credentials(self: Any) -> Any:
        (said,) = self._get_param("Logins").items()
        if said[0] != f"cognito-idp.us-east-1.amazonaws.com/{pool.user_pool}" or pool.groups(said[1]) is None:
            raise JsonRESTError("NotAuthorizedException", f"Invalid login token {said[1]}")
        made.append(lives.pop() if lives else timedelta(hours=1))
        until = (datetime.now(UTC) + made[-1]).timestamp()
        keys = {"AccessKeyId": end.access_key, "SecretKey": "s", "SessionToken": "t", "Expiration": until}
        return json.dumps({"IdentityId": self._get_param("IdentityId"), "Credentials": keys})

    lives: list[timedelta] = [timedelta(minutes=5)]
    monkeypatch.setattr(CognitoIdentityResponse, "get_credentials_for_identity", credentials)
    return made


@pytest.fixture
def identities(pool: LocalCognito) -> str:
    """An identity pool."""
    client = boto3.client("cognito-identity", REGION, endpoint_url=pool.endpoint, **SECRETS)
    made = client.create_identity_pool(IdentityPoolName="p", AllowUnauthenticatedIdentities=False)
    return str(made["IdentityPoolId"])


def opened(end: LocalS3, pool: LocalCognito, identities: str, **more: Any) -> S3:
    user = pool.settings(NAME, PASSWORD) | more.pop("user", {})
    return S3(
        "storage", S3Settings(bucket="bkt", endpoint=end.endpoint, cognito=user, identity_pool=identities, **more)
    )


def read(s3: S3) -> list[str]:
    return [
        key for part in s3.partitions("objects", 1) for b in s3.read(part, 100) for key in b.table["key"].to_pylist()
    ]


def test_the_pools_credentials_are_renewed_before_they_end(
    pool: LocalCognito, end: LocalS3, given: list[timedelta], identities: str
) -> None:
    s3 = opened(end, pool, identities)
    assert given == []
    assert read(s3) == ["media/1.jpg"]
    assert given == [timedelta(minutes=5), timedelta(hours=1)]  # five minutes are as good as over
    assert b"".join(s3.open("objects", "media/1.jpg").chunks(0)) == b"picture"
    assert len(given) == 2
    s3.close()


def test_a_user_whom_the_identity_pool_does_not_know_is_told_where_to_look(
    pool: LocalCognito, end: LocalS3, given: list[timedelta], identities: str
) -> None:
    pool.clock = lambda: datetime.now(UTC).timestamp() + 1e6  # no token is good
    s3 = opened(end, pool, identities)
    with pytest.raises(AccessError, match="NotAuthorizedException from GetCredentialsForIdentity") as caught:
        s3.schema("objects")
    assert "identity_pool" in str(caught.value.hint)
    assert "token" not in str(caught.value)
    s3.close()


def test_a_user_outside_of_the_group_gets_no_credentials(
    pool: LocalCognito, end: LocalS3, given: list[timedelta], identities: str
) -> None:
    s3 = opened(end, pool, identities, user={"group": "OWNERS"})
    with pytest.raises(AccessError, match="not in the group `OWNERS`"):
        s3.schema("objects")
    assert given == []
    s3.close()


def test_without_an_identity_pool_the_user_is_not_asked(end: LocalS3) -> None:
    user = {"user_pool": "us-east-1_x", "client_id": "c", "username": "u", "password": "p"}
    s3 = S3("storage", S3Settings(**end.settings("bkt", cognito=user, identity_pool="")))
    assert read(s3) == ["media/1.jpg"]
    s3.close()
    with pytest.raises(ValidationError, match="`identity_pool` needs `cognito`"):
        S3Settings(bucket="bkt", identity_pool="us-east-1:1")
    with pytest.raises(ValidationError, match="no `access_key`"):
        S3Settings(**end.settings("bkt", cognito=user, identity_pool="us-east-1:1"))
