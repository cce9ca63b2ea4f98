"""Sessions that have to be ended elsewhere are found by their tokens, and forgotten when they have ended."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.core.personal_sessions import PersonalSession, token_digest
from gateway.errors import Refusal, Refused
from gateway.storage.database import Database, DatabaseSettings, open_database
from gateway.storage.personal_sessions import PersonalSessions

NOW = 1_800_000_000
PHONE = PersonalSession("01A", "alice", "PHONEPHONE", token_digest("mpt_1"))


def numbered(number: int, **changes: object) -> PersonalSession:
    return replace(PHONE, session_id=f"01B{number}", token_digest=token_digest(f"mpt_{number}"), **changes)  # type: ignore[arg-type]


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(DatabaseSettings(url=f"sqlite:///{tmp_path}/gateway.db")) as opened:
        yield opened


async def test_a_session_is_found_by_its_token_and_by_its_device_until_it_is_forgotten(database: Database) -> None:
    sessions = PersonalSessions(database)
    await sessions.note(PHONE, NOW)
    await sessions.note(numbered(2, localpart="bob"), NOW)

    assert await sessions.find(token_digest("mpt_1")) == PHONE
    assert await sessions.find(token_digest("mpt_3")) is None
    assert await sessions.of_device("alice", "PHONEPHONE") == [PHONE]
    await sessions.forget(PHONE)
    assert await sessions.find(token_digest("mpt_1")) is None
    assert await sessions.of_device("bob", "PHONEPHONE") == [numbered(2, localpart="bob")]


async def test_the_sessions_of_a_user_are_forgotten_together(database: Database) -> None:
    sessions = PersonalSessions(database)
    for session in (PHONE, numbered(2), numbered(3, localpart="bob")):
        await sessions.note(session, NOW)

    await sessions.forget_user("alice")

    assert await sessions.of_device("alice", "PHONEPHONE") == []
    assert len(await sessions.of_device("bob", "PHONEPHONE")) == 1


async def test_each_login_sweeps_some_of_those_that_have_expired(database: Database, tmp_path: Path) -> None:
    sessions = PersonalSessions(database)
    for number in range(25):
        await sessions.note(numbered(number, expires_at=NOW + number % 2), NOW)
    await sessions.note(numbered(100), NOW + 1)
    await sessions.note(numbered(101), NOW + 2)

    with closing(sqlite3.connect(tmp_path / "gateway.db")) as connection:
        (left,) = connection.execute("SELECT count(*) FROM personal_sessions").fetchone()
    assert left == 25 + 2 - 20


async def test_no_token_is_kept(database: Database, tmp_path: Path) -> None:
    await PersonalSessions(database).note(PHONE, NOW)

    assert b"mpt_1" not in b"".join(path.read_bytes() for path in tmp_path.glob("gateway.db*"))


async def test_a_database_that_goes_is_a_refusal(database: Database) -> None:
    async with database.connect() as connection:
        await connection.exec_driver_sql("DROP TABLE personal_sessions")
    sessions = PersonalSessions(database)
    for work in (sessions.find("x"), sessions.note(PHONE, NOW), sessions.forget(PHONE), sessions.forget_user("a")):
        with pytest.raises(Refused) as refused:
            await work
        assert refused.value.refusal is Refusal.DATABASE_UNAVAILABLE
