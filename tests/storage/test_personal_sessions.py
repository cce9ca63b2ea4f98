"""Sessions that have to be ended elsewhere are found by their tokens, and forgotten when they have ended."""

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select

from gateway.core.personal_sessions import PersonalSession, token_digest
from gateway.errors import Refusal, Refused
from gateway.storage.database import Database, DatabaseSettings, open_database
from gateway.storage.personal_sessions import PersonalSessions
from gateway.storage.schema import personal_sessions

NOW = 1_800_000_000
PHONE = PersonalSession("01A", "alice", "PHONEPHONE", token_digest("mpt_1"))


def numbered(number: int, **changes: object) -> PersonalSession:
    return replace(PHONE, session_id=f"01B{number}", token_digest=token_digest(f"mpt_{number}"), **changes)  # type: ignore[arg-type]


async def test_a_session_is_found_by_its_token_and_by_its_user_until_it_is_forgotten(database: Database) -> None:
    sessions = PersonalSessions(database)
    of_bob = numbered(2, localpart="bob")
    for session in (PHONE, of_bob, numbered(3)):
        await sessions.note(session)

    assert await sessions.find(token_digest("mpt_1")) == PHONE
    assert await sessions.find(token_digest("mpt_5")) is None
    await sessions.note(tablet := numbered(4, device_id="TABLETTABLET"))
    assert await sessions.of_device("alice", "PHONEPHONE") == [PHONE, numbered(3)]
    assert await sessions.of_user("alice") == [PHONE, numbered(3), tablet]
    await sessions.forget([tablet])
    await sessions.forget([PHONE, of_bob])
    assert await sessions.find(token_digest("mpt_1")) is None
    assert await sessions.of_user("alice") == [numbered(3)]
    assert await sessions.of_user("bob") == []
    await sessions.forget([])
    assert await sessions.of_user("alice") == [numbered(3)]


async def test_those_that_have_expired_are_found_a_few_at_a_time(database: Database) -> None:
    sessions = PersonalSessions(database)
    for number in range(25):
        await sessions.note(numbered(number, expires_at=NOW + number % 2))
    await sessions.note(numbered(100))

    for now, left in ((NOW, 26), (NOW + 1, 16), (NOW + 2, 6), (NOW + 2, 1), (NOW + 2, 1)):
        await sessions.forget(await sessions.expired(now))
        assert await database.rows(select(func.count()).select_from(personal_sessions)) == [(left,)]


async def test_no_token_is_kept(tmp_path: Path) -> None:
    async with open_database(DatabaseSettings(url=f"sqlite:///{tmp_path}/gateway.db")) as database:
        await PersonalSessions(database).note(PHONE)

        assert b"mpt_1" not in b"".join(path.read_bytes() for path in tmp_path.glob("gateway.db*"))


async def test_a_database_that_goes_is_a_refusal(database: Database) -> None:
    async with database.connect() as connection:
        await connection.exec_driver_sql("DROP TABLE personal_sessions")
    sessions = PersonalSessions(database)
    for work in (sessions.find("x"), sessions.note(PHONE), sessions.forget([PHONE]), sessions.expired(NOW)):
        with pytest.raises(Refused) as refused:
            await work
        assert refused.value.refusal is Refusal.DATABASE_UNAVAILABLE
