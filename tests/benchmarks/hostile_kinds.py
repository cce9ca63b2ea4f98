"""Heads and bodies that are as costly as a peer can make them, as data: a kind is a row.

Rule: each is within the gateway's limits or just beyond one, and its octets follow from the number of its connection,
so that nothing is the same twice where that is the point.
"""

import base64
import functools
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.benchmarks.hostile_upstream import CHUNKS, FIELDS, INTERIM, REFUSED
from tests.benchmarks.loads import ELEMENT
from tests.benchmarks.proxies import GATEWAY, LOGGING_GATEWAY, Kind

PATH: Final = "/_matrix/client/v3/rooms/x"
_LOGIN: Final = "/_matrix/client/v3/login"
_CLOSE: Final = "Connection: close"
_MANY: Final = 50  # requests of one connection
_HEAD: Final = 60_000  # octets of fields, below max_header_bytes
_BODY: Final = 61 * 1024  # of a login
_TOKEN: Final = 16_000  # octets, below max_token_bytes

Octets = Callable[[int], bytes]


@dataclass(frozen=True)
class Hostile:
    """What is sent on the connection of a number, and the row of REFERENCES that it is measured beside.

    `piece`: so many octets in each write; `at_once`: so many connections that wait for no answer and go together;
    `in_turn`: each request waits for the answer before it; `requests` of one connection.
    """

    name: str
    octets: Octets
    beside: str = "in turn"
    requests: int = 1
    piece: int = 0
    at_once: int = 0
    in_turn: bool = False
    gateway: Kind = GATEWAY
    most: int = 10_000  # connections


def head(line: str, *fields: str) -> bytes:
    return "\r\n".join([f"{line} HTTP/1.1", *fields, "", ""]).encode("latin-1")


def get(*fields: str, target: str = PATH, host: str = "bench.localhost") -> bytes:
    return head(f"GET {target}", f"Host: {host}", *fields)


def plain(*fields: str) -> bytes:
    return get(*(f"{name}: {value}" for name, value in ELEMENT.items()), *fields)


def closing(*fields: str, target: str = PATH) -> bytes:
    return get(*fields, _CLOSE, target=target)


def always(octets: bytes) -> Octets:
    return lambda _: octets


def many(request: Callable[[int], bytes], count: int = _MANY) -> Octets:
    """Return octets of so many different requests, the last of which ends the connection."""

    def octets(number: int) -> bytes:
        return b"".join(request(number * count + place) for place in range(count - 1)) + closing()

    return octets


def words(number: int, count: int, lines: int) -> list[str]:
    """Return `Connection` lines of words that no other request names."""
    return [
        "Connection: " + ",".join(f"{number * lines + line:x}{word:x}" for word in range(count))
        for line in range(lines)
    ]


def chunked(body: bytes, trailer: bytes = b"") -> bytes:
    return head(f"PUT {PATH}", "Host: b", "Transfer-Encoding: chunked", _CLOSE) + body + b"0\r\n" + trailer + b"\r\n"


def login(token: str = "a", more: str = "") -> bytes:
    body = f'{{"type":"org.matrix.login.jwt","token":"{token}"{more}}}'.encode()
    return head(f"POST {_LOGIN}", "Host: b", f"Content-Length: {len(body)}", _CLOSE) + body


def filled(begin: str, unit: str, end: str, size: int = _BODY) -> str:
    return begin + unit * ((size - len(begin) - len(end)) // len(unit)) + end


def nested(size: int) -> str:
    return "[" * (size // 2) + "]" * (size // 2)


@functools.cache
def token(header: str) -> str:
    parts = (header, json.dumps({"sub": "alice"}), "signature")
    return ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)


def header_of(value: str) -> str:
    return token(f'{{"alg":"HS256","typ":"JWT","x":{value}}}')


def unlike(number: int, size: int) -> str:
    return random.Random(number).randbytes(size // 2).hex()


def address(number: int) -> str:
    return f"2001:db8::{number >> 16 & 0xFFFF:x}:{number & 0xFFFF:x}"


def forwarded_for(number: int) -> bytes:
    values = ", ".join(address(number * 20 + place) for place in range(20))
    return get(f"X-Forwarded-For: {values}", "X-Forwarded-Proto: https")


_LARGE: Final = closing(*["a: " + "b" * 655] * 90)
REFERENCES: Final = {
    "in turn": Hostile("plain requests, one after the other", many(lambda _: plain()), requests=_MANY, in_turn=True),
    "single": Hostile("a plain request a connection", always(plain(_CLOSE))),
    # As large as what is measured beside it: most of what a connection costs does not depend on the octets.
    "small": Hostile("a request of 100 octets a connection", always(closing(f"User-Agent: {'a' * 15}"))),
    "dribbled": Hostile("a plain request, octet by octet", always(plain(_CLOSE)), piece=1),
    "login": Hostile("a login with a long text", always(login(more=filled(',"x":"', "a", '"')))),
    "token": Hostile("a token with a long text", always(login(header_of(filled('"', "a", '"', _TOKEN * 3 // 4))))),
}

HOSTILE: Final = (
    # Heads.
    Hostile("Connection names 180,000 words", lambda number: closing(*words(number, 2000, 90))),
    Hostile("Connection names 9,900 words", lambda number: closing(*words(number, 110, 90))),
    Hostile("90 short fields", always(closing(*["a: b"] * 90))),
    Hostile("90 fields of 660 octets", always(_LARGE)),
    Hostile("90 Cookie fields", lambda number: closing(*(f"Cookie: a={unlike(number + n, 640)}" for n in range(90)))),
    Hostile("a field of 16,000 octets", always(closing("X-Long: " + "a" * 16_000))),
    Hostile("a request line of 130,000 octets", always(closing(target="/" + "a" * 130_000))),
    Hostile("blank lines before the request line", always(b"\r\n" * (_HEAD // 2) + closing())),
    Hostile("90 fields of 660 octets, octet by octet", always(_LARGE), "dribbled", piece=1),
    Hostile("150 heads without an end", always(_LARGE[:-2]), at_once=150, most=600),
    Hostile("150 heads of 1.4 MiB without an end", always(closing(*["a: " + "b" * 16_000] * 90)[:-2]), at_once=150,
            most=150),
    Hostile("a Content-Length of 16,000 zeros",
            always(head(f"PUT {PATH}", "Host: b", "Content-Length: " + "0" * 16_000 + "1", _CLOSE) + b"a")),
    # Many requests, none like another.
    Hostile("1,000 requests in a pipeline", many(lambda _: plain(), 1000), requests=1000),
    Hostile("absolute targets", many(lambda _: plain().replace(b"/", b"http://bench.localhost/", 1)), requests=_MANY),
    Hostile("a Host of its own, 15 KiB", many(lambda number: get(host=unlike(number, 15_360))), requests=_MANY),
    Hostile("X-Forwarded-For of its own, access log", many(forwarded_for), requests=_MANY, gateway=LOGGING_GATEWAY),
    Hostile("X-Request-Id of its own, access log", many(lambda number: plain(f"X-Request-Id: {unlike(number, 128)}")),
            requests=_MANY, gateway=LOGGING_GATEWAY),
    # Bodies.
    Hostile("chunks of one octet", always(chunked(b"1\r\na\r\n" * 10_000))),
    Hostile("chunk extensions of 8,000 octets", always(chunked((b"1;" + b"a" * 8000 + b"\r\na\r\n") * 8))),
    Hostile("a chunk of 15,000 CRLF CRLF", always(chunked(b"%x\r\n" % _HEAD + b"\r\n" * (_HEAD // 2) + b"\r\n"))),
    Hostile("90 trailer fields", always(chunked(b"1\r\na\r\n", b"X-T: a\r\n" * 90))),
    Hostile("Expect: 100-continue, refused", always(
        head(f"POST {REFUSED}", "Host: b", "Expect: 100-continue", "Content-Length: 1000")), "small"),
    # Logins.
    Hostile("a login of brackets, nested", always(login(more=',"x":' + nested(_BODY))), "login"),
    Hostile("a login of brackets, side by side", always(login(more=filled(',"x":[', "[],", "[]]"))), "login"),
    Hostile("a login of brackets, 16 deep", always(login(more=filled(',"x":[', f"{nested(32)},", "[]]"))), "login"),
    Hostile("a login of objects", always(login(more=',"x":' + filled("[", "{},", "{}]"))), "login"),
    Hostile("a login of escapes", always(login(more=filled(',"x":"', "\\u00e4", '"'))), "login"),
    Hostile("a login of numbers", always(login(more=filled(',"x":[', "1e1,", "1]"))), "login"),
    Hostile("a login of one number", always(login(more=filled(',"x":', "1", ""))), "login"),
    Hostile("a login of members", lambda number: login(
        more="".join(f',"{number + place:x}":1' for place in range(6000))), "login"),
    Hostile("a token whose header is nested", always(login(header_of(nested(_TOKEN * 3 // 4)))), "token"),
    Hostile("a token whose header is brackets", always(
        login(header_of(filled("[", "[],", "[]]", _TOKEN * 3 // 4)))), "token"),
    Hostile("a token whose header is numbers", always(
        login(header_of(filled("[", "1,", "1]", _TOKEN * 3 // 4)))), "token"),
    Hostile("a token of dots", always(login("." * _TOKEN)), "token"),
    # The homeserver's answers.
    Hostile("an answer of 90 fields", many(lambda _: get(target=FIELDS)), requests=_MANY),
    Hostile("an answer in chunks of one octet", always(closing(target=CHUNKS))),
    Hostile("an answer behind 1,000 interim ones", always(closing(target=INTERIM))),
)  # fmt: skip
