"""The story of a login where sessions come from the homeserver's own JWT login, or from another service."""

import asyncio
import json
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from tests.beside import change
from tests.fake_homeserver import JWT_SECRET, FakeHomeserver, Fault, User, running_homeserver
from tests.fake_mas import FakeMas, running_mas
from tests.flavours import BEHIND_MAS, PALPO, SYNAPSE, TUWUNEL, Flavour
from tests.running_gateway import AS_TOKEN, SERVER_NAME, RunningGateway, mint, running_gateway
from tests.waiting import finished, until

ALICE = f"@alice:{SERVER_NAME}"
DEVICE = "PHONEPHONE"
JWT = {"method": "jwt", "jwt_secret": JWT_SECRET, "as_token": None}
WITH_JWT = pytest.mark.parametrize("flavour", [SYNAPSE, PALPO, TUWUNEL], ids=lambda flavour: flavour.name)


def states(directory: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(directory / "gateway.db")) as database:
        return list(database.execute("SELECT localpart, state FROM accounts ORDER BY localpart"))


@asynccontextmanager
async def with_jwt(
    directory: Path, flavour: Flavour = SYNAPSE, session: dict[str, Any] | None = None, **tables: dict[str, Any]
) -> AsyncIterator[tuple[RunningGateway, FakeHomeserver]]:
    async with running_homeserver(flavour) as homeserver:
        homeserver.jwt_claims = {}
        tables["session"] = {**JWT, **(session or {})}
        async with running_gateway(directory, homeserver.url, **tables) as gateway:
            yield gateway, homeserver


@asynccontextmanager
async def with_mas(directory: Path, **tables: dict[str, Any]) -> AsyncIterator[tuple[RunningGateway, FakeMas]]:
    async with running_mas() as mas:
        session = {**mas.settings, **tables.pop("session", {})}
        async with running_gateway(directory, mas.homeserver.url, session=session, **tables) as gateway:
            yield gateway, mas


@WITH_JWT
async def test_jwt_opens_one_session_a_login_and_the_first_makes_the_account(
    flavour: Flavour, tmp_path: Path
) -> None:
    async with with_jwt(tmp_path, flavour) as (gateway, homeserver):
        for count in (1, 2):
            answer = await gateway.log_in(mint(), device_id="PHONE")
            assert (answer.body["user_id"], answer.body["device_id"]) == (ALICE, "PHONE")
            assert homeserver.sessions[answer.body["access_token"]] == ALICE
            assert len(homeserver.to("/login")) == count
        assert list(homeserver.users) == ["alice"]
        assert homeserver.registered == 0
        assert gateway.log.count("made=True") == 1
    assert states(tmp_path) == [("alice", "active")]


@WITH_JWT
async def test_jwt_makes_no_account_without_register_user(flavour: Flavour, tmp_path: Path) -> None:
    async with with_jwt(tmp_path, flavour, jwt={"register_user": False}) as (gateway, homeserver):
        answer = await gateway.log_in(mint())
        assert (answer.status, answer.body["error"]) == (403, "User not found")
        assert (homeserver.users, homeserver.to("/login"), states(tmp_path)) == ({}, [], [])
        homeserver.users["alice"] = User("Alice")
        assert (await gateway.log_in(mint())).status == 200
        homeserver.users["alice"].display_name = None  # cleared by the user, and known here all the same
        assert (await gateway.log_in(mint())).status == 200


async def test_jwt_makes_no_account_again_that_synapse_lost_where_it_can_ask(tmp_path: Path) -> None:
    session = {"as_token": AS_TOKEN}
    async with with_jwt(tmp_path, session=session, jwt={"register_user": False}) as (gateway, homeserver):
        homeserver.users["alice"] = User()
        assert (await gateway.log_in(mint())).status == 200
        homeserver.users.clear()
        assert (await gateway.log_in(mint())).body["error"] == "User not found"
        assert homeserver.users == {}


async def test_jwt_refuses_accounts_that_were_there_where_configured(tmp_path: Path) -> None:
    tables: dict[str, Any] = {"session": {"as_token": AS_TOKEN}, "identity": {"existing_accounts": "refuse"}}
    async with with_jwt(tmp_path, **tables) as (gateway, homeserver):
        homeserver.users["alice"] = User()
        answer = await gateway.log_in(mint())
        assert (answer.status, answer.body["error"]) == (403, "This identity may not log in here")
        assert homeserver.sessions == {}
        answers = await asyncio.gather(*(gateway.log_in(mint("bob")) for _ in range(8)))
        assert [answer.status for answer in answers] == [200] * 8
    assert states(tmp_path) == [("bob", "active")]


@pytest.mark.parametrize("existing", ["link", "refuse"])
@pytest.mark.parametrize("breaks", ["head", "after"])
async def test_jwt_finishes_a_first_login_that_broke_off(existing: str, breaks: str, tmp_path: Path) -> None:
    tables: dict[str, Any] = {"session": {"as_token": AS_TOKEN}, "identity": {"existing_accounts": existing}}
    async with with_jwt(tmp_path, **tables) as (gateway, homeserver):
        homeserver.faults["login"] = Fault(breaks=breaks)
        assert (await gateway.log_in(mint())).status == 502
        assert len(homeserver.to("/login")) == 1
        assert states(tmp_path) == [("alice", "pending")]
        assert (await gateway.log_in(mint())).body["user_id"] == ALICE
        assert list(homeserver.users) == ["alice"]
    assert states(tmp_path) == [("alice", "active")]


@pytest.mark.parametrize(("existing", "status"), [("link", 200), ("refuse", 403)])
async def test_jwt_takes_an_account_that_somebody_made_meanwhile_for_one_that_was_there(
    existing: str, status: int, tmp_path: Path
) -> None:
    tables: dict[str, Any] = {"session": {"as_token": AS_TOKEN}, "identity": {"existing_accounts": existing}}
    async with with_jwt(tmp_path, **tables) as (gateway, homeserver):
        homeserver.being_made.add("alice")
        assert (await gateway.log_in(mint())).status == status
        assert len(homeserver.sessions) == (status == 200)
        assert "made=True" not in gateway.log
    assert states(tmp_path) == ([("alice", "active")] if status == 200 else [])


async def test_jwt_leaves_no_row_of_an_account_that_the_homeserver_refused_to_make(tmp_path: Path) -> None:
    async with with_jwt(tmp_path, session={"jwt_secret": "another secret, which nobody has"}) as (gateway, _):
        answer = await gateway.log_in(mint())
        assert (answer.status, answer.body["errcode"]) == (502, "M_UNKNOWN")
        assert "Signature verification failed" in gateway.log
    assert states(tmp_path) == []


@pytest.mark.parametrize(("fault", "again"), [(Fault(breaks="after"), 403), (Fault((403, "M_FORBIDDEN")), 200)])
async def test_jwt_uses_a_token_up_once_a_session_may_have_been_opened(
    fault: Fault, again: int, tmp_path: Path
) -> None:
    async with with_jwt(tmp_path, jwt={"single_use": True}) as (gateway, homeserver):
        homeserver.faults["login"] = Fault(fault.answer, breaks=fault.breaks)
        token = mint(jti="1")
        assert (await gateway.log_in(token)).status == 502
        assert (await gateway.log_in(token)).status == again


@pytest.mark.parametrize(("wanted", "shown"), [("first_login", "Alice"), ("never", "alice")])
async def test_jwt_gives_the_name_to_the_homeserver_that_makes_the_account(
    wanted: str, shown: str, tmp_path: Path
) -> None:
    tables: dict[str, Any] = {
        "session": {"jwt_display_name_claim": "name"},
        "jwt": {"display_name_claim": "name"},
        "profile": {"display_name": wanted},
    }
    async with with_jwt(tmp_path, **tables) as (gateway, homeserver):
        await gateway.log_in(mint(name="Alice"))
        assert homeserver.users["alice"].display_name == shown
        assert [seen for seen in homeserver.seen if seen.method == "PUT"] == []


async def test_mas_makes_the_user_and_gives_the_answer_of_a_homeserver(tmp_path: Path) -> None:
    async with with_mas(tmp_path) as (gateway, mas):
        for count in (1, 2):
            answer = await gateway.log_in(mint(), device_id=DEVICE, refresh_token=True)
            assert answer.body.keys() == {"user_id", "access_token", "home_server", "device_id"}
            assert (answer.body["user_id"], answer.body["device_id"]) == (ALICE, DEVICE)
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
            assert mas.homeserver.sessions[answer.body["access_token"]] == ALICE
            assert len(mas.to("/personal-sessions")) == count
            assert answer.body["access_token"] not in gateway.log
        assert list(mas.users) == ["alice"]
        assert len(mas.to("/users")) == 1
    assert states(tmp_path) == [("alice", "active")]


async def test_nothing_is_made_at_the_mas_of_another_server(tmp_path: Path) -> None:
    async with with_mas(tmp_path) as (gateway, mas):
        mas.server_name = "other.example"
        mas.add("bob")
        for name in ("alice", "bob"):
            answer = await gateway.log_in(mint(name))
            assert (answer.status, answer.body["errcode"]) == (502, "M_UNKNOWN")
        assert (list(mas.users), mas.sessions, states(tmp_path)) == (["bob"], {}, [])
        assert "is that of other.example, and server_name is example.org: set mas_url to that" in gateway.log


async def test_mas_ends_the_session_that_the_device_had(tmp_path: Path) -> None:
    async with with_mas(tmp_path) as (gateway, mas):
        first = await gateway.log_in(mint(), device_id=DEVICE)
        other = await gateway.log_in(mint(), device_id="TABLETTABLET")
        mas.faults["revoke"] = Fault((500, ""))
        second = await gateway.log_in(mint(), device_id=DEVICE)
        await until(lambda: "session_not_ended" in gateway.log)
        third = await gateway.log_in(mint(), device_id=DEVICE)
        await until(lambda: len(mas.open_sessions) <= 2)
        tokens = {answer.body["access_token"] for answer in (first, other, second, third)}
        assert set(mas.homeserver.sessions) == {other.body["access_token"], third.body["access_token"]} < tokens


async def test_the_client_of_mas_stays_over_a_reload_that_does_not_concern_it(tmp_path: Path) -> None:
    async with with_mas(tmp_path) as (gateway, mas):
        for _ in range(2):
            assert (await gateway.log_in(mint())).status == 200
            assert await gateway.running.reload() == ""
        assert len(mas.to("/oauth2/token")) == 1
        path = gateway.configuration.path
        path.write_text(path.read_text().replace("[session]", "[session]\nmas_expires_in = 60"))
        assert await gateway.running.reload() == ""
        assert (await gateway.log_in(mint())).body["expires_in_ms"] == 60_000


async def test_the_session_of_a_first_login_by_jwt_is_timed_as_one(tmp_path: Path) -> None:
    async with with_jwt(tmp_path) as (gateway, homeserver):
        homeserver.faults["login"] = Fault(wait=(go_on := asyncio.Event()))
        login = asyncio.create_task(gateway.log_in(mint()))
        await until(lambda: homeserver.to("/login"))
        await asyncio.sleep(0.1)
        go_on.set()
        assert (await login).status == 200
        metrics, _ = gateway.running.health.metrics.exposition("")
    assert b'matrix_login_gateway_login_seconds_count{step="session"} 1.0' in metrics
    (seconds,) = re.findall(rb'login_seconds_sum{step="session"} (\S+)', metrics)
    assert float(seconds) > 0.1


async def test_mas_makes_no_account_without_register_user(tmp_path: Path) -> None:
    async with with_mas(tmp_path, jwt={"register_user": False}) as (gateway, mas):
        answer = await gateway.log_in(mint())
        assert (answer.status, answer.body["error"]) == (403, "User not found")
        mas.add("alice")
        assert (await gateway.log_in(mint())).status == 200
        mas.users.clear()
        assert (await gateway.log_in(mint())).body["error"] == "User not found"
        assert len(mas.to("/users")) == 0


async def test_mas_refuses_users_that_were_there_where_configured(tmp_path: Path) -> None:
    async with with_mas(tmp_path, identity={"existing_accounts": "refuse"}) as (gateway, mas):
        mas.add("alice")
        assert (await gateway.log_in(mint())).body["error"] == "This identity may not log in here"
        answers = await asyncio.gather(*(gateway.log_in(mint("bob")) for _ in range(8)))
        assert [answer.status for answer in answers] == [200] * 8
    assert states(tmp_path) == [("bob", "active")]


@pytest.mark.parametrize(
    ("state", "status", "errcode"), [("locked", 401, "M_USER_LOCKED"), ("deactivated", 403, "M_USER_DEACTIVATED")]
)
async def test_mas_refuses_users_in_the_words_of_a_homeserver(
    state: str, status: int, errcode: str, tmp_path: Path
) -> None:
    async with with_mas(tmp_path) as (gateway, mas):
        mas.add("alice", **{state: True})
        answer = await gateway.log_in(mint())
        assert (answer.status, answer.body["errcode"]) == (status, errcode)
        assert answer.body.get("soft_logout") is (True if state == "locked" else None)


async def test_mas_refuses_a_device_that_does_not_fit_before_anything_is_done(tmp_path: Path) -> None:
    async with with_mas(tmp_path, jwt={"single_use": True}) as (gateway, mas):
        token = mint(jti="1")
        answer = await gateway.log_in(token, device_id="my phone")
        assert (answer.status, answer.body["errcode"]) == (400, "M_INVALID_PARAM")
        assert mas.seen == []
        assert (await gateway.log_in(token)).status == 200


@pytest.mark.parametrize("at", ["token", "users", "personal-sessions"])
@pytest.mark.parametrize("breaks", ["head", "after"])
async def test_mas_finishes_a_login_that_broke_off(at: str, breaks: str, tmp_path: Path) -> None:
    async with with_mas(tmp_path) as (gateway, mas):
        mas.faults[at] = Fault(breaks=breaks)
        assert (await gateway.log_in(mint())).status == 502
        assert (await gateway.log_in(mint())).body["user_id"] == ALICE
        assert list(mas.users) == ["alice"]
    assert states(tmp_path) == [("alice", "active")]


async def test_mas_that_is_down_is_502_and_pass_through_goes_on(tmp_path: Path) -> None:
    async with with_mas(tmp_path) as (gateway, mas):
        await mas.stop()
        answer = await gateway.log_in(mint())
        assert (answer.status, answer.body["error"]) == (502, "The homeserver cannot be reached")
        assert (await gateway.call("GET", "/_matrix/client/versions")).status == 200
        await mas.start()
        assert (await gateway.log_in(mint())).status == 200


async def test_mas_gives_no_session_that_could_not_be_ended_again(tmp_path: Path) -> None:
    async with with_mas(tmp_path) as (gateway, mas):
        assert (await gateway.log_in(mint())).status == 200
        await change(tmp_path, "DROP TABLE personal_sessions")
        answer = await gateway.log_in(mint())
        assert (answer.status, "Retry-After" in answer.headers) == (503, True)
        await until(lambda: len(mas.open_sessions) == 1)
        assert len(mas.sessions) == 2


async def test_the_profile_is_set_by_an_application_service_alone(tmp_path: Path) -> None:
    claims = {"display_name_claim": "name"}
    for as_token, shown, sent in ((None, "alice", 0), (AS_TOKEN, "Alice", 1)):
        directory = tmp_path / str(as_token)
        directory.mkdir()
        async with with_mas(directory, session={"as_token": as_token}, jwt=claims) as (gateway, mas):
            await gateway.log_in(mint(name="Alice"))
            await finished("profile")
            put = [seen for seen in mas.homeserver.to("/displayname") if seen.method == "PUT"]
            assert (mas.homeserver.users["alice"].display_name, len(put)) == (shown, sent)


async def test_no_secret_of_a_method_stands_in_the_log_or_the_database(tmp_path: Path) -> None:
    async with with_mas(tmp_path) as (gateway, mas):
        mas.faults["personal-sessions"] = Fault((500, ""))
        await gateway.log_in(mint())
        token = (await gateway.log_in(mint())).body["access_token"]
        mas.tokens.clear()
        mas.faults["token"] = Fault((401, "invalid_client"))
        await gateway.log_in(mint())
        shown = gateway.log + repr(gateway.configuration) + json.dumps(states(tmp_path))
    shown += b"".join(path.read_bytes() for path in tmp_path.glob("gateway.db*")).decode("latin-1")
    for secret in (token, mas.settings["mas_client_secret"], "mat_"):
        assert secret not in shown


async def test_behind_mas_the_application_service_login_says_what_to_choose(tmp_path: Path) -> None:
    async with running_homeserver(BEHIND_MAS) as homeserver, running_gateway(tmp_path, homeserver.url) as gateway:
        assert (await gateway.log_in(mint())).status == 502
        assert 'method = \\"mas\\" can' in gateway.log or 'method = "mas" can' in gateway.log
