"""The homeserver's own limits: a short wait is waited for, a long one is told."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.conftest import BY_APPSERVICE, CASES, Case, before, rows
from tests.conformance.targets import Fake, Target
from tests.fake_homeserver import Fault
from tests.flavours import BEHIND_MAS
from tests.real_dendrite import RealDendrite, dendrite_program, running_dendrite
from tests.real_synapse import JWT_CONFIG, RealSynapse, needs_synapse, running
from tests.running_gateway import mint

pytestmark = pytest.mark.timeout(900)
LONG = 60_000  # milliseconds

FAKES = tuple(case for case in CASES if not isinstance(case.kind, str) and case.kind is not BEHIND_MAS)
OF_APPSERVICES = tuple(case for case in FAKES if case in BY_APPSERVICE)
LIMITED_SYNAPSE = Case("limited_synapse")
LIMITED_JWT = Case("limited_synapse", jwt=True)
LIMITED_DENDRITE = Case("limited_dendrite")


@pytest.fixture(scope="module")
def limited_synapse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealSynapse]:
    """A Synapse that takes three logins of an address, and then next to none."""
    needs_synapse()
    few = {"per_second": 0.01, "burst_count": 3}
    rc_login = {"address": few, "account": few, "failed_attempts": few}
    place = tmp_path_factory.mktemp("limited-synapse")
    with running(place, jwt_config=JWT_CONFIG, rc_login=rc_login, rc_registration=few) as started:
        yield started


@pytest.fixture(scope="module")
def limited_dendrite(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealDendrite]:
    """A Dendrite whose limits stand as they come: five logins or registrations of one address in each half second."""
    program = dendrite_program(request.config.cache.mkdir("dendrite"))
    limits = {"enabled": True, "threshold": 5, "cooloff_ms": 500}
    with running_dendrite(tmp_path_factory.mktemp("limited-dendrite"), program, rate_limiting=limits) as started:
        yield started


def limit(target: Target, call: str, milliseconds: int | None) -> None:
    assert isinstance(target, Fake)
    extra = {"retry_after_ms": milliseconds} if milliseconds else {}
    target.homeserver.faults[call] = Fault((429, "M_LIMIT_EXCEEDED"), extra)


@pytest.mark.parametrize("case", OF_APPSERVICES, ids=str, indirect=True)
@pytest.mark.parametrize("call", ["register", "login"])
async def test_a_short_wait_is_waited_for(call: str, target: Target, tmp_path: Path, localpart: str) -> None:
    async with before(target, tmp_path) as gateway:
        limit(target, call, 50)
        assert (await gateway.log_in(mint(localpart))).status == 200


@pytest.mark.parametrize("case", FAKES, ids=str, indirect=True)
@pytest.mark.parametrize("wait", [LONG, None])  # Palpo does not say how long
async def test_a_wait_that_is_long_or_not_said_is_told(
    wait: int | None, target: Target, tmp_path: Path, localpart: str
) -> None:
    async with before(target, tmp_path) as gateway:
        assert (await gateway.log_in(mint(localpart))).status == 200
        limit(target, "login", wait)
        answer = await gateway.log_in(mint(localpart))
        assert (answer.status, answer.body["errcode"]) == (429, "M_LIMIT_EXCEEDED")
        assert answer.body.get("retry_after_ms") == wait
        assert (await gateway.log_in(mint(localpart))).status == 200


@pytest.mark.parametrize("case", [LIMITED_SYNAPSE, LIMITED_DENDRITE], ids=str, indirect=True)
async def test_the_people_of_one_office_log_in_at_once(target: Target, tmp_path: Path, localpart: str) -> None:
    async with before(target, tmp_path) as gateway:
        answers = await asyncio.gather(*(gateway.log_in(mint(f"{localpart}-{number}")) for number in range(20)))
    assert [answer.status for answer in answers] == [200] * 20


@pytest.mark.parametrize("case", [LIMITED_JWT], ids=str, indirect=True)
async def test_the_limit_of_the_homeservers_own_jwt_login_is_told_and_leaves_nothing(
    target: Target, tmp_path: Path, localpart: str
) -> None:
    async with before(target, tmp_path) as gateway:
        answers = [await gateway.log_in(mint(f"{localpart}-{number}")) for number in range(4)]

    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert answers[-1].body["errcode"] == "M_LIMIT_EXCEEDED"
    assert answers[-1].body["retry_after_ms"] > 0
    assert len(rows(tmp_path)) == 3
    assert not await target.exists(f"{localpart}-3")
