"""SQLite: one file, for one gateway or several on one machine.

WAL mode with `synchronous = FULL`: what was answered survives a power cut, and with it the facts which subject owns
an account and which token was used.
"""

import asyncio
import functools
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiosqlite
from sqlalchemy import URL, Delete, Engine, Insert, Select, TableClause, Update, create_engine, event
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from gateway.storage import migrate
from gateway.storage.writer import BEGIN, Writer

# How long a login, or a start, waits in seconds.
_PATIENCE: Final = 5
# How long SQLite itself waits for a lock. Less than a login waits: a statement can't be called off before that.
_LOCK_PATIENCE: Final = 2
# Reads that are handed to the driver's thread at once. What it does not come to stays there when its caller has gone.
_READS: Final = 16


def check_sqlite_url(text: str, url: URL) -> None:
    """Raise ValueError, with what to write, unless the URL, also given as its text, names a file and nothing else."""
    if not url.database or url.database == ":memory:":
        raise ValueError("the accounts must be kept in a file; write sqlite:///FILE")
    if url.host or url.username or url.port:
        raise ValueError("an SQLite database is a file, without a host; write sqlite:///FILE")
    if "?" in text:
        raise ValueError("neither options nor a path with a question mark are accepted; write sqlite:///FILE")


@dataclass(frozen=True, slots=True)
class SqliteStore:
    """An open file."""

    engine: AsyncEngine
    reader: aiosqlite.Connection
    writer: Writer
    begin: str = BEGIN
    patience: float = _PATIENCE
    insert: Callable[[TableClause], sqlite.Insert] = sqlite.insert
    _reads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_READS))

    async def rows(self, query: Select[Any], values: Mapping[str, str | int]) -> list[tuple[Any, ...]]:
        """Return what a query finds.

        One trip to the driver's thread, 0.03 ms of processor time; through the engine it is six, and 0.28 ms.
        """
        sql, constants = _sql(query)
        async with self._reads:
            return [tuple(row) for row in await self.reader.execute_fetchall(sql, {**constants, **values})]

    async def write(self, statement: Insert | Update | Delete, rows: Sequence[Mapping[str, Any]]) -> int:
        """Execute a statement for each row, and return how many they changed."""
        sql, constants = _dml(statement, tuple(rows[0]))
        return await self.writer.write(sql, [{**constants, **row} for row in rows])


@functools.cache
def _sql(query: Select[Any]) -> tuple[str, dict[str, Any]]:
    """Return the text of a query, and the values that are part of it."""
    compiled = query.compile(dialect=sqlite.dialect(paramstyle="named"))
    return str(compiled), {name: value for name, value in compiled.params.items() if value is not None}


@functools.cache
def _dml(statement: Insert | Update | Delete, names: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """Return the text of a statement for rows with these names, and the values that are part of it."""
    columns = list(names) if isinstance(statement, Insert) else None
    compiled = statement.compile(dialect=sqlite.dialect(paramstyle="named"), column_keys=columns)
    return str(compiled), {name: value for name, value in compiled.params.items() if name not in names}


@dataclass(frozen=True, slots=True)
class Sqlite:
    """The file that a URL names."""

    url: URL

    @property
    def name(self) -> str:
        """What an operator knows it by."""
        return self.url.database or ""

    # Not with aiosqlite: its thread for a connection that can't be opened may outlive the event loop, and says so.
    async def upgrade(self) -> migrate.Upgrade:
        """Make the file if it is not there, and bring its schema up to date."""
        return await asyncio.to_thread(_upgrade, self.url)

    async def check(self) -> None:
        """Raise `Unusable` unless the file is there and up to date; changes nothing."""
        await asyncio.to_thread(_check, self.url)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[SqliteStore]:
        """Open the file, whose schema is up to date."""
        engine = create_async_engine(
            self.url.set(drivername="sqlite+aiosqlite"),
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,  # in the text of an error, and so in a log
            skip_autocommit_rollback=True,  # saves a trip to the driver's thread for each statement
            pool_size=4,
            max_overflow=0,
            pool_timeout=_PATIENCE,
            connect_args={"timeout": _LOCK_PATIENCE},
        )
        event.listen(engine.sync_engine, "connect", _set_up)
        writer = Writer(functools.partial(connect, self.name))
        try:
            async with aiosqlite.connect(self.name, timeout=_LOCK_PATIENCE) as reader:
                yield SqliteStore(engine, reader, writer)
        finally:
            await writer.close()
            await engine.dispose()


def connect(path: str) -> sqlite3.Connection:
    """Open a connection to write with: a commit on it has returned only when the disk has it."""
    connection = sqlite3.connect(path, timeout=_LOCK_PATIENCE, isolation_level=None)
    _set_up(connection, None)
    return connection


def _set_up(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


def _check(url: URL) -> None:
    engine = create_engine(url, connect_args={"timeout": _PATIENCE})
    try:
        if not Path(url.database or "").exists():
            raise migrate.NeedsUpgrade("it is not there yet; `serve` and `database upgrade` make it")
        with engine.connect() as connection:
            migrate.check(connection)
    finally:
        engine.dispose()


def _upgrade(url: URL) -> migrate.Upgrade:
    engine = create_engine(url, isolation_level="AUTOCOMMIT", connect_args={"timeout": _PATIENCE})
    try:
        _make_private(url.database or "")
        with engine.begin() as connection:
            done = migrate.upgrade(connection, lock=BEGIN)
        _switch_to_wal(engine)  # not before: a file of another program must stay as it is
        _check_writable(engine)
        return done
    finally:
        engine.dispose()


def _check_writable(engine: Engine) -> None:
    """Write what is there already, and take it back: a read-only file opens well, and fails each login later."""
    with engine.connect() as connection:
        connection.exec_driver_sql(BEGIN)
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = version_num")
        connection.exec_driver_sql("ROLLBACK")


def _make_private(path: str) -> None:
    """Make the file, if it is new, so that its user alone can read it; SQLite gives its companions the same mode."""
    with suppress(OSError):  # it is there, or SQLite says next why it can't be
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _switch_to_wal(engine: Engine) -> None:
    """Give the file the mode that it then keeps. SQLite does not wait here when another process does the same."""
    ends = time.monotonic() + _PATIENCE
    while True:
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        except OperationalError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.02)
        else:
            return
