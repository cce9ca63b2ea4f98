"""The paths that are ours: compared with the raw, undecoded request path, never with a cleaned one.

Homeservers match their paths undecoded too, but for some: there, another spelling of the login path is a login path.
"""

from typing import Final
from urllib.parse import unquote

from gateway.core.homeserver_kinds import HomeserverKind

_VERSIONS: Final = ("v3", "r0", "unstable", "api/v1")
LOGIN_PATHS: Final = frozenset(f"/_matrix/client/{version}/login" for version in _VERSIONS)
LOGOUT_PATHS: Final = frozenset(f"/_matrix/client/{version}/logout" for version in _VERSIONS)
LOGOUT_ALL_PATHS: Final = frozenset(f"{path}/all" for path in LOGOUT_PATHS)
# As Palpo takes them, which has no others.
_LENIENT_VERSIONS: Final = (*_VERSIONS, "v1")
_LENIENT_LOGINS: Final = frozenset(
    tuple(f"_matrix/client/{version}/login".split("/")) for version in _LENIENT_VERSIONS
)
# "login" with each letter percent-encoded; and "_matrix/client/api/v1/login".
_LONGEST_END: Final = 15
_MOST_SEGMENTS: Final = 5


def means_login(path: str, kind: HomeserverKind) -> bool:
    """Say whether a homeserver of this kind takes a path, raw and undecoded, for its login path."""
    if kind.cuts_fragments:
        path = path.partition("#")[0]
    return path in LOGIN_PATHS or (kind.cleans_paths and _means_login_cleaned(path))


def _means_login_cleaned(path: str) -> bool:
    path = path.rstrip("/")
    # Few paths end so: the rest is not looked at for the others.
    if unquote(path[-_LONGEST_END:])[-5:] != "login":
        return False
    segments = [segment for segment in path.split("/") if segment]
    return len(segments) <= _MOST_SEGMENTS and tuple(map(unquote, segments)) in _LENIENT_LOGINS
