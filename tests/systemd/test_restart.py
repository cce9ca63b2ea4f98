"""Restarts under load, with the listening socket kept as systemd keeps it: nobody is refused, and nothing breaks."""

import asyncio
import itertools
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.fake_homeserver import FakeHomeserver
from tests.raw_http import RawClient, connected
from tests.running_gateway import LOGIN, Tables, mint, write_configuration
from tests.supervisor import FakeSupervisor, service

RESTARTS = 6
CLIENTS = 8
# Seconds of load before each restart.
LOAD = 0.5
VERSIONS = b"GET /_matrix/client/versions HTTP/1.1\r\nHost: example.org\r\n\r\n"


@dataclass
class Load:
    """Clients that keep their connections, and what became of their requests."""

    port: int
    going: bool = True
    answered: Counter[bytes] = field(default_factory=Counter)
    repeated: int = 0
    failures: list[str] = field(default_factory=list)

    async def client(self, requests: Callable[[], bytes]) -> None:
        """Send one request after the other, on new connections where the gateway ends one."""
        while self.going:
            try:
                async with connected(self.port) as connection:
                    await self._use(connection, requests)
            except OSError as error:
                self.failures.append(f"no connection: {error}")

    async def _use(self, connection: RawClient, requests: Callable[[], bytes]) -> None:
        for number in itertools.count():
            request = requests()
            try:
                await connection.send(request)
                answer = await connection.answer()
            except (OSError, asyncio.IncompleteReadError) as error:
                # RFC 9110 9.2.2: what is idempotent may be sent again when a used connection ends without a word.
                silent = not (isinstance(error, asyncio.IncompleteReadError) and error.partial)
                if number and silent and request.startswith(b"GET "):
                    self.repeated += 1
                else:
                    self.failures.append(f"request {number} of a connection: {error!r}")
                return
            self.answered[answer[9:12]] += 1
            if b"\r\nconnection: close\r\n" in answer.lower() or not self.going:
                return
            await asyncio.sleep(0.005)


def logins() -> Iterator[bytes]:
    """One login after the other, of a few users."""
    for number in itertools.count():
        body = b'{"type": "org.matrix.login.jwt", "token": "%b"}' % mint(f"user{number % 5}").encode()
        yield b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (LOGIN.encode(), len(body), body)


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[FakeSupervisor]:
    with closing(FakeSupervisor(str(tmp_path / "notify"))) as made:
        yield made


async def test_restarts_under_load_lose_no_request_and_break_none(
    tmp_path: Path, homeserver: FakeHomeserver, supervisor: FakeSupervisor
) -> None:
    tables: Tables = {"limits": {"logins_per_user": {"burst": 0, "refill": 1}}, "log": {"level": "error"}}
    path = write_configuration(tmp_path, homeserver.url, tables)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        load = Load(listening.getsockname()[1])
        async with asyncio.TaskGroup() as clients:
            for _ in range(CLIENTS):
                clients.create_task(load.client(lambda: VERSIONS))
                clients.create_task(load.client(logins().__next__))
            for restart in range(RESTARTS + 1):
                async with service(path, supervisor, {"matrix-login-gateway.socket": listening}) as process:
                    await supervisor.told_of("READY")
                    before = load.answered.total()
                    await asyncio.sleep(LOAD)
                    assert load.answered.total() > before
                    load.going = restart < RESTARTS
                    process.send_signal(signal.SIGTERM)
                    _, log = await process.communicate()
                assert (process.returncode, log) == (0, b"")
    print(f"{RESTARTS} restarts, {load.answered.total()} answers, {load.repeated} sent again, {load.failures=}")
    assert load.failures == []
    assert set(load.answered) == {b"200"}
