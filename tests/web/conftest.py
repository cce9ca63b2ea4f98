"""The real gateway before the fake homeserver, or before a recorder in its place."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.fake_homeserver import FakeHomeserver
from tests.raw_http import RawServer
from tests.running_gateway import RunningGateway, running_gateway
from tests.web.raw_cases import Recorder, Site


@pytest.fixture
async def gateway(tmp_path: Path, homeserver: FakeHomeserver) -> AsyncIterator[RunningGateway]:
    async with running_gateway(tmp_path, homeserver.url) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """One for all tests of a module, so that what a case leaves behind shows in the next."""
    recorder = Recorder()
    async with RawServer(recorder).running() as homeserver:
        directory = tmp_path_factory.mktemp("gateway")
        async with running_gateway(directory, homeserver.url, server={"trusted_proxies": []}) as gateway:
            yield Site(gateway, homeserver, recorder)
