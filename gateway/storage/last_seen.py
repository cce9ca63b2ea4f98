"""Who logged in when, written many at a time: a commit for each login would cost more than the login itself.

Kept in memory for a second at most; a crash in that second loses a `last_seen_at`, and nothing else.
"""

import asyncio
from contextlib import suppress
from typing import Final

from gateway.storage.accounts import Accounts
from gateway.tasks import Background

_INTERVAL: Final = 1  # seconds


class LastSeen:
    """Collects the moments of logins and writes them beside the requests."""

    def __init__(self, accounts: Accounts, background: Background) -> None:
        self._accounts = accounts
        self._background = background
        self._moments: dict[str, int] = {}
        self._stopping = asyncio.Event()

    def note(self, localpart: str, now: float) -> None:
        """Note that the user logged in at `now` (seconds since the epoch)."""
        if not self._moments:
            self._background.leave(self._write(), "last_seen")
        self._moments[localpart] = int(now)

    def hurry(self) -> None:
        """Write without waiting for more: the gateway stops."""
        self._stopping.set()

    async def _write(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), _INTERVAL)
        moments, self._moments = self._moments, {}
        await self._accounts.saw(moments)
