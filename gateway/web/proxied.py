"""The header of the PROXY protocol with which a connection begins: it is read before anybody else sees it.

The rule of this file: not one octet behind the header is taken, so that HTTP, or TLS, begins on a connection that
looks like any other, and costs no more.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from gateway.core.proxy_header import NoProxyHeader, ProxyHeader, read_proxy_header

_PEEK: Final = 4096


async def take_header(connection: socket.socket, proxy: str, *, trusts: Callable[[str], bool]) -> ProxyHeader:
    """Take the header from a connection of `proxy`; raises `NoProxyHeader`, and OSError where the proxy went away."""
    if not trusts(proxy):
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
