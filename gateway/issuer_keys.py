"""Where the keys of an issuer come from. Whoever holds a token asks `for_token`, which may wait for them.

With `wait=False` it gives what is at hand, also where that can't verify the token.
"""

from dataclasses import dataclass
from typing import Any

from gateway.core.keys import KeySet


@dataclass(frozen=True, slots=True)
class FixedKeys:
    """Keys of the configuration and its files, the same until the next reload."""

    key_set: KeySet

    async def for_token(self, header: dict[str, Any], *, wait: bool = True) -> KeySet:  # noqa: ARG002 - always the same
        """Return the keys that may verify a token with that header."""
        return self.key_set
