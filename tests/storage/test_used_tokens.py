"""A token logs in once, also when it comes many times at once, and is forgotten when it could not be used again."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.storage.database import Database, DatabaseSettings, open_database
from gateway.storage.used_tokens import UsedTokens


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(DatabaseSettings(url=f"sqlite:///{tmp_path}/gateway.db")) as opened:
        yield opened


@pytest.fixture
def used(database: Database) -> UsedTokens:
    return UsedTokens(database)


async def test_of_many_uses_at_once_one_is_the_first(used: UsedTokens) -> None:
    first = await asyncio.gather(*(used.use("iss", "1", 100, now=50) for _ in range(10)))

    assert sorted(first) == [False] * 9 + [True]


async def test_the_same_id_of_another_issuer_is_another_token(used: UsedTokens) -> None:
    assert await used.use("iss", "1", 100, now=50)
    assert await used.use("other", "1", 100, now=50)


@pytest.mark.parametrize(("now", "unused"), [(100, False), (100.9, False), (101.9, False), (102, True)])
async def test_a_token_is_forgotten_only_when_it_has_expired(used: UsedTokens, now: float, *, unused: bool) -> None:
    assert await used.use("iss", "1", 100.5, now=50)

    assert await used.use("iss", "1", 300, now=now) is unused


async def test_a_token_that_never_expires_is_never_forgotten(used: UsedTokens) -> None:
    assert await used.use("iss", "1", None, now=50)

    assert not await used.use("iss", "1", None, now=2**53)


async def test_a_token_that_is_given_back_can_be_used_once_more(used: UsedTokens) -> None:
    for issuer in ("iss", "other"):
        assert await used.use(issuer, "1", 100, now=50)
    await used.give_back("iss", "1")

    assert [await used.use(issuer, "1", 100, now=50) for issuer in ("iss", "other", "iss")] == [True, False, False]


async def test_two_processes_share_what_was_used(used: UsedTokens, tmp_path: Path) -> None:
    async with open_database(DatabaseSettings(url=f"sqlite:///{tmp_path}/gateway.db")) as other:
        first = await asyncio.gather(
            *(each.use("iss", "1", 100, now=50) for each in (used, UsedTokens(other)) for _ in range(5))
        )

    assert sorted(first) == [False] * 9 + [True]
