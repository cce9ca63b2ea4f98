"""`POST /logout` and `/logout/all` with a token that Matrix Authentication Service gave for us; others are relayed.

Client-server specification, 'POST /_matrix/client/v3/logout'. The body says nothing, and is not looked at.
"""

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs

from gateway.http.messages import Request
from gateway.kept_sessions import KeptSessions
from gateway.logs import Logger
from gateway.upstream.pool import Reply
from gateway.web.answers import json_reply
from gateway.web.exchange import Exchange
from gateway.web.relay import Relay

# Octets of a body that are read; clients send none, or an empty object.
_MAX_BODY: Final = 65536


@dataclass(frozen=True, slots=True)
class Logout:
    """Ends sessions where they were made."""

    sessions: KeptSessions
    log: Logger

    async def end_session(self, exchange: Exchange) -> Reply | Relay:
        """Answer a logout of one session."""
        return await self._end(exchange, everywhere=False)

    async def end_all_sessions(self, exchange: Exchange) -> Reply | Relay:
        """Answer a logout of all sessions of the user."""
        return await self._end(exchange, everywhere=True)

    async def _end(self, exchange: Exchange, *, everywhere: bool) -> Reply | Relay:
        token = _access_token(exchange.request, exchange.target)
        session = await self.sessions.find(token) if token else None
        if session is None:
            return Relay()
        body = await exchange.request.body.read_bounded(_MAX_BODY)  # it says nothing; read, the connection can go on
        if not await (self.sessions.end_all if everywhere else self.sessions.end)(session):
            return Relay(prefix=body)  # the homeserver says so in its own words
        self.log.info("logout", localpart=session.localpart, everywhere=everywhere)
        return json_reply(200, {})


def _access_token(request: Request, target: str) -> str:
    """Return the client's token, "" without one (client-server specification, 'Using access tokens')."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    return parse_qs(target.partition("?")[2]).get("access_token", [""])[0]
