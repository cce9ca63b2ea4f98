"""The homeserver of the hostile section: takes any body, and gives answers that are as costly as they can be.

    python -m tests.benchmarks.hostile_upstream PORT

It counts the octets of what it sends, and says how many at COUNT.
"""

import asyncio
import sys
from contextlib import suppress
from typing import Final

import uvloop

COUNT: Final = "/count"
REFUSED: Final = "/refused"
FIELDS: Final = "/fields"
CHUNKS: Final = "/chunks"
INTERIM: Final = "/interim"
# What is in each sound answer and nowhere else.
MARK: Final = b'{"answered":true}'
_OK: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_SOUND: Final = _OK + b"Content-Length: %d\r\n\r\n%b" % (len(MARK), MARK)
_ANSWERS: Final = {
    REFUSED: b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
    FIELDS: _OK + b"X-F: " + b"\r\nX-F: ".join([b"f" * 600] * 90) + b"\r\nContent-Length: 2\r\n\r\n{}",
    CHUNKS: _OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 10_000 + b"0\r\n\r\n",
    INTERIM: b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n" * 1000 + _SOUND,
}
_LONGEST: Final = 2**22


class Upstream:
    """Serves connections; reads as the gateway writes, and no more than that."""

    def __init__(self) -> None:
        self._sent = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                target = await self._request(reader)
                if target == COUNT:
                    count = b"%d" % self._sent
                    writer.write(_OK + b"Content-Length: %d\r\n\r\n%b" % (len(count), count))
                    continue
                octets = _ANSWERS.get(target, _SOUND)
                self._sent += len(octets)
                writer.write(octets)
                await writer.drain()
                if target == REFUSED:
                    break
        writer.close()

    async def _request(self, reader: asyncio.StreamReader) -> str:
        """Read a request, and return its target."""
        head = await reader.readuntil(b"\r\n\r\n")
        target = head.split(b" ", 2)[1].decode()
        if target == REFUSED:
            return target
        lines = [line.lower().partition(b":") for line in head.split(b"\r\n")]
        fields = {name: value.strip() for name, _, value in lines}
        if fields.get(b"transfer-encoding") == b"chunked":
            while size := int(await reader.readuntil(b"\r\n"), 16):
                await reader.readexactly(size + 2)
            await reader.readuntil(b"\r\n")
        else:
            await reader.readexactly(int(fields.get(b"content-length", b"0").lstrip(b"0") or b"0"))
        return target


async def main() -> None:
    server = await asyncio.start_server(Upstream(), "127.0.0.1", int(sys.argv[1]), limit=_LONGEST, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
