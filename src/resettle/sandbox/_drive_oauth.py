"""Google's authorisation and token endpoints for the Drive stand-in: who may have an access token, and for how long."""

from __future__ import annotations

import base64
import functools
import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

CLIENT, CLIENT_SECRET = "sandbox.apps.googleusercontent.com", "sandbox-client-secret"
ACCOUNT = "mover@sandbox.iam.gserviceaccount.com"
SCOPES = {"https://www.googleapis.com/auth/drive.readonly", "https://www.googleapis.com/auth/drive"}
LIFETIME = 3599
"""Seconds that an access token is good for, as Google's."""
GOOGLE = "https://oauth2.googleapis.com/token"
"""For whom Google's library signs, wherever it sends it."""
_JWT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class OAuthError(Exception):
    """What the token endpoint refuses: HTTP status and `error` (RFC 6749, 5.2)."""

    def __init__(self, error: str, status: int = 400) -> None:
        super().__init__(error)
        self.error, self.status = error, status


@functools.cache
def private_key() -> rsa.RSAPrivateKey:
    """The service account's key, made once: it takes a tenth of a second."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass
class OAuth:
    """Codes, refresh tokens and access tokens that were given out. ``clock`` in seconds since 1970."""

    url: str
    clock: Callable[[], float]
    subjects: set[str] = field(default_factory=set)
    """Users whom the service account may act for."""
    denies: bool = False
    """Whether the person at the authorisation page says no."""
    codes: dict[str, Mapping[str, str]] = field(default_factory=dict)
    refresh_tokens: set[str] = field(default_factory=set)
    access_tokens: dict[str, float] = field(default_factory=dict)
    """Each with the time it ends."""
    granted: list[str] = field(default_factory=list)
    """The grant type of every access token."""

    def expire(self) -> None:
        """Every access token ends now."""
        self.access_tokens = {}

    def revoke(self) -> None:
        """The person takes back what she agreed to."""
        self.expire()
        self.refresh_tokens = set()

    def good(self, token: str) -> bool:
        return self.access_tokens.get(token, 0.0) > self.clock()

    def new_token(self) -> str:
        """An access token that nobody had to ask for."""
        token = f"ya29.{secrets.token_urlsafe(24)}"
        self.access_tokens[token] = self.clock() + LIFETIME
        return token

    def client(self) -> dict[str, Any]:
        """The file of an OAuth client for installed apps."""
        return {
            "installed": {
                "client_id": CLIENT,
                "client_secret": CLIENT_SECRET,
                "auth_uri": f"{self.url}/o/oauth2/auth",
                "token_uri": f"{self.url}/token",
                "redirect_uris": ["http://localhost"],
            }
        }

    def service_account(self) -> dict[str, Any]:
        """The key file of a service account."""
        form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        return {
            "type": "service_account",
            "project_id": "sandbox",
            "private_key_id": "1",
            "private_key": private_key().private_bytes(serialization.Encoding.PEM, form, plain).decode(),
            "client_email": ACCOUNT,
            "client_id": "1",
            "token_uri": f"{self.url}/token",
        }

    def authorise(self, asked: Mapping[str, str]) -> str:
        """Where the browser is sent, at once. Raises OAuthError where Google shows an error page instead."""
        back = urlsplit(asked.get("redirect_uri", ""))
        if asked.get("client_id") != CLIENT:
            raise OAuthError("invalid_client", 401)
        if back.scheme != "http" or back.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise OAuthError("redirect_uri_mismatch")
        if asked.get("response_type") != "code" or asked.get("code_challenge_method", "S256") != "S256":
            raise OAuthError("invalid_request")
        if not set(asked.get("scope", "").split()) & SCOPES:
            raise OAuthError("invalid_scope")
        state = {"state": asked["state"]} if "state" in asked else {}
        if self.denies:
            return f"{asked['redirect_uri']}?{urlencode({'error': 'access_denied', **state})}"
        code = f"4/{secrets.token_urlsafe(16)}"
        self.codes[code] = asked
        return f"{asked['redirect_uri']}?{urlencode({**state, 'code': code, 'scope': asked['scope']})}"

    def grant(self, asked: Mapping[str, str]) -> dict[str, Any]:
        """An access token. Raises OAuthError."""
        kind = asked.get("grant_type", "")
        more: dict[str, Any] = {}
        if kind == _JWT:
            self._assertion(asked.get("assertion", ""))
        elif kind in ("authorization_code", "refresh_token"):
            if (asked.get("client_id"), asked.get("client_secret")) != (CLIENT, CLIENT_SECRET):
                raise OAuthError("invalid_client", 401)
            if kind == "authorization_code":
                self._code(asked)
                more = {"refresh_token": f"1//{secrets.token_urlsafe(24)}"}
                self.refresh_tokens.add(more["refresh_token"])
            elif asked.get("refresh_token") not in self.refresh_tokens:
                raise OAuthError("invalid_grant")
        else:
            raise OAuthError("unsupported_grant_type")
        self.granted.append(kind)
        scope = "https://www.googleapis.com/auth/drive.readonly"
        return {
            "access_token": self.new_token(),
            "expires_in": LIFETIME,
            "token_type": "Bearer",
            "scope": scope,
            **more,
        }

    def _code(self, asked: Mapping[str, str]) -> None:
        """A code is good once, for the redirect and the secret (RFC 7636) it was asked with."""
        given = self.codes.pop(asked.get("code", ""), None)
        if given is None or given["redirect_uri"] != asked.get("redirect_uri"):
            raise OAuthError("invalid_grant")
        digest = hashlib.sha256(asked.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if given.get("code_challenge", challenge) != challenge:
            raise OAuthError("invalid_grant")

    def _assertion(self, text: str) -> None:
        """A JWT signed with the service account's key, for this endpoint, for at most an hour."""
        try:
            head, body, signature = text.split(".")
            signed = f"{head}.{body}".encode()
            public = private_key().public_key()
            public.verify(_bytes(signature), signed, padding.PKCS1v15(), hashes.SHA256())
            claims = orjson.loads(_bytes(body))
        except (ValueError, InvalidSignature):
            raise OAuthError("invalid_grant") from None
        now, scopes = self.clock(), set(str(claims.get("scope", "")).split())
        timely = claims["iat"] - 300 <= now < claims["exp"] <= claims["iat"] + 3600
        if claims["iss"] != ACCOUNT or claims["aud"] not in (f"{self.url}/token", GOOGLE) or not timely:
            raise OAuthError("invalid_grant")
        if not scopes or scopes - SCOPES:
            raise OAuthError("invalid_scope")
        if "sub" in claims and claims["sub"] not in self.subjects:
            raise OAuthError("unauthorized_client", 401)


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
