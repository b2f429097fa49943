"""The wire to a Postgres server, which may be cut, and on which a server may say that it is full or goes down."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

SAYS = {
    "full": "53300",
    "starting": "57P03",
    "denied": "28P01",
    "killed": "57P01",
}
"""What a server says before it hangs up, by SQLSTATE."""
CONNECT = "connect"
_NOTHING_COMES_BACK = b"dX"
"""Types of messages that are not answered: a part of a COPY, and the end."""


class Wire:
    """Hands on what each side says. ``schedule`` is asked, with each message of a client, what goes wrong:

    a word of `SAYS`, `unsent` (cut before the server has it), `lost` (the server has it, the answer never comes), `cut`
    (half of the answer comes).
    """

    def __init__(self, server: str) -> None:
        self._server = urlsplit(server)
        self.schedule: Callable[[str], str | None] = lambda asked: None
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, database: str) -> str:
        user = f"{self._server.username}:{self._server.password or ''}@"
        return f"postgresql://{user}127.0.0.1:{self.port}/{database}?sslmode=disable&gssencmode=disable"

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        place = (self._server.hostname or "127.0.0.1", self._server.port or 5432)
        with client, socket.create_connection(place) as server:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                self._between(client, server)
            except OSError:
                return  # one side has gone

    def _between(self, client: socket.socket, server: socket.socket) -> None:
        first = True
        while True:
            ready, _, _ = select.select([client, server], [], [])
            if server in ready:
                came = server.recv(1 << 16)
                if not came:
                    return
                client.sendall(came)
            if client in ready:
                sent = client.recv(1 << 16)
                if not sent or not self._passed(sent, client, server, first=first):
                    return
                first = False

    def _passed(self, sent: bytes, client: socket.socket, server: socket.socket, *, first: bool) -> bool:
        """Hand a message on; False where that ended it."""
        kind = self.schedule(CONNECT if first else _words(sent))
        if kind in ("lost", "cut") and not first and sent[:1] not in _NOTHING_COMES_BACK:
            server.sendall(sent)
            came = server.recv(1 << 16)
            if kind == "cut":
                client.sendall(came[: len(came) // 2])
        elif kind in SAYS and (first or kind == "killed"):
            client.sendall(_fatal(SAYS[kind]))
        if kind is None:
            server.sendall(sent)
        return kind is None


def _words(sent: bytes) -> str:
    """A message's type and text."""
    body = sent[5 : 1 + struct.unpack(">I", sent[1:5])[0]] if len(sent) >= 5 else b""
    text = body.strip(b"\0").partition(b"\0")[0] if sent[:1] in b"PQ" else b""
    return f"{chr(sent[0])} {text[:400].decode(errors='replace')}"


def _fatal(state: str) -> bytes:
    """An ErrorResponse (https://www.postgresql.org/docs/current/protocol-message-formats.html)."""
    fields = f"SFATAL\0VFATAL\0C{state}\0Mno\0".encode()
    return b"E" + struct.pack(">I", len(fields) + 5) + fields + b"\0"


@contextmanager
def wired(server: str) -> Iterator[Wire]:
    wire = Wire(server)
    try:
        yield wire
    finally:
        wire.close()
