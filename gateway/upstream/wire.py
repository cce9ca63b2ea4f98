"""One HTTP/1.1 connection to the homeserver (RFC 9112), on aiohttp's own C response parser.

The rule of this file: it knows octets, messages and back-pressure, and nothing of pools, routes or Matrix. Memory for
each connection is bounded by a head, what waits to be read (twice `READ_LIMIT`, or one read of the loop: uvloop's has
256 KB), and as much that waits to be written.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from aiohttp import StreamReader
from aiohttp.http_exceptions import HttpProcessingError

from gateway.http1 import Message, UpstreamProtocol, break_body
from gateway.sockets import cut_off, unread

# Octets of an answer that wait for a slow client before the homeserver is held back.
READ_LIMIT: Final = 2**16
# What a broken homeserver may send before its answer: octets of a head, and answers with the interim ones (1xx).
_MAX_HEAD: Final = 2**20
_MAX_ANSWERS: Final = 100


class Broken(Exception):
    """The connection ended, or spoke something else than HTTP, before the answer was there."""


class Connection(UpstreamProtocol):
    """A connection that carries one exchange at a time; `on_lost` is called when it ends."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_lost: Callable[["Connection"], None] = lambda _: None
    ) -> None:
        super().__init__(loop, READ_LIMIT)
        self._on_lost = on_lost
        self._messages: list[Message] = []
        self._body: StreamReader | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._ended: BaseException | None = None
        self._answers = 0
        self._head_size = 0
        self.busy = False
        self.reused = False
        self.answered = False

    def begin(self, method: str, octets: bytes) -> None:
        """Start an exchange by sending `octets`: request line, fields, the empty line, and what there is of the body.

        Raises `Broken` when the connection is gone.
        """
        self.expect_answer(method)
        self._answers = 0
        self._head_size = 0
        self.busy = True
        self.answered = False
        self.write(octets)

    def finish(self) -> None:
        """End an exchange whose request was sent and whose answer was read to the end."""
        self.busy = False
        self.reused = True
        self._body = None

    def write(self, data: bytes) -> None:
        """Send octets; raises `Broken` when the connection is gone."""
        if self.transport is None or self.transport.is_closing():
            raise Broken("the connection was closed")
        self.transport.write(data)

    async def drain(self) -> None:
        """Wait until the homeserver has taken enough of what was sent; raises `Broken`."""
        try:
            await self.drained()
        except ConnectionError as error:
            raise Broken(str(error)) from error

    async def message(self) -> Message:
        """Wait for the next answer, interim ones (1xx) included, and its body as a stream; raises `Broken`."""
        while not self._messages:
            if self._ended is not None:
                raise Broken(str(self._ended)) from self._ended
            self._waiter = self.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._answers += 1
        if self._answers > _MAX_ANSWERS:
            raise Broken("it sent interim answers without end")
        found = self._messages.pop(0)
        if found[0].code < 100:
            raise Broken("it sent a status that is none")
        return found

    @property
    def usable(self) -> bool:
        """Say whether an exchange can begin here; an answer that nobody asked for must not become the next one's."""
        return not (self.busy or self._messages or self._ended is not None or self.transport is None)

    @property
    def stale(self) -> bool:
        """Say whether it broke as a kept connection does that the homeserver had closed: without a single octet."""
        return self.reused and not self.answered

    def abort(self) -> None:
        """End the connection at once, with what is still on its way; a body that is being read is broken off."""
        if self._ended is None:
            self._ended = Broken("the gateway ended the connection")
            self._break_body(self._ended)
            self._wake()
        if self.transport is not None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Feed the parser; called by the transport, and with nothing when a held-back reader goes on."""
        if self._ended is not None:
            return
        if data:
            if not self.busy:
                self._fail(Broken("the homeserver sent something that nobody asked for"))
                return
            self.answered = True
        try:
            messages, switched = self.parse(data)
        except HttpProcessingError as error:
            self._fail(_not_http(error))
            return
        if switched:
            self._fail(Broken("the homeserver switched protocols unasked"))
        elif messages:
            self._messages += messages
            self._body = messages[-1][1]
            self._head_size = 0
            self._wake()
        elif self._body is None or self._body.is_eof():
            self._head_size += len(data)
            if self._head_size > _MAX_HEAD:
                self._fail(Broken(f"it sent a head of more than {_MAX_HEAD} bytes"))

    def eof_received(self) -> None:
        """Take it as the end, whatever the homeserver still takes: no answer can come any more."""
        self._end(cut_off(self.transport))
        self.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End the running exchange: a body that ends by close is whole, any other is broken off."""
        if exc is not None and (data := unread(self.transport, READ_LIMIT)):
            self.data_received(data)  # it answered before it refused to take more
        exc = exc or cut_off(self.transport)
        super().connection_lost(exc)
        self._end(exc)
        self.stop_parsing()
        self._on_lost(self)

    def _end(self, exc: BaseException | None) -> None:
        if self._ended is None:
            self._ended = exc or ConnectionResetError("the homeserver closed the connection")
            try:
                if exc is None:
                    self.parse_end()
                else:
                    self._break_body(self._ended)
            except HttpProcessingError as error:
                self._break_body(_not_http(error))
        self._wake()

    def _fail(self, error: Broken) -> None:
        self._ended = error
        self._break_body(error)
        self.abort()
        self._wake()

    def _break_body(self, error: BaseException) -> None:
        if self._body is not None and not self._body.is_eof():
            break_body(self.loop, self._body, Broken(str(error)))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _not_http(error: HttpProcessingError) -> Broken:
    """Say what is wrong without aiohttp's words: they quote what the homeserver sent, which may be a token."""
    return Broken(f"it sent what is not HTTP/1.1 ({type(error).__name__})")
