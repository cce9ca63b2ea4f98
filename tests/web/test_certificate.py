"""TLS on the listener: who is served over it, what the homeserver is told of them, and certificates that change.

Rule: clients are real ones (OpenSSL's own, curl, aiohttp, Python's ssl), each with the tests' own authority.
"""

import asyncio
import logging
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop
from cryptography import x509

from tests.authority import LOOPBACK, Authority, authority_in
from tests.fake_homeserver import FakeHomeserver
from tests.raw_http import RawClient, RawServer, Script, connected, read_message
from tests.running_gateway import LOGIN, RunningGateway, mint, running_gateway

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
GET = b"GET /x HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: gopher\r\n\r\n"

Main = Coroutine[Any, Any, None]
Runner = Callable[[Main], None]
on_each_loop = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority whose certificate for this machine is `server.pem`."""
    made = authority_in(tmp_path)
    made.server(LOOPBACK)
    return made


@asynccontextmanager
async def over_tls(
    authority: Authority, handler: Callable[..., Any], listen: str = "tls:127.0.0.1:0", **server: Any
) -> AsyncIterator[RunningGateway]:
    tables = {
        "listen": [listen],
        "tls_certificate": "server.pem",
        "tls_private_key": "server.pem",
        "trusted_proxies": [],
        "drain_timeout": 0.3,
        **server,
    }
    async with RawServer(handler).running() as upstream:
        async with running_gateway(authority.folder, upstream.url, server=tables) as gateway, asyncio.timeout(30):
            yield gateway


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.folder / "authority.pem")


@asynccontextmanager
async def secured(port: int, context: ssl.SSLContext, before: bytes = b"") -> AsyncIterator[RawClient]:
    """Give a connection over TLS, which begins behind the octets `before`."""
    with socket.create_connection(("127.0.0.1", port)) as plain:
        plain.sendall(before)
        plain.setblocking(False)  # noqa: FBT003 - the standard library takes no keyword here
        reader, writer = await asyncio.open_connection(sock=plain, ssl=context, server_hostname="127.0.0.1")
        try:
            yield RawClient(reader, writer)
        finally:
            writer.transport.abort()


def told(request: bytes) -> dict[bytes, bytes]:
    """What the homeserver was told of the client."""
    lines = [line.partition(b": ") for line in request.lower().split(b"\r\n")]
    return {name.removeprefix(b"x-forwarded-"): value for name, _, value in lines if name.startswith(b"x-forwarded-")}


@on_each_loop
@pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda version: version.name
)
@pytest.mark.parametrize("names", [True, False], ids=["name", "no name"])
def test_a_client_is_served_and_the_homeserver_told_that_it_came_by_https(
    authority: Authority, run: Runner, version: ssl.TLSVersion, *, names: bool
) -> None:
    script = Script(OK)

    async def main() -> None:
        context = trusting(authority)
        context.minimum_version = context.maximum_version = version
        context.check_hostname = names  # without a name there is none to check
        async with over_tls(authority, script) as gateway, secured(gateway.port, context) as client:
            for _ in range(2):
                await client.send(GET)
                assert await client.answer() == OK

    run(main())
    assert [told(request) for request in script.requests] == [
        {b"for": b"127.0.0.1", b"proto": b"https", b"host": b"h"}
    ] * 2


@on_each_loop
def test_large_bodies_go_up_and_down_at_the_pace_of_the_slower_one(authority: Authority, run: Runner) -> None:
    body = bytes(range(256)) * 20_000

    async def main() -> None:
        script = Script(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        async with over_tls(authority, script) as gateway, secured(gateway.port, trusting(authority)) as client:
            await client.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await client.head()
            await asyncio.sleep(0.1)
            assert await client.reader.readexactly(len(body)) == body
        assert script.requests[0].endswith(body)

    run(main())


async def test_a_client_logs_in_by_aiohttp(authority: Authority, homeserver: FakeHomeserver) -> None:
    server = {"listen": ["tls:127.0.0.1:0"], "tls_certificate": "server.pem", "tls_private_key": "server.pem"}
    async with running_gateway(authority.folder, homeserver.url, server=server) as gateway:
        connector = aiohttp.TCPConnector(ssl=trusting(authority))
        async with aiohttp.ClientSession(connector=connector) as session:
            body = {"type": "org.matrix.login.jwt", "token": mint()}
            async with session.post(f"https://127.0.0.1:{gateway.port}{LOGIN}", json=body) as answer:
                assert (await answer.json())["user_id"] == "@alice:example.org"


async def test_curl_is_served_by_http_1_1(authority: Authority) -> None:
    async with over_tls(authority, Script(OK)) as gateway:
        command = ["curl", "-sS", "--cacert", str(authority.folder / "authority.pem"), "-w", "%{http_version}"]
        done = await output(*command, f"https://127.0.0.1:{gateway.port}/x")
    assert done == "{}1.1"


async def output(*command: str, put_in: str = "", wait: float = 0) -> str:
    """What a program writes, its errors too; `put_in` comes after `wait` seconds."""
    program = shutil.which(command[0])
    assert program is not None
    process = await asyncio.create_subprocess_exec(
        program, *command[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdin is not None
    if put_in:
        await asyncio.sleep(wait)
        process.stdin.write(put_in.encode())
        with suppress(ConnectionError):
            await process.stdin.drain()
        await asyncio.sleep(wait)
    process.stdin.close()
    return (await process.communicate())[0].decode("latin-1")


REFUSED = {
    "TLS 1.0": ["-tls1", "-cipher", "ALL:@SECLEVEL=0"],
    "TLS 1.1": ["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
    "RSA key exchange": ["-tls1_2", "-cipher", "AES128-GCM-SHA256:AES128-SHA:@SECLEVEL=0"],
    "CBC": ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA384:@SECLEVEL=0"],
    "CCM with a short tag": ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-CCM8:@SECLEVEL=0"],
    "finite fields": ["-tls1_2", "-cipher", "DHE:@SECLEVEL=0"],
    "no authentication": ["-tls1_2", "-cipher", "aNULL:@SECLEVEL=0"],
    "no encryption": ["-tls1_2", "-cipher", "eNULL:@SECLEVEL=0"],
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_not_modern_is_refused(authority: Authority, case: str) -> None:
    async with over_tls(authority, Script(OK)) as gateway:
        said = await output("openssl", "s_client", "-connect", f"127.0.0.1:{gateway.port}", *REFUSED[case])
    assert "Cipher is (NONE)" in said


TAKEN = {
    "TLS 1.3": ["-tls1_3"],
    "TLS 1.2": ["-tls1_2"],
    "AES of 128 bits": ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
    "ChaCha20": ["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"],
    "HTTP/2 if it were spoken": ["-alpn", "h2,http/1.1"],
}


@pytest.mark.parametrize("case", TAKEN)
async def test_what_is_modern_is_taken(authority: Authority, case: str) -> None:
    connect = ["openssl", "s_client", "-CAfile", str(authority.folder / "authority.pem"), "-verify_return_error"]
    async with over_tls(authority, Script(OK)) as gateway:
        said = await output(*connect, "-connect", f"127.0.0.1:{gateway.port}", *TAKEN[case])
    assert "Verify return code: 0 (ok)" in said
    assert "Compression: NONE" in said
    if "-alpn" in TAKEN[case]:
        assert "ALPN protocol: http/1.1" in said


async def test_nobody_negotiates_again(authority: Authority) -> None:
    async with over_tls(authority, Script(OK)) as gateway:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{gateway.port}", "-tls1_2"]
        said = await output(*command, put_in="R\n", wait=0.3)
    assert "no renegotiation" in said


def said_of_connections(caplog: pytest.LogCaptureFixture) -> list[str]:
    loud = [record for record in caplog.records if record.levelno > logging.DEBUG]
    return [record.getMessage() for record in loud if record.name.startswith(("asyncio", "uvloop", "aiohttp"))]


@on_each_loop
def test_what_is_no_tls_is_closed_without_a_word_in_the_log(
    authority: Authority, run: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    script = Script(OK)

    async def main() -> None:
        async with over_tls(authority, script, head_timeout=0.3) as gateway:
            for octets in (GET, b"", b"\x16\x03\x01", bytes(2000)):
                async with connected(gateway.port) as client:
                    await client.send(octets)
                    with suppress(ConnectionResetError):
                        assert not (await client.rest()).startswith(b"HTTP")
            async with connected(gateway.port) as client:
                await client.send(b"\x16\x03\x01")
                client.reset()
            distrusting = ssl.create_default_context()
            with pytest.raises((ssl.SSLError, ConnectionError)):
                async with secured(gateway.port, distrusting):
                    pass
            await asyncio.sleep(0.1)
        assert "Traceback" not in gateway.log

    run(main())
    assert said_of_connections(caplog) == []
    assert script.requests == []


def abort(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


def close(writer: asyncio.StreamWriter) -> None:
    writer.close()  # with close_notify


UPLOAD = b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: 90000000\r\n\r\n"


@on_each_loop
@pytest.mark.parametrize(
    ("request_octets", "end"),
    [
        pytest.param(GET, abort, id="request, cut off"),
        pytest.param(GET, close, id="request, close_notify"),
        pytest.param(UPLOAD, abort, id="upload that nobody reads, cut off"),
    ],
)
def test_a_client_that_goes_away_ends_its_request(
    authority: Authority,
    run: Runner,
    caplog: pytest.LogCaptureFixture,
    request_octets: bytes,
    end: Callable[[asyncio.StreamWriter], None],
) -> None:
    async def main() -> None:
        asked = asyncio.Event()

        async def hang(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            asked.set()
            await asyncio.Event().wait()

        async with over_tls(authority, hang) as gateway, secured(gateway.port, trusting(authority)) as client:
            await client.send(request_octets)
            await asked.wait()
            server = gateway.running._server  # noqa: SLF001 - what it has and reads is seen nowhere else
            transport, held_back = next(iter(server.connections)).transport, 0
            while request_octets is UPLOAD and held_back < 10:  # it is for a moment now and then
                assert transport is not None
                if transport.is_reading():
                    held_back = 0
                    await client.send(bytes(2**16))
                await asyncio.sleep(0.01)
                held_back += 1
            end(client.writer)
            while server.connections:
                await asyncio.sleep(0.02)

    run(main())
    assert said_of_connections(caplog) == []


@on_each_loop
def test_an_answer_that_breaks_off_is_cut_and_one_that_ends_is_said_to(authority: Authority, run: Runner) -> None:
    """RFC 9112 9.8: only close_notify tells the end of a connection from somebody's cut on the way."""

    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        await writer.drain()
        await asyncio.sleep(0.05)

    async def until_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)

    async def main() -> None:
        async with over_tls(authority, half) as gateway, secured(gateway.port, trusting(authority)) as client:
            await client.send(GET)
            assert (await client.rest()).endswith(b"Content-Length: 9\r\n\r\nhalf")
        async with over_tls(authority, until_close) as gateway, secured(gateway.port, trusting(authority)) as client:
            await client.send(GET.replace(b"HTTP/1.1", b"HTTP/1.0"))
            with pytest.raises((ConnectionResetError, ssl.SSLError)):
                await client.rest()
        async with over_tls(authority, Script(OK)) as gateway, secured(gateway.port, trusting(authority)) as client:
            await client.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            assert (await client.rest()).endswith(b"{}")

    run(main())


@on_each_loop
def test_behind_a_header_of_the_proxy_protocol_tls_begins(authority: Authority, run: Runner) -> None:
    script = Script(OK)

    async def main() -> None:
        trusted = {"trusted_proxies": ["127.0.0.1/32"], "head_timeout": 0.5}
        async with over_tls(authority, script, "proxy:tls:127.0.0.1:0", **trusted) as gateway:
            line = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n"
            async with secured(gateway.port, trusting(authority), line) as client:
                await client.send(GET)
                assert await client.answer() == OK
            async with connected(gateway.port) as other:
                await other.send(line + GET)
                with suppress(ConnectionResetError):
                    assert not (await other.rest()).startswith(b"HTTP")
            async with connected(gateway.port) as other:
                await other.send(line)  # and then no handshake
                assert await other.rest() == b""

    run(main())
    assert [told(request) for request in script.requests] == [
        {b"for": b"203.0.113.7", b"proto": b"https", b"host": b"h"}
    ]


def serial(client: RawClient) -> int:
    return x509.load_der_x509_certificate(client.writer.get_extra_info("ssl_object").getpeercert(True)).serial_number  # noqa: FBT003


@on_each_loop
def test_a_reload_shows_another_certificate_and_drops_nobody(authority: Authority, run: Runner) -> None:
    async def main() -> None:
        context = trusting(authority)
        async with over_tls(authority, Script(OK)) as gateway:
            async with secured(gateway.port, context) as before, connected(gateway.port) as slow:
                await slow.send(b"\x16")
                first = serial(before)
                authority.server(LOOPBACK)
                assert await gateway.running.reload() == ""
                async with secured(gateway.port, context) as after:
                    assert serial(after) != first
                    for client in (before, after):
                        await client.send(GET)
                        assert await client.answer() == OK
            assert await gateway.running.reload() == ""
            async with secured(gateway.port, context) as again:
                assert serial(again) == serial(after)

    run(main())


async def test_a_certificate_that_does_not_fit_leaves_the_old_one_in_use(authority: Authority) -> None:
    async with over_tls(authority, Script(OK)) as gateway:
        (authority.folder / "server.pem").write_text("half a file")
        assert "holds no certificate in PEM form" in await gateway.running.reload()
        async with secured(gateway.port, trusting(authority)) as client:
            await client.send(GET)
            assert await client.answer() == OK
    assert "reload_failed" in gateway.log
