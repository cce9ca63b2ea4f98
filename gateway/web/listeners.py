"""Where a server listens, and an end that lets the requests at work finish."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from gateway.errors import Unusable
from gateway.http1 import is_busy

# Connections that wait to be taken: many clients come back at once after a restart.
_BACKLOG: Final = 4096
# Seconds that aiohttp waits, twice, for requests whose time is over; it takes 0 for "for ever".
_LAST_MOMENT: Final = 0.1


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


@asynccontextmanager
async def sites(
    server: web.Server, addresses: Sequence[str], drain_timeout: float, *, reuse_port: bool = False
) -> AsyncIterator[Sequence[str]]:
    """Serve `server` on `addresses`; raises `Unusable` for one that can't be had."""
    runner = web.ServerRunner(server, shutdown_timeout=_LAST_MOMENT)
    await runner.setup()
    try:
        for text in addresses:
            try:
                await _site(runner, parse_listen(text), reuse_port=reuse_port).start()
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
    """Let the requests that are at work finish; aiohttp itself would give them no more of their bodies."""
    ends = asyncio.get_running_loop().time() + patience
    server.pre_shutdown()
    for connection in server.connections:
        if not is_busy(connection):
            connection.force_close()
    while any(map(is_busy, server.connections)) and asyncio.get_running_loop().time() < ends:  # noqa: ASYNC110 - once
        await asyncio.sleep(0.02)


def _site(runner: web.ServerRunner, listen: Listen, *, reuse_port: bool) -> web.BaseSite:
    if listen.unix_path:
        return web.UnixSite(runner, listen.unix_path)
    return web.TCPSite(runner, listen.host, listen.port, backlog=_BACKLOG, reuse_address=True, reuse_port=reuse_port)


def _bound(address: object) -> str:
    if isinstance(address, tuple):
        return str(Listen(host=address[0], port=address[1]))
    return f"unix:{address}"
