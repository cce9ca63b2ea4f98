"""The limits that the page of Palpo gives the edge: they hold back who guesses passwords, and nobody else."""

import asyncio
import json
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.config.edge_programs import SNIPPETS, Behind, command_line, put_in_place
from tests.config.running_edge import Edge, Upstream, free_port, process, program, write_certificate
from tests.fake_homeserver import running_homeserver
from tests.flavours import PALPO
from tests.running_gateway import LOGIN, mint, running_gateway

PAGE = (SNIPPETS.parent / "homeservers" / "palpo.md").read_text()
# Above which line of its file each block of the page belongs.
PLACES = {"nginx": ("\nserver {\n", "    location / {\n"), "haproxy": ('\n    # Set, not "option forwardfor"',)}
FILES = (
    *(("nginx", "nginx-all.conf"), ("nginx", "nginx-login-only.conf")),
    *(("haproxy", "haproxy-all.cfg"), ("haproxy", "haproxy-login-only.cfg")),
)
PASSWORD = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": "a guess"}
BURST = 100


def with_limits(name: str, snippet: str) -> str:
    text = (SNIPPETS / snippet).read_text()
    blocks = re.findall(rf"^```{name}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    for place, block in zip(PLACES[name], blocks, strict=True):
        assert place in text
        text = text.replace(place, f"\n{block}{place}" if place.startswith("\n") else f"{block}{place}", 1)
    return text


@pytest_asyncio.fixture(params=FILES, ids=" ".join)
async def edge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    name, snippet = request.param
    program(name)
    folder = tmp_path_factory.mktemp(name)
    write_certificate(folder / "both.pem")
    async with running_homeserver(PALPO) as homeserver, running_gateway(folder, homeserver.url) as gateway:
        nobody = Upstream("nobody")
        edge = Edge(name, snippet, free_port(), folder / "both.pem", nobody, nobody)
        behind = Behind([gateway.port], [gateway.port], int(homeserver.url.rpartition(":")[2]))
        text = put_in_place(with_limits(name, snippet), edge.port, edge.certificate, behind)
        async with process(command_line(name, folder, text, edge.port), edge.port, folder / "log"):
            await edge.ready()
            yield edge


async def post(edge: Edge, address: str, body: object, target: str = LOGIN) -> tuple[int, str]:
    """Send it from an address; give status and errcode."""
    async with edge.connected(address) as connection:
        fields = ("Content-Type: application/json",)
        answer = await connection.ask("POST", target, *fields, body=json.dumps(body).encode())
    return answer.status, str(json.loads(answer.body).get("errcode", ""))


async def test_who_guesses_is_held_back_and_others_log_in(edge: Edge) -> None:
    guesses = [await post(edge, "127.0.0.2", PASSWORD) for _ in range(BURST + 20)]
    assert 429 not in {status for status, _ in guesses[:BURST]}
    assert guesses[-1] == (429, "M_LIMIT_EXCEEDED")
    login = {"type": "org.matrix.login.jwt", "token": mint("bob")}
    assert await post(edge, "127.0.0.3", login) == (200, "")
    async with edge.connected("127.0.0.2") as connection:
        assert (await connection.ask("GET", "/_matrix/client/versions")).status == 200


async def test_another_spelling_of_the_path_is_counted_too(edge: Edge) -> None:
    for target in ("//_matrix/client/r0/%6cogin/", "/_matrix/client/v3/register?kind=user", LOGIN):
        await asyncio.gather(*(post(edge, "127.0.0.2", PASSWORD, target) for _ in range(BURST // 2)))
    assert await post(edge, "127.0.0.2", PASSWORD) == (429, "M_LIMIT_EXCEEDED")
