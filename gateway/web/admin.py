"""Health and metrics on their own listener, never on the public one: `/health/live`, `/health/ready`, `/metrics`."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from gateway.errors import Refused
from gateway.metrics import Metrics
from gateway.storage.database import Database
from gateway.tasks import Background
from gateway.upstream.answers import HomeserverAnswered
from gateway.upstream.homeserver import Homeserver
from gateway.upstream.kind import kind_of
from gateway.upstream.sessions import SessionMethod

# Seconds for which an answer of the homeserver stands, and which all questions may take.
_KNOWN_FOR: Final = 5
_LONGEST_QUESTION: Final = 10


@dataclass(slots=True)
class Health:
    """Answers the questions of supervisors, load balancers and Prometheus.

    `key_sets` says "ok" or what is wrong with those that are fetched, "" where none is. `sessions` is None where
    nobody logs in by a JWT.
    """

    database: Database
    homeserver: Homeserver
    sessions: SessionMethod | None
    metrics: Metrics
    key_sets: Callable[[], str]
    background: Background
    _stopping: bool = field(default=False, init=False)
    _question: asyncio.Task[str] | None = field(default=None, init=False)
    _asked_at: float = field(default=0.0, init=False)

    def use(self, homeserver: Homeserver, sessions: SessionMethod | None) -> None:
        """Ask these from now on."""
        self.homeserver, self.sessions, self._question = homeserver, sessions, None

    def stop(self) -> None:
        """Be ready no more: who has a choice sends clients elsewhere."""
        self._stopping = True

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer 200 when all is well, 503 with the part that is not."""
        if request.path == "/health/live":
            return web.json_response({"status": "ok"})
        if request.path == "/health/ready":
            return await self._ready()
        if request.path == "/metrics":
            return await self._metrics(request)
        return web.json_response({"error": "there are /health/live, /health/ready and /metrics"}, status=404)

    async def _ready(self) -> web.Response:
        parts = {"database": await self._database(), "homeserver": await self._homeserver()}
        if key_sets := self.key_sets():
            parts["key_sets"] = key_sets
        if self._stopping:
            parts["gateway"] = "is stopping"
        healthy = all(part == "ok" for part in parts.values())
        return web.json_response(
            {"status": "ok" if healthy else "unavailable", **parts}, status=200 if healthy else 503
        )

    async def _metrics(self, request: web.BaseRequest) -> web.Response:
        # Not in the loop: with ten thousand files open it takes 10 ms to count them.
        body, media_type = await asyncio.to_thread(self.metrics.exposition, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": media_type})

    async def _database(self) -> str:
        try:
            await self.database.ping()
        except Refused as refused:
            return refused.reason
        return "ok"

    async def _homeserver(self) -> str:
        """Say what is lacking behind the gateway, asked once for all who want to know at about the same time."""
        now = asyncio.get_running_loop().time()
        if self._question is None or (self._question.done() and now - self._asked_at >= _KNOWN_FOR):
            question = _lacking(self.homeserver, self.sessions)
            self._question, self._asked_at = self.background.spawn(question, "ready"), now
        return await asyncio.shield(self._question)


async def _lacking(homeserver: Homeserver, sessions: SessionMethod | None) -> str:
    try:
        async with asyncio.timeout(_LONGEST_QUESTION):
            reply = await homeserver.versions()
            if reply.status != 200:
                return f"answers {reply.status}"
            if sessions is not None:
                await kind_of(homeserver)  # which is asked once, and was perhaps down at our start
                await sessions.check_ready()
    except TimeoutError:
        return f"no answer within {_LONGEST_QUESTION} s"
    except Refused as refused:
        return refused.reason
    except HomeserverAnswered as answered:  # as where it limits us: it works
        return "ok" if answered.status == 429 else f"answers {answered} to the gateway itself"
    return "ok"
