"""Bodies on their way in: counted, hashed, and taken up again where the connection was cut."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing

from resettle.calls import Caller
from resettle.connector import Body
from resettle.errors import RejectedError, TransientError


class Incoming:
    """A body's bytes in blocks of one size, counted and hashed; taken up again where the connection was cut.

    Not ``hashed``: whoever gets them hashes them.
    """

    def __init__(self, body: Body, call: Caller, *, hashed: bool = True) -> None:
        self._body, self._call, self._hashed = body, call, hashed
        self._held, self._ended = bytearray(), False
        self._pieces: Iterator[bytes] | None = None
        self._hash = hashlib.md5(usedforsecurity=False)
        self.size = 0

    def block(self, size: int) -> bytes:
        """The next ``size`` bytes; fewer at the end, none after it."""
        self._call(self._fill, size)
        with memoryview(self._held) as held:
            block = bytes(held[:size])
        del self._held[: len(block)]
        return block

    def check(self) -> str:
        """The MD5 of all of it. Raises RejectedError("changed") where it is not what the body's service said."""
        md5 = self._hash.hexdigest() if self._hashed else str(self._body.md5).lower()
        if self._body.size is not None and self.size != self._body.size:
            raise RejectedError("changed", "its bytes are not as many as was said")
        if self._body.md5 is not None and md5 != self._body.md5.lower():
            raise RejectedError("changed", "its bytes do not have the MD5 that was said")
        return md5

    def close(self) -> None:
        pieces, self._pieces = self._pieces, None
        if (close := getattr(pieces, "close", None)) is not None:
            close()

    def piece(self) -> bytes:
        """The next bytes, as they come; none at the end."""
        if self._pieces is None:
            return self._call(self._next)
        try:
            return self._next()  # far more often than anything fails
        except TransientError as error:
            failed = [error]

        def again() -> bytes:
            if failed:
                raise failed.pop()
            return self._next()

        return self._call(again)

    def _fill(self, size: int) -> None:
        while len(self._held) < size and not self._ended:
            self._held += self._next()

    def _next(self) -> bytes:
        if self._pieces is None:
            self._pieces = iter(self._body.chunks(self.size))
        try:
            # An empty piece is not the end.
            piece = next(filter(None, self._pieces), None)
        except TransientError:
            self.close()
            raise
        if piece is None:
            self._ended = True
            return b""
        if self._hashed:
            self._hash.update(piece)
        self.size += len(piece)
        if self._body.size is not None and self.size > self._body.size:
            self.check()  # no need to read the rest
        return piece


class Through:
    """A body of known size and MD5 in pieces, for one request after the other; the last piece is the checked one.

    Not ``hashed``: the first request's answer is to say what arrived. One that follows is checked here, to know why.
    """

    def __init__(self, body: Body, call: Caller, *, hashed: bool) -> None:
        self._body, self._call, self._next = body, call, hashed
        self.hashed = hashed
        """Whether the bytes of the last request were hashed here."""

    def __iter__(self) -> Iterator[bytes]:
        self.hashed, self._next = self._next, True
        with closing(Incoming(self._body, self._call, hashed=self.hashed)) as incoming:
            held = incoming.piece()
            while more := incoming.piece():
                yield held
                held = more
            incoming.check()
            yield held
