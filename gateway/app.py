"""The composition root: builds every part from the configuration, runs it, and exchanges parts when it reloads."""

import asyncio
import os
import resource
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from gateway.attempts import Attempts
from gateway.config import ALLOW_UNSIGNED, Configuration, ConfiguredIssuer
from gateway.errors import ConfigurationError
from gateway.fetched_keys import FetchedKeys
from gateway.issuer_keys import FixedKeys, KeySource
from gateway.issuers import Issuer, Issuers
from gateway.limits import Limits
from gateway.logs import Logger, get_logger
from gateway.profile import Profile
from gateway.sign_in import SignIn
from gateway.storage.accounts import Accounts
from gateway.storage.audit import Audit
from gateway.storage.avatars import Avatars
from gateway.storage.database import Database, open_database
from gateway.storage.key_sets import KeySets
from gateway.storage.last_seen import LastSeen
from gateway.storage.used_tokens import UsedTokens
from gateway.systemd import HandedOver, Supervisor, handed_over
from gateway.tasks import Background
from gateway.upstream.homeserver import Homeserver
from gateway.upstream.images import Images
from gateway.upstream.pool import Pool
from gateway.upstream.sessions.appservice import AppserviceSessions
from gateway.web.admin import Health
from gateway.web.listeners import Places, sites
from gateway.web.login import Login
from gateway.web.relay import Relay
from gateway.web.server import Gateway, Server, listening

# What a reload can't change, as (table, key); a key of "" is the whole table.
AT_START: Final = (
    ("server", "listen"),
    ("server", "admin_listen"),
    ("server", "reuse_port"),
    ("server", "drain_timeout"),
    ("database", ""),
    ("log", ""),
)
_NOTHING: Final = HandedOver()


async def serve(configuration: Configuration) -> None:
    """Run the gateway until SIGTERM or SIGINT, reload at SIGHUP; raises `Unusable` when it can't start."""
    settings = configuration.settings
    log = get_logger(settings.log)
    asked: set[signal.Signals] = set()
    awake = asyncio.Event()

    def ask(number: signal.Signals) -> None:
        if number is not signal.SIGHUP and asked - {signal.SIGHUP}:
            end_now(number)
        asked.add(number)
        awake.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, ask, number)
    # Every waiting /sync takes two sockets, and the usual limit is 1024.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    _warn(configuration, log)
    supervisor = Supervisor(os.environ)
    with supervisor.watched():
        async with running(configuration, log, handed=handed_over(os.environ)) as gateway:
            where = f"Listens on {' '.join(gateway.addresses)}"
            log.info("listening", addresses=" ".join(gateway.addresses), homeserver=settings.homeserver.url)
            supervisor.ready(where)
            while True:
                await awake.wait()
                if asked != {signal.SIGHUP}:
                    break
                asked.clear()
                awake.clear()
                supervisor.reloading()
                problem = await gateway.reload()
                supervisor.ready(f"{where}, but as before the last reload: {problem}" if problem else where)
            log.info("stopping")
            supervisor.stopping("Lets open requests finish")
    log.info("stopped")


def end_now(number: signal.Signals) -> None:
    """End as if the signal had not been handled: nothing is waited for, and the database is safe at any moment."""
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


@dataclass(frozen=True, slots=True)
class _Lasting:
    """What stays as it is over every reload; `now` gives seconds since the epoch."""

    log: Logger
    now: Callable[[], float]
    database: Database
    background: Background
    last_seen: LastSeen
    audit: Audit


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a reload exchanges, all of it at once."""

    configuration: Configuration
    pool: Pool
    homeserver: Homeserver
    limits: Limits
    images: Images
    fetched: Mapping[KeySource, FetchedKeys]
    gateway: Gateway


class Running:
    """A gateway that listens on `addresses`."""

    def __init__(self, lasting: _Lasting, parts: _Parts, server: Server, health: Health) -> None:
        self.addresses: Sequence[str] = ()
        self._lasting = lasting
        self._parts = parts
        self._server = server
        self._health = health

    async def reload(self) -> str:
        """Read the configuration and its files again and use them from the next request on.

        Requests at work end as they began. With a configuration that can't be used everything stays as it is; what is
        wrong with it is returned.
        """
        before, log = self._parts, self._lasting.log
        try:
            configuration = await asyncio.to_thread(before.configuration.read_again)
        except ConfigurationError as error:
            hint = "the configuration from before stays in use"
            log.error("reload_failed", problems=error.problems, hint=hint)  # noqa: TRY400 - a trace would say less
            return str(error)
        _warn(configuration, log)
        parts = _build(configuration, self._lasting, before)
        await _exchange(before.fetched, parts.fetched)
        self._parts = parts
        self._server.use(parts.gateway)
        self._health.homeserver = parts.homeserver
        if parts.pool is not before.pool:
            await before.pool.close()
        log.info("reloaded", after_restart=" ".join(_changed_at_start(before.configuration, configuration)))
        return ""

    def hurry(self) -> None:
        """Begin no further work of our own: the gateway stops."""
        self._lasting.last_seen.hurry()
        self._lasting.audit.hurry()
        for keys in self._parts.fetched.values():
            keys.stop()

    async def close(self) -> None:
        """End what the current parts hold."""
        await self._parts.pool.close()


@asynccontextmanager
async def running(
    configuration: Configuration, log: Logger, now: Callable[[], float] = time.time, handed: HandedOver = _NOTHING
) -> AsyncIterator[Running]:
    """Run the gateway while the context is open; `now` gives seconds since the epoch."""
    settings = configuration.settings
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings.database))
        background = Background(log)
        last_seen = LastSeen(Accounts(database), background)
        audit = Audit(database, background, log, settings.database.audit_retention)
        lasting = _Lasting(log, now, database, background, last_seen, audit)
        parts = _build(configuration, lasting, None)
        health = Health(database, parts.homeserver)
        server = Server(parts.gateway)
        gateway = Running(lasting, parts, server, health)
        stack.push_async_callback(gateway.close)
        stack.push_async_callback(background.close, 5)
        if settings.server.admin_listen or handed.admin:
            places = Places([settings.server.admin_listen], handed.admin, reuse_port=settings.server.reuse_port)
            await stack.enter_async_context(sites(web.Server(health, access_log=None), places, 1))
        stack.callback(gateway.hurry)
        background.leave(audit.keep(now), "audit")
        await _exchange({}, parts.fetched)
        gateway.addresses = await stack.enter_async_context(listening(server, settings.server, handed.public))
        stack.callback(health.stop)
        yield gateway


def _warn(configuration: Configuration, log: Logger) -> None:
    for warning in configuration.warnings:
        log.warning("configuration", warning=warning)


def _build(configuration: Configuration, lasting: _Lasting, before: _Parts | None) -> _Parts:
    """Build the parts for a configuration; those of `before` that it doesn't change stay, with what they know."""
    settings, log = configuration.settings, lasting.log
    old = before and before.configuration.settings
    pool = before.pool if before and old and old.homeserver == settings.homeserver else Pool(settings.homeserver)
    limits = before.limits if before and old and old.limits == settings.limits else Limits(settings.limits)
    images = before.images if before and old and old.profile == settings.profile else Images(settings.profile)
    homeserver = Homeserver(pool, settings.homeserver.server_name, configuration.as_token)
    avatars = Avatars(lasting.database)
    fetched = _fetched(configuration, lasting, before.fetched if before else {})
    sign_in = SignIn(
        issuers=Issuers(
            [_issuer(issuer, fetched, log) for issuer in configuration.issuers], by_name=bool(settings.jwt.issuers)
        ),
        limits=limits,
        accounts=Accounts(lasting.database),
        last_seen=lasting.last_seen,
        used_tokens=UsedTokens(lasting.database, lasting.background),
        homeserver=homeserver,
        sessions=AppserviceSessions(homeserver),
        profile=Profile(settings.profile, homeserver, images, avatars, lasting.background, log),
        attempts=Attempts(lasting.audit, lasting.now, log),
        background=lasting.background,
        now=lasting.now,
        log=log,
    )
    gateway = _gateway(configuration, sign_in, pool, log)
    return _Parts(configuration, pool, homeserver, limits, images, fetched, gateway)


def _fetched(
    configuration: Configuration, lasting: _Lasting, known: Mapping[KeySource, FetchedKeys]
) -> dict[KeySource, FetchedKeys]:
    """Return the keys of each source that is fetched; those that are known stay, and issuers may share a source."""
    stored = KeySets(lasting.database)
    return {
        source: known.get(source) or FetchedKeys(source, stored, lasting.background, lasting.now, lasting.log)
        for issuer in configuration.issuers
        if (source := issuer.key_source) is not None
    }


async def _exchange(before: Mapping[KeySource, FetchedKeys], after: Mapping[KeySource, FetchedKeys]) -> None:
    """Start what is new and stop what is gone; no issuer is waited for."""
    for source in after.keys() - before.keys():
        await after[source].start()
    for source in before.keys() - after.keys():
        before[source].stop()


def _issuer(configured: ConfiguredIssuer, fetched: Mapping[KeySource, FetchedKeys], log: Logger) -> Issuer:
    if not configured.settings.validate_signature:
        log.warning("signatures_are_not_checked", allowed_by=ALLOW_UNSIGNED)
    source = configured.key_source
    keys = FixedKeys(configured.key_set) if source is None else fetched[source]
    return Issuer(keys, configured.settings, configured.mapping, configured.account_rules)


def _changed_at_start(before: Configuration, after: Configuration) -> list[str]:
    """Return the names of what changed and only a restart brings into use."""
    changed = []
    for table, key in AT_START:
        old, new = getattr(before.settings, table), getattr(after.settings, table)
        if (getattr(old, key) != getattr(new, key)) if key else old != new:
            changed.append(".".join(filter(None, (table, key))))
    return changed


def _gateway(configuration: Configuration, sign_in: SignIn, pool: Pool, log: Logger) -> Gateway:
    settings = configuration.settings
    relay = Relay(pool, settings.server.via)
    jwt = settings.jwt
    login = Login(
        sign_in=sign_in,
        relay=relay,
        background=sign_in.background,
        log=log,
        login_types=jwt.login_types if jwt.enable else [],
        max_password_bytes=sign_in.issuers.max_token_bytes if jwt.enable and jwt.accept_in_password else 0,
        trusted_proxies=settings.server.trusted_proxies,
        max_login_body=settings.server.max_login_body,
        body_timeout=settings.server.head_timeout,
    )
    return Gateway(settings.server, login, relay, log)
