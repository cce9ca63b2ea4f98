"""The connections to the homeserver: opened when needed, kept for the next exchange, without an upper bound.

A bound of 100 would queue the 101st /sync. The gateway's own calls go through `Pool.call`; a relayed request takes a
connection and gives it back.
"""

import asyncio
import json
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from gateway.core import headers
from gateway.errors import Refusal, Refused
from gateway.settings import Table
from gateway.upstream.wire import Broken, Connection

# What a homeserver may take for one of our own calls, in seconds; Synapse makes a client that hit a limit wait 0.5 s.
_CALL_TIMEOUT: Final = 30
_MAX_ANSWER: Final = 1024 * 1024
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
        # Since when each is idle, by the loop's clock, in that order.
        self._idle: dict[Connection, float] = {}
        self._open: set[Connection] = set()
        self._closed = False

    def take(self) -> Connection | None:
        """Give a kept connection for one exchange, if there is one; it must come back by `give_back`."""
        while self._idle:
            connection, since = self._idle.popitem()
            # Not get_running_loop(), which asks the system for the process id: 5 us where system calls are slow.
            if connection.usable and connection.loop.time() - since < _MAX_IDLE:
                return connection
            connection.abort()
        return None

    async def connect(self) -> Connection:
        """Open a connection for one exchange; it must come back by `give_back`."""
        loop = asyncio.get_running_loop()
        address = self.address
        connection = Connection(loop, self._lost)
        try:
            async with asyncio.timeout(self._connect_timeout):
                if address.unix_path:
                    await loop.create_unix_connection(lambda: connection, address.unix_path)
                else:
                    await loop.create_connection(lambda: connection, address.host, address.port, ssl=self._tls)
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
        if connection.transport is not None:  # it may be lost already
            self._open.add(connection)
        return connection

    @property
    def host(self) -> headers.Field:
        """The `Host` field of a call (RFC 9110 7.2)."""
        return (b"Host", self.address.authority.encode())

    @property
    def connections(self) -> tuple[int, int]:
        """How many connections are open and busy, and how many are idle."""
        return len(self._open) - len(self._idle), len(self._idle)

    def give_back(self, connection: Connection) -> None:
        """Keep a connection whose exchange came to its `finish`, and end any other."""
        now = connection.loop.time()
        if connection.usable and not self._closed:
            self._idle[connection] = now
        else:
            connection.abort()
        # Those that have waited longest; after a burst most are never taken again.
        while len(self._idle) > 1 and now - next(iter(self._idle.values())) > _MAX_IDLE:
            self._idle.pop(oldest := next(iter(self._idle)))
            oldest.abort()

    async def call(
        self, method: str, target: str, fields: Sequence[headers.Field], body: bytes = b"", *, repeat: bool = True
    ) -> Reply:
        """Make one call of the gateway's own and read the whole answer.

        It is made again on a new connection when a kept one turns out to be closed, unless `repeat` says that making
        it twice does harm.
        """
        octets = request_head(method, target.encode(), [*fields, (b"Content-Length", b"%d" % len(body))]) + body
        try:
            async with asyncio.timeout(self._call_timeout):
                connection = self.take() or await self.connect()
                try:
                    return await self._exchange(connection, method, octets)
                except Broken:
                    if not (connection.stale and repeat):
                        raise
                return await self._exchange(await self.connect(), method, octets)
        except Broken as error:
            raise Refused(Refusal.HOMESERVER_UNREACHABLE, reason=f"{self._name} broke off: {error}") from error
        except TimeoutError as error:
            raise Refused(
                Refusal.HOMESERVER_TOO_SLOW, reason=f"no answer within {self._call_timeout:g} s to {method} {target}"
            ) from error

    async def close(self) -> None:
        """End the idle connections, and each other one when its exchange ends."""
        self._closed = True
        while self._idle:
            connection, _ = self._idle.popitem()
            connection.abort()

    async def _exchange(self, connection: Connection, method: str, octets: bytes) -> Reply:
        try:
            connection.begin(method, octets)
            message, stream = await connection.message()
            while message.code < 200:  # RFC 9110 15.2, interim answers
                message, stream = await connection.message()
            body = bytearray()
            while chunk := await stream.readany():
                body += chunk
                if len(body) > _MAX_ANSWER:
                    raise Broken(f"an answer of more than {_MAX_ANSWER} bytes")
            if not message.should_close:
                connection.finish()
            return Reply(message.code, headers.end_to_end(message.raw_headers), bytes(body))
        finally:
            self.give_back(connection)

    def _lost(self, connection: Connection) -> None:
        self._idle.pop(connection, None)
        self._open.discard(connection)


def request_head(method: str, target: bytes, fields: Sequence[headers.Field]) -> bytes:
    """Return the octets of a request's head (RFC 9112 3); the parts must not hold line breaks."""
    return headers.head_octets(b"%b %b HTTP/1.1" % (method.encode("ascii"), target), fields)
