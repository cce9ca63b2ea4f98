"""Decisions on answers of the homeserver that RFC 9110 and 9112 take, or leave to us: data for `test_decisions`.

A row says what the homeserver sends in one write, and what the client must read of it.
"""

from dataclasses import dataclass
from typing import Final

from tests.web.whole_answers import END, RESET

CLOSE: Final = "close"
EITHER: Final = (502, 200)
_OK: Final = b"HTTP/1.1 200 OK\r\n"
_LENGTH: Final = _OK + b"Content-Length: 2\r\n\r\n{}"
_CHUNKED: Final = _OK + b"Transfer-Encoding: chunked\r\n\r\n"
_CHUNKS: Final = _CHUNKED + b"2\r\n{}\r\n0\r\n\r\n"
_HALF: Final = b"0123456789" * 100


@dataclass(frozen=True)
class DecidedAnswer:
    """What a client of this `version` reads: an answer with one of these statuses, and how its connection ends.

    `then`: the homeserver ends its connection so, once the client has what came before. `reused`: the connection to
    the homeserver serves the next request. `may_break`: a part and no end is as right as a 502.
    """

    name: str
    rule: str
    octets: bytes
    status: tuple[int, ...] = (200,)
    body: bytes = b"{}"
    method: str = "GET"
    version: str = "1.1"
    framing: str = "length"
    interim: tuple[int, ...] = ()
    without: str = ""
    then: str = ""
    ended: str = END
    whole: bool = True
    reused: bool = False
    may_break: bool = False


def _surplus(name: str, octets: bytes, body: bytes = b"{}", method: str = "GET", **read: object) -> DecidedAnswer:
    return DecidedAnswer(f"surplus: {name}", "RFC 9112 6.3, 9.2", octets, body=body, method=method, **read)  # type: ignore[arg-type]


def _bad(name: str, rule: str, octets: bytes, *, may_break: bool = False) -> DecidedAnswer:
    return DecidedAnswer(name, rule, octets, (502,), may_break=may_break)


def _broken(name: str, octets: bytes, then: str, version: str, framing: str, ended: str = END) -> DecidedAnswer:
    return DecidedAnswer(
        f"broken off: {name}, {then}, HTTP/{version}",
        "RFC 9112 8",
        octets,
        body=_HALF,
        version=version,
        framing=framing,
        then=then,
        ended=ended,
        whole=False,
    )


def _status(line: bytes) -> bytes:
    return line + b"\r\nContent-Length: 2\r\n\r\n{}"


_HALF_LENGTH: Final = _OK + b"Content-Length: 9999\r\n\r\n" + _HALF
_HALF_CHUNKS: Final = _CHUNKED + b"%x\r\n%b\r\n" % (len(_HALF), _HALF)
_HALF_CHUNK: Final = _CHUNKED + b"ffff\r\n" + _HALF
_UNTIL_CLOSE: Final = _OK + b"\r\n" + _HALF

ANSWERS: Final = (
    DecidedAnswer("a length", "RFC 9112 6.2", _LENGTH, reused=True),
    DecidedAnswer("chunks", "RFC 9112 7.1", _CHUNKS, framing="chunked", reused=True),
    # Surplus octets: the answer is right, the connection is not to be trusted.
    _surplus("behind HEAD", _LENGTH, b"", "HEAD", framing="none"),
    _surplus("chunks behind HEAD", _CHUNKS, b"", "HEAD", framing="none"),
    _surplus("behind 204", _status(b"HTTP/1.1 204 No Content"), b"", status=(204,), framing="none"),
    _surplus(
        "chunks behind 204",
        _CHUNKS.replace(b"200 OK", b"204 No"),
        b"",
        status=(204,),
        framing="none",
        without="Transfer-Encoding",
    ),
    _surplus("behind 304", _status(b"HTTP/1.1 304 Not Modified"), b"", status=(304,), framing="none"),
    _surplus("behind a length", _LENGTH + b"more"),
    _surplus("an answer behind a length", _LENGTH + _LENGTH),
    _surplus("behind a length of 0", _OK + b"Content-Length: 0\r\n\r\n{}", b""),
    _surplus("CRLF behind a length", _LENGTH + b"\r\n"),
    _surplus("the last chunk twice", _CHUNKS + b"0\r\n\r\n", framing="chunked"),
    _surplus("an answer behind chunks", _CHUNKS + _LENGTH, framing="chunked"),
    # Interim answers.
    DecidedAnswer(
        "an interim answer",
        "RFC 9110 15.2",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + _LENGTH,
        interim=(103,),
        reused=True,
    ),
    DecidedAnswer(
        "150 interim answers",
        "RFC 9110 15.2",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 150 + _LENGTH,
        interim=(103,) * 150,
        reused=True,
    ),
    DecidedAnswer(
        "interim answers to HTTP/1.0",
        "RFC 9110 15.2",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + _LENGTH,
        version="1.0",
        reused=True,
    ),
    _bad(
        "101 that nobody asked for",
        "RFC 9110 7.8, 15.2.2",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
    ),
    _bad(
        "101 and an answer",
        "RFC 9110 7.8, 15.2.2",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n" + _LENGTH,
    ),
    _bad("101 without Upgrade", "RFC 9110 7.8, 15.2.2", b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + _LENGTH),
    # Chunks.
    DecidedAnswer(
        "spaces around an extension",
        "RFC 9112 7.1.1",
        _CHUNKED + b"2 ; a = b\r\n{}\r\n0 ; a = b\r\n\r\n",
        framing="chunked",
        reused=True,
    ),
    DecidedAnswer(
        "an extension in quotes",
        "RFC 9112 7.1.1",
        _CHUNKED + b'2;a="b;c"\r\n{}\r\n0\r\n\r\n',
        framing="chunked",
        reused=True,
    ),
    DecidedAnswer(
        "trailers",
        "RFC 9112 7.1.2",
        _CHUNKED + b"2\r\n{}\r\n0\r\nX-Trailer: 1\r\n\r\n",
        framing="chunked",
        without="X-Trailer",
        reused=True,
    ),
    _bad("a bare LF behind a field", "RFC 9112 2.2", b"HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\n\r\nok"),
    _bad(
        "a bare LF beside a folded field",
        "RFC 9112 2.2",
        b"HTTP/1.1 200 OK\r\nA: 1\r\n x\r\nB: 2\nContent-Length: 2\r\n\r\nok",
    ),
    _bad("a bare LF behind chunk data", "RFC 9112 7.1", _CHUNKED + b"2\r\n{}\n0\r\n\r\n", may_break=True),
    _bad("a bare LF behind a chunk size", "RFC 9112 7.1", _CHUNKED + b"2\n{}\r\n0\r\n\r\n", may_break=True),
    # Framing.
    _bad("chunked twice", "RFC 9112 6.1", _OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
    _bad(
        "chunked twice, on two lines",
        "RFC 9112 6.1",
        _OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ),
    _bad("another coding", "RFC 9112 6.1", _OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
    # RFC 9112 6.3: it "ought to be handled as an error".
    _bad("both lengths", "RFC 9112 6.3", _OK + b"Content-Length: 1\r\n" + _CHUNKS.removeprefix(_OK)),
    _bad(
        "both lengths, turned",
        "RFC 9112 6.3",
        _OK + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ),
    _bad("two lengths that differ", "RFC 9112 6.3", _OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}!"),
    _bad("a list of lengths that differ", "RFC 9112 6.3", _OK + b"Content-Length: 2, 3\r\n\r\n{}!"),
    # RFC 9110 8.6 leaves both: to refuse it, or to put the one value in its place.
    DecidedAnswer("a list of one length", "RFC 9110 8.6", _OK + b"Content-Length: 2, 2\r\n\r\n{}", EITHER),
    DecidedAnswer(
        "one length twice", "RFC 9110 8.6", _OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", EITHER
    ),
    DecidedAnswer(
        "Connection: close and a length", "RFC 9112 9.6", _OK + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}"
    ),
    DecidedAnswer("until the close", "RFC 9112 6.3", _UNTIL_CLOSE, body=_HALF, framing="chunked", then=CLOSE),
    DecidedAnswer(
        "until the close, HTTP/1.0",
        "RFC 9112 6.3",
        _UNTIL_CLOSE,
        body=_HALF,
        version="1.0",
        framing="close",
        then=CLOSE,
    ),
    # Versions and statuses.
    DecidedAnswer("HTTP/1.0", "RFC 9112 9.3", _LENGTH.replace(b"1.1", b"1.0", 1)),
    DecidedAnswer("HTTP/1.2", "RFC 9110 2.5", _LENGTH.replace(b"1.1", b"1.2", 1), reused=True),
    *(
        _bad(f"{version} in an answer", "RFC 9112 2.3, 4", _status(version.encode() + b" 200 OK"))
        for version in ("HTTP/2.0", "HTTP/0.9", "HTTP/3", "HTTP/1.10", "http/1.1", "RTSP/1.0", "ICY")
    ),
    *(
        _bad(f"the status {status}", "RFC 9110 15", _status(b"HTTP/1.1 %b Odd" % status.encode()))
        for status in ("99", "099", "1000", "000", "2e2", "-20", "+20")
    ),
    # What breaks off: the client has what came, and sees that it is not whole.
    *(
        _broken(name, octets, then, version, framing)
        for then in (CLOSE, RESET)
        for name, octets, version, framing in (
            ("a length", _HALF_LENGTH, "1.1", "length"),
            ("a length", _HALF_LENGTH, "1.0", "length"),
            ("chunks", _HALF_CHUNKS, "1.1", "chunked"),
            ("half a chunk", _HALF_CHUNK, "1.1", "chunked"),
        )
    ),
    *(_broken("chunks", _HALF_CHUNKS, then, "1.0", "close", RESET) for then in (CLOSE, RESET)),
    _broken("until the close", _UNTIL_CLOSE, RESET, "1.1", "chunked"),
    _broken("until the close", _UNTIL_CLOSE, RESET, "1.0", "close", RESET),
)
