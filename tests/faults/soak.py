"""Mixed requests with checked octets through a gateway: no octet is wrong, no answer is another's, and none hangs.

    pip install -c requirements.lock --group test -e .
    python -m tests.faults.soak [--count N] [--seed N] [--at-once N] [--json FILE]

Sizes to 5 MB, both framings each way, pipelines, HEAD, 204, 304, interim answers, Expect: 100-continue, slow ones;
clients and homeservers that break off in the midst. It ends with status 1 where something is wrong.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import uvloop
from rich.console import Console
from rich.progress import Progress

from tests.faults.nodes import Homeserver, Node, made_node
from tests.faults.soak_client import Visit
from tests.faults.soak_homeserver import SoakHomeserver
from tests.faults.soak_plan import FAULTS, Exchange, Plans
from tests.faults.soak_tally import Tally
from tests.faults.verdict import Verdict
from tests.raw_http import RawServer
from tests.running_gateway import Tables

# So many faults are enough to be told of; each that hangs takes its time.
ENOUGH = 100
IN_ONE_LINE = ("exchanges", "sound", "wrong octets", "wrong answers", "hanging")
TABLES: Tables = {"server": {"trusted_proxies": []}, "log": {"level": "error"}}


async def soak(port: int, plans: Plans, tally: Tally, count: int, at_once: int) -> None:
    """Make all visits, so many at once."""
    visits: Iterator[tuple[Sequence[Exchange], bool]] = iter(plans)
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("exchanges", total=count)

        async def work() -> None:
            for plan, pipelined in visits:
                if tally.wrong.total() >= ENOUGH:
                    return
                await Visit(plan, pipelined, tally).make(port)
                progress.update(bar, completed=len(plans.drawn))

        async with asyncio.TaskGroup() as tasks:
            for _ in range(at_once):
                tasks.create_task(work())


async def run(stack: ExitStack, arguments: argparse.Namespace) -> Verdict:
    plans, tally = Plans(arguments.seed, arguments.count), Tally()
    homeserver = SoakHomeserver(plans.drawn, tally)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    async with RawServer(homeserver).running() as server:
        node = stack.enter_context(made_node(folder, Homeserver(server.port), TABLES))
        node.spawn()
        await asyncio.to_thread(node.wait)
        began = time.monotonic()
        await soak(node.port, plans, tally, arguments.count, arguments.at_once)
        return judge(node, plans, tally, time.monotonic() - began)


def judge(node: Node, plans: Plans, tally: Tally, seconds: float) -> Verdict:
    verdict = Verdict("Mixed requests with checked octets, one gateway")
    verdict.tell("seconds", seconds)
    verdict.tell("MiB of bodies", tally.octets / 2**20)
    verdict.tell("exchanges", len(plans.drawn))
    for name in ("sound", *FAULTS):
        verdict.tell(name, tally.done[name])
    verdict.tell("examples", tally.examples)
    verdict.claim("wrong octets", tally.wrong["octets"], 0)
    verdict.claim("wrong answers", tally.wrong["answers"], 0)
    verdict.claim("hanging", tally.wrong["hanging"], 0)
    # A wrong one ends its connection, and what was to come there is not sent.
    verdict.tell("sent in vain, or not at all", len(plans.drawn) - tally.done.total())
    verdict.claim("tracebacks in the log", node.logs.count("Traceback"), 0)
    return verdict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000, help="exchanges")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=32, help="connections")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        verdict = uvloop.run(run(stack, arguments))
    verdict.tell("seed", arguments.seed)
    print(", ".join(f"{name}: {verdict.figures[name]:,}" for name in IN_ONE_LINE))
    verdict.end(arguments.json)


if __name__ == "__main__":
    main()
