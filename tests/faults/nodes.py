"""What the faults befall: gateways in processes of their own, killed and started again, and what is behind them.

Rule: whatever starts here ends with its block, and with us should we be killed.
"""

import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.processes import (
    START_LIMIT,
    NotStarted,
    Running,
    ask,
    free_port,
    log_end,
    running,
    until_answers,
)
from tests.faults.fast_homeserver import FAIL, HEAL, STATE
from tests.postgres_server import PostgresServer, find_programs, running_postgres
from tests.running_gateway import Tables, write_configuration

LIMITS = ("failed_logins_per_address", "failed_logins_per_user", "logins_per_user")
NO_LIMITS = {"limits": {name: {"burst": 0, "refill": 1} for name in LIMITS}}
VERSIONS = "/_matrix/client/versions"


@dataclass
class Homeserver:
    """The fast homeserver."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self._told(STATE))
        return state

    def heal(self) -> None:
        self._told(HEAL)

    def fail(self) -> None:
        self._told(FAIL)

    def _told(self, path: str) -> bytes:
        ends = time.monotonic() + START_LIMIT
        while True:
            try:
                return ask(self.port, path)[1]
            except ConnectionError:  # that may be the fault of the moment
                if time.monotonic() > ends:
                    raise
                time.sleep(0.05)


@contextmanager
def running_homeserver(
    directory: Path, failing: float = 0, seed: int = 0, cores: Sequence[int] = (), idle: float = 0
) -> Iterator[Homeserver]:
    """Run a fast homeserver of which the share `failing` of all calls goes wrong."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "tests.faults.fast_homeserver",
        str(port),
        f"--failing={failing}",
        f"--seed={seed}",
        f"--idle={idle}",
    ]
    with running("homeserver", command, directory, _cores(cores), {}) as server:
        until_answers(server, port, STATE)
        yield Homeserver(port)


@contextmanager
def running_database() -> Iterator[PostgresServer]:
    """Run a PostgreSQL of our own."""
    programs = find_programs()
    if programs is None:
        raise NotStarted("PostgreSQL is not installed (Debian: postgresql-15)")
    with running_postgres(programs) as server:
        yield server


@dataclass
class Node:
    """One gateway; `cores` are those that it may run on."""

    name: str
    folder: Path
    configuration: Path
    port: int
    admin_port: int
    cores: Sequence[int] = ()
    starts: int = 0
    _server: Running | None = None
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._server is not None
        return self._server.pid

    def spawn(self) -> None:
        """Start it, and wait for nothing."""
        self.starts += 1
        command = [sys.executable, "-m", "gateway", "serve", "-c", str(self.configuration)]
        name = f"{self.name}-{self.starts}"
        self._server = self._stack.enter_context(running(name, command, self.folder, _cores(self.cores), {}))

    def wait(self) -> None:
        """Wait until it listens; raises NotStarted. Nobody behind it is asked."""
        assert self._server is not None
        ends = time.monotonic() + START_LIMIT
        while not self.listens():
            if self._server.process.poll() is not None or time.monotonic() > ends:
                raise NotStarted(f"{self.name}: {log_end(self._server)}")
            time.sleep(0.01)

    def listens(self) -> bool:
        """Whether it has begun to serve clients; the homeserver is not asked."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False

    def start(self) -> None:
        self.spawn()
        self.wait()

    def kill(self) -> None:
        """End it as a crash does."""
        assert self._server is not None
        self._server.process.send_signal(signal.SIGKILL)
        self._server.process.wait()
        self._stack.close()
        self._server = None

    def end(self, patience: float) -> int:
        """Ask it to end, and return its exit status once requests at work are finished."""
        assert self._server is not None
        self._server.process.terminate()
        status = self._server.process.wait(patience)
        self.stop()
        return status

    def stop(self) -> None:
        """End it as systemd does, if it runs."""
        self._stack.close()
        self._server = None

    @property
    def log(self) -> str:
        """What it has written since it was last started."""
        return (self.folder / f"{self.name}-{self.starts}.log").read_text(encoding="utf-8")

    @property
    def logs(self) -> str:
        """All that it has written."""
        return "".join(path.read_text(encoding="utf-8") for path in sorted(self.folder.glob(f"{self.name}-*.log")))


def lasting_port() -> int:
    """A port that is still free when a gateway was away: no connection gets one below those that the system gives."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(first // 2, first)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


@contextmanager
def made_node(
    folder: Path, homeserver: Homeserver, tables: Tables, name: str = "gateway", cores: Sequence[int] = ()
) -> Iterator[Node]:
    """Give a gateway that is not started yet; `tables` are its configuration."""
    own = folder / name
    own.mkdir()
    port, admin_port = lasting_port(), lasting_port()
    server = {"listen": [f"127.0.0.1:{port}"], "admin_listen": f"127.0.0.1:{admin_port}", "drain_timeout": 1}
    whole = {**NO_LIMITS, **tables, "server": {**server, **tables.get("server", {})}}
    node = Node(name, own, write_configuration(own, homeserver.url, whole), port, admin_port, cores)
    try:
        yield node
    finally:
        node.stop()


def _cores(cores: Sequence[int]) -> Sequence[int]:
    return cores or sorted(os.sched_getaffinity(0))
