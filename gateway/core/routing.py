"""Which requests are ours: decided by method and the raw, undecoded request path, never by a cleaned one.

The homeserver matches its paths undecoded too (seen on Synapse), so a variant spelling is never a login there.
"""

import enum
from typing import Final

# A proxy answers a TRACE with what others must not see, and a CONNECT is for forward proxies (RFC 9110 9.3.6, 9.3.8).
REFUSED_METHODS: Final = frozenset(("TRACE", "CONNECT"))
_VERSIONS: Final = ("v3", "r0", "unstable", "api/v1")
LOGIN_PATHS: Final = frozenset(f"/_matrix/client/{version}/login" for version in _VERSIONS)
LOGOUT_PATHS: Final = frozenset(f"/_matrix/client/{version}/logout" for version in _VERSIONS)
LOGOUT_ALL_PATHS: Final = frozenset(f"{path}/all" for path in LOGOUT_PATHS)


class Route(enum.Enum):
    """What is done with a request."""

    RELAY = "relay"
    LOGIN = "login"
    LOGIN_FLOWS = "login_flows"
    # Relayed too, unless the session is one that the homeserver can't end.
    LOGOUT = "logout"
    LOGOUT_ALL = "logout_all"


_ROUTES: Final = {
    **{("POST", path): Route.LOGIN for path in LOGIN_PATHS},
    **{("GET", path): Route.LOGIN_FLOWS for path in LOGIN_PATHS},
    **{("POST", path): Route.LOGOUT for path in LOGOUT_PATHS},
    **{("POST", path): Route.LOGOUT_ALL for path in LOGOUT_ALL_PATHS},
}


def route(method: str, target: str) -> Route:
    """Return the route of a request; `target` is its request target in origin-form (RFC 9112 3.2.1)."""
    return _ROUTES.get((method, target.partition("?")[0]), Route.RELAY)
