"""Each test of what is kept runs on both kinds of database."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.storage.database import Database, DatabaseSettings, open_database


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> DatabaseSettings:
    """A new and empty database."""
    if request.param == "sqlite":
        return DatabaseSettings(url=f"sqlite:///{tmp_path}/gateway.db")
    return DatabaseSettings(url=request.getfixturevalue("postgres").new_database())


@pytest.fixture
async def database(settings: DatabaseSettings) -> AsyncIterator[Database]:
    async with open_database(settings) as opened:
        yield opened
