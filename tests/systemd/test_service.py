"""The gateway as a service: when it is ready, how it stops, and what the watchdog hears."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest
from joserfc.jwk import ECKey
from joserfc.jwt import encode

from tests.fake_homeserver import FakeHomeserver, Fault
from tests.raw_http import connected
from tests.running_gateway import LOGIN, mint, write_configuration
from tests.supervisor import FakeSupervisor, program, service

SYNC = b"GET /_matrix/client/v3/sync HTTP/1.1\r\nHost: example.org\r\n\r\n"
SANDBOX = (sys.executable, str(Path(__file__).with_name("sandbox.py")))
VERSIONS = b"GET /_matrix/client/versions HTTP/1.1\r\nHost: example.org\r\n\r\n"


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[FakeSupervisor]:
    with closing(FakeSupervisor(str(tmp_path / "notify"))) as made:
        yield made


async def status_of(url: str) -> int:
    async with aiohttp.ClientSession() as client, client.get(url) as response:
        return response.status


async def hanging(homeserver: FakeHomeserver) -> None:
    while not homeserver.to("/sync"):
        await asyncio.sleep(0.01)


async def test_it_is_ready_when_it_serves_and_says_where(
    tmp_path: Path, homeserver: FakeHomeserver, supervisor: FakeSupervisor, unused_tcp_port: int
) -> None:
    server = {"listen": [f"127.0.0.1:{unused_tcp_port}"]}
    async with service(write_configuration(tmp_path, homeserver.url, {"server": server}), supervisor):
        told = await supervisor.told()
        async with connected(unused_tcp_port) as client:
            await client.send(VERSIONS)
            assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
    assert told == {"READY": "1", "STATUS": f"Listens on 127.0.0.1:{unused_tcp_port}"}


async def test_it_is_never_ready_where_it_can_not_listen(tmp_path: Path, supervisor: FakeSupervisor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = {"listen": [f"127.0.0.1:{taken.getsockname()[1]}"]}
        path = write_configuration(tmp_path, "http://127.0.0.1:1", {"server": server})
        async with service(path, supervisor) as process:
            _, log = await process.communicate()
    assert process.returncode == 1
    assert b"Can't listen on" in log
    with pytest.raises(BlockingIOError):
        supervisor.socket.recv(1)


async def test_the_watchdog_hears_of_it_also_while_it_stops(
    tmp_path: Path, homeserver: FakeHomeserver, supervisor: FakeSupervisor
) -> None:
    homeserver.faults["sync"] = Fault(wait=asyncio.Event())
    path = write_configuration(tmp_path, homeserver.url, {"server": {"drain_timeout": 5}})
    supervisor.environment["WATCHDOG_USEC"] = "400000"
    async with asyncio.timeout(20), service(path, supervisor) as process:
        ready = await supervisor.told_of("READY")
        for _ in range(3):
            await supervisor.told_of("WATCHDOG")
        async with connected(int(ready["STATUS"].rpartition(":")[2])) as client:
            await client.send(SYNC)
            await hanging(homeserver)
            process.send_signal(signal.SIGTERM)
            assert (await supervisor.told_of("STOPPING"))["STATUS"]
            for _ in range(3):
                await supervisor.told_of("WATCHDOG")


async def test_it_stops_in_order(
    tmp_path: Path, homeserver: FakeHomeserver, supervisor: FakeSupervisor, unused_tcp_port: int
) -> None:
    """Not ready, nobody new, what runs finishes or is refused near the end, status 0."""
    homeserver.faults["sync"] = Fault(wait=asyncio.Event())
    server = {"admin_listen": f"127.0.0.1:{unused_tcp_port}", "drain_timeout": 2}
    ready_at = f"http://127.0.0.1:{unused_tcp_port}/health/ready"
    path = write_configuration(tmp_path, homeserver.url, {"server": server})
    async with asyncio.timeout(20), service(path, supervisor) as process:
        port = int((await supervisor.told())["STATUS"].rpartition(":")[2])
        assert await status_of(ready_at) == 200
        async with connected(port) as client:
            await client.send(SYNC)
            await hanging(homeserver)
            process.send_signal(signal.SIGTERM)
            assert (await supervisor.told())["STOPPING"] == "1"
            assert await status_of(ready_at) == 503
            with pytest.raises(OSError, match="Connect"):
                async with connected(port):
                    pass
            assert (await client.rest()).startswith(b"HTTP/1.1 503 ")
        _, log = await process.communicate()
    assert process.returncode == 0
    assert log.rstrip().endswith(b"stopped")
    assert b"Traceback" not in log


async def test_a_reload_says_when_it_is_done_and_what_was_wrong(
    tmp_path: Path, homeserver: FakeHomeserver, supervisor: FakeSupervisor
) -> None:
    path = write_configuration(tmp_path, homeserver.url, {})
    async with asyncio.timeout(20), service(path, supervisor) as process:
        first = await supervisor.told()
        process.send_signal(signal.SIGHUP)
        assert (await supervisor.told())["RELOADING"] == "1"
        assert await supervisor.told() == first
        path.write_text("[jwt]\nleway = 3\n")
        process.send_signal(signal.SIGHUP)
        assert (await supervisor.told())["RELOADING"] == "1"
        told = await supervisor.told()
        process.send_signal(signal.SIGTERM)
        assert (await supervisor.told())["STOPPING"] == "1"
        assert await process.wait() == 0
    assert told["READY"] == "1"
    assert told["STATUS"].startswith(first["STATUS"])
    assert "unknown key; the nearest known one is 'leeway'" in told["STATUS"]


@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)])
async def test_a_second_signal_ends_it_at_once(
    numbers: tuple[signal.Signals, signal.Signals],
    tmp_path: Path,
    homeserver: FakeHomeserver,
    supervisor: FakeSupervisor,
) -> None:
    homeserver.faults["sync"] = Fault(wait=asyncio.Event())
    path = write_configuration(tmp_path, homeserver.url, {"server": {"drain_timeout": 60}})
    async with asyncio.timeout(20), service(path, supervisor) as process:
        port = int((await supervisor.told())["STATUS"].rpartition(":")[2])
        async with connected(port) as client:
            await client.send(SYNC)
            await hanging(homeserver)
            process.send_signal(numbers[0])
            await supervisor.told_of("STOPPING")
            process.send_signal(numbers[1])
            async with asyncio.timeout(2):
                _, log = await process.communicate()
    assert process.returncode == -numbers[1]
    assert b"Traceback" not in log


async def test_it_listens_on_what_is_handed_over_in_place_of_its_own(
    tmp_path: Path, homeserver: FakeHomeserver, supervisor: FakeSupervisor, unused_tcp_port: int
) -> None:
    listen = {"listen": [f"127.0.0.1:{unused_tcp_port}"], "admin_listen": ""}
    path = write_configuration(tmp_path, homeserver.url, {"server": listen})
    with (
        socket.create_server(("127.0.0.1", 0)) as public,
        socket.create_server(("127.0.0.1", 0)) as admin,
        socket.socket(socket.AF_UNIX) as local,
    ):
        local.bind(str(tmp_path / "public.sock"))
        local.listen()
        ports = [taken.getsockname()[1] for taken in (public, admin)]
        names = {"matrix-login-gateway.socket": public, "admin": admin, "local": local}
        async with service(path, supervisor, names) as process:
            told = await supervisor.told()
            assert await status_of(f"http://127.0.0.1:{ports[0]}/_matrix/client/versions") == 200
            assert await status_of(f"http://127.0.0.1:{ports[1]}/health/ready") == 200
            async with connected(str(tmp_path / "public.sock")) as client:
                await client.send(VERSIONS)
                assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
        assert (tmp_path / "public.sock").exists()
    assert told["STATUS"] == f"Listens on 127.0.0.1:{ports[0]} unix:{tmp_path}/public.sock"


async def test_systemd_itself_hands_a_socket_over(
    tmp_path: Path, homeserver: FakeHomeserver, supervisor: FakeSupervisor, unused_tcp_port: int
) -> None:
    """By systemd-socket-activate, which starts the gateway at the first connection and gives it that one too."""
    path = write_configuration(tmp_path, homeserver.url, {})
    process = await asyncio.create_subprocess_exec(
        program("systemd-socket-activate"),
        f"--listen=127.0.0.1:{unused_tcp_port}",
        "--fdname=matrix-login-gateway.socket",
        "--setenv=NOTIFY_SOCKET",
        *(sys.executable, "-m", "gateway", "serve", "-c", str(path)),
        env={**os.environ, **supervisor.environment},
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=PIPE,
    )
    try:
        body = {"type": "org.matrix.login.jwt", "token": mint()}
        async with asyncio.timeout(30):
            while not await accepts(unused_tcp_port):
                await asyncio.sleep(0.05)
            async with (
                aiohttp.ClientSession() as client,
                client.post(f"http://127.0.0.1:{unused_tcp_port}{LOGIN}", json=body) as response,
            ):
                assert (await response.json())["user_id"] == "@alice:example.org"
        assert await supervisor.told() == {"READY": "1", "STATUS": f"Listens on 127.0.0.1:{unused_tcp_port}"}
        process.send_signal(signal.SIGTERM)
        _, log = await process.communicate()
        assert process.returncode == 0
        assert b"Traceback" not in log
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_it_logs_in_under_the_system_call_filter_of_the_unit(
    tmp_path: Path, homeserver: FakeHomeserver, supervisor: FakeSupervisor
) -> None:
    """And where no memory is written to and executed; with ES256, so OpenSSL works under it too."""
    program("systemd-analyze")
    key = ECKey.generate_key("P-256")
    jwt = {"format": "ECDSA", "algorithm": "ES256", "secret": key.as_pem(private=False).decode()}
    path = write_configuration(tmp_path, homeserver.url, {"jwt": jwt})
    unit = (Path(__file__).parents[2] / "systemd" / "matrix-login-gateway.service").read_text()
    filters = re.findall(r"^SystemCallFilter=(.*)$", unit, re.MULTILINE)
    assert "\nMemoryDenyWriteExecute=yes\n" in unit
    token = encode({"alg": "ES256"}, {"sub": "alice", "exp": int(time.time()) + 60}, key, algorithms=["ES256"])
    body = {"type": "org.matrix.login.jwt", "token": token}
    async with asyncio.timeout(30), service(path, supervisor, under=[*SANDBOX, *filters, "--"]) as process:
        port = (await supervisor.told())["STATUS"].rpartition(":")[2]
        async with (
            aiohttp.ClientSession() as client,
            client.post(f"http://127.0.0.1:{port}{LOGIN}", json=body) as response,
        ):
            assert (await response.json())["user_id"] == "@alice:example.org"
        process.send_signal(signal.SIGTERM)
        _, log = await process.communicate()
    assert process.returncode == 0
    assert b"Traceback" not in log


def test_the_filter_of_the_unit_refuses_what_it_should() -> None:
    program("systemd-analyze")
    tries = "import mmap, os\nfor act in (lambda: os.chown('/', 0, 0), lambda: mmap.mmap(-1, 9, prot=7)):\n"
    tries += "  try: act()\n  except PermissionError as error: print(error.errno)"
    done = subprocess.run(
        [*SANDBOX, "@system-service", "~@privileged", "--", sys.executable, "-c", tries],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["1", "1"]


async def accepts(port: int) -> bool:
    try:
        async with connected(port):
            return True
    except OSError:
        return False
