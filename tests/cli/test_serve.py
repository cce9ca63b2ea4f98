"""`serve` as a process: it says where it listens, ends with 0 when told to, and with 1 when it can't listen."""

import asyncio
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.cli.commands import run
from tests.fake_homeserver import FakeHomeserver, Fault, running_homeserver
from tests.flavours import BEHIND_MAS
from tests.running_gateway import LOGIN, mint, write_configuration


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[Process]:
    made = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "serve", "-c", str(path), stdin=DEVNULL, stdout=PIPE, stderr=PIPE
    )
    try:
        yield made
    finally:
        if made.returncode is None:
            made.kill()
            await made.wait()


@pytest.fixture
async def process(tmp_path: Path, homeserver: FakeHomeserver) -> AsyncIterator[Process]:
    async with serving(write_configuration(tmp_path, homeserver.url, {})) as made:
        yield made


async def address(process: Process) -> str:
    """Where the process says that it listens."""
    assert process.stderr is not None
    while line := (await process.stderr.readline()).decode():
        if found := re.search(r" listening +addresses=(\S+)", line):
            return found[1]
    pytest.fail("it ended before it listened")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_serves_until_it_is_told_to_stop(process: Process, number: int) -> None:
    url = f"http://{await address(process)}"
    async with (
        aiohttp.ClientSession() as client,
        client.post(url + LOGIN, json={"type": "org.matrix.login.jwt", "token": mint()}) as response,
    ):
        assert (await response.json())["user_id"] == "@alice:example.org"

    process.send_signal(number)
    out, log = await process.communicate()

    assert process.returncode == 0
    assert out == b""
    assert b"login " in log
    assert log.splitlines()[-1].rstrip().endswith(b"stopped")
    assert b"Traceback" not in log


async def test_a_method_that_can_not_work_is_said_at_the_start(tmp_path: Path) -> None:
    async with running_homeserver(BEHIND_MAS) as homeserver:
        async with serving(write_configuration(tmp_path, homeserver.url, {})) as process:
            await address(process)
            assert process.stderr is not None
            async with asyncio.timeout(10):
                while b"session_method_does_not_fit" not in await process.stderr.readline():
                    pass


async def test_of_two_that_share_an_address_one_may_crash(
    tmp_path: Path, homeserver: FakeHomeserver, unused_tcp_port: int
) -> None:
    server = {"listen": [f"127.0.0.1:{unused_tcp_port}"], "reuse_port": True}
    path = write_configuration(tmp_path, homeserver.url, {"server": server})
    async with serving(path) as one, serving(path) as two:
        url = f"http://{await address(one)}"
        assert url == f"http://{await address(two)}"
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=connector) as client:
            tokens = [mint(f"user{number}") for number in range(8)]
            for crash in (False, True):
                if crash:
                    one.kill()
                    await one.wait()
                for token in tokens:  # a connection each, dealt out by the system
                    body = {"type": "org.matrix.login.jwt", "token": token}
                    async with client.post(url + LOGIN, json=body) as response:
                        assert response.status == 200
    assert len(homeserver.users) == 8


@pytest.mark.parametrize("key", ["listen", "admin_listen"])
def test_an_address_in_use_ends_it_with_1_and_one_line(tmp_path: Path, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        server = {"admin_listen": address} if key == "admin_listen" else {"listen": [address]}
        path = write_configuration(tmp_path, "http://127.0.0.1:1", {"server": server})

        result = run("serve", "-c", str(path))

    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f"Can't listen on {address}: ")
    assert "Traceback" not in result.stderr


async def test_a_reload_that_comes_while_it_starts_does_not_end_it(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    text = write_configuration(tmp_path, homeserver.url, {}).read_bytes()
    pipe = tmp_path / "slow.toml"
    os.mkfifo(pipe)
    async with serving(pipe) as made:
        with await asyncio.to_thread(pipe.open, "wb") as writer:  # open as soon as it is read
            made.send_signal(signal.SIGHUP)
            writer.write(text)
        await address(made)
        made.send_signal(signal.SIGTERM)
        assert await made.wait() == 0


async def test_reloads_that_come_faster_than_they_end_lose_no_request(process: Process) -> None:
    url = f"http://{await address(process)}/_matrix/client/versions"
    async with aiohttp.ClientSession() as client:
        for _ in range(40):
            process.send_signal(signal.SIGHUP)
            async with client.get(url) as response:
                assert response.status == 200
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)  # in the middle of a reload
    _, log = await process.communicate()

    assert process.returncode == 0
    assert b"Traceback" not in log


async def test_a_reload_while_it_stops_changes_nothing(process: Process, homeserver: FakeHomeserver) -> None:
    go_on = asyncio.Event()
    homeserver.faults["slow"] = Fault(wait=go_on)
    url = f"http://{await address(process)}/slow"
    async with aiohttp.ClientSession() as client:
        request = asyncio.create_task(client.get(url))
        await homeserver.arrived.wait()
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGHUP)
        go_on.set()
        async with await request as response:
            assert response.status == 404
    _, log = await process.communicate()

    assert process.returncode == 0
    assert b"Traceback" not in log
