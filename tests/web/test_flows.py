"""`GET /login`: our flow is appended, and nothing else changes."""

import asyncio
import gzip
import json
from pathlib import Path

import pytest

from tests.fake_homeserver import FakeHomeserver
from tests.raw_http import RawServer, Script, exchange
from tests.running_gateway import LOGIN, RunningGateway, running_gateway

OURS = {"type": "org.matrix.login.jwt"}
REQUEST = f"GET {LOGIN} HTTP/1.1\r\nHost: example.org\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n".encode()


def answer(body: bytes, *fields: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", *fields, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


async def through_the_gateway(tmp_path: Path, upstream_answer: bytes) -> tuple[bytes, bytes]:
    """Return the head and the body that a client gets."""
    script = Script(upstream_answer)
    async with RawServer(script).running() as upstream, running_gateway(tmp_path, upstream.url) as gateway:
        whole = await exchange(gateway.port, REQUEST)
    head, _, body = whole.partition(b"\r\n\r\n")
    assert b"Accept-Encoding" not in script.requests[0]
    return head, body


async def test_the_flow_is_appended_to_what_the_homeserver_offers(
    gateway: RunningGateway, homeserver: FakeHomeserver
) -> None:
    offered = await gateway.call("GET", LOGIN)
    assert offered.body == {
        "flows": [{"type": "m.login.password"}, {"type": "m.login.application_service"}, OURS],
    }
    assert homeserver.to("/login")[0].values("host") == [f"127.0.0.1:{gateway.port}".encode()]


async def test_other_members_their_order_and_all_fields_stay(tmp_path: Path) -> None:
    body = (
        b'{"z": 1.50, "flows": [{"type": "m.login.sso", "identity_providers": [{"id": "\xc3\xa4"}]}, 7], "a": null}'
    )
    fields = ("Server: S", "content-TYPE: application/json; charset=utf-8", 'ETag: "1"', "X-A: 1", "X-A: 2")
    head, changed = await through_the_gateway(tmp_path, answer(body, *fields))
    members = json.loads(changed)
    assert list(members) == ["z", "flows", "a"]
    assert members["flows"] == [*json.loads(body)["flows"], OURS]
    assert head.split(b"\r\n")[1:] == [
        b"Server: S",
        b"content-TYPE: application/json; charset=utf-8",
        b"X-A: 1",
        b"X-A: 2",
        b"Content-Length: %d" % len(changed),
        b"Connection: close",
    ]


async def test_a_chunked_answer_gets_a_length(tmp_path: Path) -> None:
    upstream = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        b'5\r\n{"flo\r\n9\r\nws": []} \r\n0\r\n\r\n'
    )
    head, body = await through_the_gateway(tmp_path, upstream)
    assert json.loads(body) == {"flows": [OURS]}
    assert b"Content-Length: %d" % len(body) in head
    assert b"chunked" not in head


JSON = "Content-Type: application/json"
AS_IT_CAME = {
    "the flow is there": answer(b'{ "flows":[{"type":"org.matrix.login.jwt"}]}', JSON, 'ETag: "1"'),
    "gzip": answer(gzip.compress(b'{"flows": []}'), JSON, "Content-Encoding: gzip", 'ETag: "1"'),
    "not JSON": answer(b"<html>", "Content-Type: text/html"),
    "JSON by another name": answer(b'{"flows": []}', "Content-Type: text/plain"),
    "broken JSON": answer(b'{"flows": [', JSON, 'ETag: "1"'),
    "no flows": answer(b'{"flows": {}}', JSON),
    "an array": answer(b"[]", JSON),
    "not found": answer(b'{"errcode": "M_UNRECOGNIZED"}', JSON, status="404 Not Found"),
    "not modified": b'HTTP/1.1 304 Not Modified\r\nETag: "1"',
    "a failure": answer(b'{"flows": []}', JSON, status="500 Oh"),
    "a redirect": answer(b'{"flows": []}', JSON, "Location: /x", status="302 Found"),
    "huge": answer(b'{"flows": [], "pad": "' + b"x" * 2**20 + b'"}', JSON, 'ETag: "1"'),
}


@pytest.mark.parametrize("case", AS_IT_CAME)
async def test_any_other_answer_goes_to_the_client_as_it_came(case: str, tmp_path: Path) -> None:
    upstream = AS_IT_CAME[case] if b"\r\n\r\n" in AS_IT_CAME[case] else AS_IT_CAME[case] + b"\r\n\r\n"
    head, body = await through_the_gateway(tmp_path, upstream)
    assert head == upstream.partition(b"\r\n\r\n")[0] + b"\r\nConnection: close"
    assert body == upstream.partition(b"\r\n\r\n")[2]


async def test_an_answer_that_breaks_off_while_it_is_read_is_a_502(tmp_path: Path) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(b'{"flows": []}', JSON)[:-3])

    async with RawServer(handler).running() as upstream, running_gateway(tmp_path, upstream.url) as gateway:
        assert (await exchange(gateway.port, REQUEST)).startswith(b"HTTP/1.1 502 ")
