"""What systemd does for a service, done by a test: a socket that is told how it is, and sockets that outlive it.

Rule: only what sd_notify(3) and sd_listen_fds(3) say; the gateway can't tell the difference.
"""

import asyncio
import os
import shutil
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

# Between fork and exec: the sockets get their places, and the process learns that they are for it.
_LAUNCH = """
import fcntl, os, sys
files = [fcntl.fcntl(int(file), fcntl.F_DUPFD, 100) for file in sys.argv[1].split()]
for place, file in enumerate(files, 3):
    os.dup2(file, place)
os.closerange(3 + len(files), 200)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class FakeSupervisor:
    """The socket at `address` that services write to; `environment` is what they find about it."""

    def __init__(self, address: str) -> None:
        self.environment = {"NOTIFY_SOCKET": address}
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)  # noqa: FBT003 - the standard library takes no keyword here
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)

    async def told(self) -> dict[str, str]:
        """Wait for a message and return its variables."""
        message = await asyncio.get_running_loop().sock_recv(self.socket, 65536)
        return dict(line.split("=", 1) for line in message.decode().split("\n"))

    async def told_of(self, variable: str) -> dict[str, str]:
        """Wait for a message with this variable."""
        while variable not in (told := await self.told()):
            pass
        return told

    def close(self) -> None:
        self.socket.close()


def with_sockets(command: Sequence[str], files: Sequence[int]) -> list[str]:
    """Return a command that runs `command` with these files, which it inherits, where systemd puts its sockets."""
    return [sys.executable, "-c", _LAUNCH, " ".join(map(str, files)), *command]


@asynccontextmanager
async def service(
    configuration: Path,
    supervisor: FakeSupervisor,
    sockets: Mapping[str, socket.socket] | None = None,
    under: Sequence[str] = (),
) -> AsyncIterator[Process]:
    """Run `serve` as systemd does, by the command `under`; `sockets` by the names of their FileDescriptorName=."""
    command = [*under, sys.executable, "-m", "gateway", "serve", "-c", str(configuration)]
    files = [taken.fileno() for taken in (sockets or {}).values()]
    handed = {"LISTEN_FDS": str(len(files)), "LISTEN_FDNAMES": ":".join(sockets)} if sockets else {}
    process = await asyncio.create_subprocess_exec(
        *(with_sockets(command, files) if sockets else command),
        env={**os.environ, **supervisor.environment, **handed},
        pass_fds=files,
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def program(name: str) -> str:
    """Return the path of a program of systemd's; without it a test is skipped here, and fails where CI=true."""
    found = shutil.which(name)
    if found is None:
        reason = f"{name} is not installed (Debian: apt-get install systemd)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found
