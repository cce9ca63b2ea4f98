"""While no more files may be open nobody is turned away: idle connections are given up, and who waits is served.

The gateway is a process of its own, on the loop of `serve`, with a small limit of open files.
"""

import asyncio
import resource
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.raw_http import RawServer, connected, read_message
from tests.running_gateway import write_configuration

FILES = 96
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
HANGING = b"GET /hang HTTP/1.1\r\nHost: h\r\n\r\n"
Clients = list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]


async def homeserver(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        if (await read_message(reader)).startswith(b"GET /hang"):
            await asyncio.sleep(60)
        writer.write(OK)


@asynccontextmanager
async def short_of_files(directory: Path, upstream: str, port: int) -> AsyncIterator[tuple[Process, Path]]:
    path = write_configuration(directory, upstream, {"server": {"listen": [f"127.0.0.1:{port}"]}})
    log = directory / "log"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "serve", "-c", str(path), stdin=DEVNULL, stdout=errors, stderr=errors,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES)),
        )  # fmt: skip
        try:
            async with asyncio.timeout(30):
                while b" listening " not in log.read_bytes():
                    await asyncio.sleep(0.05)
            yield process, log
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def open_many(port: int, count: int, octets: bytes) -> Clients:
    clients = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    for _, writer in clients:
        writer.write(octets)
    return clients


async def close_all(clients: Clients) -> None:
    for _, writer in clients:
        writer.close()
    for _, writer in clients:
        with suppress(OSError):
            await writer.wait_closed()


Test = Callable[[int, Path], Awaitable[None]]


async def with_clients(directory: Path, port: int, test: Test) -> str:
    async with RawServer(homeserver).running() as upstream:
        async with short_of_files(directory, upstream.url, port) as (process, log):
            await test(port, log)
        assert process.returncode == 0
    text = log.read_text()
    assert "Traceback" not in text
    return text


async def answered(port: int) -> bytes:
    async with connected(port) as client, asyncio.timeout(15):
        await client.send(GET)
        return await client.answer()


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_out_of_files_idle_connections_are_given_up_for_new_clients(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    async def test(port: int, log: Path) -> None:
        idle = await open_many(port, 2 * FILES, b"")
        for _ in range(5):
            assert await answered(port) == OK
        assert "accept_failed" in log.read_text()
        await close_all(idle)
        for _ in range(5):
            assert await answered(port) == OK

    text = await with_clients(tmp_path, unused_tcp_port, test)

    (line,) = [line for line in text.splitlines() if "accept_failed" in line]
    assert "Too many open files" in line
    assert "LimitNOFILE" in line


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_out_of_files_with_none_idle_who_waits_is_neither_reset_nor_forgotten(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    async def test(port: int, log: Path) -> None:
        busy = await open_many(port, FILES, HANGING)  # each needs two
        async with asyncio.timeout(10):
            while "accept_failed" not in log.read_text():
                await asyncio.sleep(0.05)
        waiting = [asyncio.ensure_future(answered(port)) for _ in range(5)]
        await asyncio.sleep(1.5)
        assert not [each for each in waiting if each.done() and each.exception() is not None]
        await close_all(busy)
        assert await asyncio.gather(*waiting) == [OK] * 5

    text = await with_clients(tmp_path, unused_tcp_port, test)

    assert text.count("accept_failed") == 1
