"""Requests a second of a real Synapse, asked directly and through the gateway in turns.

Synapse has a core of its own, gateway and load run on the others: left to the scheduler of a machine with two cores,
they push Synapse from core to core, and the figure says more of that than of the gateway.
"""

import json
import statistics
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import uvloop

from gateway.cli.synapse import Synapse, SynapseError, SynapseSettings, running_synapse
from tests.benchmarks.loads import ELEMENT, Load, Request, wrk
from tests.benchmarks.plan import Plan, Report, table
from tests.benchmarks.processes import NotStarted, confined_to
from tests.benchmarks.proxies import GATEWAY, VERSIONS, running_proxy
from tests.synapse_limits import RATE_LIMITS_OFF

CONNECTIONS = 16
# As the edge sends them that stands before either: without, the gateway adds them, and Synapse has more to read.
EDGE = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https"}
WHOAMI = "/_matrix/client/v3/account/whoami"


@dataclass(frozen=True)
class Figures:
    """Requests a second, medians over the rounds; the ratio is the median of the rounds' own."""

    path: str
    direct: float
    gateway: float
    ratio: float
    failed: int


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
    requests = {path: Request(path, headers=headers) for path in (VERSIONS, WHOAMI)}
    rounds: dict[str, list[tuple[Load, Load]]] = {path: [] for path in requests}
    with running_proxy(GATEWAY, plan.directory, synapse.port, others(plan)) as proxy:
        for port in (synapse.port, proxy.port):
            load(plan, port, requests[WHOAMI], 1)  # warm-up
        turns = 2 * plan.rounds  # a Synapse varies more than a proxy
        for number in range(turns):
            plan.say(f"synapse: round {number + 1} of {turns}")
            for path, request in requests.items():
                ports = [synapse.port, proxy.port]
                if number % 2:  # whoever comes second would gain where the machine speeds up
                    ports.reverse()
                found = {port: load(plan, port, request, plan.seconds) for port in ports}
                rounds[path].append((found[synapse.port], found[proxy.port]))
    report = Report()
    report.figures.extend(summary(rounds))
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


def load(plan: Plan, port: int, request: Request, seconds: int) -> Load:
    return wrk(port, request, CONNECTIONS, seconds, plan.directory, others(plan))


def others(plan: Plan) -> Sequence[int]:
    return plan.cores.every[1:] or plan.cores.every


def summary(rounds: Mapping[str, Sequence[tuple[Load, Load]]]) -> list[Figures]:
    return [
        Figures(
            path,
            round(statistics.median(direct.per_second for direct, _ in found)),
            round(statistics.median(through.per_second for _, through in found)),
            round(statistics.median(through.per_second / max(direct.per_second, 1) for direct, through in found), 3),
            sum(load.failed for pair in found for load in pair),
        )
        for path, found in rounds.items()
    ]


def show(report: Report, figures: Sequence[Figures]) -> None:
    rows = [
        [figure.path, f"{figure.direct:,.0f}", f"{figure.gateway:,.0f}", f"{figure.ratio:.3f}"] for figure in figures
    ]
    title = f"Requests a second of a real Synapse ({CONNECTIONS} connections)"
    report.tables.append(table(title, ["path", "direct", "through the gateway", "ratio"], rows))
    report.notes.extend(f"{figure.path}: {figure.failed} requests failed." for figure in figures if figure.failed)
