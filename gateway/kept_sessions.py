"""The sessions of Matrix Authentication Service that clients have from us: kept to be ended where they were made.

The homeserver can't end them, nor does the service itself by a client's `/logout`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

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

    async def keep(self, session: PersonalSession, token: str, device_name: str | None) -> None:
        """Keep a new session; beside the login those that its device had end, and it gets the name that it is given.

        Client-server specification, 'Relationship between access tokens and devices'.
        """
        try:
            await self.stored.note(session)
        except (Refused, asyncio.CancelledError):
            self.background.leave(self._end_all_of([session]), "unkept_session")  # which no client will hear of
            raise
        self.background.leave(self._end_expired(), "personal_sessions")
        if device_name is not None:
            self.background.leave(self._name_device(session, token, device_name), "device_name")
        # After it was noted: of two logins at once one sees the other.
        known = await self.stored.of_device(session.localpart, session.device_id)
        older = [each for each in known if each.is_older_than(session)]
        if older:
            self.background.leave(self._end_all_of(older), "older_sessions")

    async def find(self, token: str) -> PersonalSession | None:
        """Return the session that a client's token is for, None where it is none of ours."""
        return await self.stored.find(token_digest(token)) if may_be_personal(token) else None

    async def end(self, session: PersonalSession) -> bool:
        """End a session, and what else its device has: an older one whose end failed must not outlive a logout.

        False where it had ended before: who found an old token must not end what its user has now. The homeserver is
        not asked: it takes no token of a user who is locked, and this one would live again after the unlock.
        """
        ended = await self._end_one(session)
        if ended:
            for each in await self.stored.of_device(session.localpart, session.device_id):
                await self._end_one(each)
        return ended

    async def end_all(self, session: PersonalSession) -> bool:
        """End every session of the user who has this one; False where this one had ended before."""
        # Read before: one that is opened meanwhile must stay known.
        known = await self.stored.of_user(session.localpart)
        if not await self._end_one(session):
            return False
        await self.admin.end_all(session.localpart)
        await self.stored.forget(known)
        return True

    async def _end_one(self, session: PersonalSession) -> bool:
        """End a session and forget it; say whether it was good until now."""
        ended = await self.admin.revoke(session.session_id)
        await self.stored.forget([session])
        # The service shows one as active that has expired.
        return ended and (session.expires_at is None or session.expires_at > self.now())

    async def _name_device(self, session: PersonalSession, token: str, name: str) -> None:
        """Have the homeserver call a device what its client does: the service has no names for devices."""
        target = f"/_matrix/client/v3/devices/{quote(session.device_id, safe='')}"
        try:
            reply = await self.homeserver.as_user("PUT", target, token, {"display_name": name})
            reason = "" if reply.status == 200 else f"{reply.status} {reply.errcode}"
        except Refused as refused:
            reason = refused.reason
        if reason:
            self.log.info("device_not_named", localpart=session.localpart, reason=reason)

    async def _end_expired(self) -> None:
        """End some that have expired: until then the service keeps them, and their devices."""
        await self._end_all_of(await self.stored.expired(self.now()))

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
