"""The file is ours and up to date, or it is refused in one line and left as it is."""

import asyncio
import os
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from gateway.errors import Refusal, Refused, Unusable
from gateway.storage.accounts import Accounts
from gateway.storage.database import DatabaseSettings, open_database, upgrade_database
from gateway.storage.schema import metadata


def at(path: Path) -> DatabaseSettings:
    return DatabaseSettings(url=f"sqlite:///{path}")


async def test_the_migrations_make_the_schema_that_the_code_uses(tmp_path: Path) -> None:
    await upgrade_database(at(tmp_path / "a.db"))
    engine = create_engine(f"sqlite:///{tmp_path}/a.db")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


async def test_a_second_upgrade_has_nothing_to_do_and_many_at_once_upgrade_once(tmp_path: Path) -> None:
    done = await asyncio.gather(*(upgrade_database(at(tmp_path / "a.db")) for _ in range(5)))

    assert {upgrade.after for upgrade in done} == {"0001"}
    assert (await upgrade_database(at(tmp_path / "a.db"))).before == "0001"


async def test_a_commit_survives_a_power_cut(tmp_path: Path) -> None:
    async with open_database(at(tmp_path / "a.db")) as database, database.connect() as connection:
        modes = [
            (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "synchronous")
        ]

    assert modes == ["wal", 2]


async def refusal_of(path: Path) -> str:
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(Unusable) as caught:
        await upgrade_database(at(path))
    assert before == (path.read_bytes() if path.is_file() else None)
    return str(caught.value)


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"something else entirely" * 100)

    assert "file is not a database" in await refusal_of(tmp_path / "a.db")


async def test_tables_of_another_program_are_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()

    assert "it holds the tables of another program" in await refusal_of(tmp_path / "a.db")


async def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert "unable to open database file" in await refusal_of(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/1").exists(), reason="needs /proc")
async def test_a_place_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(Unusable, match="unable to open database file"):
        await upgrade_database(at(Path("/proc/1/gateway.db")))


async def test_a_database_that_goes_is_a_refusal_with_retry_after(tmp_path: Path) -> None:
    async with open_database(at(tmp_path / "a.db")) as database:
        async with database.connect() as connection:
            await connection.exec_driver_sql("DROP TABLE accounts")
        with pytest.raises(Refused) as caught:
            await Accounts(database).all()

    assert caught.value.refusal is Refusal.DATABASE_UNAVAILABLE
    assert caught.value.retry_after == 5
    assert "no such table" in caught.value.reason
