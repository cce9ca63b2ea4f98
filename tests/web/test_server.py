"""The public side: what is refused before it reaches anybody, what can be listened on, and how it ends."""

import asyncio
import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

from gateway.errors import Unusable
from gateway.upstream.pool import Pool
from gateway.web.listen import Listen, parse_listen
from gateway.web.observed import AccessLines
from gateway.web.settings import ServerSettings
from tests.fake_homeserver import FakeHomeserver, Fault
from tests.raw_http import RawServer, Script, connected, exchange, read_message
from tests.running_gateway import LOGIN, RunningGateway, mint, running_gateway
from tests.waiting import until

GET = b"GET /_matrix/client/versions HTTP/1.1\r\nHost: example.org\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
HOST = b"Host: example.org\r\n"
BODY = b"Content-Length: 1\r\n\r\na"

REFUSED = {
    "TRACE": (b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    "CONNECT": (b"CONNECT example.org:443 HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    "two hosts": (b"GET / HTTP/1.1\r\n" + HOST + b"Host: other.example\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\nX: 1\r\n\r\n", 400),
    "both lengths": (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n" + BODY, 400),
    "two lengths": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n" + BODY, 400),
    "a list of lengths": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1, 1\r\n\r\na", 400),
    "a signed length": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: +1\r\n\r\na", 400),
    "a length of letters": (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: a\r\n\r\na", 400),
    "chunked twice": (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
    "a coding after chunked": (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked, gzip\r\n\r\n", 400),
    "an unknown coding": (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    "a coding in HTTP/1.0": (b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a coding before chunked": (
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "two codings": (
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "chunked on two lines": (
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "an empty coding": (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding:\r\n" + BODY, 400),
    "a space before the colon": (b"GET / HTTP/1.1\r\n" + HOST + b"X : 1\r\n\r\n", 400),
    "obs-fold": (b"GET / HTTP/1.1\r\n" + HOST + b"X: 1\r\n 2\r\n\r\n", 400),
    "a bare LF": (b"GET / HTTP/1.1\n" + HOST + b"\r\n", 400),
    "a bare LF between fields": (b"GET / HTTP/1.1\r\nX: 1\nHost: example.org\r\n\r\n", 400),
    "a bare CR in a value": (b"GET / HTTP/1.1\r\n" + HOST + b"X: a\rb\r\n\r\n", 400),
    "NUL in a value": (b"GET / HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n\r\n", 400),
    "a name that is no token": (b"GET / HTTP/1.1\r\n" + HOST + b"X(: 1\r\n\r\n", 400),
    "no name": (b"GET / HTTP/1.1\r\n" + HOST + b": 1\r\n\r\n", 400),
    "a space in the target": (b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "octets over 0x7F in the target": (b"GET /\xc3\xa4 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a relative target": (b"GET a HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "an asterisk": (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a foreign absolute target": (b"GET http://other.example/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a user in the target": (b"GET http://a@example.org/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "another scheme": (b"GET ftp://example.org/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a broken absolute target": (b"GET http://[::1/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\n" + HOST + b"\r\n", 400),
    "a huge field": (b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 17000 + b"\r\n\r\n", 431),
    "too many fields": (b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n" * 101 + b"\r\n", 431),
    "a huge target": (b"GET /" + b"a" * 131072 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 431),
    "a length that is none to the parser": (
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 18446744073709551615\r\n\r\n",
        400,
    ),
    "a port that is none in the target": (b"GET http://[::1]:999990@/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a host with a space": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "a host with a path": (b"GET / HTTP/1.1\r\nHost: example.org/x\r\n\r\n", 400),
    "a host with a user": (b"GET / HTTP/1.1\r\nHost: a@example.org\r\n\r\n", 400),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_can_be_read_in_two_ways_is_refused_and_reaches_nobody(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    request, status = REFUSED[case]
    script = Script(OK)
    async with RawServer(script).running() as upstream, running_gateway(tmp_path, upstream.url) as gateway:
        async with asyncio.timeout(5):
            answer = await exchange(gateway.port, request + b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n")
        assert upstream.connections == 0
    start, _, body = answer.partition(b"\r\n")
    assert start.split()[1] == b"%d" % status, answer
    assert b"Access-Control-Allow-Origin: *\r\n" in body
    assert (b'"errcode": "M_UN' in body) == (status != 431)
    assert answer.count(b"HTTP/1.") == 1
    assert "Traceback" not in caplog.text


async def test_a_chunked_login_can_not_carry_a_trailer_into_the_next_request(
    gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    body = b'{"type": "org.matrix.login.jwt", "token": "abc"}'
    request = b"POST " + LOGIN.encode() + b" HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    request += b"%x\r\n%b\r\n0\r\nAuthorization: Bearer smuggled\r\n\r\n" % (len(body), body)
    async with asyncio.timeout(5), connected(gateway.port) as client:
        await client.send(request + b"GET /_matrix/client/versions HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await client.answer()).startswith(b"HTTP/1.1 403 ")
        assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
    assert [seen.values("Authorization") for seen in homeserver.seen] == [[]]


async def test_a_length_may_have_as_many_zeros_as_a_field_may_be_long(gateway: RunningGateway) -> None:
    """Python reads no more than 4300 digits."""
    body = b'{"type": "org.matrix.login.jwt", "token": "abc"}'
    request = b"POST " + LOGIN.encode() + b" HTTP/1.1\r\n" + HOST + b"Content-Length: %b%d\r\n\r\n%b"
    async with asyncio.timeout(5), connected(gateway.port) as client:
        await client.send(request % (b"0" * 5000, len(body), body))
        assert (await client.answer()).startswith(b"HTTP/1.1 403 ")
        await client.send(GET)
        assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
    assert "Traceback" not in gateway.log


async def test_what_the_parser_does_not_foresee_ends_its_connection_also_behind_other_requests(
    gateway: RunningGateway,
) -> None:
    """Where it is parsed only when there is room for it."""
    async with asyncio.timeout(10):
        answers = await exchange(gateway.port, GET * 40 + b"GET http://[::1]:999990@/ HTTP/1.1\r\n" + HOST + b"\r\n")
    assert answers.count(b"HTTP/1.1 200 ") == 40
    assert answers.count(b"HTTP/1.1 400 ") == 1


async def test_who_sends_many_requests_at_once_lets_others_be_answered_between_them(gateway: RunningGateway) -> None:
    body = b'{"type": "org.matrix.login.jwt"}'
    request = (
        b"POST " + LOGIN.encode() + b" HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    async with asyncio.timeout(20), connected(gateway.port) as many, connected(gateway.port) as other:
        many.writer.write(request * 1000)
        await many.answer()
        await other.send(GET)
        assert (await other.answer()).startswith(b"HTTP/1.1 200 ")
        had = many.reader._buffer.count(b"HTTP/1.1 ")  # type: ignore[attr-defined]  # noqa: SLF001 - what came already
        for _ in range(999):
            await many.answer()
    assert 999 - had > 500


async def test_a_request_with_a_body_begins_no_other(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    """No time runs for a head that nobody began; a stop ends the connection as an idle one."""
    post = b"POST /_matrix/x HTTP/1.1\r\n" + HOST
    server = {"head_timeout": 0.3, "drain_timeout": 10}
    async with running_gateway(tmp_path, homeserver.url, server=server) as gateway, connected(gateway.port) as client:
        for body in (b"Content-Length: 1\r\n\r\na", b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"):
            await client.send(post + body)
            await client.answer()
            await asyncio.sleep(0.4)
        await client.send(GET)
        assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
        await client.send(post + b"Content-Length: 1\r\n\r\na")
        await client.answer()
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 5


async def test_an_answer_of_ours_keeps_the_connection(gateway: RunningGateway) -> None:
    body = b'{"type": "org.matrix.login.jwt", "token": "abc"}'
    request = b"POST " + LOGIN.encode() + b" HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    async with connected(gateway.port) as client:
        for _ in range(3):
            await client.send(request)
            assert (await client.answer()).startswith(b"HTTP/1.1 403 ")


async def test_a_fault_of_ours_is_told_and_logged_and_ends_its_connection_alone(gateway: RunningGateway) -> None:
    class Fails:
        def take(self) -> None:
            raise RuntimeError("the fault")

    relayer = gateway.running.entrances._server.router._relayer  # noqa: SLF001 - nothing outside leads to a fault
    relayer.pool, pool = cast("Pool", Fails()), relayer.pool
    answer = await exchange(gateway.port, (b"GET / HTTP/1.1\r\n" + HOST + b"\r\n") * 2)
    relayer.pool = pool

    assert answer.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert answer.count(b"HTTP/1.1 500 ") == 1
    assert answer.endswith(b'{"errcode": "M_UNKNOWN", "error": "Internal server error"}')
    assert re.search(r"\bfault\b.*request_id=\S+ traceback=.*RuntimeError: the fault", gateway.log)
    assert (await gateway.call("GET", "/_matrix/client/versions")).status == 200


async def test_a_fault_behind_an_answer_does_not_make_another_one(gateway: RunningGateway) -> None:
    class Fails:
        def write(self, *_: object) -> None:
            raise RuntimeError("the fault")

    router = gateway.running.entrances._server.router  # noqa: SLF001 - nothing outside leads to a fault that is known
    router._observers = replace(router._observers, access=cast("AccessLines", Fails()))  # noqa: SLF001 - the same
    answer = await exchange(gateway.port, GET * 2)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert re.search(r"\bfault\b.*traceback=.*RuntimeError: the fault", gateway.log)


async def test_a_refusal_of_a_head_has_no_body(gateway: RunningGateway) -> None:
    refused = b"HEAD / HTTP/1.1\r\nHost: a b\r\n\r\n"
    head, _, body = (await exchange(gateway.port, refused)).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 400 ")
    assert re.search(rb"\r\nContent-Length: [1-9]", head)
    assert body == b""


async def taken(client: socket.socket, octets: bytes) -> bool:
    """Send octets; False when for half a second nobody took any."""
    for _ in range(50):
        try:
            octets = octets[client.send(octets) :]
        except BlockingIOError:
            await asyncio.sleep(0.01)
        if not octets:
            return True
    return False


async def test_who_takes_no_answer_of_ours_gets_no_more_of_them(tmp_path: Path) -> None:
    """Else the gateway would keep them all."""
    path = str(tmp_path / "gateway.sock")
    request = b"GET / HTTP/1.1\r\n" + HOST + b"X: %b\r\n\r\n" % (b"x" * 4000)
    async with running_gateway(
        tmp_path, f"unix:{tmp_path}/nobody.sock", server={"listen": ["127.0.0.1:0", f"unix:{path}"]}
    ) as gateway:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            client.setblocking(False)  # noqa: FBT003 - the standard library takes no keyword here
            async with asyncio.timeout(30):
                while await taken(client, request):
                    assert gateway.log.count("request_refused") < 2000


async def test_a_head_that_takes_too_long_is_a_408_and_others_go_on(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    server = {"head_timeout": 0.2}
    async with running_gateway(tmp_path, homeserver.url, server=server) as gateway, connected(gateway.port) as client:
        await client.send(b"GET /_matrix/client/versions HTTP/1.1\r\nHost: exa")
        assert (await gateway.call("GET", "/_matrix/client/versions")).status == 200
        async with asyncio.timeout(2):
            answer = await client.rest()
    assert b" 408 " in answer.partition(b"\r\n")[0]
    assert b'"errcode": "M_UNKNOWN"' in answer


async def test_a_head_may_come_in_pieces_and_a_body_take_its_time(tmp_path: Path) -> None:
    script = Script(OK)
    async with RawServer(script).running() as upstream:
        async with running_gateway(tmp_path, upstream.url, server={"head_timeout": 0.3}) as gateway:
            async with connected(gateway.port) as client:
                for piece in (b"POST / HT", b"TP/1.1\r\n" + HOST, b"Content-Length: 2\r\n\r\n", b"", b"", b"", b"ab"):
                    await client.send(piece)
                    await asyncio.sleep(0.1)
                assert (await client.answer()).endswith(b"{}")
    assert script.requests[0].endswith(b"\r\n\r\nab")


async def test_a_head_has_its_own_time_also_where_a_connection_was_idle(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    request = b"GET /_matrix/client/versions HTTP/1.1\r\n" + HOST + b"\r\n"
    server = {"keepalive_timeout": 0.3, "head_timeout": 1}
    async with running_gateway(tmp_path, homeserver.url, server=server) as gateway, connected(gateway.port) as client:
        await client.send(request)
        await client.answer()
        await asyncio.sleep(0.2)
        await client.send(request[:20])
        await asyncio.sleep(0.4)
        await client.send(request[20:])
        assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
        await client.send(request[:20])
        async with asyncio.timeout(3):
            assert b" 408 " in (await client.rest()).partition(b"\r\n")[0]


async def test_a_head_that_began_behind_another_request_has_its_time(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    server = {"head_timeout": 0.3}
    request = b"GET /_matrix/client/versions HTTP/1.1\r\n" + HOST + b"\r\n"
    async with running_gateway(tmp_path, homeserver.url, server=server) as gateway, connected(gateway.port) as client:
        await client.send(request + request[:20])
        assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
        async with asyncio.timeout(3):
            assert b" 408 " in (await client.rest()).partition(b"\r\n")[0]


async def test_a_connection_that_is_idle_too_long_is_closed(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    server = {"keepalive_timeout": 0.2}
    async with running_gateway(tmp_path, homeserver.url, server=server) as gateway, connected(gateway.port) as client:
        await client.send(b"GET /_matrix/client/versions HTTP/1.1\r\n" + HOST + b"\r\n")
        await client.answer()
        async with asyncio.timeout(2):
            assert await client.rest() == b""


async def test_an_address_has_no_more_connections_than_it_may(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    request = b"GET /_matrix/client/versions HTTP/1.1\r\n" + HOST + b"\r\n"
    server = {"max_connections_per_address": 2}
    async with running_gateway(tmp_path, homeserver.url, server=server) as gateway:
        async with connected(gateway.port) as one, connected(gateway.port) as two:
            for client in (one, two):
                await client.send(request)
                await client.answer()
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                async with connected(gateway.port) as three:
                    await three.send(request)
                    await three.answer()
            await one.send(request)
            await one.answer()
        await asyncio.sleep(0.05)
        async with connected(gateway.port) as again:
            await again.send(request)
            await again.answer()


RESETS = """
import socket, struct, sys
for _ in range(20):
    client = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.sendall(b"GET /spoofed HTTP/1.1\\r\\nHost: h\\r\\nX-Forwarded-For: 6.6.6.6\\r\\n\\r\\n")
    client.close()
"""


def test_a_client_that_resets_its_connection_is_nobody_who_is_trusted(tmp_path: Path) -> None:
    """On the loop of `serve`, which asks the system for a peer only when it is needed."""

    async def serve() -> bytes:
        script = Script(OK)
        async with RawServer(script).running() as upstream:
            async with running_gateway(tmp_path, upstream.url, server={"trusted_proxies": []}) as gateway:
                await asyncio.to_thread(subprocess.run, [sys.executable, "-c", RESETS, str(gateway.port)], check=True)
                await exchange(gateway.port, b"GET /end HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
        return b"".join(script.requests)

    seen = uvloop.run(serve())
    assert b"GET /end " in seen
    assert b"6.6.6.6" not in seen


async def test_several_gateways_share_an_address_where_that_is_configured(
    tmp_path: Path, homeserver: FakeHomeserver, unused_tcp_port: int
) -> None:
    server = {"listen": [f"127.0.0.1:{unused_tcp_port}"], "reuse_port": True}
    async with running_gateway(tmp_path, homeserver.url, server=server) as one:
        async with running_gateway(tmp_path, homeserver.url, server=server):
            for _ in range(20):
                assert (await one.call("GET", "/_matrix/client/versions")).status == 200
        assert (await one.call("GET", "/_matrix/client/versions")).status == 200


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("127.0.0.1:8010", Listen("127.0.0.1", 8010)),
        ("[::1]:0", Listen("::1", 0)),
        ("localhost:65535", Listen("localhost", 65535)),
        ("unix:/run/g.sock", Listen(unix_path="/run/g.sock")),
        ("tls:[::]:8448", Listen("::", 8448, tls=True)),
        ("proxy:h:1", Listen("h", 1, proxied=True)),
        ("proxy:tls:h:1", Listen("h", 1, tls=True, proxied=True)),
        ("proxy:unix:/run/g.sock", Listen(unix_path="/run/g.sock", proxied=True)),
        ("proxy+https:127.0.0.1:8011", Listen("127.0.0.1", 8011, proxied=True, edge_tls=True)),
        ("proxy+https:[::1]:0", Listen("::1", 0, proxied=True, edge_tls=True)),
        ("proxy+https:unix:/run/x.sock", Listen(unix_path="/run/x.sock", proxied=True, edge_tls=True)),
    ],
)
def test_an_address_is_read_and_written_alike(text: str, listen: Listen) -> None:
    assert parse_listen(text) == listen
    assert str(listen) == text


MODES = [
    "tls:",
    "proxy:",
    "tls:proxy:h:1",
    "tls:tls:h:1",
    "ssl:h:1",
    "TLS:h:1",
    "tls:unix:/run/g.sock",
    "proxy:tls:unix:/g",
    "proxy+https:",
    "proxy+https:8010",
    "proxy+https:unix:g.sock",
    "proxy+https:tls:h:1",
    "proxy+https:tls:unix:/g",
    "proxy+https:proxy:h:1",
    "proxy:proxy+https:h:1",
    "proxy:proxy:h:1",
    "tls:proxy+https:h:1",
    "proxy+http:h:1",
    "proxy+tls:h:1",
    "PROXY+HTTPS:h:1",
    "https:h:1",
]


@pytest.mark.parametrize(
    "text", ["", "8010", ":8010", "a:65536", "a:b", "::1:80", "unix:g.sock", "a b:1", "a:1\n", *MODES]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|absolute path|no port|no tls:|write proxy:tls:"):
        parse_listen(text)


@pytest.mark.parametrize(
    "settings",
    [
        {"listen": []},
        {"listen": ["x"]},
        {"listen": ["127.0.0.1:1", "127.0.0.1:1"]},
        {"admin_listen": "x"},
        {"listen": ["127.0.0.1:1"], "admin_listen": "127.0.0.1:1"},
        {"listen": ["127.0.0.1:1", "tls:127.0.0.1:1"]},
        {"listen": ["proxy:127.0.0.1:1"], "admin_listen": "127.0.0.1:1"},
        {"admin_listen": "tls:127.0.0.1:1"},
        {"admin_listen": "proxy:127.0.0.1:1"},
        {"admin_listen": "proxy+https:127.0.0.1:1"},
        {"listen": ["proxy:127.0.0.1:1", "proxy+https:127.0.0.1:1"]},
        {"trusted_proxies": ["x"]},
        {"max_header_fields": 10**20},
        {"via": "a b"},
    ],
)
def test_settings_that_can_not_be_obeyed_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        ServerSettings.model_validate(settings)


async def test_an_address_that_is_taken_is_named(tmp_path: Path, gateway: RunningGateway) -> None:
    listen = {"listen": [f"127.0.0.1:{gateway.port}"]}
    (tmp_path / "second").mkdir()
    with pytest.raises(Unusable, match=rf"Can't listen on 127.0.0.1:{gateway.port}"):
        async with running_gateway(tmp_path / "second", "http://127.0.0.1:1", server=listen):
            pass


async def test_a_unix_socket_is_listened_on_and_its_peer_trusted(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    path = tmp_path / "gateway.sock"
    listen = {"listen": ["127.0.0.1:0", f"unix:{path}"]}
    async with running_gateway(tmp_path, homeserver.url, server=listen):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"GET /_matrix/client/versions HTTP/1.1\r\n" + HOST + b"X-Forwarded-For: 203.0.113.5\r\n\r\n")
        assert (await read_message(reader)).startswith(b"HTTP/1.1 200 ")
        writer.close()
        await writer.wait_closed()
    assert homeserver.seen[0].values("x-forwarded-for") == [b"203.0.113.5"]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_whatever_name_a_client_gives_its_own_unix_socket_it_is_no_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    path, script = tmp_path / "gateway.sock", Script(OK)

    async def main() -> None:
        listen = {"listen": ["127.0.0.1:0", f"unix:{path}"], "trusted_proxies": []}
        async with RawServer(script).running() as upstream, running_gateway(tmp_path, upstream.url, server=listen):
            with socket.socket(socket.AF_UNIX) as client:
                client.bind("192.0.2.9")
                client.setblocking(False)  # noqa: FBT003 - the standard library takes no keyword here
                await asyncio.get_running_loop().sock_connect(client, str(path))
                reader, writer = await asyncio.open_unix_connection(sock=client)
                writer.write(b"GET / HTTP/1.1\r\n" + HOST + b"X-Forwarded-For: 203.0.113.5\r\n\r\n")
                await read_message(reader)
                writer.close()
                await writer.wait_closed()

    run(main())
    assert [request.count(b"\r\nX-Forwarded-For: 203.0.113.5\r\n") for request in script.requests] == [1]


async def test_at_the_end_an_open_request_may_finish(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    go_on = asyncio.Event()
    homeserver.faults["sync"] = Fault(wait=go_on)
    homeserver.faults["login"] = Fault(wait=go_on)
    async with asyncio.TaskGroup() as group:
        async with running_gateway(tmp_path, homeserver.url, server={"drain_timeout": 8}) as gateway:
            sync = group.create_task(gateway.call("GET", "/_matrix/client/v3/sync"))
            login = group.create_task(gateway.log_in(mint()))
            while len(homeserver.to("/sync")) + len(homeserver.to("/login")) < 2:
                await asyncio.sleep(0.01)
            asyncio.get_running_loop().call_later(0.2, go_on.set)
    assert sync.result().body["errcode"] == "M_UNRECOGNIZED"
    assert login.result().status == 200


async def test_at_the_end_an_upload_that_runs_may_finish(tmp_path: Path) -> None:
    script = Script(OK)
    async with RawServer(script).running() as upstream, AsyncExitStack() as stack:
        server = {"drain_timeout": 5}
        gateway = await stack.enter_async_context(running_gateway(tmp_path, upstream.url, server=server))
        async with connected(gateway.port) as client:
            await client.send(b"POST /_matrix/x HTTP/1.1\r\n" + HOST + b"Content-Length: 600000\r\n\r\n")

            async def upload() -> bytes:
                for _ in range(6):
                    await client.send(b"a" * 100000)
                    await asyncio.sleep(0.05)
                return await client.answer()

            uploading = asyncio.create_task(upload())
            await asyncio.sleep(0.1)
            await stack.aclose()
            assert b"Connection: close" in await uploading
    assert script.requests[0].count(b"a") >= 600000


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_at_the_end_an_answer_that_is_cut_off_does_not_look_whole(version: bytes, tmp_path: Path) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await reader.read()

    async with RawServer(handler).running() as upstream, AsyncExitStack() as stack:
        server = {"drain_timeout": 0.2}
        gateway = await stack.enter_async_context(running_gateway(tmp_path, upstream.url, server=server))
        async with connected(gateway.port) as client:
            await client.send(b"GET / HTTP/%b\r\n" % version + HOST + b"\r\n")
            await client.reader.readuntil(b"first")
            await stack.aclose()
            if version == b"1.1":
                assert await client.rest() == b"\r\n"  # the chunk ends, the answer does not
            else:
                with pytest.raises(ConnectionResetError):
                    await client.rest()


async def test_at_the_end_a_hanging_request_is_refused_with_a_word(tmp_path: Path) -> None:
    async def hang(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    loop = asyncio.get_running_loop()
    async with RawServer(hang).running() as upstream, AsyncExitStack() as stack:
        server = {"drain_timeout": 0.4}
        gateway = await stack.enter_async_context(running_gateway(tmp_path, upstream.url, server=server))
        async with connected(gateway.port) as client, connected(gateway.port) as idle, asyncio.timeout(5):
            await client.send(b"GET /_matrix/client/v3/sync HTTP/1.1\r\n" + HOST + b"\r\n")
            await asyncio.sleep(0.05)
            began = loop.time()
            await stack.aclose()
            assert 0.3 < loop.time() - began < 3
            head, _, body = (await client.rest()).partition(b"\r\n\r\n")
            assert await idle.rest() == b""
            await upstream.ended.wait()
    assert head.startswith(b"HTTP/1.1 503 ")
    assert {b"Connection: close", b"Retry-After: 2", b"Access-Control-Allow-Origin: *"} <= set(head.split(b"\r\n"))
    assert json.loads(body)["errcode"] == "M_UNKNOWN"


async def test_at_the_end_what_waits_behind_a_hanging_request_is_not_begun(tmp_path: Path) -> None:
    asked: list[bytes] = []

    async def hang(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n"))
        await reader.read()

    async with RawServer(hang).running() as upstream, AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(
            running_gateway(tmp_path, upstream.url, server={"drain_timeout": 0.4})
        )
        async with connected(gateway.port) as client, asyncio.timeout(10):
            put = b"PUT /_matrix/x HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\n{}"
            await client.send(b"GET /_matrix/client/v3/sync HTTP/1.1\r\n" + HOST + b"\r\n" + put)
            await asyncio.sleep(0.05)
            await stack.aclose()
            answers = await client.rest()
    assert answers.count(b"HTTP/1.1 503 ") == 2
    assert asked == [b"GET /_matrix/client/v3/sync HTTP/1.1\r\n"]


@pytest.mark.parametrize("path", ["/_matrix/client/versions", LOGIN])
async def test_at_the_end_a_connection_in_use_brings_one_more_request(
    path: str, tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    body = b'{"type": "org.matrix.login.jwt", "token": "abc"}' if path == LOGIN else b""
    method = b"POST " if body else b"GET "
    request = method + path.encode() + b" HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(running_gateway(tmp_path, homeserver.url))
        async with connected(gateway.port) as client:
            await client.send(request)
            assert b"Connection:" not in (await client.answer())
            stopping = asyncio.create_task(stack.aclose())
            await asyncio.sleep(0.1)
            with pytest.raises(OSError, match="Connect"):
                async with connected(gateway.port):
                    pass
            await client.send(request)
            async with asyncio.timeout(1):  # and the end does not wait for anything else
                assert b"\r\nConnection: close\r\n" in await client.rest()
                await stopping


async def test_at_the_end_a_request_that_has_begun_to_come_is_answered(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    request = b"GET /_matrix/client/versions HTTP/1.1\r\n" + HOST + b"\r\n"
    async with AsyncExitStack() as stack:
        server = {"drain_timeout": 10}
        gateway = await stack.enter_async_context(running_gateway(tmp_path, homeserver.url, server=server))
        async with connected(gateway.port) as client:
            await client.send(request[:30])
            stopping = asyncio.create_task(stack.aclose())
            await asyncio.sleep(2.2)  # longer than an idle connection is kept
            await client.send(request[30:])
            assert (await client.rest()).startswith(b"HTTP/1.1 200 ")
            await stopping


async def test_at_the_end_what_was_sent_at_once_is_answered_and_only_the_last_answer_says_so(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    go_on = asyncio.Event()
    homeserver.faults["sync"] = Fault(wait=go_on)
    sync = b"GET /_matrix/client/v3/sync HTTP/1.1\r\n" + HOST + b"\r\n"
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(running_gateway(tmp_path, homeserver.url))
        async with connected(gateway.port) as client:
            await client.send(sync + b"GET /_matrix/client/versions HTTP/1.1\r\n" + HOST + b"\r\n")
            while not homeserver.to("/sync"):
                await asyncio.sleep(0.01)
            stopping = asyncio.create_task(stack.aclose())
            await asyncio.sleep(0.1)
            go_on.set()
            first, second = await client.answer(), await client.rest()
            await stopping
    assert b"Connection: close" not in first
    assert second.startswith(b"HTTP/1.1 200 ")
    assert b"Connection: close" in second


async def test_at_the_end_an_answer_that_is_written_gets_no_other_behind_it(tmp_path: Path) -> None:
    """The client takes the answer so slowly that all of it waits, written, when the time is over."""
    body = b"a" * 20_000_000
    script = Script(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    async with RawServer(script).running() as upstream, AsyncExitStack() as stack:
        server = {"drain_timeout": 0.2}
        gateway = await stack.enter_async_context(running_gateway(tmp_path, upstream.url, server=server))
        async with connected(gateway.port) as client:
            await client.send(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
            await client.head()
            await stack.aclose()
            received = b""
            with suppress(ConnectionResetError):
                while piece := await client.reader.read(2**20):
                    received += piece
            assert b"HTTP/1.1" not in received


async def test_a_fault_on_the_way_up_ends_the_exchange_with_the_homeserver(tmp_path: Path) -> None:
    """Its answer would be a second one to the same request."""

    def fails() -> None:
        raise RuntimeError("the fault")

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        heard.set()
        await reader.read()
        writer.write(OK)

    heard = asyncio.Event()
    homeserver = RawServer(handler)
    async with homeserver.running(), running_gateway(tmp_path, homeserver.url) as gateway:
        async with connected(gateway.port) as client:
            await client.send(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\n")
            await heard.wait()
            (connection,) = gateway.running.entrances._server.connections  # noqa: SLF001 - nothing outside leads to it
            assert connection.request is not None
            connection.request.body.changed = fails
            await client.send(b"a")
            assert (await client.answer()).startswith(b"HTTP/1.1 500 ")
            await until(lambda: not homeserver.open, 2)


async def test_a_fault_on_a_new_connection_to_the_homeserver_is_answered(gateway: RunningGateway) -> None:
    class Fails:
        def take(self) -> None:
            return None

        async def connect(self) -> None:
            raise RuntimeError("the fault")

        def give_back(self, _: object) -> None:
            raise AssertionError

    relayer = gateway.running.entrances._server.router._relayer  # noqa: SLF001 - nothing outside leads to a fault
    relayer.pool, pool = cast("Pool", Fails()), relayer.pool
    async with asyncio.timeout(2):
        answer = await exchange(gateway.port, GET)
    relayer.pool = pool
    assert answer.startswith(b"HTTP/1.1 500 ")
