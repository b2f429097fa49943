"""Credentials of a Cognito identity pool: what Amplify gives a signed-in user for its bucket."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from resettle.connectors._cognito import CognitoSettings, signed_in
from resettle.connectors._http import pool_of
from resettle.errors import AccessError, ConnectorError, TransientError

EARLY = timedelta(minutes=10)
"""How long before their end credentials are renewed; they live for about an hour."""

HINT = "check `identity_pool`, and that it trusts the user pool and its app client"
OPERATIONS = frozenset({"GetId", "GetCredentialsForIdentity"})
ERRORS: Mapping[str, type[ConnectorError]] = {
    "InvalidIdentityPoolConfigurationException": AccessError,
    "InvalidParameterException": AccessError,
    "NotAuthorizedException": AccessError,
    "ResourceConflictException": AccessError,
    "ResourceNotFoundException": AccessError,
    "ExternalServiceException": TransientError,
    "InternalErrorException": TransientError,
}
"""Of these operations, by code."""
SLOW = ("LimitExceededException", "TooManyRequestsException")


def session_of(user: CognitoSettings, identity_pool: str) -> Any:
    """A session of botocore's whose credentials are the user's; the first request signs in."""
    import botocore.config
    import botocore.credentials
    import botocore.session

    session = botocore.session.get_session()
    sign_in = signed_in(user, pool_of(10, 40))

    @functools.cache
    def service() -> Any:
        config = botocore.config.Config(
            signature_version=botocore.UNSIGNED,  # who has no credentials yet signs nothing
            retries={"mode": "standard", "total_max_attempts": 1},
            ignore_configured_endpoint_urls=True,
        )
        # A stand-in of a user pool is one of its identity pools too.
        where = {"region_name": identity_pool.partition(":")[0], "endpoint_url": user.endpoint}
        return session.create_client("cognito-identity", **where, config=config)

    @functools.cache
    def identity() -> str:
        found = service().get_id(IdentityPoolId=identity_pool, Logins={user.provider: sign_in.token()})
        return str(found["IdentityId"])

    class Renewed(botocore.credentials.Credentials):  # type: ignore[misc]
        """Not botocore's own, which log what went wrong with all that the service said."""

        def __init__(self) -> None:
            super().__init__("", "", method=Provider.METHOD)
            self._lock, self._until = threading.Lock(), datetime.min.replace(tzinfo=UTC)

        def get_frozen_credentials(self) -> Any:
            with self._lock:
                if datetime.now(UTC) >= self._until:
                    self._renew()
                return super().get_frozen_credentials()

        def _renew(self) -> None:
            logins = {user.provider: sign_in.token()}
            given = service().get_credentials_for_identity(IdentityId=identity(), Logins=logins)["Credentials"]
            self.access_key, self.secret_key = given["AccessKeyId"], given["SecretKey"]
            self.token, self._until = given["SessionToken"], given["Expiration"] - EARLY

    class Provider(botocore.credentials.CredentialProvider):  # type: ignore[misc]
        METHOD = "cognito-identity"

        def load(self) -> Any:
            return Renewed()

    session.get_component("credential_provider").insert_before("env", Provider())
    return session
