"""Names that no new user may have, of users who are there: `[identity] historical`."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.fake_homeserver import JWT_SECRET, FakeHomeserver, Fault, User, running_homeserver
from tests.flavours import DENDRITE, PALPO, SYNAPSE, Flavour
from tests.running_gateway import AS_TOKEN, LOGIN, SERVER_NAME, RunningGateway, mint, running_gateway

# Subject and localpart: as Palpo's own JWT login makes users of them.
HISTORICAL = [
    ("anna@example.com", "anna@example.com"),
    ("Anna@Example.COM", "anna@example.com"),
    ("jörg", "jörg"),
    ("JÖRG", "jörg"),
    ("Max Mustermann", "max mustermann"),
    ("4711", "4711"),
    ("李雷", "李雷"),
    ("\u0130smail", "i\u0307smail"),  # the Turkish capital, which becomes an i and a combining dot
]
# Where a homeserver keeps users of such names: Synapse from its first years.
WITH_SUCH_USERS = [SYNAPSE, PALPO]
by_name = pytest.mark.parametrize("flavour", WITH_SUCH_USERS, ids=lambda flavour: flavour.name)


def gateway_of(directory: Path, homeserver: FakeHomeserver, **rules: Any) -> Any:
    rules = {"identity": {"historical": True}, **rules}
    return running_gateway(directory, homeserver.url, **rules)


def rows(directory: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(directory / "gateway.db")) as database:
        return list(database.execute("SELECT localpart, state FROM accounts"))


@by_name
@pytest.mark.parametrize("register_user", [True, False])
@pytest.mark.parametrize(("subject", "localpart"), HISTORICAL)
async def test_a_user_who_is_there_by_exactly_this_name_logs_in(
    flavour: Flavour, subject: str, localpart: str, tmp_path: Path, *, register_user: bool
) -> None:
    async with (
        running_homeserver(flavour) as homeserver,
        gateway_of(tmp_path, homeserver, jwt={"register_user": register_user}) as gateway,
    ):
        homeserver.users[localpart] = User()
        for _ in range(2):
            answer = await gateway.log_in(mint(subject))
            assert (answer.status, answer.body["user_id"]) == (200, f"@{localpart}:{SERVER_NAME}")
        assert list(homeserver.users) == [localpart]
        assert len(homeserver.sessions) == 2
    assert rows(tmp_path) == [(localpart, "active")]


@by_name
@pytest.mark.parametrize("subject", [subject for subject, _ in HISTORICAL])
async def test_nobody_is_made_by_such_a_name(flavour: Flavour, subject: str, tmp_path: Path) -> None:
    async with running_homeserver(flavour) as homeserver, gateway_of(tmp_path, homeserver) as gateway:
        answer = await gateway.log_in(mint(subject))
        assert (answer.status, answer.body["errcode"]) == (400, "M_INVALID_USERNAME")
        assert (homeserver.users, homeserver.registered, homeserver.sessions) == ({}, 0, {})
    assert rows(tmp_path) == []


@by_name
@pytest.mark.parametrize("subject", [subject for subject, _ in HISTORICAL])
async def test_it_is_off_unless_it_is_asked_for(flavour: Flavour, subject: str, tmp_path: Path) -> None:
    async with running_homeserver(flavour) as homeserver, gateway_of(tmp_path, homeserver, identity={}) as gateway:
        homeserver.users = {name: User() for _, name in HISTORICAL}
        answer = await gateway.log_in(mint(subject))
        assert (answer.status, answer.body["errcode"]) == (400, "M_INVALID_USERNAME")
        assert homeserver.sessions == {}


# "\u212aate" begins with the Kelvin sign, which Unicode folds onto k.
@by_name
@pytest.mark.parametrize(
    "subject", ["_irc_bob", "@anna", "a:b", "an\u200bna", "anna\u202e", "\u212aate", " ", "a\tb"]
)
async def test_what_could_be_somebody_else_is_refused_all_the_same(
    flavour: Flavour, subject: str, tmp_path: Path
) -> None:
    async with running_homeserver(flavour) as homeserver, gateway_of(tmp_path, homeserver) as gateway:
        homeserver.users = {name: User() for name in ("_irc_bob", "anna", "kate", "a")}
        answer = await gateway.log_in(mint(subject))
        assert (answer.status, answer.body["errcode"]) == (400, "M_INVALID_USERNAME")
        assert homeserver.sessions == {}
    assert rows(tmp_path) == []


async def test_a_name_is_the_users_alone_whose_case_it_has(tmp_path: Path) -> None:
    identity = {"historical": True, "lowercase": False}
    async with (
        running_homeserver(PALPO) as homeserver,
        gateway_of(tmp_path, homeserver, identity=identity) as gateway,
    ):
        homeserver.users["alice"] = User()
        answer = await gateway.log_in(mint("Alice"))
        assert (answer.status, answer.body["errcode"]) == (400, "M_INVALID_USERNAME")
        assert homeserver.sessions == {}


@pytest.mark.parametrize("method", ["appservice", "jwt"])
async def test_nobody_is_a_guest_of_synapse_whose_names_are_digits(method: str, tmp_path: Path) -> None:
    session = {"method": method, "jwt_secret": JWT_SECRET} if method == "jwt" else {}
    async with (
        running_homeserver(SYNAPSE) as homeserver,
        gateway_of(tmp_path, homeserver, session=session) as gateway,
    ):
        homeserver.jwt_claims = {}
        homeserver.users = {"1": User("1", was_guest=True), "4711": User("4711")}
        assert [(await gateway.log_in(mint(name))).status for name in ("1", "4711", "1")] == [403, 200, 403]
        assert list(homeserver.sessions.values()) == [f"@4711:{SERVER_NAME}"]


@by_name
async def test_of_subjects_that_differ_in_case_alone_the_first_has_the_user(flavour: Flavour, tmp_path: Path) -> None:
    async with running_homeserver(flavour) as homeserver, gateway_of(tmp_path, homeserver) as gateway:
        homeserver.users["jörg"] = User()
        statuses = [(await gateway.log_in(mint(subject))).status for subject in ("Jörg", "JÖRG", "Jörg")]
        assert statuses == [200, 403, 200]


@by_name
async def test_a_user_whom_the_homeserver_lost_is_not_made_again(flavour: Flavour, tmp_path: Path) -> None:
    async with running_homeserver(flavour) as homeserver, gateway_of(tmp_path, homeserver) as gateway:
        homeserver.users["jörg"] = User()
        assert (await gateway.log_in(mint("jörg"))).status == 200
        homeserver.users.clear()
        answer = await gateway.log_in(mint("jörg"))
        assert (answer.status, answer.body["error"]) == (403, "User not found")
        assert homeserver.users == {}


@by_name
async def test_existing_accounts_are_refused_where_that_is_asked_for(flavour: Flavour, tmp_path: Path) -> None:
    identity = {"historical": True, "existing_accounts": "refuse"}
    async with (
        running_homeserver(flavour) as homeserver,
        gateway_of(tmp_path, homeserver, identity=identity) as gateway,
    ):
        homeserver.users["jörg"] = User()
        assert (await gateway.log_in(mint("jörg"))).status == 403
        assert homeserver.sessions == {}


async def test_by_the_homeservers_own_jwt_login_nobody_is_made_either(tmp_path: Path) -> None:
    session = {"method": "jwt", "jwt_secret": JWT_SECRET}
    async with running_homeserver(PALPO) as homeserver:
        homeserver.jwt_claims = {}
        homeserver.users["jörg"] = User()
        for as_token, statuses in ((AS_TOKEN, [200, 200, 400]), (None, [502, 502, 502])):
            directory = tmp_path / str(statuses[0])
            directory.mkdir()
            async with gateway_of(directory, homeserver, session={**session, "as_token": as_token}) as gateway:
                found = [(await gateway.log_in(mint(name))).status for name in ("jörg", "jörg", "anna@example.com")]
                assert found == statuses
        assert list(homeserver.users) == ["jörg"]


async def test_a_session_that_only_asks_is_ended_or_nobody_is_told_of_the_user(tmp_path: Path) -> None:
    async with running_homeserver(PALPO) as homeserver, gateway_of(tmp_path, homeserver) as gateway:
        homeserver.users["jörg"] = User()
        homeserver.faults["logout"] = Fault((500, "M_UNKNOWN"), times=2)
        assert [(await gateway.log_in(mint("jörg"))).status for _ in range(2)] == [502, 200]
        assert len(homeserver.sessions) == 2  # the one of the failure stays
    assert rows(tmp_path) == [("jörg", "active")]


async def test_a_session_that_has_ended_though_that_failed_tells_of_the_user(tmp_path: Path) -> None:
    """As on Palpo, where two of a user end at once."""
    async with running_homeserver(PALPO) as homeserver, gateway_of(tmp_path, homeserver) as gateway:
        homeserver.users["jörg"] = User()
        logout = "/_matrix/client/v3/logout"

        def fail() -> web.Response:
            homeserver.sessions.clear()
            homeserver.devices.clear()
            del homeserver.answers[logout]
            return web.json_response({"errcode": "M_UNKNOWN"}, status=500)

        homeserver.answers[logout] = fail
        assert (await gateway.log_in(mint("jörg"))).status == 200
        assert len(homeserver.sessions) == 1


async def test_where_a_session_may_be_nobodys_it_tells_of_no_user(tmp_path: Path) -> None:
    hollow = replace(DENDRITE, name="another", no_profile=(403, "M_FORBIDDEN"), checks_login_names=False)
    async with running_homeserver(hollow) as homeserver, gateway_of(tmp_path, homeserver) as gateway:
        assert (await gateway.log_in(mint("jörg"))).status == 502
        assert (homeserver.users, homeserver.sessions) == ({}, {})
    assert rows(tmp_path) == []


async def test_the_login_may_name_such_a_user(tmp_path: Path) -> None:
    async with running_homeserver(SYNAPSE) as homeserver:
        homeserver.users["jörg"] = User()
        jwt = {"accept_in_password": True}
        async with gateway_of(tmp_path, homeserver, jwt=jwt) as gateway:
            statuses = [await pasted(gateway, name) for name in ("jörg", f"@jörg:{SERVER_NAME}", "jorg")]
    assert statuses == [200, 200, 403]


async def pasted(gateway: RunningGateway, name: str) -> int:
    identifier = {"type": "m.id.user", "user": name}
    body = {"type": "m.login.password", "identifier": identifier, "password": mint("jörg")}
    return (await gateway.call("POST", LOGIN, body)).status
