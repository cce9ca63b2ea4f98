"""HTTP as octets: a client that sends exactly what a test says, and a server that answers so.

Rule: no library touches a request or an answer here, so what a test sees is what was on the wire.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


_SOON = 30  # seconds
# socket(7): SO_LINGER on, for no time.
_NO_TIME = struct.pack("ii", 1, 0)


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by a reset, whatever was read of it."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_TIME)
    writer.transport.abort()


class RawClient:
    """A client's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, octets: bytes) -> None:
        self.writer.write(octets)
        await self.writer.drain()

    async def head(self) -> bytes:
        """Return an answer's status line and fields, with the empty line."""
        return await self.reader.readuntil(b"\r\n\r\n")

    async def answer(self) -> bytes:
        """Return a whole answer that has a length or is chunked."""
        return await read_message(self.reader)

    async def rest(self) -> bytes:
        """Return everything until the connection ends; ConnectionResetError when it is broken off."""
        return await self.reader.read()

    def reset(self) -> None:
        """Go away without a word."""
        reset(self.writer)


@asynccontextmanager
async def connected(to: int | str) -> AsyncIterator[RawClient]:
    """Give a connection to a port of this machine, or to a unix socket."""
    if isinstance(to, str):
        reader, writer = await asyncio.open_unix_connection(to, limit=2**20)
    else:
        reader, writer = await asyncio.open_connection("127.0.0.1", to, limit=2**20)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def exchange(port: int, octets: bytes) -> bytes:
    """Send octets and return everything that comes until the connection ends."""
    async with connected(port) as client:
        await client.send(octets)
        return await client.rest()


async def ask(port: int, start: str, *fields: str, body: bytes = b"") -> tuple[list[bytes], bytes]:
    """Ask, and return status line and fields in their order, and the body as it came."""
    head = [f"{start} HTTP/1.1", "Host: example.org", *fields, "", ""]
    async with asyncio.timeout(_SOON), connected(port) as client:
        await client.send("\r\n".join(head).encode() + body)
        if start.startswith("HEAD "):
            return (await client.head()).split(b"\r\n"), b""
        answer, _, content = (await client.answer()).partition(b"\r\n\r\n")
    return answer.split(b"\r\n"), content


def comparable(lines: list[bytes]) -> list[bytes]:
    """Leave out what differs from one answer to the next, and what frames the answer on each hop."""
    hop = (b"date: ", b"connection: ", b"transfer-encoding: ", b"server-timing: ")
    return [line for line in lines if not line.lower().startswith(hop)]


def content(lines: list[bytes], body: bytes) -> bytes:
    """Return the octets of a body without its chunks, which each hop makes as it likes."""
    if not any(line.lower().startswith(b"transfer-encoding: chunked") for line in lines):
        return body
    found = b""
    while body and (size := int(body.partition(b"\r\n")[0].partition(b";")[0], 16)):
        body = body.partition(b"\r\n")[2]
        found, body = found + body[:size], body[size + 2 :]
    return found


async def read_message(reader: asyncio.StreamReader) -> bytes:
    """Return the octets of one whole message: head and body, its chunks and trailers as they came."""
    head = await reader.readuntil(b"\r\n\r\n")
    names = {line.partition(b":")[0].lower(): line.partition(b":")[2].strip() for line in head.split(b"\r\n")[1:]}
    if b"transfer-encoding" in names:
        body = b""
        while True:
            size = await reader.readuntil(b"\r\n")
            body += size + await reader.readexactly(int(size.partition(b";")[0], 16)) + b""
            if int(size.partition(b";")[0], 16) == 0:
                while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
                    body += line
                return head + body + b"\r\n"
            body += await reader.readexactly(2)
    return head + await reader.readexactly(int(names.get(b"content-length", b"0")))


class RawServer:
    """A server in the homeserver's place: `handler` gets each connection; `open` counts those that it still has."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.open = 0
        self.ended = asyncio.Event()
        self.port = 0
        self._scheme = "http"

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._handler(reader, writer)
        finally:
            self.open -= 1
            self.ended.set()
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    @asynccontextmanager
    async def running(self, unix_path: str = "", tls: ssl.SSLContext | None = None) -> AsyncIterator["RawServer"]:
        """Listen on a free port, with or without TLS, or on a unix socket."""
        if unix_path:
            server = await asyncio.start_unix_server(self._accept, unix_path, limit=2**20, backlog=1024)
        else:
            server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=2**20, backlog=1024, ssl=tls)
            self._scheme = "http" if tls is None else "https"
            self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await server.wait_closed()


class Script:
    """A handler that reads whole requests and gives its answers in turn, the last one for ever."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            self.requests.append(await read_message(reader))
            writer.write(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
            await writer.drain()


@asynccontextmanager
async def never_accepting() -> AsyncIterator[int]:
    """Give a port whose queue of connections is full, so that a further one neither comes about nor is refused."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)  # noqa: FBT003 - the standard library takes no keyword here
            filler.connect_ex(("127.0.0.1", port))
        await asyncio.sleep(0.05)
        try:
            yield port
        finally:
            for filler in fillers:
                filler.close()
