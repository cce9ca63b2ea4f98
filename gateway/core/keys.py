"""Configured key material to a set of verification keys; every refusal at start is here.

Formats are those of the `[jwt]` table; algorithms those of RFC 7518, RFC 8037 and RFC 9864. A key is bound to the
algorithms that fit it when it is built, so that no token can ever choose another use for it (RFC 8725 3.1).
"""

import base64
import json
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
    load_pem_public_key,
)
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

Format: TypeAlias = Literal["HMAC", "B64HMAC", "ECDSA", "RSA", "EDDSA"]
Key: TypeAlias = OctKey | RSAKey | ECKey | OKPKey
PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey

# RFC 7518 3.2: a key of the same size as the hash output or larger.
MIN_SECRET_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
# RFC 7518 3.4.
_CURVE_ALGORITHMS: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
# RFC 7518 3.3 and 3.5.
MIN_RSA_BITS: Final = 2048

ALGORITHMS: Final[dict[Format, tuple[str, ...]]] = {
    "HMAC": tuple(MIN_SECRET_BYTES),
    "B64HMAC": tuple(MIN_SECRET_BYTES),
    "ECDSA": tuple(_CURVE_ALGORITHMS.values()),
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "EDDSA": ("EdDSA", "Ed25519", "Ed448"),
}


@dataclass(frozen=True, slots=True)
class KeyProblem:
    """What is wrong with a key of the `[jwt]` table; `position` counts in a list of several, from 1."""

    key: Literal["secret", "algorithm"]
    text: str
    position: int | None = None


class UnfitKeys(Exception):
    """The key material can't be used; no problem repeats it."""

    def __init__(self, problems: list[KeyProblem]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{problem.key}: {problem.text}" for problem in problems))


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A key and the algorithms that it may verify."""

    key: Key
    algorithms: frozenset[str]


@dataclass(frozen=True, slots=True)
class KeySet:
    """The keys that can verify tokens, and all the algorithms that are allowed."""

    keys: tuple[VerificationKey, ...]
    algorithms: frozenset[str]

    def candidates(self, algorithm: str) -> list[Key]:
        """Return the keys that may verify a token with that `alg`."""
        return [entry.key for entry in self.keys if algorithm in entry.algorithms]


def build_key_set(
    key_format: Format, secrets: list[str], algorithms: list[str], *, allow_weak_secret: bool = False
) -> KeySet:
    """Build the key set of a `[jwt]` table.

    `secrets` hold what `key_format` says: text, base64 or PEM. Raises `UnfitKeys` with every reason why the
    material is refused.
    """
    problems = _algorithm_problems(key_format, algorithms)
    if not secrets:
        problems.append(KeyProblem("secret", "there is none; set `secret` or `secret_file`"))
    if problems:
        raise UnfitKeys(problems)
    keys = []
    for position, secret in enumerate(secrets, start=1):
        try:
            key = (
                _hmac_key(key_format, secret, algorithms, allow_weak_secret=allow_weak_secret)
                if key_format in {"HMAC", "B64HMAC"}
                else _public_key(key_format, secret, algorithms)
            )
            keys.append(key)
        except ValueError as error:
            problems.append(KeyProblem("secret", str(error), position if len(secrets) > 1 else None))
    if not problems:
        fitting = frozenset().union(*(key.algorithms for key in keys))
        problems = [
            KeyProblem("algorithm", f"no key fits {name}; take it out of the list, or add its key")
            for name in algorithms
            if name not in fitting
        ]
    if problems:
        raise UnfitKeys(problems)
    return KeySet(tuple(keys), frozenset(algorithms))


def _algorithm_problems(key_format: Format, algorithms: list[str]) -> list[KeyProblem]:
    allowed = ALGORITHMS[key_format]
    problems = [
        KeyProblem("algorithm", f"{name!r} does not belong to format {key_format!r}; use one of {', '.join(allowed)}")
        for name in algorithms
        if name not in allowed
    ]
    if not algorithms:
        problems.append(KeyProblem("algorithm", f"the list is empty; name at least one of {', '.join(allowed)}"))
    return problems


def _hmac_key(key_format: Format, secret: str, algorithms: list[str], *, allow_weak_secret: bool) -> VerificationKey:
    if not secret.strip():
        raise ValueError("it is empty; make one with `openssl rand -base64 48`")
    if _is_asymmetric(secret):
        raise ValueError("this is a public or private key, not an HMAC secret; set format to its kind")
    raw = secret_octets(key_format, secret)
    if not raw:
        raise ValueError("it is empty; make one with `openssl rand -base64 48`")
    fitting = frozenset(name for name in algorithms if len(raw) >= MIN_SECRET_BYTES[name])
    if allow_weak_secret:
        fitting = frozenset(algorithms)
    elif len(fitting) < len(algorithms):
        need = max(MIN_SECRET_BYTES[name] for name in algorithms)
        raise ValueError(
            f"{len(raw)} bytes are too short for {', '.join(algorithms)}, which need{'s' * (len(algorithms) == 1)}"
            f" {need}; make a longer one with `openssl rand -hex {need}`,"
            " or set allow_weak_secret = true if you can't"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)  # its length is judged above
        return VerificationKey(OctKey.import_key(raw), fitting)


def _is_asymmetric(secret: str) -> bool:
    """Say whether the text holds a public or private key: whoever has the public one could sign (RFC 8725 2.1)."""
    if _is_key_text(secret.encode()):
        return True
    try:
        # Identity systems also show their keys so: base64 without the lines of PEM around it (JWK's `x5c`).
        octets = secret_octets("B64HMAC", secret)
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


def secret_octets(key_format: Format, secret: str) -> bytes:
    """Return the octets of an HMAC secret; raises ValueError when format B64HMAC finds no base64."""
    if key_format == "HMAC":
        return secret.encode()
    text = "".join(secret.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise ValueError("it is not base64; format B64HMAC accepts the standard or the URL alphabet") from None


def _public_key(key_format: Format, pem: str, algorithms: list[str]) -> VerificationKey:
    public_key = _load_pem(pem)
    fitting = _FITTING[key_format](public_key)
    usable = frozenset(fitting) & frozenset(algorithms)
    if not usable:
        raise ValueError(f"the key fits {' and '.join(fitting)}, which algorithm does not list")
    spki = public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    imported: Key
    if isinstance(public_key, rsa.RSAPublicKey):
        imported = RSAKey.import_key(spki)
    elif isinstance(public_key, ec.EllipticCurvePublicKey):
        imported = ECKey.import_key(spki)
    else:
        imported = OKPKey.import_key(spki)
    return VerificationKey(imported, usable)


def _load_pem(pem: str) -> PublicKey:
    if not pem.strip():
        raise ValueError("it is empty; put a PEM public key or certificate there")
    labels = re.findall(r"-----BEGIN ([A-Z0-9 ]+)-----", pem)
    if any(label.endswith("PRIVATE KEY") for label in labels):
        raise ValueError(
            "this is a private key, which belongs to the issuer alone; get the public one with"
            " `openssl pkey -in private.pem -pubout`"
        )
    if len(labels) > 1:
        raise ValueError(f"there are {len(labels)} PEM blocks; give one key or certificate, or a list of files")
    try:
        if labels == ["CERTIFICATE"]:
            key: object = x509.load_pem_x509_certificate(pem.strip().encode()).public_key()
        else:
            key = load_pem_public_key(pem.strip().encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("it is not a PEM public key or certificate that can be read") from None
    if not isinstance(key, PublicKey):
        raise ValueError(f"a key of the kind {type(key).__name__} can't verify tokens")
    return key


def _fitting_rsa(key: PublicKey) -> tuple[str, ...]:
    if not isinstance(key, rsa.RSAPublicKey):
        raise ValueError(f"{_kind(key)} key where format says RSA")
    if key.key_size < MIN_RSA_BITS:
        raise ValueError(f"an RSA key of {key.key_size} bits is too small; use {MIN_RSA_BITS} or more")
    return ALGORITHMS["RSA"]


def _fitting_ecdsa(key: PublicKey) -> tuple[str, ...]:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError(f"{_kind(key)} key where format says ECDSA")
    if key.curve.name not in _CURVE_ALGORITHMS:
        raise ValueError(f"the curve {key.curve.name} has no algorithm here; use P-256, P-384 or P-521")
    return (_CURVE_ALGORITHMS[key.curve.name],)


def _fitting_eddsa(key: PublicKey) -> tuple[str, ...]:
    if isinstance(key, ed25519.Ed25519PublicKey):
        return ("EdDSA", "Ed25519")
    if isinstance(key, ed448.Ed448PublicKey):
        return ("EdDSA", "Ed448")
    raise ValueError(f"{_kind(key)} key where format says EDDSA")


_FITTING: Final[dict[Format, Callable[[PublicKey], tuple[str, ...]]]] = {
    "RSA": _fitting_rsa,
    "ECDSA": _fitting_ecdsa,
    "EDDSA": _fitting_eddsa,
}


def _kind(key: PublicKey) -> str:
    if isinstance(key, rsa.RSAPublicKey):
        return "an RSA"
    return "an ECDSA" if isinstance(key, ec.EllipticCurvePublicKey) else "an EdDSA"
