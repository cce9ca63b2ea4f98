"""The admin API of Matrix Authentication Service: its token, and what each of its answers means."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from gateway.errors import Refusal, Refused
from gateway.upstream.answers import MaybeMade
from gateway.upstream.mas import MasAdmin, MasUser
from gateway.upstream.mas_answers import opened
from gateway.upstream.pool import NotConnected
from gateway.upstream.sessions import SessionSettings
from tests.fake_mas import CLIENT_SECRET, FakeMas, running_mas
from tests.fake_server import Fault
from tests.running_gateway import SERVER_NAME

FIND = "/api/admin/v1/users/by-username/alice"


def admin_of(mas: FakeMas, secret: str = CLIENT_SECRET, **settings: Any) -> MasAdmin:
    built = SessionSettings.model_validate({**mas.settings, **settings})
    return MasAdmin(built, secret, SERVER_NAME, connect_timeout=1)


@pytest.fixture
async def mas() -> AsyncIterator[FakeMas]:
    async with running_mas() as running:
        yield running


@pytest.fixture
async def admin(mas: FakeMas) -> AsyncIterator[MasAdmin]:
    built = admin_of(mas)
    yield built
    await built.close()


async def test_one_token_serves_many_calls_also_those_at_once(mas: FakeMas, admin: MasAdmin) -> None:
    mas.add("alice")

    await asyncio.gather(*(admin.find_user("alice") for _ in range(20)))
    await admin.find_user("alice")

    assert len(mas.to("/oauth2/token")) == len(mas.to("/site-config")) == 1
    assert len(mas.seen) == 23


async def test_a_token_that_ends_soon_is_asked_for_anew(mas: FakeMas, admin: MasAdmin) -> None:
    mas.lifetime = 1
    await admin.find_user("alice")
    await asyncio.sleep(0.6)
    await admin.find_user("alice")

    assert len(mas.to("/oauth2/token")) == 2


async def test_a_token_that_the_service_forgot_is_replaced_once_for_all(mas: FakeMas, admin: MasAdmin) -> None:
    await admin.find_user("alice")
    mas.tokens.clear()

    assert await admin.add_user("alice")
    await asyncio.gather(*(admin.find_user("alice") for _ in range(5)))

    assert len(mas.to("/oauth2/token")) == 2


async def test_a_token_that_is_not_to_be_had_costs_those_who_wait_no_more_than_one(
    mas: FakeMas, admin: MasAdmin
) -> None:
    go_on = asyncio.Event()
    mas.faults["token"] = Fault((503, ""), wait=go_on, times=-1)
    waiting = [asyncio.create_task(admin.find_user("alice")) for _ in range(20)]
    await mas.arrived.wait()
    go_on.set()

    outcomes = await asyncio.gather(*waiting, return_exceptions=True)

    assert {getattr(outcome, "refusal", outcome) for outcome in outcomes} == {Refusal.HOMESERVER_UNREACHABLE}
    assert len(mas.to("/oauth2/token")) == 1
    mas.faults.clear()
    assert await admin.find_user("alice") is None


async def test_a_session_is_asked_for_again_until_the_homeserver_knows_the_user(
    mas: FakeMas, admin: MasAdmin
) -> None:
    mas.tells_late = 3
    await admin.add_user("alice")
    user = await admin.find_user("alice")
    assert user is not None

    assert (await admin.open_session(user, "phone", "PHONEPHONE", 0)).status == 201
    assert len(mas.to("/personal-sessions")) == 4


@pytest.mark.parametrize("answer", [(500, False), (502, True)])
async def test_a_failure_that_may_be_another_server_s_is_not_tried_again(
    mas: FakeMas, admin: MasAdmin, answer: tuple[int, bool]
) -> None:
    status, with_errors = answer
    mas.add("alice")
    user = await admin.find_user("alice")
    assert user is not None
    mas.answers["/api/admin/v1/personal-sessions"] = lambda: web.json_response(
        {"errors": []} if with_errors else {}, status=status
    )

    with pytest.raises(Refused):
        await admin.open_session(user, "phone", "PHONEPHONE", 0)
    assert len(mas.to("/personal-sessions")) == 1


async def test_a_caller_that_goes_away_while_a_token_is_asked_for_hinders_nobody(
    mas: FakeMas, admin: MasAdmin
) -> None:
    mas.faults["token"] = Fault(wait=(go_on := asyncio.Event()))
    first = asyncio.create_task(admin.find_user("alice"))
    await mas.arrived.wait()
    second = asyncio.create_task(admin.find_user("alice"))
    first.cancel()
    go_on.set()

    assert await second is None


async def test_a_version_that_does_not_tell_its_server_name_is_taken(mas: FakeMas, admin: MasAdmin) -> None:
    mas.answers["/api/admin/v1/site-config"] = lambda: web.Response(status=404, text="<html>")

    assert await admin.find_user("alice") is None


@pytest.mark.parametrize("server_name", ["other.example", None, 3])
async def test_nothing_is_made_at_the_service_of_another_server(
    mas: FakeMas, admin: MasAdmin, server_name: object
) -> None:
    mas.add("bob")
    mas.answers["/api/admin/v1/site-config"] = lambda: web.json_response({"server_name": server_name})
    for attempt in (admin.add_user("alice"), admin.find_user("bob"), admin.end_all("bob")):
        with pytest.raises(Refused, match="mas_url") as refused:
            await attempt
        assert refused.value.refusal is Refusal.HOMESERVER_REFUSES_GATEWAY
        assert not isinstance(refused.value, MaybeMade)
    assert {seen.path for seen in mas.seen} == {"/oauth2/token", "/api/admin/v1/site-config"}

    mas.answers.clear()
    assert await admin.add_user("alice")


async def test_the_token_endpoint_may_be_elsewhere(mas: FakeMas) -> None:
    async with running_mas() as other:
        admin = admin_of(other, mas_oauth_url=mas.url)
        other.tokens = mas.tokens

        assert await admin.find_user("alice") is None

        assert (len(mas.to("/oauth2/token")), len(other.to("/oauth2/token"))) == (1, 0)
        await admin.close()


@pytest.mark.parametrize(
    ("secret", "settings"), [("wrong", {}), (CLIENT_SECRET, {"mas_client_id": "another"})], ids=["secret", "id"]
)
async def test_a_client_that_is_not_known_is_the_operators_business(
    mas: FakeMas, secret: str, settings: dict[str, str]
) -> None:
    admin = admin_of(mas, secret, **settings)
    with pytest.raises(Refused, match="invalid_client; mas_client_id and mas_client_secret must be") as refused:
        await admin.find_user("alice")
    assert refused.value.refusal is Refusal.HOMESERVER_REFUSES_GATEWAY
    await admin.close()


async def test_a_client_without_the_right_is_the_operators_business(mas: FakeMas, admin: MasAdmin) -> None:
    mas.faults["by-username"] = Fault((401, ""), times=9)
    with pytest.raises(Refused, match="the policy must name it in admin_clients"):
        await admin.find_user("alice")
    assert len(mas.to("/by-username/alice")) == 2


async def test_a_user_is_found_by_exactly_this_name(mas: FakeMas, admin: MasAdmin) -> None:
    found = mas.add("alice")
    mas.add("Bob")

    assert await admin.find_user("alice") == MasUser(found.id, locked=False, deactivated=False)
    assert await admin.find_user("bob") is None
    assert await admin.find_user("a/../b%?#") is None
    assert mas.seen[-1].target == "/api/admin/v1/users/by-username/a%2F..%2Fb%25%3F%23"


async def test_what_is_not_the_admin_api_is_not_believed(mas: FakeMas, admin: MasAdmin) -> None:
    for answer in (
        web.Response(status=404, text="not here"),
        web.json_response({"data": {"attributes": {"username": "alice"}, "id": "../x"}}),
        web.json_response({"data": {"attributes": {"username": "alice"}, "id": 3}}),
    ):
        mas.answers = {FIND: lambda answer=answer: answer}  # type: ignore[misc]
        with pytest.raises(Refused, match="mas_url") as refused:
            await admin.find_user("alice")
        assert refused.value.refusal is Refusal.HOMESERVER_REFUSES_GATEWAY


@pytest.mark.parametrize("token", [None, 3, "a b\nc", "ä"])
async def test_a_token_that_is_none_is_not_used(mas: FakeMas, admin: MasAdmin, token: object) -> None:
    mas.answers["/oauth2/token"] = lambda: web.json_response({"access_token": token, "expires_in": 300})
    with pytest.raises(Refused, match="could not get a token"):
        await admin.find_user("alice")


@pytest.mark.parametrize("name", ["token", "by-username"])
@pytest.mark.parametrize("fault", [Fault((500, "")), Fault((502, "")), Fault(breaks="head", times=9)])
async def test_a_service_that_fails_can_not_be_reached(
    mas: FakeMas, admin: MasAdmin, name: str, fault: Fault
) -> None:
    mas.faults[name] = Fault(fault.answer, breaks=fault.breaks, times=fault.times)
    with pytest.raises(Refused, match="Matrix Authentication Service") as refused:
        await admin.find_user("alice")
    assert refused.value.refusal is Refusal.HOMESERVER_UNREACHABLE


async def test_a_service_that_is_down_had_nothing_done(mas: FakeMas, admin: MasAdmin) -> None:
    await mas.stop()
    with pytest.raises(NotConnected, match="no connection to Matrix Authentication Service"):
        await admin.add_user("alice")


@pytest.mark.parametrize(
    ("fault", "unsure"),
    [
        (Fault((500, "")), True),
        (Fault((403, "")), False),
        (Fault((400, "")), False),
        (Fault(breaks="head"), True),
        (Fault(breaks="after"), True),
        (Fault(breaks="body"), True),
    ],
)
async def test_a_user_that_may_have_been_made_is_told_from_one_that_was_not(
    mas: FakeMas, admin: MasAdmin, fault: Fault, *, unsure: bool
) -> None:
    mas.faults["users"] = fault
    with pytest.raises(Refused) as refused:
        await admin.add_user("alice")
    assert isinstance(refused.value, MaybeMade) is unsure
    assert len(mas.to("/users")) == 1


async def test_a_user_is_made_once(admin: MasAdmin) -> None:
    assert await admin.add_user("alice")
    assert not await admin.add_user("alice")


async def test_a_session_that_may_have_been_opened_is_not_opened_again(mas: FakeMas, admin: MasAdmin) -> None:
    account = mas.add("alice")
    user = MasUser(account.id, locked=False, deactivated=False)
    await admin.find_user("alice")
    mas.faults["personal-sessions"] = Fault(breaks="after")
    with pytest.raises(Refused):
        await admin.open_session(user, "Phone", "ABCDEFGHIJ", 0)
    assert len(mas.sessions) == 1

    reply = await admin.open_session(user, "Phone", "ABCDEFGHIJ", 60)

    session_id, token = opened(reply)
    assert mas.sessions[session_id].token == token
    assert [session.expires_in for session in mas.sessions.values()] == [None, 60]
    assert await admin.revoke(session_id)
    assert not await admin.revoke(session_id)
    assert not await admin.revoke("01HZUNKNOWN")


async def test_all_sessions_of_a_user_end_page_by_page(mas: FakeMas, admin: MasAdmin) -> None:
    mas.page = 2
    users = [MasUser(mas.add(name).id, locked=False, deactivated=False) for name in ("alice", "bob")]
    for user in (*users, *users[:1] * 4):
        await admin.open_session(user, "Phone", "ABCDEFGHIJ", 0)
    for name in ("alice", "alice", "bob"):
        mas.add_others(name)

    for _ in range(2):
        await admin.end_sessions(users[0])

    assert [session.user for session in mas.open_sessions] == ["bob"]
    assert [name for _, name in mas.others.values()] == ["bob"] * 6


@pytest.mark.parametrize("status", [409, 500])
async def test_the_loser_of_two_first_logins_finds_the_user(status: int, mas: FakeMas, admin: MasAdmin) -> None:
    mas.losers["alice"] = status
    assert not await admin.add_user("alice")
    assert await admin.appears("alice")


async def test_sessions_that_do_not_end_are_no_endless_loop(mas: FakeMas, admin: MasAdmin) -> None:
    user = MasUser(mas.add("alice").id, locked=False, deactivated=False)
    await admin.open_session(user, "Phone", "ABCDEFGHIJ", 0)
    mas.faults["revoke"] = Fault((409, ""), times=99)
    with pytest.raises(Refused, match="sessions that it does not end"):
        await admin.end_sessions(user)
