"""Everything that goes between a gateway and others passes here, so that it can be killed at each step.

Rule: what was sent when the gateway was killed still arrives, as it would from a kernel's buffers.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

_CHUNK = 65536
_QUIET = 0.2  # seconds

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Taps:
    """Calls `kill` when it is armed, before the piece of that number goes on."""

    kill: Callable[[], object] = lambda: None
    _left: int = 0
    _killed_at: str = ""
    _seen: int = 0

    def arm(self, number: int) -> None:
        self._left = number

    def disarm(self) -> str:
        """Return which way the piece was on that it killed at, "" for none that came."""
        self._left, killed_at, self._killed_at = 0, self._killed_at, ""
        return killed_at

    async def quiet(self) -> None:
        """Wait until nothing has passed for a moment."""
        seen = -1
        while seen != self._seen:
            seen = self._seen
            await asyncio.sleep(_QUIET)

    def _piece(self, way: str) -> None:
        self._seen += 1
        self._left -= 1
        if self._left == 0:
            self._killed_at = way
            self.kill()

    @asynccontextmanager
    async def to_port(self, name: str, port: int) -> AsyncIterator[int]:
        """Give a port of ours that leads to another."""
        connect = partial(asyncio.open_connection, "127.0.0.1", port)
        server = await asyncio.start_server(partial(self._join, name, connect), "127.0.0.1", 0)
        async with server:
            yield server.sockets[0].getsockname()[1]

    @asynccontextmanager
    async def to_socket(self, name: str, ours: Path, theirs: Path) -> AsyncIterator[None]:
        """Have a unix socket of ours lead to another."""
        connect = partial(asyncio.open_unix_connection, theirs)
        async with await asyncio.start_unix_server(partial(self._join, name, connect), ours):
            yield

    async def _join(
        self,
        name: str,
        connect: Callable[[], Awaitable[Connection]],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        with suppress(OSError, asyncio.CancelledError):  # at the end
            back, on = await connect()
            await asyncio.gather(self._pass(reader, on, f"to {name}"), self._pass(back, writer, f"from {name}"))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        with suppress(OSError):
            while octets := await reader.read(_CHUNK):
                self._piece(way)
                writer.write(octets)
                await writer.drain()
        writer.close()
