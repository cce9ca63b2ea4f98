"""Where the keys of an issuer come from: its configuration, or a JWK set at a URL.

Whoever holds a token asks `for_token`, which may wait for them. With `wait=False` it gives what is at hand, also
where that can't verify the token.
"""

from dataclasses import dataclass
from typing import Any, Final, Protocol

from pydantic import Field, field_validator

from gateway.core.jwk_sets import SetRules
from gateway.core.keys import KeySet
from gateway.settings import Table
from gateway.upstream.key_sets import MAX_AGE, MIN_AGE, check_url

# The settings that say where a JWK set is; an issuer has one of them.
SET_SOURCES: Final = ("jwks_url", "jwks_file", "discovery_url")


class IssuerKeys(Protocol):
    """The keys of an issuer, for one token at a time."""

    async def for_token(self, header: dict[str, Any], *, wait: bool = True) -> KeySet:
        """Return the keys to verify a token with that (unverified) header; may raise `Refused` where it waits."""


@dataclass(frozen=True, slots=True)
class FixedKeys:
    """Keys that the configuration holds."""

    key_set: KeySet

    async def for_token(self, header: dict[str, Any], *, wait: bool = True) -> KeySet:  # noqa: ARG002 - always the same
        """Return the keys."""
        return self.key_set


class KeySourceSettings(Table):
    """Where a JWK set comes from, as the `[jwt]` table says it; `jwks_max_stale` in seconds."""

    jwks_url: str | None = None
    jwks_file: str | None = None
    discovery_url: str | None = None
    jwks_max_stale: int = Field(7 * MAX_AGE, ge=MIN_AGE, le=2**53)

    @field_validator("jwks_url", "discovery_url")
    @classmethod
    def _trusted_way(cls, value: str | None) -> str | None:
        if value is not None:
            check_url(value)
        return value

    @field_validator("discovery_url")
    @classmethod
    def _whole(cls, value: str | None) -> str | None:
        if value is not None and "/.well-known/" not in value:
            raise ValueError("write the whole address of the document: https://HOST/.well-known/openid-configuration")
        return value


@dataclass(frozen=True, slots=True)
class KeySource:
    """A set at `url`, or with `issuers` the set that their discovery document at `url` names; what of it is taken.

    `max_stale` is for how many seconds after its fetch a set may be used, when no other comes.
    """

    url: str
    issuers: tuple[str, ...] | None
    rules: SetRules
    max_stale: float
