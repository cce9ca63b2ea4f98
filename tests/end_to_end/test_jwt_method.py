"""Sessions by a real Synapse's own JWT login: what the scenarios of every homeserver don't look at."""

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.end_to_end.conftest import RealSynapse
from tests.end_to_end.targets import NOBODYS, Real
from tests.end_to_end.test_doctor import diagnosed, failing
from tests.running_gateway import mint, running_gateway


async def shown_name(synapse: RealSynapse, localpart: str) -> str | None:
    target = f"/_matrix/client/v3/profile/{quote(synapse.user_id(localpart), safe='')}"
    name: str | None = (await synapse.call("GET", target)).body.get("displayname")
    return name


async def test_the_first_login_brings_the_name_along(
    jwt_synapse: RealSynapse, tmp_path: Path, localpart: str
) -> None:
    tables: dict[str, Any] = {
        "session": Real(jwt_synapse, jwt=True).session,
        "jwt": {"display_name_claim": "name"},
    }
    async with running_gateway(tmp_path, jwt_synapse.url, **tables) as gateway:
        for name in ("Alice Ä", "Another"):
            await gateway.log_in(mint(localpart, name=name))
            assert await shown_name(jwt_synapse, localpart) == "Alice Ä"


@pytest.mark.parametrize("as_token", [False, True])
async def test_a_user_who_cleared_the_name_goes_on_logging_in_without_register_user(
    jwt_synapse: RealSynapse, tmp_path: Path, localpart: str, *, as_token: bool
) -> None:
    session = {**Real(jwt_synapse, jwt=True).session, "as_token": jwt_synapse.as_token if as_token else None}
    await jwt_synapse.register(localpart)
    tables: dict[str, Any] = {"session": session, "jwt": {"register_user": False}}
    async with running_gateway(tmp_path, jwt_synapse.url, **tables) as gateway:
        token = (await gateway.log_in(mint(localpart))).body["access_token"]
        target = f"/_matrix/client/v3/profile/{quote(jwt_synapse.user_id(localpart), safe='')}/displayname"
        assert (await jwt_synapse.call("PUT", target, token, {"displayname": ""})).status == 200
        assert (await gateway.log_in(mint(localpart))).status == 200


async def test_the_doctor_sees_whether_synapse_takes_our_tokens_and_makes_nobody(
    jwt_synapse: RealSynapse, tmp_path: Path
) -> None:
    users = "/_synapse/admin/v2/users?guests=true&deactivated=true"
    before = (await jwt_synapse.call("GET", users, jwt_synapse.admin_token)).body["total"]
    session = Real(jwt_synapse, jwt=True).session
    for name, changes in (("good", {}), ("secret", {"jwt_secret": NOBODYS}), ("issuer", {"jwt_issuer": "x"})):
        directory = tmp_path / name
        directory.mkdir()
        status, found = await asyncio.to_thread(
            diagnosed, directory, jwt_synapse.url, session={**session, **changes, "as_token": "a5" * 32}
        )
        assert failing(found) == (["session method"] if changes else [])
        assert status == bool(changes)
    assert (await jwt_synapse.call("GET", users, jwt_synapse.admin_token)).body["total"] == before


async def test_the_doctor_says_where_synapse_has_no_such_login(synapse: RealSynapse, tmp_path: Path) -> None:
    session = {"method": "jwt", "jwt_secret": NOBODYS, "as_token": "a5" * 32}
    _, found = await asyncio.to_thread(diagnosed, tmp_path, synapse.url, session=session)

    assert failing(found) == ["session method"]
    assert "org.matrix.login.jwt is not among the logins" in found["session method"]["says"]
