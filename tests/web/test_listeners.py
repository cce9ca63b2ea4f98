"""A reload opens and closes listeners: all or nothing, and the connections of the others stay."""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gateway import app
from gateway.config import load
from gateway.logs import LogSettings, get_logger
from gateway.systemd import HandedOver
from tests.authority import LOOPBACK, authority_in
from tests.config.running_edge import free_port
from tests.raw_http import RawClient, RawServer, Script, connected, exchange, read_message
from tests.running_gateway import RunningGateway, running_gateway, write_configuration

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
LINE = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"

Main = Coroutine[Any, Any, None]
Runner = Callable[[Main], None]
on_each_loop = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


async def ask(client: RawClient, octets: bytes = GET) -> bytes:
    await client.send(octets)
    answer = await client.answer()
    assert answer.startswith(b"HTTP/1.1 200 ")
    return answer


async def is_open(to: int | str) -> bool:
    try:
        async with connected(to):
            return True
    except OSError:
        return False


async def change(gateway: RunningGateway, upstream: RawServer, *listen: str, **server: Any) -> str:
    tables = {"server": {"listen": list(listen), **server}}
    write_configuration(gateway.configuration.path.parent, upstream.url, tables)
    return await gateway.running.reload()


@on_each_loop
def test_a_reload_opens_what_is_new_closes_what_is_gone_and_leaves_the_rest(tmp_path: Path, run: Runner) -> None:
    one, two, three, health = free_port(), free_port(), free_port(), free_port()
    path = str(tmp_path / "gateway.sock")

    async def main() -> None:
        async with RawServer(Script(OK)).running() as upstream:
            server = {"listen": [f"127.0.0.1:{one}", f"127.0.0.1:{two}"], "drain_timeout": 5}
            async with running_gateway(tmp_path, upstream.url, server=server) as gateway, asyncio.timeout(20):
                async with connected(one) as stays, connected(two) as goes:
                    await ask(stays)
                    await ask(goes)
                    listen = [f"127.0.0.1:{three}", f"127.0.0.1:{one}", f"unix:{path}"]
                    assert await change(gateway, upstream, *listen, admin_listen=f"127.0.0.1:{health}") == ""
                    assert gateway.running.addresses == listen
                    assert not await is_open(two)
                    for to in (one, three, path):
                        async with connected(to) as client:
                            await ask(client)
                    assert b"200" in (await exchange(health, LIVE))[:15]
                    assert b"\r\nConnection: close\r\n" in await ask(
                        goes
                    )  # it takes one more, for what was on its way
                    assert await goes.rest() == b""
                    await ask(stays)
                assert await change(gateway, upstream, f"127.0.0.1:{one}", admin_listen="") == ""
                assert [await is_open(to) for to in (one, three, path, health)] == [True, False, False, False]
        assert not await is_open(one)

    run(main())


@on_each_loop
def test_a_reload_that_can_not_open_an_address_changes_nothing(tmp_path: Path, run: Runner) -> None:
    one, two = free_port(), free_port()

    async def main() -> None:
        async with RawServer(Script(OK)).running() as upstream:
            server = {"listen": [f"127.0.0.1:{one}"]}
            async with running_gateway(tmp_path, upstream.url, server=server) as gateway, connected(one) as client:
                await ask(client)
                taken = f"127.0.0.1:{upstream.port}"
                for changed in ([f"127.0.0.1:{two}", taken], [f"127.0.0.1:{two}", "unix:/nowhere/gateway.sock"]):
                    assert f"Can't listen on {changed[-1]}" in await change(gateway, upstream, *changed)
                assert "use" in await change(gateway, upstream, f"127.0.0.1:{two}", admin_listen=taken)
                assert await is_open(one)
                assert not await is_open(two)
                await ask(client)
                assert gateway.log.count("reload_failed") == 3
                assert await change(gateway, upstream, f"127.0.0.1:{two}") == ""  # and it is free again
                assert await is_open(two)

    run(main())


@on_each_loop
def test_requests_at_a_listener_that_goes_have_their_time(tmp_path: Path, run: Runner) -> None:
    one, two = free_port(), free_port()
    go_on = asyncio.Event()

    async def answer_later(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await read_message(reader):
            if b"/slow" in request:
                await go_on.wait()
            elif b"/hang" in request:
                await asyncio.Event().wait()
            writer.write(OK)

    async def main() -> None:
        async with RawServer(answer_later).running() as upstream:
            server = {"listen": [f"127.0.0.1:{one}"]}
            async with running_gateway(tmp_path, upstream.url, server=server) as gateway, asyncio.timeout(20):
                async with connected(one) as slow, connected(one) as hanging, connected(one) as idle:
                    await slow.send(GET.replace(b"/x", b"/slow"))
                    await hanging.send(GET.replace(b"/x", b"/hang"))
                    await asyncio.sleep(0.1)
                    assert await change(gateway, upstream, f"127.0.0.1:{two}", drain_timeout=1) == ""
                    go_on.set()
                    assert (await slow.answer()).startswith(b"HTTP/1.1 200 ")
                    assert (await hanging.answer()).startswith(b"HTTP/1.1 503 ")
                    assert [await each.rest() for each in (slow, hanging, idle)] == [b"", b"", b""]
                    async with connected(two) as client:
                        await ask(client)

    run(main())


@on_each_loop
def test_who_connected_before_the_end_and_was_not_taken_yet_is_served(tmp_path: Path, run: Runner) -> None:
    async def main() -> None:
        async with RawServer(Script(OK)).running() as upstream:
            with ExitStack() as clients:
                waiting = []
                async with running_gateway(tmp_path, upstream.url, server={"drain_timeout": 5}) as gateway:
                    for _ in range(5):  # without a moment for the loop
                        client = clients.enter_context(socket.create_connection(("127.0.0.1", gateway.port)))
                        client.sendall(GET)
                        waiting.append(client)
                for client in waiting:
                    assert client.recv(4096).startswith(b"HTTP/1.1 200 ")

    run(main())


def test_what_is_spoken_at_an_address_changes_without_a_moment_in_which_it_is_closed(tmp_path: Path) -> None:
    """On the loop of `serve`; asyncio of Python 3.11 loses whom it took a moment before its server closes."""
    port = free_port()
    authority_in(tmp_path).server(LOOPBACK)

    async def main() -> None:
        script = Script(OK)
        async with RawServer(script).running() as upstream:
            server = {"listen": [f"127.0.0.1:{port}"], "drain_timeout": 0.2}
            async with running_gateway(tmp_path, upstream.url, server=server) as gateway, asyncio.timeout(20):
                ended = asyncio.Event()

                async def knock() -> int:
                    count = 0
                    while not ended.is_set():
                        assert await is_open(port)
                        count += 1
                    return count

                knocking = asyncio.create_task(knock())
                tls = {"tls_certificate": "server.pem", "tls_private_key": "server.pem", "drain_timeout": 0.2}
                for _ in range(3):
                    assert await change(gateway, upstream, f"proxy:127.0.0.1:{port}") == ""
                    async with connected(port) as client:
                        await ask(client, LINE + GET)
                    assert await change(gateway, upstream, f"tls:127.0.0.1:{port}", **tls) == ""
                    context = ssl.create_default_context(cafile=tmp_path / "authority.pem")
                    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
                    await ask(RawClient(reader, writer))
                    writer.transport.abort()
                    assert await change(gateway, upstream, f"127.0.0.1:{port}") == ""
                    async with connected(port) as client:
                        await ask(client)
                ended.set()
                assert await knocking > 3
        # A reload asks the homeserver whether sessions can be made there.
        assert sum(request.startswith(b"GET /x ") for request in script.requests) == 9

    uvloop.run(main())


@on_each_loop
def test_an_abstract_socket_that_was_handed_over_is_listened_on(tmp_path: Path, run: Runner) -> None:
    async def main() -> None:
        script, name = Script(OK), f"gateway-{tmp_path.name}-{os.getpid()}"
        async with RawServer(script).running() as upstream:
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(f"\0{name}")
            listening.listen()
            path = write_configuration(tmp_path, upstream.url, {})
            async with app.running(
                load(path, {}), get_logger(LogSettings()), handed=HandedOver([listening])
            ) as running:
                assert running.addresses == [f"unix:@{name}"]
                with socket.socket(socket.AF_UNIX) as client:  # uvloop's own can't connect to one
                    client.connect(f"\0{name}")
                    client.sendall(GET)
                    client.setblocking(False)  # noqa: FBT003 - the standard library takes no keyword here
                    assert (await asyncio.get_running_loop().sock_recv(client, 4096)).startswith(b"HTTP/1.1 200 ")

    run(main())


@on_each_loop
def test_on_a_socket_that_was_handed_over_is_spoken_what_its_address_says(tmp_path: Path, run: Runner) -> None:
    async def main() -> None:
        script = Script(OK)
        async with RawServer(script).running() as upstream:
            one, two = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
            names = [f"127.0.0.1:{each.getsockname()[1]}" for each in (one, two)]
            path = write_configuration(tmp_path, upstream.url, {"server": {"listen": [f"proxy:{names[1]}"]}})
            handed = HandedOver([one, two])
            async with app.running(load(path, {}), get_logger(LogSettings()), handed=handed) as running:
                assert running.addresses == [names[0], f"proxy:{names[1]}"]
                async with connected(int(names[0].rpartition(":")[2])) as client:
                    await ask(client)
                    write_configuration(tmp_path, upstream.url, {"server": {"listen": [names[1]]}})
                    assert await running.reload() == ""
                    assert running.addresses == names
                    await ask(client)
                async with connected(int(names[1].rpartition(":")[2])) as client:
                    await ask(client)

    run(main())
