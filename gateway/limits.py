"""How often somebody may try: token buckets in the memory of this process (GCRA, by throttled-py)."""

from datetime import timedelta
from ipaddress import IPv6Address, ip_address
from typing import Final

from pydantic import Field
from throttled import MemoryStore, RateLimiterType, Throttled, per_duration

from gateway.errors import Refusal, Refused
from gateway.settings import Table

# Buckets that are kept; the one that was used longest ago makes place.
_BUCKETS: Final = 100_000
# More than any gateway answers in a minute; far above it the arithmetic of floats ends.
_MAX_RATE: Final = 1_000_000


class Bucket(Table):
    """`burst` tries at once, then `refill` a minute; a burst of 0 is no limit."""

    burst: int = Field(ge=0, le=_MAX_RATE)
    refill: int = Field(gt=0, le=_MAX_RATE)


class LimitSettings(Table):
    """The `[limits]` table."""

    # A school class behind one address, each pupil with three stale tokens, stays below it.
    failed_logins_per_address: Bucket = Bucket(burst=100, refill=20)
    logins_per_user: Bucket = Bucket(burst=300, refill=60)


class Limits:
    """The buckets of the login exchange."""

    def __init__(self, settings: LimitSettings) -> None:
        self._failed = _limiter(settings.failed_logins_per_address)
        self._refill_seconds = 60 / settings.failed_logins_per_address.refill
        self._logins = _limiter(settings.logins_per_user)

    def check_address(self, address: str) -> None:
        """Refuse an address that failed too often; "" is an address that isn't known."""
        if self._failed is not None and address and self._failed.peek(_network(address)).remaining < 1:
            raise Refused(
                Refusal.TOO_MANY_ATTEMPTS,
                reason="failed logins of this address",
                retry_after=self._refill_seconds,
            )

    def count_failure(self, address: str) -> None:
        """Count a failed login of an address."""
        if self._failed is not None and address:
            self._failed.limit(_network(address))

    def count_login(self, issuer: str, subject: str) -> None:
        """Count a login of a subject and refuse one too many."""
        if self._logins is not None:
            result = self._logins.limit(f"{len(issuer)} {issuer} {subject}")
            if result.limited:
                raise Refused(
                    Refusal.TOO_MANY_ATTEMPTS,
                    reason="logins of this subject",
                    retry_after=result.state.retry_after,
                )


def _network(address: str) -> str:
    """Return what is counted: an IPv6 subscriber has 2^64 addresses or more (RFC 6177), so its /64 is one."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    return str(parsed.ipv4_mapped or IPv6Address(int(parsed) >> 64 << 64))


def _limiter(bucket: Bucket) -> Throttled | None:
    if not bucket.burst:
        return None
    return Throttled(
        using=RateLimiterType.GCRA.value,
        quota=per_duration(timedelta(minutes=1), bucket.refill, burst=bucket.burst),
        store=MemoryStore(options={"MAX_SIZE": _BUCKETS}),
    )
