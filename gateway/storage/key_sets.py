"""The last good JWK set of each source, so that a start while its issuer is down still knows the keys."""

import functools
from dataclasses import asdict, dataclass
from typing import Final

from sqlalchemy import bindparam, or_, select

from gateway.storage.database import Database, Insert, InsertInto
from gateway.storage.schema import key_sets

# A set from further ahead than this, in seconds, came while a clock was wrong, and would stay until that time comes.
CLOCKS_APART: Final = 3600
_FIND = select(key_sets.c.octets, key_sets.c.fetched_at).where(key_sets.c.source == bindparam("source"))


@functools.cache
def _keep(insert: InsertInto) -> Insert:
    new = insert(key_sets)
    return new.on_conflict_do_update(
        index_elements=[key_sets.c.source],
        set_={"octets": new.excluded.octets, "fetched_at": new.excluded.fetched_at},
        where=or_(
            key_sets.c.fetched_at <= new.excluded.fetched_at,
            key_sets.c.fetched_at > new.excluded.fetched_at + CLOCKS_APART,
        ),
    )


@dataclass(frozen=True, slots=True)
class StoredSet:
    """The octets of a set as they came, and when: seconds since the epoch."""

    octets: bytes
    fetched_at: int


class KeySets:
    """One row for each source. Raises `Refused` when the database can't."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, source: str) -> StoredSet | None:
        """Return the last good set of a source."""
        rows = await self._database.rows(_FIND, source=source)
        return StoredSet(*rows[0]) if rows else None

    async def keep(self, source: str, found: StoredSet) -> None:
        """Keep a good set in place of the one before; of several gateways, the latest fetch stays."""
        await self._database.write(_keep(self._database.insert), {"source": source, **asdict(found)})
