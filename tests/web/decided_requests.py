"""Decisions on requests that RFC 9110 and 9112 take, or leave to us: data for `test_decisions`.

A row says what a client sends on a new connection in one write, what may be answered, and what must arrive.
"""

from dataclasses import dataclass
from typing import Final

HOST: Final = b"Host: gw.test\r\n"
_CHUNKED: Final = b"POST /chunks HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
_GET: Final = b"GET /first HTTP/1.1\r\n" + HOST + b"\r\n"
# What a request behind the one in question does: nothing, where that one is refused.
LAST: Final = b"GET /last HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
BLANK: Final = b"\r\n\r\n"
REFUSED: Final = (400,)
VERSION: Final = (400, 505)
NOTHING: Final = ""


@dataclass(frozen=True)
class DecidedRequest:
    """`arrives` are the lines of the requests that reach the homeserver, each with its body; none where `refused`."""

    name: str
    rule: str
    octets: bytes
    arrives: tuple[tuple[str, bytes], ...] = ()
    refused: tuple[int, ...] = ()


def _chunked(name: str, rule: str, body: bytes, octets: bytes = b"", before: bytes = b"") -> DecidedRequest:
    """A chunked request that is relayed whole; `octets` are its chunks where they are not one."""
    chunks = octets or b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    first = (("GET /first", b""),) if before else ()
    return DecidedRequest(name, rule, before + _CHUNKED + chunks, (*first, ("POST /chunks", body)))


def _not_chunked(name: str, rule: str, octets: bytes) -> DecidedRequest:
    return DecidedRequest(name, rule, _CHUNKED + octets, refused=REFUSED)


def _coded(name: str, fields: bytes, rule: str = "RFC 9112 6.1, 7") -> DecidedRequest:
    octets = b"POST /coded HTTP/1.1\r\n" + HOST + fields + b"\r\n1\r\na\r\n0\r\n\r\n"
    return DecidedRequest(name, rule, octets, refused=REFUSED)


def _line(name: str, rule: str, line: bytes, arrives: str = NOTHING, refused: tuple[int, ...] = ()) -> DecidedRequest:
    octets = line + b"\r\n" + HOST + b"\r\n"
    return DecidedRequest(name, rule, octets, ((arrives, b""),) if arrives else (), refused)


REQUESTS: Final = (
    # Bodies, whatever is in them.
    *(
        _chunked(f"{count:,} CRLF CRLF in a chunk{where}", "RFC 9112 7.1", BLANK * count, before=before)
        for count in (1, 62, 63, 64, 200, 3000)
        for where, before in (("", b""), (" behind a GET", _GET))
    ),
    _chunked("a text file with blank lines", "RFC 9112 7.1", b"a line\r\n\r\n" * 500),
    _chunked("chunks that are CRLF CRLF", "RFC 9112 7.1", BLANK * 100, b"4\r\n\r\n\r\n\r\n" * 100 + b"0\r\n\r\n"),
    # Extensions.
    _chunked("an extension", "RFC 9112 7.1.1", b"a", b"1;a=b\r\na\r\n0\r\n\r\n"),
    _chunked("spaces around an extension", "RFC 9112 7.1.1", b"a", b"1 ; a = b\r\na\r\n0 ; a = b\r\n\r\n"),
    _chunked("tabs around an extension", "RFC 9112 7.1.1", b"a", b"1\t;\ta\t=\tb\r\na\r\n0\r\n\r\n"),
    _chunked("an extension in quotes", "RFC 9112 7.1.1", b"a", b'1 ; a = "b;c"\r\na\r\n0\r\n\r\n'),
    _chunked("a size with zeros before", "RFC 9112 7.1", b"a", b"0001\r\na\r\n000\r\n\r\n"),
    _chunked(
        "sizes in both cases", "RFC 9112 7.1", b"0123456789" * 2, b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n"
    ),
    # What ends a line.
    _not_chunked("a bare LF behind chunk data", "RFC 9112 7.1", b"1\r\na\n0\r\n\r\n"),
    _not_chunked("a bare CR behind chunk data", "RFC 9112 7.1", b"1\r\na\r0\r\n\r\n"),
    _not_chunked("a bare LF behind a chunk size", "RFC 9112 7.1", b"1\na\r\n0\r\n\r\n"),
    _not_chunked("a bare LF behind the last chunk", "RFC 9112 7.1", b"1\r\na\r\n0\n\r\n"),
    _not_chunked("chunk data longer than its size", "RFC 9112 7.1", b"1\r\nab\r\n0\r\n\r\n"),
    _not_chunked("a signed chunk size", "RFC 9112 7.1", b"+1\r\na\r\n0\r\n\r\n"),
    _not_chunked("a chunk size of 0x", "RFC 9112 7.1", b"0x1\r\na\r\n0\r\n\r\n"),
    _not_chunked("no chunk size", "RFC 9112 7.1", b"\r\na\r\n0\r\n\r\n"),
    # Transfer codings.
    _coded("chunked twice", b"Transfer-Encoding: chunked, chunked\r\n"),
    _coded("chunked twice, on two lines", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
    _coded("another coding", b"Transfer-Encoding: gzip, chunked\r\n"),
    _coded("identity", b"Transfer-Encoding: identity\r\n"),
    _coded("both lengths", b"Content-Length: 11\r\nTransfer-Encoding: chunked\r\n", "RFC 9112 6.3"),
    # Targets.
    _line("OPTIONS of a whole server", "RFC 9112 3.2.4", b"OPTIONS http://gw.test HTTP/1.1", "OPTIONS *"),
    _line("OPTIONS of a whole server, by *", "RFC 9112 3.2.4", b"OPTIONS * HTTP/1.1", "OPTIONS *"),
    _line("OPTIONS of a path", "RFC 9112 3.2.2", b"OPTIONS http://gw.test/ HTTP/1.1", "OPTIONS /"),
    _line("OPTIONS with a query", "RFC 9112 3.2.1", b"OPTIONS http://gw.test?a HTTP/1.1", "OPTIONS /?a"),
    _line("GET of no path", "RFC 9112 3.2.1", b"GET http://gw.test HTTP/1.1", "GET /"),
    # Versions.
    _line("HTTP/1.0", "RFC 9112 2.3", b"GET /old HTTP/1.0", "GET /old"),
    _line("HTTP/0.9", "RFC 9112 2.3", b"GET /old HTTP/0.9", refused=VERSION),
    _line("no version", "RFC 9112 3", b"GET /old", refused=VERSION),
    _line("HTTP/1.2", "RFC 9110 2.5", b"GET /new HTTP/1.2", refused=VERSION),
    _line("HTTP/1.10", "RFC 9112 2.3", b"GET /new HTTP/1.10", refused=VERSION),
    _line("HTTP/2.0", "RFC 9110 15.6.6", b"GET /new HTTP/2.0", refused=VERSION),
    _line("HTTP/3", "RFC 9112 2.3", b"GET /new HTTP/3", refused=VERSION),
    _line("http/1.1", "RFC 9112 2.3", b"GET /case http/1.1", refused=VERSION),
    _line("RTSP/1.0", "RFC 9112 2.3", b"GET /other RTSP/1.0", refused=VERSION),
    _line("ICE/1.0", "RFC 9112 2.3", b"GET /other ICE/1.0", refused=VERSION),
    _line("a method of another protocol", "RFC 9112 3", b"SOURCE /other ICE/1.0", refused=VERSION),
)
