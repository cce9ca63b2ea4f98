"""Requests a second of a real Synapse, asked directly, through HAProxy and through the gateway in turns.

Synapse answers in bursts, and behind any proxy it waits longer for the next requests: HAProxy shows how much of the
loss is any proxy's. Synapse has a core of its own, proxies and load run on the others: left to the scheduler of a
machine with two cores, they push Synapse from core to core, and the figure says more of that.
"""

import json
import statistics
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass

import uvloop

from gateway.cli.synapse import Synapse, SynapseError, SynapseSettings, running_synapse
from tests.benchmarks.loads import ELEMENT, Load, Request, wrk
from tests.benchmarks.plan import Plan, Report, table
from tests.benchmarks.processes import NotStarted, confined_to
from tests.benchmarks.proxies import GATEWAY, HAPROXY, VERSIONS, running_proxies
from tests.synapse_limits import RATE_LIMITS_OFF

CONNECTIONS = 16
TURNS = 6  # of all ways, in each round: a Synapse varies more than a proxy
SECONDS = 1  # of one turn
# As the edge sends them that stands before either: without, the gateway adds them, and Synapse has more to read.
EDGE = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https"}
WHOAMI = "/_matrix/client/v3/account/whoami"
PATHS = (VERSIONS, WHOAMI)
DIRECT = "direct"


@dataclass(frozen=True)
class Figures:
    """Requests a second, and their ratio to those of the direct way: medians over the turns."""

    path: str
    way: str
    per_second: float
    ratio: float
    failed: int


# Of each path and way, turn by turn.
Samples = dict[tuple[str, str], list[Load]]


def measure(plan: Plan) -> Report:
    with confined_to(plan.cores.proxy):  # which Synapse inherits
        return uvloop.run(with_synapse(plan))


async def with_synapse(plan: Plan) -> Report:
    plan.say("synapse: starting")
    settings = SynapseSettings(server_name="bench.localhost", registration=True, extra=RATE_LIMITS_OFF)
    try:
        async with running_synapse(plan.directory / "synapse", settings) as synapse:
            return compare(plan, synapse)  # blocks the loop, which has nothing else to do
    except SynapseError as error:
        raise NotStarted(str(error)) from error


def compare(plan: Plan, synapse: Synapse) -> Report:
    headers = {**ELEMENT, **EDGE, "Authorization": f"Bearer {register(synapse)}"}
    report, samples = Report(), Samples()
    with running_proxies(
        (HAPROXY, GATEWAY), plan.directory, synapse.port, others(plan), report.notes.append
    ) as found:
        ports = {DIRECT: synapse.port, **{proxy.name: proxy.port for proxy in found}}
        for port in ports.values():
            load(plan, port, Request(WHOAMI, headers=headers))  # warm-up
        turns = plan.rounds if plan.quick else TURNS * plan.rounds
        for number in range(turns):
            plan.say(f"synapse: turn {number + 1} of {turns}")
            for path in PATHS:
                # Backwards too: whoever comes second would gain where the machine speeds up.
                for way in reversed(ports) if number % 2 else ports:
                    loaded = load(plan, ports[way], Request(path, headers=headers))
                    samples.setdefault((path, way), []).append(loaded)
    report.figures.extend(summary(path, way, samples) for path in PATHS for way in ports)
    show(report, report.figures)
    return report


def register(synapse: Synapse) -> str:
    """Make a user and return its access token."""
    body = {"username": "alice", "password": "a password of the benchmark", "auth": {"type": "m.login.dummy"}}
    request = urllib.request.Request(
        f"{synapse.url}/_matrix/client/v3/register", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        token: str = json.load(response)["access_token"]
    return token


def load(plan: Plan, port: int, request: Request) -> Load:
    return wrk(port, request, CONNECTIONS, SECONDS, plan.directory, others(plan))


def others(plan: Plan) -> Sequence[int]:
    return plan.cores.every[1:] or plan.cores.every


def summary(path: str, way: str, samples: Samples) -> Figures:
    found = samples[path, way]
    ratios = [
        one.per_second / max(direct.per_second, 1) for one, direct in zip(found, samples[path, DIRECT], strict=True)
    ]
    return Figures(
        path,
        way,
        round(statistics.median(one.per_second for one in found)),
        round(statistics.median(ratios), 3),
        sum(one.failed for one in found),
    )


def show(report: Report, figures: Sequence[Figures]) -> None:
    rows = [[figure.path, figure.way, f"{figure.per_second:,.0f}", f"{figure.ratio:.3f}"] for figure in figures]
    title = f"Requests a second of a real Synapse ({CONNECTIONS} connections)"
    report.tables.append(table(title, ["path", "way", "requests a second", "ratio"], rows))
    report.notes.extend(
        f"{figure.path}, {figure.way}: {figure.failed} requests failed." for figure in figures if figure.failed
    )
