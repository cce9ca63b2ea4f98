"""A logout with a session that only another service can end ends it there; every other one is the homeserver's."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.core.routing import LOGOUT_PATHS
from tests.beside import change
from tests.fake_mas import FakeMas, running_mas
from tests.fake_server import Fault
from tests.raw_http import connected
from tests.running_gateway import SERVER_NAME, RunningGateway, mint, running_gateway
from tests.waiting import until

LOGOUT = "/_matrix/client/v3/logout"


@pytest.fixture
async def mas() -> AsyncIterator[FakeMas]:
    async with running_mas() as running:
        yield running


@pytest.fixture
async def gateway(tmp_path: Path, mas: FakeMas) -> AsyncIterator[RunningGateway]:
    async with running_gateway(tmp_path, mas.homeserver.url, session=mas.settings) as running:
        yield running


async def session(gateway: RunningGateway, name: str = "alice") -> str:
    token: str = (await gateway.log_in(mint(name))).body["access_token"]
    return token


def kept(directory: Path) -> int:
    with closing(sqlite3.connect(directory / "gateway.db")) as database:
        (count,) = database.execute("SELECT count(*) FROM personal_sessions").fetchone()
    return int(count)


@pytest.mark.parametrize("path", sorted(LOGOUT_PATHS))
async def test_a_logout_ends_the_session_where_it_was_made(
    path: str, gateway: RunningGateway, mas: FakeMas, tmp_path: Path
) -> None:
    first, second = await session(gateway), await session(gateway)

    answer = await gateway.call("POST", path, {}, Authorization=f"Bearer {first}")

    assert (answer.status, answer.body) == (200, {})
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert list(mas.homeserver.sessions) == [second]
    assert kept(tmp_path) == 1
    assert mas.homeserver.to("/logout") == []
    again = await gateway.call("POST", path, {}, Authorization=f"Bearer {first}")
    assert (again.status, again.body["errcode"]) == (401, "M_UNKNOWN_TOKEN")
    assert first not in gateway.log


async def test_a_logout_from_everywhere_ends_every_session_of_the_user_alone(
    gateway: RunningGateway, mas: FakeMas, tmp_path: Path
) -> None:
    tokens = [await session(gateway) for _ in range(3)]
    other = await session(gateway, "bob")
    mas.add_others("alice")
    mas.add_others("bob")

    answer = await gateway.call("POST", f"{LOGOUT}/all", {}, Authorization=f"Bearer {tokens[1]}")

    assert (answer.status, answer.body) == (200, {})
    assert list(mas.homeserver.sessions) == [other]
    assert {name for _, name in mas.others.values()} == {"bob"}
    assert kept(tmp_path) == 1


async def test_the_token_may_stand_in_the_query(gateway: RunningGateway, mas: FakeMas) -> None:
    token = await session(gateway)

    assert (await gateway.call("POST", f"{LOGOUT}?access_token={token}")).body == {}
    assert mas.open_sessions == []


async def test_a_logout_from_everywhere_of_a_user_who_is_gone_is_good(gateway: RunningGateway, mas: FakeMas) -> None:
    token = await session(gateway)
    mas.users.clear()
    assert (await gateway.call("POST", f"{LOGOUT}/all", Authorization=f"Bearer {token}")).status == 200


@pytest.mark.parametrize("how", ["revoked elsewhere", "expired"])
@pytest.mark.parametrize("end", ["", "/all"])
async def test_a_token_that_has_ended_ends_nothing_else(
    how: str, end: str, gateway: RunningGateway, mas: FakeMas, tmp_path: Path
) -> None:
    old, new = [(await gateway.log_in(mint(), device_id=f"PHONE{number}")).body["access_token"] for number in (1, 2)]
    if how == "expired":  # which the service shows as active, and the homeserver does not take
        await change(tmp_path, "UPDATE personal_sessions SET expires_at = 1 WHERE device_id = 'PHONE1'")
        mas.homeserver.refused.add(old)
    else:
        mas.revoke(old)

    answer = await gateway.call("POST", LOGOUT + end, {}, Authorization=f"Bearer {old}")

    assert (answer.status, answer.body["errcode"]) == (401, "M_UNKNOWN_TOKEN")
    assert [each.token for each in mas.open_sessions] == [new]
    assert kept(tmp_path) == 1
    assert len(mas.homeserver.to(LOGOUT + end)) == 1


async def test_a_logout_of_a_user_who_is_locked_there_is_not_forgotten(gateway: RunningGateway, mas: FakeMas) -> None:
    """The homeserver takes no token of theirs until the unlock, and would take this one again."""
    token = await session(gateway)
    mas.homeserver.faults["whoami"] = Fault((401, "M_UNKNOWN_TOKEN"), times=9)

    assert (await gateway.call("POST", LOGOUT, Authorization=f"Bearer {token}")).status == 200
    assert mas.open_sessions == []


async def test_a_device_is_called_what_its_client_calls_it(gateway: RunningGateway, mas: FakeMas) -> None:
    await gateway.log_in(mint(), device_id="PHONE", initial_device_display_name="My phone")

    await until(lambda: mas.homeserver.device_names == {"PHONE": "My phone"})


async def test_a_token_of_a_login_that_the_service_took_back_may_come_again(tmp_path: Path, mas: FakeMas) -> None:
    mas.add("alice")
    mas.faults["personal-sessions"] = Fault((500, ""), extra={"errors": []}, times=99)
    jwt = {"single_use": True}
    async with running_gateway(tmp_path, mas.homeserver.url, session=mas.settings, jwt=jwt) as gateway:
        token = mint(jti="1")
        assert (await gateway.log_in(token)).status == 502
        mas.faults.clear()
        assert (await gateway.log_in(token)).status == 200


async def test_what_has_expired_is_ended_beside_the_next_login(
    gateway: RunningGateway, mas: FakeMas, tmp_path: Path
) -> None:
    await session(gateway)
    await change(tmp_path, "UPDATE personal_sessions SET expires_at = 1")
    last = await session(gateway, "bob")

    await until(lambda: kept(tmp_path) == 1)
    assert [each.token for each in mas.open_sessions] == [last]


async def test_a_logout_ends_an_older_session_of_the_device_that_is_left(
    gateway: RunningGateway, mas: FakeMas, tmp_path: Path
) -> None:
    mas.faults["revoke"] = Fault((500, ""))
    tokens = [(await gateway.log_in(mint(), device_id="PHONEPHONE")).body["access_token"] for _ in range(2)]
    await until(lambda: "session_not_ended" in gateway.log)
    mas.faults.clear()
    assert list(mas.homeserver.sessions) == tokens

    assert (await gateway.call("POST", LOGOUT, Authorization=f"Bearer {tokens[1]}")).status == 200

    assert mas.homeserver.sessions == {}
    assert kept(tmp_path) == 0


async def test_a_session_that_is_opened_while_all_are_ended_stays_known(
    gateway: RunningGateway, mas: FakeMas, tmp_path: Path
) -> None:
    token, go_on = await session(gateway), asyncio.Event()
    asked = len(mas.to("/by-username/alice"))
    mas.faults["by-username"] = Fault(wait=go_on)
    logout = asyncio.create_task(gateway.call("POST", f"{LOGOUT}/all", Authorization=f"Bearer {token}"))
    await until(lambda: len(mas.to("/by-username/alice")) > asked)
    later = "VALUES ('digest', 'later', 'alice', 'OTHERDEVICE', NULL)"
    await change(tmp_path, f"INSERT INTO personal_sessions {later}")
    go_on.set()
    assert (await logout).status == 200
    assert kept(tmp_path) == 1


async def test_sessions_are_still_ended_where_logins_with_a_token_are_off(tmp_path: Path, mas: FakeMas) -> None:
    async with running_gateway(tmp_path, mas.homeserver.url, session=mas.settings) as before:
        token = await session(before)
    async with running_gateway(tmp_path, mas.homeserver.url, session=mas.settings, jwt={"enable": False}) as after:
        assert (await after.call("POST", LOGOUT, Authorization=f"Bearer {token}")).status == 200
    assert mas.open_sessions == []


@pytest.mark.parametrize("end", ["", "/all"])
@pytest.mark.parametrize("token", ["syt_1", "mpt_unknown"])
async def test_any_other_logout_is_the_homeservers(
    end: str, token: str, gateway: RunningGateway, mas: FakeMas
) -> None:
    mas.homeserver.sessions["syt_1"] = f"@alice:{SERVER_NAME}"
    mas.homeserver.devices["syt_1"] = "PHONE"

    answer = await gateway.call("POST", LOGOUT + end, {"a": 1}, Authorization=f"Bearer {token}")

    assert answer.status == (200 if token == "syt_1" else 401)
    (seen,) = mas.homeserver.to(LOGOUT + end)
    assert (seen.body, seen.values("authorization")) == (b'{"a": 1}', [f"Bearer {token}".encode()])
    assert "syt_1" not in mas.homeserver.sessions or token != "syt_1"


@pytest.mark.parametrize("path", [f"{LOGOUT}/", f"{LOGOUT}/all/", "/_matrix/client/v3//logout"])
async def test_other_spellings_and_logouts_without_a_token_are_relayed(
    path: str, gateway: RunningGateway, mas: FakeMas
) -> None:
    token = await session(gateway)

    await gateway.call("POST", path, Authorization=f"Bearer {token}")
    await gateway.call("POST", LOGOUT)
    await gateway.call("POST", LOGOUT, Authorization="Basic eDp5")

    assert len(mas.homeserver.seen) == 3
    assert len(mas.open_sessions) == 1


async def test_a_service_that_is_down_leaves_the_session_for_the_next_try(
    gateway: RunningGateway, mas: FakeMas, tmp_path: Path
) -> None:
    token = await session(gateway)
    for fault in (Fault((500, "")), Fault(breaks="head", times=2)):
        mas.faults["revoke"] = fault
        assert (await gateway.call("POST", LOGOUT, Authorization=f"Bearer {token}")).status == 502
        mas.faults.clear()
    assert kept(tmp_path) == 1
    assert (await gateway.call("POST", LOGOUT, Authorization=f"Bearer {token}")).status == 200


async def test_a_database_that_is_gone_stops_the_logouts_of_its_sessions_alone(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    token = await session(gateway)
    with closing(sqlite3.connect(tmp_path / "gateway.db")) as database:
        database.execute("DROP TABLE personal_sessions")

    assert (await gateway.call("POST", LOGOUT, Authorization=f"Bearer {token}")).status == 503
    assert (await gateway.call("POST", LOGOUT, Authorization="Bearer syt_1")).status == 401


async def test_two_logouts_at_once_both_succeed(gateway: RunningGateway, mas: FakeMas) -> None:
    token = await session(gateway)

    answers = await asyncio.gather(*(gateway.call("POST", LOGOUT, Authorization=f"Bearer {token}") for _ in range(2)))

    assert 200 in {answer.status for answer in answers} <= {200, 401}
    assert mas.open_sessions == []


async def test_a_body_is_not_taken_for_the_next_request(gateway: RunningGateway, mas: FakeMas) -> None:
    token = await session(gateway)
    body = b'{"x": "%s"}' % (b"y" * 30_000)
    fields = f"Host: x\r\nAuthorization: Bearer {token}\r\nContent-Length: {len(body)}"
    head = f"POST {LOGOUT} HTTP/1.1\r\n{fields}\r\n\r\n"
    async with connected(gateway.port) as client:
        await client.send(head.encode() + body[:100])
        await client.send(body[100:] + b"GET /_matrix/client/versions HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.answer()).endswith(b"\r\n\r\n{}")
        assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
    assert mas.open_sessions == []
