"""The composition root: builds every part from the configuration and runs it until it is told to stop."""

import asyncio
import resource
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import web

from gateway.config import ALLOW_UNSIGNED, Configuration
from gateway.limits import Limits
from gateway.logs import Logger, get_logger
from gateway.sign_in import Rules, SignIn
from gateway.storage.accounts import Accounts
from gateway.storage.database import Database, open_database
from gateway.storage.last_seen import LastSeen
from gateway.storage.used_tokens import UsedTokens
from gateway.tasks import Background
from gateway.upstream.homeserver import Homeserver
from gateway.upstream.pool import Pool
from gateway.upstream.sessions.appservice import AppserviceSessions
from gateway.web.admin import Health
from gateway.web.listeners import sites
from gateway.web.login import Login
from gateway.web.relay import Relay
from gateway.web.server import Gateway, listening


async def serve(configuration: Configuration) -> None:
    """Run the gateway until SIGTERM or SIGINT; raises `Unusable` when it can't start."""
    log = get_logger(configuration.settings.log)
    # Every waiting /sync takes two sockets, and the usual limit is 1024.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for warning in configuration.warnings:
        log.warning("configuration", warning=warning)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(configuration, log) as addresses:
        log.info("listening", addresses=" ".join(addresses), homeserver=configuration.settings.homeserver.url)
        await stop.wait()
        log.info("stopping")
    log.info("stopped")


@asynccontextmanager
async def running(configuration: Configuration, log: Logger) -> AsyncIterator[Sequence[str]]:
    """Run the gateway while the context is open; yields the public addresses."""
    settings = configuration.settings
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(configuration.settings.database))
        pool = Pool(settings.homeserver)
        stack.push_async_callback(pool.close)
        background = Background(log)
        stack.push_async_callback(background.close, 5)
        homeserver = Homeserver(pool, settings.homeserver.server_name, configuration.as_token)
        if settings.server.admin_listen:
            health = web.Server(Health(database, homeserver), access_log=None)
            admin = sites(health, [settings.server.admin_listen], 1, reuse_port=settings.server.reuse_port)
            await stack.enter_async_context(admin)
        sign_in = _sign_in(configuration, database, homeserver, background, log)
        stack.callback(sign_in.last_seen.hurry)
        gateway = _gateway(configuration, sign_in, pool, log)
        yield await stack.enter_async_context(listening(gateway))


def _sign_in(
    configuration: Configuration,
    database: Database,
    homeserver: Homeserver,
    background: Background,
    log: Logger,
) -> SignIn:
    settings = configuration.settings
    if not settings.jwt.validate_signature:
        log.warning("signatures_are_not_checked", allowed_by=ALLOW_UNSIGNED)
    rules = Rules(
        trust=configuration.trust,
        mapping=configuration.mapping,
        accounts=configuration.account_rules,
        profile=settings.profile,
    )
    accounts = Accounts(database)
    return SignIn(
        rules=rules,
        limits=Limits(settings.limits),
        accounts=accounts,
        last_seen=LastSeen(accounts, background),
        used_tokens=UsedTokens(database),
        homeserver=homeserver,
        sessions=AppserviceSessions(homeserver),
        background=background,
        now=time.time,
        log=log,
    )


def _gateway(configuration: Configuration, sign_in: SignIn, pool: Pool, log: Logger) -> Gateway:
    settings = configuration.settings
    relay = Relay(pool, settings.server.via)
    login = Login(
        sign_in=sign_in,
        relay=relay,
        background=sign_in.background,
        log=log,
        login_types=settings.jwt.login_types if settings.jwt.enable else [],
        trusted_proxies=settings.server.trusted_proxies,
        max_login_body=settings.server.max_login_body,
        body_timeout=settings.server.head_timeout,
    )
    return Gateway(settings.server, login, relay, log)
