"""A gateway is ready before every homeserver that takes it, and not where no login can be had."""

from pathlib import Path

import aiohttp
import pytest

from tests.config.running_edge import free_port
from tests.conformance.conftest import before
from tests.conformance.targets import Target
from tests.postgres_server import PostgresServer, running_postgres
from tests.real_dendrite import dendrite_program, running_dendrite
from tests.running_gateway import AS_TOKEN, mint, running_gateway

pytestmark = pytest.mark.timeout(900)


async def readiness(port: int) -> tuple[int, str]:
    async with aiohttp.ClientSession() as client, client.get(f"http://127.0.0.1:{port}/health/ready") as answer:
        return answer.status, (await answer.json())["homeserver"]


async def test_a_set_up_is_ready_and_one_with_a_wrong_secret_is_not(target: Target, tmp_path: Path) -> None:
    """But for the secret of the homeserver's own JWT login, which only a login would show."""
    unseen = target.session.get("method") == "jwt"
    for session, well in ((target.session, True), (target.spoiled, unseen)):
        server = {"admin_listen": f"127.0.0.1:{(port := free_port())}"}
        (directory := tmp_path / str(session is target.session)).mkdir()
        async with before(target, directory, session, server=server):
            status, said = await readiness(port)
        assert (status, said == "ok") == ((200, True) if well else (503, False))


async def test_it_is_not_ready_while_a_real_dendrite_has_no_database(
    request: pytest.FixtureRequest, tmp_path: Path, localpart: str, unused_tcp_port: int, postgres: PostgresServer
) -> None:
    """As the fake plays it: everybody is still told the versions, and no user is there."""
    program = dendrite_program(request.config.cache.mkdir("dendrite"))
    server = {"admin_listen": f"127.0.0.1:{unused_tcp_port}"}
    (place := tmp_path / "dendrite").mkdir()
    with running_postgres(postgres.programs) as own, running_dendrite(place, program, own) as dendrite:
        async with running_gateway(tmp_path, dendrite.url, session={"as_token": AS_TOKEN}, server=server) as gateway:
            assert (await gateway.log_in(mint(localpart))).status == 200
            own.stop()
            assert await readiness(unused_tcp_port) == (
                503,
                "could not use the as_token: the homeserver failed with 500",
            )
            for target, status in (("versions", 200), (f"v3/profile/{dendrite.user_id(localpart)}", 404)):
                assert (await dendrite.call("GET", f"/_matrix/client/{target}")).status == status
            made = await dendrite.register(f"{localpart}-2")
            assert (made.status, (await gateway.log_in(mint(localpart))).status) == (200, 502)
            own.start()
            assert (await gateway.log_in(mint(localpart))).status == 200
            assert not await dendrite.exists(f"{localpart}-2")
