"""A door before moto's WSGI applications: notes what is asked for, and lets things go wrong as asked."""

from __future__ import annotations

import io
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from resettle.errors import ConfigError

STATUS = {
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    429: "Too Many Requests",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}

Environ = dict[str, Any]
Respond = Callable[..., Any]


@dataclass
class Fault:
    """Something that goes wrong with the next ``times`` requests that fit: ``method``, and text in path or query.

    ``kind``: `status` (answers ``status``, ``code`` and Retry-After), `late` (so, but it is done), `unsent` (the
    connection breaks off before anything is done), `page` (a proxy's page, with ``status``), `lost` (it is done, but
    the answer never comes), `cut` (the connection breaks off in the middle of the answer), `short` (half of an answer
    as if it were all), `corrupt` (a wrong byte), `empty` (a page with nothing in it, and a token), `again` (a page
    whose token leads to that page once more). ``after`` requests that fit go well before that.
    """

    kind: str
    method: str = ""
    text: str = ""
    times: int = 1
    status: int = 503
    code: str = "SlowDown"
    retry_after: int | None = None
    after: int = 0

    def takes(self, environ: Environ) -> bool:
        """Whether this request is to go wrong; it is then counted."""
        asked = f"{environ['PATH_INFO']}?{environ.get('QUERY_STRING', '')}"
        if self.times < 1 or self.method not in ("", environ["REQUEST_METHOD"]) or self.text not in asked:
            return False
        if self.after:
            self.after -= 1
            return False
        self.times -= 1
        return True


@dataclass(kw_only=True)
class Behind:
    """A running end: what was asked of it, and what goes wrong with it."""

    faults: list[Fault] = field(default_factory=list)
    schedule: Callable[[str], Fault | None] = lambda asked: None
    """Asked before each request that none of ``faults`` takes, with what is asked, what goes wrong with it."""
    requests: list[str] = field(default_factory=list)
    """Every request since the start: method and path, or operation and input."""
    unmet: list[str] = field(default_factory=list)
    """Those of them whose condition did not hold: nothing was done."""

    def fail(self, kind: str, **given: Any) -> Fault:
        """Let something go wrong, see `Fault`."""
        self.faults.append(Fault(kind, **given))
        return self.faults[-1]


class Door:
    """Stands before an application. What kind of service it is, a subclass says."""

    def __init__(self, inner: Respond, local: Behind) -> None:
        self._inner, self.local = inner, local
        self._lock = threading.Lock()

    def __call__(self, environ: Environ, start: Respond) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        asked = self.asked(environ, body)
        with self._lock:
            self.local.requests.append(asked)
            fault = next((one for one in self.local.faults if one.takes(environ)), None) or self.local.schedule(asked)
        refused = self._refused(environ, body)
        if refused:
            return self.answer(environ, start, *refused)
        if fault is not None and fault.kind == "status":
            return self.answer(environ, start, fault.status, fault.code, fault.retry_after)
        if fault is not None and fault.kind == "page":
            return said(start, fault.status, b"<html>Bad gateway</html>", "text/html", fault.retry_after)
        if fault is not None and fault.kind == "unsent":
            start("200 OK", [])
            return _cut(environ, b"")
        if fault is not None and fault.kind == "empty":
            return self.empty_page(environ, start, body)
        changed = self.after_empty(environ, body)
        environ["wsgi.input"] = io.BytesIO(changed)
        if changed != body:  # else it stays what was said, be it more than what came
            environ["CONTENT_LENGTH"] = str(len(changed))
        if fault is None:

            def noted(status: str, *answer: Any) -> Any:
                if status.startswith("412"):
                    self.local.unmet.append(asked)
                return start(status, *answer)

            return self._inner(environ, noted)  # type: ignore[no-any-return]
        if fault.kind in ("cut", "lost"):
            whole = b"".join(self._inner(environ, start))
            return _cut(environ, whole[: len(whole) // 2] if fault.kind == "cut" else b"")
        if fault.kind == "late":
            b"".join(self._inner(environ, lambda *_: None))
            return self.answer(environ, start, fault.status, fault.code, fault.retry_after)
        return self._spoilt(environ, start, fault.kind)

    def _spoilt(self, environ: Environ, start: Respond, kind: str) -> Iterable[bytes]:
        """The answer with another body."""
        said: list[Any] = []
        whole = b"".join(self._inner(environ, lambda status, headers, *_: said.extend((status, headers))))
        if environ["REQUEST_METHOD"] == "HEAD" or not whole or not said[0].startswith("2"):
            start(*said)
            return [whole]
        if kind == "short":
            whole = whole[: len(whole) // 2]
        elif kind == "corrupt":
            middle = len(whole) // 2
            whole = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        else:
            whole = self.page_again(environ, whole)
        kept = [(name, value) for name, value in said[1] if name.lower() != "content-length"]
        start(said[0], [*kept, ("Content-Length", str(len(whole)))])
        return [whole]

    def asked(self, environ: Environ, body: bytes) -> str:
        """What is noted of a request."""
        raise NotImplementedError

    def _refused(self, environ: Environ, body: bytes) -> tuple[int, str] | None:
        """The status and code for a request that is refused before the application sees it."""
        return None

    def answer(
        self, environ: Environ, start: Respond, status: int, code: str, retry_after: int | None = None
    ) -> Iterable[bytes]:
        """An error, as the service writes it."""
        raise NotImplementedError

    def empty_page(self, environ: Environ, start: Respond, body: bytes) -> Iterable[bytes]:
        """A page with nothing in it that is not the last one."""
        raise NotImplementedError

    def after_empty(self, environ: Environ, body: bytes) -> bytes:
        """Turns the token of an injected page back into the true one; gives the body to go on with."""
        return body

    def page_again(self, environ: Environ, answer: bytes) -> bytes:
        """The page with a token that leads to it once more."""
        raise NotImplementedError


def said(start: Respond, status: int, body: bytes, kind: str, retry_after: int | None = None) -> list[bytes]:
    """A whole answer of our own."""
    after = [("Retry-After", str(retry_after))] if retry_after is not None else []
    headers = [("Content-Type", kind), ("Content-Length", str(len(body))), *after]
    start(f"{status} {STATUS.get(status, 'OK' if status == 200 else 'Error')}", headers)
    return [body]


def _cut(environ: Environ, begun: bytes) -> Iterator[bytes]:
    """These bytes, then the end of the connection."""
    if begun:
        yield begun
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    yield b""


@contextmanager
def served(app: Respond) -> Iterator[str]:
    """Serve it on a free port of 127.0.0.1; gives the URL."""
    try:
        from moto.moto_server.werkzeug_app import MotoRequestHandler
        from werkzeug.serving import make_server
    except ImportError:
        raise ConfigError("the sandbox needs moto", hint='pip install "resettle[sandbox]"') from None
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # one line for every request otherwise
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
