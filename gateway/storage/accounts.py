"""The accounts: one row for each Matrix user, owned by one subject."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, Select, or_, select, update
from sqlalchemy.dialects.sqlite import insert

from gateway.core.accounts import Account, State
from gateway.core.identity import Identity
from gateway.storage.database import Database
from gateway.storage.schema import accounts


class Accounts:
    """Reads and writes rows; times are seconds since the epoch. Raises `Refused` when the database can't."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, identity: Identity) -> list[Account]:
        """Return the rows that have this identity's localpart or its subject."""
        return await self._rows(
            select(accounts).where(
                or_(accounts.c.localpart == identity.localpart, accounts.c.subject == identity.subject)
            )
        )

    async def claim(self, identity: Identity, now: int) -> list[Account]:
        """Write a pending row unless the localpart or the subject has one, and return what `find` then finds."""
        async with self._database.connect() as connection:
            await connection.execute(
                insert(accounts)
                .values(
                    localpart=identity.localpart,
                    issuer=identity.issuer,
                    subject=identity.subject,
                    state=State.PENDING,
                    created_at=now,
                )
                .on_conflict_do_nothing()
            )
        return await self.find(identity)

    async def activate(self, localpart: str) -> None:
        """Mark a pending account as there on the homeserver."""
        async with self._database.connect() as connection:
            await connection.execute(
                update(accounts)
                .where(accounts.c.localpart == localpart, accounts.c.state == State.PENDING)
                .values(state=State.ACTIVE)
            )

    async def saw(self, localpart: str, now: int) -> None:
        """Note that the user logged in."""
        async with self._database.connect() as connection:
            await connection.execute(
                update(accounts).where(accounts.c.localpart == localpart).values(last_seen_at=now)
            )

    async def get(self, localpart: str) -> Account | None:
        """Return one account by its localpart."""
        rows = await self._rows(select(accounts).where(accounts.c.localpart == localpart))
        return rows[0] if rows else None

    async def all(self) -> list[Account]:
        """Return every account, by name."""
        return await self._rows(select(accounts).order_by(accounts.c.localpart))

    async def _rows(self, query: Select[Any]) -> list[Account]:
        async with self._database.connect() as connection:
            found: Sequence[Row[Any]] = (await connection.execute(query)).all()
        return [
            Account(
                localpart=row.localpart,
                issuer=row.issuer,
                subject=row.subject,
                state=State(row.state),
                created_at=row.created_at,
                last_seen_at=row.last_seen_at,
            )
            for row in found
        ]
