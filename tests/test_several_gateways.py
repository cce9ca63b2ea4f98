"""Two gateways on one PostgreSQL are one to a user, and a database that goes away takes only logins with it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway.storage.accounts import Accounts
from gateway.storage.database import DatabaseSettings, open_database
from tests.fake_homeserver import FakeHomeserver
from tests.postgres_server import PostgresServer
from tests.running_gateway import SERVER_NAME, Answered, RunningGateway, mint, running_gateway

ALICE = f"@alice:{SERVER_NAME}"
SYNC = "/_matrix/client/v3/sync"


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.new_database("template0")


@pytest.fixture
async def gateways(
    request: pytest.FixtureRequest, url: str, tmp_path: Path, homeserver: FakeHomeserver
) -> AsyncIterator[tuple[RunningGateway, RunningGateway]]:
    """Started at once, on a database without tables."""
    async with AsyncExitStack() as stack:

        async def start(name: str) -> RunningGateway:
            (tmp_path / name).mkdir()
            running = running_gateway(
                tmp_path / name,
                homeserver.url,
                database={"url": url},
                jwt={"single_use": True},
                identity={"existing_accounts": getattr(request, "param", "link")},
            )
            return await stack.enter_async_context(running)

        first, second = await asyncio.gather(start("first"), start("second"))
        yield first, second


def once(name: str, number: int) -> str:
    """A token for single use."""
    return mint(name, jti=f"{name} {number}")


@pytest.mark.parametrize("gateways", ["link", "refuse"], indirect=True)
async def test_the_first_logins_of_a_user_at_all_gateways_at_once_make_one_account(
    gateways: tuple[RunningGateway, RunningGateway], homeserver: FakeHomeserver
) -> None:
    for user in range(5):
        name = f"user{user}"
        answers = await asyncio.gather(
            *(gateway.log_in(once(name, number)) for number, gateway in enumerate(gateways * 5))
        )
        assert {answer.status for answer in answers} == {200}, answers
        assert {answer.body["user_id"] for answer in answers} == {f"@{name}:{SERVER_NAME}"}
    assert len(homeserver.users) == 5


@pytest.mark.parametrize("gateways", ["link", "refuse"], indirect=True)
async def test_of_subjects_that_want_one_name_at_different_gateways_one_gets_it(
    gateways: tuple[RunningGateway, RunningGateway], homeserver: FakeHomeserver
) -> None:
    subjects = [f"{'A' if number else 'a'}lice" for number in range(2)]
    answers = await asyncio.gather(
        *(
            gateway.log_in(once(subject, number))
            for number in range(5)
            for gateway, subject in zip(gateways, subjects, strict=True)
        )
    )
    by_subject = [{answer.status for answer in answers[number::2]} for number in range(2)]
    assert by_subject in ([{200}, {403}], [{403}, {200}])
    assert len(homeserver.users) == 1


async def test_a_token_for_single_use_is_used_at_one_gateway_alone(
    gateways: tuple[RunningGateway, RunningGateway],
) -> None:
    for number in range(5):
        token = once("alice", number)
        answers = await asyncio.gather(*(gateway.log_in(token) for gateway in gateways * 4))
        assert sorted(answer.status for answer in answers) == [200, *[403] * 7]
        assert {answer.body["error"] for answer in answers if answer.status == 403} == {
            "JWT validation failed: invalid_token: The token was already used"
        }


async def test_a_lock_holds_at_every_gateway_from_its_commit_on(
    gateways: tuple[RunningGateway, RunningGateway], url: str
) -> None:
    tokens = iter(once("alice", number) for number in range(100))
    assert [(await gateway.log_in(next(tokens))).status for gateway in gateways] == [200, 200]
    async with open_database(DatabaseSettings(url=url)) as database:
        for _ in range(3):
            await Accounts(database).lock("alice")
            assert [(await gateway.log_in(next(tokens))).status for gateway in gateways] == [401, 401]
            await Accounts(database).unlock("alice")
            assert [(await gateway.log_in(next(tokens))).status for gateway in gateways] == [200, 200]


async def test_a_database_that_is_killed_stops_logins_alone_and_they_heal_by_themselves(
    gateways: tuple[RunningGateway, RunningGateway], homeserver: FakeHomeserver, postgres: PostgresServer
) -> None:
    tokens = iter(once(f"user{number % 7}", number) for number in range(100_000))
    passed: list[int] = []
    ends = asyncio.Event()

    async def pass_on(gateway: RunningGateway) -> None:
        while not ends.is_set():
            passed.append((await gateway.call("GET", SYNC)).status)

    async def log_in(answers: list[Answered]) -> None:
        while not ends.is_set():
            answers.extend(await asyncio.gather(*(gateway.log_in(next(tokens)) for gateway in gateways)))

    async with asyncio.TaskGroup() as tasks:
        for gateway in gateways:
            tasks.create_task(pass_on(gateway))
        answers: list[Answered] = []
        for _ in range(4):
            tasks.create_task(log_in(answers))
        for _ in range(2):
            await asyncio.sleep(0.3)
            await asyncio.to_thread(postgres.kill)
            await asyncio.sleep(0.3)
            assert 503 in {answer.status for answer in answers}
            postgres.spawn()
            await asyncio.to_thread(postgres.wait)
        await until_healed(answers)
        ends.set()
    assert {answer.status for answer in answers} == {200, 503}
    assert all(answer.headers["Retry-After"] == "5" for answer in answers if answer.status == 503)
    assert all(answer.body["errcode"] == "M_UNKNOWN" for answer in answers if answer.status == 503)
    assert len(passed) > 50
    assert set(passed) == {404}  # the fake's own answer
    assert len(homeserver.users) == 7
    log = "".join(gateway.log for gateway in gateways)
    assert "Traceback" not in log
    assert "SELECT" not in log


async def until_healed(answers: list[Answered]) -> None:
    known = len(answers)
    async with asyncio.timeout(10):
        while sum(answer.status == 200 for answer in answers[known:]) < 20:
            await asyncio.sleep(0.01)


async def test_a_database_that_hangs_holds_a_login_for_5_seconds_at_most(
    gateways: tuple[RunningGateway, RunningGateway], postgres: PostgresServer
) -> None:
    first, second = gateways
    assert (await first.log_in(once("alice", 0))).status == 200
    begun = time.monotonic()
    with postgres.frozen():
        waiting = [asyncio.create_task(first.log_in(once("alice", number))) for number in range(1, 41)]
        waiting.append(asyncio.create_task(second.log_in(once("alice", 41))))
        assert {(await gateway.call("GET", SYNC)).status for gateway in gateways} == {404}
        assert time.monotonic() - begun < 2
        answers = await asyncio.gather(*waiting)
        assert time.monotonic() - begun < 6
    assert {answer.status for answer in answers} == {503}
    assert [(await gateway.log_in(once("alice", 50 + n))).status for n, gateway in enumerate(gateways)] == [200, 200]
