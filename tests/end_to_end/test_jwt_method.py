"""Sessions by a real Synapse's own JWT login: what the scenarios of every homeserver don't look at."""

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.conformance.targets import NOBODYS
from tests.end_to_end.test_doctor import diagnosed, failing
from tests.raw_http import exchange
from tests.real_synapse import JWT_CONFIG, JWT_SESSION, RealSynapse
from tests.running_gateway import LOGIN, mint, running_gateway


async def shown_name(synapse: RealSynapse, localpart: str) -> str | None:
    target = f"/_matrix/client/v3/profile/{quote(synapse.user_id(localpart), safe='')}"
    name: str | None = (await synapse.call("GET", target)).body.get("displayname")
    return name


async def test_the_first_login_brings_the_name_along(
    jwt_synapse: RealSynapse, tmp_path: Path, localpart: str
) -> None:
    tables: dict[str, Any] = {"session": JWT_SESSION, "jwt": {"display_name_claim": "name"}}
    async with running_gateway(tmp_path, jwt_synapse.url, **tables) as gateway:
        for name in ("Alice Ä", "Another"):
            await gateway.log_in(mint(localpart, name=name))
            assert await shown_name(jwt_synapse, localpart) == "Alice Ä"


@pytest.mark.parametrize("as_token", [False, True])
async def test_a_user_who_cleared_the_name_goes_on_logging_in_without_register_user(
    jwt_synapse: RealSynapse, tmp_path: Path, localpart: str, *, as_token: bool
) -> None:
    session = {**JWT_SESSION, "as_token": jwt_synapse.as_token if as_token else None}
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
    for name, changes in (("good", {}), ("secret", {"jwt_secret": NOBODYS}), ("issuer", {"jwt_issuer": "x"})):
        directory = tmp_path / name
        directory.mkdir()
        status, found = await asyncio.to_thread(
            diagnosed, directory, jwt_synapse.url, session={**JWT_SESSION, **changes, "as_token": "a5" * 32}
        )
        assert failing(found) == (["session method"] if changes else [])
        assert status == bool(changes)
    assert (await jwt_synapse.call("GET", users, jwt_synapse.admin_token)).body["total"] == before


async def test_the_doctor_says_where_synapse_has_no_such_login(synapse: RealSynapse, tmp_path: Path) -> None:
    session = {"method": "jwt", "jwt_secret": NOBODYS, "as_token": "a5" * 32}
    _, found = await asyncio.to_thread(diagnosed, tmp_path, synapse.url, session=session)

    assert failing(found) == ["session method"]
    assert "org.matrix.login.jwt is not among the logins" in found["session method"]["says"]


# Each is a JWT login for Synapse.
DISGUISES: dict[str, tuple[str, list[str]]] = {
    "plain": ('{"type": "org.matrix.login.jwt", "token": "%s"}', []),
    "identity": ('{"type": "org.matrix.login.jwt", "token": "%s"}', ["Content-Encoding: identity"]),
    "a coding that nobody used": ('{"type": "org.matrix.login.jwt", "token": "%s"}', ["Content-Encoding: gzip"]),
    "the type twice": ('{"type": "m.login.password", "type": "org.matrix.login.jwt", "token": "%s"}', []),
    "another member twice": ('{"type": "org.matrix.login.jwt", "token": "%s", "a": 1, "a": 2}', []),
    "nesting": ('{"type": "org.matrix.login.jwt", "token": "%s", "a": ' + "[" * 60 + "]" * 60 + "}", []),
    "a lone surrogate": (r'{"type": "org.matrix.login.jwt", "token": "%s", "a": "\ud800"}', []),
    "a huge number": ('{"type": "org.matrix.login.jwt", "token": "%s", "a": ' + "9" * 500 + "}", []),
    "escapes": (r'{"\u0074ype": "\u006frg.matrix.login.jwt", "token": "%s", "a": 1, "a": 2}', []),
    "padding": ('{"type": "org.matrix.login.jwt", "token": "%s"}' + " " * 65536, []),
}


@pytest.mark.parametrize("disguise", DISGUISES)
async def test_a_denied_user_gets_no_session_by_synapses_own_login(
    disguise: str, jwt_synapse: RealSynapse, tmp_path: Path, localpart: str
) -> None:
    template, fields = DISGUISES[disguise]
    token = mint(localpart, secret=str(JWT_CONFIG["secret"]), iss=JWT_CONFIG["issuer"], aud=JWT_CONFIG["audiences"])
    body = template.replace("%s", token).encode()
    lines = [
        f"POST {LOGIN} HTTP/1.1",
        "Host: localhost",
        *fields,
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    request = "\r\n".join([*lines, "", ""]).encode() + body
    tables: dict[str, Any] = {
        "session": {"as_token": jwt_synapse.as_token},
        "jwt": {"secret": JWT_CONFIG["secret"], "audience": JWT_CONFIG["audiences"]},
        "identity": {"deny": [localpart]},
    }
    async with running_gateway(tmp_path, jwt_synapse.url, **tables) as gateway:
        answer = await exchange(gateway.port, request)
        straight = await exchange(int(jwt_synapse.url.rpartition(":")[2]), request)

    assert int(answer[9:12]) in {400, 403, 413, 415}
    assert b"access_token" not in answer
    assert straight.startswith(b"HTTP/1.1 200 ")


def test_the_doctor_warns_of_synapses_own_login(jwt_synapse: RealSynapse, tmp_path: Path) -> None:
    _, found = diagnosed(tmp_path, jwt_synapse.url, session={"as_token": jwt_synapse.as_token})

    assert found["jwt login"]["verdict"] == "warn"
    assert failing(found) == []
