"""Which avatar was set for whom, so that one that stays is neither fetched nor uploaded again."""

import functools
from dataclasses import asdict

from sqlalchemy import bindparam, select

from gateway.core.avatars import Avatar
from gateway.storage.database import Database, Insert, InsertInto
from gateway.storage.schema import avatars

_FIND = select(avatars.c.source, avatars.c.content, avatars.c.mxc).where(
    avatars.c.localpart == bindparam("localpart")
)


@functools.cache
def _note(insert: InsertInto) -> Insert:
    new = insert(avatars)
    values = {name: new.excluded[name] for name in ("source", "content", "mxc")}
    return new.on_conflict_do_update(index_elements=[avatars.c.localpart], set_=values)


class Avatars:
    """One row for each user whose avatar came from a claim. Raises `Refused` when the database can't."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, localpart: str) -> Avatar:
        """Return what is known of a user's avatar, an empty `Avatar` if nothing is."""
        rows = await self._database.rows(_FIND, localpart=localpart)
        return Avatar(*rows[0]) if rows else Avatar()

    async def note(self, localpart: str, avatar: Avatar) -> None:
        """Keep this of a user's avatar, in place of what was known."""
        await self._database.write(_note(self._database.insert), {"localpart": localpart, **asdict(avatar)})
