"""Sequences of requests and of answers that must mean the same however they are cut: data for `test_cuts`.

A row says what is sent and what must be read of it; the last request of a row ends the connection.
"""

from dataclasses import dataclass, replace
from typing import Final

HOST: Final = "gw.test"
BLANK: Final = b"\r\n\r\n"
_HOPS: Final = ("connection:", "upgrade:", "te:", "keep-alive:", "transfer-encoding:", "content-length:")


@dataclass(frozen=True)
class SentRequest:
    """The octets of a request; its line without version, end-to-end fields and body as they must arrive."""

    octets: bytes
    line: str
    kept: tuple[str, ...] = ()
    body: bytes | None = None
    chunked: bool = False
    host: str = HOST

    @property
    def framing(self) -> list[str]:
        if self.chunked:
            return ["chunked"]
        return [""] if self.body is None else ["", str(len(self.body))]


@dataclass(frozen=True)
class SentAnswer:
    """The octets of an answer to a request with this method, and what the client must read of them.

    `surplus` comes in one piece with the last octet; `closes`: the homeserver ends the connection behind it.
    """

    method: str
    octets: bytes
    status: int = 200
    body: bytes = b""
    framing: str = "length"
    interim: tuple[int, ...] = ()
    surplus: bytes = b""
    closes: bool = False


def request(line: str, *fields: str, behind: bytes = b"", before: bytes = b"", host: str = HOST) -> SentRequest:
    head = "\r\n".join([f"{line} HTTP/1.1", f"Host: {host}", *fields, "", ""]).encode("latin-1")
    kept = tuple(one for one in fields if not one.lower().startswith(_HOPS))
    return SentRequest(before + head + behind, line, kept, host=host)


def get(*fields: str, before: bytes = b"", method: str = "GET") -> SentRequest:
    return request(f"{method} /_matrix/get?a=%2F&b", *fields, before=before)


def sized(body: bytes, *fields: str) -> SentRequest:
    sent = request("POST /_matrix/sized", *fields, f"Content-Length: {len(body)}", behind=body)
    return replace(sent, body=body)


def chunked(
    *chunks: bytes, extension: bytes = b"", trailer: bytes = b"", zeros: bytes = b"", fields: tuple[str, ...] = ()
) -> SentRequest:
    pieces = [b"%b%x%b\r\n%b\r\n" % (zeros, len(chunk), extension, chunk) for chunk in chunks]
    pieces.append(b"%b0%b\r\n%b\r\n" % (zeros, extension, trailer))
    sent = request("PUT /_matrix/chunked", *fields, "Transfer-Encoding: chunked", behind=b"".join(pieces))
    return replace(sent, body=b"".join(chunks), chunked=True)


LAST: Final = request("GET /_matrix/last", "Connection: close")
_UPGRADE: Final = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
_SMUGGLED: Final = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: gw.test\r\n\r\n"

_REQUESTS: Final[dict[str, tuple[SentRequest, ...]]] = {
    "one GET": (),
    "five GETs": (get(), get("X-A: 1"), get(), get("X-A: 2"), get()),
    "twenty GETs": (get(),) * 20,
    "HEAD between GETs": (get(), get(method="HEAD"), get(), get(method="HEAD")),
    "OPTIONS and DELETE": (get(method="OPTIONS"), get(method="DELETE")),
    "a length": (sized(b"0123456789"),),
    "a length of 0": (sized(b""), sized(b"")),
    "three lengths": (sized(b"a"), sized(b"bb" * 50), sized(b"c")),
    "a length that holds CRLF CRLF": (sized(BLANK), sized(BLANK * 70)),
    "a length that holds a request": (sized(_SMUGGLED), get()),
    "a length of 70,000": (sized(b"0123456789" * 7000), get()),
    "a chunk": (chunked(b"0123456789"),),
    "no chunk": (chunked(), chunked()),
    "chunks of one octet": (chunked(*[b"%c" % octet for octet in range(256)]),),
    "chunks that end in CR, LF and both": (chunked(b"a\r", b"\nb", b"\r\n", b"\n", b"\r", b"\r\n\r"), get()),
    "a chunk that is CRLF CRLF": (chunked(BLANK), get()),
    "a chunk of 62 CRLF CRLF": (chunked(BLANK * 62),),
    "a chunk of 63 CRLF CRLF": (chunked(BLANK * 63),),
    "a chunk of 64 CRLF CRLF": (chunked(BLANK * 64), get()),
    "a chunk of 200 CRLF CRLF": (chunked(BLANK * 200), get()),
    "200 CRLF CRLF behind a GET": (get(), chunked(BLANK * 200)),
    "200 lines with blank ones between": (chunked(b"a line of a text file\r\n\r\n" * 200), get()),
    "200 chunks of CRLF CRLF": (chunked(*[BLANK] * 200), get()),
    "20,000 CRLF CRLF": (chunked(BLANK * 20_000), get()),
    "a chunk that ends as the body does": (chunked(b"5\r\nhello\r\n0\r\n\r\n"), get()),
    "a chunk that holds a request": (chunked(_SMUGGLED), get()),
    "a chunk of 70,000": (chunked(b"0123456789" * 7000), chunked(b"a")),
    "sizes with zeros before": (chunked(b"0123456789", b"a", zeros=b"000"), get()),
    "a trailer": (chunked(b"a", trailer=b"X-Trailer: 1\r\n"), get()),
    "trailers": (chunked(b"a", trailer=b"X-Trailer: 1\r\nX-Empty:\r\nX-Trailer: 2\r\n"), get()),
    "trailers and nothing else": (chunked(trailer=b"X-Trailer: 1\r\n"), chunked(trailer=b"X-Trailer: 2\r\n")),
    "a trailer behind 100 CRLF CRLF": (chunked(BLANK * 100, trailer=b"X-Trailer: 1\r\n"), get()),
    "an extension": (chunked(b"a", b"b", extension=b";a=b"), get()),
    "an extension without a value": (chunked(b"a", extension=b";a"), get()),
    "an extension with white space": (chunked(b"a", b"b", extension=b" ; a = b"), get()),
    "an extension with tabs": (chunked(b"a", extension=b"\t;\ta\t=\tb"), get()),
    "an extension in quotes": (chunked(b"a", extension=b';a="b;c"'), get()),
    "several extensions": (chunked(b"a", BLANK * 70, extension=b";a=b;c;d=e"), get()),
    "a blank line between": (get(), get(before=b"\r\n"), get(before=b"\r\n")),
    "a blank line behind a length": (sized(b"a"), get(before=b"\r\n")),
    "a blank line behind chunks": (chunked(b"a"), get(before=b"\r\n")),
    "Upgrade that is declined": (get(*_UPGRADE), get()),
    "Upgrade with a length": (get(), sized(b"a" * 20, "Connection: close, Upgrade", "Upgrade: websocket")),
    "Upgrade twice": (get(*_UPGRADE), get(*_UPGRADE), get()),
    "GETs, lengths and chunks in turn": (get(), sized(b"a"), chunked(b"b"), get(), chunked(BLANK * 70), sized(BLANK)),
    "a field of 8,000 octets": (get(f"X-Long: {'a' * 8000}"), get()),
    "eighty fields": (get(*(f"X-{number}: {number}" for number in range(80))), get()),
    "a field without a value": (get("X-A: "), get("X-A: ")),
}
# A request with Upgrade and a body may end its connection: nothing comes behind it.
REQUESTS: Final = {name: sent if "Upgrade with" in name else (*sent, LAST) for name, sent in _REQUESTS.items()}


def answer(body: bytes = b"{}", method: str = "GET", start: str = "HTTP/1.1 200 OK", *fields: str) -> SentAnswer:
    head = "\r\n".join([start, *fields, f"Content-Length: {len(body)}", "", ""]).encode()
    if method == "HEAD":
        return SentAnswer(method, head, framing="none")
    return SentAnswer(method, head + body, body=body)


def in_chunks(*chunks: bytes, extension: bytes = b"", trailer: bytes = b"") -> SentAnswer:
    pieces = [b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks]
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    octets = head + b"".join([*pieces, b"0%b\r\n%b\r\n" % (extension, trailer)])
    return SentAnswer("GET", octets, body=b"".join(chunks), framing="chunked")


def behind(sent: SentAnswer, *interim: int) -> SentAnswer:
    lines = b"".join(b"HTTP/1.1 %d Early\r\nLink: </a>; rel=preload\r\n\r\n" % status for status in interim)
    return replace(sent, octets=lines + sent.octets, interim=interim)


def without_body(status: int, fields: str = "", method: str = "GET") -> SentAnswer:
    return SentAnswer(method, f"HTTP/1.1 {status} None\r\n{fields}\r\n".encode(), status, framing="none")


_OLD: Final = "HTTP/1.0 200 OK"
_UNTIL_CLOSE: Final = SentAnswer(
    "GET", b"HTTP/1.1 200 OK\r\n\r\n" + BLANK * 100, 200, BLANK * 100, "chunked", closes=True
)
_HEAD_OF_CHUNKS: Final = SentAnswer("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", framing="none")

_ANSWERS: Final[dict[str, tuple[SentAnswer, ...]]] = {
    "lengths": (answer(), answer(b""), answer(b"0123456789" * 30)),
    "a length that holds CRLF CRLF": (answer(BLANK * 200), answer()),
    "a length that holds an answer": (answer(answer().octets * 3), answer()),
    "a length of 70,000": (answer(b"0123456789" * 7000), answer()),
    "chunks": (in_chunks(b"a"), in_chunks(), in_chunks(b"a", b"bc" * 20)),
    "chunks of one octet": (in_chunks(*[b"%c" % octet for octet in range(256)]), answer()),
    "chunks of CRLF CRLF": (in_chunks(BLANK * 200, *[BLANK] * 100), in_chunks(b"\r", b"\n", b"\r\n")),
    "a chunk that holds an answer": (in_chunks(b"0\r\n\r\n" + answer().octets), answer()),
    "a chunk of 70,000": (in_chunks(b"0123456789" * 7000), answer()),
    "an extension": (in_chunks(b"a", b"b", extension=b";a=b"), answer()),
    "an extension with white space": (in_chunks(b"a", b"b", extension=b" ; a = b"), answer()),
    "trailers": (in_chunks(b"a", trailer=b"X-Trailer: 1\r\nX-Trailer: 2\r\n"), answer()),
    "until the close": (_UNTIL_CLOSE, answer(), _UNTIL_CLOSE),
    "HTTP/1.0 until the close": (replace(_UNTIL_CLOSE, octets=_OLD.encode() + BLANK + BLANK * 100), answer()),
    "HTTP/1.0 with a length": (replace(answer(b"{}", "GET", _OLD), closes=True), answer()),
    "HEAD": (answer(b"0123456789", "HEAD"), _HEAD_OF_CHUNKS, answer()),
    "204": (without_body(204), without_body(204), answer()),
    "304": (without_body(304, "ETag: a\r\n"), without_body(304, "Content-Length: 5\r\n"), answer()),
    "an interim answer": (behind(answer(), 103), behind(in_chunks(b"a"), 102, 103), answer()),
    "an interim answer before none": (behind(without_body(204), 103), behind(answer(b"a", "HEAD"), 103), answer()),
    "twenty interim answers": (behind(answer(), *[103] * 20), answer()),
    "interim answers until the close": (behind(_UNTIL_CLOSE, 103), answer()),
    "surplus behind a length": (replace(answer(), surplus=b"more"), answer()),
    "an answer behind a length": (replace(answer(), surplus=answer(b"smuggled").octets), answer()),
    "surplus behind chunks": (replace(in_chunks(b"a"), surplus=b"0\r\n\r\n"), answer()),
    "surplus behind HEAD": (replace(answer(b"0123456789", "HEAD"), surplus=b"0123456789"), answer()),
    "surplus behind 204": (replace(without_body(204), surplus=b"{}"), answer()),
    "surplus behind 304": (replace(without_body(304, "Content-Length: 2\r\n"), surplus=b"{}"), answer()),
}
ANSWERS: Final = {name: sent if len(sent) > 1 else (*sent, answer()) for name, sent in _ANSWERS.items()}
