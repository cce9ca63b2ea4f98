"""`token explain` and `token mint`: each check on its own line, and nothing leaves the machine."""

import json
import time
from pathlib import Path

import pytest

from gateway.cli.token import explain_token, mint_token
from gateway.config import Configuration
from gateway.errors import Unusable
from tests.cli.commands import TABLES, configured, run

NOW = 1_800_000_000


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    return configured(tmp_path, TABLES)


def test_a_minted_token_passes_every_check(configuration: Configuration) -> None:
    token = mint_token(configuration, "Alice", {}, NOW)

    checks = explain_token(token, configuration, NOW)

    assert [check.name for check in checks if check.passed is not True] == []
    assert {check.name: check.says for check in checks}["user id"] == "@alice:example.org"


@pytest.mark.parametrize(
    ("later", "claims", "failing"),
    [
        (3600, {}, {"dates"}),
        (-3600, {}, {"dates"}),
        (0, {"iss": "https://evil.example"}, {"iss"}),
        (0, {"aud": "another"}, {"aud"}),
        (0, {"sub": ""}, {"subject"}),
        (0, {"sub": "@alice:another.server"}, {"localpart"}),
        (0, {"sub": "12345"}, {"user id"}),
        (3600, {"iss": "https://evil.example", "sub": "a b"}, {"dates", "iss", "user id"}),
    ],
)
def test_each_check_fails_on_its_own(
    configuration: Configuration, later: int, claims: dict[str, str], failing: set[str]
) -> None:
    token = mint_token(configuration, "alice", claims, NOW)

    checks = explain_token(token, configuration, NOW + later)

    assert {check.name for check in checks if check.passed is False} == failing


def test_a_changed_token_fails_at_its_signature_and_is_still_explained(configuration: Configuration) -> None:
    token = mint_token(configuration, "alice", {}, NOW)

    checks = explain_token(token[:-4] + "AAAA", configuration, NOW)

    assert [check.name for check in checks if check.passed is False] == ["signature"]
    assert "user id" in {check.name for check in checks}


def test_what_is_no_token_is_explained_in_one_line(configuration: Configuration) -> None:
    checks = explain_token("nonsense", configuration, NOW)

    assert [(check.name, check.passed) for check in checks] == [("form", False)]


def test_mint_follows_algorithm_type_and_subject_path(tmp_path: Path) -> None:
    configuration = configured(
        tmp_path,
        TABLES.replace("thirty-two bytes", "thirty-two bytes, and for HS512 of sixty-four ones")
        + 'algorithm = ["HS512"]\ntoken_type = "at+jwt"\nsubject_claim = "user.name"\n',
    )
    token = mint_token(configuration, "alice", {}, NOW)

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

    with pytest.raises(Unusable, match="holds no HMAC secret"):
        mint_token(ecdsa, "alice", {}, NOW)


def test_the_commands_print_a_token_and_its_explanation(configuration: Configuration) -> None:
    path = str(configuration.path)
    minted = run("token", "mint", "-c", path, "--sub", "alice", "--claim", "groups=[1]")
    explained = run("token", "explain", "-c", path, minted.stdout.strip())
    as_json = run("token", "explain", "-c", path, "--json", minted.stdout.strip())
    refused = run("token", "explain", "-c", path, mint_token(configuration, "alice", {}, int(time.time()) - 3600))

    assert minted.returncode == explained.returncode == as_json.returncode == 0
    assert "@alice:example.org" in explained.stdout
    assert json.loads(as_json.stdout)["passed"] is True
    assert refused.returncode == 1


PUBLIC_KEY = """\
-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
-----END PUBLIC KEY-----
"""
