"""A user of a Cognito user pool: signed in through every challenge, and the token kept fresh."""

from __future__ import annotations

import base64
import binascii
import getpass
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal
from weakref import WeakValueDictionary

import orjson
import urllib3
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from resettle.calls import demand_tls
from resettle.connectors._cognito_srp import Proof, one_time_code, secret_hash, stamp
from resettle.errors import AccessError, ConnectorError, TransientError

EARLY = 300.0
"""Seconds before its end that a token is renewed, or a fifth of its life if that is less."""


class CognitoSettings(BaseModel):
    """A user of a user pool."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user_pool: str = Field(description="the id of the user pool, as eu-west-1_abc123")
    client_id: str = Field(description="the id of an app client of the user pool")
    client_secret: SecretStr | None = Field(default=None, description="the app client's secret, where it has one")
    username: str = Field(description="who signs in")
    password: SecretStr = Field(description="the user's password")
    flow: Literal["srp", "password"] = Field(
        default="srp", description="how the app client lets users sign in; with `password` it is sent as it is"
    )
    group: str | None = Field(default=None, description="a group that the user must be in; checked at sign-in")
    new_password: SecretStr | None = Field(
        default=None, description="for a first sign-in that must change the password"
    )
    totp_secret: SecretStr | None = Field(default=None, description="the base 32 secret of an authenticator app")
    region: str | None = Field(default=None, description="the user pool's own where left out")
    endpoint: str | None = Field(default=None, description="the URL of a stand-in; AWS where left out")

    @property
    def in_region(self) -> str:
        return self.region or self.user_pool.partition("_")[0]

    @property
    def provider(self) -> str:
        """The user pool's name among those who vouch for users."""
        return f"cognito-idp.{self.in_region}.amazonaws.com/{self.user_pool}"


COGNITO: Mapping[str, tuple[type[ConnectorError], str]] = {
    "NotAuthorizedException": (AccessError, "Cognito refuses the user name or the password"),
    "UserNotFoundException": (AccessError, "Cognito refuses the user name or the password"),
    "UserNotConfirmedException": (AccessError, "the user has not confirmed the account yet"),
    "PasswordResetRequiredException": (AccessError, "the user must reset the password first"),
    "InvalidPasswordException": (AccessError, "`new_password` does not fit the user pool's rules"),
    "PasswordHistoryPolicyViolationException": (AccessError, "`new_password` was used before"),
    "CodeMismatchException": (AccessError, "the one-time code is wrong: is the clock right, and `totp_secret`?"),
    "ExpiredCodeException": (AccessError, "the one-time code came too late"),
    "EnableSoftwareTokenMFAException": (AccessError, "the one-time code is wrong"),
    "SoftwareTokenMFANotFoundException": (AccessError, "the user has no authenticator app"),
    "MFAMethodNotFoundException": (AccessError, "the user has no second factor that can be used"),
    "AliasExistsException": (AccessError, "the user's e-mail address or phone number belongs to another user"),
    "ResourceNotFoundException": (AccessError, "there is no such user pool or app client in this region"),
    "InvalidParameterException": (AccessError, "Cognito refuses the sign-in: does the app client allow this `flow`?"),
    "InvalidUserPoolConfigurationException": (AccessError, "the user pool is not set up for this sign-in"),
    "ForbiddenException": (AccessError, "a firewall of the user pool refuses the sign-in"),
    "OperationNotEnabledException": (AccessError, "the user pool does not offer this sign-in"),
    "FeatureUnavailableInTierException": (AccessError, "the user pool does not offer this sign-in"),
    "UnsupportedOperationException": (AccessError, "the user pool does not offer this sign-in"),
    "UnsupportedTokenTypeException": (AccessError, "the app client does not use this kind of token"),
    "RefreshTokenReuseException": (AccessError, "the refresh token was used before"),
    "InvalidLambdaResponseException": (AccessError, "a trigger of the user pool failed"),
    "UnexpectedLambdaException": (AccessError, "a trigger of the user pool failed"),
    "UserLambdaValidationException": (AccessError, "a trigger of the user pool refuses the sign-in"),
    "InvalidEmailRoleAccessPolicyException": (AccessError, "the user pool may not send e-mail"),
    "InvalidSmsRoleAccessPolicyException": (AccessError, "the user pool may not send messages"),
    "InvalidSmsRoleTrustRelationshipException": (AccessError, "the user pool may not send messages"),
    "TooManyRequestsException": (TransientError, "too many sign-ins"),
    "LimitExceededException": (TransientError, "too many sign-ins"),
    "InternalErrorException": (TransientError, "Cognito failed"),
    "ServiceUnavailableException": (TransientError, "Cognito failed"),
}
"""By the type of Cognito's error."""


class CognitoError(Exception):
    """Cognito answered with an error of this type."""

    def __init__(self, kind: str, status: int) -> None:
        super().__init__(kind)
        self.kind, self.status = kind, status


def cognito_error(error: CognitoError, connection: str) -> ConnectorError:
    """What it means; an unknown one is not tried again, one of a broken service is."""
    if error.kind in COGNITO:
        made, words = COGNITO[error.kind]
        if issubclass(made, TransientError):
            return made(words, connection=connection, throttled=error.kind.startswith(("TooMany", "Limit")))
        return made(words, connection=connection)
    if error.status >= 500:
        return TransientError("Cognito failed", connection=connection)
    return AccessError("Cognito refuses the sign-in", connection=connection)


def ask_person(question: str) -> str | None:
    """What a person types, unseen; None where nobody sits at a terminal."""
    return getpass.getpass(f"{question}: ") if sys.stdin.isatty() and sys.stderr.isatty() else None


class Cognito:
    """The id token of one user, renewed before it ends. Tokens live in memory only. Any thread may ask."""

    def __init__(
        self,
        settings: CognitoSettings,
        pool: urllib3.PoolManager,
        *,
        clock: Callable[[], float] = time.time,
        ask: Callable[[str], str | None] = ask_person,
    ) -> None:
        self._url = settings.endpoint or f"https://{settings.provider.partition('/')[0]}/"
        demand_tls(self._url, "endpoint")
        self._settings, self._pool, self._clock, self._ask = settings, pool, clock, ask
        self._lock = threading.Lock()
        self._token, self._refresh = "", ""
        self._user = settings.username
        self._until = float("-inf")
        self._last_try = ""

    def token(self) -> str:
        with self._lock:
            if self._clock() >= self._until:
                self._obtain()
            return self._token

    def headers(self, url: str, body: bytes) -> Mapping[str, str]:
        return {"Authorization": self.token()}

    def renew(self, refused: Mapping[str, str]) -> bool:
        """Once: a token that was made after a refusal and is refused too will not get better."""
        with self._lock:
            if refused.get("Authorization") != self._token:
                return True  # another thread was first
            if self._token == self._last_try:
                return False
            self._obtain()
            self._last_try = self._token
            return True

    def _obtain(self) -> None:
        """A new token, by the refresh token if there is one that still works."""
        result = None
        if self._refresh:
            try:
                result = self._initiate("REFRESH_TOKEN_AUTH", {"REFRESH_TOKEN": self._refresh}, self._user)
            except CognitoError as error:
                if error.kind not in ("NotAuthorizedException", "RefreshTokenReuseException"):
                    raise
                self._refresh = ""  # revoked, or as old as it may get
        self._accept((result or self._sign_in())["AuthenticationResult"])

    def _accept(self, result: Mapping[str, Any]) -> None:
        claims = _claims(result["IdToken"])
        group = self._settings.group
        if group and group not in claims.get("cognito:groups", ()):
            raise AccessError(
                f"the user is not in the group `{group}`",
                hint="`aws cognito-idp admin-add-user-to-group` adds a user; the next sign-in sees it",
            )
        life = float(result["ExpiresIn"])
        self._until = self._clock() + life - min(EARLY, life / 5)
        self._token = result["IdToken"]
        self._refresh = result.get("RefreshToken") or self._refresh
        self._user = claims.get("cognito:username") or self._user

    def _sign_in(self) -> Mapping[str, Any]:
        """Through every challenge to the end."""
        self._user = self._settings.username
        answer = self._first()
        for _ in range(5):
            if "AuthenticationResult" in answer:
                return answer
            given = answer.get("ChallengeParameters") or {}
            self._user = given.get("USERNAME") or given.get("USER_ID_FOR_SRP") or self._user
            name = answer["ChallengeName"]
            answer = self._respond(name, answer.get("Session"), self._reply(name, given))
        raise AccessError("Cognito asks for one challenge after the other")

    def _first(self) -> Mapping[str, Any]:
        name, password = self._settings.username, self._settings.password.get_secret_value()
        if self._settings.flow == "password":
            return self._initiate("USER_PASSWORD_AUTH", {"USERNAME": name, "PASSWORD": password}, name)
        proof = Proof.begin(self._settings.user_pool)
        given = {"USERNAME": name, "SRP_A": f"{proof.public:x}"}
        answer = self._initiate("USER_SRP_AUTH", given, name)
        asked = answer.get("ChallengeParameters") or {}
        if answer.get("ChallengeName") != "PASSWORD_VERIFIER":
            return answer
        # Both may be an id of Cognito's own: what was signed in with may be an e-mail address.
        user, self._user = asked["USER_ID_FOR_SRP"], asked.get("USERNAME") or name
        moment = stamp(datetime.fromtimestamp(self._clock(), UTC))
        reply = {
            "TIMESTAMP": moment,
            "PASSWORD_CLAIM_SECRET_BLOCK": asked["SECRET_BLOCK"],
            "PASSWORD_CLAIM_SIGNATURE": proof.signature(
                user, password, asked["SALT"], asked["SRP_B"], asked["SECRET_BLOCK"], moment
            ),
        }
        return self._respond("PASSWORD_VERIFIER", answer.get("Session"), reply)

    def _reply(self, challenge: str, given: Mapping[str, Any]) -> dict[str, str]:
        """What a challenge asks for: from the settings, else of a person at a terminal."""
        if challenge == "NEW_PASSWORD_REQUIRED":
            return {"NEW_PASSWORD": self._secret(self._settings.new_password, "new_password", "A new password")}
        if challenge == "SOFTWARE_TOKEN_MFA":
            kept = self._settings.totp_secret
            code = one_time_code(kept.get_secret_value(), self._clock()) if kept else None
            return {"SOFTWARE_TOKEN_MFA_CODE": code or self._asked("totp_secret", "The authenticator's six digits")}
        if challenge == "SMS_MFA":
            return {"SMS_MFA_CODE": self._asked("a person at a terminal", "The code in the message")}
        if challenge == "SELECT_MFA_TYPE" and "SOFTWARE_TOKEN_MFA" in str(given.get("MFAS_CAN_CHOOSE")):
            return {"ANSWER": "SOFTWARE_TOKEN_MFA"}
        raise AccessError(
            f"Cognito asks for the challenge {challenge}, which cannot be answered here",
            hint="sign in once in the app itself, or use another user",
        )

    def _secret(self, kept: SecretStr | None, setting: str, question: str) -> str:
        return kept.get_secret_value() if kept else self._asked(setting, question)

    def _asked(self, setting: str, question: str) -> str:
        typed = self._ask(question)
        if not typed:
            needed = setting if " " in setting else f"the setting `{setting}`, or a terminal to ask at"
            raise AccessError(f"the sign-in needs more than a password: {needed}")
        return typed

    def _initiate(self, flow: str, parameters: dict[str, str], user: str) -> Mapping[str, Any]:
        body = {"AuthFlow": flow, "AuthParameters": parameters | self._hashed(user)}
        return self._post("InitiateAuth", body)

    def _respond(self, challenge: str, session: str | None, reply: dict[str, str]) -> Mapping[str, Any]:
        responses = {"USERNAME": self._user, **reply, **self._hashed(self._user)}
        body: dict[str, Any] = {"ChallengeName": challenge, "ChallengeResponses": responses}
        return self._post("RespondToAuthChallenge", body | ({"Session": session} if session else {}))

    def _hashed(self, user: str) -> dict[str, str]:
        secret, client = self._settings.client_secret, self._settings.client_id
        return {"SECRET_HASH": secret_hash(secret.get_secret_value(), user, client)} if secret else {}

    def _post(self, action: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        headers = {
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": f"AWSCognitoIdentityProviderService.{action}",
        }
        text = orjson.dumps({"ClientId": self._settings.client_id, **body})
        answer = self._pool.request("POST", self._url, body=text, headers=headers, redirect=False)
        try:
            found: Any = orjson.loads(answer.data)
        except orjson.JSONDecodeError:
            found = {}
        if answer.status == 200 and isinstance(found, dict) and found:
            return found
        kind = found.get("__type", "") if isinstance(found, dict) else ""
        raise CognitoError(str(kind).rpartition("#")[2], answer.status if answer.status != 200 else 502)


_SIGNED_IN: WeakValueDictionary[CognitoSettings, Cognito] = WeakValueDictionary()


def signed_in(settings: CognitoSettings, pool: urllib3.PoolManager) -> Cognito:
    """The one sign-in of this user in this process: nobody is asked twice, and a one-time code works but once."""
    return _SIGNED_IN.setdefault(settings, Cognito(settings, pool))


def _claims(token: str) -> dict[str, Any]:
    """What a token says of its user. Its signature is the service's business: it came from Cognito over TLS."""
    try:
        part = token.split(".")[1]
        found: dict[str, Any] = orjson.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, binascii.Error, orjson.JSONDecodeError):
        raise AccessError("Cognito's token cannot be read") from None
    return found
