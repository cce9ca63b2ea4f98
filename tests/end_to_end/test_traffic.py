"""What passes through to a real Synapse, beside the same asked of it directly."""

import asyncio
import hashlib
import io
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nio
import pytest

from tests.raw_http import connected
from tests.real_synapse import RealSynapse
from tests.running_gateway import RunningGateway, mint, running_gateway

MEDIA = secrets.token_bytes(6 * 2**20 + 1)
SOON = 30


@pytest.fixture
async def gateway(tmp_path: Path, synapse: RealSynapse) -> AsyncIterator[RunningGateway]:
    async with running_gateway(tmp_path, synapse.url) as running:
        yield running


@asynccontextmanager
async def logged_in(gateway: RunningGateway, localpart: str) -> AsyncIterator[nio.AsyncClient]:
    client = nio.AsyncClient(gateway.url)
    try:
        login = await client.login_raw({"type": "org.matrix.login.jwt", "token": mint(localpart)})
        assert isinstance(login, nio.LoginResponse)
        yield client
    finally:
        await client.close()


async def raw(port: int, start: str, *fields: str, body: bytes = b"") -> tuple[list[bytes], bytes]:
    """Ask, and return status line and fields in their order, and the body as it came."""
    head = [f"{start} HTTP/1.1", "Host: example.org", *fields, "", ""]
    async with asyncio.timeout(SOON), connected(port) as client:
        await client.send("\r\n".join(head).encode() + body)
        if start.startswith("HEAD "):
            return (await client.head()).split(b"\r\n"), b""
        answer, _, content = (await client.answer()).partition(b"\r\n\r\n")
    return answer.split(b"\r\n"), content


def comparable(lines: list[bytes]) -> list[bytes]:
    """Leave out what differs from one answer to the next, and the order of what frames the answer on each hop."""
    hop = (b"Date: ", b"Connection: ", b"Transfer-Encoding: ", b"Server-Timing: ")
    return [line for line in lines if not line.startswith(hop)]


ROOM = "%21nowhere%3Aexample.org"
STARTS = [
    "GET /_matrix/client/versions",
    "HEAD /_matrix/client/versions",
    "GET /_matrix/client/v3/account/whoami",
    f"GET /_matrix/client/v3/rooms/{ROOM}/state/m.room.name/a%2Fb",
    f"PUT /_matrix/client/v3/rooms/{ROOM}/send/m.room.message/a%2Fb%23c",
    "GET /_matrix/client/v3/directory/room/%23nothing%3Aexample.org",
    "GET /_matrix/client/v3/directory/room/%23a%2Fb%21c%3Aexample.org?x=%2F&x=&y",
    "GET /_matrix/client/v3/profile/%40nobody%3Aexample.org",
    "GET /_matrix/client/v3/profile/@nobody:example.org/displayname",
    "GET /_matrix/federation/v1/version",
    f"GET /_matrix/federation/v1/state/{ROOM}?event_id=%24a%2Fb",
    f"PUT /_matrix/federation/v2/send_join/{ROOM}/%24event%2Fid%3Aexample.org",
    "GET /_matrix/federation/v1/query/directory?room_alias=%23a%3Aexample.org",
    "GET /_matrix/key/v2/server",
    "GET /_matrix/key/v2/server/ed25519%3Aa_b",
    "GET /_matrix//client/versions",
    "GET /_matrix/client/../client/versions",
    "GET /_matrix/client/versions/",
    "GET /%5Fmatrix/client/versions",
    "GET /nothing%2Fhere",
    "OPTIONS /_matrix/client/v3/sync",
    f"OPTIONS /_matrix/client/v3/rooms/{ROOM}/send/m.room.message/a%2Fb",
    "OPTIONS /_matrix/media/v3/upload",
    "DELETE /_matrix/client/v3/sync",
]


@pytest.mark.parametrize("start", STARTS)
async def test_synapse_answers_through_the_gateway_as_it_does_directly(
    start: str, gateway: RunningGateway, synapse: RealSynapse
) -> None:
    fields = ["Origin: https://app.example.org", "Authorization: Bearer none"]
    body = b""
    if start.startswith("PUT "):
        fields, body = [*fields, "Content-Length: 2"], b"{}"
    direct, direct_body = await raw(int(synapse.url.rpartition(":")[2]), start, *fields, body=body)
    through, through_body = await raw(gateway.port, start, *fields, body=body)
    assert comparable(through) == comparable(direct)
    if b'"signatures"' not in direct_body:  # these hold the time
        assert through_body == direct_body


async def test_a_browsers_preflight_is_answered_by_synapse(gateway: RunningGateway) -> None:
    fields = (
        "Origin: https://app.example.org",
        "Access-Control-Request-Method: PUT",
        "Access-Control-Request-Headers: authorization",
    )
    lines, _ = await raw(gateway.port, "OPTIONS /_matrix/client/v3/account/whoami", *fields)
    assert lines[0] in {b"HTTP/1.1 204 No Content", b"HTTP/1.1 200 OK"}
    names = [line.partition(b":")[0].lower() for line in lines]
    for name in (b"origin", b"methods", b"headers"):
        assert names.count(b"access-control-allow-" + name) == 1


async def test_media_of_several_mebibytes_come_back_as_they_were(
    gateway: RunningGateway, synapse: RealSynapse, localpart: str
) -> None:
    async with logged_in(gateway, localpart) as client:
        token = f"Authorization: Bearer {client.access_token}"
        uploaded, _ = await client.upload(io.BytesIO(MEDIA), content_type="image/png", filesize=len(MEDIA))
        assert isinstance(uploaded, nio.UploadResponse)
        path = uploaded.content_uri.removeprefix("mxc://")
        downloaded = await client.download(uploaded.content_uri)
        assert hashlib.sha256(downloaded.body).digest() == hashlib.sha256(MEDIA).digest()
    for fields in ((token,), (token, "Range: bytes=5-99999"), (token, "Accept-Encoding: gzip")):
        start = f"GET /_matrix/client/v1/media/download/{path}"
        direct, direct_body = await raw(int(synapse.url.rpartition(":")[2]), start, *fields)
        through, through_body = await raw(gateway.port, start, *fields)
        assert comparable(through) == comparable(direct)
        assert hashlib.sha256(through_body).digest() == hashlib.sha256(direct_body).digest()


async def test_a_hanging_sync_is_answered_by_a_message_that_is_sent_meanwhile(
    gateway: RunningGateway, localpart: str
) -> None:
    async with (
        asyncio.timeout(SOON),
        logged_in(gateway, localpart) as reader,
        logged_in(gateway, localpart) as writer,
    ):
        room = await writer.room_create(name="A room")
        assert isinstance(room, nio.RoomCreateResponse)
        first = await reader.sync(timeout=0)
        assert isinstance(first, nio.SyncResponse)
        hanging = asyncio.create_task(reader.sync(timeout=30_000, since=first.next_batch))
        _, waits = await asyncio.wait([hanging], timeout=1)
        assert waits
        await writer.room_send(room.room_id, "m.room.message", {"msgtype": "m.text", "body": "Wake up"})
        woken = await hanging
        assert isinstance(woken, nio.SyncResponse)
        events = woken.rooms.join[room.room_id].timeline.events
        assert [event.body for event in events if isinstance(event, nio.RoomMessageText)] == ["Wake up"]
