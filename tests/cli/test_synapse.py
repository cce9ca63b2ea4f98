"""A real Synapse starts, answers, fails in plain words, and never outlives its block."""

import asyncio
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest

from gateway.cli.synapse import SynapseError, SynapseSettings, running_synapse

needs_synapse = pytest.mark.usefixtures("installed")


def processes_in(directory: Path) -> list[int]:
    """Processes, zombies left out, that have the directory as their own."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").readlink() == directory:
                found.append(int(entry.name))
        except OSError:  # gone, or somebody else's
            continue
    return found


def children() -> set[int]:
    """Our children, zombies included."""
    lists = Path("/proc/self/task").glob("*/children")
    return {int(pid) for path in lists for pid in path.read_text().split()}


async def reached(event: asyncio.Event, task: asyncio.Task[None]) -> None:
    """Wait until the task sets the event; fail as the task does when it fails first."""
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait({waiting, task}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        waiting.cancel()
        await task


@needs_synapse
async def test_it_answers_inside_the_block_and_is_gone_after(tmp_path: Path) -> None:
    waited: list[float] = []
    async with running_synapse(tmp_path, SynapseSettings(server_name="my.test"), waited.append) as synapse:
        assert synapse.url == f"http://127.0.0.1:{synapse.port}"
        assert synapse.server_name == "my.test"
        assert synapse.pid in children()
        assert os.getpgid(synapse.pid) == synapse.pid  # Ctrl-C of the terminal stays with us
        async with (
            aiohttp.ClientSession() as client,
            client.get(f"{synapse.url}/_matrix/client/versions") as answer,
        ):
            assert answer.status == 200
            assert (await answer.json())["versions"]
    assert waited == sorted(waited)
    assert waited[0] < 1
    assert synapse.pid not in children()
    assert processes_in(tmp_path) == []
    assert "Setting up server" in synapse.log_path.read_text()
    for name in ("homeserver.yaml", "signing.key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


@needs_synapse
async def test_a_directory_is_used_again_with_its_accounts_and_key(tmp_path: Path) -> None:
    settings = SynapseSettings(registration=True)
    body = {"username": "alice", "password": "wonderland", "auth": {"type": "m.login.dummy"}}
    seen = []
    for _ in range(2):
        async with (
            running_synapse(tmp_path, settings) as synapse,
            aiohttp.ClientSession() as client,
            client.post(f"{synapse.url}/_matrix/client/v3/register", json=body) as answer,
        ):
            seen.append((answer.status, (tmp_path / "signing.key").read_text()))
    (first, key), (second, same_key) = seen
    assert (first, second) == (200, 400)
    assert key == same_key


@needs_synapse
async def test_a_broken_configuration_is_told_with_the_end_of_the_log(tmp_path: Path) -> None:
    settings = SynapseSettings(extra={"app_service_config_files": ["/nowhere/registration.yaml"]})
    with pytest.raises(SynapseError, match=r"ended while it was starting") as failure:
        async with running_synapse(tmp_path, settings):
            pytest.fail("it can't start")
    assert "/nowhere/registration.yaml" in str(failure.value)
    assert str(tmp_path / "homeserver.log") in str(failure.value)
    assert processes_in(tmp_path) == []


@needs_synapse
async def test_a_start_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(SynapseError, match=r"not ready within 0\.1 seconds"):
        async with running_synapse(tmp_path, SynapseSettings(start_limit=0.1)):
            pytest.fail("no Synapse starts so fast")
    assert processes_in(tmp_path) == []


@needs_synapse
@pytest.mark.parametrize("polls", [1, 12])
async def test_cancelling_while_it_starts_leaves_no_process(tmp_path: Path, polls: int) -> None:
    # After one poll Python is still starting, after twelve (0.6 s) Synapse has begun.
    enough = asyncio.Event()
    waited: list[float] = []

    def progress(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == polls:
            enough.set()

    async def start() -> None:
        async with running_synapse(tmp_path, SynapseSettings(), progress):
            await asyncio.sleep(60)

    before = children()
    starting = asyncio.create_task(start())
    await reached(enough, starting)
    assert len(processes_in(tmp_path)) == 1
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert processes_in(tmp_path) == []
    assert children() == before


@needs_synapse
async def test_one_that_does_not_heed_sigterm_is_killed(tmp_path: Path) -> None:
    async with running_synapse(tmp_path, SynapseSettings(stop_limit=0.5)) as synapse:
        os.kill(synapse.pid, signal.SIGSTOP)
    assert processes_in(tmp_path) == []


@needs_synapse
async def test_one_that_does_not_heed_sigterm_is_killed_at_once_when_cancelled_again(tmp_path: Path) -> None:
    running = asyncio.Event()

    async def run() -> None:
        async with running_synapse(tmp_path, SynapseSettings(stop_limit=60)) as synapse:
            os.kill(synapse.pid, signal.SIGSTOP)
            running.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(run())
    await reached(running, task)
    task.cancel()
    await asyncio.sleep(0.2)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert processes_in(tmp_path) == []


@needs_synapse
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not installed")
def test_it_ends_when_we_are_killed(tmp_path: Path) -> None:
    program = (
        "import asyncio, pathlib, sys\n"
        "from gateway.cli.synapse import SynapseSettings, running_synapse\n"
        "async def main():\n"
        "    async with running_synapse(pathlib.Path(sys.argv[1]), SynapseSettings()):\n"
        "        print('ready', flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        parent.kill()
    deadline = time.monotonic() + 10
    while processes_in(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@needs_synapse
async def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SynapseError, match=rf"can't listen on 127\.0\.0\.1:{port}"):
            async with running_synapse(tmp_path, SynapseSettings(port=port)):
                pytest.fail("the port is taken")


async def test_a_missing_package_is_told_with_the_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "synapse", None)  # Python's own way to say "not installed"
    with pytest.raises(SynapseError, match=r"pip install 'matrix-login-gateway\[demo\]'"):
        async with running_synapse(tmp_path, SynapseSettings()):
            pytest.fail("it is not there")
