"""Everything but JWT logins: answered through the gateway as by the homeserver itself, octet for octet."""

import json
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway.core.homeserver_kinds import kind_named
from gateway.core.routing import means_login
from tests.conformance.conftest import before
from tests.conformance.targets import BehindMas, Fake, Target
from tests.fake_server import Seen
from tests.raw_http import ask, comparable, content
from tests.running_gateway import LOGIN, RunningGateway, mint

pytestmark = pytest.mark.timeout(900)

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
    "HEAD /_matrix/client/v3/login",
    "OPTIONS /_matrix/client/v3/login",
    "GET /_matrix/client/v3/login/",
    "GET /_matrix/client/v3/log%69n",
    "GET /_matrix/media/v3/download/example.org/none%2Fhere",
]
LOGINS = [
    b'{"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "nobody"}, "password": "none"}',
    b'{"type": "m.login.nothing"}',
    b'{"type": ',
    b"{}",
]
MEDIA = secrets.token_bytes(2**19 + 1)


async def compared(
    target: Target, gateway: RunningGateway, start: str, *fields: str, body: bytes = b""
) -> tuple[list[bytes], bytes]:
    """Ask homeserver and gateway the same, and return the answer if it is one."""
    port = urlsplit(target.url).port
    assert port is not None
    framing = [f"Content-Length: {len(body)}"] if body else []
    direct, direct_body = await ask(port, start, *fields, *framing, body=body)
    through, through_body = await ask(gateway.port, start, *fields, *framing, body=body)
    assert comparable(through) == comparable(direct), start
    if isinstance(target, Fake | BehindMas):
        one, other = [each for each in target.homeserver.seen if f"{each.method} {each.target}" == start][-2:]
        assert (one.body, arrived(one)) == (other.body, arrived(other)), start
    came = content(through, through_body)
    if b'"signatures"' not in direct_body:  # these hold the time
        assert came == content(direct, direct_body), start
    return through, came


def arrived(seen: Seen) -> list[tuple[bytes, bytes]]:
    """Return the fields of a request but for those that we say for whom it is made by."""
    return [field for field in seen.fields if not field[0].lower().startswith((b"x-forwarded-", b"connection"))]


async def test_every_other_request_is_answered_as_the_homeserver_does(target: Target, tmp_path: Path) -> None:
    fields = ("Origin: https://app.example.org", "Authorization: Bearer none")
    async with before(target, tmp_path) as gateway:
        for start in STARTS:
            if not means_login(start.split()[1], kind_named(target.flavour.name)):
                await compared(target, gateway, start, *fields, body=b"{}" if start.startswith("PUT ") else b"")
        for body in LOGINS:
            await compared(target, gateway, f"POST {LOGIN}", *fields, body=body)


async def test_the_flows_of_the_homeserver_stay_as_they_are_and_ours_comes_behind(
    target: Target, tmp_path: Path
) -> None:
    port = urlsplit(target.url).port
    assert port is not None
    async with before(target, tmp_path) as gateway:
        direct, direct_body = await ask(port, f"GET {LOGIN}", "Origin: https://app.example.org")
        through, through_body = await ask(gateway.port, f"GET {LOGIN}", "Origin: https://app.example.org")
    assert without_length(through) == without_length(direct)
    if not direct[0].startswith(b"HTTP/1.1 200"):
        assert through_body == direct_body
        return
    theirs, ours = said(direct_body), said(through_body)
    listed = {"type": "org.matrix.login.jwt"} in theirs["flows"]
    assert ours == {**theirs, "flows": theirs["flows"] + ([] if listed else [{"type": "org.matrix.login.jwt"}])}


def without_length(lines: list[bytes]) -> list[bytes]:
    return [line for line in comparable(lines) if not line.lower().startswith(b"content-length: ")]


def said(body: bytes) -> dict[str, Any]:
    """Return the JSON of a body, chunked or not."""
    found: dict[str, Any] = json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])
    return found


async def test_media_come_back_as_they_were_sent(target: Target, tmp_path: Path, localpart: str) -> None:
    async with before(target, tmp_path) as gateway:
        token = f"Authorization: Bearer {(await gateway.log_in(mint(localpart))).body['access_token']}"
        length = f"Content-Length: {len(MEDIA)}"
        upload = "POST /_matrix/media/v3/upload?filename=a%2Fb"
        _, answer = await ask(gateway.port, upload, token, length, "Content-Type: image/png", body=MEDIA)
        path = said(answer)["content_uri"].removeprefix("mxc://")
        found = []
        for folder in ("client/v1/media", "media/v3"):
            for fields in ((token,), (token, "Range: bytes=5-99999"), (token, "Accept-Encoding: gzip")):
                start = f"GET /_matrix/{folder}/download/{path}"
                lines, body = await compared(target, gateway, start, *fields)
                found += [body] if lines[0].startswith(b"HTTP/1.1 200") else []
        assert MEDIA in found
