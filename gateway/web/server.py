"""The public side: the handler that routes every request, and the server whose connections bring them.

aiohttp's low-level server reads requests, with our side of a connection (`http1.ClientProtocol`); what its parser
takes and a server behind us could read in another way is refused here.
"""

import asyncio
import functools
import re
import traceback
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from time import perf_counter
from typing import Annotated, Final, cast

from aiohttp import HttpVersion10, HttpVersion11, web
from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from gateway.core.addresses import is_trusted, plain
from gateway.core.headers import Hop, is_host
from gateway.core.routing import REFUSED_METHODS, Route, route
from gateway.core.target import origin_form
from gateway.errors import Refusal, Refused
from gateway.http1 import ClientProtocol, Request, Written
from gateway.logs import Logger
from gateway.metrics import Traffic
from gateway.settings import Table
from gateway.sockets import Peer
from gateway.web.answers import refusal, send_reply, unreadable
from gateway.web.listen import parse_listen
from gateway.web.login import Login
from gateway.web.logout import Logout
from gateway.web.observed import AccessLines, count
from gateway.web.relay import Relay, Relayed
from gateway.web.request_ids import RequestIds

_VERSIONS: Final = (HttpVersion11, HttpVersion10)
# After these, what comes on the connection can't be told from the rest of the request.
_CLOSING: Final = frozenset((Refusal.BAD_REQUEST, Refusal.METHOD_NOT_ALLOWED, Refusal.REQUEST_TIMEOUT))
_MAX_HOPS: Final = 10_000
# Octets of a request body that wait for the homeserver before the client is held back.
_READ_LIMIT: Final = 2**16


def _network(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError('must be a network in quotes, as in "127.0.0.0/8"')
    try:
        return ip_network(value)
    except ValueError as error:
        raise ValueError(f"not a network such as 127.0.0.0/8: {error}") from None


class ServerSettings(Table):
    """The `[server]` table: times in seconds, sizes in bytes."""

    listen: list[str] = ["127.0.0.1:8010"]
    admin_listen: str = "127.0.0.1:9010"
    trusted_proxies: list[Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]] = [
        IPv4Network("127.0.0.0/8"),
        IPv6Network("::1/128"),
    ]
    drain_timeout: float = Field(35, ge=0)
    keepalive_timeout: float = Field(75, gt=0)
    head_timeout: float = Field(60, gt=0)
    max_request_line: int = Field(131072, ge=1024, le=2**24)
    max_header_field: int = Field(16384, ge=1024, le=2**24)
    max_header_fields: int = Field(100, ge=10, le=10_000)
    max_connections_per_address: int = Field(0, ge=0, le=10**6)
    max_login_body: int = Field(65536, ge=1024, le=2**24)
    tls_certificate: str | None = None
    tls_private_key: str | None = None
    reuse_port: bool = False
    via: str = ""
    forward_request_id: bool = False

    @field_validator("listen")
    @classmethod
    def _addresses(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("there must be at least one address")
        parsed = [parse_listen(entry) for entry in value]
        places = [listen.place for listen in parsed]
        for index, listen in enumerate(parsed):
            if listen.place in places[:index] and not listen.is_any_port:
                raise ValueError(f"{listen} appears twice")
        return value

    @field_validator("via")
    @classmethod
    def _pseudonym(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]*", value):  # RFC 9110 7.6.3, 5.6.2
            raise ValueError("must be one word of letters, digits and !#$%&'*+-.^_`|~, such as gateway")
        return value

    @field_validator("admin_listen")
    @classmethod
    def _address(cls, value: str, info: ValidationInfo) -> str:
        if value:
            listen = parse_listen(value)
            if listen.tls or listen.proxied:
                raise ValueError("takes no tls: and no proxy:; health is plain and for this machine")
            public = [parse_listen(entry).place for entry in info.data.get("listen", ())]
            if listen.place in public and not listen.is_any_port:
                raise ValueError("is an address of `listen` too; health is never public")
        return value


@dataclass(frozen=True, slots=True)
class Gateway:
    """Handles every request of the public listeners; tells `traffic` and `access` of it, where there are any.

    `logout` is None where the homeserver ends all sessions.
    """

    settings: ServerSettings
    login: Login
    relay: Relay
    log: Logger
    request_ids: RequestIds
    traffic: Traffic | None = None
    access: AccessLines | None = None
    logout: Logout | None = None
    # What is known of each peer; reading addresses takes longer than anything else here.
    _hops: dict[Peer, Hop] = field(default_factory=dict, init=False, repr=False)

    async def __call__(self, request: Request) -> Written:
        """Answer one request; nothing that a client sends ends in another exception than `Refused`."""
        began = perf_counter()
        client, written = request.client, Written()
        try:
            written = await self._routed(request)
        except Refused as refused:
            written = self._refuse(request, refused)
        except asyncio.CancelledError:
            if not client.hurried or client.unfinished or request.answered:
                raise
            cast("asyncio.Task[None]", asyncio.current_task()).uncancel()  # requests behind this one have a chance
            written = send_reply(request, refusal(Refused(Refusal.STOPPING)))
        except Exception as fault:
            if client.gone or request.answered:
                raise  # a second answer would be taken for that of the next request
            written = self._confess(request, fault)
        finally:
            if self.traffic is not None:
                count(self.traffic, request, written)
            if self.access is not None:
                self.access.write(request, self._hop(client.peer), written, perf_counter() - began)
        return written

    def _refuse(self, request: Request, refused: Refused) -> Written:
        say = self.log.warning if refused.status >= 500 else self.log.info
        request_id = self.request_ids.of(request, self._hop(request.client.peer))
        say("request_refused", refusal=refused.kind, reason=refused.reason, request_id=request_id)
        return send_reply(request, refusal(refused), close=refused.refusal in _CLOSING)

    def _confess(self, request: Request, fault: Exception) -> Written:
        """Tell the client of a fault of ours, and the log which: without the variables, which hold tokens."""
        request_id = self.request_ids.of(request, self._hop(request.client.peer))
        self.log.error("fault", request_id=request_id, traceback="".join(traceback.format_exception(fault)))
        return send_reply(request, refusal(Refused(Refusal.FAULT)), close=True)

    def _routed(self, request: Request) -> Awaitable[Written]:
        if request.client.hurried:  # it waited behind one that had to be refused
            raise Refused(Refusal.STOPPING)
        if request.method in REFUSED_METHODS:
            raise Refused(Refusal.METHOD_NOT_ALLOWED)
        if request.version not in _VERSIONS:
            raise Refused(Refusal.BAD_REQUEST, "Only HTTP/1.0 and HTTP/1.1 are spoken here")
        _check_framing(request)
        target = origin_form(request.method, request.raw_path, request.headers.get("Host", ""))
        hop = self._hop(request.client.peer)
        match route(request.method, target):
            case Route.LOGIN:
                return self.login.log_in(request, target, hop)
            case Route.LOGIN_FLOWS:
                return self.login.flows(request, target, hop)
            case Route.LOGOUT | Route.LOGOUT_ALL as found if self.logout is not None:
                return self.logout(request, target, hop, everywhere=found is Route.LOGOUT_ALL)
            case Route.RELAY | Route.LOGOUT | Route.LOGOUT_ALL:
                return self.relay(Relayed(request, target, hop))

    def _hop(self, peer: Peer) -> Hop:
        hop = self._hops.get(peer)
        if hop is None:
            # Somebody whom a proxy can't name is not that proxy.
            trusted = not peer.relayed and is_trusted(peer.address, self.settings.trusted_proxies)
            hop = Hop(peer.address, trusted=trusted, secure=peer.secure)
            if len(self._hops) >= _MAX_HOPS:
                self._hops.clear()
            self._hops[peer] = hop
        return hop


def _check_framing(request: Request) -> None:
    """Refuse what aiohttp's parser takes and a server behind us could read differently."""
    headers = request.headers
    coding = headers.get("Transfer-Encoding")
    if coding is not None and (coding.lower() != "chunked" or request.version == (1, 0)):  # RFC 9112 6.1
        raise Refused(Refusal.BAD_REQUEST, "The request has a transfer coding that is not understood here")
    if not request.has_body and headers.get("Content-Length", "0").strip("0"):  # 2^64 - 1 is "none" to the parser
        raise Refused(Refusal.BAD_REQUEST, "The request has a length that no body has")
    if not is_host(headers.get("Host", "")):
        raise Refused(Refusal.BAD_REQUEST, "The request has a Host that is none")


class Server(web.Server):
    """aiohttp's server with our side of a connection, and a bound on the connections of one address."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(self._handle, handler_cancellation=True)  # type: ignore[arg-type]
        self._open: Counter[str] = Counter()
        self.use(gateway)

    def use(self, gateway: Gateway) -> None:
        """Have `gateway` handle the requests from now on, with its settings for new connections."""
        settings = gateway.settings
        self._gateway = gateway
        self._most = settings.max_connections_per_address
        self._protocol = functools.partial(
            ClientProtocol,
            self,
            loop=asyncio.get_running_loop(),
            head_timeout=settings.head_timeout,
            unreadable=self._refuse_unreadable,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=settings.keepalive_timeout,
            max_line_size=settings.max_request_line,
            max_field_size=settings.max_header_field,
            max_headers=settings.max_header_fields,
            read_bufsize=_READ_LIMIT,
        )

    def _handle(self, request: Request) -> Awaitable[Written]:
        return self._gateway(request)

    def _refuse_unreadable(self, request: Request, status: int) -> Written:
        written = send_reply(request, unreadable(status), close=True)
        if (traffic := self._gateway.traffic) is not None:
            traffic.answers["other", written.status, False] += 1
        return written

    @property
    def settings(self) -> ServerSettings:
        """The settings that are in use now."""
        return self._gateway.settings

    @property
    def log(self) -> Logger:
        """Where it is said what happens to connections that bring no request."""
        return self._gateway.log

    def trusts(self, peer: str) -> bool:
        """Say whether the peer is a trusted proxy."""
        return is_trusted(peer, self.settings.trusted_proxies)

    def __call__(self) -> ClientProtocol:
        """Return our side of a new connection."""
        return self._protocol()

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Take a connection, unless its address has as many as it may."""
        super().connection_made(handler, transport)
        client = cast("ClientProtocol", handler)
        seen = client.peername
        address = client.peer.address or (plain(seen[0]) if isinstance(seen, tuple) else "")
        secure = True if client.ssl_context is not None else client.peer.secure
        client.peer = Peer(address, secure, client.peer.relayed)
        if address:
            self._open[address] += 1
            if 0 < self._most < self._open[address]:
                transport.abort()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Forget a connection."""
        super().connection_lost(handler, exc)
        address = cast("ClientProtocol", handler).peer.address
        if address:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]
