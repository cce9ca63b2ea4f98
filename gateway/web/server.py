"""The public side: listeners, the handler that routes every request, and an end that lets open requests finish.

aiohttp's low-level server reads requests (its strict parser, keep-alive and drain); what this file overrides of it is
how an unreadable request is answered: Matrix JSON, and no traceback in the log for what a stranger sends.
"""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import _ErrInfo
from pydantic import BeforeValidator, Field, field_validator

from gateway.core.headers import Hop, is_trusted
from gateway.core.routing import Route, route
from gateway.errors import Refusal, Refused, Unusable
from gateway.logs import Logger
from gateway.settings import Table
from gateway.upstream.wire import break_body
from gateway.web.answers import refusal
from gateway.web.login import Login
from gateway.web.relay import Relay, Relayed

_VERSIONS: Final = frozenset(((1, 0), (1, 1)))
# A /sync with a filter in its query may have 64 KiB.
_MAX_LINE: Final = 2**16


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


def _network(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError('must be a network in quotes, as in "127.0.0.0/8"')
    try:
        return ip_network(value)
    except ValueError as error:
        raise ValueError(f"not a network such as 127.0.0.0/8: {error}") from None


class ServerSettings(Table):
    """The `[server]` table; `drain_timeout` in seconds, `max_login_body` in bytes."""

    listen: list[str] = ["127.0.0.1:8010"]
    admin_listen: str = "127.0.0.1:9010"
    trusted_proxies: list[Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]] = [
        IPv4Network("127.0.0.0/8"),
        IPv6Network("::1/128"),
    ]
    drain_timeout: float = Field(35, ge=0)
    max_login_body: int = Field(65536, ge=1024)
    via: str = ""

    @field_validator("listen")
    @classmethod
    def _addresses(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("there must be at least one address")
        for entry in value:
            parse_listen(entry)
        return value

    @field_validator("via")
    @classmethod
    def _pseudonym(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]*", value):  # RFC 9110 7.6.3, 5.6.2
            raise ValueError("must be one word of letters, digits and !#$%&'*+-.^_`|~, such as gateway")
        return value

    @field_validator("admin_listen")
    @classmethod
    def _address(cls, value: str) -> str:
        if value:
            parse_listen(value)
        return value


@dataclass(frozen=True, slots=True)
class Gateway:
    """Handles every request of the public listeners."""

    settings: ServerSettings
    login: Login
    relay: Relay
    log: Logger

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; nothing that a client sends ends in another exception than `Refused`."""
        try:
            response = await self._routed(request)
        except Refused as refused:
            say = self.log.warning if refused.status >= 500 else self.log.info
            say("request_refused", refusal=refused.refusal.name.lower(), reason=refused.reason)
            response = refusal(refused)
            if refused.refusal in {Refusal.BAD_REQUEST, Refusal.METHOD_NOT_ALLOWED}:
                response.force_close()
        if "Transfer-Encoding" in request.headers:
            # aiohttp 3.14 turns the last trailer field of a chunked request into a field of the next one.
            response.force_close()
        return response

    async def _routed(self, request: web.BaseRequest) -> web.StreamResponse:
        destination = route(request.method, "")
        if destination is Route.REFUSE:
            raise Refused(Refusal.METHOD_NOT_ALLOWED)
        if request.version not in _VERSIONS:
            raise Refused(Refusal.BAD_REQUEST, "Only HTTP/1.0 and HTTP/1.1 are spoken here")
        if request.headers.get("Transfer-Encoding", "chunked").lower() != "chunked":  # RFC 9112 6.1: we know no other
            raise Refused(Refusal.BAD_REQUEST, "The request has a transfer coding other than chunked")
        target = origin_form(request)
        hop = self._hop(request)
        match route(request.method, target):
            case Route.LOGIN:
                return await self.login.log_in(request, target, hop)
            case Route.LOGIN_FLOWS:
                return await self.login.flows(request, target, hop)
            case _:
                return await self.relay(Relayed(request, target, hop))

    def _hop(self, request: web.BaseRequest) -> Hop:
        peer = request.remote or ""
        return Hop(peer, request.scheme, is_trusted(peer, self.settings.trusted_proxies))


def origin_form(request: web.BaseRequest) -> str:
    """Return the request target in origin-form; one in absolute-form must name the request's own `Host`.

    RFC 9112 3.2.2; a target that the homeserver and we could read differently is refused.
    """
    target = request.raw_path
    if target.startswith("/") or (target == "*" and request.method == "OPTIONS"):
        return target
    scheme, separator, rest = target.partition("://")
    authority = rest.partition("/")[0].partition("?")[0]
    if not separator or scheme.lower() not in {"http", "https"}:
        raise Refused(Refusal.BAD_REQUEST, "The request target is not a path")
    if authority.lower() != request.headers.get("Host", "").lower():
        raise Refused(Refusal.BAD_REQUEST, "The request target names another host")
    path = rest.removeprefix(authority)
    return path if path.startswith("/") else f"/{path}"


class _ClientConnection(web.RequestHandler):
    """aiohttp's server side of a connection, with our answer to what it can't read."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        """Read on; aiohttp 3.14 leaves whoever reads a body waiting for ever when the rest of it can't be read."""
        super().data_received(data)
        if self._messages and isinstance(self._messages[-1][0], _ErrInfo):
            request = self._current_request
            if request is not None and not request.content.is_eof():
                break_body(self._loop, request.content, web.RequestPayloadError("The request body can't be read"))

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that can't be read; a fault of our own is logged with its traceback by aiohttp."""
        if isinstance(exc, ConnectionError):
            raise exc  # the client has gone; nobody is there to be answered
        if exc is None or status >= 500:
            return super().handle_error(request, status, exc, message)
        self.logger.debug("unreadable request from %s: %s", request.remote, type(exc).__name__)
        response = refusal(Refused(Refusal.BAD_REQUEST, "The request could not be read"))
        response.force_close()
        return response

    def log_exception(self, *args: object, **kw: object) -> None:
        """Log a fault of ours; a body that broke off while nobody wanted the rest of it is none."""
        error = kw.get("exc_info")
        if not isinstance(error, web.RequestPayloadError | HttpProcessingError | ConnectionError):
            super().log_exception(*args, **kw)


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _ClientConnection(self, loop=self._loop, **self._kwargs)


@asynccontextmanager
async def listening(gateway: Gateway) -> AsyncIterator[Sequence[str]]:
    """Serve on every configured address; at the end, requests get `drain_timeout` seconds to finish.

    Yields the addresses; raises `Unusable` for one that can't be had.
    """
    settings = gateway.settings
    server = _Server(
        gateway,
        handler_cancellation=True,
        access_log=None,
        auto_decompress=False,
        max_line_size=_MAX_LINE,
        max_field_size=_MAX_LINE,
    )
    async with sites(server, settings.listen, settings.drain_timeout) as addresses:
        yield addresses


@asynccontextmanager
async def sites(server: web.Server, addresses: Sequence[str], drain_timeout: float) -> AsyncIterator[Sequence[str]]:
    """Serve `server` on `addresses`; raises `Unusable` for one that can't be had."""
    # aiohttp waits this long twice: for the handlers, then for what they still send.
    runner = web.ServerRunner(server, shutdown_timeout=drain_timeout / 2)
    await runner.setup()
    try:
        for text in addresses:
            try:
                await _site(runner, parse_listen(text)).start()
            except OSError as error:
                raise Unusable(f"Can't listen on {text}: {error.strerror or error}.") from error
        yield [_bound(address) for address in runner.addresses]
    finally:
        await runner.cleanup()


def _site(runner: web.ServerRunner, listen: Listen) -> web.BaseSite:
    if listen.unix_path:
        return web.UnixSite(runner, listen.unix_path)
    return web.TCPSite(runner, listen.host, listen.port, backlog=1024, reuse_address=True)


def _bound(address: object) -> str:
    if isinstance(address, tuple):
        return str(Listen(host=address[0], port=address[1]))
    return f"unix:{address}"
