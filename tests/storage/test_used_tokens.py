"""A token logs in once, also when it comes many times at once, and is forgotten when it could not be used again."""

import asyncio
import io
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import select

from gateway.logs import LogSettings, get_logger
from gateway.storage import used_tokens as module
from gateway.storage.database import Database, DatabaseSettings, open_database
from gateway.storage.schema import used_tokens
from gateway.storage.used_tokens import GRACE_REPEATS, GRACE_SECONDS, SPARE_SECONDS, UsedTokens
from gateway.tasks import Background


@pytest.fixture
def background() -> Background:
    return Background(get_logger(LogSettings(), io.StringIO()))


@pytest.fixture
async def used(database: Database, background: Background) -> AsyncIterator[UsedTokens]:
    yield UsedTokens(database, background)
    await background.close(5)


@pytest.fixture
async def other(settings: DatabaseSettings) -> AsyncIterator[UsedTokens]:
    """Those of another process on the same database."""
    background = Background(get_logger(LogSettings(), io.StringIO()))
    async with open_database(settings) as opened:
        yield UsedTokens(opened, background)
        await background.close(5)


async def ids(database: Database) -> list[str]:
    return [row[0] for row in await database.rows(select(used_tokens.c.token_id).order_by(used_tokens.c.token_id))]


async def keep(database: Database, *token_ids: str, expires_at: int) -> None:
    rows = [{"issuer": "iss", "token_id": token_id, "expires_at": expires_at} for token_id in token_ids]
    async with database.transaction() as connection:
        await connection.execute(database.insert(used_tokens), rows)


async def test_of_many_uses_at_once_one_is_the_first(used: UsedTokens) -> None:
    first = await asyncio.gather(*(used.use("iss", "1", 100, now=50) for _ in range(10)))

    assert sorted(first) == [False] * 9 + [True]


async def test_the_same_id_of_another_issuer_is_another_token(used: UsedTokens) -> None:
    assert await used.use("iss", "1", 100, now=50)
    assert await used.use("other", "1", 100, now=50)


@pytest.mark.parametrize(("now", "forgotten"), [(100, False), (100.9, False), (101.9, False), (102, True)])
async def test_a_token_is_forgotten_only_when_it_has_expired(
    database: Database, background: Background, now: float, *, forgotten: bool
) -> None:
    assert await UsedTokens(database, background).use("iss", "1", 100.5, now=50)
    assert await UsedTokens(database, background).use("iss", "2", 300, now=now + SPARE_SECONDS)
    await background.close(5)

    assert await ids(database) == (["2"] if forgotten else ["1", "2"])


async def test_a_clock_that_is_ahead_forgets_no_token_that_another_gateway_takes(
    used: UsedTokens, other: UsedTokens, background: Background
) -> None:
    assert await used.use("iss", "1", 1060, now=900)
    assert await used.use("iss", "2", 9999, now=1090)  # the clock here is 120 s ahead
    await background.close(5)

    assert not await other.use("iss", "1", 1060, now=970)


async def test_a_login_that_waited_finds_the_use_of_its_token(used: UsedTokens, background: Background) -> None:
    assert await used.use("iss", "1", 1000, now=900)
    began = 999.9
    assert await used.use("iss", "2", 9999, now=began + 5)
    await background.close(5)

    assert not await used.use("iss", "1", 1000, now=began)


async def test_a_token_that_never_expires_is_never_forgotten(used: UsedTokens, background: Background) -> None:
    assert await used.use("iss", "1", None, now=50)
    assert await used.use("iss", "2", None, now=2**53)
    await background.close(5)

    assert not await used.use("iss", "1", None, now=2**53)


async def test_a_token_that_is_given_back_can_be_used_once_more(used: UsedTokens) -> None:
    for issuer in ("iss", "other"):
        assert await used.use(issuer, "1", 100, now=50)
    await used.give_back("iss", "1")

    assert [await used.use(issuer, "1", 100, now=50) for issuer in ("iss", "other", "iss")] == [True, False, False]


async def test_two_processes_share_what_was_used(used: UsedTokens, other: UsedTokens) -> None:
    first = await asyncio.gather(*(each.use("iss", "1", 100, now=50) for each in (used, other) * 5))

    assert sorted(first) == [False] * 9 + [True]


@pytest.mark.parametrize(
    ("device_id", "after", "repeated"),
    [
        ("A", 0, True),
        ("A", GRACE_SECONDS, True),
        ("A", GRACE_SECONDS + 1, False),
        ("A", -GRACE_SECONDS - 1, False),
        ("a", 0, False),
        ("B", 0, False),
        (None, 0, False),
    ],
)
async def test_a_token_comes_again_with_its_device_for_a_while(
    used: UsedTokens, device_id: str | None, after: float, *, repeated: bool
) -> None:
    assert await used.use("iss", "1", 1000, 500, "A")

    assert await used.use("iss", "1", 1000, 500 + after, device_id) is repeated


async def test_a_use_without_a_device_is_not_repeated(used: UsedTokens) -> None:
    assert await used.use("iss", "1", 1000, 500)

    assert not await used.use("iss", "1", 1000, 500, "A")
    assert not await used.use("iss", "1", 1000, 500)


async def test_repetitions_do_not_prolong_the_grace(used: UsedTokens) -> None:
    uses = [await used.use("iss", "1", 1000, 500 + after, "A") for after in (0, 20, 30, 40)]

    assert uses == [True, True, True, False]


async def test_a_token_comes_again_so_often_and_no_more(used: UsedTokens, other: UsedTokens) -> None:
    uses = await asyncio.gather(*(each.use("iss", "1", 100, 50, "A") for each in (used, other) * (GRACE_REPEATS + 1)))

    assert sum(uses) == 1 + GRACE_REPEATS


async def test_of_two_devices_in_two_processes_at_once_one_has_the_token(used: UsedTokens, other: UsedTokens) -> None:
    first = await asyncio.gather(
        *(each.use("iss", "1", 100, 50, device) for device in ("A", "B", "C") for each in (used, other) * 3)
    )

    assert sorted(first) == [False] * 12 + [True] * 6
    assert {tuple(first[:6]), tuple(first[6:12]), tuple(first[12:])} == {(True,) * 6, (False,) * 6}


async def test_a_token_that_came_again_is_not_given_back(used: UsedTokens) -> None:
    for _ in range(2):
        assert await used.use("iss", "1", 100, 50, "A")
    await used.give_back("iss", "1")

    assert not await used.use("iss", "1", 100, 50, "B")
    assert await used.use("iss", "1", 100, 50, "A")


async def test_a_row_from_before_the_grace_has_none(used: UsedTokens, database: Database) -> None:
    await keep(database, "1", expires_at=100)

    assert not await used.use("iss", "1", 100, 50, "A")


async def test_a_login_does_not_pay_for_the_many_that_expired_and_they_go_beside_it(
    used: UsedTokens, background: Background, database: Database
) -> None:
    await keep(database, *(f"old {number}" for number in range(1000)), expires_at=10)

    assert await used.use("iss", "new", 9999, 50 + SPARE_SECONDS)

    assert len(await ids(database)) == 1001
    await background.close(5)
    assert await ids(database) == ["new"]


async def test_what_one_sweep_leaves_the_next_one_takes(
    used: UsedTokens, background: Background, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SWEEP_STEPS", 1)
    await keep(database, *(f"old {number}" for number in range(300)), expires_at=10)
    left = []
    for number in range(3):
        assert await used.use("iss", f"new {number}", 9999, 50 + SPARE_SECONDS)
        await background.close(5)
        left.append(sum(name.startswith("old") for name in await ids(database)))

    assert left == [100, 0, 0]
