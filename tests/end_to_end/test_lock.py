"""`users lock` beside a real Synapse: its sessions end, whoever opened them."""

import asyncio
from pathlib import Path

from tests.cli.commands import run
from tests.real_synapse import RealSynapse
from tests.running_gateway import RunningGateway, mint, running_gateway


async def command(gateway: RunningGateway, name: str, user_id: str) -> tuple[int, str]:
    result = await asyncio.to_thread(run, "users", name, user_id, "-c", str(gateway.configuration.path))
    return result.returncode, result.stderr


async def test_lock_ends_every_session_and_unlock_lets_in_again(
    synapse: RealSynapse, tmp_path: Path, localpart: str
) -> None:
    user_id = synapse.user_id(localpart)
    async with running_gateway(tmp_path, synapse.url) as gateway:
        sessions = [
            (await gateway.log_in(mint(localpart), device_id="PHONE")).body["access_token"],
            (await gateway.log_in(mint(localpart), device_id="a/b c", refresh_token=True)).body["access_token"],
            (await synapse.log_in(localpart)).body["access_token"],
        ]
        other = (await gateway.log_in(mint(f"{localpart}-2"))).body["access_token"]

        assert await command(gateway, "lock", user_id) == (0, "")

        for token in sessions:
            assert (await synapse.whoami(token)).outcome == (401, "M_UNKNOWN_TOKEN")
        assert (await synapse.whoami(other)).status == 200
        assert (await gateway.log_in(mint(localpart))).body["errcode"] == "M_USER_LOCKED"
        assert await command(gateway, "unlock", user_id) == (0, "")
        token = (await gateway.log_in(mint(localpart))).body["access_token"]
        assert await command(gateway, "logout", user_id) == (0, "")
        assert (await synapse.whoami(token)).outcome == (401, "M_UNKNOWN_TOKEN")


async def test_the_sessions_of_a_user_whom_synapse_has_locked_end_too(
    synapse: RealSynapse, tmp_path: Path, localpart: str
) -> None:
    user_id = synapse.user_id(localpart)
    async with running_gateway(tmp_path, synapse.url) as gateway:
        token = (await gateway.log_in(mint(localpart))).body["access_token"]
        await synapse.lock(user_id)

        assert await command(gateway, "lock", user_id) == (0, "")

        await synapse.lock(user_id, locked=False)
        assert (await synapse.whoami(token)).outcome == (401, "M_UNKNOWN_TOKEN")
