"""The Matrix calls that the gateway makes itself, on every kind of homeserver."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aiohttp import web

from gateway.errors import Refusal, Refused
from gateway.upstream.answers import OWN_ANSWERS, HomeserverAnswered, MaybeMade, classified
from gateway.upstream.homeserver import Homeserver
from gateway.upstream.kind import kind_of
from gateway.upstream.pool import Pool, PoolSettings, Reply
from gateway.upstream.profiles import set_avatar, set_display_name
from gateway.upstream.users import exists, register
from tests.fake_homeserver import FakeHomeserver, Fault, User, running_homeserver
from tests.flavours import DENDRITE, FLAVOURS, PALPO, SYNAPSE, TUWUNEL, Flavour
from tests.running_gateway import AS_TOKEN, SERVER_NAME

ALICE = f"@alice:{SERVER_NAME}"


@asynccontextmanager
async def asked(
    flavour: Flavour = SYNAPSE, as_token: str = AS_TOKEN
) -> AsyncIterator[tuple[Homeserver, FakeHomeserver]]:
    async with running_homeserver(flavour) as fake:
        pool = Pool(PoolSettings(url=fake.url))
        try:
            yield Homeserver(pool, SERVER_NAME, as_token), fake
        finally:
            await pool.close()


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.name)
async def test_an_account_is_made_once_and_is_no_guests(flavour: Flavour) -> None:
    async with asked(flavour) as (homeserver, fake):
        assert await register(homeserver, "alice")
        assert not await register(homeserver, "alice")
        assert not fake.users["alice"].was_guest
        (first, second) = fake.to("/register")
        assert first.json()["password"] != second.json()["password"]


async def test_a_registration_is_sent_once_also_where_a_kept_connection_closes() -> None:
    async with asked() as (homeserver, fake):
        await homeserver.versions()
        fake.faults["register"] = Fault(breaks="after")
        with pytest.raises(MaybeMade):
            await register(homeserver, "alice")
        assert fake.registered == 1
        assert not await register(homeserver, "alice")


@pytest.mark.parametrize(
    ("fault", "unsure"),
    [
        (Fault((500, "M_UNKNOWN")), False),
        (Fault((500, "")), True),
        (Fault((502, "M_UNKNOWN")), True),
        (Fault((504, "M_UNKNOWN")), True),
        (Fault((400, "M_EXCLUSIVE")), False),
        (Fault((403, "M_FORBIDDEN")), False),
        (Fault(breaks="head"), True),
        (Fault(breaks="body"), True),
    ],
)
async def test_a_registration_that_fails_says_whether_it_made_an_account(fault: Fault, *, unsure: bool) -> None:
    async with asked() as (homeserver, fake):
        fake.faults["register"] = replace(fault)
        with pytest.raises(Refused) as refused:
            await register(homeserver, "alice")
        assert isinstance(refused.value, MaybeMade) is unsure


async def test_a_failure_after_the_account_was_made_leaves_it_open() -> None:
    async with asked() as (homeserver, fake):
        fake.users["alice"] = User()
        fake.faults["register"] = Fault((500, "M_UNKNOWN"))
        with pytest.raises(MaybeMade):
            await register(homeserver, "alice")
        fake.faults |= {"register": Fault((500, "M_UNKNOWN")), "profile": Fault(breaks="head", times=9)}
        with pytest.raises(MaybeMade):
            await register(homeserver, "bob")


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.name)
async def test_asking_for_a_user_makes_none(flavour: Flavour) -> None:
    async with asked(flavour) as (homeserver, fake):
        assert not await exists(homeserver, ALICE)
        assert fake.users == {}
        fake.users["alice"] = User()
        assert await exists(homeserver, ALICE)
        fake.users["alice"].display_name = "A"
        assert await exists(homeserver, ALICE)


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.name)
@pytest.mark.parametrize("fault", [Fault((500, "M_UNKNOWN")), Fault((401, "M_UNKNOWN_TOKEN")), Fault(breaks="head")])
async def test_a_question_that_was_not_answered_is_no_answer(flavour: Flavour, fault: Fault) -> None:
    async with asked(flavour) as (homeserver, fake):
        names = ("whoami",) if flavour in {SYNAPSE, DENDRITE} else ("profile", "available")
        fake.faults |= {name: replace(fault, times=9) for name in names}
        with pytest.raises(Refused):
            await exists(homeserver, ALICE)
        assert fake.users == {}


async def test_a_user_id_is_quoted_in_a_path() -> None:
    async with asked() as (homeserver, fake):
        await exists(homeserver, "@a/../b=+:example.org")
        assert fake.seen[-2].target == "/_matrix/client/v3/profile/%40a%2F..%2Fb%3D%2B%3Aexample.org"


async def test_a_profile_is_set_for_the_user() -> None:
    async with asked() as (homeserver, fake):
        fake.users["alice"] = User()
        await set_display_name(homeserver, ALICE, "A \u00e4")
        assert fake.users["alice"].display_name == "A \u00e4"
        await set_avatar(homeserver, ALICE, "mxc://example.org/x")
        assert [seen.target.partition("?")[2] for seen in fake.seen[-2:]] == ["user_id=%40alice%3Aexample.org"] * 2
        fake.faults["profile"] = Fault((403, "M_FORBIDDEN"))
        with pytest.raises(Refused):
            await set_display_name(homeserver, ALICE, "B")


@pytest.mark.parametrize("flavour", [SYNAPSE, DENDRITE, PALPO, TUWUNEL], ids=lambda flavour: flavour.name)
async def test_another_servers_name_is_seen_before_anything_is_made_with_federation_off_too(flavour: Flavour) -> None:
    async with asked(flavour) as (homeserver, fake):
        fake.answers["/_matrix/key/v2/server"] = lambda: web.Response(status=404)
        with pytest.raises(Refused, match="server_name must be the homeserver's own"):
            await kind_of(replace(homeserver, server_name="example.com"))
        assert (await kind_of(homeserver)).name.lower() == flavour.name.lower()
        assert (fake.users, fake.sessions) == ({}, {})


async def test_the_token_goes_only_where_it_is_needed() -> None:
    async with asked() as (homeserver, fake):
        await homeserver.versions()
        await exists(homeserver, ALICE)
        with_token = {seen.path.rpartition("/")[2] for seen in fake.seen if seen.values("authorization")}
        assert all(name == "whoami" or name.startswith(("%40alice", "%40nobody")) for name in with_token)


async def test_a_token_that_the_homeserver_does_not_know_is_for_the_operator() -> None:
    async with asked(as_token="wrong") as (homeserver, _):
        with pytest.raises(Refused, match="does not know the as_token") as refused:
            await register(homeserver, "alice")
    assert refused.value.refusal is Refusal.HOMESERVER_REFUSES_GATEWAY


def reply(status: int, errcode: str) -> Reply:
    return Reply(status, [], f'{{"errcode": "{errcode}"}}'.encode())


@pytest.mark.parametrize("errcode", sorted(OWN_ANSWERS))
@pytest.mark.parametrize("status", [400, 401, 403, 429])
def test_what_concerns_the_user_goes_to_the_user_whatever_its_status(status: int, errcode: str) -> None:
    meant = classified(reply(status, errcode), "ask")
    assert isinstance(meant, HomeserverAnswered)
    assert meant.reply.status == status


def test_a_name_that_the_homeservers_operator_forbids_is_the_users_business() -> None:
    """The answer of tuwunel where the name fits its `forbidden_usernames`."""
    said = {"errcode": "M_FORBIDDEN", "error": "M_FORBIDDEN: Username is forbidden"}
    meant = classified(Reply(403, [], json.dumps(said).encode()), "register the user")
    assert isinstance(meant, Refused)
    assert meant.refusal is Refusal.BAD_LOCALPART


@pytest.mark.parametrize(
    ("status", "errcode", "refusal"),
    [
        (400, "M_INVALID_USERNAME", Refusal.BAD_LOCALPART),
        (500, "M_UNKNOWN", Refusal.HOMESERVER_UNREACHABLE),
        (502, "", Refusal.HOMESERVER_UNREACHABLE),
        (401, "M_UNKNOWN_TOKEN", Refusal.HOMESERVER_REFUSES_GATEWAY),
        (401, "M_MISSING_TOKEN", Refusal.HOMESERVER_REFUSES_GATEWAY),
        (401, "M_UNAUTHORIZED", Refusal.HOMESERVER_REFUSES_GATEWAY),
        (400, "M_EXCLUSIVE", Refusal.HOMESERVER_REFUSES_GATEWAY),
        (404, "M_UNRECOGNIZED", Refusal.HOMESERVER_REFUSES_GATEWAY),
        (418, "", Refusal.HOMESERVER_REFUSES_GATEWAY),
    ],
)
def test_what_concerns_the_gateway_is_told_apart_by_errcode(status: int, errcode: str, refusal: Refusal) -> None:
    meant = classified(reply(status, errcode), "ask")
    assert isinstance(meant, Refused)
    assert meant.refusal is refusal
