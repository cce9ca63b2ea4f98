"""Takes the connections of a listening socket.

The rule of this file: nobody is turned away while the system has no more files to open; who waits is taken as soon as
there are some, and connections that are idle are given up for it.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Final, TypedDict

from gateway.http.server import Server
from gateway.http.server_connection import ServerConnection
from gateway.tasks import Background

# Connections that are taken before others have their turn.
_AT_ONCE: Final = 64
# Seconds until it is tried again, where idle connections were given up and where there was none.
_SOON: Final = 0.05
_LATER: Final = 1.0
# No more files to open, in this process or at all, or no memory for them.
_NOTHING_LEFT: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
# Seconds for which one line in the log says enough.
_SAID_FOR: Final = 60.0

# Finds out whose an accepted socket is, and returns what makes its connection; None: nobody's who may have one. The
# address is that of the peer as the system writes it, "" on a unix socket.
Prepare = Callable[[socket.socket, str], Awaitable[Callable[[], ServerConnection] | None]]


class TlsOptions(TypedDict, total=False):
    """What asyncio is told of TLS, by the names of its arguments; nothing where none is spoken."""

    ssl: ssl.SSLContext
    ssl_handshake_timeout: float
    ssl_shutdown_timeout: float


class Acceptor:
    """Owns the listening socket; each accepted one is prepared, and then a connection of `server`."""

    def __init__(
        self, listening: socket.socket, server: Server, prepare: Prepare, tls: TlsOptions, background: Background
    ) -> None:
        self._socket = listening
        self._server = server
        self._prepare = prepare
        self._tls = tls
        self._background = background
        self._preparing: dict[socket.socket, asyncio.Task[None]] = {}
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._said = -_SAID_FOR
        self._open()

    async def close(self) -> None:
        """Take nobody more, and forget those who are no connection yet."""
        self._loop.remove_reader(self._socket)
        if self._pause is not None:
            self._pause.cancel()
        self._socket.close()
        await asyncio.sleep(0)  # whose connection needs no preparing has it now
        preparing, self._preparing = self._preparing, {}
        for task in preparing.values():
            task.cancel()
        await asyncio.gather(*preparing.values(), return_exceptions=True)
        for accepted in preparing:
            accepted.close()

    def _open(self) -> None:
        self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                accepted, peer = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _NOTHING_LEFT:
                    continue  # it went away before it was taken (accept(2))
                self._wait(error)
                return
            accepted.setblocking(False)  # noqa: FBT003 - the standard library takes no keyword here
            address = peer[0] if isinstance(peer, tuple) else ""
            self._preparing[accepted] = self._background.spawn(self._take(accepted, address), "accept")

    async def _take(self, accepted: socket.socket, peer: str) -> None:
        try:
            made = await self._prepare(accepted, peer)
        except OSError:
            made = None  # it went away
        self._preparing.pop(accepted, None)  # from here on it is the transport's, whatever becomes of this acceptor
        if made is None:
            accepted.close()
        else:
            await connect(accepted, made, self._tls)

    def _wait(self, error: OSError) -> None:
        given_up = self._server.close_idle()
        if self._loop.time() - self._said >= _SAID_FOR:
            self._said = self._loop.time()
            hint = "new connections wait; raise the limit of open files (LimitNOFILE= of the unit)"
            self._background.log.warning(
                "accept_failed", reason=error.strerror, idle_connections_given_up=given_up, hint=hint
            )
        self._loop.remove_reader(self._socket)
        self._pause = self._loop.call_later(_SOON if given_up else _LATER, self._open)


async def connect(accepted: socket.socket, made: Callable[[], ServerConnection], tls: TlsOptions) -> None:
    """Make a connection of an accepted socket."""
    try:
        await asyncio.get_running_loop().connect_accepted_socket(made, accepted, **tls)
    except OSError:
        accepted.close()  # it went away, or no TLS came about
