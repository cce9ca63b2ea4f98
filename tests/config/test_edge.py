"""The edge snippets of config/edge, run by the real programs before two real servers.

Rule: what README.md claims of them has a test here; what an edge changes all the same is in `edge_deviations`.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.config.edge_deviations import DEVIATIONS, Deviations
from tests.config.edge_programs import Behind, running, runs
from tests.config.running_edge import (
    ETAG,
    MEDIA,
    NAME,
    PACKED,
    TOO_LARGE,
    Answer,
    Connection,
    Edge,
    Upstream,
    free_port,
    program,
    write_certificate,
)

in_one_loop = pytest.mark.asyncio(loop_scope="module")
DOWNLOAD = "/_matrix/media/v3/download/example.org/abc"
LOGIN_PATHS = [f"/_matrix/client/{version}/login" for version in ("v3", "r0", "unstable", "api/v1")]
NOT_QUITE_LOGIN = [
    "/",
    "/login",
    "//_matrix/client/v3/login",
    "/_matrix//client/v3/login",
    "/_matrix/client/v3//login",
    "/_matrix/client/v3/login/",
    "/_matrix/client/v3/login/?a=b",
    "/_matrix/client/v3/login//",
    "/_matrix/client/v3/./login",
    "/_matrix/client/v3/rooms/../login",
    "/_matrix/client/v3/log%69n",
    "/_matrix/client/v3%2Flogin",
    "/_matrix/client/api%2Fv1/login",
    "/_matrix/client/v3/login%3F",
    "/_matrix/client/v3/login;a",
    "/_matrix/client/v3/logins",
    "/_matrix/client/V3/login",
    "/_matrix/client/v3/Login",
    "/_matrix/client/v1/login",
    "/_matrix/client/api/v3/login",
    "/x/_matrix/client/v3/login",
    "/_matrix/client/v3/login/sso/redirect?redirectUrl=https%3A%2F%2Fapp.example.org%2F",
    "/_matrix/client/v3/sync?next=/_matrix/client/v3/login",
    "/.well-known/matrix/client",
]
DELICATE_TARGETS = [
    "/_matrix/client/v3/rooms/%21abc%3Aexample.org/state/m.room.name/",
    "/_matrix/client/v3/rooms/!abc:example.org/send/m.room.message/a%2Fb%2fc",
    "/_matrix/client/v3/directory/room/%23a%20b+c:example.org",
    "//_matrix///federation/v1/version",
    "//_matrix/%21a/a%2Fb%2fc%C3%a9%7E?%21",
    "/_matrix/./media/../federation/%2e%2e/v1/version",
    "/_matrix/client/versions?",
    "/_matrix/client/versions??",
    "/_matrix/client/versions?a=1&a=2&&b=&c;d=%2F%2f+%20&e=//..;",
    "/_matrix/client/v3/profile/@a%C3%A9:example.org?q='()*,$~@",
]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("certificate") / "both.pem"
    write_certificate(path)
    return path


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=runs(), ids=" by ".join)
async def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificate: Path
) -> AsyncIterator[Edge]:
    snippet, name = request.param
    program(name)
    async with Upstream("gateway").running() as gateway, Upstream("homeserver").running() as homeserver:
        edge = Edge(name, snippet, free_port(), certificate, gateway, homeserver)
        behind = Behind([gateway.port] * edge.gateways, [gateway.port] * edge.gateways, homeserver.port)
        async with running(edge, tmp_path_factory.mktemp(name.replace(" ", "-")), behind):
            yield edge


@pytest.fixture
def edge(shared: Edge) -> Edge:
    """The edge that all tests of the module share; the servers behind it have forgotten earlier ones."""
    for server in (shared.gateway, shared.homeserver):
        server.forget()
    return shared


@pytest.fixture
def deviations(edge: Edge) -> Deviations:
    return DEVIATIONS[edge.program]


@in_one_loop
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "OPTIONS"])
async def test_the_four_login_paths_reach_the_gateway(edge: Edge, deviations: Deviations, method: str) -> None:
    for path in LOGIN_PATHS:
        for target in (path, f"{path}?", f"{path}?a=%2F&b=/login/"):
            seen = (await edge.ask(method, target, body=b"{}")).report
            arrived = deviations.targets(target)
            assert (seen["server"], seen["method"], seen["target"]) == ("gateway", method, arrived)


@in_one_loop
async def test_everything_else_goes_where_the_form_says(edge: Edge, deviations: Deviations) -> None:
    for target in NOT_QUITE_LOGIN:
        seen = (await edge.ask("POST", target, body=b"{}")).report
        assert (seen["server"], seen["target"]) == (edge.not_login.name, deviations.targets(target))


@in_one_loop
async def test_the_request_target_is_kept_octet_for_octet(edge: Edge, deviations: Deviations) -> None:
    for target in DELICATE_TARGETS:
        assert (await edge.ask("GET", target)).report["target"] == deviations.targets(target)


CLAIMS = [
    "X-Forwarded-For: 203.0.113.7, 198.51.100.9",
    "x-forwarded-for: 203.0.113.8",
    "X_Forwarded_For: 203.0.113.7",
    "X-Forwarded-Proto: gopher",
    "X-Forwarded-Host: elsewhere.example",
    "X-Forwarded-Port: 8008",
    "X-Real-IP: 203.0.113.7",
    "X_Real_IP: 203.0.113.7",
    "Forwarded: for=203.0.113.7",
    "X-Request-Id: chosen",
]
TOLD = {"x-forwarded-for": "127.0.0.1", "x-forwarded-host": f"{NAME}:8448", "x-forwarded-proto": "https"}


def told(answer: Answer) -> dict[str, str]:
    """What the server was told of the client, each field once."""
    fields = answer.report["fields"]
    pairs = [(n, v) for n, v in fields if n.replace("_", "-").startswith(("x-", "forwarded"))]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@in_one_loop
@pytest.mark.parametrize("target", ["/_matrix/client/v3/login", "/_matrix/client/v3/sync"])
@pytest.mark.parametrize("claims", [CLAIMS, CLAIMS[-1:], []], ids=["all", "the request id", "none"])
async def test_what_a_client_claims_of_itself_and_its_request_is_replaced(
    edge: Edge, deviations: Deviations, target: str, claims: list[str]
) -> None:
    ids = set()
    for _ in range(2):
        fields = told(await edge.ask("GET", target, *claims))
        ids.add(fields.pop("x-request-id", ""))
        assert fields == {**TOLD, **deviations.adds}
    if deviations.no_request_id:
        assert ids == {""}
        return
    assert len(ids - {"chosen"}) == 2
    assert all(re.fullmatch(r"[A-Za-z0-9@_-]{20,40}", one) for one in ids)  # what the gateway accepts


@in_one_loop
async def test_fields_that_a_client_names_in_connection_are_never_its_own(edge: Edge, deviations: Deviations) -> None:
    """RFC 9110 7.6.1 lets it name any; the gateway keeps of a trusted proxy what it is told of the client."""
    names = ", ".join(line.partition(":")[0] for line in CLAIMS)
    answer = await edge.ask("GET", "/_matrix/client/versions", f"Connection: keep-alive, {names}", *CLAIMS)
    if deviations.refuses_named_fields:
        assert answer.status == 400
        return
    fields = told(answer)
    assert fields.pop("x-request-id", "") != "chosen"
    expected = {**TOLD, **deviations.adds}
    assert fields == {name: value for name, value in expected.items() if name not in deviations.loses_named}


@in_one_loop
async def test_host_and_other_fields_are_kept(edge: Edge) -> None:
    lines = ['Authorization: X-Matrix origin="a",key="b"', "Accept-Encoding: br", "X-One: 1", "X-One: 2"]
    fields = (await edge.ask("PUT", "/_matrix/federation/v1/send/1", *lines)).report["fields"]
    assert values_of(fields, "authorization") == ['X-Matrix origin="a",key="b"']
    assert values_of(fields, "accept-encoding") == ["br"]
    # One field with both values means the same (RFC 9110 5.3).
    assert ",".join(values_of(fields, "x-one")).replace(" ", "") == "1,2"
    assert values_of(fields, "host") == [f"{NAME}:8448"]


def values_of(fields: list[list[str]], name: str) -> list[str]:
    return [value for field, value in fields if field == name]


@in_one_loop
async def test_several_authorization_fields_are_never_thinned_out(edge: Edge, deviations: Deviations) -> None:
    values = ['X-Matrix origin="a",key="1"', 'X-Matrix origin="a",key="2"']
    lines = [f"Authorization: {value}" for value in values]
    answer = await edge.ask("PUT", "/_matrix/federation/v1/send/1", *lines)
    if deviations.several_authorizations == "refused":
        assert answer.status == 400
        return
    arrived = values_of(answer.report["fields"], "authorization")
    joined = [deviations.several_authorizations.join(values)]
    assert arrived == (values if deviations.several_authorizations == "kept" else joined)


@in_one_loop
async def test_the_fields_of_an_answer_come_back_unchanged(edge: Edge, deviations: Deviations) -> None:
    answer = await edge.ask("GET", "/_matrix/client/versions")
    assert answer.values("server") == [*deviations.servers, "Synapse/1.163.2"]
    assert answer.values("location") == [f"http://{NAME}:8448/kept"]
    assert answer.values("set-cookie") == ["a=1", "b=2"]
    assert len(answer.values("date")) == 1


@in_one_loop
async def test_head_and_304_have_the_fields_of_the_answer_and_no_body(edge: Edge) -> None:
    async with edge.connected() as connection:
        for _ in range(2):
            head = await connection.ask("HEAD", DOWNLOAD)
            assert (head.status, head.values("etag")) == (200, [ETAG])
            assert head.values("content-length") == [str(len(MEDIA))]
            unchanged = await connection.ask("GET", DOWNLOAD, f"If-None-Match: {ETAG}")
            assert (unchanged.status, unchanged.values("etag")) == (304, [ETAG])
        assert (await connection.ask("GET", DOWNLOAD)).body == MEDIA


@in_one_loop
async def test_nothing_is_packed_that_the_client_did_not_ask_to_be(edge: Edge, deviations: Deviations) -> None:
    if deviations.unpacks_gzip:
        async with edge.connected() as connection:
            await connection.start("GET", PACKED)
            head = await connection.reader.readuntil(b"\r\n\r\n")
        assert b"Transfer-Encoding: chunked" in head
        assert b"Content-Encoding" not in head
        return
    assert values_of((await edge.ask("GET", PACKED)).report["fields"], "accept-encoding") == []


@in_one_loop
async def test_three_mebibytes_go_up_and_down_intact(edge: Edge) -> None:
    up = await edge.ask("POST", "/_matrix/media/v3/upload?filename=a%2Fb", body=MEDIA)
    assert up.report["body"] == hashlib.sha256(MEDIA).hexdigest()
    down = await edge.ask("GET", DOWNLOAD)
    assert hashlib.sha256(down.body).digest() == hashlib.sha256(MEDIA).digest()


@in_one_loop
async def test_an_upload_is_passed_on_while_it_comes_in(edge: Edge) -> None:
    async with edge.connected() as connection, asyncio.timeout(20):
        await connection.start("POST", "/_matrix/media/v3/upload", length=len(MEDIA))
        connection.writer.write(MEDIA[:65536])
        await edge.not_login.reached.wait()
        answer = await connection.finish(MEDIA[65536:])
    assert answer.report["body"] == hashlib.sha256(MEDIA).hexdigest()


async def send_slowly(connection: Connection) -> None:
    """Send a body in parts: Go passes no answer on while nothing more comes, and Apache waits for the end."""
    for start in range(0, len(MEDIA), 65_536):
        connection.writer.write(MEDIA[start : start + 65_536])
        await asyncio.sleep(0.01)


@in_one_loop
async def test_an_upload_that_is_refused_before_its_end_gets_the_answer(edge: Edge) -> None:
    async with edge.connected() as connection, asyncio.timeout(20):
        await connection.start("POST", TOO_LARGE, length=len(MEDIA))
        sending = asyncio.create_task(send_slowly(connection))
        answer = await connection.finish()
        sending.cancel()
    assert (answer.status, answer.body) == (413, b'{"errcode": "M_TOO_LARGE", "error": "too large"}')


@in_one_loop
async def test_connections_to_the_upstream_are_http_1_1_and_kept_alive(edge: Edge) -> None:
    async with edge.connected() as connection:
        seen = [(await connection.ask("GET", "/_matrix/client/versions")).report for _ in range(12)]
    assert {tuple(one["version"]) for one in seen} == {(1, 1)}
    # HAProxy has some of each thread, and opens one anew for the first request of a client.
    assert len({tuple(one["peer"]) for one in seen}) <= 6


@in_one_loop
async def test_a_client_that_goes_away_ends_its_waiting_request(edge: Edge, deviations: Deviations) -> None:
    async with asyncio.timeout(20):
        async with edge.connected() as connection:
            await connection.start("GET", "/_matrix/client/v3/sync?hang")
            await edge.not_login.reached.wait()
        if not deviations.abandons:
            await asyncio.sleep(1)
            assert not edge.not_login.abandoned.is_set()
            edge.not_login.released.set()
            return
        await edge.not_login.abandoned.wait()
