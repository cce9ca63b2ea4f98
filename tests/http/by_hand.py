"""A server of HTTP/1.1 whose requests a test answers by hand, on a free port of this machine.

Rule: nothing is answered but by the test, and everything that a connection says is kept.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from gateway.http.messages import Request
from gateway.http.parser import HeadLimits
from gateway.http.server import ConnectionLimits, Server
from gateway.http.server_connection import ServerConnection
from tests.waiting import until

LIMITS = ConnectionLimits(
    head=HeadLimits(request_line=1024, field=512, fields=10, fields_size=2048),
    head_timeout=60,
    keepalive_timeout=60,
    stall_timeout=60,
)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


class Told:
    """The work on a request: it keeps what the connection says to it."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def cancel(self) -> None:
        self.said.append("cancel")

    def stop(self) -> None:
        self.said.append("stop")

    def stall(self) -> None:
        self.said.append("stall")

    def fail(self, fault: Exception) -> None:
        self.said.append(str(fault))


class Asked:
    """A request that came, on its connection."""

    def __init__(self, connection: ServerConnection, request: Request) -> None:
        self.connection, self.request = connection, request
        self.work = request.work = Told()

    def answer(self, octets: bytes = ANSWER, *, keep_alive: bool = True) -> None:
        self.connection.finish_answer(self.request, octets, keep_alive=keep_alive)

    def body_is_there(self) -> bool:
        """Say whether the whole body has come."""
        return self.request.body.ended

    async def body(self) -> bytes:
        """Return the whole body."""
        pieces = []
        while octets := await self.request.body.read():
            pieces.append(octets)
        return b"".join(pieces)


class ByHand:
    """An application; `at_once` is called with each request, and answers it or not."""

    def __init__(self, at_once: Callable[[Asked], None] = lambda _: None) -> None:
        self.asked: list[Asked] = []
        self.unread: list[tuple[int, str]] = []
        self.at_once = at_once

    def handle(self, connection: ServerConnection, request: Request) -> None:
        self.asked.append(Asked(connection, request))
        self.at_once(self.asked[-1])

    def unreadable(self, connection: ServerConnection, request: Request, status: int, reason: str) -> None:
        self.unread.append((status, reason))
        octets = b"HTTP/1.1 %d Bad\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" % status
        connection.finish_answer(request, octets, keep_alive=False)

    async def next(self, number: int = 1) -> Asked:
        """Wait for so many requests and return the last of them."""
        await until(lambda: len(self.asked) >= number)
        return self.asked[number - 1]


class Site:
    """The server, its application, and its port."""

    def __init__(self, application: ByHand, server: Server, port: int) -> None:
        self.application, self.server, self.port = application, server, port

    def has(self, count: int) -> bool:
        """Say whether it has so many connections."""
        return len(self.server.connections) == count

    async def connection(self) -> ServerConnection:
        """Return its only connection."""
        await until(lambda: len(self.server.connections) == 1)
        return next(iter(self.server.connections))

    async def empty(self, patience: float = 10) -> None:
        """Wait until it has no connection."""
        await until(lambda: not self.server.connections, patience)


@asynccontextmanager
async def served(
    application: ByHand | None = None, tls: ssl.SSLContext | None = None, **limits: Any
) -> AsyncIterator[Site]:
    """Run a server with these limits."""
    application = application or ByHand()
    server = Server(application, replace(LIMITS, **limits))
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0, ssl=tls)
    try:
        yield Site(application, server, listening.sockets[0].getsockname()[1])
    finally:
        listening.close()
        for connection in list(server.connections):
            connection.transport.abort()
        await until(lambda: not server.connections)
