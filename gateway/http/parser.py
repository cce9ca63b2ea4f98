"""The heads of messages, read by the parsers that aiohttp exports; the one place that knows how these behave.

The rule of this file: a parser sees whole heads and nothing else, so that no body, trailer or end of a read can reach
the next message, whatever it keeps: in aiohttp 3.14 a trailer field of a chunked request becomes a field of the next
one, and what follows the body of a request with `Upgrade` is lost.
"""

import re
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import aiohttp
from aiohttp.http import HttpRequestParser, HttpResponseParser, RawRequestMessage, RawResponseMessage
from aiohttp.http_exceptions import LineTooLong

from gateway.errors import Unusable
from gateway.http.messages import Request, Response

END_OF_HEAD: Final = b"\r\n\r\n"
_CR: Final = 0x0D
# RFC 9112 2.2: before a request line they mean nothing.
_EMPTY_LINES: Final = re.compile(rb"[\r\n]*+")
_NO_REQUEST_LINE: Final = "no request line of HTTP/1.x"
_TOO_MANY: Final = "Too many headers received"
_VERSIONS: Final = (b" HTTP/1.1", b" HTTP/1.0")
# RFC 9112 3: the parser takes more than one space, and RTSP and ICE for HTTP. Any word of capitals is a method
# (RFC 9110 9.1), and the business of whoever answers it.
_REQUEST_LINE: Final = re.compile(rb"([A-Z][A-Z-]{0,31}+) ([!-~]++) HTTP/1\.[01]\r\n")
# What a request line begins with; anything else, TLS say, is refused before a whole head is there.
_BEGINNING: Final = re.compile(rb"[A-Z][A-Z-]{0,31}+(?: |\Z)")
# RFC 9112 2.3: another minor version means the same, another major one does not.
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[0-9] ")
_KNOWN: Final = (b"HTTP/1.1 ", b"HTTP/1.0 ")
# Homeservers answer with heads far below these; they only bound a broken one.
_MAX_ANSWER_LINE: Final = 2**16
_MAX_ANSWER_FIELDS: Final = 1024
MAX_ANSWER_HEAD: Final = 2**20


class BadHead(ValueError):
    """The octets are no head of a message: the status that says so (RFC 9110 15.5), and why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Bounds on the head of a request, in octets and in fields; `fields_size` is that of all field lines together."""

    request_line: int
    field: int
    fields: int
    fields_size: int


class PartialHead:
    """A head that has begun to come: what there is of it, and where its first `line` ends, -1 while it does not."""

    __slots__ = ("line", "octets")

    def __init__(self) -> None:
        self.octets = bytearray()
        self.line = -1

    def add(self, data: bytes, start: int) -> tuple[bytes, int]:
        """Add `data[start:]`; return the head, b"" while it is not whole, and where it ends in `data`."""
        octets, before = self.octets, len(self.octets)
        octets += data[start:]
        if self.line < 0:
            self.line = octets.find(b"\r\n", max(0, before - 1))
        end = octets.find(END_OF_HEAD, max(0, before + 1 - len(END_OF_HEAD)))
        if end < 0:
            return b"", len(data)
        end += len(END_OF_HEAD)
        return bytes(octets[:end]), start + end - before


class Heads(Protocol):
    """What knows the heads of one kind of message."""

    def check_beginning(self, partial: PartialHead, added: int) -> None:
        """Refuse what can't become a head, whose last `added` octets are new; raises `BadHead`."""


def read_head(
    heads: Heads, partial: PartialHead | None, data: bytes, start: int
) -> tuple[bytes, PartialHead | None, int]:
    """Read a head that is, or goes on, at `data[start:]`; raises `BadHead` for what can't become one.

    Returns the whole head, or b"" and what there is of it, and where it ends in `data`.
    """
    if partial is None:
        if data[start] <= _CR:
            start = cast("re.Match[bytes]", _EMPTY_LINES.match(data, start)).end()
            if start == len(data):
                return b"", None, start
        if (end := data.find(END_OF_HEAD, start)) >= 0:
            end += len(END_OF_HEAD)
            return data[start:end], None, end
        partial = PartialHead()
    head, end = partial.add(data, start)
    if head:
        return head, None, end
    heads.check_beginning(partial, end - start)
    return b"", partial, end


class RequestHeads:
    """Reads the heads of requests, of many connections: between two heads the parser keeps nothing."""

    def __init__(self, limits: HeadLimits) -> None:
        self.limits = limits
        self._parser: HttpRequestParser | None = None

    def parse(self, head: bytes) -> Request:
        """Return what a whole head says, its empty line included; raises `BadHead`."""
        found = _REQUEST_LINE.match(head)
        if found is None:
            raise BadHead(400, _NO_REQUEST_LINE)
        method, target = found.groups()
        line = found.end() - 2
        if line > self.limits.request_line or len(head) - line > self.limits.fields_size:
            self._check_size(line, len(head) - line)
        parser, self._parser = self._parser or self._new_parser(), None
        message: RawRequestMessage
        try:
            # The fields alone: yarl would keep the target in a cache, and nobody wants it taken apart.
            ((message, _),), _, _ = parser.feed_data(b"OPTIONS * " + head[line - 8 :])
        except Exception as error:  # noqa: BLE001 - whatever it is, this is no head
            raise _bad_head(error) from None
        if not (message.should_close or message.upgrade):  # after these it takes nothing more
            self._parser = parser
        return Request(message, method.decode(), target.decode())

    def check_beginning(self, partial: PartialHead, added: int) -> None:
        """Refuse what can't become a head, whose last `added` octets are new; raises `BadHead`."""
        octets, line, since = partial.octets, partial.line, len(partial.octets) - added
        if line >= 0:
            self._check_size(line, len(octets) - line)
            if line + 2 > since and not octets.endswith(_VERSIONS, 0, line):
                raise BadHead(400, _NO_REQUEST_LINE)
        else:
            self._check_size(len(octets) - octets.endswith(b"\r"), 0)
        if _BEGINNING.match(octets) is None or has_bare_line_end(octets, since):
            raise BadHead(400, "no head of a request")

    def _check_size(self, line: int, fields: int) -> None:
        if line > self.limits.request_line:
            raise BadHead(431, "the request line is too long")
        if fields > self.limits.fields_size:
            raise BadHead(431, "the fields are too large")

    def _new_parser(self) -> HttpRequestParser:
        limits = self.limits
        return HttpRequestParser(
            **_FOR_BODIES,
            max_line_size=limits.request_line,
            max_field_size=limits.field,
            max_headers=limits.fields,
            auto_decompress=False,
        )


class ResponseHeads:
    """Reads the heads of answers, of many connections."""

    def __init__(self) -> None:
        self._parser: HttpResponseParser | None = None

    def parse(self, head: bytes) -> Response:
        """Return what a whole head says, its empty line included; raises `BadHead`."""
        if not head.startswith(_KNOWN):
            if _STATUS_LINE.match(head) is None:
                raise BadHead(502, "no status line of HTTP/1.x")
            head = b"HTTP/1.1" + head[8:]
        parser, self._parser = self._parser or self._new_parser(), None
        message: RawResponseMessage
        try:
            ((message, _),), _, _ = parser.feed_data(head)
        except Exception as error:  # noqa: BLE001 - as above
            raise _bad_head(error) from None
        if not (message.should_close or message.upgrade):
            self._parser = parser
        if message.code < 100:
            raise BadHead(502, "a status that is none")
        if head.count(b"\r\n") != head.count(b"\n"):  # the parser of answers takes it
            raise BadHead(502, "a bare LF")
        # The parser takes "Content-Length : 2" for a length, and others don't (RFC 9112 5.1).
        if b" :" in head and any(name.endswith(b" ") for name, _ in message.raw_headers):
            raise BadHead(502, "a field name with a space")
        return Response(message)

    def check_beginning(self, partial: PartialHead, added: int) -> None:
        """Refuse what can't become a head, whose last `added` octets are new; raises `BadHead`."""
        octets = partial.octets
        whole = len(octets) >= len(_KNOWN[0])
        if (whole and _STATUS_LINE.match(octets) is None) or has_bare_line_end(octets, len(octets) - added):
            raise BadHead(502, "no head of an answer")

    def _new_parser(self) -> HttpResponseParser:
        return HttpResponseParser(
            **_FOR_BODIES,
            max_line_size=_MAX_ANSWER_LINE,
            max_field_size=_MAX_ANSWER_LINE,
            max_headers=_MAX_ANSWER_FIELDS,
            auto_decompress=False,
        )


# A parser hands protocol, loop and limit to the streams of bodies, and it makes none here.
_FOR_BODIES: Final[dict[str, Any]] = {"protocol": None, "loop": None, "limit": 1, "response_with_body": False}


def has_bare_line_end(octets: bytes | bytearray, since: int) -> bool:
    """Say whether CR or LF stands alone behind `since` (RFC 9112 2.2); a CR at the end may get its LF."""
    pairs = octets.count(b"\r\n", max(0, since - 1))
    alone = octets.count(b"\r", max(0, since - 1)) - octets.endswith(b"\r")
    return octets.count(b"\n", since) != pairs or alone != pairs


def _bad_head(error: Exception) -> BadHead:
    """Return what an error of a parser means, without its words: they quote what came, which may be a token."""
    too_large = isinstance(error, LineTooLong) or getattr(error, "message", "") == _TOO_MANY
    return BadHead(431 if too_large else 400, type(error).__name__)


# What a parser that reads heads as this gateway knows it makes of some, again and again.
_KNOWN_REQUEST: Final = b"POST /%2f?a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n"
_READ_REQUEST: Final = ("POST", "/%2f?a", False, True, (b"Host", b"h"), (b"Content-Length", b"1"), "h")
_KNOWN_RESPONSE: Final = b"HTTP/1.1 200 Fine\r\nSet-Cookie: a\r\nset-cookie: b\r\n\r\n"
_READ_RESPONSE: Final = (200, "Fine", (b"Set-Cookie", b"a"), (b"set-cookie", b"b"))
_REFUSED: Final = (
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : h\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\n a\r\n\r\n",
)


def check_parsers() -> None:
    """Try the parsers on heads whose meaning is known; raises `Unusable` where they read them in another way."""
    requests = RequestHeads(HeadLimits(request_line=128, field=128, fields=2, fields_size=256))
    responses = ResponseHeads()
    try:
        known = all(_reads_as_known(requests, responses) for _ in range(2))
    except Exception:  # noqa: BLE001 - whatever it is, the parser is another one
        known = False
    if not known:
        raise Unusable(
            f"aiohttp {aiohttp.__version__} reads HTTP in another way than this version of the gateway knows."
            " Install the versions of requirements.lock, with their C extensions, or a newer gateway."
        )


def _reads_as_known(requests: RequestHeads, responses: ResponseHeads) -> bool:
    request, response = requests.parse(_KNOWN_REQUEST), responses.parse(_KNOWN_RESPONSE)
    read = (request.method, request.target, request.is_http_1_0, request.keep_alive, *request.raw)
    answered = (response.status, response.reason, *response.raw)
    refused = all(_is_refused(requests, head) for head in _REFUSED)
    return refused and (*read, request.headers["host"]) == _READ_REQUEST and answered == _READ_RESPONSE


def _is_refused(requests: RequestHeads, head: bytes) -> bool:
    try:
        requests.parse(head)
    except BadHead as bad:
        return bad.status == 400
    return False
