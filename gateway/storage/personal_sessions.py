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
_OF_DEVICE = _SELECT.where(_COLUMNS.localpart == bindparam("localpart"), _COLUMNS.device_id == bindparam("device_id"))
_FORGET = delete(personal_sessions).where(_COLUMNS.token_digest == bindparam("of_digest"))
_FORGET_USER = delete(personal_sessions).where(_COLUMNS.localpart == bindparam("of_localpart"))
# Each login takes more of them away than it adds, so that none pays for many.
_SWEEP = delete(personal_sessions).where(
    _COLUMNS.token_digest.in_(select(_COLUMNS.token_digest).where(_COLUMNS.expires_at < bindparam("now")).limit(10))
)


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

    async def of_device(self, localpart: str, device_id: str) -> list[PersonalSession]:
        """Return the sessions of a user's device."""
        rows = await self._database.rows(_OF_DEVICE, localpart=localpart, device_id=device_id)
        return [PersonalSession(*row) for row in rows]

    async def note(self, session: PersonalSession, now: float) -> None:
        """Keep a session, and forget some that have ended by `now` (seconds since the epoch)."""
        await self._database.write(_note(self._database.insert), asdict(session))
        await self._database.write(_SWEEP, {"now": int(now)})

    async def forget(self, session: PersonalSession) -> None:
        """Forget a session that has ended."""
        await self._database.write(_FORGET, {"of_digest": session.token_digest})

    async def forget_user(self, localpart: str) -> None:
        """Forget all sessions of a user."""
        await self._database.write(_FORGET_USER, {"of_localpart": localpart})
