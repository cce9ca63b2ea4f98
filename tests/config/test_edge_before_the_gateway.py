"""Each edge with its snippet before the real gateway: who logs in is let in, and the log knows who it was."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.config.edge_deviations import DEVIATIONS
from tests.config.edge_programs import Behind, running, runs
from tests.config.running_edge import NAME, Edge, Upstream, free_port, program, write_certificate
from tests.fake_homeserver import running_homeserver
from tests.running_gateway import LOGIN, RunningGateway, mint, running_gateway

in_one_loop = pytest.mark.asyncio(loop_scope="module")
RUNS = [run for run in runs() if "-all" in run[0]]
CLAIMS = [
    "X-Request-Id: chosen",
    "X-Forwarded-For: 203.0.113.9",
    "X-Real-IP: 203.0.113.9",
    "Forwarded: for=203.0.113.9",
]


@dataclass(frozen=True)
class Site:
    """An edge before the gateway before a homeserver."""

    edge: Edge
    gateway: RunningGateway

    async def log_in(self, token: str) -> tuple[int, dict[str, Any], str]:
        """Give status, answer and the line of the log; the client comes from 127.0.0.2 and claims another address."""
        body = json.dumps({"type": "org.matrix.login.jwt", "token": token}).encode()
        before = len(self.gateway.log)
        async with self.edge.connected("127.0.0.2") as connection:
            answer = await connection.ask("POST", LOGIN, *CLAIMS, "Content-Type: application/json", body=body)
        (line,) = [line for line in self.gateway.log[before:].splitlines() if "address=" in line]
        return answer.status, json.loads(answer.body), line


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningGateway]:
    async with running_homeserver() as homeserver:
        async with running_gateway(tmp_path_factory.mktemp("gateway"), homeserver.url) as gateway:
            yield gateway


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=RUNS, ids=" by ".join)
async def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, gateway: RunningGateway
) -> AsyncIterator[Site]:
    snippet, name = request.param
    program(name)
    folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
    write_certificate(folder / "both.pem")
    nobody = Upstream("nobody")
    edge = Edge(name, snippet, free_port(), folder / "both.pem", nobody, nobody)
    async with running(edge, folder, Behind([gateway.port], [gateway.port], free_port())):
        yield Site(edge, gateway)


@in_one_loop
async def test_a_login_with_a_token_passes_and_is_logged_under_the_client_s_address(site: Site) -> None:
    status, answer, line = await site.log_in(mint("alice"))
    assert (status, answer["user_id"]) == (200, "@alice:example.org")
    assert " address=127.0.0.2 " in f"{line} "


@in_one_loop
async def test_a_refused_login_is_logged_under_an_id_that_the_client_did_not_choose(site: Site) -> None:
    (first_status, _, first), (second_status, answer, second) = [await site.log_in(mint(exp=1)) for _ in range(2)]
    assert (first_status, second_status, answer["errcode"]) == (403, 403, "M_FORBIDDEN")
    ids = [re.findall(r"request_id=(\S+)", line)[0] for line in (first, second)]
    assert len({*ids, "chosen"}) == 3
    own = [re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]+", one) is not None for one in ids]
    assert own == [DEVIATIONS[site.edge.program].no_request_id] * 2


@in_one_loop
async def test_clients_may_speak_http_2(site: Site) -> None:
    url = f"https://{NAME}:{site.edge.port}/_matrix/client/versions"
    options = ("--silent", "--cacert", site.edge.certificate, "--resolve", f"{NAME}:{site.edge.port}:127.0.0.1")
    curl = await asyncio.create_subprocess_exec(
        *(program("curl"), *options, "--http2", "--write-out", " %{http_version} %{http_code}", url),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await curl.communicate()
    assert output.endswith(b"} 2 200")
