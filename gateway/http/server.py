"""A server of HTTP/1.1: its connections, and the time and number that each of them may take."""

import asyncio
import heapq
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from gateway.core.addresses import plain
from gateway.http.parser import HeadLimits, RequestHeads
from gateway.http.server_connection import Application, ServerConnection
from gateway.http.states import CLOSED, DRAINING, HEAD, IDLE, REQUEST
from gateway.sockets import Peer, has_tls, has_unread, untaken

# Seconds that the rest of a body which nobody wants may take: ended at once, the client may miss its answer.
_LINGERING: Final = 10
# Seconds for the answers to requests whose time is over.
_LAST_WORDS: Final = 0.5
# Seconds that a connection must have been idle to be closed when we stop: on one that is in use the next request may
# be on its way already, and many clients may not send it again. nginx calls it keepalive_min_timeout.
_REST: Final = 2.0
_TURN: Final = 0.02
# Idle connections that are given up at once.
_GIVEN_UP: Final = 64


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What a connection may take: seconds, and `per_address` connections, 0 for any number."""

    head: HeadLimits
    head_timeout: float
    keepalive_timeout: float
    stall_timeout: float
    per_address: int = 0


class Server:
    """Makes our side of each connection; `application` answers, `time` is the loop's clock."""

    def __init__(self, application: Application, limits: ConnectionLimits) -> None:
        self.connections: set[ServerConnection] = set()
        self._open: Counter[str] = Counter()
        self._loop = asyncio.get_running_loop()
        self.time = self._loop.time
        self._sweep: asyncio.TimerHandle | None = None
        self.use(application, limits)

    def use(self, application: Application, limits: ConnectionLimits) -> None:
        """Have `application` answer from the next request on, within other limits."""
        self.application = application
        self.request_heads = RequestHeads(limits.head)
        self._limits = limits

    def __call__(self) -> ServerConnection:
        """Return our side of a new connection."""
        return ServerConnection(self)

    def opened(self, connection: ServerConnection) -> None:
        """Take a connection, unless its address has as many as it may, or nobody can say any more whose it is."""
        transport = connection.transport
        self.connections.add(connection)
        seen = transport.get_extra_info("peername")
        if not seen and not isinstance(transport.get_extra_info("sockname"), str | bytes):  # bytes: an abstract one
            transport.abort()  # uvloop asks the system only now, which does not know it any more after a reset
        address = connection.peer.address or (plain(seen[0]) if isinstance(seen, tuple) else "")
        connection.peer = Peer(address, has_tls(transport) or connection.peer.secure, connection.peer.relayed)
        if address:
            self._open[address] += 1
            if 0 < self._limits.per_address < self._open[address]:
                transport.abort()
        if self._sweep is None:
            self._sweep_later()

    def _sweep_later(self) -> None:
        limits = self._limits
        shortest = min(limits.keepalive_timeout, limits.head_timeout, limits.stall_timeout)
        self._sweep = self._loop.call_later(min(1.0, shortest / 4), self._end_what_takes_too_long)

    def _end_what_takes_too_long(self) -> None:
        """Look at all connections at once: a timer for each would take longer than what it bounds."""
        limits, now = self._limits, self.time()
        ends = {
            IDLE: now - limits.keepalive_timeout,
            HEAD: now - limits.head_timeout,
            REQUEST: now - limits.stall_timeout,
            DRAINING: now - _LINGERING,
            CLOSED: now - limits.stall_timeout,
        }
        # Who does not take the answer as fast as it comes is not one that sends what nobody wants.
        late = [each for each in self.connections if each.since < ends[each.state if each.writable else CLOSED]]
        for connection in late:
            request = connection.request
            # Never one that waits for its answer, unless it takes nothing of what comes, or will get none.
            if request is None or request.is_moving or not connection.writable or connection.state is CLOSED:
                _expire(connection)
        self._sweep = None
        if self.connections:
            self._sweep_later()

    def closed(self, connection: ServerConnection) -> None:
        """Forget a connection."""
        self.connections.discard(connection)
        if address := connection.peer.address:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]

    @property
    def at_work(self) -> int:
        """How many connections are not idle."""
        return sum(not each.at_rest for each in self.connections)

    def close_idle(self, count: int = _GIVEN_UP) -> int:
        """Give up so many connections at most, those that are idle longest; return how many there were."""
        idle = (each for each in self.connections if each.at_rest and not each.transport.is_closing())
        oldest = heapq.nsmallest(count, idle, key=attrgetter("since"))
        for connection in oldest:
            connection.transport.abort()
        return len(oldest)

    async def drain(self, seconds: float, among: Callable[[ServerConnection], bool] = lambda _: True) -> None:
        """Let requests at work finish for so long, and connections in use bring one more; then end them all."""
        loop = asyncio.get_running_loop()

        def left() -> Collection[ServerConnection]:
            return [each for each in self.connections if among(each)]

        ends = loop.time() + seconds
        while left() and loop.time() < ends:
            for connection in left():
                connection.is_last = True
                _close_rested(connection, loop.time() - _REST)
            await asyncio.sleep(_TURN)
        for connection in left():
            _cancel_request(connection)
        ends = loop.time() + _LAST_WORDS
        while not all(each.at_rest for each in left()) and loop.time() < ends:  # noqa: ASYNC110 - once
            await asyncio.sleep(_TURN)
        for connection in left():
            connection.break_off()
        await asyncio.sleep(0)
        for connection in left():
            connection.transport.abort()


def _close_rested(connection: ServerConnection, before: float) -> None:
    idle = connection.at_rest and connection.since <= before
    if idle and not has_unread(connection.transport):
        connection.close()


def _expire(connection: ServerConnection) -> None:
    """End what takes too long: an idle connection, a head, a body, an answer that nobody takes."""
    unsent, request = untaken(connection.transport), connection.request
    if unsent != connection.unsent:  # the client does take it
        connection.unsent = unsent
        connection.moved()
    elif connection.state is HEAD:
        connection.refuse(408, "the head of a request took too long")
    elif connection.state is REQUEST and request is not None and request.work is not None:
        request.work.stall()
    elif connection.state is CLOSED or not connection.writable:
        connection.transport.abort()
    else:
        connection.close()


def _cancel_request(connection: ServerConnection) -> None:
    """Refuse the request at work, if its answer has not begun, and what waits behind it."""
    connection.stopping = True
    request = connection.request
    if request is not None and connection.state is REQUEST and request.work is not None:
        request.work.stop()
