"""A session by the application service login (client-server specification, 'm.login.application_service')."""

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from gateway.core.login_request import LoginRequest
from gateway.upstream.devices import end_sessions
from gateway.upstream.homeserver import Homeserver, classified
from gateway.upstream.pool import Reply
from gateway.upstream.sessions import UnknownUser, Wanted

# (status, errcode) of a user that is not there: Synapse; continuwuity; tuwunel.
UNKNOWN_USER: Final = frozenset(((404, "M_UNKNOWN"), (404, "M_NOT_FOUND"), (400, "M_INVALID_PARAM")))


@dataclass(frozen=True, slots=True)
class AppserviceSessions:
    """Makes accounts and opens sessions with the `as_token`."""

    homeserver: Homeserver
    makes_accounts: ClassVar[bool] = False

    def check(self, request: LoginRequest) -> None:
        """Take every login."""

    async def exists(self, localpart: str) -> bool:
        """Ask the homeserver."""
        return await self.homeserver.exists(self.homeserver.user_id(localpart))

    async def register(self, localpart: str) -> bool:
        """Register the user."""
        return await self.homeserver.register(localpart)

    async def open(self, wanted: Wanted) -> Reply:
        """Return the homeserver's answer with the session."""
        body: dict[str, Any] = {
            "type": "m.login.application_service",
            "identifier": {"type": "m.id.user", "user": wanted.localpart},
            **wanted.fields(),
        }
        # Not twice: the homeserver may have opened a session that nobody would know of.
        reply = await self.homeserver.call("POST", "/_matrix/client/v3/login", body, wanted.client, repeat=False)
        if reply.status != 200:
            if (reply.status, reply.errcode) in UNKNOWN_USER:
                raise UnknownUser(reply)
            raise classified(reply, "log the user in")
        self.homeserver.check_session(reply, wanted.localpart)
        return reply

    async def end_all(self, localpart: str) -> bool:
        """End the sessions in the user's name."""
        return await end_sessions(self.homeserver, self.homeserver.user_id(localpart))

    async def misfit(self) -> str:
        """Say so where the homeserver has left login to another server."""
        _, misfit = await self.homeserver.flows()
        return misfit  # a login that is not listed may be there all the same
