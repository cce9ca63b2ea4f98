"""The real gateway in the test's own loop, with its log at hand, and the tokens that it takes."""

import io
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import toml
from joserfc import jwt
from joserfc.jwk import OctKey

from gateway import app
from gateway.access_log import AccessLog
from gateway.config import Configuration, load
from gateway.logs import LogSettings, get_logger

SECRET = "the secret of the tests, long enough for HS512: 0123456789abcdef0123456789abcdef"
AS_TOKEN = "a5" * 32
SERVER_NAME = "example.org"
LOGIN = "/_matrix/client/v3/login"

Tables = Mapping[str, Mapping[str, Any]]


def mint(sub: object = "alice", *, secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """Return a token; a claim of None is left out."""
    now = int(time.time())
    members = {"sub": sub, "iat": now, "exp": now + 3600, **claims}
    kept = {name: value for name, value in members.items() if value is not None}
    return jwt.encode({"alg": algorithm}, kept, OctKey.import_key(secret), algorithms=[algorithm])


@dataclass(frozen=True)
class Answered:
    """An answer to a client."""

    status: int
    body: Any
    headers: Mapping[str, str]


@dataclass(frozen=True)
class RunningGateway:
    """A gateway that listens."""

    url: str
    port: int
    configuration: Configuration
    running: app.Running
    _log: io.StringIO

    @property
    def log(self) -> str:
        return self._log.getvalue()

    async def call(self, method: str, path: str, body: object = None, **headers: str) -> Answered:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        async with (
            aiohttp.ClientSession() as client,
            client.request(method, self.url + path, json=body, headers=fields) as response,
        ):
            return Answered(response.status, await response.json(content_type=None), response.headers)

    async def log_in(self, token: object, **members: Any) -> Answered:
        return await self.call("POST", LOGIN, {"type": "org.matrix.login.jwt", "token": token, **members})


def write_configuration(directory: Path, homeserver: str, tables: Tables) -> Path:
    """Write a configuration whose tables `tables` complete or replace key by key."""
    defaults: dict[str, dict[str, Any]] = {
        "server": {"listen": ["127.0.0.1:0"], "admin_listen": "", "drain_timeout": 2},
        "homeserver": {"url": homeserver, "server_name": SERVER_NAME, "connect_timeout": 1},
        "session": {"as_token": AS_TOKEN},
        "jwt": {"secret": SECRET},
        "database": {"url": "sqlite:///gateway.db"},
    }
    merged = {name: {**defaults.get(name, {}), **tables.get(name, {})} for name in {*defaults, *tables}}
    path = directory / "gateway.toml"
    path.write_text(toml.dumps(merged), encoding="utf-8")
    return path


@asynccontextmanager
async def running_gateway(
    directory: Path, homeserver_url: str, now: Callable[[], float] = time.time, /, **tables: Mapping[str, Any]
) -> AsyncIterator[RunningGateway]:
    """Run the gateway before a homeserver; the database stays in `directory` for the next run."""
    configuration = load(write_configuration(directory, homeserver_url, tables), {})
    log = io.StringIO()
    access = AccessLog(configuration.settings.log, log, now) if configuration.settings.log.access else None
    logger = get_logger(LogSettings(level="debug"), log)
    async with app.running(configuration, logger, now, access=access) as running:
        address = running.addresses[0]
        yield RunningGateway(f"http://{address}", int(address.rpartition(":")[2]), configuration, running, log)
