"""A connection to the homeserver: what comes answers the request at work, and what comes beside it ends it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.http.body import READ_LIMIT, BodyBroken
from gateway.http.client_connection import ClientConnection, ConnectionClosed
from gateway.http.messages import Response
from gateway.http.parser import MAX_ANSWER_HEAD, ResponseHeads
from tests.raw_http import reset
from tests.waiting import until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
HEAD = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


class Told:
    """Whoever asked: it keeps what it is told."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.interims: list[int] = []
        self.response: Response | None = None
        self.errors: list[ConnectionClosed] = []
        self.faults: list[Exception] = []
        self.writable_again = 0
        self._fault = fault

    def _may_fail(self) -> None:
        if self._fault is not None:
            raise self._fault

    def interim(self, response: Response) -> None:
        self.interims.append(response.status)

    def answered(self, response: Response) -> None:
        self.response = response
        self._may_fail()

    def lost(self, error: ConnectionClosed) -> None:
        self.errors.append(error)
        self._may_fail()

    def writable(self) -> None:
        self.writable_again += 1
        self._may_fail()

    def fail(self, fault: Exception) -> None:
        self.faults.append(fault)

    async def answer(self) -> Response:
        await until(lambda: self.response)
        assert self.response is not None
        return self.response

    async def ended(self) -> ConnectionClosed:
        await until(lambda: self.errors)
        return self.errors[0]


async def whole(response: Response) -> bytes:
    octets = b""
    while piece := await response.body.read():
        octets += piece
    return octets


class Wire:
    """The connection, and the homeserver's end of it."""

    def __init__(
        self, connection: ClientConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.connection, self.reader, self.writer = connection, reader, writer
        self.lost: list[ClientConnection] = []

    def ask(self, method: str = "GET", fault: Exception | None = None) -> Told:
        told = Told(fault)
        self.connection.begin(told, method, HEAD)
        return told

    async def say(self, octets: bytes) -> None:
        self.writer.write(octets)
        await self.writer.drain()

    async def asked(self, octets: bytes, method: str = "GET") -> Told:
        """Ask, and have the homeserver say something once it was asked."""
        told = self.ask(method)
        await self.reader.readexactly(len(HEAD))
        await self.say(octets)
        return told


@asynccontextmanager
async def wired() -> AsyncIterator[Wire]:
    accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    server = await asyncio.start_server(lambda *streams: accepted.put_nowait(streams), "127.0.0.1", 0)
    loop = asyncio.get_running_loop()
    lost: list[ClientConnection] = []
    _, connection = await loop.create_connection(
        lambda: ClientConnection(loop, ResponseHeads(), lost.append), *server.sockets[0].getsockname()
    )
    wire = Wire(connection, *await accepted.get())
    wire.lost = lost
    try:
        yield wire
    finally:
        connection.abort()
        wire.writer.transport.abort()
        server.close()
        await until(lambda: lost)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
async def test_an_answer_may_come_in_any_pieces(step: int) -> None:
    octets = (
        b"\r\n" + INTERIM * 2 + b"HTTP/1.1 200 Fine\r\nX-A: \xe4\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n2\r\nde\r\n0\r\nA: b\r\n\r\n"
    )
    async with wired() as wire:
        told = wire.ask()
        for start in range(0, len(octets), step):
            await wire.say(octets[start : start + step])
            await asyncio.sleep(0)
        response = await told.answer()
        assert (response.status, response.reason, response.raw[0]) == (200, "Fine", (b"X-A", b"\xe4"))
        assert await whole(response) == b"abcde"
        assert told.interims == [103, 103]
        wire.connection.finish()
        assert wire.connection.usable


async def test_any_number_of_interim_answers_may_come() -> None:
    async with wired() as wire:
        told = await wire.asked(INTERIM * 500 + OK)
        assert await whole(await told.answer()) == b"hello"
        assert len(told.interims) == 500


async def test_the_answer_to_head_has_no_body_and_the_next_one_has() -> None:
    async with wired() as wire:
        told = await wire.asked(OK.removesuffix(b"hello"), "HEAD")
        assert await whole(await told.answer()) == b""
        wire.connection.finish()
        told = await wire.asked(OK)
        assert await whole(await told.answer()) == b"hello"


SURPLUS = [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"garbage", b"\0", b"\r\n", OK[:30]]


@pytest.mark.parametrize("surplus", SURPLUS)
async def test_what_comes_behind_an_answer_ends_the_connection_and_not_the_answer(surplus: bytes) -> None:
    async with wired() as wire:
        told = await wire.asked(OK + surplus)
        assert await whole(await told.answer()) == b"hello"
        wire.connection.finish()
        assert not wire.connection.usable
        assert (told.errors, told.faults) == ([], [])


@pytest.mark.parametrize("surplus", SURPLUS)
async def test_what_nobody_asked_for_ends_the_connection(surplus: bytes) -> None:
    async with wired() as wire:
        told = await wire.asked(OK)
        await whole(await told.answer())
        wire.connection.finish()
        await wire.say(surplus)
        await until(lambda: not wire.connection.usable)
        with pytest.raises(ConnectionClosed):
            wire.ask()
        with pytest.raises(ConnectionClosed):
            wire.connection.write(b"x")


async def test_a_body_that_ends_by_close_is_whole() -> None:
    async with wired() as wire:
        told = await wire.asked(b"HTTP/1.1 200 OK\r\n\r\nhello")
        response = await told.answer()
        wire.writer.close()
        assert await whole(response) == b"hello"
        assert not wire.connection.usable


@pytest.mark.parametrize(
    ("framing", "by_reset"),
    [
        *(
            (framing, how)
            for framing in (b"Content-Length: 9", b"Transfer-Encoding: chunked")
            for how in (False, True)
        ),
        (b"A: b", True),
    ],
)
async def test_a_body_that_is_cut_short_is_broken(framing: bytes, *, by_reset: bool) -> None:
    async with wired() as wire:
        told = await wire.asked(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n5\r\n")
        response = await told.answer()
        if by_reset:
            reset(wire.writer)
        else:
            wire.writer.close()
        with pytest.raises(BodyBroken):
            await whole(response)
        assert told.errors == []


async def test_chunks_that_are_none_break_the_body_and_the_connection() -> None:
    async with wired() as wire:
        told = await wire.asked(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf")
        response = await told.answer()
        assert await response.body.read() == b"half"
        await wire.say(b"\r\nzz\r\n")
        with pytest.raises(BodyBroken):
            await whole(response)
        wire.connection.finish()
        assert not wire.connection.usable


@pytest.mark.parametrize("by_reset", [False, True])
async def test_whoever_waits_for_an_answer_learns_of_the_end(*, by_reset: bool) -> None:
    async with wired() as wire:
        told = await wire.asked(b"HTTP/1.1 2")
        await until(lambda: wire.connection.answered)
        if by_reset:
            reset(wire.writer)
        else:
            wire.writer.close()
        assert (await told.ended()).reset is by_reset
        await until(lambda: wire.lost == [wire.connection])
        with pytest.raises(ConnectionClosed):
            wire.ask()


NO_ANSWERS = {
    "another protocol": b"SSH-2.0\r\n\r\n",
    "another protocol, at its first octets": b"SSH-2.0-OpenSSH",
    "another protocol, unasked": b"HTTP/1.1 101 S\r\nUpgrade: a\r\nConnection: Upgrade\r\n\r\n",
    "another coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    "a head without an end": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * (MAX_ANSWER_HEAD // 6 + 1),
    "empty lines without an end": b"\r\n" * (MAX_ANSWER_HEAD // 2 + 1),
}


@pytest.mark.parametrize("case", NO_ANSWERS)
async def test_what_is_no_answer_to_us_ends_the_connection(case: str) -> None:
    async with wired() as wire:
        told = wire.ask()
        wire.writer.write(NO_ANSWERS[case])
        assert not (await told.ended()).reset
        assert not wire.connection.usable
        await until(lambda: wire.lost)


async def test_an_answer_that_nobody_reads_holds_the_homeserver_back() -> None:
    async with wired() as wire:
        told = wire.ask()
        wire.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + bytes(10**7))
        response = await told.answer()
        await until(lambda: not wire.connection.transport.is_reading())
        await asyncio.sleep(0.05)
        assert READ_LIMIT < response.body.waiting <= READ_LIMIT + 2**18
        assert len(await whole(response)) == 10**7
        wire.connection.finish()
        assert wire.connection.usable


async def test_a_homeserver_that_takes_no_more_holds_the_request_back() -> None:
    async with wired() as wire:
        told = wire.ask()
        wire.connection.write(bytes(3 * 10**7))
        assert not wire.connection.writable
        await wire.reader.readexactly(len(HEAD) + 3 * 10**7)
        await until(lambda: told.writable_again)
        assert wire.connection.writable


async def test_only_a_kept_connection_that_said_nothing_is_stale() -> None:
    async with wired() as wire:
        told = await wire.asked(OK)
        seen = [wire.connection.stale]
        await whole(await told.answer())
        wire.connection.finish()
        wire.ask()
        seen.append(wire.connection.stale)
        await wire.say(b"H")
        await until(lambda: wire.connection.answered)
        seen.append(wire.connection.stale)
    assert seen == [False, True, False]


@pytest.mark.parametrize("step", ["answered", "lost", "writable"])
async def test_a_fault_in_what_is_told_is_whoever_asked_s(step: str) -> None:
    fault = ValueError("a fault of ours")
    async with wired() as wire:
        told = wire.ask(fault=fault)
        if step == "answered":
            await wire.say(OK)
        elif step == "lost":
            wire.writer.close()
        else:
            wire.connection.write(bytes(3 * 10**7))
            await wire.reader.readexactly(len(HEAD) + 3 * 10**7)
        await until(lambda: told.faults)
        assert told.faults[0] is fault


async def test_nothing_is_told_after_an_abort() -> None:
    async with wired() as wire:
        told = await wire.asked(INTERIM)
        wire.connection.abort()
        wire.connection.abort()
        await until(lambda: wire.lost)
        wire.connection.data_received(OK)
        assert (told.response, told.errors, told.faults) == (None, [], [])


async def test_a_connection_that_never_came_about_can_be_given_up() -> None:
    connection = ClientConnection(asyncio.get_running_loop(), ResponseHeads())
    connection.abort()
    assert connection.error is not None
