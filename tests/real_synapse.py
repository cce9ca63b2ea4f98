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
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from gateway.cli.synapse import SynapseSettings, running_synapse
from tests.benchmarks.processes import free_port
from tests.flavours import SYNAPSE, Flavour
from tests.synapse_limits import RATE_LIMITS_OFF

SERVER_NAME = "example.org"
AS_TOKEN = "a5" * 32
SHARED_SECRET = "c7" * 32
PASSWORD = "a password of 8 or more"  # of the users that are made past the gateway


def _registration(name: str, as_token: str, sender: str, names: str, *, exclusive: bool = False) -> dict[str, Any]:
    return {
        "id": name,
        "url": None,
        "as_token": as_token,
        "hs_token": as_token[::-1],  # not used, but required
        "sender_localpart": sender,
        "rate_limited": False,
        "namespaces": {
            "users": [{"exclusive": exclusive, "regex": rf"^@{names}:example\.org$"}],
            "aliases": [],
            "rooms": [],
        },
    }


# As an operator writes it who thinks of bridges.
NARROW_AS_TOKEN = "d8" * 32
# A bridge, whose users nobody else may be.
BRIDGE_AS_TOKEN = "1a" * 32
_REGISTRATIONS = (
    _registration("matrix-login-gateway", AS_TOKEN, "_login_gateway", ".*"),
    _registration("narrow", NARROW_AS_TOKEN, "_narrow", "[a-z0-9]+"),
    _registration("bridge", BRIDGE_AS_TOKEN, "bridgebot", "bridge_.*", exclusive=True),
)


def write_registrations(directory: Path) -> list[Path]:
    """Write the registration files of our application services and of a bridge."""
    written = []
    for registration in _REGISTRATIONS:
        written.append(directory / f"{registration['id']}.yaml")
        written[-1].write_text(json.dumps(registration))
    return written


JWT_CONFIG = {
    "enabled": True,
    "secret": "f0" * 32,
    "algorithm": "HS256",
    "display_name_claim": "name",
    "issuer": "the gateway",
    "audiences": ["the homeserver"],
}
# The gateway's table [session] for it.
JWT_SESSION: dict[str, Any] = {
    "method": "jwt",
    "as_token": None,
    "jwt_secret": JWT_CONFIG["secret"],
    "jwt_issuer": JWT_CONFIG["issuer"],
    "jwt_audience": "the homeserver",
    "jwt_display_name_claim": "name",
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


def _by_nobody() -> AbstractContextManager[None]:
    pytest.skip("nobody can stop the homeserver from outside")


@dataclasses.dataclass(frozen=True)
class RealSynapse:
    """The running homeserver and what a test asks of it.

    It stands still while the block of `stopped` runs, and goes on then with what `directory` has.
    """

    url: str
    as_token: str = AS_TOKEN
    admin_token: str = ""
    server_name: str = SERVER_NAME
    flavour: Flavour = SYNAPSE
    stopped: Callable[[], AbstractContextManager[None]] = _by_nobody
    directory: Path = Path()

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
        """Make an account as the application service, with what Palpo and tuwunel need besides."""
        body = {
            "type": "m.login.application_service",
            "username": localpart,
            "inhibit_login": True,
            "password": PASSWORD,
        }
        target = "/_matrix/client/v3/register?from_appservice=true"
        return await self.call("POST", target, token or self.as_token, body)

    async def log_in(self, localpart: str, token: str | None = None, **members: Any) -> Answer:
        """Open a session as the application service."""
        identifier = {"type": "m.id.user", "user": localpart}
        body = {"type": "m.login.application_service", "identifier": identifier, **members}
        return await self.call("POST", "/_matrix/client/v3/login", token or self.as_token, body)

    async def whoami(self, token: str) -> Answer:
        return await self.call("GET", "/_matrix/client/v3/account/whoami", token)

    async def exists(self, localpart: str) -> bool:
        answer = await self.call("GET", f"/_matrix/client/v3/register/available?username={localpart}")
        if answer.status == 403:  # while registration is off
            target = f"/_matrix/client/v3/account/whoami?user_id={quote(self.user_id(localpart), safe='')}"
            return (await self.call("GET", target, self.as_token)).status == 200
        return answer.outcome == (400, "M_USER_IN_USE")

    async def make_user(self, localpart: str, password: str, *, admin: bool = False) -> str:
        """Make an ordinary account with a password, or an administrator's, and return its access token."""
        target = "/_synapse/admin/v1/register"
        nonce: str = (await self.call("GET", target)).body["nonce"]
        text = f"{nonce}\0{localpart}\0{password}\0{'admin' if admin else 'notadmin'}"
        mac = hmac.new(SHARED_SECRET.encode(), text.encode(), hashlib.sha1).hexdigest()
        body = {"nonce": nonce, "username": localpart, "password": password, "admin": admin, "mac": mac}
        answer = await self.call("POST", target, body=body)
        assert answer.status == 200, answer
        token: str = answer.body["access_token"]
        return token

    async def lose(self, localpart: str) -> None:
        """Take an account away, as an older backup does."""
        with self.stopped(), contextlib.closing(sqlite3.connect(self.directory / "homeserver.db")) as database:
            for table, column in (("users", "name"), ("devices", "user_id"), ("access_tokens", "user_id")):
                database.execute(f"DELETE FROM {table} WHERE {column} = ?", (self.user_id(localpart),))
            database.execute("DELETE FROM profiles WHERE user_id = ?", (localpart,))
            database.commit()

    async def deactivate(self, user_id: str) -> None:
        target = f"/_synapse/admin/v1/deactivate/{quote(user_id, safe='')}"
        answer = await self.call("POST", target, self.admin_token, {"erase": False})
        assert answer.status == 200, answer

    async def lock(self, user_id: str, *, locked: bool = True) -> None:
        target = f"/_synapse/admin/v2/users/{quote(user_id, safe='')}"
        answer = await self.call("PUT", target, self.admin_token, {"locked": locked})
        assert answer.status == 200, answer


@contextlib.contextmanager
def running(directory: Path, python: Path = Path(sys.executable), **extra: Any) -> Iterator[RealSynapse]:
    """Run a Synapse with our application services; `extra` are settings of its own."""
    settings = SynapseSettings(
        server_name=SERVER_NAME,
        port=free_port(),
        app_services=tuple(write_registrations(directory)),
        extra={**RATE_LIMITS_OFF, "registration_shared_secret": SHARED_SECRET, **extra},
        python=python,
    )
    # A loop of its own, for each test has another one, in a thread of its own, for Synapse ends with the thread that
    # started it. The loop stands still while tests run: Synapse needs nothing of it.
    with ThreadPoolExecutor(1) as thread, asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        stack = contextlib.AsyncExitStack()

        def start() -> None:
            thread.submit(runner.run, stack.enter_async_context(running_synapse(directory, settings))).result()

        def stop() -> None:
            thread.submit(runner.run, stack.aclose()).result()

        start()
        try:
            synapse = RealSynapse(
                f"http://127.0.0.1:{settings.port}", stopped=stopping(stop, start), directory=directory
            )
            user = synapse.make_user("administrator", secrets.token_hex(16), admin=True)
            yield dataclasses.replace(synapse, admin_token=thread.submit(runner.run, user).result())
        finally:
            stop()


def stopping(stop: Callable[[], None], start: Callable[[], None]) -> Callable[[], AbstractContextManager[None]]:
    """Return what stops a server for a block."""

    @contextlib.contextmanager
    def stopped() -> Iterator[None]:
        stop()
        try:
            yield
        finally:
            start()

    return stopped


def needs_synapse() -> None:
    if importlib.util.find_spec("synapse") is None and os.environ.get("CI") != "true":
        pytest.skip("matrix-synapse is not installed")
