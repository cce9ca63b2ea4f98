"""The commands in a process of their own, and a configuration for them."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from gateway.cli import main
from gateway.config import Configuration, load

TABLES = """
[homeserver]
url = "http://127.0.0.1:8008"
server_name = "example.org"
[session]
as_token = "0123456789abcdef0123456789abcdef"
[jwt]
secret = "a secret of at least thirty-two bytes"
issuer = ["https://id.example.org"]
audience = ["matrix"]
"""

_PATIENCE = 60
# Its processes come from one that has imported the gateway already, which takes a second.
_READY = multiprocessing.get_context("forkserver")
_READY.set_forkserver_preload(["tests.cli.commands"])


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; in a process that is new from the start where it gets an environment of its own.

    What is imported may look at the environment, and at whether it writes to a terminal.
    """
    if environment or any(map(os.isatty, (1, 2))):
        return subprocess.run(
            [sys.executable, "-m", "gateway", *arguments],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    with tempfile.TemporaryDirectory() as directory:
        output, errors = Path(directory, "output"), Path(directory, "errors")
        process = _READY.Process(target=_become, args=(arguments, Path.cwd(), dict(os.environ), output, errors))
        process.start()
        process.join(_PATIENCE)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(arguments, _PATIENCE)
        return subprocess.CompletedProcess(arguments, process.exitcode, output.read_text(), errors.read_text())


def _become(
    arguments: Sequence[str], directory: Path, environment: Mapping[str, str], output: Path, errors: Path
) -> None:
    """Be the command from here on."""
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), number)
    sys.argv = ["matrix-login-gateway", *arguments]
    main()


def configured(directory: Path, tables: str) -> Configuration:
    """Write the configuration and load it."""
    path = directory / "gateway.toml"
    path.write_text(tables)
    return load(path)
