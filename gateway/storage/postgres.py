"""PostgreSQL, for several gateways on one database: asyncpg through SQLAlchemy, with the addresses that libpq takes.

A connection that the server closed is replaced before its next use, and a read that meets a dead one is asked again:
both cost nothing while all is well. A write is never sent twice.
"""

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import URL, Delete, Insert, NullPool, Select, TableClause, Update, event
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from gateway.errors import Unusable
from gateway.storage import migrate

SCHEMES: Final = frozenset(("postgresql", "postgres"))

# Those that name files, and all that are accepted.
FILE_OPTIONS: Final = ("sslrootcert", "sslcert", "sslkey")
_OPTIONS: Final = ("host", "sslmode", *FILE_OPTIONS)
_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# How long a login waits, in seconds. Ending a connection that hangs may take 2 more, and 5 is what a login may wait.
_PATIENCE: Final = 3
# Gateways that start at once wait for each other's migrations, which take as long as they take.
_LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = '60s'"
# The number is our own; advisory locks are of one database.
_LOCK: Final = "SELECT pg_advisory_xact_lock(7021787503)"


def check_postgres_url(url: URL) -> None:
    """Raise ValueError, with what to write, unless this can be connected to."""
    if importlib.util.find_spec("asyncpg") is None:
        raise ValueError("PostgreSQL needs a library; run: pip install 'matrix-login-gateway[postgres]'")
    if not url.database:
        raise ValueError("it names no database; write postgresql://USER@HOST/NAME")
    for name, value in url.query.items():
        if name not in _OPTIONS:
            raise ValueError(f"unknown option {name!r}; there are {', '.join(_OPTIONS)}")
        if not isinstance(value, str):
            raise ValueError(f"the option {name!r} is there twice")
    socket = url.query.get("host")
    if socket is not None and (url.host or not str(socket).startswith("/")):
        raise ValueError("the option 'host' is the directory of a unix socket, in place of a host")
    if url.host is not None and "," in url.host:
        raise ValueError("one host is accepted; let the address of a cluster lead to its primary")
    if url.query.get("sslmode", "prefer") not in _SSL_MODES:
        raise ValueError(f"the option 'sslmode' must be one of {', '.join(_SSL_MODES)}")


def may_be_overheard(url: URL) -> bool:
    """Say whether the connection leaves this machine and may be without encryption."""
    elsewhere = url.host not in {None, "", "localhost", "127.0.0.1", "::1"}
    return elsewhere and url.query.get("sslmode", "prefer") in {"disable", "allow", "prefer"}


@dataclass(frozen=True, slots=True)
class PostgresStore:
    """A pool of connections."""

    engine: AsyncEngine
    begin: str = "BEGIN"
    patience: float = _PATIENCE
    insert: Callable[[TableClause], postgresql.Insert] = postgresql.insert

    async def rows(self, query: Select[Any], values: Mapping[str, str | int]) -> list[tuple[Any, ...]]:
        """Return what a query finds."""
        try:
            return await self._rows(query, values)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
        return await self._rows(query, values)

    async def write(self, statement: Insert | Update | Delete, rows: Sequence[Mapping[str, Any]]) -> int:
        """Execute a statement for each row, all or none, and return how many one row changed, or -1 for several."""
        async with self.engine.connect() as connection:
            return (await connection.execute(statement, rows[0] if len(rows) == 1 else rows)).rowcount

    async def _rows(self, query: Select[Any], values: Mapping[str, str | int]) -> list[tuple[Any, ...]]:
        async with self.engine.connect() as connection:
            return [tuple(row) for row in await connection.execute(query, values)]


@dataclass(frozen=True, slots=True)
class Postgres:
    """The database that a URL names; at most `pool_size` connections are open to it."""

    url: URL
    pool_size: int

    @property
    def name(self) -> str:
        """What an operator knows it by."""
        return f"{self.url.database} at {self.url.host or self.url.query.get('host') or 'the local socket'}"

    async def upgrade(self) -> migrate.Upgrade:
        """Bring the schema up to date; of several gateways that start at once one does it, and the others wait."""
        async with self._alone() as engine, engine.begin() as connection:
            await _check_server(connection)
            await connection.exec_driver_sql(_LOCK_TIMEOUT)
            return await connection.run_sync(migrate.upgrade, lock=_LOCK)

    async def check(self) -> None:
        """Raise `Unusable` unless the schema is up to date; changes nothing."""
        async with asyncio.timeout(_PATIENCE), self._alone() as engine, engine.connect() as connection:
            await connection.run_sync(migrate.check)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[PostgresStore]:
        """Open the database, whose schema is up to date."""
        engine = self._engine(
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,  # there is nothing to roll back
            pool_size=self.pool_size,
            max_overflow=0,
            pool_timeout=_PATIENCE,
        )
        event.listen(engine.sync_engine, "checkout", _refuse_closed)
        try:
            yield PostgresStore(engine)
        finally:
            await engine.dispose()

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[AsyncEngine]:
        engine = self._engine(poolclass=NullPool)
        try:
            yield engine
        finally:
            await engine.dispose()

    def _engine(self, **options: Any) -> AsyncEngine:
        # Parameters would stand in the text of an error, and so in a log.
        return create_async_engine(
            "postgresql+asyncpg://", async_creator=self._connect, hide_parameters=True, **options
        )

    async def _connect(self) -> Any:
        import asyncpg  # noqa: PLC0415 - an extra: who has SQLite need not install it

        try:
            return await asyncpg.connect(
                self.url.set(drivername="postgresql").render_as_string(hide_password=False),
                timeout=_PATIENCE,
                server_settings={"application_name": "matrix-login-gateway"},
            )
        except ValueError as error:  # a host or a certificate that can't be
            raise ConnectionError(str(error)) from error


def _refuse_closed(connection: Any, _record: Any, _proxy: Any) -> None:
    """Have the pool open another connection in place of one that the server closed."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError


async def _check_server(connection: AsyncConnection) -> None:
    asked = (
        "SELECT current_setting('server_encoding') AS encoding, current_setting('transaction_read_only') AS read_only"
    )
    found = (await connection.exec_driver_sql(asked)).one()
    if found.read_only == "on":
        raise Unusable("it can only be read, as a standby server can; name the primary")
    if found.encoding != "UTF8":
        raise Unusable(f"its encoding is {found.encoding}, which can't hold every name; make it with ENCODING 'UTF8'")
