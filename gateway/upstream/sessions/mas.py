"""A session by the admin API of Matrix Authentication Service: a personal session on a device of the user.

The homeserver accepts its token and has no part in making it, so the answer to the client is made here. It has to be
ended at the service too, and `keep` gets what that needs, and ends it where it can't be kept.
"""

import json
import secrets
import string
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from gateway.core.headers import Field
from gateway.core.login_request import LoginRequest
from gateway.core.personal_sessions import PersonalSession, fits_scope, token_digest
from gateway.errors import Refusal, Refused
from gateway.upstream.homeserver import Homeserver, is_delegated
from gateway.upstream.mas import MasAdmin, MasUser
from gateway.upstream.mas_answers import NAME, opened
from gateway.upstream.pool import Reply
from gateway.upstream.sessions import UnknownUser, Wanted
from gateway.upstream.users import check_ready

# Keeps a session; the token and what the client calls the device are for naming it.
Keep = Callable[[PersonalSession, str, str | None], Awaitable[None]]

_NAME: Final = "matrix-login-gateway"
# As homeservers make them.
_DEVICE_CHARACTERS: Final = string.ascii_uppercase
_DEVICE_LENGTH: Final = 10
# Nobody's name: of it the service says that there is no such user.
_PROBE: Final = "_login_gateway_probe"
# Where a homeserver tells clients of the service: since Matrix 1.15, and before.
_METADATA: Final = (
    "/_matrix/client/v1/auth_metadata",
    "/_matrix/client/unstable/org.matrix.msc2965/auth_metadata",
)
_HINT_DELEGATE: Final = "set matrix_authentication_service in Synapse's homeserver.yaml"
_HINT_SPLIT: Final = (
    f"[homeserver] url must be an address that leads /login, /logout and /refresh to {NAME}, and the rest to the"
    " homeserver"
)


@dataclass(frozen=True, slots=True)
class MasSessions:
    """Makes users and opens sessions; each is given to `keep` before the client hears of it.

    `expires_in` is in seconds, 0: a session does not end by itself; `now` gives seconds since the epoch.
    """

    admin: MasAdmin
    homeserver: Homeserver
    expires_in: int
    keep: Keep
    now: Callable[[], float]
    makes_accounts: ClassVar[bool] = False

    def check(self, request: LoginRequest) -> None:
        """Refuse a device that can't have a session: with another id its keys would be another device's."""
        if request.device_id is not None and not fits_scope(request.device_id):
            raise Refused(
                Refusal.BAD_PARAMETER,
                "'device_id' can't have spaces, quotes, backslashes or other than ASCII characters on this server",
            )

    async def exists(self, localpart: str) -> bool:
        """Ask the service."""
        return await self.admin.find_user(localpart) is not None

    async def check_name(self, localpart: str, *, exists: bool) -> None:
        """Take every name: the service knows which are reserved."""

    async def register(
        self,
        localpart: str,
        client: tuple[Field, ...] = (),  # noqa: ARG002 - the service has no limits for us
        *,
        known: bool = False,
    ) -> bool:
        """Make the user, which the homeserver hears of from the service."""
        if await self.admin.add_user(localpart):
            return True
        if await self.admin.appears(localpart):
            return False
        # The homeserver has it alone, as from the time when the application service login made our accounts.
        if known:
            return await self.admin.add_user(localpart, known=True)
        reason = "the name is taken or reserved on the homeserver, and the service does not know its user"
        raise Refused(Refusal.BAD_LOCALPART, "The homeserver does not accept this user name", reason=reason)

    async def open(self, wanted: Wanted) -> Reply:
        """Return an answer as a homeserver gives it."""
        user = await self.admin.find_user(wanted.localpart)
        if user is None:
            raise UnknownUser(Reply(404, [], b""))
        _check_open(user)
        device_id = wanted.request.device_id or "".join(
            secrets.choice(_DEVICE_CHARACTERS) for _ in range(_DEVICE_LENGTH)
        )
        name = wanted.request.initial_device_display_name or _NAME
        reply = await self.admin.open_session(user, name, device_id, self.expires_in)
        if reply.status == 404:
            raise UnknownUser(Reply(404, [], b""))
        if reply.status == 410:
            raise _deactivated()
        session_id, token = opened(reply)
        expires_at = int(self.now()) + self.expires_in if self.expires_in else None
        session = PersonalSession(session_id, wanted.localpart, device_id, token_digest(token), expires_at)
        await self.keep(session, token, wanted.request.initial_device_display_name)
        return self._answer(session, token)

    async def end_all(self, localpart: str) -> bool:
        """End the sessions of every kind there."""
        return await self.admin.end_all(localpart)

    async def check_ready(self) -> None:
        """Ask the service for a user, and the homeserver."""
        await self.admin.find_user(_PROBE)
        await check_ready(self.homeserver, needs_as_token=False)

    async def misfit(self) -> str:
        """Say so where the admin API does not let us in, or the homeserver's address does not lead to its login."""
        try:
            await self.admin.find_user(_PROBE)
        except Refused as refused:
            if refused.refusal is not Refusal.HOMESERVER_REFUSES_GATEWAY:
                raise
            return refused.reason
        flows, told = await self.homeserver.login_flows()
        if told:
            return f"GET /login at [homeserver] url is {told}: {_HINT_SPLIT}"
        if not is_delegated(flows):
            return f"GET /login at [homeserver] url is not that of {NAME}: {_HINT_SPLIT}"
        for target in _METADATA:
            if (await self.homeserver.ask(target)).status != 404:
                return ""
        return f"the homeserver does not leave login to {NAME}: {_HINT_DELEGATE}"

    def _answer(self, session: PersonalSession, token: str) -> Reply:
        members: dict[str, Any] = {
            "user_id": self.homeserver.user_id(session.localpart),
            "access_token": token,
            "home_server": self.homeserver.server_name,
            "device_id": session.device_id,
        }
        if self.expires_in:
            members["expires_in_ms"] = self.expires_in * 1000
        return Reply(200, [(b"Content-Type", b"application/json")], json.dumps(members).encode())


def _check_open(user: MasUser) -> None:
    if user.deactivated:
        raise _deactivated()
    if user.locked:
        raise Refused(Refusal.ACCOUNT_LOCKED, reason=f"locked in {NAME}")


def _deactivated() -> Refused:
    return Refused(Refusal.ACCOUNT_DEACTIVATED, reason=f"deactivated in {NAME}")
