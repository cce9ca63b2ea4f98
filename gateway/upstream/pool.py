"""The connections to the homeserver: opened when needed, kept for the next exchange, without an upper bound.

A bound of 100 would queue the 101st /sync. The gateway's own calls go through `Pool.call`; a relayed request takes a
connection and gives it back.
"""

import asyncio
import errno
import json
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from gateway.core import headers
from gateway.errors import Refusal, Refused
from gateway.http.body import BodyBroken
from gateway.http.client_connection import ClientConnection, ConnectionClosed
from gateway.http.messages import Response
from gateway.http.parser import ResponseHeads
from gateway.settings import Table

# What a homeserver may take for one of our own calls, in seconds; Synapse makes a client that hit a limit wait 0.5 s.
_CALL_TIMEOUT: Final = 30
_MAX_ANSWER: Final = 1024 * 1024
# No more files to open, in this process or at all; and seconds until the loop has closed some that were given up.
_OUT_OF_FILES: Final = frozenset((errno.EMFILE, errno.ENFILE))
_FREED: Final = 0.01
# Homeservers close idle connections after 60 s (Twisted) or later; what is kept for less is hardly ever stale.
_MAX_IDLE: Final = 30


@dataclass(frozen=True, slots=True)
class Address:
    """Where the homeserver listens: a TCP host and port, with or without TLS, or a unix socket."""

    authority: str
    host: str = ""
    port: int = 0
    tls: bool = False
    unix_path: str = ""


class PoolSettings(Table):
    """How the homeserver is reached: `[homeserver] url`, and `connect_timeout` in seconds."""

    url: str
    connect_timeout: float = Field(5, gt=0)

    @field_validator("url")
    @classmethod
    def _usable(cls, value: str) -> str:
        parse_address(value)
        return value


def parse_address(url: str) -> Address:
    """Read `http://host:port`, `https://host` or `unix:/path`; raises ValueError with the mend."""
    if url.startswith("unix:"):
        path = url.removeprefix("unix:")
        if not path.startswith("/"):
            raise ValueError("a unix socket needs an absolute path, as in unix:/run/synapse.sock")
        return Address(authority="localhost", unix_path=path)
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("write http://HOST:PORT, https://HOST or unix:/PATH")
    if parts.path not in {"", "/"} or parts.query or parts.fragment or parts.username:
        raise ValueError("only scheme, host and port belong here: paths are kept as clients send them")
    if parts.port == 0 or not headers.is_host(parts.netloc):
        raise ValueError("write http://HOST:PORT, https://HOST or unix:/PATH")
    tls = parts.scheme == "https"
    return Address(authority=parts.netloc, host=parts.hostname, port=parts.port or (443 if tls else 80), tls=tls)


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer: status, end-to-end fields, body; the homeserver's to a call of ours, or ours to a client."""

    status: int
    fields: list[headers.Field]
    body: bytes

    def json(self) -> dict[str, Any]:
        """Return the JSON object of the body, empty when it holds none."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def errcode(self) -> str:
        """The Matrix error code, "" when there is none."""
        errcode = self.json().get("errcode")
        return errcode if isinstance(errcode, str) else ""

    @property
    def told(self) -> str:
        """Status and Matrix error code, as a log shows them."""
        return f"{self.status} {self.errcode}".strip()

    @property
    def error(self) -> str:
        """The text beside it, "" when there is none."""
        error = self.json().get("error")
        return error if isinstance(error, str) else ""


class NotConnected(Refused):
    """No connection to the homeserver came about, so that nothing of the request reached it."""


class Pool:
    """Connections to one homeserver. Whatever awaits raises `Refused` where it can't be reached.

    `call_timeout` is what a call of the gateway's own may take, in seconds; `name` is whom the log speaks of.
    """

    def __init__(
        self, settings: PoolSettings, *, call_timeout: float = _CALL_TIMEOUT, name: str = "the homeserver"
    ) -> None:
        self._call_timeout = call_timeout
        self._name = name
        self.address = parse_address(settings.url)
        self._connect_timeout = settings.connect_timeout
        self._tls = ssl.create_default_context() if self.address.tls else None
        # The one that was given back last is taken first; the first `_unused` were not taken for a while.
        self._idle: list[ClientConnection] = []
        self._unused = 0
        self._sweep: asyncio.TimerHandle | None = None
        self._open: set[ClientConnection] = set()
        self._closed = False
        # Gives up what can be spared, and says whether there was anything.
        self.free_files: Callable[[], int] = lambda: 0
        self._heads = ResponseHeads()

    def take(self) -> ClientConnection | None:
        """Give a kept connection for one exchange, if there is one; it must come back by `give_back`."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            self._unused = min(self._unused, len(idle))
            if connection.usable:
                return connection
            connection.abort()
        return None

    async def connect(self) -> ClientConnection:
        """Open a connection for one exchange; it must come back by `give_back`."""
        connection = ClientConnection(asyncio.get_running_loop(), self._heads, self._lost)
        try:
            async with asyncio.timeout(self._connect_timeout):
                try:
                    await self._dial(connection)
                except OSError as error:
                    if error.errno not in _OUT_OF_FILES or not self.free_files():
                        raise
                    await asyncio.sleep(_FREED)
                    await self._dial(connection)
        except TimeoutError as error:
            raise NotConnected(
                Refusal.HOMESERVER_TOO_SLOW,
                reason=f"no connection to {self._name} within {self._connect_timeout:g} s",
            ) from error
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that can't be one of a host
            raise NotConnected(
                Refusal.HOMESERVER_UNREACHABLE, reason=f"no connection to {self._name}: {error}"
            ) from error
        except asyncio.CancelledError:
            connection.abort()  # it may have come about at the same moment
            raise
        if connection.error is None:  # it may be lost already
            self._open.add(connection)
        return connection

    async def _dial(self, connection: ClientConnection) -> None:
        address = self.address
        if address.unix_path:
            await connection.loop.create_unix_connection(lambda: connection, address.unix_path)
        else:
            await connection.loop.create_connection(lambda: connection, address.host, address.port, ssl=self._tls)

    @property
    def host(self) -> headers.Field:
        """The `Host` field of a call (RFC 9110 7.2)."""
        return (b"Host", self.address.authority.encode())

    @property
    def connections(self) -> tuple[int, int]:
        """How many connections are open and busy, and how many are idle."""
        return len(self._open) - len(self._idle), len(self._idle)

    def give_back(self, connection: ClientConnection) -> None:
        """Keep a connection whose exchange came to its `finish`, and end any other."""
        if connection.usable and not self._closed:
            self._idle.append(connection)
            if self._sweep is None:
                self._sweep = connection.loop.call_later(_MAX_IDLE / 2, self._close_unused)
        else:
            connection.abort()

    def _close_unused(self) -> None:
        """End the connections that nobody took since this was called last: those at the bottom of the pile."""
        unused, self._idle = self._idle[: self._unused], self._idle[self._unused :]
        for connection in unused:
            connection.abort()
        self._unused = len(self._idle)
        loop = asyncio.get_running_loop()
        self._sweep = loop.call_later(_MAX_IDLE / 2, self._close_unused) if self._idle else None

    async def call(
        self, method: str, target: str, fields: Sequence[headers.Field], body: bytes = b"", *, repeat: bool = True
    ) -> Reply:
        """Make one call of the gateway's own and read the whole answer.

        It is made again on a new connection when a kept one turns out to be closed, unless `repeat` says that making
        it twice does harm.
        """
        length = (b"Content-Length", b"%d" % len(body))
        octets = headers.head_octets(f"{method} {target} HTTP/1.1".encode(), [*fields, length]) + body
        try:
            async with asyncio.timeout(self._call_timeout):
                connection = self.take() or await self.connect()
                try:
                    return await self._exchange(connection, method, octets)
                except ConnectionClosed:
                    if not (connection.stale and repeat):
                        raise
                return await self._exchange(await self.connect(), method, octets)
        except ConnectionClosed as error:
            raise Refused(Refusal.HOMESERVER_UNREACHABLE, reason=f"{self._name} broke off: {error}") from error
        except TimeoutError as error:
            raise Refused(
                Refusal.HOMESERVER_TOO_SLOW, reason=f"no answer within {self._call_timeout:g} s to {method} {target}"
            ) from error

    async def close(self) -> None:
        """End the idle connections, and each other one when its exchange ends."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        while self._idle:
            self._idle.pop().abort()

    async def _exchange(self, connection: ClientConnection, method: str, octets: bytes) -> Reply:
        call = _Call(connection.loop)
        try:
            connection.begin(call, method, octets)
            response = await call.response
            body = await response.body.read_bounded(_MAX_ANSWER)
            if len(body) > _MAX_ANSWER:
                raise ConnectionClosed(f"an answer of more than {_MAX_ANSWER} bytes")
            connection.finish()
            return Reply(response.status, [*headers.end_to_end(response)], body)
        except BodyBroken as error:
            raise ConnectionClosed(str(error)) from error
        finally:
            self.give_back(connection)

    def _lost(self, connection: ClientConnection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
            self._unused = min(self._unused, len(self._idle))


class _Call:
    """A call of the gateway's own, as its connection tells of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.response: asyncio.Future[Response] = loop.create_future()

    def interim(self, response: Response) -> None:
        """Wait on: it says nothing yet."""

    def answered(self, response: Response) -> None:
        """Hand the final answer to whoever waits."""
        if not self.response.done():
            self.response.set_result(response)

    def lost(self, error: ConnectionClosed) -> None:
        """Tell whoever waits that no answer comes."""
        self.fail(error)

    def fail(self, fault: Exception) -> None:
        """Tell whoever waits of a failure."""
        if not self.response.done():
            self.response.set_exception(fault)

    def writable(self) -> None:
        """Write nothing more: all was written at once."""
