"""The database is brought up to date, or it is refused in one line and left as it is."""

import asyncio
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from gateway.errors import Unusable
from gateway.storage import sqlite as module
from gateway.storage.database import DatabaseSettings, open_database, upgrade_database
from gateway.storage.migrate import migrations_directory
from gateway.storage.schema import metadata


def at(path: Path) -> DatabaseSettings:
    return DatabaseSettings(url=f"sqlite:///{path}")


async def refusal_of(path: Path) -> str:
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(Unusable) as caught:
        await upgrade_database(at(path))
    assert before == (path.read_bytes() if path.is_file() else None)
    assert str(caught.value).startswith(f"The database {path} can't be used: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def empty(settings: DatabaseSettings, request: pytest.FixtureRequest) -> DatabaseSettings:
    """A database without our schema."""
    if settings.is_file:
        return settings
    return DatabaseSettings(url=request.getfixturevalue("postgres").new_database("template0"))


async def test_the_migrations_make_the_schema_that_the_code_uses(settings: DatabaseSettings) -> None:
    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async with open_database(settings) as database, database.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_a_second_upgrade_has_nothing_to_do_and_many_at_once_upgrade_once(empty: DatabaseSettings) -> None:
    done = await asyncio.gather(*(upgrade_database(empty) for _ in range(5)))

    assert len({upgrade.after for upgrade in done}) == 1
    assert sorted(str(upgrade.before) for upgrade in done) == sorted(["None", *[done[0].after] * 4])
    assert (await upgrade_database(empty)).before == done[0].after


def test_the_migrations_are_found_where_they_are() -> None:
    assert (migrations_directory() / "env.py").is_file()


async def test_processes_that_start_at_once_upgrade_once(empty: DatabaseSettings) -> None:
    program = (
        "import asyncio, sys\n"
        "from gateway.storage.database import DatabaseSettings, upgrade_database\n"
        "asyncio.run(upgrade_database(DatabaseSettings(url=sys.argv[1])))"
    )
    processes = [await asyncio.create_subprocess_exec(sys.executable, "-c", program, empty.url) for _ in range(3)]

    assert [await process.wait() for process in processes] == [0, 0, 0]


@pytest.mark.parametrize("content", [b"something else entirely" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
async def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.db").write_bytes(content)

    assert "file is not a database" in await refusal_of(tmp_path / "a.db")


async def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await upgrade_database(at(path))
    path.write_bytes(path.read_bytes()[:5000])

    assert "malformed" in await refusal_of(path)


def run_sql(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE theirs (x)"],
        ["PRAGMA journal_mode = WAL", "CREATE TABLE theirs (x)"],
        ["CREATE TABLE alembic_version (version_num)", "INSERT INTO alembic_version VALUES ('0001')"],
        ["CREATE TABLE alembic_version (version_num)", "INSERT INTO alembic_version VALUES ('abc')"],
    ],
)
async def test_tables_of_another_program_are_refused(tmp_path: Path, statements: list[str]) -> None:
    run_sql(tmp_path / "a.db", *statements)

    assert "it holds the tables of another program" in await refusal_of(tmp_path / "a.db")


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("UPDATE alembic_version SET version_num = '9999'", "its schema (revision 9999) is of a newer version"),
        ("INSERT INTO alembic_version VALUES ('9999')", "more than one head"),
    ],
)
async def test_a_schema_that_this_version_does_not_know_is_refused(tmp_path: Path, statement: str, why: str) -> None:
    await upgrade_database(at(tmp_path / "a.db"))
    run_sql(tmp_path / "a.db", statement)

    assert why in await refusal_of(tmp_path / "a.db")


async def test_a_database_that_another_process_keeps_locked_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")

        assert "database is locked" in await refusal_of(tmp_path / "a.db")


async def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert "unable to open database file" in await refusal_of(tmp_path)


async def test_a_place_where_nothing_can_be_written_is_refused() -> None:
    assert "unable to open database file" in await refusal_of(Path("/proc/1/gateway.db"))
