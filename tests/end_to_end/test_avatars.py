"""What the avatar claim names becomes the user's avatar on a real Synapse."""

import asyncio
from pathlib import Path
from urllib.parse import quote

import aiohttp

from tests.authority import Authority
from tests.pictures import answer, png, serving
from tests.raw_http import Script
from tests.real_synapse import RealSynapse
from tests.running_gateway import mint, running_gateway

JWT = {"avatar_claim": "picture", "display_name_claim": "name"}


async def avatar(synapse: RealSynapse, localpart: str) -> str:
    """The user's avatar, once there is one."""
    target = f"/_matrix/client/v3/profile/{quote(synapse.user_id(localpart), safe='')}"
    async with asyncio.timeout(10):
        while True:
            if found := (await synapse.call("GET", target)).body.get("avatar_url"):
                return str(found)
            await asyncio.sleep(0.02)


async def test_an_image_becomes_the_avatar_and_can_be_downloaded(
    tmp_path: Path, synapse: RealSynapse, localpart: str, authority: Authority
) -> None:
    async with serving(authority, Script(answer(png(), "Content-Type: text/html"))) as server:
        profile = {"avatar_hosts": [f"127.0.0.1:{server.port}"], "avatar": "every_login"}
        async with running_gateway(tmp_path, synapse.url, jwt=JWT, profile=profile) as gateway:
            login = await gateway.log_in(mint(localpart, name="Alice", picture=f"{server.url}/alice.png"))
            mxc = await avatar(synapse, localpart)
            assert mxc.startswith("mxc://example.org/")
            url = f"{gateway.url}/_matrix/client/v1/media/download/{mxc.removeprefix('mxc://')}"
            bearer = {"Authorization": f"Bearer {login.body['access_token']}"}
            async with aiohttp.ClientSession() as client, client.get(url, headers=bearer) as downloaded:
                assert (downloaded.status, downloaded.content_type) == (200, "image/png")
                assert await downloaded.read() == png()
            await gateway.log_in(mint(localpart, picture=f"{server.url}/alice.png"))
        assert server.connections == 1
    assert await avatar(synapse, localpart) == mxc
    assert "profile_not_set" not in gateway.log


async def test_an_mxc_address_becomes_the_avatar_as_it_is(
    tmp_path: Path, synapse: RealSynapse, localpart: str
) -> None:
    async with running_gateway(tmp_path, synapse.url, jwt=JWT) as gateway:
        await gateway.log_in(mint(localpart, picture="mxc://example.net/abc"))
        assert await avatar(synapse, localpart) == "mxc://example.net/abc"
