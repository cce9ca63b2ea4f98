"""The keys of an issuer are at hand when a login needs them, whatever the issuer does meanwhile."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway import fetched_keys as module
from gateway.core.jwk_sets import SetRules
from gateway.core.jws import read_header
from gateway.core.keys import KeySet
from gateway.core.tokens import TokenRules, Trust, verify
from gateway.errors import Refusal, Refused
from gateway.fetched_keys import EARLY_FLOOR, RETRY_LAST, UNKNOWN_SECONDS, FetchedKeys
from gateway.issuer_keys import KeySource
from gateway.logs import LogSettings, get_logger
from gateway.storage.database import Database, DatabaseSettings, open_database
from gateway.storage.key_sets import KeySets, StoredSet
from gateway.tasks import Background
from gateway.upstream.key_sets import MIN_AGE
from tests.fake_issuer import JWKS, FakeIssuer, new_key, public, running_issuer
from tests.waiting import finished, until

START = 1_800_000_000.0
DAY = 86400
MAX_STALE = 7 * DAY
JUNK: list[Callable[[], web.Response]] = [
    lambda: web.Response(status=503),
    lambda: web.Response(body=b"<html>"),
    lambda: web.json_response({"keys": []}),
    lambda: web.json_response({"keys": [{"kty": "oct", "k": "c2VjcmV0" * 11}]}),
    lambda: web.Response(body=b"a" * 2_000_000),
]


class Keys:
    """The keys under test, with the clock and the log in hand."""

    def __init__(self, issuer: FakeIssuer, database: Database) -> None:
        self.now = START
        self.issuer = issuer
        self._log = io.StringIO()
        log = get_logger(LogSettings(level="debug"), self._log)
        self.background = Background(log)
        source = KeySource(issuer.jwks_url, None, SetRules(("ES256", "RS256")), MAX_STALE)
        self.stored = KeySets(database)
        self.fetched = FetchedKeys(source, self.stored, self.background, lambda: self.now, log)

    @property
    def log(self) -> str:
        return self._log.getvalue()

    async def try_token(self, token: str) -> None:
        """Verify a token as a login does; raises `Refused`."""
        key_set = await self.fetched.for_token(read_header(token, 16384))
        verify(token, Trust(key_set, TokenRules(validate_exp=False)), START + 10 * DAY)

    async def accepts(self, token: str) -> bool:
        with suppress(Refused):
            await self.try_token(token)
            return True
        return False

    async def refusal(self, token: str) -> Refused:
        with pytest.raises(Refused) as caught:
            await self.try_token(token)
        return caught.value

    async def settled(self) -> None:
        """Wait until no fetch goes on and what came is stored."""
        await finished("key_set_stored")
        flight = self.fetched._flight  # noqa: SLF001 - what a test must know: whether it is over
        if flight is not None:
            await asyncio.wait((flight,))
        await finished("key_set_stored")


@asynccontextmanager
async def started(issuer: FakeIssuer, directory: Path, now: float = START) -> AsyncIterator[Keys]:
    async with open_database(DatabaseSettings(url=f"sqlite:///{directory}/gateway.db")) as database:
        keys = Keys(issuer, database)
        keys.now = now
        await keys.fetched.start()
        try:
            yield keys
        finally:
            keys.fetched.stop()
            await keys.background.close(0.2)


@pytest.fixture
async def issuer() -> AsyncIterator[FakeIssuer]:
    async with running_issuer() as running:
        yield running


@pytest.fixture
async def keys(issuer: FakeIssuer, tmp_path: Path) -> AsyncIterator[Keys]:
    """Keys whose first fetch is over."""
    async with started(issuer, tmp_path) as running:
        assert await running.accepts(issuer.mint())
        await running.settled()
        yield running


async def test_the_first_login_waits_for_the_first_fetch_and_all_share_it(issuer: FakeIssuer, tmp_path: Path) -> None:
    issuer.hold = asyncio.Event()
    async with started(issuer, tmp_path) as keys:
        logins = [asyncio.create_task(keys.accepts(issuer.mint())) for _ in range(20)]
        await until(lambda: issuer.fetches == 1)
        assert not any(login.done() for login in logins)
        issuer.hold.set()
        assert all(await asyncio.gather(*logins))
    assert issuer.fetches == 1


async def test_a_known_key_is_used_without_any_fetch(keys: Keys, issuer: FakeIssuer) -> None:
    await issuer.stop()

    assert all([await keys.accepts(issuer.mint()) for _ in range(50)])
    assert issuer.fetches == 1


async def test_keys_are_fetched_again_when_their_time_is_over_without_a_login_waiting(
    keys: Keys, issuer: FakeIssuer
) -> None:
    issuer.hold = asyncio.Event()
    keys.now += MIN_AGE - 1
    assert await keys.accepts(issuer.mint())
    assert issuer.fetches == 1
    keys.now += 1
    assert await keys.accepts(issuer.mint())
    await until(lambda: issuer.fetches == 2)
    assert await keys.accepts(issuer.mint())
    issuer.hold.set()
    await keys.settled()
    assert issuer.fetches == 2


async def test_an_idle_gateway_fetches_too(keys: Keys, issuer: FakeIssuer, monkeypatch: pytest.MonkeyPatch) -> None:
    keys.fetched.stop()
    monkeypatch.setattr(module, "_LOOK", 0.01)
    await keys.fetched.start()
    keys.now += MIN_AGE
    await until(lambda: issuer.fetches == 2)


async def test_a_set_is_kept_as_long_as_its_issuer_says(issuer: FakeIssuer, tmp_path: Path) -> None:
    issuer.headers["Cache-Control"] = "max-age=3600"
    async with started(issuer, tmp_path) as keys:
        await keys.settled()
        keys.now += 3599
        assert await keys.accepts(issuer.mint())
        assert issuer.fetches == 1


async def test_a_rotation_with_both_keys_published_refuses_no_token(keys: Keys, issuer: FakeIssuer) -> None:
    old = issuer.key
    issuer.rotate("second")
    for _ in range(3):
        assert await keys.accepts(issuer.mint(key=old))
        assert await keys.accepts(issuer.mint())
        keys.now += MIN_AGE
        await keys.settled()


async def test_an_abrupt_rotation_is_noticed_by_the_first_login_and_ends_the_old_key(
    keys: Keys, issuer: FakeIssuer
) -> None:
    old = issuer.key
    issuer.rotate("second", keep=False)

    assert all(await asyncio.gather(*(keys.accepts(issuer.mint()) for _ in range(20))))
    assert issuer.fetches == 2
    refused = await keys.refusal(issuer.mint(key=old))
    assert (refused.refusal, refused.detail) == (Refusal.NO_KEY, "no key for ES256 is named 'first'")


async def test_an_unknown_kid_fetches_once_in_thirty_seconds(keys: Keys, issuer: FakeIssuer) -> None:
    for number in range(20):
        refused = await keys.refusal(issuer.mint(key=new_key(f"unknown {number}")))
        assert refused.refusal is Refusal.NO_KEY
    assert issuer.fetches == 2
    keys.now += EARLY_FLOOR - 1
    await keys.refusal(issuer.mint(key=new_key("later")))
    assert issuer.fetches == 2
    keys.now += 1
    await keys.refusal(issuer.mint(key=new_key("later")))
    assert issuer.fetches == 3


async def test_a_kid_that_was_not_found_causes_no_second_fetch_for_a_while(keys: Keys, issuer: FakeIssuer) -> None:
    issuer.headers["Cache-Control"] = "max-age=3600"
    token = issuer.mint(key=new_key("unknown"))
    await keys.refusal(token)
    fetches = issuer.fetches
    for _ in range(2):
        keys.now += UNKNOWN_SECONDS / 2 - 1
        await keys.refusal(token)
    assert issuer.fetches == fetches
    keys.now += 2
    await keys.refusal(token)
    assert issuer.fetches == fetches + 1


async def test_a_fetch_that_failed_says_nothing_of_a_kid(keys: Keys, issuer: FakeIssuer) -> None:
    issuer.rotate("second")
    issuer.answers[JWKS] = JUNK[0]
    await keys.refusal(issuer.mint())
    del issuer.answers[JWKS]
    keys.now += EARLY_FLOOR

    assert await keys.accepts(issuer.mint())


async def test_what_is_remembered_of_unknown_kids_is_bounded(
    keys: Keys, issuer: FakeIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_UNKNOWN", 10)
    issuer.headers["Cache-Control"] = "max-age=86400"
    for number in range(30):
        keys.now += EARLY_FLOOR
        await keys.fetched.for_token({"alg": "ES256", "kid": "x" * 1000 + str(number)})
    memory = keys.fetched._unknown  # noqa: SLF001 - its size can't be seen from outside

    assert len(memory) == 10
    assert all(len(digest) == 32 for digest in memory)


async def test_a_login_that_goes_away_ends_no_fetch_of_others(keys: Keys, issuer: FakeIssuer) -> None:
    issuer.rotate("second", keep=False)
    issuer.hold = asyncio.Event()
    first, second = (asyncio.create_task(keys.accepts(issuer.mint())) for _ in range(2))
    await until(lambda: issuer.fetches == 2)
    first.cancel()
    await asyncio.wait((first,))
    issuer.hold.set()

    assert await second
    assert issuer.fetches == 2


async def test_a_nameless_key_that_fits_is_used_at_once_and_a_new_name_looked_for_beside(
    issuer: FakeIssuer, tmp_path: Path
) -> None:
    nameless = new_key(None)
    issuer.published = [nameless]
    async with started(issuer, tmp_path) as keys:
        assert await keys.accepts(issuer.mint(key=nameless))
        named = issuer.rotate("second")
        issuer.hold = asyncio.Event()
        assert not await keys.accepts(issuer.mint(key=named))
        await until(lambda: issuer.fetches == 2)
        issuer.hold.set()
        await keys.settled()
        assert await keys.accepts(issuer.mint(key=named))
        assert await keys.accepts(issuer.mint(key=nameless))


async def test_who_does_not_wait_gets_what_is_at_hand_and_the_key_is_looked_for_beside(
    issuer: FakeIssuer, tmp_path: Path
) -> None:
    issuer.hold = asyncio.Event()
    async with started(issuer, tmp_path) as keys:
        header = read_header(issuer.mint(), 16384)
        assert (await keys.fetched.for_token(header, wait=False)).keys == ()
        issuer.hold.set()
        await keys.settled()
        assert len((await keys.fetched.for_token(header, wait=False)).keys) == 1
        issuer.rotate("second")
        later = read_header(issuer.mint(), 16384)
        assert not (await keys.fetched.for_token(later, wait=False)).candidates("ES256", "second")
        await keys.settled()
        assert (await keys.fetched.for_token(later, wait=False)).candidates("ES256", "second")


async def test_a_token_without_kid_is_tried_with_the_keys_at_hand(keys: Keys, issuer: FakeIssuer) -> None:
    nameless = dict(read_header(issuer.mint(), 16384))
    nameless.pop("kid")

    assert isinstance(await keys.fetched.for_token(nameless), KeySet)
    assert issuer.fetches == 1


@pytest.mark.parametrize(
    "header",
    [{}, {"alg": None}, {"alg": "none"}, {"alg": "HS256"}, {"alg": ["ES256"]}, {"alg": "ES256", "kid": 5}],
)
async def test_a_header_that_no_key_can_help_neither_waits_nor_fetches(
    header: dict[str, Any], issuer: FakeIssuer, tmp_path: Path
) -> None:
    issuer.hold = asyncio.Event()
    async with started(issuer, tmp_path) as keys:
        async with asyncio.timeout(1):
            assert (await keys.fetched.for_token(header)).keys == ()
        issuer.hold.set()
    assert issuer.fetches <= 1


async def test_an_issuer_that_is_down_for_an_hour_stops_no_login(keys: Keys, issuer: FakeIssuer) -> None:
    await issuer.stop()
    for _ in range(120):
        keys.now += 30
        assert await keys.accepts(issuer.mint())
        await keys.settled()

    assert keys.log.count("key_set_not_fetched") == 1
    assert "the last good set stays in use" in keys.log
    assert keys.fetched.status.error
    await issuer.start()
    keys.now += RETRY_LAST
    assert await keys.accepts(issuer.mint())
    await keys.settled()
    assert keys.log.count("key_set_fetched_again") == 1
    assert keys.fetched.status.error == ""
    assert keys.fetched.status.fetched_at == keys.now


async def test_failures_are_tried_again_less_and_less_often(keys: Keys, issuer: FakeIssuer) -> None:
    issuer.answers[JWKS] = JUNK[0]
    keys.now += MIN_AGE
    moments = []
    for _ in range(800):
        before = issuer.fetches
        assert await keys.accepts(issuer.mint())
        await keys.settled()
        if issuer.fetches > before:
            moments.append(keys.now)
        keys.now += 1

    assert [later - earlier for earlier, later in pairwise(moments)][:6] == [15, 30, 60, 120, 240, RETRY_LAST]


@pytest.mark.parametrize("answer", JUNK)
async def test_an_answer_that_is_no_good_replaces_no_good_set(
    keys: Keys, issuer: FakeIssuer, answer: Callable[[], web.Response], tmp_path: Path
) -> None:
    issuer.answers[JWKS] = answer
    keys.now += MIN_AGE
    assert await keys.accepts(issuer.mint())
    await keys.settled()
    assert await keys.accepts(issuer.mint())
    assert keys.log.count("key_set_not_fetched") == 1
    async with started(issuer, tmp_path) as again:
        await again.settled()
        assert await again.accepts(issuer.mint())


async def test_a_gateway_whose_fetches_fail_takes_what_another_on_its_database_fetched(
    keys: Keys, issuer: FakeIssuer, tmp_path: Path
) -> None:
    issuer.rotate("second", keep=False)
    keys.now += EARLY_FLOOR
    async with started(issuer, tmp_path, keys.now) as another:
        assert await another.accepts(issuer.mint())
        await another.settled()
    issuer.answers[JWKS] = JUNK[0]
    assert await keys.accepts(issuer.mint())
    assert keys.fetched.status.error
    assert keys.fetched.status.fetched_at == another.fetched.status.fetched_at


async def test_a_set_that_another_gateway_stored_far_ahead_of_our_time_is_left(
    keys: Keys, issuer: FakeIssuer
) -> None:
    ahead = int(keys.now + DAY)
    octets = json.dumps({"keys": [public(new_key("another"))]}).encode()
    await keys.stored.keep(issuer.jwks_url, StoredSet(octets, ahead))
    issuer.answers[JWKS] = JUNK[0]
    keys.now += MIN_AGE
    assert await keys.accepts(issuer.mint())
    await keys.settled()
    assert await keys.accepts(issuer.mint())
    assert keys.fetched.status.fetched_at == START


async def test_more_logins_than_may_wait_for_a_fetch_are_told_to_come_again(
    issuer: FakeIssuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    issuer.hold = asyncio.Event()
    async with started(issuer, tmp_path) as keys:
        logins = [asyncio.create_task(keys.accepts(issuer.mint())) for _ in range(3)]
        await until(lambda: issuer.fetches == 1)
        refused = await keys.refusal(issuer.mint())
        assert (refused.status, refused.retry_after) == (503, 5)
        issuer.hold.set()
        assert all(await asyncio.gather(*logins))
        assert await keys.accepts(issuer.mint())


async def test_keys_that_are_too_old_verify_nothing_until_the_issuer_is_back(keys: Keys, issuer: FakeIssuer) -> None:
    await issuer.stop()
    keys.now += MAX_STALE - 1
    assert await keys.accepts(issuer.mint())
    await keys.settled()
    keys.now += RETRY_LAST
    refused = await keys.refusal(issuer.mint())
    assert refused.refusal is Refusal.KEYS_UNAVAILABLE
    assert refused.status == 503
    assert refused.retry_after == EARLY_FLOOR
    assert "logins with tokens of this issuer are refused" in keys.log
    await issuer.start()
    keys.now += EARLY_FLOOR
    assert await keys.accepts(issuer.mint())


async def test_without_any_set_a_login_is_told_to_come_again(issuer: FakeIssuer, tmp_path: Path) -> None:
    await issuer.stop()
    async with started(issuer, tmp_path) as keys:
        for _ in range(3):
            refused = await keys.refusal(issuer.mint())
            assert refused.refusal is Refusal.KEYS_UNAVAILABLE
            assert f"the key set is not there: {issuer.jwks_url} can't be reached" in refused.reason
        assert keys.log.count("key_set_not_fetched") == 1
        assert keys.fetched.status.fetched_at is None
        assert keys.fetched.status.keys == 0


async def test_a_start_while_the_issuer_is_down_takes_the_stored_set(
    keys: Keys, issuer: FakeIssuer, tmp_path: Path
) -> None:
    await issuer.stop()
    async with started(issuer, tmp_path) as again:
        assert await again.accepts(issuer.mint())
        assert again.fetched.status.fetched_at == START
        again.now = START + MAX_STALE
        assert (await again.refusal(issuer.mint())).refusal is Refusal.KEYS_UNAVAILABLE
    assert await keys.accepts(issuer.mint())


@pytest.mark.parametrize("octets", [b"", b"junk", b'{"keys": []}'])
async def test_a_stored_set_that_is_broken_is_left_aside(issuer: FakeIssuer, tmp_path: Path, octets: bytes) -> None:
    async with open_database(DatabaseSettings(url=f"sqlite:///{tmp_path}/gateway.db")) as database:
        await KeySets(database).keep(issuer.jwks_url, StoredSet(octets, int(START)))
    async with started(issuer, tmp_path) as keys:
        assert await keys.accepts(issuer.mint())
        assert "stored_key_set_not_usable" in keys.log


async def test_a_database_that_cannot_stops_no_login(issuer: FakeIssuer, tmp_path: Path) -> None:
    async with open_database(DatabaseSettings(url=f"sqlite:///{tmp_path}/gateway.db")) as database:
        async with database.connect() as connection:
            await connection.exec_driver_sql("DROP TABLE key_sets")
        keys = Keys(issuer, database)
        await keys.fetched.start()
        assert await keys.accepts(issuer.mint())
        await keys.settled()
        keys.fetched.stop()
        await keys.background.close(0.2)
    assert "stored_key_set_not_usable" in keys.log
    assert "key_set_not_stored" in keys.log


async def test_a_clock_that_is_set_back_blocks_nothing(keys: Keys, issuer: FakeIssuer) -> None:
    await keys.refusal(issuer.mint(key=new_key("unknown")))
    keys.now -= 3600
    issuer.rotate("second")

    assert await keys.accepts(issuer.mint())


async def test_a_clock_that_was_ahead_keeps_no_key_beyond_its_time(
    issuer: FakeIssuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK", 0.01)
    async with started(issuer, tmp_path) as keys:
        keys.now = START + 90 * DAY
        assert await keys.accepts(issuer.mint())
        await keys.settled()
        await issuer.stop()
        keys.now = START
        assert await keys.accepts(issuer.mint())
        await until(lambda: keys.fetched.status.fetched_at == START)
        keys.now = START + MAX_STALE
        assert (await keys.refusal(issuer.mint())).refusal is Refusal.KEYS_UNAVAILABLE


async def test_keys_that_nobody_should_see_are_warned_of_once(issuer: FakeIssuer, tmp_path: Path) -> None:
    private = new_key("private")
    body = {"keys": [public(issuer.key), private.as_dict(private=True), {"kty": "x", "kid": "odd"}]}
    issuer.answers[JWKS] = lambda: web.json_response(body)
    async with started(issuer, tmp_path) as keys:
        for _ in range(3):
            assert await keys.accepts(issuer.mint())
            keys.now += MIN_AGE
            await keys.settled()
        assert not await keys.accepts(issuer.mint(key=private))
    assert keys.log.count("key_set_shows_secrets") == 1
    assert keys.log.count("'odd'") == 1
    assert str(private.as_dict(private=True)["d"]) not in keys.log
    assert json.dumps(body) not in keys.log


async def test_nothing_runs_after_the_stop(issuer: FakeIssuer, tmp_path: Path) -> None:
    issuer.hold = asyncio.Event()
    before = asyncio.all_tasks()
    async with started(issuer, tmp_path):
        await until(lambda: issuer.fetches == 1)
    assert {task for task in asyncio.all_tasks() - before if "RequestHandler" not in repr(task)} == set()
    issuer.hold.set()
