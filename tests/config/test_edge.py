"""The edge snippets of config/edge, run by the real nginx, HAProxy and Caddy before two real servers.

Rule: README.md quotes the very files that are run here; what it claims of them has a test.
"""

import asyncio
import hashlib
import os
import re
import subprocess
from collections.abc import AsyncIterator
from operator import itemgetter
from pathlib import Path

import pytest

from tests.config.running_edge import (
    MEDIA,
    NAME,
    Behind,
    Edge,
    Upstream,
    command_line,
    free_port,
    process,
    program,
    put_in_place,
    write_certificate,
)

CONFIG = Path(__file__).parents[2] / "config"
SNIPPETS = sorted((CONFIG / "edge").iterdir())
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
    "/_matrix/./media/../federation/%2e%2e/v1/version",
    "/_matrix/client/versions?",
    "/_matrix/client/versions??",
    "/_matrix/client/versions?a=1&a=2&&b=&c;d=%2F%2f+%20&e=//..;",
    "/_matrix/client/v3/profile/@a%C3%A9:example.org?q='()*,$~@",
]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("certificate") / "both.pem"
    write_certificate(path)
    return path


@pytest.fixture(params=[path.name for path in SNIPPETS])
async def edge(request: pytest.FixtureRequest, tmp_path: Path, certificate: Path) -> AsyncIterator[Edge]:
    name: str = request.param
    kind = re.split(r"file|-", name.lower())[0]
    program(kind)
    async with Upstream("gateway").running() as gateway, Upstream("homeserver").running() as homeserver:
        edge = Edge(name, free_port(), certificate, gateway, homeserver)
        behind = Behind([gateway.port] * edge.gateways, [gateway.port] * edge.gateways, homeserver.port)
        text = put_in_place((CONFIG / "edge" / name).read_text(), edge.port, certificate, behind)
        command = command_line(kind, tmp_path, text)
        async with process(command, edge.port, tmp_path / "log"):
            yield edge


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "OPTIONS"])
async def test_the_four_login_paths_reach_the_gateway(edge: Edge, method: str) -> None:
    for path in LOGIN_PATHS:
        for target in (path, f"{path}?", f"{path}?a=%2F&b=/login/"):
            seen = (await edge.ask(method, target, body=b"{}")).report
            assert (seen["server"], seen["method"], seen["target"]) == ("gateway", method, target)


async def test_everything_else_goes_where_the_form_says(edge: Edge) -> None:
    for target in NOT_QUITE_LOGIN:
        seen = (await edge.ask("POST", target, body=b"{}")).report
        assert (seen["server"], seen["target"]) == (edge.not_login.name, target)


async def test_the_request_target_is_kept_octet_for_octet(edge: Edge) -> None:
    for target in DELICATE_TARGETS:
        assert (await edge.ask("GET", target)).report["target"] == target


@pytest.mark.parametrize("target", ["/_matrix/client/v3/login", "/_matrix/client/v3/sync"])
async def test_what_a_client_claims_of_its_address_is_replaced(edge: Edge, target: str) -> None:
    claims = [
        "X-Forwarded-For: 203.0.113.7, 198.51.100.9",
        "x-forwarded-for: 203.0.113.8",
        "X_Forwarded_For: 203.0.113.7",
        "X-Forwarded-Proto: gopher",
        "X-Forwarded-Host: elsewhere.example",
        "X-Real-IP: 203.0.113.7",
        "X_Real_IP: 203.0.113.7",
        "Forwarded: for=203.0.113.7",
    ]
    fields = (await edge.ask("GET", target, *claims)).report["fields"]
    told = sorted([n, v] for n, v in fields if n.replace("_", "-").startswith(("x-", "forwarded")))
    assert told == [
        ["x-forwarded-for", "127.0.0.1"],
        ["x-forwarded-host", f"{NAME}:8448"],
        ["x-forwarded-proto", "https"],
    ]


async def test_host_and_other_fields_are_kept(edge: Edge) -> None:
    lines = ['Authorization: X-Matrix origin="a",key="b"', "Accept-Encoding: br", "X-One: 1", "X-One: 2"]
    fields = (await edge.ask("PUT", "/_matrix/federation/v1/send/1", *lines)).report["fields"]
    kept = [(n, v) for n, v in fields if n in {"authorization", "accept-encoding", "x-one"}]
    sent = [(n.lower(), v) for n, v in (line.split(": ", 1) for line in lines)]
    # Caddy puts the names into another order, which means nothing; that of fields with one name does (RFC 9110 5.3).
    assert sorted(kept, key=itemgetter(0)) == sorted(sent, key=itemgetter(0))
    assert [v for n, v in fields if n == "host"] == [f"{NAME}:8448"]


async def test_several_authorization_fields_are_kept_or_refused_but_never_thinned_out(edge: Edge) -> None:
    lines = ['Authorization: X-Matrix origin="a",key="1"', 'Authorization: X-Matrix origin="a",key="2"']
    answer = await edge.ask("PUT", "/_matrix/federation/v1/send/1", *lines)
    if edge.snippet.startswith("nginx"):
        assert answer.status == 400
        return
    fields = answer.report["fields"]
    assert [f"Authorization: {v}" for n, v in fields if n == "authorization"] == lines


async def test_the_fields_of_an_answer_come_back_unchanged(edge: Edge) -> None:
    answer = await edge.ask("GET", "/_matrix/client/versions")
    assert answer.values("server") == ["Synapse/1.163.2"]
    assert answer.values("location") == [f"http://{NAME}:8448/kept"]
    assert answer.values("set-cookie") == ["a=1", "b=2"]
    assert len(answer.values("date")) == 1


async def test_three_mebibytes_go_up_and_down_intact(edge: Edge) -> None:
    up = await edge.ask("POST", "/_matrix/media/v3/upload?filename=a%2Fb", body=MEDIA)
    assert up.report["body"] == hashlib.sha256(MEDIA).hexdigest()
    down = await edge.ask("GET", "/_matrix/media/v3/download/example.org/abc")
    assert hashlib.sha256(down.body).digest() == hashlib.sha256(MEDIA).digest()


async def test_an_upload_is_passed_on_while_it_comes_in(edge: Edge) -> None:
    async with edge.connected() as connection, asyncio.timeout(20):
        await connection.start("POST", "/_matrix/media/v3/upload", length=len(MEDIA))
        connection.writer.write(MEDIA[:65536])
        await edge.not_login.reached.wait()
        answer = await connection.finish(MEDIA[65536:])
    assert answer.report["body"] == hashlib.sha256(MEDIA).hexdigest()


async def test_connections_to_the_upstream_are_http_1_1_and_kept_alive(edge: Edge) -> None:
    async with edge.connected() as connection:
        seen = [(await connection.ask("GET", "/_matrix/client/versions")).report for _ in range(6)]
    assert {tuple(one["version"]) for one in seen} == {(1, 1)}
    assert len({tuple(one["peer"]) for one in seen}) <= edge.gateways


async def test_a_client_that_goes_away_ends_its_waiting_request(edge: Edge) -> None:
    async with asyncio.timeout(20):
        async with edge.connected() as connection:
            await connection.start("GET", "/_matrix/client/v3/sync?hang")
            await edge.not_login.reached.wait()
        await edge.not_login.abandoned.wait()


@pytest.mark.parametrize("path", SNIPPETS, ids=lambda path: path.name)
def test_the_readme_quotes_the_snippet_exactly(path: Path) -> None:
    blocks = re.findall(r"^```\w*\n(.*?)^```$", (CONFIG / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert blocks.count(path.read_text()) == 1


@pytest.mark.parametrize("path", SNIPPETS, ids=lambda path: path.name)
def test_no_read_timeout_is_shorter_than_a_long_sync(path: Path) -> None:
    limits = re.findall(r"(?:proxy_read_timeout|timeout server|timeout client) (\d+)s", path.read_text())
    assert path.name.startswith("Caddyfile") or limits
    assert all(int(seconds) >= 600 for seconds in limits)


@pytest.mark.parametrize("name", [path.name for path in SNIPPETS if path.name.startswith("Caddyfile")])
def test_caddy_accepts_its_snippet_as_it_is(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [program("caddy"), "validate", "--adapter", "caddyfile", "--config", str(CONFIG / "edge" / name)],
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
