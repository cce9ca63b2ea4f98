"""Sessions from their opening to their end: all of them end, and nobody sees a device that is none of theirs."""

import asyncio
from pathlib import Path

import pytest

from tests.conformance.conftest import WITHOUT_JWT, before, user_id
from tests.conformance.targets import Target
from tests.running_gateway import mint

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.parametrize("case", WITHOUT_JWT, ids=str, indirect=True),
]


async def test_all_sessions_of_a_user_end_and_the_next_one_is_alone(
    target: Target, tmp_path: Path, localpart: str
) -> None:
    async with before(target, tmp_path) as gateway:
        tokens = [(await gateway.log_in(mint(localpart, name="A Name"))).body["access_token"] for _ in range(2)]
        assert {await target.user_of(token) for token in tokens} == {user_id(localpart)}

        assert await gateway.running.provision.sessions.end_all(localpart)
        for token in tokens:
            async with asyncio.timeout(target.patience):
                while await target.user_of(token) is not None:
                    await asyncio.sleep(0.02)

        last = await gateway.log_in(mint(localpart))
        assert await target.devices(last.body["access_token"]) == {last.body["device_id"]}


async def test_ending_the_sessions_of_nobody_makes_nobody(target: Target, tmp_path: Path, localpart: str) -> None:
    async with before(target, tmp_path) as gateway:
        assert not await gateway.running.provision.sessions.end_all(localpart)
        assert not await target.exists(localpart)


async def test_sessions_of_one_device_at_once_end_with_one_of_them(
    target: Target, tmp_path: Path, localpart: str
) -> None:
    async with before(target, tmp_path) as gateway:
        await gateway.log_in(mint(localpart))
        answers = await asyncio.gather(*(gateway.log_in(mint(localpart), device_id="PHONE") for _ in range(5)))

        assert [answer.status for answer in answers] == [200] * 5
        await gateway.running.provision.sessions.end_all(localpart)
        for answer in answers:
            async with asyncio.timeout(target.patience):
                while await target.user_of(answer.body["access_token"]) is not None:
                    await asyncio.sleep(0.02)
