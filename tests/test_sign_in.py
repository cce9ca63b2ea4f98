"""The story of a login against a homeserver: one account for each subject, whatever breaks in between."""

import asyncio
import json
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.core.accounts import DOUBT_SECONDS, REGISTRATION_SECONDS
from gateway.storage.accounts import Accounts
from gateway.storage.database import open_database
from tests.beside import change
from tests.fake_homeserver import JWT_SECRET, FakeHomeserver, Fault, User, running_homeserver
from tests.flavours import CONDUIT, CONTINUWUITY, DENDRITE, FLAVOURS, PALPO, SYNAPSE, TUWUNEL, Flavour
from tests.raw_http import connected
from tests.running_gateway import AS_TOKEN, LOGIN, SECRET, SERVER_NAME, RunningGateway, mint, running_gateway
from tests.waiting import until

ALICE = f"@alice:{SERVER_NAME}"
REFUSE = {"existing_accounts": "refuse"}


@pytest.fixture
async def gateway(tmp_path: Path, homeserver: FakeHomeserver) -> AsyncIterator[RunningGateway]:
    async with running_gateway(tmp_path, homeserver.url, jwt={"display_name_claim": "name"}) as running:
        yield running


def rows(directory: Path) -> list[tuple[str, str, str]]:
    with closing(sqlite3.connect(directory / "gateway.db")) as database:
        return list(database.execute("SELECT localpart, subject, state FROM accounts ORDER BY localpart"))


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.name)
async def test_a_first_login_makes_one_account_on_every_homeserver(flavour: Flavour, tmp_path: Path) -> None:
    async with running_homeserver(flavour) as homeserver, running_gateway(tmp_path, homeserver.url) as gateway:
        for _ in range(2):
            answer = await gateway.log_in(mint())
            assert answer.body["user_id"] == ALICE
            assert homeserver.sessions[answer.body["access_token"]] == ALICE
        assert list(homeserver.users) == ["alice"]
        assert not homeserver.users["alice"].was_guest
        assert homeserver.registered == 1
    assert rows(tmp_path) == [("alice", "alice", "active")]


# Who does not respect the names of bridges at /register is asked for the name before it, and where a session may be
# nobody's, or a deactivated user's, it is used once: but for that of a user who was made a moment ago.
@pytest.mark.parametrize(
    ("flavour", "first", "later"),
    [
        (SYNAPSE, ["register", "login"], ["login"]),
        (PALPO, ["available", "register", "login"], ["login"]),
        (DENDRITE, ["available", "register", "login"], ["login", "whoami"]),
        (TUWUNEL, ["available", "register", "login"], ["login", "whoami"]),
    ],
    ids=lambda value: getattr(value, "name", None),
)
async def test_a_login_asks_no_more_than_it_needs(
    flavour: Flavour, first: list[str], later: list[str], tmp_path: Path
) -> None:
    async with running_homeserver(flavour) as homeserver, running_gateway(tmp_path, homeserver.url) as gateway:
        await gateway.log_in(mint("bob"))  # with what is asked once
        for expected in (first, later):
            homeserver.seen.clear()
            assert (await gateway.log_in(mint())).status == 200
            assert [seen.path.rpartition("/")[2] for seen in homeserver.seen] == expected


async def test_the_session_of_a_user_whom_somebody_else_has_just_made_is_not_believed_untried(tmp_path: Path) -> None:
    session = {"method": "jwt", "jwt_secret": JWT_SECRET}
    async with (
        running_homeserver(TUWUNEL) as homeserver,
        running_gateway(tmp_path, homeserver.url, session=session) as gateway,
    ):
        homeserver.jwt_claims = {}
        homeserver.being_made.add("alice")
        assert (await gateway.log_in(mint())).status == 200
        assert [seen.path.rpartition("/")[2] for seen in homeserver.seen[-3:]] == ["login", "login", "whoami"]


@pytest.mark.parametrize("existing", ["link", "refuse"])
@pytest.mark.parametrize("count", [2, 20])
async def test_first_logins_at_once_make_one_account_and_all_succeed(
    existing: str, count: int, tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    identity = {"existing_accounts": existing}
    async with running_gateway(tmp_path, homeserver.url, identity=identity) as gateway:
        answers = await asyncio.gather(*(gateway.log_in(mint()) for _ in range(count)))
    assert [answer.status for answer in answers] == [200] * count
    assert len({answer.body["access_token"] for answer in answers}) == count
    assert list(homeserver.users) == ["alice"]
    assert rows(tmp_path) == [("alice", "alice", "active")]


async def test_of_two_subjects_that_map_to_one_user_at_once_one_gets_it(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    answers = await asyncio.gather(*(gateway.log_in(mint(sub)) for sub in ("alice", "Alice", "ALICE", "aLICE")))
    assert Counter(answer.status for answer in answers) == {200: 1, 403: 3}
    assert len(rows(tmp_path)) == 1
    assert gateway.log.count("is owned by another subject") == 3


@pytest.mark.parametrize(
    ("at", "fault", "status"),
    [
        ("register", Fault(breaks="head"), 502),
        ("register", Fault(breaks="after"), 502),
        ("register", Fault(breaks="body"), 502),
        ("register", Fault((502, "M_UNKNOWN")), 502),
        ("login", Fault(breaks="head"), 502),
        ("login", Fault(breaks="after"), 502),
        ("login", Fault((503, "M_UNKNOWN")), 502),
    ],
)
@pytest.mark.parametrize("existing", ["link", "refuse"])
async def test_a_login_that_broke_off_is_finished_by_the_next_one_after_a_restart(
    at: str, fault: Fault, status: int, existing: str, tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    identity = {"existing_accounts": existing}
    homeserver.faults[at] = Fault(fault.answer, breaks=fault.breaks, times=2)
    async with running_gateway(tmp_path, homeserver.url, identity=identity) as gateway:
        assert (await gateway.log_in(mint())).status == status
    assert [row[2] for row in rows(tmp_path)] == ["pending" if at == "register" else "active"]
    homeserver.faults.clear()
    async with running_gateway(tmp_path, homeserver.url, identity=identity) as gateway:
        assert (await gateway.log_in(mint())).body["user_id"] == ALICE
    assert list(homeserver.users) == ["alice"]
    assert rows(tmp_path) == [("alice", "alice", "active")]


async def test_an_ordinary_login_reads_the_database_before_and_after_the_session_and_writes_nothing(
    tmp_path: Path, homeserver: FakeHomeserver, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_gateway(tmp_path, homeserver.url, database={"audit_retention": 0}) as gateway:
        assert (await gateway.log_in(mint())).status == 200
        await asyncio.sleep(0.1)
        caplog.set_level("DEBUG", "aiosqlite")
        assert (await gateway.log_in(mint())).status == 200
        caplog.set_level("INFO", "aiosqlite")
    done = [record.getMessage() for record in caplog.records if record.getMessage().startswith("executing")]
    assert [" FROM accounts " in message.replace("\\n", " ") for message in done] == [True, True]


async def test_a_homeserver_that_dies_between_registration_and_login_is_waited_for(
    gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    go_on = asyncio.Event()
    homeserver.faults["login"] = Fault(wait=go_on, breaks="head")
    login = asyncio.create_task(gateway.log_in(mint()))
    await until(lambda: homeserver.to("/login"))
    await homeserver.stop()
    go_on.set()
    assert (await login).status == 502
    assert (await gateway.log_in(mint())).status == 502
    homeserver.faults.clear()
    await homeserver.start()
    assert (await gateway.log_in(mint())).status == 200
    assert list(homeserver.users) == ["alice"]


@pytest.mark.parametrize(("first", "owner"), [("A", "A"), (None, "B")])
async def test_an_account_from_a_time_without_issuers_belongs_to_one_issuer(
    first: str | None, owner: str, tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    async with running_gateway(tmp_path, homeserver.url) as gateway:
        assert (await gateway.log_in(mint(iss=first))).status == 200
        assert (await gateway.log_in(mint(iss="C"))).status == 200
    async with running_gateway(tmp_path, homeserver.url, jwt={"issuer": ["A", "B"]}) as gateway:
        answers = {issuer: (await gateway.log_in(mint(iss=issuer))).status for issuer in ("B", "A", "B")}
    assert answers == {"A": 403, "B": 403, owner: 200}
    async with running_gateway(tmp_path, homeserver.url) as gateway:
        assert (await gateway.log_in(mint(iss="C"))).status == 200


async def test_of_two_issuers_that_claim_an_old_account_at_once_one_gets_it(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    async with running_gateway(tmp_path, homeserver.url) as gateway:
        assert (await gateway.log_in(mint())).status == 200
    async with running_gateway(tmp_path, homeserver.url, jwt={"issuer": ["A", "B"]}) as gateway:
        answers = await asyncio.gather(*(gateway.log_in(mint(iss=issuer)) for issuer in "AB" * 5))
    assert Counter(answer.status for answer in answers) == {200: 5, 403: 5}
    assert len({answer.status for answer in answers[::2]}) == 1


async def test_an_account_that_is_there_is_linked(gateway: RunningGateway, homeserver: FakeHomeserver) -> None:
    homeserver.users["alice"] = User(display_name="A", password="b")
    assert (await gateway.log_in(mint())).status == 200
    assert homeserver.users["alice"].display_name == "A"


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.name)
async def test_an_account_that_is_there_is_refused_where_configured(flavour: Flavour, tmp_path: Path) -> None:
    identity = {"existing_accounts": "refuse"}
    async with running_homeserver(flavour) as homeserver:
        homeserver.users["alice"] = User(display_name="A")
        async with running_gateway(tmp_path, homeserver.url, identity=identity) as gateway:
            for _ in range(2):
                answer = await gateway.log_in(mint())
                assert (answer.status, answer.body["error"]) == (403, "This identity may not log in here")
            assert "the account exists already" in gateway.log
            assert (await gateway.log_in(mint("bob"))).status == 200
        assert homeserver.sessions == {"syt_1": f"@bob:{SERVER_NAME}"}
    assert [row[0] for row in rows(tmp_path)] == ["bob"]


def hide_users(homeserver: FakeHomeserver) -> None:
    """Let profiles be hidden on software that does not say what it is."""
    homeserver.faults["profile"] = Fault((404, "M_NOT_FOUND"), times=999)
    homeserver.faults["version"] = Fault((404, "M_UNRECOGNIZED"), times=999)


@pytest.mark.parametrize("count", [1, 8])
async def test_an_account_that_shows_itself_only_at_registration_is_refused_where_configured(
    count: int, tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    homeserver.users["alice"] = User(password="of a person")
    hide_users(homeserver)
    async with running_gateway(tmp_path, homeserver.url, identity=REFUSE) as gateway:
        for _ in range(2):
            answers = await asyncio.gather(*(gateway.log_in(mint()) for _ in range(count)))
            assert [answer.status for answer in answers] == [403] * count
        assert "the account exists already" in gateway.log
        assert (await gateway.log_in(mint("bob"))).status == 200
    assert list(homeserver.sessions.values()) == [f"@bob:{SERVER_NAME}"]
    assert [row[0] for row in rows(tmp_path)] == ["bob"]


@pytest.mark.parametrize("refusal", [(500, "M_UNKNOWN"), (429, "M_LIMIT_EXCEEDED"), (400, "M_EXCLUSIVE")])
@pytest.mark.parametrize("existing", ["link", "refuse"])
async def test_a_registration_that_the_homeserver_refused_reserves_nothing(
    refusal: tuple[int, str], existing: str, tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    homeserver.faults["register"] = Fault(refusal)
    async with running_gateway(tmp_path, homeserver.url, identity={"existing_accounts": existing}) as gateway:
        assert (await gateway.log_in(mint())).status in {429, 502}
        assert rows(tmp_path) == []
        homeserver.users["alice"] = User(password="of a person", display_name="A")
        assert (await gateway.log_in(mint())).status == (403 if existing == "refuse" else 200)


@pytest.mark.parametrize("answer", [(502, "M_UNKNOWN"), (504, "")])
async def test_an_answer_that_leaves_open_whether_the_account_was_made_keeps_the_name(
    answer: tuple[int, str], tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    homeserver.faults["register"] = Fault(answer)
    async with running_gateway(tmp_path, homeserver.url, identity=REFUSE) as gateway:
        assert (await gateway.log_in(mint())).status == 502
        assert rows(tmp_path) == [("alice", "alice", "pending")]
        homeserver.users["alice"] = User()
        assert (await gateway.log_in(mint())).status == 200


async def test_a_200_that_names_no_user_is_no_account(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    homeserver.answers["/_matrix/client/v3/register?from_appservice=true"] = lambda: web.Response(text="<html>")
    async with running_gateway(tmp_path, homeserver.url, identity=REFUSE) as gateway:
        assert (await gateway.log_in(mint())).status == 502
    assert rows(tmp_path) == [("alice", "alice", "pending")]


@pytest.mark.parametrize("existing", ["link", "refuse"])
async def test_first_logins_at_two_gateways_with_one_database_all_succeed(
    existing: str, tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    identity = {"existing_accounts": existing}
    async with (
        running_gateway(tmp_path, homeserver.url, identity=identity) as one,
        running_gateway(tmp_path, homeserver.url, identity=identity) as other,
    ):
        answers = await asyncio.gather(*(each.log_in(mint()) for each in (one, other) * 4))
    assert [answer.status for answer in answers] == [200] * 8
    assert rows(tmp_path) == [("alice", "alice", "active")]


async def write_row(directory: Path, state: str, age: int) -> None:
    made = int(time.time()) - age
    await change(directory, f"INSERT INTO accounts VALUES ('alice', '', 'alice', '{state}', {made}, {made})")


async def test_a_registration_that_another_gateway_makes_is_waited_for(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    async with running_gateway(tmp_path, homeserver.url, identity=REFUSE) as gateway:
        await write_row(tmp_path, "registering", 0)
        login = asyncio.create_task(gateway.log_in(mint()))
        await asyncio.sleep(0.3)
        assert (login.done(), homeserver.seen) == (False, [])
        homeserver.users["alice"] = User()
        await change(tmp_path, "UPDATE accounts SET state = 'active'")
        assert (await login).status == 200
    assert homeserver.registered == 0


@pytest.mark.parametrize("made", [True, False])
async def test_a_registration_that_a_crash_broke_off_is_finished_by_the_next_login(
    tmp_path: Path, homeserver: FakeHomeserver, *, made: bool
) -> None:
    homeserver.users = {"alice": User()} if made else {}
    async with running_gateway(tmp_path, homeserver.url, identity=REFUSE) as gateway:
        await write_row(tmp_path, "registering", REGISTRATION_SECONDS - 1)
        assert (await gateway.log_in(mint())).status == 200
    assert rows(tmp_path) == [("alice", "alice", "active")]


@pytest.mark.parametrize("state", ["registering", "pending", "locked_pending"])
async def test_a_registration_that_broke_off_is_settled_while_it_is_known_to_be_ours(
    tmp_path: Path, homeserver: FakeHomeserver, state: str
) -> None:
    homeserver.users["alice"] = User("Alice")
    async with running_gateway(tmp_path, homeserver.url, identity=REFUSE):
        pass
    await write_row(tmp_path, state, REGISTRATION_SECONDS + 1)
    async with running_gateway(tmp_path, homeserver.url, identity=REFUSE) as gateway:
        await until(lambda: f"registration_settled user_id={ALICE}" in gateway.log)
    settled = "locked" if state == "locked_pending" else "active"
    assert rows(tmp_path) == [("alice", "alice", settled)]


@pytest.mark.parametrize(
    ("state", "age", "made"),
    [
        ("registering", 0, True),  # its login may be at it
        ("pending", DOUBT_SECONDS + 1, True),  # somebody else may have made it since
        ("pending", 1, False),
    ],
)
async def test_a_registration_of_which_that_is_not_known_is_left(
    tmp_path: Path, homeserver: FakeHomeserver, state: str, age: int, *, made: bool
) -> None:
    homeserver.users = {"alice": User("Alice")} if made else {}
    async with running_gateway(tmp_path, homeserver.url, identity=REFUSE):
        pass
    await write_row(tmp_path, state, age)
    async with running_gateway(tmp_path, homeserver.url, identity=REFUSE) as gateway:
        await gateway.running.provision.settle()
    assert rows(tmp_path) == [("alice", "alice", state)]


async def test_where_accounts_are_linked_nothing_has_to_be_settled(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    async with running_gateway(tmp_path, homeserver.url):
        pass
    await write_row(tmp_path, "pending", 1)
    async with running_gateway(tmp_path, homeserver.url):
        await asyncio.sleep(0.1)
    assert homeserver.seen == []


async def test_an_account_of_a_login_that_broke_off_is_told_as_made_by_the_next(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    homeserver.faults["register"] = Fault(breaks="after")
    async with running_gateway(tmp_path, homeserver.url) as gateway:
        assert (await gateway.log_in(mint())).status == 502
        assert [(await gateway.log_in(mint())).status for _ in range(2)] == [200, 200]
        assert gateway.log.count("made=True") == 1


async def test_an_account_of_a_login_that_broke_off_is_told_as_made_by_one_of_the_next_at_once(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    async with running_gateway(tmp_path, homeserver.url) as gateway:
        homeserver.faults["register"] = Fault(breaks="after")
        assert (await gateway.log_in(mint())).status == 502
        answers = await asyncio.gather(*(gateway.log_in(mint()) for _ in range(20)))
        assert [answer.status for answer in answers] == [200] * 20
        assert gateway.log.count("made=True") == 1


async def test_a_registration_that_takes_too_long_is_finished_by_the_next_login(
    tmp_path: Path, homeserver: FakeHomeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.provision.CALLS_SECONDS", 0.2)
    homeserver.faults["register"] = Fault(wait=asyncio.Event())
    async with running_gateway(tmp_path, homeserver.url, identity=REFUSE) as gateway:
        answer = await gateway.log_in(mint())
        assert (answer.status, answer.headers["Retry-After"]) == (504, "5")
        assert rows(tmp_path) == [("alice", "alice", "pending")]
        assert (await gateway.log_in(mint())).status == 200
        assert "a registration took more than 0.2 s" in gateway.log


async def test_a_registration_that_a_stop_broke_off_is_finished_at_once(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    never = asyncio.Event()
    homeserver.faults["register"] = Fault(wait=never, breaks="after")
    async with running_gateway(tmp_path, homeserver.url, identity=REFUSE) as gateway:
        login = asyncio.create_task(gateway.log_in(mint()))
        await until(lambda: homeserver.to("/register"))
        (exchange,) = (task for task in asyncio.all_tasks() if task.get_name() == "login")
        exchange.cancel()  # as the end of the program does
        with pytest.raises(aiohttp.ClientError):
            await login
        assert rows(tmp_path) == [("alice", "alice", "pending")]
        never.set()
        assert (await gateway.log_in(mint())).status == 200


async def test_an_unanswered_question_refuses_nobody_for_good(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    identity = {"existing_accounts": "refuse"}
    homeserver.faults["whoami"] = Fault((500, "M_UNKNOWN"))
    async with running_gateway(tmp_path, homeserver.url, identity=identity) as gateway:
        assert (await gateway.log_in(mint())).status == 502
        assert rows(tmp_path) == []
        assert (await gateway.log_in(mint())).status == 200


@pytest.mark.parametrize(
    "path", ["/_matrix/client/v3/login/", "//_matrix//client/v3/login", "/_matrix/client/v1/login"]
)
async def test_another_spelling_of_the_login_path_is_one_where_the_homeserver_takes_it(
    path: str, tmp_path: Path
) -> None:
    body = {"type": "org.matrix.login.jwt", "token": mint()}
    async with running_homeserver(PALPO) as homeserver, running_gateway(tmp_path, homeserver.url) as gateway:
        gateway.running.check_session_method()
        await until(lambda: bool(homeserver.to("/login")))
        answer = await gateway.call("POST", path, body)
        assert (answer.status, answer.body["user_id"]) == (200, "@alice:example.org")
        body["token"] = mint(secret="x" * 32)
        assert (await gateway.call("POST", path, body)).status == 403
        assert not [seen for seen in homeserver.seen if seen.path == path]
    async with running_homeserver(SYNAPSE) as homeserver, running_gateway(tmp_path, homeserver.url) as gateway:
        gateway.running.check_session_method()
        await until(lambda: bool(homeserver.to("/login")))
        await gateway.call("POST", path, body)
        assert [seen.target for seen in homeserver.seen][-1] == path


@pytest.mark.parametrize("register_user", [True, False])
@pytest.mark.parametrize("existing", ["link", "refuse"])
@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.name)
async def test_a_homeserver_without_its_database_refuses_nobody_for_good(
    flavour: Flavour, existing: str, tmp_path: Path, *, register_user: bool
) -> None:
    tables: dict[str, dict[str, Any]] = {
        "jwt": {"register_user": register_user},
        "identity": {"existing_accounts": existing},
    }
    async with (
        running_homeserver(flavour) as homeserver,
        running_gateway(tmp_path, homeserver.url, **tables) as gateway,
    ):
        if not register_user:
            homeserver.users["alice"] = User()
        homeserver.is_down = True
        answer = await gateway.log_in(mint())
        assert (answer.status, answer.body["error"]) == (502, "The homeserver cannot be reached"), gateway.log
        assert "not set up" not in gateway.log
        homeserver.is_down = False
        assert (await gateway.log_in(mint())).status == (200 if register_user or existing == "link" else 403)


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.name)
async def test_without_register_user_no_account_is_ever_made(flavour: Flavour, tmp_path: Path) -> None:
    async with running_homeserver(flavour) as homeserver:
        async with running_gateway(tmp_path, homeserver.url, jwt={"register_user": False}) as gateway:
            for _ in range(2):
                answer = await gateway.log_in(mint())
                assert (answer.status, answer.body["error"]) == (403, "User not found")
            assert (homeserver.users, homeserver.registered, rows(tmp_path)) == ({}, 0, [])
            homeserver.users["alice"] = User()
            assert (await gateway.log_in(mint())).status == 200
            del homeserver.users["alice"]
            lost = await gateway.log_in(mint())
            assert lost.status == (502 if flavour is CONDUIT else 403)
            assert lost.body.get("access_token") not in homeserver.sessions
        assert homeserver.users == {}
        # Synapse is asked so before a first link whether the name is a bridge's; the user is there then.
        assert homeserver.registered == (1 if flavour is SYNAPSE else 0)
    assert [row[2] for row in rows(tmp_path)] == ["active"]


@pytest.mark.parametrize(
    "flavour", [SYNAPSE, TUWUNEL, CONTINUWUITY, DENDRITE, PALPO], ids=lambda flavour: flavour.name
)
async def test_an_account_that_the_homeserver_lost_is_made_again(flavour: Flavour, tmp_path: Path) -> None:
    async with running_homeserver(flavour) as homeserver, running_gateway(tmp_path, homeserver.url) as gateway:
        assert (await gateway.log_in(mint())).status == 200
        homeserver.users.clear()
        assert (await gateway.log_in(mint())).status == 200
        assert list(homeserver.users) == ["alice"]
        assert "account_made_again" in gateway.log


@pytest.mark.parametrize("register_user", [True, False])
async def test_a_homeserver_that_dislikes_a_field_says_so_itself(
    tmp_path: Path, homeserver: FakeHomeserver, *, register_user: bool
) -> None:
    homeserver.users["alice"] = User()
    homeserver.faults["login"] = Fault((400, "M_INVALID_PARAM"), times=9)
    async with running_gateway(tmp_path, homeserver.url, jwt={"register_user": register_user}) as gateway:
        answer = await gateway.log_in(mint(), device_id="disliked")
        assert (answer.status, answer.body["errcode"], answer.body["error"]) == (400, "M_INVALID_PARAM", "as told")
        assert "account_made_again" not in gateway.log


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.name)
@pytest.mark.parametrize(("what", "errcode"), [("deactivated", "M_USER_DEACTIVATED"), ("locked", "M_USER_LOCKED")])
async def test_each_homeserver_refuses_its_users_in_its_own_words(
    flavour: Flavour, what: str, errcode: str, tmp_path: Path
) -> None:
    async with running_homeserver(flavour) as homeserver, running_gateway(tmp_path, homeserver.url) as gateway:
        homeserver.users["alice"] = User(deactivated=what == "deactivated", locked=what == "locked")
        answer = await gateway.log_in(mint())
    refusal = getattr(flavour, what) or ((403, "") if what == "deactivated" and flavour.tells_guests else None)
    assert (answer.status, answer.body.get("errcode")) == ((refusal[0], errcode) if refusal else (200, None))


@pytest.mark.parametrize("count", [2, 20])
async def test_a_token_for_single_use_logs_in_exactly_once_at_once(
    count: int, tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    async with running_gateway(tmp_path, homeserver.url, jwt={"single_use": True}) as gateway:
        token = mint(jti="1")
        answers = await asyncio.gather(*(gateway.log_in(token) for _ in range(count)))
        assert (await gateway.log_in(mint(jti="2"))).status == 200
    assert Counter(answer.status for answer in answers) == {200: 1, 403: count - 1}
    assert len(homeserver.sessions) == 2


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault((500, "M_UNKNOWN")), 502),
        (Fault((400, "M_EXCLUSIVE")), 502),
        (Fault((429, "M_LIMIT_EXCEEDED")), 429),
        (Fault(breaks="head"), 502),
        (Fault(breaks="after"), 502),
    ],
)
async def test_a_login_that_fails_before_its_session_gives_the_token_back(
    fault: Fault, status: int, tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    homeserver.faults["register"] = replace(fault)
    token = mint(jti="1")
    async with running_gateway(tmp_path, homeserver.url, jwt={"single_use": True}) as gateway:
        for expected in (status, 200, 403):
            assert (await gateway.log_in(token)).status == expected


async def test_a_homeserver_that_is_down_uses_no_token_up(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    async with running_gateway(tmp_path, homeserver.url, jwt={"single_use": True}) as gateway:
        assert (await gateway.log_in(mint(jti="1"))).status == 200
        await homeserver.stop()
        tokens = [mint(jti="2"), mint("bob", jti="3")]
        assert [(await gateway.log_in(token)).status for token in tokens] == [502, 502]
        assert [row[0] for row in rows(tmp_path)] == ["alice"]
        await homeserver.start()
        assert [(await gateway.log_in(token)).status for token in tokens * 2] == [200, 200, 403, 403]


async def test_a_user_who_has_to_wait_keeps_the_token(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    limits = {"logins_per_user": {"burst": 1, "refill": 600}}
    async with running_gateway(tmp_path, homeserver.url, jwt={"single_use": True}, limits=limits) as gateway:
        assert (await gateway.log_in(mint(jti="1"))).status == 200
        token = mint(jti="2")
        answer = await gateway.log_in(token)
        assert answer.status == 429
        await asyncio.sleep(answer.body["retry_after_ms"] / 1000 + 0.01)
        assert (await gateway.log_in(token)).status == 200


@pytest.mark.parametrize("at", ["login", "register"])
async def test_a_user_whom_the_homeserver_lets_wait_keeps_the_token(
    at: str, tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    homeserver.faults[at] = Fault((429, "M_LIMIT_EXCEEDED"))
    token = mint(jti="1")
    async with running_gateway(tmp_path, homeserver.url, jwt={"single_use": True}) as gateway:
        assert [(await gateway.log_in(token)).status for _ in range(3)] == [429, 200, 403]


async def test_a_session_that_may_have_been_opened_uses_the_token_up(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    homeserver.faults["login"] = Fault(breaks="after", times=2)
    token = mint(jti="1")
    async with running_gateway(tmp_path, homeserver.url, jwt={"single_use": True}) as gateway:
        assert [(await gateway.log_in(token)).status for _ in range(2)] == [502, 403]


async def test_a_client_that_lost_the_answer_gets_a_session_for_the_same_device(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    jwt = {"single_use": True, "single_use_grace": True}
    token = mint(jti="1")
    homeserver.faults["login"] = Fault(breaks="after")
    async with running_gateway(tmp_path, homeserver.url, jwt=jwt) as gateway:
        answers = [
            await gateway.log_in(token, device_id="A"),
            await gateway.log_in(token, device_id="A"),
            await gateway.log_in(token, device_id="B"),
            await gateway.log_in(token),
        ]
    assert [answer.status for answer in answers] == [502, 200, 403, 403]
    assert answers[1].body["device_id"] == "A"


async def test_of_two_gateways_the_same_device_gets_its_session_at_both(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    jwt = {"single_use": True, "single_use_grace": True}
    token = mint(jti="1")
    async with (
        running_gateway(tmp_path, homeserver.url, jwt=jwt) as one,
        running_gateway(tmp_path, homeserver.url, jwt=jwt) as other,
    ):
        answers = await asyncio.gather(
            *(each.log_in(token, device_id=device) for device in "AB" for each in (one, other) * 3)
        )
    statuses = [answer.status for answer in answers]
    assert sorted([statuses[:6], statuses[6:]]) == [[200] * 6, [403] * 6]


@pytest.mark.parametrize(("jwt", "device"), [({}, {"device_id": "A"}), ({"single_use_grace": True}, {})])
async def test_without_the_grace_or_without_a_device_a_token_logs_in_once(
    jwt: dict[str, bool], device: dict[str, str], tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    token = mint(jti="1")
    async with running_gateway(tmp_path, homeserver.url, jwt={"single_use": True, **jwt}) as gateway:
        assert [(await gateway.log_in(token, **device)).status for _ in range(2)] == [200, 403]


async def test_a_token_that_has_expired_meanwhile_does_not_come_again(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    jwt = {"single_use": True, "single_use_grace": True, "leeway": 0}
    token = mint(jti="1", exp=time.time() + 1)
    async with running_gateway(tmp_path, homeserver.url, jwt=jwt) as gateway:
        first = await gateway.log_in(token, device_id="A")
        await asyncio.sleep(1.1)
        second = await gateway.log_in(token, device_id="A")
    assert (first.status, second.status) == (200, 403)
    assert second.body["error"] == "JWT validation failed: expired_token: The token is expired"


async def test_a_repetition_that_fails_does_not_give_the_token_to_another_device(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    jwt = {"single_use": True, "single_use_grace": True}
    token = mint(jti="1")
    async with running_gateway(tmp_path, homeserver.url, jwt=jwt) as gateway:
        assert (await gateway.log_in(token, device_id="A")).status == 200
        await homeserver.stop()
        assert (await gateway.log_in(token, device_id="A")).status == 502
        await homeserver.start()
        assert [(await gateway.log_in(token, device_id=device)).status for device in "BA"] == [403, 200]


async def test_a_used_token_stays_used_after_a_restart(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    token = mint(jti="1")
    for status in (200, 403):
        async with running_gateway(tmp_path, homeserver.url, jwt={"single_use": True}) as gateway:
            assert (await gateway.log_in(token)).status == status


@pytest.mark.parametrize("at", ["register", "login"])
async def test_a_client_that_goes_away_leaves_nothing_half_done(
    at: str, gateway: RunningGateway, homeserver: FakeHomeserver, tmp_path: Path
) -> None:
    go_on = asyncio.Event()
    homeserver.faults[at] = Fault(wait=go_on, breaks="body" if at == "login" else "")
    body = json.dumps({"type": "org.matrix.login.jwt", "token": mint()}).encode()
    async with connected(gateway.port) as client:
        head = f"POST {LOGIN} HTTP/1.1\r\nHost: {SERVER_NAME}\r\nContent-Length: {len(body)}\r\n\r\n"
        await client.send(head.encode() + body)
        await until(lambda: homeserver.to(f"/{at}"))
        client.reset()
    await asyncio.sleep(0.7)  # longer than for a client that only sends no more
    go_on.set()
    if at == "register":
        await until(lambda: homeserver.sessions)
    await until(lambda: "client_left" in gateway.log)
    *_, ended, left = gateway.log.splitlines()
    assert f"{'login' if at == 'register' else 'login_refused'} " in ended.replace("\x1b[0m", "")
    assert f"user_id={ALICE}" in ended
    outcome = "'session opened'" if at == "register" else "refused"
    assert all(part in left for part in ["client_left", f"outcome={outcome}", "address=127.0.0.1"])
    assert rows(tmp_path) == [("alice", "alice", "active")]
    homeserver.faults.clear()
    assert (await gateway.log_in(mint())).status == 200


async def test_a_session_of_another_user_is_never_handed_out(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    async with running_gateway(tmp_path, homeserver.url, homeserver={"server_name": "other.example"}) as gateway:
        answer = await gateway.log_in(mint())
    assert answer.status == 502
    assert "access_token" not in answer.body
    assert "server_name must be the homeserver's own" in gateway.log


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        ("user_not_found", "register_user is false"),
        ("account_locked", "locked in the gateway's database"),
        ("already_used", "single_use is on"),
        ("by_homeserver", "403 M_USER_DEACTIVATED"),
        ("too_many_attempts", "logins of this subject"),
    ],
)
async def test_the_log_says_why_and_who(
    refusal: str, reason: str, tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    jwt = {"register_user": refusal != "user_not_found", "single_use": refusal == "already_used"}
    limits = {"logins_per_user": {"burst": 1 if refusal == "too_many_attempts" else 9, "refill": 1}}
    async with running_gateway(tmp_path, homeserver.url, jwt=jwt, limits=limits) as gateway:
        if refusal == "account_locked":
            await write_row(tmp_path, "locked", 0)
        if refusal == "by_homeserver":
            homeserver.users["alice"] = User(deactivated=True)
        token = mint(jti="1")
        answers = [await gateway.log_in(token) for _ in range(2)]
    assert answers[1].status in {401, 403, 429}
    line = gateway.log.splitlines()[-1]
    assert "login_refused" in line
    assert all(part in line for part in (f"refusal={refusal}", reason, f"user_id={ALICE}", "address=127.0.0.1"))


async def leave_before_the_answer(gateway: RunningGateway, homeserver: FakeHomeserver, token: str) -> None:
    go_on = asyncio.Event()
    homeserver.faults["login"] = Fault(wait=go_on)
    homeserver.arrived.clear()
    body = json.dumps({"type": "org.matrix.login.jwt", "token": token}).encode()
    async with connected(gateway.port) as client:
        head = f"POST {LOGIN}?access_token=query-secret HTTP/1.1\r\nHost: {SERVER_NAME}\r\n"
        await client.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await homeserver.arrived.wait()
        client.reset()
    await asyncio.sleep(0.7)  # as above
    go_on.set()
    await until(lambda: "client_left" in gateway.log)


async def test_no_secret_ever_stands_in_the_log(
    gateway: RunningGateway, homeserver: FakeHomeserver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")  # what aiohttp, asyncio and SQLAlchemy say
    good = [mint(), mint("bob", name="B"), mint("alice", jti="x")]
    bad = [
        mint(secret="z" * 40),
        mint(exp=1),
        mint("_x"),
        mint("ALICE"),
        mint(aud="x"),
        mint() + "x",
        "not-a-token-at-all",
    ]
    answers = [await gateway.log_in(token) for token in good + bad]
    assert [answer.status for answer in answers] == [200] * len(good) + [403, 403, 400, 403, 403, 403, 403]
    query = "?access_token=query-secret&x=1"
    for method, path in (("GET", "/_matrix/client/v3/sync"), ("GET", LOGIN), ("POST", LOGIN), ("TRACE", "/x")):
        await gateway.call(method, path + query, Authorization="Bearer header-secret")
    await leave_before_the_answer(gateway, homeserver, good[0])
    await homeserver.stop()
    await gateway.call("GET", "/_matrix/client/v3/sync" + query, Authorization="Bearer header-secret")
    await gateway.log_in(good[0])
    await homeserver.start()
    broken = "BEGIN SELECT RAISE(ABORT, 'broken'); END"
    await change(tmp_path, f"CREATE TRIGGER t BEFORE UPDATE ON accounts {broken}")
    assert (await gateway.log_in(mint("carol"))).status == 503
    assert (await gateway.log_in(good[0])).status == 200
    await until(lambda: "background_task_failed" in gateway.log)
    secrets = [*good, *bad, SECRET, AS_TOKEN, "query-secret", "header-secret", *homeserver.sessions]
    for text in (gateway.log, caplog.text):
        for secret in secrets:
            assert secret not in text
            # A part of a token is one too: its signature makes it.
            assert secret.rpartition(".")[2] not in text
    assert "login_refused" in gateway.log
    assert "request_refused" in gateway.log


async def test_an_account_that_is_locked_while_its_session_is_opened_gets_no_token(
    gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    await gateway.log_in(mint())
    opening = asyncio.Event()
    homeserver.arrived.clear()
    homeserver.faults["login"] = Fault(wait=opening)
    login = asyncio.ensure_future(gateway.log_in(mint()))
    await homeserver.arrived.wait()
    async with open_database(gateway.configuration.settings.database) as database:
        await Accounts(database).lock("alice")
    opening.set()

    answer = await login

    assert (answer.status, answer.body["errcode"]) == (401, "M_USER_LOCKED")
    assert "access_token" not in answer.body


@pytest.mark.parametrize("flavour", [DENDRITE, TUWUNEL], ids=lambda flavour: flavour.name)
async def test_a_session_that_another_login_of_its_device_has_ended_meanwhile_is_no_failure(
    flavour: Flavour, tmp_path: Path
) -> None:
    async with running_homeserver(flavour) as homeserver, running_gateway(tmp_path, homeserver.url) as gateway:
        assert (await gateway.log_in(mint(), device_id="PHONE")).status == 200
        homeserver.faults["whoami"] = Fault((401, "M_UNKNOWN_TOKEN"))
        assert (await gateway.log_in(mint(), device_id="PHONE")).status == 200
        assert homeserver.faults["whoami"].times == 0
