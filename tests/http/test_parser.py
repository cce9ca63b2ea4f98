"""Heads are read whole, by parsers that keep nothing; any octets give a message or `BadHead`, whatever the reads."""

import ast
import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import http
from hypothesis import given
from hypothesis import strategies as st

import gateway
from gateway.errors import Unusable
from gateway.http import parser
from gateway.http.messages import Request, Response
from gateway.http.parser import (
    BadHead,
    HeadLimits,
    PartialHead,
    RequestHeads,
    ResponseHeads,
    check_parsers,
    has_bare_line_end,
    read_head,
)
from tests.cli.commands import run
from tests.running_gateway import write_configuration

LIMITS = HeadLimits(request_line=1024, field=512, fields=10, fields_size=2048)
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
OK_1_0 = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def read(octets: bytes) -> Request:
    return RequestHeads(LIMITS).parse(octets)


def request(line: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join((line, b"Host: h", *fields, b"", b""))


def said(message: Request | Response) -> dict[str, object]:
    """Everything that a head says."""
    own = ("method", "target", "is_http_1_0", "chunked") if isinstance(message, Request) else ("status", "reason")
    return {name: getattr(message, name) for name in ("raw", "kept", "special", "keep_alive", *own)}


# What is taken and what is refused.

TARGETS = ["/", "/?", "//", "/%2f%2F?a=b&&;+", "*", "http://h/", "h:443", "/'()!$^`|{}\"<>\\", "/" + "a" * 1000]


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_is_what_came_octet_for_octet(target: str) -> None:
    """RFC 9112 3.2."""
    assert read(request(f"GET {target} HTTP/1.1".encode())).target == target


@pytest.mark.parametrize("method", ["GET", "HEAD", "CONNECT", "M-SEARCH", "A", "X" * 32, "FOO-", "PRI", "SOURCE"])
def test_a_method_is_any_word_of_capitals(method: str) -> None:
    """RFC 9110 16.1.1: new ones come; what they mean is the homeserver's business."""
    assert read(request(f"{method} / HTTP/1.1".encode())).method == method


@pytest.mark.parametrize(
    ("line", "field", "keep_alive"),
    [
        (b"GET / HTTP/1.1", b"A: b", True),
        (b"GET / HTTP/1.1", b"Connection: close", False),
        (b"GET / HTTP/1.1", b"Connection: a, Close", False),
        (b"GET / HTTP/1.1", b"Connection: keep-alive, close", False),
        (b"GET / HTTP/1.0", b"A: b", False),
        (b"GET / HTTP/1.0", b"Connection: keep-alive", True),
        (b"GET / HTTP/1.0", b"Connection: close", False),
        (b"GET / HTTP/1.0", b"Connection: keep-alive, close", False),
        (b"GET / HTTP/1.0", b"Connection: Close,keep-alive", False),
        (b"GET / HTTP/1.0", b"Proxy-Connection: keep-alive", False),
        (b"GET / HTTP/1.0", b"Connection: keep-alive\r\nConnection: close", False),
    ],
)
def test_a_connection_is_kept_as_version_and_options_say(line: bytes, field: bytes, *, keep_alive: bool) -> None:
    """RFC 9112 9.3."""
    head = read(request(line, field))

    assert (head.keep_alive, head.is_http_1_0) == (keep_alive, line.endswith(b"0"))


def test_fields_keep_their_order_and_case_and_duplicates() -> None:
    head = read(request(b"GET / HTTP/1.1", b"a:b", b"A: \t c \t", b"a:", b"X: x", b"b: \xff"))

    assert head.raw == ((b"Host", b"h"), (b"a", b"b"), (b"A", b"c"), (b"a", b""), (b"X", b"x"), (b"b", b"\xff"))
    assert head.headers.getall("A") == ["b", "c", ""]


REFUSED = {
    # RFC 9112 3: one space each, and a version that this is.
    "no line": b"\r\n",
    "one word": request(b"GET"),
    "two words": request(b"GET /"),
    "four words": request(b"GET / a HTTP/1.1"),
    "two spaces before the version": request(b"GET /  HTTP/1.1"),
    "a space before the method": request(b" GET / HTTP/1.1"),
    "a space behind the version": request(b"GET / HTTP/1.1 "),
    "a tab": request(b"GET\t/\tHTTP/1.1"),
    "HTTP/2.0": request(b"PRI * HTTP/2.0"),
    "HTTP/0.9": request(b"GET / HTTP/0.9"),
    "HTTP/1.2": request(b"GET / HTTP/1.2"),
    "HTTP/1.10": request(b"GET / HTTP/1.10"),
    "a version in small letters": request(b"GET / http/1.1"),
    "another protocol": request(b"GET / RTSP/1.0"),
    "a stream": request(b"SOURCE / ICE/1.0"),
    "a method in small letters": request(b"get / HTTP/1.1"),
    "a method that is too long": request(b"X" * 33 + b" / HTTP/1.1"),
    "a method that begins with a sign": request(b"-GET / HTTP/1.1"),
    "an octet beyond ASCII in the target": request(b"GET /\xe4 HTTP/1.1"),
    "a control in the target": request(b"GET /\x7f HTTP/1.1"),
    "NUL in the target": request(b"GET /\0 HTTP/1.1"),
    "CR in the target": request(b"GET /\r HTTP/1.1"),
    "LF behind the request line": b"GET / HTTP/1.1\nHost: h\r\n\r\n",
    # 5 and RFC 9110 5.
    "LF behind a field": request(b"GET / HTTP/1.1", b"A: b\nC: d"),
    "CR in a field": request(b"GET / HTTP/1.1", b"A: b\rC: d"),
    "a field that is folded": request(b"GET / HTTP/1.1", b"A: b\r\n c"),
    "white space before the first field": b"GET / HTTP/1.1\r\n Host: h\r\n\r\n",
    "a space before the colon": request(b"GET / HTTP/1.1", b"A : b"),
    "a space in a name": request(b"GET / HTTP/1.1", b"A B: b"),
    "no colon": request(b"GET / HTTP/1.1", b"A"),
    "no name": request(b"GET / HTTP/1.1", b": b"),
    "a name beyond ASCII": request(b"GET / HTTP/1.1", b"\xe4: b"),
    "NUL in a value": request(b"GET / HTTP/1.1", b"A: \0"),
    "a control in a value": request(b"GET / HTTP/1.1", b"A: \x01"),
    # 3.2 and 6.3.
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two of Host": request(b"GET / HTTP/1.1", b"host: h"),
    "two lengths": request(b"POST / HTTP/1.1", b"Content-Length: 1", b"Content-Length: 1"),
    "a length and chunks": request(b"POST / HTTP/1.1", b"Content-Length: 1", b"Transfer-Encoding: chunked"),
    "a length that is none": request(b"POST / HTTP/1.1", b"Content-Length: +1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_request_is_a_400(case: str) -> None:
    with pytest.raises(BadHead) as raised:
        read(REFUSED[case])

    assert raised.value.status == 400


TOO_LARGE = {
    "a request line": request(b"GET /" + b"a" * 1011 + b" HTTP/1.1"),
    "a field": request(b"GET / HTTP/1.1", b"A: " + b"b" * 513),
    "fields": request(b"GET / HTTP/1.1", *[b"A: b"] * 10),
    "all fields together": request(b"GET / HTTP/1.1", *[b"A: " + b"b" * 400] * 4, b"A: " + b"b" * 411),
}


@pytest.mark.parametrize("case", TOO_LARGE)
def test_what_is_too_large_is_a_431(case: str) -> None:
    """RFC 6585 5."""
    with pytest.raises(BadHead) as raised:
        read(TOO_LARGE[case])

    assert raised.value.status == 431


def test_a_refusal_tells_nothing_of_what_came() -> None:
    for head in (request(b"GET / HTTP/1.1", b"Authorization: secret\0"), request(b"GET /secret HTTP/1.1", b"A : b")):
        with pytest.raises(BadHead) as raised:
            read(head)
        assert "secret" not in str(raised.value)
        assert raised.value.__suppress_context__


ANSWERS = {
    "a plain one": (OK, 200, "OK", True),
    "no reason": (b"HTTP/1.1 204\r\n\r\n", 204, "", None),
    "an empty reason": (b"HTTP/1.1 404 \r\n\r\n", 404, "", None),
    "a reason beyond ASCII": (b"HTTP/1.1 200 \xff \xe4\r\n\r\n", 200, "\udcff \udce4", None),
    "another minor version": (OK.replace(b"1.1", b"1.2"), 200, "OK", True),  # RFC 9112 2.3
    "an older one": (OK.replace(b"1.1", b"1.0"), 200, "OK", False),
    "an older one that is kept": (OK_1_0, 200, "OK", True),
    "one that is not kept": (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", 200, "OK", False),
    "a status that nobody knows": (OK.replace(b"200", b"999"), 999, "OK", True),
    "an interim one": (b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n", 103, "Early Hints", None),
    "no body but chunks": (b"HTTP/1.1 304 A\r\nTransfer-Encoding: chunked\r\n\r\n", 304, "A", True),
}  # fmt: skip


@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer_is_what_came(case: str) -> None:
    octets, status, reason, keep_alive = ANSWERS[case]
    response = ResponseHeads().parse(octets)

    assert (response.status, response.reason) == (status, reason)
    assert keep_alive is None or response.keep_alive is keep_alive


NO_ANSWERS = {
    "another protocol": b"SSH-2.0-OpenSSH\r\n\r\n",
    "HTTP/2.0": OK.replace(b"1.1", b"2.0"),
    "HTTP/1.10": OK.replace(b"1.1", b"1.10"),
    "two spaces": OK.replace(b" 200", b"  200"),
    "a status of two digits": OK.replace(b"200", b"20"),
    "a status of four digits": OK.replace(b"200", b"2000"),
    "a status below 100": OK.replace(b"200", b"099"),
    "a status that is no number": OK.replace(b"200", b"2x0"),
    "a space before a colon": OK.replace(b"Length:", b"Length :"),
    "a space in a name": OK.replace(b"Content-Length: 0", b"A B: c"),
    "no colon": OK.replace(b"Content-Length: 0", b"A"),
    "no name": OK.replace(b"Content-Length: 0", b": c"),
    "NUL": OK.replace(b"Content-Length: 0", b"A: \0"),
    "CR": OK.replace(b"Content-Length: 0", b"A: b\rc"),
    "two lengths": OK.replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n"),
    "a length and chunks": OK.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"),
    # RFC 9112 2.2 lets a recipient take it; that must not depend on where a read ends.
    "LF behind the status line": b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
    "LF behind a field": b"HTTP/1.1 200 OK\r\nA: b\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("case", NO_ANSWERS)
def test_what_is_no_answer_is_refused_whatever_the_reads(case: str) -> None:
    for size in (1, 7, 1000):
        octets = NO_ANSWERS[case]
        with pytest.raises(BadHead):
            heads_in(ResponseHeads(), cut(octets, range(0, len(octets), size)))


def test_an_answer_may_have_many_and_long_fields() -> None:
    fields = b"".join(b"Set-Cookie: %d=%b\r\n" % (number, b"a" * 40) for number in range(1000))

    assert len(ResponseHeads().parse(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n").raw) == 1000
    assert ResponseHeads().parse(b"HTTP/1.1 200 OK\r\nA: " + b"b" * 60_000 + b"\r\n\r\n").raw[0][0] == b"A"


# One parser for many heads.

AFTER_WHICH_A_PARSER_MAY_KEEP_SOMETHING = [
    GET,
    request(b"GET /other HTTP/1.1", b"X-Other: 1"),
    request(b"POST / HTTP/1.1", b"Content-Length: 5"),
    request(b"POST / HTTP/1.1", b"Content-Length: 0"),
    request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked", b"Trailer: X-Other"),
    request(b"POST / HTTP/1.1", b"Transfer-Encoding: gzip"),
    request(b"GET / HTTP/1.1", b"Connection: close"),
    request(b"GET / HTTP/1.1", b"Connection: Upgrade", b"Upgrade: websocket"),
    request(b"POST / HTTP/1.1", b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 3"),
    request(b"GET / HTTP/1.1", b"Connection: upgrade"),
    request(b"GET / HTTP/1.1", b"Upgrade: websocket"),
    request(b"CONNECT h:443 HTTP/1.1"),
    request(b"HEAD / HTTP/1.1"),
    request(b"GET / HTTP/1.1", b"Content-Encoding: gzip"),
    request(b"GET / HTTP/1.1", b"Expect: 100-continue"),
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"POST / HTTP/1.0\r\nContent-Length: 4\r\n\r\n",
    b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
    *REFUSED.values(),
    *TOO_LARGE.values(),
]
AFTER_WHICH_A_PARSER_OF_ANSWERS_MAY = [
    *(octets for octets, *_ in ANSWERS.values()),
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: a\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: a\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    *NO_ANSWERS.values(),
]


def outcome(heads: RequestHeads | ResponseHeads, octets: bytes) -> object:
    try:
        return said(heads.parse(octets))
    except BadHead as bad:
        return (bad.status, str(bad))


@given(st.lists(st.sampled_from(AFTER_WHICH_A_PARSER_MAY_KEEP_SOMETHING), max_size=12))
def test_a_parser_of_requests_that_was_used_reads_like_a_new_one(octets: Sequence[bytes]) -> None:
    used = RequestHeads(LIMITS)

    assert [outcome(used, each) for each in octets] == [outcome(RequestHeads(LIMITS), each) for each in octets]


@given(st.lists(st.sampled_from(AFTER_WHICH_A_PARSER_OF_ANSWERS_MAY), max_size=12))
def test_a_parser_of_answers_that_was_used_reads_like_a_new_one(octets: Sequence[bytes]) -> None:
    used = ResponseHeads()

    assert [outcome(used, each) for each in octets] == [outcome(ResponseHeads(), each) for each in octets]


@pytest.mark.parametrize("first", AFTER_WHICH_A_PARSER_MAY_KEEP_SOMETHING)
@pytest.mark.parametrize("second", [GET, request(b"POST /second HTTP/1.1", b"Content-Length: 5", b"X-Second: 2")])
def test_nothing_of_a_request_is_in_the_next_one(first: bytes, second: bytes) -> None:
    heads = RequestHeads(LIMITS)
    outcome(heads, first)

    assert outcome(heads, second) == said(read(second))


@pytest.mark.parametrize("first", AFTER_WHICH_A_PARSER_OF_ANSWERS_MAY)
def test_nothing_of_an_answer_is_in_the_next_one(first: bytes) -> None:
    heads = ResponseHeads()
    outcome(heads, first)

    assert outcome(heads, OK) == said(ResponseHeads().parse(OK))


def test_a_parser_is_used_again() -> None:
    """Making one takes longer than reading a head."""
    heads, kept = RequestHeads(LIMITS), set()
    for _ in range(3):
        heads.parse(request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked"))
        kept.add(id(heads._parser))  # noqa: SLF001 - nothing else shows it

    assert len(kept) == 1


# Any octets, in any reads.


def cut(octets: bytes, places: Iterable[int]) -> Iterator[bytes]:
    ends = sorted({place % (len(octets) + 1) for place in places} | {len(octets)})
    for start, end in zip([0, *ends], ends, strict=False):
        if start < end:
            yield octets[start:end]


def heads_in(heads: RequestHeads | ResponseHeads, reads: Iterable[bytes]) -> list[object]:
    """Return what the heads that come in these reads say, one behind the other; raises `BadHead`."""
    partial: PartialHead | None = None
    found: list[object] = []
    for octets in reads:
        start = 0
        while start < len(octets):
            head, partial, start = read_head(heads, partial, octets, start)
            if head:
                found.append(said(heads.parse(head)))
    return found


def all_in(heads: RequestHeads | ResponseHeads, reads: Iterable[bytes]) -> list[object] | None:
    """Return the same, and None for what is refused."""
    try:
        return heads_in(heads, reads)
    except BadHead:
        return None


cuts = st.lists(st.integers(0, 2**16), max_size=8)
lines = st.sampled_from(
    [b"GET / HTTP/1.1", b"Host: h", b"A: b", b" fold", b"", b"A : b", b"Content-Length: 1", b"\0"]
)
ends = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b""])
nearly = st.lists(st.tuples(lines, ends).map(b"".join), max_size=8).map(b"".join)
answer_lines = st.sampled_from(
    [b"HTTP/1.1 200 OK", b"HTTP/1.1 204", b"HTTP/1.0 200 \xe4", b"A: b", b" fold", b"", b"A\0: b"]
)
nearly_answers = st.lists(st.tuples(answer_lines, ends).map(b"".join), max_size=8).map(b"".join)


@given(st.binary(max_size=80) | nearly)
def test_any_octets_are_a_request_or_a_bad_head(octets: bytes) -> None:
    for head in (octets, octets + b"\r\n\r\n", GET + octets):
        try:
            assert isinstance(read(head), Request)
        except BadHead as bad:
            assert bad.status in {400, 431}


@given(st.binary(max_size=80) | nearly_answers)
def test_any_octets_are_an_answer_or_a_bad_head(octets: bytes) -> None:
    for head in (octets, octets + b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + octets + b"\r\n\r\n"):
        try:
            assert isinstance(ResponseHeads().parse(head), Response)
        except BadHead:
            continue


@given(st.lists(nearly | st.sampled_from(AFTER_WHICH_A_PARSER_MAY_KEEP_SOMETHING), max_size=4).map(b"".join), cuts)
def test_what_is_read_of_requests_does_not_depend_on_the_reads(octets: bytes, places: Sequence[int]) -> None:
    octets += GET
    whole = all_in(RequestHeads(LIMITS), [octets])

    assert all_in(RequestHeads(LIMITS), cut(octets, places)) == whole
    assert all_in(RequestHeads(LIMITS), cut(octets, range(len(octets)))) == whole


@given(
    st.lists(nearly_answers | st.sampled_from(AFTER_WHICH_A_PARSER_OF_ANSWERS_MAY), max_size=4).map(b"".join), cuts
)
def test_what_is_read_of_answers_does_not_depend_on_the_reads(octets: bytes, places: Sequence[int]) -> None:
    octets += OK
    whole = all_in(ResponseHeads(), [octets])

    assert all_in(ResponseHeads(), cut(octets, places)) == whole
    assert all_in(ResponseHeads(), cut(octets, range(len(octets)))) == whole


LARGEST = {
    "a request line": request(b"GET /" + b"a" * 1010 + b" HTTP/1.1"),
    "a field": request(b"GET / HTTP/1.1", b"A: " + b"b" * 500),
    "fields": request(b"GET / HTTP/1.1", *[b"A: b"] * 9),
    "all fields together": request(b"GET / HTTP/1.1", *[b"A: " + b"b" * 400] * 4, b"A: " + b"b" * 410),
}


@pytest.mark.parametrize("case", LARGEST)
def test_what_is_as_large_as_it_may_be_is_taken_whatever_the_reads(case: str) -> None:
    octets = LARGEST[case]
    for place in range(len(octets)):
        assert all_in(RequestHeads(LIMITS), cut(octets, [place])) is not None, place
    assert all_in(RequestHeads(LIMITS), cut(octets, range(len(octets)))) is not None


@pytest.mark.parametrize("case", TOO_LARGE)
def test_what_is_too_large_is_refused_whatever_the_reads(case: str) -> None:
    octets = TOO_LARGE[case]
    for place in range(0, len(octets), 13):
        assert all_in(RequestHeads(LIMITS), cut(octets, [place])) is None, place
    assert all_in(RequestHeads(LIMITS), cut(octets, range(len(octets)))) is None


@pytest.mark.parametrize(
    "octets",
    [b"GET /" + b"a" * 2000, b"GET / HTTP/1.1\r\nA: " + b"a" * 3000, b"GET / HTTP/1.1" + b"\r\nA: b" * 500],
)
def test_a_head_that_never_ends_is_refused_at_its_bound(octets: bytes) -> None:
    heads, partial, fed = RequestHeads(LIMITS), None, 0
    with pytest.raises(BadHead) as raised:
        for fed in range(len(octets)):
            _, partial, _ = read_head(heads, partial, octets[fed : fed + 1], 0)

    assert raised.value.status == 431
    assert fed <= LIMITS.request_line + LIMITS.fields_size


@pytest.mark.parametrize(
    "octets",
    [b"\x16\x03\x01\x02", b"get", b"GET\n", b"GET /\n", b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\r\nA\n", b"{"],
)
def test_what_can_become_no_request_is_refused_before_it_is_whole(octets: bytes) -> None:
    for reads in ([octets], cut(octets, range(len(octets)))):
        with pytest.raises(BadHead):
            heads_in(RequestHeads(LIMITS), reads)


def test_empty_lines_before_a_head_are_skipped_and_keep_nothing() -> None:
    """RFC 9112 2.2."""
    for octets in (b"\r\n\r\n" + GET, b"\r\n" * 3 + GET):
        assert all_in(RequestHeads(LIMITS), cut(octets, range(len(octets)))) == [said(read(GET))]
    assert read_head(RequestHeads(LIMITS), None, b"\r\n" * 500, 0) == (b"", None, 1000)


@given(st.lists(st.sampled_from([b"\r", b"\n", b"a"]), max_size=12).map(b"".join), cuts)
def test_a_bare_line_end_is_seen_in_the_read_in_which_it_stands(octets: bytes, places: Sequence[int]) -> None:
    rest = octets.replace(b"\r\n", b"")
    alone = b"\n" in rest or b"\r" in rest.removesuffix(b"\r" if octets.endswith(b"\r") else b"")
    seen, so_far = False, b""
    for each in cut(octets, places):
        so_far += each
        seen = seen or has_bare_line_end(bytearray(so_far), len(so_far) - len(each))

    assert seen == alone


# What the parsers are, and what they rest on.


def test_the_parsers_are_those_written_in_c() -> None:
    assert http.HttpRequestParser.__module__ == http.HttpResponseParser.__module__ == "aiohttp._http_parser"


class _Paused:
    """What a parser asks of the protocol whose bodies it reads."""

    _reading_paused = False

    def pause_reading(self) -> None: ...

    def resume_reading(self, **_: bool) -> None: ...


def parser_of_a_stream() -> Any:
    loop = asyncio.get_running_loop()
    return http.HttpRequestParser(protocol=_Paused(), loop=loop, limit=2**16, auto_decompress=False)  # type: ignore[arg-type]


async def test_a_trailer_becomes_a_field_of_the_next_request_in_aiohttp_itself() -> None:
    """Without it, a parser could read bodies too."""
    chunked = request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked") + b"1\r\na\r\n0\r\nX-Trailer: 1\r\n\r\n"
    messages, _, _ = parser_of_a_stream().feed_data(chunked + GET)

    assert (b"X-Trailer", b"1") in messages[1][0].raw_headers


async def test_what_follows_the_body_of_a_request_that_asks_for_another_protocol_is_lost_in_aiohttp_itself() -> None:
    """Without it, a parser could stay at such a request."""
    upgrade = request(b"POST / HTTP/1.1", b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 1")
    messages, upgraded, tail = parser_of_a_stream().feed_data(upgrade + b"a" + GET)

    assert (len(messages), upgraded, tail) == (1, False, b"")


def test_the_installed_parsers_read_as_the_gateway_knows() -> None:
    check_parsers()


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("_READ_REQUEST", ("POST", "/other")),
        ("_READ_RESPONSE", (201, "Fine")),
        ("_REFUSED", (GET.replace(b"h", b"h" * 20),)),
        ("_REFUSED", TOO_LARGE.values()),
        ("_KNOWN_RESPONSE", b"SSH-2.0\r\n\r\n"),
    ],
)
def test_parsers_that_read_in_another_way_are_told_of_with_their_version(
    name: str, other: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parser, name, other)

    with pytest.raises(Unusable, match=re.escape(f"aiohttp {aiohttp.__version__} reads HTTP in another way")):
        check_parsers()


PURE = {"AIOHTTP_NO_EXTENSIONS": "1"}  # aiohttp's own switch to its parsers in Python


def test_with_parsers_in_python_it_serves_as_well_or_ends_with_one_line(tmp_path: Path) -> None:
    read_alike = subprocess.run(
        [sys.executable, "-c", "from gateway.http.parser import check_parsers as c; c()"],
        env={**os.environ, **PURE},
        capture_output=True,
        timeout=60,
        check=False,
    )
    if read_alike.returncode == 0:
        return
    result = run("serve", "-c", str(write_configuration(tmp_path, "http://127.0.0.1:1", {})), **PURE)

    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert [line for line in result.stderr.splitlines() if "aiohttp" in line] == result.stderr.splitlines()[-1:]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


# Modules of aiohttp that are in no page of its manual.
INSIDE = ("aiohttp.base_protocol", "aiohttp.web_protocol", "aiohttp.http_parser", "aiohttp.client_proto")


def test_no_private_name_of_aiohttp_is_imported() -> None:
    package = Path(gateway.__file__).parent
    names = {
        (path.name, name) for path in package.rglob("*.py") for name in imports(path) if name.startswith("aiohttp")
    }
    private = {each for each in names if "._" in each[1] or each[1].startswith(INSIDE)}

    assert names
    assert private == set()
