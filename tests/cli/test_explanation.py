"""Each check of a login is explained on its own, and what passes all of them is what logs in."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from gateway.cli.explanation import explain_token
from gateway.cli.token import mint_token
from gateway.config import Configuration
from gateway.core.identity import identify
from gateway.core.tokens import verify
from gateway.errors import Refused
from tests.cli.commands import TABLES, configured
from tests.fake_issuer import JWKS, running_issuer
from tests.signing import sign_json

NOW = 1_800_000_000
DATES = f"nbf is {NOW}, iat is {NOW}; now is {NOW}, leeway is 60"


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    return configured(tmp_path, TABLES)


def test_a_minted_token_passes_every_check(configuration: Configuration) -> None:
    token = mint_token(configuration.issuers[0], "Alice", {}, NOW)

    checks = explain_token(token, configuration, NOW)

    assert [check.name for check in checks if check.passed is not True] == ["escape"]  # which is off
    assert {check.name: check.says for check in checks}["user id"] == "@alice:example.org"


def test_a_name_that_no_new_user_may_have_passes_with_what_it_takes(tmp_path: Path) -> None:
    configuration = configured(tmp_path, f"{TABLES}[identity]\nhistorical = true\n")
    token = mint_token(configuration.issuers[0], "Anna@Example.com", {}, NOW)

    checks = {check.name: check.says for check in explain_token(token, configuration, NOW)}

    assert checks["user id"] == "@anna@example.com:example.org, if the homeserver has this user"


@pytest.mark.parametrize(
    ("later", "claims", "failing"),
    [
        (3600, {}, {"dates"}),
        (-3600, {}, {"dates"}),
        (0, {"iss": "https://evil.example"}, {"iss"}),
        (0, {"aud": "another"}, {"aud"}),
        (0, {"sub": ""}, {"subject"}),
        (0, {"sub": "@alice:another.server"}, {"server name"}),
        (0, {"sub": "12345"}, {"user id"}),
        (3600, {"iss": "https://evil.example", "sub": "a b"}, {"dates", "iss", "user id"}),
    ],
)
def test_each_check_fails_on_its_own(
    configuration: Configuration, later: int, claims: dict[str, str], failing: set[str]
) -> None:
    token = mint_token(configuration.issuers[0], "alice", claims, NOW)

    checks = explain_token(token, configuration, NOW + later)

    assert {check.name for check in checks if check.passed is False} == failing


@pytest.mark.parametrize(
    ("claims", "name", "says"),
    [
        (
            {"aud": "foo"},
            "aud",
            """JWT validation failed: invalid_claim: Invalid claim 'aud'; found "foo"; audience is ["matrix"]""",
        ),
        (
            {"iss": 5},
            "iss",
            "JWT validation failed: invalid_claim: Invalid claim 'iss'; found 5; issuer is [\"https://id.example.org\"]",
        ),
        (
            {"exp": 0},
            "dates",
            f"JWT validation failed: expired_token: The token is expired; exp is 0, {DATES}",
        ),
        ({"sub": None}, "subject", 'Invalid JWT; subject_claim is "sub"'),
        ({"sub": "_login_gateway"}, "user id", "A user name may not begin with an underscore"),
        (
            {"sub": "mallory"},
            "allow and deny",
            "This identity may not log in here; localpart 'mallory' is denied by 'mallory'",
        ),
    ],
)
def test_a_failing_check_says_the_answer_and_what_was_found(
    tmp_path: Path, claims: dict[str, Any], name: str, says: str
) -> None:
    configuration = configured(tmp_path, TABLES + '[identity]\ndeny = ["mallory"]\n')
    token = mint_token(configuration.issuers[0], "alice", claims, NOW)

    failing = {check.name: check.says for check in explain_token(token, configuration, NOW) if not check.passed}

    assert failing[name] == says


STRICT = """
require_exp = true
max_token_age = 600
single_use = true
token_type = "JWT"
required_claims = { groups = ["matrix"] }
[identity]
localpart = "{name:([^@]+)@example\\\\.org}"
deny = ["mallory"]
"""


MEMBERS: dict[str, list[object]] = {
    "iss": ["https://id.example.org", "other", 5],
    "aud": ["matrix", ["other", "matrix"], "other", [], [5]],
    "exp": [NOW + 60, NOW - 3600, "soon"],
    "nbf": [NOW, NOW + 3600, None],
    "iat": [NOW, NOW + 3600, NOW - 3600, True],
    "jti": ["1", "", 1],
    "sub": ["alice", "@alice:example.org", "@alice:other.org", "_a", "12", "a b", "", None, 1],
    "name": ["alice@example.org", "mallory@example.org", "alice@example.org.evil", 5],
    "groups": ["matrix", ["matrix"], ["other"], {}],
}


def logs_in(token: str, configuration: Configuration) -> bool:
    try:
        identify(verify(token, configuration.issuers[0].trust, NOW), configuration.issuers[0].mapping)
    except Refused:
        return False
    return True


@pytest.mark.parametrize("more", ["", STRICT])
@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_passes_is_what_logs_in(more: str, data: st.DataObject, tmp_path: Path) -> None:
    configuration = configured(tmp_path, TABLES + more)
    # The first value of each is good, so that many tokens pass.
    choices = {name: st.sampled_from([values[0]] * 20 + values) for name, values in MEMBERS.items()}
    claims = data.draw(st.fixed_dictionaries(choices))
    for name in data.draw(st.sets(st.sampled_from(sorted(MEMBERS)), max_size=1)):
        del claims[name]
    header = {"alg": "HS256", **data.draw(st.sampled_from([{"typ": "JWT"}] * 9 + [{}, {"typ": 1}, {"b64": True}]))}
    secret = data.draw(st.sampled_from(["a secret of at least thirty-two bytes"] * 9 + ["z" * 40]))
    token = sign_json(claims, header, secret) + data.draw(st.sampled_from([""] * 9 + ["=", ".x"]))

    checks = explain_token(token, configuration, NOW)

    event(f"logs in: {logs_in(token, configuration)}")
    assert all(check.passed is not False for check in checks) is logs_in(token, configuration), checks


def test_the_type_of_a_token_is_explained(tmp_path: Path) -> None:
    token = mint_token(configured(tmp_path, TABLES).issuers[0], "alice", {}, NOW)

    checks = explain_token(token, configured(tmp_path, TABLES + 'token_type = "at+jwt"\n'), NOW)

    typ = next(check for check in checks if check.name == "typ")
    assert typ.passed is False
    assert typ.says.endswith("""Invalid claim 'typ'; found "JWT"; token_type is "at+jwt\"""")


def test_a_changed_token_fails_at_its_signature_and_is_still_explained(configuration: Configuration) -> None:
    token = mint_token(configuration.issuers[0], "alice", {}, NOW)

    checks = explain_token(token[:-4] + "AAAA", configuration, NOW)

    assert [check.name for check in checks if check.passed is False] == ["signature"]
    assert "user id" in {check.name for check in checks}


def test_what_is_no_token_makes_every_later_check_impossible(configuration: Configuration) -> None:
    checks = explain_token("nonsense", configuration, NOW)

    assert [(check.name, check.passed) for check in checks][:3] == [
        ("form", False),
        ("signature", None),
        ("claims", None),
    ]
    assert {check.passed for check in checks[1:]} == {None}


async def test_keys_at_a_url_are_fetched_to_explain_and_nothing_of_the_token_is_sent(tmp_path: Path) -> None:
    async with running_issuer() as issuer:
        tables = TABLES.partition("[jwt]")[0] + (
            f'[jwt]\nformat = "JWKS"\nalgorithm = "ES256"\nissuer = "{issuer.url}"\njwks_url = "{issuer.jwks_url}"\n'
        )
        configuration = configured(tmp_path, tables)
        token = issuer.mint()

        async def signature() -> tuple[bool | None, str]:
            checks = await asyncio.to_thread(explain_token, token, configuration, time.time())
            return next((check.passed, check.says) for check in checks if check.name == "signature")

        assert await signature() == (True, "verified")
        assert [asked.path for asked in issuer.asked] == [JWKS]
        assert not any(token in value for asked in issuer.asked for value in asked.headers.values())
        issuer.answers[JWKS] = lambda: web.Response(status=500)
        passed, says = await signature()
    assert passed is False
    assert says == f"Login with a token is not available for the moment; {issuer.jwks_url} answered 500"
