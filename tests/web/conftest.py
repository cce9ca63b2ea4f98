"""The real gateway before the fake homeserver."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fake_homeserver import FakeHomeserver
from tests.running_gateway import RunningGateway, running_gateway


@pytest.fixture
async def gateway(tmp_path: Path, homeserver: FakeHomeserver) -> AsyncIterator[RunningGateway]:
    async with running_gateway(tmp_path, homeserver.url) as running:
        yield running
