"""What the fakes have in common: a real server on a free port that keeps what it was asked, and fails when told."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.flavours import Refusal

CORS = {"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Headers": "X-Requested-With, Date"}
# The status of an answer that breaks the connection off instead.
BREAKS_OFF = 599


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    target: str
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def values(self, name: str) -> list[bytes]:
        return [value for key, value in self.fields if key.lower() == name.lower().encode()]

    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.body)
        return value


@dataclass
class Fault:
    """What goes wrong with a call, `times` times: an answer instead of the work, a pause, or a broken connection.

    `breaks` is "head" (no answer, no work), "after" (the work is done, no answer) or "body" (half an answer).
    """

    answer: Refusal | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    wait: asyncio.Event | None = None
    breaks: str = ""
    times: int = 1


class FakeServer:
    """A server whose subclasses answer; it may be stopped, and started again on its port."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.faults: dict[str, Fault] = {}
        self.answers: dict[str, Callable[[], web.Response]] = {}
        self.arrived = asyncio.Event()
        self.port = 0
        self._runner: web.ServerRunner | None = None

    def _name(self, path: str) -> str:
        """Return the name of a call, by which `faults` know it."""
        raise NotImplementedError

    def _answer(self, name: str, seen: Seen) -> web.Response:
        raise NotImplementedError

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def to(self, end: str) -> list[Seen]:
        """Return the requests whose path ends so."""
        return [seen for seen in self.seen if seen.path.endswith(end)]

    async def start(self) -> None:
        self._runner = web.ServerRunner(
            web.Server(self._handle, access_log=None, auto_decompress=False), shutdown_timeout=0.1
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        seen = Seen(request.method, request.raw_path, tuple(request.raw_headers), await request.read())
        self.seen.append(seen)
        self.arrived.set()
        name = self._name(seen.path)
        fault = self.faults.get(name)
        if fault is None or fault.times == 0:
            answer = self._answer(name, seen)
            return self._broken(request) if answer.status == BREAKS_OFF else answer
        fault.times -= 1
        if fault.wait is not None:
            await fault.wait.wait()
        if fault.answer is not None:
            return self._refusal(fault)
        response = None if fault.breaks == "head" else self._answer(name, seen)
        if fault.breaks and response is not None:
            self._break_off(request, response, fault.breaks)
        if fault.breaks:
            return self._broken(request)
        return response or web.Response()

    @staticmethod
    def _broken(request: web.BaseRequest) -> web.Response:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    @staticmethod
    def _refusal(fault: Fault) -> web.Response:
        assert fault.answer is not None
        status, errcode = fault.answer
        body = {"errcode": errcode, "error": "as told", **fault.extra}
        return web.json_response(body, status=status, headers={**CORS, **fault.headers})

    @staticmethod
    def _break_off(request: web.BaseRequest, response: web.Response, when: str) -> None:
        if when == "body":
            assert isinstance(response.body, bytes)
            assert request.transport is not None
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            request.transport.write(head % len(response.body) + response.body[:-5])
