"""What does not go on ends: bodies without progress either way, heads that grow; and never what only waits."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gateway.http import server as server_module
from gateway.http.states import DRAINING
from tests.raw_http import RawServer, Script, read_message
from tests.running_gateway import LOGIN, running_gateway
from tests.waiting import until
from tests.web.whole_answers import END, RESET, Wire, is_ours, read_answers, wired

SOON = 6
STALL = 1
SETTINGS = {"stall_timeout": STALL}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
BLOCK = bytes(2**16)
MUCH = 2**28
INTERIMS = 400  # 24 MB in all, far more than the buffers of the system hold
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def request(line: str, *fields: str) -> bytes:
    return "\r\n".join([f"{line} HTTP/1.1", "Host: example.org", *fields, "", ""]).encode()


async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await read_message(reader)
        writer.write(OK)


async def never_reading(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    await asyncio.sleep(SOON * 2)


async def pouring(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_message(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % MUCH)
    for _ in range(MUCH // len(BLOCK)):
        writer.write(BLOCK)
        await writer.drain()


def waiting(seconds: float) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_message(reader)
            await asyncio.sleep(seconds)
            writer.write(OK)

    return handler


UPLOADS = {
    "a length": request("POST /upload", "Content-Length: 10") + b"a",
    "chunks": request("POST /upload", "Transfer-Encoding: chunked") + b"a\r\na",
    "chunks, between them": request("POST /upload", "Transfer-Encoding: chunked") + b"1\r\na\r\n",
    "nothing of a length": request("POST /upload", "Content-Length: 10"),
}


@pytest.mark.parametrize("case", UPLOADS)
async def test_an_upload_that_stalls_is_ended_on_both_sides(case: str, tmp_path: Path) -> None:
    homeserver = RawServer(answering)
    async with homeserver.running(), running_gateway(tmp_path, homeserver.url, server=SETTINGS) as gateway:
        async with wired(gateway.port) as client:
            begin = asyncio.get_running_loop().time()
            await client.send(UPLOADS[case])
            received = await client.receive(SOON)
            took = asyncio.get_running_loop().time() - begin
        await until(lambda: not homeserver.open, SOON)
        assert received.ended in {END, RESET}
        assert STALL * 0.9 <= took < STALL * 3.5
        if received.octets:
            (answer,) = read_answers(received, ["POST"])
            assert answer.status == 408
            is_ours(answer)


async def test_an_upload_that_the_homeserver_does_not_read_is_ended_on_both_sides(tmp_path: Path) -> None:
    homeserver = RawServer(never_reading)
    async with homeserver.running(), running_gateway(tmp_path, homeserver.url, server=SETTINGS) as gateway:
        async with wired(gateway.port) as client:

            async def send() -> None:
                await client.send(request("POST /upload", f"Content-Length: {MUCH}"))
                for _ in range(MUCH // len(BLOCK)):
                    await client.send(BLOCK)

            sending = asyncio.create_task(send())
            received = await client.receive(SOON)
            sending.cancel()
            await asyncio.wait([sending])
    assert received.ended in {END, RESET}


async def test_a_reader_that_never_reads_is_ended_on_both_sides(tmp_path: Path) -> None:
    homeserver = RawServer(pouring)
    async with homeserver.running(), running_gateway(tmp_path, homeserver.url, server=SETTINGS) as gateway:
        async with wired(gateway.port, receive_buffer=4096) as client:
            await client.send(request("GET /download"))
            await until(lambda: homeserver.open, SOON)
            await until(lambda: not homeserver.open, SOON)
            received = await client.receive(SOON)
    assert received.ended in {END, RESET}
    (answer,) = read_answers(received, ["GET"])
    assert not answer.whole


async def test_interim_answers_come_no_faster_than_their_client_reads(tmp_path: Path) -> None:
    sent = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_message(reader)
        for _ in range(INTERIMS):
            writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: %b\r\n\r\n" % (b"a" * 60_000))
            await writer.drain()
            sent += 1
        writer.write(OK)

    homeserver = RawServer(handler)
    async with homeserver.running(), running_gateway(tmp_path, homeserver.url) as gateway:
        async with wired(gateway.port) as client:
            await client.send(request("GET /hints", "Connection: close"))
            before = -1
            while before < sent < INTERIMS:
                before = sent
                await asyncio.sleep(0.3)
            held_back = sent
            received = await client.receive(SOON)
    assert 0 < held_back < INTERIMS
    (answer,) = read_answers(received, ["GET"])
    assert (answer.status, len(answer.interim), received.ended) == (200, INTERIMS, END)


async def test_a_client_that_takes_no_interim_answers_is_ended_on_both_sides(tmp_path: Path) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        for _ in range(INTERIMS):
            writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: %b\r\n\r\n" % (b"a" * 60_000))
        writer.write(OK)
        writer.write_eof()
        await reader.read()

    homeserver = RawServer(handler)
    async with homeserver.running(), running_gateway(tmp_path, homeserver.url, server=SETTINGS) as gateway:
        async with wired(gateway.port, receive_buffer=4096) as client:
            await client.send(request("GET /hints"))
            await until(lambda: gateway.running.live().client_connections == 1, SOON)
            await until(lambda: gateway.running.live().client_connections == 0, SOON)
            await until(lambda: not homeserver.open, SOON)


@pytest.mark.parametrize("path", ["/x", LOGIN])
async def test_an_answer_that_stalls_is_ended_on_both_sides(path: str, tmp_path: Path) -> None:
    """Also one that is looked into, of which the client has nothing yet."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
        await reader.read()

    homeserver = RawServer(handler)
    async with homeserver.running(), running_gateway(tmp_path, homeserver.url, server=SETTINGS) as gateway:
        async with wired(gateway.port) as client:
            await client.send(request(f"GET {path}", "Connection: close"))
            received = await client.receive(SOON)
        await until(lambda: not homeserver.open, SOON)
    (answer,) = read_answers(received, ["GET"])
    assert (answer.status, answer.whole) == ((504, True) if path == LOGIN else (200, False))


async def test_a_slow_upload_goes_on(tmp_path: Path) -> None:
    homeserver = RawServer(answering)
    async with homeserver.running(), running_gateway(tmp_path, homeserver.url, server=SETTINGS) as gateway:
        async with wired(gateway.port) as client:
            await client.send(request("POST /upload", "Content-Length: 6", "Connection: close"))
            for _ in range(6):
                await asyncio.sleep(STALL * 0.4)
                await client.send(b"a")
            (answer,) = read_answers(await client.receive(SOON), ["POST"])
    assert answer.status == 200


async def read_slowly(tmp_path: Path, size: int, *, reads: int, pause: float, at_once: int) -> tuple[bytes, str]:
    """Return what comes of a download of so many octets, and how it ends, to a client that begins with pauses."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
        await writer.drain()

    async with RawServer(handler).running() as homeserver:
        async with running_gateway(tmp_path, homeserver.url, server=SETTINGS) as gateway:
            async with wired(gateway.port, receive_buffer=2**16) as client:
                await client.send(request("GET /download", "Connection: close"))
                begin = b""
                for _ in range(reads):
                    await asyncio.sleep(pause)
                    begin += await asyncio.get_running_loop().sock_recv(client.socket, at_once)
                received = await client.receive(SOON)
    return begin + received.octets, received.ended


async def test_a_slow_reader_gets_everything(tmp_path: Path) -> None:
    size = 2**20
    octets, ended = await read_slowly(tmp_path, size, reads=6, pause=STALL * 0.4, at_once=2**14)
    assert octets.endswith(bytes(size))
    assert ended == END


async def test_a_slow_reader_behind_large_buffers_gets_everything(tmp_path: Path) -> None:
    """The system takes more from the gateway only when a good part of what it has was taken."""
    size = 3 * 2**22
    octets, ended = await read_slowly(tmp_path, size, reads=20, pause=STALL * 0.25, at_once=2**16)
    assert len(octets) > size
    assert ended == END


async def test_what_nobody_wants_of_a_body_has_so_long_in_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However steadily it comes."""
    monkeypatch.setattr(server_module, "_LINGERING", 1)
    async with RawServer(answering).running() as homeserver, running_gateway(tmp_path, homeserver.url) as gateway:
        async with wired(gateway.port) as client:
            await client.send(request(f"POST {LOGIN}", f"Content-Length: {MUCH}"))
            await client.receive_until(b"}")
            assert gateway.running.live().client_connections == 1
            for _ in range(20):
                await client.send(b"a")
                await asyncio.sleep(0.2)
            await until(lambda: not gateway.running.live().client_connections, 0.1)


async def test_an_answer_that_waits_to_be_taken_has_as_long_as_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when all of it has come from the homeserver."""
    monkeypatch.setattr(server_module, "_LINGERING", 0.1)
    path, size = str(tmp_path / "gateway.sock"), 350_000
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    tables = {"listen": ["127.0.0.1:0", f"unix:{path}"], "stall_timeout": 5}
    async with RawServer(Script(answer)).running() as homeserver:
        async with running_gateway(tmp_path, homeserver.url, server=tables) as gateway:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                client.send(request("GET /download", "Connection: close"))
                await asyncio.sleep(2.8)
                (connection,) = gateway.running.entrances._server.connections  # noqa: SLF001 - or this tests nothing
                assert connection.state is DRAINING
                client.setblocking(False)  # noqa: FBT003 - the standard library takes no keyword here
                received = await Wire(client).receive(SOON)
    (whole,) = read_answers(received, ["GET"])
    assert len(whole.body) == size


@pytest.mark.parametrize(
    "octets",
    [
        request("GET /_matrix/client/v3/sync?timeout=3000", "Connection: close"),
        request("POST /keys", "Content-Length: 2", "Connection: close") + b"{}",
        request("POST /keys", "Transfer-Encoding: chunked", "Connection: close") + b"2\r\n{}\r\n0\r\n\r\n",
    ],
    ids=["GET", "a length", "chunks"],
)
async def test_an_answer_that_takes_longer_is_waited_for(octets: bytes, tmp_path: Path) -> None:
    async with RawServer(waiting(3 * STALL)).running() as homeserver:
        async with (
            running_gateway(tmp_path, homeserver.url, server=SETTINGS) as gateway,
            wired(gateway.port) as client,
        ):
            await client.send(octets)
            (answer,) = read_answers(await client.receive(SOON), ["GET"])
    assert (answer.status, answer.body) == (200, b"{}")


def fields(octets: int) -> list[str]:
    """Return so many octets of fields, each below every limit of its own."""
    return [f"X-{number:02}: " + "a" * (octets // 20 - 8) for number in range(20)]


HEADS = {
    "64,000 octets": (64_000, {}, 200),
    "67,000 octets": (67_000, {}, 431),
    "320,000 octets": (20 * 16_000, {}, 431),
    "more than max_header_bytes": (9_000, {"max_header_bytes": 8192}, 431),
    "less than max_header_bytes": (7_500, {"max_header_bytes": 8192}, 200),
    "more than the default, allowed": (80_000, {"max_header_bytes": 131_072}, 200),
}


@pytest.mark.parametrize("case", HEADS)
async def test_the_fields_of_a_head_are_bounded_together(case: str, tmp_path: Path) -> None:
    octets, server, status = HEADS[case]
    homeserver = RawServer(answering)
    async with homeserver.running(), running_gateway(tmp_path, homeserver.url, server=server) as gateway:
        async with wired(gateway.port) as client:
            await client.send(request("GET /x", "Connection: close", *fields(octets)))
            (answer,) = read_answers(await client.receive(SOON), ["GET"])
    assert answer.status == status
    assert homeserver.connections == (status == 200)
    if status == 431:
        is_ours(answer)


async def test_a_long_request_line_does_not_count_as_fields(tmp_path: Path) -> None:
    async with RawServer(answering).running() as homeserver, running_gateway(tmp_path, homeserver.url) as gateway:
        async with wired(gateway.port) as client:
            await client.send(request("GET /" + "a" * 100_000, "Connection: close", *fields(60_000)))
            (answer,) = read_answers(await client.receive(SOON), ["GET"])
    assert answer.status == 200


async def test_a_head_that_never_ends_is_refused_when_it_is_too_large(tmp_path: Path) -> None:
    """Not only when it is complete: that is what the bound is for."""
    async with RawServer(answering).running() as homeserver, running_gateway(tmp_path, homeserver.url) as gateway:
        async with wired(gateway.port) as client:
            await client.send(request("GET /x", *fields(67_000)).removesuffix(b"\r\n"))
            received = await client.receive(SOON)
    (answer,) = read_answers(received, ["GET"])
    assert answer.status == 431
    assert received.ended == END


def test_a_receive_buffer_as_small_as_asked_can_be_had() -> None:
    """Or a reader that never reads would be none."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert probe.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < 2**16
