"""Verifications a second on one core: the gateway's, all checks included, beside bare joserfc, with the same tokens.

    pip install -c requirements.lock --group test -e .
    python -m tests.benchmarks.tokens [--seconds N] [--rounds N] [--json FILE]

Bare joserfc is `jwt.decode` with the right key at hand, and that with `JWTClaimsRegistry.validate` behind it, as its
users write it. The gateway verifies with a set of 1 key and with one of 50, of which the token's `kid` selects the
last. The three take turns in short rounds, and are compared round by round; processor time counts, not the clock.
A benchmark, not a test: it judges nothing.
"""

import argparse
import json
import os
import secrets
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from rich.console import Console

from gateway.core.keys import Key, KeySet, VerificationKey
from gateway.core.tokens import TokenRules, Trust, verify
from tests.benchmarks.plan import table

ISSUER, AUDIENCE = "https://id.example.org", "https://matrix.example.org"
# What Keycloak and others put into an access token is of this size.
PROFILE = {
    "preferred_username": "alice",
    "name": "Alice Liddell",
    "email": "alice@example.org",
    "email_verified": True,
    "groups": ["staff", "matrix"],
}
MAKE: dict[str, Callable[[], Key]] = {
    "HS256": lambda: OctKey.import_key(secrets.token_bytes(48)),
    "RS256": lambda: RSAKey.generate_key(2048),
    "ES256": lambda: ECKey.generate_key("P-256"),
    "Ed25519": lambda: OKPKey.generate_key("Ed25519"),  # for joserfc "EdDSA" is old, and it spends time on saying so
}
SIZES = (1, 50)


@dataclass(frozen=True)
class Figures:
    """Microseconds of processor time for one token, medians over the rounds; ratios are ours by theirs."""

    algorithm: str
    keys: int
    ours: float
    decode: float
    decode_and_validate: float
    ratio: float
    ratio_validated: float

    @property
    def per_second(self) -> int:
        return round(1e6 / self.ours)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.1, help="length of one turn")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    figures = [measure(algorithm, size, arguments.seconds, arguments.rounds) for algorithm in MAKE for size in SIZES]
    show(figures)
    if arguments.json:
        rows = [{**asdict(figure), "per_second": figure.per_second} for figure in figures]
        arguments.json.write_text(json.dumps({"tokens": rows}, indent=2))


def measure(algorithm: str, size: int, seconds: float, rounds: int) -> Figures:
    keys = [MAKE[algorithm]() for _ in range(size)]
    kid = f"key-{size}"
    now = int(time.time())
    claims: dict[str, Any] = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "jti": secrets.token_urlsafe(16)}
    claims |= {"iat": now, "nbf": now, "exp": now + 36_000, **PROFILE}
    token = jwt.encode({"alg": algorithm, "kid": kid}, claims, keys[-1], algorithms=[algorithm])
    names = frozenset([algorithm])
    entries = [VerificationKey(public(key), names, f"key-{number}") for number, key in enumerate(keys, start=1)]
    trust = Trust(KeySet(tuple(entries), names), TokenRules(issuer=[ISSUER], audience=[AUDIENCE], require_exp=True))
    registry = jwt.JWTClaimsRegistry(
        leeway=60,
        iss={"essential": True, "value": ISSUER},
        aud={"essential": True, "value": AUDIENCE},
        exp={"essential": True},
    )
    one, allowed = entries[-1].key, [algorithm]

    def ours() -> None:
        verify(token, trust, time.time())

    def decode() -> None:
        jwt.decode(token, one, algorithms=allowed)

    def decode_and_validate() -> None:
        registry.validate(jwt.decode(token, one, algorithms=allowed).claims)

    turns = [ours, decode, decode_and_validate]
    found: list[list[float]] = [[], [], []]
    for number in range(1 + rounds):
        for index in (0, 1, 2) if number % 2 else (2, 1, 0):
            spent = microseconds(turns[index], seconds)
            if number:  # the first round warms up
                found[index].append(spent)
    ratios = [statistics.median(mine / its for mine, its in zip(found[0], other, strict=True)) for other in found[1:]]
    medians = [round(statistics.median(times), 1) for times in found]
    return Figures(algorithm, size, *medians, *(round(ratio, 2) for ratio in ratios))


def public(key: Key) -> Key:
    """Return the key as the gateway holds it: from its public part alone."""
    return key if isinstance(key, OctKey) else type(key).import_key(key.as_dict(private=False))


def microseconds(call: Callable[[], None], seconds: float) -> float:
    calls, began = 0, time.process_time()
    while (spent := time.process_time() - began) < seconds:
        for _ in range(50):
            call()
        calls += 50
    return spent / calls * 1e6


def show(figures: list[Figures]) -> None:
    rows = [
        [
            f"{figure.algorithm}, {figure.keys} key{'s' * (figure.keys > 1)}",
            f"{figure.per_second:,}",
            f"{figure.ours:.1f}",
            f"{figure.decode:.1f}",
            f"{figure.ratio:.2f}",
            f"{figure.decode_and_validate:.1f}",
            f"{figure.ratio_validated:.2f}",
        ]
        for figure in figures
    ]
    columns = ["", "a second", "us", "joserfc decode, us", "ratio", "with validate, us", "ratio"]
    Console().print(table("Verifying a token, one core", columns, rows))


if __name__ == "__main__":
    main()
