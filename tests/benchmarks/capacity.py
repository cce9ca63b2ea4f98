"""How many logins of users who have an account one gateway and two carry, before a homeserver that costs little.

    pip install -c requirements.lock --group test -e '.[postgres]'
    python -m tests.benchmarks.capacity [--seconds N] [--users N] [--json FILE]

The first gateway has a core of its own; homeserver, database and clients run on the others, and so does the second
gateway: on a machine with few cores it shows what they leave. A benchmark, not a test: it judges nothing.
"""

import argparse
import asyncio
import itertools
import os
import random
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import uvloop
from rich.console import Console

from tests.benchmarks.processes import own_cores, processor_seconds
from tests.faults.clients import Crowd, Tally
from tests.faults.nodes import Node, made_node, running_database, running_homeserver
from tests.faults.verdict import Verdict
from tests.running_gateway import mint

AT_ONCE = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    users = [f"user{number}" for number in range(arguments.users)]
    cores = own_cores()
    others = cores.every[1:] or cores.every
    console = Console(stderr=True)
    verdict = Verdict(f"Logins a second, HS256, {len(users):,} users with an account, {AT_ONCE} at once, PostgreSQL")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.sched_setaffinity(0, set(others))  # which the database inherits
        homeserver = stack.enter_context(running_homeserver(folder, cores=others))
        url = stack.enter_context(running_database()).new_database("template0")
        tables = {"database": {"url": url}, "log": {"level": "error"}}
        places: Sequence[tuple[str, Sequence[int]]] = (("first", cores.every[:1]), ("second", others))
        nodes = [stack.enter_context(made_node(folder, homeserver, tables, name, core)) for name, core in places]
        for node in nodes:
            node.start()
        console.print("making the accounts")
        uvloop.run(Crowd([node.url for node in nodes], AT_ONCE, Tally(), random.Random(1)).log_in(users))
        for count in (1, 2):
            console.print(f"measuring {count} of 2")
            measure(verdict, nodes[:count], users, arguments.seconds)
    verdict.end(arguments.json)


def measure(verdict: Verdict, nodes: Sequence[Node], users: Sequence[str], seconds: float) -> None:
    tally = Tally()
    before = [processor_seconds(node.pid) for node in nodes]
    began = time.monotonic()
    uvloop.run(load([node.url for node in nodes], users, seconds, tally))
    took = time.monotonic() - began
    used = sum(processor_seconds(node.pid) for node in nodes) - sum(before)
    done = tally.statuses["200"]
    name = f"{len(nodes)} gateway{'s' * (len(nodes) > 1)}"
    verdict.tell(f"{name}: logins a second", done / took)
    verdict.tell(f"{name}: milliseconds of processor time a login", used / max(done, 1) * 1000)
    verdict.tell(f"{name}: answers", dict(tally.statuses))


async def load(urls: Sequence[str], users: Sequence[str], seconds: float, tally: Tally) -> None:
    """Log users in, in turns, until the time is over."""
    crowd = Crowd(urls, AT_ONCE, tally, random.Random(1))
    turns = itertools.cycle([(user, mint(user)) for user in users])
    places = itertools.cycle(urls)
    ends = time.monotonic() + seconds
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def work() -> None:
            while time.monotonic() < ends:
                user, token = next(turns)
                await crowd.once(session, next(places), user, token)

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))


if __name__ == "__main__":
    main()
