"""`POST /logout` and `/logout/all` with a token that Matrix Authentication Service gave for us; others are relayed.

Client-server specification, 'POST /_matrix/client/v3/logout'. The body says nothing, and is not looked at.
"""

from dataclasses import dataclass
from urllib.parse import parse_qs

from gateway.core.headers import Hop
from gateway.http1 import Request, Written
from gateway.kept_sessions import KeptSessions
from gateway.logs import Logger
from gateway.web.answers import json_reply, send_reply
from gateway.web.relay import Relay, Relayed


@dataclass(frozen=True, slots=True)
class Logout:
    """Ends sessions where they were made."""

    sessions: KeptSessions
    relay: Relay
    log: Logger

    async def __call__(self, request: Request, target: str, hop: Hop, *, everywhere: bool) -> Written:
        """Answer a logout, of all sessions of the user when `everywhere`."""
        token = _access_token(request, target)
        session = await self.sessions.find(token) if token else None
        if session is None:
            return await self.relay(Relayed(request, target, hop))
        await (self.sessions.end_all if everywhere else self.sessions.end)(session)
        self.log.info("logout", localpart=session.localpart, everywhere=everywhere)
        return send_reply(request, json_reply(200, {}))


def _access_token(request: Request, target: str) -> str:
    """Return the client's token, "" without one (client-server specification, 'Using access tokens')."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    return parse_qs(target.partition("?")[2]).get("access_token", [""])[0]
