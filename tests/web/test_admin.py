"""Health on its own listener."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.fake_homeserver import FakeHomeserver
from tests.running_gateway import running_gateway


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
    with sqlite3.connect(tmp_path / "gateway.db") as database:
        database.execute("DROP TABLE accounts")
    database.close()
    assert (await ask(f"{health}/live"))[0] == 200
    status, parts = await ask(f"{health}/ready")
    assert (status, parts["homeserver"]) == (503, "ok")
    assert parts["database"] != "ok"


async def test_there_is_nothing_else(health: str) -> None:
    assert (await ask(f"{health}/other"))[0] == 404
