"""First and later logins before a homeserver that fails three of ten calls: refused, reset, 500, 429 or no answer.

    pip install -c requirements.lock --group test -e .
    python -m tests.faults.failing [--count N] [--failing SHARE] [--seed N] [--json FILE]

Each user logs in until there is a session, 32 at once, then the homeserver heals and each logs in once more. Whatever
failed, nobody may get the session of another, no account may be there twice, and the gateway's own failures are 502,
503 and 504 alone. It ends with status 1 where that is not so. A call without an answer takes 30 seconds.
"""

import argparse
import random
import sqlite3
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

import uvloop
from rich.console import Console
from rich.progress import Progress

from tests.faults.clients import Crowd, Tally
from tests.faults.nodes import made_node, running_homeserver
from tests.faults.verdict import Verdict

AT_ONCE = 32
ALLOWED = {"502", "503", "504"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="users")
    parser.add_argument("--failing", type=float, default=0.3, help="share of the calls")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    users = [f"user{number}" for number in range(arguments.count)]
    first, healed = Tally(), Tally()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        homeserver = stack.enter_context(running_homeserver(folder, arguments.failing, arguments.seed))
        node = stack.enter_context(made_node(folder, homeserver, {"log": {"level": "error"}}))
        node.start()
        chance, began = random.Random(arguments.seed), time.monotonic()
        with Progress(console=Console(stderr=True)) as progress:
            bar = progress.add_task("logins", total=2 * len(users))
            for tally in (first, healed):
                crowd = Crowd([node.url], AT_ONCE, tally, chance)
                uvloop.run(crowd.log_in(users, lambda: progress.advance(bar)))
                homeserver.heal()
        seconds = time.monotonic() - began
        state = homeserver.state()
        with closing(sqlite3.connect(node.folder / "gateway.db")) as database:
            rows = database.execute("SELECT count(*), count(DISTINCT subject) FROM accounts").fetchone()
        verdict = Verdict(f"{len(users):,} users before a homeserver that fails {arguments.failing:.0%} of all calls")
        verdict.tell("seconds", seconds)
        verdict.tell("what went wrong at the homeserver", state["faults"])
        verdict.tell("answers while it failed", dict(first.statuses))
        ours = {status for status in {*first.statuses, *healed.statuses} if status.startswith("5")}
        verdict.claim("answers of 5xx but 502, 503 and 504", sorted(ours - ALLOWED), [])
        verdict.claim("users who got a session", len(first.answered), len(users))
        verdict.claim("wrong sessions", first.wrong + healed.wrong, [])
        verdict.claim("answers once it was well", dict(healed.statuses), {"200": len(users)})
        verdict.claim("accounts at the homeserver", len(state["accounts"]), len(users))
        verdict.claim("rows and subjects in the database", list(rows), [len(users), len(users)])
        verdict.claim("tracebacks in the log", node.logs.count("Traceback"), 0)
    verdict.tell("seed", arguments.seed)
    verdict.end(arguments.json)


if __name__ == "__main__":
    main()
