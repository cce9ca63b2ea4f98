"""The set of keys that verify tokens, and how the key material of the configuration becomes one, or is refused.

Formats are those of the `[jwt]` table; algorithms those of RFC 7518, RFC 8037 and RFC 9864. A key is bound to the
algorithms that fit it when it is built, so that no token can ever choose another use for it (RFC 8725 3.1).
"""

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from gateway.core import hmac_secrets, public_keys

Format: TypeAlias = Literal["HMAC", "B64HMAC", "ECDSA", "RSA", "EDDSA", "JWKS"]
Key: TypeAlias = OctKey | RSAKey | ECKey | OKPKey

ALGORITHMS: Final[dict[Format, tuple[str, ...]]] = {
    "HMAC": hmac_secrets.ALGORITHMS,
    "B64HMAC": hmac_secrets.ALGORITHMS,
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
                if key_format in ("HMAC", "B64HMAC")
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


def _hmac_key(
    kind: hmac_secrets.Kind, secret: str, algorithms: list[str], *, allow_weak_secret: bool
) -> VerificationKey:
    octets = hmac_secrets.load(kind, secret)
    fitting = frozenset(name for name in algorithms if len(octets) >= hmac_secrets.MIN_BYTES[name])
    if allow_weak_secret:
        fitting = frozenset(algorithms)
    elif len(fitting) < len(algorithms):
        need = max(hmac_secrets.MIN_BYTES[name] for name in algorithms)
        raise ValueError(
            f"{len(octets)} bytes are too short for {', '.join(algorithms)}, which need{'s' * (len(algorithms) == 1)}"
            f" {need}; make a longer one with `openssl rand -hex {need}`,"
            " or set allow_weak_secret = true if you can't"
        )
    return VerificationKey(hmac_secrets.imported(octets), fitting)


def _public_key(key_format: Format, pem: str, algorithms: list[str]) -> VerificationKey:
    key = public_keys.load_pem(pem)
    if (kind := public_keys.kind(key)) != key_format:
        raise ValueError(f"an {kind.replace('EDDSA', 'EdDSA')} key where format says {key_format}")
    fitting = public_keys.fitting(key)
    usable = frozenset(fitting) & frozenset(algorithms)
    if not usable:
        raise ValueError(f"the key fits {' and '.join(fitting)}, which algorithm does not list")
    return VerificationKey(public_keys.imported(key), usable)
