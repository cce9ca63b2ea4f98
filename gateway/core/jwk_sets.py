"""The octets of a JWK set (RFC 7517 5) to the keys that verify tokens; a key that can't is skipped, with the reason.

A key is judged by what it is: its own `alg`, `use` and `key_ops` may narrow what it verifies, never widen it. A set
from a URL is public, so that a secret or a private key in it is one that everybody knows: neither is taken.
"""

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from gateway.core import hmac_secrets, public_keys
from gateway.core.keys import KeyProblem, KeySet, UnfitKeys, VerificationKey
from gateway.core.public_keys import PublicKey
from gateway.core.strict_json import parse_object

# More than any issuer has, and a bound on the work that one answer can cause.
MAX_KEYS: Final = 1000
# How many keys a token is tried with that does not name one.
MAX_TRIED: Final = 8
_MAX_SHOWN: Final = 5
_MAX_OCTETS: Final = public_keys.MAX_RSA_BITS // 8 + 1
_CURVES: Final[dict[str, type[ec.EllipticCurve]]] = {
    "P-256": ec.SECP256R1,
    "P-384": ec.SECP384R1,
    "P-521": ec.SECP521R1,
}
_OKP: Final[dict[str, Callable[[bytes], PublicKey]]] = {
    "Ed25519": ed25519.Ed25519PublicKey.from_public_bytes,
    "Ed448": ed448.Ed448PublicKey.from_public_bytes,
}
# RFC 7518 6.2.2 and 6.3.2, RFC 8037 2.
_PRIVATE: Final = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth"))
_ASYMMETRIC: Final = frozenset(("RSA", "EC", "OKP"))
_PRIVATE_IN_FILE: Final = (
    "a private key, which belongs to the issuer alone; put only public keys there, without members such as 'd'"
)


@dataclass(frozen=True, slots=True)
class SetRules:
    """What of a set is taken; a `public` one comes from a URL, any other from a file of the operator's own."""

    algorithms: tuple[str, ...]
    public: bool = True
    allow_weak_secret: bool = False


@dataclass(frozen=True, slots=True)
class JwkSet:
    """The keys of a set, and a line for each that was skipped, without key material.

    `exposed` are those of the skipped that nobody should see at a URL.
    """

    keys: KeySet
    skipped: tuple[str, ...]
    exposed: tuple[str, ...] = ()


def no_keys(rules: SetRules) -> KeySet:
    """Return the key set that allows the algorithms, and verifies nothing."""
    return KeySet((), frozenset(rules.algorithms), MAX_TRIED)


def algorithm_problems(rules: SetRules) -> list[KeyProblem]:
    """Return what is wrong with the list of algorithms for a set of this kind."""
    symmetric = [name for name in rules.algorithms if name in hmac_secrets.ALGORITHMS]
    asymmetric = [name for name in rules.algorithms if name in public_keys.ALL_ALGORITHMS]
    others = [name for name in rules.algorithms if name not in {*symmetric, *asymmetric}]
    choice = ", ".join(public_keys.ALL_ALGORITHMS)
    texts = [f"{name!r} is not known; use one of {choice}" for name in others]
    if rules.public:
        texts += [
            f"{name!r} needs a secret, which is none when a URL shows it; name what your issuer signs with: {choice}"
            for name in symmetric
        ]
    elif symmetric and asymmetric:
        texts.append("HMAC and public keys don't go together: whoever knows a public key could sign; keep one kind")
    if not rules.algorithms:
        texts.append(f"the list is empty; name at least one of {choice}")
    return [KeyProblem("algorithm", text) for text in texts]


def read_jwk_set(octets: bytes, rules: SetRules) -> JwkSet:
    """Return the keys of a set that fit one of the algorithms.

    Raises `UnfitKeys` with the reason where the set as a whole can't be used; no text repeats key material.
    """
    try:
        members = _members(octets)
        _check_file(members, rules)
    except ValueError as error:
        raise _unfit(str(error)) from None
    keys: list[VerificationKey] = []
    skipped, exposed = [], []
    for position, member in enumerate(members, start=1):
        try:
            keys.append(_key(member, rules))
        except ValueError as error:
            skipped.append(f"{_name(position, member)}: {error}")
            if isinstance(error, _Exposed):
                exposed.append(skipped[-1])
    if not keys:
        why = "; ".join(skipped[:_MAX_SHOWN])
        raise _unfit(f"no key of it can be used: {why}" if skipped else "it holds no key")
    return JwkSet(KeySet(tuple(keys), frozenset(rules.algorithms), MAX_TRIED), tuple(skipped), tuple(exposed))


def _unfit(text: str) -> UnfitKeys:
    return UnfitKeys([KeyProblem("secret", text)])


def _members(octets: bytes) -> list[Any]:
    try:
        jwk_set = parse_object(octets)
    except ValueError as error:
        raise ValueError(f"it can't be read: {error}") from None
    keys = jwk_set.get("keys")
    if not isinstance(keys, list):
        hint = '; write {"keys": [...]} around a single key' if "kty" in jwk_set else ""
        raise ValueError(f"it is no JWK set, which has a list of 'keys'{hint}")
    if len(keys) > MAX_KEYS:
        raise ValueError(f"it holds {len(keys)} keys; {MAX_KEYS} at most are taken")
    return keys


def _check_file(members: list[Any], rules: SetRules) -> None:
    """Refuse a file with private keys, with secrets beside public keys (RFC 8725 2.1), or with two keys of one name.

    RFC 7517 4.5 lets keys of different kinds share a name. At a URL keys of one kind may too: all of them are tried,
    because logins must not end with a mistake of the issuer's that the operator can't mend.
    """
    if rules.public:
        return
    kinds: set[str] = set()
    names: set[tuple[str, str]] = set()
    for position, member in enumerate(members, start=1):
        if _is_private(member):
            raise ValueError(f"{_name(position, member)} is {_PRIVATE_IN_FILE}")
        kind, kid = (member.get("kty"), member.get("kid")) if isinstance(member, dict) else (None, None)
        if isinstance(kind, str):
            kinds.add(kind)
        if isinstance(kind, str) and isinstance(kid, str):
            if (kind, kid) in names:
                raise ValueError(f"{_name(position, member)} has the name of another key; give each its own 'kid'")
            names.add((kind, kid))
    if "oct" in kinds and kinds & _ASYMMETRIC:
        raise ValueError(
            "it mixes secrets (oct) with public keys; whoever knows those could sign, so use two issuers"
        )


def _is_private(member: Any) -> bool:
    return isinstance(member, dict) and member.get("kty") in tuple(_ASYMMETRIC) and not _PRIVATE.isdisjoint(member)


def _name(position: int, member: Any) -> str:
    kid = member.get("kid") if isinstance(member, dict) else None
    return f"key {position}" if not isinstance(kid, str) else f"key {position} ({kid[:64]!a})"


def _key(member: Any, rules: SetRules) -> VerificationKey:
    """Return one key of a set; ValueError says why it is skipped."""
    if not isinstance(member, dict):
        raise ValueError("not a JSON object")
    kid, kind = member.get("kid"), member.get("kty")
    if kid is not None and not isinstance(kid, str):
        raise ValueError("its 'kid' is no text")
    _check_purpose(member)
    if _is_private(member):
        raise _Exposed("a private key that everybody can read: tell its issuer")
    if kind == "oct":
        return _secret(member, kid, rules)
    key = _public_key(member)
    algorithms = _narrowed(member, frozenset(public_keys.fitting(key)), rules)
    return VerificationKey(public_keys.imported(key), algorithms, kid)


def _check_purpose(member: dict[str, Any]) -> None:
    """Check `use` and `key_ops` (RFC 7517 4.2, 4.3)."""
    if "use" in member and member["use"] != "sig":
        raise ValueError("its 'use' is not \"sig\"")
    operations = member.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise ValueError("its 'key_ops' don't hold \"verify\"")


def _secret(member: dict[str, Any], kid: str | None, rules: SetRules) -> VerificationKey:
    if rules.public:
        raise _Exposed("a secret (oct) that everybody can read verifies nothing")
    raw = _octets(member, "k")
    enough = frozenset(
        name for name, least in hmac_secrets.MIN_BYTES.items() if rules.allow_weak_secret or len(raw) >= least
    )
    if not enough:
        raise ValueError(f"a secret of {len(raw)} bytes is too short; HS256 needs {hmac_secrets.MIN_BYTES['HS256']}")
    return VerificationKey(hmac_secrets.imported(raw), _narrowed(member, enough, rules), kid)


def _narrowed(member: dict[str, Any], fitting: frozenset[str], rules: SetRules) -> frozenset[str]:
    """Return which of the fitting algorithms the key's own `alg` (RFC 7517 4.4) and the configuration leave."""
    if "alg" in member:
        own = member["alg"]
        if own not in tuple(fitting):
            shown = ascii(own[:32]) if isinstance(own, str) else "which is no text"
            raise ValueError(f"its 'alg', {shown}, does not fit the key")
        fitting = frozenset((own,))
    usable = fitting & frozenset(rules.algorithms)
    if not usable:
        raise ValueError(f"it fits {', '.join(sorted(fitting))}, which algorithm does not list")
    return usable


def _public_key(member: dict[str, Any]) -> PublicKey:
    kind, curve = member.get("kty"), member.get("crv")
    try:
        if kind == "RSA":
            return rsa.RSAPublicNumbers(_number(member, "e"), _number(member, "n")).public_key()
        if kind == "EC" and isinstance(curve, str) and curve in _CURVES:
            x, y = _number(member, "x"), _number(member, "y")
            return ec.EllipticCurvePublicNumbers(x, y, _CURVES[curve]()).public_key()
        if kind == "OKP" and isinstance(curve, str) and curve in _OKP:
            return _OKP[curve](_octets(member, "x"))
    except _Unreadable:
        raise
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("its numbers are no key of that kind") from None
    if not isinstance(kind, str):
        raise ValueError("it has no 'kty'")
    known = kind in _ASYMMETRIC
    raise ValueError(f"the curve {_shown(curve)} is not known here" if known else f"a key of the type {_shown(kind)}")


class _Exposed(ValueError):
    """A key that its owner alone should have."""


class _Unreadable(ValueError):
    """A member of a key is missing, or not in the form that it must have."""


def _number(member: dict[str, Any], name: str) -> int:
    return int.from_bytes(_octets(member, name), "big")


def _octets(member: dict[str, Any], name: str) -> bytes:
    """Return the octets of a base64url member (RFC 7518 2: without padding)."""
    text = member.get(name)
    if not isinstance(text, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", text) or len(text) % 4 == 1:
        raise _Unreadable(f"its {name!r} is missing or not base64url")
    octets = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if len(octets) > _MAX_OCTETS:
        raise _Unreadable(f"its {name!r} is larger than {_MAX_OCTETS} bytes")
    return octets


def _shown(value: Any) -> str:
    return ascii(value[:32]) if isinstance(value, str) else "of no name"
