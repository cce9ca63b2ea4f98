"""The few Matrix calls that the gateway makes itself, as the application service, and what their answers mean.

Answers are told apart by errcode, not by status: homeservers agree on hardly any status (client-server specification,
'Application service extensions').
"""

import asyncio
import json
import secrets
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import quote

from pydantic import AfterValidator

from gateway.core.avatars import is_mxc
from gateway.core.headers import Field
from gateway.core.identity import check_server_name
from gateway.errors import Refusal, Refused
from gateway.upstream.pool import NotConnected, Pool, PoolSettings, Reply

# Where the account itself is the reason, the homeserver's own answer goes to the client.
OWN_ANSWERS: Final = frozenset(
    (
        "M_USER_DEACTIVATED",
        "M_USER_LOCKED",
        "ORG_MATRIX_MSC3939_USER_LOCKED",  # as Synapse 1.98 says it
        "M_USER_SUSPENDED",
        "M_RESOURCE_LIMIT_EXCEEDED",
        "M_LIMIT_EXCEEDED",
        "M_USER_AWAITING_APPROVAL",
        "ORG.MATRIX.MSC3866.USER_AWAITING_APPROVAL",
    )
)
# Software that answers `whoami?user_id=` truly for a user that is not there. Others answer 200, or make the user.
_TRUE_WHOAMI: Final = frozenset(("Synapse", "Dendrite"))
# How long a failed registration may be looked into, in seconds.
_SECOND_LOOK: Final = 10


class HomeserverSettings(PoolSettings):
    """The `[homeserver]` table."""

    server_name: Annotated[str, AfterValidator(check_server_name)]


class HomeserverAnswered(Exception):
    """The homeserver refuses this user for a reason of its own; its answer goes to the client as it is."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.status = reply.status
        super().__init__(f"{reply.status} {reply.errcode}")


class MaybeMade(Refused):
    """It is not known whether the account was made: no answer came, or one that leaves it open."""


@dataclass(frozen=True, slots=True)
class Homeserver:
    """The homeserver as the application service `as_token` sees it, or as anybody does where that is "".

    Every call may raise `Refused`.
    """

    pool: Pool
    server_name: str
    as_token: str

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

        `repeat`: it may reach the homeserver twice without harm.
        """
        octets = json.dumps(body).encode() if body is not None else b""
        fields = [*self._fields("application/json"), *client]
        return await self.pool.call(method, target, fields, octets, repeat=repeat)

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

    async def flows(self) -> tuple[list[str], str]:
        """Return the types of login that the homeserver offers, and why there is none at all, "" when there is."""
        reply = await self.ask("/_matrix/client/v3/login")
        flows = reply.json().get("flows")
        if reply.status == 200 and isinstance(flows, list):
            return [str(flow.get("type")) for flow in flows if isinstance(flow, dict)], ""
        if reply.status >= 500:
            raise classified(reply, "ask for its login")
        told = f"{reply.status} {reply.errcode}".strip()
        return [], f"the homeserver has no login of its own ({told}), as behind Matrix Authentication Service"

    def check_session(self, reply: Reply, localpart: str) -> None:
        """Refuse a session that is not this user's."""
        expected = self.user_id(localpart)
        if reply.json().get("user_id") != expected:
            raise Refused(
                Refusal.HOMESERVER_REFUSES_GATEWAY,
                reason=f"the session is not for {expected}: server_name must be the homeserver's own",
            )

    async def register(self, localpart: str) -> bool:
        """Make the account, False when it is there already; may be repeated.

        Raises `MaybeMade`; after any other exception the account was not made.
        """
        try:
            reply = await self._ask_to_register(localpart)
        except NotConnected:
            raise
        except Refused as refused:
            raise MaybeMade(refused.refusal, reason=refused.reason) from refused
        user_id = self.user_id(localpart)
        if reply.status == 200 and reply.json().get("user_id") != user_id:
            raise MaybeMade(
                Refusal.HOMESERVER_REFUSES_GATEWAY,
                reason=f"the account made is not {user_id}: server_name must be the homeserver's own",
            )
        if reply.status == 200 or reply.errcode == "M_USER_IN_USE":
            return reply.status == 200
        meant = classified(reply, "register the user")
        if isinstance(meant, Refused) and reply.status >= 500 and not await self._surely_lacks(user_id, reply):
            raise MaybeMade(meant.refusal, reason=meant.reason)
        raise meant

    async def _ask_to_register(self, localpart: str) -> Reply:
        return await self.call(
            "POST",
            # Palpo lets an application service past `allow_registration = false` only with this parameter.
            "/_matrix/client/v3/register?from_appservice=true",
            {
                "type": "m.login.application_service",
                "username": localpart,
                "inhibit_login": True,
                # Without a password tuwunel and Conduit take the account for a guest's; nobody ever learns it.
                "password": secrets.token_urlsafe(32),
            },
            repeat=False,  # or "in use" could be the answer to what the first sending made
        )

    async def _surely_lacks(self, user_id: str, failure: Reply) -> bool:
        """Say whether a registration that failed so made no account, nor will make it yet."""
        # 502 and 504 come from a proxy or a worker between, and the registration may still go on.
        if failure.status != 500 or not failure.errcode:
            return False
        try:
            async with asyncio.timeout(_SECOND_LOOK):
                return not await self.exists(user_id)
        except (Refused, HomeserverAnswered, TimeoutError):
            return False

    async def exists(self, user_id: str) -> bool:
        """Say whether the homeserver has this user, by questions that make no account on any homeserver."""
        quoted = quote(user_id, safe="")
        profile = await self.call("GET", f"/_matrix/client/v3/profile/{quoted}")
        if profile.status == 200:
            return True
        # Synapse answers 404 also for a user whose profile is empty.
        if self.as_token and await self.software() in _TRUE_WHOAMI:
            whoami = await self.call("GET", f"/_matrix/client/v3/account/whoami?user_id={quoted}")
            if whoami.status == 200:
                return True
            if whoami.errcode == "M_FORBIDDEN":
                return False
            raise classified(whoami, "ask for the user")
        if profile.status == 404:
            return False
        raise classified(profile, "ask for the user")

    async def accepts(self, token: str) -> bool:
        """Say whether an access token of a client is good."""
        bearer = (b"Authorization", f"Bearer {token}".encode())
        reply = await self.pool.call("GET", "/_matrix/client/v3/account/whoami", [self.pool.host, bearer])
        if reply.status >= 500:
            raise classified(reply, "ask for the session")
        return reply.status == 200 or reply.errcode != "M_UNKNOWN_TOKEN"  # as of a locked user

    async def set_display_name(self, user_id: str, name: str) -> None:
        """Set the display name of a user."""
        quoted = quote(user_id, safe="")
        await self._set_profile(quoted, "displayname", {"displayname": name})

    async def set_avatar(self, user_id: str, mxc: str) -> None:
        """Set the avatar of a user to content that the media repository has (`mxc://`)."""
        quoted = quote(user_id, safe="")
        await self._set_profile(quoted, "avatar_url", {"avatar_url": mxc})

    async def upload(self, user_id: str, media_type: str, octets: bytes) -> str:
        """Put a user's content into the media repository and return its name (`mxc://`)."""
        target = f"/_matrix/media/v3/upload?user_id={quote(user_id, safe='')}"
        reply = await self.pool.call("POST", target, self._fields(media_type), octets)
        if reply.status != 200:
            raise classified(reply, "upload the avatar")
        mxc = reply.json().get("content_uri")
        if not isinstance(mxc, str) or not is_mxc(mxc):
            raise Refused(Refusal.HOMESERVER_UNREACHABLE, reason="the homeserver took the avatar but named nothing")
        return mxc

    async def _set_profile(self, quoted: str, key: str, body: dict[str, Any]) -> None:
        reply = await self.call("PUT", f"/_matrix/client/v3/profile/{quoted}/{key}?user_id={quoted}", body)
        if reply.status != 200:
            raise classified(reply, f"set the {key}")

    async def software(self) -> str:
        """Return the name of the software, "" where the homeserver does not say."""
        reply = await self.ask("/_matrix/federation/v1/version")
        server = reply.json().get("server")
        name = server.get("name") if isinstance(server, dict) else None
        return name if isinstance(name, str) else ""


def classified(reply: Reply, doing: str, hint: str = "") -> HomeserverAnswered | Refused:
    """Return what a refusal of the homeserver means: for the user, for the operator, or for nobody yet.

    `hint` says what an operator can do, where the `as_token` has no part in it.
    """
    if reply.errcode in OWN_ANSWERS:
        return HomeserverAnswered(reply)
    if reply.errcode == "M_INVALID_USERNAME":
        return Refused(Refusal.BAD_LOCALPART, "The homeserver does not accept this user name")
    if reply.status >= 500:
        return Refused(
            Refusal.HOMESERVER_UNREACHABLE,
            reason=f"could not {doing}: the homeserver failed with {reply.status} {reply.errcode}",
        )
    hint = hint or _HINTS.get(reply.errcode.removeprefix("IO.ELEMENT.MSC4190."), _HINT_FORBIDDEN)
    return Refused(
        Refusal.HOMESERVER_REFUSES_GATEWAY,
        reason=f"could not {doing}: the homeserver answered {reply.status} {reply.errcode}; {hint}",
    )


_HINT_TOKEN: Final = (
    "it does not know the as_token: put the output of `matrix-login-gateway registration` into its registration"  # noqa: S105
    " file and restart it"
)
_HINT_NAMESPACE: Final = (
    "the user is outside the namespace of the registration: its regex must cover every user of the server"
)
_HINT_FORBIDDEN: Final = "check as_token and regex in the registration file, and server_name in gateway.toml"
_HINT_NO_LOGIN: Final = (
    "it has no login for application services (as behind Matrix Authentication Service);"
    ' method = "appservice" can\'t work there, [session] method = "mas" can'
)
_HINT_SIZE: Final = "it takes no body of this size: set [profile] avatar_max_bytes below the size that it allows"
_HINTS: Final = {
    "M_TOO_LARGE": _HINT_SIZE,
    "M_UNKNOWN_TOKEN": _HINT_TOKEN,
    "M_MISSING_TOKEN": _HINT_TOKEN,
    "M_UNAUTHORIZED": _HINT_TOKEN,
    "M_EXCLUSIVE": _HINT_NAMESPACE,
    "M_UNRECOGNIZED": _HINT_NO_LOGIN,
    "M_APPSERVICE_LOGIN_UNSUPPORTED": _HINT_NO_LOGIN,
}
