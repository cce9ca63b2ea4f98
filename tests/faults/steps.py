"""A gateway that is killed at every step of a first login, and started again.

    pip install -c requirements.lock --group test -e '.[postgres]'
    python -m tests.faults.steps [--database sqlite|postgresql] [--method appservice|jwt|mas] [--every N]

A step is a piece of what goes between the gateway and its client, its homeserver, its database or another service:
before each of them goes on, in turn, the gateway is killed with SIGKILL, each time with a new user. (SQLite is a
file: each of its states is there at one of the other steps.) Started again, it must log the user in. In the end each
account must be there once, with one owner, and the audit trail must not tell of more sessions than were opened. It
ends with status 1 where that is not so.
"""

import argparse
import asyncio
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from rich.console import Console

from tests.fake_homeserver import JWT_SECRET, FakeHomeserver, running_homeserver
from tests.fake_mas import running_mas
from tests.faults.nodes import Homeserver, Node, made_node, running_database
from tests.faults.taps import Taps
from tests.faults.verdict import Verdict
from tests.postgres_server import PostgresServer
from tests.running_gateway import LOGIN, SERVER_NAME, mint

DATABASES = ("sqlite", "postgresql")
METHODS = ("appservice", "jwt", "mas")
_MOST = 400  # steps; a first login has some sixty
_BROKEN = (aiohttp.ClientError, OSError)


@dataclass
class Place:
    """Where it happens: a gateway all of whose connections pass the taps, and what is behind it."""

    node: Node
    taps: Taps
    homeserver: FakeHomeserver
    port: int  # of the tap before the gateway
    database: tuple[PostgresServer, str] | None  # and the name in it; None: SQLite

    async def start(self) -> None:
        self.node.spawn()
        await asyncio.to_thread(self.node.wait)
        await self.taps.quiet()

    def rows(self, query: str) -> list[list[str]]:
        if self.database is not None:
            server, name = self.database
            return [line.split("|") for line in server.sql(query, name).splitlines()]
        with closing(sqlite3.connect(self.node.folder / "gateway.db")) as database:
            return [[str(value) for value in row] for row in database.execute(query)]


@dataclass
class Found:
    """What came of the kills."""

    users: list[str] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    answered: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


async def go_through(place: Place, every: int, console: Console) -> Found:
    """Kill the gateway at each `every`-th step, until a first login is over before it comes to that one."""
    found = Found()
    await place.start()
    for step in range(1, _MOST, every):
        user = f"user{step}"
        found.users.append(user)
        place.taps.arm(step)
        first = await log_in(place, user, found)
        await place.taps.quiet()
        killed_at = place.taps.disarm()
        if not killed_at:
            found.failed += [] if first else [f"{user}, whose gateway was not killed"]
            return found
        found.kills[killed_at] += 1
        found.answered += [user] if first else []
        console.print(f"step {step}: killed before what goes {killed_at}{', answered' * first}")
        await place.start()
        if not await log_in(place, user, found):
            found.failed.append(f"{user}, after a kill before what goes {killed_at}")
        await place.taps.quiet()
    raise AssertionError(f"a first login has more than {_MOST} steps")


async def log_in(place: Place, user: str, found: Found) -> bool:
    """Log a user in, and say whether there is a session."""
    body = {"type": "org.matrix.login.jwt", "token": mint(user)}
    try:
        async with (
            aiohttp.ClientSession() as client,
            client.post(f"http://127.0.0.1:{place.port}{LOGIN}", json=body) as answer,
        ):
            session = await answer.json()
    except _BROKEN:
        return False
    if answer.status != 200:
        return False
    owner = place.homeserver.sessions.get(session["access_token"])
    if (session["user_id"], owner) != (_user_id(user), _user_id(user)):
        found.wrong.append(f"{user} got a session of {owner}")
    return True


@asynccontextmanager
async def made_place(folder: Path, kind: str, method: str) -> AsyncIterator[Place]:
    taps = Taps()
    async with AsyncExitStack() as stack:
        session: dict[str, Any] = {}
        if method == "mas":
            mas = await stack.enter_async_context(running_mas())
            homeserver = mas.homeserver
            port = await stack.enter_async_context(taps.to_port("the service", mas.port))
            session = {**mas.settings, "mas_url": f"http://127.0.0.1:{port}"}
        else:
            homeserver = await stack.enter_async_context(running_homeserver())
        if method == "jwt":
            homeserver.jwt_claims = {}
            session = {"method": "jwt", "jwt_secret": JWT_SECRET, "as_token": None}
        tables: dict[str, Any] = {"session": session, "log": {"level": "warning"}}
        database = None
        if kind == "postgresql":
            server = stack.enter_context(running_database())
            name = server.new_database("template0").partition("@/")[2].partition("?")[0]
            database = server, name
            socket = f".s.PGSQL.{server.port}"
            await stack.enter_async_context(taps.to_socket("the database", folder / socket, server.folder / socket))
            tables["database"] = {"url": f"postgresql://postgres@/{name}?host={quote(str(folder), safe='')}"}
        behind = Homeserver(await stack.enter_async_context(taps.to_port("the homeserver", homeserver.port)))
        node = stack.enter_context(made_node(folder, behind, tables))
        taps.kill = node.kill
        before = await stack.enter_async_context(taps.to_port("the gateway", node.port))
        yield Place(node, taps, homeserver, before, database)


async def run(kind: str, method: str, every: int) -> Verdict:
    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        async with made_place(folder, kind, method) as place:
            found = await go_through(place, every, Console(stderr=True))
            return judge(Verdict(f"Killed at every step of a first login: {method}, {kind}"), place, found, began)


def judge(verdict: Verdict, place: Place, found: Found, began: float) -> Verdict:
    verdict.tell("seconds", time.monotonic() - began)
    verdict.tell("kills, by what was about to go on", dict(found.kills))
    verdict.tell("of them, with the login answered", len(found.answered))
    verdict.claim("users whose next login failed", found.failed, [])
    verdict.claim("wrong sessions", found.wrong, [])
    rows = place.rows("SELECT localpart, subject, state FROM accounts")
    amiss = [str(row) for row in rows if row[1:] != [row[0], "active"]]
    verdict.tell("users", len(found.users))
    verdict.claim("accounts", len(rows), len(found.users))
    verdict.claim("of them, with another owner or not active", amiss, [])
    verdict.claim("accounts at the homeserver", len(place.homeserver.users), len(found.users))
    told = Counter(user_id for (user_id,) in place.rows("SELECT user_id FROM logins WHERE outcome = 'ok'"))
    opened = Counter(place.homeserver.sessions.values())
    verdict.claim("users of whom the audit tells more sessions", sorted(told - opened), [])
    verdict.claim("users of whom the audit tells no session", sorted(set(map(_user_id, found.users)) - set(told)), [])
    verdict.claim("tracebacks in the logs", place.node.logs.count("Traceback"), 0)
    return verdict


def _user_id(user: str) -> str:
    return f"@{user}:{SERVER_NAME}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=DATABASES, default="sqlite")
    parser.add_argument("--method", choices=METHODS, default="appservice")
    parser.add_argument("--every", type=int, default=1, help="steps from one kill to the next")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    asyncio.run(run(arguments.database, arguments.method, arguments.every)).end(arguments.json)


if __name__ == "__main__":
    main()
