"""A Synapse with its own JWT login, and the gateway that `import synapse` makes from its file: they agree."""

import importlib.util
import os
import secrets
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import toml

from gateway.cli.import_synapse import read_synapse
from gateway.cli.imported import toml_text
from gateway.cli.synapse import SynapseSettings, running_synapse
from gateway.cli.templates import registration_yaml
from tests.real_synapse import RealSynapse
from tests.running_gateway import LOGIN, RunningGateway, mint, running_gateway
from tests.synapse_limits import RATE_LIMITS_OFF

# Of the documented sample, as far as it names values; the secret is shorter than RFC 7518 wants it.
SECRET = ISSUER = AUDIENCE = "provided-by-your-issuer"
JWT_CONFIG = {
    "enabled": True,
    "secret": SECRET,
    "algorithm": "HS256",
    "subject_claim": "user",
    "display_name_claim": "name",
    "issuer": ISSUER,
    "audiences": [AUDIENCE, "another"],
}
SERVER_NAME = "example.org"


@dataclass(frozen=True)
class Pair:
    """The two ways in to one homeserver."""

    synapse: RealSynapse
    gateway: RunningGateway

    async def log_in(self, **claims: Any) -> tuple[tuple[int, Any], tuple[int, Any]]:
        """Post the same token to Synapse's own login and to the gateway; what each says."""
        token = mint(None, secret=SECRET, **{"iss": ISSUER, "aud": AUDIENCE, **claims})
        body = {"type": "org.matrix.login.jwt", "token": token}
        theirs = await self.synapse.call("POST", LOGIN, body=body)
        ours = await self.gateway.log_in(token)
        return told(theirs.status, theirs.body), told(ours.status, ours.body)


def told(status: int, body: dict[str, Any]) -> tuple[int, Any]:
    return status, body.get("user_id") or (body["errcode"], body["error"])


@asynccontextmanager
async def running_pair(directory: Path) -> AsyncIterator[Pair]:
    as_token = secrets.token_hex(32)
    registration = directory / "registration.yaml"
    registration.write_text(registration_yaml(as_token, SERVER_NAME))
    settings = SynapseSettings(
        server_name=SERVER_NAME,
        app_services=(registration,),
        extra={**RATE_LIMITS_OFF, "jwt_config": JWT_CONFIG},
    )
    async with running_synapse(directory / "synapse", settings) as synapse:
        printed = toml_text(read_synapse([directory / "synapse" / "homeserver.yaml"]))
        tables = tomllib.loads(printed)
        assert tables["homeserver"] == {"url": synapse.url, "server_name": SERVER_NAME}
        (directory / "gateway").mkdir()
        tables["session"] = {"as_token": as_token}
        async with running_gateway(directory / "gateway", synapse.url, **tables) as gateway:
            assert toml.loads(printed)["jwt"].items() <= toml.load(gateway.configuration.path)["jwt"].items()
            yield Pair(RealSynapse(synapse.url, as_token), gateway)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    if importlib.util.find_spec("synapse") is None and os.environ.get("CI") != "true":
        pytest.skip("matrix-synapse is not installed")
    async with running_pair(tmp_path) as running:
        yield running


async def test_a_token_logs_the_same_user_in_at_synapse_and_at_the_gateway(pair: Pair) -> None:
    for name in ("alice", "bob.2=x", "a-b_c/d+"):
        theirs, ours = await pair.log_in(user=name, name="A Name")
        assert theirs == ours == (200, f"@{name}:{SERVER_NAME}")


async def test_a_user_that_the_gateway_made_logs_in_at_synapse_too(pair: Pair) -> None:
    token = mint(None, secret=SECRET, iss=ISSUER, aud=AUDIENCE, user="carol")

    assert (await pair.gateway.log_in(token)).body["user_id"] == "@carol:example.org"
    answer = await pair.synapse.call("POST", LOGIN, body={"type": "org.matrix.login.jwt", "token": token})
    assert (answer.status, answer.body["user_id"]) == (200, "@carol:example.org")


async def test_both_take_and_refuse_the_same_tokens_with_the_same_words(pair: Pair) -> None:
    cases: list[tuple[dict[str, Any], int]] = [
        ({"exp": None}, 200),
        ({"aud": ["x", "another"]}, 200),
        ({"exp": 1}, 403),
        ({"nbf": 2**40}, 403),
        ({"iat": 2**40}, 403),
        ({"iss": "another"}, 403),
        ({"iss": None}, 403),
        ({"aud": "a third"}, 403),
        ({"aud": None}, 403),
        ({"user": None}, 403),
    ]
    for claims, status in cases:
        theirs, ours = await pair.log_in(**{"user": "dave", **claims})
        assert theirs == ours, claims
        assert theirs[0] == status, claims
