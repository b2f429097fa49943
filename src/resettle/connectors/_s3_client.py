"""boto3's client for one bucket, with nothing of its own that gets in the way: no retries, no checksums, no detours."""

from __future__ import annotations

from typing import Any, Protocol
from urllib.parse import urlsplit

from pydantic import SecretStr

from resettle.connectors._cognito import CognitoSettings
from resettle.connectors._s3_identity import session_of
from resettle.errors import ConfigError


class Settings(Protocol):
    """What of a connection's settings says where the bucket is and who asks."""

    endpoint: str | None
    region: str | None
    profile: str | None
    access_key: SecretStr | None
    secret_key: SecretStr | None
    session_token: SecretStr | None
    path_style: bool | None
    cognito: CognitoSettings | None
    identity_pool: str


def connect(name: str, settings: Settings) -> tuple[Any, Any]:
    """boto3's client, and the credentials that it signs with."""
    try:
        import boto3
        import botocore.config
        import botocore.exceptions
    except ImportError:
        raise ConfigError(f"{name} needs boto3", hint='pip install "resettle[s3]"') from None

    def shown(secret: SecretStr | None) -> str | None:
        return secret.get_secret_value() if secret else None

    styles = {None: "path" if settings.endpoint else "auto", True: "path", False: "virtual"}
    config = botocore.config.Config(
        # One attempt: only Caller retries. A connection for every thread that may copy.
        retries={"mode": "standard", "total_max_attempts": 1},
        max_pool_connections=64,
        s3={"addressing_style": styles[settings.path_style]},
        # Requests carry their MD5; other checksums are unknown to many services.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # The environment must not send two ends to one place, or past TLS.
        ignore_configured_endpoint_urls=True,
    )
    try:
        user, pool = settings.cognito, settings.identity_pool
        session = boto3.Session(
            botocore_session=session_of(user, pool) if user and pool else None,
            profile_name=settings.profile,
            region_name=settings.region,
            aws_access_key_id=shown(settings.access_key),
            aws_secret_access_key=shown(settings.secret_key),
            aws_session_token=shown(settings.session_token),
        )
        region = session.region_name
        if settings.endpoint and not settings.region:
            host = urlsplit(settings.endpoint).hostname or ""
            region = "auto" if host.endswith(".r2.cloudflarestorage.com") else region or "us-east-1"
        client = session.client("s3", endpoint_url=settings.endpoint, region_name=region, config=config)
        return client, session.get_credentials()
    except (botocore.exceptions.BotoCoreError, ValueError) as error:
        # Such as an unknown profile or a malformed URL: the message names the setting.
        raise ConfigError(f"{name}: {error}") from error
