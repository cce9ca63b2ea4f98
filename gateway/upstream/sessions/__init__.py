"""The ways to get an ordinary session for a verified user, one file each, and what they have in common.

Rule: a call that may have opened a session is never made twice; what it may have done is said by `MaybeMade`.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Literal, Protocol

from pydantic import Field as Setting
from pydantic import field_validator

from gateway.core.headers import Field
from gateway.core.homeserver_kinds import HomeserverKind
from gateway.core.login_request import LoginRequest
from gateway.errors import Refused
from gateway.settings import Table
from gateway.upstream.pool import Reply, parse_address

# Claims that a token signed for the homeserver has anyway.
_TAKEN_CLAIMS: Final = frozenset(("iss", "aud", "iat", "nbf", "exp", "jti"))


class SessionSettings(Table):
    """The `[session]` table: which way, and what it needs. `mas_expires_in` is in seconds, 0: sessions don't end."""

    method: Literal["appservice", "jwt", "mas"] = "appservice"
    as_token: str | None = Setting(None, repr=False)
    as_token_file: str | None = None
    jwt_secret: str | None = Setting(None, repr=False)
    jwt_secret_file: str | None = None
    jwt_algorithm: Literal["HS256", "HS384", "HS512"] = "HS256"
    jwt_issuer: str | None = None
    jwt_audience: str | None = None
    jwt_subject_claim: str = "sub"
    jwt_display_name_claim: str | None = None
    mas_url: str | None = None
    mas_oauth_url: str | None = None
    mas_client_id: str | None = None
    mas_client_secret: str | None = Setting(None, repr=False)
    mas_client_secret_file: str | None = None
    mas_expires_in: int = Setting(0, ge=0, le=2**31)

    @field_validator("jwt_subject_claim", "jwt_display_name_claim")
    @classmethod
    def _free(cls, value: str | None) -> str | None:
        if value in _TAKEN_CLAIMS:
            raise ValueError(f"the token has {value} for something else")
        return value

    @field_validator("mas_url", "mas_oauth_url")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None:
            parse_address(value)
        return value


@dataclass(frozen=True, slots=True)
class Wanted:
    """The session that a login asks for; `client` are fields that say who asks.

    `may_make`: where the homeserver makes accounts itself, it may make this one. `fresh`: this login has made it, so
    that it is there, and not deactivated.
    """

    localpart: str
    request: LoginRequest
    display_name: str | None = None
    client: tuple[Field, ...] = ()
    may_make: bool = True
    fresh: bool = False

    def is_sure(self, kind: HomeserverKind) -> bool:
        """Say whether a session can't be that of nobody, of a guest, or of a user who is deactivated."""
        # Synapse names its guests by digits, and only a session tells who is one.
        return self.fresh or not (kind.checks_sessions or self.localpart.isdigit())

    def on_device(self, device_id: str) -> "Wanted":
        """Return the same session on a certain device, or itself where that is ""."""
        return replace(self, request=replace(self.request, device_id=device_id)) if device_id else self

    def fields(self, kind: HomeserverKind) -> dict[str, Any]:
        """Return what the client said of its session, as members of a Matrix login; what it left out is absent.

        So is a refresh token where it would do harm.
        """
        names = ("device_id", "initial_device_display_name", *(("refresh_token",) if kind.refreshes else ()))
        said = {name: getattr(self.request, name) for name in names}
        return {name: value for name, value in said.items() if value is not None}


class UnknownUser(Exception):
    """The homeserver does not have this user (any more); `doubtful` when it may not like a field of the login.

    `device_id`: the device of the session that it has opened for nobody, "" where it opened none.
    """

    def __init__(self, reply: Reply, device_id: str = "") -> None:
        self.reply = reply
        self.device_id = device_id
        self.doubtful = reply.errcode == "M_INVALID_PARAM"
        super().__init__(f"{reply.status} {reply.errcode}")


class MadeMeanwhile(Refused):
    """Somebody else made the account at the same moment; there is no session, and the next login finds it."""


class SessionMethod(Protocol):
    """A way to accounts and sessions. Whatever awaits raises `Refused` where the other server can't or won't."""

    # Whether it is the opening of a session that makes the account; else `register` makes it.
    makes_accounts: ClassVar[bool]

    def check(self, request: LoginRequest) -> None:
        """Refuse a login that asks for what can't be had in this way."""

    async def exists(self, localpart: str) -> bool:
        """Say whether there is such a user; makes none."""

    async def check_name(self, localpart: str, *, exists: bool) -> None:
        """Refuse a name that is not for people, before somebody gets it who did not have it.

        `exists`: there is such a user, so that it will not be registered.
        """

    async def register(self, localpart: str, client: tuple[Field, ...] = (), *, known: bool = False) -> bool:
        """Make the account, False when it is there already; may be repeated. `client`: who asks, as in `Wanted`.

        `known`: the name is in our database, so that an account which another server has by it is ours.

        Where opening a session makes it, say whether it would. Raises `MaybeMade`; after any other exception the
        account was not made.
        """

    async def open(self, wanted: Wanted) -> Reply:
        """Return the answer with the session, as a homeserver gives it.

        Raises `UnknownUser`, `HomeserverAnswered` for a refusal that is the user's, `Refused` for any other; where it
        makes the account, also `MadeMeanwhile` and `MaybeMade`.
        """

    async def end_all(self, localpart: str) -> bool:
        """End every session of a user, False when there is no such user; raises also when one may go on."""

    async def check_ready(self) -> None:
        """Ask for what a login needs, and make nothing; raises `Refused` or `HomeserverAnswered` where it lacks."""

    async def misfit(self) -> str:
        """Say why this can't work before this homeserver, "" when nothing speaks against it; leaves no trace."""
