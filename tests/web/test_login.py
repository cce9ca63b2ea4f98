"""The login exchange over HTTP: every answer of the gateway's table, what a body may hold, what goes upstream."""

import asyncio
import base64
import json
import re
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import ANSWERS, Refusal
from gateway.web.answers import CORS_HEADERS
from tests.beside import change
from tests.fake_homeserver import FakeHomeserver, Fault, User
from tests.raw_http import RawServer, Script, connected, exchange, never_accepting
from tests.running_gateway import (
    AS_TOKEN,
    LOGIN,
    SERVER_NAME,
    Answered,
    RunningGateway,
    Tables,
    mint,
    running_gateway,
)

JWT = "JWT validation failed: "
PATHS = [f"/_matrix/client/{version}/login" for version in ("v3", "r0", "unstable", "api/v1")]
NOW = int(time.time())


def jose(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@dataclass(frozen=True)
class Row:
    """A condition and its answer; `token` is made when the test runs."""

    condition: str
    token: Callable[[], object]
    status: int
    errcode: str
    error: str
    tables: Tables = field(default_factory=dict)


ROWS = [
    Row("null token", lambda: None, 403, "M_FORBIDDEN", "Token field for JWT is missing"),
    Row("token no string", lambda: 7, 403, "M_FORBIDDEN", "Token field for JWT is missing"),
    Row(
        "another key",
        lambda: mint(secret="x" * 32),
        403,
        "M_FORBIDDEN",
        JWT + "Signature verification failed",
    ),
    Row(
        "not a JWS",
        lambda: "abc",
        403,
        "M_FORBIDDEN",
        JWT + "decode_error: the token is not three parts joined by dots",
    ),
    Row(
        "encrypted",
        lambda: "a.b.c.d.e",
        403,
        "M_FORBIDDEN",
        JWT + "decode_error: the token is encrypted (JWE); a signed one (JWS) is needed",
    ),
    Row(
        "header not JSON",
        lambda: f"{jose(b'{')}.e30.e30",
        403,
        "M_FORBIDDEN",
        JWT + "decode_error: header: not JSON",
    ),
    Row(
        "over the size limit",
        lambda: "a" * 16385,
        403,
        "M_FORBIDDEN",
        JWT + "decode_error: the token is larger than 16384 bytes",
    ),
    Row(
        "no signature",
        lambda: f"{jose({'alg': 'none'})}.{jose({'sub': 'alice'})}.",
        403,
        "M_FORBIDDEN",
        JWT + "unsupported_algorithm: none",
    ),
    Row(
        "algorithm not allowed",
        lambda: mint(algorithm="HS512"),
        403,
        "M_FORBIDDEN",
        JWT + "unsupported_algorithm: HS512",
    ),
    Row(
        "expired",
        lambda: mint(exp=NOW - 100),
        403,
        "M_FORBIDDEN",
        JWT + "expired_token: The token is expired",
    ),
    Row(
        "nbf ahead",
        lambda: mint(nbf=NOW + 1000),
        403,
        "M_FORBIDDEN",
        JWT + "invalid_token: The token is not valid yet",
    ),
    Row(
        "iat ahead",
        lambda: mint(iat=NOW + 1000, exp=NOW + 2000),
        403,
        "M_FORBIDDEN",
        JWT + "invalid_token: The token is not valid as it was issued in the future",
    ),
    Row(
        "exp no number",
        lambda: mint(exp="soon"),
        403,
        "M_FORBIDDEN",
        JWT + "invalid_claim: Invalid claim 'exp'",
    ),
    Row(
        "aud not expected",
        lambda: mint(aud="us"),
        403,
        "M_FORBIDDEN",
        JWT + "invalid_claim: Invalid claim 'aud'",
    ),
    Row(
        "another issuer",
        lambda: mint(iss="them"),
        403,
        "M_FORBIDDEN",
        JWT + "invalid_claim: Invalid claim 'iss'",
        {"jwt": {"issuer": ["us"]}},
    ),
    Row(
        "no issuer",
        mint,
        403,
        "M_FORBIDDEN",
        JWT + "missing_claim: Missing 'iss' claim",
        {"jwt": {"issuer": ["us"]}},
    ),
    Row(
        "no exp",
        lambda: mint(exp=None),
        403,
        "M_FORBIDDEN",
        JWT + "missing_claim: Missing 'exp' claim",
        {"jwt": {"require_exp": True}},
    ),
    Row("no subject", lambda: mint(None), 403, "M_FORBIDDEN", "Invalid JWT"),
    Row("empty subject", lambda: mint(""), 403, "M_FORBIDDEN", "Invalid JWT"),
    Row("subject no string", lambda: mint(7), 403, "M_FORBIDDEN", "Invalid JWT"),
    Row(
        "no localpart",
        lambda: mint("al ice"),
        400,
        "M_INVALID_USERNAME",
        "A user name can only contain the characters a-z, 0-9 and ._=/+-",
    ),
    Row(
        "denied",
        lambda: mint("admin"),
        403,
        "M_FORBIDDEN",
        "This identity may not log in here",
        {"identity": {"deny": ["^admin$"]}},
    ),
    Row(
        "required claim missing",
        mint,
        403,
        "M_FORBIDDEN",
        "This identity may not log in here",
        {"jwt": {"required_claims": {"groups": "matrix"}}},
    ),
    Row(
        "no such account and none is made",
        mint,
        403,
        "M_FORBIDDEN",
        "User not found",
        {"jwt": {"register_user": False}},
    ),
]


# These need more than one request, a homeserver or a database that fails, or no login at all; each has its own test,
# here, in test_brown_out.py, test_server.py, test_issuers.py or end_to_end/test_key_sets.py.
NOT_BY_ONE_TOKEN = {
    Refusal.NO_KEY,
    Refusal.KEYS_UNAVAILABLE,
    Refusal.BUSY,
    Refusal.STOPPING,
    Refusal.ALREADY_USED,
    Refusal.RESERVED_LOCALPART,
    Refusal.ACCOUNT_LOCKED,
    Refusal.ACCOUNT_DEACTIVATED,
    Refusal.BAD_PARAMETER,
    Refusal.BAD_JSON,
    Refusal.UNSUPPORTED_CODING,
    Refusal.BODY_TOO_LARGE,
    Refusal.UPLOAD_REFUSED,
    Refusal.TOO_MANY_ATTEMPTS,
    Refusal.HOMESERVER_UNREACHABLE,
    Refusal.HOMESERVER_TOO_SLOW,
    Refusal.HOMESERVER_REFUSES_GATEWAY,
    Refusal.DATABASE_UNAVAILABLE,
    Refusal.BAD_REQUEST,
    Refusal.METHOD_NOT_ALLOWED,
    Refusal.REQUEST_TIMEOUT,
    Refusal.HEAD_TOO_LARGE,
    Refusal.FAULT,
}


def refusals(status: int, errcode: str, error: str) -> set[Refusal]:
    """Return the rows of the table that an answer may be."""
    return {
        refusal
        for refusal, answer in ANSWERS.items()
        if (answer.status, answer.errcode) == (status, errcode)
        and re.fullmatch(re.escape(answer.text).replace(r"\{\}", ".+"), error, re.DOTALL)
    }


def test_every_refusal_of_a_token_has_its_row_here() -> None:
    told = [refusals(row.status, row.errcode, row.error) for row in ROWS]

    assert all(len(found) == 1 for found in told)
    assert set().union(*told) == set(Refusal) - NOT_BY_ONE_TOKEN


def check_refusal(answer: Answered, status: int, errcode: str, error: str, **more: object) -> None:
    assert answer.status == status, answer.body
    assert answer.body == {"errcode": errcode, "error": error, **more}
    assert answer.headers["Content-Type"].startswith("application/json")
    for name, value in CORS_HEADERS.items():
        assert answer.headers[name] == value
    assert "aiohttp" not in answer.headers.get("Server", "")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.condition)
async def test_a_refusal_is_the_row_of_the_table(row: Row, tmp_path: Path, homeserver: FakeHomeserver) -> None:
    async with running_gateway(tmp_path, homeserver.url, **row.tables) as gateway:
        check_refusal(await gateway.log_in(row.token()), row.status, row.errcode, row.error)
    assert homeserver.users == {}


async def test_a_login_without_a_token_is_refused(gateway: RunningGateway) -> None:
    answer = await gateway.call("POST", LOGIN, {"type": "org.matrix.login.jwt"})
    check_refusal(answer, 403, "M_FORBIDDEN", "Token field for JWT is missing")


async def test_a_token_for_single_use_logs_in_once(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    async with running_gateway(tmp_path, homeserver.url, jwt={"single_use": True}) as gateway:
        token = mint(jti="1")
        assert (await gateway.log_in(token)).status == 200
        check_refusal(
            await gateway.log_in(token), 403, "M_FORBIDDEN", JWT + "invalid_token: The token was already used"
        )


async def test_a_name_that_another_subject_owns_is_refused_and_logged(gateway: RunningGateway) -> None:
    assert (await gateway.log_in(mint("alice"))).status == 200
    check_refusal(await gateway.log_in(mint("ALICE")), 403, "M_FORBIDDEN", "This identity may not log in here")
    assert f"@alice:{SERVER_NAME} is owned by another subject" in gateway.log


async def test_a_locked_account_is_refused_softly(gateway: RunningGateway, tmp_path: Path) -> None:
    assert (await gateway.log_in(mint())).status == 200
    with sqlite3.connect(tmp_path / "gateway.db") as database:
        database.execute("UPDATE accounts SET state = 'locked'")
    database.close()
    check_refusal(
        await gateway.log_in(mint()), 401, "M_USER_LOCKED", "User account has been locked", soft_logout=True
    )


@pytest.mark.parametrize(
    ("user", "status", "errcode"),
    [(User(deactivated=True), 403, "M_USER_DEACTIVATED"), (User(locked=True), 401, "M_USER_LOCKED")],
)
async def test_what_the_homeserver_says_of_a_user_is_its_own_answer(
    user: User, status: int, errcode: str, gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    homeserver.users["alice"] = user
    answer = await gateway.log_in(mint())
    assert (answer.status, answer.body["errcode"], answer.body["error"]) == (status, errcode, "refused")
    assert answer.body.get("soft_logout") is (True if user.locked else None)
    assert answer.headers["Access-Control-Allow-Headers"] == "X-Requested-With, Date"


@pytest.mark.parametrize(
    ("status", "errcode", "at"),
    [
        (403, "M_RESOURCE_LIMIT_EXCEEDED", "login"),
        (403, "M_RESOURCE_LIMIT_EXCEEDED", "register"),
        (403, "ORG.MATRIX.MSC3866.USER_AWAITING_APPROVAL", "login"),
        (429, "M_LIMIT_EXCEEDED", "login"),
    ],
)
async def test_a_limit_of_the_homeserver_is_its_own_answer(
    status: int, errcode: str, at: str, gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    homeserver.faults[at] = Fault((status, errcode), {"retry_after_ms": 1500}, {"Retry-After": "2"})
    answer = await gateway.log_in(mint())
    assert answer.status == status
    assert answer.body == {"errcode": errcode, "error": "as told", "retry_after_ms": 1500}
    assert answer.headers["Retry-After"] == "2"
    assert (await gateway.log_in(mint())).status == 200


async def test_a_user_who_logs_in_too_often_is_told_when_to_come_back(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    limits = {"logins_per_user": {"burst": 2, "refill": 1}}
    async with running_gateway(tmp_path, homeserver.url, limits=limits) as gateway:
        for _ in range(2):
            assert (await gateway.log_in(mint())).status == 200
        answer = await gateway.log_in(mint())
        assert (await gateway.log_in(mint("bob"))).status == 200
    pause = answer.body["retry_after_ms"]
    assert 0 < pause <= 60_000
    assert int(answer.headers["Retry-After"]) == -(-pause // 1000)
    check_refusal(answer, 429, "M_LIMIT_EXCEEDED", "Too Many Requests", retry_after_ms=pause)


async def test_nobody_else_can_use_up_the_logins_of_a_user(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    limits = {"logins_per_user": {"burst": 2, "refill": 1}}
    async with running_gateway(tmp_path, homeserver.url, limits=limits, jwt={"single_use": True}) as gateway:
        token = mint(jti="1")
        assert (await gateway.log_in(token)).status == 200
        for number in range(4):
            assert (await gateway.log_in(mint("ALICE", jti=f"other {number}"))).status == 403
            assert (await gateway.log_in(token)).status == 403
        assert (await gateway.log_in(mint(jti="2"))).status == 200
        assert (await gateway.log_in(mint(jti="3"))).status == 429


async def test_subjects_that_may_not_have_a_name_do_not_use_up_its_logins(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    limits = {"logins_per_user": {"burst": 2, "refill": 1}}
    homeserver.users["alice"] = User()
    identity = {"existing_accounts": "refuse"}
    async with running_gateway(tmp_path, homeserver.url, limits=limits, identity=identity) as gateway:
        for status in (403, 403, 429):
            assert (await gateway.log_in(mint("ALICE"))).status == status
        homeserver.users.clear()
        assert (await gateway.log_in(mint())).status == 200


async def test_an_address_that_fails_too_often_is_told_when_to_come_back(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    limits = {"failed_logins_per_address": {"burst": 2, "refill": 1}}
    body = {"type": "org.matrix.login.jwt", "token": "abc"}
    async with running_gateway(tmp_path, homeserver.url, limits=limits) as gateway:
        for _ in range(2):
            assert (await gateway.call("POST", LOGIN, body, X_Forwarded_For="203.0.113.5")).status == 403
        answer = await gateway.call("POST", LOGIN, body, X_Forwarded_For="203.0.113.5")
        assert (await gateway.call("POST", LOGIN, body, X_Forwarded_For="203.0.113.6")).status == 403
        # A proxy that does not say for whom it asks is not shut out for all its clients.
        assert (await gateway.log_in("abc")).status == 403
    assert answer.headers["Retry-After"] == "60"
    check_refusal(answer, 429, "M_LIMIT_EXCEEDED", "Too Many Requests", retry_after_ms=60_000)


async def test_a_user_whom_any_token_is_refused_waits_wherever_the_requests_come_from(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    limits = {"failed_logins_per_user": {"burst": 2, "refill": 1}}
    homeserver.users["gone"] = User(deactivated=True)
    identity = {"deny": ["^admin$"]}
    async with running_gateway(tmp_path, homeserver.url, limits=limits, identity=identity) as gateway:
        assert (await gateway.log_in(mint("locked"))).status == 200
        await change(tmp_path, "UPDATE accounts SET state = 'locked'")
        for subject, status in (("admin", 403), ("locked", 401), ("gone", 403), ("al ice", 400)):
            answers = []
            for number in range(3):
                body = {"type": "org.matrix.login.jwt", "token": mint(subject)}
                answers.append(await gateway.call("POST", LOGIN, body, X_Forwarded_For=f"203.0.113.{number}"))
            assert [answer.status for answer in answers] == [status, status, 429]
            check_refusal(answers[2], 429, "M_LIMIT_EXCEEDED", "Too Many Requests", retry_after_ms=60_000)
            assert answers[2].headers["Retry-After"] == "60"
        seen = len(homeserver.seen)
        assert (await gateway.log_in(mint("gone"))).status == 429
        assert len(homeserver.seen) == seen
        assert (await gateway.log_in(mint("alice"))).status == 200


async def test_nobody_shuts_a_user_out_with_tokens_that_are_no_good(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    limits = {"failed_logins_per_user": {"burst": 1, "refill": 1}}
    async with running_gateway(tmp_path, homeserver.url, limits=limits, jwt={"single_use": True}) as gateway:
        used = mint(jti="1")
        assert (await gateway.log_in(used)).status == 200
        for token in (used, mint(jti="2", exp=1), mint(jti="3", secret="x" * 32), mint(jti="4", aud="x")) * 2:
            assert (await gateway.log_in(token)).status == 403
        assert (await gateway.log_in(mint(jti="5"))).status == 200


async def test_limits_stay_as_full_as_they_are_over_a_reload_that_does_not_change_them(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    limits = {"failed_logins_per_address": {"burst": 1, "refill": 1}}
    body = {"type": "org.matrix.login.jwt", "token": "abc"}
    async with running_gateway(tmp_path, homeserver.url, limits=limits) as gateway:
        for status in (403, 429):
            answer = await gateway.call("POST", LOGIN, body, X_Forwarded_For="2001:db8::1")
            assert answer.status == status
        await gateway.running.reload()
        assert (await gateway.call("POST", LOGIN, body, X_Forwarded_For="2001:db8::2")).status == 429
        assert (await gateway.call("POST", LOGIN, body, X_Forwarded_For="2001:db8:0:1::1")).status == 403


@pytest.mark.parametrize(
    ("members", "status"), [({}, 403), ({"token": 7}, 403), ({"token": "a.b.c", "device_id": 7}, 400)]
)
async def test_a_login_with_wrong_fields_is_behind_the_limit_and_counts(
    members: dict[str, object], status: int, tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    limits = {"failed_logins_per_address": {"burst": 2, "refill": 1}}
    body = {"type": "org.matrix.login.jwt", **members}
    async with running_gateway(tmp_path, homeserver.url, limits=limits) as gateway:
        answers = [await gateway.call("POST", LOGIN, body, X_Forwarded_For="203.0.113.5") for _ in range(3)]
        assert [answer.status for answer in answers] == [status, status, 429]
        assert (await gateway.call("POST", LOGIN, body, X_Forwarded_For="203.0.113.6")).status == status
        assert (await gateway.call("POST", LOGIN, {"type": "x"}, X_Forwarded_For="203.0.113.5")).status == 400
    assert len(homeserver.seen) == 1


async def test_a_homeserver_that_is_down_is_a_502(gateway: RunningGateway, homeserver: FakeHomeserver) -> None:
    await homeserver.stop()
    check_refusal(await gateway.log_in(mint()), 502, "M_UNKNOWN", "The homeserver cannot be reached")


async def test_a_homeserver_that_fails_is_a_502(gateway: RunningGateway, homeserver: FakeHomeserver) -> None:
    homeserver.faults["login"] = Fault((500, "M_UNKNOWN"))
    check_refusal(await gateway.log_in(mint()), 502, "M_UNKNOWN", "The homeserver cannot be reached")


async def test_a_homeserver_that_takes_no_connection_is_a_504(tmp_path: Path) -> None:
    async with never_accepting() as port:
        homeserver = {"connect_timeout": 0.2}
        async with running_gateway(tmp_path, f"http://127.0.0.1:{port}", homeserver=homeserver) as gateway:
            answer = await gateway.log_in(mint())
    check_refusal(answer, 504, "M_UNKNOWN", "The homeserver takes too long to answer")


@pytest.mark.parametrize(
    ("at", "refusal", "hint"),
    [
        ("register", (401, "M_UNKNOWN_TOKEN"), "registration"),
        ("register", (400, "M_EXCLUSIVE"), "namespace"),
        (
            "login",
            (403, "M_FORBIDDEN"),
            "and server_name in gateway.toml",
        ),
        ("login", (404, "M_UNRECOGNIZED"), "no login for application services"),
        ("login", (400, "IO.ELEMENT.MSC4190.M_APPSERVICE_LOGIN_UNSUPPORTED"), "no login for application services"),
    ],
)
async def test_a_homeserver_that_refuses_the_gateway_is_a_502_and_the_log_says_the_mend(
    at: str, refusal: tuple[int, str], hint: str, gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    homeserver.faults[at] = Fault(refusal)
    check_refusal(
        await gateway.log_in(mint()), 502, "M_UNKNOWN", "The login gateway is not set up for this homeserver"
    )
    assert hint in gateway.log
    assert AS_TOKEN not in gateway.log


async def test_a_database_that_fails_is_a_503_while_pass_through_goes_on(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    with sqlite3.connect(tmp_path / "gateway.db") as database:
        database.execute("DROP TABLE accounts")
    database.close()
    answer = await gateway.log_in(mint())
    check_refusal(answer, 503, "M_UNKNOWN", "Login with a token is not available for the moment")
    assert int(answer.headers["Retry-After"]) > 0
    assert (await gateway.call("GET", "/_matrix/client/versions")).status == 200


BAD_VALUES: dict[str, list[object]] = {
    "device_id": [7, True, ["A"], {"a": 1}, "", "a" * 256, "\u00e4" * 128, "a\n", "\x7f"],
    "initial_device_display_name": [7, False, ["A"], {}, "a" * 101],
    "refresh_token": [1, 0, "true", [], {}],
}
BAD_FIELDS = [(name, value) for name, values in BAD_VALUES.items() for value in values]


@pytest.mark.parametrize(("name", "value"), BAD_FIELDS)
async def test_a_field_of_the_wrong_type_or_size_is_named(
    name: str, value: object, gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    answer = await gateway.log_in(mint(), **{name: value})
    assert (answer.status, answer.body["errcode"]) == (400, "M_INVALID_PARAM")
    assert f"'{name}'" in answer.body["error"]
    check_refusal(answer, 400, "M_INVALID_PARAM", answer.body["error"])
    assert homeserver.seen == []


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"device_id": "a" * 255, "initial_device_display_name": "a" * 100, "refresh_token": True},
        {"device_id": "\U0001f511", "initial_device_display_name": "", "refresh_token": False},
        {"device_id": None, "initial_device_display_name": None, "refresh_token": None},
    ],
)
async def test_the_answer_is_the_homeservers_own(
    members: dict[str, Any], gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    answer = await gateway.log_in(mint(), **members)
    assert answer.status == 200
    assert homeserver.sessions[answer.body["access_token"]] == answer.body["user_id"] == f"@alice:{SERVER_NAME}"
    assert answer.body["home_server"] == SERVER_NAME
    assert ("refresh_token" in answer.body) is (members.get("refresh_token") is True)
    assert answer.headers["Server"] == "fake/1"
    assert answer.headers["Access-Control-Allow-Headers"] == "X-Requested-With, Date"
    (asked,) = homeserver.to("/login")
    given_members = {name: value for name, value in members.items() if value is not None}
    expected = {"type": "m.login.application_service", "identifier": {"type": "m.id.user", "user": "alice"}}
    assert asked.json() == {**expected, **given_members}


@pytest.mark.parametrize("typed", [True, False])
async def test_the_fields_of_the_homeservers_answer_stay_the_same_octets(tmp_path: Path, *, typed: bool) -> None:
    user = b'{"user_id": "@alice:example.org", "access_token": "t"}'
    fields = [b"X-Latin: a\xe9b", b"X-Control: a\x01\x7fb", b"x-utf: \xc3\xa9", b"X-Twice: 1", b"X-Twice: 2"]
    if typed:
        fields.append(b"Content-type: application/json; charset=x")
    answer = b"\r\n".join([b"HTTP/1.1 200 OK", *fields, b"Content-Length: %d" % len(user), b"", user])
    body = json.dumps({"type": "org.matrix.login.jwt", "token": mint()}).encode()
    async with RawServer(Script(answer)).running() as upstream, running_gateway(tmp_path, upstream.url) as gateway:
        answer = await exchange(gateway.port, head("POST", LOGIN, length=len(body)) + body)
    lines, _, received = answer.partition(b"\r\n\r\n")
    assert received == user
    assert [line for line in lines.split(b"\r\n") if line.lower().startswith((b"x-", b"content-type"))] == fields
    assert b"Content-Length: %d" % len(user) in lines


async def test_a_connection_goes_on_after_a_login(gateway: RunningGateway) -> None:
    body = json.dumps({"type": "org.matrix.login.jwt", "token": mint()}).encode()
    lines = [f"POST {LOGIN} HTTP/1.1", f"Host: {SERVER_NAME}", f"Content-Length: {len(body)}", "", ""]
    request = "\r\n".join(lines).encode() + body
    answer = await exchange(gateway.port, request * 2 + head("POST", LOGIN, length=len(body)) + body)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert answer.count(b"Connection: close\r\n") == 1
    assert answer.count(b'"access_token"') == 3


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("query", ["", "?", "?a=b&access_token=x"])
async def test_every_login_path_logs_in_whatever_its_query(path: str, query: str, gateway: RunningGateway) -> None:
    answer = await gateway.call("POST", path + query, {"type": "org.matrix.login.jwt", "token": mint()})
    assert answer.status == 200


async def test_the_token_alone_says_who_logs_in(gateway: RunningGateway) -> None:
    members = {"identifier": {"type": "m.id.user", "user": "mallory"}, "user": "mallory"}
    assert (await gateway.log_in(mint(), **members)).body["user_id"] == f"@alice:{SERVER_NAME}"


async def test_the_homeserver_learns_of_the_client_but_not_its_authorization(
    gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    answer = await gateway.call(
        "POST",
        LOGIN,
        {"type": "org.matrix.login.jwt", "token": mint()},
        Authorization="Bearer of-the-client",
        X_Forwarded_For="203.0.113.5",
        User_Agent="Phone/1",
        Cookie="a=b",
    )
    assert answer.status == 200
    (login,) = homeserver.to("/login")
    assert login.values("authorization") == [f"Bearer {AS_TOKEN}".encode()]
    assert login.values("x-forwarded-for") == [b"203.0.113.5"]
    assert login.values("user-agent") == [b"Phone/1"]
    assert login.values("cookie") == []
    assert all(b"of-the-client" not in value for seen in homeserver.seen for _, value in seen.fields)


def head(method: str, target: str, *fields: str, length: int | None = None) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {SERVER_NAME}", *fields]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode()


JWT_BODY = b'{"type": "org.matrix.login.jwt", "token": "abc"}'
UNTOUCHED = {
    "a password login": ("POST", LOGIN, [], b'{ "type":"m.login.password","identifier":{"user":"a"},"password":"b"}'),
    "broken JSON": ("POST", LOGIN, [], b'{"type": "org.matrix.login.jwt", '),
    "no JSON at all": ("POST", LOGIN, [], b"\x00\xff\xfe"),
    "no body": ("POST", LOGIN, [], b""),
    "an array": ("POST", LOGIN, [], b'[{"type": "org.matrix.login.jwt"}]'),
    "a duplicate member": ("POST", LOGIN, [], b'{"type": "m.login.x", "type": "m.login.x"}'),
    "deep nesting": ("POST", LOGIN, [], b'{"type": "m.login.x", "a": %b%b}' % (b"[" * 200, b"]" * 200)),
    "brackets": ("POST", LOGIN, [], b'["type", "org.matrix.login.jwt", %b' % (b"[]," * 200)),
    "a comma too many": ("POST", LOGIN, [], b'{"type": "org.matrix.login.jwt",}'),
    "the type in a member": ("POST", LOGIN, [], b'{"a": {"type": "org.matrix.login.jwt"}, "a": 1}'),
    "another type": ("POST", LOGIN, [], b'{"type": "m.login.jwt", "token": "abc"}'),
    "a body of the largest size": ("POST", LOGIN, [], b"{}" + b" " * 65534),
    "identity": ("POST", LOGIN, ["Content-Encoding: identity", "content-encoding: Identity , "], b"{}"),
    "an empty coding": ("POST", LOGIN, ["Content-Encoding:"], b"{}"),
    "a large body elsewhere": ("POST", LOGIN + "/", [], JWT_BODY + b" " * 65536),
    "a compressed body elsewhere": ("POST", LOGIN + "/", ["Content-Encoding: gzip"], JWT_BODY),
    "a compressed body that is put": ("PUT", LOGIN, ["Content-Encoding: gzip"], JWT_BODY),
    "a trailing slash": ("POST", LOGIN + "/", [], JWT_BODY),
    "an encoded letter": ("POST", LOGIN.replace("login", "log%69n"), [], JWT_BODY),
    "two slashes": ("POST", "/" + LOGIN, [], JWT_BODY),
    "a dot segment": ("POST", LOGIN.replace("/v3", "/./v3"), [], JWT_BODY),
    "another case": ("POST", LOGIN.replace("login", "Login"), [], JWT_BODY),
    "PUT": ("PUT", LOGIN, [], JWT_BODY),
    "HEAD": ("HEAD", LOGIN, [], None),
    "OPTIONS": ("OPTIONS", LOGIN, [], None),
}


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("case", UNTOUCHED)
async def test_what_is_no_jwt_login_reaches_the_homeserver_as_it_is(
    case: str, *, chunked: bool, gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    method, target, fields, body = UNTOUCHED[case]
    if body is None:
        request = head(method, target, *fields)
    elif chunked:
        middle = len(body) // 2
        parts = [part for part in (body[:middle], body[middle:]) if part]
        request = head(method, target, *fields, "Transfer-Encoding: chunked")
        request += b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    else:
        request = head(method, target, *fields, length=len(body)) + body
    answer = await exchange(gateway.port, request)
    assert b"Access-Control-Allow-Origin" in answer
    (seen,) = homeserver.seen
    assert (seen.method, seen.target, seen.body) == (method, target, body or b"")
    framing = [b"chunked"] if chunked and body is not None else []
    assert seen.values("transfer-encoding") == framing


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def parts(answer: bytes) -> tuple[int, dict[str, str], dict[str, str]]:
    """Return status, fields and body of an answer that is all that came."""
    lines, _, body = answer.partition(b"\r\n\r\n")
    fields = dict(line.decode().split(": ", 1) for line in lines.split(b"\r\n")[1:])
    return int(answer[9:12]), fields, json.loads(body)


DISGUISES: dict[str, bytes] = {
    "a member twice": JWT_BODY.replace(b"}", b', "a": 1, "a": 2}'),
    "the type twice": JWT_BODY.replace(b"}", b', "type": "m.login.password"}'),
    "the type twice, ours is the last": JWT_BODY.replace(b"{", b'{"type": "m.login.password", '),
    "the type in upper case too": JWT_BODY.replace(b'"type"', b'"type": "m.login.password", "TYPE"'),
    "deep nesting": JWT_BODY.replace(b"}", b', "a": %b%b}' % (b"[" * 500, b"]" * 500)),
    "a lone surrogate": JWT_BODY.replace(b"}", rb', "a": "\ud800"}'),
    "a huge number": JWT_BODY.replace(b"}", b', "a": %b}' % (b"9" * 5000)),
    "NaN": JWT_BODY.replace(b"}", b', "a": NaN}'),
    "not UTF-8": JWT_BODY.replace(b"}", b', "a": "\xff"}'),
    "a byte order mark": b"\xef\xbb\xbf" + JWT_BODY,
    "UTF-16": JWT_BODY.decode().encode("utf-16"),
    "something behind it": JWT_BODY + b"x",
}


@pytest.mark.parametrize("body", DISGUISES.values(), ids=DISGUISES)
async def test_what_the_homeserver_could_read_as_a_jwt_login_never_passes(
    body: bytes, gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    status, fields, said = parts(await exchange(gateway.port, head("POST", LOGIN, length=len(body)) + body))
    assert (status, said["errcode"]) == (400, "M_BAD_JSON")
    assert said["error"].startswith("The body of a login must be strict JSON: ")
    assert CORS_HEADERS.items() <= fields.items()
    assert homeserver.seen == []


async def test_disguised_logins_are_behind_the_limit_and_count(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    limits = {"failed_logins_per_address": {"burst": 2, "refill": 1}}
    body = DISGUISES["a member twice"]
    async with running_gateway(tmp_path, homeserver.url, limits=limits) as gateway:
        request = head("POST", LOGIN, "X-Forwarded-For: 203.0.113.5", length=len(body)) + body
        answers = [await exchange(gateway.port, request) for _ in range(3)]
    assert [int(answer[9:12]) for answer in answers] == [400, 400, 429]


@pytest.mark.parametrize("identity", ["identity", "Identity", "", "identity, identity", " ,identity"])
async def test_a_jwt_login_may_say_that_it_has_no_coding(identity: str, gateway: RunningGateway) -> None:
    body = json.dumps({"type": "org.matrix.login.jwt", "token": mint()}).encode()
    request = head("POST", LOGIN, f"Content-Encoding: {identity}", length=len(body)) + body
    assert (await exchange(gateway.port, request)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "codings", [["gzip"], ["GZIP"], ["x"], ["gzip, identity"], ["identity", "deflate"], ["", "br"], ["identity;q=1"]]
)
@pytest.mark.parametrize("path", PATHS)
async def test_a_body_with_a_content_coding_is_a_415_on_each_login_path(
    path: str, codings: list[str], gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    fields = [f"Content-Encoding: {coding}" for coding in codings]
    status, answered, said = parts(
        await exchange(gateway.port, head("POST", path, *fields, length=len(JWT_BODY)) + JWT_BODY)
    )
    assert (status, said["errcode"], answered["Accept-Encoding"]) == (415, "M_UNKNOWN", "identity")
    assert CORS_HEADERS.items() <= answered.items()
    assert homeserver.seen == []


@pytest.mark.parametrize(
    "body", [JWT_BODY + b" " * 65536, b"{}" + b" " * 65535, b"[" * 70_000], ids=["jwt", "1", "["]
)
@pytest.mark.parametrize("framed", [True, False])
async def test_a_body_that_is_too_large_is_a_413(
    body: bytes, *, framed: bool, gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    if framed:
        request = head("POST", LOGIN, "Transfer-Encoding: chunked") + chunked(body)
    else:
        request = head("POST", LOGIN, length=len(body)) + body
    status, fields, said = parts(await exchange(gateway.port, request))
    assert (status, said["errcode"]) == (413, "M_TOO_LARGE")
    assert CORS_HEADERS.items() <= fields.items()
    assert homeserver.seen == []


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (["Content-Length: 65537"], 413),
        (["Content-Length: " + "9" * 15], 413),
        (["Content-Length: 100", "Content-Encoding: gzip"], 415),
        (["Transfer-Encoding: chunked", "Content-Encoding: gzip"], 415),
    ],
)
@pytest.mark.parametrize("expect", [[], ["Expect: 100-continue"]])
async def test_what_the_head_shows_is_refused_before_the_body_and_ends_the_connection(
    fields: list[str], status: int, expect: list[str], gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    lines = [f"POST {LOGIN} HTTP/1.1", f"Host: {SERVER_NAME}", *fields, *expect, "", ""]
    async with connected(gateway.port) as client, asyncio.timeout(3):
        await client.send("\r\n".join(lines).encode())
        answer = await client.head()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nConnection: close\r\n" in answer
    assert homeserver.seen == []


async def test_a_request_without_a_body_does_not_end_the_connection_for_its_coding(gateway: RunningGateway) -> None:
    lines = [f"POST {LOGIN} HTTP/1.1", f"Host: {SERVER_NAME}", "Content-Encoding: gzip", "Content-Length: 0", "", ""]
    answer = await exchange(gateway.port, "\r\n".join(lines).encode() + head("GET", LOGIN))
    assert [answer.count(b"HTTP/1.1 415 "), answer.count(b"HTTP/1.1 200 ")] == [1, 1]


@pytest.mark.parametrize(
    ("fields", "body"),
    [(["Content-Encoding: gzip"], JWT_BODY), ([], b" " * 70_000), ([], DISGUISES["a member twice"])],
)
async def test_with_jwt_login_off_the_homeserver_judges_every_body(
    fields: list[str], body: bytes, tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    async with running_gateway(tmp_path, homeserver.url, jwt={"enable": False}) as gateway:
        await exchange(gateway.port, head("POST", LOGIN, *fields, length=len(body)) + body)
    assert [seen.body for seen in homeserver.seen] == [body]


async def test_a_password_login_works(gateway: RunningGateway, homeserver: FakeHomeserver) -> None:
    homeserver.users["alice"] = User(password="secret word")
    identifier = {"type": "m.id.user", "user": "alice"}
    body = {"type": "m.login.password", "identifier": identifier, "password": "secret word"}
    assert (await gateway.call("POST", LOGIN, body)).body["user_id"] == f"@alice:{SERVER_NAME}"


async def test_a_client_that_waits_for_100_continue_gets_it_once_and_can_log_in(gateway: RunningGateway) -> None:
    body = json.dumps({"type": "org.matrix.login.jwt", "token": mint()}).encode()
    async with connected(gateway.port) as client:
        await client.send(head("POST", LOGIN, "Expect: 100-continue", length=len(body)))
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(body)
        assert (await client.rest()).startswith(b"HTTP/1.1 200 ")


async def test_a_password_login_that_waited_for_100_continue_is_passed_on_without_the_wait(tmp_path: Path) -> None:
    script = Script(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    async with RawServer(script).running() as upstream, running_gateway(tmp_path, upstream.url) as gateway:
        async with connected(gateway.port) as client:
            await client.send(head("POST", LOGIN, "Expect: 100-continue", length=2))
            assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(b"{}")
            assert (await client.rest()).startswith(b"HTTP/1.1 200 OK\r\n")
    (request,) = script.requests
    assert b"Expect" not in request
    assert request.endswith(b"\r\n\r\n{}")


async def test_a_login_body_that_breaks_off_reaches_nobody(
    gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    async with connected(gateway.port) as client:
        await client.send(head("POST", LOGIN, length=100) + b'{"type":')
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.05)
    assert homeserver.seen == []


async def test_a_login_body_that_takes_too_long_is_a_408_and_reaches_nobody(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    async with running_gateway(tmp_path, homeserver.url, server={"head_timeout": 0.3}) as gateway:
        async with connected(gateway.port) as client, asyncio.timeout(3):
            await client.send(f"POST {LOGIN} HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{{".encode())
            assert (await client.head()).startswith(b"HTTP/1.1 408 ")
    assert homeserver.seen == []


async def test_with_jwt_login_off_everything_goes_to_the_homeserver(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    async with running_gateway(tmp_path, homeserver.url, jwt={"enable": False}) as gateway:
        answer = await gateway.log_in(mint())
        assert (answer.status, answer.body["error"]) == (400, "Unknown login type")
        flows = (await gateway.call("GET", LOGIN)).body["flows"]
    assert {"type": "org.matrix.login.jwt"} not in flows


async def test_the_old_name_of_the_type_is_taken_where_configured(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    async with running_gateway(tmp_path, homeserver.url, jwt={"login_types": ["m.login.jwt"]}) as gateway:
        assert (await gateway.call("POST", LOGIN, {"type": "m.login.jwt", "token": mint()})).status == 200


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(token=st.one_of(st.text(), st.text("abcAZ09-_.=", max_size=80), st.lists(st.binary(), min_size=3, max_size=3)))
async def test_any_token_is_refused_by_the_table(
    token: str | list[bytes], gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    text = token if isinstance(token, str) else ".".join(jose(part) for part in token)
    body = json.dumps({"type": "org.matrix.login.jwt", "token": text}).encode()
    answer = await exchange(gateway.port, head("POST", LOGIN, length=len(body)) + body)
    body = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert len(refusals(int(answer[9:12]), body["errcode"], body["error"])) == 1, body
    assert homeserver.users == {}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
MEMBERS = st.fixed_dictionaries(
    {"type": st.just("org.matrix.login.jwt")},
    optional=dict.fromkeys(
        ("token", "device_id", "initial_device_display_name", "refresh_token", "user"), JSON_VALUES
    ),
)
BODIES = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=50).map(lambda text: f'{{"type":{text}'.encode()),
    MEMBERS.map(lambda members: json.dumps(members).encode()),
    MEMBERS.map(lambda members: json.dumps(members, ensure_ascii=False).encode("utf-8", "surrogatepass")),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=BODIES)
async def test_any_body_gets_an_answer_below_500(
    body: bytes, gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    answer = await exchange(gateway.port, head("POST", LOGIN, length=len(body)) + body)
    assert answer.startswith(b"HTTP/1.1 4")
    assert homeserver.users == {}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(members=MEMBERS)
async def test_any_members_beside_a_good_token_are_named_or_log_in(
    members: dict[str, Any], gateway: RunningGateway
) -> None:
    body = json.dumps({**members, "token": mint()}).encode()
    answer = await exchange(gateway.port, head("POST", LOGIN, length=len(body)) + body)
    status, said = answer[9:12], answer.partition(b"\r\n\r\n")[2]
    if status == b"200":
        assert b'"access_token"' in said
    else:
        assert (status, b"M_INVALID_PARAM" in said or b"M_BAD_JSON" in said) == (b"400", True)
