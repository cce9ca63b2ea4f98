"""An open database answers, or refuses in time with a word for the log; its settings name a file of ours."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.core.identity import Identity
from gateway.errors import Refusal, Refused
from gateway.logs import LogSettings, get_logger
from gateway.storage import database as module
from gateway.storage.accounts import Accounts
from gateway.storage.database import Database, DatabaseSettings, connect, open_database
from gateway.storage.used_tokens import UsedTokens
from gateway.tasks import Background

ALICE = Identity("iss", "s1", "alice", "@alice:example.org")


@pytest.fixture
async def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    monkeypatch.setattr(module, "_LOCK_PATIENCE", 0.2)
    async with open_database(DatabaseSettings(url=f"sqlite:///{tmp_path}/gateway.db")) as opened:
        yield opened


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("gateway.db", "not a database URL"),
        ("", "not a database URL"),
        ("postgresql://u:p@host:port/x", "not a database URL"),
        ("postgresql://host/x", "in SQLite alone"),
        ("sqlite+aiosqlite:///x", "in SQLite alone"),
        ("sqlite://", "must be kept in a file"),
        ("sqlite:///:memory:", "must be kept in a file"),
        ("sqlite://gateway.db", "must be kept in a file"),
        ("sqlite://host/gateway.db", "without a host"),
        ("sqlite:///x?mode=memory&uri=true", "neither options"),
    ],
)
def test_a_url_that_names_no_sqlite_file_is_refused(url: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        DatabaseSettings(url=url)


async def test_a_new_database_is_its_users_alone_and_an_old_one_keeps_its_mode(tmp_path: Path) -> None:
    settings = DatabaseSettings(url=f"sqlite:///{tmp_path}/gateway.db")
    mask = os.umask(0o022)
    try:
        for mode in (0o600, 0o640):
            async with open_database(settings) as opened:
                await Accounts(opened).claim(ALICE, 1)
                assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {mode}
                assert len(list(tmp_path.iterdir())) == 3
            (tmp_path / "gateway.db").chmod(0o640)
    finally:
        os.umask(mask)


async def test_a_commit_survives_a_power_cut(database: Database) -> None:
    async with database.connect() as connection:
        modes = [
            (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "synchronous")
        ]

    assert modes == ["wal", 2]


def test_what_is_written_together_survives_a_power_cut_too(tmp_path: Path) -> None:
    with closing(connect(str(tmp_path / "gateway.db"))) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


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


async def test_a_commit_that_fails_leaves_nothing_open(database: Database) -> None:
    async with database.connect() as connection:
        await connection.exec_driver_sql("PRAGMA foreign_keys = ON")
        await connection.exec_driver_sql(
            "CREATE TABLE late (of TEXT REFERENCES accounts (localpart) DEFERRABLE INITIALLY DEFERRED)"
        )
    with pytest.raises(Refused, match="FOREIGN KEY"):
        async with database.transaction() as connection:
            await connection.exec_driver_sql("INSERT INTO late VALUES ('nobody')")
    for _ in range(5):
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


async def test_a_locked_database_refuses_writes_in_time_and_goes_on_reading(
    database: Database, tmp_path: Path
) -> None:
    accounts = Accounts(database)
    await accounts.claim(ALICE, 1)
    with closing(sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        refused = await asyncio.gather(
            *(accounts.claim(Identity("iss", f"s{n}", f"u{n}", "@u:x"), 1) for n in range(3)), return_exceptions=True
        )
        assert len(await accounts.all()) == 1
        with pytest.raises(Refused):
            await accounts.saw({"alice": 5})

    assert [getattr(error, "refusal", error) for error in refused] == [Refusal.DATABASE_UNAVAILABLE] * 3
    assert await accounts.claim(Identity("iss", "s9", "u9", "@u9:x"), 1)


async def test_pages_that_are_damaged_are_a_refusal(tmp_path: Path) -> None:
    settings = DatabaseSettings(url=f"sqlite:///{tmp_path}/gateway.db")
    async with open_database(settings) as database, database.transaction() as connection:
        for number in range(300):
            await connection.exec_driver_sql(
                f"INSERT INTO used_tokens (issuer, token_id, expires_at) VALUES ('a', '{number:0100}', 1)"
            )
    path = tmp_path / "gateway.db"
    # The schema is on the first pages, the rows are behind them.
    path.write_bytes(path.read_bytes()[: 8 * 4096] + os.urandom(path.stat().st_size - 8 * 4096))

    async with open_database(settings) as database:
        with pytest.raises(Refused, match="malformed") as caught:
            await UsedTokens(database, Background(get_logger(LogSettings()))).use("a", "new", None, now=50)
    assert caught.value.refusal is Refusal.DATABASE_UNAVAILABLE


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
    assert "no such table" in caught.value.reason
