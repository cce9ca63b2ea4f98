"""Rate limits of a Synapse that is tested or measured, so high that neither meets them."""

from collections.abc import Mapping
from typing import Any

_MANY = {"per_second": 100_000, "burst_count": 100_000}

# For `SynapseSettings.extra`.
RATE_LIMITS_OFF: Mapping[str, Any] = {
    "rc_message": _MANY,
    "rc_registration": _MANY,
    "rc_login": {"address": _MANY, "account": _MANY, "failed_attempts": _MANY},
    "rc_joins": {"local": _MANY, "remote": _MANY},
    "rc_invites": {"per_room": _MANY, "per_user": _MANY, "per_issuer": _MANY},
    "rc_media_create": _MANY,
    "rc_presence": {"per_user": _MANY},
}
