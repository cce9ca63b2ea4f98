"""The accounts: one row for each Matrix user, owned by one subject."""

import functools
from typing import Any, Final

from sqlalchemy import Select, bindparam, case, delete, or_, select, update

from gateway.core.accounts import Account, State
from gateway.core.identity import Identity
from gateway.storage.database import Database, Insert, InsertInto
from gateway.storage.schema import UNSETTLED, accounts

# Rows of one step; 3000 at once would keep a login waiting for 60 ms.
_SAW_ROWS: Final = 50
# What is looked into at once of registrations that broke off.
_UNSETTLED_ROWS: Final = 100

# Built once: building a statement costs more than running it.
_FIND = select(accounts).where(
    or_(accounts.c.localpart == bindparam("localpart"), accounts.c.subject == bindparam("subject"))
)
_GET = select(accounts).where(accounts.c.localpart == bindparam("localpart"))
_ALL = select(accounts).order_by(accounts.c.localpart)
_GIVE_UP = delete(accounts).where(
    accounts.c.localpart == bindparam("of_localpart"), accounts.c.state == State.REGISTERING
)
_MOVE = (
    update(accounts)
    .where(accounts.c.localpart == bindparam("of_localpart"))
    .where(or_(accounts.c.state == State.REGISTERING, accounts.c.state == State.PENDING))
    .values(state=bindparam("new_state"))
)
_NOTE_ISSUER = (
    update(accounts)
    .where(accounts.c.localpart == bindparam("of_localpart"), accounts.c.issuer == "")
    .values(issuer=bindparam("new_issuer"))
)
_UNSETTLED = (
    select(accounts)
    .where(UNSETTLED, accounts.c.created_at >= bindparam("since"))
    .order_by(accounts.c.created_at)
    .limit(_UNSETTLED_ROWS)
)
_SETTLE = (
    update(accounts)
    .where(UNSETTLED, accounts.c.localpart == bindparam("of_localpart"))
    .values(state=case((accounts.c.state == State.LOCKED_PENDING, State.LOCKED), else_=State.ACTIVE))
)
_SAW = (
    update(accounts)
    .where(accounts.c.localpart == bindparam("of_localpart"))
    .values(last_seen_at=bindparam("seen_at"))
)
_IS_LOCKED = or_(accounts.c.state == State.LOCKED, accounts.c.state == State.LOCKED_PENDING)
_LOCK = (
    update(accounts)
    .where(accounts.c.localpart == bindparam("of_localpart"))
    .values(
        state=case(
            (_IS_LOCKED, accounts.c.state),
            (accounts.c.state == State.ACTIVE, State.LOCKED),
            else_=State.LOCKED_PENDING,
        )
    )
)
_UNLOCK = (
    update(accounts)
    .where(accounts.c.localpart == bindparam("of_localpart"), _IS_LOCKED)
    .values(state=case((accounts.c.state == State.LOCKED, State.ACTIVE), else_=State.PENDING))
)


@functools.cache
def _claim(insert: InsertInto) -> Insert:
    return insert(accounts).on_conflict_do_nothing()


class Accounts:
    """Reads and writes rows; times are seconds since the epoch. Raises `Refused` when the database can't."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, identity: Identity) -> list[Account]:
        """Return the rows that have this identity's localpart or its subject."""
        return await self._rows(_FIND, localpart=identity.localpart, subject=identity.subject)

    async def claim(self, identity: Identity, now: int) -> bool:
        """Write a row that is being registered unless the localpart or the subject has one; say whether it did."""
        row = {
            "localpart": identity.localpart,
            "issuer": identity.issuer,
            "subject": identity.subject,
            "state": State.REGISTERING,
            "created_at": now,
            "last_seen_at": now,
        }
        return await self._database.write(_claim(self._database.insert), row) == 1

    async def give_up(self, localpart: str) -> None:
        """Take back a claim to an account that was not made, unless another login has come to rest on it."""
        await self._database.write(_GIVE_UP, {"of_localpart": localpart})

    async def keep_pending(self, localpart: str) -> bool:
        """Keep a row whose account may be there on the homeserver; False when it is gone, or is there for sure."""
        return await self._move(localpart, State.PENDING)

    async def activate(self, localpart: str) -> bool:
        """Mark an account as there on the homeserver; False when it was already, or is locked."""
        return await self._move(localpart, State.ACTIVE)

    async def unsettled(self, since: int) -> list[Account]:
        """Return accounts made since then whose registration has not come to its end, the oldest first."""
        return await self._rows(_UNSETTLED, since=since)

    async def settle(self, localpart: str) -> None:
        """Mark an account as there on the homeserver, whatever was not known of it; a locked one stays locked."""
        await self._database.write(_SETTLE, {"of_localpart": localpart})

    async def note_issuer(self, localpart: str, issuer: str) -> None:
        """Give an account to an issuer, unless it has one."""
        await self._database.write(_NOTE_ISSUER, {"of_localpart": localpart, "new_issuer": issuer})

    async def _move(self, localpart: str, state: State) -> bool:
        return await self._database.write(_MOVE, {"of_localpart": localpart, "new_state": state}) == 1

    async def lock(self, localpart: str) -> bool:
        """Lock an account, whatever its state; False when there is none."""
        return await self._database.write(_LOCK, {"of_localpart": localpart}) == 1

    async def unlock(self, localpart: str) -> bool:
        """Give an account the state back that it was locked in; False when there is none that is locked."""
        return await self._database.write(_UNLOCK, {"of_localpart": localpart}) == 1

    async def saw(self, seen_at: dict[str, int]) -> None:
        """Note when users logged in, by their localparts; in parts, between which logins have their turn."""
        # In one order everywhere: two gateways that lock the same rows in different orders wait for each other.
        rows = [{"of_localpart": localpart, "seen_at": moment} for localpart, moment in sorted(seen_at.items())]
        for start in range(0, len(rows), _SAW_ROWS):
            await self._database.write(_SAW, *rows[start : start + _SAW_ROWS])

    async def get(self, localpart: str) -> Account | None:
        """Return one account by its localpart."""
        rows = await self._rows(_GET, localpart=localpart)
        return rows[0] if rows else None

    async def all(self) -> list[Account]:
        """Return every account, by name."""
        return await self._rows(_ALL)

    async def _rows(self, query: Select[Any], **values: str | int) -> list[Account]:
        found = await self._database.rows(query, **values)
        return [
            Account(localpart, issuer, subject, State(state), created_at, last_seen_at)
            for localpart, issuer, subject, state, created_at, last_seen_at in found
        ]
