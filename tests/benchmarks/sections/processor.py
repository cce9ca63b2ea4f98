"""Processor time of each proxy per request: the figure that a noisy machine moves least.

The proxy is pinned to one core, upstream and load to others. The proxies take turns in short runs, forwards and
backwards, and a ratio is the median of those of the turns: a machine that slows down does so for both sides of one.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.benchmarks import proxies
from tests.benchmarks.loads import Load, Request, wrk
from tests.benchmarks.plan import Plan, Report, table
from tests.benchmarks.processes import processor_seconds
from tests.benchmarks.proxies import CADDY, CLIENT_SESSION, GATEWAY, VERSIONS, Proxy, running_proxies
from tests.benchmarks.upstreams import LARGE, MEDIUM, POSTED, running_nginx_upstream

CONNECTIONS = 32
TURNS = 3  # of all proxies, in each round
SECONDS = 1  # of one turn
CASES: Mapping[str, Request] = {
    "small answer": Request(VERSIONS),
    "4 KiB answer": Request(MEDIUM),
    "64 KiB answer": Request(LARGE),
    "4 KiB POST": Request(POSTED, b"p" * 4096),
}


@dataclass(frozen=True)
class Sample:
    """One turn of a proxy: the microseconds of its processor time per request, and what wrk counted."""

    microseconds: float
    load: Load


# Of each case and proxy, turn by turn.
Samples = dict[tuple[str, str], list[Sample]]


@dataclass(frozen=True)
class Figures:
    """Medians over the turns; `failed` is the sum."""

    case: str
    proxy: str
    microseconds_per_request: float
    requests_per_second: float
    failed: int


def measure(plan: Plan) -> Report:
    report = Report()
    cores = plan.cores
    samples: Samples = {}
    with running_nginx_upstream(plan.directory, [cores.upstream]) as (upstream, _):
        kinds = [*proxies.ALL, *proxies.before(plan.before)]
        with running_proxies(kinds, plan.directory, upstream, [cores.proxy], report.notes.append) as compared:
            for proxy in [] if plan.quick else compared:
                one_turn(plan, proxy, CASES["64 KiB answer"])  # warm-up
            turns = plan.rounds if plan.quick else TURNS * plan.rounds
            for number in range(turns):
                for case, request in CASES.items():
                    plan.say(f"processor: turn {number + 1} of {turns}, {case}")
                    for proxy in reversed(compared) if number % 2 else compared:
                        samples.setdefault((case, proxy.name), []).append(one_turn(plan, proxy, request))
    report.figures.extend(
        summary(case, proxy.name, samples[case, proxy.name]) for proxy in compared for case in CASES
    )
    show(report, report.figures, samples)
    return report


def one_turn(plan: Plan, proxy: Proxy, request: Request, seconds: int = SECONDS) -> Sample:
    before = processor_seconds(proxy.pid)
    load = wrk(proxy.port, request, CONNECTIONS, seconds, plan.directory, [plan.cores.load])
    return Sample((processor_seconds(proxy.pid) - before) / max(load.requests, 1) * 1e6, load)


def summary(case: str, proxy: str, found: Sequence[Sample]) -> Figures:
    return Figures(
        case,
        proxy,
        round(statistics.median(one.microseconds for one in found), 1),
        round(statistics.median(one.load.per_second for one in found)),
        sum(one.load.failed for one in found),
    )


def show(report: Report, figures: Sequence[Figures], samples: Samples) -> None:
    of = {(figure.case, figure.proxy): figure for figure in figures}
    names = list(dict.fromkeys(figure.proxy for figure in figures))
    for title, text in (
        (f"Processor time per request, microseconds ({CONNECTIONS} connections)", microseconds),
        ("Requests a second, the proxy on one core", per_second),
    ):
        rows = [[name, *(text(of[case, name]) for case in CASES)] for name in names]
        report.tables.append(table(title, ["proxy", *CASES], rows))
    for peer in (CADDY.name, CLIENT_SESSION.name, proxies.BEFORE):
        if {peer, GATEWAY.name} <= set(names):
            ratios = (f"{case} {ratio(samples[case, GATEWAY.name], samples[case, peer]):.2f}" for case in CASES)
            report.notes.append(f"Processor time, gateway / {peer}: {', '.join(ratios)}.")
    for figure in figures:
        if figure.failed:
            report.notes.append(f"{figure.proxy}, {figure.case}: {figure.failed} requests failed.")


def microseconds(figure: Figures) -> str:
    return f"{figure.microseconds_per_request:.1f}"


def per_second(figure: Figures) -> str:
    return f"{figure.requests_per_second:,.0f}"


def ratio(one: Sequence[Sample], other: Sequence[Sample]) -> float:
    turns = zip(one, other, strict=True)
    return statistics.median(mine.microseconds / max(its.microseconds, 0.1) for mine, its in turns)
