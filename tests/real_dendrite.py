"""A real Dendrite: built once by Go, in a directory that outlives the run, and started with our application services.

Rule: a test makes users of its own and changes nothing of others.
"""

import base64
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from tests.benchmarks.processes import NotStarted, free_port, running, until_answers
from tests.flavours import DENDRITE, Flavour
from tests.postgres_server import PostgresServer
from tests.real_synapse import SERVER_NAME, SHARED_SECRET, RealSynapse, stopping, write_registrations

_PROGRAM: Final = "github.com/matrix-org/dendrite/cmd/dendrite@v0.13.8"
_BUILD_LIMIT: Final = 900  # seconds; 100 are usual, from empty caches
_DATABASES: Final = {
    "federation_api": "database",
    "key_server": "database",
    "media_api": "database",
    "mscs": "database",
    "relay_api": "database",
    "room_server": "database",
    "sync_api": "database",
    "user_api": "account_database",
}


def dendrite_program(cache: Path) -> Path:
    """Return the program; skips the test with the reason where it can't be built."""
    program = cache / "dendrite"
    if program.exists():
        return program
    go = shutil.which("go")
    if go is None:
        pytest.skip("Dendrite can't be built: Go is not installed")
    made = cache / f"build.{os.getpid()}"
    try:
        environment = {**os.environ, "GOBIN": str(made), "CGO_ENABLED": "0"}
        subprocess.run(
            [go, "install", _PROGRAM], env=environment, check=True, capture_output=True, timeout=_BUILD_LIMIT
        )
        (made / "dendrite").rename(program)
    except subprocess.CalledProcessError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"Dendrite can't be built: {error.stderr.decode().strip().splitlines()[-1]}")
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return program


@dataclass(frozen=True)
class RealDendrite(RealSynapse):
    """The running homeserver; Matrix's client API is asked as of a Synapse, its own by its shared secret."""

    flavour: Flavour = DENDRITE
    postgres: PostgresServer | None = None
    database: str = ""  # its name there

    async def lose(self, localpart: str) -> None:  # noqa: ARG002 - with all others
        """Take all accounts away, as an older backup does."""
        with self.stopped():
            if self.postgres is None:
                for path in self.directory.glob("user_api.db*"):
                    path.unlink()
            else:
                which = "SELECT string_agg(tablename, ', ') FROM pg_tables WHERE tablename ~ '^userapi_'"
                self.postgres.sql(f"TRUNCATE {self.postgres.sql(which, self.database)}", self.database)


@contextlib.contextmanager
def running_dendrite(
    directory: Path, program: Path, postgres: PostgresServer | None = None, **client_api: Any
) -> Iterator[RealDendrite]:
    """Run a Dendrite whose data are in a directory, or in PostgreSQL; `client_api` are settings of its client API."""
    database = postgres.new_database("template0") if postgres else ""
    (directory / "dendrite.yaml").write_text(json.dumps(_settings(directory, database, client_api)))
    port = free_port()
    command = [str(program), "--config", "dendrite.yaml", "--http-bind-address", f"127.0.0.1:{port}"]
    with contextlib.ExitStack() as stack:

        def start() -> None:
            process = running("dendrite", _in(directory, command), directory, sorted(os.sched_getaffinity(0)), {})
            try:
                until_answers(stack.enter_context(process), port, "/_matrix/client/versions")
            except NotStarted as error:
                pytest.fail(str(error))

        start()
        yield RealDendrite(
            f"http://127.0.0.1:{port}",
            stopped=stopping(stack.close, start),
            directory=directory,
            postgres=postgres,
            database=urlsplit(database).path.removeprefix("/"),
        )


def _in(directory: Path, command: list[str]) -> list[str]:
    return [sys.executable, "-c", f"import os; os.chdir({str(directory)!r}); os.execv({command[0]!r}, {command!r})"]


def _settings(directory: Path, database: str, client_api: Mapping[str, Any]) -> dict[str, Any]:
    key = directory / "key.pem"
    if not key.exists():
        seed = base64.b64encode(secrets.token_bytes(32)).decode()
        key.write_text(
            f"-----BEGIN MATRIX PRIVATE KEY-----\nKey-ID: ed25519:auto\n\n{seed}\n-----END MATRIX PRIVATE KEY-----\n"
        )
    components: dict[str, dict[str, Any]] = {
        name: {} if database else {setting: {"connection_string": f"file:{name}.db"}}
        for name, setting in _DATABASES.items()
    }
    components["media_api"]["base_path"] = "media"
    components["sync_api"]["search"] = {"enabled": False}
    return {
        "version": 2,
        "global": {
            "server_name": SERVER_NAME,
            **({"database": {"connection_string": database, "max_open_conns": 20}} if database else {}),
            "private_key": "key.pem",
            "jetstream": {"in_memory": True, "storage_path": "."},
            "report_stats": {"enabled": False},
        },
        "app_service_api": {"config_files": [path.name for path in write_registrations(directory)]},
        "client_api": {
            "registration_disabled": True,
            "registration_shared_secret": SHARED_SECRET,
            "rate_limiting": {"enabled": False},
            **client_api,
        },
        "logging": [{"type": "std", "level": "warn"}],
        **components,
    }
