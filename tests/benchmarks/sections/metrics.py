"""What observing costs the data plane: a gateway that keeps nothing, one that counts, one that logs each request too.

They take turns on one core in short runs, forwards and backwards, so that a machine that slows down favours none. Two
processes that do the same differ by some percent too: each round starts new ones, and the first kind runs twice.
"""

import statistics
import timeit
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway.metrics import Traffic
from gateway.web.observed import Ended, count
from tests.benchmarks.loads import Request
from tests.benchmarks.plan import Plan, Report, table
from tests.benchmarks.processes import NotStarted
from tests.benchmarks.proxies import COUNTING_GATEWAY, GATEWAY, LOGGING_GATEWAY, VERSIONS, running_proxies
from tests.benchmarks.sections.processor import CONNECTIONS, one_turn
from tests.benchmarks.upstreams import running_nginx_upstream
from tests.requested import requested

AGAIN = replace(GATEWAY, name="gateway, once more")
KINDS = (GATEWAY, AGAIN, COUNTING_GATEWAY, LOGGING_GATEWAY)
TURNS = 3  # of all four, in each round
CALLS = 200_000


@dataclass(frozen=True)
class Figures:
    """Medians; `ratio` is that to the run beside it which kept nothing."""

    gateway: str
    microseconds_per_request: float
    ratio: float
    failed: int


def measure(plan: Plan) -> Report:
    report = Report()
    costs: dict[str, list[float]] = {kind.name: [] for kind in KINDS}
    failed = dict.fromkeys(costs, 0)
    with running_nginx_upstream(plan.directory, [plan.cores.upstream]) as (upstream, _):
        for number in range(plan.rounds):
            plan.say(f"metrics: round {number + 1} of {plan.rounds}")
            with running_proxies(KINDS, plan.directory, upstream, [plan.cores.proxy], stop) as gateways:
                for gateway in gateways:
                    one_turn(plan, gateway, Request(VERSIONS))  # warm-up
                for turn in range(TURNS):
                    for gateway in gateways if turn % 2 else reversed(gateways):
                        sample = one_turn(plan, gateway, Request(VERSIONS), plan.seconds)
                        costs[gateway.name].append(sample.microseconds)
                        failed[gateway.name] += sample.load.failed
    figures = [summary(name, found, costs[GATEWAY.name], failed[name]) for name, found in costs.items()]
    report.figures.extend(figures)
    rows = [[one.gateway, f"{one.microseconds_per_request:.1f}", f"{one.ratio:.3f}"] for one in figures]
    title = f"Processor time per request, microseconds ({CONNECTIONS} connections, small answer)"
    report.tables.append(table(title, ["gateway", "microseconds", "to the first"], rows))
    report.notes.append(f"Counting a request takes {counting():.2f} microseconds by itself.")
    report.notes.extend(f"{one.gateway}: {one.failed} requests failed." for one in figures if one.failed)
    return report


def stop(why: str) -> None:
    raise NotStarted(why)


def summary(name: str, found: Sequence[float], first: Sequence[float], failed: int) -> Figures:
    ratios = [one / max(other, 0.1) for one, other in zip(found, first, strict=True)]
    return Figures(name, round(statistics.median(found), 1), round(statistics.median(ratios), 3), failed)


def counting() -> float:
    """Return what the counting of a relayed request takes, in microseconds: the best of several tries."""
    traffic, request, ended = Traffic(), requested(VERSIONS), Ended("relay", 0, 200, 100, relayed=True)

    def relayed() -> None:
        count(traffic, request, ended)

    return min(timeit.repeat(relayed, number=CALLS, repeat=7)) / CALLS * 1e6
