"""Which requests are ours: decided by method and the raw, undecoded request path, never by a cleaned one.

The homeserver matches its paths undecoded too (seen on Synapse), so a variant spelling is never a login there.
"""

import enum
from typing import Final

# A proxy answers a TRACE with what others must not see, and a CONNECT is for forward proxies (RFC 9110 9.3.6, 9.3.8).
REFUSED_METHODS: Final = frozenset(("TRACE", "CONNECT"))
LOGIN_PATHS: Final = frozenset(f"/_matrix/client/{version}/login" for version in ("v3", "r0", "unstable", "api/v1"))


class Route(enum.Enum):
    """What is done with a request."""

    RELAY = "relay"
    LOGIN = "login"
    LOGIN_FLOWS = "login_flows"


def route(method: str, target: str) -> Route:
    """Return the route of a request; `target` is its request target in origin-form (RFC 9112 3.2.1)."""
    if target.partition("?")[0] in LOGIN_PATHS:
        if method == "POST":
            return Route.LOGIN
        if method == "GET":
            return Route.LOGIN_FLOWS
    return Route.RELAY
