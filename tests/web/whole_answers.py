"""Answers as a client must read them: octets that came in, and how the connection ended, to frozen values.

Rule: strict as RFC 9112 6.3 and 7.1, so that an answer which two clients could read in two ways is a ValueError. The
octets are taken from the kernel itself: what had arrived before a reset is not lost, as it is in asyncio's streams.
"""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

_HEAD: Final = re.compile(rb"HTTP/1\.1 ([1-9][0-9]{2}) ([^\r\n\0]*)\r\n((?:[^\r\n\0:]+:[^\r\n\0]*\r\n)*)\r\n")
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
_PIECE: Final = 65536
END: Final = "end"
RESET: Final = "reset"


@dataclass(frozen=True)
class Answer:
    """A final answer, and how it is framed: by `length`, `chunked`, `close`, or `none` where it has no body.

    `interim` are the statuses of the answers before it; one that is not `whole` has the part that arrived.
    """

    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes
    framing: str
    interim: tuple[int, ...] = ()
    whole: bool = True

    def values(self, name: str) -> list[str]:
        return [value for had, value in self.fields if had.lower() == name.lower()]

    @property
    def closes(self) -> bool:
        return self.framing == "close" or "close" in self.values("Connection")


@dataclass(frozen=True)
class Received:
    """What came on a connection, and how it ended: `END` by FIN, `RESET` by RST, "" not at all."""

    octets: bytes
    ended: str


class Wire:
    """A client's connection without anything between it and the socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._loop = asyncio.get_running_loop()

    async def send(self, octets: bytes) -> None:
        """Send; a gateway that ends the connection meanwhile has its reasons, and its answer is read."""
        with suppress(ConnectionError):
            await self._loop.sock_sendall(self.socket, octets)

    async def send_in_pieces(self, octets: bytes, cuts: Sequence[int]) -> None:
        """Send in pieces that a gateway in this loop reads one by one."""
        for start, end in zip([0, *cuts], [*cuts, len(octets)], strict=True):
            await self.send(octets[start:end])
            await turn()

    async def receive_until(self, end: bytes) -> bytes:
        """Return what came, up to the first octets that hold `end`, or all until the connection ended."""
        octets = b""
        while end not in octets and (piece := await self.receive_some()):
            octets += piece
        return octets

    async def receive(self, seconds: float) -> Received:
        """Return everything until the connection ends, or so many seconds are over."""
        octets, ended = bytearray(), END
        try:
            async with asyncio.timeout(seconds):
                while piece := await self.receive_some():
                    octets += piece
        except TimeoutError:
            ended = ""
        except ConnectionError:
            ended = RESET
        return Received(bytes(octets), ended)

    async def receive_some(self) -> bytes:
        """Return what came, b"" at the end; ConnectionError when it is broken off."""
        return await self._loop.sock_recv(self.socket, _PIECE)


async def turn() -> None:
    """Let all others in this loop read what was sent to them: once to see it, once to act."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


@asynccontextmanager
async def wired(port: int, receive_buffer: int = 0) -> AsyncIterator[Wire]:
    with socket.socket() as connection:
        connection.setblocking(False)  # noqa: FBT003 - the standard library takes no keyword here
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
        yield Wire(connection)


def read_answers(received: Received, methods: Sequence[str]) -> list[Answer]:
    """Return the answers to requests with these methods, or as many as came; the last one may not be whole.

    Raises ValueError for anything else: what can't be read, and octets that nobody asked for.
    """
    answers: list[Answer] = []
    octets = received.octets
    for method in methods:
        if not octets or (answers and not answers[-1].whole):
            break
        answer, octets = _read(octets, method, received.ended)
        answers.append(answer)
    if octets:
        raise ValueError(f"octets that belong to no answer: {octets[:80]!r}")
    return answers


def _read(octets: bytes, method: str, ended: str) -> tuple[Answer, bytes]:
    interim: list[int] = []
    while True:
        head = _HEAD.match(octets)
        if head is None:
            raise ValueError(f"no head of an answer: {octets[:80]!r}")
        octets = octets[head.end() :]
        status = int(head[1])
        if status >= 200 or status == 101:
            break
        interim.append(status)
    pairs = [line.partition(":") for line in head[3].decode("latin-1").split("\r\n")[:-1]]
    fields = tuple((name, value.strip(" \t")) for name, _, value in pairs)
    framing, length = _framing(fields, status, method)
    body, octets, whole = _body(octets, framing, length, ended)
    return Answer(status, fields, body, framing, tuple(interim), whole), octets


def _framing(fields: Sequence[tuple[str, str]], status: int, method: str) -> tuple[str, int]:
    lengths = [value for name, value in fields if name.lower() == "content-length"]
    codings = [value for name, value in fields if name.lower() == "transfer-encoding"]
    if len(lengths) + len(codings) > 1 or codings not in ([], ["chunked"]):
        raise ValueError(f"framing that can be read in two ways: {fields}")
    if lengths and re.fullmatch("[0-9]+", lengths[0]) is None:
        raise ValueError(f"a length that is none: {lengths[0]!r}")
    if method == "HEAD" or status in {101, 204, 304}:
        return "none", 0
    if codings:
        return "chunked", 0
    return ("length", int(lengths[0])) if lengths else ("close", 0)


def _body(octets: bytes, framing: str, length: int, ended: str) -> tuple[bytes, bytes, bool]:
    """Return the body, what is behind it, and whether it is whole."""
    if framing in {"length", "none"}:
        return octets[:length], octets[length:], len(octets) >= length
    if framing == "close":
        return octets, b"", ended == END
    body = b""
    while size := _SIZE.match(octets):
        number, start = int(size[1], 16), size.end()
        data, octets = octets[start : start + number], octets[start + number :]
        body += data
        if octets[:2] != b"\r\n"[: len(octets[:2])]:
            raise ValueError(f"a chunk that is longer than its size: {octets[:80]!r}")
        if not number and octets[:2] == b"\r\n":
            return body, octets[2:], True
        if len(data) < number or len(octets) < 2:
            return body, b"", False
        octets = octets[2:]
    if re.fullmatch(rb"[0-9A-Fa-f]{0,8}\r?", octets) is None:
        raise ValueError(f"no size of a chunk: {octets[:80]!r}")
    return body, b"", False


def is_ours(answer: Answer) -> None:
    """Check that an answer is the gateway's own, for a Matrix client in a browser."""
    assert json.loads(answer.body)["errcode"].startswith("M_")
    assert answer.values("Access-Control-Allow-Origin") == ["*"]
