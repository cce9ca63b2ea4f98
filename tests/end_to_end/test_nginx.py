"""The real nginx before the gateway, and the real nginx in the homeserver's place."""

import asyncio
import gzip
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.config.running_edge import free_port, process, program
from tests.raw_http import RawServer, Script, connected, exchange
from tests.running_gateway import RunningGateway, running_gateway

SOON = 10
FILE = random.Random(2).randbytes(300_000)
BIG = 64 * 2**20
HOST = b"Host: example.org\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

HOMESERVER = """
gzip on; gzip_min_length 1; gzip_types *; client_max_body_size 1m;
log_format one "$connection $connection_requests $request_method $request_uri $status $request_length";
access_log {folder}/access one;
server {{
    listen 127.0.0.1:{port};
    root {folder}/files;
    location = /chunked {{ ssi on; ssi_types *; try_files /page =404; }}
    location /upload {{ dav_methods PUT; }}
}}
"""
EDGE = """
access_log off;
upstream gateway {{ server 127.0.0.1:{gateway}; keepalive 4; }}
server {{
    listen 127.0.0.1:{port};
    client_max_body_size 0;
    location / {{
        proxy_pass http://gateway;
        proxy_http_version 1.1;
        proxy_buffering off; proxy_request_buffering off;
        proxy_set_header Connection "";
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For 203.0.113.9;
        proxy_set_header X-Forwarded-Proto https;
        proxy_set_header X-Forwarded-Host $http_host;
    }}
}}
"""


@asynccontextmanager
async def nginx(
    folder: Path, configuration: str, **values: object
) -> AsyncIterator[tuple[int, asyncio.subprocess.Process]]:
    """Run nginx as one process of the test's own user; yields its port."""
    port = free_port()
    temporary = "".join(
        f"{n}_temp_path {folder}/{n};\n" for n in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr; events {{}}\n"
        f"http {{\n{temporary}{configuration.format(folder=folder, port=port, **values)}}}\n"
    )
    command = [program("nginx"), "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    async with process(command, port, folder / "log") as running:
        yield port, running


@dataclass(frozen=True)
class Site:
    """The gateway before nginx, which serves `FILE` as /file."""

    gateway: RunningGateway
    port: int
    nginx: asyncio.subprocess.Process
    folder: Path

    @property
    def requests(self) -> list[list[str]]:
        """The log: connection, number of the request on it, method, target, status, length of the request."""
        return [line.split() for line in (self.folder / "access").read_text().splitlines()]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    folder = tmp_path / "nginx"
    (folder / "files" / "upload").mkdir(parents=True)
    (folder / "files" / "file").write_bytes(FILE)
    (folder / "files" / "page").write_bytes(b"<!--# echo var='request_uri' -->" + b"text " * 1000)
    with (folder / "files" / "big").open("wb") as big:
        big.truncate(BIG)
    async with asyncio.timeout(SOON), nginx(folder, HOMESERVER) as (port, running):
        async with running_gateway(tmp_path, f"http://127.0.0.1:{port}") as gateway:
            yield Site(gateway, port, running, folder)


def request(target: str, *fields: str, method: str = "GET") -> bytes:
    return "\r\n".join(
        [f"{method} {target} HTTP/1.1", "Host: example.org", *fields, "Connection: close", "", ""]
    ).encode()


def without_date(answer: bytes) -> list[bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    # The order of fields that frame and end the connection is the hop's own.
    lines = sorted(line for line in head.split(b"\r\n") if not line.startswith(b"Date: "))
    return [*lines, body.replace(b"\r\n", b"") if b"Transfer-Encoding: chunked" in lines else body]


ASKED = {
    "a file": request("/file"),
    "HEAD": request("/file", method="HEAD"),
    "a part": request("/file", "Range: bytes=100-199"),
    "the end": request("/file", "Range: bytes=-5"),
    "two parts": request("/file", "Range: bytes=0-0,5-5"),
    "no such part": request("/file", "Range: bytes=999999-"),
    "an old copy": request("/file", "If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT"),
    "another copy": request("/file", 'If-None-Match: "other"'),
    "nothing there": request("/none"),
    "a query": request("/file?a=%2F&b"),
    "a method that is refused": request("/file", "Content-Length: 0", method="POST"),
    "a directory": request("/upload"),
}


@pytest.mark.parametrize("case", ASKED)
async def test_an_answer_of_nginx_is_the_same_as_without_the_gateway(case: str, site: Site) -> None:
    direct = await exchange(site.port, ASKED[case])
    through = await exchange(site.gateway.port, ASKED[case])
    if case == "two parts":  # the boundary counts up
        assert (len(through), through[:30]) == (len(direct), direct[:30])
        return
    assert without_date(through) == without_date(direct)


async def test_a_copy_that_is_still_good_is_a_304(site: Site) -> None:
    head = (await exchange(site.gateway.port, request("/file", method="HEAD"))).decode()
    etag = next(line.removeprefix("ETag: ") for line in head.split("\r\n") if line.startswith("ETag: "))
    async with connected(site.gateway.port) as client:
        for _ in range(2):
            await client.send(request("/file", f"If-None-Match: {etag}").replace(b"Connection: close\r\n", b""))
            answer = await client.head()
            assert answer.startswith(b"HTTP/1.1 304 Not Modified\r\n")
            assert f"ETag: {etag}".encode() in answer


async def test_what_is_packed_stays_packed_and_chunked(site: Site) -> None:
    async with connected(site.gateway.port) as client:
        await client.send(request("/page", "Accept-Encoding: gzip"))
        head, _, body = (await client.answer()).partition(b"\r\n\r\n")
    assert b"Content-Encoding: gzip" in head
    assert b"Transfer-Encoding: chunked" in head
    packed, rest = b"", body
    while (size := int(rest.partition(b"\r\n")[0], 16)) > 0:
        rest = rest.partition(b"\r\n")[2]
        packed, rest = packed + rest[:size], rest[size + 2 :]
    assert gzip.decompress(packed) == (site.folder / "files" / "page").read_bytes()


async def test_a_page_without_length_stays_chunked(site: Site) -> None:
    async with connected(site.gateway.port) as client:
        await client.send(request("/chunked?a%2Fb"))
        answer = await client.answer()
    assert b"\r\nTransfer-Encoding: chunked\r\n" in answer
    assert b"text text" in answer


async def test_connections_to_nginx_are_used_again(site: Site) -> None:
    for number in range(5):
        await exchange(site.gateway.port, request(f"/file?{number}"))
    seen = [line for line in site.requests if line[3].startswith("/file?")]
    assert len({line[0] for line in seen}) == 1
    assert [int(line[1]) for line in seen] == list(range(int(seen[0][1]), int(seen[0][1]) + 5))


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
async def test_an_upload_arrives_whole(site: Site, *, chunked: bool) -> None:
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(FILE)}"
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(FILE), FILE) if chunked else FILE
    answer = await exchange(site.gateway.port, request("/upload/new", framing, method="PUT") + body)
    assert answer.startswith(b"HTTP/1.1 201 Created\r\n")
    assert (site.folder / "files" / "upload" / "new").read_bytes() == FILE


async def test_an_upload_that_nginx_refuses_is_a_413_of_nginx(site: Site) -> None:
    async with connected(site.gateway.port) as client:
        await client.send(request("/upload/big", "Content-Length: 2000000", method="PUT") + b"a" * 100_000)
        assert (await client.answer()).startswith(b"HTTP/1.1 413 Request Entity Too Large\r\n")
    assert (await exchange(site.gateway.port, request("/file"))).endswith(FILE)


async def test_an_answer_breaks_off_with_nginx(site: Site) -> None:
    async with connected(site.gateway.port) as client:
        await client.send(request("/big"))
        assert b"\r\nContent-Length: %d\r\n" % BIG in await client.head()
        await client.reader.readexactly(2**20)
        site.nginx.kill()
        left = BIG - 2**20
        while octets := await client.reader.read(2**20):
            left -= len(octets)
        assert left > 0
    assert "the homeserver broke off" in site.gateway.log
    assert (await exchange(site.gateway.port, request("/file"))).startswith(b"HTTP/1.1 502 ")


@asynccontextmanager
async def behind_nginx(tmp_path: Path, handler: Script) -> AsyncIterator[tuple[int, RawServer]]:
    folder = tmp_path / "edge"
    folder.mkdir()
    async with asyncio.timeout(SOON), RawServer(handler).running() as upstream:
        async with running_gateway(tmp_path, upstream.url) as gateway:
            async with nginx(folder, EDGE, gateway=gateway.port) as (port, _):
                yield port, upstream


async def test_behind_nginx_targets_and_the_clients_address_arrive_as_nginx_says(tmp_path: Path) -> None:
    script = Script(OK)
    targets = ["/_matrix/a%2Fb%21c%3Ad%23e", "/_matrix/x?a=%2F&a=&b", "/_matrix//x/../y"]
    async with behind_nginx(tmp_path, script) as (port, upstream):
        for target in targets:
            assert (await exchange(port, request(target, "X-Forwarded-For: 6.6.6.6"))).endswith(b"\r\n\r\n{}")
        assert upstream.connections == 1
    for target, seen in zip(targets, script.requests, strict=True):
        assert seen.startswith(f"GET {target} HTTP/1.1\r\n".encode())
        assert b"\r\nX-Forwarded-For: 203.0.113.9\r\n" in seen
        assert b"\r\nX-Forwarded-Proto: https\r\n" in seen
        assert b"\r\nX-Forwarded-Host: example.org\r\n" in seen
        assert seen.lower().count(b"x-forwarded-for") == 1


async def test_behind_nginx_a_body_of_either_framing_arrives(tmp_path: Path) -> None:
    script = Script(OK)
    async with behind_nginx(tmp_path, script) as (port, upstream):
        length = request("/up", f"Content-Length: {len(FILE)}", method="POST") + FILE
        chunks = request("/up", "Transfer-Encoding: chunked", method="POST") + b"%x\r\n%b\r\n0\r\n\r\n" % (
            len(FILE),
            FILE,
        )
        for sent in (length, chunks, length):
            assert (await exchange(port, sent)).endswith(b"\r\n\r\n{}")
        assert upstream.connections == 1
    assert script.requests[0].endswith(b"\r\n\r\n" + FILE)
    assert script.requests[2].endswith(b"\r\n\r\n" + FILE)
    assert b"Transfer-Encoding: chunked" in script.requests[1]


async def test_behind_nginx_an_answer_that_breaks_off_is_not_whole(tmp_path: Path) -> None:
    async def breaks_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        await writer.drain()

    async with behind_nginx(tmp_path, breaks_off) as (port, _):  # type: ignore[arg-type]
        answer = await exchange(port, request("/x"))
    assert not answer.endswith(b"0\r\n\r\n")
