"""Configured key material to a set of verification keys; every refusal at start is here.

Formats are those of the `[jwt]` table; algorithms those of RFC 7518, RFC 8037 and RFC 9864. A key is bound to the
algorithms that fit it when it is built, so that no token can ever choose another use for it (RFC 8725 3.1).
"""

import base64
import json
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_der_public_key
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from gateway.core import public_keys

Format: TypeAlias = Literal["HMAC", "B64HMAC", "ECDSA", "RSA", "EDDSA", "JWKS"]
Key: TypeAlias = OctKey | RSAKey | ECKey | OKPKey

# RFC 7518 3.2: a key of the same size as the hash output or larger.
MIN_SECRET_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}

ALGORITHMS: Final[dict[Format, tuple[str, ...]]] = {
    "HMAC": tuple(MIN_SECRET_BYTES),
    "B64HMAC": tuple(MIN_SECRET_BYTES),
    "ECDSA": public_keys.ALGORITHMS["ECDSA"],
    "RSA": public_keys.ALGORITHMS["RSA"],
    "EDDSA": public_keys.ALGORITHMS["EDDSA"],
    "JWKS": public_keys.ALL_ALGORITHMS,
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
    """A key, the algorithms that it may verify, and its name (RFC 7517 4.5), if it has one."""

    key: Key
    algorithms: frozenset[str]
    kid: str | None = None


@dataclass(frozen=True, slots=True)
class KeySet:
    """The keys that can verify tokens, and all the algorithms that are allowed.

    `most` is how many keys a token is tried with; None: all, for keys that the operator listed one by one.
    """

    keys: tuple[VerificationKey, ...]
    algorithms: frozenset[str]
    most: int | None = None
    # The keys that fit an algorithm, all of them and by name: the work of a login must not grow with their number.
    _fitting: dict[str, list[Key]] = field(init=False, repr=False, compare=False)
    _named: dict[tuple[str, str | None], list[Key]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        fitting: dict[str, list[Key]] = {}
        named: dict[tuple[str, str | None], list[Key]] = {}
        for entry in self.keys:
            for algorithm in entry.algorithms:
                fitting.setdefault(algorithm, []).append(entry.key)
                named.setdefault((algorithm, entry.kid), []).append(entry.key)
        object.__setattr__(self, "_fitting", fitting)
        object.__setattr__(self, "_named", named)

    def candidates(self, algorithm: str, kid: str | None = None) -> list[Key]:
        """Return the keys that may verify a token with that `alg` and `kid`, in the order to try them.

        Keys without a name come after those of that name: a PEM or an HMAC secret has none, whatever its issuer calls
        it in the header. Without a `kid`, all that fit the algorithm.
        """
        if kid is None:
            return self._fitting.get(algorithm, [])[: self.most]
        return [*self._named.get((algorithm, kid), ()), *self._named.get((algorithm, None), ())][: self.most]

    def knows(self, algorithm: str, kid: str) -> bool:
        """Say whether a key of that name may verify a token with that `alg`."""
        return (algorithm, kid) in self._named


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
    return VerificationKey(oct_key(raw), fitting)


def oct_key(raw: bytes) -> OctKey:
    """Return a secret as joserfc takes it; its length is judged before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)
        return OctKey.import_key(raw)


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
    key = public_keys.load_pem(pem)
    if (kind := public_keys.kind(key)) != key_format:
        raise ValueError(f"an {kind.replace('EDDSA', 'EdDSA')} key where format says {key_format}")
    fitting = public_keys.fitting(key)
    usable = frozenset(fitting) & frozenset(algorithms)
    if not usable:
        raise ValueError(f"the key fits {' and '.join(fitting)}, which algorithm does not list")
    return VerificationKey(public_keys.imported(key), usable)
