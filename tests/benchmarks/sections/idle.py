"""Thousands of connections that wait for nothing, as phones leave them behind: the gateway's memory for all of them.

Each has had one answer before. A fresh gateway for each figure; what the kernel holds for the sockets is not in it.
"""

import asyncio
import resource
from dataclasses import dataclass
from typing import cast

import uvloop

from tests.benchmarks import proxies
from tests.benchmarks.loads import ELEMENT
from tests.benchmarks.plan import Plan, Report, table
from tests.benchmarks.processes import confined_to, memory
from tests.benchmarks.proxies import GATEWAY, VERSIONS, Proxy, running_proxy
from tests.benchmarks.sections.waiting import SPARE_FILES, connected, raised_limit
from tests.benchmarks.upstreams import running_nginx_upstream

WANTED = 10_000
_FIELDS = "".join(f"{name}: {value}\r\n" for name, value in ELEMENT.items())
_REQUEST = f"GET {VERSIONS} HTTP/1.1\r\nHost: bench.localhost\r\n{_FIELDS}\r\n".encode()


@dataclass(frozen=True)
class Figures:
    """MiB by which the gateway grew for so many idle connections."""

    proxy: str
    connections: int
    rss: float
    pss: float


class _Client(asyncio.Protocol):
    def __init__(self) -> None:
        self.answered = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own class is none of asyncio's
        self.transport.write(_REQUEST)

    def data_received(self, _: bytes) -> None:
        if not self.answered.done():
            self.answered.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.answered.done():
            self.answered.set_exception(error or ConnectionError("closed"))


def measure(plan: Plan) -> Report:
    report = Report()
    open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(1000 if plan.quick else WANTED, raised_limit(WANTED + SPARE_FILES) - SPARE_FILES)
    kinds = [GATEWAY, *proxies.before(plan.before)]
    try:
        with confined_to(plan.cores.load), running_nginx_upstream(plan.directory, [plan.cores.upstream]) as (port, _):
            for kind in kinds:
                plan.say(f"idle: {count} at {kind.name}")
                with running_proxy(kind, plan.directory, port, [plan.cores.proxy]) as proxy:
                    report.figures.append(uvloop.run(grown(proxy, count)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files[0], resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    rows = [[one.proxy, f"{one.connections:,}", f"{one.rss:.1f}", f"{one.pss:.1f}"] for one in report.figures]
    report.tables.append(table("Idle connections: MiB for all", ["gateway", "connections", "RSS", "PSS"], rows))
    return report


async def grown(proxy: Proxy, count: int) -> Figures:
    await opened(proxy.port, 10)
    before = memory(proxy.pid)
    clients = await opened(proxy.port, count)
    after = memory(proxy.pid)
    for client in clients:
        client.transport.close()
    return Figures(
        proxy.name, count, round((after.rss - before.rss) / 1024, 1), round((after.pss - before.pss) / 1024, 1)
    )


async def opened(port: int, count: int) -> list[_Client]:
    """Return connections that have had their answer."""
    clients: list[_Client] = []
    async for batch in connected(_Client, port, count):
        clients.extend(batch)
        await asyncio.gather(*(client.answered for client in batch))
    return clients
