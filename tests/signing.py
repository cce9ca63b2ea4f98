"""Tokens signed with HS256, also such as no library would sign."""

import base64
import hmac
import json
from typing import Any

SECRET = "the secret of the tests, long enough for HS512: 0123456789abcdef0123456789abcdef"


def encode(raw: bytes) -> str:
    """Return base64url without padding (RFC 7515 2)."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def sign(header: bytes, payload: bytes, secret: str = SECRET) -> str:
    """Sign anything at all."""
    signing_input = f"{encode(header)}.{encode(payload)}"
    return f"{signing_input}.{encode(hmac.digest(secret.encode(), signing_input.encode(), 'sha256'))}"


def sign_json(payload: Any, header: Any = None, secret: str = SECRET) -> str:
    """Sign JSON; octets are taken as they are, and without a header it is an ordinary one."""
    return sign(_octets({"alg": "HS256"} if header is None else header), _octets(payload), secret)


def _octets(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()
