"""An open database, of either kind, answers, or refuses in time with a word for the log; its URL is checked."""

import asyncio

import pytest
from pydantic import ValidationError

from gateway.core.identity import Identity
from gateway.errors import Refusal, Refused
from gateway.storage.accounts import Accounts
from gateway.storage.database import Database, DatabaseSettings, open_database

ALICE = Identity("iss", "s1", "alice", "@alice:example.org")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("gateway.db", "not a database URL"),
        ("", "not a database URL"),
        ("postgresql://u:p@host:port/x", "not a database URL"),
        ("mysql://host/x", "neither SQLite nor PostgreSQL"),
        ("sqlite+aiosqlite:///x", "neither SQLite nor PostgreSQL"),
        ("postgresql+asyncpg://host/x", "neither SQLite nor PostgreSQL"),
        ("sqlite://", "must be kept in a file"),
        ("sqlite:///:memory:", "must be kept in a file"),
        ("sqlite://gateway.db", "must be kept in a file"),
        ("sqlite://host/gateway.db", "without a host"),
        ("sqlite:///x?mode=memory&uri=true", "neither options"),
        ("sqlite:///x?", "neither options"),
        ("postgresql://", "names no database"),
        ("postgresql://host", "names no database"),
        ("postgresql://host/", "names no database"),
        ("postgresql://a,b/x", "one host is accepted"),
        ("postgresql://host/x?sslmod=require", "unknown option 'sslmod'; there are host, sslmode, sslrootcert"),
        ("postgresql://host/x?password=secret", "unknown option 'password'"),
        ("postgresql://host/x?sslmode=on", "'sslmode' must be one of disable, allow, prefer, require, verify-ca, "),
        ("postgresql://host/x?sslmode=require&sslmode=disable", "'sslmode' is there twice"),
        ("postgresql://host/x?host=/run/postgresql", "directory of a unix socket, in place of a host"),
        ("postgresql:///x?host=db.example.org", "directory of a unix socket, in place of a host"),
    ],
)
def test_a_url_that_names_no_database_is_refused_without_its_password(url: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why) as caught:
        DatabaseSettings(url=url)
    assert "secret" not in caught.value.errors()[0]["msg"]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://host/x",
        "postgres://me:pass%40word@[::1]:5433/x?sslmode=verify-full&sslrootcert=ca.pem&sslcert=c.pem&sslkey=k.pem",
        "postgresql://me@/x?host=/run/postgresql",
        "postgresql:///x",
    ],
)
def test_a_url_of_postgresql_is_taken_as_libpq_has_it(url: str) -> None:
    settings = DatabaseSettings(url=url, password_file="x")

    assert settings.url == url
    assert "pass" not in repr(settings).replace("password_file", "")


async def test_a_transaction_is_kept_whole(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.exec_driver_sql("INSERT INTO used_tokens (issuer, token_id) VALUES ('a', 'b')")
        await connection.exec_driver_sql("INSERT INTO used_tokens (issuer, token_id) VALUES ('a', 'c')")
    async with database.connect() as connection:
        assert len((await connection.exec_driver_sql("SELECT * FROM used_tokens")).all()) == 2


async def test_a_transaction_that_fails_changes_nothing_and_leaves_nothing_open(database: Database) -> None:
    with pytest.raises(KeyError):
        async with database.transaction() as connection:
            await connection.exec_driver_sql("INSERT INTO used_tokens (issuer, token_id) VALUES ('a', 'b')")
            raise KeyError
    async with database.transaction() as connection:
        assert (await connection.exec_driver_sql("SELECT * FROM used_tokens")).all() == []


async def test_a_commit_that_fails_leaves_nothing_open(database: Database, settings: DatabaseSettings) -> None:
    async with database.connect() as connection:
        if settings.is_file:
            await connection.exec_driver_sql("PRAGMA foreign_keys = ON")
        await connection.exec_driver_sql(
            "CREATE TABLE late (of_whom TEXT REFERENCES accounts (localpart) DEFERRABLE INITIALLY DEFERRED)"
        )
    with pytest.raises(Refused, match=r"(?i)foreign key"):
        async with database.transaction() as connection:
            await connection.exec_driver_sql("INSERT INTO late VALUES ('nobody')")
    for _ in range(12):
        async with database.transaction() as connection:
            assert (await connection.exec_driver_sql("SELECT * FROM late")).all() == []


async def test_a_transaction_that_is_called_off_leaves_nothing_open(database: Database) -> None:
    async def write() -> None:
        async with database.transaction() as connection:
            await connection.exec_driver_sql("INSERT INTO used_tokens (issuer, token_id) VALUES ('a', 'b')")
            await asyncio.sleep(60)

    writers = [asyncio.create_task(write()) for _ in range(3)]
    await asyncio.sleep(0.1)
    for writer in writers:
        writer.cancel()
    await asyncio.wait(writers)
    async with database.transaction() as connection:
        assert (await connection.exec_driver_sql("SELECT * FROM used_tokens")).all() == []


async def test_a_table_that_goes_is_a_refusal_with_retry_after(database: Database) -> None:
    await database.ping()
    async with database.connect() as connection:
        await connection.exec_driver_sql("DROP TABLE accounts")
    with pytest.raises(Refused):
        await database.ping()
    with pytest.raises(Refused) as caught:
        await Accounts(database).all()

    assert caught.value.refusal is Refusal.DATABASE_UNAVAILABLE
    assert caught.value.retry_after == 5
    assert "accounts" in caught.value.reason
    assert "SELECT" not in caught.value.reason


async def test_many_more_at_once_than_there_are_connections_wait_their_turn(settings: DatabaseSettings) -> None:
    few = settings.model_copy(update={"pool_size": 2})
    async with open_database(few) as first, open_database(few) as second:
        names = [Identity("iss", f"s{number}", f"u{number}", "@u:x") for number in range(40)]
        claimed = await asyncio.gather(
            *(Accounts(database).claim(identity, 1) for database in (first, second) for identity in names)
        )
        assert claimed.count(True) == 40
        assert len(await Accounts(first).all()) == 40
