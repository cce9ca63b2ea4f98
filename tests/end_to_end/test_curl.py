"""The real curl through the gateway: what it sends arrives, and it is content with what comes back."""

import asyncio
import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.config.running_edge import program
from tests.raw_http import RawServer, Script, read_message
from tests.running_gateway import running_gateway

SOON = 20
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
BODY = random.Random(3).randbytes(5 * 2**20)


@dataclass(frozen=True)
class Done:
    """What curl had to say."""

    status: int
    body: bytes
    log: str


async def curl(*arguments: str, body: bytes = b"") -> Done:
    """Run curl; its exchange with the gateway is in the log."""
    command = [program("curl"), "--disable", "--silent", "--show-error", "--verbose", "--noproxy", "*", *arguments]
    pipe = asyncio.subprocess.PIPE
    running = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(SOON):
            out, log = await running.communicate(body)
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()
    return Done(running.returncode or 0, out, log.decode("latin-1"))


async def through(tmp_path: Path, script: Script, *arguments: str, body: bytes = b"") -> Done:
    """Ask the gateway before a homeserver; the first argument is the target."""
    async with RawServer(script).running() as upstream, running_gateway(tmp_path, upstream.url) as gateway:
        return await curl(gateway.url + arguments[0], *arguments[1:], body=body)


def fields_of(seen: bytes) -> list[bytes]:
    return seen.partition(b"\r\n\r\n")[0].lower().split(b"\r\n")[1:]


async def test_http_1_0_gets_a_body_that_ends_by_close(tmp_path: Path) -> None:
    script = Script(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    done = await through(tmp_path, script, "/_matrix/x?a=%2F", "--http1.0")
    assert (done.status, done.body) == (0, b"abcde")
    assert script.requests[0].startswith(b"GET /_matrix/x?a=%2F HTTP/1.1\r\n")


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1"])
async def test_an_answer_that_breaks_off_is_an_error_to_curl(version: str, tmp_path: Path) -> None:
    async def breaks_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")

    async with RawServer(breaks_off).running() as upstream, running_gateway(tmp_path, upstream.url) as gateway:
        assert (await curl(gateway.url, version)).status in {18, 52, 56}  # a part, nothing, a failure to receive


async def test_a_chunked_upload_stays_chunked(tmp_path: Path) -> None:
    script = Script(OK)
    done = await through(
        tmp_path, script, "/up", "-H", "Transfer-Encoding: chunked", "-H", "Expect:", "-T", "-", body=BODY
    )
    assert (done.status, done.body) == (0, b"{}")
    head, _, chunks = script.requests[0].partition(b"\r\n\r\n")
    assert b"\r\nTransfer-Encoding: chunked" in head
    assert b"content-length" not in head.lower()
    body = b""
    while (size := int(chunks.partition(b"\r\n")[0], 16)) > 0:
        chunks = chunks.partition(b"\r\n")[2]
        body, chunks = body + chunks[:size], chunks[size + 2 :]
    assert hashlib.sha256(body).digest() == hashlib.sha256(BODY).digest()


async def test_curl_sends_its_body_when_the_homeserver_says_to_go_on(tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def asks_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        seen.append(await reader.readexactly(len(BODY)))
        writer.write(OK)
        await reader.read()

    async with RawServer(asks_first).running() as upstream, running_gateway(tmp_path, upstream.url) as gateway:
        arguments = ("-H", "Expect: 100-continue", "--expect100-timeout", "15", "--data-binary", "@-")
        done = await curl(gateway.url, *arguments, body=BODY)
    assert (done.status, done.body) == (0, b"{}")
    assert "< HTTP/1.1 100 Continue" in done.log
    assert b"expect: 100-continue" in fields_of(seen[0])
    assert seen[1] == BODY


@pytest.mark.parametrize("status", [401, 413])
@pytest.mark.parametrize("expect", ["Expect: 100-continue", "Expect:"])
async def test_an_upload_that_is_refused_early_is_refused_to_curl(status: int, expect: str, tmp_path: Path) -> None:
    answer = b"HTTP/1.1 %d No\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}" % status

    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)  # and closes, with most of the upload unread

    async with RawServer(refuses).running() as upstream, running_gateway(tmp_path, upstream.url) as gateway:
        arguments = ("-H", expect, "--expect100-timeout", "15", "--data-binary", "@-")
        done = await curl(gateway.url, *arguments, "-w", "%{http_code}", body=BODY * 4)
    assert (done.status, done.body) == (0, b"{}%d" % status)


@pytest.mark.parametrize("body", [b"", b"abc"], ids=["without a body", "with a body"])
async def test_an_upgrade_to_http_2_is_declined_and_answered(body: bytes, tmp_path: Path) -> None:
    if "HTTP2" not in (await curl("--version")).body.decode():
        pytest.skip("this curl knows no HTTP/2")
    script = Script(OK)
    arguments = ("--data-binary", "@-") if body else ()
    done = await through(tmp_path, script, "/_matrix/x", "--http2", *arguments, body=body)
    assert (done.status, done.body) == (0, b"{}")
    assert "> Upgrade: h2c" in done.log
    assert script.requests[0].endswith(b"\r\n\r\n" + body)
    assert not [field for field in fields_of(script.requests[0]) if field.startswith((b"upgrade", b"http2-settings"))]


async def test_http_2_without_asking_is_refused_and_reaches_nobody(tmp_path: Path) -> None:
    script = Script(OK)
    done = await through(tmp_path, script, "/", "--http2-prior-knowledge")
    assert done.status != 0
    assert script.requests == []


async def test_head_has_its_length_and_no_body(tmp_path: Path) -> None:
    script = Script(b"HTTP/1.1 200 OK\r\nContent-Length: 123456\r\n\r\n")
    done = await through(tmp_path, script, "/x", "--head")
    assert done.status == 0
    assert b"\r\nContent-Length: 123456\r\n" in done.body


async def test_a_part_is_asked_for_and_comes(tmp_path: Path) -> None:
    script = Script(b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 2-3/9\r\nContent-Length: 2\r\n\r\ncd")
    done = await through(tmp_path, script, "/x", "--range", "2-3", "--include")
    assert done.status == 0
    assert done.body == script.answers[0]
    assert b"range: bytes=2-3" in fields_of(script.requests[0])


async def test_curl_uses_its_connection_again(tmp_path: Path) -> None:
    script = Script(OK)
    async with RawServer(script).running() as upstream, running_gateway(tmp_path, upstream.url) as gateway:
        done = await curl(gateway.url + "/a", gateway.url + "/b", gateway.url + "/c")
        assert upstream.connections == 1
    assert (done.status, done.body) == (0, b"{}{}{}")
    assert done.log.count("Re-using existing connection") == 2
