"""How often somebody may try: token buckets in the memory of this process (GCRA, by throttled-py).

And how many may be at work at once, which bounds what a fault behind the gateway makes wait.
"""

from collections.abc import Iterator
from contextlib import contextmanager
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
# Logins with a good token that are at work at once. A homeserver that opens 280 sessions a second is 4 seconds behind
# then, and what waits for one that hangs, or for a database, takes some 30 MB.
MOST_LOGINS: Final = 1000


class Bucket(Table):
    """`burst` tries at once, then `refill` a minute; a burst of 0 is no limit."""

    burst: int = Field(ge=0, le=_MAX_RATE)
    refill: int = Field(gt=0, le=_MAX_RATE)


class LimitSettings(Table):
    """The `[limits]` table."""

    # A school class behind one address, 32 clients with three stale tokens each, stays below it.
    failed_logins_per_address: Bucket = Bucket(burst=100, refill=20)
    # Five devices of one user, each of which tries five times, stay below it.
    failed_logins_per_user: Bucket = Bucket(burst=30, refill=6)
    logins_per_user: Bucket = Bucket(burst=300, refill=60)


class Limits:
    """The buckets of the login exchange. A user is an issuer and a subject; issuer "" where it does not matter."""

    def __init__(self, settings: LimitSettings) -> None:
        self._of_address = _Failures(settings.failed_logins_per_address, "failed logins of this address")
        self._of_user = _Failures(settings.failed_logins_per_user, "failed logins of this subject")
        self._logins = limiter(settings.logins_per_user)
        self.at_work = Places(MOST_LOGINS, "logins are at work already")

    def check_address(self, address: str) -> None:
        """Refuse an address that failed too often; "" is an address that isn't known."""
        if address:
            self._of_address.check(network(address))

    def count_failure(self, address: str) -> None:
        """Count a failed login of an address."""
        if address:
            self._of_address.count(network(address))

    def check_user(self, issuer: str, subject: str) -> None:
        """Refuse a user who was refused too often."""
        self._of_user.check(_user(issuer, subject))

    def count_user_failure(self, issuer: str, subject: str) -> None:
        """Count a login that was refused whatever token the user would bring.

        Not one that failed for its token, replayed or expired: whoever got hold of that could shut the user out.
        """
        self._of_user.count(_user(issuer, subject))

    def count_login(self, issuer: str, subject: str) -> None:
        """Count a login of a subject and refuse one too many."""
        if self._logins is not None:
            result = self._logins.limit(_user(issuer, subject))
            if result.limited:
                raise Refused(
                    Refusal.TOO_MANY_ATTEMPTS,
                    reason="logins of this subject",
                    retry_after=result.state.retry_after,
                )


class Places:
    """So many that may be at work at once; one more is refused at once, as `what` says."""

    def __init__(self, most: int, what: str) -> None:
        self._most = most
        self._what = what
        self._taken = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Take a place for a while; raises `Refused` where none is left."""
        if self._taken >= self._most:
            raise Refused(Refusal.BUSY, reason=f"{self._most} {self._what}")
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1


class _Failures:
    """A bucket that failures alone empty, and that refuses before the next one."""

    def __init__(self, bucket: Bucket, name: str) -> None:
        self._limiter = limiter(bucket)
        self._refill_seconds = 60 / bucket.refill
        self._name = name

    def check(self, key: str) -> None:
        if self._limiter is not None and self._limiter.peek(key).remaining < 1:
            raise Refused(Refusal.TOO_MANY_ATTEMPTS, reason=self._name, retry_after=self._refill_seconds)

    def count(self, key: str) -> None:
        if self._limiter is not None:
            self._limiter.limit(key)


def _user(issuer: str, subject: str) -> str:
    return f"{len(issuer)} {issuer} {subject}"


def network(address: str) -> str:
    """Return what is counted: an IPv6 subscriber has 2^64 addresses or more (RFC 6177), so its /64 is one."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    return str(parsed.ipv4_mapped or IPv6Address(int(parsed) >> 64 << 64))


def limiter(bucket: Bucket) -> Throttled | None:
    """Return what counts by name, None for a bucket that is no limit."""
    if not bucket.burst:
        return None
    return Throttled(
        using=RateLimiterType.GCRA.value,
        quota=per_duration(timedelta(minutes=1), bucket.refill, burst=bucket.burst),
        store=MemoryStore(options={"MAX_SIZE": _BUCKETS}),
    )
