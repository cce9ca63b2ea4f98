"""Logins at a live gateway whose keys come from an issuer that rotates, breaks and comes back."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.fetched_keys import EARLY_FLOOR
from gateway.upstream.key_sets import MIN_AGE
from tests.authority import LOOPBACK, Authority
from tests.fake_homeserver import FakeHomeserver
from tests.fake_issuer import JWKS, FakeIssuer, new_key, running_issuer
from tests.running_gateway import RunningGateway, running_gateway, write_configuration
from tests.waiting import until


@pytest.fixture
async def issuer() -> AsyncIterator[FakeIssuer]:
    async with running_issuer() as running:
        yield running


def jwt_table(issuer: FakeIssuer, **more: Any) -> dict[str, Any]:
    return {
        "format": "JWKS",
        "algorithm": "ES256",
        "issuer": issuer.url,
        "discovery_url": issuer.discovery_url,
        "secret": [],
        **more,
    }


class Clock:
    """The time, which a test may move."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


async def until_fetched(issuer: FakeIssuer, count: int) -> None:
    async with asyncio.timeout(5):
        while issuer.fetches < count:
            await asyncio.sleep(0.01)


class Load:
    """Logins without a pause, some at once, with whatever key the issuer signs with at the moment."""

    def __init__(self, gateway: RunningGateway, issuer: FakeIssuer) -> None:
        self.answers: Counter[int] = Counter()
        self.tasks = [asyncio.create_task(self._go_on(gateway, issuer, f"user{number}")) for number in range(8)]

    async def _go_on(self, gateway: RunningGateway, issuer: FakeIssuer, name: str) -> None:
        while True:
            answer = await gateway.log_in(issuer.mint(name))
            self.answers[answer.status] += 1

    async def more(self, count: int) -> None:
        goal = self.answers.total() + count
        async with asyncio.timeout(20):
            while self.answers.total() < goal:
                await asyncio.sleep(0.01)

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_keys_rotate_under_login_load_without_one_refused_token(
    issuer: FakeIssuer, homeserver: FakeHomeserver, tmp_path: Path
) -> None:
    clock = Clock()
    async with running_gateway(tmp_path, homeserver.url, clock, jwt=jwt_table(issuer)) as gateway:
        load = Load(gateway, issuer)
        await load.more(30)

        async def fetched_under_load() -> None:
            await load.more(30)
            fetches = issuer.fetches
            clock.ahead += MIN_AGE
            await until_fetched(issuer, fetches + 1)
            await load.more(30)

        old, new = issuer.key, new_key("second")
        # As issuers do: the new key is published, then signs; the old one goes after its last token expired.
        issuer.published = [old, new]
        await fetched_under_load()
        issuer.key = new
        assert (await gateway.log_in(issuer.mint(key=old))).status == 200
        await fetched_under_load()
        issuer.published = [new]
        await fetched_under_load()
        assert (await gateway.log_in(issuer.mint(key=old))).status == 403
        # And all at once: the first token that names the new key finds it; the old one was looked for in vain.
        clock.ahead += EARLY_FLOOR
        fetches = issuer.fetches
        issuer.rotate("third")
        await load.more(30)
        assert issuer.fetches == fetches + 1
        await load.end()
    assert set(load.answers) == {200}
    assert load.answers.total() >= 210


async def test_an_issuer_that_is_down_for_an_hour_stops_no_login(
    issuer: FakeIssuer, homeserver: FakeHomeserver, tmp_path: Path
) -> None:
    clock = Clock()
    async with running_gateway(tmp_path, homeserver.url, clock, jwt=jwt_table(issuer)) as gateway:
        assert (await gateway.log_in(issuer.mint())).status == 200
        await issuer.stop()
        for _ in range(12):
            clock.ahead += 300
            assert (await gateway.log_in(issuer.mint())).status == 200
        assert gateway.log.count("key_set_not_fetched") == 1
        await issuer.start()
        clock.ahead += 300
        assert (await gateway.log_in(issuer.mint())).status == 200
        issuer.rotate("second")
        clock.ahead += 300
        assert (await gateway.log_in(issuer.mint())).status == 200


async def test_a_set_that_was_asked_for_before_the_token_came_does_not_speak_for_its_key(
    issuer: FakeIssuer, homeserver: FakeHomeserver, tmp_path: Path
) -> None:
    clock, go_on = Clock(), asyncio.Event()
    async with running_gateway(tmp_path, homeserver.url, clock, jwt=jwt_table(issuer)) as gateway:
        assert (await gateway.log_in(issuer.mint())).status == 200
        old = issuer.jwk_set()
        answers = iter((old,))
        issuer.answers[JWKS] = lambda: web.json_response(next(answers, None) or issuer.jwk_set())
        issuer.hold = go_on
        clock.ahead += 3700
        asked = len(issuer.asked)
        assert (await gateway.log_in(issuer.mint())).status == 200  # it begins the fetch
        await until(lambda: len(issuer.asked) > asked)
        issuer.rotate("second")
        login = asyncio.create_task(gateway.log_in(issuer.mint()))
        await asyncio.sleep(0.05)
        go_on.set()
        assert (await login).status == 200


async def test_a_restart_while_the_issuer_is_down_uses_the_stored_set(
    issuer: FakeIssuer, homeserver: FakeHomeserver, tmp_path: Path
) -> None:
    async with running_gateway(tmp_path, homeserver.url, jwt=jwt_table(issuer)) as gateway:
        assert (await gateway.log_in(issuer.mint())).status == 200
    await issuer.stop()
    async with running_gateway(tmp_path, homeserver.url, jwt=jwt_table(issuer)) as gateway:
        assert (await gateway.log_in(issuer.mint())).status == 200


async def test_a_first_start_while_the_issuer_is_down_passes_requests_on_and_says_to_come_again(
    issuer: FakeIssuer, homeserver: FakeHomeserver, tmp_path: Path
) -> None:
    await issuer.stop()
    clock = Clock()
    async with running_gateway(tmp_path, homeserver.url, clock, jwt=jwt_table(issuer)) as gateway:
        answer = await gateway.log_in(issuer.mint())
        assert (answer.status, answer.body["errcode"]) == (503, "M_UNKNOWN")
        assert answer.headers["Retry-After"] == "30"
        assert (await gateway.call("GET", "/_matrix/client/versions")).status == 200
        assert "key_set_not_fetched" in gateway.log
        await issuer.start()
        clock.ahead += 30
        assert (await gateway.log_in(issuer.mint())).status == 200


async def test_a_token_of_a_key_that_is_not_published_is_an_invalid_key(
    issuer: FakeIssuer, homeserver: FakeHomeserver, tmp_path: Path
) -> None:
    async with running_gateway(tmp_path, homeserver.url, jwt=jwt_table(issuer)) as gateway:
        answer = await gateway.log_in(issuer.mint(key=new_key("../../etc/passwd")))
        assert (answer.status, answer.body) == (
            403,
            {
                "errcode": "M_FORBIDDEN",
                "error": "JWT validation failed: invalid_key: no key for ES256 is named '../../etc/passwd'",
            },
        )
        forged = new_key("first")
        assert (await gateway.log_in(issuer.mint(key=forged))).body["error"].endswith("Signature verification failed")


async def test_a_document_of_another_issuer_gives_no_keys(
    issuer: FakeIssuer, homeserver: FakeHomeserver, tmp_path: Path
) -> None:
    issuer.metadata["issuer"] = "https://other.example"
    async with running_gateway(tmp_path, homeserver.url, jwt=jwt_table(issuer)) as gateway:
        assert (await gateway.log_in(issuer.mint())).status == 503
        assert "is of the issuer 'https://other.example', which issuer does not name" in gateway.log


async def test_keys_come_over_tls(authority: Authority, homeserver: FakeHomeserver, tmp_path: Path) -> None:
    async with running_issuer(authority.server(LOOPBACK)) as issuer:
        async with running_gateway(tmp_path, homeserver.url, jwt=jwt_table(issuer)) as gateway:
            assert (await gateway.log_in(issuer.mint())).status == 200


async def test_a_reload_keeps_the_keys_at_hand_and_takes_another_source(
    issuer: FakeIssuer, homeserver: FakeHomeserver, tmp_path: Path
) -> None:
    async with running_issuer() as other:
        async with running_gateway(tmp_path, homeserver.url, jwt=jwt_table(issuer)) as gateway:
            assert (await gateway.log_in(issuer.mint())).status == 200
            issuer.answers[JWKS] = lambda: web.Response(status=500)
            await gateway.running.reload()
            assert (await gateway.log_in(issuer.mint())).status == 200
            assert issuer.fetches == 1
            write_configuration(tmp_path, homeserver.url, {"jwt": jwt_table(other)})
            await gateway.running.reload()
            assert (await gateway.log_in(other.mint())).status in {200, 403}  # alice may be the other issuer's
            assert (await gateway.log_in(other.mint("bob"))).status == 200
            assert (await gateway.log_in(issuer.mint("bob"))).status == 403


async def test_a_local_set_is_read_again_on_reload(
    issuer: FakeIssuer, homeserver: FakeHomeserver, tmp_path: Path
) -> None:
    key_file = tmp_path / "jwks.json"
    key_file.write_text(web.json_response(issuer.jwk_set()).text or "")
    table = {"format": "JWKS", "algorithm": "ES256", "issuer": issuer.url, "jwks_file": "jwks.json", "secret": []}
    async with running_gateway(tmp_path, homeserver.url, jwt=table) as gateway:
        assert (await gateway.log_in(issuer.mint())).status == 200
        issuer.rotate("second")
        assert (await gateway.log_in(issuer.mint())).status == 403
        key_file.write_text(web.json_response(issuer.jwk_set()).text or "")
        await gateway.running.reload()
        assert (await gateway.log_in(issuer.mint())).status == 200
    assert issuer.asked == []
