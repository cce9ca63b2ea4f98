"""The database, whichever it is, and the one place where its errors become ours.

A statement is a transaction of its own (AUTOCOMMIT) but in `transaction`, or shares one with the statements of other
requests (`write`); none is open while another server is asked.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from typing import Any, Final, Protocol, TypeAlias

from alembic.util import CommandError
from pydantic import Field, field_validator
from sqlalchemy import URL, Delete, Select, TableClause, Update, delete, false, insert, make_url, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.errors import Refusal, Refused, Unusable
from gateway.settings import Table
from gateway.storage.migrate import Upgrade
from gateway.storage.postgres import FILE_OPTIONS, SCHEMES, Postgres, check_postgres_url, may_be_overheard
from gateway.storage.schema import accounts, metadata
from gateway.storage.sqlite import Sqlite, check_sqlite_url

Insert: TypeAlias = sqlite.Insert | postgresql.Insert
InsertInto: TypeAlias = Callable[[TableClause], Insert]
Statement: TypeAlias = Insert | Update | Delete

_NO_ACCOUNT: Final = select(accounts.c.localpart).where(accounts.c.localpart.is_(None))
_FORMS: Final = "sqlite:///FILE or postgresql://USER@HOST/NAME"


Timed: TypeAlias = Callable[[str], AbstractContextManager[object]]


def _untimed(_operation: str) -> AbstractContextManager[object]:
    return nullcontext()


class DatabaseSettings(Table):
    """The `[database]` table."""

    url: str = Field("sqlite:///gateway.db", repr=False)
    password_file: str | None = None
    audit_retention: int = Field(90, ge=0, le=36500)
    pool_size: int = Field(10, ge=1, le=100)

    @field_validator("url")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            url = make_url(value)
        except (ArgumentError, ValueError):
            raise ValueError(f"not a database URL; write {_FORMS}") from None
        if url.drivername in SCHEMES:
            check_postgres_url(url)
        elif url.drivername == "sqlite":
            check_sqlite_url(value, url)
        else:
            raise ValueError(f"neither SQLite nor PostgreSQL; write {_FORMS}")
        return value

    @property
    def is_file(self) -> bool:
        """Whether it is SQLite."""
        return make_url(self.url).drivername == "sqlite"

    @property
    def has_password(self) -> bool:
        """Whether the URL holds one."""
        return make_url(self.url).password is not None

    @property
    def may_be_overheard(self) -> bool:
        """Whether what is asked leaves this machine and may be without encryption."""
        return not self.is_file and may_be_overheard(make_url(self.url))

    @property
    def certificates(self) -> dict[str, str]:
        """The files that the URL names, by their options."""
        query = make_url(self.url).query
        return {name: str(query[name]) for name in FILE_OPTIONS if name in query}

    def completed(self, certificates: Mapping[str, str], password: str | None) -> "DatabaseSettings":
        """Return them with these files and this password in the URL."""
        url = make_url(self.url).update_query_dict(certificates)
        if password is not None:
            url = url.set(password=password)
        return self.model_copy(update={"url": url.render_as_string(hide_password=False)})


class Store(Protocol):
    """An open database of one kind; `patience` is in seconds."""

    @property
    def engine(self) -> AsyncEngine: ...  # noqa: D102
    @property
    def begin(self) -> str: ...  # noqa: D102
    @property
    def patience(self) -> float: ...  # noqa: D102
    @property
    def insert(self) -> InsertInto: ...  # noqa: D102
    async def rows(self, query: Select[Any], values: Mapping[str, str | int]) -> list[tuple[Any, ...]]: ...  # noqa: D102
    async def write(self, statement: Statement, rows: Sequence[Mapping[str, Any]]) -> int: ...  # noqa: D102


class Kind(Protocol):
    """A database that is not open yet."""

    @property
    def name(self) -> str: ...  # noqa: D102
    async def upgrade(self) -> Upgrade: ...  # noqa: D102
    async def check(self) -> None: ...  # noqa: D102
    def open(self) -> AbstractAsyncContextManager[Store]: ...  # noqa: D102


class Database:
    """An open database whose schema is up to date. Everything here raises `Refused` when the database can't.

    `timed` gives a context that notes what a "read" or a "write" takes.
    """

    def __init__(self, store: Store, timed: Timed) -> None:
        self._store = store
        self._timed = timed
        # Gives an insert that may say what happens to rows that are there; one function for each kind of database.
        self.insert = store.insert

    async def rows(self, query: Select[Any], **values: str | int) -> list[tuple[Any, ...]]:
        """Return what a query finds, the columns in its order."""
        with self._timed("read"), _translated():
            async with asyncio.timeout(self._store.patience):
                return await self._store.rows(query, values)

    async def write(self, statement: Statement, *rows: Mapping[str, Any]) -> int:
        """Execute a statement with the values of a row, and return how many rows it changed.

        With several rows, each of them or none is dealt with; how many changed PostgreSQL then does not tell.
        What comes at once may be committed together. Give it the same statement object each time: its text is kept.
        """
        with self._timed("write"), _translated():
            async with asyncio.timeout(self._store.patience):
                return await self._store.write(statement, rows)

    async def ping(self) -> None:
        """Read the accounts, none of them."""
        await self.rows(_NO_ACCOUNT)

    async def check_writable(self) -> None:
        """Raise `Refused` unless each table can be written; changes nothing."""
        async with self.transaction() as connection:
            # A transaction opens well on what can only be read; a write fails, also one that meets no row.
            for table in metadata.sorted_tables:
                await connection.execute(insert(table).from_select(table.c.keys(), select(table).where(false())))
                await connection.execute(update(table).where(false()).values(dict.fromkeys(table.c.keys())))
                await connection.execute(delete(table).where(false()))

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """Give a connection for statements that are not the same each time; each commits itself.

        Commands read through it what they show or copy; what logins read and write goes by `rows` and `write`.
        """
        async with self._connected("read") as connection:
            yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Give a connection whose statements are committed together at the end, or not at all."""
        async with self._connected("write") as connection:
            try:
                await connection.exec_driver_sql(self._store.begin)
                yield connection
                await connection.exec_driver_sql("COMMIT")
            except BaseException:
                # Also a COMMIT may fail and leave its transaction open; with its connection it ends for sure.
                await connection.invalidate()
                raise

    @asynccontextmanager
    async def _connected(self, operation: str) -> AsyncIterator[AsyncConnection]:
        with self._timed(operation), _translated():
            async with asyncio.timeout(self._store.patience), self._store.engine.connect() as connection:
                yield connection


@asynccontextmanager
async def open_database(
    settings: DatabaseSettings, *, upgrade: bool = True, timed: Timed = _untimed
) -> AsyncIterator[Database]:
    """Open the database; raises `Unusable`, with what to do, where that can't be.

    `upgrade` makes it and brings its schema up to date; without, it must be there and up to date.
    """
    kind = _kind(settings)
    with _naming(kind):
        await (kind.upgrade() if upgrade else kind.check())
    async with kind.open() as store:
        yield Database(store, timed)


async def upgrade_database(settings: DatabaseSettings) -> Upgrade:
    """Bring the schema up to date and say what was done."""
    kind = _kind(settings)
    with _naming(kind):
        return await kind.upgrade()


def _kind(settings: DatabaseSettings) -> Kind:
    url: URL = make_url(settings.url)
    return Postgres(url, settings.pool_size) if url.drivername in SCHEMES else Sqlite(url)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:  # OSError: TimeoutError is one
        raise Refused(Refusal.DATABASE_UNAVAILABLE, reason=_describe(error)) from error


@contextmanager
def _naming(kind: Kind) -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, CommandError, OSError, Unusable) as error:
        failure = type(error) if isinstance(error, Unusable) else Unusable
        raise failure(f"The database {kind.name} can't be used: {_describe(error)}.") from error


def _describe(error: BaseException) -> str:
    """Say in a few words what the driver answered, without the SQL and its values."""
    if isinstance(error, TimeoutError):
        return "it takes too long to answer"
    origin = getattr(error, "orig", None) or error
    return str(origin) or type(origin).__name__
