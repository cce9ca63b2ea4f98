"""Health and metrics on their own listener."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.logs import LogSettings, get_logger
from gateway.metrics import Metrics
from gateway.storage.database import DatabaseSettings, open_database
from gateway.tasks import Background
from gateway.upstream.homeserver import Homeserver
from gateway.upstream.pool import Pool, PoolSettings
from gateway.web import admin
from gateway.web.admin import Health
from tests.beside import change
from tests.config.running_edge import free_port
from tests.fake_homeserver import FakeHomeserver, Fault, running_homeserver
from tests.fake_mas import running_mas
from tests.flavours import FLAVOURS, Flavour
from tests.running_gateway import AS_TOKEN, SERVER_NAME, running_gateway
from tests.waiting import until


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
    assert (homeserver.users, homeserver.registered) == ({}, 0)


async def answered(directory: Path, url: str, **tables: Any) -> tuple[int, dict[str, str]]:
    """Ask a gateway before a homeserver once whether it is ready."""
    port = free_port()  # a new one: who has connected meanwhile may have the last one
    server = {"admin_listen": f"127.0.0.1:{port}"}
    async with running_gateway(directory, url, server=server, **tables):
        return await ask(f"http://127.0.0.1:{port}/health/ready")


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.name)
async def test_it_is_ready_before_every_homeserver_and_leaves_nothing_there(flavour: Flavour, tmp_path: Path) -> None:
    async with running_homeserver(flavour) as homeserver:
        assert (await answered(tmp_path, homeserver.url))[1]["homeserver"] == "ok"
        assert (homeserver.users, homeserver.sessions) == ({}, {})


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.name)
async def test_an_as_token_that_is_refused_makes_it_unready(flavour: Flavour, tmp_path: Path) -> None:
    session = {"as_token": "another-which-the-homeserver-has-not"}
    async with running_homeserver(flavour) as homeserver:
        status, parts = await answered(tmp_path, homeserver.url, session=session)
        off = await answered(tmp_path, homeserver.url, session=session, jwt={"enable": False})

    assert (status, parts["database"]) == (503, "ok")
    assert parts["homeserver"].startswith("could not use the as_token: the homeserver answered 401 M_UNKNOWN_TOKEN")
    assert off == (200, {"status": "ok", "database": "ok", "homeserver": "ok"})  # nobody logs in by it


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.name)
async def test_a_homeserver_without_its_database_makes_it_unready(flavour: Flavour, tmp_path: Path) -> None:
    async with running_homeserver(flavour) as homeserver:
        homeserver.is_down = True
        status, parts = await answered(tmp_path, homeserver.url)

    assert (status, parts["database"]) == (503, "ok")
    assert "as_token" not in parts["homeserver"] or "failed" in parts["homeserver"]


async def test_what_a_login_needs_is_asked_once_for_many(health: str, homeserver: FakeHomeserver) -> None:
    homeserver.faults["whoami"] = Fault(wait=asyncio.Event(), breaks="head", times=9)
    asked = [asyncio.create_task(ask(f"{health}/ready")) for _ in range(20)]
    await until(lambda: bool(homeserver.to("/whoami")))
    await asyncio.sleep(0.1)
    assert len(homeserver.to("/versions")) == 1
    assert homeserver.faults["whoami"].wait is not None
    homeserver.faults["whoami"].wait.set()
    assert {status for status, _ in await asyncio.gather(*asked)} == {503}
    assert len(homeserver.to("/whoami")) <= 2  # one is repeated on another connection
    assert (await ask(f"{health}/ready"))[0] == 503  # as is known for a moment


async def test_where_nobody_logs_in_by_a_jwt_it_is_asked_once_too(
    tmp_path: Path, homeserver: FakeHomeserver, unused_tcp_port: int
) -> None:
    server = {"admin_listen": f"127.0.0.1:{unused_tcp_port}"}
    async with running_gateway(tmp_path, homeserver.url, server=server, jwt={"enable": False}):
        for _ in range(3):
            assert (await ask(f"http://127.0.0.1:{unused_tcp_port}/health/ready"))[0] == 200
    assert [seen.path for seen in homeserver.seen] == ["/_matrix/client/versions"]


@pytest.mark.parametrize("call", ["versions", "whoami", "profile"])
async def test_who_asks_hears_of_a_homeserver_that_hangs(
    call: str, health: str, homeserver: FakeHomeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "_LONGEST_QUESTION", 0.2)
    homeserver.faults[call] = Fault(wait=asyncio.Event())
    async with asyncio.timeout(3):
        status, parts = await ask(f"{health}/ready")
    assert (status, parts["homeserver"]) == (503, "no answer within 0.2 s")


async def test_it_is_ready_again_a_moment_after_its_homeserver_is(
    health: str, homeserver: FakeHomeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "_KNOWN_FOR", 0.1)
    for is_down, status in ((True, 503), (False, 200), (True, 503)):
        homeserver.is_down = is_down
        await asyncio.sleep(0.1)
        assert (await ask(f"{health}/ready"))[0] == status


async def test_a_limit_of_the_homeservers_is_no_failure(health: str, homeserver: FakeHomeserver) -> None:
    homeserver.faults["whoami"] = Fault((429, "M_LIMIT_EXCEEDED"), {"retry_after_ms": 60000})

    assert (await ask(f"{health}/ready"))[0] == 200


async def test_a_reload_asks_by_the_new_token(
    tmp_path: Path, homeserver: FakeHomeserver, unused_tcp_port: int
) -> None:
    server = {"admin_listen": f"127.0.0.1:{unused_tcp_port}"}
    ready = f"http://127.0.0.1:{unused_tcp_port}/health/ready"
    async with running_gateway(tmp_path, homeserver.url, server=server) as gateway:
        assert (await ask(ready))[0] == 200
        path = gateway.configuration.path
        path.write_text(path.read_text().replace(AS_TOKEN, AS_TOKEN[::-1] + "x"))
        assert await gateway.running.reload() == ""
        assert (await ask(ready))[0] == 503


async def test_matrix_authentication_service_belongs_to_what_a_login_needs(tmp_path: Path) -> None:
    async with running_mas() as mas:
        tables = {"session": mas.settings}
        assert (await answered(tmp_path, mas.homeserver.url, **tables))[0] == 200
        await mas.stop()
        status, parts = await answered(tmp_path, mas.homeserver.url, **tables)

    assert (status, parts["database"]) == (503, "ok")
    assert parts["homeserver"].startswith("no connection to Matrix Authentication Service")


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
        homeserver_of_ours = Homeserver(pool, SERVER_NAME, AS_TOKEN)
        background = Background(get_logger(LogSettings()))
        health = Health(database, homeserver_of_ours, None, Metrics(), lambda: said.pop(0), background)
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
