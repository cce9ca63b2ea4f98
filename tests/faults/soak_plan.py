"""What the soak sends and must get: each exchange is drawn from a seed, and all its octets follow from its number."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

FIELD: Final = "X-Soak"
PATH: Final = "/soak/"
# Sizes of bodies, each with its weight: what is drawn lies between one and the next.
_SIZES: Final = ((0, 6), (1, 20), (64, 30), (4096, 25), (65_536, 12), (524_288, 1))
LARGEST: Final = 5_000_000
_BLANK: Final = b"\r\n\r\n"
_HTTP: Final = b"0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nGET /soak/0 HTTP/1.1\r\nHost: x\r\n\r\n"

SOUND: Final = ""
LEAVES_UPLOAD: Final = "client leaves in the upload"
LEAVES_DOWNLOAD: Final = "client leaves in the download"
BREAKS_OFF: Final = "homeserver breaks off"
RESETS: Final = "homeserver resets"
RESETS_UPLOAD: Final = "homeserver resets in the upload"
REFUSES: Final = "homeserver refuses the expected body"
FAULTS: Final = (LEAVES_UPLOAD, LEAVES_DOWNLOAD, BREAKS_OFF, RESETS, RESETS_UPLOAD, REFUSES)


@dataclass(frozen=True)
class Body:
    """A body by its seed: `framing` is `length`, `chunked`, `close`, or `none` where nothing is sent."""

    seed: int
    kind: str
    size: int
    framing: str

    @property
    def octets(self) -> bytes:
        if self.kind == "random":
            return random.Random(self.seed).randbytes(self.size)
        block = {"blank lines": _BLANK, "HTTP": _HTTP, "lines": b"line %d\r\n\r\n" % self.seed}[self.kind]
        return (block * (self.size // len(block) + 1))[: self.size]

    def framed(self, chance: random.Random) -> bytes:
        """Return it as it stands behind a head, its chunks cut by chance."""
        if self.framing == "none":
            return b""
        if self.framing != "chunked":
            return self.octets
        octets, framed, start = self.octets, [], 0
        most = max(self.size // chance.choice((1, 2, 30)), 1)
        while start < len(octets):
            chunk = octets[start : start + chance.randint(1, most)]
            extension = chance.choice((b"", b"", b";a=b", b' ; a = "b"'))
            framed.append(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk))
            start += len(chunk)
        framed.append(b"0\r\n" + chance.choice((b"", b"", b"X-Trailer: 1\r\n")) + b"\r\n")
        return b"".join(framed)

    @property
    def fields(self) -> list[str]:
        if self.framing == "length":
            return [f"Content-Length: {self.size}"]
        return ["Transfer-Encoding: chunked"] if self.framing == "chunked" else []


@dataclass(frozen=True)
class Exchange:
    """One request and its answer; `fault` is what goes wrong in it, and it is the last one of its connection then."""

    number: int
    method: str
    version: str
    upload: Body
    status: int
    download: Body
    interim: int
    expects: bool
    closes: bool
    homeserver_closes: bool
    slow: bool
    fault: str

    @property
    def chance(self) -> random.Random:
        return random.Random(self.number)

    @property
    def head(self) -> bytes:
        fields = [f"{FIELD}: {self.number}", *self.upload.fields]
        if self.expects:
            fields.append("Expect: 100-continue")
        if self.closes:
            fields.append("Connection: close")
        line = f"{self.method} {PATH}{self.number} HTTP/{self.version}"
        return "\r\n".join([line, "Host: soak.test", *fields, "", ""]).encode()

    @property
    def answer_head(self) -> bytes:
        fields = [f"{FIELD}: {self.number}", *self.download.fields]
        if self.homeserver_closes:
            fields.append("Connection: close")
        return "\r\n".join([f"HTTP/1.1 {self.status} Soaked", *fields, "", ""]).encode()

    @property
    def bodyless(self) -> bool:
        return self.method == "HEAD" or self.status in {204, 304}

    @property
    def announced(self) -> bytes:
        """What stands before the answer."""
        return b"HTTP/1.1 103 Early Hints\r\n%b: %d\r\n\r\n" % (FIELD.encode(), self.number) * self.interim


class Plans:
    """Draws connections, of one exchange to eight each, until `count` exchanges were drawn."""

    def __init__(self, seed: int, count: int) -> None:
        self._chance = random.Random(seed)
        self._seed = seed
        self._count = count
        self.drawn: dict[int, Exchange] = {}

    def __iter__(self) -> Iterator[tuple[list[Exchange], bool]]:
        """Yield the exchanges of a connection, and whether they are sent in a pipeline."""
        while len(self.drawn) < self._count:
            size = min(self._chance.randint(1, 8), self._count - len(self.drawn))
            plan = [self._draw(last=place == size - 1) for place in range(size)]
            yield plan, self._chance.random() < 0.4

    def _draw(self, *, last: bool) -> Exchange:
        chance = self._chance
        number = self._seed * 10**6 + len(self.drawn)
        fault = chance.choice(FAULTS) if last and chance.random() < 0.3 else SOUND
        method = chance.choice(("GET", "GET", "GET", "POST", "POST", "PUT", "HEAD", "DELETE", "OPTIONS"))
        status = chance.choice((200, 200, 200, 200, 404, 204, 304))
        if fault in {LEAVES_UPLOAD, RESETS_UPLOAD, REFUSES}:
            method = "POST"
        if fault in {LEAVES_DOWNLOAD, BREAKS_OFF, RESETS}:
            method, status = "GET", 200
        upload = (
            self._body(number, "length", "chunked") if method in {"POST", "PUT"} else Body(0, "random", 0, "none")
        )
        download = self._body(number + 1, "length", "chunked", "close")
        if method == "HEAD" or status in {204, 304}:
            download = Body(0, "random", 0, "none")
        old = last and not fault and upload.framing != "chunked" and chance.random() < 0.1
        exchange = Exchange(
            number,
            method,
            "1.0" if old else "1.1",
            upload if fault not in {LEAVES_UPLOAD, RESETS_UPLOAD} else self._large(upload),
            413 if fault == REFUSES else status,
            download if fault not in {LEAVES_DOWNLOAD, BREAKS_OFF, RESETS} else self._large(download, "length"),
            interim=chance.choice((0, 0, 0, 1, 3)),
            expects=fault == REFUSES or (upload.framing != "none" and not (old or fault) and chance.random() < 0.2),
            closes=last and (old or chance.random() < 0.5),
            homeserver_closes=download.framing == "close" or chance.random() < 0.1,
            slow=chance.random() < 0.05,
            fault=fault,
        )
        self.drawn[number] = exchange
        return exchange

    def _body(self, seed: int, *framings: str) -> Body:
        chance = self._chance
        (place,) = chance.choices(range(len(_SIZES)), [weight for _, weight in _SIZES])
        above = [size for size, _ in _SIZES[1:]] + [LARGEST + 1]
        size = chance.randrange(_SIZES[place][0], above[place])
        return Body(seed, chance.choice(("random", "blank lines", "lines", "HTTP")), size, chance.choice(framings))

    def _large(self, body: Body, instead_of_close: str = "") -> Body:
        """Return it so large that it can break off in its midst, with an end that can be told from a close."""
        framing = instead_of_close if instead_of_close and body.framing == "close" else body.framing
        return Body(body.seed, body.kind, max(body.size, 300_000), framing)
