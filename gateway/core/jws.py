"""A compact JWS (RFC 7515): its form, its header, its signature, its payload. joserfc verifies; the rest is here.

The rule of this file: a signature is verified with a key and an algorithm that the configuration chose, whatever the
header says (RFC 8725 3.1); its `jwk`, `jku`, `x5u` and `x5c` are never looked at.
"""

import binascii
import string
from collections.abc import Callable
from typing import Any, Final

from joserfc.errors import JoseError
from joserfc.jws import JWSRegistry

from gateway.core.keys import Key, KeySet
from gateway.core.lenient_json import parse_loosely
from gateway.core.strict_json import is_small, parse_object, parse_small_object
from gateway.errors import Refusal, Refused


def read_header(token: str, max_token_bytes: int) -> dict[str, Any]:
    """Return the header of a compact JWS whose form is right, with nothing verified yet (RFC 7515 3.1, 7.1)."""
    if len(token.encode("utf-8", "surrogatepass")) > max_token_bytes:
        raise Refused(Refusal.UNDECODABLE, f"the token is larger than {max_token_bytes} bytes")
    segments = token.split(".", 5)
    if len(segments) == 5:  # RFC 7516 7.1
        raise Refused(Refusal.UNDECODABLE, "the token is encrypted (JWE); a signed one (JWS) is needed")
    if len(segments) != 3:
        raise Refused(Refusal.UNDECODABLE, "the token is not three parts joined by dots")
    first, _, _ = [_from_base64url(segment) for segment in segments]
    header = read_object(first, "header", parse_small_object)
    for name in ("crit", "b64"):  # RFC 7515 4.1.11, RFC 7797: nothing critical is understood here
        if name in header:
            raise Refused(Refusal.UNDECODABLE, f"the header has {name!r}")
    for name in ("kid", "typ"):  # RFC 7515 4.1.4, 4.1.9
        if not isinstance(header.get(name, ""), str):
            raise Refused(Refusal.UNDECODABLE, f"the header's {name!r} is not a string")
    return header


def has_token_form(text: str, max_token_bytes: int) -> bool:
    """Say whether a text may be a token; nothing is verified. Few texts pass the count of their dots."""
    if text.count(".") != 2:
        return False
    try:
        return isinstance(read_header(text, max_token_bytes).get("alg"), str)
    except Refused:
        return False


def verify_signature(token: str, header: dict[str, Any], key_set: KeySet) -> bytes:
    """Return the payload, verified with one of the keys that fit the header (RFC 7515 4.1.4, 5.2)."""
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in key_set.algorithms:
        name = algorithm[:32] if isinstance(algorithm, str) else "no 'alg' in the header"
        raise Refused(Refusal.UNSUPPORTED_ALGORITHM, name)
    kid = header.get("kid")
    keys = key_set.candidates(algorithm, kid)
    if not keys:
        raise Refused(Refusal.NO_KEY, f"no key for {algorithm}" + ("" if kid is None else f" is named {kid[:64]!a}"))
    signing_input, _, signature = token.rpartition(".")
    if not any(_verifies(algorithm, key, signing_input.encode(), _from_base64url(signature)) for key in keys):
        raise Refused(Refusal.BAD_SIGNATURE)
    return unverified_payload(token)


def _verifies(algorithm: str, key: Key, signing_input: bytes, signature: bytes) -> bool:
    # Not by joserfc's way of reading a token: it looks at the header's `jku` and `x5c` too.
    implementation = JWSRegistry.algorithms[algorithm]
    try:
        implementation.check_key(key)
        return implementation.verify(signing_input, signature, key)
    except (JoseError, ValueError, OverflowError):
        # Values that a curve or a modulus can't hold.
        return False


def unverified_payload(token: str) -> bytes:
    """Return the payload of a token whose form `read_header` has seen; nothing vouches for it."""
    return _from_base64url(token.split(".")[1])


def unverified_claims(token: str) -> dict[str, Any]:
    """Return the claims of a token whose form `read_header` has seen, to choose by; nothing vouches for them.

    Large ones, as of a user with thousands of groups, are read quickly and not strictly: whoever believes them reads
    them again.
    """
    payload = unverified_payload(token)
    return read_object(payload, "payload", parse_object if is_small(payload) else parse_loosely)


def read_object(raw: bytes, part: str, parse: Callable[[bytes], dict[str, Any]] = parse_object) -> dict[str, Any]:
    """Return the JSON object of a part of a token, read strictly; `part` is its name for the answer."""
    try:
        return parse(raw)
    except ValueError as error:
        raise Refused(Refusal.UNDECODABLE, f"{part}: {error}") from None


# base64url to base64 (RFC 4648 5); what is in neither alphabet becomes what no base64 has, and `+` and `/` too.
_TO_BASE64: Final = bytes(
    octet
    if chr(octet) in string.ascii_letters + string.digits
    else {ord("-"): ord("+"), ord("_"): ord("/")}.get(octet, 0)
    for octet in range(256)
)
# The last characters that leave no bit over, by how many characters the last group has (RFC 4648 3.5).
_LAST: Final = {2: frozenset(b"AQgw"), 3: frozenset(b"AEIMQUYcgkosw048")}


def _from_base64url(segment: str) -> bytes:
    """Return the octets of the one spelling that RFC 7515 2 allows: no padding, no line breaks, no bits left over."""
    raw = segment.encode("utf-8", "surrogatepass")
    rest = len(raw) % 4
    if rest and raw[-1] not in _LAST.get(rest, b""):
        raise _not_base64url()
    try:
        return binascii.a2b_base64(raw.translate(_TO_BASE64) + b"=="[: -rest % 4], strict_mode=True)
    except binascii.Error:
        raise _not_base64url() from None


def _not_base64url() -> Refused:
    return Refused(Refusal.UNDECODABLE, "a part of the token is not base64url")
