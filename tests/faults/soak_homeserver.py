"""The homeserver of the soak: checks every octet of what arrives against the plan, and answers, or fails, as planned.

Rule: it reads as strictly as can be, so that a request which two servers could read in two ways is counted as wrong.
"""

import asyncio
import re
from collections.abc import Mapping
from typing import Final

from tests.faults import soak_plan as plans
from tests.faults.soak_plan import FIELD, PATH, Exchange
from tests.faults.soak_tally import Tally, differ, in_pieces
from tests.raw_http import reset

_HEAD: Final = re.compile(rb"([A-Z]+) ([!-~]+) HTTP/1\.1\r\n((?:[!#-'*+.^_`|~0-9A-Za-z-]+: [^\r\n\0]*\r\n)*)\r\n")
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
# What the gateway asks on its own behalf when it starts.
_PROBES: Final = tuple(
    f"GET {target} HTTP/1.1\r\n".encode()
    for target in (
        "/_matrix/client/v3/login",
        "/_matrix/federation/v1/version",
        "/_matrix/client/versions",
        "/_tuwunel/server_version",
        "/_matrix/key/v2/server",
        "/_matrix/client/v3/account/whoami",
    )
)
_FLOWS: Final = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{"flows": []}'
_MAY_LEAVE: Final = {plans.LEAVES_DOWNLOAD, plans.LEAVES_UPLOAD}


class OddRequest(Exception):
    """What arrived can't be read in one way only, or is none that was planned."""


class SoakHomeserver:
    """Serves the exchanges that were drawn."""

    def __init__(self, drawn: Mapping[int, Exchange], tally: Tally) -> None:
        self._drawn = drawn
        self._tally = tally
        self.whole: set[int] = set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        exchange: Exchange | None = None
        try:
            while True:
                exchange = None
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(_PROBES):
                    writer.write(_FLOWS)
                    continue
                exchange, fields = self._planned(head)
                if not await self._serve(exchange, fields, reader, writer):
                    return
        except asyncio.IncompleteReadError as error:
            if error.partial and exchange is None:
                self._tally.wrong_octets(f"half a head arrived: {error.partial[:80]!r}")
            elif exchange is not None and exchange.fault != plans.LEAVES_UPLOAD:
                self._tally.wrong_octets(f"{exchange.number}: its body broke off")
        except ConnectionError:
            if exchange is not None and exchange.fault not in _MAY_LEAVE:
                self._tally.wrong_answer(f"{exchange.number}: the gateway left")
        except (OddRequest, asyncio.LimitOverrunError) as error:
            self._tally.wrong_octets(str(error))

    def _planned(self, head: bytes) -> tuple[Exchange, dict[str, str]]:
        found = _HEAD.fullmatch(head)
        if found is None:
            raise OddRequest(f"a head that can be read in two ways: {head[:200]!r}")
        target = found[2].decode()
        number = target.removeprefix(PATH)
        exchange = self._drawn.get(int(number)) if target.startswith(PATH) and number.isdecimal() else None
        if exchange is None:
            raise OddRequest(f"a request that nobody sent: {head[:200]!r}")
        lines = [line.partition(": ") for line in found[3].decode("latin-1").split("\r\n")[:-1]]
        fields = {name.lower(): value for name, _, value in lines}
        said = (found[1].decode(), fields.get(FIELD.lower()), fields.get("expect"), fields.get("x-trailer"))
        expects = "100-continue" if exchange.expects else None
        if said != (exchange.method, str(exchange.number), expects, None) or len(fields) != len(lines):
            raise OddRequest(f"{exchange.number}: another head: {head[:200]!r}")
        if exchange.number in self.whole:
            raise OddRequest(f"{exchange.number}: arrived twice")
        return exchange, fields

    async def _serve(
        self,
        exchange: Exchange,
        fields: Mapping[str, str],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Serve one request; return whether the connection goes on."""
        if exchange.fault == plans.RESETS_UPLOAD:
            await reader.readexactly(exchange.upload.size // 2)
            reset(writer)
            return False
        if exchange.fault != plans.REFUSES:
            if exchange.expects:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await self._body(exchange, fields, reader)
            self._check(exchange, body)
        writer.write(exchange.announced)
        return await self._answer(exchange, writer)

    async def _body(self, exchange: Exchange, fields: Mapping[str, str], reader: asyncio.StreamReader) -> bytes:
        framing = [line.partition(": ") for line in exchange.upload.fields]
        said = {name: fields[name] for name in ("content-length", "transfer-encoding") if name in fields}
        if said != {name.lower(): value for name, _, value in framing}:
            raise OddRequest(f"{exchange.number}: another framing: {said}")
        if exchange.upload.framing != "chunked":
            return await reader.readexactly(exchange.upload.size)
        pieces: list[bytes] = []
        while True:
            line = await reader.readuntil(b"\r\n")
            size = _SIZE.fullmatch(line)
            if size is None:
                raise OddRequest(f"{exchange.number}: an odd chunk size: {line[:80]!r}")
            piece = await reader.readexactly(int(size[1], 16) + 2)
            if not piece.endswith(b"\r\n"):
                raise OddRequest(f"{exchange.number}: a chunk longer than its size")
            if len(piece) == 2:
                return b"".join(pieces)
            pieces.append(piece[:-2])

    def _check(self, exchange: Exchange, body: bytes) -> None:
        if exchange.fault == plans.LEAVES_UPLOAD:
            raise OddRequest(f"{exchange.number}: whole, though its client left")
        self.whole.add(exchange.number)
        self._tally.octets += len(body)
        if body != exchange.upload.octets:
            self._tally.wrong_octets(differ(f"{exchange.number}, upload", body, exchange.upload.octets))

    async def _answer(self, exchange: Exchange, writer: asyncio.StreamWriter) -> bool:
        async def write(octets: bytes) -> None:
            writer.write(octets)
            await writer.drain()

        octets = exchange.answer_head + exchange.download.framed(exchange.chance)
        broken = exchange.fault in {plans.BREAKS_OFF, plans.RESETS}
        if broken:
            octets = octets[: len(octets) // 2]
        await in_pieces(octets, exchange.chance, write, slow=exchange.slow)
        if exchange.fault == plans.RESETS:
            reset(writer)
        return not (broken or exchange.fault == plans.REFUSES or exchange.homeserver_closes)
