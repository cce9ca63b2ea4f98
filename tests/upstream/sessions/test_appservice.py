"""A session by the application service login, on every kind of homeserver."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.core.login_request import LoginRequest
from gateway.errors import Refusal, Refused
from gateway.upstream.answers import HomeserverAnswered
from gateway.upstream.homeserver import Homeserver
from gateway.upstream.pool import Pool, PoolSettings
from gateway.upstream.sessions import UnknownUser, Wanted
from gateway.upstream.sessions.appservice import AppserviceSessions
from tests.fake_homeserver import FakeHomeserver, Fault, User, running_homeserver
from tests.flavours import CONTINUWUITY, DENDRITE, FLAVOURS, PALPO, SYNAPSE, TUWUNEL, Flavour
from tests.running_gateway import AS_TOKEN, SERVER_NAME

ALICE = f"@alice:{SERVER_NAME}"
LOGIN = LoginRequest("token")


@asynccontextmanager
async def sessions_on(
    flavour: Flavour = SYNAPSE, as_token: str = AS_TOKEN, server_name: str = SERVER_NAME
) -> AsyncIterator[tuple[AppserviceSessions, FakeHomeserver]]:
    async with running_homeserver(flavour) as fake:
        fake.users["alice"] = User()
        pool = Pool(PoolSettings(url=fake.url))
        try:
            yield AppserviceSessions(Homeserver(pool, server_name, as_token)), fake
        finally:
            await pool.close()


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.name)
async def test_a_session_is_opened(flavour: Flavour) -> None:
    async with sessions_on(flavour) as (sessions, fake):
        reply = await sessions.open(Wanted("alice", LOGIN))
        assert fake.sessions[reply.json()["access_token"]] == ALICE


@pytest.mark.parametrize("flavour", [SYNAPSE, TUWUNEL, CONTINUWUITY], ids=lambda flavour: flavour.name)
async def test_a_user_that_is_not_there_is_known_as_such(flavour: Flavour) -> None:
    async with sessions_on(flavour) as (sessions, _):
        with pytest.raises(UnknownUser):
            await sessions.open(Wanted("bob", LOGIN))


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.name)
@pytest.mark.parametrize("device_id", ["PHONE", None])
async def test_a_login_that_fails_beside_another_of_its_device_is_made_again_where_that_is_known(
    flavour: Flavour, device_id: str | None
) -> None:
    async with sessions_on(flavour) as (sessions, fake):
        fake.faults["login"] = Fault((500, "M_UNKNOWN"))
        wanted = Wanted("alice", LoginRequest("token", device_id))
        if device_id and flavour in {DENDRITE, PALPO}:  # both keep devices in PostgreSQL
            assert (await sessions.open(wanted)).status == 200
            return
        with pytest.raises(Refused, match="500"):
            await sessions.open(wanted)
        assert len(fake.to("/login")) == 1


async def test_only_what_the_client_gave_is_asked_for() -> None:
    async with sessions_on() as (sessions, fake):
        await sessions.open(Wanted("alice", LOGIN, client=((b"User-Agent", b"Phone/1"),)))
        await sessions.open(Wanted("alice", LoginRequest("token", "D", "Phone", refresh_token=False)))
    first, second = fake.to("/login")
    needed = {"type": "m.login.application_service", "identifier": {"type": "m.id.user", "user": "alice"}}
    assert first.json() == needed
    assert first.values("user-agent") == [b"Phone/1"]
    more = {"device_id": "D", "initial_device_display_name": "Phone", "refresh_token": False}
    assert second.json() == {**needed, **more}


async def test_a_refusal_of_the_user_is_the_homeservers_answer() -> None:
    async with sessions_on() as (sessions, fake):
        fake.users["alice"].locked = True
        with pytest.raises(HomeserverAnswered) as answered:
            await sessions.open(Wanted("alice", LOGIN))
    assert answered.value.reply.status == 401


@pytest.mark.parametrize(("as_token", "server_name"), [("wrong", SERVER_NAME), (AS_TOKEN, "other.example")])
async def test_a_gateway_that_is_not_set_up_for_the_homeserver_gets_no_session(
    as_token: str, server_name: str
) -> None:
    async with sessions_on(as_token=as_token, server_name=server_name) as (sessions, _):
        with pytest.raises(Refused) as refused:
            await sessions.open(Wanted("alice", LOGIN))
    assert refused.value.refusal is Refusal.HOMESERVER_REFUSES_GATEWAY
