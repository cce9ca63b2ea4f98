"""The sessions of Matrix Authentication Service that clients have from us: kept to be ended where they were made.

The homeserver can't end them, nor does the service itself by a client's `/logout`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from gateway.core.personal_sessions import PersonalSession, may_be_personal, token_digest
from gateway.errors import Refused
from gateway.logs import Logger
from gateway.storage.personal_sessions import PersonalSessions
from gateway.tasks import Background
from gateway.upstream.homeserver import Homeserver
from gateway.upstream.mas import MasAdmin


@dataclass(frozen=True, slots=True)
class KeptSessions:
    """What is open, as far as we know; `now` gives seconds since the epoch. Raises `Refused` as its parts do."""

    stored: PersonalSessions
    admin: MasAdmin
    homeserver: Homeserver
    background: Background
    now: Callable[[], float]
    log: Logger

    async def keep(self, session: PersonalSession) -> None:
        """Keep a new session; those that its device had end, beside the login.

        Client-server specification, 'Relationship between access tokens and devices'.
        """
        try:
            await self.stored.note(session)
        except (Refused, asyncio.CancelledError):
            self.background.leave(self._end_all_of([session]), "unkept_session")  # which no client will hear of
            raise
        self.background.leave(self.stored.sweep(self.now()), "personal_sessions")
        # After it was noted: of two logins at once one sees the other.
        known = await self.stored.of_device(session.localpart, session.device_id)
        older = [each for each in known if each.is_older_than(session)]
        if older:
            self.background.leave(self._end_all_of(older), "older_sessions")

    async def find(self, token: str) -> PersonalSession | None:
        """Return the session that a client's token is for, None where it is none of ours or has ended.

        The homeserver says whether it has ended: who found an old token must not end what its user has now.
        """
        session = await self.stored.find(token_digest(token)) if may_be_personal(token) else None
        if session is not None and not await self.homeserver.accepts(token):
            await self.stored.forget([session])
            return None
        return session

    async def end(self, session: PersonalSession) -> None:
        """End a session, and what else its device has: an older one whose end failed must not outlive a logout."""
        for each in await self.stored.of_device(session.localpart, session.device_id):
            await self._end_one(each)

    async def end_all(self, session: PersonalSession) -> None:
        """End every session of the user who has this one."""
        # Read before: one that is opened meanwhile must stay known.
        known = await self.stored.of_user(session.localpart)
        await self.admin.end_all(session.localpart)
        await self.stored.forget(known)

    async def _end_one(self, session: PersonalSession) -> None:
        await self.admin.revoke(session.session_id)
        await self.stored.forget([session])

    async def _end_all_of(self, sessions: list[PersonalSession]) -> None:
        for session in sessions:
            try:
                await self._end_one(session)
            except Refused as refused:  # the next login of this device tries again, and so does its logout
                self.log.warning(
                    "session_not_ended",
                    localpart=session.localpart,
                    session_id=session.session_id,
                    reason=refused.reason,
                )
