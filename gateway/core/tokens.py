"""A compact JWS and the rules for it to claims. joserfc verifies; what it leaves open is closed here.

The rule of this file: nothing of a token is believed before its signature is verified with a key and an algorithm
that the configuration chose (RFC 8725 3.1); `jwk`, `jku`, `x5u` and `x5c` of the header are never looked at.
"""

import binascii
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

from joserfc.errors import JoseError
from joserfc.jws import JWSRegistry
from pydantic import Field

from gateway.core.keys import Key, KeySet
from gateway.core.strict_json import parse_object
from gateway.errors import Refusal, Refused
from gateway.settings import OneOrMore, Table

Claims: TypeAlias = dict[str, Any]
T = TypeVar("T")

# Above 2^53 a JSON number is not exact (RFC 8259 6), and no date is that far away.
_MAX_DATE: Final = 2**53


class TokenRules(Table):
    """What a token must hold, as the `[jwt]` table says it. Times are in seconds."""

    audience: OneOrMore = []
    issuer: OneOrMore = []
    require_exp: bool = False
    require_nbf: bool = False
    validate_exp: bool = True
    validate_nbf: bool = True
    validate_signature: bool = True
    leeway: int = Field(60, ge=0, le=_MAX_DATE)
    max_token_age: int = Field(0, ge=0, le=_MAX_DATE)
    single_use: bool = False
    single_use_grace: bool = False
    token_type: str | None = None
    max_token_bytes: int = Field(16384, ge=64, le=1024 * 1024)


@dataclass(frozen=True, slots=True)
class Trust:
    """Who is believed: the keys of an issuer and the rules for its tokens."""

    key_set: KeySet
    rules: TokenRules


def verify(token: str, trust: Trust, now: float) -> Claims:
    """Return the claims of a token that passes every check; raises `Refused` with the first that fails.

    `now` is in seconds since the epoch.
    """
    header, claims = read_signed(token, trust)
    check_claims(header, claims, trust.rules, now)
    return claims


def read_signed(token: str, trust: Trust) -> tuple[dict[str, Any], Claims]:
    """Return header and claims of a token whose signature verifies, with nothing of the claims checked yet."""
    header = read_header(token, trust.rules.max_token_bytes)
    if not trust.rules.validate_signature:
        return header, read_claims(unverified_payload(token))
    return header, read_claims(verify_signature(token, header, trust.key_set))


def check_claims(header: dict[str, Any], claims: Claims, rules: TokenRules, now: float) -> None:
    """Check all that the rules ask of header and claims at `now`; raises `Refused` with the first that fails."""
    check_type(header, rules)
    check_issuer(claims, rules)
    check_audience(claims, rules)
    check_dates(claims, rules, now)
    check_token_id(claims, rules)


def read_header(token: str, max_token_bytes: int) -> dict[str, Any]:
    """Return the header of a compact JWS whose form is right, with nothing verified yet (RFC 7515 3.1, 7.1)."""
    if len(token.encode("utf-8", "surrogatepass")) > max_token_bytes:
        raise Refused(Refusal.UNDECODABLE, f"the token is larger than {max_token_bytes} bytes")
    segments = token.split(".")
    if len(segments) == 5:  # RFC 7516 7.1
        raise Refused(Refusal.UNDECODABLE, "the token is encrypted (JWE); a signed one (JWS) is needed")
    if len(segments) != 3:
        raise Refused(Refusal.UNDECODABLE, "the token is not three parts joined by dots")
    first, _, _ = [_from_base64url(segment) for segment in segments]
    header = _read_object(first, "header")
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


def is_signed(token: str, trust: Trust) -> bool:
    """Say whether a key verifies the signature of a token whose form is right, or none has to."""
    rules = trust.rules
    try:
        if rules.validate_signature:
            verify_signature(token, read_header(token, rules.max_token_bytes), trust.key_set)
    except Refused:
        return False
    return True


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


def choose_issuer(token: str, by_name: Mapping[str, T]) -> T:
    """Return the entry that the `iss` of a token names; its form must be right, nothing vouches for it yet.

    The claim is checked again, like any other, once the keys of that entry have verified it (RFC 8725 3.8).
    """
    claims = read_claims(unverified_payload(token))
    if "iss" not in claims:
        raise Refused(Refusal.CLAIM_MISSING, "iss")
    name = claims["iss"]
    if not isinstance(name, str):
        raise Refused(Refusal.CLAIM_INVALID, "iss")
    if name not in by_name:
        raise Refused(
            Refusal.NO_KEY, "the issuer is not known here", reason=f"no entry has the issuer {name[:200]!r}"
        )
    return by_name[name]


def read_claims(payload: bytes) -> Claims:
    """Return the claims set (RFC 7519 7.2 step 10), read strictly."""
    return _read_object(payload, "payload")


def check_type(header: dict[str, Any], rules: TokenRules) -> None:
    """Check the `typ` header (RFC 8725 3.11; RFC 7515 4.1.9: a missing `application/` is implied)."""
    if rules.token_type is None:
        return
    value = header.get("typ")
    if not isinstance(value, str) or _media_type(value) != _media_type(rules.token_type):
        raise Refused(Refusal.CLAIM_INVALID, "typ")


def check_issuer(claims: Claims, rules: TokenRules) -> None:
    """Check `iss` (RFC 7519 4.1.1): one of the configured ones, exactly."""
    if not rules.issuer:
        return
    if "iss" not in claims:
        raise Refused(Refusal.CLAIM_MISSING, "iss")
    if claims["iss"] not in rules.issuer:
        raise Refused(Refusal.CLAIM_INVALID, "iss")


def check_audience(claims: Claims, rules: TokenRules) -> None:
    """Check `aud` (RFC 7519 4.1.3): it must name us, also where we have no name."""
    if "aud" not in claims:
        if rules.audience:
            raise Refused(Refusal.CLAIM_MISSING, "aud")
        return
    value = claims["aud"]
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(entry, str) for entry in values) or not set(values) & set(rules.audience):
        raise Refused(Refusal.CLAIM_INVALID, "aud")


def check_dates(claims: Claims, rules: TokenRules, now: float) -> None:
    """Check `exp`, `nbf` and `iat` (RFC 7519 4.1.4 to 4.1.6) and the token's age; `now` in seconds."""
    expires = _date(claims, "exp", required=rules.require_exp, validated=rules.validate_exp)
    if expires is not None and now >= expires + rules.leeway:
        raise Refused(Refusal.EXPIRED)
    not_before = _date(claims, "nbf", required=rules.require_nbf, validated=rules.validate_nbf)
    if not_before is not None and not_before > now + rules.leeway:
        raise Refused(Refusal.NOT_YET_VALID)
    issued = _date(claims, "iat", required=rules.max_token_age > 0, validated=True)
    if issued is not None and issued > now + rules.leeway:
        raise Refused(Refusal.ISSUED_IN_FUTURE)
    if issued is not None and rules.max_token_age and now > issued + rules.max_token_age + rules.leeway:
        raise Refused(Refusal.EXPIRED)


def check_token_id(claims: Claims, rules: TokenRules) -> None:
    """Check that a token for single use has a `jti` (RFC 7519 4.1.7)."""
    if not rules.single_use:
        return
    if "jti" not in claims:
        raise Refused(Refusal.CLAIM_MISSING, "jti")
    if not isinstance(claims["jti"], str) or not claims["jti"]:
        raise Refused(Refusal.CLAIM_INVALID, "jti")


def last_valid_moment(claims: Claims, rules: TokenRules) -> float | None:
    """Return when a verified token can't be used any more, in seconds since the epoch; None: never."""
    ends = []
    if rules.validate_exp and "exp" in claims:
        ends.append(claims["exp"])
    if rules.max_token_age:
        ends.append(claims["iat"] + rules.max_token_age)
    return float(min(ends)) + rules.leeway if ends else None


def _date(claims: Claims, name: str, *, required: bool, validated: bool) -> float | None:
    if name not in claims:
        if required:
            raise Refused(Refusal.CLAIM_MISSING, name)
        return None
    if not validated:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refused(Refusal.CLAIM_INVALID, name)
    if not abs(value) <= _MAX_DATE:  # written so that NaN fails too
        raise Refused(Refusal.CLAIM_INVALID, name)
    return value


def _read_object(raw: bytes, part: str) -> dict[str, Any]:
    try:
        return parse_object(raw)
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


def _media_type(value: str) -> bytes:
    # Octets are folded for ASCII alone: a text's lower() makes a k of the Kelvin sign, U+212A.
    folded = value.encode("utf-8", "surrogatepass").lower()
    return folded if b"/" in folded else b"application/" + folded
