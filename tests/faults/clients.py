"""The clients of the fault tests: each logs in, by whichever gateway answers, until it has its session."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import aiohttp

from tests.running_gateway import LOGIN, SERVER_NAME, mint

_PAUSE = 0.05  # seconds until a client tries again
_BROKEN = (aiohttp.ClientError, OSError, TimeoutError)


@dataclass
class Tally:
    """What the clients saw; `answered` are the users who got a session, `wrong` what was not theirs."""

    statuses: Counter[str] = field(default_factory=Counter)
    answered: set[str] = field(default_factory=set)
    retried: set[str] = field(default_factory=set)
    gave_up: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    def note(self, status: int, user: str, body: bytes) -> bool:
        """Note an answer and say whether it is the session."""
        self.statuses[str(status)] += 1
        if status != 200:
            return False
        session = json.loads(body)
        if session["user_id"] != f"@{user}:{SERVER_NAME}" or not session["access_token"].endswith(f".{user}"):
            self.wrong.append(f"{user} got a session of {session['user_id']}")
        self.answered.add(user)
        return True


@dataclass(frozen=True)
class Crowd:
    """`at_once` clients at the gateways `urls`; which one a client asks is drawn, and the next time it is another."""

    urls: Sequence[str]
    at_once: int
    tally: Tally
    chance: random.Random
    tries: int = 200
    answer_within: float = 120

    async def log_in(self, users: Iterable[str], done: Callable[[], object] = lambda: None) -> None:
        """Log every user in; `done` is called after each."""
        waiting = iter(users)
        limit = aiohttp.ClientTimeout(total=self.answer_within)
        async with aiohttp.ClientSession(timeout=limit, connector=aiohttp.TCPConnector(limit=0)) as session:

            async def work() -> None:
                for user in waiting:
                    await self._until_opened(session, user)
                    done()

            await asyncio.gather(*(work() for _ in range(self.at_once)))

    async def _until_opened(self, session: aiohttp.ClientSession, user: str) -> None:
        token = mint(user)
        first = self.chance.randrange(len(self.urls))
        for number in range(self.tries):
            if number:
                self.tally.retried.add(user)
                await asyncio.sleep(_PAUSE)
            if await self.once(session, self.urls[(first + number) % len(self.urls)], user, token):
                return
        self.tally.gave_up.add(user)

    async def once(self, session: aiohttp.ClientSession, url: str, user: str, token: str) -> bool:
        """Try to log in, and say whether it came to a session."""
        body = {"type": "org.matrix.login.jwt", "token": token}
        try:
            async with session.post(url + LOGIN, json=body) as answer:
                return self.tally.note(answer.status, user, await answer.read())
        except _BROKEN as error:
            self.tally.statuses[_named(error)] += 1
            return False


def _named(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return "refused"
    return "too late" if isinstance(error, TimeoutError) else "broken off"
