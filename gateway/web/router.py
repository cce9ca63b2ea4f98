"""Which handler answers a request: a table of routes, and the homeserver for everything else.

The rule of this file: one row for each path that is ours. What a server behind us could read in another way than the
parser did is refused here.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from time import perf_counter
from typing import Final, NamedTuple, NoReturn, TypeAlias

from aiohttp import hdrs

from gateway.core.addresses import is_trusted
from gateway.core.headers import Hop, is_host
from gateway.core.target import origin_form
from gateway.errors import Refusal, Refused
from gateway.http.body import BodyBroken
from gateway.http.messages import Request
from gateway.http.server_connection import ServerConnection
from gateway.sockets import Peer
from gateway.tasks import Background
from gateway.upstream.pool import Reply
from gateway.web.exchange import Exchange
from gateway.web.observed import Observers
from gateway.web.relay import Relay, Relayer
from gateway.web.settings import ServerSettings
from gateway.web.transfer import Transfer

# A proxy answers a TRACE with what others must not see, and a CONNECT is for forward proxies (RFC 9110 9.3.6, 9.3.8).
_REFUSED_METHODS: Final = frozenset(("TRACE", "CONNECT"))
_MAX_HOPS: Final = 10_000
_AS_IT_IS: Final = Relay()

Handler: TypeAlias = Callable[[Exchange], Awaitable[Reply | Relay]]


class Route(NamedTuple):
    """A row of the table: what the log calls it, which requests are its, by raw undecoded path, and who answers.

    `paths` that are a function are asked for a path that no other row has.
    """

    name: str
    method: str
    paths: Collection[str] | Callable[[str], bool]
    handler: Handler


class Router:
    """Answers every request of the public listeners."""

    def __init__(
        self,
        settings: ServerSettings,
        relayer: Relayer,
        routes: Sequence[Route],
        *,
        observers: Observers,
        background: Background,
    ) -> None:
        self.settings = settings
        self.log = observers.log
        self._observers = observers
        self._relayer = relayer
        self._routes: dict[tuple[str, str], Route] = {}
        self._asked: dict[str, list[tuple[Callable[[str], bool], Route]]] = {}
        for route in routes:
            if callable(route.paths):
                self._asked.setdefault(route.method, []).append((route.paths, route))
            else:
                self._routes.update({(route.method, path): route for path in route.paths})
        self._background = background
        self._is_timed = observers.access is not None
        # What is known of each peer; reading addresses takes longer than anything else here.
        self._hops: dict[Peer, Hop] = {}
        # The Host that came last and can be one: most have the same.
        self._host = ""

    def handle(self, connection: ServerConnection, request: Request) -> None:
        """Begin to answer one request; nothing that a client sends ends in another exception than `Refused`."""
        hop = self._hops.get(connection.peer) or self._new_hop(connection.peer)
        exchange = request.work = Exchange(self._observers, connection, request, hop)
        if self._is_timed:
            exchange.began = perf_counter()
        try:
            host, target = request.headers.get(hdrs.HOST, ""), request.target
            if connection.stopping or request.method in _REFUSED_METHODS or request.body.error:
                _refuse(connection, request)
            if host != self._host:
                _check_host(host)
                self._host = host
            if not target.startswith("/"):
                target = exchange.target = origin_form(request.method, target, host)
            path = target.partition("?")[0]
            route = self._routes.get((request.method, path))
            if route is None and request.method in self._asked:
                route = self._route_asked_for(request.method, path)
            if route is None:
                Transfer(self._relayer, exchange, _AS_IT_IS).start()
            else:
                exchange.route = route.name
                exchange.at_work = self._background.spawn(self._run(route.handler, exchange), "request")
        except Refused as refused:
            exchange.refuse(refused)
        except Exception as fault:  # noqa: BLE001 - whatever it is, its client gets an answer
            exchange.fail(fault)

    def _route_asked_for(self, method: str, path: str) -> Route | None:
        for is_its, route in self._asked[method]:
            if is_its(path):
                return route
        return None

    async def _run(self, handler: Handler, exchange: Exchange) -> None:
        try:
            outcome = await handler(exchange)
            if isinstance(outcome, Relay):
                Transfer(self._relayer, exchange, outcome).start()
            else:
                exchange.reply(outcome)
        except Refused as refused:
            exchange.refuse(refused)
        except asyncio.CancelledError:
            exchange.abandon()
            raise
        except BodyBroken:
            exchange.refuse(Refused(Refusal.BAD_REQUEST, "The request body broke off"))
        except Exception as fault:  # noqa: BLE001 - whatever it is, its client gets an answer
            exchange.fail(fault)

    def unreadable(self, connection: ServerConnection, request: Request, status: int, reason: str) -> None:
        """Answer what can't be read as a request."""
        self.log.debug("request_unreadable", peer=connection.peer.address, reason=reason)
        refusals = {408: Refusal.REQUEST_TIMEOUT, 431: Refusal.HEAD_TOO_LARGE}
        refused = Refused(refusals.get(status, Refusal.BAD_REQUEST), "The request could not be read")
        hop = self._hops.get(connection.peer) or self._new_hop(connection.peer)
        Exchange(self._observers, connection, request, hop).refuse(refused)

    def _new_hop(self, peer: Peer) -> Hop:
        # Somebody whom a proxy can't name is not that proxy.
        trusted = not peer.relayed and is_trusted(peer.address, self.settings.trusted_proxies)
        hop = Hop(peer.address, trusted=trusted, secure=peer.secure)
        if len(self._hops) >= _MAX_HOPS:
            self._hops.clear()
        self._hops[peer] = hop
        return hop


def _check_host(host: str) -> None:
    if not is_host(host):
        raise Refused(Refusal.BAD_REQUEST, "The request has a Host that is none")


def _refuse(connection: ServerConnection, request: Request) -> NoReturn:
    if connection.stopping:  # it waited behind one that had to be refused
        raise Refused(Refusal.STOPPING)
    if request.method in _REFUSED_METHODS:
        raise Refused(Refusal.METHOD_NOT_ALLOWED)
    raise Refused(Refusal.BAD_REQUEST, "The request body could not be read")
