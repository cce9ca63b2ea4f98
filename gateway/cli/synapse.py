"""A real Synapse of our own on loopback, for `demo` and for the tests.

Rule: Synapse is AGPL software; it is never imported and always runs as a process of its own.
"""

import asyncio
import base64
import contextlib
import dataclasses
import importlib.util
import json
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp

_POLL_INTERVAL = 0.05
_ERROR_LINES = 12
# To standard error, which is the log file: what Synapse says before it reads this lands there too.
_LOG = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"level": "INFO", "handlers": ["stderr"]},
}


class SynapseError(Exception):
    """Synapse did not start; the text says why in words for the user, with the last lines of its log."""


@dataclasses.dataclass(frozen=True)
class SynapseSettings:
    """What the caller chooses; `extra` wins over every setting that we would write ourselves.

    `python` is the interpreter of the environment that Synapse is installed in.
    """

    server_name: str = "example.org"
    port: int = 0  # 0: any free one
    registration: bool = False
    app_services: tuple[Path, ...] = ()
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    python: Path = Path(sys.executable)
    start_limit: float = 60.0  # seconds; 1 to 5 are usual
    stop_limit: float = 10.0  # seconds from SIGTERM to SIGKILL; 0.1 is usual


@dataclasses.dataclass(frozen=True)
class Synapse:
    """A Synapse that answers."""

    url: str
    server_name: str
    port: int
    log_path: Path
    pid: int


@contextlib.asynccontextmanager
async def running_synapse(
    directory: Path, settings: SynapseSettings, progress: Callable[[float], None] | None = None
) -> AsyncIterator[Synapse]:
    """Run Synapse in `directory` (made when absent, used again when not) until the block is left.

    `progress` is called with the seconds waited so far, some 20 times a second. Raises SynapseError.
    """
    if settings.python == Path(sys.executable) and importlib.util.find_spec("synapse") is None:
        raise SynapseError(
            "Synapse is not installed in this Python environment. "
            "Install it with: pip install 'matrix-login-gateway[demo]'"
        )
    port = _free_port(settings.port)
    url = f"http://127.0.0.1:{port}"
    # Some milliseconds without an await: a cancellation that came in between (and uvloop's own subprocess
    # call lets one in) would leave a process, or a thread that writes files, to nobody.
    log_path = _write_files(directory, port, settings)
    process = _spawn(log_path, settings.python)
    try:
        try:
            async with asyncio.timeout(settings.start_limit):
                await _until_ready(process, url, progress)
        except TimeoutError:
            raise SynapseError(
                f"Synapse was not ready within {settings.start_limit:g} seconds. {_log_end(log_path)}"
            ) from None
        if process.poll() is not None:
            raise SynapseError(
                f"Synapse ended while it was starting (status {process.returncode}). {_log_end(log_path)}"
            )
        yield Synapse(url, settings.server_name, port, log_path, process.pid)
    finally:
        await _stop(process, settings.stop_limit)


def _free_port(wanted: int) -> int:
    # Asking first also makes sure that it is not somebody else who answers when we poll.
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError as error:
            raise SynapseError(f"Synapse can't listen on 127.0.0.1:{wanted}: {error.strerror}.") from error
        port: int = probe.getsockname()[1]
        return port


def _write_files(directory: Path, port: int, settings: SynapseSettings) -> Path:
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    log_path = directory / "homeserver.log"
    log_path.write_bytes(b"")  # the log of this run only
    key_path = directory / "signing.key"
    if not key_path.exists():
        seed = base64.b64encode(secrets.token_bytes(32)).decode().rstrip("=")
        _write_secret(key_path, f"ed25519 a_{secrets.token_hex(2)} {seed}\n")
    # JSON is YAML, but only without the surrogate pairs of \u escapes.
    configuration = _configuration(directory, port, settings)
    _write_secret(directory / "homeserver.yaml", json.dumps(configuration, indent=2, ensure_ascii=False))
    _write_secret(directory / "log.yaml", json.dumps(_LOG))
    return log_path


def _write_secret(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


def _configuration(directory: Path, port: int, settings: SynapseSettings) -> dict[str, Any]:
    listener = {
        "type": "http",
        "port": port,
        "bind_addresses": ["127.0.0.1"],
        "tls": False,
        "x_forwarded": True,
        # Federation only for its /version, which says what software this is; the whitelist lets nobody in.
        "resources": [{"names": ["client", "federation"], "compress": False}],
    }
    return {
        "server_name": settings.server_name,
        "listeners": [listener],
        "pid_file": str(directory / "homeserver.pid"),
        "log_config": str(directory / "log.yaml"),
        "no_redirect_stdio": True,
        "database": {"name": "sqlite3", "args": {"database": str(directory / "homeserver.db")}},
        "media_store_path": str(directory / "media"),
        "signing_key_path": str(directory / "signing.key"),
        "trusted_key_servers": [],
        "suppress_key_server_warning": True,
        "federation_domain_whitelist": [],
        "report_stats": False,
        "enable_registration": settings.registration,
        "enable_registration_without_verification": settings.registration,
        "app_service_config_files": [str(path.absolute()) for path in settings.app_services],
        "bcrypt_rounds": 4,
        "url_preview_enabled": False,
        **settings.extra,
    }


def _spawn(log_path: Path, python: Path) -> subprocess.Popen[bytes]:
    # -P: modules in the directory are none of Synapse's. A session of its own keeps the terminal's Ctrl-C
    # from it, so that we end it in our order; setpriv (Debian's util-linux) ends it should we be killed.
    command = [str(python), "-P", "-m", "synapse.app.homeserver", "-c", "homeserver.yaml"]
    if setpriv := shutil.which("setpriv"):
        command[:0] = [setpriv, "--pdeathsig", "TERM"]
    with log_path.open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - our own command line, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=log_path.parent,
            start_new_session=True,
        )


async def _until_ready(process: subprocess.Popen[bytes], url: str, progress: Callable[[float], None] | None) -> None:
    """Return when Synapse answers or has ended."""
    clock = asyncio.get_running_loop().time
    began = clock()
    async with aiohttp.ClientSession() as client:
        while process.poll() is None:
            if progress is not None:
                progress(clock() - began)
            try:
                async with client.get(f"{url}/_matrix/client/versions") as answer:
                    if answer.ok:
                        return
            except aiohttp.ClientError:
                pass  # not listening yet
            await asyncio.sleep(_POLL_INTERVAL)


def _log_end(log_path: Path) -> str:
    lines = [line for line in log_path.read_text("utf-8", "replace").splitlines() if line.strip()]
    return "\n".join([f"The end of {log_path}:", *lines[-_ERROR_LINES:]])


async def _stop(process: subprocess.Popen[bytes], limit: float) -> None:
    process.terminate()
    try:
        async with asyncio.timeout(limit):
            while process.poll() is None:  # noqa: ASYNC110 - a process sets no asyncio.Event
                await asyncio.sleep(_POLL_INTERVAL)
    except TimeoutError:
        pass
    finally:  # also when we are cancelled once more while we wait; does nothing to one that has ended
        process.kill()
        process.wait()
