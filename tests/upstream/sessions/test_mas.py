"""A session by Matrix Authentication Service: a user, a personal session, and the answer that is made of it."""

import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.core.login_request import LoginRequest
from gateway.core.personal_sessions import PersonalSession, token_digest
from gateway.errors import Refusal, Refused
from gateway.upstream.homeserver import Homeserver
from gateway.upstream.mas import MasAdmin
from gateway.upstream.pool import Pool, PoolSettings
from gateway.upstream.sessions import SessionSettings, UnknownUser, Wanted
from gateway.upstream.sessions.mas import MasSessions
from tests.fake_homeserver import User
from tests.fake_mas import CLIENT_SECRET, FLOWS, FakeMas, running_mas
from tests.fake_server import Fault
from tests.flavours import BEHIND_MAS, SYNAPSE, Flavour
from tests.running_gateway import SERVER_NAME

LOGIN = LoginRequest("token")
_UNSTABLE = "org.matrix.msc3824.delegated_oidc_compatibility"


@asynccontextmanager
async def sessions_on(
    expires_in: int = 0, failure: Refused | None = None
) -> AsyncIterator[tuple[MasSessions, FakeMas, list[PersonalSession]]]:
    kept: list[PersonalSession] = []

    async def keep(session: PersonalSession, _token: str, _name: str | None) -> None:
        if failure is not None:
            raise failure
        kept.append(session)

    async with running_mas() as mas:
        admin = MasAdmin(SessionSettings.model_validate(mas.settings), CLIENT_SECRET, SERVER_NAME)
        pool = Pool(PoolSettings(url=mas.homeserver.url))
        try:
            yield MasSessions(admin, Homeserver(pool, SERVER_NAME, ""), expires_in, keep, time.time), mas, kept
        finally:
            await admin.close()
            await pool.close()


async def test_a_user_is_made_and_gets_a_session_as_a_homeserver_gives_it() -> None:
    async with sessions_on() as (sessions, mas, kept):
        assert not await sessions.exists("alice")
        assert await sessions.register("alice")
        assert not await sessions.register("alice")
        assert await sessions.exists("alice")
        reply = await sessions.open(Wanted("alice", LOGIN))

        (session_id, session), *_ = mas.sessions.items()
        assert (reply.status, reply.fields) == (200, [(b"Content-Type", b"application/json")])
        assert reply.json() == {
            "user_id": f"@alice:{SERVER_NAME}",
            "access_token": session.token,
            "home_server": SERVER_NAME,
            "device_id": session.device_id,
        }
        assert re.fullmatch(r"[A-Z]{10}", session.device_id)
        assert (session.name, session.expires_in) == ("matrix-login-gateway", None)
        assert kept == [PersonalSession(session_id, "alice", session.device_id, token_digest(session.token))]


async def test_device_name_and_lifetime_are_those_that_were_asked_for() -> None:
    async with sessions_on(expires_in=3600) as (sessions, mas, kept):
        mas.add("alice")
        reply = await sessions.open(Wanted("alice", LoginRequest("t", "my-phone-01", "Phone", refresh_token=True)))

        (session,) = mas.open_sessions
        assert (session.device_id, session.name, session.expires_in) == ("my-phone-01", "Phone", 3600)
        assert reply.json()["expires_in_ms"] == 3_600_000
        assert "refresh_token" not in reply.json()
        assert abs((kept[0].expires_at or 0) - time.time() - 3600) < 5


@pytest.mark.parametrize("device_id", ["my phone 01", 'a"b', "a\\b", "ä", "x" * 256])
async def test_a_device_that_can_have_no_session_is_refused_and_told_why(device_id: str) -> None:
    async with sessions_on() as (sessions, _, _):
        sessions.check(LOGIN)
        with pytest.raises(Refused, match="'device_id' can't have spaces") as refused:
            sessions.check(LoginRequest("token", device_id))
    assert refused.value.refusal is Refusal.BAD_PARAMETER


async def test_a_user_that_is_not_there_is_known_as_such() -> None:
    async with sessions_on() as (sessions, mas, _):
        with pytest.raises(UnknownUser):
            await sessions.open(Wanted("alice", LOGIN))
        mas.add("alice")
        mas.faults["personal-sessions"] = Fault((404, ""))
        with pytest.raises(UnknownUser):
            await sessions.open(Wanted("alice", LOGIN))


@pytest.mark.parametrize("status", [409, 500])
async def test_two_first_logins_at_once_both_find_the_user(status: int) -> None:
    async with sessions_on() as (sessions, mas, _):
        mas.losers["alice"] = status
        assert not await sessions.register("alice")


async def test_a_name_that_the_homeserver_has_from_us_is_made_at_the_service_too() -> None:
    """As after a change of `method`: another one's account by that name stays refused."""
    async with sessions_on() as (sessions, mas, _):
        mas.homeserver.users["alice"] = User("alice")
        with pytest.raises(Refused, match="taken or reserved"):
            await sessions.register("alice")
        assert await sessions.register("alice", known=True)


async def test_a_name_that_the_homeserver_keeps_from_the_service_is_refused() -> None:
    async with sessions_on() as (sessions, mas, _):
        mas.reserved.add("alice")
        with pytest.raises(Refused, match="taken or reserved on the homeserver") as refused:
            await sessions.register("alice")
    assert refused.value.refusal is Refusal.BAD_LOCALPART


@pytest.mark.parametrize(
    ("state", "refusal"),
    [("locked", Refusal.ACCOUNT_LOCKED), ("deactivated", Refusal.ACCOUNT_DEACTIVATED)],
)
async def test_a_user_who_may_not_log_in_is_refused_in_the_words_of_a_homeserver(
    state: str, refusal: Refusal
) -> None:
    async with sessions_on() as (sessions, mas, _):
        mas.add("alice", **{state: True})
        with pytest.raises(Refused) as refused:
            await sessions.open(Wanted("alice", LOGIN))
        assert refused.value.refusal is refusal
        assert mas.sessions == {}


async def test_a_user_who_is_deactivated_at_that_moment_is_refused_too() -> None:
    async with sessions_on() as (sessions, mas, _):
        mas.add("alice")
        mas.faults["personal-sessions"] = Fault((410, ""))
        with pytest.raises(Refused) as refused:
            await sessions.open(Wanted("alice", LOGIN))
    assert refused.value.refusal is Refusal.ACCOUNT_DEACTIVATED


async def test_a_session_that_can_not_be_kept_is_given_to_nobody() -> None:
    async with sessions_on(failure=Refused(Refusal.DATABASE_UNAVAILABLE)) as (sessions, mas, _):
        mas.add("alice")
        with pytest.raises(Refused) as refused:
            await sessions.open(Wanted("alice", LOGIN))
        assert refused.value.refusal is Refusal.DATABASE_UNAVAILABLE


async def test_the_sessions_of_a_user_end() -> None:
    async with sessions_on() as (sessions, mas, _):
        for name in ("alice", "bob"):
            mas.add(name)
            await sessions.open(Wanted(name, LOGIN))
        assert await sessions.end_all("alice")
        assert not await sessions.end_all("carol")
        assert [session.user for session in mas.open_sessions] == ["bob"]


@pytest.mark.parametrize(
    ("fault", "says"),
    [(None, ""), (("token", 401), "mas_client_id"), (("token", 404), "mas_oauth_url"), (("by-username", 403), "403")],
)
async def test_an_admin_api_that_does_not_let_us_in_is_known(fault: tuple[str, int] | None, says: str) -> None:
    async with sessions_on() as (sessions, mas, _):
        if fault is not None:
            mas.faults[fault[0]] = Fault((fault[1], ""))
        misfit = await sessions.misfit()
        assert says in misfit
        assert bool(misfit) is bool(says)
        assert mas.users == {}


async def test_the_service_of_another_server_is_known() -> None:
    async with sessions_on() as (sessions, mas, _):
        mas.server_name = "other.example"
        misfit = await sessions.misfit()
    assert "is that of other.example, and server_name is example.org: set mas_url to that of example.org" in misfit


@pytest.mark.parametrize(
    ("flavour", "flows", "says"),
    [
        (BEHIND_MAS, None, "GET /login at [homeserver] url is 404 M_UNRECOGNIZED: [homeserver] url must be"),
        (SYNAPSE, None, "GET /login at [homeserver] url is not that of Matrix Authentication Service: "),
        (SYNAPSE, FLOWS, "the homeserver does not leave login to Matrix Authentication Service: "),
        (BEHIND_MAS, [{"type": "m.login.sso", "oauth_aware_preferred": True}], ""),
        (BEHIND_MAS, [{"type": "m.login.sso", _UNSTABLE: True}], ""),
        (BEHIND_MAS, [{"type": "m.login.sso", "oauth_aware_preferred": "true"}, 3], "is not that of"),
    ],
)
async def test_an_address_that_does_not_lead_to_both_is_known(
    flavour: Flavour, flows: list[Any] | None, says: str
) -> None:
    async with sessions_on() as (sessions, mas, _):
        mas.homeserver.flavour, mas.homeserver.compat_flows = flavour, flows
        misfit = await sessions.misfit()
    assert says in misfit
    assert bool(misfit) is bool(says)


async def test_a_service_that_is_down_says_nothing_of_what_it_can() -> None:
    async with sessions_on() as (sessions, mas, _):
        await mas.stop()
        with pytest.raises(Refused) as refused:
            await sessions.misfit()
    assert refused.value.refusal is Refusal.HOMESERVER_UNREACHABLE


async def test_an_answer_is_json_whatever_the_name() -> None:
    async with sessions_on() as (sessions, mas, _):
        mas.add("a=b/c.d+e")
        reply = await sessions.open(Wanted("a=b/c.d+e", LOGIN))
        assert json.loads(reply.body)["user_id"] == f"@a=b/c.d+e:{SERVER_NAME}"
