"""What the system knows of a connection whose loop was not told."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.sockets import EndWatch, unread
from tests.raw_http import reset


@asynccontextmanager
async def unread_connection() -> AsyncIterator[tuple[asyncio.StreamWriter, asyncio.StreamWriter]]:
    """Give both ends of a connection, the first of which is not read."""
    accepted: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(lambda _, writer: accepted.set_result(writer), "127.0.0.1", 0)
    _, there = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    here = await accepted
    here.transport.pause_reading()  # type: ignore[attr-defined]
    try:
        yield here, there
    finally:
        here.transport.abort()
        there.transport.abort()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("sent", [b"", b"unread"])
async def test_a_connection_that_was_reset_is_aborted_though_nobody_reads(sent: bytes) -> None:
    async with asyncio.timeout(5), unread_connection() as (here, there):
        EndWatch(asyncio.get_running_loop(), here.transport, lambda: pytest.fail("not by a plain end")).start()  # type: ignore[arg-type]
        there.write(sent)
        await there.drain()
        reset(there)
        while not here.is_closing():
            await asyncio.sleep(0.01)


async def test_a_plain_end_is_told_until_it_is_taken_for_one() -> None:
    told: list[bool] = [False, True]
    async with asyncio.timeout(5), unread_connection() as (here, there):
        EndWatch(asyncio.get_running_loop(), here.transport, lambda: told.pop(0)).start()  # type: ignore[arg-type]
        there.write_eof()
        while told:
            await asyncio.sleep(0.01)
        assert not here.is_closing()


async def test_what_waits_when_a_connection_breaks_can_still_be_read() -> None:
    async with asyncio.timeout(5), unread_connection() as (here, there):
        there.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        there.write(b"an answer")
        await there.drain()
        reset(there)
        while (octets := unread(here.transport, 2)) == b"":  # type: ignore[arg-type]
            await asyncio.sleep(0.01)
        assert octets == b"an"
        assert unread(here.transport, 100) == b" answer"  # type: ignore[arg-type]
        assert unread(here.transport, 100) == b""  # type: ignore[arg-type]
    assert unread(None, 100) == b""
