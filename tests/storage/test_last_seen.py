"""When users were seen is written beside the requests, and at the latest when the gateway stops."""

import io

from gateway.core.identity import Identity
from gateway.logs import LogSettings, get_logger
from gateway.storage.accounts import Accounts
from gateway.storage.database import DatabaseSettings, open_database
from gateway.storage.last_seen import LastSeen
from gateway.tasks import Background


async def test_the_last_moment_of_each_user_is_written_when_the_gateway_stops(settings: DatabaseSettings) -> None:
    async with open_database(settings) as database:
        accounts = Accounts(database)
        for name in ("alice", "bob"):
            await accounts.claim(Identity("iss", name, name, f"@{name}:example.org"), 1)
        background = Background(get_logger(LogSettings(), io.StringIO()))
        seen = LastSeen(accounts, background)

        seen.note("alice", 5.5)
        seen.note("bob", 6.5)
        seen.note("alice", 7.5)
        seen.hurry()
        await background.close(5)

        assert [account.last_seen_at for account in await accounts.all()] == [7, 6]


async def test_a_database_that_goes_is_logged_and_fails_nothing(settings: DatabaseSettings) -> None:
    stream = io.StringIO()
    async with open_database(settings) as database:
        async with database.connect() as connection:
            await connection.exec_driver_sql("DROP TABLE accounts")
        background = Background(get_logger(LogSettings(), stream))
        seen = LastSeen(Accounts(database), background)

        seen.note("alice", 5)
        seen.hurry()
        await background.close(5)

    assert "background_task_failed" in stream.getvalue()
