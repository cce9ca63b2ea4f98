"""Bodies that nobody will read: the client learns at once that its connection ends, and why (RFC 9110 10.1.1)."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.benchmarks.processes import free_port
from tests.raw_http import RawServer, connected, reset
from tests.running_gateway import LOGIN, RunningGateway, running_gateway
from tests.waiting import until
from tests.web.whole_answers import END, Answer, Wire, is_ours, read_answers, wired

SOON = 4
UPLOAD = "/_matrix/media/v3/upload"
MUCH = 5 * 2**20
EXPECT = "Expect: 100-continue"


@dataclass
class Refusing:
    """A homeserver that answers each head with this status and reads no body, but keeps its connection."""

    status: int

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 %d Refused\r\nContent-Length: 2\r\n\r\n{}" % self.status)
            if not head.startswith(b"GET "):
                await reader.read()


@dataclass
class Resetting:
    """A homeserver that resets after so many octets of a request, as Synapse does beyond `max_upload_size`."""

    after: int

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(self.after)
        reset(writer)


def head(path: str, *fields: str, method: str = "POST", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: example.org", *fields, "", ""]).encode()


@asynccontextmanager
async def before(homeserver: RawServer, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    async with homeserver.running(), running_gateway(tmp_path, homeserver.url) as gateway:
        yield gateway


async def only_answer(client: Wire, method: str = "POST") -> Answer:
    """Return the answer that ends the connection by itself."""
    received = await client.receive(SOON)
    (answer,) = read_answers(received, [method])
    assert received.ended == END
    return answer


@pytest.mark.parametrize("framing", ["Content-Length: 5", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("status", [200, 401, 403, 413, 417, 429])
async def test_an_answer_before_the_expected_body_ends_the_connection(
    status: int, framing: str, tmp_path: Path
) -> None:
    homeserver = RawServer(Refusing(status))
    async with before(homeserver, tmp_path) as gateway, wired(gateway.port) as client:
        await client.send(head(UPLOAD, EXPECT, framing))
        answer = await only_answer(client)
        await until(lambda: not homeserver.open, SOON)
    assert (answer.status, answer.body, answer.interim) == (status, b"{}", ())
    assert answer.values("Connection") == ["close"]


@pytest.mark.parametrize("status", [401, 413])
async def test_an_answer_before_an_announced_body_ends_the_connection(status: int, tmp_path: Path) -> None:
    """Also of a client that asked for nothing, and still sends."""
    async with before(RawServer(Refusing(status)), tmp_path) as gateway, wired(gateway.port) as client:
        await client.send(head(UPLOAD, f"Content-Length: {MUCH}") + b"a" * 1000)
        answer = await only_answer(client)
    assert (answer.status, answer.body) == (status, b"{}")
    assert answer.values("Connection") == ["close"]


async def test_an_answer_to_a_body_that_came_keeps_the_connection(tmp_path: Path) -> None:
    """A request without a body has nothing left to read, whatever it expects."""
    homeserver = RawServer(Refusing(200))
    async with before(homeserver, tmp_path) as gateway, wired(gateway.port) as client:
        await client.send(head("/x", EXPECT, method="GET") + head("/x", "Connection: close", method="GET"))
        answers = read_answers(await client.receive(SOON), ["GET", "GET"])
    assert [(answer.status, answer.closes) for answer in answers] == [(200, False), (200, True)]


OWN = {
    "a login over max_login_body": (head(LOGIN, EXPECT, "Content-Length: 70000"), 413, "M_TOO_LARGE"),
    "a login in a coding": (head(LOGIN, EXPECT, "Content-Encoding: gzip", "Content-Length: 50"), 415, "M_UNKNOWN"),
    "a method that is not relayed": (
        head(UPLOAD, EXPECT, "Content-Length: 5", method="TRACE"),
        405,
        "M_UNRECOGNIZED",
    ),
    "an upload while the homeserver is down": (head(UPLOAD, EXPECT, "Content-Length: 5"), 502, "M_UNKNOWN"),
    "chunks while the homeserver is down": (head(UPLOAD, EXPECT, "Transfer-Encoding: chunked"), 502, "M_UNKNOWN"),
    "a length while the homeserver is down": (head(UPLOAD, f"Content-Length: {MUCH}"), 502, "M_UNKNOWN"),
    "a login over max_login_body that expects nothing": (head(LOGIN, "Content-Length: 70000"), 413, "M_TOO_LARGE"),
}


@pytest.mark.parametrize("case", OWN)
async def test_an_answer_of_ours_before_the_body_ends_the_connection(case: str, tmp_path: Path) -> None:
    octets, status, errcode = OWN[case]
    async with running_gateway(tmp_path, f"http://127.0.0.1:{free_port()}") as gateway, wired(gateway.port) as client:
        await client.send(octets)
        answer = await only_answer(client)
    assert (answer.status, json.loads(answer.body)["errcode"]) == (status, errcode)
    assert answer.interim == ()
    assert answer.values("Connection") == ["close"]
    is_ours(answer)


async def test_a_login_that_expects_gets_its_100_and_its_answer(tmp_path: Path) -> None:
    body = b'{"type": "org.matrix.login.jwt", "token": "abc"}'
    async with before(RawServer(Refusing(200)), tmp_path) as gateway, wired(gateway.port) as client:
        await client.send(head(LOGIN, EXPECT, f"Content-Length: {len(body)}"))
        async with asyncio.timeout(SOON):
            assert await client.receive_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(body + head("/x", "Connection: close", method="GET"))
        answers = read_answers(await client.receive(SOON), ["POST", "GET"])
    assert [(answer.status, answer.closes) for answer in answers] == [(403, False), (200, True)]


def upload(*, chunked: bool) -> Sequence[bytes]:
    """Return the octets of an upload of MUCH, in pieces."""
    block = b"u" * 2**16
    pieces = [b"%x\r\n%b\r\n" % (len(block), block) if chunked else block] * (MUCH // len(block))
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {MUCH}"
    return [head(UPLOAD, framing), *pieces, *([b"0\r\n\r\n"] if chunked else [])]


@pytest.mark.parametrize("chunked", [False, True], ids=["a length", "chunked"])
@pytest.mark.parametrize("after", [1000, 100_000, 1_000_000])
async def test_a_homeserver_that_resets_in_the_midst_of_an_upload_finds_it_too_large(
    after: int, tmp_path: Path, *, chunked: bool
) -> None:
    async with before(RawServer(Resetting(after)), tmp_path) as gateway, wired(gateway.port) as client:

        async def send() -> None:
            for piece in upload(chunked=chunked):
                await client.send(piece)

        sending = asyncio.create_task(send())
        received = await client.receive(SOON)
        sending.cancel()
        with suppress(asyncio.CancelledError):
            await sending
    (answer,) = read_answers(received, ["POST"])
    assert (answer.status, json.loads(answer.body)["errcode"]) == (413, "M_TOO_LARGE")
    assert answer.values("Retry-After") == []
    assert answer.closes
    is_ours(answer)


async def test_a_homeserver_that_resets_before_a_body_is_down(tmp_path: Path) -> None:
    async with before(RawServer(Resetting(10)), tmp_path) as gateway, wired(gateway.port) as client:
        await client.send(head("/x", "Connection: close", method="GET"))
        answer = await only_answer(client, "GET")
    assert answer.status == 502
    is_ours(answer)


async def test_a_piece_of_a_body_that_comes_together_with_the_reset_is_no_fault(tmp_path: Path) -> None:
    """The loop knows of the reset a moment before the gateway is told."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)  # noqa: FBT003 - the standard library takes no keyword here
        homeserver = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with running_gateway(tmp_path, homeserver) as gateway, wired(gateway.port) as client:
            await client.send(head(UPLOAD, "Content-Length: 100") + b"a")
            upstream, octets = (await loop.sock_accept(listening))[0], b""
            while not octets.endswith(b"\r\n\r\na"):
                octets += await loop.sock_recv(upstream, 4096)
            upstream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            upstream.close()
            client.socket.send(b"a")
            answer = await only_answer(client)
    assert answer.status == 413
    assert "Traceback" not in gateway.log


async def test_a_body_that_came_and_nobody_wanted_does_not_hold_the_client_back(tmp_path: Path) -> None:
    path = str(tmp_path / "gateway.sock")
    server = {"listen": ["127.0.0.1:0", f"unix:{path}"]}
    async with RawServer(Refusing(200)).running() as homeserver:
        async with running_gateway(tmp_path, homeserver.url, server=server), connected(path) as client:
            # In one read, for a unix socket takes it all at once, and more than is held.
            await client.send(head(LOGIN, "Content-Length: 70000") + b"a" * 70_000)
            assert (await client.answer()).startswith(b"HTTP/1.1 413 ")
            await client.send(head("/x", method="GET"))
            async with asyncio.timeout(SOON):
                assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
