"""What most tests before a homeserver need: a fake one, fresh for each test, and certificates for servers."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.authority import Authority, authority_in
from tests.fake_homeserver import FakeHomeserver, running_homeserver


@pytest.fixture
async def homeserver() -> AsyncIterator[FakeHomeserver]:
    async with running_homeserver() as running:
        yield running


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    """An authority that nobody trusts."""
    return authority_in(tmp_path)


@pytest.fixture
def authority(stranger: Authority, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """An authority that the gateway trusts, as an operator makes it do so."""
    monkeypatch.setenv("SSL_CERT_FILE", str(stranger.folder / "authority.pem"))
    return stranger
