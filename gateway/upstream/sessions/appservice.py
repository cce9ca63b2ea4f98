"""A session by the application service login (client-server specification, 'm.login.application_service')."""

from dataclasses import dataclass
from typing import Any, Final, Literal

from gateway.core.headers import Field
from gateway.core.login_request import LoginRequest
from gateway.errors import Refusal, Refused
from gateway.settings import Table
from gateway.upstream.homeserver import Homeserver, classified
from gateway.upstream.pool import Reply

# (status, errcode) of a user that is not there: Synapse; continuwuity; tuwunel.
UNKNOWN_USER: Final = frozenset(((404, "M_UNKNOWN"), (404, "M_NOT_FOUND"), (400, "M_INVALID_PARAM")))


class SessionSettings(Table):
    """The `[session]` table."""

    method: Literal["appservice"] = "appservice"
    as_token: str | None = None
    as_token_file: str | None = None


class UnknownUser(Exception):
    """The homeserver does not have this user (any more); `doubtful` when it may not like a field of the login."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.doubtful = reply.errcode == "M_INVALID_PARAM"
        super().__init__(f"{reply.status} {reply.errcode}")


@dataclass(frozen=True, slots=True)
class AppserviceSessions:
    """Opens sessions with the `as_token`."""

    homeserver: Homeserver

    async def open(self, localpart: str, request: LoginRequest, client: tuple[Field, ...]) -> Reply:
        """Return the homeserver's answer with the session of `localpart`.

        Raises `UnknownUser`, `HomeserverAnswered` for a refusal that is the user's, `Refused` for any other.
        """
        body: dict[str, Any] = {
            "type": "m.login.application_service",
            "identifier": {"type": "m.id.user", "user": localpart},
        }
        for name in ("device_id", "initial_device_display_name", "refresh_token"):
            value = getattr(request, name)
            if value is not None:
                body[name] = value
        # Not twice: the homeserver may have opened a session that nobody would know of.
        reply = await self.homeserver.call("POST", "/_matrix/client/v3/login", body, client, repeat=False)
        if reply.status != 200:
            if (reply.status, reply.errcode) in UNKNOWN_USER:
                raise UnknownUser(reply)
            raise classified(reply, "log the user in")
        expected = f"@{localpart}:{self.homeserver.server_name}"
        if reply.json().get("user_id") != expected:
            raise Refused(
                Refusal.HOMESERVER_REFUSES_GATEWAY,
                reason=f"the session is not for {expected}: server_name must be the homeserver's own",
            )
        return reply
