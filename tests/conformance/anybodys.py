"""A homeserver of anybody's own, at a URL: what can be done with it from outside, and what is known of its kind."""

import json
import urllib.request
from dataclasses import dataclass, field
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote

import pytest

from tests.flavours import BEHIND_MAS, FLAVOURS
from tests.real_synapse import Answer, RealSynapse


@dataclass(frozen=True)
class AnybodysHomeserver(RealSynapse):
    """Matrix's client API is asked as of a Synapse; there is no administrator. `session` is the gateway's table."""

    session: dict[str, Any] = field(default_factory=dict)

    async def exists(self, localpart: str) -> bool:
        answer = await self.call("GET", f"/_matrix/client/v3/register/available?username={localpart}")
        if answer.status == 403:  # while registration is off
            target = f"/_matrix/client/v3/account/whoami?user_id={quote(self.user_id(localpart), safe='')}"
            return (await self.call("GET", target, self.as_token)).status == 200
        return answer.outcome == (400, "M_USER_IN_USE")

    async def register(self, localpart: str, token: str | None = None) -> Answer:
        body = {
            "type": "m.login.application_service",
            "username": localpart,
            "inhibit_login": True,
            "password": "a password of 8 or more",
        }
        target = "/_matrix/client/v3/register?from_appservice=true"
        return await self.call("POST", target, token or self.as_token, body)


def anybodys_homeserver(url: str, session: dict[str, Any]) -> AnybodysHomeserver:
    """Return it; fails where it does not say of which of the known kinds it is."""
    said = (
        _asked(f"{url}/_matrix/federation/v1/version").get("server")
        or _asked(f"{url}/_matrix/client/versions").get("net.zemos.msc4383.server")
        or _asked(f"{url}/_tuwunel/server_version")
    )
    name = str(said.get("name", "")) if isinstance(said, dict) else ""
    for flavour in (BEHIND_MAS,) if session.get("method") == "mas" else FLAVOURS:
        if flavour.name.lower() == name.lower():
            return AnybodysHomeserver(url, session.get("as_token") or "", flavour=flavour, session=session)
    pytest.fail(f"nothing is known of the kind of homeserver at {url}: give {name!r} its row in tests/flavours.py")


def _asked(url: str) -> dict[str, object]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            said: dict[str, object] = json.load(answer)
            return said
    except HTTPError:
        return {}
