"""A client's connection of the soak: sends what is planned, leaves where that is planned, and checks each answer."""

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from tests.faults import soak_plan as plans
from tests.faults.soak_plan import FIELD, Exchange
from tests.faults.soak_tally import Tally, differ, in_pieces
from tests.raw_http import reset

PATIENCE: Final = 20.0  # seconds for one exchange
_HEAD: Final = re.compile(rb"HTTP/1\.1 ([0-9]{3}) [^\r\n]*\r\n((?:[^\r\n:]+:[^\r\n]*\r\n)*)\r\n")
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
_PIECE: Final = 2**16
_ENDED: Final = (ConnectionError, asyncio.IncompleteReadError)


class WrongAnswer(Exception):
    """An answer that is none, or is another request's."""


@dataclass
class Head:
    status: int
    fields: dict[str, str]


@dataclass
class Visit:
    """The exchanges of one connection, sent in a pipeline or one after the other."""

    plan: Sequence[Exchange]
    pipelined: bool
    tally: Tally
    # By their numbers: whether the body that waits for a 100 may go up, and whether the answer came.
    may_send_body: dict[int, asyncio.Future[bool]] = field(default_factory=dict)
    answered: dict[int, asyncio.Event] = field(default_factory=dict)

    async def make(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        self.may_send_body = {one.number: loop.create_future() for one in self.plan}
        self.answered = {one.number: asyncio.Event() for one in self.plan}
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=_PIECE)
        sending = asyncio.create_task(self._send(writer))
        try:
            for exchange in self.plan:
                if not await self._one(exchange, reader, writer):
                    break
        finally:
            sending.cancel()
            await asyncio.wait([sending])
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _one(self, exchange: Exchange, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Have one exchange; return whether the connection goes on."""
        try:
            async with asyncio.timeout(PATIENCE):
                whole = await self._receive(exchange, reader, writer)
        except TimeoutError:
            self.tally.hanging(
                f"{exchange.number}: {exchange.fault or 'sound'}, {exchange.upload}, {exchange.download}"
            )
            return False
        except WrongAnswer as error:
            self.tally.wrong_answer(f"{exchange.number}: {error}")
            return False
        except _ENDED as error:
            if exchange.fault in {plans.SOUND, plans.REFUSES}:
                self.tally.wrong_answer(f"{exchange.number}: {exchange.upload}, {exchange.download}: {error!r}"[:300])
            else:
                self.tally.done[exchange.fault] += 1
            return False
        if whole and exchange.fault not in {plans.SOUND, plans.REFUSES}:
            self.tally.wrong_answer(f"{exchange.number}: whole, though {exchange.fault}")
            return False
        self.tally.done[exchange.fault or "sound"] += 1
        self.answered[exchange.number].set()
        return not (exchange.fault or exchange.closes)

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        async def write(octets: bytes) -> None:
            writer.write(octets)
            await writer.drain()

        with suppress(ConnectionError):
            for exchange in self.plan:
                if exchange.fault:  # a reset would take from us what came before it and was not read
                    await asyncio.gather(*(self.answered[earlier.number].wait() for earlier in self.plan[:-1]))
                octets = exchange.upload.framed(exchange.chance)
                if exchange.fault == plans.LEAVES_UPLOAD:
                    octets = octets[: len(octets) // 2]
                if exchange.expects:
                    writer.write(exchange.head)
                    if not await self.may_send_body[exchange.number]:
                        return
                else:
                    octets = exchange.head + octets
                await in_pieces(octets, exchange.chance, write, slow=exchange.slow)
                if exchange.fault == plans.LEAVES_UPLOAD:
                    self._leave(exchange, writer)
                    return
                if not self.pipelined:
                    await self.answered[exchange.number].wait()

    @staticmethod
    def _leave(exchange: Exchange, writer: asyncio.StreamWriter) -> None:
        if exchange.number % 2:
            reset(writer)
        else:
            writer.close()

    async def _receive(self, exchange: Exchange, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Read the answer and check it; return whether it is the one that was planned, whole."""
        head = await self._final_head(exchange, reader)
        if not self.may_send_body[exchange.number].done():
            self.may_send_body[exchange.number].set_result(False)
        if FIELD.lower() not in head.fields and exchange.fault and head.status in {400, 408, 413, 502}:
            return False  # the gateway's own word on it
        if (head.status, head.fields.get(FIELD.lower())) != (exchange.status, str(exchange.number)):
            raise WrongAnswer(f"{head.status} {head.fields.get(FIELD.lower(), '')} for {exchange.status}")
        if exchange.fault == plans.LEAVES_DOWNLOAD:
            await reader.read(1000)
            self._leave(exchange, writer)
            return False
        wanted = exchange.download.octets
        found = bytearray()
        try:
            await self._body(exchange, head, reader, found)
        finally:
            self.tally.octets += len(found)
            if not wanted.startswith(found):
                self.tally.wrong_octets(differ(f"{exchange.number}, download", bytes(found), wanted))
        if len(found) < len(wanted):
            raise WrongAnswer(differ("a part that looks whole", bytes(found), wanted))
        return True

    async def _final_head(self, exchange: Exchange, reader: asyncio.StreamReader) -> Head:
        early = 0
        while (head := await self._head(reader)).status < 200:
            if head.status == 100 and exchange.expects and not self.may_send_body[exchange.number].done():
                self.may_send_body[exchange.number].set_result(True)
            elif head.status == 103 and head.fields.get(FIELD.lower()) == str(exchange.number):
                early += 1
            else:
                raise WrongAnswer(f"an interim answer to nothing: {head}")
        relayed = FIELD.lower() in head.fields
        if relayed and early != (exchange.interim if exchange.version == "1.1" else 0):
            raise WrongAnswer(f"{early} interim answers for {exchange.interim}")
        return head

    @staticmethod
    async def _head(reader: asyncio.StreamReader) -> Head:
        octets = await reader.readuntil(b"\r\n\r\n")
        found = _HEAD.fullmatch(octets)
        if found is None:
            raise WrongAnswer(f"no head: {octets[:200]!r}")
        lines = [line.partition(":") for line in found[2].decode("latin-1").split("\r\n")[:-1]]
        return Head(int(found[1]), {name.lower(): value.strip() for name, _, value in lines})

    @staticmethod
    async def _body(exchange: Exchange, head: Head, reader: asyncio.StreamReader, found: bytearray) -> None:
        """Read the body into `found`, by the framing that the client sees."""
        if exchange.bodyless:
            return
        if exchange.slow:
            await asyncio.sleep(0.1)
        if head.fields.get("transfer-encoding") == "chunked":
            while True:
                line = await reader.readuntil(b"\r\n")
                size = _SIZE.fullmatch(line)
                if size is None:
                    raise WrongAnswer(f"an odd chunk size: {line[:80]!r}")
                await _exactly(reader, int(size[1], 16), found)
                if await reader.readexactly(2) != b"\r\n":
                    raise WrongAnswer("a chunk longer than its size")
                if not int(size[1], 16):
                    return
        if "content-length" in head.fields:
            await _exactly(reader, int(head.fields["content-length"]), found)
            return
        while piece := await reader.read(_PIECE):
            found += piece


async def _exactly(reader: asyncio.StreamReader, count: int, found: bytearray) -> None:
    while count:
        piece = await reader.read(min(count, _PIECE))
        if not piece:
            raise asyncio.IncompleteReadError(b"", count)
        found += piece
        count -= len(piece)
