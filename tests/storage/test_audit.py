"""The audit trail is written beside everything else: nothing waits for it, and what it lacks it says itself."""

import asyncio
import io
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.limits import Bucket
from gateway.logs import LogSettings, get_logger
from gateway.storage import audit as module
from gateway.storage import sqlite as sqlite_module
from gateway.storage.audit import NOT_RECORDED, OPENED, REFUSED, AttemptFilter, Audit, Entry, find_attempts
from gateway.storage.database import Database, DatabaseSettings, open_database
from gateway.tasks import Background
from tests.beside import locked
from tests.waiting import until

DAY = 86400
ALL = AttemptFilter(limit=100_000)


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Database]:
    async with open_database(DatabaseSettings(url=f"sqlite:///{directory}/gateway.db")) as database:
        yield database


class Keeping:
    """An audit at work."""

    def __init__(self, database: Database, retention: int = 90) -> None:
        self.log = io.StringIO()
        self.background = Background(get_logger(LogSettings(), self.log))
        self.audit = Audit(database, self.background, get_logger(LogSettings(), self.log), retention)
        self.background.leave(self.audit.keep(time.time), "audit")

    async def stop(self) -> None:
        self.audit.hurry()
        await self.background.close(5)


@asynccontextmanager
async def keeping(database: Database, retention: int = 90) -> AsyncIterator[Keeping]:
    kept = Keeping(database, retention)
    try:
        yield kept
    finally:
        await kept.stop()


async def count(database: Database) -> int:
    return len(await find_attempts(database, ALL))


async def until_there_are(wanted: int, database: Database) -> None:
    async with asyncio.timeout(10):
        while await count(database) != wanted:
            await asyncio.sleep(0.01)


async def test_what_is_noted_is_found_with_all_that_was_known(database: Database) -> None:
    entry = Entry(1.5, "expired", "@a:x", "iss", "sub", "DEV", "192.0.2.1", "agent/1", "too \x1b[31m late")
    async with keeping(database) as kept:
        kept.audit.note(Entry(time.time(), OPENED))
        kept.audit.note(entry)
    newest, oldest = await find_attempts(database, ALL)

    assert newest.outcome == OPENED
    assert oldest == entry


async def test_it_is_written_within_moments(database: Database) -> None:
    async with keeping(database) as kept:
        for number in range(3):
            kept.audit.note(Entry(time.time(), OPENED))
            await until_there_are(number + 1, database)


async def test_many_at_once_are_committed_together(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(tmp_path) as database:
        async with keeping(database) as kept:
            await asyncio.sleep(0.1)
            caplog.set_level("DEBUG", "aiosqlite")
            for _ in range(400):
                kept.audit.note(Entry(time.time(), OPENED))
        caplog.set_level("INFO", "aiosqlite")
        assert len(await find_attempts(database, ALL)) == 400
    said = [record.getMessage() for record in caplog.records]
    assert len([text for text in said if text.startswith("executing") and "COMMIT" in text]) == 1


async def test_with_no_retention_nothing_is_written_and_the_rest_goes(database: Database) -> None:
    async with keeping(database) as kept:
        kept.audit.note(Entry(time.time() - 5, OPENED))
    async with keeping(database, retention=0) as kept:
        kept.audit.note(Entry(time.time(), OPENED))
        await until_there_are(0, database)
    assert await find_attempts(database, ALL) == []


async def test_what_is_too_old_goes_in_steps(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SWEEP_PAUSE", 0.001)
    now = time.time()
    async with keeping(database) as kept:
        for number in range(500):
            kept.audit.note(Entry(now - 90 * DAY - 100 + number / 1000, OPENED))
        kept.audit.note(Entry(now - 89 * DAY, OPENED, "@kept:x"))
    assert await count(database) == 501
    async with keeping(database):
        await until_there_are(1, database)
    assert [entry.user_id for entry in await find_attempts(database, ALL)] == ["@kept:x"]


async def test_attempts_wait_for_a_database_that_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_module, "_LOCK_PATIENCE", 0.05)
    monkeypatch.setattr(module, "_RETRY", 0.05)
    async with opened(tmp_path) as database, keeping(database) as kept:
        async with locked(tmp_path):
            kept.audit.note(Entry(time.time(), OPENED))
            await until(lambda: "audit_not_written" in kept.log.getvalue())
            kept.audit.note(Entry(time.time(), OPENED))
            await asyncio.sleep(0.3)
        await until_there_are(2, database)
        await until(lambda: "audit_written_again" in kept.log.getvalue())
        assert kept.log.getvalue().count("audit_not_written") == 1


async def test_attempts_that_broke_off_are_counted_and_never_written_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RETRY", 0.05)
    async with opened(tmp_path) as database:
        async with database.connect() as connection:
            await connection.exec_driver_sql(
                "CREATE TRIGGER full BEFORE INSERT ON logins BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
            )
        async with keeping(database) as kept:
            for _ in range(3):
                kept.audit.note(Entry(time.time(), OPENED))
            await until(lambda: "disk is full" in kept.log.getvalue())
            async with database.connect() as connection:
                await connection.exec_driver_sql("DROP TRIGGER full")
            kept.audit.note(Entry(time.time(), OPENED, "@late:x"))
            await until_there_are(1, database)
        found = await find_attempts(database, ALL)

    assert {(entry.outcome, entry.user_id, entry.reason) for entry in found} == {
        (OPENED, "@late:x", ""),
        (NOT_RECORDED, "", "3 attempts"),
    }


async def test_a_database_that_never_comes_back_fills_no_memory_and_delays_no_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_module, "_LOCK_PATIENCE", 0.05)
    monkeypatch.setattr(module, "_WAITING", 10)
    async with opened(tmp_path) as database:
        kept = Keeping(database)
        async with locked(tmp_path):
            for _ in range(1000):
                kept.audit.note(Entry(time.time(), OPENED))
            await until(lambda: "audit_not_written" in kept.log.getvalue())
            async with asyncio.timeout(3):
                await kept.stop()
        assert kept.audit.waiting <= 10
        assert "audit_lost" in kept.log.getvalue()
        assert "attempts=1000" in kept.log.getvalue()


async def test_a_flood_of_refused_attempts_leaves_few_rows_and_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REFUSED", Bucket(burst=10, refill=1))
    async with opened(tmp_path) as database:
        async with keeping(database) as kept:
            for _ in range(500):
                kept.audit.note(Entry(time.time(), "bad_signature"))
            for _ in range(20):
                kept.audit.note(Entry(time.time(), OPENED))
        found = [(entry.outcome, entry.reason) for entry in await find_attempts(database, ALL)]

    assert found.count((OPENED, "")) == 20
    assert found.count(("bad_signature", "")) == 10
    assert found.count((NOT_RECORDED, "490 attempts")) == 1


async def test_of_who_meets_a_limit_one_attempt_is_written_and_others_are_not_hidden(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        async with keeping(database) as kept:
            for _ in range(5000):
                kept.audit.note(Entry(time.time(), "too_many_attempts", address="192.0.2.1"), "192.0.2.1")
            kept.audit.note(Entry(time.time(), "too_many_attempts", address="192.0.2.2"), "192.0.2.2")
            kept.audit.note(Entry(time.time(), "expired"))
        found = await find_attempts(database, ALL)

    assert sorted((entry.outcome, entry.address, entry.reason) for entry in found) == [
        ("expired", "", ""),
        (NOT_RECORDED, "", "4999 attempts"),
        ("too_many_attempts", "192.0.2.1", ""),
        ("too_many_attempts", "192.0.2.2", ""),
    ]


@pytest.mark.parametrize(
    ("wanted", "users"),
    [
        (AttemptFilter(100), "dcba"),
        (AttemptFilter(2), "dc"),
        (AttemptFilter(100, since=2), "dcb"),
        (AttemptFilter(100, since=2, user_id="b"), "b"),
        (AttemptFilter(100, outcome=OPENED), "ca"),
        (AttemptFilter(100, outcome="expired"), "b"),
        (AttemptFilter(100, outcome=REFUSED), "b"),
        (AttemptFilter(100, subject="s", issuer="i"), "b"),
        (AttemptFilter(100, address="192.0.2.9"), "c"),
        (AttemptFilter(100, address="' OR 1=1 --"), ""),
        (AttemptFilter(100, subject="\ud800\0"), ""),
    ],
)
async def test_attempts_are_found_by_what_is_known_of_them(
    wanted: AttemptFilter, users: str, database: Database
) -> None:
    async with keeping(database, 36500) as kept:
        kept.audit.note(Entry(1, OPENED, "a"))
        kept.audit.note(Entry(2, "expired", "b", "i", "s"))
        kept.audit.note(Entry(3, OPENED, "c", "i2", "s", address="192.0.2.9"))
        kept.audit.note(Entry(3, NOT_RECORDED, "d"))
    assert "".join(entry.user_id for entry in await find_attempts(database, wanted)) == users


async def test_no_text_of_a_client_breaks_it(database: Database) -> None:
    texts = ["\ud800", "\0", "'; DROP TABLE logins; --", "\U0001f600" * 5000, "x" * 10**6]
    async with keeping(database) as kept:
        for text in texts:
            kept.audit.note(Entry(time.time(), OPENED, text, text, text, text, text, text, text))
    found = await find_attempts(database, ALL)

    assert len(found) == len(texts)
    assert max(len(entry.user_agent) for entry in found) == 256
