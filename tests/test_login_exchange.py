"""The login exchange over HTTP: every row of the answer table, and what goes to the homeserver as it came."""

import asyncio
import gzip
import json
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fake_homeserver import (
    CONTINUWUITY,
    FLAVOURS,
    SYNAPSE,
    TUWUNEL,
    FakeHomeserver,
    Fault,
    Flavour,
    Seen,
    User,
    running_homeserver,
)
from tests.running_gateway import LOGIN, SECRET, RunningGateway, mint, running_gateway

CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "X-Requested-With, Content-Type, Authorization",
}
OTHER = "another secret that is long enough for every hash: 0123456789abcdef0123456789abcdef"
JWT = "JWT validation failed: "


@pytest.fixture
async def gateway(tmp_path: Path, homeserver: FakeHomeserver) -> AsyncIterator[RunningGateway]:
    async with running_gateway(tmp_path, homeserver.url) as running:
        yield running


def logins(homeserver: FakeHomeserver) -> list[Seen]:
    return [seen for seen in homeserver.to("/login") if seen.method == "POST"]


def now() -> int:
    return int(time.time())


ROWS: list[tuple[dict[str, Any], object, int, str, str]] = [
    ({}, None, 403, "M_FORBIDDEN", "Token field for JWT is missing"),
    ({}, 7, 403, "M_FORBIDDEN", "Token field for JWT is missing"),
    ({}, mint(secret=OTHER), 403, "M_FORBIDDEN", JWT + "Signature verification failed"),
    ({}, "", 403, "M_FORBIDDEN", JWT + "decode_error: the token is not three parts joined by dots"),
    ({}, "x" * 20000, 403, "M_FORBIDDEN", JWT + "decode_error: the token is larger than 16384 bytes"),
    ({}, mint(algorithm="HS512"), 403, "M_FORBIDDEN", JWT + "unsupported_algorithm: HS512"),
    ({}, "eyJhbGciOiJub25lIn0.e30.", 403, "M_FORBIDDEN", JWT + "unsupported_algorithm: none"),
    ({}, mint(exp=now() - 100), 403, "M_FORBIDDEN", JWT + "expired_token: The token is expired"),
    ({}, mint(nbf=now() + 3000), 403, "M_FORBIDDEN", JWT + "invalid_token: The token is not valid yet"),
    (
        {},
        mint(iat=now() + 3000),
        403,
        "M_FORBIDDEN",
        JWT + "invalid_token: The token is not valid as it was issued in the future",
    ),
    ({"jwt": {"issuer": ["a"]}}, mint(iss="b"), 403, "M_FORBIDDEN", JWT + "invalid_claim: Invalid claim 'iss'"),
    ({}, mint(aud="b"), 403, "M_FORBIDDEN", JWT + "invalid_claim: Invalid claim 'aud'"),
    ({}, mint(exp="soon"), 403, "M_FORBIDDEN", JWT + "invalid_claim: Invalid claim 'exp'"),
    ({"jwt": {"issuer": ["a"]}}, mint(), 403, "M_FORBIDDEN", JWT + "missing_claim: Missing 'iss' claim"),
    ({"jwt": {"require_exp": True}}, mint(exp=None), 403, "M_FORBIDDEN", JWT + "missing_claim: Missing 'exp' claim"),
    ({}, mint(None), 403, "M_FORBIDDEN", "Invalid JWT"),
    ({}, mint(""), 403, "M_FORBIDDEN", "Invalid JWT"),
    ({}, mint(5), 403, "M_FORBIDDEN", "Invalid JWT"),
    (
        {},
        mint("a b"),
        400,
        "M_INVALID_USERNAME",
        "A user name can only contain the characters a-z, 0-9 and ._=/+-",
    ),
    ({}, mint("@bob:other.server"), 400, "M_INVALID_USERNAME", "The user belongs to another server"),
    ({"identity": {"deny": ["^root"]}}, mint("root"), 403, "M_FORBIDDEN", "This identity may not log in here"),
    ({"jwt": {"required_claims": {"a": 1}}}, mint(), 403, "M_FORBIDDEN", "This identity may not log in here"),
    ({"jwt": {"register_user": False}}, mint("nobody"), 403, "M_FORBIDDEN", "User not found"),
]


@pytest.mark.parametrize(("tables", "token", "status", "errcode", "error"), ROWS)
async def test_each_refusal_has_its_answer(
    tmp_path: Path,
    homeserver: FakeHomeserver,
    tables: dict[str, Any],
    token: object,
    status: int,
    errcode: str,
    error: str,
) -> None:
    async with running_gateway(tmp_path, homeserver.url, **tables) as gateway:
        answer = await gateway.log_in(token)

    assert (answer.status, answer.body) == (status, {"errcode": errcode, "error": error})
    assert CORS.items() <= dict(answer.headers).items()
    assert homeserver.registered == 0
    assert logins(homeserver) == []


async def test_a_token_for_single_use_logs_in_once_also_when_posted_many_times_at_once(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    token = mint(jti="1")
    async with running_gateway(tmp_path, homeserver.url, jwt={"single_use": True}) as gateway:
        answers = await asyncio.gather(*(gateway.log_in(token) for _ in range(10)))
        other = await gateway.log_in(mint(jti="2"))

    assert sorted(answer.status for answer in answers) == [200] + [403] * 9
    assert {answer.body["error"] for answer in answers if answer.status == 403} == {
        JWT + "invalid_token: The token was already used"
    }
    assert other.status == 200


async def test_a_locked_account_is_refused_softly(gateway: RunningGateway, tmp_path: Path) -> None:
    await gateway.log_in(mint("alice"))
    with sqlite3.connect(tmp_path / "gateway.db") as connection:
        connection.execute("UPDATE accounts SET state = 'locked'")
    connection.close()

    answer = await gateway.log_in(mint("alice"))

    assert (answer.status, answer.body) == (
        401,
        {"errcode": "M_USER_LOCKED", "error": "User account has been locked", "soft_logout": True},
    )


async def test_another_subject_that_maps_to_an_account_is_refused_and_logged(gateway: RunningGateway) -> None:
    first = await gateway.log_in(mint("alice"))
    second = await gateway.log_in(mint("Alice"))

    assert first.status == 200
    assert (second.status, second.body["error"]) == (403, "This identity may not log in here")
    assert "owned by another subject" in gateway.log


@pytest.mark.parametrize(
    ("status", "errcode"),
    [
        (403, "M_USER_DEACTIVATED"),
        (401, "M_USER_LOCKED"),
        (403, "M_RESOURCE_LIMIT_EXCEEDED"),
        (403, "M_USER_AWAITING_APPROVAL"),
        (429, "M_LIMIT_EXCEEDED"),
    ],
)
async def test_what_the_homeserver_says_of_the_user_is_its_own_answer(
    gateway: RunningGateway, homeserver: FakeHomeserver, status: int, errcode: str
) -> None:
    homeserver.faults["login"] = Fault(answer=(status, errcode))

    answer = await gateway.log_in(mint("alice"))

    assert (answer.status, answer.body["errcode"]) == (status, errcode)
    assert answer.body["error"] == "as told"


@pytest.mark.parametrize(
    ("status", "errcode", "hint"),
    [
        (401, "M_UNKNOWN_TOKEN", "does not know the as_token"),
        (400, "M_EXCLUSIVE", "outside the namespace"),
        (404, "M_UNRECOGNIZED", "no login for application services"),
        (403, "M_FORBIDDEN", "check as_token, namespace and server_name"),
    ],
)
async def test_what_the_homeserver_has_against_the_gateway_is_for_the_operator(
    gateway: RunningGateway, homeserver: FakeHomeserver, status: int, errcode: str, hint: str
) -> None:
    homeserver.faults["login"] = Fault(answer=(status, errcode))

    answer = await gateway.log_in(mint("alice"))

    assert answer.status == 502
    assert answer.body == {"errcode": "M_UNKNOWN", "error": "The login gateway is not set up for this homeserver"}
    assert hint in gateway.log


async def test_too_many_failures_of_an_address_are_stopped(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    limits = {"failed_logins_per_address": {"burst": 2, "refill": 1}}
    async with running_gateway(tmp_path, homeserver.url, limits=limits) as gateway:

        async def log_in(address: str, token: str) -> Any:
            body = {"type": "org.matrix.login.jwt", "token": token}
            return await gateway.call("POST", LOGIN, body, X_Forwarded_For=address)

        for _ in range(2):
            assert (await log_in("192.0.2.1", "wrong")).status == 403
        stopped = await log_in("192.0.2.1", mint())
        elsewhere = await log_in("192.0.2.2", mint())

    assert stopped.status == 429
    assert stopped.body == {"errcode": "M_LIMIT_EXCEEDED", "error": "Too Many Requests", "retry_after_ms": 60000}
    assert stopped.headers["Retry-After"] == "60"
    assert elsewhere.status == 200


async def test_too_many_logins_of_a_user_are_stopped(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    async with running_gateway(
        tmp_path, homeserver.url, limits={"logins_per_user": {"burst": 1, "refill": 1}}
    ) as gateway:
        statuses = [(await gateway.log_in(mint(user))).status for user in ("alice", "alice", "bob")]

    assert statuses == [200, 429, 200]


async def test_a_homeserver_that_is_down_is_said_so(tmp_path: Path, unused_tcp_port: int) -> None:
    async with running_gateway(tmp_path, f"http://127.0.0.1:{unused_tcp_port}") as gateway:
        answer = await gateway.log_in(mint())

    assert (answer.status, answer.body) == (
        502,
        {"errcode": "M_UNKNOWN", "error": "The homeserver cannot be reached"},
    )


async def test_without_its_database_login_pauses_and_relaying_goes_on(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    await gateway.log_in(mint("alice"))
    with sqlite3.connect(tmp_path / "gateway.db") as connection:
        connection.execute("ALTER TABLE accounts RENAME TO gone")
    connection.close()

    answer = await gateway.log_in(mint("alice"))

    assert (answer.status, answer.body["error"]) == (503, "Login with a token is not available for the moment")
    assert answer.headers["Retry-After"] == "5"
    assert (await gateway.call("GET", "/_matrix/client/versions")).status == 200


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"device_id": 5}, "device_id"),
        ({"device_id": ""}, "device_id"),
        ({"device_id": "x" * 256}, "device_id"),
        ({"device_id": "a\nb"}, "device_id"),
        ({"initial_device_display_name": 5}, "initial_device_display_name"),
        ({"initial_device_display_name": "x" * 101}, "initial_device_display_name"),
        ({"refresh_token": "yes"}, "refresh_token"),
    ],
)
async def test_a_field_of_the_wrong_type_or_size_is_named(
    gateway: RunningGateway, fields: dict[str, object], name: str
) -> None:
    answer = await gateway.log_in(mint(), **fields)

    assert (answer.status, answer.body["errcode"]) == (400, "M_INVALID_PARAM")
    assert f"'{name}' must be" in answer.body["error"]


async def test_the_token_alone_says_who_it_is(gateway: RunningGateway, homeserver: FakeHomeserver) -> None:
    identifier = {"type": "m.id.user", "user": "mallory"}
    body = {"type": "org.matrix.login.jwt", "token": mint("alice"), "identifier": identifier, "user": "mallory"}

    answer = await gateway.call(
        "POST", LOGIN, body, Authorization="Bearer of-the-client", User_Agent="Client/1", X_Forwarded_For="192.0.2.7"
    )

    assert answer.body["user_id"] == "@alice:example.org"
    assert answer.headers["Server"] == "fake/1"
    (login,) = logins(homeserver)
    assert login.values("authorization") == [b"Bearer " + b"a5" * 32]
    assert login.values("user-agent") == [b"Client/1"]
    assert login.values("x-forwarded-for") == [b"192.0.2.7"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"type": "m.login.password", "identifier": {"user": "a"}, "password": "b"}',
        b'{"type": "org.matrix.login.jwt", "token": ',
        b'{"type": "m.login.password", "type": "org.matrix.login.jwt", "token": "x"}',
        b'["org.matrix.login.jwt"]',
        b"\xff\xfe",
        b"",
        b'{"type": "org.matrix.login.jwt", "token": "' + b"x" * 70_000 + b'"}',
    ],
)
async def test_any_other_body_goes_to_the_homeserver_octet_for_octet(
    gateway: RunningGateway, homeserver: FakeHomeserver, body: bytes
) -> None:
    async with aiohttp.ClientSession() as client:
        async with client.post(gateway.url + LOGIN, data=body) as response:
            assert 400 <= response.status < 500

    assert [seen.body for seen in logins(homeserver)] == [body]


async def test_a_compressed_body_goes_to_the_homeserver_as_it_is(
    gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    body = gzip.compress(json.dumps({"type": "org.matrix.login.jwt", "token": mint()}).encode())
    async with aiohttp.ClientSession() as client:
        await client.post(gateway.url + LOGIN, data=body, headers={"Content-Encoding": "gzip"})

    assert logins(homeserver)[0].body == body


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.name)
async def test_asking_for_a_user_makes_none_on_any_homeserver(tmp_path: Path, flavour: Flavour) -> None:
    async with running_homeserver(flavour) as homeserver:
        homeserver.users["alice"] = User(display_name="alice")
        async with running_gateway(tmp_path, homeserver.url, jwt={"register_user": False}) as gateway:
            there = await gateway.log_in(mint("alice"))
            missing = await gateway.log_in(mint("bob"))

    assert (there.status, missing.status, missing.body["error"]) == (200, 403, "User not found")
    assert set(homeserver.users) == {"alice"}


@pytest.mark.parametrize("existing_accounts", ["link", "refuse"])
async def test_many_first_logins_at_once_make_one_account(
    tmp_path: Path, homeserver: FakeHomeserver, existing_accounts: str
) -> None:
    async with running_gateway(
        tmp_path, homeserver.url, identity={"existing_accounts": existing_accounts}
    ) as gateway:
        answers = await asyncio.gather(*(gateway.log_in(mint("alice")) for _ in range(20)))

    assert [answer.status for answer in answers] == [200] * 20
    assert set(homeserver.users) == {"alice"}


@pytest.mark.parametrize("existing_accounts", ["link", "refuse"])
@pytest.mark.parametrize(("call", "breaks"), [("register", "head"), ("register", "after"), ("login", "after")])
async def test_a_login_that_broke_between_two_steps_is_finished_by_the_next(
    tmp_path: Path, homeserver: FakeHomeserver, existing_accounts: str, call: str, breaks: str
) -> None:
    tables = {"identity": {"existing_accounts": existing_accounts}}
    homeserver.faults[call] = Fault(breaks=breaks, times=2)  # a call on a kept connection is made again
    async with running_gateway(tmp_path, homeserver.url, **tables) as gateway:
        assert (await gateway.log_in(mint("alice"))).status == 502
    homeserver.faults.clear()
    async with running_gateway(tmp_path, homeserver.url, **tables) as gateway:
        assert (await gateway.log_in(mint("alice"))).status == 200

    assert set(homeserver.users) == {"alice"}


@pytest.mark.parametrize("flavour", [SYNAPSE, TUWUNEL, CONTINUWUITY], ids=lambda flavour: flavour.name)
async def test_an_account_that_the_homeserver_lost_is_made_again(tmp_path: Path, flavour: Flavour) -> None:
    async with running_homeserver(flavour) as homeserver:
        async with running_gateway(tmp_path, homeserver.url) as gateway:
            await gateway.log_in(mint("alice"))
            homeserver.users.clear()

            assert (await gateway.log_in(mint("alice"))).status == 200


async def test_a_client_that_leaves_does_not_leave_a_login_half_done(
    gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    go_on = asyncio.Event()
    homeserver.faults["register"] = Fault(wait=go_on)
    leaving = asyncio.create_task(gateway.log_in(mint("alice")))
    await homeserver.arrived.wait()
    leaving.cancel()
    await asyncio.sleep(0.05)
    go_on.set()
    for _ in range(100):
        if logins(homeserver):
            break
        await asyncio.sleep(0.02)

    assert set(homeserver.users) == {"alice"}
    assert len(logins(homeserver)) == 1


async def test_no_token_or_secret_ever_stands_in_the_log(gateway: RunningGateway) -> None:
    tokens = [mint("alice"), mint("a b"), mint(secret=OTHER), mint("@x:y"), "not-a-token-at-all", mint(aud="x")]
    for token in tokens:
        await gateway.log_in(token)
    session = (await gateway.log_in(mint("bob"))).body["access_token"]
    await gateway.call("GET", f"/_matrix/client/v3/sync?access_token={session}")
    await gateway.call("TRACE", f"/_matrix/client/v3/sync?access_token={session}")

    assert "login" in gateway.log
    for secret in (*tokens, *(token.rpartition(".")[2] for token in tokens[:4]), SECRET, "a5" * 32, session):
        assert secret not in gateway.log
