"""A session by the homeserver's own JWT login: the verified identity, signed again with the secret that it has.

The homeserver makes accounts itself, so whether one is there has to be asked first, and what the database knows as
made counts as there. Without an `as_token` only the public profile tells, and no profile counts as no user.
"""

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from gateway.core.headers import Field
from gateway.core.homeserver_kinds import HomeserverKind
from gateway.core.login_request import LoginRequest
from gateway.core.signing import signed
from gateway.errors import Refusal, Refused
from gateway.upstream.answers import HomeserverAnswered, MaybeMade, classified
from gateway.upstream.devices import end_sessions
from gateway.upstream.homeserver import Homeserver
from gateway.upstream.kind import kind_of
from gateway.upstream.pool import NotConnected, Reply
from gateway.upstream.sessions import MadeMeanwhile, SessionSettings, UnknownUser, Wanted
from gateway.upstream.sessions.devices_in_turn import DevicesInTurn
from gateway.upstream.users import check_name, check_not_own, check_ready, exists, is_of_user

LOGIN_TYPE: Final = "org.matrix.login.jwt"
# The types by which homeservers take a JWT, the old one too, whichever of them the gateway takes.
_LOGIN_TYPES: Final = (LOGIN_TYPE, "m.login.jwt")
# How long a token for the homeserver is good, in seconds.
_LIFETIME: Final = 60
_HINT: Final = (
    "jwt_secret, jwt_algorithm, jwt_issuer, jwt_audience and jwt_subject_claim must be those of the homeserver's own"
    " JWT login"
)
_HINT_PROFILE: Final = (
    "without an as_token, only the public profile says whether a user is there: let all ask for it, or set as_token"
)


@dataclass(frozen=True, slots=True)
class JwtSessions:
    """Opens sessions with tokens of our own; `now` gives seconds since the epoch."""

    homeserver: Homeserver
    settings: SessionSettings
    secret: str
    now: Callable[[], float]
    makes_accounts: ClassVar[bool] = True
    _devices: DevicesInTurn = field(default_factory=DevicesInTurn, repr=False, compare=False)

    def check(self, request: LoginRequest) -> None:
        """Take every login."""

    async def exists(self, localpart: str) -> bool:
        """Ask the homeserver."""
        try:
            return await exists(self.homeserver, self.homeserver.user_id(localpart))
        except Refused as refused:
            if self.homeserver.as_token or refused.refusal is not Refusal.HOMESERVER_REFUSES_GATEWAY:
                raise
            reason = refused.reason.partition(";")[0]
            raise Refused(refused.refusal, reason=f"{reason}; {_HINT_PROFILE}") from None

    async def check_name(self, localpart: str, *, exists: bool) -> None:
        """Ask the homeserver."""
        await check_name(self.homeserver, localpart, exists=exists)

    async def register(
        self,
        localpart: str,
        client: tuple[Field, ...] = (),  # noqa: ARG002 - nothing is made
        *,
        known: bool = False,  # noqa: ARG002 - as above
    ) -> bool:
        """Say whether the homeserver will make the account."""
        return not await self.exists(localpart)

    async def open(self, wanted: Wanted) -> Reply:
        """Return the homeserver's answer with the session; of one device one after the other."""
        kind = await kind_of(self.homeserver)
        check_not_own(kind, wanted.localpart)
        async with self._devices.turn(wanted):
            return await self._open(wanted, kind)

    async def _open(self, wanted: Wanted, kind: HomeserverKind) -> Reply:
        if not wanted.may_make and self.homeserver.as_token and not await self.exists(wanted.localpart):
            raise UnknownUser(Reply(404, [], b""))  # the homeserver lost it, and would make it again
        reply = await self._log_in(wanted, kind)
        if reply.status == 500 and kind.repeats_logins and wanted.request.device_id:
            reply = await self._log_in(wanted, kind)
        if reply.status != 200:
            raise self._meaning(reply)
        self.homeserver.check_session(reply, wanted.localpart)
        if not wanted.is_sure(kind) and not await is_of_user(self.homeserver, wanted.localpart, reply):
            raise UnknownUser(reply)
        return reply

    async def _log_in(self, wanted: Wanted, kind: HomeserverKind) -> Reply:
        token = self._token(wanted.localpart, wanted.display_name, self.now())
        try:
            return await _log_in(self.homeserver, {"token": token, **wanted.fields(kind)}, wanted.client)
        except NotConnected:
            raise
        except Refused as refused:
            raise MaybeMade(refused.refusal, reason=refused.reason) from refused

    async def end_all(self, localpart: str) -> bool:
        """End the sessions in the user's name, which takes an `as_token`."""
        if not self.homeserver.as_token:
            raise Refused(
                Refusal.HOMESERVER_REFUSES_GATEWAY,
                reason="to end sessions the gateway has to be an application service; set [session] as_token",
            )
        return await end_sessions(self.homeserver, self.homeserver.user_id(localpart))

    async def check_ready(self) -> None:
        """Ask the homeserver, but not by a login of its own, which would count for a limit."""
        await check_ready(self.homeserver, needs_as_token=bool(self.homeserver.as_token))

    async def misfit(self) -> str:
        """Look for the login, and try a token that is nobody's, so that no session can come of it."""
        _, misfit = await self.homeserver.flows()
        if misfit or LOGIN_TYPE not in await own_jwt_logins(self.homeserver, await kind_of(self.homeserver)):
            return misfit or f"{LOGIN_TYPE} is not among the logins that the homeserver offers"
        reply = await _log_in(self.homeserver, {"token": self._token(None, None, self.now())})
        if reply.status == 200:
            await self.homeserver.as_user("POST", "/_matrix/client/v3/logout", str(reply.json().get("access_token")))
            claim = self.settings.jwt_subject_claim
            return f"the homeserver opens a session by a token without {claim!r}: another claim is its subject_claim"
        # Synapse, which looks at the subject last; Palpo and tuwunel, which look at the signature first.
        if reply.error.startswith("JWT validation failed") or "InvalidSignature" in reply.error:
            return f"the homeserver does not accept the gateway's tokens: {reply.error[:200]}"
        return ""

    def _token(self, localpart: str | None, display_name: str | None, now: float) -> str:
        settings, moment = self.settings, int(now)
        claims: dict[str, Any] = {
            "iat": moment,
            "nbf": moment,
            "exp": moment + _LIFETIME,
            "jti": secrets.token_urlsafe(16),
            "iss": settings.jwt_issuer,
            "aud": settings.jwt_audience,
            settings.jwt_subject_claim: localpart,
        }
        if settings.jwt_display_name_claim:
            claims[settings.jwt_display_name_claim] = display_name
        kept = {name: value for name, value in claims.items() if value is not None}
        return signed(kept, self.secret, settings.jwt_algorithm)

    def _meaning(self, reply: Reply) -> HomeserverAnswered | Refused:
        error = reply.json().get("error")
        said = f"it says {error[:200]!r}; {_HINT}" if isinstance(error, str) else _HINT
        meant = classified(reply, "log the user in", said)
        if isinstance(meant, Refused) and reply.status >= 500:
            return MaybeMade(meant.refusal, reason=meant.reason)
        if isinstance(meant, Refused) and reply.errcode == "M_USER_IN_USE":
            return MadeMeanwhile(meant.refusal, reason=meant.reason)
        return meant


async def own_jwt_logins(homeserver: Homeserver, kind: HomeserverKind) -> list[str]:
    """Return the types by which the homeserver itself takes a JWT, with no token that it would take."""
    flows, _ = await homeserver.flows()
    if kind.lists_jwt_login:
        return [name for name in _LOGIN_TYPES if name in flows]
    reply = await _log_in(homeserver, {"token": "none"})
    return [LOGIN_TYPE] if "invalid jwt token" in reply.error.lower() else []


async def _log_in(homeserver: Homeserver, members: dict[str, Any], client: tuple[Field, ...] = ()) -> Reply:
    pool = homeserver.pool
    fields = [pool.host, (b"Content-Type", b"application/json"), *client]
    body = json.dumps({"type": LOGIN_TYPE, **members}).encode()
    # Not twice: the homeserver may have opened a session that nobody would know of.
    return await pool.call("POST", "/_matrix/client/v3/login", fields, body, repeat=False)
