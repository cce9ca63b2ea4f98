"""HMAC secrets: a configured text to octets, and the octets to a key; how long they must be (RFC 7518 3.2).

A public or private key in any form is no secret: whoever knows the public one could sign (RFC 8725 2.1).
"""

import base64
import json
import re
import warnings
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_der_public_key
from joserfc.errors import SecurityWarning
from joserfc.jwk import OctKey

Kind: TypeAlias = Literal["HMAC", "B64HMAC"]

# RFC 7518 3.2: a key of the same size as the hash output or larger.
MIN_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
ALGORITHMS: Final = tuple(MIN_BYTES)

_EMPTY: Final = "it is empty; make one with `openssl rand -base64 48`"


def load(kind: Kind, text: str) -> bytes:
    """Return the octets of a secret, whatever their number; ValueError says why it is none, and the mend."""
    if not text.strip():
        raise ValueError(_EMPTY)
    if _is_asymmetric(text):
        raise ValueError("this is a public or private key, not an HMAC secret; set format to its kind")
    octets = text.encode() if kind == "HMAC" else _from_base64(text)
    if not octets:
        raise ValueError(_EMPTY)
    return octets


def imported(octets: bytes) -> OctKey:
    """Return the secret as joserfc takes it; its length is judged before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)
        return OctKey.import_key(octets)


def _from_base64(text: str) -> bytes:
    text = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise ValueError("it is not base64; format B64HMAC accepts the standard or the URL alphabet") from None


def _is_asymmetric(text: str) -> bool:
    """Say whether the text holds a public or private key."""
    if _is_key_text(text.encode()):
        return True
    try:
        # Identity systems also show their keys so: base64 without the lines of PEM around it (JWK's `x5c`).
        octets = _from_base64(text)
    except ValueError:
        return False
    return _is_key_text(octets) or any(_loads(load, octets) for load in _DER)


# PEM and SSH (RFC 4716, RFC 4253 6.6), also as one line of many, and SSH's octets as base64 holds them.
_KEY_TEXT: Final = re.compile(
    rb"-----BEGIN|---- BEGIN SSH2|(?:^\s*|^\0{3}(?s:.))(?:sk-)?(?:ssh|ecdsa)-|(?:ssh|ecdsa)-\S{1,80}\s+AAAA"
)


def _is_key_text(text: bytes) -> bool:
    if _KEY_TEXT.search(text):
        return True
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and not {"kty", "keys", "x5c"}.isdisjoint(value)  # RFC 7517 4.1, 5.1


_DER: Final[tuple[Callable[[bytes], object], ...]] = (
    load_der_public_key,
    x509.load_der_x509_certificate,
    lambda octets: load_der_private_key(octets, None),
)


def _loads(load: Callable[[bytes], object], octets: bytes) -> bool:
    try:
        load(octets)
    except (TypeError, UnsupportedAlgorithm):
        return True  # a private key with a password, a key of a kind that is not known here
    except ValueError:
        return False
    return True
