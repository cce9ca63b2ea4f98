"""What the database takes of a login: a million users, a million used tokens, a user that is known, `single_use` on.

    pip install -c requirements.lock --group test -e .
    python -m tests.benchmarks.database [--rows N] [--logins N] [--directory DIR] [--json FILE]

Each login finds its account, uses its token up, and is noted as seen, as `gateway.sign_in` does it: one at a time; 16
at once and then a pause, 800 a second, more than any homeserver opens sessions; and 16 at once without a pause, where
they wait for the processor. A commit waits until the disk has it, so the disk's own time is measured beside it, with
nothing but a write and `fdatasync`. A benchmark, not a test: it judges nothing.
"""

import argparse
import asyncio
import json
import os
import random
import secrets
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop
from rich.console import Console

from gateway.core.identity import Identity
from gateway.logs import LogSettings, get_logger
from gateway.storage.accounts import Accounts
from gateway.storage.database import Database, DatabaseSettings, open_database, upgrade_database
from gateway.storage.last_seen import LastSeen
from gateway.storage.used_tokens import SPARE_SECONDS, UsedTokens
from gateway.tasks import Background
from tests.benchmarks.plan import table

ISSUER = "https://id.example.org"
NOW = 1_800_000_000
LIFETIME = 3600


@dataclass(frozen=True)
class Figures:
    """Milliseconds of one step, for one login."""

    step: str
    at_once: str
    per_second: int
    p50: float
    p99: float
    worst: float


@dataclass(frozen=True)
class Pace:
    """How many logins start together, and how long after their end the next do, in seconds."""

    name: str
    at_once: int
    pause: float


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="users, and as many used tokens")
    parser.add_argument("--logins", type=int, default=2000, help="logins for each figure")
    parser.add_argument("--directory", type=Path, help="where the database file is made; its disk is what counts")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
        path = Path(name) / "gateway.db"
        settings = DatabaseSettings(url=f"sqlite:///{path}")
        await upgrade_database(settings)
        with console.status("writing the rows"):
            fill(path, arguments.rows)
            os.sync()
        figures = [disk(Path(name), arguments.logins)]
        async with open_database(settings) as database:
            for pace in (Pace("1", 1, 0.001), Pace("16", 16, 0.02), Pace("16, no pause", 16, 0)):
                figures += await measure(database, arguments.rows, arguments.logins, pace)
    rows = [
        [figure.step, figure.at_once, f"{figure.per_second:,}"]
        + [f"{value:.2f}" for value in (figure.p50, figure.p99, figure.worst)]
        for figure in figures
    ]
    title = f"The database's part of a login, {arguments.rows:,} users and used tokens"
    console.print(table(title, ["", "at once", "a second", "p50 ms", "p99 ms", "worst ms"], rows))
    if arguments.json:
        arguments.json.write_text(json.dumps({"database": [asdict(figure) for figure in figures]}, indent=2))


def fill(path: Path, rows: int) -> None:
    """Write the rows straight; no token is past its time when the logins begin."""

    def users() -> Iterator[tuple[object, ...]]:
        for number in range(rows):
            yield f"user{number}", ISSUER, f"subject-{number}", "active", NOW, NOW

    def tokens() -> Iterator[tuple[object, ...]]:
        first = NOW + 1 - SPARE_SECONDS  # the next that is forgotten
        for number in range(rows):
            yield ISSUER, secrets.token_urlsafe(16), first + number * LIFETIME // rows

    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO accounts (localpart, issuer, subject, state, created_at, last_seen_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            users(),
        )
        connection.executemany(
            "INSERT INTO used_tokens (issuer, token_id, expires_at) VALUES (?, ?, ?)",
            tokens(),
        )


def disk(directory: Path, times: int) -> Figures:
    """What the disk takes for a page and a half of a log, as long as a commit's, to be safe."""
    found = []
    with (directory / "probe").open("wb", buffering=0) as file:
        for _ in range(times):
            began = time.perf_counter()
            file.write(b"\0" * 8240)
            os.fdatasync(file.fileno())
            found.append(time.perf_counter() - began)
    return summary("the disk alone: write, fdatasync", "1", found, sum(found))


async def measure(database: Database, rows: int, logins: int, pace: Pace) -> list[Figures]:
    """Return the figures of each step, and of all of a login."""
    background = Background(get_logger(LogSettings()))
    accounts, used_tokens = Accounts(database), UsedTokens(database, background)
    last_seen = LastSeen(accounts, background)
    pick = random.Random(pace.name)
    moment = iter(range(NOW, NOW + 10**9))

    def someone() -> Identity:
        number = pick.randrange(rows)
        return Identity(ISSUER, f"subject-{number}", f"user{number}", f"@user{number}:example.org")

    async def find() -> None:
        assert await accounts.find(someone())

    async def use() -> None:
        # One token goes past its time with about every third login, as in a steady state.
        now = NOW + (next(moment) - NOW) // 1000
        assert await used_tokens.use(ISSUER, secrets.token_urlsafe(16), now + LIFETIME, now)

    async def login() -> None:
        identity = someone()
        assert await accounts.find(identity)
        await use()
        last_seen.note(identity.localpart, NOW)

    figures = []
    for step, call in (("find the account", find), ("use the token up", use), ("all of a login", login)):
        await timed(call, 10 * pace.at_once, pace)  # warms up
        began = time.perf_counter()
        found = await timed(call, logins, pace)
        figures.append(summary(step, pace.name, found, time.perf_counter() - began))
    last_seen.hurry()
    await background.close(5)
    return figures


async def timed(call: Callable[[], Awaitable[None]], times: int, pace: Pace) -> list[float]:
    found = []

    async def one() -> None:
        began = time.perf_counter()
        await call()
        found.append(time.perf_counter() - began)

    async def one_after_another() -> None:
        for _ in range(times // pace.at_once):
            await one()

    if not pace.pause:
        await asyncio.gather(*(one_after_another() for _ in range(pace.at_once)))
    else:
        for _ in range(times // pace.at_once):
            await asyncio.gather(*(one() for _ in range(pace.at_once)))
            await asyncio.sleep(pace.pause)
    return found


def summary(step: str, at_once: str, found: list[float], seconds: float) -> Figures:
    milliseconds = sorted(value * 1000 for value in found)
    p99 = statistics.quantiles(milliseconds, n=100)[98]
    return Figures(
        step,
        at_once,
        round(len(found) / seconds),
        round(statistics.median(milliseconds), 3),
        round(p99, 3),
        round(milliseconds[-1], 3),
    )


if __name__ == "__main__":
    uvloop.run(main())
