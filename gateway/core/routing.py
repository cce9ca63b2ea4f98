"""The paths that are ours: compared with the raw, undecoded request path, never with a cleaned one.

The homeserver matches its paths undecoded too (seen on Synapse), so a variant spelling is never a login there.
"""

from typing import Final

_VERSIONS: Final = ("v3", "r0", "unstable", "api/v1")
LOGIN_PATHS: Final = frozenset(f"/_matrix/client/{version}/login" for version in _VERSIONS)
LOGOUT_PATHS: Final = frozenset(f"/_matrix/client/{version}/logout" for version in _VERSIONS)
LOGOUT_ALL_PATHS: Final = frozenset(f"{path}/all" for path in LOGOUT_PATHS)
