"""The client's side of one connection to a server upstream: it carries one exchange at a time.

The rule of this file: what comes is the answer to the request at work, whatever the reads (RFC 9112 6.3 and 9), and
what comes beside it ends the connection, not the answer; what comes later still, when the next request is on its way,
can't be told from an answer to that. Memory is bounded by a head, and by what waits to be taken.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from gateway.core.framing import BadFraming, response_framing
from gateway.http.body import READ_LIMIT, Body
from gateway.http.messages import Response
from gateway.http.parser import MAX_ANSWER_HEAD, BadHead, PartialHead, ResponseHeads, read_head
from gateway.sockets import cut_off, unread


class ConnectionClosed(Exception):
    """The connection ended, or spoke something else than HTTP, before the answer was there; `reset`: by force."""

    def __init__(self, reason: str, *, reset: bool = False) -> None:
        super().__init__(reason)
        self.reset = reset


class Caller(Protocol):
    """Whoever asked, and is told what comes of it."""

    def interim(self, response: Response) -> None:
        """Take an interim answer (RFC 9110 15.2)."""

    def answered(self, response: Response) -> None:
        """Take the final answer, with as much of its body as came with the head."""

    def lost(self, error: ConnectionClosed) -> None:
        """Learn that no final answer comes; what is wrong with a body is told by the body."""

    def writable(self) -> None:
        """Learn that the server takes more of the request again."""

    def fail(self, fault: Exception) -> None:
        """Learn of a fault of one's own, which none of these methods handled."""


class ClientConnection(asyncio.Protocol):
    """A connection to a server; `on_lost` is called when it ends.

    `answered` says whether an octet came in the exchange at work, `reused` whether there was one before.
    """

    __slots__ = (
        "_caller",
        "_heads",
        "_method",
        "_on_lost",
        "_partial",
        "_paused",
        "_response",
        "_skipped",
        "_surplus",
        "answered",
        "error",
        "loop",
        "reused",
        "transport",
        "writable",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        heads: ResponseHeads,
        on_lost: Callable[["ClientConnection"], None] = lambda _: None,
    ) -> None:
        self.loop = loop
        self._heads = heads
        self._on_lost = on_lost
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._caller: Caller | None = None
        self._method = ""
        # Octets of the exchange since the last whole head.
        self._skipped = 0
        # The head that has begun.
        self._partial: PartialHead | None = None
        self._response: Response | None = None
        self._paused = self._surplus = False
        self.answered = self.reused = False
        self.writable = True
        # Why nothing more comes.
        self.error: ConnectionClosed | None = None

    def begin(self, caller: Caller, method: str, octets: bytes) -> None:
        """Start an exchange by sending `octets`: request line, fields, the empty line, and what there is of the body.

        Raises `ConnectionClosed` when the connection is gone; if it is only closing, the caller is told in a moment.
        """
        if self.error is not None:
            raise self.error
        self.answered, self._skipped = False, 0
        self._method, self._caller = method, caller
        self.transport.write(octets)

    def write(self, octets: bytes) -> None:
        """Send octets; raises `ConnectionClosed` when the connection is gone."""
        if self.gone:
            raise self.error or ConnectionClosed("the connection was closed")
        self.transport.write(octets)

    def finish(self) -> None:
        """End an exchange whose request was sent; the connection is kept if its answer was whole, and says so."""
        response, self._caller, self._response = self._response, None, None
        if response is None or not (response.keep_alive and response.body.ended) or self._surplus:
            self.abort()
        self.reused = True

    @property
    def usable(self) -> bool:
        """Whether an exchange can begin here."""
        return self._caller is None and self.error is None and not self.transport.is_closing()

    @property
    def gone(self) -> bool:
        """Whether nothing can be sent any more; if the caller was not told so yet, it will be in a moment."""
        return self.error is not None or self.transport.is_closing()

    @property
    def stale(self) -> bool:
        """Whether it broke as a kept connection does that the server had closed: without a single octet."""
        return self.reused and not self.answered

    def abort(self) -> None:
        """End the connection at once, with what is still on its way; its caller is told nothing more."""
        self._caller = None
        if self.error is None:
            self.error = ConnectionClosed("the gateway ended the connection")
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take octets from the transport."""
        if self.error is not None:
            return
        caller = self._caller
        if caller is None:
            self._fail("it sent something that nobody asked for")
            return
        self.answered = True
        start, response = 0, self._response
        try:
            if response is None:
                start, response = self._read_heads(caller, data)
                if response is None:
                    return
                self._response = response
                if self._paused:  # by an interim answer
                    self.resume_reading()
                self._feed(response.body, data, start)
                caller.answered(response)
            else:
                self._feed(response.body, data, start)
                response.body.notify()
        except BadHead as bad:
            self._fail(f"it sent what is not HTTP/1.1: {bad}")
        except BadFraming as bad:
            self._fail(str(bad))
        except Exception as fault:  # noqa: BLE001 - the loop would end the wrong connection for it
            caller.fail(fault)

    def _read_heads(self, caller: Caller, data: bytes) -> tuple[int, Response | None]:
        """Read the final answer's head, if it is whole, behind any number of interim ones; return where it ends."""
        start = 0
        while start < len(data) and self._caller is caller:
            begin = start
            head, self._partial, start = read_head(self._heads, self._partial, data, start)
            if not head:
                self._skip(len(data) - begin)
                break
            self._skipped = 0
            response = self._heads.parse(head)
            framing = response_framing(self._method, response.status, response)
            if response.status >= 200:
                if framing != 0:
                    response.body = Body(framing)
                return start, response
            if response.status == 101:
                raise BadHead(502, "another protocol, unasked")
            caller.interim(response)
        return start, None

    def _skip(self, size: int) -> None:
        """Count what came without a head in it, empty lines too; raises `BadHead` when it is too much."""
        self._skipped += size
        if self._skipped > MAX_ANSWER_HEAD:
            raise BadHead(502, f"a head of more than {MAX_ANSWER_HEAD} bytes")

    def _feed(self, body: Body, data: bytes, start: int) -> None:
        """Give the body what belongs to it; what is behind it means nothing, and the answer is right all the same."""
        if not body.ended:
            start = body.feed(data, start)
            if body.waiting > READ_LIMIT:
                body.taken = self.resume_reading
                self.pause_reading()
        if start < len(data):
            self._surplus = True

    def pause_reading(self) -> None:
        """Take no more of the answer for now."""
        if not (self._paused or self.transport.is_closing()):
            self._paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Take more of the answer."""
        if self._paused:
            self._paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def pause_writing(self) -> None:
        """Remember that the server does not take what is sent."""
        self.writable = False

    def resume_writing(self) -> None:
        """Tell the caller that it does again."""
        self.writable = True
        if (caller := self._caller) is not None:
            try:
                caller.writable()
            except Exception as fault:  # noqa: BLE001 - as above
                caller.fail(fault)

    def eof_received(self) -> None:
        """Take it as the end, whatever the server still takes: no answer can come any more."""
        self._end(cut_off(self.transport))
        self.transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End the exchange: a body that ends with the connection is whole, any other is broken off."""
        if exc is not None and self.error is None and (data := unread(self.transport, READ_LIMIT)):
            self.data_received(data)  # it answered before it refused to take more
        self._end(exc or cut_off(self.transport))
        self._on_lost(self)

    def _end(self, exc: BaseException | None) -> None:
        if self.error is None:
            reason = "the connection was closed" if exc is None else str(exc) or type(exc).__name__
            self._stop(ConnectionClosed(reason, reset=exc is not None), "" if exc is None else reason)

    def _fail(self, reason: str) -> None:
        self._stop(ConnectionClosed(reason), reason)
        self.transport.abort()

    def _stop(self, error: ConnectionClosed, problem: str) -> None:
        self.error = error
        caller, response = self._caller, self._response
        if caller is None:
            return
        try:
            if response is not None:
                response.body.end_with_connection(problem)
            else:
                self._caller = None
                caller.lost(error)
        except Exception as fault:  # noqa: BLE001 - as above
            caller.fail(fault)
