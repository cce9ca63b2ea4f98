"""First logins over two gateways on one PostgreSQL, one of which is killed and started again all the time.

    pip install -c requirements.lock --group test -e '.[postgres]'
    python -m tests.faults.first_logins [--count N] [--every SECONDS] [--seed N] [--json FILE]

The users log in for the first time, 32 at once, at a gateway that is drawn; a client that gets no session tries again
at the other one. Each account must be there once, at the homeserver and in the database, and each user must have got
the own session. It ends with status 1 where that is not so.
"""

import argparse
import asyncio
import random
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.progress import Progress

from tests.faults.clients import Crowd, Tally
from tests.faults.nodes import Homeserver, Node, made_node, running_database, running_homeserver
from tests.faults.verdict import Verdict
from tests.postgres_server import PostgresServer
from tests.running_gateway import SERVER_NAME

AT_ONCE = 32


@dataclass
class Kills:
    """One gateway that is killed, and how often."""

    node: Node
    every: float
    times: int = 0

    async def go_on(self) -> None:
        """Kill it and start it again until cancelled; from one kill to the next it gets `every` seconds."""
        while True:
            await asyncio.sleep(self.every)
            self.node.kill()
            self.times += 1
            self.node.spawn()
            while not await asyncio.to_thread(self.node.listens):
                await asyncio.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="users")
    parser.add_argument("--every", type=float, default=2, help="seconds between two kills")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    users = [f"user{number}" for number in range(arguments.count)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        homeserver = stack.enter_context(running_homeserver(folder))
        database = stack.enter_context(running_database())
        url = database.new_database("template0")
        tables = {"database": {"url": url}, "log": {"level": "warning"}}
        nodes = [stack.enter_context(made_node(folder, homeserver, tables, name)) for name in ("first", "second")]
        for node in nodes:
            node.start()
        kills, tally = Kills(nodes[1], arguments.every), Tally()
        crowd = Crowd([node.url for node in nodes], AT_ONCE, tally, random.Random(arguments.seed))
        began = time.monotonic()
        with Progress(console=Console(stderr=True)) as progress:
            bar = progress.add_task("first logins", total=len(users))
            uvloop.run(load(crowd, users, kills, lambda: progress.advance(bar)))
        verdict = judge(users, tally, kills, time.monotonic() - began)
        look(verdict, users, homeserver, database, url)
        verdict.claim("tracebacks in the logs", sum(node.logs.count("Traceback") for node in nodes), 0)
    verdict.tell("seed", arguments.seed)
    verdict.end(arguments.json)


async def load(crowd: Crowd, users: list[str], kills: Kills, done: Any) -> None:
    killing = asyncio.create_task(kills.go_on())
    await crowd.log_in(users, done)
    killing.cancel()
    await asyncio.gather(killing, return_exceptions=True)


def judge(users: list[str], tally: Tally, kills: Kills, seconds: float) -> Verdict:
    verdict = Verdict(f"{len(users):,} first logins, {AT_ONCE} at once, two gateways, one killed with SIGKILL")
    verdict.tell("seconds", seconds)
    verdict.tell("kills", kills.times)
    verdict.tell("answers", dict(tally.statuses))
    verdict.claim("users who got a session", len(tally.answered), len(users))
    verdict.tell("of them, after another try", len(tally.retried & tally.answered))
    verdict.claim("users who retried and got none", len(tally.retried - tally.answered), 0)
    verdict.claim("wrong sessions", tally.wrong, [])
    return verdict


def look(verdict: Verdict, users: list[str], homeserver: Homeserver, database: PostgresServer, url: str) -> None:
    """Compare what the homeserver and the database have with the users."""
    state = homeserver.state()
    name = url.partition("@/")[2].partition("?")[0]
    rows = int(database.sql("SELECT count(*) FROM accounts", name))
    owners = int(database.sql("SELECT count(DISTINCT (issuer, subject)) FROM accounts WHERE state = 'active'", name))
    verdict.claim("accounts at the homeserver", len(state["accounts"]), len(users))
    verdict.claim("accounts that are nobody's", len(set(state["accounts"]) - set(users)), 0)
    verdict.claim("accounts in the database", rows, len(users))
    verdict.claim("duplicates among them", rows - owners, 0)
    verdict.tell("registrations asked for", state["calls"]["POST register"])
    verdict.tell("sessions opened", sum(state["sessions"].values()))
    told = database.sql("SELECT user_id, count(*) FROM logins WHERE outcome = 'ok' GROUP BY user_id", name)
    counts = (line.rsplit("|", 1) for line in told.splitlines())
    too_many = [user for user, count in counts if int(count) > state["sessions"].get(localpart(user), 0)]
    verdict.claim("users of whom the audit tells more sessions", too_many, [])


def localpart(user_id: str) -> str:
    return user_id[1:].removesuffix(f":{SERVER_NAME}")


if __name__ == "__main__":
    main()
