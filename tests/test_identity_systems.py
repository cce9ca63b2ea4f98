"""Tokens in the shape that real identity systems give them pass under the configuration that config/README.md shows.

tests/scenarios/*.toml hold for each system: the `section` of the page, `header` and `claims` of a good token (a text
of "now", "now+300" or "now-5" stands for that time), the `user` and `display_name` that come of it, and tokens that
are `refused`: with changed members of header and claims, some `left_out`, or another header than was signed.
"""

import json
import re
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import RSAKey

from gateway.config import Configuration, load
from gateway.core.identity import Identity, identify
from gateway.core.tokens import verify
from gateway.errors import Refused
from tests.fake_homeserver import FakeHomeserver
from tests.running_gateway import running_gateway, write_configuration
from tests.signing import encode

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "config" / "README.md").read_text(encoding="utf-8")
NOW = 1_800_000_000
KEY, OTHER_KEY = (rsa.generate_private_key(65537, 2048) for _ in range(2))


@dataclass(frozen=True)
class Scenario:
    """What an identity system issues, and what comes of it."""

    section: str
    user: str
    header: dict[str, Any]
    claims: dict[str, Any]
    refused: list[dict[str, Any]]
    display_name: str | None = None

    def __str__(self) -> str:
        return self.section


SCENARIOS = [
    Scenario(**tomllib.loads(path.read_text(encoding="utf-8")))
    for path in sorted((ROOT / "tests" / "scenarios").glob("*.toml"))
]
REFUSED = [(scenario, refused) for scenario in SCENARIOS for refused in scenario.refused]


def block(section: str) -> dict[str, Any]:
    """The configuration that the page shows for an identity system."""
    found = re.search(rf"^### {re.escape(section)}\n.*?^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, section
    return tomllib.loads(found[1])


def tables(scenario: Scenario, folder: Path) -> dict[str, Any]:
    """That configuration, with a JWK set in a file in the place of the one that would be fetched."""
    shown = block(scenario.section)
    del shown["jwt"]["discovery_url"]
    keys = [jwk(OTHER_KEY, "kid-of-the-next-key"), jwk(KEY, scenario.header["kid"])]
    (folder / "keys.json").write_text(json.dumps({"keys": keys}), encoding="utf-8")
    return {**shown, "jwt": {**shown["jwt"], "secret": [], "jwks_file": "keys.json"}}


def jwk(key: rsa.RSAPrivateKey, kid: str) -> dict[str, Any]:
    public = RSAKey.import_key(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return {**public.as_dict(private=False), "kid": kid, "use": "sig", "alg": "RS256"}


def moments(value: Any, now: int) -> Any:
    if isinstance(value, dict):
        return {name: moments(inner, now) for name, inner in value.items()}
    if isinstance(value, str) and (match := re.fullmatch(r"now([+-]\d+)?", value)):
        return now + int(match[1] or 0)
    return value


def issue(scenario: Scenario, now: int, change: dict[str, Any] | None = None) -> str:
    """Return the scenario's token, or the one that `change` says."""
    change = change or {}
    if "token" in change:
        return str(change["token"])
    claims = moments({**scenario.claims, **change.get("claims", {})}, now)
    left_out = set(change.get("left_out", []))
    assert left_out <= set(claims)
    header = {**scenario.header, **change.get("header", {})}
    shown = encode(json.dumps(header).encode())
    signed = encode(json.dumps({**header, **change.get("signed_header", {})}).encode())
    payload = encode(json.dumps({name: claims[name] for name in claims if name not in left_out}).encode())
    signature = KEY.sign(f"{signed}.{payload}".encode(), padding.PKCS1v15(), SHA256())
    return f"{shown}.{payload}.{encode(signature)}"


def expected(refused: dict[str, Any]) -> tuple[int, dict[str, str]]:
    if "invalid_username" in refused:
        return 400, {"errcode": "M_INVALID_USERNAME", "error": refused["invalid_username"]}
    return 403, {"errcode": "M_FORBIDDEN", "error": refused["answer"]}


def configured(scenario: Scenario, folder: Path) -> Configuration:
    path = write_configuration(folder, "http://127.0.0.1:8008", tables(scenario, folder))
    return load(path, {})


def identified(token: str, configuration: Configuration) -> Identity:
    (issuer,) = configuration.issuers
    return identify(verify(token, issuer.trust, NOW), issuer.mapping)


def test_each_system_of_the_page_has_its_scenario() -> None:
    section = PAGE[PAGE.index("\n## Identity systems\n") :]

    assert set(re.findall(r"^### (.*)$", section, re.MULTILINE)) == {str(scenario) for scenario in SCENARIOS}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_the_configuration_of_the_page_checks_what_keeps_other_tokens_out(scenario: Scenario) -> None:
    jwt = block(scenario.section)["jwt"]

    assert {"issuer", "audience", "require_exp", "required_claims", "discovery_url"} <= set(jwt)
    assert jwt["discovery_url"] == jwt["issuer"].rstrip("/") + "/.well-known/openid-configuration"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_the_token_of_an_identity_system_makes_its_user(scenario: Scenario, tmp_path: Path) -> None:
    configuration = configured(scenario, tmp_path)
    identity = identified(issue(scenario, NOW), configuration)

    assert (identity.user_id, identity.display_name) == (scenario.user, scenario.display_name)
    assert identity.issuer_matters
    assert not [warning for warning in configuration.warnings if "[jwt]" in warning]


@pytest.mark.parametrize(
    ("scenario", "refused"), REFUSED, ids=[f"{scenario}: {refused['what']}" for scenario, refused in REFUSED]
)
def test_a_token_of_that_system_for_something_else_is_refused(
    scenario: Scenario, refused: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(Refused) as caught:
        identified(issue(scenario, NOW, refused), configured(scenario, tmp_path))
    assert (caught.value.status, caught.value.body()) == expected(refused)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
async def test_a_gateway_with_that_configuration_logs_the_user_in(
    scenario: Scenario, homeserver: FakeHomeserver, tmp_path: Path
) -> None:
    async with running_gateway(tmp_path, homeserver.url, **tables(scenario, tmp_path)) as gateway:
        now = int(time.time())
        logged_in = await gateway.log_in(issue(scenario, now))
        assert (logged_in.status, logged_in.body["user_id"]) == (200, scenario.user)
        for refused in scenario.refused:
            answered = await gateway.log_in(issue(scenario, now, refused))
            assert (answered.status, answered.body) == expected(refused), refused["what"]
