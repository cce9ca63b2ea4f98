"""All kinds of clients at once, good ones and bad ones, at fixed rates: what a gateway has before it on any day."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import aiohttp

from tests.fake_issuer import FakeIssuer, new_key
from tests.faults.clients import Crowd, Tally
from tests.faults.fast_homeserver import DOWNLOAD, SYNC
from tests.faults.nodes import VERSIONS
from tests.raw_http import connected
from tests.running_gateway import LOGIN, SERVER_NAME, mint

USERS = 5000
SYNCS = 100  # at once
SYNC_SECONDS = 3
_PATIENCE = 60  # seconds
_UPLOAD = bytes(2**20)
_HALF_A_HEAD = f"POST {LOGIN} HTTP/1.1\r\nHost: {SERVER_NAME}\r\nContent-Le"
_HALF_A_LOGIN = f"POST {LOGIN} HTTP/1.1\r\nHost: {SERVER_NAME}\r\nContent-Length: 90\r\n\r\n" + '{"type":'
_HALF_AN_UPLOAD = f"POST /_matrix/media/v3/upload HTTP/1.1\r\nHost: {SERVER_NAME}\r\nContent-Length: 9000000\r\n\r\n"
_BROKEN = (aiohttp.ClientError, OSError, TimeoutError, asyncio.IncompleteReadError)


@dataclass
class Visitors:
    """Clients of one gateway; `issuer` signs for the half of them, a secret for the others."""

    port: int
    issuer: FakeIssuer
    chance: random.Random
    tally: Tally = field(default_factory=Tally)
    others: Counter[str] = field(default_factory=Counter)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def come(self, seconds: float) -> None:
        """Come for so long, and be served to the end."""
        over = asyncio.get_running_loop().time() + seconds
        limit = aiohttp.ClientTimeout(total=_PATIENCE)
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(timeout=limit, connector=connector) as session,
            asyncio.TaskGroup() as tasks,
        ):

            async def at(rate: float, kind: Callable[[aiohttp.ClientSession], Awaitable[None]]) -> None:
                while asyncio.get_running_loop().time() < over:
                    tasks.create_task(self._visit(session, kind))
                    await asyncio.sleep(self.chance.expovariate(rate))

            for rate, kind in (
                (20, self._log_in), (10, self._be_refused), (50, self._ask), (1, self._upload), (3, self._download),
                (5, self._leave),
            ):  # fmt: skip
                tasks.create_task(at(rate, kind))
            for _ in range(SYNCS):
                tasks.create_task(self._sync(session, over))

    async def _visit(
        self, session: aiohttp.ClientSession, kind: Callable[[aiohttp.ClientSession], Awaitable[None]]
    ) -> None:
        try:
            await kind(session)
        except _BROKEN as error:
            self.others[type(error).__name__] += 1

    def _token(self) -> tuple[str, str]:
        number = self.chance.randrange(USERS)
        user, jti = f"user{number}", str(next(self._numbers))
        return user, mint(user, iss="ours", jti=jti) if number % 2 else self.issuer.mint(user, jti=jti)

    async def _log_in(self, session: aiohttp.ClientSession) -> None:
        user, token = self._token()
        await Crowd([], 0, self.tally, self.chance).once(session, self.url, user, token)

    async def _be_refused(self, session: aiohttp.ClientSession) -> None:
        bad = (
            mint(iss="ours", exp=1),
            mint(iss="ours", secret="not the secret of anybody, in 32 bytes"),
            mint(iss="nobody"),
            self.issuer.mint(key=new_key(f"unknown {self.chance.random()}")),
            "no token",
        )
        body = {"type": "org.matrix.login.jwt", "token": self.chance.choice(bad)}
        address = ".".join(str(self.chance.randrange(1, 255)) for _ in range(4))
        async with session.post(self.url + LOGIN, json=body, headers={"X-Forwarded-For": address}) as answer:
            self.others[f"refused {answer.status}"] += 1

    async def _ask(self, session: aiohttp.ClientSession) -> None:
        async with session.get(self.url + VERSIONS) as answer:
            await answer.read()
            self.others[f"asked {answer.status}"] += 1

    async def _upload(self, session: aiohttp.ClientSession) -> None:
        async with session.post(f"{self.url}/_matrix/media/v3/upload", data=_UPLOAD) as answer:
            self.others[f"uploaded {answer.status}"] += 1

    async def _download(self, session: aiohttp.ClientSession) -> None:
        async with session.get(self.url + DOWNLOAD) as answer:
            if self.chance.random() < 0.8:
                await answer.read()
            self.others[f"downloaded {answer.status}"] += 1

    async def _sync(self, session: aiohttp.ClientSession, over: float) -> None:
        while asyncio.get_running_loop().time() < over:
            patience = self.chance.uniform(0, 10 * SYNC_SECONDS)  # some leave before the answer
            with suppress(*_BROKEN):
                async with asyncio.timeout(patience):
                    async with session.get(f"{self.url}{SYNC}?timeout={SYNC_SECONDS * 1000}") as answer:
                        await answer.read()
                        self.others[f"synchronised {answer.status}"] += 1
            await asyncio.sleep(0.1)

    async def _leave(self, _: aiohttp.ClientSession) -> None:
        async with connected(self.port) as client:
            await client.send(self.chance.choice((_HALF_A_HEAD, _HALF_A_LOGIN, _HALF_AN_UPLOAD)).encode())
            await asyncio.sleep(self.chance.uniform(0, 1))
            if self.chance.random() < 0.5:
                client.reset()
