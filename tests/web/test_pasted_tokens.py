"""A token as password: ours once its signature verifies, and until then the homeserver's, octet for octet."""

import base64
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.web.answers import CORS_HEADERS
from tests.fake_homeserver import FakeHomeserver, User
from tests.fake_issuer import running_issuer
from tests.raw_http import exchange
from tests.running_gateway import LOGIN, SERVER_NAME, Answered, RunningGateway, mint, running_gateway

ALICE = f"@alice:{SERVER_NAME}"
ON = {"accept_in_password": True}
JWT = "JWT validation failed: "
FOREIGN = "another secret of the tests, as long as the first: 0123456789abcdef"


@pytest.fixture
async def gateway(tmp_path: Path, homeserver: FakeHomeserver) -> AsyncIterator[RunningGateway]:
    async with running_gateway(tmp_path, homeserver.url, jwt=ON) as running:
        yield running


def password_login(password: object, user: str = "alice", **members: Any) -> dict[str, Any]:
    identifier = {"type": "m.id.user", "user": user}
    return {"type": "m.login.password", "identifier": identifier, "password": password, **members}


async def paste(
    gateway: RunningGateway, password: object, user: str = "alice", address: str = "203.0.113.5", **members: Any
) -> Answered:
    return await gateway.call("POST", LOGIN, password_login(password, user, **members), X_Forwarded_For=address)


async def post(gateway: RunningGateway, body: bytes) -> bytes:
    head = f"POST {LOGIN} HTTP/1.1\r\nHost: {SERVER_NAME}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return await exchange(gateway.port, head.encode() + body)


def unsigned(header: object, payload: object = None) -> str:
    parts = [json.dumps(part).encode() for part in (header, payload or {"sub": "alice"})]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (*parts, b"\0" * 33))


@pytest.mark.parametrize("user", ["alice", "Alice", ALICE, ALICE.upper()])
async def test_a_pasted_token_logs_in_as_its_user(
    user: str, gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    answer = await paste(gateway, mint(), user, device_id="D", refresh_token=True)
    assert answer.status == 200
    assert (answer.body["user_id"], answer.body["device_id"]) == (ALICE, "D")
    assert answer.body["refresh_token"]
    assert [seen.json()["type"] for seen in homeserver.to("/login")] == ["m.login.application_service"]


async def test_all_that_a_jwt_login_may_ask_for_reaches_the_homeserver(
    gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    members: dict[str, Any] = {"device_id": "D", "initial_device_display_name": "Phone", "refresh_token": True}
    assert (await paste(gateway, f"\n {mint()} ", **members)).status == 200
    (login,) = homeserver.to("/login")
    assert members.items() <= login.json().items()
    assert "password" not in login.json()


async def test_the_older_way_to_name_the_user_is_taken(gateway: RunningGateway) -> None:
    body = {"type": "m.login.password", "user": "alice", "password": mint()}
    assert (await gateway.call("POST", LOGIN, body)).body["user_id"] == ALICE
    assert (await gateway.call("POST", LOGIN, {**body, "user": "bob"})).status == 403


async def test_a_subject_whose_account_has_another_name_gives_that_name(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    jwt = {**ON, "single_use": True}
    async with running_gateway(tmp_path, homeserver.url, jwt=jwt, identity={"localpart": "{name}"}) as gateway:
        assert (await paste(gateway, mint("1", name="alice", jti="1"))).status == 200
        token = mint("1", name="alicia", jti="2")
        assert (await paste(gateway, token, "alicia")).status == 403
        assert (await paste(gateway, token, "alice")).body["user_id"] == ALICE


@pytest.mark.parametrize("kid", [5, None, ["a"], {"a": 1}, "../x"])
async def test_a_kid_of_any_kind_in_a_password_is_no_trouble(
    kid: object, tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    async with running_issuer() as issuer:
        jwt = {**ON, "format": "JWKS", "algorithm": "ES256", "issuer": issuer.url, "jwks_url": issuer.jwks_url}
        homeserver.users["alice"] = User(password=unsigned({"alg": "ES256", "kid": kid}))
        async with running_gateway(tmp_path, homeserver.url, jwt={**jwt, "secret": []}) as gateway:
            assert (await gateway.log_in(issuer.mint("bob"))).status == 200
            assert (await paste(gateway, unsigned({"alg": "ES256", "kid": kid}))).body["user_id"] == ALICE
            assert (await paste(gateway, issuer.mint("bob"), "bob")).body["user_id"] == f"@bob:{SERVER_NAME}"


REFUSED: dict[str, tuple[Callable[[], str], dict[str, Any], str]] = {
    "another user": (lambda: mint("bob"), {}, "This identity may not log in here"),
    "expired": (lambda: mint(exp=1), {}, JWT + "expired_token: The token is expired"),
    "another audience": (lambda: mint(aud="x"), {}, JWT + "invalid_claim: Invalid claim 'aud'"),
    "no subject": (lambda: mint(None), {}, "Invalid JWT"),
    "a wrong field": (
        mint,
        {"refresh_token": 1},
        "'refresh_token' must be true or false",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_token_that_we_signed_never_reaches_the_homeserver(
    case: str, gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    token, members, error = REFUSED[case]
    answer = await paste(gateway, token(), **members)
    assert answer.status == (400 if members else 403)
    assert answer.body == {"errcode": "M_INVALID_PARAM" if members else "M_FORBIDDEN", "error": error}
    assert CORS_HEADERS.items() <= dict(answer.headers).items()
    assert homeserver.seen == []


async def test_another_users_name_uses_no_token_up_and_makes_no_account(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    token = mint(jti="1")
    async with running_gateway(tmp_path, homeserver.url, jwt={**ON, "single_use": True}) as gateway:
        assert (await paste(gateway, token, "bob")).status == 403
        assert homeserver.users == {}
        assert "the login names another user than its token" in gateway.log
        assert [(await paste(gateway, token)).status for _ in range(2)] == [200, 403]


FORM = unsigned({"alg": "HS256"})
PASSED_ON = {
    "a password": password_login("secret word"),
    "no text": password_login(7),
    "another key": password_login(mint(secret=FOREIGN)),
    "another algorithm": password_login(mint(algorithm="HS512")),
    "no signature": password_login(unsigned({"alg": "none"})),
    "a foreign algorithm": password_login(unsigned({"alg": "RS256", "kid": "unknown"})),
    "critical": password_login(unsigned({"alg": "HS256", "crit": ["x"]})),
    "cut off": password_login(mint().rpartition(".")[0]),
    "encrypted": password_login(FORM + ".AAAA.AAAA"),
    "too large": password_login(mint(pad="x" * 20_000)),
    "an address": {
        "type": "m.login.password",
        "identifier": {"type": "m.id.thirdparty", "medium": "email", "address": "a@example.org"},
        "password": mint(),
    },
    "nobody": {"type": "m.login.password", "password": mint()},
    "a wrong field, not ours": password_login("secret", device_id=7),
    "a wrong field, not ours yet": password_login(FORM, device_id=7),
    "another type": {**password_login(mint()), "type": "m.login.token"},
}


@pytest.mark.parametrize("case", PASSED_ON)
async def test_any_other_password_login_reaches_the_homeserver_as_it_is(
    case: str, gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    body = json.dumps(PASSED_ON[case], indent=1).encode()
    homeserver.answers[LOGIN] = homeserver_says
    assert (await post(gateway, body)).endswith(b'{"of": "the homeserver"}')
    (seen,) = homeserver.seen
    assert seen.body == body


def homeserver_says() -> web.Response:
    return web.json_response({"of": "the homeserver"})


async def test_a_real_password_that_looks_like_a_token_logs_in(
    gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    homeserver.users["alice"] = User(password=FORM)
    assert (await paste(gateway, FORM)).body["user_id"] == ALICE


@pytest.mark.parametrize("jwt", [{}, {**ON, "enable": False}])
async def test_where_it_is_off_a_token_is_a_password_like_any_other(
    jwt: dict[str, bool], tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    body = json.dumps(password_login(mint())).encode()
    async with running_gateway(tmp_path, homeserver.url, jwt=jwt) as gateway:
        assert b" 403 " in await post(gateway, body)
    assert [seen.body for seen in homeserver.seen] == [body]


async def test_signatures_cannot_be_tried_without_end(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    limits = {"failed_logins_per_address": {"burst": 2, "refill": 1}}
    homeserver.users["alice"] = User(password="secret word")
    async with running_gateway(tmp_path, homeserver.url, jwt=ON, limits=limits) as gateway:
        for number in range(2):
            assert (await paste(gateway, mint(secret=FOREIGN))).body["error"] == "Invalid username or password"
            assert len(homeserver.seen) == number + 1
        for token in (mint(secret=FOREIGN), mint()):  # nothing tells a good one from a bad one
            answer = await paste(gateway, token)
            assert (answer.status, answer.body["errcode"]) == (429, "M_LIMIT_EXCEEDED")
        assert len(homeserver.seen) == 2
        # Passwords, and tokens that no key of ours could have signed, have nothing to do with it.
        assert (await paste(gateway, "secret word")).status == 200
        assert (await paste(gateway, unsigned({"alg": "RS256"}))).status == 403
        assert (await paste(gateway, mint(), address="203.0.113.6")).status == 200


async def test_passwords_do_not_count_as_failed_tokens(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    limits = {"failed_logins_per_address": {"burst": 1, "refill": 1}}
    async with running_gateway(tmp_path, homeserver.url, jwt=ON, limits=limits) as gateway:
        for password in ("wrong", unsigned({"alg": "RS256"}), unsigned({"alg": "none"})):
            assert (await paste(gateway, password)).body["error"] == "Invalid username or password"
        assert (await paste(gateway, mint())).status == 200


async def test_refused_tokens_count_as_in_any_jwt_login(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    limits = {"failed_logins_per_address": {"burst": 3, "refill": 1}}
    async with running_gateway(tmp_path, homeserver.url, jwt=ON, limits=limits) as gateway:
        answers = [
            await paste(gateway, mint(exp=1)),
            await paste(gateway, mint("bob")),
            await paste(gateway, mint(), device_id=7),
            await paste(gateway, mint()),
        ]
    assert [answer.status for answer in answers] == [403, 403, 400, 429]


async def test_no_password_ever_stands_in_the_log(
    gateway: RunningGateway, homeserver: FakeHomeserver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    passwords = ["secret word", FORM, mint(), mint(secret=FOREIGN), mint("bob"), mint(exp=1), mint(aud="x")]
    for password in passwords:
        await paste(gateway, password)
        await paste(gateway, password, refresh_token=7)
    await homeserver.stop()
    for password in passwords:
        assert (await paste(gateway, password)).status in {403, 502}
    assert "login_refused" in gateway.log
    for text in (gateway.log, caplog.text):
        for password in passwords:
            assert password not in text
            assert password.rpartition(".")[2] not in text


async def test_clients_are_offered_a_password_also_where_the_homeserver_takes_none(
    gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    ours = {"type": "org.matrix.login.jwt"}
    offered = (await gateway.call("GET", LOGIN)).body["flows"]
    assert offered == [{"type": "m.login.password"}, {"type": "m.login.application_service"}, ours]
    homeserver.answers[LOGIN] = lambda: web.json_response({"flows": [{"type": "m.login.sso"}]})
    offered = (await gateway.call("GET", LOGIN)).body["flows"]
    assert offered == [{"type": "m.login.sso"}, ours, {"type": "m.login.password"}]


async def test_it_works_without_any_jwt_type(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    async with running_gateway(tmp_path, homeserver.url, jwt={**ON, "login_types": []}) as gateway:
        offered = (await gateway.call("GET", LOGIN)).body["flows"]
        assert offered == [{"type": "m.login.password"}, {"type": "m.login.application_service"}]
        assert (await paste(gateway, mint())).status == 200
        assert (await gateway.log_in(mint())).status == 400


async def test_both_names_of_the_type_are_offered_and_taken(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    types = ["org.matrix.login.jwt", "m.login.jwt"]
    async with running_gateway(tmp_path, homeserver.url, jwt={"login_types": types}) as gateway:
        offered = [flow["type"] for flow in (await gateway.call("GET", LOGIN)).body["flows"]]
        assert offered == ["m.login.password", "m.login.application_service", *types]
        for name in types:
            assert (await gateway.call("POST", LOGIN, {"type": name, "token": mint()})).status == 200


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
PARTS = st.text("eyJhbGciOiJIUzI1NiJ9_-", max_size=30)
PASSWORDS = VALUES | st.text() | st.builds(".".join, st.lists(PARTS, min_size=2, max_size=4)) | st.just(FORM)
BODIES = st.fixed_dictionaries(
    {"type": st.just("m.login.password") | VALUES, "password": PASSWORDS},
    optional={
        "user": VALUES,
        "identifier": VALUES | st.fixed_dictionaries({"type": st.just("m.id.user"), "user": st.text() | VALUES}),
        "device_id": VALUES,
        "token": VALUES,
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=BODIES, indent=st.none() | st.integers(0, 3), escape=st.booleans())
@example(body=password_login(FORM), indent=None, escape=True)
async def test_any_body_that_is_no_such_login_is_passed_on_unchanged(
    body: dict[str, Any], indent: int | None, gateway: RunningGateway, homeserver: FakeHomeserver, *, escape: bool
) -> None:
    homeserver.answers[LOGIN] = homeserver_says
    octets = json.dumps(body, indent=indent, ensure_ascii=escape).encode("utf-8", "surrogatepass")
    homeserver.seen.clear()
    assert (await post(gateway, octets)).endswith(b'{"of": "the homeserver"}')
    assert [seen.body for seen in homeserver.seen] == [octets]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(secret=st.binary(min_size=32, max_size=64).map(base64.b64encode))
async def test_any_other_key_makes_a_password_of_the_homeservers(
    secret: bytes, gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    homeserver.answers[LOGIN] = homeserver_says
    answer = await gateway.call("POST", LOGIN, password_login(mint(secret=secret.decode())))
    assert answer.body == {"of": "the homeserver"}


async def test_of_several_issuers_each_vouches_for_its_own_tokens(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    homeserver.answers[LOGIN] = homeserver_says
    issuers = [{"issuer": "A", "secret": FOREIGN}, {"issuer": "B", "secret": FOREIGN[::-1], "max_token_bytes": 500}]
    async with running_gateway(tmp_path, homeserver.url, jwt={**ON, "issuers": issuers}) as gateway:
        for token in (
            mint(iss="A", secret=FOREIGN[::-1]),
            mint(iss="B", secret=FOREIGN),
            mint(iss="C", secret=FOREIGN),
            mint(iss=["A"], secret=FOREIGN),
            mint(secret=FOREIGN),
            mint(iss="B", secret=FOREIGN[::-1], pad="x" * 500),
        ):
            assert (await paste(gateway, token)).body == {"of": "the homeserver"}
        del homeserver.answers[LOGIN]
        assert (await paste(gateway, mint(iss="A", secret=FOREIGN, pad="x" * 500))).body["user_id"] == ALICE
        assert (await paste(gateway, mint("bob", iss="B", secret=FOREIGN[::-1]), "bob")).status == 200
        refused = await paste(gateway, mint(iss="B", secret=FOREIGN[::-1], exp=1))
        assert refused.body["error"] == JWT + "expired_token: The token is expired"
