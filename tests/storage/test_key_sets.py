"""The last good set of each source is kept as it came."""

import pytest

from gateway.errors import Refusal, Refused
from gateway.storage.database import Database
from gateway.storage.key_sets import CLOCKS_APART, KeySets, StoredSet

SOURCE = "https://id.example/jwks"


async def test_a_set_comes_back_as_it_was_kept(database: Database) -> None:
    found = StoredSet(bytes(range(256)), 50)
    await KeySets(database).keep(SOURCE, found)

    assert await KeySets(database).find(SOURCE) == found


async def test_each_source_has_its_own(database: Database) -> None:
    stored = KeySets(database)
    await stored.keep(SOURCE, StoredSet(b"1", 1))
    await stored.keep("other", StoredSet(b"2", 2))

    assert await stored.find(SOURCE) == StoredSet(b"1", 1)
    assert await stored.find("other") == StoredSet(b"2", 2)
    assert await stored.find("none") is None


async def test_the_latest_fetch_stays_whoever_writes_last(database: Database) -> None:
    stored = KeySets(database)
    for moment in (5, 7, 6):
        await stored.keep(SOURCE, StoredSet(b"%d" % moment, moment))

    assert await stored.find(SOURCE) == StoredSet(b"7", 7)


async def test_a_set_from_a_clock_that_was_far_ahead_does_not_stay(database: Database) -> None:
    stored = KeySets(database)
    await stored.keep(SOURCE, StoredSet(b"ahead", 100 + CLOCKS_APART + 1))
    await stored.keep(SOURCE, StoredSet(b"now", 100))

    assert await stored.find(SOURCE) == StoredSet(b"now", 100)


async def test_a_database_that_cannot_is_told(database: Database) -> None:
    async with database.connect() as connection:
        await connection.exec_driver_sql("DROP TABLE key_sets")
    for work in (KeySets(database).find(SOURCE), KeySets(database).keep(SOURCE, StoredSet(b"", 1))):
        with pytest.raises(Refused) as caught:
            await work
        assert caught.value.refusal is Refusal.DATABASE_UNAVAILABLE
