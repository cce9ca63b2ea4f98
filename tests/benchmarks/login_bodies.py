"""What hostile login bodies and tokens cost before they are trusted, beside plain ones of the same size.

    pip install -c requirements.lock --group test -e .
    python -m tests.benchmarks.login_bodies [--bytes N] [--seconds N] [--rounds N] [--json FILE]

A plain body is a JWT login whose token is one long string, a plain token one whose header (or claims) holds one. The
hostile ones are of the same size; bodies say that they are a JWT login, so that nothing of them is left unread. Each
takes turns with the plain one in short rounds; processor time counts, not the clock. What the rest of a request costs
is not in these figures, so that over HTTP the ratios are smaller. A benchmark, not a test: it judges nothing.
"""

import argparse
import json
import os
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Console

from gateway.core.jws import read_header
from gateway.core.login_request import parse_login
from gateway.core.tokens import choose_issuer
from gateway.errors import Refused
from tests.benchmarks.plan import table
from tests.benchmarks.tokens import microseconds
from tests.signing import encode

PLAIN: Final = "plain"
TYPES: Final = ("org.matrix.login.jwt",)
# As large a token as the configuration allows by default, less its other parts.
TOKEN_BYTES: Final = 12_000
HEAD: Final = b'{"type":"org.matrix.login.jwt","token":"a","alg":"HS256","iss":"us"'


def filled(size: int, unit: bytes, before: bytes = b',"a":[', after: bytes = b"1]}") -> bytes:
    """Return a JSON object of about `size` octets that repeats `unit`."""
    left = size - len(HEAD) - len(before) - len(after)
    return HEAD + before + unit * (left // len(unit)) + after


def plain(size: int) -> bytes:
    return filled(size, b"a", b',"a":"', b'"}')


def texts(size: int) -> dict[str, bytes]:
    """Return the hostile JSON, by what it is made of."""

    def string(unit: bytes, after: bytes = b'"}') -> bytes:
        return filled(size, unit, b',"a":"', after)

    half = size // 2 - len(HEAD)
    return {
        "brackets": filled(size, b"["),
        "brackets that close": HEAD + b',"a":' + b"[" * half + b"]" * half + b"}",
        "nested objects": filled(size, b'{"a":'),
        "nests of 900": filled(size, b"[" * 900 + b"]" * 900 + b","),
        "empty arrays": filled(size, b"[],"),
        "empty strings": filled(size, b'"",'),
        "numbers": filled(size, b"1,"),
        "floats": filled(size, b"1e9,"),
        "numbers of 400 digits": filled(size, b"9" * 400 + b","),
        "a long number": filled(size, b"9", b',"a":', b"}"),
        "a long fraction": filled(size, b"9", b',"a":0.', b"}"),
        "members": b"%b,%b}" % (HEAD, b",".join(b'"%05d":1' % number for number in range((size - len(HEAD)) // 10))),
        "one member over and over": filled(size, b'"a":1,', b",", b'"a":1}'),
        "a long name": filled(size, b"a", b',"', b'":1}'),
        "escapes of 2 octets": string(rb"\n"),
        "escapes of 6 octets": string(rb"\u0041"),
        "escaped quotes": string(rb"\""),
        "surrogate pairs": string(rb"\ud83d\ude00"),
        "escapes, then a lone surrogate": string(rb"\u0041", rb'\ud800"}'),
        "escapes, then something behind": string(rb"\n", b'"}x'),
        "brackets in a string": string(b"["),
        "brackets and backslashes in a string": string(b"[" * 40 + rb"\\" * 100),
        "emoji": string("\U0001f600".encode()),
        "emoji, then not UTF-8": string("\U0001f600".encode(), b'\xff"}'),
        "octets that are not UTF-8": string(b"\xff"),
        "a text, then something behind": string(b"a", b'"}x'),
        "a member twice, then a text": filled(size, b"a", b',"a":1,"a":"', b'"}'),
        "UTF-16 surrogates": (HEAD.decode() + ',"a":"').encode("utf-16-le") + b"\x00\xd8" * (size // 2 - 200),
        "white space before": b" " * (size - len(HEAD) - 1) + HEAD + b"}",
        "white space within": filled(size, b" ", b"", b"}"),
        "the words of a JWT login": filled(size, b'"type":"org.matrix.login.jwt",', b',"a":[', b""),
    }


@dataclass(frozen=True)
class Figures:
    """Microseconds of processor time, medians over the rounds, and the median of the ratios to the plain one."""

    part: str
    kind: str
    plain: float
    hostile: float
    ratio: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=65_000, help="size of a login body")
    parser.add_argument("--seconds", type=float, default=0.02, help="length of one turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    figures: list[Figures] = []
    bodies = {PLAIN: plain(arguments.bytes), **texts(arguments.bytes)}
    headers = {
        kind: token("header", text) for kind, text in ({PLAIN: plain(TOKEN_BYTES)} | texts(TOKEN_BYTES)).items()
    }
    headers |= {"dots": "." * len(headers[PLAIN]), "no base64url": "!" * len(headers[PLAIN])}
    payloads = {
        kind: token("claims", text) for kind, text in ({PLAIN: plain(TOKEN_BYTES)} | texts(TOKEN_BYTES)).items()
    }
    parts: list[tuple[str, dict[str, Callable[[], object]]]] = [
        ("body", {kind: partial(parse_login, body, TYPES) for kind, body in bodies.items()}),
        ("header", {kind: partial(read_header, text, 2 * TOKEN_BYTES) for kind, text in headers.items()}),
        ("claims", {kind: partial(read_claims, text) for kind, text in payloads.items()}),
    ]
    for part, calls in parts:
        plain_call = calls.pop(PLAIN)
        for kind, call in calls.items():
            figures.append(measure(part, kind, (plain_call, call), arguments.seconds, arguments.rounds))
    show(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps({"login_bodies": [asdict(figure) for figure in figures]}, indent=2))


def token(part: str, text: bytes) -> str:
    header, payload = (text, b"{}") if part == "header" else (b'{"alg":"HS256"}', text)
    return f"{encode(header)}.{encode(payload)}.{encode(bytes(32))}"


def read_claims(text: str) -> object:
    """Read a token as where several issuers are configured, of which its claims choose one."""
    read_header(text, 2 * TOKEN_BYTES)
    return choose_issuer(text, {"us": 1})


def measure(
    part: str, kind: str, calls: tuple[Callable[[], object], Callable[[], object]], seconds: float, rounds: int
) -> Figures:
    turns = [refusing(call) for call in calls]
    found: list[list[float]] = [[], []]
    for number in range(1 + rounds):
        for index in (0, 1) if number % 2 else (1, 0):
            spent = microseconds(turns[index], seconds)
            if number:  # the first round warms up
                found[index].append(spent)
    ratio = statistics.median(hostile / plain for plain, hostile in zip(*found, strict=True))
    plain, hostile = (round(statistics.median(times), 1) for times in found)
    return Figures(part, kind, plain, hostile, round(ratio, 2))


def refusing(call: Callable[[], object]) -> Callable[[], None]:
    def refused() -> None:
        try:
            call()
        except Refused:
            return

    return refused


def show(figures: list[Figures]) -> None:
    for part, title in (("body", "A login body"), ("header", "A token's header"), ("claims", "Claims to choose by")):
        rows = [
            [figure.kind, f"{figure.hostile:.1f}", f"{figure.plain:.1f}", f"{figure.ratio:.2f}"]
            for figure in figures
            if figure.part == part
        ]
        Console().print(table(title, ["", "us", "plain, us", "ratio"], rows))


if __name__ == "__main__":
    main()
