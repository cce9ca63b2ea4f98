"""Instructions in user space that the gateway takes for each request: a figure that the machine's mood does not move.

Callgrind (Debian's package valgrind) counts them, in the whole process, between a warm-up and the end of the load. It
does so at a fiftieth of the usual speed, so that the figure says nothing of time.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from tests.benchmarks import proxies
from tests.benchmarks.loads import wrk
from tests.benchmarks.plan import Plan, Report, table
from tests.benchmarks.processes import NotStarted
from tests.benchmarks.proxies import GATEWAY, Kind, Proxy, running_proxy
from tests.benchmarks.sections.processor import CASES, CONNECTIONS
from tests.benchmarks.upstreams import running_nginx_upstream

_SECONDS = 10
_COUNTED = re.compile(rb"^totals: (\d+)$", re.MULTILINE)
_DUMPS = "callgrind.out"


@dataclass(frozen=True)
class Figures:
    """Instructions for each of so many requests."""

    case: str
    proxy: str
    requests: int
    instructions_per_request: int


def measure(plan: Plan) -> Report:
    if shutil.which("valgrind") is None:
        raise NotStarted("valgrind is not installed")
    report = Report()
    rows = []
    with running_nginx_upstream(plan.directory, [plan.cores.upstream]) as (upstream, _):
        for kind in (GATEWAY, *proxies.before(plan.before)):
            with running_proxy(counted(kind), plan.directory, upstream, [plan.cores.proxy]) as proxy:
                figures = of_one(plan, proxy, 2 if plan.quick else _SECONDS)
            report.figures += figures
            rows.append([kind.name, *(f"{figure.instructions_per_request:,}" for figure in figures)])
    title = f"Instructions in user space per request ({CONNECTIONS} connections)"
    report.tables.append(table(title, ["gateway", *CASES], rows))
    return report


def counted(kind: Kind) -> Kind:
    """Return the same proxy, run by Callgrind."""

    def write(directory: Path, port: int, upstream: int) -> list[str]:
        options = ["--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={directory / _DUMPS}", "-q"]
        return ["valgrind", *options, *kind.write(directory, port, upstream)]

    return replace(kind, write=write)


def of_one(plan: Plan, proxy: Proxy, seconds: int) -> list[Figures]:
    figures = []
    _control(proxy, "--instr=on")
    for case, request in CASES.items():
        plan.say(f"instructions: {proxy.name}, {case}")
        wrk(proxy.port, request, CONNECTIONS, seconds, plan.directory, [plan.cores.load])  # warm-up
        _dumped(proxy)  # not --zero, behind which Callgrind 3.19 writes totals that hold some of what was before
        load = wrk(proxy.port, request, CONNECTIONS, seconds, plan.directory, [plan.cores.load])
        figures.append(Figures(case, proxy.name, load.requests, _dumped(proxy) // max(load.requests, 1)))
    return figures


def _dumped(proxy: Proxy) -> int:
    """Return how many instructions were counted since the last time."""
    directory = proxy.server.log.parent
    before = set(directory.glob(f"{_DUMPS}.*"))
    _control(proxy, "--dump")
    (dump,) = set(directory.glob(f"{_DUMPS}.*")) - before
    (count,) = _COUNTED.findall(dump.read_bytes())
    return int(count)


def _control(proxy: Proxy, command: str) -> None:
    done = subprocess.run(["callgrind_control", command, str(proxy.pid)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotStarted(f"callgrind_control {command}: {done.stderr.strip() or done.stdout.strip()}")
