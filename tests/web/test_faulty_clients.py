"""Clients that read slowly, send slowly, ask for too much or go away: what they cost, and that it ends with them.

Unix sockets are used where octets are counted: their buffers are small and do not grow, so that what was sent and not
taken is in the gateway. All of it on the loop of `serve` and on Python's own.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gateway.http.client_connection import ClientConnection
from tests.raw_http import RawClient, RawServer, connected, read_message
from tests.running_gateway import running_gateway

SOON = 10
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
HOST = b"Host: example.org\r\n"
GET = b"GET /_matrix/x HTTP/1.1\r\n" + HOST + b"\r\n"
BLOCK = bytes(range(256)) * 256
BLOCKS = 1024
# What the system keeps for two unix sockets (socket(7), wmem_default) and what the test's own end does.
OUTSIDE = 2 * 212_992 + 2 * 2**16
# What the gateway may keep of a body for each connection.
KEPT = 2**19

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Run = Callable[[Any], Any]
LOOPS = {"asyncio": asyncio.run, "uvloop": uvloop.run}
on_both_loops = pytest.mark.parametrize("run", LOOPS.values(), ids=LOOPS)


@asynccontextmanager
async def on_unix_sockets(tmp_path: Path, handler: Handler) -> AsyncIterator[tuple[str, RawServer]]:
    """Run the gateway between two unix sockets; yields the path of its own."""
    ours, theirs = str(tmp_path / "gateway.sock"), str(tmp_path / "homeserver.sock")
    async with RawServer(handler).running(theirs) as upstream:
        async with running_gateway(tmp_path, f"unix:{theirs}", server={"listen": ["127.0.0.1:0", f"unix:{ours}"]}):
            yield ours, upstream


class Counted:
    """A body that counts how much of it was taken."""

    def __init__(self) -> None:
        self.sent = 0

    async def send(self, writer: asyncio.StreamWriter, *, chunked: bool) -> None:
        for _ in range(BLOCKS):
            writer.write(b"%x\r\n%b\r\n" % (len(BLOCK), BLOCK) if chunked else BLOCK)
            await writer.drain()
            if writer.is_closing():
                return
            self.sent += len(BLOCK)
        if chunked:
            writer.write(b"0\r\n\r\n")

    async def held_back(self) -> int:
        """Wait until nobody takes any more; returns how much was taken."""
        seen = -1
        while self.sent != seen:
            seen = self.sent
            await asyncio.sleep(0.1)
        return seen


async def digest(reader: asyncio.StreamReader, *, chunked: bool) -> bytes:
    """Read a body of BLOCKS blocks."""
    hashed = hashlib.sha256()
    left = BLOCKS * len(BLOCK)
    while left:
        size = int(await reader.readline(), 16) if chunked else min(left, 2**16)
        hashed.update(await reader.readexactly(size))
        left -= size
        if chunked:
            await reader.readexactly(2)
    if chunked:
        await reader.readexactly(5)
    return hashed.digest()


WHOLE = hashlib.sha256(BLOCK * BLOCKS).digest()
FRAMING = {
    False: b"Content-Length: %d\r\n\r\n" % (BLOCKS * len(BLOCK)),
    True: b"Transfer-Encoding: chunked\r\n\r\n",
}
both_framings = pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])


@on_both_loops
@both_framings
def test_a_slow_reader_holds_the_homeserver_back(run: Run, tmp_path: Path, *, chunked: bool) -> None:
    async def claim() -> None:
        body = Counted()

        async def big(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await read_message(reader)
                writer.write(b"HTTP/1.1 200 OK\r\n" + FRAMING[chunked])
                await body.send(writer, chunked=chunked)

        async with asyncio.timeout(SOON), on_unix_sockets(tmp_path, big) as (path, upstream):
            async with connected(path) as client:
                client.writer.transport.pause_reading()  # type: ignore[attr-defined]
                await client.send(GET)
                while not body.sent:
                    await asyncio.sleep(0.01)
                assert await body.held_back() < OUTSIDE + KEPT
                client.writer.transport.resume_reading()  # type: ignore[attr-defined]
                assert (await client.head()).endswith(FRAMING[chunked])
                assert await digest(client.reader, chunked=chunked) == WHOLE
                await client.send(GET)
                assert (await client.head()).startswith(b"HTTP/1.1 200 ")
            assert upstream.connections == 1

    run(claim())


@on_both_loops
@both_framings
def test_a_slow_homeserver_holds_an_upload_back(run: Run, tmp_path: Path, *, chunked: bool) -> None:
    async def claim() -> None:
        body = Counted()
        go_on = asyncio.Event()
        arrived = b""

        async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal arrived
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await go_on.wait()
            writer.transport.resume_reading()  # type: ignore[attr-defined]
            await reader.readuntil(b"\r\n\r\n")
            arrived = await digest(reader, chunked=chunked)
            writer.write(OK)
            await reader.read()

        async with asyncio.timeout(SOON), on_unix_sockets(tmp_path, slow) as (path, _):
            async with connected(path) as client:
                await client.send(b"POST /_matrix/x HTTP/1.1\r\n" + HOST + FRAMING[chunked])
                sending = asyncio.create_task(body.send(client.writer, chunked=chunked))
                assert await body.held_back() < OUTSIDE + KEPT
                go_on.set()
                assert await client.answer() == OK
                await sending
        assert arrived == WHOLE

    run(claim())


@on_both_loops
@both_framings
def test_what_a_slow_sender_sends_arrives_as_it_comes(run: Run, tmp_path: Path, *, chunked: bool) -> None:
    """And what is answered to it goes back while it still sends."""

    async def claim() -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n")
                for _ in range(20):
                    writer.write(await (read_chunk(reader) if chunked else reader.readexactly(1)))
                if chunked:
                    await reader.readexactly(5)

        async with asyncio.timeout(SOON), RawServer(echo).running() as upstream:
            async with running_gateway(tmp_path, upstream.url) as gateway, connected(gateway.port) as client:
                framing = FRAMING[True] if chunked else b"Content-Length: 20\r\n\r\n"
                await client.send(b"POST /_matrix/x HTTP/1.1\r\n" + HOST + framing)
                assert (await client.head()).startswith(b"HTTP/1.1 200 ")
                for number in range(20):
                    octet = bytes([number])
                    await client.send(b"1\r\n" + octet + b"\r\n" if chunked else octet)
                    assert await client.reader.readexactly(1) == octet
                if chunked:
                    await client.send(b"0\r\n\r\n")

    run(claim())


async def read_chunk(reader: asyncio.StreamReader) -> bytes:
    size = int(await reader.readline(), 16)
    chunk = await reader.readexactly(size)
    await reader.readexactly(2)
    return chunk


@on_both_loops
@both_framings
def test_a_body_that_comes_after_its_answer_is_no_part_of_the_next_request(
    run: Run, tmp_path: Path, *, chunked: bool
) -> None:
    rest = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"
    framing = b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"Content-Length: %d\r\n\r\n" % (len(rest) + 1)
    requests: list[bytes] = []

    async def claim() -> None:
        async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                requests.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(OK)
                if requests[-1].startswith(b"POST "):
                    await reader.read()
                    return

        async with asyncio.timeout(SOON), RawServer(early).running() as upstream:
            async with running_gateway(tmp_path, upstream.url) as gateway, connected(gateway.port) as client:
                await client.send(b"POST /_matrix/x HTTP/1.1\r\n" + HOST + framing)
                await client.send(b"1\r\na\r\n" if chunked else b"a")
                assert b"\r\nConnection: close\r\n" in await client.answer()
                await client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest) if chunked else rest)
                await client.send(GET)
                assert await client.rest() == b""
        assert [request.partition(b" HTTP")[0] for request in requests] == [b"POST /_matrix/x"]

    run(claim())


@on_both_loops
@pytest.mark.parametrize(
    ("how", "method", "body"), [("reset", b"GET", b""), ("closed", b"GET", b""), ("closed", b"POST", b"a")]
)
def test_of_many_requests_at_once_none_is_sent_for_a_client_that_has_gone(
    how: str, method: bytes, body: bytes, run: Run, tmp_path: Path
) -> None:
    request = method + b" /_matrix/x HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    requests: list[bytes] = []

    async def claim() -> None:
        seen = asyncio.Event()

        async def never(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            while True:
                requests.append(await read_message(reader))
                seen.set()

        async with asyncio.timeout(SOON), RawServer(never).running() as upstream:
            async with running_gateway(tmp_path, upstream.url) as gateway:
                async with connected(gateway.port) as client:
                    await client.send(request * 1000)
                    await seen.wait()
                    await leave(client, how)
                    await upstream.ended.wait()
                upstream.ended.clear()
                async with connected(gateway.port) as client:
                    await client.send(b"GET /last HTTP/1.1\r\n" + HOST + b"\r\n")
                    while len(requests) < 2:
                        await asyncio.sleep(0.01)
                await upstream.ended.wait()
                assert (upstream.connections, upstream.open) == (2, 0)
        assert requests[1].startswith(b"GET /last ")
        assert len(requests) == 2

    run(claim())


async def leave(client: RawClient, how: str) -> None:
    if how == "reset":
        client.reset()
    else:
        client.writer.transport.abort()  # a plain end, unless something has not been read
    await asyncio.sleep(0)


@on_both_loops
@pytest.mark.parametrize("how", ["reset", "closed"])
@both_framings
def test_an_upload_ends_with_its_client(how: str, run: Run, tmp_path: Path, *, chunked: bool) -> None:
    async def claim() -> None:
        body = Counted()
        octets = bytearray()

        async def upload(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(2**16):
                octets.extend(data)

        async with asyncio.timeout(SOON), RawServer(upload).running() as upstream:
            async with running_gateway(tmp_path, upstream.url) as gateway, connected(gateway.port) as client:
                await client.send(b"POST /_matrix/x HTTP/1.1\r\n" + HOST + FRAMING[chunked])
                sending = asyncio.create_task(body.send(client.writer, chunked=chunked))
                while body.sent < 2**20:
                    await asyncio.sleep(0)
                sending.cancel()
                await leave(client, how)
                await upstream.ended.wait()
        assert not octets.endswith(b"0\r\n\r\n")
        assert len(octets) < BLOCKS * len(BLOCK)

    run(claim())


@on_both_loops
def test_an_upload_that_is_held_back_ends_with_its_client(run: Run, tmp_path: Path) -> None:
    """Only a reset tells: after a plain end, what waits might be all that the client has to say."""

    async def claim() -> None:
        body = Counted()

        async def slow(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.sleep(60)

        async with asyncio.timeout(SOON), RawServer(slow).running() as upstream:
            async with running_gateway(tmp_path, upstream.url) as gateway:
                before = open_sockets()
                async with connected(gateway.port) as client:
                    await client.send(b"POST /_matrix/x HTTP/1.1\r\n" + HOST + FRAMING[False])
                    sending = asyncio.create_task(body.send(client.writer, chunked=False))
                    while not body.sent:
                        await asyncio.sleep(0.01)
                    await body.held_back()
                    sending.cancel()
                    await leave(client, "reset")
                # The homeserver's own end is left: it hears of nothing before it reads.
                while open_sockets() > before + 1:
                    await asyncio.sleep(0.01)

    run(claim())


def open_sockets() -> int:
    """The database opens files of its own beside, when it first writes."""
    found = 0
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the listing itself
            found += str(path.readlink()).startswith("socket:")
    return found


@on_both_loops
def test_requests_without_end_are_held_back(run: Run, tmp_path: Path) -> None:
    async def claim() -> None:
        asked = Counted()
        go_on = asyncio.Event()

        async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await go_on.wait()
            while True:
                await read_message(reader)
                writer.write(OK)

        async def ask(writer: asyncio.StreamWriter) -> None:
            while True:
                writer.write(GET * 1000)
                await writer.drain()
                asked.sent += 1000 * len(GET)

        async with asyncio.timeout(SOON), on_unix_sockets(tmp_path, late) as (path, _):
            async with connected(path) as client:
                asking = asyncio.create_task(ask(client.writer))
                while not asked.sent:
                    await asyncio.sleep(0.01)
                assert await asked.held_back() < OUTSIDE + KEPT
                go_on.set()
                for _ in range(1000):
                    assert await client.answer() == OK
                asking.cancel()
                client.reset()

    run(claim())


@on_both_loops
def test_a_body_that_breaks_off_before_the_homeserver_is_connected_never_reaches_it(run: Run, tmp_path: Path) -> None:
    """What comes behind is not the rest of it, nor another request."""

    async def scene() -> None:
        heads: list[bytes] = []

        async def handler(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            heads.append(await reader.readuntil(b"\r\n\r\n"))

        async with RawServer(handler).running() as homeserver:
            async with running_gateway(tmp_path, homeserver.url) as gateway:
                pool = gateway.running.entrances._server.router._relayer.pool  # noqa: SLF001 - its time to connect
                connect, may = pool.connect, asyncio.Event()

                async def later() -> ClientConnection:
                    await may.wait()
                    return await connect()

                pool.connect = later  # type: ignore[method-assign]
                async with connected(gateway.port) as client:
                    await client.send(b"POST /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
                    await asyncio.sleep(0.05)
                    await client.send(b"5\r\nhelloXX")
                    await asyncio.sleep(0.05)
                    await client.send(b"\r\n0\r\n\r\n" + GET)
                    await asyncio.sleep(0.05)
                    may.set()
                    async with asyncio.timeout(SOON):
                        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1
        assert not heads

    run(scene())
