"""The keys of a JWK set at a URL, fetched beside the requests.

The rule: a login never waits for a fetch while a key that fits its token is at hand, and never for more than one.
Whatever goes wrong with a fetch, the last good set stays in use until it is too old.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.core.jwk_sets import JwkSet, no_keys, read_jwk_set
from gateway.core.keys import KeySet, UnfitKeys
from gateway.errors import Refusal, Refused
from gateway.issuer_keys import KeySource
from gateway.limits import Places
from gateway.logs import Logger
from gateway.storage.key_sets import CLOCKS_APART, KeySets, StoredSet
from gateway.tasks import Background
from gateway.upstream.fetching import NotFetched
from gateway.upstream.key_sets import KeySetClient

# The least time between two fetches that tokens with an unknown `kid` cause, in seconds. Issuers
# publish a key long before they sign with it, so that none is needed but after an accident.
EARLY_FLOOR: Final = 30
# How long such a `kid` causes no further fetch, and how many of them are remembered.
UNKNOWN_SECONDS: Final = 300
MAX_UNKNOWN: Final = 1000
# How many logins may wait for a fetch. Their tokens are not verified yet.
MAX_WAITING: Final = 1000
# How soon a failed fetch is tried again: doubled each time, from the first to the second.
RETRY_FIRST: Final = 15
RETRY_LAST: Final = 300
# How often the clock is looked at: it may be set, and a machine may sleep.
_LOOK: Final = 30
_MAX_DOUBLINGS: Final = 8
_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """How it stands with a source: the number of keys, when they were fetched (None: never), what failed since.

    `fetched_at` is in seconds since the epoch; `error` is "" when the last fetch went well; `usable`: logins go on.
    """

    keys: int
    fetched_at: float | None
    error: str
    usable: bool


@dataclass(frozen=True, slots=True)
class _Pause:
    """A time to wait from a moment on; over too when the clock is set back before that moment. Seconds."""

    since: float = 0
    seconds: float = 0

    def over(self, now: float) -> bool:
        return not 0 <= now - self.since < self.seconds


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which key a token wants; a header that no key could help has none."""

    algorithm: str
    kid: str | None

    @classmethod
    def by(cls, header: dict[str, Any], keys: KeySet) -> "_Wanted | None":
        algorithm, kid = header.get("alg"), header.get("kid")
        if isinstance(algorithm, str) and algorithm in keys.algorithms and isinstance(kid, str | None):
            return cls(algorithm, kid)
        return None

    @property
    def digest(self) -> bytes:
        name = "" if self.kid is None else f"={self.kid}"
        return hashlib.sha256(f"{self.algorithm} {name}".encode()).digest()

    def fits(self, keys: KeySet) -> bool:
        """Say whether a key is at hand that may verify the token."""
        return bool(keys.candidates(self.algorithm, self.kid))

    def found(self, keys: KeySet) -> bool:
        """Say whether no fetch could bring a better one."""
        return self.fits(keys) if self.kid is None else keys.knows(self.algorithm, self.kid)


class FetchedKeys:
    """The keys of one source, kept fresh between `start` and `stop`. `now` gives seconds since the epoch."""

    def __init__(
        self, source: KeySource, stored: KeySets, background: Background, now: Callable[[], float], log: Logger
    ) -> None:
        self._source = source
        self._client = KeySetClient(source.url, source.issuers)
        self._stored = stored
        self._background = background
        self._now = now
        self._log = log.bind(source=source.url.partition("?")[0])
        self._keys = no_keys(source.rules)
        self._octets = b""
        self._fetched_at: float | None = None
        self._error = ""
        self._failures = 0
        self._warned_usable: bool | None = None
        self._fresh = _Pause()
        self._early = _Pause()
        self._unknown: dict[bytes, _Pause] = {}
        self._waiting = Places(MAX_WAITING, "logins wait for the key set already")
        self._flight: asyncio.Task[None] | None = None
        self._loop: asyncio.Task[None] | None = None

    @property
    def status(self) -> KeyStatus:
        """How it stands with the source."""
        return KeyStatus(len(self._keys.keys), self._fetched_at, self._error, self._usable(self._now()))

    async def start(self) -> None:
        """Take up the stored set, and go on to fetch the present one without waiting for it."""
        await self._take_stored()
        self._loop = self._background.share(self._keep_fresh(), "key_set")

    def stop(self) -> None:
        """Begin no further fetch on its own; one that goes on ends by itself, for the logins that wait for it."""
        if self._loop is not None:
            self._loop.cancel()

    async def for_token(self, header: dict[str, Any], *, wait: bool = True) -> KeySet:
        """Return the keys to verify a token with that (unverified) header.

        Raises `Refused` while there are no keys at all, or only ones that are too old; without `wait` it gives none.
        """
        wanted = _Wanted.by(header, self._keys)
        if wanted is None:
            return self._keys  # whichever they are, its verification ends with what is wrong with the header
        now = self._now()
        if self._fresh.over(now):
            self._begin_fetch()
        if not (self._usable(now) and wanted.found(self._keys)):
            before = self._flight
            flight = self._early_fetch(wanted, now)
            if wait and await self._landed(flight, wanted, now) and flight is before:
                # It had begun before, and may have brought what was there before the key: it is asked once more.
                await self._landed(self._early_fetch(wanted, now), wanted, now)
        if self._usable(self._now()):
            return self._keys
        if wait:
            raise Refused(
                Refusal.KEYS_UNAVAILABLE,
                reason=f"the key set is not there: {self._error or 'its fetch goes on'}",
                retry_after=EARLY_FLOOR,
            )
        return no_keys(self._source.rules)

    async def _landed(self, flight: asyncio.Task[None] | None, wanted: _Wanted, now: float) -> bool:
        """Wait for a fetch where no key is at hand that may do, and say whether there is still none."""
        if flight is None or (self._usable(now) and wanted.fits(self._keys)):
            return False
        with self._waiting.one():
            await asyncio.wait((flight,))
        return not (self._usable(now) and wanted.fits(self._keys))

    def _usable(self, now: float) -> bool:
        return self._fetched_at is not None and now - self._fetched_at < self._source.max_stale

    async def _keep_fresh(self) -> None:
        while True:
            now = self._now()
            if self._fetched_at is not None:
                self._fetched_at = min(self._fetched_at, now)  # or a clock that was ahead makes its time longer
            if self._fresh.over(now):
                self._begin_fetch()
            await asyncio.sleep(_LOOK)

    def _early_fetch(self, wanted: _Wanted, now: float) -> asyncio.Task[None] | None:
        """Return the fetch that may bring the key: the one that goes on, or a new one where that is due."""
        going_on = self._flight is not None and not self._flight.done()
        if not going_on:
            if not self._early.over(now) or not self._unknown.get(wanted.digest, _Pause()).over(now):
                return None
            self._early = _Pause(now, EARLY_FLOOR)
            self._begin_fetch(wanted)
        return self._flight

    def _begin_fetch(self, wanted: _Wanted | None = None) -> None:
        """Fetch, unless a fetch goes on; `wanted` is remembered as unknown when the set lacks it."""
        if self._flight is None or self._flight.done():
            self._flight = self._background.share(self._refresh(wanted), "key_set")

    async def _refresh(self, wanted: _Wanted | None) -> None:
        began = self._now()
        self._fresh = _Pause(began, min(RETRY_FIRST * 2**self._failures, RETRY_LAST))
        try:
            fetched = await self._client.fetch()
            jwk_set = await self._read(fetched.octets)
        except (NotFetched, UnfitKeys) as error:
            await self._take_stored()
            self._note_failure(_reason(error))
            return
        self._fresh = _Pause(began, fetched.max_age)
        if self._error:
            self._log.info("key_set_fetched_again")
        self._error, self._failures, self._warned_usable = "", 0, None
        self._take(jwk_set, fetched.octets, began)
        if wanted is not None and not wanted.found(self._keys):
            self._remember_unknown(wanted, began)
        self._background.leave(self._store(StoredSet(fetched.octets, int(began))), "key_set_stored")

    async def _take_stored(self) -> None:
        """Take up the stored set if it is newer: this gateway's own at a start, later another's on this database."""
        try:
            found, now = await self._stored.find(self._source.url), self._now()
            if found is not None and (
                self._fetched_at is None or self._fetched_at < found.fetched_at < now + CLOCKS_APART
            ):
                self._take(await self._read(found.octets), found.octets, min(found.fetched_at, now))
        except (Refused, UnfitKeys) as error:
            self._log.warning("stored_key_set_not_usable", reason=_reason(error))

    async def _read(self, octets: bytes) -> JwkSet:
        # Not in the loop: a thousand keys take long enough to hold every request up.
        return await asyncio.to_thread(read_jwk_set, octets, self._source.rules)

    def _take(self, jwk_set: JwkSet, octets: bytes, fetched_at: float) -> None:
        self._keys, self._fetched_at = jwk_set.keys, fetched_at
        if octets != self._octets:
            self._octets = octets
            self._log.info("key_set_taken", keys=len(jwk_set.keys.keys), skipped="; ".join(jwk_set.skipped[:_SHOWN]))
            if jwk_set.exposed:
                self._log.warning("key_set_shows_secrets", keys="; ".join(jwk_set.exposed[:_SHOWN]))

    def _note_failure(self, why: str) -> None:
        """Keep what there is; warn when it is the first failure, and when no usable keys are left."""
        self._failures = min(self._failures + 1, _MAX_DOUBLINGS)
        self._error = why
        usable = self._usable(self._now())
        if usable is not self._warned_usable:
            self._warned_usable = usable
            left = "the last good set stays in use" if usable else "logins with tokens of this issuer are refused"
            self._log.warning("key_set_not_fetched", reason=why, effect=left)

    def _remember_unknown(self, wanted: _Wanted, now: float) -> None:
        self._unknown.pop(wanted.digest, None)
        while len(self._unknown) >= MAX_UNKNOWN:
            del self._unknown[next(iter(self._unknown))]
        self._unknown[wanted.digest] = _Pause(now, UNKNOWN_SECONDS)

    async def _store(self, found: StoredSet) -> None:
        try:
            await self._stored.keep(self._source.url, found)
        except Refused as refused:
            self._log.warning("key_set_not_stored", reason=refused.reason)


async def fetch_once(source: KeySource) -> JwkSet:
    """Return the set of a source as it is now, for a command; raises `Refused` with the reason."""
    try:
        fetched = await KeySetClient(source.url, source.issuers).fetch()
        return read_jwk_set(fetched.octets, source.rules)
    except (NotFetched, UnfitKeys) as error:
        raise Refused(Refusal.KEYS_UNAVAILABLE, reason=_reason(error)) from None


def _reason(error: Exception) -> str:
    if isinstance(error, UnfitKeys):
        return "; ".join(problem.text for problem in error.problems)
    return error.reason if isinstance(error, Refused) else str(error)


async def exchange(before: Mapping[KeySource, FetchedKeys], after: Mapping[KeySource, FetchedKeys]) -> None:
    """Start what is new and stop what is gone; no issuer is waited for."""
    for source in after.keys() - before.keys():
        await after[source].start()
    for source in before.keys() - after.keys():
        before[source].stop()
