"""Access to Drive: a service account, a token that was stored, or a person who signs in at a terminal."""

from __future__ import annotations

import base64
import hashlib
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import google.auth.transport.urllib3
import orjson
import urllib3
from google.auth.exceptions import GoogleAuthError, RefreshError
from google.oauth2.credentials import Credentials
from google.oauth2.service_account import Credentials as ServiceAccount

from resettle import private
from resettle.calls import Caller, demand_tls, seconds_of
from resettle.errors import AccessError, ConfigError, TransientError

SCOPE = "https://www.googleapis.com/auth/drive.readonly"
"""Reading only: the source is never written."""
GRANTS = "https://oauth2.googleapis.com/token"
"""Google's token endpoint, where the stored token names none."""
PATIENCE = 300.0
"""Seconds that a person has to sign in."""
_PASSING = frozenset({"internal_failure", "server_error", "temporarily_unavailable"})


class Auth:
    """Access tokens, made anew before they end and when they are refused. Any thread may ask.

    ``terminal`` tells whether a person can be asked, ``say`` shows her a line.
    """

    def __init__(
        self,
        name: str,
        credentials: Path | None,
        stored: Path | None,
        subject: str | None,
        pool: urllib3.PoolManager,
        *,
        terminal: Callable[[], bool] = lambda: sys.stdin.isatty() and sys.stderr.isatty(),
        say: Callable[[str], object] = lambda text: sys.stderr.write(text),
    ) -> None:
        self._name, self._stored, self._terminal, self._say = name, stored, terminal, say
        self._request = _Once(pool)
        self._lock = threading.Lock()
        self._worked: str | None = None
        self._client: Mapping[str, str] = {}
        self._held = self._given(credentials, subject)

    def ready(self, call: Caller) -> None:
        """Let a person sign in where nobody has yet. Raises AccessError where there is none to ask."""
        with self._lock:
            if self._held is None:
                self._held = self._sign_in(call)
                self._keep()

    def token(self) -> str:
        """An access token that has not ended. Raises AccessError, or what the transport raises."""
        with self._lock:
            assert self._held is not None, "ready() comes first"
            if not self._held.valid:
                try:
                    self._held.refresh(self._request)
                except RefreshError as error:
                    raise self._refusal(error) from None
                self._keep()
            return str(self._held.token)

    def accepted(self, token: str) -> None:
        """The service took this token."""
        self._worked = token

    def refused(self, token: str) -> None:
        """The service did not: the next is made anew. Raises TransientError, or AccessError for one just made."""
        with self._lock:
            assert self._held is not None
            if self._held.token == token:
                self._held.token = None
                if token == self._made and token != self._worked:
                    raise AccessError("Drive refuses a token that was just made", connection=self._name)
        raise TransientError("Drive refuses the access token; a new one is asked for", connection=self._name)

    # -- what there is

    def _given(self, credentials: Path | None, subject: str | None) -> Any:
        """Credentials out of the files, or None where a person has to sign in."""
        self._made: str | None = None
        found = self._read(credentials, "credentials") if credentials else None
        if found and found.get("type") == "service_account":
            return self._service_account(found, subject)
        if subject:
            raise ConfigError(f"{self._name}: `subject` goes with the key file of a service account")
        if self._stored and self._stored.exists():
            return self._user(self._read(self._stored, "token"))
        if found and found.get("type") == "authorized_user":
            return self._user(found)
        self._client = (found or {}).get("installed") or (found or {}).get("web") or {}
        if not {"client_id", "client_secret", "auth_uri", "token_uri"} <= self._client.keys():
            raise ConfigError(
                f"{self._name}: no credentials for Drive",
                hint="`credentials` is the file of an OAuth client (desktop app) or the key file of a service account; "
                "`token` is where the token of who signed in is stored",
            )
        if not self._stored:
            raise ConfigError(
                f"{self._name}: `token` is missing", hint="say where the token of who signs in shall be stored"
            )
        for key in ("auth_uri", "token_uri"):
            demand_tls(self._client[key], key)
        return None

    def _read(self, path: Path, setting: str) -> dict[str, Any]:
        try:
            found = orjson.loads(path.read_bytes())
        except OSError as error:
            raise ConfigError(f"{self._name}: `{setting}`: {error.strerror}: {path}") from None
        except orjson.JSONDecodeError:
            raise ConfigError(f"{self._name}: `{setting}`: not a JSON file: {path}") from None
        if not isinstance(found, dict):
            raise ConfigError(f"{self._name}: `{setting}`: not a file with credentials: {path}")
        return found

    def _service_account(self, found: Mapping[str, Any], subject: str | None) -> ServiceAccount:
        demand_tls(str(found.get("token_uri", "")), "token_uri")
        try:
            return ServiceAccount.from_service_account_info(found, scopes=[SCOPE], subject=subject)  # type: ignore[no-untyped-call,no-any-return]
        except (GoogleAuthError, ValueError):  # its text may hold the key
            raise ConfigError(f"{self._name}: `credentials` is not a whole key file of a service account") from None

    def _user(self, found: dict[str, Any]) -> Credentials:
        demand_tls(str(found.get("token_uri", GRANTS)), "token_uri")
        names = ("refresh_token", "client_id", "client_secret")
        if not all(isinstance(found.get(name), str) for name in names):
            raise ConfigError(f"{self._name}: the stored token is not whole", hint=self._anew())
        # Without the access token that may be stored too: nothing says that it is still good.
        return Credentials(  # type: ignore[no-untyped-call]
            None, token_uri=found.get("token_uri", GRANTS), **{name: found[name] for name in names}
        )

    # -- what becomes of it

    def _keep(self) -> None:
        """Store a person's token, readable for her alone, whole or not at all."""
        assert self._held is not None
        self._made = self._held.token
        if self._stored is None or not isinstance(self._held, Credentials):
            return
        kept = {"type": "authorized_user", **orjson.loads(self._held.to_json())}  # type: ignore[no-untyped-call]
        try:
            self._stored.parent.mkdir(parents=True, exist_ok=True)
            with private.replacing(self._stored) as file:
                file.write(orjson.dumps(kept))
        except (OSError, ConfigError) as error:
            if self._stored.exists():  # that one is still good, be it a link or on a read-only disk
                return
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{self._name}: `token`: {error.strerror}: {self._stored}") from None

    def _refusal(self, error: RefreshError) -> AccessError:
        said = error.args[1] if len(error.args) > 1 and isinstance(error.args[1], Mapping) else {}
        code = str(said.get("error", "")) if str(said.get("error", "")).isidentifier() else "no token"
        if isinstance(self._held, ServiceAccount):
            hint = "check that the key is not revoked, this machine's clock, and for `subject` the delegation"
        else:
            hint = self._anew()
        return AccessError(f"{code} from Google's token endpoint", connection=self._name, hint=hint)

    def _anew(self) -> str:
        return f"delete {self._stored or 'the stored token'}, then run `resettle check` at a terminal to sign in again"

    # -- signing in

    def _sign_in(self, call: Caller) -> Credentials:
        if not self._terminal():
            raise AccessError(
                "nobody has signed in to Drive yet",
                connection=self._name,
                hint=f"run `resettle check` at a terminal once; the token is then kept in {self._stored}",
            )
        verifier, state = secrets.token_urlsafe(64), secrets.token_urlsafe(16)
        with _Redirect(state) as back:
            digest = hashlib.sha256(verifier.encode()).digest()
            asked = {
                "client_id": self._client["client_id"],
                "redirect_uri": back.url,
                "response_type": "code",
                "scope": SCOPE,
                "state": state,
                "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
                "code_challenge_method": "S256",
                "access_type": "offline",
                "prompt": "consent",
            }
            self._say(
                f"{self._name}: to sign in to Google Drive, open\n{self._client['auth_uri']}?{urlencode(asked)}\n"
            )
            answer = back.wait(PATIENCE)
        if "code" not in answer:
            raise AccessError("nobody signed in to Drive", connection=self._name, hint="run the command again")
        return call(self._exchange, answer["code"], verifier, back.url)

    def _exchange(self, code: str, verifier: str, redirect: str) -> Credentials:
        """The code for a token (RFC 7636, 4.5). A code is good once."""
        client = {name: self._client[name] for name in ("client_id", "client_secret")}
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect, "code_verifier": verifier}
        sent = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = self._request(self._client["token_uri"], "POST", urlencode({**form, **client}).encode(), sent)
        found = orjson.loads(answer.data) if answer.status == 200 else {}
        if "refresh_token" not in found:
            raise AccessError(
                "Google gave no token for who signed in", connection=self._name, hint="run the command again"
            )
        return Credentials(  # type: ignore[no-untyped-call]
            found["access_token"],
            refresh_token=found["refresh_token"],
            token_uri=self._client["token_uri"],
            # Google's library reckons in UTC without a zone.
            expiry=datetime.now(UTC).replace(tzinfo=None) + timedelta(seconds=int(found.get("expires_in", 0))),
            **client,
        )


class _Once:
    """Google's transport, but what it would try again by itself is left to Caller."""

    def __init__(self, pool: urllib3.PoolManager) -> None:
        self._request: Any = google.auth.transport.urllib3.Request(pool)  # type: ignore[no-untyped-call]

    def __call__(self, url: str, method: str = "GET", body: Any = None, headers: Any = None, **more: Any) -> Any:
        answer = self._request(url, method, body, headers, redirect=False)
        try:
            said = orjson.loads(answer.data).get("error")
        except (orjson.JSONDecodeError, AttributeError):
            if answer.status == 200:  # cut off, or a proxy's page: Google's library would take its text for a token
                raise TransientError("the answer of Google's token endpoint is not whole") from None
            said = None
        if answer.status in (408, 429) or answer.status >= 500 or said in _PASSING:
            wait = seconds_of(answer.headers.get("Retry-After"))
            raise TransientError(f"HTTP {answer.status} from Google's token endpoint", retry_after=wait)
        return answer


class _Redirect:
    """Waits on 127.0.0.1 for the browser that comes back from Google's page."""

    def __init__(self, state: str) -> None:
        self._answer: dict[str, str] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            # Browsers open connections that they may never use.
            timeout = 1

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Nothing: the path holds the code."""

            def do_GET(self) -> None:
                given = dict(parse_qsl(urlsplit(self.path).query))
                ours = secrets.compare_digest(given.get("state", "").encode(), state.encode())
                outer._answer = given if ours else outer._answer
                text = b"You may close this page." if ours else b"Not what was asked for."
                self.send_response(200 if ours else 400)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> _Redirect:
        return self

    def __exit__(self, *error: object) -> None:
        self._server.server_close()

    def wait(self, patience: float) -> Mapping[str, str]:
        """What Google's page says; nothing if nobody comes within so many seconds."""
        end = time.monotonic() + patience
        self._server.timeout = 1.0
        while not self._answer and time.monotonic() < end:
            self._server.handle_request()
        return self._answer
