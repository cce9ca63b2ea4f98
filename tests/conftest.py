"""What most tests before a homeserver need: a fake one, fresh for each test."""

from collections.abc import AsyncIterator

import pytest

from tests.fake_homeserver import FakeHomeserver, running_homeserver


@pytest.fixture
async def homeserver() -> AsyncIterator[FakeHomeserver]:
    async with running_homeserver() as running:
        yield running
