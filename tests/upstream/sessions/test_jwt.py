"""A session by the homeserver's own JWT login: what the token says, and what the answers mean."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from joserfc import jwt
from joserfc.jwk import OctKey

from gateway.core.login_request import LoginRequest
from gateway.errors import Refusal, Refused
from gateway.upstream.answers import HomeserverAnswered, MaybeMade
from gateway.upstream.homeserver import Homeserver
from gateway.upstream.pool import NotConnected, Pool, PoolSettings
from gateway.upstream.sessions import SessionSettings, UnknownUser, Wanted
from gateway.upstream.sessions.jwt import JwtSessions
from tests.fake_homeserver import JWT_SECRET, FakeHomeserver, Fault, User, running_homeserver
from tests.flavours import BEHIND_MAS, PALPO, SYNAPSE, TUWUNEL, Flavour
from tests.running_gateway import AS_TOKEN, SERVER_NAME

ALICE = f"@alice:{SERVER_NAME}"
LOGIN = LoginRequest("token")
WITH_JWT = pytest.mark.parametrize("flavour", [SYNAPSE, PALPO, TUWUNEL], ids=lambda flavour: flavour.name)


@asynccontextmanager
async def sessions_on(
    flavour: Flavour = SYNAPSE,
    secret: str = JWT_SECRET,
    as_token: str = "",
    server_name: str = SERVER_NAME,
    settings: Mapping[str, Any] | None = None,
) -> AsyncIterator[tuple[JwtSessions, FakeHomeserver]]:
    async with running_homeserver(flavour) as fake:
        fake.jwt_claims = {}
        pool = Pool(PoolSettings(url=fake.url), call_timeout=2)
        homeserver = Homeserver(pool, server_name, as_token)
        try:
            yield JwtSessions(homeserver, SessionSettings(method="jwt", **(settings or {})), secret, time.time), fake
        finally:
            await pool.close()


@WITH_JWT
async def test_a_session_is_opened_and_makes_the_account(flavour: Flavour) -> None:
    async with sessions_on(flavour) as (sessions, fake):
        assert await sessions.register("alice")
        assert fake.users == {}
        reply = await sessions.open(Wanted("alice", LOGIN))
        assert fake.sessions[reply.json()["access_token"]] == ALICE
        assert not await sessions.register("alice")


@WITH_JWT
async def test_sessions_of_one_device_at_once_are_opened_one_after_the_other(flavour: Flavour) -> None:
    wanted = Wanted("alice", LoginRequest("token", device_id="PHONE"))
    async with sessions_on(flavour) as (sessions, fake):
        replies = await asyncio.gather(*(sessions.open(wanted) for _ in range(5)))
        assert {reply.status for reply in replies} == {200}
        assert ALICE in fake.sessions.values()


@pytest.mark.parametrize(
    ("flavour", "device_id", "times"),
    [(PALPO, "PHONE", 1), (PALPO, "PHONE", 2), (PALPO, None, 1), (SYNAPSE, "PHONE", 1)],
)
async def test_a_session_of_a_device_that_failed_where_two_at_once_do_is_asked_for_once_more(
    flavour: Flavour, device_id: str | None, times: int
) -> None:
    async with sessions_on(flavour) as (sessions, fake):
        fake.faults["login"] = Fault((500, "M_UNKNOWN"), times=times)
        wanted = Wanted("alice", LoginRequest("token", device_id=device_id))
        if flavour is PALPO and device_id and times == 1:
            assert (await sessions.open(wanted)).status == 200
            assert len({seen.json()["token"] for seen in fake.to("/login")}) == 2
        else:
            with pytest.raises(MaybeMade):
                await sessions.open(wanted)


async def test_a_token_is_the_homeservers_and_good_for_a_minute() -> None:
    names = {"jwt_issuer": "us", "jwt_audience": "them", "jwt_subject_claim": "user"}
    settings = {"jwt_algorithm": "HS512", "jwt_display_name_claim": "name", **names}
    async with sessions_on(settings=settings) as (sessions, fake):
        with pytest.raises(Refused):  # the fake takes HS256 alone
            await sessions.open(Wanted("alice", LOGIN, "Alice"))
        (seen,) = fake.to("/login")
    token = jwt.decode(seen.json()["token"], OctKey.import_key(JWT_SECRET), algorithms=["HS512"])
    claims = token.claims
    assert abs(claims["iat"] - time.time()) < 5
    assert claims == {
        "iat": claims["iat"],
        "nbf": claims["iat"],
        "exp": claims["iat"] + 60,
        "jti": claims["jti"],
        "iss": "us",
        "aud": "them",
        "user": "alice",
        "name": "Alice",
    }
    assert len(claims["jti"]) >= 20


async def test_only_what_the_client_gave_is_asked_for_and_no_token_of_ours_goes_along() -> None:
    async with sessions_on(as_token=AS_TOKEN) as (sessions, fake):
        await sessions.open(Wanted("alice", LOGIN, client=((b"User-Agent", b"Phone/1"),)))
        await sessions.open(Wanted("alice", LoginRequest("token", "D", "Phone", refresh_token=True)))
    first, second = fake.to("/login")
    assert first.json().keys() == {"type", "token"}
    assert (first.values("user-agent"), first.values("authorization")) == ([b"Phone/1"], [])
    more = {"device_id": "D", "initial_device_display_name": "Phone", "refresh_token": True}
    assert second.json().items() >= more.items()
    assert first.json()["token"] != second.json()["token"]


@WITH_JWT
async def test_whether_a_user_is_there_is_asked_without_making_one(flavour: Flavour) -> None:
    async with sessions_on(flavour) as (sessions, fake):
        assert not await sessions.exists("alice")
        fake.users["alice"] = User("A")
        assert await sessions.exists("alice")
        assert list(fake.users) == ["alice"]
        assert not any(seen.values("authorization") for seen in fake.seen)


@pytest.mark.parametrize(("as_token", "seen"), [("", False), (AS_TOKEN, True)])
async def test_a_user_with_an_empty_profile_is_seen_by_an_application_service_alone(
    as_token: str, *, seen: bool
) -> None:
    async with sessions_on(as_token=as_token) as (sessions, fake):
        fake.users["alice"] = User()
        assert await sessions.exists("alice") is seen


@pytest.mark.parametrize("refusal", [(401, "M_MISSING_TOKEN"), (403, "M_FORBIDDEN")])
async def test_a_profile_that_is_hidden_is_no_answer(refusal: tuple[int, str]) -> None:
    async with sessions_on() as (sessions, fake):
        fake.faults["profile"] = Fault(refusal)
        with pytest.raises(Refused, match="only the public profile says whether a user is there") as refused:
            await sessions.exists("alice")
    assert refused.value.refusal is Refusal.HOMESERVER_REFUSES_GATEWAY


@pytest.mark.parametrize("as_token", ["", AS_TOKEN])
async def test_an_account_that_may_not_be_made_is_not_made_where_that_can_be_seen(as_token: str) -> None:
    async with sessions_on(as_token=as_token) as (sessions, fake):
        if as_token:
            with pytest.raises(UnknownUser):
                await sessions.open(Wanted("alice", LOGIN, may_make=False))
            assert fake.users == {}
            fake.users["alice"] = User()
        await sessions.open(Wanted("alice", LOGIN, may_make=False))


@pytest.mark.parametrize(
    ("secret", "settings", "says"),
    [
        ("another secret, which the homeserver has not", {}, "Signature verification failed"),
        (JWT_SECRET, {"jwt_issuer": "us"}, "Invalid claim 'iss'"),
    ],
)
async def test_a_token_that_the_homeserver_refuses_is_the_operators_business(
    secret: str, settings: dict[str, str], says: str
) -> None:
    async with sessions_on(secret=secret, settings=settings) as (sessions, fake):
        fake.jwt_claims = {"iss": "them"} if settings else {}
        with pytest.raises(Refused, match="jwt_secret, jwt_algorithm") as refused:
            await sessions.open(Wanted("alice", LOGIN))
    assert refused.value.refusal is Refusal.HOMESERVER_REFUSES_GATEWAY
    assert says in refused.value.reason
    assert not isinstance(refused.value, MaybeMade)


async def test_a_homeserver_without_that_login_is_the_operators_business() -> None:
    async with sessions_on() as (sessions, fake):
        fake.jwt_claims = None
        with pytest.raises(Refused, match="Unknown login type"):
            await sessions.open(Wanted("alice", LOGIN))


async def test_a_session_of_another_server_is_the_operators_business() -> None:
    async with sessions_on(server_name="other.example") as (sessions, _):
        with pytest.raises(Refused, match="server_name must be"):
            await sessions.open(Wanted("alice", LOGIN))


@pytest.mark.parametrize("user", [User(locked=True), User(deactivated=True)])
async def test_a_refusal_of_the_user_is_the_homeservers_answer(user: User) -> None:
    async with sessions_on() as (sessions, fake):
        fake.users["alice"] = user
        with pytest.raises(HomeserverAnswered):
            await sessions.open(Wanted("alice", LOGIN))


@pytest.mark.parametrize("fault", [Fault((500, "M_UNKNOWN")), Fault(breaks="head"), Fault(breaks="after")])
async def test_a_session_that_may_have_been_opened_is_not_asked_for_again(fault: Fault) -> None:
    async with sessions_on() as (sessions, fake):
        await sessions.exists("alice")  # a connection is kept
        fake.faults["login"] = fault
        with pytest.raises(MaybeMade):
            await sessions.open(Wanted("alice", LOGIN))
        assert len(fake.to("/login")) == 1


async def test_a_homeserver_that_is_down_had_nothing_done() -> None:
    async with sessions_on() as (sessions, fake):
        await fake.stop()
        with pytest.raises(NotConnected):
            await sessions.open(Wanted("alice", LOGIN))


async def test_sessions_can_be_ended_by_an_application_service_alone() -> None:
    async with sessions_on(as_token=AS_TOKEN) as (sessions, fake):
        await sessions.open(Wanted("alice", LOGIN))
        assert await sessions.end_all("alice")
        assert not await sessions.end_all("bob")
        assert fake.sessions == {}
    async with sessions_on() as (sessions, _):
        with pytest.raises(Refused, match="set \\[session\\] as_token"):
            await sessions.end_all("alice")


@pytest.mark.parametrize(
    ("flavour", "claims", "secret", "misfit"),
    [
        (SYNAPSE, {}, JWT_SECRET, ""),
        (PALPO, {}, JWT_SECRET, ""),
        (PALPO, {}, "another secret, which the homeserver has not", "invalid JWT token: InvalidSignature"),
        (PALPO, None, JWT_SECRET, "org.matrix.login.jwt is not among the logins"),
        (TUWUNEL, {}, JWT_SECRET, ""),
        (TUWUNEL, None, JWT_SECRET, "org.matrix.login.jwt is not among the logins"),
        (TUWUNEL, {}, "another secret, which the homeserver has not", "Invalid JWT token: InvalidSignature"),
        (SYNAPSE, None, JWT_SECRET, "org.matrix.login.jwt is not among the logins"),
        (SYNAPSE, {}, "another secret, which the homeserver has not", "Signature verification failed"),
        (SYNAPSE, {"aud": "x"}, JWT_SECRET, "Invalid claim 'aud'"),
        (BEHIND_MAS, None, JWT_SECRET, "as behind Matrix Authentication Service"),
    ],
)
async def test_a_homeserver_where_it_can_not_work_is_known_without_an_account(
    flavour: Flavour, claims: dict[str, str] | None, secret: str, misfit: str
) -> None:
    async with sessions_on(flavour, secret) as (sessions, fake):
        fake.jwt_claims = claims
        found = await sessions.misfit()
        assert misfit in found
        assert bool(found) is bool(misfit)
        assert (fake.users, fake.sessions) == ({}, {})


async def test_a_homeserver_that_looks_at_another_claim_keeps_no_session_and_does_not_pass() -> None:
    async with sessions_on(settings={"jwt_issuer": "gateway"}) as (sessions, fake):
        fake.subject_claim = "iss"
        assert "a session by a token without 'sub'" in await sessions.misfit()
        assert fake.sessions == {}


async def test_a_homeserver_that_fails_says_nothing_of_what_it_can() -> None:
    async with sessions_on() as (sessions, fake):
        fake.answers["/_matrix/client/v3/login"] = lambda: web.Response(status=503)
        with pytest.raises(Refused):
            await sessions.misfit()
