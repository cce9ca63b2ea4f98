"""What tests of several parts need: a fake homeserver, fresh for each test, certificates, a PostgreSQL for all."""

import asyncio
import dataclasses
import importlib.util
import json
import os
import secrets
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.storage.database import DatabaseSettings, upgrade_database
from tests.authority import Authority, authority_in
from tests.fake_homeserver import FakeHomeserver, running_homeserver
from tests.flavours import OLD_SYNAPSE
from tests.old_synapse import old_python
from tests.postgres_server import TEMPLATE, PostgresServer, find_programs, running_postgres
from tests.real_dendrite import RealDendrite, dendrite_program, running_dendrite
from tests.real_synapse import AS_TOKEN, JWT_CONFIG, RealSynapse, needs_synapse
from tests.real_synapse import running as running_real_synapse


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take what `tests/conformance` is asked for."""
    parser.addoption("--homeserver", default="", metavar="KIND|URL", help="the homeserver of tests/conformance")
    session = json.dumps({"as_token": AS_TOKEN})
    parser.addoption("--session", default=session, metavar="JSON", help="with a URL: the gateway's table [session]")


@pytest.fixture
async def homeserver() -> AsyncIterator[FakeHomeserver]:
    async with running_homeserver() as running:
        yield running


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    """An authority that nobody trusts."""
    return authority_in(tmp_path)


@pytest.fixture
def authority(stranger: Authority, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """An authority that the gateway trusts, as an operator makes it do so."""
    monkeypatch.setenv("SSL_CERT_FILE", str(stranger.folder / "authority.pem"))
    return stranger


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system of its own, of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system may be mounted here: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> None:
    """Leave no room on the file system of a directory."""
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server whose template has our schema, so that a test gets a database of its own at once."""
    programs = find_programs()
    missing = None
    if programs is None:
        missing = "PostgreSQL is not installed (Debian: postgresql-15)"
    elif importlib.util.find_spec("asyncpg") is None:
        missing = "asyncpg is not installed (the extra postgres)"
    if programs is None or missing is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    with running_postgres(programs) as server:
        server.sql(f"CREATE DATABASE {TEMPLATE}")
        asyncio.run(upgrade_database(DatabaseSettings(url=server.url(TEMPLATE))))
        yield server


@pytest.fixture(scope="session")
def synapse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealSynapse]:
    needs_synapse()
    with running_real_synapse(tmp_path_factory.mktemp("synapse")) as started:
        yield started


@pytest.fixture(scope="session")
def jwt_synapse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealSynapse]:
    """A Synapse with a JWT login of its own, and nobody but us who has its secret."""
    needs_synapse()
    with running_real_synapse(tmp_path_factory.mktemp("jwt-synapse"), jwt_config=JWT_CONFIG) as started:
        yield started


@pytest.fixture(scope="session")
def old_synapse(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealSynapse]:
    """The oldest Synapse that we speak of, in an environment of its own that is made once."""
    python = old_python(request.config.cache.mkdir("environments"))
    with running_real_synapse(tmp_path_factory.mktemp("old-synapse"), python) as started:
        yield dataclasses.replace(started, flavour=OLD_SYNAPSE)


@pytest.fixture(scope="session")
def dendrite(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealDendrite]:
    program = dendrite_program(request.config.cache.mkdir("dendrite"))
    with running_dendrite(tmp_path_factory.mktemp("dendrite"), program) as started:
        yield started


@pytest.fixture(scope="session")
def dendrite_on_postgres(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer
) -> Iterator[RealDendrite]:
    program = dendrite_program(request.config.cache.mkdir("dendrite"))
    with running_dendrite(tmp_path_factory.mktemp("dendrite"), program, postgres) as started:
        yield started


@pytest.fixture
def localpart() -> str:
    """A name that no other test has."""
    return f"user-{secrets.token_hex(6)}"
