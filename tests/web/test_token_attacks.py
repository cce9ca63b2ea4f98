"""Every attack that is written down gets the same answer over HTTP, and the log has neither it nor a trace."""

import json
from pathlib import Path

import pytest

from tests.attack_cases import Case, read_cases
from tests.fake_homeserver import FakeHomeserver
from tests.running_gateway import SECRET, running_gateway

NO_LIMIT = {"burst": 0, "refill": 1}
LIMITS = {"failed_logins_per_address": NO_LIMIT, "logins_per_user": NO_LIMIT}


def by_settings() -> dict[str, list[Case]]:
    groups: dict[str, list[Case]] = {}
    for case in read_cases(SECRET):
        groups.setdefault(json.dumps(case.jwt), []).append(case)
    return groups


@pytest.mark.parametrize("settings", by_settings())
async def test_each_case_gets_its_answer_at_a_gateway(
    settings: str, homeserver: FakeHomeserver, tmp_path: Path
) -> None:
    async with running_gateway(tmp_path, homeserver.url, jwt=json.loads(settings), limits=LIMITS) as gateway:
        for case in by_settings()[settings]:
            answered = await gateway.log_in(case.token)
            if case.user is None:
                assert (answered.status, answered.body) == (case.status, case.body), case.name
            else:
                assert (answered.status, answered.body.get("user_id")) == (200, case.user), case.name
            assert not case.token or case.token not in gateway.log
    assert "Traceback" not in gateway.log
    assert SECRET not in gateway.log
