"""What a refusal of the homeserver means: for the user, for the operator, or for nobody yet.

Answers are told apart by errcode, not by status: homeservers agree on hardly any status (client-server specification,
'Application service extensions').
"""

from typing import Final

from gateway.core.homeserver_kinds import HomeserverKind
from gateway.errors import Refusal, Refused
from gateway.upstream.pool import Reply

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


# (status, errcode) of a login of a user who is not there: Synapse; continuwuity; tuwunel.
_UNKNOWN_USER: Final = frozenset(((404, "M_UNKNOWN"), (404, "M_NOT_FOUND"), (400, "M_INVALID_PARAM")))

# What Palpo says with 400 M_UNKNOWN while its database is away.
_FAILURES: Final = frozenset(("unknown data error happened", "Internal server error during authentication"))


class HomeserverAnswered(Exception):
    """The homeserver refuses this user for a reason of its own; its answer goes to the client as it is."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.status = reply.status
        super().__init__(f"{reply.status} {reply.errcode}")


class NothingDone(Refused):
    """The other server failed, and has taken back whatever it had begun."""


class MaybeMade(Refused):
    """It is not known whether the account was made: no answer came, or one that leaves it open."""


def is_unknown_user(reply: Reply, kind: HomeserverKind) -> bool:
    """Say whether a login was refused because there is no such user."""
    said = (reply.status, reply.errcode) in _UNKNOWN_USER
    return said or bool(kind.lost_user and (reply.status, reply.error) == (403, kind.lost_user))


def classified(reply: Reply, doing: str, hint: str = "") -> HomeserverAnswered | Refused:
    """Return what a refusal of the homeserver means: for the user, for the operator, or for nobody yet.

    `hint` says what an operator can do, where the `as_token` has no part in it.
    """
    if reply.errcode in OWN_ANSWERS:
        return HomeserverAnswered(reply)
    # The latter where the name is among tuwunel's `forbidden_usernames`.
    if reply.errcode == "M_INVALID_USERNAME" or reply.error.endswith("Username is forbidden"):
        return Refused(Refusal.BAD_LOCALPART, "The homeserver does not accept this user name")
    if reply.status >= 500 or reply.error in _FAILURES:
        return Refused(
            Refusal.HOMESERVER_UNREACHABLE,
            reason=f"could not {doing}: the homeserver failed with {reply.told}",
        )
    hint = hint or _HINTS.get(reply.errcode.removeprefix("IO.ELEMENT.MSC4190."), _HINT_FORBIDDEN)
    return Refused(
        Refusal.HOMESERVER_REFUSES_GATEWAY,
        reason=f"could not {doing}: the homeserver answered {reply.told}; {hint}",
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
