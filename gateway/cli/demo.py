"""`demo`: a real homeserver, the gateway and a JWT login on this machine, in one command.

Everything lives in a temporary directory and on loopback, and is gone afterwards.
"""

import asyncio
import json
import secrets
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import rich_click as click
import toml
import uvloop

from gateway import app
from gateway.cli.console import say, stdout
from gateway.cli.synapse import Synapse, SynapseError, SynapseSettings, running_synapse
from gateway.cli.templates import registration_yaml
from gateway.cli.token import mint_token
from gateway.config import Configuration, load
from gateway.errors import Unusable
from gateway.logs import get_logger

_SERVER_NAME = "demo.localhost"
_USER = "alice"
_A_DAY = 24 * 60 * 60


@click.command()
@click.option("--once", is_flag=True, help="End after the login: status 0 when all went well, 1 when not.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="The gateway's port on 127.0.0.1; any free one by default.",
)
def demo(*, once: bool, port: int) -> None:
    """Start a real Synapse and the gateway here, and log in with a token.

    Synapse knows nothing of JWT in it. Needs the extra: pip install 'matrix-login-gateway[demo]'
    """
    try:
        uvloop.run(_demo(once=once, port=port))
    except (KeyboardInterrupt, asyncio.CancelledError):
        if once:
            raise SystemExit(1) from None


async def _demo(*, once: bool, port: int) -> None:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - for mypy: this is a coroutine
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: the secrets in the directory must not stay
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with tempfile.TemporaryDirectory(prefix="matrix-login-gateway-demo-") as name:
        directory = Path(name)
        as_token = secrets.token_hex(32)
        registration = directory / "registration.yaml"
        registration.write_text(registration_yaml(as_token, _SERVER_NAME), encoding="utf-8")
        steps = Steps()
        try:
            async with _synapse(directory, registration, steps) as synapse:
                configuration = _configuration(directory, synapse, as_token, port)
                await _with_gateway(directory, configuration, steps, once=once)
        except SynapseError as error:
            raise Unusable(str(error)) from error


class Steps:
    """Prints each step with the time it took."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def done(self, what: str, detail: str = "") -> None:
        """Print a step that has just ended."""
        now = time.perf_counter()
        milliseconds = (now - self._since) * 1000
        self._since = now
        say(("✓", "green"), " ", (f"{milliseconds:6.0f} ms", "dim"), f"  {what}")
        if detail:
            say("             ", (detail, "cyan"))


@asynccontextmanager
async def _synapse(directory: Path, registration: Path, steps: Steps) -> AsyncIterator[Synapse]:
    settings = SynapseSettings(server_name=_SERVER_NAME, app_services=(registration,))
    status = stdout.status("Starting Synapse …")
    status.start()

    def progress(seconds: float) -> None:
        status.update(f"Starting Synapse … {seconds:.1f} s")

    try:
        async with running_synapse(directory / "synapse", settings, progress) as synapse:
            status.stop()
            steps.done(f"Synapse answers on {synapse.url}; it has no JWT login of its own")
            yield synapse
    finally:
        status.stop()


def _configuration(directory: Path, synapse: Synapse, as_token: str, port: int) -> Configuration:
    path = directory / "gateway.toml"
    path.touch(mode=0o600)
    with path.open("w", encoding="utf-8") as file:
        toml.dump(
            {
                "server": {"listen": [f"127.0.0.1:{port}"], "admin_listen": ""},
                "homeserver": {"url": synapse.url, "server_name": _SERVER_NAME},
                "session": {"as_token": as_token},
                "jwt": {
                    "secret": secrets.token_urlsafe(48),
                    "require_exp": True,
                    "issuer": ["https://id.demo.localhost"],
                    "display_name_claim": "name",
                },
            },
            file,
        )
    return load(path)


async def _with_gateway(directory: Path, configuration: Configuration, steps: Steps, *, once: bool) -> None:
    with (directory / "gateway.log").open("w", encoding="utf-8") as log_file:
        log = get_logger(configuration.settings.log, log_file)
        async with app.running(configuration, log) as gateway:
            url = f"http://{gateway.addresses[0]}"
            steps.done(f"The gateway answers on {url}")
            token = mint_token(configuration.issuers[0], _USER, {"name": "Alice"}, int(time.time()), _A_DAY)
            steps.done("A token, signed with the issuer's key", _shortened(token))
            await _log_in(url, token, steps)
            if not once:
                _invite(url, token, directory)
                await asyncio.Event().wait()


async def _log_in(url: str, token: str, steps: Steps) -> None:
    """Do what a client does: look at the flows, log in, use the session."""
    async with aiohttp.ClientSession(url) as client:
        flows = await _call(client, "GET", "/_matrix/client/v3/login")
        steps.done("GET /login offers", ", ".join(flow["type"] for flow in flows["flows"]))
        session = await _call(
            client, "POST", "/_matrix/client/v3/login", {"type": "org.matrix.login.jwt", "token": token}
        )
        steps.done("POST /login with the token gives a session", f"{session['user_id']} on {session['device_id']}")
        client.headers["Authorization"] = f"Bearer {session['access_token']}"
        whoami = await _call(client, "GET", "/_matrix/client/v3/account/whoami")
        steps.done("GET /account/whoami through the gateway", whoami["user_id"])
        room = await _call(client, "POST", "/_matrix/client/v3/createRoom", {"name": "Demo"})
        sent = await _call(
            client,
            "PUT",
            f"/_matrix/client/v3/rooms/{room['room_id']}/send/m.room.message/1",
            {"msgtype": "m.text", "body": "Hello through the gateway"},
        )
        steps.done("A message sent", sent["event_id"])
        sync = await _call(client, "GET", "/_matrix/client/v3/sync")
        if room["room_id"] not in sync["rooms"]["join"]:
            raise Unusable("The room that was made does not show up in /sync.")
        steps.done("GET /sync shows it")


async def _call(
    client: aiohttp.ClientSession, method: str, path: str, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    try:
        async with client.request(method, path, json=body) as response:
            answer: dict[str, Any] = await response.json()
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise Unusable(f"{method} {path} failed: {error}.") from error
    if response.status != 200:
        raise Unusable(f"{method} {path} answered {response.status}: {answer.get('errcode')}: {answer.get('error')}.")
    return answer


def _invite(url: str, token: str, directory: Path) -> None:
    body = json.dumps({"type": "org.matrix.login.jwt", "token": token})
    click.echo("\nBoth keep running until Ctrl-C. Log in yourself; the token is good for a day:\n")
    click.echo(f"  curl -X POST {url}/_matrix/client/v3/login -d '{body}'\n")
    say(f"Configuration, registration and logs are in {directory}")


def _shortened(token: str) -> str:
    return f"{token[:24]}…{token[-12:]} ({len(token)} bytes)"
