"""Signing a token of our own, for a homeserver that has a secret with us (RFC 7515, RFC 7519)."""

import functools
from collections.abc import Mapping
from typing import Any

from joserfc import jwt
from joserfc.jwk import OctKey

from gateway.core import hmac_secrets


def signed(claims: Mapping[str, Any], secret: str, algorithm: str) -> str:
    """Return the claims as a token in compact form, signed with an HMAC secret."""
    return jwt.encode({"alg": algorithm, "typ": "JWT"}, dict(claims), _key(secret), algorithms=[algorithm])


@functools.lru_cache(maxsize=1)
def _key(secret: str) -> OctKey:
    return hmac_secrets.imported(secret.encode())
