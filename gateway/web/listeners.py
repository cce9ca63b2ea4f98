"""Where a server listens, and an end that lets the requests at work finish."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from gateway.errors import Unusable
from gateway.http1 import ClientProtocol, idle_since
from gateway.sockets import has_unread

# Connections that wait to be taken: many clients come back at once after a restart.
_BACKLOG: Final = 4096
# Seconds that aiohttp waits, twice, for requests whose time is over; it takes 0 for "for ever".
_LAST_MOMENT: Final = 0.1
# Seconds for the answers to requests whose time is over.
_LAST_WORDS: Final = 0.5
# Seconds that a connection must have been idle to be closed when we stop: on one that is in use the next request may
# be on its way already, and many clients may not send it again. nginx calls it keepalive_min_timeout.
_REST: Final = 2.0


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen: a host and port, or a unix socket."""

    host: str = ""
    port: int = 0
    unix_path: str = ""

    def __str__(self) -> str:
        if self.unix_path:
            return f"unix:{self.unix_path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_listen(text: str) -> Listen:
    """Read `host:port`, `[::1]:port` or `unix:/path`; raises ValueError with the mend."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/"):
            raise ValueError("a unix socket needs an absolute path, as in unix:/run/gateway.sock")
        return Listen(unix_path=path)
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/\[\]]+)):(\d{1,5})", text)
    if match is None:
        raise ValueError("write HOST:PORT, [::1]:PORT or unix:/PATH")
    if int(match[3]) > 65535:  # RFC 9293 3.1
        raise ValueError(f"there is no port {match[3]}; use 1 to 65535, or 0 for any free one")
    return Listen(host=match[1] or match[2], port=int(match[3]))


@dataclass(frozen=True, slots=True)
class Places:
    """Where one server listens: on `sockets` that are open already, or else on `addresses`."""

    addresses: Sequence[str]
    sockets: Sequence[socket.socket] = ()
    reuse_port: bool = False


@asynccontextmanager
async def sites(server: web.Server, places: Places, drain_timeout: float) -> AsyncIterator[Sequence[str]]:
    """Serve `server`; raises `Unusable` for an address that can't be had. Yields the addresses.

    At the end nobody new is taken, and requests at work get `drain_timeout` seconds.
    """
    runner = web.ServerRunner(server, shutdown_timeout=_LAST_MOMENT)
    await runner.setup()
    try:
        for taken in places.sockets:
            await web.SockSite(runner, taken, backlog=_BACKLOG).start()
        for text in () if places.sockets else places.addresses:
            try:
                await _site(runner, parse_listen(text), reuse_port=places.reuse_port).start()
            except (OSError, UnicodeError) as error:  # UnicodeError: a name that can't be one of a host
                reason = getattr(error, "strerror", None) or error
                raise Unusable(f"Can't listen on {text}: {reason}.") from error
        yield [_bound(address) for address in runner.addresses]
    finally:
        for site in list(runner.sites):
            await site.stop()
        await _drain(server, drain_timeout)
        await runner.cleanup()


async def _drain(server: web.Server, patience: float) -> None:
    """Let requests at work finish, and connections in use bring one more; what takes longer is refused at the end."""
    now = asyncio.get_running_loop().time
    ends = now() + patience
    while server.connections and now() < ends:
        for connection in server.connections:
            if isinstance(connection, ClientProtocol):
                connection.leave()
                _close_idle(connection, now() - _REST)
            else:
                _close_idle(connection, now())
        await asyncio.sleep(0.02)
    for connection in server.connections:
        if isinstance(connection, ClientProtocol):
            connection.hurry()
    ends = now() + _LAST_WORDS
    while any(idle_since(each) is None for each in server.connections) and now() < ends:  # noqa: ASYNC110 - once
        await asyncio.sleep(0.02)


def _close_idle(connection: web.RequestHandler, before: float) -> None:
    since = idle_since(connection)
    if since is not None and since <= before and not has_unread(connection.transport):
        connection.force_close()


def _site(runner: web.ServerRunner, listen: Listen, *, reuse_port: bool) -> web.BaseSite:
    if listen.unix_path:
        return web.UnixSite(runner, listen.unix_path)
    return web.TCPSite(runner, listen.host, listen.port, backlog=_BACKLOG, reuse_address=True, reuse_port=reuse_port)


def _bound(address: object) -> str:
    if isinstance(address, tuple):
        return str(Listen(host=address[0], port=address[1]))
    return f"unix:{address}"
