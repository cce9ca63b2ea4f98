"""Raw HTTP cases as data, and a recorder in the homeserver's place that reads what arrives as strictly as can be.

A case, in `http_cases/*.json` (the file's name is its class):
- `octets`: what the client sends, each character one byte. A list is joined; `{"repeat": ..., "times": n}` in it
  stands for n repetitions, in which `{number}` counts from 0.
- `outcome`: "exact" (these requests, these answers), "refused" (nothing arrives), "may be refused" (the requests
  arrive one after the other until one is refused), or "waits" (nothing arrives whole, and nothing is said).
- `requests`: what arrives, each with its `line` (without version), its `fields` without framing and forwarding
  (only where they are more than the host), and `body` where it has a length or `chunks` where it is chunked.
- `answers`: "relayed", "refused", or a status and errcode of ours; where left out, one "relayed" a request.
- `begins`: a part may arrive. `ends`: the client ends its side. `closes`: the gateway ends the connection afterwards.
"""

import asyncio
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.raw_http import RawServer
from tests.running_gateway import RunningGateway

HOST: Final = "Host: gw.test"
# In `fields`: the gateway had to name the homeserver itself.
OWN_HOST: Final = "Host: {homeserver}"
_DIRECTORY: Final = Path(__file__).parent / "http_cases"

# RFC 9110 5.5 and 5.6.2, RFC 9112 3 and 5: no octet here can be read in two ways.
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_VALUE: Final = rb"[\t\x20-\x7e\x80-\xff]*"
_HEAD: Final = re.compile(
    _TOKEN + rb" [!-~\x80-\xff]+ HTTP/1\.1\r\n(?:" + _TOKEN + rb":" + _VALUE + rb"\r\n)*\r\n",
)
_CHUNK_SIZE: Final = re.compile(rb"[0-9A-Fa-f]{1,8}\r\n")


@dataclass(frozen=True)
class Expected:
    """A request that should arrive."""

    line: str
    fields: tuple[str, ...]
    body: bytes | None
    chunks: bytes | None


@dataclass(frozen=True)
class Case:
    """What a client sends, and what may come of it."""

    name: str
    octets: bytes
    outcome: str
    requests: tuple[Expected, ...]
    answers: tuple[str, ...]
    begins: bool
    ends: bool
    closes: bool


@dataclass
class Arrived:
    """A message at the homeserver; `whole` once its end came, and nothing in it was odd."""

    head: bytes = b""
    body: bytes = b""
    trailers: list[bytes] = field(default_factory=list)
    whole: bool = False

    @property
    def line(self) -> str:
        return self.head.partition(b"\r\n")[0].decode("latin-1")

    @property
    def fields(self) -> list[str]:
        return self.head.decode("latin-1").split("\r\n")[1:-2]

    def values(self, name: str) -> list[str]:
        pairs = [line.partition(":") for line in self.fields]
        return [value.strip(" \t") for had, _, value in pairs if had.lower() == name]


class Recorder:
    """A handler for `RawServer` that records every message and numbers its answers."""

    def __init__(self) -> None:
        self.arrived: list[Arrived] = []
        self.oddities: list[str] = []
        self.reading = 0

    def begin(self) -> None:
        """Forget what came before."""
        self.arrived, self.oddities = [], []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                message = Arrived()
                message.head = await self._head(reader, message)
                self.reading += 1
                try:
                    await self._body(reader, message)
                finally:
                    self.reading -= 1
                message.whole = True
                number = sum(one.whole for one in self.arrived)
                writer.write(answer(number, head_only=message.line.startswith("HEAD ")))
        except (ValueError, asyncio.LimitOverrunError) as error:
            self.oddities.append(str(error))

    async def _head(self, reader: asyncio.StreamReader, message: Arrived) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                self.oddities.append(f"half a head arrived: {error.partial[:200]!r}")
            raise
        self.arrived.append(message)
        if _HEAD.fullmatch(head) is None:
            raise ValueError(f"a head that can be read in two ways arrived: {head[:400]!r}")
        return head

    async def _body(self, reader: asyncio.StreamReader, message: Arrived) -> None:
        lengths, codings = message.values("content-length"), message.values("transfer-encoding")
        if len(lengths) + len(codings) > 1 or codings not in ([], ["chunked"]):
            raise ValueError(f"framing that can be read in two ways arrived: {message.head[:400]!r}")
        if lengths:
            if re.fullmatch("[0-9]+", lengths[0]) is None:
                raise ValueError(f"a length that is none arrived: {lengths[0]!r}")
            message.body = await reader.readexactly(int(lengths[0]))
        while codings:
            size = await reader.readuntil(b"\r\n")
            if _CHUNK_SIZE.fullmatch(size) is None:
                raise ValueError(f"a chunk size that can be read in two ways arrived: {size[:80]!r}")
            data = await reader.readexactly(int(size, 16))
            message.body += data
            if not data:
                while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
                    message.trailers.append(line)
                return
            if await reader.readexactly(2) != b"\r\n":
                raise ValueError("a chunk longer than its size arrived")


def answer(number: int, *, head_only: bool = False) -> bytes:
    """Return the recorder's answer to the request that is whole as the `number`th."""
    body = b"" if head_only else b'{"number": %2d}' % number
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Number: %d\r\nContent-Length: 14\r\n\r\n" % number
        + body
    )


def read_cases() -> list[Case]:
    """Return all cases; a mistake in the data is a ValueError that names it."""
    return [
        _case(f"{path.stem}: {entry['name']}", entry)
        for path in sorted(_DIRECTORY.glob("*.json"))
        for entry in json.loads(path.read_text(encoding="utf-8"))
    ]


def _case(name: str, entry: dict[str, Any]) -> Case:
    known = {"name", "rule", "octets", "outcome", "requests", "answers", "begins", "ends", "closes"}
    if unknown := entry.keys() - known:
        raise ValueError(f"{name}: {unknown} mean nothing")
    if not entry["rule"] or entry["outcome"] not in {"exact", "refused", "may be refused", "waits"}:
        raise ValueError(f"{name}: no rule, or no outcome that is known")
    requests = tuple(_expected(request) for request in entry.get("requests", []))
    otherwise = ["refused"] if entry["outcome"] == "refused" else ["relayed"] * len(requests)
    return Case(
        name,
        _octets(entry["octets"]),
        entry["outcome"],
        requests,
        tuple(entry.get("answers", otherwise)),
        begins=entry.get("begins", False),
        ends=entry.get("ends", False),
        closes=entry.get("closes", False),
    )


def _expected(request: dict[str, Any]) -> Expected:
    body, chunks = request.get("body"), request.get("chunks")
    return Expected(
        request["line"],
        tuple(request.get("fields", [HOST])),
        None if body is None else _octets(body),
        None if chunks is None else _octets(chunks),
    )


def _octets(notation: Any) -> bytes:
    pieces = notation if isinstance(notation, list) else [notation]
    return b"".join(_piece(piece) for piece in pieces)


def _piece(piece: Any) -> bytes:
    if isinstance(piece, str):
        return piece.encode("latin-1")
    text = str(piece["repeat"])
    return "".join(text.replace("{number}", str(number)) for number in range(piece["times"])).encode("latin-1")


@dataclass(frozen=True)
class Site:
    """A gateway that trusts no proxy, before a recorder."""

    gateway: RunningGateway
    homeserver: RawServer
    recorder: Recorder
