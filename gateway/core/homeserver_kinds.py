"""What each kind of homeserver does in its own way, as it was seen: data for logins, `doctor` and the manual.

The rule of this file: the defaults are the careful way, for software that nobody has tried. What can be asked of the
homeserver itself is asked; here stands what it does not tell.
"""

import enum
from dataclasses import dataclass
from typing import Final


class Existence(enum.Enum):
    """A question that tells whether a user exists, and makes none where it is asked."""

    # GET /profile/{userId}: 404 for nobody.
    PROFILE = enum.auto()
    # The same, and GET /account/whoami?user_id= where it says nobody: a profile may be empty. 403 for nobody. Without
    # an as_token the profile alone has to do.
    WHOAMI = enum.auto()
    # GET /register/available?username=: 200 for nobody.
    AVAILABLE = enum.auto()


class Availability(enum.Enum):
    """What a homeserver says of a name that somebody wants to register."""

    FREE = enum.auto()
    TAKEN = enum.auto()
    # In the exclusive namespace of an application service.
    RESERVED = enum.auto()
    # It does not say, as where registration is off.
    UNTOLD = enum.auto()


class Probe(enum.Enum):
    """A name that nobody has, and by which no session or account comes about."""

    # A user who does not exist: the homeserver says so.
    UNKNOWN = enum.auto()
    # What can't be the name of a user, where a session is opened for one who does not exist.
    INVALID = enum.auto()
    # No name: nobody has tried.
    NONE = enum.auto()


@dataclass(frozen=True, slots=True)
class HomeserverKind:
    """One software, or any other."""

    name: str = ""
    # The questions that may be asked, the best first.
    existence: tuple[Existence, ...] = (Existence.PROFILE, Existence.AVAILABLE)
    # Only /register/available tells which names are an application service's; /register takes them, as /login does.
    checks_names: bool = True
    # It says of a user who exists, too, that the name is an application service's.
    tells_ghosts: bool = False
    # A session may be a deactivated user's, or of a user who is not there; only its own whoami tells.
    checks_sessions: bool = True
    # Users who are deactivated there get sessions that work, and nothing that can be asked tells who is one.
    hides_deactivated: bool = False
    # Without its database it says of everybody that there is no such user; its own whoami fails then.
    forgets_users: bool = False
    # The text, beside the errcodes of others, by which a login says that there is no such user.
    lost_user: str = ""
    # Of two logins of one device at once, one fails with 500, and not when it is made again.
    repeats_logins: bool = False
    # Each call in a user's name leaves that user a device.
    leaves_devices: bool = False
    # Accounts of the homeserver itself, which are worth more than a person's.
    own_localparts: frozenset[str] = frozenset()
    max_user_id_bytes: int = 255
    # A refresh token lasts; where it dies before the access token does, a client that has one is logged out.
    refreshes: bool = True
    # GET /login tells whether there is a JWT login of its own; else what it says of a token that is none.
    lists_jwt_login: bool = True
    # Which name `doctor` may log in by as application service so that nothing comes of it.
    probe: Probe = Probe.NONE
    # Paths are matched as they come: another spelling of a path is another path.
    keeps_paths: bool = False
    # Paths are matched decoded, without empty segments.
    cleans_paths: bool = False
    # What stands behind a `#` is left out, which a request target does not have (RFC 9112 3.2).
    cuts_fragments: bool = False


_WHOAMI: Final = (Existence.WHOAMI,)
_CONDUIT: Final = frozenset(("conduit",))

SYNAPSE: Final = HomeserverKind(
    "Synapse",
    _WHOAMI,
    checks_names=False,
    tells_ghosts=True,
    checks_sessions=False,
    probe=Probe.UNKNOWN,
    keeps_paths=True,
)
DENDRITE: Final = HomeserverKind(
    "Dendrite",
    _WHOAMI,
    tells_ghosts=True,
    hides_deactivated=True,
    forgets_users=True,
    repeats_logins=True,
    max_user_id_bytes=254,
    probe=Probe.INVALID,
    keeps_paths=True,
)
PALPO: Final = HomeserverKind(
    "Palpo",
    (Existence.AVAILABLE,),
    checks_sessions=False,
    lost_user="User not found.",
    repeats_logins=True,
    lists_jwt_login=False,  # never
    leaves_devices=True,
    own_localparts=frozenset(("palpo",)),
    cleans_paths=True,
    cuts_fragments=True,
    refreshes=False,  # 120 s, unless `refresh_token_ttl` says more
    probe=Probe.UNKNOWN,
)
TUWUNEL: Final = HomeserverKind(
    "tuwunel",
    own_localparts=_CONDUIT,
    lists_jwt_login=False,  # always, up to 1.4.6
    probe=Probe.UNKNOWN,
    keeps_paths=True,
    cuts_fragments=True,
)
CONTINUWUITY: Final = HomeserverKind("continuwuity", own_localparts=_CONDUIT, probe=Probe.UNKNOWN)
CONDUIT: Final = HomeserverKind("Conduit", own_localparts=_CONDUIT)
_KINDS: Final = (SYNAPSE, DENDRITE, PALPO, TUWUNEL, CONTINUWUITY, CONDUIT)


def kind_named(name: str) -> HomeserverKind:
    """Return the kind of a software, by the name that it gives itself."""
    return next((kind for kind in _KINDS if kind.name.lower() == name.lower()), HomeserverKind(name))


def availability(status: int, errcode: str, error: str) -> Availability:
    """Return what an answer of `/register/available` means (client-server specification)."""
    if status == 200:
        return Availability.FREE
    if errcode == "M_EXCLUSIVE" or (errcode == "M_USER_IN_USE" and "reserved" in error):  # the latter is Dendrite's
        return Availability.RESERVED
    return Availability.TAKEN if errcode == "M_USER_IN_USE" else Availability.UNTOLD
