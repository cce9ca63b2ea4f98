"""What systemd is told, on a real datagram socket, and what it hands over, as sockets of a process of its own."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Unusable
from gateway.systemd import Supervisor, handed_names
from tests.supervisor import FakeSupervisor, with_sockets

ENVIRONMENT = st.dictionaries(
    st.sampled_from(["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID", "NOTIFY_SOCKET"]),
    st.text(st.characters(exclude_characters="\0")) | st.integers().map(str) | st.just("7"),
)


@pytest.fixture(params=["in a directory", "abstract"])
def supervisor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FakeSupervisor]:
    name = str(tmp_path / "notify") if request.param == "in a directory" else f"@{tmp_path}"
    with closing(FakeSupervisor(name)) as made:
        yield made


async def test_it_is_told_how_the_gateway_is_at_either_kind_of_address(supervisor: FakeSupervisor) -> None:
    gateway = Supervisor(supervisor.environment)
    gateway.ready("Listens on 127.0.0.1:8010")
    before = time.monotonic_ns() // 1000
    gateway.reloading()
    gateway.ready("Keeps the old configuration")
    gateway.stopping("Lets open requests finish")

    told = [await supervisor.told() for _ in range(4)]
    assert told[0] == {"READY": "1", "STATUS": "Listens on 127.0.0.1:8010"}
    assert before <= int(told[1].pop("MONOTONIC_USEC")) <= time.monotonic_ns() // 1000
    assert told[1] == {"RELOADING": "1", "STATUS": "Reloading"}
    assert told[2:] == [
        {"READY": "1", "STATUS": "Keeps the old configuration"},
        {"STOPPING": "1", "STATUS": "Lets open requests finish"},
    ]


async def test_a_status_is_one_short_line(supervisor: FakeSupervisor) -> None:
    Supervisor(supervisor.environment).ready("bad\nMAINPID=1\r\n\u2028" + "ä" * 5000)
    told = await supervisor.told()
    assert list(told) == ["READY", "STATUS"]
    assert told["STATUS"].startswith("bad MAINPID=1 ää")
    assert len(told["STATUS"]) == 1000


async def test_the_watchdog_is_told_twice_in_its_time_as_long_as_the_loop_runs(supervisor: FakeSupervisor) -> None:
    gateway = Supervisor({**supervisor.environment, "WATCHDOG_USEC": "200000"}, 7)
    with gateway.watched():
        for _ in range(4):
            async with asyncio.timeout(1):
                assert await supervisor.told() == {"WATCHDOG": "1"}
        time.sleep(0.35)  # noqa: ASYNC251 - the loop hangs
        with pytest.raises(BlockingIOError):
            supervisor.socket.recv(1)
        assert await supervisor.told() == {"WATCHDOG": "1"}
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await supervisor.told()


@pytest.mark.parametrize(
    "watchdog", [{"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "8"}, {"WATCHDOG_USEC": "soon"}, {}]
)
async def test_a_watchdog_that_is_not_for_us_is_told_nothing(
    supervisor: FakeSupervisor, watchdog: dict[str, str]
) -> None:
    with Supervisor({**supervisor.environment, **watchdog}, 7).watched():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await supervisor.told()


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "@nobody here", "vsock:2:1234", "x" * 300])
async def test_with_nobody_to_tell_it_goes_on(address: str) -> None:
    gateway = Supervisor({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000"})
    with gateway.watched():
        gateway.ready("Well")
        await asyncio.sleep(0.01)


@given(environment=ENVIRONMENT, pid=st.integers(1, 2**22))
def test_any_environment_is_understood_or_refused(environment: dict[str, str], pid: int) -> None:
    Supervisor(environment, pid)
    try:
        names = handed_names(environment, pid)
    except Unusable as error:
        assert "LISTEN_FDS" in str(error)
    else:
        assert len(names) == (int(environment["LISTEN_FDS"]) if names else 0)


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({}, []),
        ({"LISTEN_PID": "8", "LISTEN_FDS": "1"}, []),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "0"}, []),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "2"}, ["", "unknown"]),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a.socket:admin"}, ["a.socket", "admin"]),
    ],
)
def test_sockets_are_taken_by_the_process_that_they_are_for(environment: dict[str, str], names: list[str]) -> None:
    assert handed_names(environment, 7) == names


TAKE = """
import os, sys
from gateway.errors import Unusable
from gateway.systemd import handed_over
try:
    handed = handed_over(os.environ)
except Unusable as error:
    sys.exit(str(error))
for kind in ("public", "admin"):
    for taken in getattr(handed, kind):
        print(kind, taken.family.name, os.get_inheritable(taken.fileno()))
"""


def take(names: str, *files: int) -> subprocess.CompletedProcess[str]:
    """Take what these files are, in a process that has them where systemd puts them."""
    return subprocess.run(
        with_sockets([sys.executable, "-c", TAKE], files),
        env={**os.environ, "LISTEN_FDS": str(len(files)), "LISTEN_FDNAMES": names},
        pass_fds=files,
        capture_output=True,
        text=True,
        check=False,
    )


def test_sockets_go_where_their_names_say_and_to_no_child(tmp_path: Path) -> None:
    with ExitStack() as stack:
        one = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        two = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        three = stack.enter_context(socket.socket(socket.AF_UNIX))
        three.bind(str(tmp_path / "socket"))
        three.listen()
        done = take("a.socket:admin:public", one.fileno(), two.fileno(), three.fileno())
    assert done.stdout.splitlines() == ["public AF_INET False", "public AF_UNIX False", "admin AF_INET False"]


@pytest.mark.parametrize("kind", ["datagram", "not listening", "connected", "file"])
def test_what_takes_no_connections_is_refused_with_the_mend(kind: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        if kind == "file":
            file = stack.enter_context((tmp_path / "file").open("w")).fileno()
        elif kind == "connected":
            one, two = map(stack.enter_context, socket.socketpair())
            assert two.fileno() != (file := one.fileno())
        else:
            type_ = socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM
            file = stack.enter_context(socket.socket(socket.AF_INET, type_)).fileno()
        done = take("a.socket", file)
    assert done.returncode == 1
    assert "'a.socket'" in done.stderr
    assert done.stderr.endswith("use ListenStream= and Accept=no in the socket unit.\n")
    assert "Traceback" not in done.stderr
