"""What each proxy adds to the time of one request: one connection, one request after another."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tests.benchmarks import proxies
from tests.benchmarks.loads import Load, Request, wrk
from tests.benchmarks.plan import Plan, Report, table
from tests.benchmarks.proxies import VERSIONS, running_proxies
from tests.benchmarks.upstreams import running_nginx_upstream

DIRECT = "direct"


@dataclass(frozen=True)
class Figures:
    """Medians over the rounds, in milliseconds; `added` is the difference from the direct way's."""

    way: str
    p50: float
    p99: float
    added_p50: float
    added_p99: float
    failed: int


def measure(plan: Plan) -> Report:
    report = Report()
    cores = plan.cores
    samples: dict[str, list[Load]] = {}
    with running_nginx_upstream(plan.directory, [cores.upstream]) as (upstream, _):
        kinds = [*proxies.ALL, *proxies.before(plan.before)]
        with running_proxies(kinds, plan.directory, upstream, [cores.proxy], report.notes.append) as compared:
            ways = [(DIRECT, upstream), *((proxy.name, proxy.port) for proxy in compared)]
            for number in range(plan.rounds):
                plan.say(f"latency: round {number + 1} of {plan.rounds}")
                for name, port in ways:
                    load = wrk(port, Request(VERSIONS), 1, plan.seconds, plan.directory, [cores.load])
                    samples.setdefault(name, []).append(load)
    figures = summary(samples)
    report.figures.extend(figures)
    show(report, figures)
    return report


def summary(samples: dict[str, list[Load]]) -> list[Figures]:
    medians = {
        name: (statistics.median(load.p50 for load in found), statistics.median(load.p99 for load in found))
        for name, found in samples.items()
    }
    p50, p99 = medians[DIRECT]
    return [
        Figures(
            name,
            round(own50, 3),
            round(own99, 3),
            round(own50 - p50, 3),
            round(own99 - p99, 3),
            sum(load.failed for load in samples[name]),
        )
        for name, (own50, own99) in medians.items()
    ]


def show(report: Report, figures: Sequence[Figures]) -> None:
    rows = [
        [figure.way, *(f"{value:.3f}" for value in (figure.p50, figure.p99, figure.added_p50, figure.added_p99))]
        for figure in figures
    ]
    columns = ["way", "p50", "p99", "added p50", "added p99"]
    report.tables.append(table("Time of one request, milliseconds (1 connection, small answer)", columns, rows))
    report.notes.extend(f"{figure.way}: {figure.failed} requests failed." for figure in figures if figure.failed)
