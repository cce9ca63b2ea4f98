"""One large body each way: the speed beside nginx's, and by how much the gateway's memory grows meanwhile."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.benchmarks.loads import download, upload
from tests.benchmarks.plan import Plan, Report, table
from tests.benchmarks.processes import confined_to, forget_peak, memory
from tests.benchmarks.proxies import GATEWAY, NGINX, Proxy, before, running_proxies
from tests.benchmarks.upstreams import running_own_upstream

MIB = 2**20
TRANSFERS: Mapping[str, Callable[[int, int], float]] = {"download": download, "upload": upload}


@dataclass(frozen=True)
class Figures:
    """MiB a second (median over the rounds), and the most that the peak of resident memory rose above its start."""

    transfer: str
    way: str
    size_mib: int
    mib_per_second: float
    peak_growth_mib: float | None  # the gateway's only


@dataclass
class _Samples:
    speeds: list[float] = field(default_factory=list)
    growths: list[float] = field(default_factory=list)


def measure(plan: Plan) -> Report:
    report = Report()
    cores = plan.cores
    size = (128 if plan.quick else 1024) * MIB
    samples: dict[tuple[str, str], _Samples] = {}
    with running_own_upstream("streaming", plan.directory, [cores.upstream]) as upstream, confined_to(cores.load):
        with running_proxies(
            (NGINX, GATEWAY, *before(plan.before)), plan.directory, upstream, [cores.proxy], report.notes.append
        ) as compared:
            for number in range(plan.rounds):
                plan.say(f"transfer: round {number + 1} of {plan.rounds}, {size // MIB} MiB each way")
                for name, transfer in TRANSFERS.items():
                    samples.setdefault((name, "direct"), _Samples()).speeds.append(transfer(upstream, size))
                    for proxy in compared:
                        one_run(samples.setdefault((name, proxy.name), _Samples()), proxy, transfer, size)
    figures = [
        Figures(
            name,
            way,
            size // MIB,
            round(statistics.median(found.speeds)),
            round(max(found.growths), 1) if found.growths else None,
        )
        for (name, way), found in samples.items()
    ]
    report.figures.extend(figures)
    show(report, figures)
    return report


def one_run(samples: _Samples, proxy: Proxy, transfer: Callable[[int, int], float], size: int) -> None:
    transfer(proxy.port, size // 16)  # warm-up
    if proxy.name != GATEWAY.name:
        samples.speeds.append(transfer(proxy.port, size))
        return
    before = memory(proxy.pid).rss
    forget_peak(proxy.pid)
    samples.speeds.append(transfer(proxy.port, size))
    samples.growths.append((memory(proxy.pid).peak - before) / 1024)


def show(report: Report, figures: Sequence[Figures]) -> None:
    rows = [
        [
            f"{figure.transfer}, {figure.way}",
            f"{figure.mib_per_second:,.0f}",
            "" if figure.peak_growth_mib is None else f"{figure.peak_growth_mib:.1f}",
        ]
        for figure in figures
    ]
    title = f"One body of {figures[0].size_mib} MiB"
    report.tables.append(table(title, ["way", "MiB/s", "peak memory grew, MiB"], rows))
    speeds = {(figure.transfer, figure.way): figure.mib_per_second for figure in figures}
    for name in TRANSFERS:
        if {(name, GATEWAY.name), (name, NGINX.name)} <= set(speeds):
            ratio = speeds[name, GATEWAY.name] / speeds[name, NGINX.name]
            report.notes.append(f"{name.capitalize()}, MiB/s, gateway / nginx: {ratio:.2f}.")
    report.notes.append(
        "Upstream and client are single threads that share the machine with the proxy: direct is the most there is."
    )
