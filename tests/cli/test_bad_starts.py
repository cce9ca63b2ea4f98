"""`serve` where it can't: one line that says what to mend, status 1 or 2, and nothing half started.

Root may do all that is forbidden here; `setpriv` takes that from it.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.storage.database import DatabaseSettings, upgrade_database
from tests.conftest import fill
from tests.running_gateway import Tables, write_configuration

PLAIN = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
needs_setpriv = pytest.mark.skipif(
    bool(PLAIN) and shutil.which("setpriv") is None, reason="root without setpriv, which is in util-linux"
)
NOWHERE = "http://127.0.0.1:1"


def serve(path: Path, command: str = "serve") -> subprocess.CompletedProcess[str]:
    """Run it as somebody who is not all-powerful; it is expected to end by itself."""
    return subprocess.run(
        [*PLAIN, sys.executable, "-m", "gateway", command, "-c", str(path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def refused(directory: Path, tables: Tables, status: int) -> str:
    """Start it and return its last line, where the reason has to be."""
    return said(write_configuration(directory, NOWHERE, tables), status)


def said(path: Path, status: int) -> str:
    result = serve(path)
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr
    assert " listening " not in result.stderr
    return result.stderr.splitlines()[-1].replace(f"{path.parent}/", "")


@needs_setpriv
def test_a_configuration_that_may_not_be_read(tmp_path: Path) -> None:
    path = write_configuration(tmp_path, NOWHERE, {})
    path.chmod(0)

    assert said(path, 2) == "  gateway.toml: can't be read: Permission denied"


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    assert said(tmp_path / "gateway.toml", 2) == "  gateway.toml: can't be read: No such file or directory"


@pytest.mark.parametrize("length", [1, 40, 150])
def test_a_configuration_that_is_half_written(tmp_path: Path, length: int) -> None:
    path = write_configuration(tmp_path, NOWHERE, {})
    path.write_bytes(path.read_bytes()[:length])

    result = serve(path)

    assert result.returncode == 2
    assert result.stderr.startswith("The configuration has ")
    assert "Traceback" not in result.stderr


@needs_setpriv
def test_a_secret_that_may_not_be_read(tmp_path: Path) -> None:
    secret = tmp_path / "jwt.secret"
    secret.write_text("0123456789abcdef0123456789abcdef")
    secret.chmod(0)

    line = refused(tmp_path, {"jwt": {"secret": [], "secret_file": "jwt.secret"}}, 2)

    assert line.endswith("[jwt] secret_file: jwt.secret can't be read: Permission denied")


@needs_setpriv
@pytest.mark.parametrize("key", ["listen", "admin_listen"])
def test_a_port_that_is_for_root_alone(tmp_path: Path, key: str) -> None:
    least = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if least <= 1:
        pytest.skip("this machine lets everybody listen on every port")
    address = "127.0.0.1:1"

    line = refused(tmp_path, {"server": {"listen": [address]} if key == "listen" else {key: address}}, 1)

    assert line == f"Can't listen on {address}: Permission denied."


def test_a_unix_socket_in_no_directory(tmp_path: Path) -> None:
    line = refused(tmp_path, {"server": {"listen": [f"unix:{tmp_path}/none/socket"]}}, 1)

    assert line == "Can't listen on unix:none/socket: No such file or directory."


def test_a_database_in_no_directory(tmp_path: Path) -> None:
    line = refused(tmp_path, {"database": {"url": "sqlite:///none/gateway.db"}}, 2)

    assert line.endswith("[database] url: there is no directory none; make it, owned by the gateway's user")


@needs_setpriv
async def test_a_database_that_may_only_be_read(tmp_path: Path) -> None:
    await upgrade_database(DatabaseSettings(url=f"sqlite:///{tmp_path}/gateway.db"))
    for path in tmp_path.glob("gateway.db*"):
        path.chmod(0o400)

    line = refused(tmp_path, {}, 1)

    assert line.startswith("The database gateway.db can't be used: ")
    told = serve(tmp_path / "gateway.toml", "doctor").stdout
    assert "fail  database: the database can't be written: attempt to write a readonly database" in told


@needs_setpriv
def test_a_directory_that_may_not_be_written(tmp_path: Path) -> None:
    path = write_configuration(tmp_path, NOWHERE, {})
    tmp_path.chmod(0o500)
    try:
        line = said(path, 1)
    finally:
        tmp_path.chmod(0o700)

    assert line == "The database gateway.db can't be used: unable to open database file."


def test_a_disk_that_is_full(tmp_path: Path, small_disk: Path) -> None:
    fill(small_disk)

    line = refused(tmp_path, {"database": {"url": f"sqlite:///{small_disk}/gateway.db"}}, 1)

    assert line.startswith("The database disk/gateway.db can't be used: ")
    assert "full" in line or "disk I/O error" in line


@needs_setpriv
def test_what_can_not_start_leaves_no_socket_behind(tmp_path: Path) -> None:
    listen = [f"unix:{tmp_path}/public.sock", f"unix:{tmp_path}/none/socket"]

    refused(tmp_path, {"server": {"listen": listen}}, 1)

    assert not (tmp_path / "public.sock").exists()
