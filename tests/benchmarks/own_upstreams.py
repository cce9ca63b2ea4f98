"""Two upstreams that no ready-made server is: one that holds requests until told, and one that pours and swallows.

Each runs in a process of its own and reads only the plain requests that the benchmark sends (a length, no chunks):

    python -m tests.benchmarks.own_upstreams holding|streaming PORT
"""

import asyncio
import json
import re
import sys
from typing import cast

import uvloop

HELD = "/held"
RELEASE = "/release"
DOWNLOAD = "/_matrix/client/v1/media/download/bench.localhost/"
UPLOAD = "/_matrix/media/v3/upload"
SYNC = "/_matrix/client/v3/sync"
# What a quiet /sync has.
SYNC_ANSWER = json.dumps({"next_batch": "s72595_4483_1934", "rooms": {}, "filler": "f" * 1024}).encode()

_BLOCK = memoryview(bytes(2**18))
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *([0-9]+)")


def answer(body: bytes) -> bytes:
    return _head(len(body)) + body


def _head(length: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % length


class _Connection(asyncio.Protocol):
    """Splits what comes into requests; a kept-alive connection is read until the client ends it."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._head = b""
        self._expected = 0  # bytes of the request's body that are still to come
        self._length = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own class is none of asyncio's

    def data_received(self, data: bytes) -> None:
        if self._expected:
            self._swallow(len(data))
            return
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not end:
            return
        self._head = b""
        length = _LENGTH.search(head)
        self._length = self._expected = int(length[1]) if length else 0
        if self._expected:
            self._swallow(len(rest))
        else:
            self.requested(head.split(b" ", 2)[1].decode())

    def _swallow(self, count: int) -> None:
        self._expected -= count
        if not self._expected:
            self.transport.write(answer(b'{"read":%d}' % self._length))

    def requested(self, target: str) -> None:
        raise NotImplementedError


class Streaming(_Connection):
    """A GET below DOWNLOAD gets as many bytes as its last segment says; a body is answered when it was read whole."""

    def __init__(self) -> None:
        super().__init__()
        self._left = 0
        self._paused = False

    def requested(self, target: str) -> None:
        if not target.startswith(DOWNLOAD):
            self.transport.write(answer(b"{}"))
            return
        self._left = int(target.removeprefix(DOWNLOAD))
        self.transport.write(_head(self._left))
        self._pour()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._pour()

    def _pour(self) -> None:
        while self._left and not self._paused:
            size = min(self._left, len(_BLOCK))
            self._left -= size
            self.transport.write(_BLOCK[:size])


class Holding(_Connection):
    """Keeps every SYNC until RELEASE is asked for, then answers them all; HELD says how many there are."""

    held: set[asyncio.Transport] = set()

    def requested(self, target: str) -> None:
        path = target.partition("?")[0]
        if path == SYNC:
            self.held.add(self.transport)
            return
        body = b"%d" % len(self.held)
        if path == RELEASE:
            for transport in self.held:
                transport.write(answer(SYNC_ANSWER))
            self.held.clear()
        self.transport.write(answer(body))

    def connection_lost(self, _: Exception | None) -> None:
        self.held.discard(self.transport)


async def main() -> None:
    name, port = sys.argv[1:]
    protocol = {"holding": Holding, "streaming": Streaming}[name]
    loop = asyncio.get_running_loop()
    server = await loop.create_server(protocol, "127.0.0.1", int(port), backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
