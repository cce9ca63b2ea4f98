"""`doctor` tells the truth of every homeserver that is set up well, and leaves nothing behind."""

import time
from pathlib import Path

import pytest

from gateway.doctor.homeserver import examine_homeserver
from gateway.upstream.homeserver import Homeserver
from gateway.upstream.pool import Pool, PoolSettings
from tests.conformance.conftest import ANYBODYS, BY_APPSERVICE, CASES, before
from tests.conformance.targets import Fake, Target
from tests.flavours import CONDUIT
from tests.running_gateway import SERVER_NAME

pytestmark = pytest.mark.timeout(900)
by_appservice = pytest.mark.parametrize("case", BY_APPSERVICE, ids=str, indirect=True)
OTHERS = (*(case for case in CASES if case not in BY_APPSERVICE), ANYBODYS)


async def examined(target: Target, as_token: str) -> dict[str, str]:
    pool = Pool(PoolSettings(url=target.url))
    try:
        found = await examine_homeserver(Homeserver(pool, SERVER_NAME, as_token), 60, time.time)
    finally:
        await pool.close()
    return {finding.name: finding.verdict for finding in found}


@by_appservice
async def test_nothing_fails_where_everything_is_right(target: Target) -> None:
    found = await examined(target, target.session["as_token"])
    assert "fail" not in found.values()
    assert found["as_token"] == "pass"
    assert found["namespace"] == ("warn" if target.flavour is CONDUIT else "pass")
    assert not isinstance(target, Fake) or target.homeserver.users == {}


@by_appservice
async def test_a_narrow_namespace_is_seen(target: Target) -> None:
    if target.flavour is CONDUIT:
        pytest.skip("nobody has tried what could be asked of Conduit")
    found = await examined(target, target.narrow()["as_token"])
    assert (found["as_token"], found["namespace"]) == ("pass", "fail")


@by_appservice
async def test_a_wrong_as_token_is_seen(target: Target) -> None:
    assert (await examined(target, target.spoiled["as_token"]))["as_token"] == "fail"


@pytest.mark.parametrize("case", OTHERS, ids=str, indirect=True)
@pytest.mark.parametrize("right", [True, False])
async def test_another_way_to_sessions_is_seen(target: Target, tmp_path: Path, *, right: bool) -> None:
    if "method" not in target.session:
        pytest.skip("the application service login is the way there")
    async with before(target, tmp_path, target.session if right else target.spoiled) as gateway:
        provision = gateway.running.provision
        found = await examine_homeserver(provision.homeserver, 60, time.time, provision.sessions)
    told = {finding.name: finding.verdict for finding in found}
    assert told.pop("session method") == ("pass" if right else "fail")
    assert "fail" not in told.values()
