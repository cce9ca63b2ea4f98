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

from tests.raw_http import ask, comparable
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


async def test_a_browsers_preflight_is_answered_by_synapse(gateway: RunningGateway) -> None:
    fields = (
        "Origin: https://app.example.org",
        "Access-Control-Request-Method: PUT",
        "Access-Control-Request-Headers: authorization",
    )
    lines, _ = await ask(gateway.port, "OPTIONS /_matrix/client/v3/account/whoami", *fields)
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
        direct, direct_body = await ask(int(synapse.url.rpartition(":")[2]), start, *fields)
        through, through_body = await ask(gateway.port, start, *fields)
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
