"""Where the gateway is reached, by clients and for its health: all of it is open, or nothing changes."""

from collections.abc import Sequence
from typing import NamedTuple

from gateway.errors import Unusable
from gateway.systemd import HandedOver
from gateway.tasks import Background
from gateway.web.admin import Health
from gateway.web.certificate import Certificate
from gateway.web.listen import parse_listen
from gateway.web.listeners import AdminServer, Listener, Listeners, PublicServer
from gateway.web.settings import ServerSettings


class Prepared(NamedTuple):
    """Listeners that are open, but take nobody yet."""

    public: list[Listener]
    admin: list[Listener]
    certificate: Certificate | None


class Entrances:
    """The listeners of `server` and of `health`; sockets that were handed over come in place of their addresses."""

    def __init__(self, server: PublicServer, health: Health, background: Background, handed: HandedOver) -> None:
        self._server = server
        self._handed = handed
        reuse_port = server.router.settings.reuse_port
        self._public = Listeners(server, background, reuse_port=reuse_port)
        self._admin = Listeners(AdminServer(health, access_log=None), background, reuse_port=reuse_port)

    @property
    def addresses(self) -> Sequence[str]:
        """Where clients reach it."""
        return self._public.addresses

    async def prepare(self, settings: ServerSettings, certificate: Certificate | None) -> Prepared:
        """Open what is not open yet; raises `Unusable` where one can't be, and nothing is."""
        public = await self._public.prepare(map(parse_listen, settings.listen), self._handed.public)
        try:
            admin = [parse_listen(settings.admin_listen)] if settings.admin_listen else []
            return Prepared(public, await self._admin.prepare(admin, self._handed.admin), certificate)
        except Unusable:
            self._public.discard(public)
            raise

    async def use(self, prepared: Prepared) -> None:
        """Be reached there alone from now on; requests that came elsewhere get `drain_timeout` seconds."""
        settings = self._server.router.settings
        self._public.show(prepared.certificate, settings.head_timeout)
        await self._admin.use(prepared.admin)
        await self._public.use(prepared.public, settings.drain_timeout)

    async def close(self) -> None:
        """Take no more clients, and let their requests finish."""
        await self._public.close(self._server.router.settings.drain_timeout)

    async def close_health(self) -> None:
        """Say no more how the gateway is."""
        await self._admin.close(0)
