"""Several issuers at one gateway: each with its own keys, rules and users, and none with another's."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fake_homeserver import FakeHomeserver
from tests.running_gateway import SERVER_NAME, RunningGateway, mint, running_gateway

PORTAL, PARTNER = "https://portal.example.org", "https://partner.example.net"
SECRETS = {PORTAL: "the secret of the portal, 32 bytes or more", PARTNER: "the secret of the partner, 32 bytes long"}
JWT: dict[str, Any] = {
    "secret": [],
    "require_exp": True,
    "issuers": [
        {"issuer": PORTAL, "secret": SECRETS[PORTAL], "audience": "portal"},
        {"issuer": PARTNER, "secret": SECRETS[PARTNER], "identity": {"localpart": "{name}"}},
    ],
}


def of(issuer: str, sub: str, **claims: Any) -> str:
    """A good token of an issuer."""
    aud = "portal" if issuer == PORTAL else None
    return mint(sub, **{"secret": SECRETS[issuer], "iss": issuer, "aud": aud, "name": sub, **claims})


@pytest.fixture
async def gateway(tmp_path: Path, homeserver: FakeHomeserver) -> AsyncIterator[RunningGateway]:
    async with running_gateway(tmp_path, homeserver.url, jwt=JWT) as gateway:
        yield gateway


async def test_each_issuer_logs_its_own_users_in_by_its_own_rules(gateway: RunningGateway) -> None:
    portal = await gateway.log_in(of(PORTAL, "alice"))
    partner = await gateway.log_in(of(PARTNER, "4711", name="bob"))

    assert portal.body["user_id"] == f"@alice:{SERVER_NAME}"
    assert partner.body["user_id"] == f"@bob:{SERVER_NAME}"


async def test_a_token_signed_by_another_issuer_is_refused(gateway: RunningGateway) -> None:
    forged = await gateway.log_in(of(PORTAL, "alice", secret=SECRETS[PARTNER]))

    assert (forged.status, forged.body["error"]) == (403, "JWT validation failed: Signature verification failed")


async def test_rules_of_one_issuer_do_not_hold_for_another(gateway: RunningGateway) -> None:
    without = await gateway.log_in(of(PORTAL, "alice", aud=None))
    foreign = await gateway.log_in(of(PARTNER, "bob", aud="portal"))

    assert without.body["error"] == "JWT validation failed: missing_claim: Missing 'aud' claim"
    assert foreign.body["error"] == "JWT validation failed: invalid_claim: Invalid claim 'aud'"


async def test_what_an_entry_does_not_say_is_taken_from_the_jwt_table(gateway: RunningGateway) -> None:
    for issuer in SECRETS:
        refused = await gateway.log_in(of(issuer, "alice", exp=None))
        assert refused.body["error"] == "JWT validation failed: missing_claim: Missing 'exp' claim"


@pytest.mark.parametrize(
    ("iss", "error"),
    [
        ("https://evil.example", "invalid_key: the issuer is not known here"),
        ("https://portal.example.org/", "invalid_key: the issuer is not known here"),
        ("", "invalid_key: the issuer is not known here"),
        (None, "missing_claim: Missing 'iss' claim"),
        (7, "invalid_claim: Invalid claim 'iss'"),
        ([PORTAL], "invalid_claim: Invalid claim 'iss'"),
        ({}, "invalid_claim: Invalid claim 'iss'"),
    ],
)
async def test_an_issuer_without_an_entry_is_refused(gateway: RunningGateway, iss: object, error: str) -> None:
    refused = await gateway.log_in(of(PORTAL, "alice", iss=iss))

    assert (refused.status, refused.body["error"]) == (403, f"JWT validation failed: {error}")


async def test_an_issuer_cannot_log_in_the_account_of_another(gateway: RunningGateway) -> None:
    assert (await gateway.log_in(of(PORTAL, "alice"))).status == 200

    same_subject = await gateway.log_in(of(PARTNER, "alice"))
    same_name = await gateway.log_in(of(PARTNER, "4711", name="alice"))

    for refused in (same_subject, same_name):
        assert (refused.status, refused.body["error"]) == (403, "This identity may not log in here")
    assert "linked_issuers can join two" in gateway.log


async def test_an_account_from_before_issuers_were_set_is_nobodys_until_one_is_linked(
    tmp_path: Path, homeserver: FakeHomeserver
) -> None:
    async with running_gateway(tmp_path, homeserver.url) as before:
        assert (await before.log_in(mint("alice"))).status == 200
    async with running_gateway(tmp_path, homeserver.url, jwt=JWT) as unlinked:
        assert (await unlinked.log_in(of(PORTAL, "alice"))).status == 403
        assert (await unlinked.log_in(of(PARTNER, "alice"))).status == 403
    portal, partner = JWT["issuers"]
    linked = {**JWT, "issuers": [{**portal, "linked_issuers": [""]}, partner]}
    async with running_gateway(tmp_path, homeserver.url, jwt=linked) as after:
        assert (await after.log_in(of(PARTNER, "alice"))).status == 403
        assert (await after.log_in(of(PORTAL, "alice"))).status == 200
    async with running_gateway(tmp_path, homeserver.url, jwt=JWT) as bound:
        assert (await bound.log_in(of(PORTAL, "alice"))).status == 200
        assert (await bound.log_in(of(PARTNER, "alice"))).status == 403


async def test_a_linked_issuer_keeps_its_subjects_accounts(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    old = {"secret": SECRETS[PORTAL], "issuer": "https://old.example.org"}
    async with running_gateway(tmp_path, homeserver.url, jwt=old) as gateway:
        assert (await gateway.log_in(mint("alice", secret=SECRETS[PORTAL], iss=old["issuer"]))).status == 200
    new = {"secret": SECRETS[PORTAL], "issuer": PORTAL, "linked_issuers": old["issuer"]}
    async with running_gateway(tmp_path, homeserver.url, jwt=new) as gateway:
        assert (await gateway.log_in(mint("alice", secret=SECRETS[PORTAL], iss=PORTAL))).status == 200
        stranger = await gateway.log_in(mint("eve", secret=SECRETS[PORTAL], iss=old["issuer"]))
        assert stranger.status == 403  # linked accounts, not accepted tokens


async def test_register_user_is_each_issuers_own(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    portal, partner = JWT["issuers"]
    tables = {**JWT, "issuers": [portal, {**partner, "register_user": False}]}
    async with running_gateway(tmp_path, homeserver.url, jwt=tables) as gateway:
        assert (await gateway.log_in(of(PORTAL, "alice"))).status == 200
        unknown = await gateway.log_in(of(PARTNER, "bob"))
        assert (unknown.status, unknown.body["error"]) == (403, "User not found")


async def test_a_token_id_is_used_up_for_its_issuer_alone(tmp_path: Path, homeserver: FakeHomeserver) -> None:
    async with running_gateway(tmp_path, homeserver.url, jwt={**JWT, "single_use": True}) as gateway:
        assert (await gateway.log_in(of(PORTAL, "alice", jti="1"))).status == 200
        assert (await gateway.log_in(of(PARTNER, "bob", jti="1"))).status == 200
        again = await gateway.log_in(of(PARTNER, "bob", jti="1"))
        assert again.body["error"].endswith("The token was already used")
