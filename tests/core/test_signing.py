"""A token of our own is one that its reader can verify."""

import pytest
from joserfc import jwt

from gateway.core.hmac_secrets import imported
from gateway.core.signing import signed


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize("secret", ["s" * 64, "short", "with ä and \u20ac, long enough for any: " + "x" * 64])
def test_a_token_says_what_it_was_given(algorithm: str, secret: str) -> None:
    token = jwt.decode(signed({"sub": "alice"}, secret, algorithm), imported(secret.encode()), algorithms=[algorithm])

    assert token.claims == {"sub": "alice"}
    assert token.header == {"alg": algorithm, "typ": "JWT"}
