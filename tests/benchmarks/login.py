"""Logins a second, side by side in one run against the same Synapse.

Straight as the application service, by Synapse's own JWT login, by JWT through the gateway, and through another
version of it where there is one:

    pip install -c requirements.lock --group benchmark -e .
    python -m tests.benchmarks.login [--logins N] [--rounds N] [--unpinned] [--before COMMAND] [--json FILE]

They take turns in short rounds, another one first each time, and are compared round by round: a machine whose speed
drifts slows all of them alike. Synapse, which bounds them all, has a core of its own; gateway and load share the
others (`--unpinned`: left to the scheduler). Every login makes a new device for a user that exists. Besides: 20 first
logins of one new user at once, beside 20 users registered at Synapse itself at once. A benchmark, not a test: it
judges nothing.
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
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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
    pid: int = 0  # of the gateway


@dataclass(frozen=True)
class Figures:
    """What one way did with `at_once` clients: medians over the rounds; milliseconds."""

    way: str
    at_once: int
    logins_per_second: float
    p50: float
    p99: float


@dataclass(frozen=True)
class Found:
    """What was measured: ratios of logins a second at 16 at once, and milliseconds of processor time a login.

    `first_logins`: the seconds of 20 first logins of one user by those of 20 registrations, the median of the rounds.
    """

    logins: list[Figures]
    ratios: dict[str, float]
    cpu_ms_per_login: dict[str, float]
    first_logins: float


def mint(user: str) -> str:
    now = int(time.time())
    claims = {"sub": user, "iat": now, "exp": now + 3600}
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(SECRET), algorithms=["HS256"])


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logins", type=int, default=160, help="logins a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--unpinned", action="store_true", help="let the scheduler place Synapse")
    parser.add_argument("--before", type=Path, metavar="COMMAND", help="another version's matrix-login-gateway")
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
            with ExitStack() as stack:
                commands = {"(c) JWT through the gateway": [sys.executable, "-m", "gateway"]}
                if arguments.before:
                    commands["(d) through the one before"] = [str(arguments.before)]
                gateways = {
                    name: stack.enter_context(running_gateway(directory / f"gateway{number}", synapse.url, command))
                    for number, (name, command) in enumerate(commands.items())
                }
                found = await measure(ways(synapse.url, gateways), arguments.logins, arguments.rounds)
    show(found)
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(found), indent=2))


def ways(synapse_url: str, gateways: dict[str, tuple[str, int]]) -> list[Way]:
    tokens = {user: mint(user) for user in USERS}

    def appservice(user: str) -> dict[str, Any]:
        return {"type": "m.login.application_service", "identifier": {"type": "m.id.user", "user": user}}

    def with_token(user: str) -> dict[str, Any]:
        return {"type": "org.matrix.login.jwt", "token": tokens.get(user) or mint(user)}

    return [
        Way("(a) appservice, straight", synapse_url, appservice, {"Authorization": f"Bearer {AS_TOKEN}"}),
        Way("(b) Synapse's own JWT", synapse_url, with_token, {}),
        *(Way(name, url, with_token, {}, pid) for name, (url, pid) in gateways.items()),
    ]


@contextmanager
def running_gateway(directory: Path, homeserver: str, command: list[str]) -> Iterator[tuple[str, int]]:
    """Run one, and give its address and process id."""
    directory.mkdir()
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
    serve = [*command, "serve", "-c", str(path)]
    with running("gateway", serve, directory, sorted(os.sched_getaffinity(0)), {}) as server:
        until_answers(server, port, "/_matrix/client/versions")
        yield f"http://127.0.0.1:{port}", server.pid


async def measure(every: list[Way], logins: int, rounds: int) -> Found:
    console = Console(stderr=True)
    samples: dict[tuple[str, int], list[tuple[float, list[float]]]] = {}
    spent: defaultdict[str, float] = defaultdict(float)
    counted: Counter[str] = Counter()
    firsts = []
    for way in every[2:]:
        await one_round(way, 1, USERS)  # makes the users, or knows them
    for number in range(1 + rounds):
        for at_once in (1, 16):
            for way in every[number % len(every) :] + every[: number % len(every)]:
                console.print(f"round {number}/{rounds}, {at_once:2} at once, {way.name}", end="\r")
                users = [USERS[index % len(USERS)] for index in range(logins if at_once > 1 else logins // 4)]
                before = processor_seconds(way.pid) if way.pid else 0.0
                result = await one_round(way, at_once, users)
                if number == 0:
                    continue  # warm-up
                samples.setdefault((way.name, at_once), []).append(result)
                if way.pid:
                    spent[way.name] += processor_seconds(way.pid) - before
                    counted[way.name] += len(users)
        firsts.append(await first_logins(every[0], every[2]))
    console.print(" " * 70, end="\r")
    figures = [summary(name, at_once, found) for (name, at_once), found in samples.items()]
    rates = {way.name[:3]: [rate for rate, _ in samples[way.name, 16]] for way in every}
    ratios = {
        f"(c)/{name}": round(statistics.median(map(truediv, rates["(c)"], others)), 3)
        for name, others in rates.items()
        if name != "(c)"
    }
    cost = {name[:3]: round(spent[name] / counted[name] * 1000, 3) for name in counted}
    return Found(figures, ratios, cost, round(statistics.median(firsts[1:]), 3))


async def first_logins(straight: Way, gateway: Way) -> float:
    """Return the time of 20 first logins of one user, by that of 20 registrations with their sessions at Synapse."""
    users = [f"new{secrets.token_hex(8)}" for _ in range(20)]
    type_ = "m.login.application_service"
    registrations = [{"type": type_, "username": user} for user in users]  # each with its session
    registering = await at_once(straight, "/_matrix/client/v3/register", registrations)
    logins = [gateway.body(f"new{secrets.token_hex(8)}")] * 20
    return await at_once(gateway, "/_matrix/client/v3/login", logins) / registering


async def at_once(way: Way, path: str, bodies: list[dict[str, Any]]) -> float:
    """Post all bodies at once, and return the seconds until the last is answered."""
    async with aiohttp.ClientSession(way.url, headers=way.headers) as client:

        async def post(body: dict[str, Any]) -> None:
            async with client.post(path, json=body) as response:
                if response.status != 200:
                    raise SystemExit(f"{way.name}: {response.status} {await response.text()}")

        began = time.perf_counter()
        await asyncio.gather(*map(post, bodies))
        return time.perf_counter() - began


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


def show(found: Found) -> None:
    table = Table("way", "at once", "logins/s", "p50 ms", "p99 ms")
    for figure in sorted(found.logins, key=lambda figure: (figure.at_once, figure.way)):
        table.add_row(
            figure.way, *(str(value) for value in (figure.at_once, figure.logins_per_second, figure.p50, figure.p99))
        )
    console = Console()
    console.print(table)
    compared = ", ".join(f"{name} = {ratio:.3f}" for name, ratio in found.ratios.items())
    cost = ", ".join(f"{name} {spent:.2f}" for name, spent in found.cpu_ms_per_login.items())
    console.print(f"16 at once: {compared}; processor time per login, ms: {cost}")
    console.print(
        f"20 first logins of one user at once take {found.first_logins:.2f} times 20 registrations at Synapse"
    )


if __name__ == "__main__":
    uvloop.run(main())
