"""`token explain` takes a token as people and scripts give it, and `token mint` makes one that passes."""

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.cli.explanation import explain_token
from gateway.cli.token import mint_token
from gateway.config import Configuration
from gateway.errors import Unusable
from tests.cli.commands import TABLES, configured, run

NOW = 1_800_000_000


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    return configured(tmp_path, TABLES)


def test_mint_follows_algorithm_type_and_subject_path(tmp_path: Path) -> None:
    configuration = configured(
        tmp_path,
        TABLES.replace("thirty-two bytes", "thirty-two bytes, and for HS512 of sixty-four ones")
        + 'algorithm = ["HS512"]\ntoken_type = "at+jwt"\nsubject_claim = "user.name"\n',
    )
    token = mint_token(configuration.issuers[0], "alice", {}, NOW)

    checks = {check.name: check for check in explain_token(token, configuration, NOW)}

    assert checks["form"].says == "alg HS512, typ at+jwt"
    assert checks["subject"].says == "alice"


def test_mint_says_that_only_the_issuer_can_sign_with_a_public_key(
    tmp_path: Path,
) -> None:
    path = tmp_path / "key.pem"
    path.write_text(PUBLIC_KEY)
    ecdsa = configured(
        tmp_path,
        TABLES.replace("secret =", "#").strip()
        + f'\nformat = "EDDSA"\nalgorithm = "EdDSA"\nsecret_file = "{path}"\n',
    )

    with pytest.raises(Unusable, match=r'verifies tokens with no HMAC secret .*format = "EDDSA"'):
        mint_token(ecdsa.issuers[0], "alice", {}, NOW)


def test_mint_without_jwt_login_fails_and_says_why(tmp_path: Path) -> None:
    text = TABLES.replace("secret =", 'enable = false\nformat = "B64HMAC"\nalgorithm = "RS256"\nsecret =')

    result = run("token", "mint", "-c", str(configured(tmp_path, text).path), "--sub", "alice")

    assert result.returncode == 1
    assert "JWT login is off ([jwt] enable = false)" in result.stderr
    assert "Traceback" not in result.stderr


def test_mint_signs_with_a_weak_secret_that_is_allowed_and_warns_once(tmp_path: Path) -> None:
    text = TABLES.replace("a secret of at least thirty-two bytes", "short") + "allow_weak_secret = true\n"

    result = run("token", "mint", "-c", str(configured(tmp_path, text).path), "--sub", "alice")

    assert result.returncode == 0
    assert "SecurityWarning" not in result.stderr


def test_mint_warns_of_each_check_that_its_token_fails(tmp_path: Path) -> None:
    text = TABLES + 'required_claims = { groups = "staff" }\n'

    result = run("token", "mint", "-c", str(configured(tmp_path, text).path), "--sub", "")

    assert result.returncode == 0
    assert "warning the token fails subject: Invalid JWT" in result.stderr
    assert "warning the token fails required claims: This identity may not log in here" in result.stderr


@pytest.mark.parametrize("value", ["[" * 100_000, "9" * 5000, "NaN"])
def test_any_value_of_a_claim_is_minted(configuration: Configuration, value: str) -> None:
    result = run("token", "mint", "-c", str(configuration.path), "--sub", "alice", "--claim", f"a={value}")

    assert result.returncode == 0
    assert result.stdout.count(".") == 2


def test_explain_asks_a_person_for_the_token(configuration: Configuration) -> None:
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "gateway", "token", "explain", "-c", str(configuration.path)],
        stdin=follower,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        while "Paste the token, then press Enter and Ctrl-D." not in (line := process.stderr.readline()):
            assert line
        os.write(leader, b"nonsense\n\x04")
        assert process.wait(30) == 1
    os.close(leader)
    os.close(follower)


def test_explain_reads_any_octets(configuration: Configuration) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "gateway", "token", "explain", "-c", str(configuration.path)],
        input=b"\xff\xfe.\x00.",
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert result.returncode == 1
    assert b"decode_error" in result.stdout
    assert b"Traceback" not in result.stderr


def test_the_commands_print_a_token_and_its_explanation(configuration: Configuration) -> None:
    path = str(configuration.path)
    minted = run("token", "mint", "-c", path, "--sub", "alice", "--claim", "groups=[1]")
    explained = run("token", "explain", "-c", path, minted.stdout.strip())
    as_json = run("token", "explain", "-c", path, "--json", minted.stdout.strip())
    refused = run(
        "token", "explain", "-c", path, mint_token(configuration.issuers[0], "alice", {}, int(time.time()) - 3600)
    )

    assert minted.returncode == explained.returncode == as_json.returncode == 0
    assert "@alice:example.org" in explained.stdout
    assert json.loads(as_json.stdout)["passed"] is True
    assert refused.returncode == 1


PUBLIC_KEY = """\
-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
-----END PUBLIC KEY-----
"""
