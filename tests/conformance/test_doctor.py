"""`doctor` tells the truth of every homeserver that is set up well, and leaves nothing behind."""

import time
from pathlib import Path

import pytest

from gateway.doctor.homeserver import examine_homeserver
from gateway.upstream.homeserver import Homeserver
from gateway.upstream.pool import Pool, PoolSettings
from tests.conformance.conftest import ANYBODYS, BY_APPSERVICE, Case, before
from tests.conformance.targets import Target
from tests.flavours import BEHIND_MAS, CONDUIT
from tests.running_gateway import SERVER_NAME

pytestmark = pytest.mark.timeout(900)
by_appservice = pytest.mark.parametrize("case", BY_APPSERVICE, ids=str, indirect=True)
behind_mas = pytest.mark.parametrize("case", [Case(BEHIND_MAS), ANYBODYS], ids=str, indirect=True)


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


@by_appservice
async def test_a_narrow_namespace_is_seen(target: Target) -> None:
    if target.flavour is CONDUIT:
        pytest.skip("nobody has tried what could be asked of Conduit")
    found = await examined(target, target.narrow()["as_token"])
    assert (found["as_token"], found["namespace"]) == ("pass", "fail")


@by_appservice
async def test_a_wrong_as_token_is_seen(target: Target) -> None:
    assert (await examined(target, target.spoiled["as_token"]))["as_token"] == "fail"


@behind_mas
async def test_behind_mas_a_set_up_passes_and_one_with_a_wrong_secret_fails(target: Target, tmp_path: Path) -> None:
    if target.flavour is not BEHIND_MAS:
        pytest.skip("it is not behind Matrix Authentication Service")
    for session, verdict in ((target.session, "pass"), (target.spoiled, "fail")):
        (directory := tmp_path / verdict).mkdir()
        async with before(target, directory, session) as gateway:
            provision = gateway.running.provision
            found = await examine_homeserver(provision.homeserver, 60, time.time, provision.sessions)
        assert {finding.name: finding.verdict for finding in found}["session method"] == verdict
        assert "fail" not in {finding.verdict for finding in found if finding.name != "session method"}
