"""A session by the application service login (client-server specification, 'm.login.application_service')."""

from dataclasses import dataclass, field
from typing import ClassVar

from gateway.core.headers import Field
from gateway.core.homeserver_kinds import HomeserverKind
from gateway.core.login_request import LoginRequest
from gateway.upstream.answers import classified, is_unknown_user
from gateway.upstream.devices import end_sessions
from gateway.upstream.homeserver import Homeserver
from gateway.upstream.kind import kind_of
from gateway.upstream.pool import Reply
from gateway.upstream.sessions import UnknownUser, Wanted
from gateway.upstream.sessions.devices_in_turn import DevicesInTurn
from gateway.upstream.users import check_name, check_not_own, check_ready, exists, is_of_user, register


@dataclass(frozen=True, slots=True)
class AppserviceSessions:
    """Makes accounts and opens sessions with the `as_token`."""

    homeserver: Homeserver
    makes_accounts: ClassVar[bool] = False
    _devices: DevicesInTurn = field(default_factory=DevicesInTurn, repr=False, compare=False)

    def check(self, request: LoginRequest) -> None:
        """Take every login."""

    async def exists(self, localpart: str) -> bool:
        """Ask the homeserver."""
        return await exists(self.homeserver, self.homeserver.user_id(localpart))

    async def check_name(self, localpart: str, *, exists: bool) -> None:
        """Ask the homeserver."""
        await check_name(self.homeserver, localpart, exists=exists)

    async def register(
        self,
        localpart: str,
        client: tuple[Field, ...] = (),
        *,
        known: bool = False,  # noqa: ARG002 - the homeserver knows best
    ) -> bool:
        """Register the user."""
        return await register(self.homeserver, localpart, client)

    async def open(self, wanted: Wanted) -> Reply:
        """Return the homeserver's answer with the session; of one device one after the other."""
        kind = await kind_of(self.homeserver)
        check_not_own(kind, wanted.localpart)
        async with self._devices.turn(wanted):
            return await self._open(wanted, kind)

    async def _open(self, wanted: Wanted, kind: HomeserverKind) -> Reply:
        reply = await self.homeserver.log_in(wanted.localpart, wanted.fields(kind), wanted.client)
        if reply.status == 500 and kind.repeats_logins and wanted.request.device_id:
            reply = await self.homeserver.log_in(wanted.localpart, wanted.fields(kind), wanted.client)
        if reply.status != 200:
            raise UnknownUser(reply) if is_unknown_user(reply, kind) else classified(reply, "log the user in")
        self.homeserver.check_session(reply, wanted.localpart)
        if not wanted.is_sure(kind) and not await is_of_user(self.homeserver, wanted.localpart, reply):
            raise UnknownUser(reply, str(reply.json().get("device_id", "")))
        return reply

    async def end_all(self, localpart: str) -> bool:
        """End the sessions in the user's name."""
        return await end_sessions(self.homeserver, self.homeserver.user_id(localpart))

    async def check_ready(self) -> None:
        """Ask the homeserver."""
        await check_ready(self.homeserver)

    async def misfit(self) -> str:
        """Say so where the homeserver has left login to another server."""
        _, misfit = await self.homeserver.flows()
        return misfit  # a login that is not listed may be there all the same
