"""Health and metrics on their own listener, never on the public one: `/health/live`, `/health/ready`, `/metrics`."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

from gateway.errors import Refused
from gateway.metrics import Metrics
from gateway.storage.database import Database
from gateway.upstream.homeserver import Homeserver
from gateway.upstream.users import kind_of


@dataclass(slots=True)
class Health:
    """Answers the questions of supervisors, load balancers and Prometheus; a reload exchanges `homeserver`.

    `key_sets` says "ok" or what is wrong with those that are fetched, "" where none is.
    """

    database: Database
    homeserver: Homeserver
    metrics: Metrics
    key_sets: Callable[[], str]
    _stopping: bool = field(default=False, init=False)

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
        try:
            reply = await self.homeserver.versions()
            if reply.status == 200:
                await kind_of(self.homeserver)  # which is asked once, and was perhaps down at our start
        except Refused as refused:
            return refused.reason
        return "ok" if reply.status == 200 else f"answers {reply.status}"
