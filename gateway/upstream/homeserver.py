"""The few Matrix calls that the gateway makes itself, as the application service or as anybody."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from pydantic import AfterValidator

from gateway.core.headers import Field
from gateway.core.homeserver_kinds import Existence, HomeserverKind
from gateway.core.identity import check_server_name
from gateway.errors import Refusal, Refused
from gateway.upstream.answers import classified
from gateway.upstream.pool import Pool, PoolSettings, Reply

# A homeserver may let a call wait for so long, in seconds, and in all for so long; then its client has to.
_SHORT_WAIT: Final = 1.0
_PATIENCE: Final = 10.0
_LEAST_WAIT: Final = 0.05


class HomeserverSettings(PoolSettings):
    """The `[homeserver]` table."""

    server_name: Annotated[str, AfterValidator(check_server_name)]


@dataclass(slots=True)
class Known:
    """What the homeserver has told of itself: its kind, and the question by which it tells who exists."""

    kind: HomeserverKind | None = None
    question: Existence | None = None


@dataclass(frozen=True, slots=True)
class Homeserver:
    """The homeserver as the application service `as_token` sees it, or as anybody does where that is "".

    Every call may raise `Refused`.
    """

    pool: Pool
    server_name: str
    as_token: str
    known: Known = field(default_factory=Known, repr=False, compare=False)

    def user_id(self, localpart: str) -> str:
        """Return the whole user id of a user of this homeserver."""
        return f"@{localpart}:{self.server_name}"

    async def call(
        self,
        method: str,
        target: str,
        body: dict[str, Any] | None = None,
        client: tuple[Field, ...] = (),
        *,
        repeat: bool = True,
    ) -> Reply:
        """Make a call as the application service; `client` are fields that say for whom it is made.

        `repeat`: it may reach the homeserver twice without harm. One that a limit of the homeserver lets wait for a
        moment is made again, for that one did nothing (429).
        """
        octets = json.dumps(body).encode() if body is not None else b""
        fields = [*self._fields("application/json"), *client]
        waited = 0.0
        while True:
            reply = await self.pool.call(method, target, fields, octets, repeat=repeat)
            wait = _short_wait(reply)
            if wait is None or waited + wait > _PATIENCE:
                return reply
            waited += wait
            await asyncio.sleep(wait)

    async def upload(self, target: str, media_type: str, octets: bytes) -> Reply:
        """Put content to a target, as the application service."""
        return await self.pool.call("POST", target, self._fields(media_type), octets)

    def _fields(self, media_type: str) -> list[Field]:
        fields = [self.pool.host, (b"Content-Type", media_type.encode())]
        if self.as_token:
            fields.append((b"Authorization", f"Bearer {self.as_token}".encode()))
        return fields

    async def ask(self, target: str) -> Reply:
        """Ask what the homeserver tells anybody, without our token: Synapse takes one for a federation signature."""
        return await self.pool.call("GET", target, [self.pool.host])

    async def versions(self) -> Reply:
        """Ask for the versions that the homeserver speaks; the question that every homeserver answers anybody."""
        return await self.ask("/_matrix/client/versions")

    async def login_flows(self) -> tuple[list[dict[str, Any]], str]:
        """Return the flows of `GET /login`, and status and errcode of an answer that has none, "" where it has."""
        reply = await self.ask("/_matrix/client/v3/login")
        flows = reply.json().get("flows")
        if reply.status == 200 and isinstance(flows, list):
            return [flow for flow in flows if isinstance(flow, dict)], ""
        if reply.status >= 500:
            raise classified(reply, "ask for its login")
        return [], reply.told

    async def flows(self) -> tuple[list[str], str]:
        """Return the types of login that the homeserver offers, and why we can use none of them, "" where we may."""
        flows, told = await self.login_flows()
        types = [str(flow.get("type")) for flow in flows]
        if not told and is_delegated(flows) and "m.login.application_service" not in types:
            told = "another service answers"
        misfit = f"the homeserver has no login of its own ({told}), as behind Matrix Authentication Service"
        return types, misfit if told else ""

    async def log_in(self, localpart: str, members: dict[str, Any], client: tuple[Field, ...] = ()) -> Reply:
        """Log a user in as the application service; not twice, or there could be a session that nobody knows of."""
        identifier = {"type": "m.id.user", "user": localpart}
        body = {"type": "m.login.application_service", "identifier": identifier, **members}
        return await self.call("POST", "/_matrix/client/v3/login", body, client, repeat=False)

    def check_session(self, reply: Reply, localpart: str) -> None:
        """Refuse a session that is not this user's."""
        expected = self.user_id(localpart)
        if reply.json().get("user_id") != expected:
            raise Refused(
                Refusal.HOMESERVER_REFUSES_GATEWAY,
                reason=f"the session is not for {expected}: server_name must be the homeserver's own",
            )

    async def as_user(self, method: str, target: str, token: str, body: dict[str, Any] | None = None) -> Reply:
        """Make a call with the access token of a client."""
        bearer = (b"Authorization", f"Bearer {token}".encode())
        octets = b"" if body is None else json.dumps(body).encode()
        return await self.pool.call(method, target, [self.pool.host, bearer], octets)


def is_delegated(flows: list[dict[str, Any]]) -> bool:
    """Say whether the login is that of an OAuth service, as its single sign-on tells (MSC 3824)."""
    names = ("oauth_aware_preferred", "org.matrix.msc3824.delegated_oidc_compatibility")
    return any(flow.get(name) is True for flow in flows for name in names)


def _short_wait(reply: Reply) -> float | None:
    """Return for how long a call has to wait, in seconds, None where it was answered or would have to wait long."""
    if reply.status != 429:
        return None
    milliseconds = reply.json().get("retry_after_ms")
    if not isinstance(milliseconds, int) or not 0 <= milliseconds <= _SHORT_WAIT * 1000:
        return None
    return max(milliseconds / 1000, _LEAST_WAIT)
