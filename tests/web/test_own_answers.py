"""The gateway's own answers to pages in a browser: the CORS values of Synapse, readable, kept by nobody."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.processes import free_port
from tests.fake_homeserver import FakeHomeserver
from tests.raw_http import RawServer, Script, never_accepting
from tests.running_gateway import LOGIN, RunningGateway, running_gateway
from tests.web.whole_answers import Answer, read_answers, wired

SOON = 5
ANSWERED = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Homeserver: 1\r\n\r\n"
# What synapse.http.server.set_cors_headers says to pages.
CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "X-Requested-With, Content-Type, Authorization, Date",
    "Access-Control-Expose-Headers": "Synapse-Trace-Id, Server",
}
SAID_BY_SYNAPSE = """
import json, types
from synapse.http.server import set_cors_headers
said = {}
record = lambda name, value: said.update({name.decode(): value.decode()})
set_cors_headers(types.SimpleNamespace(path=b"/_matrix/client/versions", setHeader=record))
print(json.dumps(said))
"""
PREFLIGHT = ("Origin: https://app.example", "Access-Control-Request-Method: GET")


def listed(value: str) -> set[str]:
    return {entry.strip() for entry in value.split(",")}


def check_cors(answer: Answer) -> None:
    for name, value in CORS.items():
        (found,) = answer.values(name)
        more = {"Retry-After"} if name == "Access-Control-Expose-Headers" else set()
        assert listed(found) == listed(value) | more, name


async def ask(port: int, line: str, *fields: str, body: bytes = b"") -> Answer:
    if body:
        fields = (*fields, f"Content-Length: {len(body)}")
    head = "\r\n".join([f"{line} HTTP/1.1", "Host: example.org", "Connection: close", *fields, "", ""]).encode()
    async with wired(port) as client:
        await client.send(head + body)
        (answer,) = read_answers(await client.receive(SOON), [line.partition(" ")[0]])
    return answer


BAD_TOKEN = b'{"type": "org.matrix.login.jwt", "token": "abc"}'
OWN: dict[str, tuple[int, str, tuple[str, ...], bytes]] = {
    "a framing error": (400, "POST /x", ("Transfer-Encoding: chunked", "Content-Length: 1"), b""),
    "a foreign target": (400, "GET http://other.example/", (), b""),
    "TRACE": (405, "TRACE /", (), b""),
    "a bad token": (403, f"POST {LOGIN}", (), BAD_TOKEN),
    "a bad field": (400, f"POST {LOGIN}", (), BAD_TOKEN[:-1] + b', "device_id": 1}'),
    "a coding": (415, f"POST {LOGIN}", ("Content-Encoding: gzip",), BAD_TOKEN),
    "a login that is too large": (413, f"POST {LOGIN}", (), b" " * 70_000),
    "a field that is too large": (431, "GET /", ("X-A: " + "a" * 20_000,), b""),
}


@pytest.mark.parametrize("case", OWN)
async def test_a_refusal_says_what_synapse_says_and_is_not_kept(case: str, gateway: RunningGateway) -> None:
    status, line, fields, body = OWN[case]
    answer = await ask(gateway.port, line, *fields, body=body)
    assert answer.status == status
    check_cors(answer)
    assert answer.values("Cache-Control") == ["no-store"]


async def test_a_refusal_of_many_attempts_exposes_when_to_come_again(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    limits = {"failed_logins_per_address": {"burst": 1, "refill": 60}}
    async with running_gateway(tmp_path, homeserver.url, limits=limits) as gateway:
        client = "X-Forwarded-For: 203.0.113.7"
        answers = [await ask(gateway.port, f"POST {LOGIN}", client, body=BAD_TOKEN) for _ in range(3)]
    assert answers[-1].status == 429
    assert int(answers[-1].values("Retry-After")[0]) > 0
    check_cors(answers[-1])
    assert answers[-1].values("Cache-Control") == ["no-store"]


async def test_a_homeserver_that_is_down_is_told_in_a_way_that_a_page_can_read(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, f"http://127.0.0.1:{free_port()}") as gateway:
        preflight = await ask(gateway.port, "OPTIONS /_matrix/client/v3/sync", *PREFLIGHT)
        other = await ask(gateway.port, "OPTIONS /_matrix/client/v3/sync")
        real = await ask(gateway.port, "GET /_matrix/client/v3/sync")
    assert (preflight.status, preflight.body) == (204, b"")
    assert preflight.values("Content-Length") == []  # RFC 9110 8.6
    assert [other.status, real.status] == [502, 502]
    for answer in (preflight, other, real):
        check_cors(answer)
    for answer in (other, real):
        assert answer.values("Cache-Control") == ["no-store"]


async def test_a_preflight_is_answered_where_the_homeserver_takes_no_connection(tmp_path: Path) -> None:
    async with never_accepting() as port:
        async with running_gateway(tmp_path, f"http://127.0.0.1:{port}") as gateway:
            preflight = await ask(gateway.port, "OPTIONS /_matrix/client/v3/sync", *PREFLIGHT)
            other = await ask(gateway.port, "OPTIONS /_matrix/client/v3/sync")
    assert [preflight.status, other.status] == [204, 504]
    check_cors(preflight)


async def test_a_preflight_is_the_homeservers_where_it_can_be_asked(tmp_path: Path) -> None:
    script = Script(ANSWERED)
    async with RawServer(script).running() as homeserver, running_gateway(tmp_path, homeserver.url) as gateway:
        answer = await ask(gateway.port, "OPTIONS /_matrix/client/v3/sync", *PREFLIGHT)
    assert answer.status == 200
    assert answer.values("X-Homeserver") == ["1"]
    assert answer.values("Access-Control-Allow-Origin") == []
    assert len(script.requests) == 1


async def test_nothing_is_added_to_an_answer_of_the_homeserver(tmp_path: Path) -> None:
    async with RawServer(Script(ANSWERED)).running() as homeserver:
        async with running_gateway(tmp_path, homeserver.url) as gateway:
            answer = await ask(gateway.port, "GET /_matrix/client/versions")
    assert {name for name, _ in answer.fields} == {"Content-Length", "X-Homeserver", "Connection"}


def test_the_installed_synapse_says_what_we_compare_with() -> None:
    command = [sys.executable, "-c", SAID_BY_SYNAPSE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == CORS
