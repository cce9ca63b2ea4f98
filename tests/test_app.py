"""The whole program: started from a file, stopped by a signal, its state kept."""

import asyncio
import io
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gateway import app
from gateway.config import load
from gateway.errors import Unusable
from gateway.logs import LogSettings, get_logger
from tests.fake_homeserver import FakeHomeserver
from tests.raw_http import connected
from tests.running_gateway import mint, running_gateway, write_configuration


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_it(
    number: signal.Signals, tmp_path: Path, homeserver: FakeHomeserver, unused_tcp_port: int
) -> None:
    server = {"listen": [f"127.0.0.1:{unused_tcp_port}"]}
    configuration = load(write_configuration(tmp_path, homeserver.url, {"server": server}), {})
    serving = asyncio.create_task(app.serve(configuration))
    async with asyncio.timeout(10):
        while not await is_open(unused_tcp_port):
            await asyncio.sleep(0.02)
        os.kill(os.getpid(), number)
        await serving
    assert not await is_open(unused_tcp_port)


async def is_open(port: int) -> bool:
    try:
        async with connected(port):
            return True
    except OSError:
        return False


async def test_when_a_login_was_is_written_at_the_latest_when_it_stops(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    async with running_gateway(tmp_path, homeserver.url) as gateway:
        assert (await gateway.log_in(mint())).status == 200
        with closing(sqlite3.connect(tmp_path / "gateway.db")) as database, database:
            database.execute("UPDATE accounts SET last_seen_at = 0")
    with closing(sqlite3.connect(tmp_path / "gateway.db")) as database:
        assert database.execute("SELECT last_seen_at > 0 FROM accounts").fetchall() == [(1,)]


async def test_it_leaves_nothing_running(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    before = asyncio.all_tasks()
    async with running_gateway(tmp_path, homeserver.url) as gateway, connected(gateway.port) as client:
        await client.send(b"GET /_matrix/client/versions HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.answer()
        assert (await gateway.log_in(mint())).status == 200
    await asyncio.sleep(0.02)
    assert {task for task in asyncio.all_tasks() - before if "RequestHandler" not in repr(task)} == set()


async def test_a_database_that_is_none_is_said_so(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    (tmp_path / "gateway.db").write_bytes(b"no database at all, but a text that is long enough to be read" * 99)
    configuration = load(write_configuration(tmp_path, homeserver.url, {}), {})
    with pytest.raises(Unusable, match=r"gateway\.db"):
        async with app.running(configuration, get_logger(LogSettings())):
            pass


async def test_signatures_that_are_not_checked_are_warned_of_at_each_start_and_login(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    log = io.StringIO()
    path = write_configuration(tmp_path, homeserver.url, {"jwt": {"validate_signature": False}})
    configuration = load(path, {"MATRIX_LOGIN_GATEWAY_ALLOW_UNSIGNED": "1"})
    async with app.running(configuration, get_logger(LogSettings(level="debug"), log)) as addresses:
        port = int(addresses[0].rpartition(":")[2])
        body = b'{"type": "org.matrix.login.jwt", "token": "%s"}' % mint(secret="x" * 40).encode()
        async with connected(port) as client:
            head = b"POST /_matrix/client/v3/login HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
            await client.send(head % len(body) + body)
            assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
    assert "signatures_are_not_checked" in log.getvalue()
    assert "signature_not_checked" in log.getvalue()
