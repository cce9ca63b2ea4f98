"""The tokens that were used, so that none logs in twice where `single_use` is on.

One statement decides about a use, so the answer is exact for many logins at once and for several processes.
"""

import asyncio
import functools
from typing import Final

from sqlalchemy import and_, bindparam, delete, func, select, tuple_

from gateway.storage.database import Database, Insert, InsertInto
from gateway.storage.schema import used_tokens
from gateway.tasks import Background

# Seconds after its first use in which a token may come again with the same device, and how often: more than a client
# asks in that time.
GRACE_SECONDS: Final = 30
GRACE_REPEATS: Final = 10

# Rows stay for so many seconds after their token has expired: a login that waited for keys, another gateway whose
# clock is behind, and a `leeway` that a reload made longer may still take the token.
SPARE_SECONDS: Final = 3600
# Expired rows are looked for every so many seconds, and go in steps of so many rows with a pause, in seconds: a login
# that waits for the write lock waits for one step at most, some milliseconds. A sweep ends after so many steps, for a
# stop of the gateway waits for it; the next login goes on with it.
_SWEEP_INTERVAL: Final = 60
_SWEEP_ROWS: Final = 200
_SWEEP_PAUSE: Final = 0.02
_SWEEP_STEPS: Final = 50

_KEY: Final = (used_tokens.c.issuer, used_tokens.c.token_id)
# Built once: building a statement costs more than running it.
_GIVE_BACK = delete(used_tokens).where(
    used_tokens.c.issuer == bindparam("issuer"),
    used_tokens.c.token_id == bindparam("token_id"),
    used_tokens.c.repeats == 0,
)
_SWEEP = delete(used_tokens).where(
    tuple_(*_KEY).in_(
        select(*_KEY)
        .where(used_tokens.c.expires_at < bindparam("before"))
        .limit(_SWEEP_ROWS)
        # Gateways that sweep at once take different rows; SQLite has one writer, and no such locks.
        .with_for_update(skip_locked=True)
    )
)


@functools.cache
def _use(insert: InsertInto) -> Insert:
    new = insert(used_tokens)
    return new.on_conflict_do_update(
        index_elements=_KEY,
        set_={"repeats": used_tokens.c.repeats + 1},
        # NULL, of a use without a device, equals nothing. A clock that was set back prolongs nothing.
        where=and_(
            used_tokens.c.device_id == new.excluded.device_id,
            func.abs(new.excluded.used_at - used_tokens.c.used_at) <= GRACE_SECONDS,
            used_tokens.c.repeats < GRACE_REPEATS,
        ),
    )


class UsedTokens:
    """One row for each (`iss`, `jti`) that logged in. Raises `Refused` when the database can't."""

    def __init__(self, database: Database, background: Background) -> None:
        self._database = database
        self._background = background
        self._swept_at: float | None = None

    async def use(
        self, issuer: str, token_id: str, expires_at: float | None, now: float, device_id: str | None = None
    ) -> bool:
        """Note the use of a token; False when it was used before, also by another process at the same moment.

        `expires_at` is when the token itself can't be used any more; rows well past theirs are swept. Seconds.

        With a `device_id`, the token may come again with the same one within `GRACE_SECONDS` of its first use, which
        repetitions do not prolong, and `GRACE_REPEATS` times: for a client that lost the answer. All of them are one
        device to the user, who ends them by ending it. The homeserver should end the session that the device had
        (client-server specification, 'Relationship between access tokens and devices'); Synapse and tuwunel don't, so
        they are bounded here. Whoever stole the token alone lacks the id, and a use without one is never repeated.
        """
        row = {
            "issuer": issuer,
            "token_id": token_id,
            "expires_at": None if expires_at is None else int(expires_at) + 1,
            "used_at": int(now),
            "device_id": device_id,
        }
        written = await self._database.write(_use(self._database.insert), row)
        self._sweep_beside(now)
        return written == 1

    async def give_back(self, issuer: str, token_id: str) -> None:
        """Forget the use of a token that did not come to a session.

        One that was repeated stays used: of its logins another may have come to one.
        """
        await self._database.write(_GIVE_BACK, {"issuer": issuer, "token_id": token_id})

    def _sweep_beside(self, now: float) -> None:
        """Let expired rows go beside the logins: none pays for many that expired at once."""
        if self._swept_at is None or abs(now - self._swept_at) >= _SWEEP_INTERVAL:
            self._swept_at = now
            self._background.leave(self._sweep(now), "used_tokens")

    async def _sweep(self, now: float) -> None:
        for _ in range(_SWEEP_STEPS):
            if await self._database.write(_SWEEP, {"before": int(now) - SPARE_SECONDS}) < _SWEEP_ROWS:
                return
            await asyncio.sleep(_SWEEP_PAUSE)
        self._swept_at = None
