"""A homeserver that does everything wrong: its client is told so or cut off, and the next one is served.

Each fault comes on the homeserver's first connection, with a secret in it that must not be logged; whatever comes on
the next ones is answered as it should be. All of it on the loop of `serve` and on Python's own.
"""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.raw_http import RawClient, RawServer, Script, connected, read_message, reset
from tests.running_gateway import RunningGateway, running_gateway

SOON = 8
SECRET = b"syt_c2VjcmV0_Never"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
HEAD = b"HTTP/1.1 200 OK\r\nX-Token: " + SECRET + b"\r\n"
GET = b"GET /_matrix/x HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n"

Fault = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Run = Callable[[Any], Any]
LOOPS = {"asyncio": asyncio.run, "uvloop": uvloop.run}
on_both_loops = pytest.mark.parametrize("run", LOOPS.values(), ids=LOOPS)


@dataclass
class Misbehaving:
    """The handler of a homeserver whose first exchange is `fault`; later ones are answered."""

    fault: Fault
    reads_first: bool = True
    head_seen: asyncio.Event = field(default_factory=asyncio.Event)
    sound: Script = field(default_factory=lambda: Script(OK))
    begun: bool = False

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.begun:
            await self.sound(reader, writer)
        self.begun = True
        if self.reads_first:
            await read_message(reader)
        await self.fault(reader, writer)


async def expect_a_refusal(client: RawClient) -> None:
    """The gateway's own answer, readable for a client in a browser."""
    while (head := await client.head()).startswith(b"HTTP/1.1 103 "):
        pass
    body = await client.rest()
    assert head.startswith(b"HTTP/1.1 502 "), head[:200]
    assert b"\r\nAccess-Control-Allow-Origin: *\r\n" in head
    assert json.loads(body) == {"errcode": "M_UNKNOWN", "error": "The homeserver cannot be reached"}


async def expect_a_part(client: RawClient, *, framed: bool) -> None:
    """What had arrived is there, and its end can't be taken for the end of the answer."""
    if framed:
        rest = await client.rest()
        assert len(rest) < 100
        assert b"0\r\n\r\n" not in rest
    else:
        with pytest.raises(ConnectionResetError):
            await client.rest()


async def expect_the_next_one_to_be_served(gateway: RunningGateway, upstream: RawServer) -> None:
    """Nothing is left of what went wrong: no connection, and nothing in the answers after it."""
    while upstream.open:
        await asyncio.sleep(0.01)
    for _ in range(2):
        async with connected(gateway.port) as client:
            await client.send(GET)
            assert await client.rest() == OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert upstream.connections == 2  # the third exchange on the connection of the second


def expect_a_reason(gateway: RunningGateway, caplog: pytest.LogCaptureFixture, level: str = "warning") -> None:
    """One line says what happened, and nothing of what was sent."""
    lines = [line for line in gateway.log.splitlines() if "the homeserver broke off: " in line]
    assert len(lines) == 1, gateway.log
    assert f"[{level}" in lines[0]
    assert SECRET.decode() not in gateway.log + caplog.text
    assert "Traceback" not in gateway.log + caplog.text


BEFORE_THE_ANSWER = {
    "nothing": b"",
    "half a status line": b"HTTP/1.1 2",
    "half a head": HEAD,
    "half a field": HEAD + b"X-A",
    "garbage": SECRET + b"\r\n\r\n",
    "octets": bytes(range(256)) + SECRET,
    "TLS": b"\x15\x03\x01\x00\x02\x02\x50",
    "HTTP/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + SECRET,
    "a request": b"GET /" + SECRET + b" HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "another version": b"HTTP/3.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "a status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\n{}",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\n{}",
    "a status of letters": b"HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\n{}",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}!",
    "one length twice": HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a list of lengths": HEAD + b"Content-Length: 2, 2\r\n\r\n{}",
    "a signed length": HEAD + b"Content-Length: +2\r\n\r\n{}",
    "a length below zero": HEAD + b"Content-Length: -2\r\n\r\n{}",
    "a length of letters": HEAD + b"Content-Length: two\r\n\r\n{}",
    "no length": HEAD + b"Content-Length:\r\n\r\n{}",
    "a length beyond all numbers": HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
    "both lengths": HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "both lengths, turned": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunked, but not last": HEAD + b"Transfer-Encoding: chunked, gzip\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "a space before the colon": HEAD + b"X-A : 1\r\nContent-Length: 2\r\n\r\n{}",
    "NUL in a value": HEAD + b"X-A: \0\r\nContent-Length: 2\r\n\r\n{}",
    "a bare CR in a value": HEAD + b"X-A: 1\rX-B: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a line of a million octets": HEAD + b"X-A: " + b"a" * 1_000_000 + b"\r\nContent-Length: 2\r\n\r\n{}",
    "a name of a million octets": HEAD + b"a" * 1_000_000 + b": 1\r\nContent-Length: 2\r\n\r\n{}",
    "a reason of a million octets": b"HTTP/1.1 200 " + b"a" * 1_000_000 + b"\r\nContent-Length: 2\r\n\r\n{}",
    "100,000 fields": HEAD + b"X-A: aaa\r\n" * 100_000 + b"Content-Length: 2\r\n\r\n{}",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n" + SECRET,
}


async def expect_a_502_and_a_reason(fault: Fault, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with asyncio.timeout(SOON), RawServer(Misbehaving(fault)).running() as upstream:
        async with running_gateway(tmp_path, upstream.url) as gateway:
            async with connected(gateway.port) as client:
                await client.send(GET)
                await expect_a_refusal(client)
            await expect_the_next_one_to_be_served(gateway, upstream)
            expect_a_reason(gateway, caplog)


@pytest.mark.parametrize(
    ("end", "run"),
    [("closed", asyncio.run), ("closed", uvloop.run), ("reset", uvloop.run)],
    ids=["closed, asyncio", "closed, uvloop", "reset, uvloop"],
)
@pytest.mark.parametrize("case", BEFORE_THE_ANSWER)
def test_what_is_no_answer_is_a_502(
    case: str, end: str, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def fault(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(BEFORE_THE_ANSWER[case])
        await writer.drain()
        if end == "reset":
            reset(writer)

    run(expect_a_502_and_a_reason(fault, tmp_path, caplog))


async def reset_unread(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    reset(writer)


async def endless_fields(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD)
    while True:
        writer.write(b"X-Endless: " + SECRET + b"\r\n")
        await writer.drain()


async def endless_line(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + b"X-Endless: ")
    while True:
        writer.write(SECRET * 100)
        await writer.drain()


async def endless_start(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 ")
    while True:
        writer.write(SECRET * 100)
        await writer.drain()


async def endless_empty_lines(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"\r\n" * 1000)
        await writer.drain()


ENDLESS = [reset_unread, endless_fields, endless_line, endless_start, endless_empty_lines]


@on_both_loops
@pytest.mark.parametrize("fault", ENDLESS)
def test_what_never_becomes_an_answer_is_a_502(
    fault: Fault, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(expect_a_502_and_a_reason(fault, tmp_path, caplog))


LENGTH = HEAD + b"Content-Length: 100\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"
# What comes once the client has the head: whatever it is, the answer is not whole.
WITHIN_THE_ANSWER = {
    "a length, nothing more": (LENGTH, b""),
    "a length, half of it": (LENGTH, b"half"),
    "chunks without the last": (CHUNKED, b""),
    "half a chunk": (CHUNKED, b"9\r\nha"),
    "half a size": (CHUNKED, b"9"),
    "half a last chunk": (CHUNKED, b"0\r\n"),
    "half a trailer": (CHUNKED, b"0\r\nX-A: " + SECRET),
    "a size of letters": (CHUNKED, b"xyz\r\n" + SECRET),
    "a size below zero": (CHUNKED, b"-4\r\nhalf\r\n0\r\n\r\n"),
    "a size beyond all numbers": (CHUNKED, b"fffffffffffffffff\r\nhalf\r\n0\r\n\r\n"),
    "no size": (CHUNKED, b"\r\nhalf\r\n0\r\n\r\n"),
    "a chunk longer than its size": (CHUNKED, b"4\r\nhalf and half\r\n0\r\n\r\n"),
    "a bare LF after a size": (CHUNKED, b"4\nhalf\r\n0\r\n\r\n"),
    "garbage for a trailer": (CHUNKED, b"0\r\n" + SECRET + b"\0\r\n\r\n"),
    "another answer": (CHUNKED, OK),
}


@pytest.mark.parametrize(
    ("end", "version", "run"),
    [("closed", b"1.1", asyncio.run), ("closed", b"1.0", uvloop.run), ("reset", b"1.1", uvloop.run)],
    ids=["closed, 1.1, asyncio", "closed, 1.0, uvloop", "reset, 1.1, uvloop"],
)
@pytest.mark.parametrize("case", WITHIN_THE_ANSWER)
def test_an_answer_that_goes_wrong_is_cut_off(
    case: str, end: str, version: bytes, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begin, rest = WITHIN_THE_ANSWER[case]

    async def claim() -> None:
        head_seen = asyncio.Event()

        async def fault(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(begin)
            await head_seen.wait()
            writer.write(rest)
            await writer.drain()
            if end == "reset":
                reset(writer)

        async with asyncio.timeout(SOON), RawServer(Misbehaving(fault)).running() as upstream:
            async with running_gateway(tmp_path, upstream.url) as gateway:
                async with connected(gateway.port) as client:
                    await client.send(GET.replace(b"HTTP/1.1", b"HTTP/" + version))
                    assert (await client.head()).startswith(b"HTTP/1.1 200 ")
                    head_seen.set()
                    await expect_a_part(client, framed=version == b"1.1" or begin is LENGTH)
                await expect_the_next_one_to_be_served(gateway, upstream)
                expect_a_reason(gateway, caplog)

    run(claim())


MANY_FIELDS = b"".join(b"X-%03d: " % number + b"a" * 990 + b"\r\n" for number in range(1000))
# What is odd, and an answer all the same: what is sent, and what arrives.
ODD = {
    "a head of nearly a million octets": (
        b"HTTP/1.1 200 OK\r\n" + MANY_FIELDS + b"Content-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n" + MANY_FIELDS + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}",
    ),
    # RFC 9112 5.2 leaves us this or 502.
    "obs-fold": (
        b"HTTP/1.1 200 OK\r\nX-A: 1\r\n 2\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX-A: 1 2\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
    ),
    "empty lines before": (
        b"\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
    ),
    "HTTP/1.0": (
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
    ),
    "many interim answers": (
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50 + OK,
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50
        + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
    ),
}


@on_both_loops
@pytest.mark.parametrize("case", ODD)
def test_an_answer_that_is_only_odd_arrives(case: str, run: Run, tmp_path: Path) -> None:
    sent, arrives = ODD[case]

    async def claim() -> None:
        async with asyncio.timeout(SOON), RawServer(Script(sent)).running() as upstream:
            async with running_gateway(tmp_path, upstream.url) as gateway:
                for _ in range(2):
                    async with connected(gateway.port) as client:
                        await client.send(GET)
                        assert await client.rest() == arrives

    run(claim())


@on_both_loops
@pytest.mark.parametrize("framing", ["a length", "chunks"])
def test_an_answer_may_come_octet_by_octet(framing: str, run: Run, tmp_path: Path) -> None:
    answers = {
        "a length": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789",
        "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n",
    }

    async def dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            await read_message(reader)
            for octet in b"HTTP/1.1 103 Early Hints\r\n\r\n" + answers[framing]:
                writer.write(bytes([octet]))
                await asyncio.sleep(0.001)

    async def claim() -> None:
        async with asyncio.timeout(SOON), RawServer(dribble).running() as upstream:
            async with running_gateway(tmp_path, upstream.url) as gateway, connected(gateway.port) as client:
                for _ in range(2):
                    await client.send(GET.replace(b"Connection: close\r\n", b""))
                    assert await client.head() == b"HTTP/1.1 103 Early Hints\r\n\r\n"
                    head, _, body = (await client.answer()).partition(b"\r\n\r\n")
                    assert head == answers[framing].partition(b"\r\n\r\n")[0]
                    assert unchunked(body) == b"0123456789" if framing == "chunks" else body == b"0123456789"
                assert upstream.connections == 1

    run(claim())


def unchunked(body: bytes) -> bytes:
    """Join the chunks of a body whose chunks hold no line break."""
    return b"".join(body.split(b"\r\n")[1::2])


# The method, the answer to it, and what comes behind it though nobody asked.
TOO_MUCH = {
    "a longer body": (b"GET", OK, b"more"),
    "garbage": (b"GET", OK, b"\0\xff" + SECRET),
    "an empty line and more": (b"GET", OK, b"\r\n" + SECRET),
    "an interim answer": (b"GET", OK, b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "something behind the last chunk": (b"GET", HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", SECRET),
    "a body for HEAD": (b"HEAD", OK.removesuffix(b"{}"), b"{}"),
    "chunks for HEAD": (b"HEAD", HEAD + b"\r\n", b"2\r\n{}\r\n0\r\n\r\n"),
    "a body with 204": (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n", b"{}"),
    "a body with 304": (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", b"{}"),
}


@on_both_loops
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "later"])
@pytest.mark.parametrize("case", TOO_MUCH)
def test_what_comes_behind_an_answer_reaches_nobody(
    case: str, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, *, at_once: bool
) -> None:
    """At once with the answer, it may spoil that one: a 502 is as good."""
    method, answer, rest = TOO_MUCH[case]

    async def claim() -> None:
        answered = asyncio.Event()

        async def fault(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if at_once:
                writer.write(answer + rest)
            else:
                writer.write(answer)
                await answered.wait()
                writer.write(rest)
            await reader.read()  # the connection is ended by the gateway

        async with asyncio.timeout(SOON), RawServer(Misbehaving(fault)).running() as upstream:
            async with running_gateway(tmp_path, upstream.url) as gateway:
                async with connected(gateway.port) as client:
                    await client.send(GET.replace(b"GET", method))
                    octets = await client.rest()
                    if not (at_once and octets.startswith(b"HTTP/1.1 502 ")):
                        head, _, body = answer.partition(b"\r\n\r\n")
                        assert octets.replace(b"\r\nConnection: close", b"") == head + b"\r\n\r\n" + body
                    answered.set()
                await expect_the_next_one_to_be_served(gateway, upstream)
                assert SECRET.decode() not in gateway.log + caplog.text
                assert "Traceback" not in gateway.log + caplog.text

    run(claim())


# More than any buffer on the way holds.
UPLOAD = 32 * 2**20
POST = b"POST /_matrix/media/v3/upload HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n"
UPLOADS = {
    "a length": POST + b"Content-Length: %d\r\n\r\n" % UPLOAD,
    "chunks": POST + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % UPLOAD,
}


@dataclass
class Upload:
    """A big request body on its way."""

    head: bytes
    sent: int = 0

    async def send(self, client: RawClient) -> None:
        """Send all of it, unless the other side ends the connection first, which it may."""
        with suppress(ConnectionError):
            await client.send(self.head)
            while self.sent < UPLOAD:
                await client.send(b"a" * 2**16)
                self.sent += 2**16
            if b"chunked" in self.head:
                await client.send(b"\r\n0\r\n\r\n")

    async def held_back(self) -> None:
        """Wait until nobody takes any more of it."""
        seen = -1
        while self.sent != seen:
            seen = self.sent
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("framing", UPLOADS)
@pytest.mark.parametrize("end", ["closed", "reset"])
@on_both_loops
def test_a_homeserver_that_leaves_in_the_midst_of_an_upload_takes_no_more_of_it(
    framing: str, end: str, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def fault(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(UPLOAD // 2)
        if end == "reset":
            reset(writer)

    async def claim() -> None:
        misbehaving = Misbehaving(fault, reads_first=False)
        async with asyncio.timeout(SOON), RawServer(misbehaving).running() as upstream:
            async with running_gateway(tmp_path, upstream.url) as gateway:
                async with connected(gateway.port) as client:
                    sending = asyncio.create_task(Upload(UPLOADS[framing]).send(client))
                    head, _, body = (await client.answer()).partition(b"\r\n\r\n")
                    assert head.startswith(b"HTTP/1.1 413 ")
                    assert b"\r\nRetry-After:" not in head
                    assert json.loads(body)["errcode"] == "M_TOO_LARGE"
                    await sending
                await expect_the_next_one_to_be_served(gateway, upstream)
                expect_a_reason(gateway, caplog, "info")

    run(claim())


EARLY = {
    "with a length": b"HTTP/1.1 413 Too Large\r\nContent-Length: 7\r\n\r\ntoo big",
    "with a length, closing": b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 7\r\n\r\ntoo big",
    "in chunks": b"HTTP/1.1 413 Too Large\r\nTransfer-Encoding: chunked\r\n\r\n7\r\ntoo big\r\n0\r\n\r\n",
    "that ends by close": b"HTTP/1.1 413 Too Large\r\n\r\ntoo big",
}


# Nobody can tell whether an answer is whole that should end by close and ends by a reset.
EARLY_ENDS = [(case, end) for case in EARLY for end in ("closed", "only sent")]
EARLY_ENDS.remove(("that ends by close", "closed"))


@pytest.mark.parametrize("read", [0, UPLOAD // 2], ids=["unread", "half"])
@pytest.mark.parametrize(("case", "end"), EARLY_ENDS)
@on_both_loops
def test_an_answer_before_the_request_was_read_is_the_answer(
    case: str, end: str, read: int, run: Run, tmp_path: Path
) -> None:
    """Also when the homeserver takes no more: closed with something unread, it resets the connection."""
    answered = asyncio.Event()
    upload = Upload(UPLOADS["a length"])

    async def fault(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(read)
        writer.write(EARLY[case])
        if end == "only sent":
            await upload.held_back()
            writer.write_eof()
            await answered.wait()
            while await reader.read(2**16):
                pass

    async def claim() -> None:
        misbehaving = Misbehaving(fault, reads_first=False)
        async with asyncio.timeout(SOON), RawServer(misbehaving).running() as upstream:
            async with running_gateway(tmp_path, upstream.url) as gateway:
                async with connected(gateway.port) as client:
                    sending = asyncio.create_task(upload.send(client))
                    head = await client.head()
                    assert head.startswith(b"HTTP/1.1 413 Too Large\r\n"), head
                    assert b"too big" in await client.rest()
                    answered.set()
                    await sending
                await expect_the_next_one_to_be_served(gateway, upstream)

    run(claim())
