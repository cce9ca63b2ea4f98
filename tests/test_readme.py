"""The README holds what is true: its examples run as printed, its answers are the table's, its links work."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.cli import cli
from gateway.core.keys import build_key_set
from gateway.core.tokens import TokenRules, Verifier, verify
from gateway.errors import ANSWERS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, containing: str = "") -> str:
    blocks: list[str] = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return next(text for text in blocks if containing in text)


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        assert os.environ.get("CI") != "true", f"{name} must be there under CI"
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which the README's openssl lines were run as printed."""
    program("openssl")
    directory = tmp_path_factory.mktemp("keys")
    subprocess.run(
        ["bash", "-euc", block("sh", "openssl")], cwd=directory, check=True, capture_output=True, timeout=60
    )
    return directory


@pytest.mark.parametrize(("language", "interpreter"), [("python", sys.executable), ("javascript", "node")])
def test_the_example_makes_a_token_that_verifies(keys: Path, language: str, interpreter: str) -> None:
    runs = interpreter if interpreter == sys.executable else program(interpreter)
    script = keys / f"example.{language}.{'py' if language == 'python' else 'js'}"
    script.write_text(block(language))
    printed = subprocess.run([runs, script], cwd=keys, check=True, capture_output=True, text=True, timeout=60).stdout
    key_set = build_key_set("HMAC", [(keys / "jwt.secret").read_text().strip()], ["HS256"])
    rules = TokenRules(issuer=["https://id.example.org"], require_exp=True)

    claims = verify(printed.strip(), Verifier(key_set, rules), time.time())

    assert claims["sub"] == "alice"


@pytest.mark.parametrize(
    ("key_format", "algorithm", "file"),
    [
        ("HMAC", "HS256", "jwt.secret"),
        ("B64HMAC", "HS384", "jwt.secret"),
        ("ECDSA", "ES256", "es256.pub.pem"),
        ("RSA", "RS256", "rs256.pub.pem"),
        ("EDDSA", "EdDSA", "eddsa.pub.pem"),
    ],
)
def test_the_openssl_lines_make_keys_that_are_taken(keys: Path, key_format: str, algorithm: str, file: str) -> None:
    secret = (keys / file).read_text().rstrip("\n")

    assert build_key_set(key_format, [secret], [algorithm]).candidates(algorithm)  # type: ignore[arg-type]


@pytest.mark.parametrize("refusal", [pytest.param(refusal, id=refusal.name) for refusal in ANSWERS])
def test_troubleshooting_has_every_answer(refusal: object) -> None:
    answer = ANSWERS[refusal]  # type: ignore[index]
    expected = answer.text.replace("{}", "…") if answer.text != "{}" else answer.errcode
    if answer.errcode == "M_UNKNOWN" and answer.text == "{}":
        expected = f"others with status {answer.status}"

    assert expected in README.partition("## Troubleshooting")[2]


def test_the_table_of_commands_names_every_command() -> None:
    section = README.partition("## Commands")[2].partition("\n## ")[0]

    assert set(re.findall(r"^\| `(\w+)", section, re.MULTILINE)) == set(cli.commands)


@pytest.mark.parametrize("document", ["README.md", "config/README.md", "systemd/README.md"])
def test_every_link_inside_the_project_leads_somewhere(document: str) -> None:
    path = ROOT / document
    targets = re.findall(r"\[[^\[\]]+\]\(([^)#\s|]+)\)", path.read_text(encoding="utf-8"))

    assert [target for target in targets if "://" not in target and not (path.parent / target).exists()] == []
