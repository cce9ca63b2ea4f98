"""The sessions that have to be ended at Matrix Authentication Service, found by their tokens, which are not kept."""

import functools
from dataclasses import asdict

from sqlalchemy import bindparam, delete, select

from gateway.core.personal_sessions import PersonalSession
from gateway.storage.database import Database, Insert, InsertInto
from gateway.storage.schema import personal_sessions

_COLUMNS = personal_sessions.c
_SELECT = select(
    _COLUMNS.session_id, _COLUMNS.localpart, _COLUMNS.device_id, _COLUMNS.token_digest, _COLUMNS.expires_at
)
_BY_TOKEN = _SELECT.where(_COLUMNS.token_digest == bindparam("token_digest"))
_OF_USER = _SELECT.where(_COLUMNS.localpart == bindparam("localpart"))
_OF_DEVICE = _OF_USER.where(_COLUMNS.device_id == bindparam("device_id"))
_FORGET = delete(personal_sessions).where(_COLUMNS.token_digest == bindparam("of_digest"))
# After each login a few, more than it adds.
_EXPIRED = _SELECT.where(_COLUMNS.expires_at < bindparam("now")).limit(10)


@functools.cache
def _note(insert: InsertInto) -> Insert:
    return insert(personal_sessions)


class PersonalSessions:
    """One row for each session that is open, as far as we know. Raises `Refused` when the database can't."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, token_digest: str) -> PersonalSession | None:
        """Return the session of a token."""
        rows = await self._database.rows(_BY_TOKEN, token_digest=token_digest)
        return PersonalSession(*rows[0]) if rows else None

    async def of_user(self, localpart: str) -> list[PersonalSession]:
        """Return the sessions of a user."""
        rows = await self._database.rows(_OF_USER, localpart=localpart)
        return [PersonalSession(*row) for row in rows]

    async def of_device(self, localpart: str, device_id: str) -> list[PersonalSession]:
        """Return the sessions of a user's device."""
        rows = await self._database.rows(_OF_DEVICE, localpart=localpart, device_id=device_id)
        return [PersonalSession(*row) for row in rows]

    async def note(self, session: PersonalSession) -> None:
        """Keep a session."""
        await self._database.write(_note(self._database.insert), asdict(session))

    async def expired(self, now: float) -> list[PersonalSession]:
        """Return some that have expired by `now`, in seconds since the epoch."""
        rows = await self._database.rows(_EXPIRED, now=int(now))
        return [PersonalSession(*row) for row in rows]

    async def forget(self, sessions: list[PersonalSession]) -> None:
        """Forget sessions that have ended."""
        if sessions:
            await self._database.write(_FORGET, *({"of_digest": session.token_digest} for session in sessions))
