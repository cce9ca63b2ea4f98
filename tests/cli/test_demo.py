"""`demo` shows a login on a real Synapse, and leaves nothing behind however it ends."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import run


@pytest.mark.usefixtures("installed")
def test_once_shows_every_step_and_leaves_nothing_behind(tmp_path: Path) -> None:
    result = run("demo", "--once", TMPDIR=str(tmp_path))

    assert result.returncode == 0, result.stderr
    assert re.findall(r"^✓ +\d+ ms  (.*)$", re.sub(r"http://\S+", "URL", result.stdout), re.MULTILINE) == [
        "Synapse answers on URL it has no JWT login of its own",
        "The gateway answers on URL",
        "A token, signed with the issuer's key",
        "GET /login offers",
        "POST /login with the token gives a session",
        "GET /account/whoami through the gateway",
        "A message sent",
        "GET /sync shows it",
    ]
    assert "org.matrix.login.jwt" in result.stdout
    assert "@alice:demo.localhost on " in result.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("options", "after", "number", "status"),
    [
        ([], "  curl -X POST ", signal.SIGTERM, 0),
        ([], "  curl -X POST ", signal.SIGINT, 0),
        (["--once"], "✓", signal.SIGINT, 1),
        (["--once"], "✓", signal.SIGTERM, 1),
    ],
)
def test_a_signal_ends_it_and_leaves_nothing_behind(
    tmp_path: Path, options: list[str], after: str, number: int, status: int
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "gateway", "demo", *options],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        seen = ""
        while after not in seen:
            line = process.stdout.readline()
            assert line, seen
            seen += line
        process.send_signal(number)
        rest = process.communicate(timeout=30)[0]

    assert process.returncode == status
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []


def test_without_synapse_it_fails_and_says_how_to_install_it(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "sys.modules['synapse'] = None\n"  # Python's own way to say "not installed"
        "sys.argv = ['matrix-login-gateway', 'demo', '--once']\n"
        "from gateway.cli import main\n"
        "main()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert result.returncode == 1
    assert result.stderr.endswith("Install it with: pip install 'matrix-login-gateway[demo]'\n")
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_can_not_be_is_a_usage_error() -> None:
    result = run("demo", "--port", "99999")

    assert result.returncode == 2
    assert "Invalid value for '--port'" in result.stderr
