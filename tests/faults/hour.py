"""An hour of mixed load, compressed to ten minutes: memory, open files and tasks end where they began.

    pip install -c requirements.lock --group test -e '.[postgres]'
    python -m tests.faults.hour [--rounds N] [--seconds N] [--seed N] [--plot FILE.png] [--json FILE]

Each round has all kinds of clients and, one after the other, all kinds of faults: a reload, a database that hangs,
one that crashes, a homeserver that fails, an issuer with a new key, one that is away. After the first round and after
the last one the clients go, and it is counted what is left. --plot needs the dependency group benchmark.
"""

import argparse
import asyncio
import os
import random
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.progress import Progress

from tests.benchmarks.processes import ask, memory
from tests.fake_issuer import FakeIssuer, new_key, running_issuer
from tests.faults.nodes import Homeserver, Node, made_node, running_database, running_homeserver
from tests.faults.verdict import Verdict
from tests.faults.visitors import Visitors
from tests.postgres_server import PostgresServer
from tests.running_gateway import SECRET

_IDLE = 2  # seconds after which the homeserver ends an idle connection
_REST = 5  # seconds until nothing is left of the clients
_SAMPLES = 0.5  # seconds from one to the next
_ROUNDS_AHEAD = 7  # five minutes, for which a set may be kept
_TASKS = "matrix_login_gateway_tasks "
ALLOWED = {"502", "503", "504"}


@dataclass(frozen=True)
class Sample:
    """What the gateway holds at a moment: `memory` resident, in MiB."""

    seconds: float
    memory: float
    files: int
    tasks: int


@dataclass
class Place:
    """The gateway and what is around it."""

    node: Node
    homeserver: Homeserver
    database: PostgresServer
    issuer: FakeIssuer
    began: float = field(default_factory=time.monotonic)
    samples: list[Sample] = field(default_factory=list)

    async def watch(self) -> None:
        while True:
            self.samples.append(await asyncio.to_thread(self.sample))
            await asyncio.sleep(_SAMPLES)

    def sample(self) -> Sample:
        pid = self.node.pid
        files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        lines = ask(self.node.admin_port, "/metrics")[1].decode().splitlines()
        (tasks,) = (float(line.removeprefix(_TASKS)) for line in lines if line.startswith(_TASKS))
        return Sample(time.monotonic() - self.began, memory(pid).rss / 1024, files, int(tasks))

    async def suffer(self, seconds: float) -> None:
        """Have every fault, each for its share of the time."""
        faults: tuple[tuple[float, Callable[[float], Awaitable[None]]], ...] = (
            (0.05, self._reload), (0.1, self._freeze), (0.1, self._crash), (0.2, self._fail), (0.05, self._rotate),
            (0.1, self._issuer_away), (0.05, self._reload),
        )  # fmt: skip
        for share, fault in faults:
            await fault(share * seconds)
            await asyncio.sleep(0.05 * seconds)

    async def _reload(self, seconds: float) -> None:
        os.kill(self.node.pid, signal.SIGHUP)
        await asyncio.sleep(seconds)

    async def _freeze(self, seconds: float) -> None:
        with self.database.frozen():
            await asyncio.sleep(seconds)

    async def _crash(self, seconds: float) -> None:
        self.database.kill()
        await asyncio.sleep(seconds)
        self.database.spawn()
        await asyncio.to_thread(self.database.wait)

    async def _fail(self, seconds: float) -> None:
        await asyncio.to_thread(self.homeserver.fail)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self.homeserver.heal)

    async def _rotate(self, seconds: float) -> None:
        """Publish a key long before it signs, as issuers do: in ten minutes all sign that came in the first four."""
        self.issuer.published.append(new_key(f"key {len(self.issuer.published)}"))
        self.issuer.key = self.issuer.published[max(0, len(self.issuer.published) - _ROUNDS_AHEAD)]
        await asyncio.sleep(seconds)

    async def _issuer_away(self, seconds: float) -> None:
        await self.issuer.stop()
        await asyncio.sleep(seconds)
        await self.issuer.start()


async def live(place: Place, visitors: Visitors, rounds: int, seconds: float) -> tuple[Sample, Sample]:
    """Live through the rounds; return what is left after the first and after the last."""
    watching = asyncio.create_task(place.watch())
    left = []
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("rounds", total=rounds)
        for number in range(rounds):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(visitors.come(seconds))
                tasks.create_task(place.suffer(seconds))
            progress.advance(bar)
            if number in {0, rounds - 1}:
                await asyncio.sleep(_REST)
                left.append(await asyncio.to_thread(place.sample))
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    return left[0], left[-1]


async def run(stack: ExitStack, arguments: argparse.Namespace) -> Verdict:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    homeserver = stack.enter_context(running_homeserver(folder, idle=_IDLE))
    database = stack.enter_context(running_database())
    async with running_issuer() as issuer:
        issuer.headers["Cache-Control"] = "max-age=300"
        tables: dict[str, Any] = {
            # So few that the first round opens them all.
            "database": {"url": database.new_database("template0"), "pool_size": 3},
            "jwt": {
                "secret": None,
                "single_use": True,
                "issuers": [
                    {"issuer": ["ours"], "secret": SECRET},
                    {"issuer": [issuer.url], "format": "JWKS", "algorithm": "ES256", "jwks_url": issuer.jwks_url},
                ],
            },
            "limits": {},
            "log": {"level": "error"},
        }
        node = stack.enter_context(made_node(folder, homeserver, tables))
        node.spawn()
        await asyncio.to_thread(node.wait)
        place = Place(node, homeserver, database, issuer)
        visitors = Visitors(node.port, issuer, random.Random(arguments.seed))
        begin, end = await live(place, visitors, arguments.rounds, arguments.seconds)
        verdict = judge(place, visitors, begin, end)
    if arguments.plot:
        from tests.faults.curves import draw  # noqa: PLC0415 - of another dependency group

        draw(place.samples, arguments.plot)
    return verdict


def judge(place: Place, visitors: Visitors, begin: Sample, end: Sample) -> Verdict:
    verdict = Verdict("Mixed load with every fault, one gateway, PostgreSQL")
    verdict.tell("seconds", time.monotonic() - place.began)
    verdict.tell("answers to good logins", dict(visitors.tally.statuses))
    verdict.tell("what else came", dict(visitors.others))
    for name in ("memory", "files", "tasks"):
        most = max(asdict(sample)[name] for sample in place.samples)
        verdict.tell(f"{name} after the first round", asdict(begin)[name])
        verdict.tell(f"{name} at most", most)
    verdict.at_most("memory at the end, in MiB", end.memory, begin.memory * 1.1)
    verdict.at_most("files at the end", end.files, begin.files)
    verdict.at_most("tasks at the end", end.tasks, begin.tasks)
    statuses = {*visitors.tally.statuses, *(name.rpartition(" ")[2] for name in visitors.others)}
    ours = {status for status in statuses if status.startswith("5")} - {"500"}  # which is the homeserver's
    verdict.claim("answers of 5xx but 500, 502, 503 and 504", sorted(ours - ALLOWED), [])
    verdict.claim("good tokens refused", visitors.tally.statuses["403"], 0)
    verdict.claim("wrong sessions", visitors.tally.wrong, [])
    verdict.claim("tracebacks in the log", place.node.logs.count("Traceback"), 0)
    return verdict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=56, help="of a round")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        verdict = uvloop.run(run(stack, arguments))
    verdict.tell("seed", arguments.seed)
    verdict.end(arguments.json)


if __name__ == "__main__":
    main()
