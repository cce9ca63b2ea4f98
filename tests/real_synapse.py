"""A real Synapse, with our application services and a server administrator.

Rule: tests share it, so each makes users of its own (fixture `localpart`) and changes nothing of others.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import hmac
import importlib.util
import json
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from gateway.cli.synapse import SynapseSettings, running_synapse
from tests.flavours import SYNAPSE, Flavour
from tests.synapse_limits import RATE_LIMITS_OFF

SERVER_NAME = "example.org"
AS_TOKEN = "a5" * 32
HS_TOKEN = "b6" * 32
SHARED_SECRET = "c7" * 32

REGISTRATION = {
    "id": "matrix-login-gateway",
    "url": None,
    "as_token": AS_TOKEN,
    "hs_token": HS_TOKEN,
    "sender_localpart": "_login_gateway",
    "rate_limited": False,
    "namespaces": {
        "users": [{"exclusive": False, "regex": r"^@.*:example\.org$"}],
        "aliases": [],
        "rooms": [],
    },
}

# As an operator writes it who thinks of bridges.
NARROW_AS_TOKEN = "d8" * 32
NARROW_REGISTRATION = {
    **REGISTRATION,
    "id": "narrow",
    "as_token": NARROW_AS_TOKEN,
    "hs_token": "e9" * 32,
    "sender_localpart": "_narrow",
    "namespaces": {
        "users": [{"exclusive": False, "regex": r"^@[a-z0-9]+:example\.org$"}],
        "aliases": [],
        "rooms": [],
    },
}

# A bridge, whose users nobody else may be.
BRIDGE_AS_TOKEN = "1a" * 32
BRIDGE_REGISTRATION = {
    **REGISTRATION,
    "id": "bridge",
    "as_token": BRIDGE_AS_TOKEN,
    "hs_token": "2b" * 32,
    "sender_localpart": "bridgebot",
    "namespaces": {
        "users": [{"exclusive": True, "regex": r"^@bridge_.*:example\.org$"}],
        "aliases": [],
        "rooms": [],
    },
}


JWT_CONFIG = {
    "enabled": True,
    "secret": "f0" * 32,
    "algorithm": "HS256",
    "display_name_claim": "name",
    "issuer": "the gateway",
    "audiences": ["the homeserver"],
}


@dataclasses.dataclass(frozen=True)
class Answer:
    """What Synapse said."""

    status: int
    body: dict[str, Any]

    @property
    def outcome(self) -> tuple[int, str | None]:
        """Status and errcode, which is what our code classifies by."""
        return self.status, self.body.get("errcode")


@dataclasses.dataclass(frozen=True)
class RealSynapse:
    """The running homeserver and what a test asks of it."""

    url: str
    as_token: str = AS_TOKEN
    admin_token: str = ""
    server_name: str = SERVER_NAME
    flavour: Flavour = SYNAPSE

    def user_id(self, localpart: str) -> str:
        return f"@{localpart}:{self.server_name}"

    async def call(
        self, method: str, target: str, token: str | None = None, body: Mapping[str, Any] | None = None
    ) -> Answer:
        """Ask; `target` goes out as it is, `token` as Bearer token."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        url = URL(self.url + target, encoded=True)
        async with (
            aiohttp.ClientSession() as client,
            client.request(method, url, headers=headers, json=body) as answer,
        ):
            return Answer(answer.status, await answer.json())

    async def register(self, localpart: str, token: str | None = None) -> Answer:
        """Make an account as the application service."""
        body = {"type": "m.login.application_service", "username": localpart, "inhibit_login": True}
        return await self.call("POST", "/_matrix/client/v3/register", token or self.as_token, body)

    async def log_in(self, localpart: str, token: str | None = None, **members: Any) -> Answer:
        """Open a session as the application service."""
        identifier = {"type": "m.id.user", "user": localpart}
        body = {"type": "m.login.application_service", "identifier": identifier, **members}
        return await self.call("POST", "/_matrix/client/v3/login", token or self.as_token, body)

    async def whoami(self, token: str) -> Answer:
        return await self.call("GET", "/_matrix/client/v3/account/whoami", token)

    async def deactivate(self, user_id: str) -> None:
        target = f"/_synapse/admin/v1/deactivate/{quote(user_id, safe='')}"
        answer = await self.call("POST", target, self.admin_token, {"erase": False})
        assert answer.status == 200, answer

    async def lock(self, user_id: str, *, locked: bool = True) -> None:
        target = f"/_synapse/admin/v2/users/{quote(user_id, safe='')}"
        answer = await self.call("PUT", target, self.admin_token, {"locked": locked})
        assert answer.status == 200, answer


async def _administrator(synapse: RealSynapse) -> RealSynapse:
    target = "/_synapse/admin/v1/register"
    nonce: str = (await synapse.call("GET", target)).body["nonce"]
    name, password = "administrator", secrets.token_hex(16)
    text = f"{nonce}\0{name}\0{password}\0admin"
    mac = hmac.new(SHARED_SECRET.encode(), text.encode(), hashlib.sha1).hexdigest()
    body = {"nonce": nonce, "username": name, "password": password, "admin": True, "mac": mac}
    answer = await synapse.call("POST", target, body=body)
    assert answer.status == 200, answer
    return dataclasses.replace(synapse, admin_token=answer.body["access_token"])


@contextlib.contextmanager
def running(directory: Path, python: Path = Path(sys.executable), **extra: Any) -> Iterator[RealSynapse]:
    """Run a Synapse with our application services; `extra` are settings of its own."""
    registrations = []
    for registration in (REGISTRATION, NARROW_REGISTRATION, BRIDGE_REGISTRATION):
        registrations.append(directory / f"{registration['id']}.yaml")
        registrations[-1].write_text(json.dumps(registration))
    settings = SynapseSettings(
        server_name=SERVER_NAME,
        app_services=tuple(registrations),
        extra={**RATE_LIMITS_OFF, "registration_shared_secret": SHARED_SECRET, **extra},
        python=python,
    )
    # A loop of its own, for each test has another one, and not set as the thread's, for that is
    # pytest-asyncio's business. It stands still while tests run: Synapse needs nothing of it.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        stack = contextlib.AsyncExitStack()
        started = runner.run(stack.enter_async_context(running_synapse(directory, settings)))
        try:
            yield runner.run(_administrator(RealSynapse(started.url)))
        finally:
            runner.run(stack.aclose())


def needs_synapse() -> None:
    if importlib.util.find_spec("synapse") is None and os.environ.get("CI") != "true":
        pytest.skip("matrix-synapse is not installed")
