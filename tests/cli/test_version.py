"""`--version` and the completion that a shell asks for."""

import re
import shutil
import subprocess

import pytest

from gateway import __version__
from tests.cli.commands import run


def test_version_names_the_gateway_and_its_parts() -> None:
    result = run("--version")

    first, second = result.stdout.splitlines()
    assert (result.returncode, first) == (0, f"matrix-login-gateway {__version__}")
    names = ["Python", "aiohttp", "uvloop", "joserfc", "cryptography", "OpenSSL", "SQLite"]
    assert [part.split()[0] for part in second.split(", ")] == names
    assert all(re.match(r"\w+ \d+\.\d+", part) for part in second.split(", "))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_completion(shell: str) -> None:
    if shell == "bash" and shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    script = run(_MATRIX_LOGIN_GATEWAY_COMPLETE=f"{shell}_source").stdout

    assert f"_MATRIX_LOGIN_GATEWAY_COMPLETE={shell}_complete" in script
    if shell == "bash":
        checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "position", "expected"),
    [
        ("matrix-login-gateway us", "1", {"plain,users"}),
        ("matrix-login-gateway users l", "2", {"plain,list", "plain,lock", "plain,logout"}),
        ("matrix-login-gateway doctor --reg", "2", {"plain,--registration"}),
    ],
)
def test_commands_and_options_are_completed(words: str, position: str, expected: set[str]) -> None:
    result = run(_MATRIX_LOGIN_GATEWAY_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=position)

    assert set(result.stdout.split()) == expected
