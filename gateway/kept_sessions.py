"""The sessions of Matrix Authentication Service that clients have from us: kept to be ended where they were made.

The homeserver can't end them, nor does the service itself by a client's `/logout`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from gateway.core.personal_sessions import PersonalSession, may_be_personal, token_digest
from gateway.errors import Refused
from gateway.logs import Logger
from gateway.storage.personal_sessions import PersonalSessions
from gateway.tasks import Background
from gateway.upstream.mas import MasAdmin


@dataclass(frozen=True, slots=True)
class KeptSessions:
    """What is open, as far as we know; `now` gives seconds since the epoch. Raises `Refused` as its parts do."""

    stored: PersonalSessions
    admin: MasAdmin
    background: Background
    now: Callable[[], float]
    log: Logger

    async def keep(self, session: PersonalSession) -> None:
        """Keep a new session; those that its device had end, beside the login.

        Client-server specification, 'Relationship between access tokens and devices'.
        """
        older = await self.stored.of_device(session.localpart, session.device_id)
        await self.stored.note(session, self.now())
        if older:
            self.background.leave(self._end_older(older), "older_sessions")

    async def find(self, token: str) -> PersonalSession | None:
        """Return the session that a client's token is for, None where it is none of ours."""
        return await self.stored.find(token_digest(token)) if may_be_personal(token) else None

    async def end(self, session: PersonalSession) -> None:
        """End one session."""
        await self.admin.revoke(session.session_id)
        await self.stored.forget(session)

    async def end_all(self, session: PersonalSession) -> None:
        """End every session of the user who has this one."""
        user = await self.admin.find_user(session.localpart)
        if user is not None:
            await self.admin.end_sessions(user)
        await self.stored.forget_user(session.localpart)

    async def _end_older(self, sessions: list[PersonalSession]) -> None:
        for session in sessions:
            try:
                await self.end(session)
            except Refused as refused:  # the next login of this device tries again
                self.log.warning("older_session_not_ended", localpart=session.localpart, reason=refused.reason)
