"""What is kept of a session that Matrix Authentication Service opened for us: enough to end it, and no token."""

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

# A device in a scope: what a scope may be made of (RFC 6749 3.3); Synapse fails at more than 255.
_DEVICE_ID: Final = re.compile(r"[!#-\[\]-~]{1,255}")
# With it the service's personal access tokens begin.
_TOKEN_PREFIX: Final = "mpt_"  # noqa: S105 - it is no secret


@dataclass(frozen=True, slots=True)
class PersonalSession:
    """A session: its id there, whose and which device's it is, and the digest of its token.

    `expires_at` is in seconds since the epoch, None for one that does not end by itself.
    """

    session_id: str
    localpart: str
    device_id: str
    token_digest: str
    expires_at: int | None = None

    def is_older_than(self, other: "PersonalSession") -> bool:
        """Say which of two was opened first: the ids are ULIDs, which sort by time."""
        return self.session_id < other.session_id


def fits_scope(device_id: str) -> bool:
    """Say whether a device of this id can have a session."""
    return _DEVICE_ID.fullmatch(device_id) is not None


def may_be_personal(token: str) -> bool:
    """Say whether this may be the token of such a session; any other is the homeserver's business."""
    return token.startswith(_TOKEN_PREFIX)


def token_digest(token: str) -> str:
    """Return what stands for a token in the database. Tokens are random, so that a plain hash hides them."""
    return sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
