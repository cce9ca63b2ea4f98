"""The body of a message as it comes, for whoever takes it: by `take` when told of a change, or by `read`.

The rule of this file: a body is whole only when its framing says so (RFC 9112 6.3); anything else is an error.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Literal

from gateway.core.chunks import BadChunk, Chunks

# Octets of a body that wait to be taken before its sender is held back.
READ_LIMIT: Final = 2**16


class BodyBroken(Exception):
    """The body ended before it was whole, or can't be told from what follows; the text says which."""


class Body:
    """`received` counts the octets that came, `waiting` those that nobody took yet.

    Complete when `ended`; with an `error`, nothing more comes. `changed` is called after either and when octets came,
    `taken` when they were taken while their sender is held back.
    """

    __slots__ = ("_chunks", "_left", "_pieces", "changed", "ended", "error", "received", "taken", "waiting")

    def __init__(self, framing: int | Literal["close"] | None) -> None:
        self._chunks = Chunks() if framing is None else None
        # Octets still to come; -1: as many as come before the connection ends.
        self._left = framing if isinstance(framing, int) else -1
        self._pieces: list[bytes] = []
        self.waiting = self.received = 0
        self.ended = framing == 0
        self.error: BodyBroken | None = None
        self.changed: Callable[[], None] | None = None
        self.taken: Callable[[], None] | None = None

    def feed(self, data: bytes, start: int) -> int:
        """Take what of `data[start:]` belongs to the body and return where that ends."""
        if (left := self._left) <= 0:
            return self._feed_unbounded(data, start)
        piece = data[start : start + left]
        size = len(piece)
        self._left = left - size
        self.ended = size == left
        self._pieces.append(piece)
        self.waiting += size
        self.received += size
        return start + size

    def _feed_unbounded(self, data: bytes, start: int) -> int:
        """Take what of `data[start:]` belongs to a body in chunks, or one that ends with the connection."""
        piece, end = data[start:], len(data)
        if self.error is not None:  # where it would go on can't be told any more
            return end
        if self._chunks is not None:
            try:
                piece, end = self._chunks.decode(data, start)
            except BadChunk as error:
                self.break_off(str(error))
                return end
            self.ended = self._chunks.ended
        if piece:
            self._pieces.append(piece)
            self.waiting += len(piece)
            self.received += len(piece)
        return end

    def unwanted(self) -> "Body":
        """Return what takes the place of one that nobody wants: whatever comes until the connection ends."""
        rest = Body("close")
        rest.received = self.received
        return rest

    def end_with_connection(self, problem: str = "") -> None:
        """Say that no more comes: the end of a body that ends so, if there is no `problem`, and of no other."""
        if self._left < 0 and self._chunks is None and not (problem or self.error):
            self.ended = True
            self.notify()
        else:
            self.break_off(problem or "the connection ended before the body was whole")

    def break_off(self, problem: str) -> None:
        """Say that it can't become whole any more."""
        if not self.ended and self.error is None:
            self.error = BodyBroken(problem)
            self.notify()

    def notify(self) -> None:
        """Tell whoever takes the body that something came."""
        if self.changed is not None:
            self.changed()

    def take(self) -> bytes:
        """Return what came and was not taken yet."""
        pieces = self._pieces
        if not pieces:
            return b""
        self._pieces = []
        self.waiting = 0
        if (taken := self.taken) is not None:
            self.taken = None
            taken()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def read(self) -> bytes:
        """Return the next octets, b"" at the end; raises `BodyBroken` once all that came before it was returned."""
        while not (self.waiting or self.ended):
            if self.error is not None:
                raise self.error
            woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.changed = lambda woken=woken: woken.done() or woken.set_result(None)
            try:
                await woken
            finally:
                self.changed = None
        return self.take()

    async def read_bounded(self, limit: int) -> bytes:
        """Return the whole body, or of one with more than `limit` octets what shows it; raises as `read`."""
        octets = bytearray()
        while len(octets) <= limit and (more := await self.read()):
            octets += more
        return bytes(octets)


NO_BODY: Final = Body(0)


def chunk(octets: bytes) -> bytes:
    """Return octets as a chunk (RFC 9112 7.1); none make none, for an empty one would be the last."""
    return b"%x\r\n%b\r\n" % (len(octets), octets) if octets else b""


LAST_CHUNK: Final = b"0\r\n\r\n"
