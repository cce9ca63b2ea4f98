"""How one homeserver differs from the others: the answers that the gateway has to live with, software by software.

Seen on real ones: Synapse 1.163 and 1.98, Dendrite 0.13.8, Palpo of August 2026, tuwunel 1.4.6. Those of continuwuity
and Conduit were read in their sources.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

Refusal = tuple[int, str]

_ANY = re.compile(r".*", re.DOTALL)
GRAMMAR = re.compile(r"[0-9a-z_\-+=./]+")
_FAILED = (500, "M_UNKNOWN", "Internal server error")
_NOT_DIGITS = re.compile(r"(?![0-9]+$)[0-9a-z_\-+=./]+")


@dataclass(frozen=True)
class Flavour:
    """One software. A refusal of None is none: a session comes about.

    `bad_token` and `outside_namespace` are of the login; `register_` ones of the registration. `unknown_user` of
    (599, "") breaks the connection off. `ends_old`: a device's new session ends the one before.
    `reserved` is what /register/available says of a name in another application service's exclusive namespace, None
    where it says nothing while registration is off, and /register itself refuses such a name. `devices` are those of
    whoami, with the as_token alone and in a user's name.
    """

    name: str
    unknown_user: Refusal | None
    unknown_error: str = "refused"
    no_profile: Refusal | None = (404, "M_NOT_FOUND")
    reserved: tuple[int, str, str] | None = (400, "M_EXCLUSIVE", "Username is reserved.")
    own_localparts: frozenset[str] = frozenset()
    devices: tuple[str | None, str | None] = (None, None)
    leaves_devices: bool = False
    tells_guests: bool = False
    guests_log_out: bool = True
    max_user_id: int = 255
    told_by: str = "/_matrix/federation/v1/version"
    names: re.Pattern[str] = GRAMMAR
    # Whoami of the as_token, before there is an account of the sender's; and in the name of nobody.
    no_sender: Refusal | None = None
    whoami_nobody: Refusal = (403, "M_FORBIDDEN")
    whoami_makes_users: bool = False
    whoami_knows_all: bool = False
    hides_empty_profiles: bool = False
    names_by_localpart: bool = False
    needs_password: bool = False
    needs_from_appservice: bool = False
    deactivated: Refusal | None = (403, "M_USER_DEACTIVATED")
    locked: Refusal | None = (401, "M_USER_LOCKED")
    register_bad_token: Refusal = (401, "M_UNKNOWN_TOKEN")
    bad_token: Refusal = (401, "M_UNKNOWN_TOKEN")
    outside_namespace: Refusal = (400, "M_EXCLUSIVE")
    outside_error: str = "refused"
    checks_login_names: bool = False
    folds_login_names: bool = False
    ends_old: bool = True
    # None: with a token that dies before the access token does.
    refreshes: bool | None = False
    has_jwt: bool = False
    # Whether GET /login names the JWT login; None: where there is one.
    lists_jwt: bool | None = None
    # What it says of a token without such a login, of one that it does not take, and of one that is nobody's.
    no_jwt: tuple[int, str, str] = (400, "M_UNKNOWN", "Unknown login type")
    refused_jwt: tuple[int, str, str] = (403, "M_FORBIDDEN", "JWT validation failed: Signature verification failed")
    nobodys_jwt: tuple[int, str, str] = (403, "M_FORBIDDEN", "Invalid JWT")
    has_login: bool = True
    # What calls are answered while its database is away (seen on Synapse, Dendrite, Palpo); "asserted": whoami in a
    # user's name.
    down: Mapping[str, tuple[int, str, str]] = field(
        default_factory=lambda: dict.fromkeys(("register", "login", "profile", "available"), _FAILED), hash=False
    )


SYNAPSE = Flavour(
    "Synapse",
    (404, "M_UNKNOWN"),
    no_profile=(404, "M_UNKNOWN"),
    names=_ANY,
    tells_guests=True,
    guests_log_out=False,
    hides_empty_profiles=True,
    reserved=None,
    names_by_localpart=True,
    down=dict.fromkeys(("register", "login", "profile"), _FAILED),  # it knows application services by heart
    outside_namespace=(403, "M_FORBIDDEN"),
    ends_old=False,
    refreshes=True,
    has_jwt=True,
)
# 1.98 opens sessions for locked users, and refuses their tokens then.
OLD_SYNAPSE = replace(SYNAPSE, no_profile=(404, "M_NOT_FOUND"), locked=None)
DENDRITE = Flavour(
    "Dendrite",
    None,
    names=_NOT_DIGITS,
    reserved=(400, "M_USER_IN_USE", "Username is reserved by an application service"),
    devices=("_login_gateway", "AS_Device"),
    checks_login_names=True,
    deactivated=None,
    locked=None,
    max_user_id=254,
    down={
        **dict.fromkeys(("login", "available"), _FAILED),
        "whoami": (500, "", ""),
        "asserted": (403, "M_FORBIDDEN", "Forbidden: appservice has not registered this user"),
        "profile": (404, "M_NOT_FOUND", "The user does not exist or does not have a profile"),
    },
)
TUWUNEL = Flavour(
    "Tuwunel",
    (400, "M_INVALID_PARAM"),
    needs_password=True,
    own_localparts=frozenset(("conduit",)),
    tells_guests=True,
    no_sender=(404, "M_NOT_FOUND"),
    whoami_nobody=(404, "M_NOT_FOUND"),
    told_by="/_tuwunel/server_version",
    deactivated=None,
    refreshes=True,
    has_jwt=True,
    lists_jwt=True,
    no_jwt=(401, "M_UNAUTHORIZED", "M_UNAUTHORIZED: JWT login is not enabled."),
    refused_jwt=(403, "M_FORBIDDEN", "M_FORBIDDEN: Invalid JWT token: InvalidSignature"),
    nobodys_jwt=(403, "M_FORBIDDEN", "M_FORBIDDEN: Invalid JWT token: JSON error: missing field `sub`"),
)
CONTINUWUITY = Flavour(
    "continuwuity",
    (404, "M_NOT_FOUND"),
    whoami_knows_all=True,
    locked=None,
    register_bad_token=(403, "M_FORBIDDEN"),
    bad_token=(401, "M_UNAUTHORIZED"),
)
CONDUIT = Flavour(
    "Conduit",
    (599, ""),
    whoami_knows_all=True,
    needs_password=True,
    deactivated=None,
    locked=None,
    register_bad_token=(401, "M_MISSING_TOKEN"),
    bad_token=(401, "M_MISSING_TOKEN"),
)
PALPO = Flavour(
    "Palpo",
    (403, "M_FORBIDDEN"),
    unknown_error="User not found.",
    no_profile=None,
    own_localparts=frozenset(("palpo",)),
    devices=("_", "appservice"),
    leaves_devices=True,
    told_by="/_matrix/client/versions",
    whoami_makes_users=True,
    needs_from_appservice=True,
    locked=(403, "M_USER_LOCKED"),
    register_bad_token=(401, "M_MISSING_TOKEN"),
    bad_token=(403, "M_FORBIDDEN"),
    outside_namespace=(403, "M_FORBIDDEN"),
    outside_error="User is not in appservice's namespace",
    folds_login_names=True,
    refreshes=None,
    down={
        **dict.fromkeys(("register", "login"), (400, "M_UNKNOWN", "unknown data error happened")),
        "whoami": (400, "M_UNKNOWN", "Internal server error during authentication"),
        "available": (502, "M_UNKNOWN", "pool: `Error occurred while creating a new object`"),
        "profile": (502, "M_UNKNOWN", "pool: `Error occurred while creating a new object`"),
    },
    has_jwt=True,
    lists_jwt=False,
    no_jwt=(400, "M_UNKNOWN", "JWT login is not enabled."),
    refused_jwt=(404, "M_NOT_FOUND", "invalid JWT token: InvalidSignature"),
    nobodys_jwt=(404, "M_NOT_FOUND", "invalid JWT token: JSON error: missing field `sub` at line 1 column 34"),
)
FLAVOURS = (SYNAPSE, DENDRITE, TUWUNEL, CONTINUWUITY, CONDUIT, PALPO)

# Synapse that has left login to Matrix Authentication Service.
BEHIND_MAS = Flavour(
    "Synapse", (404, "M_UNRECOGNIZED"), no_profile=(404, "M_UNKNOWN"), hides_empty_profiles=True, has_login=False
)
