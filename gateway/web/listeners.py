"""The open listeners of a server: what a reload changes of them, and an end that lets the requests at work finish."""

import asyncio
import functools
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from aiohttp import web

from gateway.core.addresses import is_trusted, plain
from gateway.core.proxy_header import NoProxyHeader, ProxyHeader
from gateway.errors import Unusable
from gateway.http.acceptor import Acceptor, TlsOptions, connect
from gateway.http.server import Server
from gateway.http.server_connection import ServerConnection
from gateway.sockets import Peer
from gateway.tasks import Background
from gateway.web.certificate import Certificate, Shown
from gateway.web.listen import Listen, Place
from gateway.web.proxied import take_header
from gateway.web.router import Router

# Connections that wait to be taken: many clients come back at once after a restart.
_BACKLOG: Final = 4096
# Seconds for answers about health at the end; aiohttp waits so long, twice.
_HEALTH: Final = 0.5


class PublicServer(Server):
    """The server of the public listeners; it knows the settings, and where it is said what becomes of connections."""

    def __init__(self, router: Router) -> None:
        super().__init__(router, router.settings.connection_limits)
        self.router = router

    def exchange_router(self, router: Router) -> None:
        """Have another router answer from the next request on, with its settings for new connections."""
        self.router = router
        self.use(router, router.settings.connection_limits)


class AdminServer(web.Server):
    """aiohttp's server, for health and metrics."""

    async def drain(self, _seconds: float, _among: object = None) -> None:
        """End the connections, once answers that are on their way were sent."""
        self.pre_shutdown()
        await self.shutdown(_HEALTH)


class Listener:
    """The open sockets of one address; `start` begins to take connections from them."""

    def __init__(self, listen: Listen, sockets: Sequence[socket.socket]) -> None:
        self.listen = listen
        self.sockets = sockets
        self._taking: list[asyncio.Server | Acceptor] = []

    @property
    def addresses(self) -> list[str]:
        """What it listens on, with the ports that the system chose."""
        return [_bound(self.listen, each) for each in self.sockets]

    async def start(self, server: PublicServer | AdminServer, shown: Shown | None, background: Background) -> None:
        """Take connections for `server`."""
        tls: TlsOptions = shown.options if self.listen.tls and shown is not None else {}
        for opened in self.sockets:
            own = opened.dup()  # whoever takes connections closes it
            own.setblocking(False)  # noqa: FBT003 - the standard library takes no keyword here
            if isinstance(server, PublicServer):
                prepare = functools.partial(self._prepare, server)
                self._taking.append(Acceptor(own, server, prepare, tls, background))
            else:
                self._taking.append(await _serve(server, own))

    async def stop(self) -> None:
        """Take no more connections; the sockets stay open."""
        while self._taking:
            taking = self._taking.pop()
            if isinstance(taking, Acceptor):
                await taking.close()
            else:
                taking.close()

    def close(self) -> None:
        """Give the address up."""
        for each in self.sockets:
            each.close()

    async def end(self, server: PublicServer | AdminServer) -> None:
        """Give the address up for good, and take those who wait at it: their requests may have been sent already.

        Over TLS none can have been.
        """
        waiting = [one for each in self.sockets for one in _queue(each)]
        self.close()
        for accepted in waiting:
            if self.listen.tls or self.listen.proxied or not isinstance(server, PublicServer):
                accepted.close()
            else:
                await connect(accepted, self._making(server, None), {})

    async def _prepare(
        self, server: PublicServer, accepted: socket.socket, peer: str
    ) -> Callable[[], ServerConnection] | None:
        if not self.listen.proxied:
            return self._making(server, None)
        peer = plain(peer)
        settings, log = server.router.settings, server.router.log
        trusts = functools.partial(is_trusted, trusted=settings.trusted_proxies)
        try:
            async with asyncio.timeout(settings.head_timeout):
                return self._making(server, await take_header(accepted, peer, trusts=trusts))
        except (NoProxyHeader, TimeoutError) as error:
            reason = str(error) or "its PROXY protocol header took too long"
            log.info("connection_refused", peer=peer, reason=reason)
            return None

    def _making(self, server: PublicServer, header: ProxyHeader | None) -> Callable[[], ServerConnection]:
        def made() -> ServerConnection:
            connection = server()
            connection.listener = self
            if header is not None:
                # The header's word on TLS comes first; where it has none, that of `listen`.
                secure = (True if self.listen.edge_tls else None) if header.secure is None else header.secure
                connection.peer = Peer(header.source or "", secure, relayed=header.source == "")
            return connection

        return made


class Listeners:
    """Where one server listens; a reload changes it without a connection of the others ending."""

    def __init__(
        self, server: PublicServer | AdminServer, background: Background, *, reuse_port: bool = False
    ) -> None:
        self._server = server
        self._background = background
        self._reuse_port = reuse_port
        self._shown: Shown | None = None
        self._open: list[Listener] = []
        self._handed = False

    @property
    def addresses(self) -> list[str]:
        """What is listened on."""
        return [address for listener in self._open for address in listener.addresses]

    def show(self, certificate: Certificate | None, timeout: float) -> None:
        """Show another certificate from the next connection on, whose handshake may take `timeout` seconds."""
        if certificate is not None:
            self._shown = self._shown or Shown()
            self._shown.use(certificate, timeout)

    async def prepare(self, wanted: Iterable[Listen], handed: Sequence[socket.socket] = ()) -> list[Listener]:
        """Return the listeners for these addresses, opening those that are not open; raises `Unusable`.

        Sockets that were handed over are listened on instead; on one whose address is wanted, the same is spoken.
        Nobody is taken or turned away yet: that is what `use` does; `discard` closes what was opened for nothing.
        """
        self._handed = bool(handed)
        if handed:
            spoken = {listen.place: listen for listen in wanted}
            own = {each.sockets[0]: each for each in self._open}
            listens = [(spoken.get(_place(each), Listen()), each) for each in handed]
            return [
                own[each] if each in own and own[each].listen == listen else Listener(listen, [each])
                for listen, each in listens
            ]
        left, prepared = list(self._open), list[Listener]()
        for listen in wanted:
            known = next((each for each in left if each.listen.place == listen.place), None)
            if known is not None:
                left.remove(known)
                prepared.append(known if known.listen == listen else Listener(listen, known.sockets))
                continue
            try:
                prepared.append(Listener(listen, await _bind(listen, reuse_port=self._reuse_port)))
            except (OSError, UnicodeError) as error:  # UnicodeError: a name that can't be one of a host
                self.discard(prepared)
                reason = getattr(error, "strerror", None) or error
                raise Unusable(f"Can't listen on {listen}: {reason}.") from error
        return prepared

    def discard(self, prepared: Sequence[Listener]) -> None:
        """Close what `prepare` opened."""
        paths = _close_but(prepared, self._open)
        for path in [] if self._handed else paths:  # those of a supervisor stay for the next start
            Path(path).unlink(missing_ok=True)

    async def use(self, prepared: Sequence[Listener], patience: float = 0) -> None:
        """Take connections there alone from now on; requests that came elsewhere get `patience` seconds."""
        before, self._open = self._open, list(prepared)
        gone = [each for each in before if each not in self._open]
        for each in gone:
            await each.stop()
        for each in self._open:
            if each not in before:
                await each.start(self._server, self._shown, self._background)
        _close_but(gone, self._open)

        if gone:
            left = self._server.drain(patience, lambda connection: connection.listener in gone)
            self._background.leave(left, "drain")

    async def close(self, patience: float) -> None:
        """Take nobody more; requests at work get `patience` seconds."""
        for each in self._open:
            await each.stop()
        await asyncio.sleep(0)  # until the loop has let go of their sockets
        for each in self._open:
            if self._handed:  # who waits there is served by the next gateway
                each.close()
            else:
                await each.end(self._server)
        self._open = []
        await asyncio.sleep(0)  # who was taken a moment ago is heard
        await self._server.drain(patience)


async def _serve(server: web.Server, own: socket.socket) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    if own.family == socket.AF_UNIX:
        return await loop.create_unix_server(server, sock=own, backlog=_BACKLOG)
    return await loop.create_server(server, sock=own, backlog=_BACKLOG)


def _queue(listening: socket.socket) -> list[socket.socket]:
    """Take the connections that wait at a socket."""
    taken = []
    listening.setblocking(False)  # noqa: FBT003 - the standard library takes no keyword here
    with suppress(OSError):  # there are no more, or no more may be open
        for _ in range(_BACKLOG):
            connection, _ = listening.accept()
            connection.setblocking(False)  # noqa: FBT003 - the same
            taken.append(connection)
    return taken


def _close_but(listeners: Sequence[Listener], kept: Sequence[Listener]) -> list[str]:
    """Close the sockets of listeners, but not those that are also another's; return the paths that were theirs."""
    in_use = {id(each) for listener in kept for each in listener.sockets}
    closed = [(listener, each) for listener in listeners for each in listener.sockets if id(each) not in in_use]
    for _, each in closed:
        each.close()
    return [listener.listen.unix_path for listener, _ in closed if listener.listen.unix_path]


async def _bind(listen: Listen, *, reuse_port: bool) -> list[socket.socket]:
    """Return sockets that listen on every address of a name, or on a path; raises OSError."""
    if listen.unix_path:
        return [_listening(socket.AF_UNIX, listen.unix_path)]
    found = await asyncio.get_running_loop().getaddrinfo(
        listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    opened: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((each[0], each[4]) for each in found):
            opened.append(_listening(family, address, reuse_port=reuse_port))
    except OSError:
        for each in opened:
            each.close()
        raise
    return opened


def _listening(family: int, address: object, *, reuse_port: bool = False) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        if isinstance(address, str) and Path(address).is_socket():
            Path(address).unlink()  # of one that has ended
        if family != socket.AF_UNIX:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if reuse_port:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(address)  # type: ignore[arg-type]
        made.listen(_BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def _bound(listen: Listen, opened: socket.socket) -> str:
    host, port, path = _place(opened)
    return str(replace(listen, host=host, port=port, unix_path=path))


def _place(opened: socket.socket) -> Place:
    address = opened.getsockname()
    if isinstance(address, bytes):  # an abstract one (unix(7)), as systemd writes it
        address = f"@{address[1:].decode()}"
    return ("", 0, address) if isinstance(address, str) else (address[0], address[1], "")
