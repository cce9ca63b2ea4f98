"""The gateway's database in the hands of somebody else, while a gateway runs in the same loop.

Not in the loop itself: a transaction of the gateway that waits for the loop would hold the lock meanwhile.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

from tests.waiting import until


async def change(directory: Path, statement: str) -> None:
    """Change the database in `directory`."""

    def changed() -> None:
        with closing(sqlite3.connect(directory / "gateway.db")) as database, database:
            database.execute(statement)

    await asyncio.to_thread(changed)


@asynccontextmanager
async def locked(directory: Path) -> AsyncIterator[None]:
    """Hold the lock that every write needs."""
    with closing(sqlite3.connect(directory / "gateway.db", 0, isolation_level=None)) as other:

        def begun() -> bool:
            with suppress(sqlite3.OperationalError):
                other.execute("BEGIN IMMEDIATE")
            return other.in_transaction

        await until(begun)
        yield
