"""Listeners that ask for the PROXY protocol: whose a connection is, and who may say so."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.raw_http import RawClient, RawServer, Script, connected, reset
from tests.running_gateway import RunningGateway, running_gateway

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
GET = b"GET /x HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n"
LINE = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL = SIGNATURE + b"\x20\x00\x00\x00"
UNSPECIFIED = SIGNATURE + b"\x21\x00\x00\x00"
UNIX = SIGNATURE + b"\x21\x31" + struct.pack("!H", 216) + bytes(216)


def version_2(address: str, more: bytes = b"") -> bytes:
    body = socket.inet_aton(address) * 2 + bytes(4) + more
    return SIGNATURE + b"\x21\x11" + struct.pack("!H", len(body)) + body


Main = Coroutine[Any, Any, None]
on_each_loop = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


@asynccontextmanager
async def proxied(
    directory: Path, script: Callable[..., Any], listen: str = "proxy:127.0.0.1:0", **server: Any
) -> AsyncIterator[RunningGateway]:
    async with RawServer(script).running() as upstream:
        tables = {"listen": [listen], "head_timeout": 5, "drain_timeout": 0.2, **server}
        async with running_gateway(directory, upstream.url, server=tables) as gateway, asyncio.timeout(20):
            yield gateway


def told(request: bytes, what: bytes) -> bytes:
    """What the homeserver was told of the client, in a field of X-Forwarded."""
    values = [line for line in request.split(b"\r\n") if line.lower().startswith(b"x-forwarded-%b:" % what)]
    return b"".join(values).partition(b": ")[2]


def forwarded(request: bytes) -> bytes:
    """What the homeserver was told of the client's address."""
    return told(request, b"for")


async def ask(client: RawClient, octets: bytes) -> None:
    await client.send(octets)
    assert (await client.answer()).startswith(b"HTTP/1.1 200 ")


CASES = {
    "a client": (LINE, b"203.0.113.7"),
    "a client, binary": (version_2("203.0.113.7"), b"203.0.113.7"),
    "a client, with more": (version_2("203.0.113.7", b"\xe0\x10\x00" + bytes(4096)), b"203.0.113.7"),
    "a trusted proxy behind the proxy": (b"PROXY TCP4 127.0.0.5 127.0.0.1 1 1\r\n", b"6.6.6.6"),
    "the proxy itself": (LOCAL, b"6.6.6.6"),
    "somebody who can't be named": (b"PROXY UNKNOWN\r\n", b"127.0.0.1"),
    "somebody who can't be named, binary": (UNSPECIFIED, b"127.0.0.1"),
    "somebody on a unix socket of the proxy": (UNIX, b"127.0.0.1"),
}


@on_each_loop
@pytest.mark.parametrize("case", CASES)
def test_the_announced_client_is_the_peer(case: str, tmp_path: Path, run: Callable[[Main], None]) -> None:
    """In one write, in pieces, and with what comes later on the connection."""
    header, address = CASES[case]
    script = Script(OK)

    async def main() -> None:
        async with proxied(tmp_path, script) as gateway:
            async with connected(gateway.port) as client:
                await ask(client, header + GET)
                await ask(client, GET)
            async with connected(gateway.port) as client:
                await client.send(header)
                await asyncio.sleep(0.02)
                await ask(client, GET)
            async with connected(gateway.port) as client:
                client.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for position in range(0, 45, 9):
                    await client.send(header[position : position + 9])
                    await asyncio.sleep(0.005)
                await ask(client, header[45:] + GET)

    run(main())
    assert [forwarded(request) for request in script.requests] == [address] * 4


TLS = b"\x20\x00\x05\x01\x00\x00\x00\x01"
PLAIN = b"\x20\x00\x05\x00\x00\x00\x00\x01"
SCHEMES = {
    "1": (LINE, None, b"https"),
    "1, unknown": (b"PROXY UNKNOWN\r\n", None, b"https"),
    "2": (version_2("203.0.113.7"), None, b"https"),
    "2, TLS": (version_2("203.0.113.7", TLS), b"https", b"https"),
    "2, no TLS": (version_2("203.0.113.7", PLAIN), b"http", b"http"),
    "2, local": (LOCAL, None, b"https"),
    "2, unix, TLS": (SIGNATURE + b"\x21\x31" + struct.pack("!H", 224) + bytes(216) + TLS, b"https", b"https"),
}


@pytest.mark.parametrize("case", SCHEMES)
async def test_whether_the_client_spoke_tls_is_known_by_the_header_or_by_the_address(
    case: str, tmp_path: Path
) -> None:
    """On a unix socket too; and what a client says itself goes in any case."""
    header, by_header, by_address = SCHEMES[case]
    script = Script(OK)
    paths = [str(tmp_path / "one.sock"), str(tmp_path / "two.sock")]
    listen = ["proxy+https:127.0.0.1:0", f"proxy+https:unix:{paths[0]}", f"proxy:unix:{paths[1]}"]
    async with RawServer(script).running() as upstream:
        async with running_gateway(
            tmp_path, upstream.url, server={"listen": listen, "drain_timeout": 0.2}
        ) as gateway:
            assert gateway.running.addresses == [f"proxy+https:127.0.0.1:{gateway.port}", *listen[1:]]
            places: list[int | str] = [gateway.port, *paths]
            for place in places:
                async with connected(place) as client:
                    await ask(client, header + GET.replace(b"-For: 6.6.6.6", b"-Port: 1"))
    assert [told(request, b"proto") for request in script.requests] == [by_address, by_address, by_header or b""]


async def test_who_spoke_tls_with_the_edge_may_end_its_half_of_the_connection(tmp_path: Path) -> None:
    """Between edge and gateway it is TCP, which keeps the other half open."""

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            await asyncio.sleep(0.1)
            writer.write(OK)

    async with proxied(tmp_path, slow, "proxy+https:127.0.0.1:0") as gateway, connected(gateway.port) as client:
        await client.send(version_2("203.0.113.7", TLS) + GET)
        client.writer.write_eof()
        assert (await client.answer()).startswith(b"HTTP/1.1 200 ")


@on_each_loop
def test_without_a_header_nobody_is_served(tmp_path: Path, run: Callable[[Main], None]) -> None:
    script = Script(OK)

    async def main() -> None:
        async with proxied(tmp_path, script, head_timeout=0.3) as gateway:
            torn = version_2("203.0.113.7", TLS[:-1])
            for octets in (GET, b"PROXY NONSENSE\r\n" + GET, LINE[:20], b"", LINE.replace(b"\r", b"") + GET, torn):
                async with connected(gateway.port) as client:
                    await client.send(octets)
                    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                        await client.reader.readexactly(1)
            async with connected(gateway.port) as client:
                await client.send(LINE[:20])
                reset(client.writer)
            async with connected(gateway.port) as client:
                await ask(client, LINE + GET)
        assert "does not begin with a PROXY protocol header" in gateway.log
        assert "took too long" in gateway.log
        assert "a TLV of its PROXY protocol header ends behind the header" in gateway.log
        assert gateway.log.count("connection_refused") == 6
        assert "203.0.113" not in gateway.log

    run(main())
    assert len(script.requests) == 1


async def test_the_header_of_a_stranger_is_not_read(tmp_path: Path) -> None:
    script = Script(OK)
    async with proxied(tmp_path, script, trusted_proxies=["192.0.2.0/24"]) as gateway:
        async with connected(gateway.port) as client:
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await client.reader.readexactly(1)
    assert script.requests == []
    assert "peer=127.0.0.1" in gateway.log
    assert "not one of trusted_proxies" in gateway.log


async def test_a_header_where_none_is_asked_for_is_no_request(tmp_path: Path) -> None:
    script = Script(OK)
    async with proxied(tmp_path, script, "127.0.0.1:0") as gateway, connected(gateway.port) as client:
        await client.send(LINE + GET)
        assert (await client.head()).startswith(b"HTTP/1.1 400 ")
    assert script.requests == []


async def test_the_announced_client_counts_not_the_proxy(tmp_path: Path) -> None:
    async with proxied(tmp_path, Script(OK), max_connections_per_address=2) as gateway:
        async with connected(gateway.port) as one, connected(gateway.port) as two, connected(gateway.port) as three:
            await ask(one, LINE + GET)
            await ask(two, LINE + GET)
            await three.send(LINE + GET)
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await three.answer()
            async with connected(gateway.port) as other:
                await ask(other, version_2("203.0.113.8") + GET)
            one.reset()
            await asyncio.sleep(0.05)
            async with connected(gateway.port) as again:
                await ask(again, LINE + GET)


@on_each_loop
def test_a_unix_socket_can_ask_for_the_header(tmp_path: Path, run: Callable[[Main], None]) -> None:
    script = Script(OK)
    path = str(tmp_path / "gateway.sock")

    async def main() -> None:
        async with RawServer(script).running() as upstream:
            server = {"listen": ["127.0.0.1:0", f"proxy:unix:{path}"]}
            async with running_gateway(tmp_path, upstream.url, server=server):
                for header in (LINE, b"PROXY UNKNOWN\r\n", LOCAL):
                    async with connected(path) as client:
                        await ask(client, header + GET)

    run(main())
    assert [forwarded(request) for request in script.requests] == [b"203.0.113.7", b"", b"6.6.6.6"]


@on_each_loop
def test_many_come_at_once(tmp_path: Path, run: Callable[[Main], None]) -> None:
    async def main() -> None:
        async def come(number: int, port: int) -> None:
            async with connected(port) as client:
                await ask(client, version_2(f"203.0.113.{number}") + GET)

        script = Script(OK)
        async with proxied(tmp_path, script) as gateway:
            await asyncio.gather(*(come(number, gateway.port) for number in range(200)))
        addresses = {forwarded(request).decode() for request in script.requests}
        assert addresses == {f"203.0.113.{number}" for number in range(200)}

    run(main())
