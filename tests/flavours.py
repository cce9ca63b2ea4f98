"""How one homeserver differs from the others: the answers that the gateway has to live with, software by software.

Read in the sources of each; of Synapse they were also seen on a real one.
"""

import re
from dataclasses import dataclass, replace

Refusal = tuple[int, str]

_ANY = re.compile(r".*", re.DOTALL)
_LOCALPART = re.compile(r"[0-9a-z_\-+=./]+")
_NOT_DIGITS = re.compile(r"(?![0-9]+$)[0-9a-z_\-+=./]+")


@dataclass(frozen=True)
class Flavour:
    """One software. A refusal of None is none: a session comes about.

    `bad_token` and `outside_namespace` are of the login; `register_` ones of the registration. `unknown_user` of
    (599, "") breaks the connection off. `ends_old`: a device's new session ends the one before.
    """

    name: str
    unknown_user: Refusal | None
    no_profile: Refusal = (404, "M_NOT_FOUND")
    names: re.Pattern[str] = _LOCALPART
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
    ends_old: bool = True
    refreshes: bool = False
    has_jwt: bool = False
    has_login: bool = True


SYNAPSE = Flavour(
    "Synapse",
    (404, "M_UNKNOWN"),
    no_profile=(404, "M_UNKNOWN"),
    names=_ANY,
    hides_empty_profiles=True,
    names_by_localpart=True,
    outside_namespace=(403, "M_FORBIDDEN"),
    ends_old=False,
    refreshes=True,
    has_jwt=True,
)
# 1.98 opens sessions for locked users, and refuses their tokens then.
OLD_SYNAPSE = replace(SYNAPSE, no_profile=(404, "M_NOT_FOUND"), locked=None)
DENDRITE = Flavour("Dendrite", None, names=_NOT_DIGITS, deactivated=None, locked=None)
TUWUNEL = Flavour(
    "Tuwunel",
    (400, "M_INVALID_PARAM"),
    whoami_knows_all=True,
    needs_password=True,
    deactivated=None,
    register_bad_token=(401, "M_MISSING_TOKEN"),
    ends_old=False,
    refreshes=True,
    has_jwt=True,
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
    whoami_makes_users=True,
    needs_from_appservice=True,
    locked=(403, "M_USER_LOCKED"),
    register_bad_token=(401, "M_MISSING_TOKEN"),
    bad_token=(403, "M_FORBIDDEN"),
    outside_namespace=(403, "M_FORBIDDEN"),
    has_jwt=True,
)
FLAVOURS = (SYNAPSE, DENDRITE, TUWUNEL, CONTINUWUITY, CONDUIT, PALPO)

# Synapse that has left login to Matrix Authentication Service.
BEHIND_MAS = Flavour(
    "Synapse", (404, "M_UNRECOGNIZED"), no_profile=(404, "M_UNKNOWN"), hides_empty_profiles=True, has_login=False
)
