"""Each request is counted and logged once, by what its client got."""

import asyncio
import gc
import re
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.fake_homeserver import FakeHomeserver, Fault
from tests.fake_issuer import running_issuer
from tests.raw_http import RawClient, RawServer, connected
from tests.running_gateway import LOGIN, RunningGateway, mint, running_gateway

VERSIONS = "/_matrix/client/versions"


@asynccontextmanager
async def observed(tmp_path: Path, homeserver_url: str, port: int, **server: object) -> AsyncIterator[RunningGateway]:
    server = {"admin_listen": f"127.0.0.1:{port}", **server}
    log = {"access": True}
    async with running_gateway(tmp_path, homeserver_url, server=server, log=log) as gateway:
        yield gateway


@pytest.fixture
async def gateway(tmp_path: Path, homeserver: FakeHomeserver, unused_tcp_port: int) -> AsyncIterator[RunningGateway]:
    async with observed(tmp_path, homeserver.url, unused_tcp_port) as running:
        yield running


async def requests(port: int) -> dict[tuple[str, str, str], int]:
    """The requests that are counted, by method, status and answer."""
    found = re.findall(
        r'^matrix_login_gateway_requests_total\{answer="(\w+)",method="(\w+)",status="(\w+)"\} ([\d.]+)$',
        await metrics(port),
        re.MULTILINE,
    )
    return {(method, status, answer): int(float(value)) for answer, method, status, value in found}


async def metrics(port: int) -> str:
    async with aiohttp.ClientSession() as client, client.get(f"http://127.0.0.1:{port}/metrics") as response:
        assert response.status == 200
        return await response.text()


def value(text: str, sample: str) -> float:
    found = re.search(rf"^matrix_login_gateway_{re.escape(sample)} (\S+)$", text, re.MULTILINE)
    assert found is not None, sample
    return float(found[1])


async def lines(gateway: RunningGateway, number: int) -> list[dict[str, str]]:
    """The lines of the access log, when there are so many."""
    async with asyncio.timeout(5):
        while gateway.log.count("] request ") < number:
            await asyncio.sleep(0.01)
    found = [line for line in gateway.log.splitlines() if "] request " in line]
    assert len(found) == number
    return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in found]


async def test_requests_are_counted_by_what_the_client_got(
    gateway: RunningGateway, homeserver: FakeHomeserver, unused_tcp_port: int
) -> None:
    await gateway.call("GET", VERSIONS)
    await gateway.call("PUT", "/_matrix/nothing")
    await gateway.call("PROPFIND", "/_matrix/nothing")
    await gateway.call("TRACE", "/_matrix/nothing")
    await gateway.log_in(mint())
    await gateway.log_in("no token")
    await gateway.call("GET", LOGIN)
    homeserver.faults["versions"] = Fault(breaks="head", times=2)
    await gateway.call("GET", VERSIONS)

    assert await requests(unused_tcp_port) == {
        ("GET", "2xx", "relayed"): 2,
        ("PUT", "4xx", "relayed"): 1,
        ("other", "4xx", "relayed"): 1,
        ("other", "4xx", "own"): 1,
        ("POST", "2xx", "own"): 1,
        ("POST", "4xx", "own"): 1,
        ("GET", "5xx", "own"): 1,
    }


async def test_a_request_that_cannot_be_read_is_counted(gateway: RunningGateway, unused_tcp_port: int) -> None:
    async with connected(gateway.port) as client:
        await client.send(b"GET / HTTP/1.1\r\nbad field\r\n\r\n")
        await client.rest()

    assert await requests(unused_tcp_port) == {("other", "4xx", "own"): 1}


async def test_bytes_of_bodies_are_counted_each_way(gateway: RunningGateway, unused_tcp_port: int) -> None:
    async with aiohttp.ClientSession() as client:
        async with client.post(gateway.url + "/_matrix/nothing", data=b"x" * 1000) as response:
            size = len(await response.read())
        async with client.post(gateway.url + "/_matrix/nothing", data=iter_of(b"x" * 500)) as response:
            size += len(await response.read())
    text = await metrics(unused_tcp_port)

    assert value(text, "received_bytes_total") == 1500
    assert value(text, "sent_bytes_total") == size > 0


async def iter_of(octets: bytes) -> AsyncIterator[bytes]:
    yield octets[:10]
    yield octets[10:]


async def test_a_client_that_leaves_is_counted_and_its_connection_is_gone(
    gateway: RunningGateway, homeserver: FakeHomeserver, unused_tcp_port: int
) -> None:
    homeserver.faults["versions"] = Fault(wait=asyncio.Event())
    async with connected(gateway.port) as client:
        await client.send(f"GET {VERSIONS} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await homeserver.arrived.wait()
        text = await metrics(unused_tcp_port)
        assert value(text, "open_requests") == 1
        assert value(text, "client_connections") == 1
        assert value(text, 'upstream_connections{state="busy"}') == 1
        client.reset()
        told = await lines(gateway, 1)
    text = await metrics(unused_tcp_port)

    assert told[0]["status"] == "0"
    assert await requests(unused_tcp_port) == {("GET", "none", "none"): 1}
    assert value(text, "open_requests") == value(text, 'upstream_connections{state="busy"}') == 0


async def test_kept_connections_to_the_homeserver_are_told(gateway: RunningGateway, unused_tcp_port: int) -> None:
    await gateway.call("GET", VERSIONS)
    text = await metrics(unused_tcp_port)
    assert value(text, 'upstream_connections{state="idle"}') == 1
    assert value(text, 'upstream_connections{state="busy"}') == 0


async def test_logins_are_counted_by_issuer_of_the_configuration_and_timed_by_step(
    tmp_path: Path, homeserver: FakeHomeserver, unused_tcp_port: int
) -> None:
    server = {"admin_listen": f"127.0.0.1:{unused_tcp_port}"}
    jwt = {"issuer": ["https://id.example.org", "https://old.example.org"]}
    async with running_gateway(tmp_path, homeserver.url, server=server, jwt=jwt) as gateway:
        await gateway.log_in(mint(iss="https://old.example.org"))
        await gateway.log_in(mint(iss="https://evil.example.net"))
        await gateway.log_in("x" * 20000)
        await gateway.log_in(7)
        homeserver.users["alice"].locked = True
        await gateway.log_in(mint(iss="https://old.example.org"))
        text = await metrics(unused_tcp_port)

    counted = re.findall(
        r'^matrix_login_gateway_logins_total\{issuer="(.*)",outcome="(\w+)"\} (\S+)$', text, re.MULTILINE
    )
    assert sorted(counted) == [
        ("https://id.example.org", "by_homeserver", "1.0"),
        ("https://id.example.org", "claim_invalid", "1.0"),
        ("https://id.example.org", "ok", "1.0"),
        ("none", "token_missing", "1.0"),
        ("none", "undecodable", "1.0"),
    ]
    for step, number in {"verify": 4, "database": 2, "register": 1, "session": 2}.items():
        assert value(text, f'login_seconds_count{{step="{step}"}}') == number
    assert value(text, 'database_seconds_count{operation="read"}') > 2
    assert value(text, 'database_seconds_count{operation="write"}') > 0


async def test_the_age_of_a_key_set_is_told_and_without_a_usable_one_the_gateway_is_not_ready(
    tmp_path: Path, homeserver: FakeHomeserver, unused_tcp_port: int
) -> None:
    later = 0.0
    admin = f"127.0.0.1:{unused_tcp_port}"

    def now() -> float:
        return time.time() + later

    async with running_issuer() as issuer:
        issuer.hold = asyncio.Event()
        keys = {"format": "JWKS", "algorithm": "ES256", "jwks_url": issuer.jwks_url, "secret": []}
        jwt = {"issuer": issuer.url, **keys}
        async with running_gateway(tmp_path, homeserver.url, now, server={"admin_listen": admin}, jwt=jwt):
            assert "key_set_age_seconds{" not in await metrics(unused_tcp_port)
            assert await ready(admin) == (503, f"{issuer.url}: not fetched yet")
            issuer.hold.set()
            async with asyncio.timeout(5):
                while await ready(admin) != (200, "ok"):
                    await asyncio.sleep(0.02)
            assert 0 <= value(await metrics(unused_tcp_port), f'key_set_age_seconds{{issuer="{issuer.url}"}}') < 60
            later = 8 * 86400
            assert (await ready(admin))[0] == 503


async def ready(admin: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as client, client.get(f"http://{admin}/health/ready") as response:
        return response.status, (await response.json())["key_sets"]


async def test_the_access_log_tells_of_relayed_requests_and_of_the_gateways_own_answers(
    gateway: RunningGateway,
) -> None:
    await gateway.call("GET", f"{VERSIONS}?access_token=s3cret", X_Forwarded_For="203.0.113.7", X_Request_Id="edge-1")
    await gateway.log_in(mint())
    await gateway.call("TRACE", "/")
    one, login, refused = await lines(gateway, 3)

    assert one["request_id"] == "edge-1"
    assert (one["route"], one["method"], one["path"], one["status"]) == ("relay", "GET", VERSIONS, "200")
    assert (one["peer"], one["address"]) == ("127.0.0.1", "203.0.113.7")
    assert (login["route"], login["status"]) == ("login", "200")
    assert int(login["received"]) > 100
    assert int(login["sent"]) > 50
    assert (refused["method"], refused["status"]) == ("TRACE", "405")
    assert f"request_id={login['request_id']}" in re.search(r"\] login .*", gateway.log)[0]  # type: ignore[index]
    assert "s3cret" not in gateway.log


async def test_what_clients_say_of_themselves_is_not_kept(tmp_path: Path, unused_tcp_port: int) -> None:
    """New values of `X-Forwarded-For`, as long as they may be, in one field and in several."""

    async def ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    async def ask(client: RawClient, numbers: range) -> None:
        for number in numbers:
            values = [b"%d %b, 203.0.113.7" % (number, b"a" * 12_000)] * (1 + number % 2)
            fields = b"".join(b"X-Forwarded-For: %b\r\n" % value for value in values)
            await client.send(b"GET /x HTTP/1.1\r\nHost: x\r\n" + fields + b"\r\n")
            assert (await client.answer()).startswith(b"HTTP/1.1 200 ")

    async with RawServer(ok).running() as upstream, observed(tmp_path, upstream.url, unused_tcp_port) as gateway:
        async with connected(gateway.port) as client:
            await ask(client, range(20))
            gc.collect()
            tracemalloc.start()
            try:
                await ask(client, range(20, 200))
                gc.collect()
                kept, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert {line["address"] for line in await lines(gateway, 200)} == {"203.0.113.7"}
    assert kept < 500_000


async def test_an_answer_that_breaks_off_is_the_homeservers_fault(tmp_path: Path, unused_tcp_port: int) -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await writer.drain()
        writer.close()

    async with RawServer(half).running() as upstream:
        async with observed(tmp_path, upstream.url, unused_tcp_port) as gateway:
            async with connected(gateway.port) as client:
                await client.send(b"GET /_matrix/x HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await client.rest()).endswith(b"half")
            assert (await lines(gateway, 1))[0]["status"] == "502"
            assert await requests(unused_tcp_port) == {("GET", "5xx", "own"): 1}


async def test_without_a_listener_for_them_and_without_an_access_log_nothing_is_kept(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    async with running_gateway(tmp_path, homeserver.url) as gateway:
        await gateway.call("GET", VERSIONS)
        assert "] request " not in gateway.log
        assert gateway.running.live().client_connections <= 1
