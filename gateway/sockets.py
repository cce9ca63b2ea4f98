"""What the loop does not tell of a connection: that its peer has gone while nobody reads, what came before it broke.

The rule of this file: here alone the socket below a transport is touched.
"""

import asyncio
import fcntl
import os
import select
import socket
import ssl
import struct
import sys
import termios
from collections.abc import Callable
from typing import Final, NamedTuple

# Seconds between two looks: a hanging /sync must not stay at the homeserver for long.
_BETWEEN_LOOKS: Final = 0.5
# socket(7): SO_LINGER on, for no time.
_RESET: Final = struct.pack("ii", 1, 0)
_GONE: Final = select.POLLHUP | select.POLLERR


class Peer(NamedTuple):
    """Whose a connection is: `address` is "" on a unix socket.

    `secure`: whether the client spoke TLS, with us or with a proxy before us, None where that proxy does not tell; of
    the transport it says nothing. `relayed`: of somebody whom a proxy brought and can't name; the address is then the
    proxy's.
    """

    address: str = ""
    secure: bool | None = False
    relayed: bool = False


class EndWatch:
    """Looks now and then at a transport that is not read, and aborts it when the peer has gone.

    `stopped` is called when the peer will send no more than what waits; the watch ends when it returns true.
    """

    __slots__ = ("_loop", "_running", "_stopped", "_transport")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, stopped: Callable[[], bool]
    ) -> None:
        self._loop, self._transport, self._stopped = loop, transport, stopped
        self._running = False

    def start(self) -> None:
        """Look until the transport is read again."""
        if not self._running:
            self._running = True
            self._loop.call_later(_BETWEEN_LOOKS, self._look)

    def _look(self) -> None:
        self._running = False
        if self._transport.is_closing() or self._transport.is_reading():
            return
        events = _events(self._transport)
        if events & _GONE:
            self._transport.abort()
        elif not (events & select.POLLRDHUP and self._stopped()):
            self.start()


def has_tls(transport: asyncio.Transport) -> bool:
    """Say whether TLS is spoken on this transport itself."""
    return transport.get_extra_info("ssl_object") is not None


def reset(transport: asyncio.Transport) -> None:
    """End a connection by RST, so that its end can't be taken for the end of what was sent on it."""
    if (connection := transport.get_extra_info("socket")) is not None and not transport.is_closing():
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


def unread(transport: asyncio.Transport | None, limit: int) -> bytes:
    """Return what came before the connection broke and the loop, which failed to send, did not look at."""
    if transport is None or has_tls(transport):
        return b""
    connection = transport.get_extra_info("socket")
    try:
        return b"" if connection is None else os.read(connection.fileno(), limit)
    except OSError:
        return b""


def untaken(transport: asyncio.Transport) -> int:
    """Return how many octets were sent and not taken by the peer's system, here or in ours.

    What the transport still has says little: the system takes more of it only when a third of its megabytes is free.
    """
    waiting = transport.get_write_buffer_size()
    if (connection := transport.get_extra_info("socket")) is None:
        return waiting
    try:
        return waiting + int.from_bytes(fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return waiting


def has_unread(transport: asyncio.Transport | None) -> bool:
    """Say whether something came that the loop did not look at yet, be it the end."""
    return transport is not None and bool(_events(transport, select.POLLIN) & select.POLLIN)


def cut_off(transport: asyncio.Transport | None) -> ConnectionResetError | None:
    """Return what is wrong with an end over TLS that the peer did not announce by close_notify (RFC 9112 9.8).

    Anybody on the way can end a connection so, and a body that ends with it would look whole.
    """
    tls: ssl.SSLObject | None = None if transport is None else transport.get_extra_info("ssl_object")
    if tls is None:
        return None
    try:
        announced = not tls.read(1)
    except ssl.SSLError:
        announced = False
    return None if announced else ConnectionResetError("the connection was cut off below TLS")


def _events(transport: asyncio.Transport, asked_for: int = select.POLLRDHUP) -> int:
    connection = transport.get_extra_info("socket")
    if connection is None:
        return 0
    asked = select.poll()
    asked.register(connection.fileno(), asked_for)
    return sum(events for _, events in asked.poll(0))
