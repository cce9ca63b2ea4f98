"""Health and metrics on their own listener."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from gateway.metrics import Metrics
from gateway.storage.database import DatabaseSettings, open_database
from gateway.upstream.homeserver import Homeserver
from gateway.upstream.pool import Pool, PoolSettings
from gateway.web.admin import Health
from tests.beside import change
from tests.fake_homeserver import FakeHomeserver
from tests.running_gateway import AS_TOKEN, SERVER_NAME, running_gateway


@pytest.fixture
async def health(tmp_path: Path, homeserver: FakeHomeserver, unused_tcp_port: int) -> AsyncIterator[str]:
    server = {"admin_listen": f"127.0.0.1:{unused_tcp_port}"}
    async with running_gateway(tmp_path, homeserver.url, server=server):
        yield f"http://127.0.0.1:{unused_tcp_port}/health"


async def ask(url: str) -> tuple[int, dict[str, str]]:
    async with aiohttp.ClientSession() as client, client.get(url) as response:
        return response.status, await response.json()


async def test_a_gateway_that_can_do_its_work_is_ready(health: str, homeserver: FakeHomeserver) -> None:
    assert await ask(f"{health}/live") == (200, {"status": "ok"})
    assert await ask(f"{health}/ready") == (200, {"status": "ok", "database": "ok", "homeserver": "ok"})
    assert all(not seen.values("authorization") for seen in homeserver.seen)


async def test_without_its_homeserver_it_lives_and_is_not_ready(health: str, homeserver: FakeHomeserver) -> None:
    await homeserver.stop()
    assert (await ask(f"{health}/live"))[0] == 200
    status, parts = await ask(f"{health}/ready")
    assert (status, parts["status"], parts["database"]) == (503, "unavailable", "ok")
    assert parts["homeserver"].startswith("no connection to the homeserver")


async def test_without_its_database_it_lives_and_is_not_ready(health: str, tmp_path: Path) -> None:
    await change(tmp_path, "DROP TABLE accounts")
    assert (await ask(f"{health}/live"))[0] == 200
    status, parts = await ask(f"{health}/ready")
    assert (status, parts["homeserver"]) == (503, "ok")
    assert parts["database"] != "ok"


async def test_key_sets_are_a_part_where_some_are_fetched(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    said = ["ok", "https://id.example.org: too old"]
    pool = Pool(PoolSettings(url=homeserver.url))
    settings = DatabaseSettings(url=f"sqlite:///{tmp_path}/gateway.db")
    async with open_database(settings) as database:
        health = Health(database, Homeserver(pool, SERVER_NAME, AS_TOKEN), Metrics(), lambda: said.pop(0))
        runner = web.ServerRunner(web.Server(health))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ready = f"http://127.0.0.1:{runner.addresses[0][1]}/health/ready"
        fresh, stale = await ask(ready), await ask(ready)
        await runner.cleanup()
    await pool.close()

    assert (fresh[0], fresh[1]["key_sets"]) == (200, "ok")
    assert (stale[0], stale[1]["key_sets"]) == (503, "https://id.example.org: too old")


async def test_metrics_are_in_the_format_that_is_asked_for(health: str) -> None:
    address = health.replace("/health", "/metrics")
    async with aiohttp.ClientSession() as client:
        async with client.get(address) as response:
            assert (response.status, response.headers["Content-Type"].partition(";")[0]) == (200, "text/plain")
            assert "matrix_login_gateway_build_info{" in await response.text()
        async with client.get(address, headers={"Accept": "application/openmetrics-text"}) as response:
            assert response.headers["Content-Type"].startswith("application/openmetrics-text")
            assert (await response.text()).endswith("# EOF\n")


async def test_there_is_nothing_else(health: str) -> None:
    assert (await ask(f"{health}/other"))[0] == 404
