"""A gateway on SQLite that is killed at random moments of first logins, and started again.

    pip install -c requirements.lock --group test -e .
    python -m tests.faults.kills [--count N] [--seed N] [--json FILE]

After each kill the database must be sound, and hold every user whose login was answered. At the end everybody logs in
once more: each account must be there once. It ends with status 1 where that is not so.
"""

import argparse
import asyncio
import itertools
import random
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import uvloop
from rich.console import Console
from rich.progress import track

from tests.faults.clients import Crowd, Tally
from tests.faults.nodes import Node, made_node, running_homeserver
from tests.faults.verdict import Verdict
from tests.running_gateway import mint

AT_ONCE = 8
# Seconds that a gateway lives once it listens, drawn from these.
SHORTEST, LONGEST = 0.0, 0.5


@dataclass
class Lives:
    """What became of a gateway over all its lives; `tried` are the users who asked for a session."""

    node: Node
    crowd: Crowd
    names: Iterator[str] = field(default_factory=lambda: map("user{}".format, itertools.count()))
    tried: list[str] = field(default_factory=list)
    unsound: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    async def live(self, seconds: float) -> None:
        """Log users in for the first time until the gateway is killed, so many seconds from now."""
        async with aiohttp.ClientSession() as session:

            async def work() -> None:
                while True:
                    user = next(self.names)
                    self.tried.append(user)
                    await self.crowd.once(session, self.node.url, user, mint(user))

            working = [asyncio.create_task(work()) for _ in range(AT_ONCE)]
            await asyncio.sleep(seconds)
            self.node.kill()
            await asyncio.sleep(0.01)  # answers that were sent are read
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)

    def look(self, life: int) -> None:
        """Look into the database that a kill left behind."""
        with closing(sqlite3.connect(self.node.folder / "gateway.db")) as database:
            (found,) = database.execute("PRAGMA integrity_check").fetchone()
            if found != "ok":
                self.unsound.append(f"life {life}: {found}")
            kept = {name for (name,) in database.execute("SELECT localpart FROM accounts WHERE state = 'active'")}
        self.lost += [f"{user}, life {life}" for user in sorted(self.crowd.tally.answered - kept)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="kills")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    chance, began = random.Random(arguments.seed), time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        homeserver = stack.enter_context(running_homeserver(folder))
        node = stack.enter_context(made_node(folder, homeserver, {"log": {"level": "error"}}))
        tally, again = Tally(), Tally()
        lives = Lives(node, Crowd([node.url], AT_ONCE, tally, chance))
        for life in track(range(1, arguments.count + 1), "kills", console=Console(stderr=True)):
            node.start()
            uvloop.run(lives.live(chance.uniform(SHORTEST, LONGEST)))
            lives.look(life)
        node.start()
        uvloop.run(Crowd([node.url], AT_ONCE, again, chance).log_in(lives.tried))
        accounts = homeserver.state()["accounts"]
        verdict = Verdict(f"{arguments.count} kills at random moments of first logins, SQLite")
        verdict.tell("seconds", time.monotonic() - began)
        verdict.tell("users who asked", len(lives.tried))
        verdict.tell("of them, answered before a kill", len(tally.answered))
        verdict.claim("databases that were not sound", lives.unsound, [])
        verdict.claim("users lost whose login was answered", lives.lost, [])
        verdict.claim("wrong sessions", tally.wrong + again.wrong, [])
        verdict.claim("answers at the end", dict(again.statuses), {"200": len(lives.tried)})
        verdict.claim("accounts at the homeserver", len(accounts), len(lives.tried))
        verdict.claim("tracebacks in the logs", node.logs.count("Traceback"), 0)
    verdict.tell("seed", arguments.seed)
    verdict.end(arguments.json)


if __name__ == "__main__":
    main()
