"""Health on its own listener, never on the public one: `/health/live` and `/health/ready`."""

from dataclasses import dataclass, field

from aiohttp import web

from gateway.errors import Refused
from gateway.storage.database import Database
from gateway.upstream.homeserver import Homeserver


@dataclass(slots=True)
class Health:
    """Answers the questions of supervisors and load balancers; a reload exchanges `homeserver`."""

    database: Database
    homeserver: Homeserver
    _stopping: bool = field(default=False, init=False)

    def stop(self) -> None:
        """Be ready no more: who has a choice sends clients elsewhere."""
        self._stopping = True

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer 200 when all is well, 503 with the part that is not."""
        if request.path == "/health/live":
            return web.json_response({"status": "ok"})
        if request.path == "/health/ready":
            parts = {"database": await self._database(), "homeserver": await self._homeserver()}
            if self._stopping:
                parts["gateway"] = "is stopping"
            healthy = all(part == "ok" for part in parts.values())
            return web.json_response(
                {"status": "ok" if healthy else "unavailable", **parts}, status=200 if healthy else 503
            )
        return web.json_response({"error": "there are /health/live and /health/ready"}, status=404)

    async def _database(self) -> str:
        try:
            await self.database.ping()
        except Refused as refused:
            return refused.reason
        return "ok"

    async def _homeserver(self) -> str:
        try:
            reply = await self.homeserver.versions()
        except Refused as refused:
            return refused.reason
        return "ok" if reply.status == 200 else f"answers {reply.status}"
