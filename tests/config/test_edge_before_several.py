"""The real HAProxy and nginx before two real gateways on one PostgreSQL, of which one is killed, or stopped.

Rule: the snippets of config/edge are run as they are, and clients ask without a pause all the time.
"""

import asyncio
import itertools
import random
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.benchmarks.processes import ask
from tests.config.edge_programs import SNIPPETS as EDGE
from tests.config.edge_programs import Behind, command_line, put_in_place
from tests.config.running_edge import free_port, process, program, write_certificate
from tests.faults.clients import Crowd, Tally
from tests.faults.first_logins import look
from tests.faults.nodes import VERSIONS, Homeserver, Node, made_node, running_homeserver
from tests.faults.verdict import Verdict
from tests.postgres_server import PostgresServer
from tests.raw_http import RawServer, never_accepting, read_message
from tests.running_gateway import LOGIN, Tables, mint
from tests.waiting import until

SNIPPETS = sorted(EDGE.glob("*-several.*"))
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
SYNC = "/_matrix/client/v3/sync?timeout=200"
CLIENTS = 16
# Seconds until a client has seen that the gateway is gone which had its request, on a machine that is busy.
SOON = 2.0


def client_of(certificate: Path, *, anew: bool) -> aiohttp.ClientSession:
    """A client; `anew`: it opens a connection for each request."""
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False  # the name leads elsewhere here
    connector = aiohttp.TCPConnector(ssl=context, limit=0, force_close=anew)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30))


@dataclass(frozen=True)
class Asked:
    """One request of a client, and whether it was served."""

    kind: str
    began: float
    ended: float
    served: bool


@dataclass
class Clients:
    """Log in, read and sync by way of the edge `url` without a pause, each until it is served."""

    url: str
    certificate: Path
    tally: Tally = field(default_factory=Tally)
    asked: list[Asked] = field(default_factory=list)
    tried: set[str] = field(default_factory=set)
    reads: Counter[int] = field(default_factory=Counter)  # by status; 0 where no answer came
    _ending: bool = False

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Half of them log in, half of them read; half of both open a connection for each request."""
        # Two at a time have the same name: a first login at both gateways at once, or one of a user who is known.
        names = (f"user{number // 2}" for number in itertools.count())
        async with asyncio.TaskGroup() as tasks:
            for number in range(CLIENTS // 4):
                for anew in (False, True):
                    tasks.create_task(self._log_in(names, anew=anew))
                    tasks.create_task(self._read(SYNC if number % 2 else VERSIONS, anew=anew))
            try:
                yield
            finally:
                self._ending = True

    async def served(self, times: int = 20) -> None:
        """Wait until so many logins, reads and syncs that began from now on were served."""
        now = time.monotonic()

        def enough() -> bool:
            kinds = Counter(asked.kind for asked in self.asked if asked.served and asked.began > now)
            return all(kinds[kind] >= times for kind in ("login", VERSIONS, SYNC))

        await until(enough, 15)

    @property
    def failed(self) -> list[Asked]:
        return [asked for asked in self.asked if not asked.served]

    async def _log_in(self, names: Iterator[str], *, anew: bool) -> None:
        crowd = Crowd([self.url], 1, self.tally, random.Random(1))
        async with client_of(self.certificate, anew=anew) as session:
            while not self._ending:
                name = next(names)
                self.tried.add(name)
                began, served = time.monotonic(), False
                while not served and time.monotonic() < began + 20:
                    asked = time.monotonic()
                    served = await crowd.once(session, self.url, name, mint(name))
                    self.asked.append(Asked("login", asked, time.monotonic(), served))
                assert served, self.tally

    async def _read(self, path: str, *, anew: bool) -> None:
        async with client_of(self.certificate, anew=anew) as session:
            while not self._ending:
                began, status = time.monotonic(), 0
                try:
                    async with session.get(self.url + path) as answer:
                        await answer.read()
                        status = answer.status
                except (aiohttp.ClientError, OSError):
                    pass
                self.reads[status] += 1
                self.asked.append(Asked(path, began, time.monotonic(), status == 200))


@dataclass(frozen=True)
class Several:
    """An edge before two gateways."""

    nodes: Sequence[Node]
    homeserver: Homeserver
    url: str
    database: str
    certificate: Path

    def clients(self) -> Clients:
        return Clients(self.url, self.certificate)

    async def spread(self) -> None:
        """Wait until each gateway is asked."""
        before = [await asyncio.to_thread(requests_at, node) for node in self.nodes]
        async with asyncio.timeout(20):
            for node, known in zip(self.nodes, before, strict=True):
                while await asyncio.to_thread(requests_at, node) < known + 20:
                    await asyncio.sleep(0.1)


def requests_at(node: Node) -> float:
    """How many requests a gateway has answered since it started."""
    _, metrics = ask(node.admin_port, "/metrics")
    families = text_string_to_metric_families(metrics.decode())
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "matrix_login_gateway_requests_total"
    )


@pytest.fixture(params=[path.name for path in SNIPPETS])
def snippet(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    program(name.partition("-")[0])
    return name


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    path = tmp_path / "both.pem"
    write_certificate(path)
    return path


@asynccontextmanager
async def edge(snippet: str, folder: Path, certificate: Path, behind: Behind) -> AsyncIterator[str]:
    """Run the edge and give its URL."""
    port = free_port()
    text = put_in_place((EDGE / snippet).read_text(), port, certificate, behind)
    command = command_line(snippet.partition("-")[0], folder, text, port)
    async with process(command, port, folder / "edge.log"):
        yield f"https://127.0.0.1:{port}"


@pytest.fixture
async def several(
    snippet: str, certificate: Path, tmp_path: Path, postgres: PostgresServer
) -> AsyncIterator[Several]:
    url = postgres.new_database()
    tables: Tables = {"database": {"url": url}, "server": {"drain_timeout": 20}}
    with (
        running_homeserver(tmp_path) as homeserver,
        made_node(tmp_path, homeserver, tables, "first") as first,
        made_node(tmp_path, homeserver, tables, "second") as second,
    ):
        nodes = (first, second)
        for node in nodes:
            node.start()
        behind = Behind([node.port for node in nodes], [node.admin_port for node in nodes], homeserver.port)
        async with edge(snippet, tmp_path, certificate, behind) as there:
            yield Several(nodes, homeserver, there, url, certificate)
        assert "Traceback" not in first.logs + second.logs


async def test_a_gateway_that_is_killed_takes_only_what_it_was_asked_with_it(
    several: Several, postgres: PostgresServer
) -> None:
    clients, killed = several.clients(), list[float]()
    async with clients.at_work():
        # The second time until HAProxy has seen that it is gone.
        for node, away in zip(several.nodes, (0, 4), strict=True):
            await clients.served()
            killed.append(time.monotonic())
            node.kill()
            await clients.served()
            await asyncio.sleep(away)
            node.spawn()
            await asyncio.to_thread(node.wait)
            await several.spread()
        await clients.served()
    for failed in clients.failed:
        assert any(at <= failed.ended <= at + SOON for at in killed), failed
    assert len(clients.failed) <= CLIENTS * len(killed)
    for at in killed:
        assert any(asked.began >= at and asked.ended <= at + SOON for asked in clients.asked if asked.served)
    assert set(clients.tally.statuses) <= {"200", "502", "broken off"}
    assert clients.tally.answered == clients.tried
    assert clients.tally.wrong == []
    verdict = Verdict("accounts")
    look(verdict, sorted(clients.tried), several.homeserver, postgres, several.database)
    assert verdict.broken == [], verdict.figures


async def test_a_gateway_that_is_stopped_takes_nothing_with_it(several: Several) -> None:
    clients, node = several.clients(), several.nodes[0]
    async with clients.at_work():
        await clients.served()
        assert await asyncio.to_thread(node.end, 30) == 0
        assert "stopped" in node.log
        await clients.served()
        node.spawn()
        await asyncio.to_thread(node.wait)
        await several.spread()
        await clients.served()
    assert clients.failed == []
    assert clients.tally.wrong == []


@pytest.mark.parametrize("snippet", ["haproxy-several.cfg"])  # nginx does not ask whether they are well
async def test_without_the_database_everything_but_logins_goes_on(several: Several, postgres: PostgresServer) -> None:
    clients = several.clients()
    async with clients.at_work():
        await clients.served()
        await asyncio.to_thread(postgres.kill)
        await asyncio.sleep(4)  # in which HAProxy would have seen that they are not ready
        ready = [(await asyncio.to_thread(ask, node.admin_port, "/health/ready"))[0] for node in several.nodes]
        postgres.spawn()
        await asyncio.to_thread(postgres.wait)
        await clients.served()
    assert ready == [503, 503]
    assert set(clients.tally.statuses) == {"200", "503"}
    assert set(clients.reads) == {200}
    assert clients.tally.wrong == []


class BreaksOff:
    """A gateway that ends without a word at the first request, and answers later ones; its health is good."""

    def __init__(self) -> None:
        self.methods: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            method, target, _ = (await read_message(reader)).split(b" ", 2)
            if target != b"/health/live":
                self.methods.append(method.decode())
                if len(self.methods) == 1:
                    return
            writer.write(OK)
            await writer.drain()


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "PUT", "POST"])
async def test_what_was_sent_is_sent_to_the_other_node_only_if_that_does_no_harm(
    snippet: str, certificate: Path, tmp_path: Path, method: str
) -> None:
    nodes = BreaksOff()
    async with RawServer(nodes).running() as first, RawServer(nodes).running() as second:
        ports = [first.port, second.port]
        async with (
            edge(snippet, tmp_path, certificate, Behind(ports, ports, free_port())) as url,
            client_of(certificate, anew=True) as client,
            client.request(method, url + LOGIN, data=b"{}" if method.startswith("P") else None) as answer,
        ):
            # RFC 9110 9.2.2 allows it for PUT, which nginx sends again where the body came with the head.
            again = method in {"GET", "OPTIONS"} or (method, snippet) == ("PUT", "nginx-several.conf")
            assert answer.status == (200 if again else 502)
    assert nodes.methods == [method] * (2 if again else 1)


async def test_a_machine_that_is_gone_costs_time_but_no_request(
    snippet: str, certificate: Path, tmp_path: Path
) -> None:
    nodes = BreaksOff()
    nodes.methods.append("none breaks off")
    async with never_accepting() as gone, RawServer(nodes).running() as other:
        ports = [gone, other.port]
        async with (
            edge(snippet, tmp_path, certificate, Behind(ports, ports, free_port())) as url,
            client_of(certificate, anew=True) as client,
        ):
            for _ in range(4):
                async with client.post(url + LOGIN, data=b"{}") as answer:
                    assert answer.status == 200
    assert nodes.methods[1:] == ["POST"] * 4
