"""Logins a second, side by side in one run against the same Synapse.

Straight as the application service, by Synapse's own JWT login, and by JWT through the gateway:

    pip install -c requirements.lock --group benchmark -e .
    python -m tests.benchmarks.login [--logins N] [--rounds N] [--unpinned] [--json FILE]

The three take turns in short rounds, another one first each time, and are compared round by round: a machine whose
speed drifts slows all of them alike. Synapse, which bounds all three, has a core of its own; gateway and load share
the others (`--unpinned`: left to the scheduler). Every login makes a new device for a user that exists. A benchmark,
not a test: it judges nothing.
"""

import argparse
import asyncio
import json
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from operator import truediv
from pathlib import Path
from typing import Any

import aiohttp
import toml
import uvloop
from joserfc import jwt
from joserfc.jwk import OctKey
from rich.console import Console
from rich.table import Table

from gateway.cli.synapse import SynapseSettings, running_synapse
from gateway.cli.templates import registration_yaml
from tests.benchmarks.processes import free_port, own_cores, processor_seconds, running, until_answers
from tests.synapse_limits import RATE_LIMITS_OFF

SERVER_NAME = "bench.localhost"
USERS = [f"user{number}" for number in range(16)]
AS_TOKEN = secrets.token_hex(32)
SECRET = secrets.token_urlsafe(48)

Body = Callable[[str], dict[str, Any]]


@dataclass(frozen=True)
class Way:
    """One way to log in: where, with which body and fields."""

    name: str
    url: str
    body: Body
    headers: dict[str, str]


@dataclass(frozen=True)
class Figures:
    """What one way did with `at_once` clients: medians over the rounds; milliseconds."""

    way: str
    at_once: int
    logins_per_second: float
    p50: float
    p99: float


def mint(user: str) -> str:
    now = int(time.time())
    claims = {"sub": user, "iat": now, "exp": now + 3600}
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(SECRET), algorithms=["HS256"])


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logins", type=int, default=160, help="logins a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--unpinned", action="store_true", help="let the scheduler place Synapse")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    every = own_cores().every
    of_synapse, others = (every, every) if arguments.unpinned else (every[:1], every[1:] or every)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        registration = directory / "registration.yaml"
        registration.write_text(registration_yaml(AS_TOKEN, SERVER_NAME))
        settings = SynapseSettings(
            server_name=SERVER_NAME,
            app_services=(registration,),
            extra={
                **RATE_LIMITS_OFF,
                "jwt_config": {"enabled": True, "secret": SECRET, "algorithm": "HS256"},
            },
        )
        os.sched_setaffinity(0, of_synapse)  # which Synapse inherits
        async with running_synapse(directory / "synapse", settings) as synapse:
            os.sched_setaffinity(0, others)
            with running_gateway(directory, synapse.url) as (url, pid):
                figures, ratios, cost = await measure(ways(synapse.url, url), pid, arguments.logins, arguments.rounds)
    show(figures, ratios, cost)
    if arguments.json:
        rows = [asdict(figure) for figure in figures]
        found = {"logins": rows, "ratios": ratios, "gateway_cpu_ms_per_login": cost}
        arguments.json.write_text(json.dumps(found, indent=2))


def ways(synapse_url: str, gateway_url: str) -> list[Way]:
    tokens = {user: mint(user) for user in USERS}

    def appservice(user: str) -> dict[str, Any]:
        return {"type": "m.login.application_service", "identifier": {"type": "m.id.user", "user": user}}

    def with_token(user: str) -> dict[str, Any]:
        return {"type": "org.matrix.login.jwt", "token": tokens[user]}

    return [
        Way("(a) appservice, straight", synapse_url, appservice, {"Authorization": f"Bearer {AS_TOKEN}"}),
        Way("(b) Synapse's own JWT", synapse_url, with_token, {}),
        Way("(c) JWT through the gateway", gateway_url, with_token, {}),
    ]


@contextmanager
def running_gateway(directory: Path, homeserver: str) -> Iterator[tuple[str, int]]:
    path = directory / "gateway.toml"
    port = free_port()
    configuration = {
        "server": {"listen": [f"127.0.0.1:{port}"], "admin_listen": ""},
        "homeserver": {"url": homeserver, "server_name": SERVER_NAME},
        "session": {"as_token": AS_TOKEN},
        "jwt": {"secret": SECRET},
        "limits": {"logins_per_user": {"burst": 0, "refill": 1}},
        "database": {"url": "sqlite:///gateway.db"},
        "log": {"level": "info"},
    }
    path.write_text(toml.dumps(configuration))
    command = [sys.executable, "-m", "gateway", "serve", "-c", str(path)]
    with running("gateway", command, directory, sorted(os.sched_getaffinity(0)), {}) as server:
        until_answers(server, port, "/_matrix/client/versions")
        yield f"http://127.0.0.1:{port}", server.pid


async def measure(
    three: list[Way], pid: int, logins: int, rounds: int
) -> tuple[list[Figures], dict[str, float], float]:
    """Return the figures of each way, the ratios of (c) at 16 at once, and the gateway's milliseconds a login."""
    console = Console(stderr=True)
    samples: dict[tuple[str, int], list[tuple[float, list[float]]]] = {}
    spent, counted = 0.0, 0
    for user in USERS:  # makes them, through the gateway
        await one_round(three[2], 1, [user])
    for number in range(1 + rounds):
        for at_once in (1, 16):
            for way in three[number % 3 :] + three[: number % 3]:
                console.print(f"round {number}/{rounds}, {at_once:2} at once, {way.name}", end="\r")
                users = [USERS[index % len(USERS)] for index in range(logins if at_once > 1 else logins // 4)]
                before = processor_seconds(pid)
                result = await one_round(way, at_once, users)
                if number == 0:
                    continue  # warm-up
                samples.setdefault((way.name, at_once), []).append(result)
                if way is three[2]:
                    spent += processor_seconds(pid) - before
                    counted += len(users)
    console.print(" " * 70, end="\r")
    figures = [summary(name, at_once, found) for (name, at_once), found in samples.items()]
    rates = [[rate for rate, _ in samples[way.name, 16]] for way in three]
    ratios = {
        f"(c)/{way.name[:3]}": round(statistics.median(map(truediv, rates[2], rates[index])), 3)
        for index, way in enumerate(three[:2])
    }
    return figures, ratios, spent / counted * 1000


async def one_round(way: Way, at_once: int, users: list[str]) -> tuple[float, list[float]]:
    """Return logins a second and the milliseconds of each."""
    pending = iter(users)
    times: list[float] = []

    async with aiohttp.ClientSession(way.url, headers=way.headers) as client:

        async def work() -> None:
            for user in pending:
                began = time.perf_counter()
                async with client.post("/_matrix/client/v3/login", json=way.body(user)) as response:
                    answer = await response.read()
                    if response.status != 200:
                        raise SystemExit(f"{way.name}: {response.status} {answer.decode()}")
                times.append((time.perf_counter() - began) * 1000)

        began = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(at_once)))
        return len(users) / (time.perf_counter() - began), times


def summary(name: str, at_once: int, found: list[tuple[float, list[float]]]) -> Figures:
    times = sorted(value for _, values in found for value in values)
    rate = statistics.median(rate for rate, _ in found)
    return Figures(name, at_once, round(rate, 1), round(at(times, 0.5), 2), round(at(times, 0.99), 2))


def at(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def show(figures: list[Figures], ratios: dict[str, float], cost: float) -> None:
    table = Table("way", "at once", "logins/s", "p50 ms", "p99 ms")
    for figure in sorted(figures, key=lambda figure: (figure.at_once, figure.way)):
        table.add_row(
            figure.way, *(str(value) for value in (figure.at_once, figure.logins_per_second, figure.p50, figure.p99))
        )
    console = Console()
    console.print(table)
    compared = ", ".join(f"{name} = {ratio:.3f}" for name, ratio in ratios.items())
    console.print(f"16 at once: {compared}; the gateway's processor time: {cost:.2f} ms per login")


if __name__ == "__main__":
    uvloop.run(main())
