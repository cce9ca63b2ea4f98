"""Writes that share their commits: those that come while one is on its way to the disk go together in the next.

A commit waits until the disk has it, longer than all the rest of a login takes, and SQLite lets several writers poll
for its lock, for up to 0.1 s. So one thread writes for all, one transaction a round, answered once it is committed;
the audit trail, for which nobody waits, has its own. A second thread brings what is in SQLite's log into the file (a
checkpoint), which takes 10 ms on a large database: the commit that did it itself would keep a whole round waiting.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Final

# After how many rows the log is brought in: each leaves about two pages in it, and SQLite itself waits for 1000.
CHECKPOINT_ROWS: Final = 200
# Where that does not keep up, a commit does it from this length of the log on: 64 MiB.
_MOST_PAGES: Final = 16384

# Taking the write lock at once makes a second writer wait its turn instead of failing half-way.
BEGIN: Final = "BEGIN IMMEDIATE"

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class _Write:
    sql: str
    rows: Sequence[Row]
    changed: asyncio.Future[int]


class Writer:
    """Executes statements on a connection of its own, which `connect` opens, in a thread of its own."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, "database-writer")
        self._waiting: list[_Write] = []
        self._at_work = False
        self._beside = ThreadPoolExecutor(1, "database-checkpoint")
        self._checkpointing = False
        self._rows_in_log = 0

    async def write(self, sql: str, rows: Sequence[Row]) -> int:
        """Execute a statement for each of the rows, and return how many were changed, once that is committed.

        Raises what SQLite does. A write whose caller goes before its round is left out, and not kept until then: a
        disk may hang for hours.
        """
        changed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        write = _Write(sql, rows, changed)
        self._waiting.append(write)
        if not self._at_work:
            self._begin_round()
        try:
            return await changed
        finally:
            if changed.cancelled() and write in self._waiting:
                self._waiting.remove(write)

    async def close(self) -> None:
        """End the threads and the connection; what is at work ends first."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._disconnect)
        await loop.run_in_executor(None, self._beside.shutdown)
        self._thread.shutdown(wait=False)

    def _begin_round(self) -> None:
        writes = [write for write in self._waiting if not write.changed.cancelled()]
        self._waiting = []
        self._at_work = bool(writes)
        if writes:
            done = asyncio.get_running_loop().run_in_executor(self._thread, self._commit, writes)
            done.add_done_callback(lambda outcomes: self._end_round(writes, outcomes))

    def _end_round(self, writes: list[_Write], done: "asyncio.Future[list[int | Exception]]") -> None:
        failure = done.exception()
        outcomes = [failure] * len(writes) if failure is not None else done.result()
        for write, outcome in zip(writes, outcomes, strict=True):
            if write.changed.done():
                continue
            if isinstance(outcome, int):
                write.changed.set_result(outcome)
            else:
                write.changed.set_exception(outcome)
        self._rows_in_log += sum(len(write.rows) for write in writes)
        if self._rows_in_log >= CHECKPOINT_ROWS and not self._checkpointing:
            self._rows_in_log, self._checkpointing = 0, True
            asyncio.get_running_loop().run_in_executor(self._beside, self._checkpoint).add_done_callback(self._rest)
        self._begin_round()

    def _rest(self, _done: "asyncio.Future[None]") -> None:
        self._checkpointing = False

    def _checkpoint(self) -> None:
        # Failing costs nothing but a longer log; what is wrong with the file the next commits say.
        with suppress(sqlite3.Error), closing(self._connect()) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def _commit(self, writes: list[_Write]) -> list[int | Exception]:
        """Return for each write the rows that it changed, or why it could not be; in the thread."""
        try:
            if self._connection is None:
                self._connection = self._connect()
                self._connection.execute(f"PRAGMA wal_autocheckpoint = {_MOST_PAGES}")
            connection = self._connection
            connection.execute(BEGIN)
            outcomes = [_execute(connection, write) for write in writes]
            connection.execute("COMMIT")
        except BaseException:
            # Also a COMMIT may fail and leave its transaction open; with its connection it ends for sure.
            self._disconnect()
            raise
        return outcomes

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()


def _execute(connection: sqlite3.Connection, write: _Write) -> int | Exception:
    try:
        return connection.executemany(write.sql, write.rows).rowcount
    except (sqlite3.Error, ValueError, OverflowError) as error:
        if not connection.in_transaction:
            raise  # SQLite took the others back too
        return error
