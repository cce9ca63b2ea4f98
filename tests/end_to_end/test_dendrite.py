"""What only a Dendrite of one's own shows: accounts that it lost, its limits, and another server's name."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.real_dendrite import RealDendrite, dendrite_program, lose_users, running_dendrite
from tests.running_gateway import AS_TOKEN, mint, running_gateway

pytestmark = pytest.mark.timeout(900)  # the first one builds it

SESSION = {"as_token": AS_TOKEN}
Start = Callable[..., AbstractContextManager[RealDendrite]]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The directory of a Dendrite that only one test has."""
    place = tmp_path / "dendrite"
    place.mkdir()
    return place


@pytest.fixture
def start(request: pytest.FixtureRequest, place: Path) -> Start:
    program = dendrite_program(request.config.cache.mkdir("dendrite"))
    return lambda **client_api: running_dendrite(place, program, **client_api)


@pytest.fixture
async def lost(tmp_path: Path, place: Path, start: Start, localpart: str) -> str:
    """The name of a user who has logged in, and whom Dendrite has lost since."""
    with start() as dendrite:
        async with running_gateway(tmp_path, dendrite.url, session=SESSION) as gateway:
            assert (await gateway.log_in(mint(localpart))).status == 200
    lose_users(place)
    return localpart


async def test_an_account_that_dendrite_lost_is_made_again_and_its_session_works(
    tmp_path: Path, start: Start, lost: str
) -> None:
    with start() as dendrite:
        async with running_gateway(tmp_path, dendrite.url, session=SESSION) as gateway:
            answer = await gateway.log_in(mint(lost))

            assert answer.status == 200
            token = answer.body["access_token"]
            assert (await dendrite.whoami(token)).body["user_id"] == dendrite.user_id(lost)
            assert "account_made_again" in gateway.log
            devices = await dendrite.call("GET", "/_matrix/client/v3/devices", token)
            assert [device["device_id"] for device in devices.body["devices"]] == [answer.body["device_id"]]


async def test_without_register_user_an_account_that_dendrite_lost_is_not_found(
    tmp_path: Path, start: Start, lost: str
) -> None:
    with start() as dendrite:
        async with running_gateway(tmp_path, dendrite.url, session=SESSION, jwt={"register_user": False}) as gateway:
            for name in (lost, f"{lost}-2"):
                answer = await gateway.log_in(mint(name))
                assert (answer.status, answer.body["error"]) == (403, "User not found")
                assert not await dendrite.exists(name)
            assert "not set up" not in gateway.log


async def test_the_people_of_one_office_log_in_at_once_within_dendrites_limits(
    tmp_path: Path, start: Start, localpart: str
) -> None:
    """Its limits stand as they come: five logins or registrations of one address in each half second."""
    with start(rate_limiting={"enabled": True, "threshold": 5, "cooloff_ms": 500}) as dendrite:
        async with running_gateway(tmp_path, dendrite.url, session=SESSION) as gateway:
            answers = await asyncio.gather(*(gateway.log_in(mint(f"{localpart}-{number}")) for number in range(20)))
    assert [answer.status for answer in answers] == [200] * 20


async def test_a_wrong_server_name_is_seen_before_an_account_is_made(
    tmp_path: Path, start: Start, localpart: str
) -> None:
    with start() as dendrite:
        homeserver = {"server_name": "example.com"}
        async with running_gateway(tmp_path, dendrite.url, session=SESSION, homeserver=homeserver) as gateway:
            answer = await gateway.log_in(mint(localpart))

            assert (answer.status, answer.body["errcode"]) == (502, "M_UNKNOWN")
            assert "server_name must be the homeserver's own" in gateway.log
        assert not await dendrite.exists(localpart)
    rows = sqlite3.connect(tmp_path / "gateway.db").execute("SELECT count(*) FROM accounts").fetchone()
    assert rows == (0,)
