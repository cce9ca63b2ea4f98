"""What a restart leaves: of the homeserver, of the gateway, in the middle of a registration, and from a backup."""

import time
from pathlib import Path

import pytest

from gateway.core.accounts import REGISTRATION_SECONDS
from tests.beside import change
from tests.conformance.conftest import asking, before, refusing, rows, user_id
from tests.conformance.targets import Target
from tests.flavours import CONDUIT
from tests.running_gateway import mint

pytestmark = pytest.mark.timeout(900)


async def test_logins_go_on_when_the_homeserver_is_back(target: Target, tmp_path: Path, localpart: str) -> None:
    async with before(target, tmp_path) as gateway:
        first = await gateway.log_in(mint(localpart))
        async with target.stopped():
            for name in (localpart, f"{localpart}-2"):
                assert (await gateway.log_in(mint(name))).status == 502
        second = await gateway.log_in(mint(localpart))
        assert (await gateway.log_in(mint(f"{localpart}-2"))).status == 200

    for answer in (first, second):
        assert answer.status == 200
        assert await target.user_of(answer.body["access_token"]) == user_id(localpart)


async def test_the_gateway_knows_its_accounts_when_it_is_back(target: Target, tmp_path: Path, localpart: str) -> None:
    for made in (1, 0):
        async with refusing(target, tmp_path) as gateway:
            assert (await gateway.log_in(mint(localpart))).status == 200
            assert gateway.log.count("made=True") == made
    assert rows(tmp_path) == [(localpart, "active")]


@pytest.mark.parametrize("there", [True, False])
async def test_a_registration_that_a_crash_broke_off_is_finished_by_the_next_login(
    target: Target, tmp_path: Path, localpart: str, *, there: bool
) -> None:
    if there:
        await target.add(localpart)
    async with refusing(target, tmp_path):
        pass  # which makes the database
    began = int(time.time()) - REGISTRATION_SECONDS - 1
    row = f"('{localpart}', '', '{localpart}', 'registering', {began}, {began})"
    await change(tmp_path, f"INSERT INTO accounts VALUES {row}")
    async with refusing(target, tmp_path) as gateway:
        answer = await gateway.log_in(mint(localpart))
        assert (answer.status, answer.body.get("user_id")) == (200, user_id(localpart))
        assert await target.user_of(answer.body["access_token"]) == user_id(localpart)
    assert rows(tmp_path) == [(localpart, "active")]


async def lose(target: Target, localpart: str) -> None:
    if target.flavour is CONDUIT:
        pytest.skip("Conduit breaks the connection off instead of saying that there is no such user")
    await target.lose(localpart)


async def test_an_account_that_the_homeserver_lost_is_made_again_and_its_session_works(
    target: Target, tmp_path: Path, localpart: str
) -> None:
    async with before(target, tmp_path) as gateway:
        assert (await gateway.log_in(mint(localpart))).status == 200
        await lose(target, localpart)
        answer = await gateway.log_in(mint(localpart))

        assert answer.status == 200
        assert await target.user_of(answer.body["access_token"]) == user_id(localpart)
        assert (await target.devices(answer.body["access_token"])).keys() == {answer.body["device_id"]}
        assert "account_made_again" in gateway.log or target.session.get("method") == "jwt"


async def test_without_register_user_an_account_that_the_homeserver_lost_is_not_found(
    target: Target, tmp_path: Path, localpart: str
) -> None:
    async with before(target, tmp_path) as gateway:
        assert (await gateway.log_in(mint(localpart))).status == 200
    await lose(target, localpart)
    async with before(target, tmp_path, asking(target), jwt={"register_user": False}) as gateway:
        answer = await gateway.log_in(mint(localpart))

        assert (answer.status, answer.body.get("error")) == (403, "User not found")
        assert not await target.exists(localpart)
        assert "not set up" not in gateway.log
