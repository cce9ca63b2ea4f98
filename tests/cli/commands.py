"""The commands in a process of their own, and a configuration for them."""

import os
import subprocess
import sys
from pathlib import Path

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


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def configured(directory: Path, tables: str) -> Configuration:
    """Write the configuration and load it."""
    path = directory / "gateway.toml"
    path.write_text(tables)
    return load(path)
