"""The connections to the homeserver: addresses, keeping, repeating, limits."""

import asyncio
import json
from pathlib import Path

import pytest

from gateway.errors import Refusal, Refused
from gateway.upstream import pool as module
from gateway.upstream.pool import Address, Pool, PoolSettings, Reply, parse_address
from tests.raw_http import RawServer, Script, never_accepting, read_message

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
HOST = [(b"Host", b"h")]


def pool_of(url: str, *, call_timeout: float = 30, connect_timeout: float = 10) -> Pool:
    return Pool(PoolSettings(url=url, connect_timeout=connect_timeout), call_timeout=call_timeout)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:8008", Address("127.0.0.1:8008", "127.0.0.1", 8008)),
        ("https://hs.example/", Address("hs.example", "hs.example", 443, tls=True)),
        ("http://[::1]:80", Address("[::1]:80", "::1", 80)),
        ("unix:/run/hs.sock", Address("localhost", unix_path="/run/hs.sock")),
    ],
)
def test_an_address_is_read(url: str, address: Address) -> None:
    assert parse_address(url) == address


@pytest.mark.parametrize(
    "url",
    ["", "hs.example", "ftp://h", "http://", "http://h/path", "http://h?q", "http://u@h", "unix:rel", "http://h:x"],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_address(url)


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b'"x"', b"\xff", b"[" * 100_000, b'{"errcode": 7}'])
def test_an_answer_that_is_no_json_object_has_no_errcode(body: bytes) -> None:
    assert Reply(200, [], body).errcode == ""


async def test_a_connection_is_kept_for_the_next_call() -> None:
    script = Script(OK)
    async with RawServer(script).running() as server:
        pool = pool_of(server.url)
        for _ in range(3):
            reply = await pool.call("POST", "/x", HOST, b"{}")
            assert (reply.status, reply.body) == (200, b"{}")
        assert server.connections == 1
        assert script.requests[0] == b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}"
        await pool.close()
        await asyncio.wait_for(server.ended.wait(), 5)


async def test_calls_at_once_wait_for_nobody() -> None:
    gate = asyncio.Event()
    waiting = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal waiting
        await read_message(reader)
        waiting += 1
        if waiting == 150:
            gate.set()
        await gate.wait()
        writer.write(OK)
        await reader.read()

    async with RawServer(handler).running() as server:
        pool = pool_of(server.url)
        replies = await asyncio.wait_for(asyncio.gather(*(pool.call("GET", "/", HOST) for _ in range(150))), 10)
        assert [reply.status for reply in replies] == [200] * 150
        await pool.close()


@pytest.mark.parametrize(
    "answer", [OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), OK.replace(b"1.1", b"1.0")]
)
async def test_a_connection_that_the_homeserver_ends_is_not_kept(answer: bytes) -> None:
    async with RawServer(Script(answer)).running() as server:
        pool = pool_of(server.url)
        for _ in range(2):
            assert (await pool.call("GET", "/", HOST)).status == 200
        assert server.connections == 2


async def test_a_call_is_made_again_when_a_kept_connection_had_gone() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        writer.write(OK)
        await reader.readuntil(b"\r\n\r\n")

    async with RawServer(handler).running() as server:
        pool = pool_of(server.url)
        for _ in range(3):
            assert (await pool.call("POST", "/", HOST, b"{}")).status == 200
        assert server.connections == 3
        await pool.close()


async def test_connections_that_are_not_taken_any_more_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_IDLE", 0.1)
    async with RawServer(Script(OK)).running() as server:
        pool = pool_of(server.url)
        await asyncio.gather(*(pool.call("GET", "/", HOST) for _ in range(20)))
        for _ in range(3):
            await asyncio.sleep(0.06)
            await pool.call("GET", "/", HOST)
        assert len(pool._idle) == 1  # noqa: SLF001 - what it keeps is the claim
        await pool.close()


async def test_a_new_connection_that_breaks_is_not_tried_again() -> None:
    async def handler(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await read_message(reader)

    async with RawServer(handler).running() as server:
        with pytest.raises(Refused) as refused:
            await pool_of(server.url).call("GET", "/", HOST)
        assert server.connections == 1
    assert refused.value.refusal is Refusal.HOMESERVER_UNREACHABLE


async def test_interim_answers_are_passed_over() -> None:
    async with RawServer(Script(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 P\r\n\r\n" + OK)).running() as server:
        pool = pool_of(server.url)
        assert (await pool.call("GET", "/", HOST)).status == 200
        await pool.close()


async def test_an_answer_without_end_is_refused() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with RawServer(handler).running() as server:
        with pytest.raises(Refused, match="more than"):
            await pool_of(server.url).call("GET", "/", HOST)


@pytest.mark.parametrize("began", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"])
async def test_a_call_that_takes_too_long_is_given_up_and_its_connection_ended(began: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        writer.write(began)
        await reader.read()

    async with RawServer(handler).running() as server:
        with pytest.raises(Refused) as refused:
            await pool_of(server.url, call_timeout=0.1).call("GET", "/", HOST)
        await asyncio.wait_for(server.ended.wait(), 5)
    assert refused.value.refusal is Refusal.HOMESERVER_TOO_SLOW


async def test_a_call_that_is_cancelled_ends_its_connection() -> None:
    async def handler(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with RawServer(handler).running() as server:
        call = asyncio.create_task(pool_of(server.url).call("GET", "/", HOST))
        await asyncio.sleep(0.05)
        call.cancel()
        await asyncio.wait_for(server.ended.wait(), 5)
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_a_homeserver_that_takes_no_connection_is_too_slow() -> None:
    async with never_accepting() as port:
        with pytest.raises(Refused) as refused:
            await pool_of(f"http://127.0.0.1:{port}", connect_timeout=0.2).call("GET", "/", HOST)
    assert refused.value.refusal is Refusal.HOMESERVER_TOO_SLOW


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_homeserver_that_is_not_there_is_unreachable(scheme: str, unused_tcp_port: int) -> None:
    with pytest.raises(Refused) as refused:
        await pool_of(f"{scheme}://127.0.0.1:{unused_tcp_port}").call("GET", "/", HOST)
    assert refused.value.refusal is Refusal.HOMESERVER_UNREACHABLE


async def test_a_homeserver_that_speaks_no_tls_is_unreachable() -> None:
    async with RawServer(Script(OK)).running() as server:
        with pytest.raises(Refused) as refused:
            await pool_of(server.url.replace("http:", "https:"), connect_timeout=1).call("GET", "/", HOST)
    assert refused.value.status in {502, 504}


async def test_a_unix_socket_is_reached(tmp_path: Path) -> None:
    path = tmp_path / "hs.sock"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        writer.write(OK)
        writer.close()

    async with await asyncio.start_unix_server(serve, str(path)):
        assert (await pool_of(f"unix:{path}").call("GET", "/", HOST)).json() == json.loads("{}")
    with pytest.raises(Refused):
        await pool_of(f"unix:{tmp_path}/none.sock").call("GET", "/", HOST)
