"""A Cognito user pool on this machine: moto's, in this process, on a free port of 127.0.0.1."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from resettle.errors import ConfigError
from resettle.sandbox._door import Behind, Door, Environ, Respond, said, served

REGION = "us-east-1"


@dataclass
class LocalCognito(Behind):
    """A user pool of moto's, in this process. ``clock`` is what tokens are checked by."""

    endpoint: str
    user_pool: str
    client_id: str
    client: Any
    clock: Callable[[], float] = time.time
    refused: set[str] = field(default_factory=set)
    """Tokens that are not taken any more."""
    _known: dict[str, Any] = field(default_factory=dict)

    def settings(self, username: str, password: str) -> dict[str, Any]:
        """A connection's setting `cognito`."""
        named = {"user_pool": self.user_pool, "client_id": self.client_id, "endpoint": self.endpoint}
        return {**named, "username": username, "password": password}

    def add(self, username: str, password: str, *groups: str, temporary: bool = False) -> None:
        """A user; a temporary password has to be changed at the first sign-in."""
        who = {"UserPoolId": self.user_pool, "Username": username}
        self.client.admin_create_user(**who, TemporaryPassword=password, MessageAction="SUPPRESS")
        if not temporary:
            self.client.admin_set_user_password(**who, Password=password, Permanent=True)
        for group in groups:
            known = self.client.list_groups(UserPoolId=self.user_pool)["Groups"]
            if group not in [one["GroupName"] for one in known]:
                self.client.create_group(UserPoolId=self.user_pool, GroupName=group)
            self.client.admin_add_user_to_group(**who, GroupName=group)

    def groups(self, token: str) -> frozenset[str] | None:
        """The groups of a token that is genuine and not over; None otherwise."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA256

        try:
            head, body, signature = token.split(".")
            self._known = self._known or self._keys()
            key = self._known[orjson.loads(_bytes(head))["kid"]]
            key.verify(_bytes(signature), f"{head}.{body}".encode(), PKCS1v15(), SHA256())
            claims = orjson.loads(_bytes(body))
        except (ValueError, KeyError, InvalidSignature):
            return None
        if claims["exp"] <= self.clock() or token in self.refused:
            return None
        return frozenset(claims.get("cognito:groups", ()))

    def _keys(self) -> dict[str, Any]:
        import urllib3
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

        answer = urllib3.request("GET", f"{self.endpoint}/{self.user_pool}/.well-known/jwks.json")
        keys = {}
        for one in orjson.loads(answer.data)["keys"]:
            exponent, modulus = (int.from_bytes(_bytes(one[part]), "big") for part in ("e", "n"))
            keys[one["kid"]] = RSAPublicNumbers(exponent, modulus).public_key()
        return keys


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@contextmanager
def start_cognito(*, secret: bool = False, mfa: str = "OFF") -> Iterator[LocalCognito]:
    """Start a user pool with one app client, and stop it. One at a time in a process: moto's state is the process's.

    moto takes any password in the SRP flow; a wrong one is only refused in the password flow.
    """
    try:
        import boto3
        from moto.moto_api._internal.models import moto_api_backend
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    except ImportError:
        raise ConfigError("the sandbox needs moto", hint='pip install "resettle[sandbox]"') from None
    moto_api_backend.reset()
    door = _Door(DomainDispatcherApplication(create_backend_app), Behind())
    with served(door) as endpoint:
        given = {"aws_access_key_id": "sandbox", "aws_secret_access_key": "sandbox"}
        client = boto3.client("cognito-idp", endpoint_url=endpoint, region_name=REGION, **given)
        pool = client.create_user_pool(PoolName="sandbox")["UserPool"]["Id"]
        if mfa != "OFF":
            on = {"Enabled": True}
            client.set_user_pool_mfa_config(UserPoolId=pool, SoftwareTokenMfaConfiguration=on, MfaConfiguration=mfa)
        made = client.create_user_pool_client(UserPoolId=pool, ClientName="sandbox", GenerateSecret=secret)
        door.local = LocalCognito(endpoint, pool, made["UserPoolClient"]["ClientId"], client)
        try:
            yield door.local
        finally:
            moto_api_backend.reset()


class _Door(Door):
    """Knows a request by its action."""

    def asked(self, environ: Environ, body: bytes) -> str:
        return f"{environ.get('HTTP_X_AMZ_TARGET', environ['PATH_INFO'])}".rpartition(".")[2]

    def answer(
        self, environ: Environ, start: Respond, status: int, code: str, retry_after: int | None = None
    ) -> Iterable[bytes]:
        return said(start, status, orjson.dumps({"__type": code}), "application/x-amz-json-1.1", retry_after)
