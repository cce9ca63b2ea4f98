"""TLS to the homeserver: whose certificates are believed, and that no body cut off below it looks whole.

Rule: the tests' own authority is trusted as an operator would do it, by SSL_CERT_FILE in the environment.
"""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509

from gateway.errors import Refusal, Refused
from gateway.upstream.pool import Pool, PoolSettings
from tests.authority import LOOPBACK, Authority
from tests.raw_http import RawServer, Script, connected, exchange, read_message, reset
from tests.running_gateway import running_gateway

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
HOST = [(b"Host", b"h")]
GET = b"GET /_matrix/client/versions HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}"

Main = Coroutine[Any, Any, None]
Runner = Callable[[Main], None]

# The gateway runs on uvloop, whose TLS is not asyncio's.
on_each_loop = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


def pool_of(server: RawServer) -> Pool:
    return Pool(PoolSettings(url=server.url, connect_timeout=2), call_timeout=5)


@on_each_loop
def test_a_call_reaches_a_homeserver_behind_tls_and_keeps_the_connection(authority: Authority, run: Runner) -> None:
    async def main() -> None:
        async with RawServer(Script(OK)).running(tls=authority.server(LOOPBACK)) as server:
            pool = pool_of(server)
            for _ in range(3):
                reply = await pool.call("POST", "/x", HOST, b"{}")
                assert (reply.status, reply.body) == (200, b"{}")
            assert server.connections == 1
            await pool.close()

    run(main())


@on_each_loop
def test_a_request_is_relayed_over_tls(authority: Authority, tmp_path: Path, run: Runner) -> None:
    body = b"a" * 300_000

    async def main() -> None:
        script = Script(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        async with RawServer(script).running(tls=authority.server(LOOPBACK)) as server:
            async with running_gateway(tmp_path, server.url) as gateway, connected(gateway.port) as client:
                await client.send(
                    b"PUT /x%%2fy?a HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body
                )
                assert (await client.answer()).endswith(b"\r\n\r\n" + body)
        assert script.requests[0].startswith(b"PUT /x%2fy?a HTTP/1.1\r\nHost: h\r\n")
        assert script.requests[0].endswith(b"\r\n\r\n" + body)

    run(main())


@on_each_loop
@pytest.mark.parametrize("name", [x509.DNSName("localhost"), x509.DNSName("127.0.0.1")], ids=lambda name: name.value)
def test_a_certificate_of_another_name_is_refused(
    authority: Authority, tmp_path: Path, run: Runner, name: x509.DNSName
) -> None:
    async def main() -> None:
        script = Script(OK)
        async with RawServer(script).running(tls=authority.server(name)) as server:
            with pytest.raises(Refused, match="certificate verify failed") as refused:
                await pool_of(server).call("GET", "/", HOST)
            assert refused.value.refusal is Refusal.HOMESERVER_UNREACHABLE
            async with running_gateway(tmp_path, server.url) as gateway:
                assert (await exchange(gateway.port, GET)).startswith(b"HTTP/1.1 502 ")
        assert script.requests == []

    run(main())


@on_each_loop
def test_a_certificate_of_an_authority_that_is_not_trusted_is_refused(stranger: Authority, run: Runner) -> None:
    async def main() -> None:
        async with RawServer(Script(OK)).running(tls=stranger.server(LOOPBACK)) as server:
            with pytest.raises(Refused, match="certificate verify failed") as refused:
                await pool_of(server).call("GET", "/", HOST)
            assert refused.value.refusal is Refusal.HOMESERVER_UNREACHABLE

    run(main())


def ending(answer: bytes, end: Callable[[asyncio.StreamWriter], None]) -> RawServer:
    """A homeserver that sends a part of an answer, and ends its connection so."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        writer.write(answer)
        await writer.drain()
        await asyncio.sleep(0.05)  # so that it is read before the end is seen
        end(writer)

    return RawServer(handler)


def cut(writer: asyncio.StreamWriter) -> None:
    """End the connection below TLS, without its close_notify."""
    writer.transport.abort()


def close(writer: asyncio.StreamWriter) -> None:
    """End the connection as TLS wants it, with close_notify."""
    writer.close()


each_end = pytest.mark.parametrize(
    ("answer", "end"),
    [
        pytest.param(LENGTH, cut, id="with length, cut"),
        pytest.param(LENGTH, reset, id="with length, reset"),
        pytest.param(LENGTH, close, id="with length, closed"),
        pytest.param(CHUNKED, cut, id="chunked, cut"),
        pytest.param(CHUNKED, reset, id="chunked, reset"),
        pytest.param(CHUNKED, close, id="chunked, closed"),
        pytest.param(UNTIL_CLOSE, cut, id="until close, cut"),
        pytest.param(UNTIL_CLOSE, reset, id="until close, reset"),
    ],
)


@on_each_loop
@each_end
def test_a_reply_that_is_cut_off_below_tls_is_none(
    authority: Authority, run: Runner, answer: bytes, end: Callable[[asyncio.StreamWriter], None]
) -> None:
    async def main() -> None:
        async with ending(answer, end).running(tls=authority.server(LOOPBACK)) as server:
            with pytest.raises(Refused) as refused:
                await pool_of(server).call("GET", "/", HOST)
            assert refused.value.refusal is Refusal.HOMESERVER_UNREACHABLE

    run(main())


@on_each_loop
@each_end
def test_an_answer_that_is_cut_off_below_tls_breaks_off_at_the_client(
    authority: Authority, tmp_path: Path, run: Runner, answer: bytes, end: Callable[[asyncio.StreamWriter], None]
) -> None:
    async def main() -> None:
        async with ending(answer, end).running(tls=authority.server(LOOPBACK)) as server:
            async with running_gateway(tmp_path, server.url) as gateway, connected(gateway.port) as client:
                await client.send(GET)
                rest = await client.rest()
                assert not rest.endswith(b"0\r\n\r\n")
                assert b"Content-Length: 2\r\n" not in rest

    run(main())


@on_each_loop
def test_an_answer_that_ends_by_close_is_whole_after_close_notify(authority: Authority, run: Runner) -> None:
    async def main() -> None:
        async with ending(UNTIL_CLOSE, close).running(tls=authority.server(LOOPBACK)) as server:
            assert (await pool_of(server).call("GET", "/", HOST)).body == b"{}"

    run(main())
