"""Thousands of /sync that hang at once: the gateway's memory for each, and whether every one gets its whole answer.

A fresh proxy for each figure. What the kernel holds for the sockets (two for each request) is not in it.
"""

import asyncio
import resource
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import uvloop

from tests.benchmarks.loads import ELEMENT
from tests.benchmarks.own_upstreams import HELD, RELEASE, SYNC, SYNC_ANSWER
from tests.benchmarks.plan import Plan, Report, table
from tests.benchmarks.processes import ask, confined_to, forget_peak, memory
from tests.benchmarks.proxies import CLIENT_SESSION, GATEWAY, Kind, Proxy, running_proxy
from tests.benchmarks.upstreams import running_own_upstream

P = TypeVar("P", bound=asyncio.Protocol)
SPARE_FILES = 200  # logs, database, listeners, libraries
WARM_UP = 20  # requests; few, for what they leave in the allocator makes the figure smaller
AT_A_TIME = 100  # connections opened together; no listener's backlog overflows
ARRIVAL_LIMIT = 60.0  # seconds until all must hang at the upstream
ANSWER_LIMIT = 60.0  # seconds until all must be answered
_HEAD_LINES = [
    f"GET {SYNC}?filter=0&timeout=30000&since=s72594_4483_1934 HTTP/1.1",
    "Host: bench.localhost",
    *(f"{name}: {value}" for name, value in ELEMENT.items()),
]
_REQUEST = "\r\n".join([*_HEAD_LINES, "", ""]).encode()


@dataclass(frozen=True)
class Figures:
    """KiB of one process for each request that hangs; `peak` includes the moment when all are answered."""

    proxy: str
    wanted: int
    waiting: int
    answered_whole: int
    rss_each: float
    pss_each: float
    peak_each: float


class _Client(asyncio.Protocol):
    """Asks once and notes whether the answer came whole."""

    def __init__(self) -> None:
        self.answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own class is none of asyncio's
        self.transport.write(_REQUEST)

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, _, body = self._got.partition(b"\r\n\r\n")
        if body == SYNC_ANSWER or not head.startswith(b"HTTP/1.1 200 "):
            self._done(whole=body == SYNC_ANSWER)

    def connection_lost(self, _: Exception | None) -> None:
        self._done(whole=False)

    def _done(self, *, whole: bool) -> None:
        if not self.answered.done():
            self.answered.set_result(whole)


def measure(plan: Plan) -> Report:
    report = Report()
    wanted = (1000,) if plan.quick else (5000, 20000)
    open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    runs = within_reach(wanted, report.notes)
    try:
        with confined_to(plan.cores.load):
            for asked, count in runs:
                for kind in (GATEWAY, CLIENT_SESSION):
                    plan.say(f"waiting: {count} through {kind.name}")
                    report.figures.append(one_run(plan, kind, asked, count))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files[0], resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    show(report, report.figures)
    return report


def within_reach(wanted: Sequence[int], notes: list[str]) -> list[tuple[int, int]]:
    """Raise the limit of open files as far as we may; return how many of each number the machine allows."""
    needed = 2 * max(wanted) + SPARE_FILES  # a proxy has one socket to the client and one to the upstream
    files = raised_limit(needed)
    first, last = (int(text) for text in Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    most = min((files - SPARE_FILES) // 2, last - first - 1000)
    notes.extend(
        f"{count:,} at once are out of reach here, {most:,} were taken instead: a process may have {files:,} open "
        f"files (it needs {2 * count + SPARE_FILES:,}, and we can't raise the limit), an address has "
        f"{last - first + 1:,} ephemeral ports."
        for count in wanted
        if count > most
    )
    return [(count, min(count, most)) for count in wanted]


def raised_limit(needed: int) -> int:
    """Raise the soft limit, and the hard one where that is allowed; child processes inherit both."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, max(needed, hard)))
        except (ValueError, PermissionError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def one_run(plan: Plan, kind: Kind, wanted: int, count: int) -> Figures:
    with running_own_upstream("holding", plan.directory, [plan.cores.upstream]) as upstream:
        with running_proxy(kind, plan.directory, upstream, [plan.cores.proxy]) as proxy:
            return uvloop.run(hang(proxy, upstream, wanted, count))


async def hang(proxy: Proxy, upstream: int, wanted: int, count: int) -> Figures:
    await released(upstream, await opened(proxy.port, upstream, WARM_UP))
    before = memory(proxy.pid)
    forget_peak(proxy.pid)
    clients = await opened(proxy.port, upstream, count)
    held = int(ask(upstream, HELD)[1])
    meanwhile = memory(proxy.pid)
    answered = await released(upstream, clients)
    peak = memory(proxy.pid).peak
    each = max(held, 1)
    return Figures(
        proxy.name,
        wanted,
        held,
        answered,
        round((meanwhile.rss - before.rss) / each, 1),
        round((meanwhile.pss - before.pss) / each, 1),
        round((peak - before.rss) / each, 1),
    )


async def connected(made: Callable[[], P], port: int, count: int) -> AsyncIterator[Sequence[P]]:
    """Open so many connections, and yield those that were opened together."""
    loop = asyncio.get_running_loop()
    for start in range(0, count, AT_A_TIME):
        batch = range(start, min(count, start + AT_A_TIME))
        found = await asyncio.gather(*(loop.create_connection(made, "127.0.0.1", port) for _ in batch))
        yield [client for _, client in found]


async def opened(port: int, upstream: int, count: int) -> list[_Client]:
    """Return when all hang at the upstream, or when some still don't after the limit."""
    loop = asyncio.get_running_loop()
    clients = [client async for batch in connected(_Client, port, count) for client in batch]
    deadline = loop.time() + ARRIVAL_LIMIT
    while int(ask(upstream, HELD)[1]) < count and loop.time() < deadline:
        await asyncio.sleep(0.1)
    return clients


async def released(upstream: int, clients: Sequence[_Client]) -> int:
    """Have all answered; return how many got the whole answer."""
    ask(upstream, RELEASE)
    await asyncio.wait([client.answered for client in clients], timeout=ANSWER_LIMIT)
    whole = sum(1 for client in clients if client.answered.done() and client.answered.result())
    for client in clients:
        client.transport.close()
    await asyncio.sleep(0.5)  # the proxy sees them go
    return whole


def show(report: Report, figures: Sequence[Figures]) -> None:
    rows = [
        [
            figure.proxy,
            f"{figure.waiting:,}",
            f"{figure.answered_whole:,}",
            *(f"{value:.1f}" for value in (figure.rss_each, figure.pss_each, figure.peak_each)),
        ]
        for figure in figures
    ]
    columns = ["proxy", "hang at once", "answered whole", "RSS", "PSS", "peak RSS"]
    report.tables.append(table("/sync that hang: KiB of the proxy for each, both sides together", columns, rows))
