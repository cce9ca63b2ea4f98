"""Pass-through, octet for octet: what reaches the homeserver, what reaches the client, and how either breaks off."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from tests.raw_http import RawServer, Script, connected, exchange, never_accepting, read_message
from tests.running_gateway import RunningGateway, running_gateway

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
FORWARDED = b"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: example.org\r\n"
SOON = 5


def before(
    tmp_path: Path, handler: Handler, **server: object
) -> AbstractAsyncContextManager[tuple[RunningGateway, RawServer]]:
    @asynccontextmanager
    async def running() -> AsyncIterator[tuple[RunningGateway, RawServer]]:
        async with RawServer(handler).running() as upstream:  # type: ignore[arg-type]
            async with running_gateway(tmp_path, upstream.url, server=server) as gateway:
                yield gateway, upstream

    return running()


def get(target: bytes = b"/_matrix/x", *fields: bytes, method: bytes = b"GET", host: bytes = b"example.org") -> bytes:
    lines = [method + b" " + target + b" HTTP/1.1", b"Host: " + host, *fields, b"Connection: close", b"", b""]
    return b"\r\n".join(lines)


def lines_of(message: bytes) -> list[bytes]:
    return message.partition(b"\r\n\r\n")[0].split(b"\r\n")


TARGETS = [
    b"/_matrix/a%2Fb%2fc",
    b"//_matrix///x//",
    b"/_matrix/./a/../b/..",
    b"/_matrix/x?",
    b"/_matrix/x?a=&a=1&a=1&=&&b",
    b"/_matrix/a;b=c+d?e;f+g=%20+%2B",
    b"/_matrix/%zz%",
    b"/_matrix/a#b",
    b"/_matrix/{}|^`'\"<>\\[]@:!$&()*,~",
    b"/_matrix/sync?filter=" + b"%7B" * 22000,
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: repr(target[:40]))
async def test_the_request_target_arrives_octet_for_octet(target: bytes, tmp_path: Path) -> None:
    script = Script(OK)
    async with before(tmp_path, script) as (gateway, _):
        assert (await exchange(gateway.port, get(target))).startswith(b"HTTP/1.1 200 ")
    assert lines_of(script.requests[0])[0] == b"GET " + target + b" HTTP/1.1"


async def test_an_asterisk_is_the_target_of_options(tmp_path: Path) -> None:
    script = Script(OK)
    async with before(tmp_path, script) as (gateway, _):
        await exchange(gateway.port, get(b"*", method=b"OPTIONS"))
        await exchange(gateway.port, get(b"http://example.org", method=b"OPTIONS"))
    assert [lines_of(request)[0] for request in script.requests] == [b"OPTIONS * HTTP/1.1"] * 2


@pytest.mark.parametrize(
    ("absolute", "target"),
    [
        (b"http://example.org/_matrix/a%2Fb?", b"/_matrix/a%2Fb?"),
        (b"HTTP://EXAMPLE.org", b"/"),
        (b"https://example.org?a", b"/?a"),
    ],
)
async def test_absolute_form_becomes_origin_form(absolute: bytes, target: bytes, tmp_path: Path) -> None:
    script = Script(OK)
    async with before(tmp_path, script) as (gateway, _):
        await exchange(gateway.port, get(absolute))
    assert lines_of(script.requests[0])[0] == b"GET " + target + b" HTTP/1.1"


async def test_request_fields_keep_names_order_values_and_duplicates_and_lose_what_is_of_the_hop(
    tmp_path: Path,
) -> None:
    sent = (
        b"GET /_matrix/x HTTP/1.1\r\nX-First: 1\r\nHost: example.org\r\nauthorization: X-Matrix a\r\n"
        b"Authorization: X-Matrix b\r\nACCEPT-encoding: br, gzip\r\nCookie: a=b\r\ncookie: c=d\r\n"
        b"x-odd: \xe4\xff \xc3\xa4\r\nX-Empty:\r\nAccept: */*\r\n"
        b"Keep-Alive: 5\r\nProxy-Connection: x\r\nTE: trailers\r\nProxy-Authorization: x\r\nX-Named: gone\r\n"
        b"Connection: close, x-named , Host\r\nX-Last: 2\r\n\r\n"
    )
    script = Script(OK)
    async with before(tmp_path, script) as (gateway, _):
        await exchange(gateway.port, sent)
    expected = (
        b"GET /_matrix/x HTTP/1.1\r\nX-First: 1\r\nHost: example.org\r\nauthorization: X-Matrix a\r\n"
        b"Authorization: X-Matrix b\r\nACCEPT-encoding: br, gzip\r\nCookie: a=b\r\ncookie: c=d\r\n"
        b"x-odd: \xe4\xff \xc3\xa4\r\nX-Empty: \r\nAccept: */*\r\nX-Last: 2\r\n" + FORWARDED + b"\r\n"
    )
    assert script.requests == [expected]


async def test_answer_fields_keep_names_order_values_and_duplicates_and_nothing_is_added(tmp_path: Path) -> None:
    upstream = (
        b"HTTP/1.1 299 Quite Fine\r\nset-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Odd: \xe4\xff\r\nx-MIXED: 1\r\n"
        b"X-Empty: \r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: x\r\nX-Named: gone\r\nConnection: X-Named\r\n"
        b"Location: http://elsewhere/%2F\r\nContent-Length: 2\r\n\r\n{}"
    )
    async with before(tmp_path, Script(upstream)) as (gateway, _):
        answer = await exchange(gateway.port, get())
    assert answer == (
        b"HTTP/1.1 299 Quite Fine\r\nset-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Odd: \xe4\xff\r\nx-MIXED: 1\r\n"
        b"X-Empty: \r\nLocation: http://elsewhere/%2F\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    )


SPOOFED = (
    b"X-Forwarded-For: 1.2.3.4, 5.6.7.8",
    b"X-Forwarded-Proto: https",
    b"X-Forwarded-Host: other.example",
    b"Forwarded: for=1.2.3.4",
    b"X-Real-IP: 1.2.3.4",
    b"X_Forwarded_For: 1.2.3.4",
)


async def test_a_trusted_proxy_says_who_the_client_is(tmp_path: Path) -> None:
    script = Script(OK)
    async with before(tmp_path, script) as (gateway, _):
        await exchange(gateway.port, get(b"/", *SPOOFED))
    assert lines_of(script.requests[0])[2:] == list(SPOOFED)


async def test_nobody_else_says_who_the_client_is(tmp_path: Path) -> None:
    script = Script(OK)
    async with before(tmp_path, script, trusted_proxies=[]) as (gateway, _):
        await exchange(gateway.port, get(b"/", *SPOOFED))
    assert lines_of(script.requests[0])[2:] == FORWARDED.split(b"\r\n")[:3]


async def test_via_is_added_where_it_is_configured(tmp_path: Path) -> None:
    script = Script(OK)
    async with before(tmp_path, script, via="edge") as (gateway, _):
        await exchange(gateway.port, get())
    assert lines_of(script.requests[0])[-1] == b"Via: 1.1 edge"


CHUNKED = b"5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nX-Trailer: 1\r\n\r\n"


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"GET", b"DELETE"])
@pytest.mark.parametrize(
    ("framing", "body", "arrives"),
    [
        (b"Content-Length: 6", b"hello!", b"hello!"),
        (b"Content-Length: 0", b"", b""),
        (b"Transfer-Encoding: chunked", CHUNKED, None),
        (b"transfer-encoding: Chunked", b"0\r\n\r\n", b"0\r\n\r\n"),
    ],
)
async def test_a_length_stays_a_length_and_chunks_stay_chunks(
    method: bytes, framing: bytes, body: bytes, arrives: bytes | None, tmp_path: Path
) -> None:
    script = Script(OK)
    async with before(tmp_path, script) as (gateway, _):
        answer = await exchange(gateway.port, get(b"/_matrix/x", framing, method=method) + body)
    assert answer.endswith(b"\r\n\r\n{}")
    head, _, sent = script.requests[0].partition(b"\r\n\r\n")
    names = [line.lower() for line in head.split(b"\r\n")]
    assert framing.lower() in names
    assert sum(name.startswith((b"content-length", b"transfer-encoding")) for name in names) == 1
    if arrives is None:
        assert sent.endswith(b"0\r\n\r\n")
        assert sent.replace(b"\r\n", b"") in {b"5hello1!0", b"6hello!0"}
        assert b"Trailer" not in script.requests[0]
    else:
        assert sent == arrives


ANSWERS = {
    "HEAD": (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n", b"Content-Length: 12345\r\n"),
    "204": (b"GET", b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n", b"X-A: 1\r\n"),
    "304": (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", b"Content-Length: 7\r\n"),
    "206": (
        b"GET",
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-1/9\r\nContent-Length: 2\r\n\r\nab",
        b"Content-Range: bytes 0-1/9\r\nContent-Length: 2\r\n",
    ),
    "empty": (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"Content-Length: 0\r\n"),
    "without a reason": (b"GET", b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", b"Content-Length: 0\r\n"),
    "encoded": (
        b"GET",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nxyz",
        b"Content-Encoding: gzip\r\nContent-Length: 3\r\n",
    ),
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_an_answer_keeps_its_framing_and_the_connections_go_on(case: str, tmp_path: Path) -> None:
    method, upstream, fields = ANSWERS[case]
    start, _, rest = upstream.partition(b"\r\n")
    body = rest.partition(b"\r\n\r\n")[2]
    async with before(tmp_path, Script(upstream)) as (gateway, server), connected(gateway.port) as client:
        for _ in range(3):
            await client.send(method + b" /_matrix/x HTTP/1.1\r\nHost: example.org\r\n\r\n")
            assert await client.head() == start + b"\r\n" + fields + b"\r\n"
            assert await client.reader.readexactly(len(body)) == body
        assert server.connections == 1


async def test_a_chunked_answer_stays_chunked(tmp_path: Path) -> None:
    upstream = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;a=b\r\nde\r\n0\r\nX-T: 1\r\n\r\n"
    async with before(tmp_path, Script(upstream)) as (gateway, _), connected(gateway.port) as client:
        for _ in range(2):
            await client.send(b"GET /_matrix/x HTTP/1.1\r\nHost: example.org\r\n\r\n")
            head, _, body = (await client.answer()).partition(b"\r\n\r\n")
            assert head == b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked"
            assert body.replace(b"\r\n", b"") in {b"3abc2de0", b"5abcde0"}


async def until_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_message(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\nall of it")


async def test_an_answer_that_ends_by_close_becomes_chunked(tmp_path: Path) -> None:
    async with before(tmp_path, until_close) as (gateway, _), connected(gateway.port) as client:
        await client.send(b"GET /_matrix/x HTTP/1.1\r\nHost: example.org\r\n\r\n")
        answer = await client.answer()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert answer.endswith(b"0\r\n\r\n")


async def test_a_client_of_http_1_0_gets_no_chunks(tmp_path: Path) -> None:
    upstream = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    script = Script(upstream)
    async with before(tmp_path, script) as (gateway, server):
        answer = await exchange(gateway.port, b"GET /_matrix/x HTTP/1.0\r\n\r\n")
    assert answer == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabcde"
    assert lines_of(script.requests[0])[:2] == [b"GET /_matrix/x HTTP/1.1", b"Host: 127.0.0.1:%d" % server.port]


async def test_a_client_of_http_1_0_may_keep_its_connection(tmp_path: Path) -> None:
    async with before(tmp_path, Script(OK)) as (gateway, _), connected(gateway.port) as client:
        for _ in range(2):
            await client.send(b"GET / HTTP/1.0\r\nHost: example.org\r\nConnection: keep-alive\r\n\r\n")
            assert b"\r\nConnection: keep-alive\r\n" in await client.answer()


BIG = 20 * 2**20


async def test_a_big_body_passes_both_ways_at_the_pace_of_the_slower_side(tmp_path: Path) -> None:
    block = bytes(range(256)) * 256
    taken = asyncio.Event()
    received = hashlib.sha256()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await taken.wait()
        left = BIG
        while left:
            data = await reader.read(min(left, 2**16))
            received.update(data)
            left -= len(data)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG)
        for _ in range(BIG // len(block)):
            writer.write(block)
            await writer.drain()

    async with before(tmp_path, handler) as (gateway, _), connected(gateway.port) as client:
        await client.send(get(b"/_matrix/media", b"Content-Length: %d" % BIG, method=b"POST"))
        upload = asyncio.create_task(send_blocks(client.writer, block))
        _, late = await asyncio.wait([upload], timeout=0.3)
        assert late  # nobody swallows what the homeserver doesn't take
        taken.set()
        await upload
        await client.head()
        got = hashlib.sha256()
        while data := await client.reader.read(2**16):
            got.update(data)
    assert received.digest() == got.digest() == hashlib.sha256(block * (BIG // len(block))).digest()


async def send_blocks(writer: asyncio.StreamWriter, block: bytes) -> None:
    for _ in range(BIG // len(block)):
        writer.write(block)
        await writer.drain()


async def test_interim_answers_pass_and_the_client_waits_for_100_continue(tmp_path: Path) -> None:
    seen = b""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
        assert await reader.readexactly(5) == b"hello"
        writer.write(OK)
        await reader.read()

    async with before(tmp_path, handler) as (gateway, _), connected(gateway.port) as client:
        await client.send(get(b"/x", b"Expect: 100-continue", b"Content-Length: 5", method=b"POST"))
        assert await client.head() == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"hello")
        assert await client.head() == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
    assert b"\r\nExpect: 100-continue\r\n" in seen


async def test_an_early_answer_passes_while_the_upload_still_runs(tmp_path: Path) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\n{}")
        await reader.read()

    async with before(tmp_path, handler) as (gateway, upstream), connected(gateway.port) as client:
        await client.send(get(b"/x", b"Content-Length: 100", method=b"POST") + b"a" * 10)
        async with asyncio.timeout(SOON):
            assert (await client.head()).startswith(b"HTTP/1.1 413 Too Large\r\n")
            await upstream.ended.wait()


@pytest.mark.parametrize("broken", [b"zz\r\n", b"5\r\nabcdefgh\r\n", b"1\nb\n"])
async def test_an_upload_that_can_not_be_read_is_a_400_and_never_whole_at_the_homeserver(
    broken: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    got = b""

    async def handler(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        nonlocal got
        await reader.readuntil(b"\r\n\r\n")
        while data := await reader.read(100):
            got += data

    async with before(tmp_path, handler) as (gateway, upstream), connected(gateway.port) as client:
        await client.send(get(b"/x", b"Transfer-Encoding: chunked", method=b"POST") + b"1\r\na\r\n")
        await asyncio.sleep(0.05)
        await client.send(broken)
        async with asyncio.timeout(SOON):
            assert (await client.head()).startswith(b"HTTP/1.1 400 ")
            await upstream.ended.wait()
            await client.rest()
    assert b"\r\n0\r\n" not in got
    assert "Traceback" not in caplog.text


BREAKS = {
    "a length": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    "a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf",
    "bad chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
}


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("case", BREAKS)
async def test_an_answer_that_breaks_off_never_looks_whole(case: str, version: bytes, tmp_path: Path) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        for part in BREAKS[case].partition(b"half")[:2]:
            writer.write(part)
            await asyncio.sleep(0.02)
        writer.write(BREAKS[case].partition(b"half")[2])
        await asyncio.sleep(0.05)

    async with before(tmp_path, handler) as (gateway, _), connected(gateway.port) as client:
        await client.send(b"GET /_matrix/x HTTP/" + version + b"\r\nHost: example.org\r\n\r\n")
        if version == b"1.0" and case != "a length":  # the end of the connection would be the end of the answer
            with pytest.raises(ConnectionResetError):
                await client.rest()
        else:
            rest = await client.rest()
            assert b"half" in rest
            assert not rest.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    "upstream",
    [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nX-A: ", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\n\0: 1\r\n\r\n"],
)
async def test_a_homeserver_that_breaks_off_before_its_answer_is_a_502(upstream: bytes, tmp_path: Path) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        writer.write(upstream)

    async with before(tmp_path, handler) as (gateway, _):
        answer = await exchange(gateway.port, get())
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"Access-Control-Allow-Origin: *\r\n" in answer
    assert answer.endswith(b'{"errcode": "M_UNKNOWN", "error": "The homeserver cannot be reached"}')


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nab")
    await reader.read()


async def never(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


@pytest.mark.parametrize("handler", [hang, never])
@pytest.mark.parametrize("body", [b"", b"abc"])
async def test_a_client_that_goes_away_ends_the_request_at_the_homeserver(
    handler: Handler, body: bytes, tmp_path: Path
) -> None:
    async with before(tmp_path, handler) as (gateway, upstream), connected(gateway.port) as client:
        await client.send(get(b"/_matrix/sync", b"Content-Length: %d" % (len(body) * 2), method=b"PUT") + body)
        await asyncio.sleep(0.05)
        assert upstream.connections == 1
        client.reset()
        async with asyncio.timeout(SOON):
            await upstream.ended.wait()


async def test_an_answer_may_take_longer_than_any_limit_of_ours(tmp_path: Path) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        await asyncio.sleep(0.6)
        writer.write(OK)

    async with RawServer(handler).running() as upstream:
        homeserver = {"connect_timeout": 0.2}
        async with running_gateway(tmp_path, upstream.url, homeserver=homeserver) as gateway:
            assert (await exchange(gateway.port, get())).endswith(b"{}")


async def test_a_homeserver_that_is_down_is_a_502_at_once(tmp_path: Path, unused_tcp_port: int) -> None:
    async with running_gateway(tmp_path, f"http://127.0.0.1:{unused_tcp_port}") as gateway:
        answer = await exchange(gateway.port, get())
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"Access-Control-Allow-Origin: *\r\n" in answer


async def test_a_homeserver_that_takes_no_connection_is_a_504(tmp_path: Path) -> None:
    async with never_accepting() as port:
        homeserver = {"connect_timeout": 0.2}
        async with running_gateway(tmp_path, f"http://127.0.0.1:{port}", homeserver=homeserver) as gateway:
            answer = await exchange(gateway.port, get())
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert b"Access-Control-Allow-Origin: *\r\n" in answer


class Stale:
    """A homeserver that answers once on each connection and closes it when the next request is there."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(await read_message(reader))
        writer.write(OK)
        await reader.readuntil(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("method", "body", "status"),
    [(b"GET", b"", 200), (b"DELETE", b"", 200), (b"POST", b"", 502), (b"POST", b"a", 502), (b"PUT", b"a", 200)],
)
async def test_a_request_is_sent_again_on_a_stale_connection_only_when_that_is_safe(
    method: bytes, body: bytes, status: int, tmp_path: Path
) -> None:
    stale = Stale()
    async with before(tmp_path, stale) as (gateway, upstream):
        await exchange(gateway.port, get())
        request = get(b"/_matrix/x", b"Content-Length: %d" % len(body), method=method) + body
        answer = await exchange(gateway.port, request)
        assert upstream.connections == (2 if status == 200 else 1)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert len(stale.requests) == upstream.connections


async def test_a_second_answer_that_nobody_asked_for_never_reaches_the_next_client(tmp_path: Path) -> None:
    poison = OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
    async with before(tmp_path, Script(poison)) as (gateway, upstream):
        for _ in range(3):
            assert (await exchange(gateway.port, get())).endswith(b"\r\n\r\n{}")
        assert upstream.connections == 3


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
async def test_a_trailer_never_becomes_a_field_of_the_next_request(step: int, tmp_path: Path) -> None:
    script = Script(OK)
    request = b"POST /_matrix/x HTTP/1.1\r\nHost: example.org\r\nTransfer-Encoding: chunked\r\n\r\n"
    request += b"5\r\na\r\n\r\n\r\n0\r\nX: y\r\nAuthorization: Bearer smuggled\r\n\r\n"
    octets = request * 3 + get(b"/next")
    async with before(tmp_path, script) as (gateway, _), connected(gateway.port) as client:
        async with asyncio.timeout(SOON):
            for start in range(0, len(octets), step):
                await client.send(octets[start : start + step])
                if step < 5:
                    await asyncio.sleep(0)
            assert [(await client.answer())[-2:] for _ in range(4)] == [b"{}"] * 4
    assert [lines_of(seen)[0] for seen in script.requests[-1:]] == [b"GET /next HTTP/1.1"]
    assert len(script.requests) == 4
    assert b"smuggled" not in b"".join(script.requests)


async def test_trailers_wait_with_a_homeserver_that_takes_its_time(tmp_path: Path) -> None:
    """What comes behind a chunked request is held back with it, and parsed apart all the same."""
    taken = asyncio.Event()
    requests: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await taken.wait()
        while True:
            requests.append(await read_message(reader))
            writer.write(OK)

    chunk = b"10000\r\n" + b"a" * 65536 + b"\r\n"
    request = b"POST /_matrix/x HTTP/1.1\r\nHost: example.org\r\nTransfer-Encoding: chunked\r\n\r\n"
    octets = request + chunk * 160 + b"0\r\nAuthorization: Bearer smuggled\r\n\r\n" + get(b"/next")
    async with before(tmp_path, handler) as (gateway, _), connected(gateway.port) as client:
        async with asyncio.timeout(SOON):
            sending = asyncio.create_task(client.send(octets))
            await asyncio.sleep(0.2)
            taken.set()
            assert [(await client.answer())[-2:] for _ in range(2)] == [b"{}"] * 2
            await sending
    assert requests[0].partition(b"\r\n\r\n")[2].count(b"a") >= 160 * 65536
    assert lines_of(requests[1])[0] == b"GET /next HTTP/1.1"
    assert b"smuggled" not in requests[1]


async def test_many_requests_at_once_with_trailers_are_all_answered(tmp_path: Path) -> None:
    script = Script(OK)
    request = b"POST /_matrix/x HTTP/1.1\r\nHost: example.org\r\nTransfer-Encoding: chunked\r\n\r\n"
    request += b"1\r\na\r\n0\r\nAuthorization: Bearer smuggled\r\n\r\n"
    async with before(tmp_path, script) as (gateway, _), connected(gateway.port) as client:
        async with asyncio.timeout(SOON):
            await client.send(request * 200)
            assert [(await client.answer())[-2:] for _ in range(200)] == [b"{}"] * 200
    assert len(script.requests) == 200
    assert b"smuggled" not in b"".join(script.requests)


async def test_an_upgrade_is_declined_and_the_connection_goes_on(tmp_path: Path) -> None:
    script = Script(OK)
    upgrade = b"GET /a HTTP/1.1\r\nHost: example.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    async with before(tmp_path, script) as (gateway, _), connected(gateway.port) as client:
        async with asyncio.timeout(SOON):
            for _ in range(2):
                await client.send(upgrade)
                assert (await client.answer()).endswith(b"{}")
            await client.send(b"GET /b HTTP/1.1\r\nHost: example.org\r\n\r\n")
            assert (await client.answer()).endswith(b"{}")
    assert all(b"pgrade" not in request for request in script.requests)


async def test_pipelined_requests_are_answered_in_their_order(tmp_path: Path) -> None:
    script = Script(*(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number for number in range(4)))
    async with before(tmp_path, script) as (gateway, _), connected(gateway.port) as client:
        await client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: example.org\r\n\r\n" % number for number in range(4)))
        assert [(await client.answer())[-1:] for _ in range(4)] == [b"0", b"1", b"2", b"3"]
    assert [lines_of(request)[0].split()[1] for request in script.requests] == [b"/0", b"/1", b"/2", b"/3"]


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 3\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"]
)
async def test_a_client_that_only_stops_sending_is_answered(framing: bytes, tmp_path: Path) -> None:
    script = Script(OK)
    async with before(tmp_path, script) as (gateway, _), connected(gateway.port) as client:
        await client.send(b"POST /_matrix/x HTTP/1.1\r\nHost: example.org\r\n" + framing)
        client.writer.write_eof()
        async with asyncio.timeout(SOON):
            assert (await client.rest()).endswith(b"\r\n\r\n{}")


async def test_a_client_that_closes_ends_a_hanging_request(tmp_path: Path) -> None:
    async with before(tmp_path, never) as (gateway, upstream), connected(gateway.port) as client:
        await client.send(get(b"/_matrix/sync"))
        await asyncio.sleep(0.05)
        client.writer.close()
        async with asyncio.timeout(2):
            await upstream.ended.wait()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\nabc",
    ],
)
async def test_an_answer_that_can_not_be_passed_on_is_a_502_and_not_half_done(answer: bytes, tmp_path: Path) -> None:
    async with before(tmp_path, Script(answer)) as (gateway, _):
        got = await exchange(gateway.port, get())
    assert got.startswith(b"HTTP/1.1 502 ")
    assert got.count(b"HTTP/1.1 ") == 1


async def test_what_the_homeserver_sent_never_stands_in_the_log(tmp_path: Path) -> None:
    upstream = b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{"access_token":"syt_secret"}\r\n\r\n'
    async with before(tmp_path, Script(b'{"access_token":"syt_secret"}\r\n\r\n', upstream)) as (gateway, _):
        for _ in range(3):
            await exchange(gateway.port, get())
        assert "request_refused" in gateway.log
        assert "syt_secret" not in gateway.log


@pytest.mark.parametrize("size", [131060, 131071, 131072, 131080, 196608, 200000])
async def test_trailers_of_a_body_that_waits_stay_behind_it(size: int, tmp_path: Path) -> None:
    """The parser stops in the middle of such a body, and goes on with what came behind it."""
    script = Script(OK)
    request = b"POST /_matrix/x HTTP/1.1\r\nHost: example.org\r\nTransfer-Encoding: chunked\r\n\r\n"
    request += b"%x\r\n%b\r\n0\r\nX: y\r\nAuthorization: Bearer smuggled\r\n\r\n" % (size, b"a" * size)
    async with before(tmp_path, script) as (gateway, _), connected(gateway.port) as client:
        async with asyncio.timeout(SOON):
            await client.send(request + get(b"/next"))
            assert [(await client.answer())[-2:] for _ in range(2)] == [b"{}"] * 2
    assert lines_of(script.requests[1])[0] == b"GET /next HTTP/1.1"
    assert b"smuggled" not in b"".join(script.requests)


@pytest.mark.parametrize("seed", range(6))
async def test_any_requests_in_any_pieces_arrive_in_their_order_and_apart(seed: int, tmp_path: Path) -> None:
    random = Random(seed)
    script = Script(OK)
    requests = [some_request(random, number) for number in range(12)]
    octets = b"".join(requests)
    async with before(tmp_path, script) as (gateway, _), connected(gateway.port) as client:
        async with asyncio.timeout(SOON):
            cuts = sorted(random.randrange(len(octets)) for _ in range(random.randrange(30)))
            for start, end in pairwise([0, *cuts, len(octets)]):
                await client.send(octets[start:end])
                await asyncio.sleep(0)
            assert [(await client.answer())[-2:] for _ in requests] == [b"{}"] * len(requests)
    assert [lines_of(seen)[0].split()[1] for seen in script.requests] == [b"/%d" % number for number in range(12)]
    assert b"smuggled" not in b"".join(script.requests)


def some_request(random: Random, number: int) -> bytes:
    head = b"POST /%d HTTP/1.1\r\nHost: example.org\r\n" % number
    body = random.choice([b"", b"a", b"\r\n\r\n" * 9, b"a" * 131080, b"0\r\n\r\n" * 40, b"b" * 70000])
    kind = random.randrange(4)
    if kind == 0:
        return head + b"Connection: upgrade\r\nUpgrade: %b\r\n\r\n" % random.choice([b"h2c", b"websocket"])
    if kind == 1:
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    chunks = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    trailer = random.choice([b"", b"Authorization: Bearer smuggled\r\n", b"X: 1\r\nCookie: smuggled\r\n"])
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + trailer + b"\r\n"


async def test_what_is_behind_a_chunked_body_full_of_ends_is_the_next_request(tmp_path: Path) -> None:
    script = Script(OK)
    body = b"\r\n\r\n" * 60000
    request = b"POST /_matrix/x HTTP/1.1\r\nHost: example.org\r\nTransfer-Encoding: chunked\r\n\r\n"
    request += b"%x\r\n%b\r\n0\r\nAuthorization: Bearer smuggled\r\n\r\n" % (len(body), body)
    async with before(tmp_path, script) as (gateway, _):
        async with asyncio.timeout(SOON):
            answers = await exchange(gateway.port, request + get(b"/next"))
    assert answers.count(b"HTTP/1.1 200 ") == len(script.requests) == 2
    assert b"smuggled" not in b"".join(script.requests)


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_slow_answer_to_a_client_that_sends_no_more_is_whole(version: bytes, tmp_path: Path) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await asyncio.sleep(1.2)
        writer.write(b"6\r\nsecond\r\n0\r\n\r\n")

    async with before(tmp_path, handler) as (gateway, _), connected(gateway.port) as client:
        await client.send(b"GET / HTTP/%b\r\nHost: example.org\r\n\r\n" % version)
        client.writer.write_eof()
        async with asyncio.timeout(SOON):
            answer = await client.rest()
    assert b"first" in answer
    assert answer.rstrip(b"0\r\n").endswith(b"second")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 000 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_an_answer_that_others_could_read_in_another_way_is_a_502(answer: bytes, tmp_path: Path) -> None:
    async with before(tmp_path, Script(answer)) as (gateway, _):
        async with asyncio.timeout(SOON):
            assert (await exchange(gateway.port, get())).startswith(b"HTTP/1.1 502 ")


async def test_interim_answers_of_more_than_a_head_may_have_are_relayed(tmp_path: Path) -> None:
    """However the reads cut them: each alone is small."""
    count = 1500

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        for _ in range(count):
            writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: " + b"a" * 1000 + b"\r\n\r\nHTTP/1.1 1")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            writer.write(b"03 Early Hints\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()

    async with RawServer(handler).running() as homeserver, running_gateway(tmp_path, homeserver.url) as gateway:
        octets = await exchange(gateway.port, b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert octets.count(b"HTTP/1.1 103 ") == 2 * count
    assert octets.count(b"HTTP/1.1 200 ") == 1
