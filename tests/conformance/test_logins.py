"""The same logins before every kind of homeserver, fake and real, by every way to a session that it has."""

import asyncio
from pathlib import Path

import pytest

from tests.conformance.conftest import BY_APPSERVICE, before, refusing, rows, user_id
from tests.conformance.targets import Target
from tests.flavours import PALPO, TUWUNEL
from tests.running_gateway import mint

pytestmark = pytest.mark.timeout(900)  # one case installs an old Synapse first, another one builds Dendrite
PHONE = "PHONE-0000"


async def test_the_first_login_makes_the_account_and_the_second_finds_it(
    target: Target, tmp_path: Path, localpart: str
) -> None:
    async with before(target, tmp_path) as gateway:
        answers = [await gateway.log_in(mint(localpart)) for _ in range(2)]

        assert await target.exists(localpart)
        for answer in answers:
            assert answer.body.keys() >= {"user_id", "access_token", "device_id"}
            assert (answer.status, answer.body["user_id"]) == (200, user_id(localpart))
            assert await target.user_of(answer.body["access_token"]) == user_id(localpart)
        assert len({answer.body["access_token"] for answer in answers}) == 2
        assert len({answer.body["device_id"] for answer in answers}) == 2
        assert gateway.log.count("made=True") == 1


async def test_first_logins_of_one_user_at_once_all_succeed(target: Target, tmp_path: Path, localpart: str) -> None:
    async with before(target, tmp_path) as gateway:
        answers = await asyncio.gather(*(gateway.log_in(mint(localpart)) for _ in range(20)))

        assert [answer.status for answer in answers] == [200] * 20
        for answer in answers:
            assert await target.user_of(answer.body["access_token"]) == user_id(localpart)
        # The one that made it, and one that can't know whether a login before it had. A JWT login does not say, and
        # Palpo and tuwunel answer several registrations of one name with 200.
        unsaid = target.session.get("method") == "jwt" or target.flavour in {PALPO, TUWUNEL}
        assert 1 <= gateway.log.count("made=True") <= (20 if unsaid else 2)
    assert rows(tmp_path) == [(localpart, "active")]


async def test_first_logins_of_many_users_at_once_all_succeed(target: Target, tmp_path: Path, localpart: str) -> None:
    names = [f"{localpart}-{number}" for number in range(20)]
    async with before(target, tmp_path) as gateway:
        answers = await asyncio.gather(*(gateway.log_in(mint(name)) for name in names))

    assert [(answer.status, answer.body.get("user_id")) for answer in answers] == [
        (200, user_id(name)) for name in names
    ]


async def test_a_device_gets_its_next_session_by_its_id(target: Target, tmp_path: Path, localpart: str) -> None:
    async with before(target, tmp_path) as gateway:
        first = await gateway.log_in(mint(localpart), device_id=PHONE, initial_device_display_name="Phone")
        assert await target.devices(first.body["access_token"]) == {PHONE: "Phone"}
        second = await gateway.log_in(mint(localpart), device_id=PHONE)

        assert first.body["device_id"] == second.body["device_id"] == PHONE
        assert (await target.devices(second.body["access_token"])).keys() == {PHONE}
        assert await target.user_of(second.body["access_token"]) == user_id(localpart)
        lasts = None if target.flavour.ends_old else user_id(localpart)
        async with asyncio.timeout(target.patience):
            while await target.user_of(first.body["access_token"]) != lasts:
                await asyncio.sleep(0.02)


async def test_without_register_user_only_users_who_are_there_log_in(
    target: Target, tmp_path: Path, localpart: str
) -> None:
    async with before(target, tmp_path, jwt={"register_user": False}) as gateway:
        for _ in range(2):
            answer = await gateway.log_in(mint(localpart))
            assert (answer.status, answer.body["error"]) == (403, "User not found")
        assert not await target.exists(localpart)
        await target.add(localpart)
        for _ in range(2):
            assert (await gateway.log_in(mint(localpart))).body["user_id"] == user_id(localpart)
        assert "made=True" not in gateway.log


async def test_an_account_that_was_there_is_linked(target: Target, tmp_path: Path, localpart: str) -> None:
    await target.add(localpart)
    async with before(target, tmp_path) as gateway:
        answer = await gateway.log_in(mint(localpart))
        assert (answer.status, answer.body["user_id"]) == (200, user_id(localpart))
        assert "made=True" not in gateway.log


async def test_an_account_that_was_there_is_refused_where_configured(
    target: Target, tmp_path: Path, localpart: str
) -> None:
    await target.add(localpart)
    async with refusing(target, tmp_path) as gateway:
        answer = await gateway.log_in(mint(localpart))
        assert (answer.status, answer.body["error"]) == (403, "This identity may not log in here")
        new = await gateway.log_in(mint(f"{localpart}-2"))
        assert (new.status, new.body["user_id"]) == (200, user_id(f"{localpart}-2"))


async def test_accounts_are_made_where_nobody_else_may_register(
    target: Target, tmp_path: Path, localpart: str
) -> None:
    own = {"username": f"{localpart}-2", "password": "a password of 8 or more", "auth": {"type": "m.login.dummy"}}
    async with before(target, tmp_path) as gateway:
        refused = await gateway.call("POST", "/_matrix/client/v3/register", own)
        if refused.status == 200 or "flows" in refused.body:
            pytest.skip(f"registration is on at this {target.flavour.name}")
        assert (await gateway.log_in(mint(localpart))).status == 200
        assert await target.exists(localpart)


@pytest.mark.parametrize("what", ["locked", "deactivated"])
async def test_a_user_who_may_not_log_in_hears_it_from_the_homeserver(
    what: str, target: Target, tmp_path: Path, localpart: str
) -> None:
    await target.add(localpart)
    await (target.lock if what == "locked" else target.deactivate)(localpart)
    async with before(target, tmp_path) as gateway:
        answer = await gateway.log_in(mint(localpart))

    told_by_session = (403, "M_USER_DEACTIVATED") if what == "deactivated" and target.flavour.tells_guests else None
    status, errcode = getattr(target.flavour, what) or told_by_session or (200, None)
    assert (answer.status, answer.body.get("errcode")) == (status, errcode)
    assert what != "locked" or status == 200 or answer.body["soft_logout"] is True


@pytest.mark.parametrize("case", BY_APPSERVICE, ids=str, indirect=True)
async def test_a_user_outside_the_namespace_is_the_operators_business(
    target: Target, tmp_path: Path, localpart: str
) -> None:
    async with before(target, tmp_path, target.narrow()) as gateway:
        inside = localpart.replace("-", "")
        assert (await gateway.log_in(mint(inside))).body["user_id"] == user_id(inside)
        answer = await gateway.log_in(mint(localpart))
        assert (answer.status, answer.body["error"]) == (502, "The login gateway is not set up for this homeserver")
        assert "regex" in gateway.log
        assert not await target.exists(localpart)


async def test_a_wrong_secret_of_the_gateway_is_the_operators_business(
    target: Target, tmp_path: Path, localpart: str
) -> None:
    async with before(target, tmp_path, target.spoiled) as gateway:
        answer = await gateway.log_in(mint(localpart))
        assert (answer.status, answer.body["errcode"]) == (502, "M_UNKNOWN")
        assert any(key in gateway.log for key in ("as_token", "jwt_secret", "mas_client_secret"))
        assert not await target.exists(localpart)
    async with before(target, tmp_path) as gateway:
        assert (await gateway.log_in(mint(localpart))).status == 200


async def test_a_refresh_token_comes_where_the_homeserver_has_some_that_last(
    target: Target, tmp_path: Path, localpart: str
) -> None:
    async with before(target, tmp_path) as gateway:
        answer = await gateway.log_in(mint(localpart), refresh_token=True)

        assert answer.status == 200
        lasts = bool(target.flavour.refreshes)
        assert ("refresh_token" in answer.body) is ("expires_in_ms" in answer.body) is lasts
        if lasts:
            body = {"refresh_token": answer.body["refresh_token"]}
            refreshed = await gateway.call("POST", "/_matrix/client/v3/refresh", body)
            assert refreshed.status == 200
            assert await target.user_of(refreshed.body["access_token"]) == user_id(localpart)


@pytest.mark.parametrize("case", BY_APPSERVICE, ids=str, indirect=True)
async def test_a_wrong_server_name_is_seen_before_an_account_is_made(
    target: Target, tmp_path: Path, localpart: str
) -> None:
    async with before(target, tmp_path, homeserver={"server_name": "example.com"}) as gateway:
        answer = await gateway.log_in(mint(localpart))

        assert (answer.status, answer.body["errcode"]) == (502, "M_UNKNOWN")
        assert "server_name must be the homeserver's own" in gateway.log
    assert not await target.exists(localpart)
    assert rows(tmp_path) == []
