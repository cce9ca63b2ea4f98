"""The session method that a configuration chooses, for commands that open no session."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.config import Configuration
from gateway.upstream.homeserver import Homeserver
from gateway.upstream.pool import Pool
from gateway.upstream.sessions import SessionMethod
from gateway.upstream.sessions.chosen import chosen_method, mas_admin


@asynccontextmanager
async def session_method(
    configuration: Configuration, *, call_timeout: float = 30
) -> AsyncIterator[tuple[SessionMethod, Homeserver]]:
    """Give the method and the homeserver, which may take `call_timeout` seconds for an answer."""
    settings, secret = configuration.settings, configuration.session_secret
    pool = Pool(settings.homeserver, call_timeout=call_timeout)
    homeserver = Homeserver(pool, settings.homeserver.server_name, configuration.as_token)
    mas = mas_admin(settings.session, secret, settings.homeserver)
    try:
        yield chosen_method(settings.session, secret, homeserver, time.time, mas=mas), homeserver
    finally:
        await pool.close()
        if mas is not None:
            await mas.close()
