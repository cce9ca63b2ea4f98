"""What is known of avatars outlives the process, one row for each user."""

import pytest

from gateway.core.avatars import Avatar
from gateway.errors import Refusal, Refused
from gateway.storage.avatars import Avatars
from gateway.storage.database import Database, DatabaseSettings, open_database


async def test_the_last_one_of_each_user_is_known(settings: DatabaseSettings) -> None:
    first, last = Avatar("s", "c", "mxc://example.org/a"), Avatar("t", "", "mxc://example.org/b")
    async with open_database(settings) as database:
        avatars = Avatars(database)
        assert await avatars.find("alice") == Avatar()
        await avatars.note("alice", first)
        await avatars.note("bob", first)
        await avatars.note("alice", last)
    async with open_database(settings) as database:
        assert await Avatars(database).find("alice") == last
        assert await Avatars(database).find("bob") == first


async def test_a_database_that_goes_is_a_refusal(database: Database) -> None:
    async with database.connect() as connection:
        await connection.exec_driver_sql("DROP TABLE avatars")
    for work in (Avatars(database).find("alice"), Avatars(database).note("alice", Avatar())):
        with pytest.raises(Refused) as refused:
            await work
        assert refused.value.refusal is Refusal.DATABASE_UNAVAILABLE
