"""How requests are let in: an API key, or an IAM signature; a user's token comes from `_cognito`."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from resettle.errors import AccessError, ConfigError


class IamSettings(BaseModel):
    """Credentials that boto3 finds, of ``profile`` if one is named."""

    model_config = ConfigDict(extra="forbid")

    region: str = Field(description="the API's AWS region")
    profile: str | None = Field(default=None, description="of AWS's own configuration on this machine")


class ApiKey:
    """One header."""

    def __init__(self, key: str) -> None:
        self._headers = {"x-api-key": key}

    def headers(self, url: str, body: bytes) -> Mapping[str, str]:
        return self._headers

    def renew(self, refused: Mapping[str, str]) -> bool:
        return False


class Iam:
    """A signature for every request (Signature Version 4, by botocore)."""

    def __init__(self, settings: IamSettings) -> None:
        import boto3
        import botocore.exceptions

        try:
            found = boto3.Session(profile_name=settings.profile, region_name=settings.region).get_credentials()
        except botocore.exceptions.ProfileNotFound:
            raise ConfigError("there is no such AWS `profile` on this machine") from None
        if found is None:
            raise AccessError("no AWS credentials are found", hint="name a `profile`, or set AWS_ACCESS_KEY_ID")
        self._credentials, self._region = found, settings.region

    def headers(self, url: str, body: bytes) -> Mapping[str, str]:
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest

        request = AWSRequest("POST", url, data=body, headers={"Content-Type": "application/json"})
        SigV4Auth(self._credentials.get_frozen_credentials(), "appsync", self._region).add_auth(request)
        return {name: value for name, value in request.headers.items() if name != "Content-Type"}

    def renew(self, refused: Mapping[str, str]) -> bool:
        return False
