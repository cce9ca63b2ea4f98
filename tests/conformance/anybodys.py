"""A homeserver of anybody's own, at a URL, and what is known of its kind."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.upstream.homeserver import Homeserver
from gateway.upstream.kind import software
from gateway.upstream.pool import Pool, PoolSettings
from tests.flavours import BEHIND_MAS, FLAVOURS
from tests.real_synapse import RealSynapse
from tests.running_gateway import SERVER_NAME


@dataclass(frozen=True)
class AnybodysHomeserver(RealSynapse):
    """Matrix's client API is asked as of a Synapse; there is no administrator. `session` is the gateway's table."""

    session: dict[str, Any] = field(default_factory=dict)


async def anybodys_homeserver(url: str, session: dict[str, Any]) -> AnybodysHomeserver:
    """Return it; fails where it does not say of which of the known kinds it is."""
    pool = Pool(PoolSettings(url=url))
    try:
        name, _ = await software(Homeserver(pool, SERVER_NAME, ""))
    finally:
        await pool.close()
    for flavour in (BEHIND_MAS,) if session.get("method") == "mas" else FLAVOURS:
        if flavour.name.lower() == name.lower():
            return AnybodysHomeserver(url, session.get("as_token") or "", flavour=flavour, session=session)
    pytest.fail(f"nothing is known of the kind of homeserver at {url}: give {name!r} its row in tests/flavours.py")
