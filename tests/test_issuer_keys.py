"""Where keys come from: the configuration's are the same for every token, a URL keeps them whole or is refused."""

import pytest
from pydantic import ValidationError

from gateway.core.keys import build_key_set
from gateway.issuer_keys import FixedKeys, KeySourceSettings

DOCUMENT = "https://id.example/.well-known/openid-configuration"


async def test_fixed_keys_are_those_of_the_configuration() -> None:
    key_set = build_key_set("HMAC", ["x" * 64], ["HS256"])

    assert await FixedKeys(key_set).for_token({"alg": "HS256", "kid": "any"}) is key_set


def test_a_set_is_used_for_a_week_without_its_issuer() -> None:
    assert KeySourceSettings(discovery_url=DOCUMENT).jwks_max_stale == 7 * 24 * 3600


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("jwks_url", "http://id.example/keys", "http lets others change the keys on their way"),
        ("jwks_url", "id.example/keys", "not a URL; write https://HOST/PATH"),
        ("discovery_url", "http://id.example/.well-known/openid-configuration", "http lets others change the keys"),
        ("discovery_url", "https://id.example", "write the whole address of the document"),
        ("jwks_max_stale", 299, "greater than or equal to 300"),
    ],
)
def test_a_setting_that_keys_must_not_come_by_is_refused(key: str, value: object, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        KeySourceSettings.model_validate({key: value})
