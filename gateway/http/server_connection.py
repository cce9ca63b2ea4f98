"""The server's side of one connection: heads become requests, one at a time, and answers go out in their order.

The rule of this file: every octet that comes belongs to a head, to the body of the request at work, or is held until
that request is answered; which of these is said by one state.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, cast

from gateway.core.framing import FRAMING, BadFraming, request_framing
from gateway.http.body import READ_LIMIT, Body
from gateway.http.intake import Intake
from gateway.http.messages import Request, unreadable_request
from gateway.http.parser import BadHead, RequestHeads, read_head
from gateway.http.states import CLOSED, DRAINING, HEAD, IDLE, REQUEST, SENT, STARTED
from gateway.sockets import Peer, has_tls, reset

# Seconds that a client which sends no more has for its answer: what only waits for it must not stay for ever.
_HALF_CLOSED: Final = 0.5


class Application(Protocol):
    """What answers the requests of a server, by the methods of their connections."""

    def handle(self, connection: "ServerConnection", request: Request) -> None:
        """Begin to answer a request; the body may still come."""

    def unreadable(self, connection: "ServerConnection", request: Request, status: int, reason: str) -> None:
        """Answer what can't be read as a request."""


class Owner(Protocol):
    """The server, as its connections know it: here, so that no import goes up."""

    application: Application
    request_heads: RequestHeads
    time: Callable[[], float]

    def opened(self, connection: "ServerConnection") -> None:
        """Count a connection."""

    def closed(self, connection: "ServerConnection") -> None:
        """Forget a connection."""


class ServerConnection(asyncio.Protocol):
    """A connection of a client; `peer` says whose it is, `listener` where it was taken.

    `is_last`: it takes no request after the one at work. `stopping`: nor one that waits behind it already.
    """

    __slots__ = (
        "_closes",
        "_eof",
        "_intake",
        "_server",
        "is_last",
        "listener",
        "peer",
        "request",
        "since",
        "state",
        "stopping",
        "transport",
        "unsent",
        "writable",
    )

    def __init__(self, server: Owner) -> None:
        self._server = server
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.state = IDLE
        # When the state began, or an octet of a body moved last, by the loop's clock.
        self.since = server.time()
        self.request: Request | None = None
        self._intake: Intake = cast("Intake", None)
        self._eof = self._closes = self.is_last = self.stopping = False
        self.writable = True
        # What the client had not taken when somebody looked last.
        self.unsent = 0
        self.peer = Peer()
        self.listener: object = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self.transport = cast("asyncio.Transport", transport)
        self._intake = Intake(self.transport, self._stopped)
        self._server.opened(self)

    def data_received(self, data: bytes) -> None:
        """Take octets from the transport."""
        if self._intake.held:
            self._intake.hold(data, 0)
        elif self.request is not None:
            self._read_body(self.request, data)
        elif self.state is not CLOSED:
            self._read_request(data, 0)

    def _read_request(self, data: bytes, start: int) -> None:
        """Begin the request whose head `data[start:]` completes, if it does, with what there is of its body."""
        heads, intake = self._server.request_heads, self._intake
        try:
            head, intake.partial, start = read_head(heads, intake.partial, data, start)
            if not head:
                if self.state is IDLE and intake.partial is not None:
                    self.state, self.since = HEAD, self._server.time()
                return
            request = heads.parse(head)
            if not FRAMING.isdisjoint(request.special):
                framing = request_framing(request, is_http_1_0=request.is_http_1_0)
                if framing != 0:
                    request.body = Body(framing)
        except (BadHead, BadFraming) as bad:
            self.refuse(bad.status if isinstance(bad, BadHead) else 400, str(bad))
            return
        self.request, self.state = request, REQUEST
        if start < len(data):
            self._feed(request, data, start)
        elif not request.body.ended:
            self.moved()
        self._server.application.handle(self, request)

    def _feed(self, request: Request, data: bytes, start: int) -> None:
        """Give the body what belongs to it, and hold what is behind it."""
        body = request.body
        if not body.ended:
            start = body.feed(data, start)
            if self.state is not DRAINING:  # what nobody wants has so long in all
                self.moved()
            if body.waiting > READ_LIMIT:
                body.taken = self._intake.resume
                self._intake.pause()
        if start < len(data) and self.state is DRAINING and self._closes:
            self._linger(request)
        elif start < len(data):
            self._intake.hold(data, start)

    def _read_body(self, request: Request, data: bytes) -> None:
        self._feed(request, data, 0)
        if self.state is DRAINING:
            request.body.take()
            self._drain()
        else:
            self._go_on(request, request.body.notify)

    def _go_on(self, request: Request, step: Callable[[], None]) -> None:
        """Have the work on a request go on; a fault in it is the request's, not the loop's."""
        try:
            step()
        except Exception as fault:
            if request.work is None:
                raise
            request.work.fail(fault)

    def refuse(self, status: int, reason: str) -> None:
        """Answer a request whose head can't be read, or does not come; what follows it is dropped."""
        self._intake.clear()
        self.state, self.request = REQUEST, unreadable_request(Body("close"))
        self._server.application.unreadable(self, self.request, status, reason)

    def _read_held(self) -> None:
        if self.state is IDLE and self._intake.held:
            self._read_request(*self._intake.release())
            self._intake.resume()

    def write(self, octets: bytes) -> None:
        """Send octets, unless the client has gone."""
        if not self.transport.is_closing():
            self.transport.write(octets)

    def start_answer(self, request: Request, octets: bytes, *, framed: bool) -> None:
        """Send the beginning of an answer; `framed` says whether its end is told by more than the connection's."""
        request.answer, request.framed = STARTED, framed
        self.continue_answer(octets)

    def continue_answer(self, octets: bytes) -> None:
        """Send more of an answer."""
        self.write(octets)
        self.moved()

    def moved(self) -> None:
        """Remember that an octet of a body has moved."""
        self.since = self._server.time()

    def finish_answer(self, request: Request, octets: bytes, *, keep_alive: bool) -> None:
        """Send the rest of an answer, or all of it, and go on to the next request if the connection is kept."""
        transport, body = self.transport, request.body
        if not transport.is_closing():
            transport.write(octets)
        request.answer = SENT
        if body.waiting:  # nobody wants it any more, and it must not hold the client back
            body.take()
        if keep_alive and self.writable and body.ended:
            self._rest()
            return
        self.state, self._closes = DRAINING, not keep_alive
        self.moved()
        body.changed = None
        if self._closes and self._intake.drop_held():
            self._linger(request)
        elif self._closes and not body.ended:
            self._write_eof()
        self._drain()

    def _linger(self, request: Request) -> None:
        """Take what still comes for a while: closed with octets unread, the connection would be reset."""
        if self._write_eof():
            request.body = request.body.unwanted()

    def _write_eof(self) -> bool:
        """Send nothing more behind what was sent; say whether that can be told, which over TLS it can't."""
        if can := self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()
        return can

    def _drain(self) -> None:
        """Go on once the answer was taken and the rest of the request has come; close where nothing may follow."""
        if self.writable and cast("Request", self.request).body.ended:
            (self.close if self._closes else self._rest)()

    def _rest(self) -> None:
        """Wait for the next request; one that was sent already has its turn after those of others."""
        self.request, self.state, self.since = None, IDLE, self._server.time()
        if self._intake.held:
            asyncio.get_running_loop().call_soon(self._read_held)
        elif self._eof:
            self.close()

    def pause_writing(self) -> None:
        """Remember that the client does not take what is sent."""
        self.writable = False

    def resume_writing(self) -> None:
        """Go on with the answer, or to the next request."""
        self.writable = True
        if self.state is DRAINING:
            self._drain()
        elif self.request is not None and self.request.writable is not None:
            self._go_on(self.request, self.request.writable)

    @property
    def at_rest(self) -> bool:
        """Whether nothing was asked that is not answered."""
        return self.state is IDLE and not self._intake.held

    @property
    def takes_more(self) -> bool:
        """Whether a request after the one at work may be taken."""
        return bool(self._intake.held) or not (self.stopping or self.is_last)

    def eof_received(self) -> bool:
        """Answer what was asked, if that takes but a moment, and end the connection.

        A client that sends no more may still read, or may have gone: TCP does not tell.
        """
        self._eof = True
        asked = bool(self._intake.held) if self.request is None else self.state is REQUEST and self.request.body.ended
        if not asked or has_tls(self.transport):
            return False  # nothing was asked, or only half of it; and over TLS no loop keeps the other half open
        asyncio.get_running_loop().call_later(_HALF_CLOSED, self._end_half_closed)
        return True

    def _stopped(self) -> bool:
        if has_tls(self.transport):
            self.transport.abort()  # over TLS, who sends no more has gone; and what would say so is not read
        return self.eof_received()

    def _end_half_closed(self) -> None:
        if self.request is not None and self.request.answer is STARTED:
            # It comes; if nobody takes it, sending fails.
            asyncio.get_running_loop().call_later(_HALF_CLOSED, self._end_half_closed)
        else:
            self.close()

    def break_off(self) -> None:
        """End the connection so that the client keeps what it has of an answer, and can't take it for the whole."""
        request = self.request
        if request is not None and request.answer is STARTED and not request.framed:
            reset(self.transport)
        else:
            self.close()

    def close(self) -> None:
        """End the connection once all that was sent is on its way, for a client that takes it."""
        if self.state is not CLOSED:
            self.state = CLOSED
            self.moved()
            self.transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection; whoever answers its request does so for nobody."""
        del exc
        request, self.request, self.state = self.request, None, CLOSED
        self._intake.clear()
        self._server.closed(self)
        if request is not None:
            if request.answer is not SENT and request.work is not None:
                request.work.cancel()
            request.body.break_off("the client has left")
