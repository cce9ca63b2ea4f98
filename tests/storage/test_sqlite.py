"""An SQLite file is its user's alone, survives power cuts, and refuses in time where it is locked or damaged."""

import asyncio
import os
import threading
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import func, make_url, select

from gateway.core.identity import Identity
from gateway.errors import Refusal, Refused
from gateway.logs import LogSettings, get_logger
from gateway.storage import sqlite as module
from gateway.storage.accounts import Accounts
from gateway.storage.database import Database, DatabaseSettings, open_database
from gateway.storage.used_tokens import UsedTokens
from gateway.tasks import Background
from tests.beside import locked

ALICE = Identity("iss", "s1", "alice", "@alice:example.org")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DatabaseSettings:
    monkeypatch.setattr(module, "_LOCK_PATIENCE", 0.2)
    return DatabaseSettings(url=f"sqlite:///{tmp_path}/gateway.db")


async def test_a_new_database_is_its_users_alone_and_an_old_one_keeps_its_mode(
    settings: DatabaseSettings, tmp_path: Path
) -> None:
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
    with closing(module.connect(str(tmp_path / "gateway.db"))) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


async def test_a_locked_database_refuses_writes_in_time_and_goes_on_reading(
    database: Database, tmp_path: Path
) -> None:
    accounts = Accounts(database)
    await accounts.claim(ALICE, 1)
    async with locked(tmp_path):
        refused = await asyncio.gather(
            *(accounts.claim(Identity("iss", f"s{n}", f"u{n}", "@u:x"), 1) for n in range(3)), return_exceptions=True
        )
        assert len(await accounts.all()) == 1
        with pytest.raises(Refused):
            await accounts.saw({"alice": 5})

    assert [getattr(error, "refusal", error) for error in refused] == [Refusal.DATABASE_UNAVAILABLE] * 3
    assert await accounts.claim(Identity("iss", "s9", "u9", "@u9:x"), 1)


async def test_of_reads_whose_callers_go_while_the_disk_hangs_few_are_kept(settings: DatabaseSettings) -> None:
    go_on = threading.Event()
    kind = module.Sqlite(make_url(settings.url))
    await kind.upgrade()
    async with kind.open() as store:
        await store.reader.create_function("hang", 0, lambda: go_on.wait(10) and 1)
        reads = [asyncio.create_task(store.rows(select(func.hang()), {})) for _ in range(100)]
        await asyncio.wait(reads, timeout=0.1)
        for read in reads:
            read.cancel()
        await asyncio.wait(reads)
        kept = store.reader._tx.qsize()  # noqa: SLF001 - memory is what a caller can't see
        go_on.set()
        assert await store.rows(select(func.hang()), {}) == [(1,)]

    assert 0 < kept < 20


async def test_pages_that_are_damaged_are_a_refusal(settings: DatabaseSettings, tmp_path: Path) -> None:
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
