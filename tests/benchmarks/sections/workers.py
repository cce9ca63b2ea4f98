"""One gateway process, and two that share its port with SO_REUSEPORT.

Each process is pinned to a core of its own; upstream and load run wherever there is room.
"""

import resource
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from tests.benchmarks.loads import Request, wrk
from tests.benchmarks.plan import Plan, Report, table
from tests.benchmarks.processes import (
    START_LIMIT,
    NotStarted,
    Running,
    free_port,
    listening_sockets,
    log_end,
    processor_seconds,
)
from tests.benchmarks.proxies import SHARING_GATEWAY, VERSIONS, Proxy, running_proxy
from tests.benchmarks.upstreams import running_nginx_upstream

CONNECTIONS = 64  # enough that the kernel's choice by hash spreads them


@dataclass(frozen=True)
class Figures:
    """Medians over the rounds.

    `per_gateway_second` is requests for one second of gateway processor time, all its processes together; `ceiling`
    is what all cores could give, were they busy with nothing but this (gateway, upstream and load).
    """

    processes: int
    requests_per_second: float
    per_gateway_second: float
    ceiling: float
    shares: list[float]  # of the gateway's processor time, by process
    failed: int


@dataclass(frozen=True)
class _Sample:
    rate: float
    per_gateway_second: float
    ceiling: float
    shares: list[float]
    failed: int


def measure(plan: Plan) -> Report:
    report = Report()
    samples: dict[int, list[_Sample]] = {}
    with running_nginx_upstream(plan.directory, plan.cores.every) as (upstream, server), ExitStack() as stack:
        groups = [start(stack, plan, upstream, count) for count in (1, 2)]
        for number in range(plan.rounds):
            plan.say(f"workers: round {number + 1} of {plan.rounds}")
            for group in groups:
                samples.setdefault(len(group), []).append(one_run(plan, group, server))
    report.figures.extend(summary(count, found) for count, found in samples.items())
    show(plan, report, report.figures)
    return report


def start(stack: ExitStack, plan: Plan, upstream: int, count: int) -> list[Proxy]:
    """Start `count` processes on one port, each when the one before it listens."""
    cores = plan.cores.every
    port = free_port()
    group: list[Proxy] = []
    for index in range(count):
        chosen = [cores[index % len(cores)]]
        proxy = stack.enter_context(running_proxy(SHARING_GATEWAY, plan.directory, upstream, chosen, port))
        group.append(proxy)
        until_listening(proxy, len(group))
    return group


def until_listening(proxy: Proxy, count: int) -> None:
    # The port answers as soon as the first listens, so an answer says nothing of the second.
    deadline = time.monotonic() + START_LIMIT
    while listening_sockets(proxy.port) < count:
        if proxy.server.process.poll() is not None or time.monotonic() > deadline:
            raise NotStarted(f"process {count} of the gateway does not listen: {log_end(proxy.server)}")
        time.sleep(0.05)


def one_run(plan: Plan, group: Sequence[Proxy], upstream: Running) -> _Sample:
    before = [processor_seconds(proxy.pid) for proxy in group]
    others = processor_seconds(upstream.pid) + children_seconds()
    load = wrk(group[0].port, Request(VERSIONS), CONNECTIONS, plan.seconds, plan.directory, plan.cores.every)
    others = processor_seconds(upstream.pid) + children_seconds() - others
    spent = [processor_seconds(proxy.pid) - start for proxy, start in zip(group, before, strict=True)]
    own = max(sum(spent), 0.01)
    return _Sample(
        load.per_second,
        load.requests / own,
        load.requests / (own + others) * len(plan.cores.every),
        [round(part / own, 2) for part in spent],
        load.failed,
    )


def children_seconds() -> float:
    """Processor time of the children that have ended: between two calls, wrk's."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def summary(count: int, found: Sequence[_Sample]) -> Figures:
    return Figures(
        count,
        round(statistics.median(sample.rate for sample in found)),
        round(statistics.median(sample.per_gateway_second for sample in found)),
        round(statistics.median(sample.ceiling for sample in found)),
        found[-1].shares,
        sum(sample.failed for sample in found),
    )


def show(plan: Plan, report: Report, figures: Sequence[Figures]) -> None:
    rows = [
        [
            str(figure.processes),
            f"{figure.requests_per_second:,.0f}",
            f"{figure.per_gateway_second:,.0f}",
            f"{figure.ceiling:,.0f}",
            " / ".join(f"{share:.0%}" for share in figure.shares),
        ]
        for figure in figures
    ]
    columns = ["processes", "requests/s", "per second of gateway time", "ceiling of the machine", "shares"]
    report.tables.append(table(f"Gateway processes on one port ({CONNECTIONS} connections)", columns, rows))
    one, two = figures
    cores = len(plan.cores.every)
    load = two.requests_per_second / max(one.requests_per_second, 1)
    work = two.per_gateway_second / max(one.per_gateway_second, 1)
    report.notes.append(
        f"Two processes carried {load:.2f} of one's load, and did {work:.2f} of its work for each second of processor"
        " time."
    )
    report.notes.append(
        f"This machine has {cores} cores."
        + (
            " Upstream and load run on the same ones, so two processes can't get two whole cores: the ceiling is what"
            " the cores could give at most. That two do no less for each second of processor time than one, and share"
            " the work, is what can be shown here; twice the load needs four cores."
            if cores < 4
            else " Upstream and load have room beside two gateway processes."
        )
    )
    report.notes.extend(
        f"{figure.processes} processes: {figure.failed} requests failed." for figure in figures if figure.failed
    )
