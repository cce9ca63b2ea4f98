"""Ending the sessions of a user, before homeservers that can do it in one way, in another, or not."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from gateway.errors import Refused
from gateway.upstream.devices import end_sessions
from gateway.upstream.homeserver import Homeserver
from gateway.upstream.pool import Pool, PoolSettings
from tests.fake_homeserver import FakeHomeserver, Fault, User, running_homeserver
from tests.flavours import PALPO
from tests.running_gateway import AS_TOKEN, SERVER_NAME

ALICE, BOB = f"@alice:{SERVER_NAME}", f"@bob:{SERVER_NAME}"


def fill(homeserver: FakeHomeserver) -> None:
    homeserver.users |= {"alice": User("Alice"), "bob": User("Bob")}
    homeserver.sessions = {"a": ALICE, "b": BOB, "c": ALICE}
    homeserver.devices = {"a": "PHONE", "b": "TABLET", "c": "a/b c"}


@pytest.fixture
async def upstream(homeserver: FakeHomeserver) -> AsyncIterator[Homeserver]:
    fill(homeserver)
    pool = Pool(PoolSettings(url=homeserver.url, connect_timeout=1), call_timeout=1)
    yield Homeserver(pool, SERVER_NAME, AS_TOKEN)
    await pool.close()


async def test_every_session_of_the_user_ends_and_nobody_elses(
    homeserver: FakeHomeserver, upstream: Homeserver
) -> None:
    assert await end_sessions(upstream, ALICE)
    assert homeserver.sessions == {"b": BOB}


async def test_where_not_all_can_be_ended_at_once_each_device_is(
    homeserver: FakeHomeserver, upstream: Homeserver
) -> None:
    homeserver.faults["all"] = Fault(answer=(404, "M_UNRECOGNIZED"))

    assert await end_sessions(upstream, ALICE)
    assert homeserver.sessions == {"b": BOB}


async def test_an_answer_that_ended_nothing_is_not_believed(homeserver: FakeHomeserver, upstream: Homeserver) -> None:
    homeserver.answers[f"/_matrix/client/v3/logout/all?user_id=%40alice%3A{SERVER_NAME}"] = lambda: web.json_response(
        {}
    )
    homeserver.faults["device"] = Fault(answer=(401, "M_FORBIDDEN"), times=2)

    with pytest.raises(Refused, match="could not end the sessions: the homeserver answered 401"):
        await end_sessions(upstream, ALICE)


async def test_a_homeserver_that_can_do_neither_is_a_refusal(
    homeserver: FakeHomeserver, upstream: Homeserver
) -> None:
    homeserver.faults |= {name: Fault(answer=(404, "M_UNRECOGNIZED")) for name in ("all", "devices")}

    with pytest.raises(Refused, match="could not end the sessions: the homeserver answered 404"):
        await end_sessions(upstream, ALICE)


async def test_a_homeserver_that_is_down_is_a_refusal(homeserver: FakeHomeserver, upstream: Homeserver) -> None:
    await homeserver.stop()

    with pytest.raises(Refused, match="HOMESERVER_UNREACHABLE"):
        await end_sessions(upstream, ALICE)


async def test_a_user_that_the_homeserver_lacks_has_no_sessions_and_is_not_made() -> None:
    async with running_homeserver(PALPO) as homeserver:
        pool = Pool(PoolSettings(url=homeserver.url, connect_timeout=1))

        assert not await end_sessions(Homeserver(pool, SERVER_NAME, AS_TOKEN), ALICE)

        assert homeserver.users == {}
        await pool.close()
