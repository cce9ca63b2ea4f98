"""Connections that begin with a header of the PROXY protocol: it is read before anybody else sees them.

The rule of this file: not one octet behind the header is taken, so that HTTP, or TLS, begins on a connection that
looks like any other, and costs no more.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from aiohttp import web

from gateway.core.addresses import plain
from gateway.core.proxy_header import NoProxyHeader, ProxyHeader, read_proxy_header
from gateway.http1 import ClientProtocol
from gateway.sockets import Peer
from gateway.tasks import Background
from gateway.web.certificate import TlsOptions
from gateway.web.server import Server

_PEEK: Final = 4096
# Seconds that nobody new is taken when the system gives us no more sockets; asyncio waits as long.
_PAUSE: Final = 1.0
# Connections that are taken before others have their turn.
_AT_ONCE: Final = 64


class ProxiedSocket:
    """Takes the connections of a listening socket, which it owns; `connection` makes our side of each.

    `edge_tls`: a client of whom the header does not tell spoke TLS with the proxy.
    """

    def __init__(
        self,
        listening: socket.socket,
        server: Server,
        connection: Callable[[], web.RequestHandler],
        tls: TlsOptions,
        *,
        edge_tls: bool = False,
    ) -> None:
        self._socket = listening
        self._server = server
        self._connection = connection
        self._tls = tls
        self._untold = True if edge_tls else None
        self._tasks = Background(server.log)
        self._begun: set[socket.socket] = set()
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._open()

    async def close(self) -> None:
        """Take nobody more, and forget those whose header did not come yet."""
        self._loop.remove_reader(self._socket)
        if self._pause is not None:
            self._pause.cancel()
        self._socket.close()
        await self._tasks.close(0)
        for each in self._begun:
            each.close()

    def _open(self) -> None:
        self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, peer = self._socket.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue  # it went away before it was taken
            except OSError as error:  # no more sockets, or no memory for them
                self._server.log.warning("accept_failed", reason=error.strerror)
                self._loop.remove_reader(self._socket)
                self._pause = self._loop.call_later(_PAUSE, self._open)
                return
            connection.setblocking(False)  # noqa: FBT003 - the standard library takes no keyword here
            proxy = plain(peer[0]) if isinstance(peer, tuple) else ""
            self._begun.add(connection)
            self._tasks.leave(self._begin(connection, proxy), "proxied")

    async def _begin(self, connection: socket.socket, proxy: str) -> None:
        try:
            async with asyncio.timeout(self._server.settings.head_timeout):
                header = await self._header(connection, proxy)
        except (NoProxyHeader, OSError, TimeoutError) as error:
            self._begun.discard(connection)
            connection.close()
            if isinstance(error, NoProxyHeader | TimeoutError):
                reason = str(error) or "its PROXY protocol header took too long"
                self._server.log.info("connection_refused", peer=proxy, reason=reason)
            return
        self._begun.discard(connection)
        await self._hand_over(connection, header)

    async def _header(self, connection: socket.socket, proxy: str) -> ProxyHeader:
        if not self._server.trusts(proxy):
            raise NoProxyHeader("it is not one of trusted_proxies, whose PROXY protocol headers are believed")
        taken = b""
        while True:
            octets = await _peek(connection)
            header = read_proxy_header(taken + octets)
            belonging = len(octets) if header is None else header.size - len(taken)
            taken += connection.recv(belonging)
            if header is not None:
                return header
            if not octets:
                raise ConnectionResetError  # it came to see whether somebody is there

    async def _hand_over(self, connection: socket.socket, header: ProxyHeader) -> None:
        secure = self._untold if header.secure is None else header.secure

        def made() -> web.RequestHandler:
            client = self._connection()
            if isinstance(client, ClientProtocol):
                client.peer = Peer(header.source or "", secure, relayed=header.source == "")
            return client

        try:
            await asyncio.get_running_loop().connect_accepted_socket(made, connection, **self._tls)
        except OSError:
            connection.close()  # it went away, or no TLS came about


async def _peek(connection: socket.socket) -> bytes:
    """Return what has come, and leave it there; b"" at the end of the connection."""
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    while True:
        try:
            return connection.recv(_PEEK, socket.MSG_PEEK)
        except BlockingIOError:
            loop.add_reader(connection, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(connection)
            readable.clear()
