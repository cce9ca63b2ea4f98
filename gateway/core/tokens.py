"""A token and the rules for it to claims (RFC 7519).

The rule of this file: nothing of a token is believed before its signature is verified.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

from pydantic import Field

from gateway.core import jws
from gateway.core.claims import is_storable
from gateway.core.keys import KeySet
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
    header = jws.read_header(token, trust.rules.max_token_bytes)
    if not trust.rules.validate_signature:
        return header, read_claims(jws.unverified_payload(token))
    return header, read_claims(jws.verify_signature(token, header, trust.key_set))


def check_claims(header: dict[str, Any], claims: Claims, rules: TokenRules, now: float) -> None:
    """Check all that the rules ask of header and claims at `now`; raises `Refused` with the first that fails."""
    check_type(header, rules)
    check_issuer(claims, rules)
    check_audience(claims, rules)
    check_dates(claims, rules, now)
    check_token_id(claims, rules)


def is_signed(token: str, trust: Trust) -> bool:
    """Say whether a key verifies the signature of a token whose form is right, or none has to."""
    rules = trust.rules
    try:
        if rules.validate_signature:
            jws.verify_signature(token, jws.read_header(token, rules.max_token_bytes), trust.key_set)
    except Refused:
        return False
    return True


def choose_issuer(token: str, by_name: Mapping[str, T]) -> T:
    """Return the entry that the `iss` of a token names; its form must be right, nothing vouches for it yet.

    The claim is checked again, like any other, once the keys of that entry have verified it (RFC 8725 3.8).
    """
    claims = jws.unverified_claims(token)
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
    return jws.read_object(payload, "payload")


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
    if not isinstance(claims["jti"], str) or not claims["jti"] or not is_storable(claims["jti"]):
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


def _media_type(value: str) -> bytes:
    # Octets are folded for ASCII alone: a text's lower() makes a k of the Kelvin sign, U+212A.
    folded = value.encode("utf-8", "surrogatepass").lower()
    return folded if b"/" in folded else b"application/" + folded
