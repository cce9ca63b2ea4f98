"""The lines between the gateway and Matrix Authentication Service with its homeserver: each request finds its own.

Rule: the blocks of the manual's page are run as they are; only ports are put in place.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.config.edge_programs import command_line
from tests.config.running_edge import Answer, Connection, Upstream, free_port, process
from tests.raw_http import connected

PAGE = (Path(__file__).parents[2] / "config" / "homeservers" / "matrix-authentication-service.md").read_text()
PROGRAMS = ["nginx", "haproxy"]
CLIENT = "/_matrix/client"
TO_MAS = [
    f"{CLIENT}/v3/login",
    f"{CLIENT}/r0/login?x=1",
    f"{CLIENT}/v3/login/sso/redirect?redirectUrl=https%3A%2F%2Fexample.org%2F",
    f"{CLIENT}/v3/login/sso/redirect/01HZ%2F",
    f"{CLIENT}/v3/logout",
    f"{CLIENT}/unstable/logout/all",
    f"{CLIENT}/v3/refresh?",
]
TO_SYNAPSE = [
    "/",
    f"{CLIENT}/versions",
    f"{CLIENT}/v3/sync?since=/login",
    f"{CLIENT}/v3/logins",
    f"{CLIENT}/v3/log%69n",
    f"{CLIENT}//v3/login",
    f"{CLIENT}/v3/rooms/login/login",
    f"{CLIENT}/v1/auth_metadata",
    f"{CLIENT}/v3/profile/@a%2Fb:example.org",
    f"{CLIENT}/v3/directory/room/%23a!%21//x/../y?",
    "/_matrix/key/v2/server",
]
FIELDS = ["X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https", "X-Request-Id: ours", "x_odd.name: 1"]


@asynccontextmanager
async def split_by(name: str, folder: Path) -> AsyncIterator[Connection]:
    """Give a connection to the program, with a server in the place of each of the two."""
    (block,) = re.findall(rf"^```{name}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    port = free_port()
    async with Upstream("mas").running() as mas, Upstream("synapse").running() as synapse:
        for there, ours in ((8009, port), (8080, mas.port), (8008, synapse.port)):
            assert f"127.0.0.1:{there}" in block
            block = block.replace(f"127.0.0.1:{there}", f"127.0.0.1:{ours}")
        async with process(command_line(name, folder, block, port), port, folder / "log"):
            async with connected(port) as client:
                yield Connection(client.reader, client.writer)


@pytest.mark.parametrize("name", PROGRAMS)
async def test_the_split_leads_each_path_where_it_belongs_as_it_came(name: str, tmp_path: Path) -> None:
    async with split_by(name, tmp_path) as connection:
        for expected, targets in (("mas", TO_MAS), ("synapse", TO_SYNAPSE)):
            for target in targets:
                answer: Answer = await connection.ask("POST", target, *FIELDS, body=b"{}")
                seen = answer.report
                assert (seen["server"], seen["target"]) == (expected, target)
                fields = {name: value for name, value in seen["fields"] if name.startswith("x")}
                assert fields == dict(line.lower().split(": ") for line in FIELDS)
                assert dict(seen["fields"])["host"] == "matrix.example.org:8448"
                assert answer.values("set-cookie") == ["a=1", "b=2"]
                assert answer.values("server") == ["Synapse/1.163.2"]
