"""The tokens that were used, so that none logs in twice where `single_use` is on."""

from sqlalchemy import delete
from sqlalchemy.dialects.sqlite import insert

from gateway.storage.database import Database
from gateway.storage.schema import used_tokens


class UsedTokens:
    """One row for each (`iss`, `jti`) that logged in. Raises `Refused` when the database can't."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def use(self, issuer: str, token_id: str, expires_at: float | None, now: float) -> bool:
        """Note the use of a token; False when it was used before, also by another process at the same moment.

        `expires_at` is when the token itself can't be used any more; rows past theirs are swept. Seconds.
        """
        async with self._database.connect() as connection:
            await connection.execute(delete(used_tokens).where(used_tokens.c.expires_at < int(now)))
            written = await connection.execute(
                insert(used_tokens)
                .values(
                    issuer=issuer,
                    token_id=token_id,
                    expires_at=None if expires_at is None else int(expires_at) + 1,
                )
                .on_conflict_do_nothing()
            )
            return written.rowcount == 1

    async def give_back(self, issuer: str, token_id: str) -> None:
        """Forget the use of a token that did not come to a session."""
        async with self._database.connect() as connection:
            await connection.execute(
                delete(used_tokens).where(used_tokens.c.issuer == issuer, used_tokens.c.token_id == token_id)
            )
